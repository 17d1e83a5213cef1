"""The second of two runs is told who is first, and nobody is told so for ever."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from imgcls_ray.data import lease as lease_module
from imgcls_ray.data.lease import LEASE_FILE, hold_lease, lease_holder
from imgcls_ray.errors import StorageError, StoreInUseError
from imgcls_ray.storage import Directory, open_directory

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return open_directory(str(tmp_path))


@pytest.fixture(scope="module")
def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def leave_lease(directory: Directory, **changes: Any) -> None:
    """What another run has left: alive, on another host, unless told otherwise."""
    lease = {"token": "other", "host": "elsewhere", "pid": 1234, "since": "2026-01-01T00:00:00+00:00"}
    directory.replace(LEASE_FILE, json.dumps({**lease, "beat": time.time(), **changes}).encode())


def test_the_second_run_is_told_who_is_first(directory: Directory) -> None:
    with hold_lease(directory):
        holder = f"process {os.getpid()} on {socket.gethostname()}, since 20"
        assert str(lease_holder(directory)).startswith(holder)
        with pytest.raises(StoreInUseError) as caught, hold_lease(directory):
            pytest.fail("held twice")
        assert str(caught.value).startswith(f"{directory.uri}: another run is using this store ({holder}")
        assert str(caught.value).endswith("); wait for it, or stop it first")
        # The refused run takes nothing away from the first.
        assert str(lease_holder(directory)).startswith(holder)


def test_a_run_on_another_host_is_respected(directory: Directory) -> None:
    leave_lease(directory)
    with (
        pytest.raises(StoreInUseError, match=r"\(process 1234 on elsewhere, since 2026-01-01T00:00:00\+00:00\)"),
        hold_lease(directory),
    ):
        pytest.fail("held twice")
    assert json.loads(directory.read(LEASE_FILE))["token"] == "other"


def test_the_lease_is_gone_at_the_end(directory: Directory) -> None:
    with hold_lease(directory):
        pass
    assert not directory.exists(LEASE_FILE)
    assert lease_holder(directory) is None
    with hold_lease(directory):
        pass


def test_the_lease_is_gone_after_a_failure(directory: Directory) -> None:
    with pytest.raises(KeyboardInterrupt), hold_lease(directory):
        raise KeyboardInterrupt
    assert list(directory.entries()) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "lease"]


def test_a_dead_process_of_this_host_is_taken_over_at_once(directory: Directory, dead_pid: int) -> None:
    leave_lease(directory, host=socket.gethostname(), pid=dead_pid)
    assert lease_holder(directory) is None
    with hold_lease(directory):
        assert f"process {os.getpid()} " in str(lease_holder(directory))


def test_a_killed_run_does_not_block_the_next(directory: Directory) -> None:
    if (child := os.fork()) == 0:
        with hold_lease(directory):
            os._exit(0)
    os.waitpid(child, 0)
    assert directory.exists(LEASE_FILE)
    with hold_lease(directory):
        pass


@pytest.mark.parametrize("age_s", [61, 10**6, -61, -(10**9)], ids=["minute", "days", "ahead", "decades-ahead"])
def test_a_heartbeat_of_another_time_is_no_sign_of_life(age_s: float, directory: Directory) -> None:
    leave_lease(directory, beat=time.time() - age_s)
    assert lease_holder(directory) is None
    with hold_lease(directory):
        pass


def test_a_heartbeat_of_just_now_is(directory: Directory) -> None:
    for age_s in (50, 0, -50):
        leave_lease(directory, beat=time.time() - age_s)
        assert lease_holder(directory) is not None


def test_the_holder_keeps_beating(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "_HEARTBEAT_S", 0.01)
    with hold_lease(directory):
        lease = json.loads(directory.read(LEASE_FILE))
        deadline = time.monotonic() + 5
        while json.loads(directory.read(LEASE_FILE))["beat"] == lease["beat"]:
            assert time.monotonic() < deadline, "no second beat"
            time.sleep(0.01)
        assert {**json.loads(directory.read(LEASE_FILE)), "beat": 0} == {**lease, "beat": 0}


def test_a_beat_that_cannot_be_written_is_not_the_last(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "_HEARTBEAT_S", 0.01)
    beaten = threading.Event()
    outcomes = iter([StorageError("disk full"), StorageError("disk full")])

    def replace(_: str, data: bytes) -> None:
        if error := next(outcomes, None):
            raise error
        beaten.set()

    monkeypatch.setattr(directory, "replace", replace)
    with hold_lease(directory):
        assert beaten.wait(5)


def test_who_was_taken_over_neither_beats_nor_releases(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "_HEARTBEAT_S", 0.01)
    with hold_lease(directory):
        leave_lease(directory, beat=1.0)
        time.sleep(0.1)
        assert json.loads(directory.read(LEASE_FILE))["beat"] == 1.0
    assert json.loads(directory.read(LEASE_FILE))["token"] == "other"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"token": "t", "host": "h", "pid": 1, "since": "s"}',
        b'{"token": "t", "host": "h", "pid": 1, "since": "s", "beat": "yesterday"}',
        b'{"token": "t", "host": "h", "pid": 1, "since": "s", "beat": NaN}',
        b'{"token": "t", "host": "h", "pid": "one", "since": "s", "beat": 0}',
    ],
    ids=ascii,
)
def test_a_lease_that_says_nothing_does_not_block(content: bytes, directory: Directory) -> None:
    directory.replace(LEASE_FILE, content)
    assert lease_holder(directory) is None
    with hold_lease(directory):
        assert lease_holder(directory) is not None
    assert not directory.exists(LEASE_FILE)


def test_a_process_number_that_cannot_be_is_a_dead_process(directory: Directory) -> None:
    leave_lease(directory, host=socket.gethostname(), pid=2**70)
    assert lease_holder(directory) is None


def test_a_lease_that_went_away_is_not_written_again(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "_HEARTBEAT_S", 0.01)
    with hold_lease(directory):
        directory.remove(LEASE_FILE)
        time.sleep(0.1)
        assert not directory.exists(LEASE_FILE)
