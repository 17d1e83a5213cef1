"""What iPhones write, and JPEG XL: read with their extras under the rules of all formats, named without them."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageFile

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.cost import decode_cost
from imgcls_ray.images.decoder import DecodeLimits, decode_careful, decode_image
from imgcls_ray.images.jxl import read_jxl_header
from imgcls_ray.images.measure import measure_image
from imgcls_ray.images.sniff import JXL_CONTAINER_MAGIC, ImageFormat, sniff_format
from tests.images import bad_images as make
from tests.images import bombs

if TYPE_CHECKING:
    from collections.abc import Callable

SLOPES = make.slopes(120, 80)
RGBA = np.dstack([SLOPES, SLOPES[:, :, 1]])
LOSSLESS = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}


def heif(pixels: np.ndarray = SLOPES, *, exif: bytes | None = None, **options: object) -> bytes:
    image = pillow_heif.from_pillow(Image.fromarray(pixels))
    if exif is not None:
        image.info["exif"] = b"Exif\0\0" + exif
    file = io.BytesIO()
    image.save(file, **{**LOSSLESS, **options})
    return file.getvalue()


def heif_of_10_bits() -> bytes:
    samples = SLOPES.astype(np.uint16) * 257
    image = pillow_heif.from_bytes(mode="RGB;16", size=(120, 80), data=samples.tobytes())
    file = io.BytesIO()
    image.save(file, **LOSSLESS)
    return file.getvalue()


def jxl_file(pixels: np.ndarray = SLOPES, **options: Any) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, **options))


def jxl_of_jpeg(orientation: int) -> bytes:
    jpeg = make.insert_segments(make.jpeg(SLOPES, subsampling=0), make.app1_exif(make.exif(orientation)))
    return bytes(imagecodecs.jpegxl_encode_jpeg(jpeg))


def on_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[:, :, 3:] / 255
    return rgba[:, :, :3] * alpha + 255 * (1 - alpha)


def grey(samples: np.ndarray) -> np.ndarray:
    return np.repeat(samples[:, :, np.newaxis], 3, axis=2)


FILES: dict[str, tuple[Callable[[], bytes], np.ndarray]] = {
    "heif": (heif, SLOPES),
    "heif-tiles-as-iphones": (lambda: heif(np.tile(SLOPES, (7, 5, 1)), tile_size=512), np.tile(SLOPES, (7, 5, 1))),
    "heif-10-bit": (heif_of_10_bits, SLOPES),
    "heif-grey": (lambda: heif(SLOPES[:, :, 0]), grey(SLOPES[:, :, 0])),
    "heif-alpha": (lambda: heif(RGBA), on_white(RGBA)),
    "jxl": (jxl_file, SLOPES),
    "jxl-container": (lambda: jxl_file(usecontainer=True), SLOPES),
    "jxl-grey": (lambda: jxl_file(SLOPES[:, :, 0]), grey(SLOPES[:, :, 0])),
    "jxl-16-bit": (lambda: jxl_file(SLOPES.astype(np.uint16) * 257), SLOPES),
    "jxl-10-bit": (lambda: jxl_file(SLOPES.astype(np.uint16) * 4, bitspersample=10), SLOPES),
    "jxl-alpha": (lambda: jxl_file(RGBA), on_white(RGBA)),
    "jxl-grey-alpha": (lambda: jxl_file(RGBA[:, :, 2:]), on_white(RGBA[:, :, [2, 2, 2, 3]])),
    "jxl-animation": (lambda: jxl_file(np.stack([SLOPES, 255 - SLOPES])), SLOPES),
}


@pytest.mark.parametrize(("make_bytes", "expected"), FILES.values(), ids=FILES)
@pytest.mark.parametrize("decode", [decode_image, decode_careful])
def test_they_give_their_picture(
    decode: Callable[[bytes], np.ndarray], make_bytes: Callable[[], bytes], expected: np.ndarray
) -> None:
    pixels = decode(make_bytes())
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected.astype(float)).max() <= 2


def test_a_lossy_heif_is_near_its_picture() -> None:
    pixels = decode_image(heif(quality=90, chroma=420, matrix_coefficients=6))
    assert np.abs(pixels.astype(int) - SLOPES).max() <= 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_iphones_photo_is_turned_once(orientation: int) -> None:
    """It says the way up twice: as a property of the picture, which counts, and in EXIF, which does not."""
    encoded = heif(exif=make.exif(orientation))
    assert b"Exif" in encoded
    assert (b"irot" in encoded or b"imir" in encoded) is (orientation != 1)
    expected = make_upright(SLOPES, orientation)
    np.testing.assert_array_equal(decode_image(encoded), expected)
    facts = measure_image(encoded)
    assert (facts.height, facts.width) == expected.shape[:2]
    assert (facts.kind, facts.is_turned) == ("HEIF RGB", orientation != 1)


@pytest.mark.parametrize("code", ["H", "I"])
def test_exif_alone_does_not_turn_a_heif(code: str) -> None:
    encoded = heif(exif=make.exif(1))
    at = encoded.index(make.exif(1))
    kind = {"H": 3, "I": 4}[code]
    entry = struct.pack("<HHI" + code, 0x0112, kind, 1, 6)
    np.testing.assert_array_equal(decode_image(make.overwrite(encoded, at + 10, entry)), SLOPES)


def make_upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    turned = np.rot90(stored, {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}.get(orientation, 0))
    return turned[:, ::-1] if orientation in (2, 4, 5, 7) else turned


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jxl_is_turned_as_its_codestream_says(orientation: int) -> None:
    encoded = jxl_of_jpeg(orientation)
    assert read_jxl_header(encoded).orientation == orientation
    expected = make_upright(SLOPES, orientation)
    pixels = decode_image(encoded)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 12
    assert measure_image(encoded).is_turned is (orientation != 1)


def test_the_picture_that_a_heif_calls_its_first_is_taken() -> None:
    image = pillow_heif.from_pillow(Image.fromarray(255 - SLOPES))
    image.add_from_pillow(Image.fromarray(SLOPES))
    file = io.BytesIO()
    image.save(file, primary_index=1, **LOSSLESS)
    np.testing.assert_array_equal(decode_image(file.getvalue()), SLOPES)


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_limited_before_decoding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bytes, expected = FILES[name]
    encoded = make_bytes()
    height, width = expected.shape[:2]
    decode_image(encoded, DecodeLimits(max_pixels=width * height))
    monkeypatch.setattr(ImageFile.ImageFile, "load", pytest.fail)
    monkeypatch.setattr(imagecodecs, "jpegxl_decode", pytest.fail)
    with pytest.raises(ImageError, match=f"{width} x {height} pixels, the limit is") as raised:
        decode_image(encoded, DecodeLimits(max_pixels=width * height - 1))
    assert raised.value.code is ImageErrorCode.TOO_MANY_PIXELS


# Of a cut animation the first picture may be there.
@pytest.mark.parametrize("name", sorted(set(FILES) - {"jxl-animation"}))
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_what_is_cut_is_truncated(name: str, share: float) -> None:
    encoded = FILES[name][0]()
    with pytest.raises(ImageError) as raised:
        decode_image(encoded[: max(13, int(len(encoded) * share))])
    assert raised.value.code is ImageErrorCode.TRUNCATED, raised.value


@pytest.mark.parametrize("name", ["AVIF", "HEIF", "JXL"])
@pytest.mark.parametrize("num_bytes", [1, 7, 8, 15, 16, 23])
def test_a_file_that_ends_inside_a_box_is_truncated(name: str, num_bytes: int) -> None:
    wide_box = struct.pack(">I4sQ", 1, b"free", 24) + bytes(8)
    encoded = bombs.box_file(name)
    decode_image(encoded + wide_box)
    with pytest.raises(ImageError) as raised:
        decode_image(encoded + wide_box[:num_bytes])
    assert raised.value.code is ImageErrorCode.TRUNCATED, raised.value


@pytest.mark.parametrize(
    ("encoded", "words"),
    [
        (jxl_file(SLOPES.astype(np.float32) / 255), "32-bit floats"),
        (heif().replace(b"hvc1", b"vvc1"), "not identified by this driver"),
    ],
)
def test_what_has_no_right_picture_is_refused(encoded: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words) as raised:
        decode_image(encoded)
    assert raised.value.code is ImageErrorCode.UNSUPPORTED_FORMAT


def test_damage_is_corrupt() -> None:
    bad_jxl = jxl_file()[:10] + bytes(range(200, 255)) * 20
    bad_heif = heif()
    bad_heif = bad_heif.replace(b"ispe\0\0\0\0\0\0", b"ispe\0\0\0\0\0\1")
    for encoded in (bad_jxl, JXL_CONTAINER_MAGIC + struct.pack(">I4s", 12, b"jxlc") + b"\0\0\0\0"):
        with pytest.raises(ImageError) as raised:
            decode_image(encoded)
        assert raised.value.code is ImageErrorCode.CORRUPT, raised.value
    with pytest.raises(ImageError) as raised:
        decode_image(bad_heif)
    assert raised.value.code in (ImageErrorCode.CORRUPT, ImageErrorCode.TOO_MANY_PIXELS)


@pytest.mark.parametrize(
    ("encoded", "module", "extra"),
    [
        (heif(), "pillow_heif", "HEIC/HEIF needs an extra: pip install 'imgcls-ray[heif]'"),
        (jxl_file(), "imagecodecs", "JPEG XL needs an extra: pip install 'imgcls-ray[jxl]'"),
        (jxl_file(usecontainer=True), "imagecodecs", "JPEG XL needs an extra: pip install 'imgcls-ray[jxl]'"),
    ],
)
def test_without_the_extra_they_are_unsupported_and_it_is_named(
    encoded: bytes, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for data in (encoded, encoded[: len(encoded) // 2]):
        with pytest.raises(ImageError) as raised:
            decode_image(data)
        assert raised.value.code is ImageErrorCode.UNSUPPORTED_FORMAT
        assert raised.value.detail == extra
    assert not decode_cost(encoded).is_ordinary


def ftyp(*brands: bytes) -> bytes:
    return struct.pack(">I", 8 + 4 * len(brands) + 4) + b"ftyp" + brands[0] + b"\0\0\0\0" + b"".join(brands[1:])


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (ftyp(b"heic", b"mif1", b"heic"), ImageFormat.HEIF),
        (ftyp(b"heix", b"mif1"), ImageFormat.HEIF),
        (ftyp(b"hevc", b"msf1"), ImageFormat.HEIF),
        (ftyp(b"mif1", b"heic"), ImageFormat.HEIF),
        (ftyp(b"mif1", b"miaf"), ImageFormat.HEIF),
        (ftyp(b"msf1", b"hevc"), ImageFormat.HEIF),
        (ftyp(b"heic", b"mif1", b"avif"), ImageFormat.HEIF),
        (ftyp(b"avif", b"mif1", b"heic"), ImageFormat.AVIF),
        (ftyp(b"mif1", b"avif", b"heic"), ImageFormat.AVIF),
        (ftyp(b"avis", b"msf1"), ImageFormat.AVIF),
        (ftyp(b"isom", b"mp42"), None),
        (ftyp(b"crx ", b"isom"), None),
        (b"\xff\x0a\x07\x41", ImageFormat.JXL),
        (b"\0\0\0\x0cJXL \r\n\x87\n", ImageFormat.JXL),
    ],
)
def test_they_are_told_by_their_content(head: bytes, expected: ImageFormat | None) -> None:
    assert sniff_format(head) is expected


def test_large_ones_are_heavy() -> None:
    small = {name: decode_cost(make_bytes()).pixels for name, (make_bytes, _) in FILES.items() if "tiles" not in name}
    assert set(small.values()) == {120 * 80 * 4}
    large = jxl_file(np.zeros((2600, 2400), np.uint8))
    assert decode_cost(large).is_heavy


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (256, 256), (40, 30), (160, 90), (300, 7), (5000, 3), (3, 5000)])
def test_a_jxl_header_gives_the_size_as_it_is_written(size: tuple[int, int]) -> None:
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    for encoded in (jxl_file(pixels), bytes(imagecodecs.jpegxl_encode(pixels)), jxl_file(np.stack([pixels] * 2))):
        assert read_jxl_header(encoded)[:2] == size


def test_neither_is_registered_with_pillow() -> None:
    code = (
        "from PIL import Image; from imgcls_ray.images.decoder import decode_image; import sys;"
        f"decode_image({heif(SLOPES[:8, :8])!r}); decode_image({jxl_file(SLOPES[:8, :8])!r}); Image.init();"
        "print({'HEIF', 'JXL'} & set(Image.OPEN))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
