"""Workers follow the nodes of a cluster while a job runs, and the end of a job waits for no slow one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.jobs.cluster import ROOT, environment
from tests.jobs.elastic_run import FAST
from tests.workers.survival import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.jobs.cluster import OwnCluster

_MANY = 120
"""Blocks for a minute of one worker, of which no test waits for the last ones at that speed."""


class ElasticRun:
    """A run in a process of its own, and what it told."""

    def __init__(self, cluster: OwnCluster, folder: Path, num_blocks: int, *flags: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.elastic_run", str(folder), str(num_blocks), *flags],
            env=environment(RAY_ADDRESS=cluster.address, PYTHONPATH=str(ROOT)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self.events.append(json.loads(line))

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wait(self, timeout_s: float) -> None:
        """Wait for its orderly end."""
        assert self.process.wait(timeout_s) == 0
        self._reader.join()
        assert self.events[-1]["event"] == "ended"

    def numbers(self) -> list[int]:
        """Of the blocks that came back, in their order."""
        return [event["number"] for event in self.events if event["event"] == "done"]

    def nodes(self) -> set[str]:
        """That did any of them."""
        return {event["node"] for event in self.events if event["event"] == "done"}

    def begun(self) -> Counter[int]:
        """How often each block was begun."""
        return Counter(int(path.name.split("-")[1]) for path in self.folder.glob("begun-*"))

    def done(self) -> set[int]:
        """Blocks that are durable."""
        return {int(path.name.split("-")[1]) for path in self.folder.glob("done-*")}


@pytest.fixture
def start(cluster: OwnCluster, tmp_path: Path) -> Iterator[Callable[..., ElasticRun]]:
    runs: list[ElasticRun] = []

    def run(num_blocks: int, *flags: str) -> ElasticRun:
        runs.append(ElasticRun(cluster, tmp_path / "run", num_blocks, *flags))
        return runs[-1]

    yield run
    for started in runs:
        started.process.kill()
        started.process.wait()


@pytest.mark.slow
def test_a_node_that_joins_is_used_within_seconds_and_costs_two_blocks_when_it_leaves(
    cluster: OwnCluster, start: Callable[..., ElasticRun]
) -> None:
    run = start(_MANY)
    wait_until(run.numbers, 90)
    node = cluster.add_node()
    joined = time.monotonic()
    wait_until(lambda: node.node_id in run.nodes(), 60)
    seconds = time.monotonic() - joined
    # They are counted every few seconds.
    wait_until(lambda: run.events[-1]["workers"] == 2, 20)
    cluster.kill_node(node)
    (run.folder / FAST).touch()
    run.wait(120)
    assert sorted(run.numbers()) == list(range(_MANY))
    # Also when the notes are gone; one that has left was there.
    assert run.events[-1]["workers"] == 2
    assert run.events[0]["workers"] == 1
    # Besides those of the lost node, the last ones may have been begun by idle workers, too.
    again = [number for number, count in run.begun().items() if count > 1]
    assert len(again) <= 2 + 2
    # Ray Data looks for nodes every 20 seconds by itself, and an actor takes some seconds to start.
    assert seconds < 25


def test_a_stop_while_the_pool_grows_ends_soon_and_loses_nothing_in_hand(
    cluster: OwnCluster, start: Callable[..., ElasticRun]
) -> None:
    run = start(_MANY)
    wait_until(run.numbers, 90)
    node = cluster.add_node()
    try:
        time.sleep(1.5)
        run.stop()
        run.wait(20)
    finally:
        cluster.kill_node(node)
    assert set(run.begun()) == run.done() == set(run.numbers())
    assert len(run.numbers()) == len(run.done()) < _MANY


@pytest.mark.slow
def test_the_end_of_a_run_does_not_wait_for_a_block_that_hangs(
    cluster: OwnCluster, start: Callable[..., ElasticRun]
) -> None:
    node = cluster.add_node()
    try:
        run = start(6, "hangs")
        run.wait(120)
    finally:
        cluster.kill_node(node)
    assert sorted(run.numbers()) == list(range(6))
    assert run.begun()[0] == 2
