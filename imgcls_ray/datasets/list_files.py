"""Datasets of lists, as PaddleX has them: ``train.txt``, ``val.txt``, ``test.txt``, ``label.txt``; read and written.

Those of PaddleX 2 and PaddleClas are read too: ``train_list.txt`` and so on, with ``labels.txt``, a name a line.
"""

from __future__ import annotations

import csv
import io
import re
from contextlib import closing
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from imgcls_ray.datasets.backslashes import Separators
from imgcls_ray.datasets.check_result import SPLITS
from imgcls_ray.datasets.findings import Finding, FindingCode
from imgcls_ray.datasets.labelled import MAX_CLASS_ID, DatasetSource, Entry, image_uri, is_integer, names_by_id, to_int
from imgcls_ray.errors import StorageError
from imgcls_ray.models.class_names import are_ids
from imgcls_ray.storage.encodings import HEAD_BYTES, other_encoding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from imgcls_ray.storage.s3 import S3Options

LABEL_FILE = "label.txt"
LISTS = tuple(f"{split}.txt" for split in SPLITS)
_EARLIER_LISTS = tuple(f"{split}_list.txt" for split in SPLITS)
_EARLIER_LABEL_FILES = ("labels.txt", "label_list.txt")
LIST_NAMES = frozenset({LABEL_FILE, *LISTS, *_EARLIER_LISTS, *_EARLIER_LABEL_FILES})
_MAX_LINE_BYTES = 64 * 2**10
_BUFFER_BYTES = 2**20
# A file of images that was called label.txt must not fill the memory with what is wrong with its lines.
_MAX_LABEL_FAULTS = 10_000
# With the blanks and the commas of Chinese keyboards.
_OTHER_DELIMITER = re.compile(r"[,;|:=\u00a0\u3000\uff0c\uff1b\uff1a]\s*[+-]?[0-9]+$")
_ID_COMMA_NAME = re.compile(r"([0-9]+)[ \t]*,[ \t]*(\S.*)")
_ID_AND_NAME = re.compile(r"([0-9]+)[ \t]+\S.*")
# What other programs write, and what is read as neither ids nor names.
_ID_MARK_NAME = re.compile(r"[0-9]+[ \t]*[:;=|][ \t]*\S.*")
_NAME_AND_ID = re.compile(r"(\S.*?)[ \t,;:=|]+([0-9]{1,9})")
_YAML = re.compile(r"(names|nc)[ \t]*:.*")


class ListNames(NamedTuple):
    """The lists of a dataset by their names."""

    lists: dict[str, str]
    """Name of the list of each split, whether it exists or not."""
    label_file: str


def find_lists(names: Iterable[str]) -> ListNames | None:
    """Which of these files are the dataset's lists, in any case (``Train.txt``); None if it has none.

    ``train.txt`` and so on go before PaddleX 2's names, and those are lists only beside a file of class names.

    Raises:
        ValueError: two of the names differ only in case.
    """
    own: dict[str, str] = {}
    for name in sorted(names):
        if (other := own.setdefault(name.lower(), name)) != name:
            raise ValueError(f"has {other} and {name}, which differ only in case; remove one of them")
    labels = [own[name] for name in (LABEL_FILE, *_EARLIER_LABEL_FILES) if name in own]
    if own.keys().isdisjoint(LISTS) and labels and not own.keys().isdisjoint(_EARLIER_LISTS):
        lists = _EARLIER_LISTS
    elif own.keys() & {LABEL_FILE, *LISTS}:
        lists = LISTS
    else:
        return None
    called = {split: own.get(name, name) for split, name in zip(SPLITS, lists, strict=True)}
    return ListNames(called, labels[0] if labels else LABEL_FILE)


def lists_without_names(names: Iterable[str]) -> list[str]:
    """Those of the files that would be lists of PaddleX 2 beside a file of class names."""
    return sorted(name for name in names if name.lower() in _EARLIER_LISTS)


class ListFolder(Protocol):
    """Methods of a folder that are needed to read its lists."""

    def entries(self) -> Iterator[str]:
        """Names of its files and folders."""

    def open(self, name: str) -> BinaryIO:
        """Open a file of the folder for reading."""


def read_lists(
    dataset: str, folder: ListFolder, files: frozenset[str], names: ListNames, delimiter: str | None, s3: S3Options
) -> DatasetSource:
    """Read the class names, and find the splits of a folder with lists."""
    findings: list[Finding] = []
    lists = {split: name for split, name in names.lists.items() if name in files}
    class_names = _read_class_names(folder, names.label_file, findings)
    findings += [
        Finding(FindingCode.UNREADABLE_LIST, names.lists[needed], split=needed, detail="there is none")
        for needed in ("train", "val")
        if needed not in lists
    ]

    def read(report: Callable[[Finding], None]) -> Iterator[Entry]:
        reader = _ListReader(dataset, folder, names.label_file, class_names, delimiter, s3, report)
        for split, name in lists.items():
            yield from reader.read(split, name)

    return DatasetSource(
        dataset,
        names.label_file,
        class_names,
        list(lists),
        read,
        findings,
        files=files & {names.label_file, *names.lists.values()},
        list_files=names.lists,
    )


def _read_class_names(folder: ListFolder, file: str, findings: list[Finding]) -> list[str | None]:
    names: dict[int, str] = {}
    ids_of: dict[str, int] = {}
    try:
        lines = _lines(folder.open(file), file)
        for number, line in lines if file.lower() == LABEL_FILE else _with_ids(lines):
            if len(findings) == _MAX_LABEL_FAULTS:
                what = f"{_MAX_LABEL_FAULTS:,} of its lines are wrong; from line {number} on it was not read"
                findings.append(Finding(FindingCode.UNREADABLE_LABELS, file, number, detail=what))
                break
            if finding := _take_class_name(file, number, line, names, ids_of):
                findings.append(finding)
    except (StorageError, OSError, _UnreadableError) as error:
        what = "there is none" if isinstance(error, FileNotFoundError) else str(error)
        findings.append(Finding(FindingCode.UNREADABLE_LABELS, file, detail=what))
        return []
    if not names:
        findings.append(Finding(FindingCode.UNREADABLE_LABELS, file, detail="it names no class"))
        return []
    return names_by_id(names, file, findings)


def _with_ids(lines: Iterable[tuple[int, str | BadBytes]]) -> Iterator[tuple[int, str | BadBytes]]:
    """Lines of ``id name``, also where they are ``id,name``; of names alone, which PaddleX 2 has, counted from 0.

    Raises:
        _UnreadableError: they are written in a way that is neither.
    """
    found = [
        (number, text.strip() if isinstance(text, str) else text)
        for (number, text), _ in zip(lines, range(MAX_CLASS_ID + 1), strict=False)
    ]
    texts = [text for _, text in found if isinstance(text, str)]
    with_id = [match for text in texts if (match := _ID_COMMA_NAME.fullmatch(text) or _ID_AND_NAME.fullmatch(text))]
    have_ids = len(with_id) == len(found) or are_ids([to_int(match[1]) for match in with_id], len(found))
    if not have_ids and (other := _other_form(texts)) is not None:
        raise _UnreadableError(f"it has lines like {other[:60]!r}; write `id name`, or a name alone, in each line")
    for number, text in found:
        if not isinstance(text, str):
            yield number, text
        elif have_ids:
            yield number, _id_and_name(text)
        else:
            yield number, f"{number - 1} {text}"


def _other_form(texts: Sequence[str]) -> str | None:
    """A line which shows that these are not class names alone; None if they may be."""
    if (yaml := next(filter(_YAML.fullmatch, texts), None)) is not None:
        return yaml
    before = [text for text in texts if _ID_MARK_NAME.fullmatch(text)]
    if 2 * len(before) >= len(texts) > 0:
        return before[0]
    # "type 1", "type 2" are names: only where what is left are names themselves, each number is an id.
    behind = [match for match in map(_NAME_AND_ID.fullmatch, texts) if match]
    names, ids = {match[1] for match in behind}, {int(match[2]) for match in behind}
    if len(texts) > 1 and len(names) == len(texts) and ids in (set(range(len(texts))), set(range(1, len(texts) + 1))):
        return texts[0]
    return None


def _id_and_name(text: str) -> str:
    """``0 big cat`` of ``0,big cat`` or ``0,"big cat"``."""
    if (match := _ID_COMMA_NAME.fullmatch(text)) is None:
        return text
    cells = next(csv.reader([text], skipinitialspace=True))
    return f"{match[1]} {cells[1] if len(cells) == 2 else match[2]}"


def _take_class_name(
    file: str, number: int, line: str | BadBytes, names: dict[int, str], ids_of: dict[str, int]
) -> Finding | None:
    """Add a line's class to ``names`` (by id) and ``ids_of`` (by name), or return what is wrong with the line."""
    if isinstance(line, BadBytes):
        return Finding(FindingCode.BAD_LINE, file, number, detail=line.what)
    text, name = [*re.split(r"[ \t]+", line.strip(), maxsplit=1), ""][:2]
    if not is_integer(text) or (label := to_int(text)) < 0:
        what = f"{text[:60]!r} is no class id from 0 on"
        return Finding(FindingCode.LABEL_NOT_INTEGER, file, number, detail=what)
    if not name:
        return Finding(FindingCode.BAD_LINE, file, number, detail=f"class {text[:60]} has no name")
    if label > MAX_CLASS_ID:
        what = f"{text[:60]} is larger than {MAX_CLASS_ID}"
        return Finding(FindingCode.LABEL_OUT_OF_RANGE, file, number, class_name=name, detail=what)
    if label in names:
        what = f"{label} is {names[label]!r} and {name!r}"
        return Finding(FindingCode.DUPLICATE_CLASS_ID, file, number, class_name=name, detail=what)
    names[label] = name
    if ids_of.setdefault(name, label) != label:
        what = f"{name!r} is {ids_of[name]} and {label}"
        return Finding(FindingCode.DUPLICATE_CLASS_NAME, file, number, class_name=name, detail=what)
    return None


class _ListReader:
    """Reads the lists of one dataset."""

    def __init__(
        self,
        dataset: str,
        folder: ListFolder,
        label_file: str,
        names: list[str | None],
        delimiter: str | None,
        s3: S3Options,
        report: Callable[[Finding], None],
    ) -> None:
        self._dataset, self._folder, self._names, self._delimiter = dataset, folder, names, delimiter
        self._report = report
        self._separators = Separators(dataset, s3, report)
        self._spelled: dict[int, str] = {}
        num_classes = sum(known is not None for known in names)
        self._known = f"ids are 0 to {MAX_CLASS_ID}"
        if names:
            self._known = f"{label_file} has {num_classes} classes, 0 to {len(names) - 1}"

    def read(self, split: str, name: str) -> Iterator[Entry]:
        try:
            for number, line in _lines(self._folder.open(name), name):
                if isinstance(line, BadBytes):
                    self._report(Finding(FindingCode.BAD_LINE, name, number, split, detail=line.what))
                    continue
                path, label, fault = _parse_line(line, self._delimiter)
                what = repr(line[:200])
                if fault is None:
                    fault, what = self._fault_of_label(label)
                if fault is not None:
                    self._report(Finding(fault, name, number, split, path=path, detail=what))
                    continue
                path = self._separators.read(path, file=name, line=number, split=split)
                yield Entry(split, name, number, path, image_uri(self._dataset, path), to_int(label))
        except (StorageError, OSError, _UnreadableError) as error:
            self._report(Finding(FindingCode.UNREADABLE_LIST, name, split=split, detail=str(error)))

    def _fault_of_label(self, text: str) -> tuple[FindingCode | None, str]:
        label, names = to_int(text), self._names
        if not (0 <= label < len(names) and names[label] is not None if names else 0 <= label <= MAX_CLASS_ID):
            return FindingCode.LABEL_OUT_OF_RANGE, f"{text[:60]}: {self._known}"
        # Whoever has 007 beside 7 may mean two classes.
        text = text.lstrip("+-")
        if (other := self._spelled.setdefault(label, text)) != text:
            what = f"{text[:60]!r} here and {other[:60]!r} before are one id; write the id of a class in one way"
            return FindingCode.DUPLICATE_CLASS_ID, what
        return None, ""


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
    faults = [_take_class_name(LABEL_FILE, 1, text, names, {}) for text in _read_back(line)]
    return line if (faults, names) == ([None], {label: name}) else None


def _read_back(line: str) -> list[str]:
    """What a reader finds in a file whose first line is this one."""
    try:
        return [text for _, text in _lines(io.BytesIO(line.encode()), "") if isinstance(text, str)]
    except (UnicodeEncodeError, _UnreadableError):
        return []


class BadBytes(NamedTuple):
    """A line that is no text."""

    what: str
    """Its beginning, and what is wrong with it."""


class _UnreadableError(Exception):
    """A list that cannot be read as a whole; its text says why."""


def _lines(opened: BinaryIO, name: str) -> Iterator[tuple[int, str | BadBytes]]:
    """Lines by number from 1, blank ones left out.

    Raises:
        _UnreadableError: it is UTF-16 or UTF-32, which would be wrong in every line.
    """
    with closing(opened):
        # Without a buffer, every byte of an object would be a request.
        file = io.BufferedReader(opened, _BUFFER_BYTES) if isinstance(opened, io.RawIOBase) else opened
        if (what := other_encoding(name, file.read(HEAD_BYTES))) is not None:
            raise _UnreadableError(f"{what}, and call that {name}")
        file.seek(0)
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
