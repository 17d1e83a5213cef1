"""Decode anything on the allow-list with Pillow (JPEG XL with libjxl), and decide which code a broken file gets.

It is slower than the fast JPEG decoder. If that one fails, this one decides about the file. It does not change Pillow's
global state, so it can run in threads and together with other users of Pillow.
"""

from __future__ import annotations

import io
import struct
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
from imgcls_ray.images.bmff import check_avif_sizes
from imgcls_ray.images.bmp import expand_runs, read_alpha_of_16_bits
from imgcls_ray.images.containers import (
    check_bmff_complete,
    check_riff_complete,
    keep_head,
    keep_pixel_chunks,
    read_png_exif,
)
from imgcls_ray.images.gif import keep_first_picture
from imgcls_ray.images.jpeg import check_jpeg, has_end_of_image, keep_pixel_segments, read_jpeg_header
from imgcls_ray.images.jxl import decode_jxl, read_jxl_header
from imgcls_ray.images.orientation import UPRIGHT, read_orientation, turn_upright
from imgcls_ray.images.pixels import correct_palette, scale_colour_key, to_rgb
from imgcls_ray.images.sniff import ImageFormat
from imgcls_ray.images.tiff import check_tiff, is_tiff_complete
from imgcls_ray.images.tiff_copy import keep_picture
from imgcls_ray.images.tiff_planes import Planes, read_planes
from imgcls_ray.images.tiff_tags import PLANAR_CONFIGURATION, PLANES_APART, SAMPLES_PER_PIXEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

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
_PNG_BIT_DEPTH_AT = 24
_EXIF_ORIENTATION = 0x0112
_FORMATS_WITHOUT_END = frozenset({ImageFormat.GIF, ImageFormat.BMP})
_UNSUPPORTED_WORDS = ("unsupported", "not implemented", "unknown pixel mode", "unknown raw mode")
# A sequence without a still picture, and one of a codec that libheif was not built with.
_UNSUPPORTED_HEIF_WORDS = ("meta box", "not identified by this driver")
_TRUNCATED_WORDS = ("truncated", "need_more_input")
_MAX_DETAIL_CHARS = 200


def decode_with_pillow(data: bytes, image_format: ImageFormat, limits: DecodeLimits, scale: int = 1) -> np.ndarray:
    """Decode the first picture of a file whose format is known and whose bytes are within the limit.

    Args:
        scale: of a JPEG, by ``choose_scale``.

    Returns:
        Upright RGB, uint8 (H / scale, W / scale, 3), C-contiguous and writable.

    Raises:
        ImageError: Anything that went wrong.
    """
    with _as_image_errors(data, image_format):
        return _decode(data, image_format, limits, scale)


def read_pillow_image(image: Image.Image, limits: DecodeLimits) -> np.ndarray:
    """Convert an open Pillow image, loaded or not, to the same form by the same rules; the image itself is not changed.

    Raises:
        ImageError: As ``decode_with_pillow``, except that there is no file to call cut.
    """
    with _as_image_errors():
        limits.check_size(*image.size)
        image.load()
        return turn_upright(to_rgb(image), read_orientation(image.info.get("exif", b"")))


def read_stored_form(data: bytes, image_format: ImageFormat, limits: DecodeLimits) -> tuple[str, int]:
    """Read from the header how a file stores its picture.

    Returns:
        Pillow's mode, or ``I;16`` for a PNG or JPEG XL with more than 8 bits a sample whatever its colours; and the
        orientation, 1 to 8, that decoding follows.

    Raises:
        ImageError: Anything that went wrong.
    """
    with _as_image_errors(data, image_format):
        if image_format is ImageFormat.JXL:
            header = read_jxl_header(data)
            return "I;16" if header.bits > 8 else "L" if header.is_grey else "RGB", header.orientation
        planes = read_planes(data) if image_format is ImageFormat.TIFF else None
        if planes is not None:
            return planes.mode, planes.orientation
        if image_format is ImageFormat.PNG:
            data = keep_head(data)
        elif image_format is ImageFormat.TIFF:
            data = keep_picture(data, limits)
        elif image_format is ImageFormat.GIF:
            data = keep_first_picture(data)
        with _plugin(image_format)(io.BytesIO(data)) as image:
            is_deep = image_format is ImageFormat.PNG and data[_PNG_BIT_DEPTH_AT] == 16
            return "I;16" if is_deep else image.mode, _stored_orientation(image, data)


def _plugin(image_format: ImageFormat) -> type[ImageFile.ImageFile]:
    if image_format is not ImageFormat.HEIF:
        return _PLUGINS[image_format]
    try:
        from pillow_heif import HeifImageFile
    except ImportError as exc:
        raise ImageError(
            ImageErrorCode.UNSUPPORTED_FORMAT, "HEIC/HEIF needs an extra: pip install 'imgcls-ray[heif]'"
        ) from exc
    plugin: type[ImageFile.ImageFile] = HeifImageFile
    return plugin


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


def _decode(data: bytes, image_format: ImageFormat, limits: DecodeLimits, scale: int) -> np.ndarray:
    if image_format is ImageFormat.JXL:
        return decode_jxl(data, limits)
    plugin = _plugin(image_format)
    orientation: int | None = None
    if image_format is ImageFormat.JPEG:
        header = read_jpeg_header(data)
        check_jpeg(data, header, limits)
        if header.scan is None or not has_end_of_image(data, header.scan):
            raise ImageError(ImageErrorCode.TRUNCATED, "the JPEG's end-of-image marker is missing")
        orientation = header.orientation
        data = keep_pixel_segments(data, header)
    elif image_format is ImageFormat.PNG:
        data = keep_pixel_chunks(data)
    elif image_format is ImageFormat.GIF:
        data = keep_first_picture(data)
    elif image_format is ImageFormat.BMP:
        data = expand_runs(data, limits)
    elif image_format is ImageFormat.WEBP:
        check_riff_complete(data)
    elif image_format in (ImageFormat.AVIF, ImageFormat.HEIF):
        check_bmff_complete(data, image_format.name)
        if image_format is ImageFormat.AVIF:
            check_avif_sizes(data, limits)
    elif image_format is ImageFormat.TIFF:
        check_tiff(data)
        planes = read_planes(data)
        if planes is not None:
            return _decode_planes(data, planes, limits)
        data = keep_picture(data, limits)

    # Pillow's picture is gone before the pixels are turned, which copies them.
    return turn_upright(*_read_pixels(data, image_format, plugin, orientation, limits, scale))


def _read_pixels(
    data: bytes,
    image_format: ImageFormat,
    plugin: type[ImageFile.ImageFile],
    orientation: int | None,
    limits: DecodeLimits,
    scale: int,
) -> tuple[np.ndarray, int]:
    """The pixels as they are stored, and the orientation that is left to apply."""
    with plugin(io.BytesIO(data)) as image:
        limits.check_size(*image.size)
        if orientation is None:
            orientation = _stored_orientation(image, data)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_planes_together(image)
            # Pillow turns TIFFs while it loads them, by what it finds here: it would look into XMP too.
            image.getexif()[_EXIF_ORIENTATION] = orientation
            orientation = UPRIGHT
            correct_palette(image)
        elif image_format is ImageFormat.HEIF:
            orientation = UPRIGHT  # libheif has turned it, as the file's own properties say
        elif scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))
        image.load()
        if image_format is ImageFormat.PNG:
            scale_colour_key(image, bit_depth=data[_PNG_BIT_DEPTH_AT])
        pixels = to_rgb(image)
        if image_format is ImageFormat.BMP:
            is_opaque = read_alpha_of_16_bits(data)
            if is_opaque is not None:
                pixels[~is_opaque] = 255
    return pixels, orientation


def _check_planes_together(image: TiffImagePlugin.TiffImageFile) -> None:
    """Planes stored apart that could not be told apart: the file is damaged, and Pillow would guess."""
    planes = image.tag_v2.get(PLANAR_CONFIGURATION), image.tag_v2.get(SAMPLES_PER_PIXEL, 1)
    if planes[0] == PLANES_APART and planes[1] > 1:
        raise ValueError("its planes cannot be told apart")


def _decode_planes(data: bytes, planes: Planes, limits: DecodeLimits) -> np.ndarray:
    bands = []
    for directory in planes.directories:
        with TiffImagePlugin.TiffImageFile(io.BytesIO(keep_picture(data, limits, directory))) as image:
            limits.check_size(*image.size)
            image.load()
            # Three times the memory only where there is something to convert.
            bands.append(image if image.mode == "L" else Image.fromarray(to_rgb(image)[:, :, 0]))
    return turn_upright(to_rgb(Image.merge(planes.mode, bands) if len(bands) > 1 else bands[0]), planes.orientation)


def _stored_orientation(image: ImageFile.ImageFile, data: bytes) -> int:
    """What the file says of the way up, 1 to 8, before Pillow loads it and forgets."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        return read_orientation(*read_png_exif(data))
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        value = image.tag_v2.get(_EXIF_ORIENTATION, UPRIGHT)
        value = value[0] if isinstance(value, tuple | bytes) and value else value
        return value if value in range(1, 9) else UPRIGHT
    if image.format == ImageFormat.HEIF.name:
        value = image.info.get("original_orientation")
        return value if value is not None and value in range(1, 9) else UPRIGHT
    return read_orientation(image.info.get("exif", b""))


def _code_of(exc: Exception, data: bytes, image_format: ImageFormat | None) -> ImageErrorCode:
    """Choose the error code by the text of Pillow's error where its type is not enough; tests check these texts."""
    text = str(exc).lower()
    if isinstance(exc, NotImplementedError) or any(words in text for words in _UNSUPPORTED_WORDS):
        return ImageErrorCode.UNSUPPORTED_FORMAT
    if image_format is ImageFormat.HEIF and any(words in text for words in _UNSUPPORTED_HEIF_WORDS):
        return ImageErrorCode.UNSUPPORTED_FORMAT
    if any(words in text for words in _TRUNCATED_WORDS) or (
        image_format is ImageFormat.TIFF and not is_tiff_complete(data)
    ):
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
