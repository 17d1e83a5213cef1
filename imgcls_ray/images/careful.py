"""Decode anything on the allow-list with Pillow, and decide which code a broken file gets.

Slow beside the fast JPEG decoder, but the arbiter: what fails there is decided here. It changes nothing in Pillow's
global state, so it can run in threads and beside other users of Pillow.
"""

from __future__ import annotations

import io
import struct
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.containers import (
    check_bmff_complete,
    check_riff_complete,
    is_tiff_complete,
    keep_head,
    keep_pixel_chunks,
)
from imgcls_ray.images.jpeg import check_jpeg, has_end_of_image, read_jpeg_header
from imgcls_ray.images.orientation import UPRIGHT, read_orientation, turn_upright
from imgcls_ray.images.sniff import ImageFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.images.limits import DecodeLimits

# The classes themselves instead of Image.open: it would say only "cannot identify", and here no other plugin, above all
# not the one that hands EPS to Ghostscript, can ever be reached.
_PLUGINS: dict[ImageFormat, type[ImageFile.ImageFile]] = {
    ImageFormat.JPEG: JpegImagePlugin.JpegImageFile,
    ImageFormat.PNG: PngImagePlugin.PngImageFile,
    ImageFormat.WEBP: WebPImagePlugin.WebPImageFile,
    ImageFormat.AVIF: AvifImagePlugin.AvifImageFile,
    ImageFormat.GIF: GifImagePlugin.GifImageFile,
    ImageFormat.BMP: BmpImagePlugin.BmpImageFile,
    ImageFormat.TIFF: TiffImagePlugin.TiffImageFile,
}
_GREY16_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
# Not among them: integers and floats of 32 bits, which have no agreed black and white, and LAB, which Pillow cannot
# convert.
_READABLE_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})
_PNG_BIT_DEPTH_AT = 24
_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC = 258, 262
_TIFF_WHITE_IS_ZERO = 0
_EXIF_ORIENTATION = 0x0112
_FORMATS_WITHOUT_END = frozenset({ImageFormat.GIF, ImageFormat.BMP})
_UNSUPPORTED_WORDS = ("unsupported", "not implemented", "unknown pixel mode")
_MAX_DETAIL_CHARS = 200


def decode_with_pillow(data: bytes, image_format: ImageFormat, limits: DecodeLimits) -> np.ndarray:
    """Decode the first picture of a file whose format is known and whose bytes are within the limit.

    Returns:
        Upright RGB, uint8 (H, W, 3), C-contiguous and writable.

    Raises:
        ImageError: Anything that went wrong.
    """
    with _as_image_errors(data, image_format):
        return _decode(data, image_format, limits)


def read_pillow_image(image: Image.Image, limits: DecodeLimits) -> np.ndarray:
    """Bring an image that is already Pillow's, loaded or not, to the same form under the same rules; it stays as it is.

    Raises:
        ImageError: As ``decode_with_pillow``, except that there is no file to call cut.
    """
    with _as_image_errors():
        limits.check_size(*image.size)
        image.load()
        return turn_upright(_to_rgb(image), read_orientation(image.info.get("exif", b"")))


def read_stored_form(data: bytes, image_format: ImageFormat) -> tuple[str, int]:
    """Say how a file that can be decoded stores its picture, at the cost of reading its head.

    Returns:
        Pillow's mode, or ``I;16`` for a PNG with 16 bits a sample whatever its colours; and the EXIF orientation, 1 to
        8, that decoding follows.

    Raises:
        ImageError: Anything that went wrong.
    """
    with _as_image_errors(data, image_format):
        data = keep_head(data) if image_format is ImageFormat.PNG else data
        with _PLUGINS[image_format](io.BytesIO(data)) as image:
            is_deep = image_format is ImageFormat.PNG and data[_PNG_BIT_DEPTH_AT] == 16
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                orientation = image.tag_v2.get(_EXIF_ORIENTATION, UPRIGHT)
                orientation = orientation if orientation in range(1, 9) else UPRIGHT
            else:
                orientation = read_orientation(image.info.get("exif", b""))
            return "I;16" if is_deep else image.mode, orientation


def read_size(data: bytes, image_format: ImageFormat) -> tuple[int, int]:
    """Width and height as stored, before any turning, at the cost of reading a file's head.

    Raises:
        ImageError: Anything that went wrong.
    """
    with _as_image_errors(data, image_format):
        data = keep_head(data) if image_format is ImageFormat.PNG else data
        with _PLUGINS[image_format](io.BytesIO(data)) as image:
            return image.size


@contextmanager
def _as_image_errors(data: bytes = b"", image_format: ImageFormat | None = None) -> Iterator[None]:
    _silence_metadata_warnings()
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ImageError(ImageErrorCode.TOO_MANY_PIXELS, _one_line(exc)) from exc
    except MemoryError as exc:
        raise ImageError(ImageErrorCode.DECODER_CRASHED, "not enough memory to decode it") from exc
    # Everything: plugins that parse bytes from strangers raise whatever their authors did not think of, and one broken
    # file must never cost more than its own row.
    except Exception as exc:
        raise ImageError(_code_of(exc, data, image_format), _one_line(exc)) from exc


def _decode(data: bytes, image_format: ImageFormat, limits: DecodeLimits) -> np.ndarray:
    orientation: int | None = None
    if image_format is ImageFormat.JPEG:
        header = read_jpeg_header(data)
        check_jpeg(data, header, limits)
        if header.scan is None or not has_end_of_image(data, header.scan):
            raise ImageError(ImageErrorCode.TRUNCATED, "the JPEG's end-of-image marker is missing")
        orientation = header.orientation
    elif image_format is ImageFormat.PNG:
        data = keep_pixel_chunks(data)
    elif image_format is ImageFormat.WEBP:
        check_riff_complete(data)
    elif image_format is ImageFormat.AVIF:
        check_bmff_complete(data)

    with _PLUGINS[image_format](io.BytesIO(data)) as image:
        limits.check_size(*image.size)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            orientation = UPRIGHT  # Pillow turns TIFFs while it loads them
        image.load()
        if image_format is ImageFormat.PNG:
            _scale_colour_key(image, bit_depth=data[_PNG_BIT_DEPTH_AT])
        pixels = _to_rgb(image)
    if orientation is None:
        orientation = read_orientation(image.info.get("exif", b""))
    return turn_upright(pixels, orientation)


def _scale_colour_key(image: ImageFile.ImageFile, *, bit_depth: int) -> None:
    """Bring a PNG's transparent grey or colour to 8 bits, as Pillow does with the pixels but not with the key."""
    key = image.info.get("transparency")
    if isinstance(key, tuple) and bit_depth == 16:
        # Pillow keeps the high bytes; colours that differ from the key in the low ones only become transparent too.
        image.info["transparency"] = tuple(sample >> 8 for sample in key)
    elif isinstance(key, int) and image.mode in ("1", "L"):
        image.info["transparency"] = key * 255 // ((1 << bit_depth) - 1)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in _GREY16_MODES:
        return _grey16_to_rgb(image)
    if image.mode not in _READABLE_MODES:
        raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"pixels of Pillow mode {image.mode}")
    if not image.has_transparency_data:
        return np.array(image.convert("RGB"))
    # Pillow would drop the premultiplied alpha of "La" on the direct way.
    return _composite_on_white((image.convert("LA") if image.mode == "La" else image).convert("RGBA"))


def _composite_on_white(rgba: Image.Image) -> np.ndarray:
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.getchannel("A"))
    return np.array(white)


def _grey16_to_rgb(image: Image.Image) -> np.ndarray:
    """Scale by the depth that the file declares, so that 4095 is white in a 12-bit file and grey in a 16-bit one."""
    samples = np.asarray(image).astype(np.uint32)
    white = 0xFFFF
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        white = (1 << image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (16,))[0]) - 1
        if image.tag_v2.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO:
            samples = white - samples
    grey = ((samples * 255 + white // 2) // white).astype(np.uint8)
    if "transparency" in image.info:
        grey[samples == image.info["transparency"]] = 255
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2)


def _code_of(exc: Exception, data: bytes, image_format: ImageFormat | None) -> ImageErrorCode:
    """Tell by Pillow's words what it does not tell by type; the tests pin the words."""
    text = str(exc).lower()
    if isinstance(exc, NotImplementedError) or any(words in text for words in _UNSUPPORTED_WORDS):
        return ImageErrorCode.UNSUPPORTED_FORMAT
    if "truncated" in text or (image_format is ImageFormat.TIFF and not is_tiff_complete(data)):
        return ImageErrorCode.TRUNCATED
    # Pillow's plugins read on past the end and trip over what is not there. Elsewhere the file is known to be whole.
    if image_format in _FORMATS_WITHOUT_END and isinstance(exc.__cause__ or exc, EOFError | IndexError | struct.error):
        return ImageErrorCode.TRUNCATED
    return ImageErrorCode.CORRUPT


def _one_line(exc: Exception) -> str:
    text = "".join(char if char.isprintable() else " " for char in f"{type(exc).__name__}: {exc}")
    return " ".join(text.split()).removesuffix(":")[:_MAX_DETAIL_CHARS]


def _silence_metadata_warnings() -> None:
    """Keep Pillow's remarks on damaged TIFF tags, and its size warning that ``limits`` replaces, from users.

    ``warnings.catch_warnings`` restores a global list and so is not safe in threads; a filter that is only ever added,
    and only for these two sources, is.
    """
    for category, module in ((UserWarning, r"PIL\.TiffImagePlugin"), (Image.DecompressionBombWarning, r"PIL\.Image")):
        warnings.filterwarnings("ignore", category=category, module=module)
