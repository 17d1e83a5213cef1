"""Read a labelled dataset: PaddleX's lists, class folders, or a table; every fault of what is written is a finding.

Entries stream: nothing here holds more of a dataset than its class names.
"""

from __future__ import annotations

import csv
import io
import os
import posixpath
import re
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from imgcls_ray.datasets.findings import Finding, FindingCode
from imgcls_ray.datasets.result import SPLITS
from imgcls_ray.errors import InputError, StorageError
from imgcls_ray.storage import DEFAULT_S3, open_directory, open_file
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.local import list_folder, may_be_image, path_from_uri, scheme_of, uri_from_path
from imgcls_ray.storage.s3 import S3Options, is_s3
from imgcls_ray.storage.s3_inputs import list_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imgcls_ray.storage import Directory

LABEL_FILE = "label.txt"
_TABLES = (".csv", ".parquet")
_MAX_LINE_BYTES = 64 * 2**10
_OTHER_DELIMITER = re.compile(r"[,;|:]\s*-?\d+$")


class Entry(NamedTuple):
    """One labelled image, as the dataset names it."""

    split: str
    file: str
    """The list or table that says it, relative to the dataset; empty for class folders."""
    line: int | None
    path: str
    uri: str
    label: int


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
    """Of the class names."""

    def class_name(self, label: int) -> str:
        """For people: also of an id that no class has."""
        name = self.class_names[label] if 0 <= label < len(self.class_names) else None
        return name if name is not None else f"class {label}"


def read_dataset(dataset: str, *, delimiter: str | None = None, s3: S3Options = DEFAULT_S3) -> DatasetSource:
    """Find out what kind of dataset it is, and read its class names.

    Args:
        dataset: a folder (local or ``s3://``) with ``train.txt``, ``val.txt``, ``label.txt`` and maybe ``test.txt``;
            one of class folders, ``train/NAME/*.jpg`` or ``NAME/*.jpg``; or a ``.csv`` or ``.parquet`` file with the
            columns ``uri``, ``label`` and maybe ``split``.
        delimiter: between path and class id of the lists; spaces or a tab, whichever is last in a line, if not given.

    Raises:
        InputError: there is no such dataset, or it is of no known kind.
    """
    if os.path.splitext(dataset)[1].lower() in _TABLES:
        return _read_table(dataset, s3)
    if not is_s3(dataset) and not os.path.isdir(path_from_uri(dataset)):
        raise InputError(f"{dataset}: there is no such folder; a dataset is a folder, or a .csv or .parquet file")
    folder = open_directory(dataset, s3)
    names = {name.rstrip("/") for name in folder.entries()}
    lists = [f"{split}.txt" for split in SPLITS if f"{split}.txt" in names]
    if lists or LABEL_FILE in names:
        return _read_lists(dataset, folder, lists, delimiter)
    return _read_class_folders(dataset, s3)


# Lists


def _read_lists(dataset: str, folder: Directory, lists: list[str], delimiter: str | None) -> DatasetSource:
    findings: list[Finding] = []
    names = _read_class_names(folder, findings)
    findings += [
        Finding(FindingCode.UNREADABLE_LIST, needed, split=needed.removesuffix(".txt"), detail="there is none")
        for needed in ("train.txt", "val.txt")
        if needed not in lists
    ]

    def read(report: Callable[[Finding], None]) -> Iterator[Entry]:
        for name in lists:
            yield from _read_list(dataset, folder, name, names, delimiter, report)

    return DatasetSource(
        dataset, LABEL_FILE, names, [name[:-4] for name in lists if name[:-4] in SPLITS], read, findings
    )


def _read_class_names(folder: Directory, findings: list[Finding]) -> list[str | None]:
    names: dict[int, str] = {}
    ids_of: dict[str, int] = {}
    try:
        lines = list(_lines(folder, LABEL_FILE))
    except (FileNotFoundError, StorageError, OSError) as error:
        what = "there is none" if isinstance(error, FileNotFoundError) else str(error)
        findings.append(Finding(FindingCode.UNREADABLE_LABELS, LABEL_FILE, detail=what))
        return []
    for number, line in lines:
        if isinstance(line, bytes):
            findings.append(Finding(FindingCode.BAD_LINE, LABEL_FILE, number, detail=f"{line[:60]!r} is not UTF-8"))
            continue
        first, _, name = line.strip().partition("\t" if "\t" in line.strip() else " ")
        if not _is_integer(first) or int(first) < 0:
            findings.append(
                Finding(FindingCode.LABEL_NOT_INTEGER, LABEL_FILE, number, detail=f"{first!r} is no class id from 0 on")
            )
            continue
        label, name = int(first), name.strip()
        if not name:
            findings.append(Finding(FindingCode.BAD_LINE, LABEL_FILE, number, detail=f"class {label} has no name"))
        elif label in names:
            what = f"{label} is {names[label]!r} and {name!r}"
            findings.append(Finding(FindingCode.DUPLICATE_CLASS_ID, LABEL_FILE, number, class_name=name, detail=what))
        elif label > _MAX_CLASS_ID:
            what = f"{label} is larger than {_MAX_CLASS_ID}"
            findings.append(Finding(FindingCode.LABEL_OUT_OF_RANGE, LABEL_FILE, number, class_name=name, detail=what))
        else:
            if name in ids_of:
                what = f"{name!r} is {ids_of[name]} and {label}"
                findings.append(
                    Finding(FindingCode.DUPLICATE_CLASS_NAME, LABEL_FILE, number, class_name=name, detail=what)
                )
            names[label] = name
            ids_of.setdefault(name, label)
    if not names:
        findings.append(Finding(FindingCode.UNREADABLE_LABELS, LABEL_FILE, detail="it names no class"))
        return []
    gaps = [label for label in range(max(names)) if label not in names]
    if gaps:
        shown = ", ".join(map(str, gaps[:20])) + (", …" if len(gaps) > 20 else "")
        findings.append(Finding(FindingCode.GAP_IN_IDS, LABEL_FILE, detail=f"no class has {shown}"))
    return [names.get(label) for label in range(max(names) + 1)]


# Ids become places in tables of counts: a mistyped one must not make a table of a billion places.
_MAX_CLASS_ID = 1_000_000


def _read_list(
    dataset: str,
    folder: Directory,
    name: str,
    names: list[str | None],
    delimiter: str | None,
    report: Callable[[Finding], None],
) -> Iterator[Entry]:
    split = name.removesuffix(".txt")
    try:
        for number, line in _lines(folder, name):
            if isinstance(line, bytes):
                report(Finding(FindingCode.BAD_LINE, name, number, split, detail=f"{line[:60]!r} is not UTF-8"))
                continue
            path, label = _parse_line(line, delimiter)
            if isinstance(label, FindingCode):
                report(Finding(label, name, number, split, path=path, detail=repr(line[:200])))
            elif names and not (0 <= label < len(names) and names[label] is not None):
                known = f"label.txt has {sum(known is not None for known in names)} classes, 0 to {len(names) - 1}"
                report(
                    Finding(FindingCode.LABEL_OUT_OF_RANGE, name, number, split, path=path, detail=f"{label}: {known}")
                )
            else:
                yield Entry(split, name, number, path, _uri(dataset, path), label)
    except (StorageError, OSError) as error:
        report(Finding(FindingCode.UNREADABLE_LIST, name, split=split, detail=str(error)))


def _parse_line(line: str, delimiter: str | None) -> tuple[str, int | FindingCode]:
    """Path and class id of a line, or the path as far as it is known and what is wrong."""
    if delimiter is None:
        path, label = [*line.rsplit(maxsplit=1), ""][:2]
    else:
        path, _, label = (part.strip() for part in line.rpartition(delimiter))
    if path and _is_integer(label):
        return path, int(label)
    if delimiter is None and _OTHER_DELIMITER.search(line):
        return path, FindingCode.UNKNOWN_DELIMITER
    return path, FindingCode.LABEL_NOT_INTEGER if path and label else FindingCode.BAD_LINE


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]{1,18}", text) is not None


def _lines(folder: Directory, name: str) -> Iterator[tuple[int, str | bytes]]:
    """Lines by number from 1, blank ones left out; bytes where a line is not UTF-8 or too long to be one."""
    with closing(folder.open(name)) as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES):
            number += 1
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            line = line.rstrip(b"\r\n")
            if not line.strip():
                continue
            try:
                yield number, line.decode("utf-8")
            except UnicodeDecodeError:
                yield number, line


def _uri(dataset: str, path: str) -> str:
    if is_url(path) or is_s3(path) or scheme_of(path) == "file":
        return path
    if is_s3(dataset):
        return f"{dataset.rstrip('/')}/{posixpath.normpath(path)}"
    return uri_from_path(os.path.abspath(os.path.join(path_from_uri(dataset), path)))


# Class folders


def _read_class_folders(dataset: str, s3: S3Options) -> DatasetSource:
    """``train/NAME/*.jpg`` and so on, or ``NAME/*.jpg``: all of the latter is to train with."""
    root = dataset.rstrip("/") + "/" if is_s3(dataset) else os.path.abspath(path_from_uri(dataset)).rstrip("/") + "/"

    def paths() -> Iterator[tuple[str, str]]:
        files = list_place(root, s3) if is_s3(dataset) else list_folder(root)
        for info in files:
            if may_be_image(info.uri):
                where = info.uri if is_s3(dataset) else path_from_uri(info.uri)
                yield where.removeprefix(root), info.uri

    parts_of = Counter(tuple(path.split("/")[:-1]) for path, _ in paths())
    splits = [split for split in SPLITS if any(len(parts) >= 2 and parts[0] == split for parts in parts_of)]
    depth = 1 if splits else 0
    # What lies outside of a split's folders is another thing: a folder of raw material, say.
    classes = sorted({parts[depth] for parts in parts_of if len(parts) > depth and (not splits or parts[0] in splits)})
    if not classes:
        raise InputError(
            f"{dataset}: no dataset of a known kind; it has neither train.txt and val.txt nor folders of images by "
            "class (train/NAME/*.jpg or NAME/*.jpg)"
        )
    ids = {name: label for label, name in enumerate(classes)}

    def read(_report: Callable[[Finding], None]) -> Iterator[Entry]:
        for path, uri in paths():
            parts = path.split("/")[:-1]
            if len(parts) > depth and (not splits or parts[0] in splits):
                yield Entry(parts[0] if splits else "train", "", None, path, uri, ids[parts[depth]])

    return DatasetSource(dataset, None, list(classes), splits or ["train"], read)


# Tables


def _read_table(dataset: str, s3: S3Options) -> DatasetSource:
    folder, _, name = dataset.rpartition("/") if is_s3(dataset) else (os.path.dirname(dataset), "", "")
    name = name or os.path.basename(dataset)
    findings: list[Finding] = []
    labels: Counter[str] = Counter()
    splits: set[str] = set()
    for _, row in _table_rows(dataset, s3):
        labels[str(row.get("label"))] += 1
        splits.add(str(row.get("split") or "train"))
    are_ids = all(_is_integer(label) for label in labels)
    known = sorted(labels, key=int) if are_ids else sorted(labels)
    names: list[str | None]
    if are_ids and labels and int(known[0]) >= 0 and int(known[-1]) <= _MAX_CLASS_ID:
        names = [str(label) for label in range(int(known[-1]) + 1)]
        ids = {label: int(label) for label in labels}
    else:
        names = list(known)
        ids = {label: place for place, label in enumerate(known)}
    for split in sorted(splits - set(SPLITS)):
        what = f"the split {split!r} is none of train, val and test"
        findings.append(Finding(FindingCode.BAD_LINE, name, split=split, detail=what))

    def read(report: Callable[[Finding], None]) -> Iterator[Entry]:
        for number, row in _table_rows(dataset, s3):
            split, uri, label = str(row.get("split") or "train"), row.get("uri"), row.get("label")
            if not uri or label is None or label == "" or split not in SPLITS:
                report(Finding(FindingCode.BAD_LINE, name, number, split, detail=repr(row)[:200]))
                continue
            yield Entry(split, name, number, str(uri), _uri(folder or ".", str(uri)), ids[str(label)])

    present = [split for split in SPLITS if split in splits]
    return DatasetSource(dataset, None, names, present, read, findings)


def _table_rows(dataset: str, s3: S3Options) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows by their number from 1; of a CSV, by the line they end in."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_file(dataset, s3) as file:
            if dataset.lower().endswith(".parquet"):
                table = pq.ParquetFile(file)
                _need_columns(dataset, table.schema_arrow.names)
                columns = [name for name in ("uri", "label", "split") if name in table.schema_arrow.names]
                number = 0
                for batch in table.iter_batches(columns=columns):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
                return
            reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
            _need_columns(dataset, reader.fieldnames or [])
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise InputError(f"{dataset}: cannot be read as a table: {error}") from error


def _need_columns(dataset: str, names: Iterable[str]) -> None:
    if missing := {"uri", "label"} - set(names):
        raise InputError(
            f"{dataset}: has no column {' and no column '.join(sorted(missing))}; it needs uri, label and maybe split"
        )
