"""Begin to load the libraries of workers before the command has imported its own.

Both take seconds of one core, so a short job would otherwise wait for one after the other. This module imports little.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from imgcls_ray.config import AUTO, TrainConfig
from imgcls_ray.errors import ResourceError
from imgcls_ray.machine import may_have_gpus
from imgcls_ray.workers.forks import ForkServer
from imgcls_ray.workers.pool import is_on_ray, is_trained_here

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.config import PredictConfig


@contextmanager
def loading_ahead(config: PredictConfig | TrainConfig, module: str, function: str) -> Iterator[ForkServer | None]:
    """Load what workers are forked from, where it is certain already that they run on this machine.

    Args:
        config: of the job.
        module, function: of the process that they are forked from, as ``LocalPool`` takes them.

    Yields:
        The process, for ``LocalPool``; None if the workers may run elsewhere. It ends with the block.
    """
    server = ForkServer(module, function, keeps_memory=False) if _is_local(config) else None
    try:
        yield server
    finally:
        if server is not None:
            server.close()


def _is_local(config: PredictConfig | TrainConfig) -> bool:
    is_settled = config.device != AUTO or not may_have_gpus()
    with suppress(ResourceError):  # what is wrong with the cluster's address is for the job to say
        if isinstance(config, TrainConfig):
            return is_settled and is_trained_here(config)
        return not is_on_ray(config) and (is_settled or config.on == "local")
    return False
