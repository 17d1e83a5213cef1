"""Find the largest batch that fits into memory: tried out on a GPU, extrapolated from small batches on CPUs."""

from __future__ import annotations

import multiprocessing
import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgcls_ray.errors import JobFailedError
from imgcls_ray.machine import available_memory
from imgcls_ray.train.distillation import teacher_of
from imgcls_ray.train.learner import Learner
from imgcls_ray.train.loading import Batch
from imgcls_ray.train.task import make_task
from imgcls_ray.train.trial import device_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from imgcls_ray.train.trial import Begun

_FEW, _MORE = 8, 32
"""Batches whose memory is measured on CPUs."""
_USED_SHARE = 0.85
"""Of the memory that is left: pictures vary, and others live here too."""
_MAX_BATCH = 2**16


@dataclass(frozen=True)
class LargestBatch:
    """The largest batch of one pass."""

    batch_size: int
    is_all: bool
    """Whether it is all training images, and more would fit."""
    bytes_per_image: int | None
    """On CPUs; None where it was tried out."""
    limit_bytes: int | None
    """Memory that was counted on; None where it was tried out."""


def find_largest_batch(begun: Begun) -> LargestBatch:
    """Find the largest batch of one pass on one worker.

    Raises:
        JobFailedError: not even a few images fit, or this system does not tell its memory.
    """
    most = min(len(begun.entries.tables["train"]), _MAX_BATCH)
    if device_of(begun.config).type == "cuda":
        batch_size = largest_that_fits(lambda size: _fits_on_gpu(begun, size), most)
        return LargestBatch(batch_size, batch_size == most, None, None)
    limit = available_memory()
    if limit is None:
        raise JobFailedError("this system does not tell how much memory is left")
    small, large = (_peak_in_process(begun, size) for size in (_FEW, _MORE))
    return extrapolated(small, large, limit_bytes=limit, most=most)


def extrapolated(small: int, large: int, *, limit_bytes: int, most: int) -> LargestBatch:
    """The largest batch by the memory of two small ones.

    >>> extrapolated(500 + 8 * 10, 500 + 32 * 10, limit_bytes=4000, most=1000).batch_size
    290

    Args:
        small, large: peak bytes of a process that trains with 8 and with 32 images.
        limit_bytes: memory that is left.
        most: number of training images.
    """
    per_image = max((large - small) // (_MORE - _FEW), 1)
    room = int(_USED_SHARE * limit_bytes) - (small - _FEW * per_image)
    if room < per_image:
        raise JobFailedError(
            f"not one image fits: training takes {small / 2**30:.1f} GiB with {_FEW} images, and "
            f"{limit_bytes / 2**30:.1f} GiB are left"
        )
    fits = room // per_image
    return LargestBatch(min(fits, most), fits >= most, per_image, limit_bytes)


def largest_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """The largest size, or nearly, for which ``fits`` holds: doubled until it does not, then halved towards it.

    >>> largest_that_fits(lambda size: size <= 100, 1000)
    100
    """
    size, bound = 0, most + 1
    while size < most:
        tried = min(max(2 * size, 1), most)
        if not fits(tried):
            bound = tried
            break
        size = tried
    while bound - size > max(size // 16, 1):
        middle = (size + bound) // 2
        if fits(middle):
            size = middle
        else:
            bound = middle
    if not size:
        raise JobFailedError("not one image fits into the memory of the GPU; a smaller --image-size may")
    return size


def _fits_on_gpu(begun: Begun, batch_size: int) -> bool:
    import torch

    try:
        _train(begun, batch_size)
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def _peak_in_process(begun: Begun, batch_size: int) -> int:
    """Peak bytes of a new process that trains with batches of this size."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_tell_peak, args=(theirs, begun, batch_size), daemon=True)
    process.start()
    theirs.close()
    try:
        return int(mine.recv())
    except EOFError:
        raise JobFailedError(
            f"training with {batch_size} images ended its process; too little memory is left"
        ) from None
    finally:
        process.join()


def _tell_peak(connection: Connection, begun: Begun, batch_size: int) -> None:
    _train(begun, batch_size)
    connection.send(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _train(begun: Begun, batch_size: int) -> None:
    """Two steps on grey pictures: the second one has the optimizer's state."""
    import torch

    labels, device = begun.entries.tables["train"]["label"].to_numpy(), device_of(begun.config)
    task = make_task(begun.config, begun.state, begun.recipe, cpus_per_worker=1)
    learner = Learner(
        begun.state,
        begun.config,
        begun.recipe,
        batch_size=batch_size,
        labels=labels,
        device=device,
        world_size=1,
        # It takes memory, too.
        teacher=teacher_of(task, begun.state.model, device),
    )
    size = begun.state.identity.start.train_size
    pixels = torch.full((batch_size, 3, size, size), 128, dtype=torch.uint8).to(memory_format=torch.channels_last)
    batch = Batch(pixels, torch.from_numpy(labels[:1].repeat(batch_size).astype("int64")), ())
    for step in range(2):
        learner.step([batch], num_passes=1, rate=begun.recipe.learning_rate, step=step, seed=0)
