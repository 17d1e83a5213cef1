"""A random sample of any number of files, in one pass and in their order.

Each URI gets a random number that follows from the seed and from itself alone, and those with the smallest numbers are
the sample. So it does not depend on the order or the pieces in which files are listed; a larger sample with the same
seed holds the smaller one, and one file more or less changes one file of the sample at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from imgcls_ray.inputs.sorting import ScratchTables
from imgcls_ray.inputs.tables import FileTables, only_array, tables_of
from imgcls_ray.inputs.text_hashes import hashes_of_texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    from imgcls_ray.storage.files import FileInfo

# Numbers in memory beside those of the sample, until the largest are thrown away: so many at least, and a share of the
# sample, because each time looks through all of it.
_NUMBERS_AHEAD = 65_536
_GROWTH = 8
_MASK = 2**64 - 1


@dataclass
class Sample:
    """What was drawn."""

    size: int
    """Largest number of files."""
    seed: int
    num_seen: int = 0
    """Files that it was drawn from, when all have been looked at."""


def sampled(files: Iterable[FileInfo], sample: Sample) -> FileTables:
    """A uniform random sample of files, in their order; all of them if there are no more.

    Memory is 9 bytes for each file of the sample; what may be in it waits on disk.

    Args:
        files: each URI once.
        sample: how many; receives how many there were.
    """
    return FileTables(lambda _: _sampled(files, sample))


def _sampled(files: Iterable[FileInfo], sample: Sample) -> Iterator[pa.Table]:
    smallest = _Smallest(sample.size)
    with ScratchTables("sample") as kept:
        for table in tables_of(files):
            sample.num_seen += table.num_rows
            numbers = random_numbers(only_array(table.column("uri")), sample.seed)
            is_kept = smallest.add(numbers)
            if is_kept.any():
                kept.add(table.filter(pa.array(is_kept)))
        largest, left = smallest.largest(), sample.size
        for batch in kept.complete().batches():
            is_drawn = random_numbers(batch.column("uri"), sample.seed) <= largest
            # Of two files with the largest number, the second one may be too many.
            drawn = pa.Table.from_batches([batch.filter(pa.array(is_drawn))]).slice(0, left)
            left -= drawn.num_rows
            if drawn.num_rows:
                yield drawn


def random_numbers(uris: pa.Array, seed: int) -> npt.NDArray[np.uint64]:
    """A random number of 64 bits for each URI, by SplitMix64 (Steele, Lea and Flood 2014)."""
    return _mixed(hashes_of_texts(uris) ^ _mixed(np.array([seed & _MASK], np.uint64)))


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = numbers ^ (numbers >> np.uint64(31))
    return mixed


class _Smallest:
    """The smallest of a stream of numbers."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._numbers = np.empty(0, np.uint64)
        self._num_kept = 0
        self._bound = np.uint64(2**64 - 1)

    def add(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Look at more of them; which may be among the smallest, as far as is known now."""
        is_kept: npt.NDArray[np.bool_] = numbers <= self._bound
        kept = numbers[is_kept]
        if (end := self._num_kept + len(kept)) > len(self._numbers):
            # In place: a copy beside it would be as much memory again.
            self._numbers.resize(end + max(end // _GROWTH, _NUMBERS_AHEAD), refcheck=False)
        self._numbers[self._num_kept : end] = kept
        self._num_kept = end
        if end >= self._count + max(self._count // _GROWTH, _NUMBERS_AHEAD):
            self.largest()
        return is_kept

    def largest(self) -> np.uint64:
        """The largest of the smallest so far."""
        if self._num_kept > self._count:
            self._numbers[: self._num_kept].partition(self._count - 1)
            self._num_kept, self._bound = self._count, self._numbers[: self._count].max()
        return self._bound
