"""Tables and decoded images as one value of a table, for another process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.models.classifier import ModelInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Pixels of a block cross Ray's object store as one value on the way to a GPU.
_MAX_BLOCK_BYTES = 128 * 2**20


def most_decoded(crop_size: int) -> int:
    """Number of images that a block may have whose pixels go to another process, of ``crop_size`` pixels a side."""
    return _MAX_BLOCK_BYTES // (3 * crop_size**2)


def to_ipc(table: pa.Table) -> bytes:
    """A table as bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_ipc(data: bytes) -> pa.Table:
    """What ``to_ipc`` wrote, without a copy."""
    return pa.ipc.open_stream(data).read_all()


def pack_inputs(inputs: Iterable[ModelInput | ImageError], num_inputs: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Put decoded images, of which all have one size, together for another process.

    Returns:
        Pixels of the good ones, uint8 (N, size, size, 3), where size is 0 if there is none; and what JSON is to say of
        each, good or not.
    """
    pixels = np.empty((0, 0, 0, 3), dtype=np.uint8)
    about: list[dict[str, Any]] = []
    num_good = 0
    for item in inputs:
        if isinstance(item, ImageError):
            about.append({"code": item.code, "detail": item.detail})
        else:
            if not num_good:
                pixels = np.empty((num_inputs, *item.pixels.shape), dtype=np.uint8)
            pixels[num_good] = item.pixels
            num_good += 1
            about.append({"width": item.width, "height": item.height})
    return pixels[:num_good], about


def error_of(about: dict[str, Any]) -> ImageError | None:
    """The failure that JSON says of an image; None for a good one."""
    return ImageError(ImageErrorCode(about["code"]), about["detail"]) if "code" in about else None


def pixel_column(pixels: np.ndarray | None) -> pa.Array:
    """Pixels as the one value of a column, without a copy."""
    blob = pixels.reshape(-1).data if pixels is not None and pixels.size else b""
    return pa.array([blob], pa.large_binary())


def unpack_inputs(about: list[dict[str, Any]], column: pa.ChunkedArray, size: int) -> Iterator[ModelInput | ImageError]:
    """What ``pack_inputs`` and ``pixel_column`` made, again as one input for each image."""
    # Of no good image there is no size to divide by.
    good = iter(np.frombuffer(column[0].as_buffer(), dtype=np.uint8).reshape(-1, size, size, 3) if size else ())
    for item in about:
        if (error := error_of(item)) is not None:
            yield error
        else:
            yield ModelInput(next(good), width=item["width"], height=item["height"])
