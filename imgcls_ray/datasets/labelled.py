"""A labelled dataset once its class names are known, however it is written down; and what all its forms share."""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.datasets.findings import Finding, FindingCode
from imgcls_ray.storage.files import absolute_path, path_from_uri, scheme_of, uri_from_path
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.s3 import is_s3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Ids become places in tables of counts: a mistyped one must not make a table of a billion places.
MAX_CLASS_ID = 1_000_000
_NUM_SHOWN = 20
_INTEGER = re.compile(r"[+-]?[0-9]+")


class Entry(NamedTuple):
    """One labelled image, as the dataset names it."""

    split: str
    file: str
    """The list or table that says it, relative to the dataset; empty for class folders."""
    line: int | None
    path: str
    uri: str
    label: int

    @property
    def where(self) -> str:
        """``train.txt:17``; the path of an image that no list names."""
        return f"{self.file}:{self.line}" if self.file else self.path


@dataclass
class DatasetSource:
    """A dataset whose class names are known and whose entries can be read, once or again."""

    dataset: str
    label_file: str | None
    class_names: list[str | None]
    """By class id; None where no class has the id."""
    splits: list[str]
    """Those that the dataset has, in the order train, val, test."""
    read: Callable[[Callable[[Finding], None]], Iterator[Entry]]
    """Read the entries, and tell the faults of their lines."""
    findings: list[Finding] = field(default_factory=list)
    """Of the class names, and of lists and folders as a whole."""
    files: frozenset[str] = frozenset()
    """``label.txt`` and the lists, those that there are; none of class folders and tables."""

    def class_name(self, label: int) -> str:
        """For people: also of an id that no class has."""
        name = self.class_names[label] if 0 <= label < len(self.class_names) else None
        return name if name is not None else f"class {label}"


def names_by_id(names: dict[int, str], file: str, findings: list[Finding]) -> list[str | None]:
    """Names in the order of their ids; ids that are left out are a finding."""
    by_id = [names.get(label) for label in range(max(names) + 1)]
    gaps = [label for label, name in enumerate(by_id) if name is None]
    if gaps:
        shown = ", ".join(map(str, gaps[:_NUM_SHOWN])) + (", …" if len(gaps) > _NUM_SHOWN else "")
        findings.append(Finding(FindingCode.GAP_IN_IDS, file, detail=f"no class has {shown}"))
    return by_id


def is_integer(text: str) -> bool:
    """Whether it is a whole number of ASCII digits, with a sign or without."""
    return _INTEGER.fullmatch(text) is not None


def to_int(text: str) -> int:
    """An integer; of one with more digits than any id has, the first ones (Python reads no more than 4,300)."""
    sign = "-" if text.startswith("-") else ""
    return int(sign + (text.lstrip("+-").lstrip("0")[:18] or "0"))


def image_uri(dataset: str, path: str) -> str:
    """Where an image is that a list or table names; the same for every spelling of a local path."""
    if is_url(path) or is_s3(path) or scheme_of(path) == "file":
        return path
    if is_s3(dataset):
        return f"{dataset.rstrip('/')}/{posixpath.normpath(path)}"
    # A list may go through folders that only its author has: what is left of ".." is taken out of the text.
    return uri_from_path(os.path.normpath(absolute_path(os.path.join(path_from_uri(dataset), path))))


def name_text(name: str) -> str:
    """A name of a file as text that can be written: bytes that are not UTF-8 become ``\\udc80``."""
    return name.encode(errors="backslashreplace").decode()
