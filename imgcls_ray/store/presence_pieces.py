"""Pieces of presence: which files say what complete listings did not find any more, or found again.

A run whose listing was complete leaves what has changed beside its plan, as a piece sorted by URI; nothing if nothing
has. It takes small earlier pieces into its own. So few pieces say all, at any age of the store, and every file is
written once, under a name of its run. The log names the pieces that count.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.errors import LabelStoreDamagedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from imgcls_ray.store.label_store import LabelStore
    from imgcls_ray.store.records import PlanRecord

PRESENCE_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("run", pa.int64(), nullable=False),
        pa.field("present", pa.bool_(), nullable=False),
    ]
)
"""A change: the run whose listing found it, and whether the input is there since."""
SUMMARY_KEY = "presence"
"""In what a commit tells of the store: the pieces that count, oldest first."""


class PresenceRecord(TypedDict, total=False):
    """In the record of a plan whose listing was complete."""

    listed: list[str]
    """Folders, prefixes and patterns that were listed from one end to the other."""
    vanished: int
    """Inputs with a row that are not there any more."""
    returned: int
    """Inputs that are there again."""
    piece: list[int]
    """The numbers of a ``PresencePiece``; absent if nothing has changed."""


class PresencePiece(NamedTuple):
    """The changes that the listings of consecutive runs found, of each input the last one, sorted by URI."""

    since_run: int
    run: int
    """Beside whose plan it lies."""
    num_rows: int
    num_files: int

    def names(self) -> list[str]:
        """Its files in the store."""
        return [f"plans/{self.run:04d}/presence-{number:06d}.parquet" for number in range(self.num_files)]


def piece_of_plan(plan: PlanRecord) -> PresencePiece | None:
    """What the listing of a plan has left; ``None`` if that is nothing."""
    record = plan.get("presence")
    return _piece_of(record.get("piece")) if isinstance(record, dict) else None


def pieces_in(summary: Mapping[str, Any]) -> list[PresencePiece]:
    """The pieces that count by a commit of the log."""
    return [piece for values in summary.get(SUMMARY_KEY, ()) if (piece := _piece_of(values)) is not None]


def _piece_of(values: object) -> PresencePiece | None:
    if not isinstance(values, list) or len(values) != len(PresencePiece._fields):
        return None
    return PresencePiece(*values) if all(isinstance(value, int) for value in values) else None


def with_pieces(pieces: Iterable[PresencePiece], plans: Iterable[PlanRecord]) -> list[PresencePiece]:
    """The pieces that count after these plans, ascending by run."""
    counting = list(pieces)
    for plan in plans:
        if (new := piece_of_plan(plan)) is not None:
            counting = [piece for piece in counting if piece.run < new.since_run] + [new]
    return [piece for piece in counting if piece.num_files]


def openers(store: LabelStore, piece: PresencePiece) -> list[Callable[[], pq.ParquetFile]]:
    """Functions that open the files of a piece, in order."""
    return [functools.partial(_open, store, name) for name in piece.names()]


def _open(store: LabelStore, name: str) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(pa.BufferReader(store.directory.read(name)), page_checksum_verification=True)
        if not file.schema_arrow.equals(PRESENCE_SCHEMA, check_metadata=False):
            raise ValueError("it has other columns")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise LabelStoreDamagedError(
            f"{store.uri}: {name} cannot be read ({' '.join(str(error).split())}); bring it back from a copy, or "
            f"remove it and run `imgcls store compact {store.uri} --forget-lost`, and the next complete listing tells "
            "again what is not there any more"
        ) from error
    return file


def is_lost(store: LabelStore, piece: PresencePiece) -> bool:
    """Whether a file of a piece is gone."""
    return not all(store.directory.exists(name) for name in piece.names())
