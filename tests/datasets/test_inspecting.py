"""Images are measured alike in a worker and in its child, and one that ends the child costs its own row only."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from imgcls_ray.datasets.inspecting import measure_in_child, measure_in_time
from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.limits import DecodeLimits
from tests.datasets.make_faulty import jpeg, picture
from tests.workers.survival import POISON

LIMITS = DecodeLimits(timeout_s=20)


def as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pictures() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.random.default_rng(0).integers(0, 65536, (60, 80)).astype(np.uint16)
    return {
        "jpeg": jpeg(picture(1)),
        "turned": jpeg(picture(2), exif=exif),
        "cmyk": jpeg(picture(3).convert("CMYK")),
        "deep": as_png(Image.fromarray(deep)),
        "one pixel": as_png(Image.new("RGB", (1, 1))),
    }


def bad_bytes() -> dict[str, bytes]:
    return {"empty": b"", "text": b"no picture \xff", "cut": jpeg(picture(1))[:900]}


def test_a_child_measures_as_its_parent_does() -> None:
    in_time = measure_in_time(LIMITS)
    with measure_in_child(LIMITS) as in_child:
        for name, data in pictures().items():
            assert in_child(data) == in_time(data), name


def test_a_result_keeps_neither_frames_nor_causes() -> None:
    """They would keep the file's bytes, of each bad image of a block."""
    for data in bad_bytes().values():
        result = measure_in_time(LIMITS)(data)
        assert isinstance(result, ImageError)
        assert (result.__traceback__, result.__cause__, result.__context__) == (None, None, None)


def test_a_child_fails_as_its_parent_does() -> None:
    in_time = measure_in_time(LIMITS)
    with measure_in_child(LIMITS) as in_child:
        for name, data in bad_bytes().items():
            theirs, ours = in_child(data), in_time(data)
            assert isinstance(theirs, ImageError), name
            assert isinstance(ours, ImageError), name
            assert (theirs.code, theirs.detail) == (ours.code, ours.detail)


def test_a_child_keeps_to_the_limits() -> None:
    with measure_in_child(DecodeLimits(max_pixels=100, timeout_s=20)) as measure:
        result = measure(jpeg(picture(1)))
    assert isinstance(result, ImageError)
    assert result.code is ImageErrorCode.TOO_MANY_PIXELS


@pytest.mark.parametrize(
    ("kind", "code"), [("CRASH", ImageErrorCode.DECODER_CRASHED), ("LOOP", ImageErrorCode.DECODE_TIMEOUT)]
)
def test_an_image_that_ends_the_child_gets_its_code_and_the_next_one_its_facts(
    monkeypatch: pytest.MonkeyPatch, kind: str, code: ImageErrorCode
) -> None:
    monkeypatch.syspath_prepend(POISON)
    good = jpeg(picture(1))
    with measure_in_child(DecodeLimits(timeout_s=2)) as measure:
        before, guilty, after = (measure(data) for data in (good, good + f"POISON:{kind}".encode(), good))
    assert isinstance(guilty, ImageError)
    assert guilty.code is code
    assert before == after == measure_in_time(LIMITS)(good)
