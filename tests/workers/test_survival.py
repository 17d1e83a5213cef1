"""What every job survives alike: a worker that is killed, images that end theirs, and what a stop leaves of each."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.workers.survival import POISONOUS, Dataset, Running, assert_all_found, command_of, exit_code_of, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder
    from tests.workers.survival import Job, Place

WORKERS = {"two": ("--num-workers", "2"), "shared": ("--num-workers", "1", "-s", "cores_per_worker=2")}
"""Of one core each, and one of two cores."""
# Of labelling on Ray, in the default tests: ``test_ray_survival.py``, without the start of another Ray.
EVERY_JOB = pytest.mark.parametrize(
    ("job", "on", "workers"),
    [
        pytest.param(
            job, on, workers, marks=() if (job, on, workers) == ("predict", "local", "two") else pytest.mark.slow
        )
        for job in ("predict", "evaluate", "check")
        for on in ("local", "ray")
        for workers in ("two", "shared")
        if (job, workers) != ("check", "shared")  # which loads nothing that could be shared
    ],
)
STOPPED = {
    "predict": "imgcls: stopped; everything labelled so far is kept in ",
    "evaluate": "imgcls: stopped before the evaluation was complete; there is no result",
    "check": "imgcls: stopped before the check was complete; there is no report",
}


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    jobs: list[Running] = []

    def run(command: list[str], **environment: str) -> Running:
        jobs.append(Running(command, **environment))
        return jobs[-1]

    yield run
    for job in jobs:
        job.end()


@pytest.fixture
def slow_data(tmp_path: Path) -> Dataset:
    """Pictures of two megapixels, for some five seconds of two workers: what comes for one comes in its middle."""
    return Dataset(tmp_path / "data", 600, size=(1600, 1200))


@EVERY_JOB
def test_a_worker_that_is_killed_costs_no_image(
    start: Callable[..., Running],
    slow_data: Dataset,
    small_model: ModelFolder,
    tmp_path: Path,
    job: Job,
    on: Place,
    workers: str,
) -> None:
    running = start(command_of(job, slow_data, small_model, tmp_path / "out", *WORKERS[workers], on=on))
    running.wait_for_work(2 if workers == "two" else 1)
    os.kill(wait_until(running.workers)[0], signal.SIGKILL)
    code, words = running.wait(200)
    assert code == exit_code_of(job), words
    assert_all_found(job, slow_data, tmp_path / "out")


@EVERY_JOB
def test_images_that_end_their_worker_cost_themselves_alone(
    start: Callable[..., Running], small_model: ModelFolder, tmp_path: Path, job: Job, on: Place, workers: str
) -> None:
    data = Dataset(tmp_path / "data", 120, size=(96, 80))
    data.poison(40, "CRASH")
    data.poison(60, "LOOP")
    options = (*WORKERS[workers], "-s", "decode_timeout_s=2")
    command = command_of(job, data, small_model, tmp_path / "out", *options, on=on)
    code, words = start(command, **POISONOUS).wait(250)
    assert code == exit_code_of(job), words
    assert_all_found(job, data, tmp_path / "out")


# A stop of ``predict`` is in the default tests, too: in ``test_stopping.py``.
@pytest.mark.slow
@EVERY_JOB
@pytest.mark.parametrize("to_all", [False, True], ids=["SIGTERM", "Ctrl-C"])
def test_a_stop_is_one_line_and_leaves_no_process(
    start: Callable[..., Running],
    slow_data: Dataset,
    small_model: ModelFolder,
    tmp_path: Path,
    job: Job,
    on: Place,
    workers: str,
    to_all: bool,
) -> None:
    running = start(command_of(job, slow_data, small_model, tmp_path / "out", *WORKERS[workers], on=on))
    running.wait_for_work(2 if workers == "two" else 1)
    if to_all:
        os.killpg(running.process.pid, signal.SIGINT)
    else:
        running.process.send_signal(signal.SIGTERM)
    code, words = running.wait(60)
    assert code == 130
    assert "Traceback" not in words
    [said] = [line for line in words.splitlines() if line.startswith("imgcls: ")]
    assert said == words.splitlines()[-1]
    assert said.startswith(STOPPED[job])
    if job == "evaluate":
        assert json.loads((tmp_path / "out" / "evaluate_result.json").read_text())["done_flag"] is False
    if job == "check":
        assert not (tmp_path / "out" / "check_dataset").exists()
    wait_until(lambda: not running.processes(), 60)
