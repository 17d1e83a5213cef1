"""Runs in one process of this machine: the same numbers, deaths, stops, and no Ray."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from imgcls_ray.errors import StoppedError, StorageError
from imgcls_ray.storage.local import LocalDirectory
from imgcls_ray.train import WORKER, local_worker, reporter
from imgcls_ray.train.job import train
from imgcls_ray.train.reporter import CURVES_FILE
from imgcls_ray.train.task import TITLE
from imgcls_ray.workers import pool
from tests.imported import imported_by
from tests.train.on_s3 import train_through_a_kill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.train.result import TrainResult
    from tests.s3.server import S3Server


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where no other test has started a Ray."""
    monkeypatch.setattr(pool, "is_cluster_given", lambda: False)


def run(config: TrainConfig) -> TrainResult:
    return train(config, Console(file=io.StringIO()))


def weights_of(output: str | Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(Path(output, "latest", "model.safetensors"))
    return weights


def same_weights(one: str, other: str) -> bool:
    a, b = weights_of(one), weights_of(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def the_worker() -> int:
    """Process of the worker that this process has started."""
    [pid] = [fork for child in children_of(os.getpid()) for fork in children_of(child) if name_of(fork) == TITLE]
    return pid


def once_there(path: Path, do: Callable[[], None]) -> threading.Thread:
    def wait_and_do() -> None:
        deadline = time.monotonic() + 120
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        do()

    thread = threading.Thread(target=wait_and_do)
    thread.start()
    return thread


def test_what_the_command_names_is_there() -> None:
    assert (local_worker.__name__, local_worker.serve.__name__) == WORKER


def test_a_killed_worker_is_replaced_and_the_weights_are_bit_equal(
    make_train_config: Callable[..., TrainConfig], train_here: Callable[..., TrainResult], tmp_path: Path
) -> None:
    whole = make_train_config(output=str(tmp_path / "whole"), epochs=8)
    train_here(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imgcls_ray.train.job.is_trained_here", pool.is_trained_here)  # as before train_here
        config = make_train_config(output=str(tmp_path / "killed"), epochs=8)
        loaders: list[int] = []

        def kill() -> None:
            worker = the_worker()
            loaders.extend(children_of(worker))
            os.kill(worker, signal.SIGKILL)

        killer = once_there(tmp_path / "killed" / "best_model" / "model.json", kill)
        run(config)
        killer.join()
    log = (tmp_path / "killed" / "train.log").read_text()
    assert log.count("steps each; 1 worker on cpu") == 2
    assert "WARNING worker 0 was lost (its process ended (signal 9))" in log
    assert same_weights(config.output, whole.output)
    # They would hold the dead worker's connection, and read on.
    assert len(loaders) == 1
    assert not Path("/proc", str(loaders[0])).exists()


@pytest.mark.parametrize("max_failures", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_worker_that_fails_again_and_again_ends_the_run_with_the_reason(
    make_train_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, max_failures: int
) -> None:
    monkeypatch.setattr("imgcls_ray.train.job.check_output", lambda *_, **__: None)
    config = make_train_config(max_failures=max_failures)
    # What a full disk, say, does to each attempt.
    Path(config.output).mkdir(parents=True)
    Path(config.output, "best_model").write_text("in the way")
    with pytest.raises(StorageError, match=r"^a worker failed for good: .*best_model.*; the same command goes on from"):
        run(config)
    assert Path(config.output, "train.log").read_text().count("WARNING worker 0 was lost") == max_failures
    assert json.loads(Path(config.output, "train_result.json").read_text())["done_flag"] is False


def test_a_stop_saves_the_state_and_the_same_command_goes_on_from_it(
    make_train_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = make_train_config(epochs=60, log_interval=1)
    stopper = once_there(tmp_path / "run" / "best_model" / "model.json", lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(StoppedError, match=r"^stopped in epoch \d+ of 60; the same command goes on from there"):
        run(config)
    stopper.join()
    run(config)
    assert "it continues after step" in (tmp_path / "run" / "train.log").read_text()
    history = json.loads((tmp_path / "run" / "train_result.json").read_text())["history"]
    assert [row["epoch"] for row in history] == list(range(1, 61))


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, with a name that is short enough for the addresses of sockets."""
    with tempfile.TemporaryDirectory(prefix="imgcls-test-", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_a_second_signal_ends_it_at_once_and_leaves_nothing_behind(
    make_train_config: Callable[..., TrainConfig], temporary: Path, tmp_path: Path
) -> None:
    config = make_train_config(epochs=500, grace_s=60)
    pids: list[int] = []

    def stop() -> None:
        pids.append(the_worker())
        # A worker that hears nothing.
        os.kill(pids[0], signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    stopper = once_there(tmp_path / "run" / "best_model" / "model.json", stop)
    with pytest.raises(StoppedError, match=r"^stopped at once; the same command goes on from the last saved state"):
        run(config)
    stopper.join()
    assert not Path("/proc", str(pids[0])).exists()
    # Such as the folders of the sockets of loading processes, which were killed with their worker.
    assert not list(temporary.iterdir())


def test_an_error_of_the_command_ends_the_run_and_costs_no_worker(
    make_train_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker could not mend it: it would only do the same steps again."""
    replace, failures = LocalDirectory.replace, [StorageError("curves.png: no room")]

    def fail_once(directory: LocalDirectory, name: str, data: bytes) -> None:
        if name == CURVES_FILE and failures:
            raise failures.pop()
        replace(directory, name, data)

    monkeypatch.setattr(LocalDirectory, "replace", fail_once)
    monkeypatch.setattr(reporter, "_CURVES_INTERVAL_S", 0.0)
    config = make_train_config(epochs=2)
    with pytest.raises(StorageError, match=r"^curves\.png: no room$"):
        run(config)
    assert not failures
    assert "was lost" not in Path(config.output, "train.log").read_text()


def test_no_process_of_a_run_imports_ray_or_pandas(
    make_train_config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config: Any = make_train_config(epochs=1)
    settings = [f"{key}={value}" for key, value in config.model_dump(exclude_defaults=True).items()]
    code = (
        "from imgcls_ray.commands.train import run\n"
        "from imgcls_ray.train import job\n"
        "job.add_bundle = lambda *_: None\n"
        f"run(None, {settings!r}, {{'device': 'cpu'}})\n"
    )
    imported = imported_by([sys.executable, "-c", code], tmp_path)
    assert {"torch", "pyarrow"} <= imported
    # torch looks whether there is a pandas, and does not import it.
    assert not imported & {"ray", "pandas.core"}


@pytest.mark.slow
def test_a_run_on_object_storage_goes_on_after_its_command_was_killed(
    make_train_config: Callable[..., TrainConfig],
    colours: Path,
    bucket: str,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    log = train_through_a_kill(make_train_config, colours, bucket, s3, device="cpu")
    assert "1 worker on cpu" in log
