"""The keys of every job that reads a labelled dataset."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from imgcls_ray.config.base import StrictModel

if TYPE_CHECKING:
    from collections.abc import Mapping

_SPLIT_FOLDER = re.compile(r"(train|val|test)=([^=]*[^=\s,/][^=]*)")


def parse_split_folders(text: str) -> dict[str, str]:
    """Read which folders are splits: ``parse_split_folders("train=Tr,val=x/Va")  # {"train": "Tr", "val": "x/Va"}``.

    Returns:
        The folder of each split; none for ``none``.

    Raises:
        ValueError: it is neither.
    """
    if text == "none":
        return {}
    pairs = [_SPLIT_FOLDER.fullmatch(part.strip()) for part in re.split(r",(?=\s*\w+=)", text)]
    folders = {pair[1]: pair[2].strip() for pair in pairs if pair is not None}
    if len(folders) < len(pairs) or len(set(folders.values())) < len(pairs):
        raise ValueError("expected a folder of its own for each split, e.g. train=Training,val=Testing, or none")
    return folders


def _split_folders(text: str) -> str:
    parse_split_folders(text)
    return text


SplitFolders = Annotated[str, AfterValidator(_split_folders)]


class NamesSplits:
    """For configurations with the key ``split_folders``, each of which describes it in its own words."""

    if TYPE_CHECKING:
        split_folders: SplitFolders | None

    @property
    def split_places(self) -> Mapping[str, str] | None:
        """The folder of each split, empty for ``none``; None if they are to be found."""
        return None if self.split_folders is None else parse_split_folders(self.split_folders)


class Labelled(NamesSplits, StrictModel):
    """A labelled dataset, and how its lists are read."""

    data: str = Field(examples=["DATASET"])
    """Labelled dataset: a folder (local, ``s3://``, ``gs://``, ``az://`` or ``hf://``) with train.txt, val.txt and
    label.txt, or of class folders; a .csv or .parquet file with the columns uri, label and maybe split; or tar or
    Parquet files with labelled images."""
    delimiter: str | None = Field(default=None, min_length=1)
    """Text between path and class id in the lists. Default: the last run of spaces or the last tab of a line."""
    split_folders: SplitFolders | None = None
    """Folders of the splits of a dataset of class folders, e.g. ``train=Training,val=a/Testing``; ``none`` if its first
    folders are the classes, whatever they are called. Default: found by names such as train, Valid or testing."""
