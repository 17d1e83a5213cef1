"""A lease that stops a second command on the same store.

It is advisory: parts are create-only, so two runs at the same time would repeat work, but lose and double nothing.

The holder renews the lease every few seconds. An observer counts the renewals with its own clock, because the clocks of
two machines may differ. If the holder is a process of this machine, the observer looks it up directly.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

from imgcls_ray.errors import ImgclsError, StoreInUseError
from imgcls_ray.json_files import encode_json
from imgcls_ray.store.records import now

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeGuard

    from imgcls_ray.json_files import Json
    from imgcls_ray.storage import Directory

logger = logging.getLogger(__name__)

LEASE_FILE = "lease.json"
_HEARTBEAT_S = 10.0
_RECENT_S = 60.0
"""A lease that was renewed within this time, by the clocks of both machines, is alive."""
_WATCH_S = 25.0
"""Time to watch a lease that seems old: a living holder renews it twice within this time."""
_LOOK_S = 1.0
_STATE, _START_TIME = 0, 19


class _Process(NamedTuple):
    """Identity of a process, unique also after its number is reused."""

    boot: str
    """Boot id of the machine."""
    pid_namespace: str
    """PID namespace of the number: containers may share a host name but not its processes."""
    started: str
    """Start time in clock ticks after the boot."""


class _Lease(TypedDict):
    """``lease.json``."""

    token: str
    host: str
    pid: int
    since: str
    beat: float
    """When it was last renewed, seconds since 1970 by the holder's clock."""
    num_beats: NotRequired[int]
    process: NotRequired[Json]
    """The fields of ``_Process``, where the holder could tell them."""


@contextmanager
def hold_lease(directory: Directory) -> Iterator[None]:
    """Hold the store while the block runs.

    Raises:
        StoreInUseError: a living run holds it; the message says which one and since when.
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
            if (lease := _read(directory)) is not None and lease["token"] == token:
                directory.remove(LEASE_FILE)


def lease_holder(directory: Directory) -> str | None:
    """The holder of the lease as text, judged by one look only; ``None`` if there is none."""
    lease = _read(directory)
    if lease is None or (is_alive := _is_alive(lease)) is False:
        return None
    if is_alive or _is_recent(lease):
        return _words(lease)
    return f"{_words(lease)}, unless it died: its last sign of life seems to be old"


def _acquire(directory: Directory, token: str) -> None:
    lease: _Lease = {
        "token": token,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": now(),
        "beat": time.time(),
        "num_beats": 0,
    }
    if (process := _process()) is not None:
        lease["process"] = process._asdict()
    data = encode_json(lease)
    if directory.create(LEASE_FILE, data):
        return
    if (other := _read(directory)) is not None and _holds(directory, other):
        raise StoreInUseError(
            f"{directory.uri}: another run is using this store ({_words(other)}); wait for it, or stop it first"
        )
    # Its holder died. Between two runs that both see this, the last to write holds the name; both are safe.
    directory.replace(LEASE_FILE, data)


def _words(lease: _Lease) -> str:
    return f"process {lease['pid']} on {lease['host']}, since {lease['since']}"


def _holds(directory: Directory, lease: _Lease) -> bool:
    """Whether the holder of a lease is alive; watches for a renewal if nothing else decides."""
    if (is_alive := _is_alive(lease)) is not None:
        return is_alive
    if _is_recent(lease):
        return True
    logger.info(
        "the store was left in use by %s, or its clock is wrong: waiting up to %.0f s for a sign of life",
        _words(lease),
        _WATCH_S,
    )
    until = time.monotonic() + _WATCH_S
    while time.monotonic() < until:
        time.sleep(_LOOK_S)
        if (seen := _read(directory)) != lease:
            return seen is not None
    return False


def _keep(directory: Directory, token: str, stop: threading.Event) -> None:
    num_beats = 0
    while not stop.wait(_HEARTBEAT_S):
        num_beats += 1
        # A beat that cannot be read or written is made up for by the next one.
        with suppress(ImgclsError):
            lease = _read(directory)
            if lease is not None and lease["token"] == token:
                directory.replace(LEASE_FILE, encode_json({**lease, "beat": time.time(), "num_beats": num_beats}))


def _read(directory: Directory) -> _Lease | None:
    try:
        lease: Json = json.loads(directory.read(LEASE_FILE))
    except (OSError, ValueError, RecursionError):
        return None
    return lease if _is_lease(lease) else None


def _is_lease(lease: Json) -> TypeGuard[_Lease]:
    if not isinstance(lease, dict):
        return False
    beat = lease.get("beat")
    kinds = {"token": str, "host": str, "pid": int, "since": str}
    try:
        return (
            all(isinstance(lease.get(key), kind) for key, kind in kinds.items())
            and isinstance(beat, int | float)
            and math.isfinite(beat)
        )
    except OverflowError:  # an integer that is no float
        return False


def _is_recent(lease: _Lease) -> bool:
    # A beat from the future is no sign of life by itself: its host's clock was set back, perhaps by years.
    return abs(time.time() - lease["beat"]) <= _RECENT_S


def _is_alive(lease: _Lease) -> bool | None:
    """Whether the holder's process is alive; ``None`` if this machine cannot know."""
    here, there = _process(), lease.get("process")
    if here is None or not isinstance(there, dict):
        return None
    if (there.get("boot"), there.get("pid_namespace")) != (here.boot, here.pid_namespace):
        return None
    try:
        os.kill(lease["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's, and there
    fields = _stat_fields(lease["pid"])
    if fields is None:
        return None  # a system that hides others' processes
    is_running = fields[_STATE] not in ("Z", "X")
    return is_running and fields[_START_TIME] == str(there.get("started"))


def _process() -> _Process | None:
    """This process; ``None`` if the system does not give its identity."""
    fields = _stat_fields(os.getpid())
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return _Process(boot, os.readlink("/proc/self/ns/pid"), fields[_START_TIME]) if fields else None
    except OSError:
        return None


def _stat_fields(pid: int) -> list[str] | None:
    """What ``/proc/PID/stat`` says behind the program's name, which may hold anything (proc_pid_stat(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return fields if len(fields) > _START_TIME else None
