"""What a command and all that it has started listen at, and what another user of the machine can reach of it."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import grpc
import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable

NOBODY = 65534
# A socket's state, as the kernel's tables have it.
_LISTEN = "0A"
# What another user tries with each path: folders are listed, files read, sockets connected to.
_TRY = """
import os, socket, stat, sys
for path in sys.argv[1:]:
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISSOCK(mode):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path)
        elif stat.S_ISDIR(mode):
            os.listdir(path)
        else:
            open(path, "rb").close()
    except OSError:
        continue
    print(path)
"""


class Listener(NamedTuple):
    name: str
    host: str
    port: int

    @property
    def is_local(self) -> bool:
        address = ipaddress.ip_address(self.host)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return address.is_loopback

    def refuses(self, method: str) -> bool:
        """Whether a call of gRPC without a token gets no answer."""
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            try:
                channel.unary_unary(method)(b"", timeout=10)
            except grpc.RpcError as error:
                return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
        return False


def listening_sockets() -> frozenset[str]:
    """Inodes of all sockets of the machine that listen now: cheap to ask, where ``listeners`` reads every process."""
    found: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):  # without IPv6
            rows = (line.split() for line in Path(table).read_text().splitlines()[1:])
            found.update(row[9] for row in rows if row[3] == _LISTEN)
    return frozenset(found)


def listeners(pid: int) -> set[Listener]:
    """All that listens now, of a process and its descendants."""
    found = set()
    for process in _tree(pid):
        with suppress(psutil.Error):
            name = " ".join(process.cmdline())
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add(Listener(name, connection.laddr.ip, connection.laddr.port))
    return found


def private_folders(pid: int) -> set[Path]:
    """Where a command that has started Ray keeps its token, its sockets and its logs."""
    for process in _tree(pid):
        with suppress(psutil.Error):
            command = process.cmdline()
            if command and command[0].endswith("gcs_server"):
                token = Path(process.environ()["RAY_AUTH_TOKEN_PATH"])
                [log] = [word.partition("=")[2] for word in command if word.startswith("--log_dir=")]
                return {token.parent, Path(log).parent.parent.parent}
    return set()


def open_to_others(folders: Iterable[Path]) -> list[str]:
    """What ``nobody`` can open below folders, of what is there; asked as root only."""
    paths = [str(path) for folder in folders for path in (folder, *_below(folder))]
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", _python(), "-I", "-c", _TRY]
    done = subprocess.run([*command, *paths], capture_output=True, text=True, timeout=60, check=True, cwd="/")
    return done.stdout.splitlines()


def can_be_nobody() -> bool:
    """Whether this process may become another user, who finds a Python."""
    return os.getuid() == 0 and shutil.which("setpriv") is not None and _python() != ""


def own_address() -> str:
    """This machine's address in its network, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
        return address


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _below(folder: Path) -> list[Path]:
    return [Path(top, name) for top, folders, files in os.walk(folder) for name in (*folders, *files)]


def _python() -> str:
    """One that other users can run too: an environment may be in a home folder."""
    for python in (shutil.which("python3", path="/usr/bin:/usr/local/bin"), sys.executable):
        if python is None:
            continue
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", python, "-c", ""]
        if subprocess.run(command, capture_output=True, check=False, cwd="/").returncode == 0:
            return python
    return ""
