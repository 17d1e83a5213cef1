"""Rendezvous of the training workers of one machine, through a file that only their user can read.

Ray Train would use PyTorch's TCP store, which listens on all addresses and accepts commands from anybody.
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

from imgcls_ray.workers.ray_start import cluster_address, run_folder

if TYPE_CHECKING:
    from pathlib import Path

    from ray.train._internal.base_worker_group import BaseWorkerGroup
    from ray.train.backend import BackendConfig
    from ray.train.torch import TorchConfig

_TIMEOUT = timedelta(minutes=30)  # Ray Train's


def torch_config(*, uses_gpus: bool) -> TorchConfig | None:
    """Make Ray Train's ``torch_config``. On a cluster, whose nodes share no file, it is None: Ray's default."""
    if cluster_address() is not None:
        return None
    import ray
    from ray.train.torch import config

    folder, backend = run_folder(), "nccl" if uses_gpus else "gloo"

    class FileBackend(config._TorchBackend):
        def on_start(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
            worker_group.execute(config._set_torch_distributed_env_vars)
            # Workers that are started again meet in another one.
            file, count = folder / f"meeting-{uuid.uuid4().hex}", len(worker_group)
            met = [worker_group.execute_single_async(i, _meet, backend, i, count, file) for i in range(count)]
            ray.get(met)  # type: ignore[arg-type]  # Ray has two classes of references, and its hints take them for one

    class FileConfig(config.TorchConfig):
        @property
        def backend_cls(self) -> type:
            return FileBackend

    return FileConfig(backend=backend)


def _meet(backend: str, rank: int, world_size: int, file: Path) -> None:
    from torch import distributed

    distributed.init_process_group(
        backend, init_method=f"file://{file}", rank=rank, world_size=world_size, timeout=_TIMEOUT
    )
