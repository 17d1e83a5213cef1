"""One evaluation of a model on a labelled dataset."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from imgcls_ray.config.device import OnDevice
from imgcls_ray.config.limits import ReadLimits


class EvaluateConfig(ReadLimits, OnDevice):
    """One evaluation: ``imgcls evaluate`` and ``jobs/evaluate.py``."""

    data: str
    """Folder (local or ``s3://``) with train.txt, val.txt and label.txt, or of class folders; or a .csv or .parquet
    file with the columns uri, label and maybe split."""
    model: str
    """Model folder (local or ``s3://``), exported or not, or a name of the zoo with pretrained weights."""
    output: str = "output"
    """Where the result goes: a folder or ``s3://bucket/prefix``."""
    split: Literal["train", "val", "test"] = "val"
    """Which of the dataset's splits."""
    delimiter: str | None = Field(default=None, min_length=1)
    """Between path and class id of the lists. Default: spaces or a tab, whichever is last in a line."""

    engine: Literal["auto", "openvino", "torch"] = "auto"
    """``auto``: OpenVINO on CPUs, torch on GPUs: what labels in bulk is what is evaluated."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """``auto``: bf16 where the processor computes it natively."""
    num_workers: PositiveInt | None = None
    """Actors on CPUs, one core each; with GPUs, actors that fetch and decode. Default: all the cores."""
    batch_size: PositiveInt = 32
    """Images per forward pass on one worker; short batches are padded."""

    calibrate: bool = True
    """Fit a temperature on the split and keep it, with the metrics, in the model folder. Labels do not change by it."""
    num_mistakes: int = Field(default=60, ge=0, le=400)
    """Pictures on the sheet of the worst mistakes: wrong, and sure of it."""
    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    """End with exit code 1 when a larger share of the images cannot be read: what is left is another dataset."""

    @model_validator(mode="after")
    def _gpus_need_torch(self) -> Self:
        if self.uses_gpus and self.engine == "openvino":
            raise ValueError("engine=openvino runs on CPUs; use engine=torch (or auto) with device=gpu")
        return self
