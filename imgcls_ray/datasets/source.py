"""Read a labelled dataset: PaddleX's lists, class folders, or a table; every fault of what is written is a finding.

Entries stream: nothing here holds more of a dataset than its class names.
"""

from __future__ import annotations

import csv
import io
import math
import os
import posixpath
import re
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol

from imgcls_ray.datasets.findings import Finding, FindingCode
from imgcls_ray.datasets.result import SPLITS
from imgcls_ray.errors import InputError, StorageError
from imgcls_ray.storage import DEFAULT_S3, open_directory, open_file
from imgcls_ray.storage.files import absolute_path, path_from_uri, scheme_of, uri_from_path
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.s3 import S3Options, is_s3
from imgcls_ray.storage.s3_inputs import list_place
from imgcls_ray.storage.walking import list_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

LABEL_FILE = "label.txt"
LISTS = tuple(f"{split}.txt" for split in SPLITS)
_TABLES = (".csv", ".parquet")
_MAX_LINE_BYTES = 64 * 2**10
# Ids become places in tables of counts: a mistyped one must not make a table of a billion places.
_MAX_CLASS_ID = 1_000_000
# A file of images that was called label.txt must not fill the memory with what is wrong with its lines.
_MAX_LABEL_FAULTS = 10_000
_NUM_SHOWN = 20
_INTEGER = re.compile(r"[+-]?[0-9]+")
# With the blanks and the commas of Chinese keyboards.
_OTHER_DELIMITER = re.compile(r"[,;|:=\u00a0\u3000\uff0c\uff1b\uff1a]\s*[+-]?[0-9]+$")
# What our reports hold besides text: in a dataset of class folders it would be taken for images.
_REPORT = re.compile(
    r"(^|/)(check_dataset/(histogram\.png|demo_img/[^/]+\.jpg)"
    r"|evaluate/(confusion\.png|reliability\.png|mistakes\.jpg))$"
)


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


class ListFolder(Protocol):
    """What is needed of a folder to read the lists in it."""

    def entries(self) -> Iterator[str]:
        """Names of what it holds."""

    def open(self, name: str) -> BinaryIO:
        """Read a file of it."""


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


def read_dataset(
    dataset: str, *, delimiter: str | None = None, s3: S3Options = DEFAULT_S3, folder: ListFolder | None = None
) -> DatasetSource:
    """Find out what kind of dataset it is, and read its class names.

    Args:
        dataset: a folder (local or ``s3://``) with ``train.txt``, ``val.txt``, ``label.txt`` and maybe ``test.txt``;
            one of class folders, ``train/NAME/*.jpg`` or ``NAME/*.jpg``; or a ``.csv`` or ``.parquet`` file with the
            columns ``uri``, ``label`` and maybe ``split``.
        delimiter: between path and class id of the lists; spaces or a tab, whichever is last in a line, if not given.
        s3: object storage of the dataset.
        folder: where its lists are read; the folder ``dataset`` itself if not given.

    Raises:
        InputError: there is no such dataset, or it is of no known kind.
    """
    is_folder = not is_s3(dataset) and os.path.isdir(path_from_uri(dataset))
    if os.path.splitext(dataset)[1].lower() in _TABLES and not is_folder:
        return _read_table(dataset, s3)
    if not is_s3(dataset) and not is_folder:
        raise InputError(f"{dataset}: there is no such folder; a dataset is a folder, or a .csv or .parquet file")
    folder = folder or open_directory(dataset, s3)
    # A folder may hold millions of names: only these few are kept.
    files = frozenset(name.rstrip("/") for name in folder.entries() if name.rstrip("/") in (LABEL_FILE, *LISTS))
    if files:
        return _read_lists(dataset, folder, files, delimiter)
    return _read_class_folders(dataset, s3)


# Lists


def _read_lists(dataset: str, folder: ListFolder, files: frozenset[str], delimiter: str | None) -> DatasetSource:
    findings: list[Finding] = []
    lists = [name for name in LISTS if name in files]
    names = _read_class_names(folder, findings)
    findings += [
        Finding(FindingCode.UNREADABLE_LIST, needed, split=needed.removesuffix(".txt"), detail="there is none")
        for needed in ("train.txt", "val.txt")
        if needed not in lists
    ]

    def read(report: Callable[[Finding], None]) -> Iterator[Entry]:
        for name in lists:
            yield from _read_list(dataset, folder, name, names, delimiter, report)

    splits = [name.removesuffix(".txt") for name in lists]
    return DatasetSource(dataset, LABEL_FILE, names, splits, read, findings, files)


def _read_class_names(folder: ListFolder, findings: list[Finding]) -> list[str | None]:
    names: dict[int, str] = {}
    ids_of: dict[str, int] = {}
    try:
        for number, line in _lines(folder.open(LABEL_FILE)):
            if len(findings) == _MAX_LABEL_FAULTS:
                what = f"{_MAX_LABEL_FAULTS:,} of its lines are wrong; from line {number} on it was not read"
                findings.append(Finding(FindingCode.UNREADABLE_LABELS, LABEL_FILE, number, detail=what))
                break
            if finding := _take_class_name(number, line, names, ids_of):
                findings.append(finding)
    except (StorageError, OSError) as error:
        what = "there is none" if isinstance(error, FileNotFoundError) else str(error)
        findings.append(Finding(FindingCode.UNREADABLE_LABELS, LABEL_FILE, detail=what))
        return []
    if not names:
        findings.append(Finding(FindingCode.UNREADABLE_LABELS, LABEL_FILE, detail="it names no class"))
        return []
    return _by_id(names, LABEL_FILE, findings)


def _take_class_name(
    number: int, line: str | BadBytes, names: dict[int, str], ids_of: dict[str, int]
) -> Finding | None:
    """Add what a line says to ``names`` (by id) and ``ids_of`` (by name), or say what is wrong with it."""
    if isinstance(line, BadBytes):
        return Finding(FindingCode.BAD_LINE, LABEL_FILE, number, detail=line.what)
    text, name = [*re.split(r"[ \t]+", line.strip(), maxsplit=1), ""][:2]
    if not _INTEGER.fullmatch(text) or (label := _to_int(text)) < 0:
        what = f"{text[:60]!r} is no class id from 0 on"
        return Finding(FindingCode.LABEL_NOT_INTEGER, LABEL_FILE, number, detail=what)
    if not name:
        return Finding(FindingCode.BAD_LINE, LABEL_FILE, number, detail=f"class {text[:60]} has no name")
    if label > _MAX_CLASS_ID:
        what = f"{text[:60]} is larger than {_MAX_CLASS_ID}"
        return Finding(FindingCode.LABEL_OUT_OF_RANGE, LABEL_FILE, number, class_name=name, detail=what)
    if label in names:
        what = f"{label} is {names[label]!r} and {name!r}"
        return Finding(FindingCode.DUPLICATE_CLASS_ID, LABEL_FILE, number, class_name=name, detail=what)
    names[label] = name
    if ids_of.setdefault(name, label) != label:
        what = f"{name!r} is {ids_of[name]} and {label}"
        return Finding(FindingCode.DUPLICATE_CLASS_NAME, LABEL_FILE, number, class_name=name, detail=what)
    return None


def _by_id(names: dict[int, str], file: str, findings: list[Finding]) -> list[str | None]:
    """Names in the order of their ids; ids that are left out are a finding."""
    by_id = [names.get(label) for label in range(max(names) + 1)]
    gaps = [label for label, name in enumerate(by_id) if name is None]
    if gaps:
        shown = ", ".join(map(str, gaps[:_NUM_SHOWN])) + (", …" if len(gaps) > _NUM_SHOWN else "")
        findings.append(Finding(FindingCode.GAP_IN_IDS, file, detail=f"no class has {shown}"))
    return by_id


def _read_list(
    dataset: str,
    folder: ListFolder,
    name: str,
    names: list[str | None],
    delimiter: str | None,
    report: Callable[[Finding], None],
) -> Iterator[Entry]:
    split = name.removesuffix(".txt")
    num_classes = sum(known is not None for known in names)
    known = f"label.txt has {num_classes} classes, 0 to {len(names) - 1}" if names else f"ids are 0 to {_MAX_CLASS_ID}"

    def is_known(label: int) -> bool:
        return 0 <= label < len(names) and names[label] is not None if names else 0 <= label <= _MAX_CLASS_ID

    try:
        for number, line in _lines(folder.open(name)):
            if isinstance(line, BadBytes):
                report(Finding(FindingCode.BAD_LINE, name, number, split, detail=line.what))
                continue
            path, label, fault = _parse_line(line, delimiter)
            if fault is not None:
                report(Finding(fault, name, number, split, path=path, detail=repr(line[:200])))
            elif not is_known(_to_int(label)):
                what = f"{label[:60]}: {known}"
                report(Finding(FindingCode.LABEL_OUT_OF_RANGE, name, number, split, path=path, detail=what))
            else:
                yield Entry(split, name, number, path, _uri(dataset, path), _to_int(label))
    except (StorageError, OSError) as error:
        report(Finding(FindingCode.UNREADABLE_LIST, name, split=split, detail=str(error)))


def _parse_line(line: str, delimiter: str | None) -> tuple[str, str, FindingCode | None]:
    """Path and class id of a line, as far as they can be told apart, and what is wrong."""
    line = line.rstrip(" \t")
    if delimiter is None:
        # Not whatever Unicode takes for a blank: to other tools that is part of a name.
        cut = max(line.rfind(" "), line.rfind("\t")) + 1
        path, label = line[:cut].rstrip(" \t"), line[cut:]
    else:
        path, _, label = line.rpartition(delimiter)
        path, label = path.rstrip(" \t"), label.strip(" \t")
    if path and _INTEGER.fullmatch(label):
        return path, label, None
    if delimiter is None and _OTHER_DELIMITER.search(line):
        return path, label, FindingCode.UNKNOWN_DELIMITER
    return path, label, FindingCode.LABEL_NOT_INTEGER if path and label else FindingCode.BAD_LINE


def write_entry(dataset: str, entry: Entry, delimiter: str | None) -> str | None:
    """The line of a list that is read as this image with this class id; None where there is no such line."""
    line = f"{entry.path}{delimiter or ' '}{entry.label}\n"
    parsed = [_parse_line(text, delimiter) for text in _read_back(line)]
    if parsed != [(entry.path, str(entry.label), None)]:
        return None
    # A name of a class folder that is not UTF-8 is another name as text.
    return line if entry.file or _uri(dataset, entry.path) == entry.uri else None


def write_class_name(label: int, name: str) -> str | None:
    """The line of ``label.txt`` that is read as this class; None where there is no such line."""
    line = f"{label} {name}\n"
    names: dict[int, str] = {}
    faults = [_take_class_name(1, text, names, {}) for text in _read_back(line)]
    return line if (faults, names) == ([None], {label: name}) else None


def _read_back(line: str) -> list[str]:
    """What a reader finds where the line is the first one of a file."""
    try:
        return [text for _, text in _lines(io.BytesIO(line.encode())) if isinstance(text, str)]
    except UnicodeEncodeError:
        return []


def _is_integer(text: str) -> bool:
    return _INTEGER.fullmatch(text) is not None


def _to_int(text: str) -> int:
    """An integer; of one with more digits than any id has, the first ones (Python reads no more than 4,300)."""
    sign = "-" if text.startswith("-") else ""
    return int(sign + (text.lstrip("+-").lstrip("0")[:18] or "0"))


class BadBytes(NamedTuple):
    """A line that is no text."""

    what: str
    """Its beginning, and what is wrong with it."""


def _lines(opened: BinaryIO) -> Iterator[tuple[int, str | BadBytes]]:
    """Lines by number from 1, blank ones left out."""
    with closing(opened) as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES):
            number += 1
            if len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
                _skip_line(file)
                yield number, BadBytes(f"{line[:60]!r} and so on is longer than {_MAX_LINE_BYTES:,} bytes")
                continue
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            line = line.rstrip(b"\r\n")
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError:
                yield number, BadBytes(f"{line[:60]!r} is not UTF-8")
                continue
            if text.strip():
                yield number, text


def _skip_line(file: BinaryIO) -> None:
    while (rest := file.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass


def _uri(dataset: str, path: str) -> str:
    if is_url(path) or is_s3(path) or scheme_of(path) == "file":
        return path
    if is_s3(dataset):
        return f"{dataset.rstrip('/')}/{posixpath.normpath(path)}"
    # A list may go through folders that only its author has: what is left of ".." is taken out of the text.
    return uri_from_path(os.path.normpath(absolute_path(os.path.join(path_from_uri(dataset), path))))


# Class folders


def _read_class_folders(dataset: str, s3: S3Options) -> DatasetSource:
    """``train/NAME/*.jpg`` and so on, or ``NAME/*.jpg``: all of the latter is to train with."""
    root = dataset.rstrip("/") + "/" if is_s3(dataset) else absolute_path(path_from_uri(dataset)).rstrip("/") + "/"

    def paths() -> Iterator[tuple[str, str]]:
        files = list_place(root, s3) if is_s3(dataset) else list_folder(root, every_name=True)
        for info in files:
            where = (info.uri if is_s3(dataset) else path_from_uri(info.uri)).removeprefix(root)
            if not _REPORT.search(where):
                yield where, info.uri

    parts_of = Counter(tuple(path.split("/")[:-1]) for path, _ in paths())
    splits = [split for split in SPLITS if any(len(parts) >= 2 and parts[0] == split for parts in parts_of)]
    depth = 1 if splits else 0
    # What lies outside of a split's folders is another thing: a folder of raw material, say.
    classes = sorted({parts[depth] for parts in parts_of if len(parts) > depth and (not splits or parts[0] in splits)})
    if not classes or (not splits and set(classes) <= set(SPLITS)):
        raise InputError(
            f"{dataset}: no dataset of a known kind; it has neither train.txt and val.txt nor folders of images by "
            "class (train/NAME/*.jpg or NAME/*.jpg)"
        )
    ids = {name: label for label, name in enumerate(classes)}

    def read(_report: Callable[[Finding], None]) -> Iterator[Entry]:
        for path, uri in paths():
            parts = path.split("/")[:-1]
            if len(parts) > depth and (not splits or parts[0] in splits):
                yield Entry(parts[0] if splits else "train", "", None, _text(path), uri, ids[parts[depth]])

    names: list[str | None] = [_text(name) for name in classes]
    # An object storage has no empty folders.
    findings = [] if is_s3(dataset) else list(_empty_folders(root, splits, frozenset(classes)))
    return DatasetSource(dataset, None, names, splits or ["train"], read, findings)


def _empty_folders(root: str, splits: list[str], classes: frozenset[str]) -> Iterator[Finding]:
    """Folders beside those of classes in which no image lies: none of them is a class."""
    for split in splits or [""]:
        for name in sorted(os.listdir(root + split)):
            place = posixpath.join(split, name)
            if name in classes or name.startswith(".") or not os.path.isdir(root + place):
                continue
            if next(list_folder(root + place, every_name=True), None) is None:
                what = f"the folder {_text(place)} holds no image, so it is no class"
                code = FindingCode.CLASS_WITHOUT_IMAGES
                yield Finding(code, split=split or "train", class_name=_text(name), detail=what)


def _text(name: str) -> str:
    """A name of a file as text that can be written: bytes that are not UTF-8 become ``\\udc80``."""
    return name.encode(errors="backslashreplace").decode()


# Tables


def _read_table(dataset: str, s3: S3Options) -> DatasetSource:
    folder, name = posixpath.split(dataset)
    name = _text(name)
    labels: set[str] = set()
    splits: set[str] = set()
    for _, row in _table_rows(dataset, s3):
        if _fault_of_row(row) is None:
            labels.add(str(row["label"]))
            splits.add(_split_of(row))
        if len(labels) > _MAX_CLASS_ID:
            raise InputError(f"{dataset}: has more than {_MAX_CLASS_ID:,} different labels; is it the right column?")
    ids, names, findings = _classes_of_table(labels, name)

    def read(report: Callable[[Finding], None]) -> Iterator[Entry]:
        for number, row in _table_rows(dataset, s3):
            split, uri = _split_of(row), str(row.get("uri") or "")
            if what := _fault_of_row(row):
                report(Finding(FindingCode.BAD_LINE, name, number, split, path=uri, detail=what))
            elif (label := ids.get(str(row["label"]))) is None:
                what = f"{row['label']} is no class id from 0 on"
                report(Finding(FindingCode.LABEL_OUT_OF_RANGE, name, number, split, path=uri, detail=what))
            else:
                yield Entry(split, name, number, uri, _uri(folder or ".", uri), label)

    present = [split for split in SPLITS if split in splits]
    return DatasetSource(dataset, None, names, present, read, findings)


def _classes_of_table(labels: set[str], file: str) -> tuple[dict[str, int], list[str | None], list[Finding]]:
    """Class ids by label, and names by id: labels are ids where all of them are whole numbers, else names."""
    findings: list[Finding] = []
    if all(_is_integer(label) and _to_int(label) <= _MAX_CLASS_ID for label in labels):
        ids = {label: _to_int(label) for label in labels if _to_int(label) >= 0}
        return ids, _by_id({label: str(label) for label in ids.values()}, file, findings) if ids else [], findings
    names = sorted(labels)
    return {label: place for place, label in enumerate(names)}, list(names), findings


def _split_of(row: dict[str, Any]) -> str:
    return str(row.get("split") or "train")


def _fault_of_row(row: dict[str, Any]) -> str | None:
    """Why a row names no image with a class in a split."""
    label = row["label"]
    # The key None holds what a line of a CSV has beyond its columns: then the others are not where they seem to be.
    if not isinstance(row["uri"], str) or not row["uri"] or label is None or label in ("", b"") or None in row:
        return repr(row)[:200]
    if isinstance(label, float) and math.isnan(label):  # pandas' missing number
        return repr(row)[:200]
    if (split := _split_of(row)) not in SPLITS:
        return f"the split {split[:60]!r} is none of train, val and test"
    return None


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
            reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
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
