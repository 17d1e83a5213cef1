"""Class names: read from a file, told apart where two classes share one, and matched with those of another list.

Ids are unique, names need not be: ImageNet's list has "crane" twice, a bird and a machine.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter, defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from imgcls_ray.config import clipped, shown
from imgcls_ray.errors import ModelFolderError
from imgcls_ray.words import tell_apart

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

MAX_LABEL_FILE_BYTES = 16 * 2**20
"""As ``model.json``, where the names go: the 21,841 names of ImageNet take one."""
_ID = re.compile(r"0|[1-9][0-9]{0,8}")
_ID_BEFORE_NAME = re.compile(r"([0-9]{1,9})[ \t]+(\S.*)")
_ID_COMMA_NAME = re.compile(r"([0-9]{1,9})[ \t]*,[ \t]*(\S.*)")
_JSON_START = re.compile(r"\s*[\[{]\s*[\"'0-9\]}]")
_TABLES = (".csv", ".tsv")
_SEPARATORS = (",", ";", "\t")
# In this order; "label" is the name where there is no other one, and else the id.
_NAME_COLUMNS = ("name", "class_name", "class", "label")
_ID_COLUMNS = ("id", "class_id", "label_id", "index", "idx", "", "label", "class")

_Json: TypeAlias = "bool | int | float | str | list[_Json] | dict[str, _Json] | None"


class _Named(NamedTuple):
    """One class of a file."""

    class_id: str
    name: str
    where: str
    """Its place in the file, e.g. ``line 3``."""


def read_class_names(path: Path, *, num_classes: int | None = None) -> list[str]:
    """Read class names, in the order of their ids, which run from 0 without gaps.

    Args:
        path: a text with one name a line, or PaddleX's and PaddleClas' ``id name``, or ``id,name``; ``.csv`` or
            ``.tsv`` with the columns ``name`` and maybe ``id``; ``.json`` with a list, with names by id, with ids by
            name, or with such under ``id2label``, as Hugging Face's ``config.json`` has it.
        num_classes: how many there must be.

    Raises:
        ModelFolderError: unreadable, empty, an id twice or left out (with the line), or another number of names than
            ``num_classes``.
    """
    text, suffix = _read_text(path), path.suffix.lower()
    try:
        # Whatever the file is called: no list of names begins like this.
        if suffix == ".json" or _JSON_START.match(text):
            names = _names_of_json(text)
        elif suffix in _TABLES:
            names = _names_of_table(text, is_tsv=suffix == ".tsv")
        else:
            names = _names_of_lines(text)
        _check_names(names)
    except ValueError as error:
        raise ModelFolderError(clipped(f"{path}: {error}")) from error
    if num_classes is not None and len(names) != num_classes:
        raise ModelFolderError(f"{path}: names {len(names)} classes, --num-classes says {num_classes}")
    return names


@lru_cache(maxsize=16)
def names_apart(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same names in the order of their ids, each once: ``words.tell_apart``."""
    return tuple(tell_apart(dict(enumerate(names))).values())


def are_ids(numbers: Sequence[int], num_lines: int) -> bool:
    """Whether the numbers before some lines' names are ids, which the other lines then lack.

    At least half of the lines have one. A number before a name may be part of it, but ids begin with 0, or with 1 where
    somebody is mistaken.
    """
    return 2 * len(numbers) >= num_lines and min(numbers, default=2) <= 1


def match_names(names: Mapping[int, str], known: Sequence[str]) -> dict[int, int | None]:
    """Find classes in another list by their names.

    Names that several classes share match where both lists have the same ids of this name, or equally many: then in the
    order of the ids.

    Args:
        names: of the classes to find, by id.
        known: by id.

    Returns:
        The id in ``known`` by the id in ``names``; None where no class has the name, or where it cannot be told which.
    """
    places, own = _ids_by_name(enumerate(known)), _ids_by_name(sorted(names.items()))
    found: dict[int, int | None] = dict.fromkeys(sorted(names))
    for name, ids in own.items():
        there = places.get(name, [])
        if len(ids) == len(there):
            found.update(zip(ids, there, strict=True))
        else:
            found.update((label, label if label in there else None) for label in ids)
    return found


def _ids_by_name(names: Iterable[tuple[int, str]]) -> dict[str, list[int]]:
    ids = defaultdict(list)
    for label, name in names:
        ids[name].append(label)
    return ids


def _read_text(path: Path) -> str:
    try:
        if os.path.exists(path) and not path.is_file():
            raise ModelFolderError(f"{path}: is no regular file; give a text, JSON or CSV file of class names")
        if path.is_file() and path.stat().st_size > MAX_LABEL_FILE_BYTES:
            raise ModelFolderError(f"{path}: larger than {MAX_LABEL_FILE_BYTES >> 20} MiB, not a file of class names")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelFolderError(f"{path}: is not a text of class names in UTF-8") from error


def _names_of_lines(text: str) -> list[str]:
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    with_id: set[int] = set()
    for form in (_ID_BEFORE_NAME, _ID_COMMA_NAME):
        pairs = [(number, pair[1], pair[2]) for number, line in lines if (pair := form.fullmatch(line))]
        if not pairs or len(pairs) < len(lines):
            if are_ids([int(class_id) for _, class_id, _ in pairs], len(lines)):
                with_id = with_id or {number for number, _, _ in pairs}
            continue
        if form is _ID_COMMA_NAME and '"' in text:
            return _names_of_table(text)
        return _by_id(_Named(class_id, name, f"line {number}") for number, class_id, name in pairs)
    # As names alone, "0 cat" would be one, and the id of every class its line.
    if with_id and (without := next(((n, line) for n, line in lines if n not in with_id), None)) is not None:
        raise ValueError(
            f"line {without[0]}: {shown(without[1])} is no id with its name, as line {min(with_id)} is; write both in "
            "every line"
        )
    return [line for _, line in lines]


def _names_of_table(text: str, *, is_tsv: bool = False) -> list[str]:
    """Of a table with or without a head: ``id,name`` in any order, or names alone."""
    head = text.lstrip().partition("\n")[0]
    separator = "\t" if is_tsv and "\t" in text else max(_SEPARATORS, key=head.count)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=separator, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: is no row of a table: {error}") from error
    if not rows:
        return []
    id_column, name_column, has_head = _columns(rows[0][1])
    num_columns = len(rows[0][1])
    for number, row in rows:
        if len(row) != num_columns:
            raise ValueError(f"line {number}: has {len(row)} columns, the first line has {num_columns}")
    body = rows[1:] if has_head else rows
    if id_column is None:
        return [row[name_column] for _, row in body]
    return _by_id(_Named(row[id_column], row[name_column], f"line {number}") for number, row in body)


def _columns(first: list[str]) -> tuple[int | None, int, bool]:
    """The column of ids (None without), that of names, and whether the first row is a head."""
    head = [cell.lower() for cell in first]
    has_head = not any(map(_ID.fullmatch, first))
    if has_head and (name := next((column for column in _NAME_COLUMNS if column in head), None)) is not None:
        ids = next((column for column in _ID_COLUMNS if column in head and column != name), None)
        return None if ids is None else head.index(ids), head.index(name), True
    if len(first) == 1:
        return None, 0, False
    if len(first) == 2 and _ID.fullmatch(first[0]):
        return 0, 1, False
    raise ValueError(f"line 1: has the columns {', '.join(map(shown, first[:5]))}; needed are name, and maybe id")


def _names_of_json(text: str) -> list[str]:
    try:
        content: _Json = json.loads(text, object_pairs_hook=_once_each)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("id2label"), dict | list):
        content = content["id2label"]
    if isinstance(content, list):
        return [_json_name(name, f"entry {place}") for place, name in enumerate(content)]
    if isinstance(content, dict) and content and all(type(label) is int for label in content.values()):
        return _by_id(_Named(str(label), name, f"key {shown(name)}") for name, label in content.items())
    if isinstance(content, dict) and content and all(map(_ID.fullmatch, content)):
        return _by_id(
            _Named(label, _json_name(name, f"key {shown(label)}"), f"key {shown(label)}")
            for label, name in content.items()
        )
    what = f"its keys are {', '.join(map(shown, list(content)[:5]))}" if isinstance(content, dict) else "it has none"
    raise ValueError(f"has neither a list of names, nor names by id, nor an id2label with them; {what}")


def _once_each(pairs: list[tuple[str, _Json]]) -> dict[str, _Json]:
    """Python would take the last of several values of a key."""
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {shown(twice)}: stands twice")
    return content


def _json_name(name: _Json, where: str) -> str:
    # Keras' imagenet_class_index.json: ["n01440764", "tench"].
    if isinstance(name, list) and len(name) == 2:
        name = name[1]
    if not isinstance(name, str):
        raise ValueError(f"{where}: is {shown(name)}, not a name")
    return name.strip()


def _by_id(classes: Iterable[_Named]) -> list[str]:
    """Names in the order of their ids; these must run from 0, each once."""
    places: dict[int, _Named] = {}
    for one in classes:
        if not re.fullmatch(r"[0-9]{1,9}", one.class_id):
            raise ValueError(f"{one.where}: {shown(one.class_id)} is no id; ids are whole numbers from 0")
        if (before := places.setdefault(int(one.class_id), one)) is not one:
            raise ValueError(f"{one.where}: the id {one.class_id} stands in {before.where}, too; ids are unique")
    for place, label in enumerate(sorted(places)):
        if place != label:
            raise ValueError(
                f"{places[label].where}: has the id {label}, but no class has {place}; ids must run from 0 to "
                f"{len(places) - 1}, each once"
            )
    return [places[label].name for label in range(len(places))]


def _check_names(names: list[str]) -> None:
    if not names:
        raise ValueError("holds no class names")
    for label, name in enumerate(names):
        if not name or len(name.splitlines()) > 1:
            raise ValueError(
                f"class {label} has {'no name' if not name else 'a name of several lines: ' + shown(name)}"
            )
        if not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name):
            raise ValueError(f"the name of class {label} is no text: {shown(name)}")
