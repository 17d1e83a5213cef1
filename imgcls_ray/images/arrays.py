"""Convert arrays and tensors to 8-bit RGB by the rules of the decoder, without decoding.

Types without a defined black and white (floats, wide integers) are refused.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from PIL import Image

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.decoder import decode_picture
from imgcls_ray.images.limits import DEFAULT_LIMITS, DecodeLimits

_GREY, _GREY_ALPHA, _RGB, _RGBA = 1, 2, 3, 4
_CHANNELS = (_GREY, _GREY_ALPHA, _RGB, _RGBA)
# Objects, bytes and two kinds of text, as ``numpy.dtype.kind`` has them.
_KINDS_OF_ITEMS = ("O", "S", "U", "T")
_EXPECTED = "uint8, uint16 or bool (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
_EXPECTED_TENSOR = "uint8, uint16 or bool (H, W), (1, H, W), (3, H, W) or (4, H, W)"


def is_tensor(item: Any) -> bool:
    """Whether it is a torch tensor; torch is not imported for that."""
    # Another thread may be importing it: whoever has a tensor has all of torch.
    kind = getattr(sys.modules.get("torch"), "Tensor", None)
    return kind is not None and isinstance(item, kind)


def is_array(item: Any) -> bool:
    """Whether it is an array of numpy, torch or another library with numpy's array interface."""
    return hasattr(type(item), "__array__")


def is_batch(item: Any) -> bool:
    """Whether an array is a batch of images or paths."""
    shape = getattr(item, "shape", None)
    if shape is None or is_tensor(item):
        return shape is not None and len(shape) == 4
    dtype = getattr(item, "dtype", None)
    kind = getattr(dtype, "kind", None)
    # Types that are not numpy's tell no kind: a row of them may be paths, a rectangle is a picture.
    is_of_numbers = kind not in _KINDS_OF_ITEMS if kind is not None else dtype is not None and len(shape) > 1
    return len(shape) == 4 or (len(shape) > 0 and not is_of_numbers)


def copy_array(item: Any, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
    """A copy of one image's array or tensor, in the form that ``rgb_of`` takes; one that is too large is not copied.

    Args:
        item: an array (H, W) or (H, W, C) of any library, or a tensor (H, W) or (C, H, W) on any device.
        limits: on the number of pixels.

    Raises:
        ImageError: it is no image, or too large.
    """
    if is_tensor(item):
        return _copy_tensor(item, limits)
    if not isinstance(item, np.ndarray):
        # Before another library makes the array: what has no such shape is found to be none afterwards.
        shape = tuple(getattr(item, "shape", None) or ())
        if len(shape) in (2, 3) and 0 not in shape:
            limits.check_size(shape[1], shape[0])
        try:
            item = np.asarray(item)
        except Exception as error:  # of any library
            words = " ".join(f"a {type(item).__name__}: {error}".split())
            raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, words[:200]) from error
    _check(item, limits)
    # Not its own copy(): a matrix would stay one, and has no third dimension.
    return np.array(item, order="C")


def _copy_tensor(tensor: Any, limits: DecodeLimits) -> np.ndarray:
    shape = tuple(tensor.shape)
    seen = f"a tensor {str(tensor.dtype).removeprefix('torch.')} {shape}; expected {_EXPECTED_TENSOR}"
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in _CHANNELS) or 0 in shape:
        raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, seen)
    limits.check_size(shape[-1], shape[-2])
    try:
        array = np.array(tensor.detach().cpu().numpy(), order="C")
    # Sparse, quantised and meta tensors, and types that numpy has not, each in its own way.
    except Exception as error:
        raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, seen) from error
    return array if array.ndim == 2 else np.moveaxis(array, 0, -1)


def rgb_of(array: np.ndarray, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Bring an image array to uint8 (H, W, 3), RGB: grey is repeated, alpha is laid on white, 16 bits are scaled.

    Args:
        array: uint8, uint16 (65535 is white) or bool; (H, W), (H, W, 1), (H, W, 2), (H, W, 3) or (H, W, 4). It stays
            as it is.
        limits: on the number of pixels.

    Raises:
        ImageError: it is no image, or too large.
    """
    channels = _check(array, limits)
    pixels = _to_8_bits(array).reshape(*array.shape[:2], channels)
    if channels == _GREY:
        return np.repeat(pixels, 3, axis=2)
    if channels == _RGB:
        return np.array(pixels, order="C")
    return decode_picture(Image.fromarray(np.ascontiguousarray(pixels)), limits)


def _check(array: np.ndarray, limits: DecodeLimits) -> int:
    """Refuse what is no image or too large; returns the number of channels."""
    channels = array.shape[2] if array.ndim == 3 else _GREY
    if (
        array.dtype.name not in ("uint8", "uint16", "bool")
        or array.ndim not in (2, 3)
        or channels not in _CHANNELS
        or 0 in array.shape
    ):
        raise ImageError(
            ImageErrorCode.UNSUPPORTED_FORMAT, f"an array {array.dtype} {array.shape}; expected {_EXPECTED}"
        )
    limits.check_size(array.shape[1], array.shape[0])
    return channels


def _to_8_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.itemsize == 1:
        return array
    # As the decoder scales a file of 16 bits.
    return ((array.astype(np.uint32) * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)
