"""TIFFs that Pillow alone reads wrongly: planes stored apart, camera raw files, and what is refused by name."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import tifffile

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images import careful
from imgcls_ray.images.decoder import DecodeLimits, decode_image
from tests.images import bad_images as make

SLOPES = make.slopes()
SLOPES_16 = SLOPES.astype(np.uint16) * 257
NEAR_INFRARED = np.dstack([SLOPES_16, 65535 - SLOPES_16[:, :, :1]])


def tiff(samples: np.ndarray, planarconfig: str = "contig", **options: Any) -> bytes:
    """Written by tifffile; samples as (H, W, C)."""
    file = io.BytesIO()
    stored = np.moveaxis(samples, -1, 0) if planarconfig == "separate" else samples
    tifffile.imwrite(file, stored, planarconfig=planarconfig, metadata=None, **{"photometric": "rgb", **options})
    return file.getvalue()


def pages(*directories: dict[int, int | bytes], body: bytes = b"", order: str = "<", magic: bytes = b"") -> bytes:
    """A TIFF of one pixel's bytes and a first directory, whose SubIFDs are the others. Bytes are of type BYTE."""
    start = 16 + len(body) + len(body) % 2
    packed: list[bytes] = []
    for index, tags in enumerate(directories):
        all_tags: dict[int, int | bytes] = dict(tags)
        if index == 0 and len(directories) == 2:
            all_tags[330] = start + 2 + 12 * (len(tags) + 1) + 4
        entries = [_entry(tag, value, order) for tag, value in sorted(all_tags.items())]
        packed.append(struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start) + magic.ljust(8, b"\0")
    return (head + body).ljust(start, b"\0") + b"".join(packed)


def _entry(tag: int, value: int | bytes, order: str) -> bytes:
    if isinstance(value, bytes):
        return struct.pack(order + "HHI", tag, 1, len(value)) + value
    return struct.pack(order + "HHII", tag, 4, 1, value)


def grey_page(width: int, height: int, **more: int) -> dict[int, int | bytes]:
    tags: dict[int, int | bytes] = {256: width, 257: height, 258: 8, 262: 1, 273: 16, 277: 1, 279: width * height}
    return tags | {int(name.removeprefix("tag")): value for name, value in more.items()}


def refusal(encoded: bytes) -> str:
    with pytest.raises(ImageError) as raised:
        decode_image(encoded)
    assert raised.value.code is ImageErrorCode.UNSUPPORTED_FORMAT, raised.value
    return raised.value.detail


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "lzw", "predictor": True}, {"compression": "zlib", "tile": (16, 16)}, {"rowsperstrip": 5}],
    ids=["plain", "lzw", "tiles", "strips"],
)
@pytest.mark.parametrize(
    ("samples", "more"),
    [
        (SLOPES, {}),
        (SLOPES_16, {}),
        (NEAR_INFRARED, {"extrasamples": ["unspecified"]}),
        (NEAR_INFRARED, {"extrasamples": ["unassalpha"]}),
        (np.dstack([SLOPES, SLOPES[:, :, 0]]), {"extrasamples": ["unassalpha"]}),
        (np.dstack([SLOPES, SLOPES[:, :, 0]]), {"photometric": "separated"}),
        (np.dstack([SLOPES_16, SLOPES_16[:, :, 0]]), {"photometric": "separated"}),
        (SLOPES_16[:, :, :2], {"photometric": "minisblack", "extrasamples": ["unspecified"]}),
    ],
    ids=["8", "16", "rgb-nir-16", "rgba-16", "rgba-8", "cmyk-8", "cmyk-16", "grey-and-other-16"],
)
def test_planes_stored_apart_are_read_as_their_interleaved_twin(
    samples: np.ndarray, more: dict[str, Any], options: dict[str, Any], byteorder: str
) -> None:
    apart = decode_image(tiff(samples, "separate", byteorder=byteorder, **options, **more))
    if samples.shape[2] == 2:  # which Pillow reads only apart
        expected = np.repeat(SLOPES[:, :, :1], 3, axis=2)
    else:
        expected = decode_image(tiff(samples, byteorder=byteorder, **more))
    assert np.abs(apart.astype(int) - expected).max() <= 1


def test_the_other_samples_of_a_pixel_are_left_out() -> None:
    encoded = tiff(NEAR_INFRARED, "separate", extrasamples=["unspecified"])
    np.testing.assert_array_equal(decode_image(encoded), SLOPES)


def test_planes_stored_apart_come_upright() -> None:
    encoded = tiff(SLOPES_16, "separate", extratags=[(274, 3, 1, 6, True)])
    np.testing.assert_array_equal(decode_image(encoded), np.rot90(SLOPES, 3))


def test_planes_stored_apart_are_within_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = tiff(SLOPES_16, "separate")
    decode_image(encoded, DecodeLimits(max_pixels=24 * 16))
    monkeypatch.setattr(careful, "to_rgb", pytest.fail)
    with pytest.raises(ImageError, match="24 x 16 pixels, the limit is 383"):
        decode_image(encoded, DecodeLimits(max_pixels=24 * 16 - 1))


def test_planes_that_are_cut_are_truncated() -> None:
    encoded = tiff(SLOPES_16, "separate", compression="zlib")
    with tifffile.TiffFile(io.BytesIO(encoded)) as file:
        first_page = file.pages[0]
        offset = first_page.dataoffsets[-1]
    # The directory comes first, the last plane is gone.
    with pytest.raises(ImageError) as raised:
        decode_image(encoded[: offset + 3])
    assert raised.value.code is ImageErrorCode.TRUNCATED


def test_planes_that_cannot_be_told_apart_are_corrupt() -> None:
    with pytest.raises(ImageError, match="its planes cannot be told apart") as raised:
        decode_image(pages(grey_page(2, 1) | {262: 2, 277: 3, 284: 2}, body=bytes(8)))
    assert raised.value.code is ImageErrorCode.CORRUPT


REDUCED, WHOLE = {"tag254": 1}, {"tag254": 0}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("directories", "magic"),
    [
        pytest.param([grey_page(2, 2, **REDUCED), grey_page(40, 30, **WHOLE)], b"", id="thumbnail"),
        pytest.param([grey_page(2, 2), grey_page(40, 30)], b"", id="thumbnail-not-told"),
        pytest.param([grey_page(9, 9, **REDUCED, tag330=0xFFFFFF)], b"", id="thumbnail-of-what-cannot-be-read"),
        pytest.param([grey_page(9, 9), grey_page(9, 9, tag262=32803)], b"", id="sensor"),
        pytest.param([grey_page(9, 9), grey_page(9, 9, tag262=34892)], b"", id="linear-raw"),
        pytest.param([grey_page(9, 9) | {50706: b"\1\4\0\0"}], b"", id="dng"),
        pytest.param([grey_page(9, 9)], b"CR\2\0", id="cr2"),
    ],
)
def test_a_camera_raw_file_is_refused_by_name(
    directories: list[dict[int, int | bytes]], magic: bytes, order: str
) -> None:
    encoded = pages(*directories, body=bytes(2000), order=order, magic=magic)
    assert refusal(encoded).startswith("a camera raw file: ")


def test_a_raw_file_as_cameras_write_it_is_refused() -> None:
    """A thumbnail in colours, and 16-bit samples of the sensor below it, as in Nikon's NEF."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        thumbnail = {"photometric": "rgb", "subfiletype": 1, "subifds": 1, "metadata": None}
        writer.write(SLOPES, **thumbnail, extratags=[(271, 2, 6, "NIKON", True)])
        writer.write(np.zeros((480, 640), np.uint16), photometric=32803, metadata=None)
    assert "camera raw" in refusal(file.getvalue())


@pytest.mark.parametrize(
    "directories",
    [
        pytest.param([grey_page(40, 30, **WHOLE), grey_page(2, 2, **REDUCED)], id="pyramid"),
        pytest.param([grey_page(40, 30), grey_page(40, 30)], id="equal-pages"),
        pytest.param([grey_page(40, 30, **REDUCED)], id="reduced-without-the-whole"),
        pytest.param([grey_page(40, 30, **REDUCED), grey_page(2, 2, **REDUCED)], id="pyramid-without-the-whole"),
        pytest.param([grey_page(40, 30, tag330=0xFFFFFF)], id="sub-ifd-nowhere"),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_other_tiffs_with_more_pages_are_read(directories: list[dict[int, int | bytes]], order: str) -> None:
    encoded = pages(*directories, body=bytes(range(256)) * 5, order=order)
    assert decode_image(encoded)[0, :4, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("encoded", "words"),
    [
        (make.tiff((2, 1), (8,), 1, b"\0\xff", (339, 3, 2)), "signed integers"),
        (make.tiff((2, 1), (8,) * 4, 5, bytes(8), (332, 3, 2)), "other inks"),
        (make.tiff((2, 1), (8,) * 3, 9, bytes(6)), "photometric 9"),
        (tiff(SLOPES, compression="jpeg2000"), "compression 34712"),
        (tiff(SLOPES, byteorder=">", bigtiff=True), "a big-endian BigTIFF"),
        (tiff(SLOPES, "separate", photometric="ycbcr"), "3 planes stored apart"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(encoded: bytes, words: str) -> None:
    assert words in refusal(encoded)


def test_a_palette_of_8_bits_is_taken_for_one() -> None:
    colours = [255, 0, 0, 255, 0, 0]  # red, green, blue of two colours: yellow, black
    encoded = pages(grey_page(2, 1) | {262: 3, 320: 0}, body=bytes([0, 1]))
    table = struct.pack(
        "<768H", *[value for colour in range(3) for value in (colours[2 * colour : 2 * colour + 2] + [0] * 254)]
    )
    encoded = encoded.replace(struct.pack("<HHII", 320, 4, 1, 0), struct.pack("<HHII", 320, 3, 768, len(encoded)))
    assert decode_image(encoded + table).tolist() == [[[255, 0, 0], [0, 255, 0]]]


def test_a_directory_that_claims_millions_of_entries_costs_nothing() -> None:
    head = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 1 << 60)
    entries = struct.pack("<HHQQ", 330, 16, 1 << 50, 16) * 100_000
    with pytest.raises(ImageError):
        decode_image(head + entries)
