"""Every kind of bytes that an input may hold has one outcome: a code, or the picture that a person would see.

The ids carry the numbers of the project's list of bad inputs.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageCms

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.decoder import DecodeLimits, decode_careful, decode_image
from tests.images import bad_images as make

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")

EMPTY = ImageErrorCode.EMPTY
UNSUPPORTED = ImageErrorCode.UNSUPPORTED_FORMAT
TRUNCATED = ImageErrorCode.TRUNCATED
CORRUPT = ImageErrorCode.CORRUPT
TOO_MANY_PIXELS = ImageErrorCode.TOO_MANY_PIXELS
TOO_MANY_SCANS = ImageErrorCode.TOO_MANY_SCANS

SLOPES = make.slopes()
JPEG = make.jpeg()
WHITE_BLACK = np.array([[255, 0], [0, 255]], dtype=np.uint8)
LOSSY = 24  # what quality 95 may do to a sample of SLOPES, whose colours are subsampled


def random_bytes(num: int) -> bytes:
    return np.random.default_rng(0).bytes(num)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jpg", JPEG)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a.jpg")
        member.size = len(JPEG)
        archive.addfile(member, io.BytesIO(JPEG))
    return file.getvalue()


def ftyp(*brands: bytes) -> bytes:
    body = brands[0] + b"\0\0\0\0" + b"".join(brands)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + b"\0\0\0\x08mdat"


SVG = b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg><script>1</script>&x;</svg>'

NOT_IMAGES: dict[str, tuple[Callable[[], bytes], ImageErrorCode]] = {
    "01-zero-bytes": (lambda: b"", EMPTY),
    "02-one-byte": (lambda: b"\xff", UNSUPPORTED),
    "03-only-magic": (lambda: b"\xff\xd8\xff", TRUNCATED),
    "04-random": (lambda: random_bytes(1024), UNSUPPORTED),
    "05-random-named-jpg": (lambda: random_bytes(1025), UNSUPPORTED),
    "06-html": (lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>", UNSUPPORTED),
    "07-text": (lambda: b"BMW is a car maker, and this is a text that begins like a bitmap.", UNSUPPORTED),
    "08-s3-error": (lambda: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', UNSUPPORTED),
    "08-json": (lambda: b'{"error": "AccessDenied"}', UNSUPPORTED),
    "13-gzip": (lambda: gzip.compress(JPEG), UNSUPPORTED),
    "14-zip": (zipped, UNSUPPORTED),
    "14-tar": (tarred, UNSUPPORTED),
    "15-pdf": (lambda: b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj", UNSUPPORTED),
    "15-svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', UNSUPPORTED),
    "16-svg-external-entity": (lambda: SVG, UNSUPPORTED),
    "17-mp4": (lambda: ftyp(b"isom", b"avc1", b"mp41"), UNSUPPORTED),
    "17-heic-sequence-without-index": (lambda: ftyp(b"hevc", b"msf1"), TRUNCATED),
    "19-leading-garbage": (lambda: b"\r\n" + JPEG, UNSUPPORTED),
    "68-heic-without-index": (lambda: ftyp(b"heic", b"mif1"), TRUNCATED),
    "75-ico": (lambda: make.encode(SLOPES, "ICO"), UNSUPPORTED),
    "75-psd": (lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 16, 24, 8, 3), UNSUPPORTED),
    "75-tga": (lambda: make.encode(SLOPES, "TGA"), UNSUPPORTED),
    "75-ppm": (lambda: make.encode(SLOPES, "PPM"), UNSUPPORTED),
    "75-jpeg2000": (lambda: make.encode(SLOPES, "JPEG2000"), UNSUPPORTED),
    "75-jxl-magic-only": (lambda: b"\xff\x0a", TRUNCATED),
    "75-jxl-container-of-nothing": (lambda: b"\0\0\0\x0cJXL \r\n\x87\n", TRUNCATED),
    "76-eps": (lambda: make.encode(SLOPES, "EPS"), UNSUPPORTED),
    "90-all-zeros": (lambda: bytes(1 << 20), UNSUPPORTED),
}

frame_at = make.find_frame(JPEG)


def bad_huffman_table() -> bytes:
    # The first code lengths say: 255 codes of one bit.
    table = JPEG.index(b"\xff\xc4") + 5
    return make.overwrite(JPEG, table, b"\xff")


def huge_tiff() -> bytes:
    # Tiled, a billion pixels, and not one tile in the file.
    tiles = ((322, 4, 256), (323, 4, 256), (324, 4, 8), (325, 4, 0))
    return make.tiff((32_768, 32_768), (8,), 1, b"", *tiles)


def bad_data_crc() -> bytes:
    encoded = make.encode(SLOPES, "PNG")
    return make.overwrite(encoded, len(encoded) - 16, bytes(byte ^ 0xFF for byte in encoded[-16:-12]))


def vp8l_with_bad_codes() -> bytes:
    # A 16,384 x 1 header of lossless WebP, then bits that build no Huffman tree: the shape of CVE-2023-4863's sample.
    return make.riff_webp((b"VP8L", b"\x2f" + struct.pack("<I", 16_383) + b"\xff" * 64))


BROKEN_IMAGES: dict[str, tuple[Callable[[], bytes], ImageErrorCode]] = {
    "21-jpeg-cut-in-header": (lambda: JPEG[:100], TRUNCATED),
    "22-jpeg-cut-at-10-percent": (lambda: (big := make.jpeg(make.slopes(300, 200)))[: len(big) // 10], TRUNCATED),
    "23-jpeg-cut-at-50-percent": (lambda: (big := make.jpeg(make.slopes(300, 200)))[: len(big) // 2], TRUNCATED),
    "24-jpeg-without-eoi": (lambda: JPEG[:-2], TRUNCATED),
    "24-progressive-without-eoi": (lambda: make.jpeg(progressive=True)[:-2], TRUNCATED),
    "24-garbage-instead-of-eoi": (lambda: make.jpeg(make.slopes(300, 200))[:-2] + bytes(50), TRUNCATED),
    "24-arithmetic-cut": (lambda: make.ARITHMETIC_JPEG[:-40], TRUNCATED),
    "26-thousand-scans": (lambda: make.jpeg_with_scans(1000), TOO_MANY_SCANS),
    "28-12-bit": (lambda: make.overwrite(JPEG, frame_at, b"\x0c"), UNSUPPORTED),
    "29-lossless-arithmetic": (lambda: make.overwrite(JPEG, frame_at - 3, b"\xcb"), UNSUPPORTED),
    "29-hierarchical": (lambda: make.overwrite(JPEG, frame_at - 3, b"\xc5"), UNSUPPORTED),
    "29-two-components": (lambda: make.overwrite(JPEG, frame_at + 5, b"\x02"), UNSUPPORTED),
    "35-bad-huffman-table": (bad_huffman_table, CORRUPT),
    "36-zero-width": (lambda: make.set_jpeg_size(JPEG, 0, 16), CORRUPT),
    "36-zero-height": (lambda: make.set_jpeg_size(JPEG, 24, 0), CORRUPT),
    "36-zero-png": (lambda: make.png((0, 2), 8, 0, b""), CORRUPT),
    "37-jpeg-of-4-gigapixels": (lambda: make.set_jpeg_size(JPEG, 65_500, 65_500), TOO_MANY_PIXELS),
    "37-and-cut": (lambda: make.set_jpeg_size(JPEG, 65_500, 65_500)[: frame_at + 20], TOO_MANY_PIXELS),
    "43-million-empty-segments": (lambda: b"\xff\xd8" + make.segment(0xE5, b"") * 1_000_000, CORRUPT),
    "55-png-bad-crc": (lambda: make.overwrite(make.encode(SLOPES, "PNG"), 29, b"\0\0\0\0"), CORRUPT),
    "55-png-bad-data-crc": (bad_data_crc, CORRUPT),
    "56-png-without-iend": (lambda: make.encode(SLOPES, "PNG")[:-12], TRUNCATED),
    "56-png-cut": (lambda: make.encode(SLOPES, "PNG")[:70], TRUNCATED),
    "57-png-bomb": (lambda: make.png((19_000, 19_000), 1, 0, bytes(19_000 * 2376)), TOO_MANY_PIXELS),
    "64-webp-cut": (lambda: make.encode(SLOPES, "WEBP")[:-1], TRUNCATED),
    "65-webp-bad-huffman": (vp8l_with_bad_codes, CORRUPT),
    "67-avif-cut": (lambda: make.AVIF_10_BIT[:-10], TRUNCATED),
    "67-avif-cut-between-boxes": (lambda: make.AVIF_10_BIT[:32], TRUNCATED),
    "61-gif-cut": (lambda: make.encode(SLOPES, "GIF")[:-20], TRUNCATED),
    "61-gif-cut-in-header": (lambda: make.encode(SLOPES, "GIF")[:12], TRUNCATED),
    "69-bmp-cut": (lambda: make.encode(SLOPES, "BMP")[:-1], TRUNCATED),
    "69-bmp-cut-in-header": (lambda: make.encode(SLOPES, "BMP")[:30], TRUNCATED),
    "71-tiff-float-nan": (
        lambda: make.tiff((2, 1), (32,), 1, struct.pack("<ff", float("nan"), float("inf")), (339, 3, 3)),
        UNSUPPORTED,
    ),
    "71-tiff-int32": (lambda: make.tiff((2, 1), (32,), 1, struct.pack("<ii", -1, 7), (339, 3, 2)), UNSUPPORTED),
    "71-tiff-float64": (lambda: make.tiff((1, 1), (64,), 1, struct.pack("<d", 0.5), (339, 3, 3)), UNSUPPORTED),
    "72-tiff-lab": (lambda: make.tiff((2, 1), (8, 8, 8), 8, bytes(6)), UNSUPPORTED),
    "72-tiff-cut": (lambda: make.encode(SLOPES, "TIFF")[:-1], TRUNCATED),
    "72-tiff-lzw-cut": (lambda: make.encode(SLOPES, "TIFF", compression="tiff_lzw")[:-1], TRUNCATED),
    "72-tiff-without-directory": (lambda: make.encode(SLOPES, "TIFF")[:8], TRUNCATED),
    "73-tiff-gigapixel-sparse": (huge_tiff, TOO_MANY_PIXELS),
}


@pytest.mark.parametrize(("make_bytes", "code"), [*NOT_IMAGES.values(), *BROKEN_IMAGES.values()],
                         ids=[*NOT_IMAGES, *BROKEN_IMAGES])  # fmt: skip
@pytest.mark.parametrize("decode", [decode_image, decode_careful])
def test_bad_bytes_get_their_code(
    decode: Callable[[bytes], np.ndarray], make_bytes: Callable[[], bytes], code: ImageErrorCode
) -> None:
    with pytest.raises(ImageError) as raised:
        decode(make_bytes())
    assert raised.value.code is code, raised.value


def jpeg_with_rgb_icc(profile: bytes) -> bytes:
    return make.jpeg(icc_profile=profile)


def broken_restart_markers() -> bytes:
    encoded = make.jpeg(make.slopes(200, 200), restart_marker_blocks=4)
    assert b"\xff\xd3" in encoded
    return encoded.replace(b"\xff\xd3", b"\xff\xd6")


def mpo() -> bytes:
    return make.encode_frames([SLOPES, 255 - SLOPES], "MPO", quality=95)


def embedded_thumbnail() -> bytes:
    thumbnail = make.jpeg(255 - make.slopes(8, 8))
    return make.insert_segments(JPEG, make.app1_exif(make.exif(1) + thumbnail))


def apng() -> bytes:
    return make.encode_frames([SLOPES, 255 - SLOPES], "PNG")


def text_bomb() -> bytes:
    bomb = b"Comment\0\0" + zlib.compress(bytes(200 << 20), 9)
    itxt = b"Comment\0\1\0\0\0" + zlib.compress(bytes(20 << 20), 9)
    rows = make.png_rows(b"\xff\0", b"\0\xff")
    return make.png((2, 2), 8, 0, rows, make.png_chunk(b"zTXt", bomb), make.png_chunk(b"iTXt", itxt))


def shrink_gif_canvas() -> bytes:
    return make.overwrite(make.encode(SLOPES, "GIF"), 6, struct.pack("<HH", 12, 8))


def gif_of_ten_thousand_frames() -> bytes:
    encoded = make.encode(WHITE_BLACK, "GIF")
    frame = encoded[encoded.index(b"\x2c") : -1]
    return encoded[:-1] + frame * 9_999 + b";"


def multipage_tiff() -> bytes:
    return make.encode_frames([SLOPES, 255 - SLOPES], "TIFF")


def rle8_bmp() -> bytes:
    palette = bytes([0, 0, 0, 0, 255, 255, 255, 0])
    # Bottom row first: "two of colour 0", end of line, "two of colour 1", end of bitmap.
    return make.bmp(2, 2, 8, 1, bytes([2, 0, 0, 0, 2, 1, 0, 1]), palette)


def bmp_of_fields(bits: int, masks: tuple[int, int, int, int], pixels: list[int]) -> bytes:
    """One row, with the header of version 4, which says where alpha is."""
    body = struct.pack(f"<{len(pixels)}{'I' if bits == 32 else 'H'}", *pixels)
    header = struct.pack("<IiiHHIIiiII4I", 108, len(pixels), 1, 1, bits, 3, len(body), 0, 0, 0, 0, *masks)
    start = 14 + 108
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header.ljust(108, b"\0") + body


def grey(*rows: list[int]) -> np.ndarray:
    return np.repeat(np.array(rows, dtype=np.uint8)[:, :, np.newaxis], 3, axis=2)


def colours(*rows: list[tuple[int, int, int]]) -> np.ndarray:
    return np.array(rows, dtype=np.uint8)


def flat(width: int, height: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.broadcast_to(np.array(colour, dtype=np.uint8), (height, width, 3)).copy()


def cmyk_jpeg() -> bytes:
    return make.jpeg(SLOPES, "CMYK")


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
RGB_PALETTE = make.png_chunk(b"PLTE", bytes([*RED, *GREEN, *BLUE, 0, 0, 0]))
SLOPES_GREY = np.repeat(np.array(Image.fromarray(SLOPES).convert("L"))[:, :, np.newaxis], 3, axis=2)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

GOOD_IMAGES: dict[str, tuple[Callable[[], bytes], np.ndarray, int]] = {
    "09-png-named-jpg": (lambda: make.encode(SLOPES, "PNG"), SLOPES, 0),
    "10-11-12-jpeg-of-any-name": (lambda: JPEG, SLOPES, LOSSY),
    "18-trailing-garbage": (lambda: JPEG + random_bytes(5000), SLOPES, LOSSY),
    "20-gif-polyglot": (lambda: make.encode(WHITE_BLACK, "GIF") + b"=1;alert(1)//", grey([255, 0], [0, 255]), 0),
    "25-progressive": (lambda: make.jpeg(progressive=True), SLOPES, LOSSY),
    "27-arithmetic": (lambda: make.ARITHMETIC_JPEG, SLOPES, 48),
    "29-lossless": (lambda: make.lossless_jpeg(SLOPES_GREY[:, :, 0]), SLOPES_GREY, 0),
    "30-cmyk": (cmyk_jpeg, SLOPES, LOSSY),
    "31-ycck-adobe-inverted": (lambda: make.ycck_jpeg(20, 10), flat(20, 10, RED), 4),
    "32-grey": (lambda: make.jpeg(SLOPES, "L"), SLOPES_GREY, LOSSY),
    "33-4:1:1": (
        lambda: make.set_luma_sampling(make.jpeg(flat(32, 32, RED), subsampling="4:2:0"), 0x41),
        flat(32, 32, (254, 0, 0)),
        2,
    ),
    "33-4:4:0": (
        lambda: make.set_luma_sampling(make.jpeg(flat(32, 32, RED), subsampling="4:2:2"), 0x12),
        flat(32, 32, (254, 0, 0)),
        2,
    ),
    "38-1x1": (lambda: make.jpeg(flat(1, 1, RED)), flat(1, 1, (254, 0, 0)), 2),
    "39-1x20000": (lambda: make.jpeg(flat(1, 20_000, RED)), flat(1, 20_000, (254, 0, 0)), 2),
    "39-20000x1": (lambda: make.jpeg(flat(20_000, 1, RED)), flat(20_000, 1, (254, 0, 0)), 2),
    "40-header-says-fewer-rows": (lambda: make.set_jpeg_size(JPEG, 24, 8), SLOPES[:8], LOSSY),
    "43-corrupt-exif": (lambda: make.insert_segments(JPEG, make.app1_exif(b"II*\0\xff\xff\xff\xff")), SLOPES, LOSSY),
    "43-random-exif": (lambda: make.insert_segments(JPEG, make.app1_exif(random_bytes(999))), SLOPES, LOSSY),
    "43-app1-chain": (
        lambda: make.insert_segments(JPEG, *[make.app1_exif(make.exif(9) + bytes(65_000))] * 40),
        SLOPES,
        LOSSY,
    ),
    "44-mpo": (mpo, SLOPES, LOSSY),
    "45-bad-icc": (lambda: jpeg_with_rgb_icc(b"not a profile"), SLOPES, LOSSY),
    "45-huge-icc": (lambda: jpeg_with_rgb_icc(SRGB + bytes(3 << 20)), SLOPES, LOSSY),
    # Wide gamut is not converted either: the profile is never looked at.
    "45-icc-ignored": (lambda: jpeg_with_rgb_icc(SRGB), SLOPES, LOSSY),
    "46-other-thumbnail": (embedded_thumbnail, SLOPES, LOSSY),
    "47-imagenet-png-named-jpeg": (lambda: make.encode(SLOPES, "PNG"), SLOPES, 0),
    "47-imagenet-cmyk": (cmyk_jpeg, SLOPES, LOSSY),
    "48-png-1-bit": (lambda: make.png((2, 2), 1, 0, make.png_rows(b"\x80", b"\x40")), grey([255, 0], [0, 255]), 0),
    "48-png-1-bit-key": (
        lambda: make.png((2, 1), 1, 0, make.png_rows(b"\x40"), make.png_chunk(b"tRNS", b"\0\0")),
        grey([255, 255]),
        0,
    ),
    "49-png-2-bit-palette": (
        lambda: make.png((4, 1), 2, 3, make.png_rows(b"\x1b"), RGB_PALETTE),
        colours([RED, GREEN, BLUE, (0, 0, 0)]),
        0,
    ),
    "49-png-4-bit-palette": (
        lambda: make.png((2, 1), 4, 3, make.png_rows(b"\x12"), RGB_PALETTE),
        colours([GREEN, BLUE]),
        0,
    ),
    "50-png-palette-with-alpha": (
        lambda: make.png((3, 1), 8, 3, make.png_rows(b"\0\1\2"), RGB_PALETTE, make.png_chunk(b"tRNS", b"\0\x80")),
        colours([WHITE, (127, 255, 127), BLUE]),
        1,
    ),
    "50-png-2-bit-grey-key": (
        lambda: make.png((4, 1), 2, 0, make.png_rows(b"\x1b"), make.png_chunk(b"tRNS", b"\0\1")),
        grey([0, 255, 170, 255]),
        0,
    ),
    "50-png-rgb-key": (
        lambda: make.png((2, 1), 8, 2, make.png_rows(bytes([*RED, *BLUE])), make.png_chunk(b"tRNS", b"\0\xff\0\0\0\0")),
        colours([WHITE, BLUE]),
        0,
    ),
    "51-png-grey-alpha": (
        lambda: make.png((3, 1), 8, 4, make.png_rows(b"\0\xff\0\0\0\x80")),
        grey([0, 255, 127]),
        1,
    ),
    "52-png-16-bit-grey": (
        lambda: make.png((4, 1), 16, 0, make.png_rows(struct.pack(">4H", 0, 257 * 10 + 100, 257 * 10 + 150, 65_535))),
        grey([0, 10, 11, 255]),
        0,
    ),
    "52-png-16-bit-grey-key": (
        lambda: make.png(
            (2, 1), 16, 0, make.png_rows(struct.pack(">2H", 1000, 1001)), make.png_chunk(b"tRNS", b"\x03\xe8")
        ),
        grey([255, 4]),
        0,
    ),
    "53-png-16-bit-rgb": (
        lambda: make.png((1, 1), 16, 2, make.png_rows(struct.pack(">3H", 65_535, 32_768, 257))),
        colours([(255, 128, 1)]),
        1,
    ),
    "53-png-16-bit-rgb-key": (
        lambda: make.png(
            (2, 1),
            16,
            2,
            make.png_rows(struct.pack(">6H", 9000, 0, 0, 0, 0, 9000)),
            make.png_chunk(b"tRNS", struct.pack(">3H", 9000, 0, 0)),
        ),
        colours([WHITE, (0, 0, 35)]),
        1,
    ),
    "53-png-16-bit-rgba": (
        lambda: make.png((2, 1), 16, 6, make.png_rows(struct.pack(">8H", 65_535, 0, 0, 65_535, 0, 0, 0, 0))),
        colours([RED, WHITE]),
        1,
    ),
    # One pixel has only the first of the seven passes.
    "54-png-interlaced": (lambda: make.png((1, 1), 8, 2, b"\0" + bytes(RED), interlaced=True), flat(1, 1, RED), 0),
    "58-png-text-bombs": (text_bomb, grey([255, 0], [0, 255]), 0),
    "59-apng": (apng, SLOPES, 0),
    "60-png-fully-transparent": (
        lambda: make.png((2, 1), 8, 6, make.png_rows(bytes(8))),
        colours([WHITE, WHITE]),
        0,
    ),
    "61-animated-gif": (
        lambda: make.encode_frames([WHITE_BLACK, 255 - WHITE_BLACK], "GIF"),
        grey([255, 0], [0, 255]),
        0,
    ),
    "62-gif-of-10000-frames": (gif_of_ten_thousand_frames, grey([255, 0], [0, 255]), 0),
    "64-animated-webp": (lambda: make.encode_frames([SLOPES, 255 - SLOPES], "WEBP", lossless=True), SLOPES, 0),
    "65-lossless-webp": (lambda: make.encode(SLOPES, "WEBP", lossless=True), SLOPES, 0),
    "66-webp-alpha": (
        lambda: make.encode(
            np.array([[[255, 0, 0, 255], [0, 0, 0, 0], [0, 0, 0, 128]]], np.uint8), "WEBP", lossless=True, exact=True
        ),
        colours([RED, WHITE, (127, 127, 127)]),
        1,
    ),
    "67-avif-10-bit": (lambda: make.AVIF_10_BIT, SLOPES, 32),
    "69-bmp-rle": (rle8_bmp, grey([255, 255], [0, 0]), 0),
    "69-bmp-top-down": (
        lambda: make.bmp(1, -2, 24, 0, bytes([0, 0, 255, 0, 255, 0, 0, 0])),
        colours([RED], [BLUE]),
        0,
    ),
    "69-bmp-os2-of-one-pixel": (
        lambda: b"BM" + struct.pack("<IHHIIHHHH", 30, 0, 0, 26, 12, 1, 1, 1, 24) + bytes([0, 0, 255, 0]),
        colours([RED]),
        0,
    ),
    "69-bmp-alpha": (
        lambda: bmp_of_fields(32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000), [0xFFFF0000, 0x000000FF]),
        colours([RED, WHITE]),
        0,
    ),
    "69-bmp-alpha-that-nobody-set": (
        lambda: bmp_of_fields(32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000), [0x00FF0000, 0x000000FF]),
        colours([RED, BLUE]),
        0,
    ),
    "69-bmp-alpha-of-one-bit": (
        lambda: bmp_of_fields(16, (0x7C00, 0x3E0, 0x1F, 0x8000), [0x8000 | 0x7C00, 0x1F]),
        colours([RED, WHITE]),
        0,
    ),
    "69-bmp-alpha-of-one-bit-that-nobody-set": (
        lambda: bmp_of_fields(16, (0x7C00, 0x3E0, 0x1F, 0x8000), [0x7C00, 0x1F]),
        colours([RED, BLUE]),
        0,
    ),
    "69-bmp-32-bit": (lambda: make.bmp(1, 1, 32, 0, bytes([0, 0, 255, 0])), colours([RED]), 0),
    "70-tiff-multipage": (multipage_tiff, SLOPES, 0),
    "70-bigtiff": (lambda: make.encode(SLOPES, "TIFF", big_tiff=True), SLOPES, 0),
    "72-tiff-16-bit": (
        lambda: make.tiff((3, 1), (16,), 1, struct.pack("<3H", 0, 32_768, 65_535)),
        grey([0, 128, 255]),
        0,
    ),
    "72-tiff-16-bit-big-endian": (
        lambda: make.tiff((3, 1), (16,), 1, struct.pack(">3H", 0, 32_768, 65_535), order=">"),
        grey([0, 128, 255]),
        0,
    ),
    "72-tiff-16-bit-white-is-zero": (
        lambda: make.tiff((3, 1), (16,), 0, struct.pack("<3H", 0, 32_768, 65_535)),
        grey([255, 127, 0]),
        0,
    ),
    "72-tiff-12-bit": (lambda: make.tiff((2, 1), (12,), 1, b"\xff\xf8\x00"), grey([255, 128]), 0),
    "72-tiff-premultiplied-grey": (
        lambda: make.tiff((2, 1), (8, 8), 1, b"\x40\x80\0\0", (338, 3, 1)),
        grey([191, 255]),
        1,
    ),
    "74-tiff-directory-loop": (
        lambda: make.tiff((3, 1), (8,), 1, b"\x0a\x80\xff", next_ifd=11),
        grey([10, 128, 255]),
        0,
    ),
    "77-black": (lambda: make.jpeg(flat(9, 9, (0, 0, 0))), flat(9, 9, (0, 0, 0)), 0),
    "77-white": (lambda: make.jpeg(flat(9, 9, WHITE)), flat(9, 9, WHITE), 0),
    "78-one-colour": (lambda: make.encode(flat(9, 9, (1, 2, 3)), "PNG"), flat(9, 9, (1, 2, 3)), 0),
}


@pytest.mark.parametrize(("make_bytes", "expected", "tolerance"), GOOD_IMAGES.values(), ids=GOOD_IMAGES)
@pytest.mark.parametrize("decode", [decode_image, decode_careful])
def test_odd_but_readable_bytes_give_their_picture(
    decode: Callable[[bytes], np.ndarray], make_bytes: Callable[[], bytes], expected: np.ndarray, tolerance: int
) -> None:
    pixels = decode(make_bytes())
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize(
    ("make_bytes", "size"),
    [
        pytest.param(broken_restart_markers, (200, 200), id="34-broken-restart-markers"),
        pytest.param(lambda: make.set_jpeg_size(JPEG, 24, 48), (48, 24), id="40-header-says-more-rows"),
        pytest.param(shrink_gif_canvas, (16, 24), id="63-gif-frame-larger-than-canvas"),
    ],
)
def test_damage_that_a_decoder_does_not_notice_is_a_picture(
    make_bytes: Callable[[], bytes], size: tuple[int, int]
) -> None:
    assert decode_image(make_bytes()).shape == (*size, 3)


def test_equal_bytes_give_equal_pixels() -> None:
    """Cases 79 and 80: the decoder knows neither names nor labels."""
    np.testing.assert_array_equal(decode_image(JPEG), decode_image(memoryview(bytearray(JPEG))))


def test_bytes_are_counted_before_anything_is_read() -> None:
    """Case 89."""
    with pytest.raises(ImageError, match=r"larger than the limit on bytes \(1001 bytes, the limit is 1000\)") as raised:
        decode_image(b"\0" * 1001, DecodeLimits(max_bytes=1000))
    assert raised.value.code is ImageErrorCode.TOO_MANY_BYTES
