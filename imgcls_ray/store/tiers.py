"""Which sorted pieces of a store to merge, so that they stay few and no row is written again often."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgcls_ray.store.history import Piece

FAN_IN = 8
"""So many neighbours of one size are merged into one of the next."""
_SMALLEST_TIER_ROWS = 64


def choose(pieces: Sequence[Piece]) -> slice | None:
    """Which neighbours to merge next; ``None`` if it pays nowhere.

    A piece's tier is the logarithm of its rows. Eight pieces of one tier become one of the next, so a row is written
    again once a tier, and the number of pieces is logarithmic. Small pieces that a larger one follows can get no more
    neighbours, and are merged whatever their number. A large old piece is not written again for small new ones.
    """
    tiers = [_tier(piece) for piece in pieces]
    for tier in sorted(set(tiers)):
        for first, stop in _stretches(tiers, tier):
            is_closed = stop < len(tiers)
            if is_closed and stop - first > 1:
                return slice(first, stop)
            of_tier = [place for place in range(first, stop) if tiers[place] == tier]
            if len(of_tier) >= FAN_IN:
                return slice(of_tier[0], stop)
    return None


def _stretches(tiers: Sequence[int], tier: int) -> Iterator[tuple[int, int]]:
    """Neighbours, as many as there are, that are all of this tier or lower ones."""
    first = None
    for place, other in enumerate((*tiers, tier + 1)):
        if other <= tier and first is None:
            first = place
        elif other > tier and first is not None:
            yield first, place
            first = None


def _tier(piece: Piece) -> int:
    tier, rows = 0, max(piece.num_rows, 1) // _SMALLEST_TIER_ROWS
    while rows >= FAN_IN:
        tier, rows = tier + 1, rows // FAN_IN
    return tier
