"""Read a TIFF's directories without decoding it, to find incomplete files and files that Pillow would read wrongly.

Pillow and libtiff never get the original file. They get a copy with a new directory, which has only the tags that the
pixels need, and no more strips and tiles than the picture's size explains. Otherwise a small file could block them for
minutes, because both read every tag of a file, and Pillow creates several objects for each strip.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.limits import check_pieces
from imgcls_ray.images.orientation import UPRIGHT

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from imgcls_ray.images.limits import DecodeLimits


def _among_all(numbers: Set[int]) -> np.ndarray:
    """For each number of 16 bits, whether it is one of these."""
    return np.isin(np.arange(1 << 16), sorted(numbers))


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
# What Pillow and libtiff look at to find the pixels: fax options, what a file of the old JPEG compression needs, YCbCr.
_FAX_TAGS = (292, 293, 326, 327, 328)
_OLD_JPEG_TAGS = (512, 513, 514, 515, 517, 518, 519, 520, 521)
_YCBCR_TAGS = (529, 530, 531, 532)
_INK_TAGS = (332, 333, 334, 336)
_NEEDED_TAGS = _among_all(
    {*_TAGS, COLOR_MAP, *_FAX_TAGS, *_OLD_JPEG_TAGS, *_YCBCR_TAGS, *_INK_TAGS} - {_SUB_IFDS, _DNG_VERSION}
)
_TAGS_READ = _among_all(_TAGS)
# Bytes of one value, by its type.
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TAGS_OF_LAYOUT = frozenset({_ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH})
# Of one tag that is not a list of strips or tiles; a palette of 16 bits has 393,216 bytes.
_MAX_TAG_BYTES = 1 << 19
_UNCOMPRESSED = 1
_DTYPES = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 7: "u1", 8: "i2", 9: "i4", 13: "u4", 16: "u8", 17: "i8", 18: "u8"}
_SHORT, _LONG, _LONG8 = 3, 4, 16
# Directories have few children; a file must not buy more of our time by claiming more.
_MAX_SUB_IFDS = 16

_TAGS_OF_PIECES = frozenset(tag for pair in _DATA_TAGS for tag in pair)
_KINDS = _among_all(set(_VALUE_BYTES))
# There are no more tags.
_MAX_ENTRIES = 1 << 16
# What Pillow reads has six samples and 64 bits a pixel at most.
_MAX_SAMPLES, _MAX_BITS_PER_PIXEL = 6, 128

Tags = dict[int, np.ndarray]
Entries = dict[int, tuple[int, int, bytes]]
"""By tag: type, number of values, and the field that holds them or their offset."""
_NONE = np.empty(0, np.uint8)


class Planes(NamedTuple):
    """A page with separate planes: first all red samples, then all green ones."""

    mode: str
    """Pillow's mode of the planes together, a letter a plane: ``RGB``, ``LA``, ``RGBa``, ``CMYK``, ..."""
    directories: list[Entries]
    """That of each plane as a grey page, and of no other samples than those of ``mode``; for ``keep_picture``."""
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

    Use it to explain a failed decoding, not to refuse a file: byte counts beyond the end are common and often harmless.
    """
    try:
        tags = _read_first_ifd(tiff)
    except (struct.error, ValueError, OverflowError):
        return False
    for offsets_tag, counts_tag in _DATA_TAGS:
        offsets, counts = tags.get(offsets_tag, _NONE), tags.get(counts_tag, _NONE)
        num_pieces = min(len(offsets), len(counts))
        # Floats, because hostile integers of 64 bits would wrap around to a sum within the file.
        ends = offsets[:num_pieces].astype(float) + counts[:num_pieces].astype(float)
        if (ends > len(tiff)).any():
            return False
    return True


def check_tiff(tiff: bytes) -> None:
    """Refuse files whose pixels Pillow would read wrongly.

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
    """Split a page with separate planes into its planes; None for other pages and for damaged ones.

    Pillow reads planes of 8 bits only, and without a word those of 16 bits as if they were.

    Raises:
        ImageError: ``unsupported_format`` for samples of an unknown meaning.
    """
    try:
        tags, page = _read_first_ifd(tiff), _read_page(tiff)
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
    is_inverted = mode == "L" and _first(tags, PHOTOMETRIC) == WHITE_IS_ZERO
    photometric = struct.pack(page.layout.order + "H", WHITE_IS_ZERO if is_inverted else _BLACK_IS_ZERO)
    orientation = _first(tags, _ORIENTATION, UPRIGHT)
    directories = []
    for sample in samples:
        plane = {tag: page.entries[tag] for tag in _TAGS_OF_PLANES if tag in tags}
        plane[offsets_tag] = page.part(offsets_tag, sample * per_plane, per_plane)
        if len(tags.get(counts_tag, ())) == per_plane * num_samples:
            plane[counts_tag] = page.part(counts_tag, sample * per_plane, per_plane)
        for tag in (BITS_PER_SAMPLE, _SAMPLE_FORMAT):
            if tag in tags and len(tags[tag]):
                plane[tag] = page.part(tag, min(sample, len(tags[tag]) - 1), 1)
        plane[PHOTOMETRIC] = (_SHORT, 1, photometric.ljust(len(page.pack(0)), b"\0"))
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


def _with_entries(page: _Page, entries: Entries, body: list[bytes | memoryview]) -> bytes:
    """The file with other entries in the place of its first directory, which has no fewer, and a body behind its end.

    In its place, because what stood behind the end of a file that was cut would be read as pixels.
    """
    layout = page.layout
    directory = struct.pack(layout.order + layout.num_entries, len(entries)) + b"".join(
        struct.pack(layout.order + "HH" + layout.word, tag, kind, count) + field
        for tag, (kind, count, field) in sorted(entries.items())
    )
    directory += b"\0" * struct.calcsize(layout.word)  # there is no further page
    tiff = memoryview(page.tiff)
    return b"".join([tiff[: page.ifd], directory, tiff[page.ifd + len(directory) :], *body])


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
    word_bytes = struct.calcsize(layout.word)
    entries, is_cut = _read_entries(tiff, layout, ifd, _TAGS_READ)
    if is_cut:
        raise ValueError("the directory ends behind the file")
    tags = {}
    for tag, (kind, count, field) in entries.items():
        if kind in _DTYPES:
            dtype = np.dtype(layout.order + _DTYPES[kind])
            if tag not in _TAGS_OF_PIECES and count * dtype.itemsize > _MAX_TAG_BYTES:
                raise ValueError(f"tag {tag} has {count} values")
            # Values that fit into the entry lie in its last word; of others it holds the offset.
            is_inline = count * dtype.itemsize <= word_bytes
            (value,) = struct.unpack(layout.order + layout.word, field)
            tags[tag] = np.frombuffer(field, dtype, count) if is_inline else np.frombuffer(tiff, dtype, count, value)
    return tags


def _read_entries(tiff: bytes, layout: _Layout, ifd: int, wanted: np.ndarray) -> tuple[Entries, bool]:
    """The entries of these tags, of each tag the first one of a known type; and whether the file ends before them all.

    Raises:
        struct.error: the directory does not begin within the file.
        ImageError: ``corrupt`` for more entries than there are tags.
    """
    word_bytes = struct.calcsize(layout.word)
    dtype = np.dtype(
        {
            "names": ["tag", "kind", "count", "field"],
            "formats": [layout.order + "u2", layout.order + "u2", f"{layout.order}u{word_bytes}", f"V{word_bytes}"],
        }
    )
    (num_entries,) = struct.unpack_from(layout.order + layout.num_entries, tiff, ifd)
    if num_entries > _MAX_ENTRIES:
        raise ImageError(ImageErrorCode.CORRUPT, f"{num_entries} entries in a TIFF directory")
    start = ifd + struct.calcsize(layout.num_entries)
    num_there = min(num_entries, (len(tiff) - start) // dtype.itemsize)
    found = np.frombuffer(tiff, dtype, num_there, start)
    found = found[wanted[found["tag"]] & _KINDS[found["kind"]]]
    _, firsts = np.unique(found["tag"], return_index=True)
    entries = {int(tag): (int(kind), int(count), field.tobytes()) for tag, kind, count, field in found[firsts]}
    return entries, num_there < num_entries


def keep_picture(tiff: bytes, limits: DecodeLimits, entries: Entries | None = None) -> bytes:
    """The file with a new first directory, which has only the tags that the first page's pixels need.

    An uncompressed picture becomes one strip: Pillow reads each strip and tile by itself, in Python.

    Args:
        entries: those of one of its planes, instead of all that are needed.

    Raises:
        ImageError: ``too_many_pixels``; ``corrupt`` for more strips, tiles or values than the picture's size explains;
            ``truncated`` where a strip or tile lies behind the end.
    """
    try:
        page = _read_page(tiff)
    except (struct.error, ValueError, OverflowError):
        return tiff  # there is no directory to read: Pillow says so
    if entries is not None:
        page = page._replace(entries=entries)
    width, height = page.number(_WIDTH), page.number(_LENGTH)
    if width is None or height is None:
        raise ValueError("its directory gives no width or no height")
    limits.check_size(*((height, width) if page.number(_ORIENTATION) in (5, 6, 7, 8) else (width, height)))
    for tag, (kind, count, _) in page.entries.items():
        if tag in _TAGS_OF_PIECES:
            check_pieces(count, "tiles" if tag in _DATA_TAGS[1] else "strips", width, height)
        elif count * _VALUE_BYTES[kind] > _MAX_TAG_BYTES:
            raise ImageError(ImageErrorCode.CORRUPT, f"{count} values of TIFF tag {tag}")
    tile_width, tile_length = page.number(_TILE_WIDTH, 0), page.number(_TILE_LENGTH, 0)
    tile_size = (tile_width, tile_length) if tile_width and tile_length and _TILE_OFFSETS in page.entries else None
    if tile_size is not None:
        limits.check_coded_size(*_coded_size(width, height, *tile_size), width, height)
    is_raw = page.number(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED
    if not is_raw or not (tile_size or _STRIP_OFFSETS in page.entries):
        return _with_entries(page, page.entries, [])
    at, body = _as_one_strip(page, width, height, None if _STRIP_OFFSETS in page.entries else tile_size)
    rest = {tag: entry for tag, entry in page.entries.items() if tag not in (*_TAGS_OF_PIECES, *_TAGS_OF_LAYOUT)}
    kind = _LONG if page.layout.word == "I" else _LONG8
    return _with_entries(page, rest | {_STRIP_OFFSETS: (kind, 1, page.pack(at))}, body)


class _Page(NamedTuple):
    """A directory whose values are looked at one by one: one that is damaged must not cost the others."""

    tiff: bytes
    layout: _Layout
    ifd: int
    """Where the directory begins."""
    entries: Entries

    def pack(self, number: int) -> bytes:
        return struct.pack(self.layout.order + self.layout.word, number)

    def values(self, tag: int) -> np.ndarray:
        """Empty where the tag is missing, of no integers, or lies behind the end."""
        kind, count, field = self.entries.get(tag, (0, 0, b""))
        if kind not in _DTYPES or not count:
            return _NONE
        dtype = np.dtype(self.layout.order + _DTYPES[kind])
        if count * dtype.itemsize <= len(field):
            return np.frombuffer(field, dtype, count)
        (at,) = struct.unpack(self.layout.order + self.layout.word, field)
        if at + count * dtype.itemsize > len(self.tiff):
            return _NONE
        return np.frombuffer(self.tiff, dtype, count, at)

    @overload
    def number(self, tag: int) -> int | None: ...

    @overload
    def number(self, tag: int, default: int) -> int: ...

    def number(self, tag: int, default: int | None = None) -> int | None:
        values = self.values(tag)
        return int(values[0]) if values.size else default

    def part(self, tag: int, first: int, count: int) -> tuple[int, int, bytes]:
        """The entry of some of a tag's values."""
        kind, num_values, field = self.entries[tag]
        size = _VALUE_BYTES[kind]
        if num_values * size > len(field):
            (at,) = struct.unpack(self.layout.order + self.layout.word, field)
            if count * size > len(field):
                return kind, count, self.pack(at + first * size)
            field, first = self.tiff[at + first * size : at + (first + count) * size], 0
        return kind, count, field[first * size : (first + count) * size].ljust(len(self.pack(0)), b"\0")


def _read_page(tiff: bytes) -> _Page:
    """The first page, with the tags that its pixels need."""
    layout = _layout(tiff)
    (ifd,) = struct.unpack_from(layout.order + layout.word, tiff, layout.first_ifd_at)
    return _Page(tiff, layout, ifd, _read_entries(tiff, layout, ifd, _NEEDED_TAGS)[0])


def _as_one_strip(
    page: _Page, width: int, height: int, tile_size: tuple[int, int] | None
) -> tuple[int, list[bytes | memoryview]]:
    """Where the rows of an uncompressed picture lie one behind the other; and them, where they have to be appended."""
    bits = [int(depth) for depth in page.values(BITS_PER_SAMPLE)[:_MAX_SAMPLES]] or [1]
    num_samples = page.number(SAMPLES_PER_PIXEL, 1)
    bits_per_pixel = bits[0] * num_samples if len(bits) == 1 else sum(bits[:num_samples])
    row_bytes = -(-width * bits_per_pixel // 8)
    if not 0 < bits_per_pixel <= _MAX_BITS_PER_PIXEL:
        raise ValueError(f"{bits_per_pixel} bits a pixel")
    if tile_size is not None:
        return len(page.tiff), [_gather_tiles(page, height, row_bytes, bits_per_pixel, (width, *tile_size)).data]
    offsets = page.values(_STRIP_OFFSETS).astype(np.uint64)
    rows_per_strip = min(page.number(_ROWS_PER_STRIP, 0) or height, height)
    num_strips = -(-height // rows_per_strip)
    if len(offsets) < num_strips:
        raise ImageError(ImageErrorCode.CORRUPT, f"{len(offsets)} of {num_strips} strips")
    strip_bytes = rows_per_strip * row_bytes
    offsets = offsets[:num_strips]
    starts = offsets.tolist()
    if num_strips == 1 or (offsets[1:] == offsets[:-1] + np.uint64(strip_bytes)).all():
        return starts[0], []
    last_bytes = (height - (num_strips - 1) * rows_per_strip) * row_bytes
    if max(starts[:-1]) + strip_bytes > len(page.tiff) or starts[-1] + last_bytes > len(page.tiff):
        raise ImageError(ImageErrorCode.TRUNCATED, "a strip of the TIFF lies behind its end")
    strips: list[bytes | memoryview] = [page.tiff[start : start + strip_bytes] for start in starts[:-1]]
    return len(page.tiff), [*strips, page.tiff[starts[-1] : starts[-1] + last_bytes]]


def _gather_tiles(
    page: _Page, height: int, row_bytes: int, bits_per_pixel: int, widths: tuple[int, int, int]
) -> np.ndarray:
    """The rows of an uncompressed picture of tiles: uint8 (height, row_bytes)."""
    width, tile_width, tile_length = widths
    across, down = -(-width // tile_width), -(-height // tile_length)
    if across > 1 and tile_width * bits_per_pixel % 8:
        raise ValueError(f"tiles {tile_width} pixels wide, whose rows do not end on whole bytes")
    offsets = page.values(_TILE_OFFSETS)
    if len(offsets) < across * down:
        raise ImageError(ImageErrorCode.CORRUPT, f"{len(offsets)} of {across * down} tiles")
    tile_row_bytes = -(-tile_width * bits_per_pixel // 8)
    data = np.frombuffer(page.tiff, np.uint8)
    rows = np.empty((height, row_bytes), np.uint8)
    starts = iter(offsets.tolist())
    for top in range(0, height, tile_length):
        num_rows = min(tile_length, height - top)
        for left in range(0, row_bytes, tile_row_bytes):
            start = next(starts)
            tile = data[start : start + num_rows * tile_row_bytes]
            if tile.size < num_rows * tile_row_bytes:
                raise ImageError(ImageErrorCode.TRUNCATED, "a tile of the TIFF lies behind its end")
            kept = tile.reshape(num_rows, tile_row_bytes)[:, : row_bytes - left]
            rows[top : top + num_rows, left : left + tile_row_bytes] = kept
    return rows


def read_coded_size(tiff: bytes) -> tuple[int, int]:
    """Width and height of what has to be decoded for the first page: whole tiles.

    Raises:
        ValueError, struct.error, OverflowError: there is no such page.
    """
    tags = _read_first_ifd(tiff)
    width, height = _first(tags, _WIDTH), _first(tags, _LENGTH)
    tile_width, tile_length = max(1, _first(tags, _TILE_WIDTH)), max(1, _first(tags, _TILE_LENGTH))
    return _coded_size(width, height, tile_width, tile_length)


def _coded_size(width: int, height: int, tile_width: int, tile_length: int) -> tuple[int, int]:
    return -(-width // tile_width) * tile_width, -(-height // tile_length) * tile_length
