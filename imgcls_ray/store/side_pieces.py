"""Pieces of what is told of inputs beside their rows: their presence, and the values that lists have of them.

A run leaves what its listing found changed beside its plan, as a piece sorted by URI; nothing if nothing has. It takes
small earlier pieces into its own. So few pieces say all, at any age of the store, and every file is written once, under
a name of its run. The log names the pieces that count.
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


class PieceKind(NamedTuple):
    """What pieces tell."""

    name: str
    """In the names of their files, in the record of a plan, and in what a commit tells of the store."""
    schema: pa.Schema
    again: str
    """Which listing tells again what a lost file told."""


_URI_AND_RUN = (pa.field("uri", pa.string(), nullable=False), pa.field("run", pa.int64(), nullable=False))
PRESENCE = PieceKind(
    "presence",
    pa.schema([*_URI_AND_RUN, pa.field("present", pa.bool_(), nullable=False)]),
    "the next complete listing tells again what is not there any more",
)
"""The run whose listing found a change, and whether the input is there since."""
VALUES = PieceKind(
    "values",
    pa.schema([*_URI_AND_RUN, pa.field("values", pa.string(), nullable=False)]),
    "the next run with the same list keeps its columns again",
)
"""The run whose list told it, and the values of the list's other columns, as ``inputs.kept`` writes them."""
KINDS = (PRESENCE, VALUES)


class PresenceRecord(TypedDict, total=False):
    """In the record of a plan whose listing was complete."""

    listed: list[str]
    """Folders, prefixes and patterns that were listed from one end to the other."""
    vanished: int
    """Inputs with a row that are not there any more."""
    returned: int
    """Inputs that are there again."""
    piece: list[int]
    """The numbers of a ``SidePiece``; absent if nothing has changed."""


class ValuesRecord(TypedDict, total=False):
    """In the record of a plan whose list had other values than the store."""

    columns: dict[str, str]
    """Types of all columns in the piece."""
    piece: list[int]


class SidePiece(NamedTuple):
    """What the listings of consecutive runs found, of each input the last, sorted by URI."""

    since_run: int
    run: int
    """Beside whose plan it lies."""
    num_rows: int
    num_files: int

    def names(self, kind: PieceKind) -> list[str]:
        """Its files in the store."""
        return [f"plans/{self.run:04d}/{kind.name}-{number:06d}.parquet" for number in range(self.num_files)]


def pieces_in(summary: Mapping[str, Any], kind: PieceKind) -> list[SidePiece]:
    """The pieces that count by a commit of the log."""
    return [piece for values in summary.get(kind.name, ()) if (piece := _piece_of(values)) is not None]


def _piece_of(values: object) -> SidePiece | None:
    if not isinstance(values, list) or len(values) != len(SidePiece._fields):
        return None
    return SidePiece(*values) if all(isinstance(value, int) for value in values) else None


def with_pieces(pieces: Iterable[SidePiece], plans: Iterable[PlanRecord], kind: PieceKind) -> list[SidePiece]:
    """The pieces that count after these plans, ascending by run."""
    counting = list(pieces)
    for plan in plans:
        record = plan.get(kind.name)
        if isinstance(record, dict) and (new := _piece_of(record.get("piece"))) is not None:
            counting = with_piece(counting, new)
    return [piece for piece in counting if piece.num_files]


def with_piece(pieces: Iterable[SidePiece], new: SidePiece) -> list[SidePiece]:
    """The pieces that count after one was written, which may have taken in some of them."""
    return [piece for piece in pieces if piece.run < new.since_run] + [new]


def openers(store: LabelStore, piece: SidePiece, kind: PieceKind) -> list[Callable[[], pq.ParquetFile]]:
    """Functions that open the files of a piece, in order."""
    return [functools.partial(_open, store, name, kind) for name in piece.names(kind)]


def _open(store: LabelStore, name: str, kind: PieceKind) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(pa.BufferReader(store.directory.read(name)), page_checksum_verification=True)
        if not file.schema_arrow.equals(kind.schema, check_metadata=False):
            raise ValueError("it has other columns")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise LabelStoreDamagedError(
            f"{store.uri}: {name} cannot be read ({' '.join(str(error).split())}); bring it back from a copy, or "
            f"remove it and run `imgcls store compact {store.uri} --forget-lost`, and {kind.again}"
        ) from error
    return file


def is_lost(store: LabelStore, piece: SidePiece, kind: PieceKind) -> bool:
    """Whether a file of a piece is gone."""
    return not all(store.directory.exists(name) for name in piece.names(kind))
