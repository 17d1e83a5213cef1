"""Runs of blocks that a death ends: another attempt does what is left."""

from __future__ import annotations

import gc
import logging
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from ray.exceptions import RayError

    from imgcls_ray.workers.worker import Block

logger = logging.getLogger(__name__)

# A block is given up when it has ended five workers; so many attempts without a single block done are more than that.
_MAX_ATTEMPTS_IN_VAIN = 10


def outlive_deaths(
    blocks: Sequence[Block], run: Callable[[Sequence[Block]], Generator[Block, None, None]]
) -> Iterator[Block]:
    """Run blocks; where a death ends an attempt, another one takes those that have not come back yet.

    What was done and had not come back, the next attempt does again, or finds committed. How often a block may end its
    worker is counted elsewhere (``Board``); here it is the attempts in which nothing was done.

    Args:
        blocks: one wave. Each comes back once, and the last one ends the attempt.
        run: one attempt, with new actors, on the nodes that are there. It may bring a block twice. It is closed before
            the next one begins: its actors hold CPUs and GPUs.

    Raises:
        RayError: the attempts failed for another reason than deaths, or in vain.
    """
    from ray.exceptions import RayError

    todo = {block.number: block for block in blocks}
    num_in_vain = 0
    while todo:
        try:
            with closing(run(list(todo.values()))) as results:
                for done in results:
                    num_in_vain = 0
                    if todo.pop(done.number, None) is not None:
                        yield done
                    if not todo:
                        break  # an actor that still has a block in hand is not waited for: a copy of it was faster
            return
        except RayError as error:
            num_in_vain += 1
            if not _is_death(error) or num_in_vain > _MAX_ATTEMPTS_IN_VAIN:
                raise
            logger.warning("a worker or its node died; %d blocks continue on new workers", len(todo))
        finally:
            # Ray ends an actor when nothing knows it any more, and an attempt is full of circles: its actors would keep
            # the GPU that the next one's wait for.
            gc.collect()


def _is_death(error: RayError) -> bool:
    """Whether workers or what they held were lost, rather than failed by what they did."""
    from ray.exceptions import RayActorError, RayError, RayTaskError

    if isinstance(error, RayTaskError):
        # A task that could not read its input because the input's maker is dead.
        return isinstance(error.cause, RayError) and _is_death(error.cause)
    # An actor that cannot be made here cannot be made again.
    return not (isinstance(error, RayActorError) and error.actor_init_failed)
