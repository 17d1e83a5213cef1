"""Read the parts of a BMP that Pillow ignores (alpha of 16-bit pixels) or reads slowly (run lengths)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from imgcls_ray.images.limits import DecodeLimits

_INFO_HEADER_AT = 14
_CORE_HEADER_BYTES = 12
# From this header on, a fourth mask says which bits are alpha.
_ALPHA_HEADER_BYTES = 56
_RLE8, _RLE4, _BITFIELDS = 1, 2, 3
_LONG_HEADER_BYTES, _PALETTE_BYTES = 40, 4 * 256
# Codes of run lengths have two bytes. Some thousands at a time: each may stand for 255 pixels, of 24 bytes here.
_CODES_OF_BLOCK = 1 << 13
_END_OF_LINE, _END_OF_PICTURE, _MOVE = 0, 1, 2
# As many bytes may say something of a pixel: a move to the next one has four.
_BYTES_PER_PIXEL_AND_ROW = 4


def read_bmp_size(bmp: bytes) -> tuple[int, int]:
    """Width and height as the header gives them."""
    header_bytes = int.from_bytes(bmp[_INFO_HEADER_AT : _INFO_HEADER_AT + 4], "little")
    code = "<HH" if header_bytes == _CORE_HEADER_BYTES else "<ii"
    width, height = struct.unpack_from(code, bmp, _INFO_HEADER_AT + 4)
    return width, abs(height)  # a negative one means that the top row comes first


def read_alpha_of_16_bits(bmp: bytes) -> np.ndarray | None:
    """Alpha of a BMP that Pillow has decoded: bool (H, W), top row first; None where there is none.

    Pillow decodes such pixels with 5 bits a colour only, which leave one for alpha.
    """
    if int.from_bytes(bmp[_INFO_HEADER_AT : _INFO_HEADER_AT + 4], "little") < _ALPHA_HEADER_BYTES:
        return None
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", bmp, _INFO_HEADER_AT + 4)
    if bits != 16 or compression != _BITFIELDS:
        return None
    (pixels_at,) = struct.unpack_from("<I", bmp, 10)
    (mask,) = struct.unpack_from("<I", bmp, _INFO_HEADER_AT + 52)
    if not mask & 0xFFFF:
        return None
    row_words = -(-width // 2) * 2  # rows end on whole words of 32 bits
    rows = np.frombuffer(bmp, "<u2", row_words * abs(height), pixels_at).reshape(abs(height), row_words)
    is_opaque: np.ndarray = (rows[:, :width] & mask) != 0
    if not is_opaque.any():
        return None  # bits that nobody set
    return is_opaque if height < 0 else is_opaque[::-1]


def expand_runs(bmp: bytes, limits: DecodeLimits) -> bytes:
    """The file without run lengths, as one of 8 bits a pixel; any other as it is. Pillow takes each run in Python.

    Raises:
        ImageError: ``corrupt`` or ``too_many_pixels`` by the size that the header gives.
        ValueError: the runs end before the picture does.
    """
    if len(bmp) < _INFO_HEADER_AT + _LONG_HEADER_BYTES:
        return bmp
    header_bytes, width, height, _, bits, compression = struct.unpack_from("<IiiHHI", bmp, _INFO_HEADER_AT)
    if header_bytes < _LONG_HEADER_BYTES or compression not in (_RLE8, _RLE4):
        return bmp
    limits.check_size(width, abs(height))
    (pixels_at,) = struct.unpack_from("<I", bmp, 10)
    (num_colours,) = struct.unpack_from("<I", bmp, _INFO_HEADER_AT + 32)
    num_bytes = _BYTES_PER_PIXEL_AND_ROW * (width * abs(height) + abs(height) + 1)
    codes = np.frombuffer(bmp, np.uint8)[pixels_at : pixels_at + num_bytes]
    rows = _read_runs(codes, width, abs(height), is_rle4=compression == _RLE4)
    head = bytearray(bmp[: _INFO_HEADER_AT + header_bytes])
    struct.pack_into("<HHI", head, _INFO_HEADER_AT + 12, 1, 8, 0)
    struct.pack_into("<I", head, _INFO_HEADER_AT + 32, 256)
    struct.pack_into("<I", head, 10, len(head) + _PALETTE_BYTES)
    # All 256 colours: two that are black and white would mean pixels of one bit.
    num_colours = min(num_colours or 1 << min(bits, 8), 256)
    palette = bmp[len(head) : len(head) + 4 * num_colours].ljust(_PALETTE_BYTES, b"\0")
    return b"".join([head, palette, rows.data])


def _read_runs(codes: np.ndarray, width: int, height: int, *, is_rle4: bool) -> np.ndarray:
    """Palette indexes in the order of the file: uint8 (H, W), rows padded to whole words of 32 bits."""
    rows = np.zeros((height, -(-width // 4) * 4), np.uint8)
    codes = codes[: len(codes) // 2 * 2]
    pairs = codes.reshape(-1, 2)
    # Words that belong to a code of 0 and this number: the pixels that it announces, or how far to move.
    num_bytes = np.arange(256) if not is_rle4 else (np.arange(256) + 1) // 2
    words_behind = ((num_bytes + 1) // 2).tolist()
    words_behind[_MOVE] = 1
    start = x = y = 0
    while start < len(pairs) and y < height:
        stop = min(start + _CODES_OF_BLOCK, len(pairs))
        starts, start = _find_codes(pairs[start:stop], start, words_behind)
        first, second = pairs[starts, 0].astype(np.int64), pairs[starts, 1].astype(np.int64)
        is_escape = first == 0
        ends = np.flatnonzero(is_escape & (second == _END_OF_PICTURE))
        if len(ends):
            starts, first, second, is_escape = (part[: ends[0]] for part in (starts, first, second, is_escape))
        is_literal, is_move = is_escape & (second > _MOVE), is_escape & (second == _MOVE)
        is_line_end = is_escape & (second == _END_OF_LINE)
        moves = np.zeros((len(starts), 2), np.int64)
        is_move &= starts + 1 < len(pairs)
        moves[is_move] = pairs[starts[is_move] + 1]
        counts = np.where(is_literal, second, first)
        # Where each code begins: pixels and moves since the last end of a line, and lines.
        behind = x + np.cumsum(counts + moves[:, 0])
        bases = np.maximum.accumulate(np.where(is_line_end, behind, 0)) if len(starts) else behind
        bases_before = np.concatenate([[0], bases[:-1]]) if len(starts) else bases
        xs = np.concatenate([[x], behind[:-1]])[: len(starts)] - bases_before
        lines = y + np.cumsum(is_line_end + moves[:, 1])
        ys = np.concatenate([[y], lines[:-1]])[: len(starts)]
        if len(starts):
            x, y = int(behind[-1] - bases[-1]), int(lines[-1])
        counts = np.where(ys < height, np.clip(width - xs, 0, counts), 0)
        # A run repeats its second byte; a literal has its pixels behind the code.
        sources = 2 * starts + np.where(is_literal, 2, 1)
        _write_pixels(rows, codes, (xs, ys, counts, sources, is_literal), is_rle4=is_rle4)
        if len(ends):
            break
    if y < height and (y, x) < (height - 1, width):
        raise ValueError("not enough image data")
    return rows


def _find_codes(pairs: np.ndarray, offset: int, words_behind: list[int]) -> tuple[np.ndarray, int]:
    """Which of some words are codes, of which the first one is, and where the next one comes behind them."""
    is_code = np.ones(len(pairs), bool)
    position = 0
    candidates = np.flatnonzero((pairs[:, 0] == 0) & (pairs[:, 1] >= _MOVE))
    for at, number in zip(candidates.tolist(), pairs[candidates, 1].tolist(), strict=True):
        if at >= position:
            position = at + 1 + words_behind[number]
            is_code[at + 1 : position] = False
    return offset + np.flatnonzero(is_code), offset + max(position, len(pairs))


def _write_pixels(rows: np.ndarray, codes: np.ndarray, runs: tuple[np.ndarray, ...], *, is_rle4: bool) -> None:
    xs, ys, counts, sources, is_literal = runs
    numbers = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    targets = np.repeat(ys * rows.shape[1] + xs, counts) + numbers
    steps = (numbers >> 1 if is_rle4 else numbers) * np.repeat(is_literal, counts)
    places = np.repeat(sources, counts) + steps
    if len(places) and int(places.max()) >= len(codes):
        raise ValueError("not enough image data")
    values = codes[places]
    if is_rle4:
        values = np.where(numbers & 1, values & 15, values >> 4)
    rows.reshape(-1)[targets] = values
