"""One evaluation of a model on a labelled dataset."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from imgcls_ray.config.dataset import Labelled
from imgcls_ray.config.device import RunsNetwork
from imgcls_ray.config.limits import ReadLimits


class EvaluateConfig(Labelled, RunsNetwork, ReadLimits):
    """One evaluation: ``imgcls evaluate`` and ``jobs/evaluate.py``."""

    help_sections: ClassVar = {"num_workers": "Workers"}

    model: str
    """Model folder (local or ``s3://``), exported or not, or a name of the zoo with pretrained weights."""
    output: str = "output"
    """Folder or ``s3://bucket/prefix`` for the result."""
    split: Literal["train", "val", "test"] = "val"
    """Split of the dataset to evaluate on."""
    calibrate: bool = True
    """Fit a temperature on the split and keep it, with the metrics, in the model folder. Labels do not change by it."""
    num_mistakes: int = Field(default=60, ge=0, le=400)
    """Number of pictures on the sheet of the worst mistakes, those with the most confident wrong label."""
    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    """End with exit code 1 when a larger share of the images cannot be read: what is left is another dataset."""

    num_workers: PositiveInt | None = None
    """Number of actors that classify on CPUs, one core each; with GPUs, of actors that fetch and decode. Default: all
    the cores."""
    batch_size: PositiveInt = 32
    """Images per forward pass on one worker; short batches are padded."""
