"""What ``imgcls review`` is told."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from imgcls_ray.config.limits import ReadLimits


class ReviewConfig(ReadLimits):
    """What a person should look at first, or what a person has answered: ``imgcls review``."""

    store: str | None = None
    """Label store whose images are to be looked at: a folder or ``s3://bucket/prefix``."""
    output: str | None = None
    """Folder or ``s3://bucket/prefix`` to write the queue to; it must be empty."""
    budget: int = Field(default=100, ge=1, le=5000)
    """Largest number of images in the queue."""
    apply: str | None = Field(default=None, examples=["ANSWERS"])
    """Answers to add to the dataset: what the review page saved, or an export of Label Studio (JSON, CSV) or CVAT (CVAT
    for images 1.1)."""
    dataset: str | None = None
    """Dataset that the answers are for. A queue leaves out its images and offers its classes; answers are added to its
    lists, so it must be a local folder with train.txt, val.txt and label.txt."""
    split: Literal["train", "val", "test"] = "train"
    """Split of the dataset that answers are added to."""
    queue: str | None = None
    """Folder of the queue that was answered, with its queue.csv: for answers of CVAT, which name pictures of the queue.
    Default: the folder of the answers."""
    delimiter: str | None = Field(default=None, min_length=1)
    """Text between path and class id in the lists of the dataset. Default: the last run of spaces or the last tab of a
    line; a space in new lines."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if self.apply is not None:
            if self.store is not None or self.output is not None:
                raise ValueError("apply adds answers to a dataset; leave STORE and output out")
            if self.dataset is None:
                raise ValueError("apply needs dataset, whose lists the answers are added to")
        elif self.store is None or self.output is None:
            missing = (
                "STORE, the label store to look at" if self.store is None else "output, a new folder for the queue"
            )
            raise ValueError(f"needs {missing}; or apply and dataset, to add answers to a dataset")
        return self
