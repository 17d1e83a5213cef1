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

from imgcls_ray.errors import StorageError, StoreInUseError
from imgcls_ray.storage import Directory, open_directory
from imgcls_ray.store import lease as lease_module
from imgcls_ray.store.lease import LEASE_FILE, hold_lease, lease_holder

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


def leave_lease_of(directory: Directory, pid: int, **changes: Any) -> None:
    """What a process of this machine has left."""
    process = lease_module._process()
    assert process is not None
    told = {**process._asdict(), **changes}
    leave_lease(directory, host=socket.gethostname(), pid=pid, process=told)


@pytest.fixture
def no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a sign of life fails the test."""

    def fail(_seconds: float) -> None:
        pytest.fail("waited for a sign of life")

    monkeypatch.setattr(time, "sleep", fail)


@pytest.fixture
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "_WATCH_S", 0.3)
    monkeypatch.setattr(lease_module, "_LOOK_S", 0.02)


def test_a_dead_process_of_this_machine_is_taken_over_at_once(
    directory: Directory, dead_pid: int, no_watch: None
) -> None:
    leave_lease_of(directory, dead_pid)
    assert lease_holder(directory) is None
    with hold_lease(directory):
        assert f"process {os.getpid()} " in str(lease_holder(directory))


def test_a_process_number_that_was_given_away_again_is_a_dead_process(directory: Directory, no_watch: None) -> None:
    leave_lease_of(directory, os.getpid(), started="1")
    with hold_lease(directory):
        pass


def test_a_process_of_another_boot_is_not_looked_for_here(directory: Directory, dead_pid: int, no_watch: None) -> None:
    leave_lease_of(directory, dead_pid, boot="another")
    with pytest.raises(StoreInUseError), hold_lease(directory):
        pytest.fail("its last beat was just now")


def test_a_live_holder_whose_process_is_hidden_is_not_taken_for_dead(
    directory: Directory, monkeypatch: pytest.MonkeyPatch, no_watch: None
) -> None:
    """Where ``/proc`` is mounted with ``hidepid``, another user's process is there, and cannot be looked at."""
    own, stat_fields = os.getpid(), lease_module._stat_fields
    leave_lease_of(directory, own + 1)
    monkeypatch.setattr(lease_module, "_stat_fields", lambda pid: stat_fields(pid) if pid == own else None)

    def kill(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    with pytest.raises(StoreInUseError), hold_lease(directory):
        pytest.fail("its last beat was just now")


def test_a_live_holder_in_another_pid_namespace_is_not_taken_for_dead(
    directory: Directory, dead_pid: int, no_watch: None
) -> None:
    """Pods with ``hostNetwork`` share their host's name, and its process numbers say nothing in another container."""
    leave_lease_of(directory, dead_pid, pid_namespace="pid:[1]")
    with pytest.raises(StoreInUseError, match=f"process {dead_pid} on {socket.gethostname()}"), hold_lease(directory):
        pytest.fail("its last beat was just now")


@pytest.mark.parametrize("ahead_s", [-7200.0, -61.0, 61.0, 10.0**9])
def test_a_live_holder_whose_clock_differs_is_not_taken_for_dead(
    ahead_s: float, directory: Directory, quick_watch: None
) -> None:
    leave_lease(directory, beat=time.time() + ahead_s)
    renewals = iter(range(1, 10**6))
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(0.05):
            leave_lease(directory, beat=time.time() + ahead_s, num_beats=next(renewals))

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(StoreInUseError), hold_lease(directory):
            pytest.fail("held twice")
    finally:
        stop.set()
        thread.join()


def test_a_holder_without_a_sign_of_life_is_taken_over_after_a_while(
    directory: Directory, quick_watch: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "imgcls_ray")
    leave_lease(directory, beat=time.time() - 3600)
    assert str(lease_holder(directory)).endswith("unless it died: its last sign of life seems to be old")
    start = time.monotonic()
    with hold_lease(directory):
        assert time.monotonic() - start >= 0.3
        assert f"process {os.getpid()} " in str(lease_holder(directory))
    assert "process 1234 on elsewhere" in caplog.text
    assert "waiting up to" in caplog.text


def test_a_lease_that_is_given_back_while_it_is_watched_is_free(directory: Directory, quick_watch: None) -> None:
    leave_lease(directory, beat=time.time() - 3600)
    timer = threading.Timer(0.1, directory.remove, (LEASE_FILE,))
    timer.start()
    with hold_lease(directory):
        pass
    timer.join()


def test_a_killed_run_does_not_block_the_next(directory: Directory) -> None:
    if (child := os.fork()) == 0:
        with hold_lease(directory):
            os._exit(0)
    os.waitpid(child, 0)
    assert directory.exists(LEASE_FILE)
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
        beat = {"beat": 0, "num_beats": 0}
        assert {**json.loads(directory.read(LEASE_FILE)), **beat} == {**lease, **beat}


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
        b'{"token": "t", "host": "h", "pid": 1, "since": "s", "beat": 1' + b"0" * 400 + b"}",
        b"[" * 100_000,
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
    leave_lease_of(directory, 2**70)
    assert lease_holder(directory) is None


def test_a_lease_that_went_away_is_not_written_again(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "_HEARTBEAT_S", 0.01)
    with hold_lease(directory):
        directory.remove(LEASE_FILE)
        time.sleep(0.1)
        assert not directory.exists(LEASE_FILE)
