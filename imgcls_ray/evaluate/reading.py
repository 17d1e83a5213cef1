"""Read and validate the entries of one split before workers start, and cut them into blocks."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from imgcls_ray.datasets.check_result import SPLITS
from imgcls_ray.datasets.classes import match_classes
from imgcls_ray.datasets.findings import FindingCode, Severity
from imgcls_ray.datasets.source import read_dataset
from imgcls_ray.errors import InputError, UsageError
from imgcls_ray.evaluate.classifying import ENTRY_SCHEMA
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.workers.worker import block_of_entries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from imgcls_ray.datasets.entry_file import EntryFile
    from imgcls_ray.datasets.findings import Finding
    from imgcls_ray.datasets.labelled import DatasetSource
    from imgcls_ray.storage.options import StorageOptions
    from imgcls_ray.workers.worker import Block


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """The entries of one split of a dataset."""

    entries: EntryFile
    num_images: int
    num_classes: int
    """Number of classes that the dataset names."""
    model_ids: np.ndarray
    """int32, by class id of the dataset: the model's id of the same class."""
    list_sha256: str
    """Hash of paths and class names, in order."""

    def blocks(self, num_rows: int) -> Iterator[Block]:
        """All entries in blocks of ``num_rows``; each block is read from the file when it is requested."""
        for start in range(0, self.num_images, num_rows):
            numbers = np.arange(start, min(start + num_rows, self.num_images))
            entries = list(self.entries.lookup(numbers).values())
            labels = self.model_ids[[entry.label for entry in entries]]
            members = ([entry.source for entry in entries], [entry.locator for entry in entries])
            columns = [numbers, [entry.uri for entry in entries], labels, *members]
            arrays = [pa.array(values, field.type) for values, field in zip(columns, ENTRY_SCHEMA, strict=True)]
            yield block_of_entries(pa.Table.from_arrays(arrays, schema=ENTRY_SCHEMA))


def read_split(
    dataset: str,
    split: str,
    entries: EntryFile,
    *,
    model: str,
    model_names: Sequence[str],
    delimiter: str | None = None,
    split_folders: Mapping[str, str] | None = None,
    storage: StorageOptions = DEFAULT_STORAGE,
) -> Split:
    """Read the entries of a split into a temporary file, and match its classes with the model's by name.

    Raises:
        UsageError: there is no such dataset or split, the split is empty, its lists have faults, or the model lacks
            one of its classes.
        StorageError: its storage fails.
    """
    source = read_dataset(dataset, delimiter=delimiter, split_folders=split_folders, storage=storage)
    source.tell_notes()
    if split not in source.splits:
        there = f"it has {' and '.join(source.splits)}" if source.splits else "it has none"
        raise UsageError(f"{dataset}: has no split {split!r}; {there}. Give --split, or create it with `imgcls split`")
    faults = _Faults(split)
    for finding in source.findings:
        faults.add(finding)
    digest = hashlib.sha256()
    num_images = 0
    with entries.writing():
        for entry in source.read(faults.add):
            if entry.split != split:
                continue
            entries.append(entry)
            digest.update(f"{entry.path}\0{source.class_name(entry.label)}\n".encode(errors="surrogatepass"))
            num_images += 1
    faults.check(source)
    model_ids = match_classes(dataset, source.class_names, model, model_names)
    if not num_images:
        raise InputError(f"{dataset}: its split {split!r} lists no image: there is nothing to evaluate on")
    num_classes = sum(name is not None for name in source.class_names)
    return Split(entries, num_images, num_classes, model_ids, digest.hexdigest())


class _Faults:
    """Errors in the lists that this split is read from. A list of another split may be missing."""

    def __init__(self, split: str) -> None:
        self._split = split
        self._first: Finding | None = None
        self._count = 0

    def add(self, finding: Finding) -> None:
        is_of_other_split = finding.split in SPLITS and finding.split != self._split
        if finding.code is FindingCode.BACKSLASHES:
            logger.warning("%s", finding.text)
        if finding.code.severity is Severity.ERROR and not is_of_other_split:
            self._first = self._first or finding
            self._count += 1

    def check(self, source: DatasetSource) -> None:
        if (first := self._first) is None:
            return
        where = f"{first.file}:{first.line}" if first.line else first.file
        what = f"{where}: {first.code.meaning}" + (f" ({first.detail})" if first.detail else "")
        more = f", and {self._count - 1:,} more like it" if self._count > 1 else ""
        raise InputError(f"{source.dataset}: {what}{more}; `imgcls check {source.dataset}` lists every fault")
