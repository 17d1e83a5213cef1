"""Looking at a run before it begins: pictures, settings, time, memory, rates and batches; and nothing is trained."""

from __future__ import annotations

import io
import math
import os
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from imgcls_ray import cli
from imgcls_ray.errors import JobFailedError
from imgcls_ray.models.new import new_model_folder
from imgcls_ray.storage import DEFAULT_STORAGE
from imgcls_ray.train import largest_batch
from imgcls_ray.train.begin import continued, new_state
from imgcls_ray.train.distillation import Teacher
from imgcls_ray.train.entries import read_entries
from imgcls_ray.train.largest_batch import extrapolated, largest_that_fits
from imgcls_ray.train.loading import Images
from imgcls_ray.train.range_test import judged, parts_of
from imgcls_ray.train.trial import Begun
from tests.train.conftest import CLASSES, write_colours

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.train.result import TrainResult


@pytest.fixture
def looked(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What the command says; images are loaded in this process."""
    monkeypatch.setattr(
        "imgcls_ray.train.loop.load_batches", lambda task, batches, **_: map(Images(task).__getitem__, batches)
    )
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("OMP_WAIT_POLICY")

    def run(*options: str, code: int = 0, data: Path = colours) -> str:
        argv = ["imgcls", "train", str(data), "-m", "PP-LCNet_x0_25", "--scratch", "--image-size", "32"]
        monkeypatch.setattr(sys, "argv", [*argv, "-o", str(tmp_path / "run"), "--cpus-per-worker", "1", *options])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        assert left.value.code == code, said.err
        return said.out + said.err

    return run


def test_a_preview_tells_every_choice_and_shows_pictures_and_trains_nothing(
    looked: Callable[..., str],
    tmp_path: Path,
    make_train_config: Callable[..., TrainConfig],
    train_here: Callable[..., TrainResult],
) -> None:
    said = looked("--preview", "--mixup", "0.4", "--random-erasing", "0.3")
    rows = {parts[0]: parts[1:] for line in said.splitlines() if len(parts := line.split()) >= 3}
    assert rows["mixup"] == ["0.4", "given"]
    assert rows["batch_size"] == ["16", "48", "images,", "random", "weights"]
    assert rows["epochs"] == ["200", "48", "images,", "random", "weights"]
    assert rows["weight_decay"] == ["3e-05", "recipe", "of", "PP-LCNet"]
    assert rows["flip"] == ["0.5", "default"]
    assert "200 epochs of 3 steps of 16 images" in said
    assert "images/s" in said
    assert "GiB of memory; an epoch takes" in said
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["preview.png"]
    with Image.open(io.BytesIO((tmp_path / "run" / "preview.png").read_bytes())) as sheet:
        assert sheet.format == "PNG"
        assert min(sheet.size) > 900
    # The run itself may come after it.
    assert train_here(make_train_config(epochs=1)).best_epoch == 1


def test_a_preview_of_images_that_cannot_be_read_says_so(looked: Callable[..., str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_colours(data, num_train=6, num_val=3)
    for path in (data / "images").iterdir():
        path.write_bytes(b"none")
    assert "the preview failed: 6 of the 6 images of the train split" in looked("--preview", code=1, data=data)
    said = looked("--preview", "--max-error-rate", "1", code=1, data=data)
    assert "the preview failed: no image can be read; `imgcls check` tells why" in said
    assert not (tmp_path / "run").exists()


def test_who_looks_is_told_of_an_output_that_the_run_would_refuse(looked: Callable[..., str], tmp_path: Path) -> None:
    output = tmp_path / "run"
    output.mkdir()
    for name in ("preview.png", "thesis.tex"):
        (output / name).write_bytes(b"mine")
    assert "is not the output of a training run (it holds 'thesis.tex'" in looked("--preview", code=2)
    assert [path.read_bytes() for path in output.iterdir()] == [b"mine"] * 2
    output.rename(tmp_path / "folder")
    output.write_bytes(b"mine")
    assert "is a file; give a folder" in looked("--lr-find", code=2)
    assert output.read_bytes() == b"mine"


def test_a_range_test_tells_where_the_loss_falls(looked: Callable[..., str], tmp_path: Path) -> None:
    said = looked("--lr-find")
    # What waits for threads is inherited by the workers of a run.
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    assert "the loss falls fastest at a learning rate of" in said
    assert "the run has 0.05" in said
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lr_find.png"]


def test_the_largest_batch_is_told_with_what_it_was_found_from(
    looked: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = {8: 2**30, 32: 2**30 + 24 * 2**20}
    monkeypatch.setattr(largest_batch, "_peak_in_process", lambda _begun, size: peaks[size])
    monkeypatch.setattr(largest_batch, "available_memory", lambda: int(1.2 * 2**30))
    assert "largest batch of one worker: 28 images (1.0 MiB for each image, 1.2 GiB left" in looked("--auto-batch")
    monkeypatch.setattr(largest_batch, "available_memory", lambda: 2**40)
    assert "48 images, which are all training images" in looked("--auto-batch")
    monkeypatch.setattr(largest_batch, "available_memory", lambda: 2**29)
    assert "not one image fits: training takes 1.0 GiB with 8 images, and 0.5 GiB are left" in looked(
        "--auto-batch", code=1
    )


@pytest.mark.parametrize("limit", [1, 2, 3, 31, 32, 33, 100, 999, 1000, 5000])
def test_a_batch_that_fits_is_found_within_a_sixteenth(limit: int) -> None:
    asked: list[int] = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= limit

    found = largest_that_fits(fits, 1000)
    assert min(limit, 1000) - max(found // 16, 1) <= found <= min(limit, 1000)
    assert max(asked) <= 1000
    assert len(asked) < 20


def test_no_batch_that_fits_is_an_error_with_a_way_out() -> None:
    with pytest.raises(JobFailedError, match="a smaller --image-size"):
        largest_that_fits(lambda _: False, 10)


def test_memory_grows_by_the_image() -> None:
    found = extrapolated(1000 + 8 * 7, 1000 + 32 * 7, limit_bytes=10_000, most=10_000)
    assert found.bytes_per_image == 7
    assert found.batch_size == (8500 - 1000) // 7
    # A measurement that is all noise does not divide by nought.
    assert extrapolated(1000, 990, limit_bytes=10_000, most=50).batch_size == 50


@pytest.mark.parametrize("most", [1, 3, 30, 51, 99, 100, 101, 5000])
def test_a_range_test_has_at_most_a_hundred_steps(most: int) -> None:
    epochs, steps = parts_of(100, most)
    assert 1 <= steps <= most
    assert 66 <= epochs * steps <= 100


def test_the_largest_batch_leaves_room_for_the_teacher(
    make_train_config: Callable[..., TrainConfig], colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_model_folder("PP-LCNet_x0_25", tmp_path / "large", class_names=CLASSES, random_seed=0)
    entries = read_entries(str(colours), delimiter=None, storage=DEFAULT_STORAGE)
    teachers: list[object] = []

    class Learner:
        def __init__(self, *_: object, teacher: object, **__: object) -> None:
            teachers.append(teacher)

        def step(self, *_: object, **__: object) -> None:
            pass

    monkeypatch.setattr(largest_batch, "Learner", Learner)
    for teacher in (None, str(tmp_path / "large")):
        config = make_train_config(teacher=teacher)
        state = new_state(config, entries)
        largest_batch._train(Begun(config, entries, state, continued(config, entries, state)[1]), 8)
    assert [isinstance(teacher, Teacher) for teacher in teachers] == [False, True]


def test_the_marks_of_a_range_test_are_where_its_loss_falls_and_ends_to_fall() -> None:
    rates = list(np.geomspace(1e-5, 10, 101))
    # Falls around 1e-2, is lowest at 1e-1, and explodes; small batches differ.
    noise = np.random.default_rng(0).normal(0, 0.1, len(rates))
    falling = [2 - 1.5 / (1 + math.exp(-4 * math.log10(rate / 1e-2))) + max(0.0, rate - 0.1) ** 2 for rate in rates]
    losses = [loss + extra for loss, extra in zip(falling, noise, strict=True)]
    found = judged(rates, losses)
    assert 5e-3 < found.steepest < 6e-2
    assert 5e-2 < found.lowest < 2
    assert found.steepest < found.lowest
