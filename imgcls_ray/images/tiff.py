"""Read a TIFF's directories without decoding it: whether the file is whole, and what Pillow would read wrongly."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.orientation import UPRIGHT

if TYPE_CHECKING:
    from collections.abc import Mapping

BITS_PER_SAMPLE, PHOTOMETRIC, COLOR_MAP = 258, 262, 320
_NEW_SUBFILE_TYPE, _WIDTH, _LENGTH, _COMPRESSION, _FILL_ORDER, _ORIENTATION = 254, 256, 257, 259, 266, 274
SAMPLES_PER_PIXEL, PLANAR_CONFIGURATION, PLANES_APART = 277, 284, 2
_ROWS_PER_STRIP, _PREDICTOR = 278, 317
_TILE_WIDTH, _TILE_LENGTH, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 322, 323, 338, 339
_STRIP_OFFSETS, _STRIP_BYTE_COUNTS, _TILE_OFFSETS, _TILE_BYTE_COUNTS = 273, 279, 324, 325
_SUB_IFDS, _JPEG_TABLES, _DNG_VERSION = 330, 347, 50706
# Those of a page that hold for each of its planes.
_TAGS_OF_PLANES = (
    _WIDTH,
    _LENGTH,
    _COMPRESSION,
    _FILL_ORDER,
    _ROWS_PER_STRIP,
    _PREDICTOR,
    _TILE_WIDTH,
    _TILE_LENGTH,
    _JPEG_TABLES,
)

WHITE_IS_ZERO = 0
_BLACK_IS_ZERO, _RGB, _SEPARATED = 1, 2, 5
_COLOUR_FILTER_ARRAY, _LINEAR_RAW = 32803, 34892
_PLANES_OF_COLOURS = {WHITE_IS_ZERO: "L", _BLACK_IS_ZERO: "L", _RGB: "RGB", _SEPARATED: "CMYK"}
_PREMULTIPLIED, _ALPHA = 1, 2
_REDUCED = 1
_INK_SET, _CMYK_INKS = 332, 1
# Unsigned integers, and "undefined", which those who write it mean by nothing.
_UNSIGNED_FORMATS = frozenset({1, 4})
# Grey, RGB, palette, CMYK, YCbCr.
_PHOTOMETRICS = frozenset({0, 1, 2, 3, 5, 6})
# None, fax, LZW, JPEG old and new, deflate, packbits, LZMA and Zstandard: what Pillow's libtiff is built with. Not 2,
# fax without ends of lines: libtiff 4.7 reads the last line of a strip wrongly.
_COMPRESSIONS = frozenset({1, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946, 34925, 50000})
_BIG_ENDIAN_BIGTIFF = b"MM\0+"
# Where Canon's files say what they are.
_CR2_MAGIC, _CR2_MAGIC_AT = b"CR\x02", 8

_DATA_TAGS = ((_STRIP_OFFSETS, _STRIP_BYTE_COUNTS), (_TILE_OFFSETS, _TILE_BYTE_COUNTS))
_TAGS = frozenset(
    {
        *_TAGS_OF_PLANES,
        *(tag for pair in _DATA_TAGS for tag in pair),
        *(BITS_PER_SAMPLE, PHOTOMETRIC, _NEW_SUBFILE_TYPE, _ORIENTATION, SAMPLES_PER_PIXEL, PLANAR_CONFIGURATION),
        *(_EXTRA_SAMPLES, _SAMPLE_FORMAT, _SUB_IFDS, _DNG_VERSION, _INK_SET),
    }
)
_DTYPES = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 7: "u1", 8: "i2", 9: "i4", 13: "u4", 16: "u8", 17: "i8", 18: "u8"}
_BYTES, _LONG, _LONG8 = 7, 4, 16
# Directories have tens of entries and few children; a file must not buy more of our time by claiming more.
_MAX_ENTRIES, _MAX_SUB_IFDS = 4096, 16

Tags = dict[int, np.ndarray]
_ONE = np.ones(1, np.uint8)


class Planes(NamedTuple):
    """A page whose samples lie apart: first all of the red ones, then all of the green ones."""

    mode: str
    """Pillow's mode of the planes together, a letter a plane: ``RGB``, ``LA``, ``RGBa``, ``CMYK``, ..."""
    directories: list[Tags]
    """That of each plane as a grey page, and of no other samples than those of ``mode``."""
    orientation: int
    """1 to 8."""


class _Layout(NamedTuple):
    """How the two kinds of TIFF lay out their numbers."""

    order: str
    word: str
    num_entries: str
    first_ifd_at: int


def is_tiff_complete(tiff: bytes) -> bool:
    """Whether the first page's directory, and the strips or tiles that it lists, lie within the file.

    For telling why decoding failed, not for refusing: byte counts that reach too far are common and often harmless.
    """
    try:
        tags = _read_first_ifd(tiff)
    except (struct.error, ValueError, OverflowError):
        return False
    for offsets_tag, counts_tag in _DATA_TAGS:
        # Floats, because hostile integers of 64 bits would wrap around to a sum within the file.
        pairs = zip(tags.get(offsets_tag, ()), tags.get(counts_tag, ()), strict=False)
        if any(float(offset) + float(count) > len(tiff) for offset, count in pairs):
            return False
    return True


def check_tiff(tiff: bytes) -> None:
    """Refuse what Pillow would read as other pixels.

    A camera's raw file (NEF, DNG, CR2, ARW, ...) is a TIFF whose first page is a thumbnail. Pages for zooming out (a
    pyramid's SubIFDs, which are smaller than the first page) are none of that.

    Raises:
        ImageError: ``unsupported_format``.
    """
    reason = _reason_to_refuse(tiff)
    if reason:
        raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, reason)


def _reason_to_refuse(tiff: bytes) -> str:
    if tiff.startswith(_BIG_ENDIAN_BIGTIFF):
        return "a big-endian BigTIFF"  # Pillow looks for its first directory in the wrong place
    raw_reason = "it is marked as Canon's CR2" if tiff.startswith(_CR2_MAGIC, _CR2_MAGIC_AT) else ""
    try:
        first = _read_first_ifd(tiff)
        raw_reason = raw_reason or _raw_reason(tiff, first)
    except (struct.error, ValueError, OverflowError):
        first = {}  # damaged: Pillow says how
    if raw_reason:
        return f"a camera raw file: {raw_reason}; convert it to JPEG, PNG or plain TIFF"
    if _first(first, _COMPRESSION, 1) not in _COMPRESSIONS:
        return f"a TIFF of compression {_first(first, _COMPRESSION)}"
    if _first(first, PHOTOMETRIC) not in _PHOTOMETRICS:
        return f"a TIFF of photometric {_first(first, PHOTOMETRIC)}"
    if not {int(kind) for kind in first.get(_SAMPLE_FORMAT, ())} <= _UNSIGNED_FORMATS:
        return "a TIFF of signed integers or floats, which have no agreed black and white"
    if _first(first, PHOTOMETRIC) == _SEPARATED and _first(first, _INK_SET, _CMYK_INKS) != _CMYK_INKS:
        return "a TIFF of other inks than CMYK"
    return ""


def _raw_reason(tiff: bytes, first: Tags) -> str:
    if _DNG_VERSION in first:
        return "it has a DNG version"
    pages = [first, *_read_sub_ifds(tiff, first)]
    if any(_first(page, PHOTOMETRIC) in (_COLOUR_FILTER_ARRAY, _LINEAR_RAW) for page in pages):
        return "it holds a sensor's samples"
    if _SUB_IFDS not in first:
        return ""
    sizes = [_num_pixels(page) for page in pages[1:]]
    is_reduced = bool(_first(first, _NEW_SUBFILE_TYPE) & _REDUCED)
    # One that calls itself reduced is no thumbnail where all that lies below it is smaller still.
    smallest_whole = _num_pixels(first) + (0 if is_reduced else 1)
    if any(size >= smallest_whole for size in sizes) or (is_reduced and not sizes):
        return "its first page is a thumbnail of what lies in SubIFDs"
    return ""


def read_planes(tiff: bytes) -> Planes | None:
    """Take a page apart whose samples are stored apart; None for all others, and where the page is damaged.

    Pillow reads planes of 8 bits only, and without a word those of 16 bits as if they were.

    Raises:
        ImageError: ``unsupported_format`` for samples of an unknown meaning.
    """
    try:
        tags = _read_first_ifd(tiff)
    except (struct.error, ValueError, OverflowError):
        return None
    num_samples = _first(tags, SAMPLES_PER_PIXEL, 1)
    if _first(tags, PLANAR_CONFIGURATION) != PLANES_APART or num_samples < 2:
        return None
    offsets_tag, counts_tag = next((pair for pair in _DATA_TAGS if pair[0] in tags), _DATA_TAGS[0])
    per_plane, rest = divmod(len(tags.get(offsets_tag, ())), num_samples)
    if not per_plane or rest:
        return None
    mode, samples = _samples_to_read(tags, num_samples)
    orientation = _first(tags, _ORIENTATION, UPRIGHT)
    directories = []
    for sample in samples:
        part = slice(sample * per_plane, (sample + 1) * per_plane)
        plane = {tag: tags[tag] for tag in _TAGS_OF_PLANES if tag in tags}
        plane |= {tag: tags[tag][part] for tag in (offsets_tag, counts_tag) if tag in tags}
        plane |= {tag: np.array([_nth(tags, tag, sample)]) for tag in (BITS_PER_SAMPLE, _SAMPLE_FORMAT)}
        is_inverted = mode == "L" and _first(tags, PHOTOMETRIC) == WHITE_IS_ZERO
        plane[PHOTOMETRIC] = np.array([WHITE_IS_ZERO if is_inverted else _BLACK_IS_ZERO])
        directories.append(plane)
    return Planes(mode, directories, orientation if 1 <= orientation <= 8 else UPRIGHT)


def _samples_to_read(tags: Tags, num_samples: int) -> tuple[str, list[int]]:
    """The same choice as Pillow's where the samples of a pixel lie together."""
    photometric = _first(tags, PHOTOMETRIC)
    mode = _PLANES_OF_COLOURS.get(photometric, "")
    num_colours = len(mode)
    extra_samples = [int(kind) for kind in tags.get(_EXTRA_SAMPLES, ())]
    if mode == "RGB" and num_samples == 4 and not extra_samples:
        extra_samples = [_ALPHA]
    if not mode or num_samples != num_colours + len(extra_samples):
        raise ImageError(
            ImageErrorCode.UNSUPPORTED_FORMAT,
            f"a TIFF of {num_samples} planes stored apart, photometric {photometric}, extra samples {extra_samples}",
        )
    samples = list(range(num_colours))
    alphas = [at for at, kind in enumerate(extra_samples) if kind in (_PREMULTIPLIED, _ALPHA)]
    if not alphas:
        return mode, samples
    if mode == "CMYK" or photometric == WHITE_IS_ZERO:
        raise ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"a TIFF of photometric {photometric} with alpha")
    letter = "a" if extra_samples[alphas[0]] == _PREMULTIPLIED else "A"
    return mode + letter, [*samples, num_colours + alphas[0]]


def _nth(tags: Tags, tag: int, sample: int) -> int:
    """A value that is given once, or once a sample."""
    values = tags.get(tag, _ONE)
    return int(values[min(sample, len(values) - 1)])


def with_first_directory(tiff: bytes, tags: Tags) -> bytes:
    """The file with another first directory, appended to it."""
    layout = _layout(tiff)
    word = struct.Struct(layout.order + layout.word)
    kind_of_numbers = _LONG if layout.word == "I" else _LONG8
    ifd = len(tiff) + len(tiff) % 2
    values_at = ifd + struct.calcsize(layout.num_entries) + len(tags) * (4 + 2 * word.size) + word.size
    entries, values = [], b""
    for tag in sorted(tags):
        kind = _BYTES if tag == _JPEG_TABLES else kind_of_numbers
        packed = tags[tag].astype(layout.order + _DTYPES[kind]).tobytes()
        field = packed.ljust(word.size, b"\0") if len(packed) <= word.size else word.pack(values_at + len(values))
        values += packed if len(packed) > word.size else b""
        entries.append(struct.pack(layout.order + "HH", tag, kind) + word.pack(len(tags[tag])) + field)
    num_entries = struct.pack(layout.order + layout.num_entries, len(tags))
    head = tiff[: layout.first_ifd_at] + word.pack(ifd)
    return b"".join([head, tiff[len(head) :], b"\0" * (len(tiff) % 2), num_entries, *entries, word.pack(0), values])


def _first(tags: Mapping[int, np.ndarray], tag: int, default: int = 0) -> int:
    values = tags.get(tag)
    return int(values[0]) if values is not None and values.size else default


def _num_pixels(tags: Tags) -> int:
    return _first(tags, _WIDTH) * _first(tags, _LENGTH)


def _read_sub_ifds(tiff: bytes, first: Tags) -> list[Tags]:
    layout = _layout(tiff)
    sub_ifds = []
    for ifd in first.get(_SUB_IFDS, np.empty(0, np.uint32))[:_MAX_SUB_IFDS]:
        try:
            sub_ifds.append(_read_ifd(tiff, layout, int(ifd)))
        except (struct.error, ValueError, OverflowError):
            continue
    return sub_ifds


def _layout(tiff: bytes) -> _Layout:
    order = "<" if tiff[:2] == b"II" else ">"
    return _Layout(order, "Q", "Q", 8) if 43 in tiff[2:4] else _Layout(order, "I", "H", 4)


def _read_first_ifd(tiff: bytes) -> Tags:
    layout = _layout(tiff)
    (ifd,) = struct.unpack_from(layout.order + layout.word, tiff, layout.first_ifd_at)
    return _read_ifd(tiff, layout, ifd)


def _read_ifd(tiff: bytes, layout: _Layout, ifd: int) -> Tags:
    """Read the tags that are looked at here; raises what struct and numpy do where they lie beyond the end."""
    order, word = layout.order, layout.word
    entry = struct.Struct(f"{order}HH{word}{word}")
    word_bytes = struct.calcsize(word)

    (num_entries,) = struct.unpack_from(order + layout.num_entries, tiff, ifd)
    start = ifd + struct.calcsize(layout.num_entries)
    tags = {}
    for position in range(start, start + min(num_entries, _MAX_ENTRIES) * entry.size, entry.size):
        tag, kind, count, value = entry.unpack_from(tiff, position)
        if tag in _TAGS and kind in _DTYPES:
            dtype = np.dtype(order + _DTYPES[kind])
            # Values that fit into the entry lie in its last word; of others it holds the offset.
            is_inline = count * dtype.itemsize <= word_bytes
            tags[tag] = np.frombuffer(tiff, dtype, count, position + entry.size - word_bytes if is_inline else value)
    return tags
