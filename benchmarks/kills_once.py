"""One kill in the middle of a job, the rerun if the job ended, and the count of what became of every input."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

import psutil

from benchmarks.common import wait_for
from benchmarks.kills_jobs import NUM_WORKERS, ReadProgress, StoreProgress, read_rows
from benchmarks.opens import OpenCounter
from benchmarks.processes import watched_job
from imgcls_ray.storage import open_directory
from imgcls_ray.store.answers import newest_answers
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.verify import verify_store
from tests.jobs.cluster import OwnCluster

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.kills_jobs import Bench, Job, On, Progress
    from benchmarks.processes import ProcessWatch

Victim = Literal["driver", "worker", "children", "both", "node", "frozen"]
Place = Literal["local", "s3"]
# What the command outlives: of its own processes it starts others, of its own Ray it does not.
_OUTLIVED: dict[On, tuple[Victim, ...]] = {"local": ("worker", "children"), "ray": ("worker", "node")}
_UNITS_IN_HAND = 2
_MAX_JOB_S = 600
# Ray's workers end within seconds of their driver, its agents after a minute; what runs on is killed.
_MAX_LEFT_OVER_S = 30
# Files are read in groups of so many; the few that a report shows are read again for that.
_MIN_READ_AGAIN = 8


class Kill(NamedTuple):
    """One disturbed job and what became of it."""

    job: Job
    on: On
    victim: Victim
    place: Place
    units_at_kill: int
    num_units: int
    exit_code: int
    """Of the disturbed command: 0 where it outlived the death."""
    rerun_exit_code: int | None
    rows_lost: int
    rows_doubled: int
    rows_mixed_up: int
    """Rows that differ from those of an undisturbed job."""
    problems: int
    """Of ``imgcls store verify``."""
    units_again: int
    """Units of which an input was opened more than once."""

    @property
    def most_units_again(self) -> int:
        """As promised: two units in hand of each worker that died."""
        return _UNITS_IN_HAND * (1 if self.victim in ("worker", "node") else NUM_WORKERS)

    @property
    def is_as_promised(self) -> bool:
        return (
            (self.exit_code == 0 if is_outlived(self.on, self.victim) else self.rerun_exit_code == 0)
            and not (self.rows_lost or self.rows_doubled or self.rows_mixed_up or self.problems)
            and self.units_again <= self.most_units_again
        )


class Found(NamedTuple):
    """How the rows of a job differ from those of an undisturbed one."""

    rows_lost: int
    rows_doubled: int
    rows_mixed_up: int
    problems: int


def is_outlived(on: On, victim: Victim) -> bool:
    """Whether the command goes on to its end."""
    return victim in _OUTLIVED[on]


def kill_once(bench: Bench, job: Job, on: On, victim: Victim, place: Place, uri: str) -> Kill:
    """One job, one kill, one rerun where the job ended."""
    environment = bench.environment
    if victim == "node":
        bench.cluster = bench.cluster or OwnCluster()
        node = bench.cluster.add_node()
        environment = {**environment, "RAY_ADDRESS": bench.cluster.address}
    command = bench.command(job, uri, on)
    rerun_exit_code = None
    with (
        OpenCounter(bench.images) as opens,
        watched_job(command, environment, interval_s=0.5) as (process, watch),
    ):
        progress: Progress = StoreProgress(uri) if job == "predict" else ReadProgress(job, bench, opens)
        _wait_for_the_moment(bench, progress, process)
        if process.poll() is not None:
            sys.exit(f"imgcls {job} ended with exit code {process.returncode} before the kill; give more images")
        watch.look()
        units_at_kill = progress.num_done()
        frozen: list[psutil.Process] = []
        if victim == "node":
            assert bench.cluster is not None
            bench.cluster.kill_node(node)
        elif victim == "worker":
            bench.rng.choice(_workers(watch)).kill()
        elif victim == "children":
            _signal(_children(watch), signal.SIGKILL)
        else:
            if victim == "frozen":
                frozen = _children(watch)
                _signal(frozen, signal.SIGSTOP)
            process.kill()
            if victim == "both":
                _signal(_children(watch), signal.SIGKILL)
        exit_code = process.wait(_MAX_JOB_S)
        if exit_code:
            if not frozen:
                wait_for(_MAX_LEFT_OVER_S, lambda: not watch.is_working())
            rerun_exit_code = _run_again(command, environment)
        if frozen:
            _signal(frozen, signal.SIGCONT)
            wait_for(_MAX_LEFT_OVER_S, lambda: not watch.is_working())
    found = _compare(bench, job, uri)
    return Kill(
        job=job,
        on=on,
        victim=victim,
        place=place,
        units_at_kill=units_at_kill,
        num_units=len(progress.units()),
        exit_code=exit_code,
        rerun_exit_code=rerun_exit_code,
        rows_lost=found.rows_lost,
        rows_doubled=found.rows_doubled,
        rows_mixed_up=found.rows_mixed_up,
        problems=found.problems,
        units_again=_count_read_again(progress, opens, job),
    )


def _wait_for_the_moment(bench: Bench, progress: Progress, process: subprocess.Popen[bytes]) -> None:
    """By progress and then by time, so that it falls anywhere between two commits, on any machine."""
    share, delay_s = bench.rng.uniform(0.02, 0.8), bench.rng.uniform(0, 0.5)

    def is_at_share() -> bool:
        return bool(progress.num_done() >= share * len(progress.units()) > 0)

    wait_for(_MAX_JOB_S, lambda: process.poll() is not None or is_at_share(), every_s=0.1)
    time.sleep(delay_s)


def _run_again(command: Sequence[str], environment: Mapping[str, str]) -> int:
    rerun = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return rerun.returncode


def _compare(bench: Bench, job: Job, uri: str) -> Found:
    found, expected = read_rows(job, uri), bench.expected[job]
    rows = dict(found)
    num_missing, num_doubled, problems = len(expected.keys() - rows.keys()), len(found) - len(rows), 0
    if job == "predict":
        store = open_store(open_directory(uri))
        verified = verify_store(store)
        num_missing += verified.num_missing
        num_doubled += verified.num_doubled + sum(1 for _ in newest_answers(store)) - len(rows)
        problems = verified.num_problems
    num_mixed_up = sum(expected.get(name) != row for name, row in rows.items())
    return Found(num_missing, num_doubled, num_mixed_up, problems)


def _count_read_again(progress: Progress, opens: OpenCounter, job: Job) -> int:
    # Units of a store are read for nothing else; of a dataset's blocks some pictures are, for the report.
    few = 1 if job == "predict" else _MIN_READ_AGAIN
    return sum(sum(opens.counts[name] > 1 for name in unit) >= few for unit in progress.units())


def _workers(watch: ProcessWatch) -> list[psutil.Process]:
    return [watched.process for watched in watch.of_kind("worker") if watched.process in watch.left_over()]


def _children(watch: ProcessWatch) -> list[psutil.Process]:
    """What the driver has started: its workers, and what they are forked from, or the rest of its Ray."""
    return [watched.process for watched in watch.of_kind("worker") + watch.of_kind("other")]


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
