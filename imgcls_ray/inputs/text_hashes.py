"""A number of 64 bits for each text of a column, without an object for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    import numpy.typing as npt

# An odd number of many bits: a polynomial of the bytes, modulo 2**64. It finds damage and mistakes; nobody who chooses
# the texts gains anything from two that are taken for one.
_BASE = 0x9E3779B97F4A7C15
_NULL = 0x165667B19E3779F9


def hashes_of_texts(texts: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """A number for each text, the same wherever it stands; one number for all nulls."""
    if isinstance(texts, pa.ChunkedArray):  # of no rows
        texts = pa.concat_arrays(texts.chunks) if texts.num_chunks else pa.array([], pa.string())
    is_null = texts.is_null().to_numpy(zero_copy_only=False)
    _, offsets, data = texts.buffers()
    if not len(texts) or data is None:
        sums = np.zeros(len(texts), np.uint64)
    else:
        ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
        content = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
        ends -= ends[0]
        lengths = np.diff(ends)
        place = np.arange(len(content)) - np.repeat(ends[:-1], lengths)
        terms = (content.astype(np.uint64) + np.uint64(1)) * _powers(int(lengths.max()))[place]
        # Differences of running sums, so that empty texts are sums of nothing.
        running = np.concatenate((np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)))
        sums = running[ends[1:]] - running[ends[:-1]]
    mixed: npt.NDArray[np.uint64] = np.where(is_null, np.uint64(_NULL), sums ^ (sums >> np.uint64(31)))
    return mixed


def _powers(count: int) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        return np.cumprod(np.full(max(count, 1), _BASE, np.uint64), dtype=np.uint64)
