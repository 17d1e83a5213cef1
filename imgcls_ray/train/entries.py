"""The labelled images of a run: read once, and written to Arrow files that all processes map into memory."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from imgcls_ray.datasets.findings import Severity
from imgcls_ray.datasets.source import read_dataset
from imgcls_ray.errors import InputError
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from imgcls_ray.datasets.findings import Finding
    from imgcls_ray.storage.options import StorageOptions

logger = logging.getLogger(__name__)

SPLITS = ("train", "val")
_SCHEMA = pa.schema([("uri", pa.string()), ("label", pa.int32()), ("source", pa.string()), ("locator", pa.string())])
_NUM_SHOWN = 3
_ROWS_PER_BATCH = 65_536


@dataclass(frozen=True)
class Entries:
    """One dataset, ready for training. Labels are positions in ``class_names``, without gaps."""

    class_names: tuple[str, ...]
    tables: dict[str, pa.Table]
    """Tables with the columns ``uri``, ``label`` and, of packed images, ``source`` and ``locator``; by split (train and
    val)."""
    fingerprint: str
    """Hash of all paths, labels and class names. A run only continues on a dataset with the same hash."""

    def images_per_class(self, split: str) -> np.ndarray:
        """Number of images of each class in a split, int64 (num_classes,)."""
        return np.bincount(self.tables[split]["label"].to_numpy(), minlength=len(self.class_names))


def read_entries(
    data: str, *, delimiter: str | None, split_folders: Mapping[str, str] | None = None, storage: StorageOptions
) -> Entries:
    """Read the train and val splits of a dataset, and log what people should know of it.

    Raises:
        InputError: there is no such dataset, it has faults, one class only, or nothing to train or to evaluate on.
    """
    source = read_dataset(data, delimiter=delimiter, split_folders=split_folders, storage=storage)
    source.tell_notes()
    findings = list(source.findings)
    # Ids that no class has would be outputs that are never right.
    known = [label for label, name in enumerate(source.class_names) if name is not None]
    place = {label: number for number, label in enumerate(known)}
    rows: dict[str, list[tuple[object, ...]]] = {split: [] for split in SPLITS}
    batches: dict[str, list[pa.RecordBatch]] = {split: [] for split in SPLITS}
    digest = hashlib.sha256()

    def flush(split: str) -> None:
        if rows[split]:
            columns = zip(zip(*rows[split], strict=True), _SCHEMA, strict=True)
            arrays = [pa.array(values, field.type) for values, field in columns]
            batches[split].append(pa.record_batch(arrays, schema=_SCHEMA))
            rows[split].clear()

    for entry in source.read(findings.append):
        if entry.split in rows and entry.label in place:
            rows[entry.split].append((entry.uri, place[entry.label], entry.source, entry.locator))
            digest.update(f"{entry.split}\0{entry.path}\0{entry.label}\n".encode(errors="surrogatepass"))
            if len(rows[entry.split]) == _ROWS_PER_BATCH:
                flush(entry.split)
    _tell_warnings(data, [finding for finding in findings if finding.code.severity is Severity.WARNING])
    _refuse_faults(data, [finding for finding in findings if finding.code.severity is Severity.ERROR])
    for split in SPLITS:
        flush(split)
    class_names = tuple(str(source.class_names[label]) for label in known)
    digest.update("\0".join(class_names).encode(errors="surrogatepass"))
    tables = {split: pa.Table.from_batches(batches[split], _SCHEMA) for split in SPLITS}
    for split in SPLITS:
        if not len(tables[split]):
            raise InputError(
                f"{data}: has no images in its {split} split; `imgcls split {data} --train-percent 90 --val-percent 10`"
                " makes one"
            )
    entries = Entries(class_names, tables, digest.hexdigest())
    if len(has_images := np.flatnonzero(entries.images_per_class("train"))) == 1:
        raise InputError(
            f"{data}: {class_names[has_images[0]]} is the only class with images to train with, and one class alone "
            "cannot be learnt; add images of another class"
        )
    return entries


def _tell_warnings(data: str, warnings: Sequence[Finding]) -> None:
    for warning in warnings[:_NUM_SHOWN]:
        logger.warning("%s: %s", data, warning.text)
    if len(warnings) > _NUM_SHOWN:
        logger.warning("%s: %s more; `imgcls check %s` tells all of them", data, len(warnings) - _NUM_SHOWN, data)


def _refuse_faults(data: str, faults: Sequence[Finding]) -> None:
    if not faults:
        return
    counts = Counter(fault.code for fault in faults)
    shown = "; ".join(
        " ".join(filter(None, (f"{fault.file}:{fault.line}" if fault.line else fault.file, fault.code, fault.detail)))
        for fault in faults[:_NUM_SHOWN]
    )
    raise InputError(
        f"{data}: has {counted(counts.total(), 'fault')} ({shown}{'; …' if len(faults) > _NUM_SHOWN else ''}); "
        f"`imgcls check {data}` lists all of them"
    )


def write_splits(tables: Mapping[str, pa.Table], folder: Path) -> dict[str, Path]:
    """Write each split to a file of its own for ``map_entries``; the files by split."""
    files = {split: folder / f"{split}.arrow" for split in tables}
    for split, table in tables.items():
        write_entries(table, files[split])
    return files


def write_entries(table: pa.Table, path: Path) -> None:
    """Write a split to an Arrow file for ``map_entries``."""
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def map_entries(path: Path) -> pa.Table:
    """Map the file of a split into memory. All processes of a node share this memory."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
