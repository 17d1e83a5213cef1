"""The first steps of a run on a part of its images, in this process: nothing is saved, and the run does not begin."""

from __future__ import annotations

import resource
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.machine import available_cores
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.train.entries import write_splits
from imgcls_ray.train.events import StepsDone, read_event
from imgcls_ray.train.loop import Run
from imgcls_ray.train.task import make_task
from imgcls_ray.train.worker import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.train.entries import Entries
    from imgcls_ray.train.events import Event
    from imgcls_ray.train.loading import Batch
    from imgcls_ray.train.recipe import Recipe
    from imgcls_ray.train.state import TrainState
    from imgcls_ray.train.task import Outcome


@dataclass(frozen=True)
class Begun:
    """A run that could begin."""

    config: TrainConfig
    entries: Entries
    state: TrainState
    recipe: Recipe

    @property
    def batch_size(self) -> int:
        """Images of one step over all workers."""
        return self.state.identity.batch_size


def part_of(entries: Entries, *, num_train: int, num_val: int) -> Entries:
    """Some of the images of each split, drawn at random, always the same."""
    rng = np.random.default_rng(0)
    wanted = {"train": num_train, "val": num_val}
    tables = {
        split: table.take(np.sort(rng.permutation(len(table))[: wanted[split]]))
        for split, table in entries.tables.items()
    }
    return replace(entries, tables=tables)


def device_of(config: TrainConfig) -> torch.device:
    """Where one worker of this machine would train."""
    import torch

    is_gpu = config.uses_gpus and torch.cuda.is_available()
    return torch.device(f"cuda:{next(iter(config.gpu_ids), 0)}" if is_gpu else "cpu")


class _Board:
    """Keeps the events with their times, and asks for a stop."""

    def __init__(self, is_enough: Callable[[StepsDone], bool]) -> None:
        self.events: list[tuple[float, Event]] = []
        self._is_enough, self._must_stop = is_enough, False

    def post(self, message: bytes) -> None:
        event = read_event(message)
        self.events.append((time.monotonic(), event))
        if isinstance(event, StepsDone):
            self._must_stop = self._must_stop or self._is_enough(event)

    def is_stopped(self) -> bool:
        return self._must_stop


def try_steps(
    begun: Begun, entries: Entries, *, is_enough: Callable[[StepsDone], bool] = lambda _: False
) -> tuple[list[tuple[float, Event]], Outcome]:
    """Train on some images, on one worker; what was told, with its times, and how it ended.

    Args:
        begun: the run; a step of it may have fewer images than ``entries``.
        entries: the images.
        is_enough: ends it after a step.
    """
    board = _Board(is_enough)
    with _run(begun, entries, board) as run:
        return board.events, run.go_on()


def first_batches(begun: Begun, num_batches: int) -> list[Batch]:
    """The first batches of a run, augmented."""
    with _run(begun, begun.entries, _Board(lambda _: False)) as run:
        return run.first_batches(num_batches)


@contextmanager
def _run(begun: Begun, entries: Entries, board: _Board) -> Iterator[Run]:
    import torch

    config = begun.config.model_copy(update={"log_interval": 1, "num_workers": None, "early_stop": 0, "eval_steps": 0})
    cores = config.cpus_per_worker or available_cores()
    task = make_task(config, begun.state, begun.recipe, cpus_per_worker=cores)
    device = device_of(config)
    with scratch_folder("train") as folder:
        run = Run(task, replace(begun.state), write_splits(entries.tables, folder), board, 0, 1, device, None)
        torch.set_num_threads(cores)
        if device.type == "cpu":
            keep_freed_memory()
        yield run


def peak_memory(device: torch.device) -> int:
    """Bytes that training has taken at most: on a GPU its tensors, else this process without its loading ones."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
