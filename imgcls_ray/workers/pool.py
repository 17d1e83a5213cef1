"""Where the blocks of a job are done: in processes of this machine, or on Ray. The worker is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from imgcls_ray.workers.ray_cluster import is_cluster_given

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imgcls_ray.config import RunsBlocks, TrainConfig
    from imgcls_ray.workers.plan import WorkerPlan
    from imgcls_ray.workers.worker import Block, Work


class Pool(Protocol):
    """The workers of one command."""

    @property
    def plan(self) -> WorkerPlan:
        """How many there are."""

    def run(
        self, blocks: Iterable[Block], make_work: Callable[..., Work[Any, Any]], *, what_now: str = ""
    ) -> Iterator[Block]:
        """Run blocks; they come back in any order, with what came of them as their content.

        Args:
            blocks: read as they are needed.
            make_work: makes what a worker does; crosses process boundaries. With GPUs it is also told the ``device`` of
                the classifier: ``None`` for workers that only decode.
            what_now: for people, after why a worker failed.

        Raises:
            ImgclsError: a worker failed for good.
        """

    def stop(self) -> None:
        """Begin nothing more: a run ends when what workers have in hand has come to its end; any thread may call this.

        What was not begun does not come back.
        """


def is_on_ray(config: RunsBlocks) -> bool:
    """Whether a job runs on Ray: for a cluster, for GPUs, or because it is asked for.

    Raises:
        ResourceError: the environment names what is no cluster.
    """
    return config.on == "ray" or (config.on == "auto" and (config.uses_gpus or is_cluster_given()))


def is_trained_here(config: TrainConfig) -> bool:
    """Whether a training runs in one process of this machine: one worker on CPUs, and no cluster is given.

    Raises:
        ResourceError: the environment names what is no cluster.
    """
    return not config.uses_gpus and (config.num_workers or 1) == 1 and not is_cluster_given()


def is_on_cluster(config: RunsBlocks) -> bool:
    """Whether it runs on a Ray that is given, whose resources this machine does not tell; raises as ``is_on_ray``."""
    return is_on_ray(config) and is_cluster_given()
