"""Small pictures of images that were labelled or checked before, decoded in processes of their own.

An image may have changed since, or this machine may be slower: none can end the command or hold it up.
"""

from __future__ import annotations

import json
import signal
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imgcls_ray.errors import ImageError, ImgclsError
from imgcls_ray.images.decoder import decode_image
from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.images.measure import views
from imgcls_ray.machine import available_cores
from imgcls_ray.packed.listing import fetch_input
from imgcls_ray.report.pictures import THUMBNAIL_SIDE, Thumbnail, pictured_findings, pictures_of, small_jpeg
from imgcls_ray.workers.child import end_with_parent
from imgcls_ray.workers.decoding import (
    ask_child,
    end_process_when_late,
    read_error,
    read_image,
    serve_images,
    write_error,
    write_image,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from imgcls_ray.datasets.findings import Finding
    from imgcls_ray.images.crops import Crop
    from imgcls_ray.storage import FetchLimits

_NUM_READERS = 4  # more than that helps only far storage
_PER_PROCESS = 16  # of fewer pictures, a second process takes longer to start than it saves
_SIZE = struct.Struct("<I")


class SmallPicture(NamedTuple):
    """An image, made small."""

    jpeg: bytes
    looks: np.ndarray
    """As ``views`` gives them."""


def draw_thumbnails(
    findings: Iterable[Finding], *, fetch_limits: FetchLimits, decode_limits: DecodeLimits
) -> dict[str, Thumbnail]:
    """Thumbnails by URI, of the images of ``pictured_findings``."""
    uris = (uri for finding in pictured_findings(findings) for uri in pictures_of(finding))
    return thumbnails_of(dict.fromkeys(uris), fetch_limits=fetch_limits, decode_limits=decode_limits)


def thumbnails_of(
    versions: Mapping[str, str | None], *, fetch_limits: FetchLimits, decode_limits: DecodeLimits
) -> dict[str, Thumbnail]:
    """Thumbnails by URI.

    Args:
        versions: by URI the version to read; ``None`` reads any.
        fetch_limits: bounds on reading an image.
        decode_limits: bounds on decoding it.
    """
    drawn = small_pictures([*versions.items()], THUMBNAIL_SIDE, fetch_limits, decode_limits)
    found = (Thumbnail(b"", one) if isinstance(one, str) else Thumbnail(one.jpeg) for one in drawn)
    return dict(zip(versions, found, strict=True))


def small_pictures(
    versions: Sequence[tuple[str, str | None]], side: int, fetch_limits: FetchLimits, decode_limits: DecodeLimits
) -> Iterator[SmallPicture | str]:
    """Read images, and make them small; where that fails, the reason is in place of the picture.

    Args:
        versions: URIs, with the version to read; ``None`` reads any.
        side: of the longer side, at most, pixels.
        fetch_limits: bounds on reading an image.
        decode_limits: bounds on decoding it.

    Raises:
        JobFailedError: no process can be started that decodes.
    """
    num_processes = min(_NUM_READERS, available_cores(), -(-len(versions) // _PER_PROCESS))
    with _processes(num_processes, side, decode_limits) as draw, ThreadPoolExecutor(_NUM_READERS) as pool:

        def read(version: tuple[str, str | None]) -> SmallPicture | str:
            try:
                data = fetch_input(*version, fetch_limits)
            # All of them were read before; what fails now must not cost the report of all that was found.
            except (ImageError, ImgclsError) as error:
                return str(error)
            return draw(data)

        yield from pool.map(read, versions)


@contextmanager
def _processes(number: int, side: int, limits: DecodeLimits) -> Iterator[Callable[[bytes | Crop], SmallPicture | str]]:
    task = json.dumps({"side": side, "limits": asdict(limits)}).encode()
    idle: SimpleQueue[Callable[[bytes], bytes | ImageError]] = SimpleQueue()
    with ExitStack() as stack:
        for _ in range(number):
            idle.put(stack.enter_context(ask_child(__name__, "serve_drawing", task, limits)))

        def draw(data: bytes | Crop) -> SmallPicture | str:
            ask = idle.get()
            try:
                answer = ask(write_image(data))
            finally:
                idle.put(ask)
            error = answer if isinstance(answer, ImageError) else read_error(answer)
            if error is not None:
                return str(error)
            assert isinstance(answer, bytes)
            start = 1 + _SIZE.size
            end = start + _SIZE.unpack_from(answer, 1)[0]
            # A copy: an array of floats begins at a multiple of their size.
            looks = np.frombuffer(answer[end:], np.float32).reshape(-1, 32, 32)
            return SmallPicture(answer[start:end], looks)

        yield draw


def serve_drawing() -> None:
    """The child of ``small_pictures``."""
    end_with_parent(signal.SIGKILL)

    def begin(task: bytes) -> tuple[DecodeLimits, Callable[[bytes], bytes]]:
        told = json.loads(task)
        limits = DecodeLimits(**told["limits"])

        def draw(message: bytes) -> bytes:
            try:
                pixels = decode_image(read_image(message), limits)
            except ImageError as error:
                return write_error(error.as_value())
            jpeg = small_jpeg(pixels, told["side"])
            return b"\0" + _SIZE.pack(len(jpeg)) + jpeg + views(pixels).astype(np.float32).tobytes()

        return limits, end_process_when_late(draw, limits)

    serve_images(begin)
