"""What the commands that look into a label store are told."""

from __future__ import annotations

from imgcls_ray.config.limits import ObjectStorage


class StoreConfig(ObjectStorage):
    """One look at a label store: ``imgcls store status`` and ``imgcls store verify``."""

    store: str
    """Label store: a folder or ``s3://bucket/prefix``."""


class LatestConfig(StoreConfig):
    """The newest row of every input: ``imgcls store latest``."""

    output: str | None = None
    """File to write: .parquet, .jsonl or .csv. Default: JSON lines to stdout."""
