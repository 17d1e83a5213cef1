"""What the summary says of the stage that binds follows from the seconds that were measured."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from imgcls_ray.commands.predict import _tell
from imgcls_ray.config import PredictConfig, make_config
from imgcls_ray.models.classifier import StageSeconds
from imgcls_ray.predict.job import predict
from imgcls_ray.predict.metrics import BulkMetrics
from imgcls_ray.predict.report import PredictReport, RunReport
from imgcls_ray.predict.verdict import judge, judge_with_gpus
from imgcls_ray.store.plan import PlanCounts
from imgcls_ray.workers.progress import LabelProgress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder


def on_cpus(*seconds: float) -> Any:
    """Verdict of fetch, decode, forward and write; never None."""
    verdict = judge(StageSeconds(*seconds))
    assert verdict is not None
    return verdict


def with_gpus(*seconds: float, rate: float = 100.0, cores: int = 8, gpus: int = 1, images: int = 1000) -> Any:
    verdict = judge_with_gpus(
        StageSeconds(*seconds), num_images=images, images_per_s=rate, num_cpu_workers=cores, num_gpus=gpus
    )
    assert verdict is not None
    return verdict


@pytest.mark.parametrize(
    ("seconds", "bound", "words"),
    [
        (
            (5, 71, 24, 2),
            "decode",
            "decode-bound: 71% of the workers' time; with twice the cores about 1.9 times as fast",
        ),
        (
            (2, 15, 83, 1),
            "network",
            "network-bound: 83% of the workers' time; with twice the cores about 2.0 times as fast; the run would take "
            "0.17 of the time if the network took none: a GPU or a smaller model would help",
        ),
        (
            (60, 30, 10, 1),
            "fetch",
            "fetch-bound: the workers waited 60% of their time for bytes; the run would take 0.40 of the time if the "
            "storage of the images never made them wait",
        ),
        (
            (5, 10, 10, 100),
            "write",
            "write-bound: 75% of the workers' time was only writing; the run would take 0.25 of the time if the label "
            "store took no time",
        ),
        (
            (20, 45, 35, 3),
            "mixed",
            "no stage binds alone: decode 45% and network 35% of the workers' time; with twice the cores about 1.7 "
            "times as fast",
        ),
    ],
)
def test_on_cpus_the_stage_that_binds_is_named_with_its_numbers(
    seconds: tuple[float, ...], bound: str, words: str
) -> None:
    verdict = on_cpus(*seconds)
    assert (verdict.bound, verdict.words()) == (bound, words)


def test_scaled_decoding_is_named_only_where_it_would_change_something() -> None:
    hint = "; a model made with --decode scaled decodes large JPEGs at a fraction of their size"
    assert on_cpus(5, 71, 24, 2).words(decodes_whole=True).endswith(hint)
    assert hint not in on_cpus(5, 71, 24, 2).words(decodes_whole=False)
    assert hint not in on_cpus(2, 15, 83, 1).words(decodes_whole=True)


def test_8_bits_are_named_only_where_the_network_binds_on_a_processor_that_has_them() -> None:
    hint = "; `imgcls export --int8` makes most networks faster on a processor like this one, and measures it"
    assert on_cpus(2, 15, 83, 1).words(may_quantize=True).endswith(hint)
    assert hint not in on_cpus(2, 15, 83, 1).words(may_quantize=False)
    assert hint not in on_cpus(5, 71, 24, 2).words(may_quantize=True)
    assert hint not in with_gpus(2, 38, 9.5, 1).words(may_quantize=True)


def test_writing_that_the_next_unit_hides_costs_nothing() -> None:
    hidden, none = on_cpus(10, 60, 30, 99), on_cpus(10, 60, 30, 0)
    assert hidden.shares == none.shares
    assert hidden.speedups["no_write"] == 1
    # But it bounds what other changes bring.
    assert hidden.speedups["twice_the_cores"] == pytest.approx(100 / 99)
    assert none.speedups["twice_the_cores"] == pytest.approx(100 / 55)


@pytest.mark.parametrize("seconds", [(60, 30, 10, 1), (5, 71, 24, 2), (5, 10, 10, 100), (1, 0, 0, 0), (0, 0, 1, 5)])
def test_no_change_makes_a_run_slower_and_shares_add_up(seconds: tuple[float, ...]) -> None:
    verdict = on_cpus(*seconds)
    assert min(verdict.speedups.values()) >= 1
    assert verdict.speedups["twice_the_cores"] <= 2
    assert sum(verdict.shares.values()) == pytest.approx(1)


def test_without_measured_seconds_there_is_no_verdict() -> None:
    assert judge(StageSeconds()) is None
    assert judge_with_gpus(StageSeconds(1, 1), num_images=9, images_per_s=3.0, num_cpu_workers=1, num_gpus=1) is None


@pytest.mark.parametrize(
    ("verdict", "bound", "words"),
    [
        # 80 ms of 8 cores an image at 100 images/s: the cores are full, the GPU computes 4 ms of each 10.
        (
            with_gpus(2, 78, 4, 1),
            "decode",
            "decode-bound: the GPU was busy 40% of the time; 12 more cores would fill it: about 2.5 times as fast",
        ),
        (
            with_gpus(60, 20, 8, 1, gpus=2),
            "fetch",
            "fetch-bound: the workers on CPUs waited 75% of their time for bytes, the GPUs were busy 40% of the time; "
            "12 more cores would fill them if the storage of the images keeps up: about 2.5 times as fast",
        ),
        (
            with_gpus(2, 38, 9.5, 1),
            "network",
            "network-bound: the GPU was busy 95% of the time; with twice the GPUs about 2.0 times as fast",
        ),
        (
            with_gpus(2, 62, 9.5, 1),
            "network",
            "network-bound: the GPU was busy 95% of the time; with twice the GPUs about 1.2 times as fast",
        ),
        (
            with_gpus(2, 38, 6, 9),
            "mixed",
            "no stage binds alone: the GPU was busy 60% of the time, the workers on CPUs 50%",
        ),
    ],
)
def test_with_gpus_it_says_how_busy_they_were_and_what_would_fill_them(verdict: Any, bound: str, words: str) -> None:
    assert (verdict.bound, verdict.words()) == (bound, words)


def test_the_cores_that_fill_a_gpu_follow_from_the_seconds_of_an_image() -> None:
    verdict = with_gpus(2, 78, 4, 1)
    # A full GPU would do 250 images/s, each of which costs the cores 80 ms.
    assert verdict.cores_to_fill_gpus == 20
    assert verdict.to_record() == {
        "bound": "decode",
        "shares": {"fetch": 0.025, "decode": 0.975, "network": 0.4},
        "speedups": {"twice_the_cores": 2.0, "twice_the_gpus": 1.0},
        "gpu_busy": 0.4,
        "cpu_busy": 1.0,
        "cores_to_fill_gpus": 20,
    }


def measured_run(**values: Any) -> RunReport:
    run = RunReport(1, 100, 0, plan={"num_images": 100, "num_units": 2}, num_labelled=100, num_measured=100)
    run.codes["ok"] = 100
    run.stages = StageSeconds(5, 71, 24, 2)
    for key, value in values.items():
        setattr(run, key, value)
    return run


def summary(run: RunReport, capsys: pytest.CaptureFixture[str]) -> str:
    config = make_config(PredictConfig, {"input": "in", "model": "m", "output": "out"})
    _tell(PredictReport("out", runs=[run]), config)
    return capsys.readouterr().out


def test_the_summary_has_the_verdict_below_the_times(capsys: pytest.CaptureFixture[str]) -> None:
    lines = summary(measured_run(images_per_s=50.0), capsys).splitlines()
    place = lines.index("time of the workers: fetch 5%, decode 70%, forward 24%, write 2%")
    assert lines[place + 1] == "decode-bound: 71% of the workers' time; with twice the cores about 1.9 times as fast"


def test_a_run_that_was_too_short_for_a_rate_gets_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert "bound" not in summary(measured_run(), capsys)


def test_what_the_cores_of_a_worker_do_side_by_side_counts_once(capsys: pytest.CaptureFixture[str]) -> None:
    # Four cores decode for 80 s and classify for 40 s in 30 s, after 60 s of waiting.
    run = measured_run(images_per_s=50.0, cores_per_worker=4, stages=StageSeconds(60, 80, 40, 10))
    verdict = run.verdict
    assert verdict is not None
    assert verdict.bound == "fetch"
    assert {stage: round(share, 3) for stage, share in verdict.shares.items()} == {
        "fetch": 0.667,
        "decode": 0.222,
        "network": 0.111,
        "write": 0.0,
    }
    assert verdict.speedups["no_fetch"] == pytest.approx(3)
    lines = summary(run, capsys).splitlines()
    assert "time of the workers: fetch 60%, decode 20%, forward 10%, write 10%" in lines
    # The record has what was measured.
    assert run.stages == StageSeconds(60, 80, 40, 10)


def test_a_run_with_gpus_is_judged_by_its_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    run = measured_run(images_per_s=10.0, num_workers=8, num_gpus=1, stages=StageSeconds(2, 78, 4, 1))
    assert "the GPU was busy 40% of the time" in summary(run, capsys)


def test_metrics_and_progress_have_the_numbers_of_the_summary() -> None:
    metrics = BulkMetrics("store", PlanCounts())
    run = measured_run(images_per_s=50.0)
    metrics.begin_run(run, LabelProgress(100, 0, "labelling", None))
    told = {family.name: dict(family.samples) for family in metrics.families()}
    assert run.verdict is not None
    assert told["imgcls_bulk_possible_speedup"] == run.verdict.speedups
    assert told["imgcls_bulk_gpu_busy_ratio"] == {}
    record: Any = json.loads(json.dumps(metrics.to_record()))
    assert record["verdict"] == run.verdict.to_record()
    run.images_per_s = None
    assert metrics.to_record()["verdict"] is None


@pytest.mark.parametrize(
    ("options", "has_instructions", "may"),
    [({}, True, True), ({}, False, False), ({}, None, False), ({"embedding": True}, True, False)],
)
def test_a_run_says_whether_its_network_could_be_in_8_bits(
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, bool],
    has_instructions: bool | None,
    may: bool,
) -> None:
    monkeypatch.setattr("imgcls_ray.predict.job.has_fast_int8", lambda: has_instructions)
    values = {"input": str(draw_images(2)[0].parent), "model": str(small_model.path), "output": str(tmp_path / "s")}
    report = predict(make_config(PredictConfig, {**values, **options}), Console(quiet=True))
    assert [run.may_quantize for run in report.runs] == [may]


def test_the_record_of_a_run_has_the_verdict_and_what_it_follows_from(
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("imgcls_ray.workers.progress._MIN_RATE_S", 0.0)
    values = {
        "input": str(draw_images(40)[0].parent),
        "model": str(small_model.path),
        "output": str(tmp_path / "store"),
    }
    config = make_config(PredictConfig, {**values, "unit_size": 16, "num_workers": 1})
    report = predict(config, Console(stderr=True, force_terminal=False))
    _tell(report, config)
    record = json.loads((tmp_path / "store" / "runs" / "0001.json").read_text())
    seconds = record["stage_seconds"]
    verdict = judge(StageSeconds(**seconds))
    assert verdict is not None
    assert record["verdict"]["bound"] == verdict.bound
    assert record["verdict"]["shares"] == pytest.approx(dict(verdict.shares), abs=0.02)
    assert re.search(r"-bound: |^no stage binds alone: ", capsys.readouterr().out, flags=re.MULTILINE)
