"""Datasets of lists, as PaddleX has them: ``train.txt``, ``val.txt``, ``test.txt``, ``label.txt``; read and written.

Those of PaddleX 2 and PaddleClas are read too: ``train_list.txt`` and so on, with ``labels.txt``, a name a line.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from imgcls_ray.datasets.backslashes import Separators
from imgcls_ray.datasets.check_result import SPLITS
from imgcls_ray.datasets.class_name_files import LABEL_FILE, read_class_names
from imgcls_ray.datasets.findings import Finding, FindingCode
from imgcls_ray.datasets.labelled import MAX_CLASS_ID, DatasetSource, Entry, image_uri, is_integer, to_int
from imgcls_ray.datasets.list_lines import BadBytes, UnreadableError, list_lines, read_back
from imgcls_ray.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imgcls_ray.storage.options import StorageOptions

LISTS = tuple(f"{split}.txt" for split in SPLITS)
_EARLIER_LISTS = tuple(f"{split}_list.txt" for split in SPLITS)
_EARLIER_LABEL_FILES = ("labels.txt", "label_list.txt")
LIST_NAMES = frozenset({LABEL_FILE, *LISTS, *_EARLIER_LISTS, *_EARLIER_LABEL_FILES})
# With the blanks and the commas of Chinese keyboards.
_OTHER_DELIMITER = re.compile(r"[,;|:=\u00a0\u3000\uff0c\uff1b\uff1a]\s*[+-]?[0-9]+$")


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
    dataset: str,
    folder: ListFolder,
    files: frozenset[str],
    names: ListNames,
    delimiter: str | None,
    storage: StorageOptions,
) -> DatasetSource:
    """Read the class names, and find the splits of a folder with lists."""
    findings: list[Finding] = []
    lists = {split: name for split, name in names.lists.items() if name in files}
    class_names = read_class_names(lambda: folder.open(names.label_file), names.label_file, findings)
    findings += [
        Finding(FindingCode.UNREADABLE_LIST, names.lists[needed], split=needed, detail="there is none")
        for needed in ("train", "val")
        if needed not in lists
    ]

    def read(report: Callable[[Finding], None]) -> Iterator[Entry]:
        reader = _ListReader(dataset, folder, names.label_file, class_names, delimiter, storage, report)
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


class _ListReader:
    """Reads the lists of one dataset."""

    def __init__(
        self,
        dataset: str,
        folder: ListFolder,
        label_file: str,
        names: list[str | None],
        delimiter: str | None,
        storage: StorageOptions,
        report: Callable[[Finding], None],
    ) -> None:
        self._dataset, self._folder, self._names, self._delimiter = dataset, folder, names, delimiter
        self._report = report
        self._separators = Separators(dataset, storage, report)
        self._spelled: dict[int, str] = {}
        num_classes = sum(known is not None for known in names)
        self._known = f"ids are 0 to {MAX_CLASS_ID}"
        if names:
            self._known = f"{label_file} has {num_classes} classes, 0 to {len(names) - 1}"

    def read(self, split: str, name: str) -> Iterator[Entry]:
        try:
            for number, line in list_lines(self._folder.open(name), name):
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
        except (StorageError, OSError, UnreadableError) as error:
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
    parsed = [_parse_line(text, delimiter) for text in read_back(line)]
    if parsed != [(entry.path, str(entry.label), None)]:
        return None
    # A name of a class folder that is not UTF-8 is another name as text.
    return line if entry.file or image_uri(dataset, entry.path) == entry.uri else None
