"""The body of a request, whole and unpacked, and the threads for work that would hold up the event loop.

The event loop answers everybody. What takes more than about a millisecond of it is done in a thread, in steps that each
give the interpreter back soon: a single call of C code that keeps it stops the loop from any thread.
"""

from __future__ import annotations

import asyncio
import functools
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from imgcls_ray.serve.admission.request import context_of
from imgcls_ray.serve.errors import ErrorCode, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

P = ParamSpec("P")
T = TypeVar("T")

INLINE_BYTES = 256 * 1024
"""Up to here a body is read in the event loop: a thread would take longer to begin than the work takes."""
STEP_BYTES = 2**20
"""What one call of C code is given at most, where it keeps the interpreter."""
_NUM_THREADS = 2
_PACKED_STEP = 64 * 1024
_GZIP = 16 + zlib.MAX_WBITS
# Tools that pack in blocks make one of each 64 KiB.
_MAX_MEMBERS = 1000
_SMALL_BYTES = 4096
_CHUNKS_PER_TURN = 256
_MAX_SHOWN_CHARS = 60


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="body")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a thread of those for bodies."""
    call = functools.partial(function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_threads(), call)


async def read_body(request: Request) -> bytes:
    """The whole body, unpacked if it is gzipped.

    Raises:
        ApiError: it is larger than a request may be, also when it is unpacked; it is in a coding that is not read; or
            it is no gzip.
    """
    coding = ", ".join(request.headers.getlist("content-encoding")).strip().lower()
    if coding in ("", "identity"):
        return await _read_plain(request)
    if coding in ("gzip", "x-gzip"):
        return await _read_gzip(request)
    error = refuse(
        ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        f"Content-Encoding {coding[:_MAX_SHOWN_CHARS]!a} is not read; send the body as it is, or gzip",
    )
    error.headers["accept-encoding"] = "gzip"
    raise error


async def _read_plain(request: Request) -> bytes:
    body = _Pieces()
    num_chunks = 0
    async for chunk in request.stream():
        num_chunks += 1
        if num_chunks % _CHUNKS_PER_TURN == 0:
            # Chunks that are there already are handed out without a pause: millions of them would be one long turn.
            await asyncio.sleep(0)
        body.add(chunk)
    return await body.joined()


class _Pieces:
    """What comes, piece by piece; a million small ones are no million objects."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._small = bytearray()
        self._num_bytes = 0

    def add(self, piece: bytes) -> None:
        self._num_bytes += len(piece)
        if not self._small and (len(piece) >= _SMALL_BYTES or not self._pieces):
            self._pieces.append(piece)
            return
        self._small += piece
        if len(self._small) >= _PACKED_STEP:
            self._put_away()

    def _put_away(self) -> None:
        self._pieces.append(bytes(self._small))
        self._small.clear()

    async def joined(self) -> bytes:
        if self._small:
            self._put_away()
        if self._num_bytes <= INLINE_BYTES:
            return b"".join(self._pieces)
        return await in_thread(b"".join, self._pieces)


def find(body: bytes, wanted: bytes, start: int) -> int:
    """As ``bytes.find``, but giving the interpreter back now and then."""
    while start < len(body):
        found = body.find(wanted, start, start + STEP_BYTES + len(wanted))
        if found >= 0:
            return found
        start += STEP_BYTES
    return -1


def copy_bytes(view: memoryview) -> bytes:
    """A copy, made in steps: in one the interpreter would wait for it, which a join of many pieces does not."""
    if len(view) <= STEP_BYTES:
        return bytes(view)
    return b"".join([bytes(view[start : start + STEP_BYTES]) for start in range(0, len(view), STEP_BYTES)])


async def _read_gzip(request: Request) -> bytes:
    """Unpack what comes, in steps, each counted as if it had come like that: a bomb ends at the limit.

    What is packed counts where it is more than it was unpacked: some of it never becomes a byte.
    """
    reservation = context_of(request.scope).reservation
    unpacked = _Pieces()
    num_packed = num_unpacked = num_taken = 0
    unpacker = zlib.decompressobj(_GZIP)
    num_members = 1

    def add(part: bytes) -> None:
        nonlocal num_unpacked, num_taken
        num_unpacked += len(part)
        num_more = max(num_packed, num_unpacked) - num_taken
        num_taken += num_more
        reservation.add_bytes(num_more)
        unpacked.add(part)

    try:
        async with aclosing(request.stream()) as stream:
            async for chunk in stream:
                num_packed += len(chunk)
                num_taken += len(chunk)  # by whoever received it
                for start in range(0, len(chunk), _PACKED_STEP):
                    data = chunk[start : start + _PACKED_STEP]
                    while data:
                        if unpacker.eof:
                            num_members += 1
                            if data[:1] != b"\x1f" or num_members > _MAX_MEMBERS:
                                raise refuse(ErrorCode.BAD_REQUEST, "the body goes on after the end of its gzip data")
                            unpacker = zlib.decompressobj(_GZIP)
                        step = _PACKED_STEP
                        part = unpacker.decompress(data, step)
                        add(part)
                        while not unpacker.eof and (unpacker.unconsumed_tail or len(part) == step):
                            step = STEP_BYTES
                            part = await in_thread(unpacker.decompress, unpacker.unconsumed_tail, step)
                            add(part)
                        data = unpacker.unused_data
                    await asyncio.sleep(0)
    except zlib.error as error:
        raise refuse(ErrorCode.BAD_REQUEST, "the body is not readable as gzip") from error
    if not unpacker.eof:
        raise refuse(ErrorCode.BAD_REQUEST, "the body ends before its gzip data does")
    return await unpacked.joined()
