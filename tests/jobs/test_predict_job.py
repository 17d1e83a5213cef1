"""The predict job, submitted as its users do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

from imgcls_ray.storage import open_directory
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.verify import verify_store
from tests.jobs.cluster import ROOT, environment, submit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder
    from tests.jobs.cluster import OwnCluster


def job_info(port: int, name: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/jobs/{name}", timeout=10) as answer:
        info: dict[str, Any] = json.load(answer)
    return info


def test_a_job_labels_and_its_repetition_has_nothing_to_do(
    cluster: OwnCluster, draw_images: Callable[..., list[Path]], small_model: ModelFolder, tmp_path: Path
) -> None:
    draw_images(40)
    config = tmp_path / "predict.yaml"
    config.write_text(f"input: {tmp_path / 'images'}\nmodel: {small_model.path}\noutput: unused\nbatch_size: 8\n")
    words = ("--config", config, f"output={tmp_path / 'store'}", "unit_size=16")
    job = submit(cluster.port, "first", *words)
    assert job.returncode == 0, job.stdout + job.stderr
    assert "40 images" in job.stdout
    assert job_info(cluster.port, "first")["driver_exit_code"] == 0
    # What is submitted, without what submits it.
    again = subprocess.run(
        [sys.executable, ROOT / "jobs" / "predict.py", *map(str, words)],
        env=environment(RAY_ADDRESS=cluster.address),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert "nothing to label: 40 inputs, all have their row" in again.stdout
    store = open_store(open_directory(str(tmp_path / "store")))
    assert verify_store(store).problems == []


def test_a_job_with_a_bad_configuration_says_so_in_one_line_and_ends_with_2(
    cluster: OwnCluster, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "jobs" / "predict.yaml", tmp_path)
    job = submit(cluster.port, "bad", "--config", tmp_path / "predict.yaml", "topk=3")
    assert job.returncode == 1
    # The command line of Ray shows the log, and the end of it once more.
    lines = {line for line in job.stdout.splitlines() if "topk" in line and "Running entrypoint" not in line}
    assert lines == {"imgcls: topk: no such key; did you mean top_k?"}
    assert job_info(cluster.port, "bad")["driver_exit_code"] == 2
