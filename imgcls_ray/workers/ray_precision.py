"""One number format for all nodes of a Ray cluster, which may have different processors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from imgcls_ray.words import counted
from imgcls_ray.workers.ray_failures import causes_told
from imgcls_ray.workers.ray_start import cluster_address

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


def precision_of_nodes(has_native_bf16: Callable[[], bool]) -> Literal["auto", "bf16", "fp32"]:
    """The number format that every node of the running Ray computes natively.

    ``auto`` is the answer for the own Ray of a machine only: it has one node, and gets no other. A cluster may grow, so
    even its only node is asked. A node that joins later gets the answer of those that were there, and if its processor
    has no bf16 it computes in fp32; each part file tells what its rows were computed in. A cluster that has no node yet
    gets ``fp32``, which every processor computes.

    Args:
        has_native_bf16: a function, called on each node; crosses process boundaries.

    Raises:
        ImgclsError: a node cannot answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with causes_told():
        known = ray.nodes()  # type: ignore[no-untyped-call]
        nodes = [node["NodeID"] for node in known if node["Alive"] and node["Resources"].get("CPU")]
        if len(nodes) < 2 and cluster_address() is None:
            return "auto"
        if not nodes:
            logger.info(
                "precision: fp32, because the cluster has no node with CPUs yet; if all that it will have compute bf16 "
                "natively, --precision bf16 is faster"
            )
            return "fp32"
        ask = ray.remote(has_native_bf16)
        # Soft: the question of a node that dies meanwhile is answered by another one.
        strategies = [NodeAffinitySchedulingStrategy(node, soft=True) for node in nodes]
        answers = ray.get([ask.options(num_cpus=0, scheduling_strategy=each).remote() for each in strategies])
    if all(answers):
        return "bf16"
    if any(answers):
        logger.info(
            "precision: fp32 on all nodes, because %s of %s cannot compute bf16 natively",
            answers.count(False),
            counted(len(nodes), "node"),
        )
    return "fp32"
