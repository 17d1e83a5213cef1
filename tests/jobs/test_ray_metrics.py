"""Prometheus finds the numbers of a bulk run at the metrics port of the Ray that it runs on."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.jobs.cluster import ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder
    from tests.jobs.cluster import OwnCluster

# Stays in the cluster until it has been asked.
COMMAND = """
import sys
from rich.console import Console
from imgcls_ray.config import PredictConfig, make_config
from imgcls_ray.predict.job import predict
keys = ("input", "model", "output", "unit_size")
predict(make_config(PredictConfig, dict(zip(keys, sys.argv[1:]))), Console(stderr=True))
sys.stdin.read()
"""


def scraped(cluster: OwnCluster) -> dict[tuple[str, str], float]:
    pages = [httpx.get(f"http://127.0.0.1:{port}/metrics").text for port in cluster.metrics_ports]
    return {
        (sample.name, sample.labels.get("stage", "") or sample.labels.get("code", "")): sample.value
        for page in pages
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith("ray_imgcls_bulk_")
    }


def test_a_run_on_ray_is_scraped(
    cluster: OwnCluster, draw_images: Callable[..., list[Path]], small_model: ModelFolder, tmp_path: Path
) -> None:
    images = draw_images(40)
    images[0].write_bytes(b"")
    values = (images[0].parent, small_model.path, tmp_path / "store", 16)
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, values)],
        stdin=subprocess.PIPE,
        cwd=ROOT,
        env=environment(RAY_ADDRESS=cluster.address),
    ) as command:
        wanted = {"listed": 40, "fetched": 40, "decoded": 39, "predicted": 39, "written": 40}
        deadline = time.monotonic() + 90
        while True:
            told = scraped(cluster)
            if {stage: told.get(("ray_imgcls_bulk_images_total", stage)) for stage in wanted} == wanted:
                break
            assert command.poll() is None
            assert time.monotonic() < deadline, told
            time.sleep(0.5)
        assert told["ray_imgcls_bulk_errors_total", "empty"] == 1
        assert told["ray_imgcls_bulk_run_images", ""] == 40
        assert command.stdin is not None
        command.stdin.close()
        assert command.wait(60) == 0
