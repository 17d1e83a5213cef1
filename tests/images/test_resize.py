"""The resize kernel: the pixels of torch's, whatever the sizes, and only those of the box."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from imgcls_ray.images import resize as resizing
from imgcls_ray.images.resize import Interpolation, resize

SIZES = {"tiny": (1, 40), "small": (1, 400), "photograph": (200, 1600), "large": (1200, 4200)}


def with_torch(pixels: np.ndarray, height: int, width: int, interpolation: Interpolation) -> np.ndarray:
    return resizing._resize_with_torch(pixels, height, width, interpolation)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("name", "number"), [("tiny", 200), ("small", 100), ("photograph", 20), ("large", 4)])
def test_pixels_are_those_of_torch_at_any_size_and_in_any_box(
    name: str, number: int, interpolation: Interpolation
) -> None:
    generator = np.random.default_rng(len(name))
    smallest, largest = SIZES[name]
    for _ in range(number):
        pixels = generator.integers(0, 256, (*generator.integers(smallest, largest, 2), 3), dtype=np.uint8)
        if generator.random() < 0.5:  # as sharp as can be: bicubic weights overshoot
            pixels = np.where(pixels > 127, np.uint8(255), np.uint8(0))
        height, width = (int(length) for length in generator.integers(1, min(largest, 600), 2))
        top, left = (int(generator.integers(0, length)) for length in (height, width))
        bottom, right = int(generator.integers(top, height)) + 1, int(generator.integers(left, width)) + 1
        rows, columns = slice(top, bottom), slice(left, right)
        expected = with_torch(pixels, height, width, interpolation)[rows, columns]
        resized = resize(pixels, height, width, interpolation, rows=rows, columns=columns)
        assert np.array_equal(resized, expected), (pixels.shape, height, width, rows, columns)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(4900, 64), (64, 4900), (5100, 64), (9000, 64), (300, 30_000)])
def test_pixels_are_those_of_torch_however_much_smaller_they_become(
    shape: tuple[int, int], interpolation: Interpolation
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert np.array_equal(resize(pixels, 48, 50, interpolation), with_torch(pixels, 48, 50, interpolation))


def test_the_pixels_of_a_result_can_be_written_to() -> None:
    resized = resize(np.zeros((40, 30, 3), np.uint8), 20, 15)
    resized[:] = 1


def test_threads_resize_at_once() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 500, 3), dtype=np.uint8)
    expected = resize(pixels, 256, 300)
    wrong: list[int] = []

    def work(number: int) -> None:
        wrong.extend(number for _ in range(20) if not np.array_equal(resize(pixels, 256, 300), expected))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


_ONE_THREAD = """
import sys
import numpy as np
from imgcls_ray.images import resize

if sys.argv[1] == "without the library":
    resize.fir = None
resize.load_resizer()
print("torch" in sys.modules)
# Also of a picture that becomes more than 100 times smaller.
resize.resize(np.zeros((3300, 64, 3), np.uint8), 32, 32)
print(sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None)
"""


@pytest.mark.parametrize(
    ("how", "told"), [("with the library", ["False", "None"]), ("without the library", ["True", "1"])]
)
def test_a_worker_loads_torch_only_where_torch_resizes_and_before_its_first_image(how: str, told: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", _ONE_THREAD, how],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == told


def test_without_the_library_torch_resizes(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    expected = resize(pixels, 64, 80, "bicubic", rows=slice(3, 50), columns=slice(9, 70))
    monkeypatch.setattr(resizing, "fir", None)
    assert np.array_equal(resize(pixels, 64, 80, "bicubic", rows=slice(3, 50), columns=slice(9, 70)), expected)
