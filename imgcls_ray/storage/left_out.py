"""Decide which files of an INPUT are skipped: one rule for folders, buckets, and patterns of both.

Skipped are names that begin with a dot, unless a pattern has the dot; texts, tables and weights by their extensions,
unless the list, the pattern or INPUT itself names them; the ``samples/`` of a label store; and files of the label store
that is being written. Everything else is an input, whatever its name, because the content decides.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import NamedTuple

from imgcls_ray.errors import StorageError

_TEXTS_AND_TABLES = frozenset(
    {".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".parquet", ".log", ".bak", ".py"}
)
_WEIGHTS = frozenset(
    {".safetensors", ".onnx", ".pt", ".pt2", ".pth", ".ckpt", ".tflite"}
    | {".pdparams", ".pdiparams", ".pdmodel", ".pdopt"}
)
_NOT_IMAGES = _TEXTS_AND_TABLES | _WEIGHTS

STORE_FOLDERS = frozenset({"plans", "predictions", "runs", "exports", "samples"})
STORE_FILES = frozenset({"store.json", "lease.json"})
"""Names directly below the place of a label store, except names that begin with a dot."""

BESIDE = {"samples/": "store.json", "model.bin": "model.json"}
"""Names that are skipped only beside another name: a store's samples, the weights of an OpenVINO model folder."""

_UNLISTED_KEPT = 100
_UNLISTED_IN_ERROR = 3
_NAME_CHARS = 200


class Unlisted(NamedTuple):
    """A folder that could not be listed."""

    folder: str
    reason: str

    def __str__(self) -> str:
        name = self.folder if len(self.folder) <= _NAME_CHARS else f"{self.folder[:_NAME_CHARS]}..."
        return f"{name}: {self.reason}"


@dataclass
class ListingCounts:
    """Numbers of files that a listing skipped, for the summary."""

    not_images: int = 0
    """Number of texts, tables and weights, by their extensions."""
    hidden: int = 0
    """Number of files and folders whose names begin with a dot; the content of such a folder is not counted."""
    stores: int = 0
    """Number of label stores whose ``samples/`` were skipped."""
    linked: int = 0
    """Number of links to folders that are listed under another name."""
    doubles: int = 0
    """Number of entries of a list that repeat a URI."""
    unlisted: list[Unlisted] = field(default_factory=list)
    """Folders that could not be listed: the first hundred."""
    num_unlisted: int = 0

    def add_unlisted(self, folder: str, reason: str) -> None:
        self.num_unlisted += 1
        if len(self.unlisted) < _UNLISTED_KEPT:
            self.unlisted.append(Unlisted(folder, reason))

    @property
    def unlisted_text(self) -> str:
        """The folders that could not be listed, in one line; the first ones by name."""
        named = "; ".join(map(str, self.unlisted[:_UNLISTED_IN_ERROR]))
        if (more := self.num_unlisted - _UNLISTED_IN_ERROR) > 0:
            named += f"; and {more:,} more"
        return f"{self.num_unlisted:,} folder{'s' * (self.num_unlisted != 1)} of the input cannot be listed ({named})"

    def check_complete(self) -> None:
        """Raise an error at the end of a job whose input could not be listed completely.

        Raises:
            StorageError: naming folders that could not be listed.
        """
        if self.num_unlisted:
            raise StorageError(
                f"{self.unlisted_text}; what they hold was left out, everything else was not. Run the command again "
                "when they can be read"
            )


def is_hidden(name: str) -> bool:
    return name.startswith(".")


def may_be_image(uri: str) -> bool:
    """Whether a file that nobody named is an input by its name: texts, tables and weights are not."""
    return os.path.splitext(uri)[1].lower() not in _NOT_IMAGES


def is_of_store(place: str, store: str) -> bool:
    """Whether a path or URI is a file or folder of a label store, or below one.

    Args:
        place: a file or folder; one kind of name for both, without links.
        store: the label store.
    """
    if not place.startswith(prefix := f"{store.rstrip('/')}/"):
        return False
    first, slash, _ = place[len(prefix) :].partition("/")
    return first in STORE_FOLDERS or (first in STORE_FILES and not slash)
