"""What a loading process makes of the images."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from imgcls_ray.images.decoder import DecodedImage, DecodeLimits, decode_scaled
from imgcls_ray.images.preprocess import Decode, Preprocess
from imgcls_ray.models.classifier import ModelInput, decode_model_input
from imgcls_ray.storage import FetchLimits
from imgcls_ray.train import loading
from imgcls_ray.train.augment import Augmentation
from imgcls_ray.train.entries import write_entries
from imgcls_ray.train.loading import Images, LoadTask
from imgcls_ray.train.order import Sample
from tests.images import bad_images as make
from tests.workers.survival import name_of, wait_until

# Halves leave five times 64 pixels, and quarters the same of 32.
WIDTH, HEIGHT = 960, 640


def task_for(folder: Path, decode: Decode, crop_scale: float = 1.0) -> LoadTask:
    """One image."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    (folder / "a.jpg").write_bytes(make.jpeg(pixels))
    write_entries(pa.table({"uri": [str(folder / "a.jpg")], "label": pa.array([0], pa.int32())}), folder / "entries")
    preprocess = Preprocess(resize_size=64, crop_size=64, decode=decode)
    return LoadTask(
        {"train": folder / "entries", "val": folder / "entries"},
        Augmentation(32, "bilinear", crop_scale, 0.0, 0, 0.0, preprocess.mean),
        preprocess,
        FetchLimits(),
        DecodeLimits(),
    )


def load(folder: Path, decode: Decode, sample: Sample, crop_scale: float = 1.0) -> np.ndarray:
    batch = Images(task_for(folder, decode, crop_scale))[[sample]]
    assert not batch.bad
    image: np.ndarray = batch.pixels[0].permute(1, 2, 0).numpy()
    return image


@pytest.mark.parametrize("decode", ["full", "scaled"])
def test_val_images_are_what_the_classifier_sees(tmp_path: Path, decode: Decode) -> None:
    image = load(tmp_path, decode, Sample("val", 0, 0))
    preprocess = Preprocess(resize_size=64, crop_size=64, decode=decode)
    expected = decode_model_input((tmp_path / "a.jpg").read_bytes(), preprocess, DecodeLimits())
    assert isinstance(expected, ModelInput)
    np.testing.assert_array_equal(image, expected.pixels)


@pytest.mark.parametrize(("crop_scale", "scale"), [(1.0, 4), (0.25, 2), (0.1, 1)])
def test_the_smallest_crop_of_a_training_image_keeps_the_margin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crop_scale: float, scale: int
) -> None:
    decoded: list[DecodedImage] = []

    def watched(data: bytes, limits: DecodeLimits, *, min_side: int | None) -> DecodedImage:
        decoded.append(decode_scaled(data, limits, min_side=min_side))
        return decoded[-1]

    monkeypatch.setattr(loading, "decode_scaled", watched)
    load(tmp_path, "scaled", Sample("train", 0, 0), crop_scale)
    assert [image.scale for image in decoded] == [scale]


def train_for_ever(folder: str) -> None:
    """A worker of a training that loads in processes of a fork server; prints their ids."""
    batches = itertools.repeat([Sample("val", 0, 0)])
    loaded = loading.load_batches(task_for(Path(folder), "full"), batches, num_processes=1, for_gpu=False)
    next(loaded)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    grandchildren = (Path(f"/proc/{child}/task/{child}/children").read_text().split() for child in children)
    print(*children, *itertools.chain.from_iterable(grandchildren), flush=True)
    time.sleep(600)


@pytest.mark.slow
def test_loading_processes_end_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    code = f"from tests.train.test_loading import train_for_ever; train_for_ever({str(tmp_path)!r})"
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    pids = [int(pid) for pid in worker.stdout.readline().split()]
    assert len(pids) >= 3  # a tracker of resources, a fork server, and its fork
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    wait_until(lambda: not any(map(name_of, pids)), 20)
