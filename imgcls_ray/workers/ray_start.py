"""Which Ray the environment names, how one of our own stays ours, and what keeps either from starting.

Ray answers a wrong ``RAY_ADDRESS`` with a stack, or after two minutes, or never; on a full disk it starts workers that
die, and starts them again. Here each is one line, before Ray waits for minutes.

Whoever reaches a Ray can run code in it. One that a command starts for itself listens on loopback, asks for a token
that only its user can read, and keeps its files where nobody else looks in.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgcls_ray.errors import ImgclsError, ResourceError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONNECT_S = 5.0
# Logs and sockets of a short run take a few megabytes.
_MIN_ROOM_BYTES = 16 * 2**20
# HTTP/2's greeting with empty settings; gRPC, which Ray speaks, answers with its own.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4
# A Unix socket's name has at most 107 bytes. Behind the temporary folder Ray's need so many for themselves, and
# HAProxy's, which are in a folder named by the node's id, so many.
_MAX_SOCKET_NAME = 107
_RAY_NAME = len("/imgcls-65535/ray/session_2026-12-31_23-59-59_123456_1234567/sockets/plasma_store")
_HAPROXY_NAME = len(f"/imgcls-12345678/{'0' * 56}/a.1234567.tmp")
_WAYS_OUT = "set it to auto on a node of the cluster or to HEAD:6379, or unset it to work on this machine"


def cluster_address() -> str | None:
    """What ``RAY_ADDRESS`` names: ``auto`` or ``HOST:PORT``; ``None`` where a Ray of this machine's own is started.

    Raises:
        ResourceError: it is no address of a cluster that a job can join.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local"):
        return None
    if address == "auto":
        return address
    shown = re.sub(r"//[^/@]*@", "//", address)
    if re.match(r"https?://", address, re.IGNORECASE):
        raise ResourceError(
            f"RAY_ADDRESS={shown}: is the job server of Ray's dashboard, not the cluster itself; {_WAYS_OUT}, or "
            "submit the command there as a job (RAY_API_SERVER_ADDRESS=… ray job submit)"
        )
    if "://" in address:
        raise ResourceError(
            f"RAY_ADDRESS={shown}: Ray clients are not supported; {_WAYS_OUT}, or submit the command as a job "
            "(ray job submit)"
        )
    host, _, port = address.rpartition(":")
    is_host = bool(host) and (":" not in host or (host[0], host[-1]) == ("[", "]"))
    if not is_host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ResourceError(f"RAY_ADDRESS={shown}: is not HOST:PORT; {_WAYS_OUT}")
    return address


def own_ray() -> dict[str, Any]:
    """Options of ``ray.init`` for a Ray that nobody but this user, on this machine, can reach.

    Sets the environment that Ray and all its processes read. A caller's own
    ``RAY_AUTH_MODE=disabled``, ``RAY_AUTH_TOKEN`` and ``RAY_AUTH_TOKEN_PATH`` are left as they are; empty ones count as
    not set.

    Raises:
        StorageError: there is no place for Ray's files.
        ResourceError: ``RAY_AUTH_MODE`` is no mode of Ray's, which would go without a token.
    """
    # Ray then takes 127.0.0.1 for the node's address, and everything that listens at the node's address with it.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        if not os.environ.get(name, "").strip():
            os.environ.pop(name, None)
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode.lower() not in ("token", "disabled"):
        raise ResourceError(f"RAY_AUTH_MODE={mode}: is no mode of Ray's; set it to token or disabled, or unset it")
    has_token = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if mode.lower() == "token" and not has_token:
        # Ray would write ~/.ray/auth_token, and every later `ray start` and `ray job submit` would go by it.
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(_token_file())
    # Training workers talk to each other past Ray.
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo0" if sys.platform == "darwin" else "lo")
    # What Ray has read already, where the caller has imported it.
    if constants := sys.modules.get("ray._private.ray_constants"):
        vars(constants)["ENABLE_RAY_CLUSTER"] = False
    if raylet := sys.modules.get("ray._raylet"):
        raylet.AuthenticationTokenLoader.instance().reset_cache()
    options = {
        "address": "local",
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "_temp_dir": str(_session_folder()),
    }
    if not _has_short_name(_RAY_NAME):
        # Sockets and logs are then in /tmp; what takes room is where the caller wants it.
        options["_object_spilling_directory"] = str(_new_folder(_folder()))
    return options


@functools.cache
def run_folder() -> Path:
    """A folder that only this user can look into, until the process ends: for tokens and for sockets.

    Raises:
        StorageError: there is no place for it.
    """
    return _new_folder(_folder() if _has_short_name(_HAPROXY_NAME) else "/tmp")


def hush_ray() -> None:
    """Keep what Ray prints for its tasks off the terminal, once Ray is imported.

    Ray prints each task that a stop has interrupted ("There are infinite retries remaining"), to standard output, and
    has no setting for it. What failed, the commands say themselves; Ray's log files have the rest.
    """
    vars(sys.modules["ray._private.worker"])["_worker_logs_enabled"] = False


def _new_folder(parent: str) -> Path:
    try:
        folder = tempfile.mkdtemp(prefix="imgcls-", dir=parent)
    except OSError as error:
        raise _no_place(os.strerror(error.errno or 0)) from error
    # Ray ends its processes at exit as well, and before: what is registered first runs last.
    atexit.register(_remove, folder, os.getpid())
    return Path(folder)


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:  # not in a process that this one has forked
        shutil.rmtree(folder, ignore_errors=True)


def _has_short_name(num_bytes: int) -> bool:
    return len(os.fsencode(_folder())) + num_bytes <= _MAX_SOCKET_NAME


@functools.cache
def _token_file() -> Path:
    path = run_folder() / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    return path


@functools.cache
def _session_folder() -> Path:
    """Where Ray keeps its sockets and logs.

    Ray lets every user write there, so the folder around it is closed to others.
    """
    path = Path(_folder() if _has_short_name(_RAY_NAME) else "/tmp", f"imgcls-{os.getuid()}")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
            path.chmod(0o700)
            return path / "ray"
    except FileExistsError:
        pass
    except OSError as error:
        raise _no_place(os.strerror(error.errno or 0)) from error
    # Somebody else has made it. The logs will not outlive the run, but nobody reads or changes them.
    return run_folder() / "ray"


@contextmanager
def starting_ray(address: str | None = None) -> Iterator[None]:
    """Let Ray start, or be joined, in the block. Afterwards, SIGTERM has the same handler as before.

    Args:
        address: as ``cluster_address`` gives it; ``None`` for a Ray of this machine's own.

    Raises:
        ResourceError: no Ray answers at the address, or none starts on this machine.
        StorageError: the temporary folder has no place for Ray's files.
    """
    if address is None:
        _check_room()
    elif address != "auto":
        _check_answers(address)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except ImgclsError:
        raise
    except SystemExit as error:
        # While it starts, Ray has a handler of SIGTERM of its own, which leaves without a word.
        raise KeyboardInterrupt from error
    except Exception as error:
        # What Ray raises when it cannot start; ConnectionError is one of OSError. A node that does not come up within
        # half a minute is an exception of no kind.
        if not isinstance(error, OSError | RuntimeError | ValueError) and type(error) is not Exception:
            raise
        words = " ".join(str(error).split())[:300] or type(error).__name__
        if address is not None:
            raise ResourceError(f"RAY_ADDRESS={address}: cannot be joined ({words}); {_WAYS_OUT}") from error
        if isinstance(error, OSError) and error.errno is not None:
            raise _no_place(os.strerror(error.errno)) from error
        # Not a failed job: nothing is known of its outcome, and ``check`` and ``evaluate`` say 1 of what they found.
        raise ResourceError(
            f"Ray did not start on this machine: {words}; its logs are in {_session_folder()}/session_latest/logs; if "
            "the machine is busy, run the command again"
        ) from error
    finally:
        # Ray's own handler leaves without a word, or prints a stack.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return  # it does not answer without a certificate
            connection.sendall(_GREETING)
            answer = connection.recv(9)
    except TimeoutError as error:
        raise ResourceError(f"RAY_ADDRESS={address}: nothing answers there; {_WAYS_OUT}") from error
    except OSError as error:
        raise ResourceError(
            f"RAY_ADDRESS={address}: cannot be reached ({error.strerror or error}); {_WAYS_OUT}"
        ) from error
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise ResourceError(f"RAY_ADDRESS={address}: the server there is not a Ray cluster; {_WAYS_OUT}")


def _check_room() -> None:
    try:
        status = os.statvfs(_folder())
    except OSError:
        return  # Ray makes the folder, or says why it cannot
    if status.f_bavail * status.f_frsize < _MIN_ROOM_BYTES:
        raise _no_place(f"it has less than {_MIN_ROOM_BYTES // 2**20} MiB of room")


def _folder() -> str:
    """Where Ray keeps its logs and sockets."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()


def _no_place(reason: str) -> StorageError:
    return StorageError(
        f"{_folder()}: Ray cannot keep its files there: {reason}; set TMPDIR (or RAY_TMPDIR) to a folder with room"
    )
