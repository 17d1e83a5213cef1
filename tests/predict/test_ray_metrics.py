"""Prometheus finds the numbers of a bulk run at the metrics port of the Ray that it runs on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from imgcls_ray.config import PredictConfig
from imgcls_ray.predict.job import predict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder


def scraped(store: Path) -> dict[tuple[str, str], float]:
    """The metrics of one store, by name and the value of the label beside ``store``."""
    import ray

    [node] = ray.nodes()  # type: ignore[no-untyped-call]
    page = httpx.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=30).text
    return {
        (sample.name, sample.labels.get("stage") or sample.labels.get("code", "")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.labels.get("store") == str(store)
    }


@pytest.mark.usefixtures("ray_session")
def test_a_run_on_ray_is_scraped(
    draw_images: Callable[..., list[Path]], small_model: ModelFolder, tmp_path: Path
) -> None:
    images = draw_images(40)
    images[0].write_bytes(b"")
    store = tmp_path / "store"
    values = {"input": str(images[0].parent), "model": str(small_model.path), "output": str(store), "unit_size": 16}
    predict(PredictConfig.model_validate(values), Console(stderr=True))
    wanted = {"listed": 40, "fetched": 40, "decoded": 39, "predicted": 39, "written": 40}
    deadline = time.monotonic() + 120
    while (told := scraped(store)).get(("ray_imgcls_bulk_images_total", "written")) != 40:
        assert time.monotonic() < deadline, told
        time.sleep(0.5)
    assert {stage: told["ray_imgcls_bulk_images_total", stage] for stage in wanted} == wanted
    assert told["ray_imgcls_bulk_errors_total", "empty"] == 1
    assert told["ray_imgcls_bulk_run_images", ""] == 40
    assert told["ray_imgcls_bulk_running", ""] == 0
