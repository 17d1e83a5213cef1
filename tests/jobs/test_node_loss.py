"""A node that dies in the middle of a job, and is not replaced."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.jobs.cluster import environment
from tests.workers.survival import Dataset, assert_all_found, command_of, exit_code_of

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder
    from tests.jobs.cluster import OwnCluster
    from tests.workers.survival import Job


def nodes_at_work(port: int) -> set[str]:
    """Ids of the nodes on which a worker is alive."""
    from ray.util.state import list_actors

    actors = list_actors(f"http://127.0.0.1:{port}", filters=[("state", "=", "ALIVE")])
    return {actor.node_id for actor in actors if actor.node_id and "BlockWorker" in actor.class_name}


@pytest.mark.parametrize(
    "job",
    ["predict", pytest.param("evaluate", marks=pytest.mark.slow), pytest.param("check", marks=pytest.mark.slow)],
)
def test_a_lost_node_costs_no_input_its_row_and_none_two(
    cluster: OwnCluster, small_model: ModelFolder, tmp_path: Path, job: Job
) -> None:
    # Pictures of two megapixels: both nodes are busy for seconds.
    data = Dataset(tmp_path / "data", 500, size=(1600, 1200))
    node = cluster.add_node()
    command = command_of(job, data, small_model, tmp_path / "out", on="ray")
    running = subprocess.Popen(
        command,
        env=environment(RAY_ADDRESS=cluster.address),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    is_killed = False
    try:
        deadline = time.monotonic() + 90
        while running.poll() is None and not is_killed and time.monotonic() < deadline:
            # Both nodes work, and the one to be killed has blocks in work.
            if node.node_id in (at_work := nodes_at_work(cluster.port)) and len(at_work) == 2:
                time.sleep(1)
                cluster.kill_node(node)
                is_killed = True
            time.sleep(0.05)
        was_in_its_middle = is_killed and running.poll() is None
        words, _ = running.communicate(timeout=170)
    finally:
        running.kill()
    assert was_in_its_middle, words
    assert running.returncode == exit_code_of(job), words
    assert_all_found(job, data, tmp_path / "out")
