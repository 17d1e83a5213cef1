"""What a file costs is bounded by its picture's size, whatever it is made of; and guessing that costs little.

Work is counted in calls, Python's and C's: unlike time, they are the same on every machine.
"""

from __future__ import annotations

import io
import struct
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import BmpImagePlugin, Image

from benchmarks import hostile_images as hostile
from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images import jpeg
from imgcls_ray.images.cost import HEAVY_COST, decode_cost
from imgcls_ray.images.decoder import DecodeLimits, decode_careful, decode_image
from tests.images import bad_images as make
from tests.images import bombs
from tests.timing import assert_within

if TYPE_CHECKING:
    import re
    from collections.abc import Callable

# Each piece of a bomb has cost ten calls and more; they have 200,000 or more pieces.
MAX_CALLS = 150_000
MAX_CALLS_OF_GUESS = 20_000
REFUSED = {
    "tiff-strips": ImageErrorCode.CORRUPT,
    "tiff-strips-deflate": ImageErrorCode.CORRUPT,
    "tiff-strips-of-planes": ImageErrorCode.CORRUPT,
    "tiff-tiles": ImageErrorCode.CORRUPT,
    "tiff-huge-tile": ImageErrorCode.TOO_MANY_PIXELS,
    "tiff-sample-formats": ImageErrorCode.CORRUPT,
    "tiff-extra-samples": ImageErrorCode.CORRUPT,
    "bigtiff-entries": ImageErrorCode.CORRUPT,
    "png-data": ImageErrorCode.CORRUPT,
    "png-text": ImageErrorCode.CORRUPT,
    "png-palettes": ImageErrorCode.CORRUPT,
    "jpeg-segments": ImageErrorCode.CORRUPT,
    "jpeg-tables": ImageErrorCode.CORRUPT,
    "gif-comments": ImageErrorCode.CORRUPT,
    "gif-blocks-of-one-comment": ImageErrorCode.CORRUPT,
    "gif-extensions": ImageErrorCode.CORRUPT,
    "gif-controls": ImageErrorCode.CORRUPT,
    "avif-boxes": ImageErrorCode.CORRUPT,
    "avif-of-another-size": ImageErrorCode.CORRUPT,
    "heif-boxes": ImageErrorCode.CORRUPT,
    "jxl-boxes": ImageErrorCode.CORRUPT,
}
"""The others are read: what they have too much of is left out before a decoder sees it."""


def count_calls(work: Callable[[], object]) -> int:
    num_calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal num_calls
        num_calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return num_calls


def outcome_of(encoded: bytes) -> ImageErrorCode | None:
    try:
        decode_image(encoded)
    except ImageError as error:
        return error.code
    return None


@pytest.mark.parametrize("name", bombs.BOMBS)
def test_bombs_cost_little(name: str) -> None:
    encoded = bombs.BOMBS[name]()
    codes: list[ImageErrorCode | None] = []

    def decode() -> None:
        assert count_calls(lambda: codes.append(outcome_of(encoded))) < MAX_CALLS

    assert_within(5, decode, time.process_time)
    assert set(codes) == {REFUSED.get(name)}


@pytest.mark.parametrize("name", bombs.BOMBS)
def test_guessing_the_cost_costs_little(name: str) -> None:
    encoded = bombs.BOMBS[name]()
    assert count_calls(lambda: decode_cost(encoded)) < MAX_CALLS_OF_GUESS


@pytest.mark.parametrize(
    "head",
    [make.jpeg()[:2], make.jpeg()[:200], make.jpeg(progressive=True), make.encode(make.slopes(), "PNG")[:33], b"GIF89a",
     b"II*\0\x08\0\0\0", b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0", bombs.box_file("AVIF")[:60], bombs.box_file("JXL")[:40],
     b"\xff\x0a", b"RIFF\0\0\0\0WEBPVP8X", b"BM" + b"\0" * 12 + b"\x28\0\0\0"],
)  # fmt: skip
@pytest.mark.parametrize("rest", [b"\0", b"\xff", b"\x01", b"\xff\xda\0\x02", b"\xff\xfe\0\x02"])
def test_guessing_does_not_depend_on_the_number_of_bytes(head: bytes, rest: bytes) -> None:
    encoded = head + rest * (32_000_000 // len(rest))
    # A thousandth of it; whatever reads 32 MB in Python takes seconds.
    assert_within(0.5, lambda: decode_cost(encoded), time.thread_time)


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (make.jpeg(), True),
        (make.jpeg(mode="L"), True),
        (make.jpeg(progressive=True), True),
        (make.insert_segments(make.jpeg(), *[make.segment(0xE2, b"\0" * 60_000)] * 50), True),
        (make.insert_segments(make.jpeg(), *[make.segment(0xE2, b"\0" * 60_000)] * 100), False),
        (make.encode(make.slopes(), "PNG"), True),
        (make.encode(make.slopes(), "PNG", "RGBA"), True),
        (make.encode(make.slopes(), "WEBP"), True),
        (make.encode(make.slopes(), "WEBP", "RGBA", lossless=True), True),
        (b"", True),
        (b"%PDF-1.7", True),
        (make.jpeg(mode="CMYK"), False),
        (make.ARITHMETIC_JPEG, False),
        (make.jpeg()[:100], False),
        (make.jpeg_with_scans(100), True),
        (make.encode(np.zeros((6000, 6000), np.uint8), "JPEG"), False),
        (make.encode(np.zeros((4000, 4000), np.uint8), "PNG"), False),
        (make.encode(make.slopes(), "PNG")[:40], False),
        (make.encode_frames([make.slopes(), 255 - make.slopes()], "WEBP"), False),
        *((make.encode(make.slopes(), name), False) for name in ("GIF", "BMP", "TIFF", "AVIF")),
        (bombs.box_file("HEIF"), False),
        (bombs.box_file("JXL"), False),
    ],
)
def test_what_is_ordinary(encoded: bytes, expected: bool) -> None:
    assert decode_cost(encoded).is_ordinary is expected


@pytest.mark.parametrize("name", bombs.BOMBS)
def test_a_bomb_is_ordinary_only_where_it_is_harmless(name: str) -> None:
    if decode_cost(bombs.BOMBS[name]()).is_ordinary:
        assert name in ("png-exif-prefixes", "webp-exif-prefixes", "jpeg-exif-prefixes")


def test_the_cost_is_that_of_whole_tiles() -> None:
    assert (
        decode_cost(hostile.tiff_tiles(10, 10, 5_000, bytes(16), hostile.DEFLATE)).pixels
        == 2 * 5_000 * 5_000
        > HEAVY_COST
    )


def tiff_of(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


RGB = make.slopes(250, 190)
DEEP = RGB[:, :, 0].astype(np.uint16) * 257


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("layout", [{"rowsperstrip": 1}, {"rowsperstrip": 7}, {"tile": (16, 16)}, {"tile": (48, 32)}])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_every_layout_of_a_tiff_gives_its_pixels(
    compression: str | None, layout: dict[str, Any], bigtiff: bool
) -> None:
    options = {"compression": compression, "bigtiff": bigtiff, **layout}
    grey = np.repeat(RGB[:, :, :1], 3, axis=2)
    planes = np.moveaxis(RGB, -1, 0)
    np.testing.assert_array_equal(decode_image(tiff_of(RGB, photometric="rgb", **options)), RGB)
    np.testing.assert_array_equal(decode_image(tiff_of(planes, photometric="rgb", planarconfig=2, **options)), RGB)
    np.testing.assert_array_equal(decode_image(tiff_of(RGB[:, :, 0], **options)), grey)
    np.testing.assert_array_equal(decode_image(tiff_of(DEEP, **options)), grey)
    if not bigtiff:
        np.testing.assert_array_equal(decode_image(tiff_of(DEEP, byteorder=">", **options)), grey)


def test_strips_in_any_order_and_with_gaps_give_their_pixels() -> None:
    rows = [bytes([10 * y + x for x in range(5)]) for y in range(6)]
    order = [3, 0, 5, 1, 4, 2]
    blob = b"".join(rows[y] + b"gap" for y in order)
    lists_at = 8 + len(blob)
    blob += b"".join(struct.pack("<I", 8 + 8 * order.index(y)) for y in range(6))
    encoded = hostile.tiff([*bombs.grey_tags(5, 6), (273, 4, 6, lists_at), (278, 4, 1, 1)], blob)
    expected = np.frombuffer(b"".join(rows), np.uint8).reshape(6, 5)
    np.testing.assert_array_equal(decode_image(encoded)[:, :, 0], expected)
    far = hostile.tiff([*bombs.grey_tags(5, 6), (273, 4, 6, lists_at), (278, 4, 1, 1)],
                     blob[:-4] + struct.pack("<I", 10_000))  # fmt: skip
    with pytest.raises(ImageError, match="a strip of the TIFF lies behind its end") as raised:
        decode_image(far)
    assert raised.value.code is ImageErrorCode.TRUNCATED


@pytest.mark.parametrize("planes", [False, True])
def test_nothing_of_ours_is_read_as_pixels_of_a_cut_tiff(planes: bool) -> None:
    pixels = np.moveaxis(RGB, -1, 0) if planes else RGB
    encoded = tiff_of(pixels, photometric="rgb", planarconfig=2 if planes else 1)
    for num_bytes in (1, 10, 100):
        with pytest.raises(ImageError) as raised:
            decode_image(encoded[:-num_bytes])
        assert raised.value.code is ImageErrorCode.TRUNCATED


def test_a_tall_picture_may_have_many_strips() -> None:
    pixels = np.zeros((20_000, 128), np.uint8)
    pixels[::7] = 200
    np.testing.assert_array_equal(decode_image(tiff_of(pixels, rowsperstrip=1))[:, :, 0], pixels)


def test_a_tile_may_be_larger_than_its_picture() -> None:
    pixels = make.slopes(100, 60)
    encoded = tiff_of(pixels, photometric="rgb", tile=(2048, 2048), compression="zlib")
    np.testing.assert_array_equal(decode_image(encoded), pixels)
    with pytest.raises(ImageError, match="100 x 60 pixels coded as 2048 x 2048, the limit is 1000000") as raised:
        decode_image(encoded, DecodeLimits(max_pixels=1_000_000))
    assert raised.value.code is ImageErrorCode.TOO_MANY_PIXELS


def test_a_png_may_have_a_chunk_for_each_row() -> None:
    pixels = make.slopes(64, 3000)
    encoded = make.encode(pixels, "PNG")
    start = encoded.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", encoded, start)
    data = encoded[start + 8 : start + 8 + length]
    parts = [make.png_chunk(b"IDAT", data[at : at + 1]) for at in range(min(9_000, length))]
    parts.append(make.png_chunk(b"IDAT", data[9_000:]))
    np.testing.assert_array_equal(
        decode_image(encoded[:start] + b"".join(parts) + encoded[start + 12 + length :]), pixels
    )


def test_data_that_another_chunk_interrupts_are_as_corrupt_as_ever() -> None:
    encoded = make.encode(make.slopes(), "PNG", "P")
    palette = encoded[encoded.index(b"PLTE") - 4 : encoded.index(b"IDAT") - 4]
    start = encoded.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", encoded, start)
    halves = (
        encoded[start + 8 : start + 8 + length // 2],
        encoded[start + 8 + length // 2 : start + 8 + length],
    )
    first, second = (make.png_chunk(b"IDAT", half) for half in halves)
    with pytest.raises(ImageError):
        decode_image(encoded[:start] + first + palette + second + encoded[start + 12 + length :])


def test_a_gif_keeps_its_transparency_behind_megabytes_of_metadata() -> None:
    block = b"\xff" + b"x" * 255
    application = b"!\xff\x0bXMP DataXMP" + block * 4000 + b"\0"
    control = b"!\xf9\4\1\0\0\0\0"
    encoded = bombs.gif_with(application + control + application)
    transparent = decode_image(bombs.gif_with(control))
    assert (transparent == 255).all(axis=2).any()
    np.testing.assert_array_equal(decode_image(encoded), transparent)


def test_a_jpeg_of_many_segments_is_read_by_both_ways() -> None:
    encoded = make.insert_segments(make.jpeg(), *[make.segment(0xE2, b"\0" * 1000)] * 300)
    np.testing.assert_array_equal(decode_image(encoded), decode_image(make.jpeg()))
    np.testing.assert_array_equal(decode_careful(encoded), decode_careful(make.jpeg()))


def make_runs(rng: np.random.Generator, width: int, height: int, *, is_rle4: bool) -> bytes:
    """Runs, literals and moves, a line at a time."""
    codes = b""
    for _ in range(height):
        x = 0
        while x < width:
            count = int(rng.integers(1, min(255, width - x) + 1))
            kind = rng.integers(4)
            if kind == 0 and count >= 3:
                pixels = rng.bytes((count + 1) // 2 if is_rle4 else count)
                codes += bytes([0, count]) + pixels + b"\0" * (len(pixels) % 2)
            elif kind == 1 and count < width - x:
                codes += bytes([0, 2, count, 0])
            else:
                codes += bytes([count]) + rng.bytes(1)
            x += count
        codes += b"\0\0"
    return codes + b"\0\1"


@pytest.mark.parametrize("is_rle4", [False, True])
def test_run_lengths_are_read_as_pillow_reads_them(is_rle4: bool) -> None:
    rng = np.random.default_rng(7)
    for _ in range(40):
        width, height = (int(side) for side in rng.integers(1, 300, 2))
        palette = rng.bytes(4 * (16 if is_rle4 else 256))
        codes = make_runs(rng, width, height, is_rle4=is_rle4)
        encoded = make.bmp(width, height, 4 if is_rle4 else 8, 2 if is_rle4 else 1, codes, palette)
        with BmpImagePlugin.BmpImageFile(io.BytesIO(encoded)) as image:
            expected = np.array(image.convert("RGB"))
        np.testing.assert_array_equal(decode_image(encoded), expected)


@pytest.mark.parametrize("end", [b"", b"\0\1", b"\0\3\1", b"\0\2\1"])
def test_runs_that_end_before_their_picture_are_corrupt(end: bytes) -> None:
    encoded = make.bmp(4, 4, 8, 1, b"\4\1\0\0\4\1" + end, bytes(1024))
    with pytest.raises(ImageError) as raised:
        decode_image(encoded)
    assert raised.value.code is ImageErrorCode.CORRUPT


@pytest.mark.parametrize(
    "encoded",
    [
        make.AVIF_10_BIT,
        make.encode(make.slopes(), "AVIF", "RGBA", speed=10),
        make.encode_frames([make.slopes(64, 48), 255 - make.slopes(64, 48)], "AVIF", speed=10),
        hostile.avif_larger_than_it_says(64),
    ],
)
def test_an_avif_that_is_as_large_as_it_claims_is_read(encoded: bytes) -> None:
    assert decode_image(encoded).ndim == 3
    assert decode_cost(encoded).pixels > 0


def test_an_avif_may_not_be_coded_above_the_limit() -> None:
    encoded = hostile.avif_larger_than_it_says(1000, claimed=16)
    with pytest.raises(ImageError, match="16 x 16 pixels coded as 1000 x 1000, the limit is 90000") as raised:
        decode_image(encoded, DecodeLimits(max_pixels=90_000))
    assert raised.value.code is ImageErrorCode.TOO_MANY_PIXELS


@pytest.mark.parametrize("junk", [b"\xff", b"\xff\x00", b"\xff\xd0"], ids=["fill", "stuffed", "restarts"])
def test_junk_between_scans_is_looked_at_in_steps(junk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of the whole file is one call, in which nobody else gets the interpreter."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG", progressive=True)
    encoded = file.getvalue()
    content = encoded[:-2] + junk * (4 * 2**20 // len(junk)) + encoded[-2:]
    spans: list[int] = []

    class Pattern:
        def search(self, data: bytes, position: int, stop: int) -> re.Match[bytes] | None:
            spans.append(stop - position)
            return found.search(data, position, stop)

    found = jpeg._NEXT_MARKER
    monkeypatch.setattr(jpeg, "_NEXT_MARKER", Pattern())
    jpeg.check_jpeg(content, jpeg.read_jpeg_header(content), DecodeLimits())
    assert len(spans) > 4
    assert max(spans) <= 2**20 + 1


def test_scans_behind_the_first_megabyte_are_counted_too() -> None:
    file = io.BytesIO()
    Image.effect_noise((1500, 1000), 60).convert("RGB").save(file, "JPEG", progressive=True, quality=95)
    encoded = file.getvalue()
    assert len(encoded) > 2**20
    assert decode_cost(encoded).is_ordinary
    last_scan = encoded[encoded.rindex(b"\xff\xda") : -2]
    assert not decode_cost(encoded[:-2] + last_scan * 60 + encoded[-2:]).is_ordinary
