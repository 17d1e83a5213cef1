"""One bulk-labelling run."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from imgcls_ray.config.device import OnDevice
from imgcls_ray.config.limits import ReadLimits
from imgcls_ray.errors import ImageErrorCode  # noqa: TC001 - pydantic reads the annotation


class PredictConfig(ReadLimits, OnDevice):
    """One bulk-labelling run: ``imgcls predict`` and ``jobs/predict.py``."""

    input: str
    """File, directory (recursive), ``s3://bucket/prefix/``, glob, list (.txt, .csv or .parquet with a ``uri`` column,
    or the manifest.json of an S3 Inventory) or http(s) address."""
    model: str
    """Model folder (local or ``s3://``), or a name of the zoo with pretrained weights."""
    output: str
    """The label store: a directory or ``s3://bucket/prefix``, made if it does not exist."""
    top_k: PositiveInt = 5
    """Labels kept per image, best first. Part of the store's identity."""
    embedding: bool = False
    """Also keep the features before the classifier head. Part of the store's identity."""
    logits: bool = False
    """Also keep the raw scores of every class. Part of the store's identity."""

    engine: Literal["auto", "openvino", "torch"] = "auto"
    """``auto``: OpenVINO on CPUs, torch on GPUs."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """``auto``: bf16 where the processor computes it natively."""
    num_workers: PositiveInt | None = None
    """Actors that label on CPUs, one core each; with GPUs, actors that fetch and decode. Default: all the cores."""
    num_gpus: int = Field(default=0, ge=0)
    """Label on this many GPUs, one actor each, whichever they are. 0: as ``device`` says."""
    batch_size: PositiveInt = 32
    """Images per forward pass on one worker; short batches are padded."""
    unit_size: int | None = Field(default=None, ge=16, le=2048)
    """Largest number of images in one unit of work. Default: about ten seconds of work, by the model's size."""

    limit: PositiveInt | None = None
    """Label at most this many inputs in this command. Of a run that an earlier command left open, whole units are
    labelled, and at least one."""
    retry: tuple[ImageErrorCode, ...] = ()
    """Codes of errors whose inputs are asked again in this command, e.g. ``[corrupt, access_denied]``."""
    accept_missing: bool = False
    """Record ``not_found`` for images that were listed and are missing, even where their whole folder or prefix is gone
    or empty. Otherwise the job ends then, because a volume that is not mounted looks the same."""
    max_error_rate: float = Field(default=1.0, ge=0, le=1)
    """End with exit code 1 when a larger share of the inputs fails. (If every input fails, the job always does.)"""
    export: Literal["parquet", "jsonl", "csv"] | None = None
    """Also write the newest row of every input to ``OUTPUT/exports/latest.*``."""
    save_images: int = Field(default=0, ge=0)
    """Leave this many annotated samples under ``OUTPUT/samples``."""
    grace_s: float = Field(default=20.0, ge=0)
    """After Ctrl-C or SIGTERM no new work is begun, and what is in work has this long to end, seconds. A second signal
    ends at once. What is not done by then is done by the next run."""
    dry_run: bool = False
    """Say what would be labelled; write nothing."""

    @field_validator("retry", mode="before")
    @classmethod
    def _codes_in_a_text(cls, value: object) -> object:
        return [code.strip() for code in value.split(",") if code.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Self:
        if self.uses_gpus and self.engine == "openvino":
            raise ValueError("engine=openvino labels on CPUs; use engine=torch (or auto) with device=gpu or num_gpus")
        if self.retry and self.limit:
            # The first ones would be asked again and again, and the others never.
            raise ValueError("retry asks again for all inputs with its codes; give it without limit")
        if self.num_gpus and self.gpu_ids:
            raise ValueError(
                f"device={self.device} names the GPUs, num_gpus={self.num_gpus} lets them be chosen: give one"
            )
        return self

    @property
    def uses_gpus(self) -> bool:
        return self.num_gpus > 0 or super().uses_gpus
