"""Files of class names: ``label.txt``, read and written, and the ``labels.txt`` of PaddleX 2."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING

from imgcls_ray.datasets.findings import Finding, FindingCode
from imgcls_ray.datasets.labelled import MAX_CLASS_ID, is_integer, names_by_id, to_int
from imgcls_ray.datasets.list_lines import BadBytes, UnreadableError, list_lines, read_back
from imgcls_ray.errors import StorageError
from imgcls_ray.models.class_names import are_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import BinaryIO

LABEL_FILE = "label.txt"
# A file of images that was called label.txt must not fill the memory with what is wrong with its lines.
_MAX_LABEL_FAULTS = 10_000
_ID_COMMA_NAME = re.compile(r"([0-9]+)[ \t]*,[ \t]*(\S.*)")
_ID_AND_NAME = re.compile(r"([0-9]+)[ \t]+\S.*")
# What other programs write, and what is read as neither ids nor names.
_ID_MARK_NAME = re.compile(r"[0-9]+[ \t]*[:;=|][ \t]*\S.*")
_NAME_AND_ID = re.compile(r"(\S.*?)[ \t,;:=|]+([0-9]{1,9})")
_YAML = re.compile(r"(names|nc)[ \t]*:.*")


def read_class_names(opened: Callable[[], BinaryIO], file: str, findings: list[Finding]) -> list[str | None]:
    """Class names by id, of a file called ``file``; what is wrong with it is added to ``findings``."""
    names: dict[int, str] = {}
    ids_of: dict[str, int] = {}
    try:
        lines = list_lines(opened(), file)
        for number, line in lines if file.lower() == LABEL_FILE else _with_ids(lines):
            if len(findings) == _MAX_LABEL_FAULTS:
                what = f"{_MAX_LABEL_FAULTS:,} of its lines are wrong; from line {number} on it was not read"
                findings.append(Finding(FindingCode.UNREADABLE_LABELS, file, number, detail=what))
                break
            if finding := _take_class_name(file, number, line, names, ids_of):
                findings.append(finding)
    except (StorageError, OSError, UnreadableError) as error:
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
        UnreadableError: they are written in a way that is neither.
    """
    found = [
        (number, text.strip() if isinstance(text, str) else text)
        for (number, text), _ in zip(lines, range(MAX_CLASS_ID + 1), strict=False)
    ]
    texts = [text for _, text in found if isinstance(text, str)]
    with_id = [match for text in texts if (match := _ID_COMMA_NAME.fullmatch(text) or _ID_AND_NAME.fullmatch(text))]
    have_ids = len(with_id) == len(found) or are_ids([to_int(match[1]) for match in with_id], len(found))
    if not have_ids and (other := _other_form(texts)) is not None:
        raise UnreadableError(f"it has lines like {other[:60]!r}; write `id name`, or a name alone, in each line")
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
    faults = [_take_class_name(LABEL_FILE, 1, text, names, {}) for text in read_back(line)]
    return line if (faults, names) == ([None], {label: name}) else None
