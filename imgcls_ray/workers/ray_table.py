"""The table of Ray's head node: a few bytes that every process of a cluster can reach, and that outlive them.

The one door to Ray's internal key-value table.
"""

from __future__ import annotations

_NAMESPACE = b"imgcls"


def kv_get(key: bytes) -> bytes | None:
    from ray.experimental.internal_kv import _internal_kv_get

    value: bytes | None = _internal_kv_get(key, namespace=_NAMESPACE)
    return value


def kv_list(prefix: bytes) -> list[bytes]:
    from ray.experimental.internal_kv import _internal_kv_list

    keys: list[bytes] = _internal_kv_list(prefix, namespace=_NAMESPACE)
    return keys


def kv_put(key: bytes, value: bytes) -> None:
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(key, value, overwrite=True, namespace=_NAMESPACE)


def kv_delete(key: bytes, *, by_prefix: bool = False) -> None:
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(key, del_by_prefix=by_prefix, namespace=_NAMESPACE)


def node_id() -> str:
    """The node of the cluster that this process runs on."""
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return node
