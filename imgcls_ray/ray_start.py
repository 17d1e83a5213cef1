"""Which Ray the environment names, and what keeps Ray from starting: one line each, before Ray waits for minutes.

Ray answers a wrong ``RAY_ADDRESS`` with a stack, or after two minutes, or never; on a full disk it starts workers that
die, and starts them again.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from imgcls_ray.errors import ImgclsError, JobFailedError, ResourceError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONNECT_S = 5.0
# Logs and sockets of a short run take a few megabytes.
_MIN_ROOM_BYTES = 16 * 2**20
# HTTP/2's greeting with empty settings; gRPC, which Ray speaks, answers with its own.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4
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
            f"RAY_ADDRESS={shown}: is where Ray's dashboard takes jobs, not the cluster itself; {_WAYS_OUT}, or submit "
            "the command there as a job (RAY_API_SERVER_ADDRESS=… ray job submit)"
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


@contextmanager
def ray_start_errors(address: str | None = None) -> Iterator[None]:
    """Let Ray start, or be joined, in the block.

    Args:
        address: as ``cluster_address`` gives it; ``None`` for a Ray of this machine's own.

    Raises:
        ResourceError: no Ray answers at the address.
        StorageError: the temporary folder has no place for Ray's files.
        JobFailedError: Ray did not start for another reason.
    """
    if address is None:
        _check_room()
    elif address != "auto":
        _check_answers(address)
    try:
        yield
    except ImgclsError:
        raise
    # What Ray raises when it cannot start; ConnectionError is one of OSError.
    except (OSError, RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())[:300] or type(error).__name__
        if address is not None:
            raise ResourceError(f"RAY_ADDRESS={address}: cannot be joined ({words}); {_WAYS_OUT}") from error
        if isinstance(error, OSError) and error.errno is not None:
            raise _no_place(os.strerror(error.errno)) from error
        raise JobFailedError(
            f"Ray did not start on this machine: {words}; its logs are in {_folder()}/ray/session_latest/logs"
        ) from error


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
        raise ResourceError(f"RAY_ADDRESS={address}: what answers there is no Ray cluster; {_WAYS_OUT}")


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
