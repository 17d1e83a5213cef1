"""What is measured of a picture is what is on it, whatever the file that holds it."""

from __future__ import annotations

import io
import itertools
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xxhash
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from imgcls_ray.datasets.duplicates import hashes_array, near_pictures
from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.decoder import decode_image
from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.images.measure import HASH_BYTES, ImageFacts, copy_difference, measure_image, views
from tests.datasets.make_faulty import picture

if TYPE_CHECKING:
    from collections.abc import Callable


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def measure(image: Image.Image, kind: str = "PNG", **options: Any) -> ImageFacts:
    return measure_image(encode(image, kind, **options))


def num_bits(one: ImageFacts, two: ImageFacts) -> int:
    return sum((a ^ b).bit_count() for a, b in zip(one.perceptual_hash, two.perceptual_hash, strict=True))


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


PICTURE = picture(1)
DEEP = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (120, 160)).astype(np.uint16))


@pytest.mark.parametrize(
    ("image", "file_format", "kind"),
    [
        (PICTURE, "JPEG", "JPEG RGB"),
        (PICTURE.convert("L"), "JPEG", "JPEG grey"),
        (PICTURE.convert("CMYK"), "JPEG", "JPEG CMYK"),
        (PICTURE, "PNG", "PNG RGB"),
        (PICTURE.convert("RGBA"), "PNG", "PNG RGB"),
        (PICTURE.convert("P"), "PNG", "PNG RGB"),
        (PICTURE.convert("L"), "PNG", "PNG grey"),
        (PICTURE.convert("LA"), "PNG", "PNG grey"),
        (PICTURE.convert("1"), "PNG", "PNG grey"),
        (DEEP, "PNG", "PNG 16-bit"),
        (PICTURE, "GIF", "GIF RGB"),
        (PICTURE, "TIFF", "TIFF RGB"),
        (PICTURE.convert("L"), "TIFF", "TIFF grey"),
        (PICTURE.convert("CMYK"), "TIFF", "TIFF CMYK"),
        (DEEP, "TIFF", "TIFF 16-bit"),
        (PICTURE, "WEBP", "WEBP RGB"),
        (PICTURE, "BMP", "BMP RGB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_size_format_and_colours_are_those_of_the_file(image: Image.Image, file_format: str, kind: str) -> None:
    facts = measure(image, file_format)
    assert (facts.width, facts.height, facts.kind, facts.is_turned) == (160, 120, kind, False)


def test_a_png_of_colours_with_16_bits_is_told() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    rows = zlib.compress(bytes(1 + 2 * 6))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert measure_image(png).kind == "PNG 16-bit"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("value", "size"), [(1, (160, 120)), (2, (160, 120)), (3, (160, 120)), (6, (120, 160)), (8, (120, 160))]
)
def test_a_picture_that_exif_turns_is_measured_upright(file_format: str, value: int, size: tuple[int, int]) -> None:
    facts = measure(PICTURE, file_format, exif=orientation(value))
    assert (facts.width, facts.height) == size
    assert facts.is_turned is (value != 1)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0"]
)
def test_damaged_exif_costs_nothing(file_format: str, exif: bytes) -> None:
    facts = measure(PICTURE, file_format, exif=exif)
    assert (facts.width, facts.height, facts.is_turned) == (160, 120, False)


@pytest.mark.parametrize(
    ("colour", "brightness"),
    [
        ((0, 0, 0), 0),
        ((255, 255, 255), 255),
        ((100, 100, 100), 100),
        ((255, 0, 0), 76),
        ((0, 255, 0), 150),
        ((0, 0, 255), 29),
    ],
)
def test_brightness_is_the_luma_of_the_pixels(colour: tuple[int, int, int], brightness: int) -> None:
    assert measure(Image.new("RGB", (64, 48), colour)).brightness == pytest.approx(brightness, abs=1)


def test_brightness_is_of_the_whole_picture() -> None:
    image = Image.new("L", (640, 480))
    image.paste(255, (0, 0, 640, 120))
    assert measure(image).brightness == pytest.approx(255 / 4, abs=2)


def test_contrast_grows_with_what_is_on_the_picture() -> None:
    uniform = measure(Image.new("RGB", (160, 120), (90, 120, 60))).contrast
    faint = measure(PICTURE.point(lambda value: 120 + value // 16)).contrast
    halves = Image.new("L", (160, 120))
    halves.paste(255, (0, 0, 80, 120))
    assert uniform == pytest.approx(0, abs=0.2)
    assert uniform + 0.5 < faint < measure(PICTURE).contrast < measure(halves).contrast <= 127.5


def test_sharpness_falls_the_more_a_picture_is_blurred() -> None:
    image = picture(2, (640, 480))
    values = [measure(image.filter(ImageFilter.GaussianBlur(radius))).sharpness for radius in (0, 1, 2, 4, 8)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 100 > 4 > values[-1]


def test_sharpness_is_looked_for_in_the_middle() -> None:
    image = picture(3, (800, 600)).filter(ImageFilter.GaussianBlur(20))
    image.paste(picture(4, (200, 200)), (300, 200))
    assert measure(image).sharpness > 100


def test_the_hash_of_a_picture_that_was_saved_again_differs_in_few_bits() -> None:
    for seed in range(20):
        image = picture(seed, (320, 240))
        original = measure(image)
        again = [
            measure(image, "JPEG", quality=50),
            measure(image, "WEBP", quality=60),
            measure(image.resize((160, 120), Image.Resampling.LANCZOS)),
            measure(image.resize((640, 480), Image.Resampling.BICUBIC), "JPEG", quality=80),
            measure(image.resize((200, 200), Image.Resampling.BICUBIC)),
        ]
        assert max(num_bits(original, other) for other in again) <= 6


def test_the_hashes_of_strangers_differ_in_many_bits() -> None:
    facts = [measure(picture(seed)) for seed in range(30)]
    assert min(num_bits(one, two) for place, one in enumerate(facts) for two in facts[:place]) > 20


def _with_a_sign(image: Image.Image) -> Image.Image:
    image = image.copy()
    width, height = image.size
    image.paste((255, 255, 255), (int(0.6 * width), int(0.9 * height), width, height))
    return image


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "of more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "cropped by 2 %": lambda image: image.crop((2, 1, 158, 119)),
    "cropped by 5 %": lambda image: image.crop((4, 3, 156, 117)),
    "mirrored": ImageOps.mirror,
    "with a border": lambda image: ImageOps.expand(image, 6, (0, 0, 0)),
    "with a sign": _with_a_sign,
    "smaller": lambda image: image.resize((80, 60)),
}


def are_near(one: bytes, two: bytes) -> bool:
    """Whether a check with its defaults takes them for nearly equal."""
    hashes = [(facts.perceptual_hash + facts.view_hashes) for facts in map(measure_image, (one, two))]
    pairs = near_pictures(hashes_array(hashes), 6, np.zeros(2, np.int64), is_across=False).pairs
    return len(pairs) == 1 and copy_difference(*(views(decode_image(data)) for data in (one, two))) <= 5


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_near_its_picture(kind: str) -> None:
    are_found = []
    for seed in range(4):
        image = picture(seed)
        are_found.append(are_near(encode(image, quality=92), encode(COPIES[kind](image), quality=85)))
    # Where a border ends is not to be seen to the pixel.
    assert sum(are_found) >= (2 if kind == "with a border" else 4)


def test_strangers_are_not_near() -> None:
    pictures = [encode(picture(seed)) for seed in range(40)]
    hashes = [facts.perceptual_hash + facts.view_hashes for facts in map(measure_image, pictures)]
    assert not len(near_pictures(hashes_array(hashes), 7, np.zeros(40, np.int64), is_across=False).pairs)
    seen = [views(decode_image(data)) for data in pictures[:10]]
    assert min(copy_difference(one, two) for one, two in itertools.combinations(seen, 2)) > 15


def test_half_of_the_bits_of_a_hash_are_set() -> None:
    perceptual_hash = measure(PICTURE).perceptual_hash
    assert len(perceptual_hash) == HASH_BYTES
    assert sum(byte.bit_count() for byte in perceptual_hash) == HASH_BYTES * 4


def test_a_mirrored_picture_is_another_one() -> None:
    assert num_bits(measure(PICTURE), measure(PICTURE.transpose(Image.Transpose.FLIP_LEFT_RIGHT))) > 20


def test_the_digest_is_of_the_bytes() -> None:
    data = encode(PICTURE)
    assert measure_image(data).digest == xxhash.xxh3_128_digest(data)
    assert measure_image(data + b"\0").digest == xxhash.xxh3_128_digest(data + b"\0")


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 2), (20_000, 3), (3, 20_000), (31, 33)])
def test_a_picture_of_any_shape_is_measured(size: tuple[int, int]) -> None:
    facts = measure(picture(5).resize(size))
    assert (facts.width, facts.height) == size
    assert 0 <= facts.brightness <= 255
    assert 0 <= facts.contrast <= 127.5
    assert np.isfinite(facts.sharpness)
    assert len(facts.perceptual_hash) == HASH_BYTES


@pytest.mark.parametrize("side", [1, 31, 32, 33, 127, 128, 129, 255, 256, 257, 1023, 1025, 2049])
def test_the_small_picture_keeps_what_is_where(side: int) -> None:
    ramp = np.repeat(np.linspace(0, 255, side).astype(np.uint8)[None, :, None], 3, axis=2).repeat(side, axis=0)
    for pixels in (ramp, ramp.swapaxes(0, 1)):
        small = views(pixels)[0]
        assert small.shape == (32, 32)
        assert small.dtype == np.float32
        assert small.mean() == pytest.approx(pixels.mean(), abs=3)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", ImageErrorCode.EMPTY),
        (b"this is no picture", ImageErrorCode.UNSUPPORTED_FORMAT),
        (encode(PICTURE)[:2000], ImageErrorCode.TRUNCATED),
        (encode(PICTURE, "PNG")[:2000], ImageErrorCode.TRUNCATED),
    ],
)
def test_what_cannot_be_decoded_is_an_image_error(data: bytes, code: ImageErrorCode) -> None:
    with pytest.raises(ImageError) as caught:
        measure_image(data)
    assert caught.value.code is code


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_bytes_that_were_changed_anywhere_are_measured_or_an_image_error(file_format: str) -> None:
    good = encode(picture(6, (48, 40)), file_format)
    rng = np.random.default_rng(7)
    for _ in range(150):
        data = bytearray(good)
        for place in rng.integers(0, min(len(data), 400), 3):
            data[place] = rng.integers(256)
        try:
            facts = measure_image(bytes(data), DecodeLimits(max_pixels=10**6))
        except ImageError:
            continue
        assert len(facts.digest) == 16
