"""Begin to load the libraries of workers before the command has imported its own.

Both take seconds of one core, so a short job would otherwise wait for one after the other. This module imports little.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from imgcls_ray.config import AUTO
from imgcls_ray.errors import ResourceError
from imgcls_ray.machine import may_have_gpus
from imgcls_ray.workers.forks import ForkServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def loading_ahead(is_here: Callable[[], bool], module: str, function: str) -> Iterator[ForkServer | None]:
    """Load what workers are forked from, where it is certain already that they run on this machine.

    Args:
        is_here: whether it is certain; a ``ResourceError`` says that it is not.
        module, function: of the process that they are forked from, as ``LocalPool`` takes them.

    Yields:
        The process, for ``LocalPool``; None if the workers may run elsewhere. It ends with the block.
    """
    server = ForkServer(module, function, keeps_memory=False) if _is_certain(is_here) else None
    try:
        yield server
    finally:
        if server is not None:
            server.close()


def is_device_settled(device: str) -> bool:
    """Whether a job's device is certain before CUDA is asked: it is given, or there is no GPU to ask about."""
    return device != AUTO or not may_have_gpus()


def _is_certain(is_here: Callable[[], bool]) -> bool:
    with suppress(ResourceError):  # what is wrong with the cluster's address is for the job to say
        return is_here()
    return False
