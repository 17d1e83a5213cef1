"""The body of a request, whole and unpacked, and the threads for work that would hold up the event loop.

The event loop answers everybody. What takes more than about a millisecond of it is done in a thread, in steps that each
give the interpreter back soon: a single call of C code that keeps it stops the loop from any thread.
"""

from __future__ import annotations

import asyncio
import functools
import io
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, ParamSpec, TypeVar

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
    first, several = b"", None
    num_chunks = 0
    async for chunk in request.stream():
        num_chunks += 1
        if num_chunks % _CHUNKS_PER_TURN == 0:
            # Chunks that are there already are handed out without a pause: millions of them would be one long turn.
            await asyncio.sleep(0)
        if not first:
            first = chunk
        elif chunk:
            if several is None:
                several = io.BytesIO()
                several.write(first)
            several.write(chunk)
    return first if several is None else several.getvalue()


async def _read_gzip(request: Request) -> bytes:
    """Unpack what comes, in steps, each counted as if it had come like that: a bomb ends at the limit."""
    take: Callable[[int], None] = request.scope["imgcls_take"]
    unpacked = io.BytesIO()
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        async with aclosing(request.stream()) as stream:
            async for chunk in stream:
                take(-len(chunk))
                for start in range(0, len(chunk), _PACKED_STEP):
                    if unpacker.eof:
                        raise refuse(ErrorCode.BAD_REQUEST, "the body goes on after the end of its gzip data")
                    step = _PACKED_STEP
                    part = unpacker.decompress(chunk[start : start + _PACKED_STEP], step)
                    take(len(part))
                    unpacked.write(part)
                    while not unpacker.eof and (unpacker.unconsumed_tail or len(part) == step):
                        step = STEP_BYTES
                        part = await in_thread(unpacker.decompress, unpacker.unconsumed_tail, step)
                        take(len(part))
                        unpacked.write(part)
                    await asyncio.sleep(0)
    except zlib.error as error:
        raise refuse(ErrorCode.BAD_REQUEST, "the body is not readable as gzip") from error
    if not unpacker.eof:
        raise refuse(ErrorCode.BAD_REQUEST, "the body ends before its gzip data does")
    if unpacker.unused_data:
        raise refuse(ErrorCode.BAD_REQUEST, "the body goes on after the end of its gzip data")
    return unpacked.getvalue()
