"""One worker of a run, from the process that Ray Train gives it to the loop."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from imgcls_ray.options import s3_options
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.train.entries import SPLITS, write_entries
from imgcls_ray.train.loop import Run
from imgcls_ray.train.saving import Saver
from imgcls_ray.train.state import load_state
from imgcls_ray.train.task import STATE_NAME

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from imgcls_ray.train.task import Outcome, TrainTask

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h


def train_worker(config: dict[str, TrainTask]) -> Outcome:
    """The training function that Ray Train calls on each worker."""
    import ray
    import ray.train
    import ray.train.torch

    task = config["task"]
    context = ray.train.get_context()
    return run_worker(
        task,
        ray.get(task.tables),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
    )


def run_worker(
    task: TrainTask, tables: dict[str, pa.Table], *, rank: int, world_size: int, device: torch.device
) -> Outcome:
    """Resume from the state in the output folder, and train until the run is done, stopped or failed."""
    import torch

    torch.set_num_threads(task.cpus_per_worker)
    if device.type == "cpu":
        _keep_freed_memory()
    s3 = s3_options(task.config)
    state = load_state(open_directory(task.output, s3), STATE_NAME)
    assert state is not None, "the command writes a state before it starts workers"
    with scratch_folder("train") as folder:
        files = {split: Path(folder, f"{split}.arrow") for split in SPLITS}
        for split in SPLITS:
            write_entries(tables[split], files[split])
        saver = Saver(task.output, s3, keep=task.config.keep_checkpoints) if rank == 0 else None
        return Run(task, state, tables, files, rank, world_size, device, saver).go_on()


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next step.

    Ray runs the loop in a thread, and outside of the main one glibc gives every large activation back to the kernel,
    which clears its pages anew in the next step: 175 images/s instead of 222 with PP-LCNet_x1_0 at 96 pixels.
    """
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, 2**30)
        mallopt(_M_TOP_PAD, 2**26)
        mallopt(_M_MMAP_THRESHOLD, 2**25)
