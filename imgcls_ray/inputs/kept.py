"""What a list says of its inputs beside where they are: columns that stay with the row of the image.

The values of a row travel as one text, a JSON object by the names of the columns, with the URI as the list has it. An
input that several rows name has a JSON list of such objects, in the order of the list.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.errors import InputError
from imgcls_ray.inputs.list_rows import need_column
from imgcls_ray.inputs.tables import FILE_SCHEMA, only_array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    Json = Any

Boxes: TypeAlias = Literal["pixels", "shares", "coco", "none"]
"""How a list's columns of boxes are read; ``none``: not as boxes."""

logger = logging.getLogger(__name__)

ID_COLUMN = "input_id"
"""The column of a list that tells its rows apart, if it has one: no two rows have the same value."""
MAX_COLUMNS = 256
_MAX_ROW_CHARS = 2**20
_MAX_ROWS_OF_ONE = 10_000
# Fewer may all be wrong by accident.
_BOXES_TOLD = 16
_MAX_BYTES_OF_ONE = 64 * 2**20
# What a list says for reading the image.
_READ = frozenset({"size", "etag", "mtime"})
_NEEDS_ESCAPE = r'["\\\x00-\x1f]'
_TEXT, _NUMBERS = "string", ("int64", "uint64", "float", "double")


class Kept:
    """Which columns of lists are taken beside the images, and what was found in them.

    Args:
        wanted: the columns that are kept; ``None``: all that can be kept.
        boxes: how the columns of boxes are read.
        min_conf: of a box in MegaDetector's output; others are left out.
        tell: is told, once for each reason, what cannot be.
    """

    def __init__(
        self,
        wanted: tuple[str, ...] | None = None,
        tell: Callable[[str], None] = logger.warning,
        *,
        boxes: Boxes = "none",
        min_conf: float = 0.0,
    ) -> None:
        self.wanted, self._tell, self.boxes, self.min_conf = wanted, tell, boxes, min_conf
        self.types: dict[str, str] = {}
        """Types of the columns in the order in which they were found: those of Arrow, by name."""
        self._told: set[str] = set()
        self._keys: set[str] = set()
        self._num_boxes = self._num_with_area = 0

    def columns_of(self, where: str, names: Sequence[str], uri_column: str) -> list[str]:
        """Which columns of a table to keep, the URI's among them; none if that would be the only one.

        Raises:
            InputError: one that was asked for is not there, or twice.
        """
        if self.wanted is not None:
            for name in self.wanted:
                need_column(where, name, names)
            return self._with_uri(uri_column, names)
        if unclear := sorted({name for name in names if name != uri_column and (not name or names.count(name) > 1)}):
            told = ", ".join(map(repr, unclear))[:200]
            self.tell("unclear", f"{where}: columns without a name, or with the name of another, are not kept: {told}")
        return self._with_uri(uri_column, [name for name in names if name not in unclear])

    def values_of(self, where: str, row: Mapping[str, Json], uri_column: str) -> dict[str, Json]:
        """The values of a JSON object to keep, likewise; their types are noted."""
        names = self.few(where, self._with_uri(uri_column, list(row)))
        values = {name: row.get(name) for name in names}
        if len(self._keys) < len(self.wanted or ()):
            self._keys.update(name for name in self.wanted or () if name in row)
        for name, value in values.items():
            kind = _type_of(value)
            if name not in self.types or kind not in (None, self.types[name]):
                self.note(name, kind or "null")
        return values

    def tell_missing(self, path: str) -> None:
        """All objects of a JSON list have been read: an object may lack a key, but all of them hardly do."""
        if missing := [name for name in self.wanted or () if name not in self._keys]:
            self.tell("missing", f"{path}: no object has the key {missing[0]!r} of --keep-columns")

    def count_box(self, *, has_area: bool) -> None:
        """A box has been read."""
        self._num_boxes += 1
        self._num_with_area += has_area

    def check_boxes(self, where: str) -> None:
        """A list has been read: a wrong box costs its row, but columns without a single box are no boxes.

        Raises:
            InputError: with the way out.
        """
        num_boxes, num_with_area = self._num_boxes, self._num_with_area
        self._num_boxes = self._num_with_area = 0
        if num_boxes >= _BOXES_TOLD and not num_with_area:
            raise InputError(
                f"{where}: none of its {num_boxes:,} boxes has an area (x2 > x1 and y2 > y1); if these columns are "
                "something else, --boxes none takes whole images"
            )

    def _with_uri(self, uri_column: str, names: Sequence[str]) -> list[str]:
        if self.wanted is None:
            others = [name for name in names if name not in _READ and name != uri_column]
        else:
            others = [name for name in self.wanted if name != uri_column]
            if others and ID_COLUMN in names and ID_COLUMN not in (*others, uri_column):
                others.append(ID_COLUMN)
        return [uri_column, *others] if others else []

    def few(self, where: str, columns: list[str]) -> list[str]:
        """The columns, or none if there are too many to be kept without being asked for."""
        if self.wanted is not None or len(columns) <= MAX_COLUMNS:
            return columns
        self.tell(
            "many",
            f"{where}: has {len(columns) - 1:,} columns beside the images, and none of them is kept: more than "
            f"{MAX_COLUMNS} are too many; --keep-columns names some",
        )
        return []

    def tell(self, reason: str, what: str) -> None:
        """Tell once why something is not kept."""
        if reason not in self._told:
            self._told.add(reason)
            self._tell(what)

    def note(self, name: str, kind: str) -> None:
        """A column has values of a type."""
        self.types[name] = common_type(self.types.get(name), kind)


def common_type(first: str | None, second: str) -> str:
    """The type of a column with values of two."""
    if first in (None, "null") or first == second:
        return second
    if second == "null":
        return first or second
    return "double" if first in _NUMBERS and second in _NUMBERS else _TEXT


def _type_of(value: Json) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -(2**63) <= value < 2**63 else _TEXT
    return "double" if isinstance(value, float) else _TEXT


def text_of(where: str, values: Mapping[str, Json]) -> str:
    """The values of a row.

    Raises:
        InputError: they are longer than can be kept.
    """
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can name halves of characters
        text = json.dumps(values, separators=(",", ":"))
    if len(text) > _MAX_ROW_CHARS:
        raise _too_long(where, values)
    return text


def _too_long(where: str, values: Mapping[str, Json]) -> InputError:
    longest = max(values, key=lambda name: len(str(values[name])))
    return InputError(
        f"{where}: its columns are longer than {_MAX_ROW_CHARS:,} characters together, most of it is {longest!r}; name "
        "the columns to keep with --keep-columns, or none with an empty text"
    )


def kept_type(kind: pa.DataType) -> str | None:
    """The type in which a column of Parquet is kept; ``None`` for one that cannot be."""
    if pa.types.is_dictionary(kind):
        return kept_type(kind.value_type)
    if pa.types.is_null(kind) or pa.types.is_boolean(kind):
        return str(kind)
    if pa.types.is_integer(kind):
        return "uint64" if pa.types.is_uint64(kind) else "int64"
    if pa.types.is_floating(kind):
        return "double" if pa.types.is_float64(kind) else "float"
    if pa.types.is_timestamp(kind):
        return "timestamp[us, tz=UTC]" if kind.tz else "timestamp[us]"
    is_plain = pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_decimal(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return _TEXT if is_plain or is_text else None


def texts_of(columns: Mapping[str, pa.Array], path: str, numbers: npt.NDArray[np.int64]) -> pa.Array:
    """The values of rows of Parquet, without an object for each.

    Args:
        columns: of types that can be kept.
        path: of the file.
        numbers: of the rows in it.

    Raises:
        InputError: a row is longer than can be kept.
    """
    parts: list[Any] = []
    for name, column in columns.items():
        parts += [("," if parts else "{") + json.dumps(name, ensure_ascii=False) + ":", _as_json(column)]
    texts = pc.binary_join_element_wise(*parts, "}", "")
    lengths = pc.utf8_length(texts).to_numpy(zero_copy_only=False)
    if len(lengths) and lengths.max() > _MAX_ROW_CHARS:
        row = int(np.argmax(lengths > _MAX_ROW_CHARS))
        raise _too_long(
            f"{path}, row {numbers[row]:,}", {name: column[row].as_py() for name, column in columns.items()}
        )
    return texts


def _as_json(column: pa.Array) -> pa.Array:
    while pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_floating(kind):
        finite, texts = pc.is_finite(column), column.cast(pa.string())
        if pc.all(finite).as_py() is False:
            names = pc.case_when(
                pc.make_struct(pc.is_nan(column), pc.greater(column, 0)), "NaN", "Infinity", "-Infinity"
            )
            texts = pc.if_else(finite, texts, names)
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        texts = column.cast(pa.string())
    else:
        if pa.types.is_timestamp(kind):
            column = column.cast(pa.timestamp("us", "UTC" if kind.tz else None), safe=False).cast(pa.timestamp("us"))
        texts = _quoted(column.cast(pa.string()))
    return pc.fill_null(texts, "null")


def _quoted(column: pa.Array) -> pa.Array:
    column.validate(full=True)
    needs = pc.fill_null(pc.match_substring_regex(column, _NEEDS_ESCAPE), False)
    quoted = pc.binary_join_element_wise('"', column, '"', "")
    if not needs.true_count:
        return quoted
    escaped = pa.array([json.dumps(text, ensure_ascii=False) for text in column.filter(needs).to_pylist()], pa.string())
    return pc.replace_with_mask(quoted, needs, escaped)


def with_texts(table: pa.Table, texts: pa.Array) -> pa.Table:
    """Files with the values of their rows; there may be more of these, behind an error."""
    number = FILE_SCHEMA.get_field_index("values")
    return table.set_column(number, FILE_SCHEMA.field(number), texts.slice(0, table.num_rows))


def together(tables: Iterable[pa.Table], tell: Callable[[int], None]) -> Iterator[pa.Table]:
    """Of rows sorted by URI the first one of each, with the values of all of them.

    Args:
        tables: not empty.
        tell: gets the numbers of rows that are left out and had no values.

    Raises:
        InputError: too many rows name one input.
    """
    held: pa.Table | None = None
    for table in tables:
        if held is not None:
            table, held = pa.concat_tables([held, table]), None
        uris = only_array(table.column("uri"))
        # The last input may go on in the next table.
        start = _first_of_last(uris)
        if not _has_no_values(table):
            _check_one(table.slice(start))
        held = _together(table.slice(start), tell) if _has_no_values(table) else table.slice(start)
        if start:
            yield _together(table.slice(0, start), tell)
    if held is not None:
        yield _together(held, tell)


def _check_one(rows: pa.Table) -> None:
    """Refuse more values of one input than can be kept: all of them are in memory together.

    Raises:
        InputError: with the way out.
    """
    many = f"{_MAX_ROWS_OF_ONE:,} rows" if rows.num_rows > _MAX_ROWS_OF_ONE else ""
    if not many and rows.column("values").nbytes > _MAX_BYTES_OF_ONE:
        many = f"{_MAX_BYTES_OF_ONE // 2**20} MiB of other columns"
    if many:
        raise InputError(
            f"{rows.column('uri')[0].as_py()}: has more than {many} in the list; --keep-columns names the columns to "
            "keep, and with an empty text keeps none and takes the image once"
        )


def _has_no_values(table: pa.Table) -> bool:
    return bool(table.column("values").null_count == table.num_rows)


def _first_of_last(uris: pa.Array) -> int:
    last, start = uris[-1], len(uris) - 1
    while start and uris[start - 1] == last:
        start -= 1
    return start


def _together(table: pa.Table, tell: Callable[[int], None]) -> pa.Table:
    uris = only_array(table.column("uri"))
    is_first = np.append(True, pc.not_equal(uris[1:], uris[:-1]).to_numpy(zero_copy_only=False))
    firsts = np.flatnonzero(is_first)
    if len(firsts) == table.num_rows:
        return table
    if _has_no_values(table):
        tell(table.num_rows - len(firsts))
        return table.take(pa.array(firsts))
    values, ends = table.column("values").to_pylist(), np.append(firsts[1:], table.num_rows)
    merged, num_left_out = [], 0
    for start, end in zip(firsts.tolist(), ends.tolist(), strict=True):
        if end - start > 1:
            _check_one(table.slice(start, end - start))
        # Of several lists, one may have named it several times.
        of_it = [text.removeprefix("[").removesuffix("]") for text in values[start:end] if text is not None]
        merged.append(f"[{','.join(of_it)}]" if len(of_it) > 1 else of_it[0] if of_it else None)
        num_left_out += end - start - max(len(of_it), 1)
    tell(num_left_out)
    return with_texts(table.take(pa.array(firsts)), pa.array(merged, pa.string()))
