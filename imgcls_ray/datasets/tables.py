"""Datasets of one table: CSV or Parquet with the columns ``uri``, ``label`` and maybe ``split``."""

from __future__ import annotations

import csv
import io
import math
import posixpath
import re
from typing import TYPE_CHECKING, TypeAlias

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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from imgcls_ray.storage.s3 import S3Options


_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]*")
_Row: TypeAlias = "Mapping[str | None, str | bytes | int | float | Sequence[str] | None]"
"""What a table has in a row: of a CSV, texts, and under ``None`` those beyond its columns."""


def read_table(dataset: str, s3: S3Options) -> DatasetSource:
    """Read the labels and splits of a table. Every row is read here once, and once more with the entries."""
    folder, name = posixpath.split(dataset)
    name = name_text(name)
    labels: set[str] = set()
    words: dict[str, str] = {}
    for number, row in _table_rows(dataset, s3):
        if _fault_of_row(row) is None:
            labels.add(str(row["label"]))
            word = str(row.get("split") or "train").strip().casefold()
            if (other := words.setdefault(_split_of(row), word)) != word:
                raise InputError(
                    f"{name}:{number}: the column split has {word!r} here and {other!r} before, and both mean "
                    f"{_split_of(row)}; use one word for it"
                )
        if len(labels) > MAX_CLASS_ID:
            raise InputError(f"{dataset}: has more than {MAX_CLASS_ID:,} different labels; is it the right column?")
    ids, names, findings = _classes_of_table(labels, name)

    def read(report: Callable[[Finding], None]) -> Iterator[Entry]:
        separators = Separators(folder or ".", s3, report)
        for number, row in _table_rows(dataset, s3):
            split, uri = _split_of(row), str(row.get("uri") or "")
            if what := _fault_of_row(row):
                report(Finding(FindingCode.BAD_LINE, name, number, split, path=uri, detail=what))
            elif (label := ids.get(text := str(row["label"]))) is None:
                what = f"{text} is no class id from 0 on"
                report(Finding(FindingCode.LABEL_OUT_OF_RANGE, name, number, split, path=uri, detail=what))
            else:
                uri = separators.read(uri, file=name, line=number, split=split)
                yield Entry(split, name, number, uri, image_uri(folder or ".", uri), label)

    present = [split for split in SPLITS if split in words]
    return DatasetSource(dataset, None, names, present, read, findings)


def _classes_of_table(labels: set[str], file: str) -> tuple[dict[str, int], list[str | None], list[Finding]]:
    """Class ids by label, and names by id: labels are ids where all of them are whole numbers, else names.

    ``007`` and ``07`` are names, and two of them: no label becomes another one.
    """
    findings: list[Finding] = []
    if all(_WHOLE_NUMBER.fullmatch(label) and to_int(label) <= MAX_CLASS_ID for label in labels):
        ids = {label: to_int(label) for label in labels if to_int(label) >= 0}
        return ids, names_by_id({label: str(label) for label in ids.values()}, file, findings) if ids else [], findings
    names = sorted(labels)
    return {label: place for place, label in enumerate(names)}, list(names), findings


def _split_of(row: _Row) -> str:
    text = str(row.get("split") or "train")
    return split_called(text) or text


def _fault_of_row(row: _Row) -> str | None:
    """The fault of a row that is no image with a class in a split."""
    label = row["label"]
    # With more in a line of a CSV than it has columns, the others are not where they seem to be.
    if not isinstance(row["uri"], str) or not row["uri"] or label is None or label in ("", b"") or None in row:
        return repr(row)[:200]
    if isinstance(label, float) and math.isnan(label):  # pandas' missing number
        return repr(row)[:200]
    if (split := _split_of(row)) not in SPLITS:
        return f"the split {split[:60]!r} is none of train, val and test"
    return None


def _table_rows(dataset: str, s3: S3Options) -> Iterator[tuple[int, _Row]]:
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
