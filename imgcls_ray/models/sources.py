"""What the inputs of a prediction stand for: single images, by name, one after the other.

No input is a failure: what cannot be listed or taken becomes a source that is an error.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from imgcls_ray.errors import ImageError, ImageErrorCode, ImgclsError, InputError
from imgcls_ray.images.arrays import copy_array, is_array, is_batch, is_tensor
from imgcls_ray.images.decoder import decode_picture
from imgcls_ray.storage.files import host_of_file, path_from_uri
from imgcls_ray.storage.http import is_url
from imgcls_ray.storage.left_out import ListingCounts
from imgcls_ray.storage.object_failures import Failure, ObjectError
from imgcls_ray.storage.object_inputs import list_place
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.storage.walking import list_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.images.limits import DecodeLimits
    from imgcls_ray.storage import FetchLimits
    from imgcls_ray.storage.options import StorageOptions


class Source(NamedTuple):
    """One image of the input, not yet read."""

    name: str
    content: str | bytes | np.ndarray | ImageError
    """A path or address, an encoded image, pixels, or why there is none."""


class Limits(NamedTuple):
    """Of what is decoded, and of what is read."""

    decode: DecodeLimits
    fetch: FetchLimits


def sources_of(item: Any, numbers: Iterator[int], limits: Limits) -> Iterator[Source]:
    """What an input, or each item of an iterable of inputs, stands for; what is iterated is read as it is needed.

    Args:
        item: as ``Model.predict`` takes it.
        numbers: for the names of images without one.
        limits: on what is copied, and where objects are listed.

    Raises:
        Exception: only what an iterable itself raises.
    """
    try:
        path = os.fsdecode(item) if isinstance(item, str | os.PathLike) else None
        is_many = path is None and _is_many(item)
    except RecursionError:  # a list that holds itself
        raise
    # An object of a stranger that does not even tell what it is.
    except Exception as error:
        odd = image_error(ImageErrorCode.UNSUPPORTED_FORMAT, error, item)
        yield Source(_name_of(item) or f"image_{next(numbers)}", odd)
        return
    if path is not None:
        yield from _sources_of_path(path, limits.fetch.storage)
    elif is_many:
        # A matrix gives matrices for ever.
        for part in np.asarray(item) if isinstance(item, np.ndarray) else item:
            yield from sources_of(part, numbers, limits)
    else:
        yield Source(_name_of(item) or f"image_{next(numbers)}", _content_of(item, limits.decode))


def _name_of(item: Any) -> str:
    """The name of an open file, or of the file that a picture is from; empty without one."""
    with suppress(Exception):  # an object of a stranger
        if is_tensor(item):
            return ""
        for name in (getattr(item, "name", ""), getattr(item, "filename", "")):
            if name and isinstance(name, str):
                return name
    return ""


def _is_many(item: Any) -> bool:
    """Whether it stands for its items: an open file is iterable too, by lines, and an array of one image by rows."""
    if is_array(item) and (is_tensor(item) or hasattr(item, "shape")):
        return is_batch(item)
    return (
        isinstance(item, Iterable)
        and not isinstance(item, Mapping)
        and not callable(getattr(item, "read", None))
        and not _is_buffer(item)
    )


def _is_buffer(item: Any) -> bool:
    """Whether it holds bytes: ``bytes`` and its like, ``array.array``, what ``ctypes`` makes."""
    if isinstance(item, bytes | bytearray | memoryview):
        return True
    try:
        memoryview(item).release()
    except TypeError:
        return False
    return True


def _content_of(item: Any, limits: DecodeLimits) -> bytes | np.ndarray | ImageError:
    """What is decoded later, in a thread; a copy, for callers may use their buffer again for the next image."""
    try:
        if callable(read := getattr(item, "read", None)):
            if isinstance(item, io.TextIOBase):
                return _no_image("a file that is open as text; open it with mode 'rb'")
            item = read()
            if not isinstance(item, bytes | bytearray | memoryview):
                return _no_image(f"an open file whose read() gives a {type(item).__name__}, not bytes")
        if hasattr(item, "convert") and hasattr(item, "getexif"):
            # Pillow reads a lazily opened image when it is first needed, and one object may show the next frame then.
            return decode_picture(item, limits)
        if is_array(item):
            return copy_array(item, limits)
        if _is_buffer(item):
            limits.check_bytes(memoryview(item).nbytes)
            return bytes(memoryview(item))
    except ImageError as error:
        return error.as_value()
    # Files fail to be read, are closed, buffers are released: the error of this item.
    except Exception as error:
        return image_error(ImageErrorCode.FETCH_FAILED, error)
    return _no_image(f"a {type(item).__name__}; expected a path, address, bytes, PIL image, array or tensor")


def _no_image(what: str) -> ImageError:
    return ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, what)


def image_error(code: ImageErrorCode, error: Exception, item: Any = None) -> ImageError:
    """What a stranger's object raised, as the error of its item; at most 200 characters."""
    words = type(error).__name__
    with suppress(Exception):
        words = " ".join(f"{words}: {error}".split())
    return ImageError(code, (f"a {type(item).__name__}: {words}" if item is not None else words)[:200])


def storage_image_error(error: ImgclsError) -> ImageError:
    """A failure of a whole storage, or of a place in it, as the error of one item."""
    code = ImageErrorCode.NOT_FOUND if isinstance(error, InputError) else ImageErrorCode.FETCH_FAILED
    if isinstance(cause := error.__cause__, ObjectError) and cause.failure in (Failure.DENIED, Failure.STORAGE):
        code = ImageErrorCode.ACCESS_DENIED
    return ImageError(code, " ".join(str(error).split()))


def _sources_of_path(path: str, storage: StorageOptions) -> Iterator[Source]:
    """What a path stands for; a place that cannot be listed, or not to its end, becomes a result: its error."""
    try:
        yield from _listed(path, storage)
    except ImgclsError as error:
        yield Source(path, storage_image_error(error))
    except Exception as error:
        yield Source(path, image_error(ImageErrorCode.FETCH_FAILED, error))


def _listed(path: str, storage: StorageOptions) -> Iterator[Source]:
    if is_url(path):
        yield Source(path, path)
    elif is_object(path):
        found = (Source(info.uri, info.uri) for info in list_place(path, storage))
        # A name under which nothing is becomes a result too: its error.
        first = next(found, None if path.endswith("/") else Source(path, path))
        yield from (() if first is None else itertools.chain([first], found))
    elif not host_of_file(path) and os.path.isdir(folder := path_from_uri(path)):
        counts = ListingCounts()
        for info in list_folder(folder, counts=counts):
            yield from _unlisted(counts)
            yield Source(info.uri, info.uri)
        yield from _unlisted(counts)
    else:
        yield Source(path, path)


def _unlisted(counts: ListingCounts) -> Iterator[Source]:
    """A folder that cannot be listed becomes a result: its error."""
    for folder, reason in counts.unlisted:
        is_denied = reason == os.strerror(errno.EACCES)
        code = ImageErrorCode.ACCESS_DENIED if is_denied else ImageErrorCode.FETCH_FAILED
        yield Source(folder, ImageError(code, f"the folder cannot be listed: {reason}"))
    counts.unlisted.clear()
