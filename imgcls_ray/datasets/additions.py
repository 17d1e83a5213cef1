"""Add labelled images to the lists of a dataset, with a file that says where they came from.

The lists and the file are replaced together, and every one that was replaced is kept (``rewrite``).
"""

from __future__ import annotations

import csv
import difflib
import io
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.datasets.findings import FindingCode, Severity
from imgcls_ray.datasets.labelled import Entry
from imgcls_ray.datasets.list_files import write_entry
from imgcls_ray.datasets.rewrite import refuse_if_unfinished, replace_lists
from imgcls_ray.datasets.source import read_dataset
from imgcls_ray.datasets.split import ReadOnce
from imgcls_ray.errors import UsageError
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.files import absolute_path, path_from_uri, scheme_of
from imgcls_ray.storage.schemes import is_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgcls_ray.datasets.findings import Finding
    from imgcls_ray.datasets.labelled import DatasetSource
    from imgcls_ray.storage import Directory
    from imgcls_ray.storage.options import StorageOptions

PROVENANCE_NAME = "reviewed.csv"
_FIELDS = ("path", "label", "split", "uri", "etag", "predicted", "source", "time")
_NUM_SHOWN = 3


class Addition(NamedTuple):
    """An image with a label, and where that came from."""

    uri: str
    label: str
    where: str
    """Place of the label in ``source``, for people."""
    etag: str | None
    predicted: str
    source: str


@dataclass(frozen=True)
class AdditionReport:
    """What ``add_to_lists`` did."""

    list_name: str
    added: Counter[str]
    """Images by label."""
    num_there: int
    """Images that the dataset had with the same label."""
    backups: Mapping[str, str]
    """Names of the backups, by the names of the files that were replaced."""


class Known(NamedTuple):
    """A dataset whose lists can be added to, as it is now."""

    directory: Directory
    source: DatasetSource
    originals: ReadOnce
    entries: dict[str, Entry]
    """Those of some images, by URI."""

    @property
    def class_names(self) -> list[str]:
        """Names that answers may give, each once, in the order of their ids."""
        return [self.source.class_name(label) for label, name in enumerate(self.source.class_names) if name is not None]


def _read_lists(dataset: str, delimiter: str | None, storage: StorageOptions, uris: frozenset[str]) -> Known:
    """Read a dataset of lists, and where it has some images."""
    directory = open_directory(dataset, storage)
    if not is_object(dataset) and not os.path.isdir(path := path_from_uri(dataset)):
        what = "is no folder" if os.path.exists(path) else "there is no such folder"
        raise UsageError(f"{dataset}: {what}; answers are added to a folder with train.txt, val.txt and label.txt")
    refuse_if_unfinished(directory)
    opened = ReadOnce(directory)
    source = read_dataset(dataset, delimiter=delimiter, storage=storage, folder=opened)
    if not source.list_files:
        raise UsageError(
            f"{dataset}: has no lists to add images to; `imgcls split {dataset}` makes lists of folders of classes"
        )

    def refuse(finding: Finding) -> None:
        if finding.code.severity is Severity.ERROR and finding.file in source.files:
            way_out = "give delimiter, e.g. ','; " if finding.code is FindingCode.UNKNOWN_DELIMITER else ""
            raise UsageError(f"{dataset}: {finding.text}; {way_out}`imgcls check {dataset}` lists every fault")

    for finding in source.findings:
        refuse(finding)
    if not source.class_names:
        raise UsageError(f"{dataset}: has no {source.label_file} with the names of its classes; write one")
    entries = {entry.uri: entry for entry in source.read(refuse) if entry.uri in uris}
    return Known(directory, source, opened, entries)


def add_to_lists(
    dataset: str,
    additions: Sequence[Addition],
    *,
    split: str,
    delimiter: str | None,
    time: str,
    storage: StorageOptions,
) -> AdditionReport:
    """Add images to the list of a split.

    Args:
        dataset: folder with lists, local or in object storage.
        additions: each image once.
        split: ``train``, ``val`` or ``test``.
        delimiter: between path and class id; spaces if not given.
        time: what ``reviewed.csv`` says of when.
        storage: how object storage is reached.

    Raises:
        UsageError: the dataset cannot be added to, a label is none of its classes, or an image is there with another
            label; nothing was written.
        StorageError: something cannot be written; says in which state the folder is.
    """
    known = _read_lists(dataset, delimiter, storage, frozenset(addition.uri for addition in additions))
    ids = {name: label for label, name in enumerate(known.source.class_names) if name is not None}
    ids |= {known.source.class_name(label): label for label in range(len(known.source.class_names))}
    _refuse_unknown(dataset, additions, known)
    _refuse_conflicts(dataset, additions, known, ids)
    new = [addition for addition in additions if addition.uri not in known.entries]
    name = known.source.list_files[split]
    added = Counter(addition.label for addition in new)
    if not new:
        return AdditionReport(name, added, len(additions), {})
    lines, rows = [], []
    for addition in new:
        path = _path_of(dataset, addition.uri)
        # Without the name of the list: then it is looked at whether the line names this image.
        entry = Entry(split, "", None, path, addition.uri, ids[addition.label])
        line = write_entry(dataset, entry, delimiter)
        if line is None:
            raise UsageError(
                f"{addition.source}: {addition.where}: the name {path[:200]!r} cannot stand in a list of "
                f"{dataset}: it would be read back as another one; rename it, or bring it to where the dataset is"
            )
        lines.append(line)
        told = (addition.etag or "", addition.predicted, addition.source, time)
        rows.append([path, addition.label, split, addition.uri, *told])
    contents = {
        name: _continued(known, name, "".join(lines).encode()),
        PROVENANCE_NAME: _continued(known, PROVENANCE_NAME, _csv(rows), head=_csv([list(_FIELDS)])),
    }
    originals = {file: data for file, data in known.originals.contents.items() if file in contents}
    backups = replace_lists(known.directory, contents, originals)
    return AdditionReport(name, added, len(additions) - len(new), backups)


def _refuse_unknown(dataset: str, additions: Sequence[Addition], known: Known) -> None:
    names = {name for name in known.source.class_names if name is not None}
    shared = {name for name, count in Counter(known.source.class_names).items() if name is not None and count > 1}
    may_be = (names - shared) | set(known.class_names)
    lost = [addition for addition in additions if addition.label not in may_be]
    if not lost:
        return
    first = lost[0]
    [near, *_] = [*difflib.get_close_matches(first.label, sorted(may_be), 1), ""]
    meant = f"; did you mean {near!r}?" if near else "."
    several = f"{len(lost):,} answers have labels" if len(lost) > 1 else "an answer has a label"
    raise UsageError(
        f"{first.source}: {several} that {dataset} has no class for, e.g. {first.label[:60]!r} ({first.where}){meant} "
        f"Nothing was written: correct the answers, or add the class to {known.source.label_file}"
    )


def _refuse_conflicts(dataset: str, additions: Sequence[Addition], known: Known, ids: Mapping[str, int]) -> None:
    differing = [
        (addition, entry)
        for addition in additions
        if (entry := known.entries.get(addition.uri)) is not None and entry.label != ids[addition.label]
    ]
    if differing:
        addition, entry = differing[0]
        more = f", and {len(differing) - 1:,} more differ" if len(differing) > 1 else ""
        raise UsageError(
            f"{dataset}: {entry.where} has {entry.path} as {known.source.class_name(entry.label)!r}, and "
            f"{addition.where} of {addition.source} says {addition.label!r}{more}. Nothing was written: correct the "
            "list or the answers"
        )


def _path_of(dataset: str, uri: str) -> str:
    """How a list names an image: relative to the dataset where it lies in it."""
    if is_object(dataset) or scheme_of(uri) not in ("", "file"):
        return uri.removeprefix(dataset.rstrip("/") + "/")
    root, path = absolute_path(path_from_uri(dataset)), path_from_uri(uri)
    return path.removeprefix(root.rstrip("/") + "/")


def _continued(known: Known, name: str, more: bytes, head: bytes = b"") -> bytes:
    try:
        with known.originals.open(name) as opened:
            before = opened.read()
    except FileNotFoundError:
        before = head
    return before + (b"\n" if before and not before.endswith(b"\n") else b"") + more


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors="backslashreplace")
