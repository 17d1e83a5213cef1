"""How training workers of one machine find each other: in a file of their user's, not at a port of all addresses.

PyTorch's store, which Ray Train lets its workers meet in, listens to the whole network and does what anybody says.
"""

from __future__ import annotations

import importlib
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from imgcls_ray.workers.ray_start import cluster_address, run_folder

if TYPE_CHECKING:
    from pathlib import Path

_TIMEOUT = timedelta(minutes=30)  # Ray Train's


def torch_config(*, uses_gpus: bool) -> Any:
    """Ray Train's ``torch_config``; ``None`` for Ray's own way, on a cluster, whose nodes share no file."""
    if cluster_address() is not None:
        return None
    # Ray's hints for type checkers do not know these.
    config: Any = importlib.import_module("ray.train.torch.config")
    get: Any = importlib.import_module("ray").get
    folder, backend = run_folder(), "nccl" if uses_gpus else "gloo"

    class FileBackend(config._TorchBackend):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(config._set_torch_distributed_env_vars)
            # Workers that are started again meet in another one.
            file, count = folder / f"meeting-{uuid.uuid4().hex}", len(worker_group)
            get([worker_group.execute_single_async(i, _meet, backend, i, count, file) for i in range(count)])

    class FileConfig(config.TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type:
            return FileBackend

    return FileConfig(backend=backend)


def _meet(backend: str, rank: int, world_size: int, file: Path) -> None:
    from torch import distributed

    distributed.init_process_group(
        backend, init_method=f"file://{file}", rank=rank, world_size=world_size, timeout=_TIMEOUT
    )
