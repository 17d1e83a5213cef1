"""One evaluation of a model on a labelled dataset."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from imgcls_ray.config.dataset import Labelled
from imgcls_ray.config.device import RunsNetwork, Tta
from imgcls_ray.config.limits import ReadLimits
from imgcls_ray.config.workers import RunsBlocks


class EvaluateConfig(Labelled, RunsNetwork, RunsBlocks, ReadLimits):
    """One evaluation: ``imgcls evaluate`` and ``jobs/evaluate.py``."""

    help_sections: ClassVar = {"num_workers": "Workers"}

    model: str
    """Model folder (local, ``s3://``, ``gs://``, ``az://`` or ``hf://``), exported or not, or a name of the zoo with
    pretrained weights."""
    output: str = "output"
    """Folder or prefix of a bucket (``s3://``, ``gs://``, ``az://``) for the result."""
    split: Literal["train", "val", "test"] = "val"
    """Split of the dataset to evaluate on."""
    calibrate: bool = True
    """Fit a temperature on the split and save it, with the metrics, in the model folder. It changes no label."""
    target_precision: float | None = Field(default=None, gt=0, lt=1)
    """Precision, 0 to 1, that accepted labels shall have, such as 0.98. Thresholds for it are fitted on the split, val
    or test, and saved in the model folder: `imgcls predict` and `imgcls serve` then say which labels are accepted."""
    num_mistakes: int = Field(default=60, ge=0, le=400)
    """Number of pictures on the sheet of mistakes, those with the most confident wrong labels."""
    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    """Largest share of images, 0 to 1, that may be unreadable; above it the exit code is 1, because the metrics leave
    out too much of the dataset."""

    num_workers: PositiveInt | None = None
    """Number of workers, which classify on CPUs, and fetch and decode for GPUs. Default: as many as cores and memory
    allow."""
    cores_per_worker: PositiveInt | None = None
    """Cores of each worker on CPUs, which share one copy of the network. Default: one, or as many as it takes to have
    the network in memory for all cores, if ``num_workers`` is not given."""
    batch_size: PositiveInt = 32
    """Images per forward pass on one worker; short batches are padded."""
    tta: Tta = "none"
    """Test-time augmentation of all images. ``hflip``: the mean of the logits of each image and its mirror image, for
    twice the time of the network. Then nothing is saved in the model folder."""

    @model_validator(mode="after")
    def _cores_are_for_cpus(self) -> Self:
        if self.cores_per_worker is not None and self.uses_gpus:
            raise ValueError("cores_per_worker is for evaluating on CPUs; leave it out, or give device=cpu")
        return self

    @model_validator(mode="after")
    def _thresholds_can_be_fitted(self) -> Self:
        if self.target_precision is not None and self.split == "train":
            raise ValueError("target_precision needs split=val or test: models are overconfident on training images")
        if self.target_precision is not None and not self.calibrate:
            raise ValueError("target_precision saves thresholds in the model folder; leave calibrate=false out")
        return self
