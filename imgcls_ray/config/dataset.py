"""The keys of every job that reads a labelled dataset."""

from __future__ import annotations

from pydantic import Field

from imgcls_ray.config.base import StrictModel


class Labelled(StrictModel):
    """A labelled dataset, and how its lists are read."""

    data: str = Field(examples=["DATASET"])
    """Labelled dataset: a folder (local or ``s3://``) with train.txt, val.txt and label.txt, or of class folders; or a
    .csv or .parquet file with the columns uri, label and maybe split."""
    delimiter: str | None = Field(default=None, min_length=1)
    """Text between path and class id in the lists. Default: the last run of spaces or the last tab of a line."""
