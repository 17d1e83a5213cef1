"""Which way up a file says it is: every way to say it that Pillow or OpenCV understands, and what is no way."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from imgcls_ray.images.decoder import decode_careful, decode_image
from imgcls_ray.images.measure import measure_image
from imgcls_ray.images.orientation import find_orientation, read_orientation
from imgcls_ray.images.preprocess import Preprocess, preprocess_image
from tests.images import bad_images as make

STORED = make.slopes(40, 24)
JPEG = make.jpeg(STORED, subsampling=0)
CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q"}
XMP = make.segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation="6"/>')


def block(values: list[int], kind: int, order: str = "<", code: str | None = None) -> bytes:
    """An EXIF block with one tag of orientation."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 1)
    packed = struct.pack(f"{order}{len(values)}{code or CODES[kind]}", *values)
    field = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(order + "I", 26)
    rest = packed if len(packed) > 4 else b""
    return head + struct.pack(order + "HHI", 0x0112, kind, len(values)) + field + bytes(4) + rest


def empty_block() -> bytes:
    return b"II*\0" + struct.pack("<IHI", 8, 0, 0)


def other_block() -> bytes:
    return make.exif(6).replace(struct.pack("<H", 0x0112), struct.pack("<H", 0x010F))


def is_turned(encoded: bytes) -> bool:
    """Both decoders agree, and say what the check of a data set says."""
    shape = decode_image(encoded).shape
    assert decode_careful(encoded).shape == shape
    assert measure_image(encoded).is_turned is (shape == (40, 24, 3))
    return shape == (40, 24, 3)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("values", [[6], [6, 1], [6, 1, 1, 1, 1]], ids=["one", "two", "five"])
def test_every_integer_type_is_read(kind: int, order: str, values: list[int]) -> None:
    assert read_orientation(block(values, kind, order)) == 6
    assert is_turned(make.insert_segments(JPEG, make.app1_exif(block(values, kind, order))))


@pytest.mark.parametrize(("kind", "code"), [(2, "B"), (7, "B"), (11, "f"), (12, "d")])
def test_what_is_no_integer_says_nothing(kind: int, code: str) -> None:
    assert find_orientation(block([6], kind, code=code)) is None


@pytest.mark.parametrize("value", [0, 9, -1, 6 << 8])
def test_a_value_that_does_not_exist_says_upright(value: int) -> None:
    assert find_orientation(block([value], 9)) == 1


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([make.exif(1), make.exif(6)], False),
        ([make.exif(6), make.exif(1)], True),
        ([make.exif(9), make.exif(6)], False),
        ([make.exif(6), make.exif(8)], True),
        ([empty_block(), make.exif(6)], True),
        ([other_block(), make.exif(6)], True),
        ([b"", make.exif(6)], True),
        ([b"no block at all", make.exif(6)], True),
        ([b"II*\0\xff\xff\xff\xff", make.exif(6)], True),
        ([b"Exif\0\0" + make.exif(6)], True),
    ],
)
def test_the_first_block_that_gives_an_orientation_counts(blocks: list[bytes], expected: bool) -> None:
    assert is_turned(make.insert_segments(JPEG, *map(make.app1_exif, blocks))) is expected
    chunks = [make.png_chunk(b"eXIf", block) for block in blocks]
    png = make.encode(STORED, "PNG")
    assert is_turned(png[:33] + b"".join(chunks) + png[33:]) is expected


def after_frame(encoded: bytes, inserted: bytes) -> bytes:
    frame = make.find_frame(encoded)
    end = frame - 2 + int.from_bytes(encoded[frame - 2 : frame], "big")
    return encoded[:end] + inserted + encoded[end:]


SIX = make.app1_exif(make.exif(6))


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        pytest.param(make.insert_segments(JPEG, b"\xff\xff\xff" + SIX), True, id="fill-bytes"),
        pytest.param(after_frame(JPEG, SIX), True, id="after-the-frame-header"),
        pytest.param(make.insert_segments(JPEG, XMP, SIX), True, id="after-xmp"),
        pytest.param(make.insert_segments(JPEG, XMP), False, id="xmp-only"),
        pytest.param(JPEG + SIX, False, id="after-the-end"),
        pytest.param(make.insert_segments(JPEG, make.segment(0xE2, b"Exif\0\0" + make.exif(6))), False, id="app2"),
        pytest.param(make.insert_segments(JPEG, make.segment(0xE1, make.exif(6))), False, id="without-prefix"),
    ],
)
def test_exif_counts_where_a_jpeg_has_it(encoded: bytes, expected: bool) -> None:
    assert is_turned(encoded) is expected


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_a_turned_line_of_pixels_is_an_array_that_torch_takes(size: tuple[int, int], orientation: int) -> None:
    encoded = make.encode(make.slopes(*size), "PNG", exif=make.exif(orientation))
    pixels = decode_image(encoded)
    assert min(pixels.strides) > 0
    assert preprocess_image(pixels, Preprocess()).shape == (224, 224, 3)
    assert measure_image(encoded).width == pixels.shape[1]


def test_exif_in_a_pngs_text_does_not_count() -> None:
    exif = b"Exif\0\0" + make.exif(6)
    text = b"\nexif\n%8d\n" % len(exif) + exif.hex().encode() + b"\n"
    png = make.encode(STORED, "PNG")
    for chunk in (
        make.png_chunk(b"tEXt", b"Raw profile type exif\0" + text),
        make.png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),
    ):
        assert not is_turned(png[:33] + chunk + png[33:])


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_webp_has_its_block_with_the_prefix_or_without(prefix: bytes, order: str) -> None:
    assert is_turned(make.encode(STORED, "WEBP", lossless=True, exif=prefix + block([6], 4, order)))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 4, 6, 8, 9])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_tiffs_own_tag_is_read_in_every_integer_type(kind: int, order: str, orientation: int) -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    encoded = make.tiff((3, 2), (8,), 1, grey.tobytes(), (0x0112, 4, 0), order=order)
    at = encoded.index(struct.pack(order + "HHI", 0x0112, 4, 1))
    value = struct.pack(order + CODES[kind], orientation).ljust(4, b"\0")
    encoded = make.overwrite(encoded, at, struct.pack(order + "HHI", 0x0112, kind, 1) + value)
    expected = np.rot90(grey, {1: 0, 3: 2, 6: 3}[orientation])
    np.testing.assert_array_equal(decode_image(encoded)[:, :, 0], expected)
    assert measure_image(encoded).is_turned is (orientation != 1)


def test_xmp_does_not_turn_a_tiff() -> None:
    xmp = b'<x:xmpmeta tiff:Orientation="6"/>'
    encoded = make.encode(STORED, "TIFF", tiffinfo={700: xmp})
    assert xmp in encoded
    assert decode_image(encoded).shape == STORED.shape
