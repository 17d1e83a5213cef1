"""Whatever the bytes are: an array or an ImageError, soon, in any thread, with nothing printed and nothing started."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import EpsImagePlugin, Image, ImageFile

from imgcls_ray.errors import ConfigError, ImageError, ImageErrorCode
from imgcls_ray.images import careful
from imgcls_ray.images.decoder import DecodeLimits, decode_careful, decode_image
from tests.images import bad_images as make

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")

PICTURE = make.slopes(64, 48)


def make_planar_tiff() -> bytes:
    file = io.BytesIO()
    samples = np.moveaxis(PICTURE, -1, 0).astype(np.uint16) * 257
    tifffile.imwrite(file, samples, photometric="rgb", planarconfig="separate", metadata=None)
    return file.getvalue()


def make_heif() -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(PICTURE)).save(file, quality=60)
    return file.getvalue()


SEEDS = {
    "jpeg": make.jpeg(PICTURE),
    "progressive-jpeg": make.jpeg(PICTURE, progressive=True),
    "cmyk-jpeg": make.jpeg(PICTURE, "CMYK"),
    "png": make.encode(PICTURE, "PNG"),
    "palette-png": make.encode(PICTURE, "PNG", "P"),
    "webp": make.encode(PICTURE, "WEBP"),
    "lossless-webp": make.encode(PICTURE, "WEBP", lossless=True),
    "avif": make.encode(PICTURE, "AVIF", speed=10),
    "gif": make.encode(PICTURE, "GIF"),
    "bmp": make.encode(PICTURE, "BMP"),
    "tiff": make.encode(PICTURE, "TIFF"),
    "lzw-tiff": make.encode(PICTURE, "TIFF", compression="tiff_lzw"),
    "jpeg-tiff": make.encode(PICTURE, "TIFF", compression="jpeg"),
    "planar-tiff": make_planar_tiff(),
    "heif": make_heif(),
    "jxl": bytes(imagecodecs.jpegxl_encode(PICTURE)),
    "jxl-container": bytes(imagecodecs.jpegxl_encode(PICTURE, lossless=True, usecontainer=True)),
    "grey16-tiff": make.tiff((4, 4), (16,), 1, bytes(range(32))),
}
NUM_MUTATIONS = 300


def mutate(encoded: bytes, rng: np.random.Generator) -> bytes:
    """Cut it, flip some bytes, take a piece out, double one, or put one elsewhere; headers get most of it."""
    at, to = sorted(int(len(encoded) * u**2) for u in rng.random(2))
    match rng.integers(5):
        case 0:
            return encoded[:to]
        case 1:
            flipped = bytearray(encoded)
            for _ in range(rng.integers(1, 6)):
                flipped[int(len(encoded) * rng.random() ** 3)] = rng.integers(256)
            return bytes(flipped)
        case 2:
            return encoded[:at] + encoded[to:]
        case 3:
            return encoded[:to] + encoded[at:]
        case _:
            return make.overwrite(encoded, at, encoded[to : to + 16])


def outcome_of(encoded: bytes, limits: DecodeLimits) -> np.ndarray | ImageError:
    try:
        return decode_image(encoded, limits)
    except ImageError as exc:
        return exc


@pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS)
def test_mutations_end_in_an_array_or_an_image_error(seed: bytes) -> None:
    rng = np.random.default_rng(len(seed))
    limits = DecodeLimits(max_pixels=4_000_000)
    started = time.monotonic()
    for _ in range(NUM_MUTATIONS):
        encoded = mutate(seed, rng)
        outcome = outcome_of(encoded, limits)
        if isinstance(outcome, ImageError):
            assert outcome.detail.isprintable()
            assert len(outcome.detail) <= 200
        else:
            assert outcome.dtype == np.uint8
            assert outcome.shape[2] == 3
    assert time.monotonic() - started < 20


def test_threads_do_not_disturb_each_other() -> None:
    files = [*SEEDS.values(), SEEDS["jpeg"][:300], SEEDS["jpeg-tiff"][:-50]]

    def outcome(encoded: bytes) -> bytes | ImageErrorCode:
        try:
            return decode_image(encoded).tobytes()
        except ImageError as exc:
            return exc.code

    alone = [outcome(encoded) for encoded in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(outcome, files * 20))
    assert together == alone * 20


def test_eps_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 76, also with a magic in front that the decoder knows."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", pytest.fail)
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    monkeypatch.setattr(os, "system", pytest.fail)
    eps = make.encode(PICTURE, "EPS")
    for prefix in (b"", b"\xff\xd8\xff", b"GIF89a", b"II*\0", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(ImageError):
            decode_image(prefix + eps)


def test_pillow_is_never_left_to_choose_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", pytest.fail)
    for encoded in SEEDS.values():
        decode_careful(encoded)


def test_nothing_is_printed_for_damaged_metadata() -> None:
    """In a process of its own: pytest replaces the filters that a user has."""
    damaged = make.tiff((2, 1), (8,), 1, b"\0\xff", (270, 2, 0))
    damaged = damaged.replace(b"\x0e\x01\x02\0\1\0\0\0", b"\x0e\x01\x02\0\xff\xff\xff\0")
    code = f"from imgcls_ray.images.decoder import decode_image; print(decode_image({damaged!r}).shape)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("(1, 2, 3)\n", "")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(damaged)).load()
    assert caught, "the file must be one that Pillow warns about"


def test_importing_the_decoder_leaves_torch_alone() -> None:
    code = "import sys, imgcls_ray.images.decoder; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_pillows_own_settings_stay_as_they_are() -> None:
    for encoded in SEEDS.values():
        decode_careful(encoded)
    assert Image.MAX_IMAGE_PIXELS == 89_478_485
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("name", SEEDS)
def test_pixels_are_limited_by_the_header_in_every_format(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    width, height = (4, 4) if name == "grey16-tiff" else (64, 48)
    decode_image(SEEDS[name], DecodeLimits(max_pixels=width * height))
    monkeypatch.setattr(careful, "to_rgb", pytest.fail)
    monkeypatch.setattr(imagecodecs, "jpegxl_decode", pytest.fail)
    with pytest.raises(ImageError) as raised:
        decode_image(SEEDS[name], DecodeLimits(max_pixels=width * height - 1))
    assert raised.value.code is ImageErrorCode.TOO_MANY_PIXELS
    assert raised.value.detail == f"{width} x {height} pixels, the limit is {width * height - 1}"


@pytest.mark.parametrize("num_scans", [100, 101])
def test_scans_are_counted_up_to_the_limit(num_scans: int) -> None:
    encoded = make.jpeg_with_scans(num_scans)
    if num_scans == 100:
        assert decode_image(encoded).shape == (16, 24, 3)
    else:
        with pytest.raises(ImageError, match="more than 100"):
            decode_image(encoded)


def test_running_out_of_memory_is_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(careful, "to_rgb", no_memory)
    with pytest.raises(ImageError) as raised:
        decode_image(SEEDS["png"])
    assert raised.value.code is ImageErrorCode.DECODER_CRASHED


def test_an_interrupt_is_not_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(careful, "to_rgb", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode_image(SEEDS["png"])


def test_details_are_one_short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def verbose(*_: object) -> None:
        raise ValueError("first\nsecond\x1b[31m\t" + "x" * 1000)

    monkeypatch.setattr(careful, "to_rgb", verbose)
    with pytest.raises(ImageError) as raised:
        decode_image(SEEDS["png"])
    assert raised.value.detail.startswith("ValueError: first second [31m xxx")
    assert len(raised.value.detail) == 200


def test_limits_above_pillows_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_pixels=100000000 is above Pillow's limit of 89478485"):
        DecodeLimits(max_pixels=100_000_000)


@pytest.mark.parametrize("name", ["max_bytes", "max_pixels", "max_scans"])
def test_limits_of_nothing_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=0"):
        DecodeLimits(**{name: 0})


def test_limits_travel_to_workers() -> None:
    limits = DecodeLimits(max_pixels=5)
    assert pickle.loads(pickle.dumps(limits)) == limits
