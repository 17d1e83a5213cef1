"""Datasets of one table: CSV or Parquet with the columns ``uri``, ``label`` and maybe ``split``."""

from __future__ import annotations

import csv
import io
import itertools
import math
import posixpath
import re
from typing import IO, TYPE_CHECKING, NamedTuple

from imgcls_ray.datasets.backslashes import Separators
from imgcls_ray.datasets.check_result import SPLITS
from imgcls_ray.datasets.findings import Finding, FindingCode
from imgcls_ray.datasets.labelled import (
    MAX_CLASS_ID,
    DatasetSource,
    Entry,
    image_uri,
    name_text,
    names_by_id,
    to_int,
)
from imgcls_ray.datasets.split_names import split_called
from imgcls_ray.errors import InputError
from imgcls_ray.storage import open_file
from imgcls_ray.storage.encodings import HEAD_BYTES, other_encoding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from imgcls_ray.storage.options import StorageOptions

_NEEDED = ("uri", "label")
_COLUMNS = (*_NEEDED, "split")
_DELIMITERS = ",;\t"
_NEEDS = "uri, label and maybe split"
_NUM_SHOWN = 10
_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]*")
# What pandas makes of whole numbers in a column with gaps.
_WHOLE_FLOAT = re.compile(r"(0|-?[1-9][0-9]*)\.0")


class _Row(NamedTuple):
    """A row of a table as texts; empty where it has none."""

    number: int
    """Of the row, from 1; of a CSV, of the line that it ends in."""
    uri: str
    label: str
    split: str
    """The split that is meant, or a word that means none."""
    word: str
    """The split as it is written."""
    fault: str | None
    """Why it is no image with a class in a split."""


def read_table(dataset: str, storage: StorageOptions) -> DatasetSource:
    """Read the labels and splits of a table. Every row is read here once, and once more with the entries."""
    folder, name = posixpath.split(dataset)
    name = name_text(name)
    labels: set[str] = set()
    words: dict[str, str] = {}
    for row in _table_rows(dataset, storage):
        if row.fault is None:
            labels.add(row.label)
            if (other := words.setdefault(row.split, row.word)) != row.word:
                raise InputError(
                    f"{name}:{row.number}: the column split has {row.word!r} here and {other!r} before, and both mean "
                    f"{row.split}; use one word for it"
                )
        if len(labels) > MAX_CLASS_ID:
            raise InputError(f"{dataset}: has more than {MAX_CLASS_ID:,} different labels; is it the right column?")
    ids, names, findings = classes_of_labels(labels, name)

    def read(report: Callable[[Finding], None]) -> Iterator[Entry]:
        separators = Separators(folder or ".", storage, report)
        for row in _table_rows(dataset, storage):
            if row.fault is not None:
                report(Finding(FindingCode.BAD_LINE, name, row.number, row.split, path=row.uri, detail=row.fault))
            elif (label := ids.get(row.label)) is None:
                what, code = f"{row.label} is no class id from 0 on", FindingCode.LABEL_OUT_OF_RANGE
                report(Finding(code, name, row.number, row.split, path=row.uri, detail=what))
            else:
                uri = separators.read(row.uri, file=name, line=row.number, split=row.split)
                yield Entry(row.split, name, row.number, uri, image_uri(folder or ".", uri), label)

    present = [split for split in SPLITS if split in words]
    return DatasetSource(dataset, None, names, present, read, findings)


def classes_of_labels(labels: set[str], file: str) -> tuple[dict[str, int], list[str | None], list[Finding]]:
    """Class ids by label, and names by id: labels are ids where all of them are whole numbers, else names.

    ``007`` and ``07`` are names, and two of them: no label becomes another one. Nor does ``1.0`` beside ``1``.
    """
    findings: list[Finding] = []
    are_whole = any(all(map(number.fullmatch, labels)) for number in (_WHOLE_NUMBER, _WHOLE_FLOAT))
    numbers = {label: to_int(label.removesuffix(".0")) for label in labels} if are_whole else {}
    if are_whole and all(number <= MAX_CLASS_ID for number in numbers.values()):
        ids = {label: number for label, number in numbers.items() if number >= 0}
        return ids, names_by_id({label: str(label) for label in ids.values()}, file, findings) if ids else [], findings
    names = sorted(labels)
    return {label: place for place, label in enumerate(names)}, list(names), findings


def _table_rows(dataset: str, storage: StorageOptions) -> Iterator[_Row]:
    import pyarrow as pa

    try:
        with open_file(dataset, storage) as file:
            yield from (_parquet_rows if dataset.lower().endswith(".parquet") else _csv_rows)(dataset, file)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise InputError(f"{dataset}: cannot be read as a table: {error}") from error


class CsvTable(NamedTuple):
    """A CSV file whose columns are known."""

    delimiter: str
    names: list[str]
    """Of the columns, as they are written."""
    rows: Iterator[tuple[int, list[str]]]
    """Cells of each row, with the number of the line that it ends in."""


def open_csv(dataset: str, file: IO[bytes]) -> CsvTable:
    """Read the first line of a table in CSV.

    Raises:
        InputError: it has none, or it is in another encoding than UTF-8.
    """
    if (what := other_encoding(dataset, file.read(HEAD_BYTES))) is not None:
        raise InputError(f"{dataset}: {what}")
    file.seek(0)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    lines = itertools.dropwhile(lambda line: not line[1].strip(), enumerate(text, 1))
    if (first := next(lines, None)) is None:
        raise InputError(f"{dataset}: is empty; the first line of a table names its columns: {_NEEDS}")
    skipped, head = first[0] - 1, first[1]
    heads = {mark: next(csv.reader([head], delimiter=mark), []) for mark in _DELIMITERS}
    has_needed = (mark for mark, names in heads.items() if all(_named(column, names) for column in _NEEDED))
    delimiter = next(has_needed, _DELIMITERS[0])
    # Whoever writes "uri, label" writes "a.jpg, cat".
    has_blanks = f"{delimiter} " in head
    rest = (line for _, line in lines)
    reader = csv.reader(itertools.chain([head], rest), delimiter=delimiter, skipinitialspace=has_blanks, strict=True)
    names = next(reader)
    return CsvTable(delimiter, names, ((reader.line_num + skipped, cells) for cells in reader if cells))


def _csv_rows(dataset: str, file: IO[bytes]) -> Iterator[_Row]:
    _, names, rows = open_csv(dataset, file)
    places = find_columns(dataset, names)
    for number, cells in rows:
        values = [cells[places[name]] if name in places and places[name] < len(cells) else "" for name in _COLUMNS]
        # With more in a line than there are columns, the others are not where they seem to be.
        too_many = None
        if any(cells[len(names) :]):
            too_many = f"it has {len(cells)} values for {len(names)} columns ({_shown(names)})"
        yield _row(number, values, too_many)


def _parquet_rows(dataset: str, file: IO[bytes]) -> Iterator[_Row]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    schema = table.schema_arrow
    places = find_columns(dataset, schema.names)
    for name, place in places.items():
        _need_type(dataset, name, schema.field(place))
    numbers = itertools.count(1)
    for batch in table.iter_batches(columns=[schema.names[place] for place in places.values()]):
        columns = {name: batch.column(schema.names[place]).to_pylist() for name, place in places.items()}
        absent = [None] * batch.num_rows
        for values in zip(*(columns.get(name, absent) for name in _COLUMNS), strict=True):
            number = next(numbers)
            try:
                texts = [_text_of(value) for value in values]
            except UnicodeDecodeError as error:
                raise InputError(f"{dataset}: row {number}: {error.object[:60]!r} is not UTF-8") from error
            yield _row(number, texts)


def _row(number: int, values: Sequence[str], fault: str | None = None) -> _Row:
    """A row of the values of ``_COLUMNS``."""
    uri, label, split = values
    word = split or "train"
    meant = split_called(word) or word
    if fault is None:
        empty = [name for name, value in zip(_NEEDED, values, strict=False) if not value]
        if empty:
            fault = f"{' and '.join(empty)} {'is' if len(empty) == 1 else 'are'} empty"
        elif meant not in SPLITS:
            fault = f"the split {meant[:60]!r} is none of train, val and test"
    return _Row(number, uri, label, meant, word.strip().casefold(), fault)


def _text_of(value: str | bytes | float | None) -> str:
    if isinstance(value, bytes):
        return value.decode()
    # NaN is pandas' missing number.
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _need_type(dataset: str, name: str, field: pa.Field) -> None:
    from pyarrow import types

    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    texts = [types.is_string, types.is_large_string, types.is_string_view, types.is_null]
    texts += [types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view]
    numbers = (types.is_integer, types.is_floating, types.is_boolean) if name == "label" else ()
    if not any(is_kind(kind) for is_kind in (*texts, *numbers)):
        what = "texts or whole numbers" if name == "label" else "texts"
        raise InputError(f"{dataset}: the column {field.name!r} is of type {field.type}; it needs {what}")


def _named(column: str, names: Sequence[str]) -> list[int]:
    """Places of the columns of this name: as it is, else in any case; blanks around it do not count."""
    stripped = [name.strip() for name in names]
    exact = [place for place, name in enumerate(stripped) if name == column]
    return exact or [place for place, name in enumerate(stripped) if name.lower() == column]


def find_columns(dataset: str, names: Sequence[str]) -> dict[str, int]:
    """Place of each column that the table has."""
    places = {name: found for name in _COLUMNS if (found := _named(name, names))}
    for name, found in places.items():
        if len(found) > 1:
            told = " and ".join(repr(names[place]) for place in found[:2])
            raise InputError(f"{dataset}: has the column {name} twice, as {told}; leave one of them")
    if missing := [name for name in _NEEDED if name not in places]:
        raise InputError(
            f"{dataset}: has no column {' and no column '.join(missing)}, it has {_shown(names)}; it needs {_NEEDS}"
        )
    return {name: place for name, [place] in places.items()}


def _shown(names: Sequence[str]) -> str:
    return ", ".join(name[:60] for name in names[:_NUM_SHOWN]) + (", …" if len(names) > _NUM_SHOWN else "")
