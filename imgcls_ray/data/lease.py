"""Tell the second of two runs on one store who was first.

Advisory: parts are create-only, so two runs at once waste work but lose and double nothing. The lease is for people.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from imgcls_ray.data.store import encode_json, now
from imgcls_ray.errors import ImgclsError, StoreInUseError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgcls_ray.storage import Directory

LEASE_FILE = "lease.json"
_HEARTBEAT_S = 10.0
_STALE_AFTER_S = 60.0


@contextmanager
def hold_lease(directory: Directory) -> Iterator[None]:
    """Hold the store while the block runs.

    Raises:
        StoreInUseError: a run that is alive holds it; says who and since when.
    """
    token = uuid.uuid4().hex
    _acquire(directory, token)
    stop = threading.Event()
    beat = threading.Thread(target=_keep, args=(directory, token, stop), name="lease", daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        # A storage that fails here has failed the block, or will tell the next run; the lease expires by itself.
        with suppress(ImgclsError):
            if (_read(directory) or {}).get("token") == token:
                directory.remove(LEASE_FILE)


def lease_holder(directory: Directory) -> str | None:
    """Who holds the store, in words, or ``None``."""
    lease = _read(directory)
    if lease is None or _is_stale(lease):
        return None
    return f"process {lease['pid']} on {lease['host']}, since {lease['since']}"


def _acquire(directory: Directory, token: str) -> None:
    lease = {"token": token, "host": socket.gethostname(), "pid": os.getpid(), "since": now(), "beat": time.time()}
    if directory.create(LEASE_FILE, encode_json(lease)):
        return
    if holder := lease_holder(directory):
        raise StoreInUseError(
            f"{directory.uri}: another run is using this store ({holder}); wait for it, or stop it first"
        )
    # Its holder died. Between two runs that both see this, the last to write holds the name; both are safe.
    directory.replace(LEASE_FILE, encode_json(lease))


def _keep(directory: Directory, token: str, stop: threading.Event) -> None:
    while not stop.wait(_HEARTBEAT_S):
        # A beat that cannot be read or written is made up for by the next one.
        with suppress(ImgclsError):
            lease = _read(directory)
            if lease is not None and lease["token"] == token:
                directory.replace(LEASE_FILE, encode_json({**lease, "beat": time.time()}))


def _read(directory: Directory) -> dict[str, Any] | None:
    try:
        lease = json.loads(directory.read(LEASE_FILE))
    except (OSError, ValueError):
        return None
    kinds: dict[str, type | tuple[type, ...]] = {
        "token": str,
        "host": str,
        "pid": int,
        "since": str,
        "beat": (int, float),
    }
    if not isinstance(lease, dict) or not all(isinstance(lease.get(key), kind) for key, kind in kinds.items()):
        return None
    return lease


def _is_stale(lease: dict[str, Any]) -> bool:
    # A beat from the future is no sign of life either: its host's clock was set back, perhaps by years.
    if not abs(time.time() - lease["beat"]) <= _STALE_AFTER_S:
        return True
    return lease["host"] == socket.gethostname() and not _is_alive(lease["pid"])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
