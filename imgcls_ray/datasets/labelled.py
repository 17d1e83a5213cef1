"""A labelled dataset of any form, after its class names are read, and functions that all forms share."""

from __future__ import annotations

import logging
import os
import posixpath
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.datasets.findings import Finding, FindingCode
from imgcls_ray.models.class_names import names_apart
from imgcls_ray.storage.files import absolute_path, path_from_uri, scheme_of, uri_from_path
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.s3 import is_s3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

logger = logging.getLogger(__name__)

# Ids become places in tables of counts: a mistyped one must not make a table of a billion places.
MAX_CLASS_ID = 1_000_000
_NUM_SHOWN = 20
_INTEGER = re.compile(r"[+-]?[0-9]+")


class Entry(NamedTuple):
    """One labelled image, as it is written in the dataset."""

    split: str
    file: str
    """List or table of the entry, relative to the dataset; empty for class folders."""
    line: int | None
    path: str
    uri: str
    label: int
    source: str | None = None
    locator: str | None = None
    """Where it is in a packed file, as in ``storage.files.FileInfo``."""

    @property
    def where(self) -> str:
        """Place of the entry, e.g. ``train.txt:17``; for class folders the path of the image."""
        return f"{self.file}:{self.line}" if self.file else self.path


@dataclass
class DatasetSource:
    """A dataset whose class names are known and whose entries can be read, once or again."""

    dataset: str
    label_file: str | None
    class_names: list[str | None]
    """Class names by id; ``None`` for an id without a class."""
    splits: list[str]
    """Splits that the dataset has, in the order train, val, test."""
    read: Callable[[Callable[[Finding], None]], Iterator[Entry]]
    """Function that reads the entries, and reports the faults of their lines."""
    findings: list[Finding] = field(default_factory=list)
    """Findings about the class names, and about whole lists and folders."""
    files: frozenset[str] = frozenset()
    """Existing files among the class names and the lists; empty for class folders and tables."""
    list_files: Mapping[str, str] = field(default_factory=dict)
    """Name of each split's list; empty for class folders and tables."""
    notes: Sequence[str] = ()
    """How the dataset was read where that is not as usual, in lines for people."""

    def tell_notes(self) -> None:
        """Log how the dataset was read, where that is not as usual."""
        for note in self.notes:
            logger.info("%s: %s", self.dataset, note)

    def class_name(self, label: int) -> str:
        """Name of a class for people, with the id where several classes share it; also for an id without a class."""
        name = self.class_names[label] if 0 <= label < len(self.class_names) else None
        return f"class {label}" if name is None else self._names_apart[label]

    @cached_property
    def _names_apart(self) -> tuple[str, ...]:
        return names_apart(tuple(name or "" for name in self.class_names))


def names_by_id(names: dict[int, str], file: str, findings: list[Finding]) -> list[str | None]:
    """Names in the order of their ids; ids that are left out are a finding."""
    by_id = [names.get(label) for label in range(max(names) + 1)]
    gaps = [label for label, name in enumerate(by_id) if name is None]
    if gaps:
        shown = ", ".join(map(str, gaps[:_NUM_SHOWN])) + (", …" if len(gaps) > _NUM_SHOWN else "")
        findings.append(Finding(FindingCode.GAP_IN_IDS, file, detail=f"no class has {shown}"))
    return by_id


def is_integer(text: str) -> bool:
    """Whether the text is a whole number of ASCII digits, with or without a sign."""
    return _INTEGER.fullmatch(text) is not None


def to_int(text: str) -> int:
    """Read an integer; of a very long one only the first digits, because Python reads at most 4,300."""
    sign = "-" if text.startswith("-") else ""
    return int(sign + (text.lstrip("+-").lstrip("0")[:18] or "0"))


def image_uri(dataset: str, path: str) -> str:
    """URI of an image in a list or table; the same for every spelling of a local path."""
    if is_url(path) or is_s3(path) or scheme_of(path) == "file":
        return path
    if is_s3(dataset):
        return f"{dataset.rstrip('/')}/{posixpath.normpath(path)}"
    # A list may go through folders that only its author has: what is left of ".." is taken out of the text.
    return uri_from_path(os.path.normpath(absolute_path(os.path.join(path_from_uri(dataset), path))))


def name_text(name: str) -> str:
    """A name of a file as text that can be written: bytes that are not UTF-8 become ``\\udc80``."""
    return name.encode(errors="backslashreplace").decode()
