"""What the commands that look into a label store are told."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from imgcls_ray.config.limits import ObjectStorage, ReadLimits

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)([smhd])$")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class StoreConfig(ObjectStorage):
    """One look at a label store: ``imgcls store verify``."""

    store: str
    """Label store: a folder or prefix of a bucket (``s3://``, ``gs://``, ``az://``)."""


class StatusConfig(StoreConfig):
    """What is in a store: ``imgcls store status``."""

    json_: bool = Field(default=False, alias="json")
    """Print one JSON object, for monitors."""


class HistoryConfig(StoreConfig):
    """The runs of a store: ``imgcls store history``."""

    json_: bool = Field(default=False, alias="json")
    """Print one JSON object for each run."""


class CompactConfig(StoreConfig):
    """Merge the files of a store: ``imgcls store compact``."""

    keep: str = "1d"
    """Time for which merged files stay for those who still read them: a number with ``s``, ``m``, ``h`` or ``d``, e.g.
    ``12h``."""
    whole: bool = False
    """Merge all runs into one sorted piece, and not only what pays."""

    forget_lost: bool = False
    """Let files of rows count no more that are gone and cannot be brought back from a copy. The next run labels their
    images again."""

    @field_validator("keep", mode="after")
    @classmethod
    def _is_duration(cls, value: str) -> str:
        seconds_of(value)
        return value

    @property
    def keep_s(self) -> float:
        return seconds_of(self.keep)


def seconds_of(text: str) -> float:
    """Seconds of ``90s``, ``30m``, ``12h`` or ``1.5d``.

    Raises:
        ValueError: it is no duration.
    """
    match = _DURATION.match(text)
    if match is None:
        raise ValueError("needs a number with s, m, h or d, e.g. 12h")
    return float(match[1]) * _SECONDS[match[2]]


class LatestConfig(StoreConfig):
    """The newest row of every input: ``imgcls store latest``."""

    output: str | None = None
    """File or folder to write, local or on object storage (``s3://``, ``gs://``, ``az://``). Default: JSON lines to
    stdout."""
    format: Literal["parquet", "jsonl", "csv", "coco", "huggingface", "hive"] | None = None
    """Kind of file or folder that OUTPUT is. One file: ``parquet``, ``jsonl``, ``csv``, or ``coco`` (the JSON of COCO).
    A folder, which must be empty: ``huggingface`` (a dataset of Hugging Face) or ``hive`` (Parquet partitioned by
    label). Default: by the end of OUTPUT, .parquet, .jsonl or .csv."""
    only_present: bool = False
    """Leave out inputs that are not there any more, as the newest complete listing of their place found."""

    @model_validator(mode="after")
    def _has_an_output(self) -> Self:
        if self.output is None and self.format not in (None, "jsonl"):
            raise ValueError(f"format={self.format} needs an output; JSON lines alone go to stdout")
        return self


class DriftConfig(ReadLimits):
    """A run beside the images that its model was evaluated on: ``imgcls drift``."""

    store: str
    """Label store: a folder or prefix of a bucket (``s3://``, ``gs://``, ``az://``)."""
    run: int | None = Field(default=None, ge=1)
    """Number of the run. Default: the newest finished one that labelled images."""
    max_drift: float | None = Field(default=None, ge=0, le=1)
    """Largest divergence, 0 to 1, that a feature may have; above it, and above noise, the exit code is 1."""
    json_: bool = Field(default=False, alias="json")
    """Print one JSON object."""
    output: str | None = None
    """Folder or prefix of a bucket for a page with the features and the images most unlike those of the
    evaluation."""
    num_pictures: int = Field(default=24, ge=0, le=200)
    """Number of images on the page."""


class DiffConfig(ReadLimits):
    """Two stores side by side: ``imgcls store diff``."""

    stores: str | tuple[str, ...] = Field(examples=["STORE"])
    """Two label stores, A and B: folders or prefixes of buckets. B tells what changed since A."""
    json_: bool = Field(default=False, alias="json")
    """Print one JSON object."""
    output: str | None = None
    """Folder or prefix of a bucket (``s3://``, ``gs://``, ``az://``) for a page with example pictures, a picture of the
    moves, and the JSON."""
    num_examples: int = Field(default=4, ge=0, le=100)
    """Number of example images of each move from one class to another."""

    @field_validator("stores", mode="after")
    @classmethod
    def _are_two(cls, value: str | tuple[str, ...]) -> tuple[str, ...]:
        if isinstance(value, str) or len(value) != 2:
            raise ValueError("needs two label stores, A and B")
        return value


class ReportConfig(ReadLimits):
    """A page about a store and its newest run: ``imgcls report``."""

    store: str
    """Label store: a folder or prefix of a bucket (``s3://``, ``gs://``, ``az://``)."""
    output: str | None = None
    """Folder or prefix of a bucket for ``report.html``. Default: ``STORE/report``."""
