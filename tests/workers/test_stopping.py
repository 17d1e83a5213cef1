"""A stop on request: what is in hand ends and nothing is begun, unless that takes too long or is asked for twice."""

from __future__ import annotations

import os
import queue
import signal
import socketserver
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from imgcls_ray.errors import JobFailedError
from imgcls_ray.storage import open_directory
from imgcls_ray.store.opening import open_store
from imgcls_ray.workers.stopping import GracefulStop, interrupt_on_stop
from tests.workers.survival import IMGCLS, POISONOUS, Running, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.store.label_store import LabelStore

ON_BOTH = pytest.mark.parametrize("on", ["local", "ray"])
BOTH_SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
LONG_S = 60.0
"""A grace that no test waits for."""


def send(number: signal.Signals) -> None:
    """Send this process a signal, and let the main thread see it."""
    os.kill(os.getpid(), number)
    for _ in range(100):
        pass


def send_and(number: signal.Signals, block: Callable[[], None]) -> None:
    send(number)
    block()


def nothing() -> None:
    pass


def sleep() -> None:
    time.sleep(LONG_S)


# In one process


@BOTH_SIGNALS
def test_the_first_signal_asks_and_does_not_raise(number: signal.Signals) -> None:
    with GracefulStop(LONG_S, nothing) as stop:
        before = stop.requested
        send(number)
        assert (before, stop.requested) == (False, True)


def test_without_a_signal_nothing_is_asked_and_nobody_told() -> None:
    told: list[bool] = []
    with GracefulStop(0.05, lambda: told.append(True)) as stop:
        time.sleep(0.2)
    assert not stop.requested
    assert told == []


def test_the_workers_are_told_once() -> None:
    told: list[bool] = []
    with GracefulStop(LONG_S, lambda: told.append(True)):
        send(signal.SIGTERM)
        wait_until(lambda: bool(told))
        with suppress(KeyboardInterrupt):
            send(signal.SIGTERM)
        time.sleep(0.1)
    assert told == [True]


@BOTH_SIGNALS
def test_the_second_signal_raises_in_the_main_thread(number: signal.Signals) -> None:
    with GracefulStop(LONG_S, nothing):
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(number)


def wait_for_a_queue() -> None:
    queue.Queue[int]().get()


def wait_for_a_simple_queue() -> None:
    queue.SimpleQueue[int]().get()


def wait_for_an_event() -> None:
    threading.Event().wait()


def wait_for_a_lock() -> None:
    lock = threading.Lock()
    with lock:
        lock.acquire()


def read_a_pipe() -> None:
    reader, writer = os.pipe()
    try:
        os.read(reader, 1)
    finally:
        os.close(reader)
        os.close(writer)


def compute() -> None:
    while True:
        pass


@pytest.mark.parametrize(
    "block",
    [sleep, wait_for_a_queue, wait_for_a_simple_queue, wait_for_an_event, wait_for_a_lock, read_a_pipe, compute],
)
def test_the_end_of_the_grace_raises_whatever_the_main_thread_waits_for(block: Callable[[], None]) -> None:
    start = time.monotonic()
    with GracefulStop(0.2, nothing), pytest.raises(KeyboardInterrupt):
        send_and(signal.SIGTERM, block)
    assert 0.2 <= time.monotonic() - start < LONG_S / 2


def test_no_grace_raises_at_once() -> None:
    with GracefulStop(0.0, nothing), pytest.raises(KeyboardInterrupt):
        send_and(signal.SIGTERM, sleep)


# One that comes in the instant before a blocking call begins does not interrupt that call: seen once in some thirty
# tries on a busy machine with a grace of 0; here the first one is lost on purpose.
def test_a_signal_that_comes_just_before_a_wait_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    kill, sent = signal.pthread_kill, []

    def lose_first(thread: int, number: int) -> None:
        sent.append(number)
        if len(sent) > 1:
            kill(thread, number)

    monkeypatch.setattr(signal, "pthread_kill", lose_first)
    with GracefulStop(0.1, nothing), pytest.raises(KeyboardInterrupt):
        send_and(signal.SIGTERM, lambda: time.sleep(8))


def test_work_that_ends_within_the_grace_is_not_interrupted_afterwards() -> None:
    with GracefulStop(0.2, nothing):
        send(signal.SIGTERM)
    time.sleep(0.4)


@BOTH_SIGNALS
def test_the_handlers_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with GracefulStop(LONG_S, nothing):
        assert signal.getsignal(number) is not before
    assert signal.getsignal(number) is before


@BOTH_SIGNALS
def test_the_handlers_are_put_back_after_an_interruption(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def be_interrupted() -> None:
        with GracefulStop(0.0, nothing):
            send_and(signal.SIGTERM, sleep)

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert signal.getsignal(number) is before


def test_its_thread_ends_with_it() -> None:
    with GracefulStop(LONG_S, nothing):
        assert [thread for thread in threading.enumerate() if thread.name == "graceful-stop"]
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "graceful-stop"])


def test_in_another_thread_it_does_nothing() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    seen: list[object] = []

    def run() -> None:
        with GracefulStop(LONG_S, nothing) as stop:
            seen.append({number: signal.getsignal(number) for number in before})
        seen.append(stop.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert seen == [before, False]
    assert {number: signal.getsignal(number) for number in before} == before


def test_workers_that_cannot_be_told_for_ever_do_not_delay_the_end() -> None:
    never = threading.Event()

    def hang() -> None:
        never.wait(LONG_S)

    with GracefulStop(0.2, hang), pytest.raises(KeyboardInterrupt):
        send_and(signal.SIGTERM, sleep)
    with GracefulStop(LONG_S, hang):
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)
    never.set()


def test_workers_that_cannot_be_told_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[object] = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)
    tried: list[bool] = []

    def fail() -> None:
        tried.append(True)
        raise ConnectionError("the workers got the signal too")

    with GracefulStop(0.3, fail) as stop:
        send(signal.SIGTERM)
        wait_until(lambda: bool(tried))
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            time.sleep(LONG_S)
    assert complaints == []


def test_what_breaks_after_a_stop_is_the_stop() -> None:
    def break_down() -> None:
        raise JobFailedError("Ray was stopped too")

    with pytest.raises(KeyboardInterrupt) as caught, interrupt_on_stop(LONG_S, nothing):
        send_and(signal.SIGTERM, break_down)
    assert isinstance(caught.value.__cause__, JobFailedError)


def test_what_breaks_without_a_stop_is_told() -> None:
    with pytest.raises(JobFailedError), interrupt_on_stop(LONG_S, nothing):
        raise JobFailedError("a worker failed for good")


def test_work_that_ends_within_the_grace_of_a_stop_is_incomplete() -> None:
    with pytest.raises(KeyboardInterrupt), interrupt_on_stop(LONG_S, nothing):
        send(signal.SIGTERM)


# With the command


class Job(Running):
    """``imgcls predict``, and the store that it fills."""

    def __init__(self, source: Path, model: ModelFolder, store: Path, *options: str, poisonous: bool = False) -> None:
        self.store_path = store
        words = (IMGCLS, "predict", source, "-m", model.path, "-o", self.store_path, *options)
        super().__init__([str(word) for word in words], **(POISONOUS if poisonous else {}))

    @property
    def store(self) -> LabelStore:
        return open_store(open_directory(str(self.store_path)))

    def parts(self) -> set[str]:
        return {path.name for path in self.store_path.glob("predictions/[0-9]*.parquet")}

    def wait_for_parts(self, count: int) -> None:
        deadline = time.monotonic() + 120
        while len(self.parts()) < count:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)


def hidden_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]


@pytest.fixture
def slow_images(tmp_path: Path) -> Path:
    """1,500 pictures of two megapixels; a unit of 64 takes a second or two."""
    folder = tmp_path / "images"
    folder.mkdir()
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8))
    coarse.resize((1600, 1200)).save(folder / "0000.jpg", quality=90)
    for i in range(1, 1500):
        os.link(folder / "0000.jpg", folder / f"{i:04d}.jpg")
    return folder


@pytest.fixture
def undecodable_images(draw_images: Callable[..., list[Path]]) -> Path:
    """Four units of 32 pictures whose decoding never ends and holds the interpreter's lock."""
    images = draw_images(128)
    for path in images:
        path.write_bytes(path.read_bytes() + b"POISON:LOOP")
    return images[0].parent


class SilentServer(socketserver.ThreadingTCPServer):
    """Takes requests and never answers."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.was_asked = threading.Event()

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.was_asked.set()
        request.recv(2**16)
        threading.Event().wait()


@pytest.fixture
def silent_server() -> Iterator[SilentServer]:
    with SilentServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def start(tmp_path: Path, small_model: ModelFolder) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []

    def run(source: Path, *options: str, poisonous: bool = False) -> Job:
        jobs.append(Job(source, small_model, tmp_path / "store", *options, poisonous=poisonous))
        return jobs[-1]

    yield run
    for job in jobs:
        job.end()


@pytest.mark.parametrize("on", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_units_in_hand_are_finished_and_no_more_are_begun(
    start: Callable[..., Job], slow_images: Path, on: str
) -> None:
    job = start(slow_images, "--on", on, "-s", "unit_size=64", "-s", "grace_s=120", "--num-workers", "2")
    job.wait_for_parts(4)
    before = job.parts()
    job.process.send_signal(signal.SIGTERM)
    code, words = job.wait(100)
    after, planned = job.parts(), {Path(unit.part_name).name for unit in job.store.units(1)}
    assert code == 130
    assert "Traceback" not in words
    assert [line for line in words.splitlines() if line.startswith("imgcls: ")] == words.splitlines()[-1:]
    # Two workers have up to two units in hand; two more for the moment between the count and the signal.
    assert 1 <= len(after - before) <= 2 * 2 + 2
    assert before <= after < planned
    num_done = sum(unit.num_rows for unit in job.store.units(1) if Path(unit.part_name).name in after)
    *_, last = words.splitlines()
    assert last == (
        f"imgcls: stopped; everything labelled so far is kept in {job.store_path} ({num_done:,} of the 1,500 images "
        "of run 0001), and the same command goes on from there"
    )
    assert hidden_files(job.store_path) == []
    assert job.store.finished_runs() == []
    wait_until(lambda: not job.processes(), 60)


# On Ray, that the command's end leaves no process stands above, of workers that are not stuck.
@pytest.mark.parametrize("on", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_without_grace_nothing_is_waited_for_and_no_process_left(
    start: Callable[..., Job], undecodable_images: Path, on: str
) -> None:
    options = ("--on", on, "-s", "unit_size=32", "-s", "decode_timeout_s=1000", "-s", "grace_s=0")
    job = start(undecodable_images, *options, poisonous=True)
    job.wait_for_work()
    job.process.send_signal(signal.SIGTERM)
    code, words = job.wait(60)
    assert code == 130
    *_, told, last = words.splitlines()
    assert told.endswith(" INFO stopping: running work has 0 s to finish; a second signal (Ctrl-C) stops it at once")
    assert last.startswith(f"imgcls: stopped; everything labelled so far is kept in {job.store_path} (0 of the 128")
    # Also the workers that hear nothing any more.
    wait_until(lambda: not job.processes(), 60)


@pytest.mark.slow
@ON_BOTH
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_what_the_grace_would_wait_for(
    start: Callable[..., Job], silent_server: SilentServer, tmp_path: Path, number: signal.Signals, on: str
) -> None:
    port = silent_server.server_address[1]
    (tmp_path / "list.txt").write_text("\n".join(f"http://127.0.0.1:{port}/{i:02d}.jpg" for i in range(64)))
    options = ("-s", "unit_size=32", "-s", "allow_private_urls=true", "-s", "fetch_timeout_s=1000")
    job = start(tmp_path / "list.txt", *options, "-s", "grace_s=1000", "--on", on)
    assert silent_server.was_asked.wait(120)
    job.process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        job.process.wait(3)
    job.process.send_signal(number)
    code, words = job.wait(60)
    assert code == 130
    assert words.splitlines()[-1].startswith("imgcls: stopped; everything labelled so far is kept")
    assert job.parts() == set()


@pytest.mark.parametrize("on", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_ctrl_c_that_reaches_every_process_ends_as_one_line(
    start: Callable[..., Job], slow_images: Path, on: str
) -> None:
    job = start(slow_images, "--on", on, "-s", "unit_size=64", "-s", "grace_s=60")
    job.wait_for_parts(4)
    os.killpg(job.process.pid, signal.SIGINT)
    code, words = job.wait(100)
    assert code == 130
    assert "Traceback" not in words
    assert [line for line in words.splitlines() if line.startswith("imgcls: ")] == words.splitlines()[-1:]
    assert hidden_files(job.store_path) == []


@ON_BOTH
def test_a_stop_before_the_first_unit_says_how_to_go_on(start: Callable[..., Job], slow_images: Path, on: str) -> None:
    job = start(slow_images, "--on", on, "-s", "unit_size=64")
    wait_until(lambda: (job.store_path / "store.json").exists(), 60)
    job.process.send_signal(signal.SIGTERM)
    code, words = job.wait(60)
    assert code == 130
    assert words.splitlines()[-1].endswith(
        f"imgcls: stopped; everything labelled so far is kept in {job.store_path}, and the same command goes on from "
        "there"
    )
    assert "Traceback" not in words
