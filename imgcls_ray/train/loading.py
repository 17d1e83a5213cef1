"""Read, decode and augment batches in processes beside the training process.

Images go through the same functions as in evaluation and bulk labelling: ``fetch``, ``decode_scaled`` and, for val,
``preprocess_image``. An image that cannot be read is reported, never replaced.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Dataset

from imgcls_ray.errors import ImageError
from imgcls_ray.images.decoder import decode_scaled
from imgcls_ray.images.preprocess import preprocess_image
from imgcls_ray.train.entries import map_entries
from imgcls_ray.workers.child import end_with_parent, name_process
from imgcls_ray.workers.decoding import end_process_when_late
from imgcls_ray.workers.fetching import NUM_FETCH_THREADS, any_version, fetch_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    import pyarrow as pa

    from imgcls_ray.images.crops import Crop
    from imgcls_ray.images.limits import DecodeLimits
    from imgcls_ray.images.preprocess import Preprocess
    from imgcls_ray.storage import FetchLimits
    from imgcls_ray.train.augment import Augmentation
    from imgcls_ray.train.order import Sample

_BATCHES_AHEAD = 3
"""Of each process."""


@dataclass(frozen=True)
class Batch:
    """The images of one forward pass."""

    pixels: torch.Tensor
    """uint8 (B, 3, S, S), RGB, channels last in memory; without the images that could not be read."""
    labels: torch.Tensor
    """int64 (B,), class ids."""
    bad: tuple[tuple[str, int, str], ...]
    """Images that could not be read: split, position in the split, error code."""

    def pin_memory(self) -> Batch:
        """Copy to pinned memory. torch's loader calls it before a copy to a GPU."""
        return Batch(self.pixels.pin_memory(), self.labels.pin_memory(), self.bad)


@dataclass(frozen=True)
class LoadTask:
    """The settings that every loading process gets."""

    files: dict[str, Path]
    """Files of ``write_entries``, by split."""
    augmentation: Augmentation
    preprocess: Preprocess
    fetch_limits: FetchLimits
    decode_limits: DecodeLimits


class Images(Dataset[Batch]):
    """A torch dataset whose items are batches: index it with the samples of one split. Runs in a loading process."""

    def __init__(self, task: LoadTask) -> None:
        self._task = task
        self._tables: dict[str, pa.Table] = {}
        self._augment: Callable[[np.ndarray, int], torch.Tensor] | None = None
        self._decode: dict[str, Callable[[bytes | Crop], np.ndarray]] = {}
        self._executor: ThreadPoolExecutor | None = None

    def __getitem__(self, samples: list[Sample]) -> Batch:
        self._begin()
        pixels: list[torch.Tensor] = []
        labels: list[int] = []
        bad: list[tuple[str, int, str]] = []
        rows = self._tables[samples[0].split].take([sample.number for sample in samples])
        for sample, label, data in zip(samples, rows["label"].to_pylist(), self._fetched(rows), strict=True):
            try:
                if isinstance(data, ImageError):
                    raise data
                pixels.append(self._pixels(data, sample))
                labels.append(label)
            except ImageError as error:
                bad.append((sample.split, sample.number, str(error.code)))
        size = self._task.augmentation.image_size if samples[0].split == "train" else self._task.preprocess.crop_size
        batch = torch.empty((len(pixels), 3, size, size), dtype=torch.uint8, memory_format=torch.channels_last)
        for place, image in enumerate(pixels):
            batch[place] = image
        return Batch(batch, torch.tensor(labels, dtype=torch.int64), tuple(bad))

    def _begin(self) -> None:
        if self._augment is None:
            # One loader is one core: augmenting would otherwise start a thread per core in every one.
            torch.set_num_threads(1)
            self._tables = {split: _needed(map_entries(path)) for split, path in self._task.files.items()}
            self._augment = self._task.augmentation.build()
            preprocess = self._task.preprocess
            # A random crop is a part of the picture: the whole one is as much larger.
            train_side = preprocess.min_side_for(self._task.augmentation.full_side)
            self._decode = {"train": self._decoder(train_side), "val": self._decoder(preprocess.min_side)}
            self._executor = ThreadPoolExecutor(NUM_FETCH_THREADS, thread_name_prefix="fetch")

    def _decoder(self, min_side: int | None) -> Callable[[bytes | Crop], np.ndarray]:
        limits = self._task.decode_limits

        def decode(data: bytes | Crop) -> np.ndarray:
            return decode_scaled(data, limits, min_side=min_side).pixels

        return end_process_when_late(decode, limits)

    def _fetched(self, rows: pa.Table) -> Iterator[bytes | Crop | ImageError]:
        assert self._executor is not None
        return fetch_inputs(any_version(rows["uri"], rows), self._task.fetch_limits, self._executor)

    def _pixels(self, data: bytes | Crop, sample: Sample) -> torch.Tensor:
        pixels = self._decode[sample.split](data)
        if sample.split == "val":
            return torch.from_numpy(preprocess_image(pixels, self._task.preprocess)).permute(2, 0, 1)
        assert self._augment is not None
        return self._augment(pixels, sample.seed)


def load_batches(
    task: LoadTask, batches: Iterator[list[Sample]], *, num_processes: int, for_gpu: bool, forks: bool = False
) -> Iterator[Batch]:
    """Load batches in order, several ahead, in processes that end with the iterator.

    Args:
        task: settings of the processes.
        batches: samples of each batch; all samples of a batch are of one split.
        num_processes: number of loading processes, at least 1.
        for_gpu: pin the memory of the batches.
        forks: fork this process for them, which has imported everything and has one thread.
    """
    context = multiprocessing.get_context("fork" if forks else "forkserver")
    if not forks:
        # This process has threads (Ray's, storage's), which do not survive a fork. Not spawned either: a server that
        # has imported torch once forks each process in no time.
        context.set_forkserver_preload([__name__])
    loader: DataLoader[Batch] = DataLoader(
        Images(task),
        # Each "index" is a whole batch: an image that cannot be read must not need a place in it.
        batch_size=None,
        sampler=_Once(batches),
        num_workers=num_processes,
        prefetch_factor=_BATCHES_AHEAD,
        multiprocessing_context=context,
        worker_init_fn=_begin_fork if forks else partial(_begin_process, os.getpid()),
        pin_memory=for_gpu,
    )
    return iter(loader)


def _needed(table: pa.Table) -> pa.Table:
    """The columns of a split that say something: without packed images, two of four are empty."""
    return table.select([name for name in table.schema.names if table[name].null_count < len(table)])


class _Once:
    """A sampler of batches that are made as they are asked for."""

    def __init__(self, batches: Iterator[list[Sample]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[Sample]]:
        return self._batches


def _begin_process(worker: int, _number: int) -> None:
    # Torch looks for the parent, which is the fork server here, and that one lives as long as its forks.
    threading.Thread(target=_end_with, args=(worker,), name="end-with-worker", daemon=True).start()
    _give_way()


def _begin_fork(_number: int) -> None:
    # At once, not within torch's five seconds: a fork holds the connection whose end tells of the worker's death.
    end_with_parent(signal.SIGKILL)
    name_process("imgcls-loader")
    _give_way()


def _give_way() -> None:
    # Decoding gives way to the process that trains, which all of them wait for.
    os.nice(5)


def _end_with(pid: int) -> None:
    """End this process when another one has ended; on Linux alone."""
    with suppress(ProcessLookupError):
        if not hasattr(os, "pidfd_open"):
            return
        ended = select.poll()
        ended.register(os.pidfd_open(pid), select.POLLIN)
        ended.poll()
    os._exit(1)
