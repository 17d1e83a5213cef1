"""What ``imgcls review`` is told."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from imgcls_ray.config.limits import ReadLimits

_NO_STORE = "(none, with --apply)"


class ReviewConfig(ReadLimits):
    """What a person should look at first, or what a person has answered: ``imgcls review``."""

    store: str
    """Label store whose images are to be looked at: a folder or prefix of a bucket (``s3://``, ``gs://``,
    ``az://``)."""
    output: str | None = None
    """Folder or prefix of a bucket to write the queue to; it must be empty."""
    budget: int = Field(default=100, ge=1, le=5000)
    """Largest number of images in the queue."""
    apply: str | None = Field(default=None, examples=["ANSWERS"])
    """Answers to add to the dataset: what the review page saved, or an export of Label Studio (JSON, CSV) or CVAT (CVAT
    for images 1.1)."""
    dataset: str | None = None
    """Dataset that the answers are for. A queue leaves out its images and offers its classes; answers are added to its
    lists, so it must be a folder (local or in object storage) with train.txt, val.txt and label.txt."""
    split: Literal["train", "val", "test"] = "train"
    """Split of the dataset that answers are added to."""
    queue: str | None = None
    """Folder of the queue that was answered, with its queue.csv: for answers of CVAT, which name pictures of the queue.
    Default: the folder of the answers."""
    delimiter: str | None = Field(default=None, min_length=1)
    """Text between path and class id in the lists of the dataset. Default: the last run of spaces or the last tab of a
    line; a space in new lines."""

    @model_validator(mode="before")
    @classmethod
    def _has_a_store_or_answers(cls, values: object) -> object:
        if not isinstance(values, dict) or values.get("apply") is None:
            return values
        if {"store", "output"} & values.keys():
            raise ValueError("--apply adds answers to a dataset; leave STORE and --output out")
        return {**values, "store": _NO_STORE}

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Self:
        if self.apply is not None and self.dataset is None:
            raise ValueError("--apply needs --dataset, whose lists the answers are added to")
        if self.apply is None and self.output is None:
            raise ValueError("needs --output, a new folder for the queue; or --apply, to add answers to a dataset")
        return self
