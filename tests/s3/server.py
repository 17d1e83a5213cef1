"""A real S3 server for tests: one-node Ceph with its S3 gateway on loopback, objects in memory.

Without Ceph's manager: it tells of the cluster, which nobody asks, and takes six seconds of a core to begin.

Ready in about ten seconds, and gone with the process that started it, however that one ends. To use it by hand::

    python -m tests.s3.server DIR
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCESS_KEY, SECRET_KEY = "imgcls", "imgcls-secret"
_PROGRAMS = ("ceph-authtool", "ceph-mon", "ceph-osd", "ceph", "radosgw", "radosgw-admin", "setpriv")
_START_DEADLINE_S = 60
# Below the ports that connections going out are given: none of those can take one before its daemon does.
_PORTS = range(15_000, 30_000)

# No admin sockets: the path of a Unix socket has at most 107 bytes, which a test's folder soon exceeds.
_CONF = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
keyring = {folder}/keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
paxos propose interval = 0.01
paxos min wait = 0.01
osd pool default pg autoscale mode = off
osd objectstore = memstore
memstore device bytes = 4294967296
run dir = {folder}/run
log file = {folder}/log/$name.log
admin socket =
[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd
public addr = 127.0.0.1
cluster addr = 127.0.0.1
[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port}
"""


class S3ServerError(RuntimeError):
    """The server cannot be started, or does not do what it was asked for."""


class Keys(NamedTuple):
    """What a user signs requests with."""

    access_key: str
    secret_key: str


@dataclass(frozen=True)
class S3Server:
    """A running server and the user that owns the buckets of the tests."""

    endpoint_url: str
    access_key: str
    secret_key: str
    folder: Path
    """Configuration, keys and logs; the objects are in memory."""

    def client(self, keys: Keys | None = None) -> Any:
        """A plain botocore client for setting things up: buckets, policies, objects; for any number of threads.

        Buckets are made without a region.
        """
        return _client(self.endpoint_url, keys or Keys(self.access_key, self.secret_key))

    def add_user(self, name: str) -> Keys:
        """Make a user, once, who may do nothing in the buckets of others until a bucket's policy names it.

        In a policy it is ``{"AWS": "arn:aws:iam:::user/NAME"}``.
        """
        keys = Keys(name, f"{name}-secret")
        _add_user(self.folder, name, keys)
        return keys


@functools.cache
def _client(endpoint_url: str, keys: Keys) -> Any:
    from botocore.config import Config
    from botocore.session import Session

    return Session().create_client(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        config=Config(
            max_pool_connections=32,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def missing_programs() -> list[str]:
    """What the server needs and this machine has not."""
    return [program for program in _PROGRAMS if shutil.which(program) is None]


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Start a server, and end it with the block.

    The server also ends with the thread that started it.

    Args:
        folder: for configuration, keys and logs; emptied first.

    Raises:
        S3ServerError: its programs are not installed, or one of them does not start.
    """
    if missing := missing_programs():
        raise S3ServerError(f"the S3 server of the tests needs {', '.join(missing)}; install it with: make s3-server")
    folder = folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("mon", "osd", "rgw", "log", "run"):
        (folder / name).mkdir(parents=True)
    mon_port, port = free_ports(2)
    conf = _CONF.format(folder=folder, fsid=uuid.uuid4(), mon_port=mon_port, port=port)
    (folder / "ceph.conf").write_text(conf)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        yield _start(folder, f"http://127.0.0.1:{port}", daemons)
    finally:
        for daemon in reversed(daemons):
            daemon.kill()
        for daemon in daemons:
            daemon.wait()


def _start(folder: Path, endpoint_url: str, daemons: list[subprocess.Popen[bytes]]) -> S3Server:
    keyring = str(folder / "keyring")
    _run(folder, "ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    for name in ("client.admin", "client.rgw", "osd.0"):
        caps = [word for of in ("mon", "osd") for word in ("--cap", of, "allow *")]
        _run(folder, "ceph-authtool", keyring, "--gen-key", "-n", name, *caps)
    _run(folder, "ceph-mon", "--id", "a", "--mkfs", "--keyring", keyring)
    daemons.append(_daemon(folder, "ceph-mon", "--id", "a"))
    _run(folder, "ceph", "--connect-timeout", str(_START_DEADLINE_S), "osd", "create")
    _run(folder, "ceph-osd", "--id", "0", "--mkfs", "--osd-uuid", str(uuid.uuid4()))
    daemons.append(_daemon(folder, "ceph-osd", "--id", "0"))
    daemons.append(_daemon(folder, "radosgw", "-n", "client.rgw"))
    _wait_for_answer(endpoint_url, daemons, folder)
    _add_user(folder, "imgcls", Keys(ACCESS_KEY, SECRET_KEY))
    return S3Server(endpoint_url, ACCESS_KEY, SECRET_KEY, folder)


@functools.cache
def _add_user(folder: Path, name: str, keys: Keys) -> None:
    names = (f"--uid={name}", f"--display-name={name}")
    secrets = (f"--access-key={keys.access_key}", f"--secret-key={keys.secret_key}")
    _run(folder, "radosgw-admin", "-n", "client.rgw", "user", "create", *names, *secrets)


def _wait_for_answer(endpoint_url: str, daemons: list[subprocess.Popen[bytes]], folder: Path) -> None:
    deadline = time.monotonic() + _START_DEADLINE_S
    while True:
        try:
            urllib.request.urlopen(endpoint_url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError) as error:
            ended = [str(daemon.args) for daemon in daemons if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                why = f"ended: {'; '.join(ended)}" if ended else f"no answer in {_START_DEADLINE_S} s: {error}"
                raise S3ServerError(f"the S3 server does not start, {why}; see {folder}/log") from error
        time.sleep(0.1)


def _run(folder: Path, *command: str) -> None:
    try:
        subprocess.run(
            command, env=_environment(folder), check=True, capture_output=True, text=True, timeout=_START_DEADLINE_S
        )
    except subprocess.CalledProcessError as error:
        raise S3ServerError(f"{' '.join(command[:3])}: exit code {error.returncode}: {error.stderr.strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise S3ServerError(f"{' '.join(command[:3])}: took over {error.timeout} s; see {folder}/log") from error


def _daemon(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    # In the foreground, so that its process is ours to end; a test session that is killed takes it along.
    with (folder / "log" / f"{command[0]}.out").open("wb") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command, "-f"],
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the tests: a server that went first would fail every one that is still running.
            start_new_session=True,
        )


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "CEPH_CONF": str(folder / "ceph.conf")}


def free_ports(count: int) -> list[int]:
    """Ports that no connection going out is given."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise S3ServerError(f"no {count} free ports from {_PORTS.start} to {_PORTS.stop}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.s3.server", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="for configuration, keys and logs; emptied first")
    folder = parser.parse_args().folder
    if folder.exists() and not (folder / "ceph.conf").exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty, and not of an S3 server")
    with s3_server(folder) as server:
        print(f"export AWS_ENDPOINT_URL={server.endpoint_url}")
        print(f"export AWS_ACCESS_KEY_ID={server.access_key} AWS_SECRET_ACCESS_KEY={server.secret_key}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
