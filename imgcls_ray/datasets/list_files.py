"""Datasets of lists, as PaddleX has them: ``train.txt``, ``val.txt``, ``test.txt``, ``label.txt``; read and written."""

from __future__ import annotations

import io
import re
from contextlib import closing
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from imgcls_ray.datasets.check_result import SPLITS
from imgcls_ray.datasets.findings import Finding, FindingCode
from imgcls_ray.datasets.labelled import MAX_CLASS_ID, DatasetSource, Entry, image_uri, is_integer, names_by_id, to_int
from imgcls_ray.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LABEL_FILE = "label.txt"
LISTS = tuple(f"{split}.txt" for split in SPLITS)
_MAX_LINE_BYTES = 64 * 2**10
# A file of images that was called label.txt must not fill the memory with what is wrong with its lines.
_MAX_LABEL_FAULTS = 10_000
# With the blanks and the commas of Chinese keyboards.
_OTHER_DELIMITER = re.compile(r"[,;|:=\u00a0\u3000\uff0c\uff1b\uff1a]\s*[+-]?[0-9]+$")


class ListFolder(Protocol):
    """Methods of a folder that are needed to read its lists."""

    def entries(self) -> Iterator[str]:
        """Names of its files and folders."""

    def open(self, name: str) -> BinaryIO:
        """Open a file of the folder for reading."""


def read_lists(dataset: str, folder: ListFolder, files: frozenset[str], delimiter: str | None) -> DatasetSource:
    """Read the class names, and find the splits of a folder with lists."""
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
    return names_by_id(names, LABEL_FILE, findings)


def _take_class_name(
    number: int, line: str | BadBytes, names: dict[int, str], ids_of: dict[str, int]
) -> Finding | None:
    """Add a line's class to ``names`` (by id) and ``ids_of`` (by name), or return what is wrong with the line."""
    if isinstance(line, BadBytes):
        return Finding(FindingCode.BAD_LINE, LABEL_FILE, number, detail=line.what)
    text, name = [*re.split(r"[ \t]+", line.strip(), maxsplit=1), ""][:2]
    if not is_integer(text) or (label := to_int(text)) < 0:
        what = f"{text[:60]!r} is no class id from 0 on"
        return Finding(FindingCode.LABEL_NOT_INTEGER, LABEL_FILE, number, detail=what)
    if not name:
        return Finding(FindingCode.BAD_LINE, LABEL_FILE, number, detail=f"class {text[:60]} has no name")
    if label > MAX_CLASS_ID:
        what = f"{text[:60]} is larger than {MAX_CLASS_ID}"
        return Finding(FindingCode.LABEL_OUT_OF_RANGE, LABEL_FILE, number, class_name=name, detail=what)
    if label in names:
        what = f"{label} is {names[label]!r} and {name!r}"
        return Finding(FindingCode.DUPLICATE_CLASS_ID, LABEL_FILE, number, class_name=name, detail=what)
    names[label] = name
    if ids_of.setdefault(name, label) != label:
        what = f"{name!r} is {ids_of[name]} and {label}"
        return Finding(FindingCode.DUPLICATE_CLASS_NAME, LABEL_FILE, number, class_name=name, detail=what)
    return None


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
    known = f"label.txt has {num_classes} classes, 0 to {len(names) - 1}" if names else f"ids are 0 to {MAX_CLASS_ID}"

    def is_known(label: int) -> bool:
        return 0 <= label < len(names) and names[label] is not None if names else 0 <= label <= MAX_CLASS_ID

    try:
        for number, line in _lines(folder.open(name)):
            if isinstance(line, BadBytes):
                report(Finding(FindingCode.BAD_LINE, name, number, split, detail=line.what))
                continue
            path, label, fault = _parse_line(line, delimiter)
            if fault is not None:
                report(Finding(fault, name, number, split, path=path, detail=repr(line[:200])))
            elif not is_known(to_int(label)):
                what = f"{label[:60]}: {known}"
                report(Finding(FindingCode.LABEL_OUT_OF_RANGE, name, number, split, path=path, detail=what))
            else:
                yield Entry(split, name, number, path, image_uri(dataset, path), to_int(label))
    except (StorageError, OSError) as error:
        report(Finding(FindingCode.UNREADABLE_LIST, name, split=split, detail=str(error)))


def _parse_line(line: str, delimiter: str | None) -> tuple[str, str, FindingCode | None]:
    """Path and class id of a line, as far as they can be separated, and the fault of the line."""
    line = line.rstrip(" \t")
    if delimiter is None:
        # Not whatever Unicode takes for a blank: to other tools that is part of a name.
        cut = max(line.rfind(" "), line.rfind("\t")) + 1
        path, label = line[:cut].rstrip(" \t"), line[cut:]
    else:
        path, _, label = line.rpartition(delimiter)
        path, label = path.rstrip(" \t"), label.strip(" \t")
    if path and is_integer(label):
        return path, label, None
    if delimiter is None and _OTHER_DELIMITER.search(line):
        return path, label, FindingCode.UNKNOWN_DELIMITER
    return path, label, FindingCode.LABEL_NOT_INTEGER if path and label else FindingCode.BAD_LINE


def write_entry(dataset: str, entry: Entry, delimiter: str | None) -> str | None:
    """Line of a list for this image and class id; ``None`` if no line would be read as them."""
    line = f"{entry.path}{delimiter or ' '}{entry.label}\n"
    parsed = [_parse_line(text, delimiter) for text in _read_back(line)]
    if parsed != [(entry.path, str(entry.label), None)]:
        return None
    # A name of a class folder that is not UTF-8 is another name as text.
    return line if entry.file or image_uri(dataset, entry.path) == entry.uri else None


def label_file(class_names: Sequence[str]) -> bytes:
    """``label.txt`` of a model, for people and other programs; names are written as they are."""
    lines = (_class_line(label, name) for label, name in enumerate(class_names))
    return "".join(lines).encode(errors="backslashreplace")


def _class_line(label: int, name: str) -> str:
    return f"{label} {name}\n"


def write_class_name(label: int, name: str) -> str | None:
    """Line of ``label.txt`` for this class; ``None`` if no line would be read as it."""
    line = _class_line(label, name)
    names: dict[int, str] = {}
    faults = [_take_class_name(1, text, names, {}) for text in _read_back(line)]
    return line if (faults, names) == ([None], {label: name}) else None


def _read_back(line: str) -> list[str]:
    """What a reader finds in a file whose first line is this one."""
    try:
        return [text for _, text in _lines(io.BytesIO(line.encode())) if isinstance(text, str)]
    except UnicodeEncodeError:
        return []


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
