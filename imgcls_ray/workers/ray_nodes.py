"""The nodes of a cluster that come and go while a job runs."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_REQUESTER = "imgcls"


def live_nodes() -> frozenset[str]:
    """Ids of the nodes that are alive."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return frozenset(node["NodeID"] for node in nodes if node["Alive"])


def ask_for_no_nodes() -> None:
    """Have Ray Data use what a cluster has, and ask its autoscaler for nothing.

    Ray Data reads this when it is imported; without it, a pool without a largest size asks for ever more nodes.
    """
    os.environ.setdefault("RAY_DATA_DEFAULT_CLUSTER_SCALING_UP_MAX_CPU_RESOURCE_DELTA", "0")


@contextmanager
def new_nodes_used_soon() -> Iterator[None]:
    """Tell Ray Data about each change of the cluster within a second or two.

    Its coordinator looks at the nodes every 20 seconds only, and a pool of actors grows no further than what that one
    has seen. Asking for a reservation anew makes it look.
    """
    is_over = threading.Event()
    thread = threading.Thread(target=_watch, args=(is_over,), name="watch-nodes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()


def _watch(is_over: threading.Event) -> None:
    known: frozenset[str] | None = None
    while not is_over.wait(_LOOK_EVERY_S):
        try:
            nodes = live_nodes()
            if known is not None and nodes != known:
                _look_again()
            known = nodes
        except Exception as error:  # Ray ends, or has another coordinator: the pool then grows later, by itself
            logger.debug("the cluster's nodes cannot be watched: %s", error)


def _look_again() -> None:
    from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator

    coordinator: Any = get_or_create_autoscaling_coordinator()  # type: ignore[no-untyped-call]
    coordinator.get_reserved_resources.remote(_REQUESTER, recompute=True)
