"""Datasets of packed images: WebDataset's tar files, and Parquet files with images, as Hugging Face exports them.

In a tar, files of one key are one sample: ``0001.jpg`` with ``0001.cls``, or with a label in ``0001.json``. In Parquet,
a column has the labels; names of classes are taken from Hugging Face's own description in the file. The split is in the
name of the file or of its folder: ``train-00000-of-00002.parquet``, ``val/000.tar``; files that say none are ``train``.
"""

from __future__ import annotations

import json
import posixpath
import re
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.datasets.check_result import SPLITS
from imgcls_ray.datasets.findings import Finding, FindingCode
from imgcls_ray.datasets.labelled import MAX_CLASS_ID, DatasetSource, Entry
from imgcls_ray.datasets.split_names import split_called
from imgcls_ray.datasets.tables import classes_of_labels
from imgcls_ray.errors import ImageError, InputError
from imgcls_ray.packed.labels import SampleFile, read_samples
from imgcls_ray.packed.listing import find_file
from imgcls_ray.packed.parquets import footer, image_column, open_parquet, parquet_members
from imgcls_ray.storage import FetchLimits
from imgcls_ray.storage.files import absolute_path, path_from_uri
from imgcls_ray.storage.members import member_uri
from imgcls_ray.storage.names import rule_of_file
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.storage.scratch import scratch_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgcls_ray.storage import Directory
    from imgcls_ray.storage.files import FileInfo
    from imgcls_ray.storage.options import StorageOptions

_SUFFIXES = (".tar", ".parquet")
_FOLDERS = frozenset({"data"})
_LABEL_COLUMNS = ("label", "labels", "class", "cls", "target", "fine_label", "label_name", "class_name")
_FIRST_WORD = re.compile(r"[A-Za-z]+")
_ROWS_PER_BATCH = 8192


class _Row(NamedTuple):
    """A labelled image; its label as a text."""

    split: str
    file: str
    line: int | None
    path: str
    uri: str
    source: str
    locator: str
    label: str
    fault: str


_SCHEMA = pa.schema([(name, pa.int64() if name == "line" else pa.string()) for name in _Row._fields])


def packed_files(folder: Directory) -> list[str]:
    """The packed files of a dataset's folder, relative to it; none if it is a dataset of another form.

    They are directly in it, or in folders of splits or called ``data``. Beside images, or other folders, which may be
    classes, they do not count.
    """
    shown = [name.rstrip("/") for name in folder.entries() if not name.startswith((".", "_"))]
    folders = [name for name in shown if name in _FOLDERS or split_called(name)]
    found = [name for name in shown if name.lower().endswith(_SUFFIXES)]
    others = {*shown} - {*folders, *found}
    if any(rule_of_file(name) is None and not name.lower().endswith(".idx") for name in others):
        return []
    for name in folders:
        found += [f"{name}/{file}" for file in folder.entries(name) if file.lower().endswith(_SUFFIXES)]
    return sorted(found)


def is_packed_table(dataset: str, storage: StorageOptions) -> bool:
    """Whether a Parquet file has images, and no column of URIs."""
    limits = FetchLimits(storage=storage)
    try:
        schema = footer(find_file(dataset, limits), limits).schema.to_arrow_schema()
    except (ImageError, pa.ArrowException, OSError, ValueError):
        return False
    return "uri" not in (name.strip().lower() for name in schema.names) and image_column(schema) is not None


def read_packed(dataset: str, files: list[str], storage: StorageOptions) -> DatasetSource:
    """Read the labels of packed files, once; the entries are then kept in a temporary file.

    Args:
        dataset: a folder, or one file.
        files: relative to the folder; empty for one file.
        storage: object storage of the dataset.

    Raises:
        InputError: a file cannot be read, or its Parquet has no labels.
        StorageError: its storage cannot be read.
    """
    root = dataset if is_object(dataset) else absolute_path(path_from_uri(dataset))
    root, files = (root.rstrip("/"), files) if files else (posixpath.dirname(root), [posixpath.basename(root)])
    limits = FetchLimits(storage=storage)
    rows = _Kept()
    class_names: list[str] | None = None
    for name in files:
        try:
            info = find_file(f"{root}/{name}", limits)
        except ImageError as error:
            raise InputError(f"{root}/{name}: cannot be read: {error}") from error
        if name.lower().endswith(".tar"):
            rows.add(_rows_of_tar(info, name, limits))
            continue
        names = rows.add_parquet(info, name, limits)
        if class_names is not None and names != class_names:
            raise InputError(f"{root}/{name}: has other classes than the files before it")
        class_names = names or class_names
    rows.complete()
    ids, known, findings = _classes(rows.labels, class_names, dataset)

    def read(report: Callable[[Finding], None]) -> Iterator[Entry]:
        for row in rows:
            if row.fault:
                report(Finding(FindingCode.BAD_LINE, row.file, row.line, row.split, path=row.path, detail=row.fault))
            elif (label := ids.get(row.label)) is None:
                what = f"{row.label[:60]} is no class id from 0 on, or has no name"
                code = FindingCode.LABEL_OUT_OF_RANGE
                report(Finding(code, row.file, row.line, row.split, path=row.path, detail=what))
            else:
                file = row.file if row.line is not None else ""
                yield Entry(row.split, file, row.line, row.path, row.uri, label, row.source, row.locator)

    present = [split for split in SPLITS if split in rows.splits]
    return DatasetSource(dataset, None, known, present, read, findings)


def _classes(
    labels: set[str], class_names: list[str] | None, dataset: str
) -> tuple[dict[str, int], list[str | None], list[Finding]]:
    if class_names:
        return {str(label): label for label in range(len(class_names))}, list(class_names), []
    return classes_of_labels(labels, posixpath.basename(dataset.rstrip("/")))


def _split_of(file: str) -> str:
    folder, name = posixpath.split(file)
    word = _FIRST_WORD.match(name)
    return split_called(folder) or (split_called(word[0]) if word else None) or "train"


def _rows_of_tar(info: FileInfo, file: str, limits: FetchLimits) -> Iterator[_Row]:
    split = _split_of(file)
    try:
        for sample in read_samples(info, limits):
            label, fault = _label_of(sample.label_files)
            for member in sample.images:
                uri = member_uri(info.uri, str(member.name))
                path = f"{file}{uri.removeprefix(info.uri)}"
                yield _Row(split, file, None, path, uri, info.uri, member.locator, label, fault)
    except ImageError as error:
        raise InputError(f"{info.uri}: {error}") from error


def _label_of(files: list[SampleFile]) -> tuple[str, str]:
    """The label of a sample, or what is wrong with it."""
    for file in files:
        try:
            text = file.content.decode().strip()
            if file.extension == "json":
                found = json.loads(text)
                value = next((found[name] for name in _LABEL_COLUMNS if name in found), None)
                if value is None or isinstance(value, list | dict):
                    continue
                text = str(value)
        except (ValueError, TypeError, RecursionError) as error:
            return "", f"its .{file.extension} cannot be read: {error}"
        if text:
            return text, ""
    return "", "it has no label: no .cls, and no label in a .json"


class _Kept:
    """Rows in a temporary file without a name: labels and places, no images."""

    def __init__(self) -> None:
        self.labels: set[str] = set()
        self.splits: set[str] = set()
        self._file = scratch_file("labels")
        self._writer = pa.ipc.new_file(self._file, _SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd"))

    def add(self, rows: Iterator[_Row]) -> None:
        waiting: list[_Row] = []
        for row in rows:
            waiting.append(row)
            self.splits.add(row.split)
            if not row.fault:
                self.labels.add(row.label)
                if len(self.labels) > MAX_CLASS_ID:
                    raise InputError(f"{row.file}: there are more than {MAX_CLASS_ID:,} different labels")
            if len(waiting) == _ROWS_PER_BATCH:
                self._write(waiting)
                waiting = []
        if waiting:
            self._write(waiting)

    def _write(self, rows: list[_Row]) -> None:
        columns = [
            pa.array(list(values), field.type) for values, field in zip(zip(*rows, strict=True), _SCHEMA, strict=True)
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))

    def complete(self) -> None:
        self._writer.close()

    def __iter__(self) -> Iterator[_Row]:
        reader = pa.ipc.open_file(self._file)
        for number in range(reader.num_record_batches):
            columns = reader.get_batch(number).columns
            yield from map(_Row._make, zip(*(column.to_pylist() for column in columns), strict=True))

    def add_parquet(self, info: FileInfo, file: str, limits: FetchLimits) -> list[str] | None:
        """Add the rows of a Parquet file; the names of its classes, if it tells them."""
        try:
            parquet = open_parquet(info, limits)
            schema = parquet.schema_arrow
            column, names = _label_column(info.uri, schema)
            self.add(_rows_of_parquet(info, file, parquet, column, limits))
        except (ImageError, pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{info.uri}: cannot be read as a dataset: {error}") from error
        return names


def _rows_of_parquet(
    info: FileInfo, file: str, parquet: pq.ParquetFile, column: str, limits: FetchLimits
) -> Iterator[_Row]:
    split = _split_of(file)
    values = (value for batch in parquet.iter_batches(columns=[column]) for value in batch.column(0).to_pylist())
    for number, (member, value) in enumerate(zip(parquet_members(info, limits), values, strict=True), 1):
        uri = member_uri(info.uri, str(member.name))
        path = f"{file}{uri.removeprefix(info.uri)}"
        fault = "its label is empty" if value is None or value == "" else ""
        yield _Row(split, file, number, path, uri, info.uri, member.locator, str(value), fault)


def _label_column(uri: str, schema: pa.Schema) -> tuple[str, list[str] | None]:
    """The column with labels, and the names of classes if Hugging Face's description of the file has them."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        described = {name: feature["names"] for name, feature in features.items() if feature["_type"] == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        described = {}
    usual = (name for name in _LABEL_COLUMNS if name in schema.names)
    column = next(usual, None) or (next(iter(described)) if len(described) == 1 else None)
    if column is None or column not in schema.names:
        shown = ", ".join(schema.names[:10])
        raise InputError(f"{uri}: has images and no column of labels, it has {shown}; call it label")
    return column, [str(name) for name in described[column]] if column in described else None
