"""Everybody is told the same numbers of a run, and no one who reads or hears them can do it harm."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from imgcls_ray.commands.predict import _tell
from imgcls_ray.config import PredictConfig, make_config
from imgcls_ray.errors import ConfigError, ImageErrorCode, StoppedError, StorageError, StoreInUseError
from imgcls_ray.models.classifier import StageSeconds
from imgcls_ray.predict import exporters as exporters_module
from imgcls_ray.predict.exporters import ProgressFile, TextFile, exporting
from imgcls_ray.predict.job import predict
from imgcls_ray.predict.metrics import BulkMetrics
from imgcls_ray.predict.report import PredictReport, RunReport
from imgcls_ray.storage import open_directory
from imgcls_ray.store.counts import UnitCounts
from imgcls_ray.store.drift import Drift, FeatureDrift
from imgcls_ray.store.lease import hold_lease
from imgcls_ray.store.opening import open_store
from imgcls_ray.store.plan import PlanCounts
from imgcls_ray.store.verify import verify_store
from imgcls_ray.workers.progress import LabelProgress
from tests.store.stores import new_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder


@pytest.fixture
def label(small_model: ModelFolder, tmp_path: Path) -> Callable[..., PredictReport]:
    def run(**values: Any) -> PredictReport:
        paths = {"input": tmp_path / "images", "model": small_model.path, "output": tmp_path / "store"}
        config = make_config(PredictConfig, {**{key: str(path) for key, path in paths.items()}, **values})
        return predict(config, Console(stderr=True, force_terminal=False))

    return run


def samples(text: str) -> dict[tuple[str, str], float]:
    """Values of a text for Prometheus, by name and the label beside ``store``."""
    return {
        (sample.name.removeprefix("imgcls_bulk_"), "".join(v for k, v in sample.labels.items() if k != "store")): value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for value in [sample.value]
    }


def unit(codes: Mapping[str, int], number: int = 0) -> UnitCounts:
    return UnitCounts(number, sum(codes.values()), committed=True, codes=codes, seconds=StageSeconds(1, 2, 3, 4))


def running(metrics: BulkMetrics, num_images: int = 10) -> LabelProgress:
    progress = LabelProgress(num_images, 0, "labelling", None)
    metrics.begin_run(RunReport(3, num_images, 0, plan={"num_images": num_images, "num_units": 1}), progress)
    return progress


def test_the_text_file_has_the_numbers_of_the_runs_record(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    images = draw_images(12)
    images[0].write_bytes(b"")
    images[1].write_text("<html>404</html>")
    images[2].unlink()
    images[2].symlink_to("nowhere")
    label(metrics_file=str(tmp_path / "imgcls.prom"), price_per_hour=3.6)
    store = open_store(open_directory(str(tmp_path / "store")))
    run = store.run_record(1)
    counts = run["counts"]
    assert counts == {"ok": 9, "empty": 1, "not_found": 1, "unsupported_format": 1}
    text = (tmp_path / "imgcls.prom").read_text()
    told = samples(text)
    assert {code: told.pop(("errors_total", code)) for code in counts if code != "ok"} == {
        code: count for code, count in counts.items() if code != "ok"
    }
    stages = {"listed": 12, "fetched": 11, "decoded": 9, "predicted": 9, "written": 12}
    assert {stage: told.pop(("images_total", stage)) for stage in stages} == stages
    assert all(told.pop(("worker_seconds_total", stage)) > 0 for stage in ("fetch", "decode", "forward", "write"))
    assert told.pop(("start_timestamp_seconds", "")) > 1.7e9
    assert told == {("running", ""): 0, ("run_images", ""): 12, ("run_done_images", ""): 12, ("workers", ""): 1}
    assert {sample.labels["store"] for family in text_string_to_metric_families(text) for sample in family.samples} == {
        store.uri
    }

    record = json.loads((tmp_path / "store" / "progress.json").read_text())
    assert (record["state"], record["run"], record["num_images"], record["num_done"]) == ("finished", 1, 12, 12)
    assert record["images"] == stages
    assert {"ok": record["images"]["predicted"], **record["errors"]} == counts
    assert verify_store(store).problems == []
    assert run["cost_per_million_images"] == pytest.approx(3.6 * run["seconds"] / 3600 / 12 * 1e6, abs=1)


def test_a_second_command_counts_anew(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    draw_images(3)
    file = tmp_path / "imgcls.prom"
    label(metrics_file=str(file))
    label(metrics_file=str(file))
    told = samples(file.read_text())
    assert (told["images_total", "listed"], told["images_total", "written"]) == (3, 0)
    assert ("run_images", "") not in told


@pytest.mark.parametrize("code", [code.value for code in ImageErrorCode])
def test_an_image_is_counted_up_to_the_stage_where_it_failed(code: str) -> None:
    metrics = BulkMetrics("store", PlanCounts(listed=3))
    metrics.add(unit({code: 2, "ok": 1}))
    away = {"not_found", "access_denied", "archived", "not_a_file", "unsupported_storage", "fetch_failed", "changed"}
    fetched = 1 if code in away | {"too_many_bytes"} else 3
    decoded = 3 if code == "non_finite_output" else 1
    told = {"listed": 3, "fetched": fetched, "decoded": decoded, "predicted": 1, "written": 3}
    assert metrics.to_record()["images"] == told
    assert metrics.to_record()["errors"] == {code: 2}


def test_what_another_worker_had_written_is_done_but_not_counted_twice() -> None:
    metrics = BulkMetrics("store", PlanCounts())
    progress = running(metrics)
    metrics.add(UnitCounts(0, 10, committed=False, codes={}, seconds=StageSeconds()))
    progress.add(10, 0)
    record: Any = metrics.to_record()
    assert (record["num_done"], record["images"]["written"]) == (10, 0)


def test_rate_and_time_left_are_those_of_the_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.0, *[4.0] * 100])
    monkeypatch.setattr("imgcls_ray.workers.progress.time.monotonic", lambda: next(times))
    metrics = BulkMetrics("store", PlanCounts())
    progress = running(metrics, 100)
    progress.add(20, 0)
    progress.add(20, 0)
    values = {family.name: family.samples.get("") for family in metrics.families()}
    assert values["imgcls_bulk_images_per_second"] == 5
    assert values["imgcls_bulk_eta_seconds"] == 12
    record = metrics.to_record()
    assert (record["images_per_s"], record["eta_s"]) == (5, 12)
    metrics.state = "finished"
    assert metrics.to_record()["eta_s"] is None


def test_the_drift_of_a_run_is_told_without_noise() -> None:
    metrics = BulkMetrics("store", PlanCounts())
    report = RunReport(1, 10, 0, plan={"num_images": 10, "num_units": 1})
    features = (FeatureDrift("sharpness", 0.4, noise=0.1), FeatureDrift("label", 0.05, noise=0.1))
    report.drift = Drift(10, 100, features, 0.0, 0.0)
    metrics.begin_run(report, running(metrics))
    [family] = [family for family in metrics.families() if family.name == "imgcls_bulk_drift"]
    assert family.samples == {"sharpness": 0.4, "label": 0.0}


def test_any_path_of_a_store_is_a_label(tmp_path: Path) -> None:
    metrics = BulkMetrics('/a "quoted"\\path\nof \udcff bytes', PlanCounts())
    TextFile(str(tmp_path / "a.prom")).export(metrics)
    [family, *_] = text_string_to_metric_families((tmp_path / "a.prom").read_text())
    assert family.samples[0].labels["store"] == '/a "quoted"\\path\nof \\udcff bytes'


# --- while it runs, and when it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "finished"),
        (StoppedError("x"), "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (StorageError("x"), "failed"),
    ],
)
def test_the_last_state_says_how_the_command_ended(error: BaseException | None, state: str, tmp_path: Path) -> None:
    metrics = BulkMetrics("store", PlanCounts())
    ends = suppress(StoppedError, StorageError, KeyboardInterrupt)
    with ends, exporting(metrics, [ProgressFile(open_directory(str(tmp_path)))]):
        if error is not None:
            raise error
    assert json.loads((tmp_path / "progress.json").read_text())["state"] == state


def test_an_exporter_that_fails_is_named_once_and_harms_no_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    class Broken:
        def export(self, metrics: BulkMetrics) -> None:
            calls.append(metrics.state)
            raise StorageError("/x: cannot be written")

    monkeypatch.setattr(exporters_module, "_INTERVAL_S", 0.001)
    metrics = BulkMetrics("store", PlanCounts())
    with exporting(metrics, [Broken(), TextFile(str(tmp_path / "a.prom"))]):
        while len(calls) < 3:
            time.sleep(0.001)
    assert calls[-1] == "finished"
    assert caplog.messages == ["/x: cannot be written (Broken); the run goes on"]
    assert samples((tmp_path / "a.prom").read_text())["running", ""] == 0


def test_a_storage_that_fails_is_told_by_the_run_and_not_by_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    directory = open_directory(str(tmp_path))

    def fail(name: str, _data: bytes) -> None:
        raise StorageError(f"{name}: cannot be written")

    monkeypatch.setattr(directory, "replace", fail)
    with exporting(BulkMetrics("store", PlanCounts()), [ProgressFile(directory)]):
        pass
    assert caplog.messages == []


def test_the_end_waits_for_no_storage_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()

    class Silent:
        def export(self, _metrics: BulkMetrics) -> None:
            answers.wait(60)

    monkeypatch.setattr(exporters_module, "_END_S", 0.01)
    with exporting(BulkMetrics("store", PlanCounts()), [Silent()]):
        pass
    assert not answers.is_set()
    answers.set()


WRITER = """
import sys
from imgcls_ray.predict.exporters import TextFile
from imgcls_ray.predict.metrics import BulkMetrics
from imgcls_ray.store.lease import hold_lease
from imgcls_ray.store.plan import PlanCounts
counts = PlanCounts()
metrics, file = BulkMetrics("store", counts), TextFile(sys.argv[1])
while True:
    counts.listed += 1
    file.export(metrics)
"""


def test_a_kill_leaves_the_last_text_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.prom"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)]) as writer:
        while not path.exists():
            assert writer.poll() is None
        before = samples(path.read_text())["images_total", "listed"]
        while samples(path.read_text())["images_total", "listed"] < before + 20:
            assert len(samples(path.read_text())) == 7
        writer.send_signal(signal.SIGKILL)
    assert samples(path.read_text())["images_total", "listed"] >= before + 20
    # The node exporter reads what ends with .prom.
    assert [file.name for file in tmp_path.glob("*.prom")] == ["a.prom"]


# --- refused before the run starts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("gone/a.prom", "there is no folder gone"),
        ("images/00000.jpg/a.prom", "there is no folder images/00000.jpg"),
        ("folder.prom", "it is a folder"),
        ("closed/a.prom", "the folder closed is not writable"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_text_file_that_cannot_be_written_is_an_error_before_the_run_starts(
    label: Callable[..., PredictReport],
    draw_images: Callable[..., list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    reason: str,
    dry_run: bool,
) -> None:
    draw_images(1)
    (tmp_path / "folder.prom").mkdir()
    (tmp_path / "closed").mkdir()
    # The tests may run as root, whom permissions do not stop.
    monkeypatch.setattr("imgcls_ray.predict.exporters.os.access", lambda folder, _mode: folder != "closed")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        label(metrics_file=path, dry_run=dry_run)
    assert str(caught.value) == (
        f"metrics_file: {path} cannot be written: {reason}; give a file in a folder that you may write to"
    )
    assert caught.value.key == "metrics_file"
    assert not (tmp_path / "store").exists()


def test_a_command_that_finds_the_store_in_use_leaves_the_numbers_of_the_one_that_runs(
    label: Callable[..., PredictReport],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
) -> None:
    draw_images(1)
    spec = small_model.spec
    same = {"fingerprint": spec.fingerprint, "num_classes": spec.num_classes, "top_k": 5}
    new_store(tmp_path / "store", model=spec.name, **same)
    (tmp_path / "a.prom").write_text("mine")
    with hold_lease(open_directory(str(tmp_path / "store"))), pytest.raises(StoreInUseError):
        label(metrics_file=str(tmp_path / "a.prom"))
    assert (tmp_path / "a.prom").read_text() == "mine"
    assert not (tmp_path / "store" / "progress.json").exists()


@pytest.mark.parametrize("path", ["a.txt", "a.prom.gz", "", "s3://bucket/a.prom", "file:///a.prom"])
def test_what_the_node_exporter_would_not_read_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"metrics_file: needs the path of a local file that ends with \.prom"):
        make_config(PredictConfig, {"input": "a", "model": "b", "output": "c", "metrics_file": path})


@pytest.mark.parametrize("price", [0, -1, "nan", "inf", "0.4 EUR"])
def test_a_price_is_a_number_above_zero(price: object) -> None:
    with pytest.raises(ConfigError, match=r"^price_per_hour: "):
        make_config(PredictConfig, {"input": "a", "model": "b", "output": "c", "price_per_hour": price})


def test_a_dry_run_writes_no_metrics(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    draw_images(1)
    label(metrics_file=str(tmp_path / "a.prom"), dry_run=True)
    assert not (tmp_path / "a.prom").exists()
    assert not (tmp_path / "store").exists()


# --- what a million images cost --------------------------------------------------------------------------------------


def test_a_command_costs_what_it_labelled_and_nothing_without_a_price() -> None:
    runs = [
        RunReport(n, 100, 50, plan={"num_images": 100, "num_units": 1}, num_labelled=50, seconds=18) for n in (1, 2)
    ]
    report = PredictReport("store", runs=runs, seconds=72)
    assert runs[0].cost_per_million_images(2.0) == pytest.approx(2 * 18 / 3600 / 50 * 1e6)
    assert report.cost_per_million_images(2.0) == pytest.approx(2 * 72 / 3600 / 100 * 1e6)
    assert report.cost_per_million_images(None) is None
    assert PredictReport("store", seconds=1).cost_per_million_images(2.0) is None


def test_the_summary_tells_the_cost_if_there_is_a_price(capsys: pytest.CaptureFixture[str]) -> None:
    run = RunReport(1, 100, 0, plan={"num_images": 100, "num_units": 1}, num_labelled=100, is_finished=True)
    run.codes["ok"] = 100
    report = PredictReport("store", runs=[run], seconds=36)
    values = {"input": "a", "model": "b", "output": "c"}
    _tell(report, make_config(PredictConfig, {**values, "price_per_hour": 0.4}))
    assert "cost: 40.00 for a million images, at 0.4 an hour\n" in capsys.readouterr().out
    _tell(report, make_config(PredictConfig, values))
    assert "cost" not in capsys.readouterr().out
