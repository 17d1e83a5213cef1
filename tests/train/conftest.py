"""What tests of training share: a data set that is learnt in seconds, and a configuration that does it."""

from __future__ import annotations

import io
import multiprocessing
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import distributed

from imgcls_ray.config import TrainConfig, make_config
from imgcls_ray.train.entries import write_splits
from imgcls_ray.train.events import read_event
from imgcls_ray.train.job import train
from imgcls_ray.train.task import make_task
from imgcls_ray.train.worker import run_worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.train.entries import Entries
    from imgcls_ray.train.recipe import Recipe
    from imgcls_ray.train.reporter import Reporter
    from imgcls_ray.train.result import TrainResult
    from imgcls_ray.train.state import TrainState
    from imgcls_ray.train.task import Outcome, TrainTask

CLASSES = ("red", "green", "blue")
NUM_TRAIN, NUM_VAL = 48, 15


def write_colours(folder: Path, *, num_train: int = NUM_TRAIN, num_val: int = NUM_VAL) -> None:
    """PaddleX's lists of noisy pictures of one colour each."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", num_train), ("val", num_val)):
        lines = []
        for number in range(count):
            label = number % len(CLASSES)
            pixels = rng.integers(0, 60, (40, 44, 3), dtype=np.uint8)
            pixels[:, :, label] += 180
            path = f"images/{split}_{number:03d}.png"
            Image.fromarray(pixels).save(folder / path)
            lines.append(f"{path} {label}\n")
        (folder / f"{split}.txt").write_text("".join(lines))
    (folder / "label.txt").write_text("".join(f"{label} {name}\n" for label, name in enumerate(CLASSES)))


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that no test changes."""
    folder = tmp_path_factory.mktemp("data") / "colours"
    write_colours(folder)
    return folder


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Model folders that would have got their converted network: a conversion takes longer than most runs here."""
    models: list[str] = []
    monkeypatch.setattr("imgcls_ray.train.job.add_bundle", lambda model, *_: models.append(model))
    return models


@pytest.fixture
def make_train_config(colours: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A configuration that trains a small network in seconds."""

    def make(**changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "data": str(colours),
            "model": "PP-LCNet_x0_25",
            "output": str(tmp_path / "run"),
            "pretrained": False,
            "image_size": 32,
            "epochs": 2,
            "batch_size": 16,
            "optimizer": "adamw",
            "learning_rate": 0.01,
            "crop_scale": 0.8,
            "log_interval": 2,
            "loader_processes": 1,
            "cpus_per_worker": 1,
            "save_seconds": 0,
        }
        return make_config(TrainConfig, {**values, **changes})

    return make


class LocalBoard:
    """A board without Ray."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.messages: list[bytes] = []
        self._stop_after = stop_after

    def post(self, message: bytes) -> None:
        self.messages.append(message)

    def is_stopped(self) -> bool:
        # How far a step is comes by the clock, and does not count.
        num_messages = sum(not message.startswith(b'["Doing"') for message in self.messages)
        return self._stop_after is not None and num_messages >= self._stop_after


def _one_of(count: int, rank: int, meeting: Path, work: Callable[[], Outcome]) -> Outcome:
    """The work of one of several workers that meet in a file, on one core."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    try:
        return work()
    finally:
        distributed.destroy_process_group()


def run_workers(task: TrainTask, files: dict[str, Path], board: LocalBoard, count: int, folder: Path) -> Outcome:
    """Run one worker here, or several: the first one here, the others in forks of this process."""

    def work(rank: int) -> Outcome:
        return run_worker(task, files, board, rank=rank, world_size=count, device=torch.device("cpu"))

    if count == 1:
        return work(0)
    meeting = folder / "meeting"
    forks = multiprocessing.get_context("fork")
    others = [
        forks.Process(target=_one_of, args=(count, rank, meeting, partial(work, rank))) for rank in range(1, count)
    ]
    for other in others:
        other.start()
    outcome = _one_of(count, 0, meeting, partial(work, 0))
    for other in others:
        other.join()
        assert other.exitcode == 0
    return outcome


@pytest.fixture
def train_here(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrainResult]:
    """The command's work with its first worker in this process: everything but what starts and follows a worker."""

    def train_in_process(config: TrainConfig, *, stop_after: int | None = None) -> TrainResult:
        def on_no_ray(
            config: TrainConfig, entries: Entries, state: TrainState, recipe: Recipe, reporter: Reporter
        ) -> Outcome:
            board = LocalBoard(stop_after=stop_after)
            # A fork cannot use the server of its parent.
            is_alone = config.num_workers in (None, 1)
            task = make_task(config, state, recipe, cpus_per_worker=1, forks_loaders=not is_alone)
            folder = tmp_path_factory.mktemp("entries")
            files = write_splits(entries.tables, folder)
            outcome = run_workers(task, files, board, config.num_workers or 1, folder)
            for message in board.messages:
                reporter.take(read_event(message))
            return outcome

        # What several workers would run on, without any process.
        monkeypatch.setattr("imgcls_ray.train.job.is_trained_here", lambda _config: False)
        monkeypatch.setattr("imgcls_ray.train.workers.train_on_ray", on_no_ray)
        return train(config, Console(file=io.StringIO()))

    return train_in_process
