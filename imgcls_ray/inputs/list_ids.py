"""The rows of a list that has ids: no two have the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.errors import InputError
from imgcls_ray.inputs.kept import ID_COLUMN
from imgcls_ray.inputs.text_hashes import hashes_of_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

# Ids are compared in so many shares, by the upper bits of their hashes.
_SHARES, _SHARE_SHIFT = 32, np.uint64(59)


class Ids:
    """The ``input_id`` of all rows of a list, eight bytes each; four more where numbers of rows are left out."""

    def __init__(self) -> None:
        self._hashes: list[npt.NDArray[np.uint64]] = []
        self._numbers: list[range | npt.NDArray[np.uint32]] = []
        self._places: list[Callable[[int], str]] = []

    def add(self, ids: pa.Array, numbers: Sequence[int] | npt.NDArray[np.int64], place: Callable[[int], str]) -> None:
        """Rows with their numbers, and how these are told; nulls and empty ones are none."""
        texts = ids.cast(pa.string())
        is_id = pc.fill_null(pc.not_equal(texts, ""), False).to_numpy(zero_copy_only=False)
        if not is_id.any():
            return
        with_id = np.asarray(numbers, np.uint32)[is_id]
        first, last = int(with_id[0]), int(with_id[-1])
        self._hashes.append(hashes_of_texts(texts.filter(pa.array(is_id))))
        self._numbers.append(range(first, last + 1) if last - first == len(with_id) - 1 else with_id)
        self._places.append(place)

    def check(self) -> None:
        """All have been added.

        Raises:
            InputError: two rows have the same.
        """
        doubles = [double for share in range(_SHARES) if (double := self._first_double(share)) is not None]
        if doubles:
            second, first = min(doubles)
            raise InputError(
                f"{self._place_of(second)}: has the same {ID_COLUMN} as {self._place_of(first)}; each row needs its "
                "own, or rename the column"
            )

    def _first_double(self, share: int) -> tuple[int, int] | None:
        """Of a share of the hashes, so that little is in memory twice: the first row that is not the first with its id,
        and the one before it with the same."""
        found = [hashes[(hashes >> _SHARE_SHIFT) == share] for hashes in self._hashes]
        hashes = np.concatenate([np.empty(0, np.uint64), *found])
        if len(np.unique(hashes)) == len(hashes):
            return None
        starts = np.cumsum([0, *map(len, self._hashes)])
        rows = np.concatenate(
            [
                np.flatnonzero(hashes >> _SHARE_SHIFT == share) + start
                for hashes, start in zip(self._hashes, starts, strict=False)
            ]
        )
        order = np.argsort(hashes, kind="stable")
        again = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        at = again[np.argmin(order[again + 1])]
        return int(rows[order[at + 1]]), int(rows[order[at]])

    def _place_of(self, position: int) -> str:
        ends = np.cumsum([len(numbers) for numbers in self._numbers])
        block = int(np.searchsorted(ends, position, side="right"))
        number = self._numbers[block][position - int(ends[block]) + len(self._numbers[block])]
        return self._places[block](int(number))
