"""Read a store's answers as one stream: the newest row of every input, sorted by URI.

Each run's rows are sorted by URI (its plan is), so all runs merge without holding any set of ids in memory.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.store.schema import LIMITS_KEY, parse_part_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.store.label_store import LabelStore


class Answer(NamedTuple):
    """One row of the store, with the values that decide whether its input is planned again."""

    uri: str
    run: int
    etag: str | None
    error: str | None
    part: str
    """Name of the part file."""
    row: int
    """Number of the row in the part file."""
    limits: bytes | None = None
    """The limits that the row was made under, as JSON; ``None`` in parts of earlier versions."""


def all_answers(store: LabelStore) -> Iterator[Answer]:
    """Every row of every part, sorted by URI and then by run."""
    return heapq.merge(*(_answers_of_run(store, parts) for parts in _parts_by_run(store)))


def answers_by_input(store: LabelStore) -> Iterator[list[Answer]]:
    """All rows of every input, oldest first; inputs sorted by URI."""
    for _, answers in itertools.groupby(all_answers(store), key=lambda answer: answer.uri):
        yield list(answers)


def newest_answers(store: LabelStore) -> Iterator[Answer]:
    """The newest row of every input, which is the valid one, sorted by URI."""
    return (answers[-1] for answers in answers_by_input(store))


def _parts_by_run(store: LabelStore) -> list[list[tuple[int, int, str]]]:
    parts = [
        (*number, f"predictions/{name}")
        for name in store.directory.entries("predictions")
        if (number := parse_part_name(name)) is not None
    ]
    return [list(group) for _, group in itertools.groupby(sorted(parts), key=lambda part: part[0])]


def _answers_of_run(store: LabelStore, parts: list[tuple[int, int, str]]) -> Iterator[Answer]:
    for run, _, name in parts:
        # Read whole and closed: the merge goes through all runs at once, and a store may have more runs than a process
        # may have open files.
        part = store.read_part(name, ["uri", "etag", "error"])
        limits = (part.schema.metadata or {}).get(LIMITS_KEY)
        row = 0
        for batch in part.to_batches(max_chunksize=256):
            for uri, etag, error in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield Answer(uri, run, etag, error, name, row, limits)
                row += 1
