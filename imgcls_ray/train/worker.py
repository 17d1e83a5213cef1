"""One worker of a run, from the process that it gets to the loop."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from imgcls_ray.options import storage_options
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.train.entries import write_splits
from imgcls_ray.train.loop import Run
from imgcls_ray.train.saving import Saver
from imgcls_ray.train.state import load_state
from imgcls_ray.train.task import STATE_NAME

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from imgcls_ray.train.events import RunBoard
    from imgcls_ray.train.task import Outcome, TrainTask

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h


def train_worker(config: dict[str, Any]) -> Outcome:
    """The training function that Ray Train calls on each worker."""
    import ray
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    with scratch_folder("train") as folder:
        return run_worker(
            config["task"],
            write_splits(ray.get(config["tables"]), folder),
            config["board"],
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            device=ray.train.torch.get_device(),
        )


def run_worker(
    task: TrainTask, files: dict[str, Path], board: RunBoard, *, rank: int, world_size: int, device: torch.device
) -> Outcome:
    """Resume from the state in the output folder, and train until the run is done, stopped or failed.

    Args:
        task: settings of all workers.
        files: files of ``write_splits``.
        board: way to the command.
        rank, world_size: number of this worker, and of all workers.
        device: device of this worker.
    """
    import torch

    storage = storage_options(task.config)
    state = load_state(open_directory(task.output, storage), STATE_NAME)
    assert state is not None, "the command writes a state before it starts workers"
    saver = Saver(task.output, storage, keep=task.config.keep_checkpoints) if rank == 0 else None
    run = Run(task, state, files, board, rank, world_size, device, saver)
    # After the loading processes, which may be forks of this one: torch starts its threads now.
    torch.set_num_threads(task.cpus_per_worker)
    if device.type == "cpu":
        keep_freed_memory()
    return run.go_on()


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next step.

    Without this, glibc gives large activations back to the kernel, which clears their pages anew in the next step. In a
    thread, where Ray runs the loop, it gives all of them back: 175 images/s instead of 222 with PP-LCNet_x1_0 at 96
    pixels. In the main thread, where a local worker runs it, it gives back the free end of the heap.
    """
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, 2**30)
        mallopt(_M_TOP_PAD, 2**26)
        mallopt(_M_MMAP_THRESHOLD, 2**25)
