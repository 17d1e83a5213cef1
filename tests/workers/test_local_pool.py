"""Workers that are processes of this machine: who gets what, what deaths cost, and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import psutil
import pytest

from imgcls_ray.errors import JobFailedError, ModelFolderError, StorageError
from imgcls_ray.workers import forks
from imgcls_ray.workers.local_pool import LocalPool
from tests.workers import local_works
from tests.workers.local_works import Told, block, pool_of
from tests.workers.survival import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from imgcls_ray.workers.worker import Block


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    """Two workers."""
    with pool_of(2) as pool:
        yield pool


@pytest.fixture
def told(tmp_path: Path) -> Callable[[], Told]:
    return partial(Told, str(tmp_path))


def rows(blocks: Iterator[Block]) -> dict[int, dict[str, object]]:
    """What came of each block, which came back once."""
    found: dict[int, dict[str, object]] = {}
    for done in blocks:
        [row] = done.content.to_pylist()
        assert (done.number, done.skipped_by, done.number in found) == (row["number"], (), False)
        found[done.number] = row
    return found


def begun(log: Path) -> dict[int, int]:
    """How often each block was begun."""
    return {int(path.name): len(path.read_text().split()) for path in log.iterdir() if path.name.isdigit()}


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]


def test_every_block_comes_back_once(pool: LocalPool, told: Callable[[], Told], tmp_path: Path) -> None:
    found = rows(pool.run((block(number) for number in range(50)), told))
    assert sorted(found) == list(range(50))
    assert begun(tmp_path) == dict.fromkeys(range(50), 1)
    assert os.getpid() not in {row["pid"] for row in found.values()}


def test_no_blocks_are_no_work(pool: LocalPool, told: Callable[[], Told]) -> None:
    assert rows(pool.run([], told)) == {}


def test_two_blocks_are_one_for_each_of_two_workers(pool: LocalPool, told: Callable[[], Told], tmp_path: Path) -> None:
    """Each waits until both have begun: one worker with both would wait for ever."""
    results = pool.run([block(0, "wait"), block(1, "wait")], told)

    def let_both_go() -> None:
        wait_until(lambda: sum(begun(tmp_path).values()) == 2, 60)
        (tmp_path / "go").touch()

    threading.Thread(target=let_both_go).start()
    assert len({row["pid"] for row in rows(results).values()}) == 2


def test_the_last_blocks_wait_for_whoever_is_idle(pool: LocalPool, told: Callable[[], Told], tmp_path: Path) -> None:
    """Behind the one that waits until all others are done, a block would never be done."""
    results = pool.run([block(number, "" if number else "wait") for number in range(3)], told)

    def let_it_go() -> None:
        wait_until(lambda: len(begun(tmp_path)) == 3, 60)
        (tmp_path / "go").touch()

    threading.Thread(target=let_it_go).start()
    found = rows(results)
    assert found[1]["pid"] == found[2]["pid"] != found[0]["pid"]


def test_blocks_are_read_as_they_are_needed(pool: LocalPool, told: Callable[[], Told]) -> None:
    read: list[int] = []

    def blocks() -> Iterator[Block]:
        for number in range(1000):
            read.append(number)
            yield block(number)

    results = pool.run(blocks(), told)
    next(results)
    # Two in hand of each of two workers, and what waits so that it need not be waited for.
    assert len(read) <= 2 * 2 + 3 + 2
    results.close()  # type: ignore[attr-defined]


def test_blocks_larger_than_what_a_socket_holds_come_and_go(pool: LocalPool, told: Callable[[], Told]) -> None:
    data = [os.urandom(3 * 2**20) for _ in range(6)]
    found = rows(pool.run([block(number, data=some) for number, some in enumerate(data)], told))
    assert [found[number]["data"] for number in range(6)] == data


def test_what_a_library_prints_is_no_answer(
    pool: LocalPool, told: Callable[[], Told], capfd: pytest.CaptureFixture[str]
) -> None:
    assert sorted(rows(pool.run([block(number, "print") for number in range(4)], told))) == [0, 1, 2, 3]
    assert capfd.readouterr().out == ""


def test_a_death_costs_what_the_worker_had_in_hand_and_no_image(
    pool: LocalPool, told: Callable[[], Told], tmp_path: Path
) -> None:
    found = rows(pool.run([block(number, "die" if number == 7 else "", times=1) for number in range(20)], told))
    assert sorted(found) == list(range(20))
    again = {number for number, count in begun(tmp_path).items() if count > 1}
    assert 7 in again
    assert len(again) <= 2
    assert not found[7]["careful"]


def test_a_block_that_ended_two_workers_is_decoded_with_care(pool: LocalPool, told: Callable[[], Told]) -> None:
    found = rows(pool.run([block(number, "die" if number == 3 else "", times=2) for number in range(6)], told))
    assert sorted(found) == list(range(6))
    assert found[3]["careful"]


def test_a_block_that_ends_five_workers_ends_the_job(pool: LocalPool, told: Callable[[], Told], tmp_path: Path) -> None:
    results = pool.run([block(0, "die")], told, what_now="; again")
    with pytest.raises(
        JobFailedError,
        match=r"^a worker failed for good: block 0 has ended its worker 5 times, also when its images were decoded in "
        r"a process of their own; again$",
    ):
        rows(results)
    assert begun(tmp_path) == {0: 5}


def test_deaths_of_one_command_are_not_those_of_the_next(told: Callable[[], Told], tmp_path: Path) -> None:
    for name in ("first", "second"):
        with pool_of(1) as pool:
            (tmp_path / name).mkdir()
            work = partial(Told, str(tmp_path / name))
            assert not rows(pool.run([block(0, "die", times=1)], work))[0]["careful"]


def test_a_worker_that_dies_before_it_begins_anything_ends_the_job_in_the_end(
    pool: LocalPool, told: Callable[[], Told]
) -> None:
    with pytest.raises(JobFailedError, match=r"^a worker failed for good: 11 processes ended .* with signal 9; again$"):
        rows(pool.run([block(0, "die early")], told, what_now="; again"))
    with pytest.raises(JobFailedError, match=r"11 processes ended before they began anything"):
        rows(pool.run([block(0)], local_works.no_memory))


def test_where_one_worker_has_room_it_does_the_work_of_two(pool: LocalPool, tmp_path: Path) -> None:
    found = rows(pool.run([block(number) for number in range(30)], partial(local_works.one_has_memory, str(tmp_path))))
    assert sorted(found) == list(range(30))
    assert len({row["pid"] for row in found.values()}) == 1


def test_a_worker_that_fails_ends_the_job_with_its_own_error(pool: LocalPool, told: Callable[[], Told]) -> None:
    with pytest.raises(StorageError, match=r"^a worker failed for good: the disk is full; make room; again$"):
        rows(pool.run([block(0), block(1, "fail"), block(2)], told, what_now="; again"))


def test_a_worker_that_cannot_start_ends_the_job_with_its_own_error(pool: LocalPool) -> None:
    with pytest.raises(ModelFolderError, match=r"^a worker failed for good: model: there is no such model folder$"):
        rows(pool.run([block(0), block(1)], local_works.no_model))


def test_an_error_that_nobody_foresaw_is_one_line_and_has_its_traceback(
    pool: LocalPool, told: Callable[[], Told]
) -> None:
    with pytest.raises(
        JobFailedError, match=r"^a worker failed for good: TypeError: nobody thought of this$"
    ) as caught:
        rows(pool.run([block(0, "bug")], told))
    assert "local_works.py" in str(caught.value.__cause__)


def test_the_end_of_what_workers_are_forked_from_costs_no_image_and_blames_none(
    told: Callable[[], Told], tmp_path: Path
) -> None:
    with pool_of(2) as pool:
        results = pool.run([block(number, "wait") for number in range(8)], told)
        threading.Thread(target=kill_server_when_two_work, args=(pool, tmp_path)).start()
        found = rows(results)
    assert sorted(found) == list(range(8))
    assert not any(row["careful"] for row in found.values())
    assert max(begun(tmp_path).values()) == 2


def kill_server_when_two_work(pool: LocalPool, log: Path) -> None:
    wait_until(lambda: sum(begun(log).values()) == 2, 60)
    workers = [psutil.Process(int((log / str(number)).read_text())) for number in begun(log)]
    server = pool._server
    assert server is not None
    os.kill(server.pid, signal.SIGKILL)
    psutil.wait_procs(workers, timeout=60)
    (log / "go").touch()


def test_a_server_that_cannot_start_ends_the_job(told: Callable[[], Told]) -> None:
    with LocalPool(local_works.__name__, "no_such_function", 1) as pool:
        with pytest.raises(JobFailedError, match=r"the end of the process that it was forked from"):
            rows(pool.run([block(0)], told))
        with pytest.raises(JobFailedError, match=r"the end of the process that it was forked from"):
            pool.call(partial(local_works.convert, "nowhere"))


def test_a_system_that_cannot_start_a_process_is_told(
    pool: LocalPool, told: Callable[[], Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(_self: object) -> None:
        raise OSError("the system cannot start another process")

    monkeypatch.setattr(forks.ForkServer, "fork", cannot)
    with pytest.raises(JobFailedError, match=r"the system cannot start another process"):
        rows(pool.run([block(0)], told))


def test_a_stop_ends_when_what_was_begun_is_done(told: Callable[[], Told], tmp_path: Path) -> None:
    with pool_of(2) as pool:
        results = pool.run([block(number, "wait") for number in range(100)], told)

        def stop() -> None:
            wait_until(lambda: sum(begun(tmp_path).values()) == 2, 60)
            pool.stop()
            time.sleep(0.3)
            (tmp_path / "go").touch()

        threading.Thread(target=stop).start()
        found = rows(results)
    assert sorted(found) == sorted(begun(tmp_path))
    assert len(found) == 2


def test_after_a_stop_nothing_is_begun(told: Callable[[], Told], tmp_path: Path) -> None:
    with pool_of(2) as pool:
        pool.stop()
        assert rows(pool.run([block(0)], told)) == {}
    assert begun(tmp_path) == {}


def test_a_worker_that_dies_after_a_stop_is_not_waited_for(told: Callable[[], Told], tmp_path: Path) -> None:
    with pool_of(1) as pool:
        results = pool.run([block(number, "wait") for number in range(9)], told)

        def stop_and_kill() -> None:
            wait_until(lambda: sum(begun(tmp_path).values()) == 1, 60)
            pool.stop()
            [log] = (tmp_path / str(number) for number in begun(tmp_path))
            os.kill(int(log.read_text()), signal.SIGKILL)

        threading.Thread(target=stop_and_kill).start()
        assert rows(results) == {}
    assert list(begun(tmp_path).values()) == [1]


@pytest.mark.parametrize("how", ["all done", "given up", "failed"])
def test_nothing_is_left_of_a_pool(told: Callable[[], Told], how: str) -> None:
    before = set(children())
    with pool_of(2) as pool:
        results = pool.run([block(number, "fail" if how == "failed" else "") for number in range(20)], told)
        if how == "all done":
            rows(results)
            assert len(set(children()) - before) == 1
        elif how == "failed":
            with pytest.raises(StorageError):
                rows(results)
        else:
            next(results)
            assert len(set(children()) - before) == 3
    assert set(children()) <= before


def test_a_pool_that_still_loads_ends_at_once() -> None:
    before = set(children())
    with pool_of(2) as pool:
        pool.load()
        start = time.monotonic()
    assert time.monotonic() - start < 1
    assert set(children()) <= before


def test_a_killed_command_leaves_no_process(tmp_path: Path) -> None:
    code = f"from {local_works.__name__} import main; main({str(tmp_path)!r})"
    with subprocess.Popen([sys.executable, "-c", code]) as command:
        wait_until(lambda: sum(begun(tmp_path).values()) == 2, 60)
        processes = psutil.Process(command.pid).children(recursive=True)
        command.kill()
    assert len(processes) == 3
    _, left = psutil.wait_procs(processes, timeout=10)
    assert left == []


def test_workers_are_processes_that_ps_names(pool: LocalPool, told: Callable[[], Told], tmp_path: Path) -> None:
    results = pool.run([block(0, "wait"), block(1)], told)
    next(results)
    assert [child.name() for child in children() if "worker" in child.name()] == ["imgcls-worker"] * 2
    (tmp_path / "go").touch()
    rows(results)


def test_a_function_is_called_in_a_process_that_ends(pool: LocalPool, tmp_path: Path) -> None:
    told = pool.call(partial(local_works.convert, str(tmp_path / "pid")))
    assert told == ["converted", str(tmp_path / "pid")]
    pid = int((tmp_path / "pid").read_text())
    assert pid != os.getpid()
    assert not psutil.pid_exists(pid)


def test_a_function_that_fails_fails_the_caller(pool: LocalPool) -> None:
    with pytest.raises(StorageError, match=r"^the cache is full; make room$"):
        pool.call(local_works.fail_to_convert)
    with pytest.raises(JobFailedError, match=r"ended: signal 9$"):
        pool.call(local_works.die_converting)
