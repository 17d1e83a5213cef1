"""One bulk-labelling run."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from imgcls_ray.config.device import RunsNetwork
from imgcls_ray.config.limits import ReadLimits
from imgcls_ray.errors import ImageErrorCode  # noqa: TC001 - pydantic reads the annotation


class LabelConfig(RunsNetwork, ReadLimits):
    """How inputs are labelled, wherever the labels go."""

    help_sections: ClassVar = {"num_workers": "Workers", "limit": "This run"}

    input: str
    """Images to label: a file, folder (recursive), ``s3://bucket/prefix/``, glob, list (.txt, .csv or .parquet with a
    ``uri`` column, or the manifest.json of an S3 Inventory) or http(s) address."""
    model: str
    """Model folder (local or ``s3://``), or a name of the zoo with pretrained weights."""
    top_k: PositiveInt = 5
    """Labels kept per image, best first. A store is made for one value of it."""
    embedding: bool = False
    """Also keep the features before the classifier head. A store is made with or without them."""
    logits: bool = False
    """Also keep the raw score of every class. A store is made with or without them."""

    num_workers: PositiveInt | None = None
    """Number of actors that label on CPUs, one core each; with GPUs, of actors that fetch and decode. Default: all the
    cores."""
    num_gpus: int = Field(default=0, ge=0)
    """Number of GPUs to label on, one actor each, whichever they are. 0: as ``device`` says."""
    batch_size: PositiveInt = 32
    """Images per forward pass on one worker; short batches are padded."""
    unit_size: int | None = Field(default=None, ge=16, le=2048)
    """Largest number of images in one unit of work. Default: about ten seconds of work, by the model's size."""

    limit: PositiveInt | None = None
    """Label at most this many inputs in this command. Of a run that an earlier command left open, whole units are
    labelled, and at least one."""
    retry: tuple[ImageErrorCode, ...] = ()
    """Error codes whose inputs are tried again in this command, e.g. ``corrupt,access_denied``."""
    accept_missing: bool = False
    """Record ``not_found`` for images that were listed and are missing, even where their whole folder or prefix is gone
    or empty. Otherwise the job ends then, because a volume that is not mounted looks the same."""
    max_error_rate: float = Field(default=1.0, ge=0, le=1)
    """End with exit code 1 when a larger share of the inputs fails, e.g. 0.05. If every input fails, the job always
    does."""
    export: Literal["parquet", "jsonl", "csv"] | None = None
    """Also write the newest row of every input to ``OUTPUT/exports/latest.*``."""
    save_images: int = Field(default=0, ge=0)
    """Number of annotated samples to leave under ``OUTPUT/samples``."""
    grace_s: float = Field(default=20.0, ge=0)
    """Seconds that units in work have to end after Ctrl-C or SIGTERM; no new ones are started. A second signal ends the
    job at once. What is not done by then is done by the next run."""
    dry_run: bool = False
    """Say what would be labelled, and write nothing."""

    @field_validator("retry", mode="before")
    @classmethod
    def _codes_in_a_text(cls, value: object) -> object:
        return [code.strip() for code in value.split(",") if code.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Self:
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


class PredictConfig(LabelConfig):
    """One bulk-labelling run: ``imgcls predict`` and ``jobs/predict.py``."""

    output: str
    """Label store to write: a folder or ``s3://bucket/prefix``, made if it does not exist."""
