"""The bulk job, in processes and on a real Ray: every input one row, from its own bytes, whatever happens to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from imgcls_ray.config import PredictConfig, make_config
from imgcls_ray.errors import InputError, JobFailedError, LabelStoreError, ModelFolderError, ResourceError, StorageError
from imgcls_ray.models.api import create_model
from imgcls_ray.models.new import new_model_folder
from imgcls_ray.predict.job import predict
from imgcls_ray.predict.label import LabelTask
from imgcls_ray.predict.units import label_units
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.walking import list_folder
from imgcls_ray.store.compact import compact_store
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import create_or_open_store, open_store
from imgcls_ray.store.plan import write_plan
from imgcls_ray.store.records import StoreIdentity
from imgcls_ray.store.schema import PRECISION_KEY
from imgcls_ray.store.verify import verify_store
from imgcls_ray.workers.plan import WorkerPlan
from imgcls_ray.workers.ray_pool import RayPool
from tests.conftest import make_small_model
from tests.ray_processes import own_ray_processes
from tests.store.stores import even_sizes, run_record, spool
from tests.workers.survival import Dataset, assert_all_found, wait_until

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.predict.report import PredictReport
    from imgcls_ray.store.label_store import LabelStore

pytestmark = pytest.mark.usefixtures("ray_session")
ON_BOTH = pytest.mark.parametrize("label", ["local", "ray"], indirect=True)
ON_RAY = pytest.mark.parametrize("label", ["ray"], indirect=True)
# What Ray has no part in: it is the worker's own, or the planning's.
SLOWLY_ON_RAY = pytest.mark.parametrize("label", ["local", pytest.param("ray", marks=pytest.mark.slow)], indirect=True)


@pytest.fixture
def label(small_model: ModelFolder, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., PredictReport]:
    on = getattr(request, "param", "local")

    def run(**values: Any) -> PredictReport:
        paths = {"input": tmp_path / "images", "model": small_model.path, "output": tmp_path / "store"}
        # Several units, and so several workers: what these few images take would be one.
        values = {**paths, "batch_size": 8, "unit_size": 16, "on": on, **values}
        config = make_config(PredictConfig, {k: str(v) if hasattr(v, "parts") else v for k, v in values.items()})
        return predict(config, Console(stderr=True, force_terminal=False))

    return run


def rows_of(store: Path) -> list[dict[str, Any]]:
    return [row for table in latest_rows(open_store(open_directory(str(store)))) for row in table.to_pylist()]


def verify(store: Path) -> list[str]:
    return verify_store(open_store(open_directory(str(store)))).problems


def break_some(images: list[Path]) -> dict[str, str]:
    """Spoil every seventh file in a way of its own; returns path to expected code."""
    spoilt = {}
    for i, path in enumerate(images[::7]):
        match i % 4:
            case 0:
                path.write_bytes(b"")
                spoilt[str(path)] = "empty"
            case 1:
                path.write_bytes(path.read_bytes()[:-400])
                spoilt[str(path)] = "truncated"
            case 2:
                path.write_text("<html>404</html>")
                spoilt[str(path)] = "unsupported_format"
            case 3:
                path.unlink()
                path.symlink_to("nowhere")
                spoilt[str(path)] = "not_found"
    return spoilt


@ON_BOTH
def test_every_input_has_one_row_with_its_own_label(
    label: Callable[..., PredictReport],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
) -> None:
    images = draw_images(150)
    spoilt = break_some(images)
    report = label()
    rows = rows_of(tmp_path / "store")
    assert [row["uri"] for row in rows] == [str(path) for path in images]
    assert {row["uri"]: row["error"] for row in rows if row["error"]} == spoilt
    expected = {r.input: r for r in create_model(small_model.path).predict(tmp_path / "images", batch_size=8)}
    for row in rows:
        if row["error"] is None:
            result = expected[row["uri"]]
            assert row["labels"] == list(result.label_names)
            assert np.allclose(row["scores"], result.scores, atol=1e-6)
            assert (row["label"], row["label_id"]) == (result.label, result.class_ids[0])
            assert (row["width"], row["height"]) == (96, 80)
    assert verify(tmp_path / "store") == []
    assert report.runs[0].codes["ok"] == len(images) - len(spoilt)


def test_with_mirror_images_rows_have_the_mean_of_both(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    for path in draw_images(6):
        with Image.open(path) as picture:
            # Lossless, so that one is the exact mirror image of the other.
            picture.save(path.with_suffix(".png"))
            picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path.with_name(f"{path.stem}_mirrored.png"))
        path.unlink()
    label(tta="hflip", logits=True)
    rows = rows_of(tmp_path / "store")
    logits = np.array([row["logits"] for row in rows])
    assert [row["uri"].endswith("_mirrored.png") for row in rows] == [False, True] * 6
    assert np.allclose(logits[::2], logits[1::2], atol=0.05)
    with pytest.raises(LabelStoreError, match="was made with tta=hflip, this run has tta=none"):
        label(logits=True)
    label(output=tmp_path / "plain", logits=True)
    plain = np.array([row["logits"] for row in rows_of(tmp_path / "plain")])
    assert np.allclose(logits[::2], (plain[::2] + plain[1::2]) / 2, atol=0.05)
    assert not np.allclose(plain[::2], plain[1::2], atol=0.5)


def test_a_second_run_has_nothing_to_do_and_a_third_takes_what_is_new_or_changed(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    images = draw_images(40)
    label()
    second = label()
    assert (second.plan.planned, second.plan.answered) == (0, 40)
    shutil.copy(images[1], images[0])
    os.utime(images[0], ns=(1, 1))
    draw_images(3, "images/new", seed=1)
    third = label()
    assert (third.plan.new, third.plan.changed, third.plan.answered) == (3, 1, 39)
    rows = {row["uri"]: row for row in rows_of(tmp_path / "store")}
    assert len(rows) == 43
    assert rows[str(images[0])]["scores"] == rows[str(images[1])]["scores"]
    assert verify(tmp_path / "store") == []


@ON_BOTH
def test_an_open_run_is_finished_and_only_its_missing_units_are_done_again(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    draw_images(120)
    label(on="local")
    store = tmp_path / "store"
    before = rows_of(store)
    # As if the driver had died before its last steps.
    (store / "runs" / "0001.json").unlink()
    shutil.rmtree(store / "predictions" / "_delta_log")
    parts = sorted((store / "predictions").iterdir())
    kept = {path: path.stat().st_mtime_ns for path in parts[2:]}
    for path in parts[:2]:
        path.unlink()
    report = label()
    assert [run.run for run in report.runs] == [1, 2]
    assert report.runs[0].num_done_before == 120 - sum(pq.read_metadata(path).num_rows for path in parts[:2])
    assert report.runs[0].codes["ok"] == 120
    assert rows_of(store) == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert verify(store) == []


def precisions_of(store: Path) -> Counter[str]:
    """Rows by precision, as ``imgcls store verify`` counts them."""
    report = verify_store(open_store(open_directory(str(store))))
    assert report.is_sound
    return report.precisions


@ON_BOTH
def test_each_part_and_the_record_tell_the_precision(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    draw_images(48)
    label(precision="fp32")
    store = tmp_path / "store"
    metadata = [pq.read_schema(path).metadata for path in (store / "predictions").glob("0001-*.parquet")]
    assert len(metadata) > 1
    assert {about[b"imgcls.precision"] for about in metadata} == {b"fp32"}
    assert json.loads((store / "runs" / "0001.json").read_text())["precisions"] == ["fp32"]
    assert precisions_of(store) == {"fp32": 48}


def reopen(store: Path, *, precision: str) -> None:
    """Leave the run of a store with two of its parts, as if they had been computed in this precision."""
    (store / "runs" / "0001.json").unlink()
    shutil.rmtree(store / "predictions" / "_delta_log")
    parts = sorted((store / "predictions").iterdir())
    for path in parts[2:]:
        path.unlink()
    for path in parts[:2]:
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, PRECISION_KEY: precision}), path)


def test_what_was_begun_in_fp32_is_finished_in_it_on_any_processor(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    draw_images(96)
    label(precision="fp32")
    reopen(tmp_path / "store", precision="fp32")
    label()
    assert precisions_of(tmp_path / "store") == {"fp32": 96}


def test_a_run_of_two_precisions_is_told_with_the_way_out(
    label: Callable[..., PredictReport],
    draw_images: Callable[..., list[Path]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    draw_images(96)
    label(precision="fp32")
    assert "computed in" not in caplog.text
    reopen(tmp_path / "store", precision="bf16")
    report = label(precision="fp32")
    assert report.runs[0].precisions == {"bf16", "fp32"}
    assert "run 0001 has rows that were computed in bf16 and fp32" in caplog.text
    assert "--precision fp32 computes alike on every machine" in caplog.text
    assert json.loads((tmp_path / "store" / "runs" / "0001.json").read_text())["precisions"] == ["bf16", "fp32"]
    before = precisions_of(tmp_path / "store")
    assert sorted(before) == ["bf16", "fp32"]
    assert before.total() == 96
    # Merged files keep what each row was computed in.
    compact_store(open_store(open_directory(str(tmp_path / "store"))), keep_s=0, whole=True)
    assert list((tmp_path / "store" / "predictions").glob("merged-*.parquet"))
    assert precisions_of(tmp_path / "store") == before


def plan_for_a_gpu(store: LabelStore, folder: Path, model: ModelFolder, *, unit_size: int) -> LabelTask:
    """Plan a folder's images for actors of a GPU that is only a number to Ray, and tell how they are labelled."""
    with spool(list_folder(str(folder))) as planned:
        write_plan(store, planned, run=1, sizes=even_sizes(planned.num_images, unit_size), about={})
    return LabelTask(
        model=str(model.path),
        fingerprint=model.spec.fingerprint,
        store=store.uri,
        top_k=5,
        engine="torch",
        precision="fp32",
        batch_size=8,
    )


def test_gpu_actors_give_the_same_rows(
    label: Callable[..., PredictReport],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
) -> None:
    break_some(draw_images(100))
    label(engine="torch", precision="fp32")
    on_cpu = open_store(open_directory(str(tmp_path / "store")))
    store = create_or_open_store(open_directory(str(tmp_path / "gpu")), on_cpu.identity)
    task = plan_for_a_gpu(store, tmp_path / "images", small_model, unit_size=32)
    counts = list(label_units(store.units(1), task, RayPool(WorkerPlan(2, 1), gpu_device="cpu")))
    assert sum(count.num_images for count in counts) == 100
    store.finish_run(1, run_record(1))
    assert verify(tmp_path / "gpu") == []
    expected = {row["uri"]: row for row in rows_of(tmp_path / "store")}
    for row in rows_of(tmp_path / "gpu"):
        assert {**row, "image_id": 0} == {**expected[row["uri"]], "image_id": 0}


@pytest.mark.parametrize(
    ("stage", "size"),
    [
        pytest.param("BlockDecoder", (1600, 1200), marks=pytest.mark.slow),
        pytest.param("BlockClassifier", (640, 480), marks=pytest.mark.slow),
    ],
)
def test_a_stage_before_or_on_a_gpu_that_dies_costs_no_input_its_row(
    small_model: ModelFolder, tmp_path: Path, stage: str, size: tuple[int, int]
) -> None:
    data = Dataset(tmp_path / "data", 240, size=size)
    identity = StoreIdentity(
        model="small",
        fingerprint=small_model.spec.fingerprint,
        num_classes=small_model.spec.num_classes,
        top_k=5,
        embedding=False,
        logits=False,
    )
    store = create_or_open_store(open_directory(str(tmp_path / "gpu")), identity)
    task = plan_for_a_gpu(store, data.root / "images", small_model, unit_size=16)
    killed: list[int] = []

    def kill_at_work() -> None:
        # A decoder may be done with everything before the classifier is ready: so not by what comes back.
        killed.extend(wait_until(lambda: own_ray_processes(f"{stage})).submit"), 60))
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_at_work)
    killer.start()
    counts = list(label_units(store.units(1), task, RayPool(WorkerPlan(1, 1), gpu_device="cpu")))
    killer.join()
    assert len(killed) == 1
    assert sum(count.num_images for count in counts) == len(data.images)
    store.finish_run(1, run_record(1))
    assert_all_found("predict", data, tmp_path / "gpu")


@SLOWLY_ON_RAY
def test_embedding_and_logits_are_columns(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    draw_images(3)
    (tmp_path / "images" / "bad.jpg").write_bytes(b"")
    label(embedding=True, logits=True)
    *good, bad = rows_of(tmp_path / "store")
    assert all(len(row["embedding"]) == 1280 and len(row["logits"]) == 7 for row in good)
    assert (bad["embedding"], bad["logits"], bad["labels"]) == (None, None, None)


def test_a_limit_leaves_the_rest_to_the_next_run(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    draw_images(30)
    label(limit=10)
    assert len(rows_of(tmp_path / "store")) == 10
    label()
    assert len(rows_of(tmp_path / "store")) == 30
    assert verify(tmp_path / "store") == []


def test_a_dry_run_writes_nothing(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    draw_images(5)
    report = label(dry_run=True)
    assert report.plan.new == 5
    assert not (tmp_path / "store").exists()


def test_a_store_inside_its_input_is_no_input(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    draw_images(5)
    store = tmp_path / "images" / "store"
    label(output=store)
    (store / "samples").mkdir()
    shutil.copy(tmp_path / "images" / "00000.jpg", store / "samples")
    assert label(output=store).plan.listed == 5


def test_an_empty_folder_is_a_successful_empty_run(label: Callable[..., PredictReport], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    label().check_errors(0)
    record = json.loads((tmp_path / "store" / "runs" / "0001.json").read_text())
    assert record["num_images"] == 0


def test_a_job_whose_every_input_failed_says_so(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]]
) -> None:
    for path in draw_images(3):
        path.write_bytes(b"")
    with pytest.raises(JobFailedError, match=r"all inputs failed \(3\): empty 3"):
        label().check_errors(1.0)


def test_too_large_an_error_rate_fails_the_job(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]]
) -> None:
    draw_images(10)[0].write_bytes(b"no image")
    report = label()
    report.check_errors(0.1)
    with pytest.raises(JobFailedError, match=r"1 of 10 inputs failed \(10\.0%, .* 5\.0%\): unsupported_format 1"):
        report.check_errors(0.05)


@SLOWLY_ON_RAY
def test_an_input_that_fails_again_and_again_does_not_fail_every_run(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    images = draw_images(9)
    (tmp_path / "list.csv").write_text("\n".join(["uri", *map(str, images), "http://127.0.0.1:9/x.jpg"]))
    label(input=tmp_path / "list.csv").check_errors(0.1)
    again = label(input=tmp_path / "list.csv")
    assert again.plan.retried == 1
    again.check_errors(0.1)
    with pytest.raises(JobFailedError, match=r"1 of 10 inputs failed \(10\.0%"):
        again.check_errors(0.05)


def test_a_run_with_nothing_to_label_has_not_failed(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]]
) -> None:
    for path in draw_images(3):
        path.write_bytes(b"")
    label()
    label().check_errors(0)


@SLOWLY_ON_RAY
def test_an_image_that_changed_after_planning_is_told_and_planned_again(
    label: Callable[..., PredictReport],
    draw_images: Callable[..., list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = draw_images(4)

    def change_after_planning(*args: Any, **kwargs: Any) -> None:
        write_plan(*args, **kwargs)
        os.utime(images[2], ns=(5, 5))
        images[3].unlink()

    monkeypatch.setattr("imgcls_ray.predict.job.write_plan", change_after_planning)
    label()
    assert [row["error"] for row in rows_of(tmp_path / "store")] == [None, None, "changed", "not_found"]
    monkeypatch.undo()
    assert label().plan.changed == 1
    assert [row["error"] for row in rows_of(tmp_path / "store")] == [None, None, None, "not_found"]
    assert verify(tmp_path / "store") == []


def test_another_models_store_is_refused(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    draw_images(2)
    label()
    other = make_small_model(tmp_path / "other", seed=5)
    with pytest.raises(LabelStoreError, match="belongs to another model"):
        label(model=other.path)
    with pytest.raises(LabelStoreError, match="was made with top_k=5, this run has top_k=2"):
        label(top_k=2)


def test_a_model_that_decodes_at_a_fraction_labels_with_the_true_sizes_and_has_stores_of_its_own(
    label: Callable[..., PredictReport],
    draw_images: Callable[..., list[Path]],
    tmp_path: Path,
    small_model: ModelFolder,
) -> None:
    # Halves of 960 x 720 have five times the 72 pixels that the model resizes to.
    draw_images(2, size=(960, 720))
    scaled = tmp_path / "scaled"
    new_model_folder("PP-LCNet_x0_25", scaled, weights=small_model.path, decode="scaled")
    label()
    label(model=scaled, output=tmp_path / "scaled_store")
    rows, others = rows_of(tmp_path / "store"), rows_of(tmp_path / "scaled_store")
    assert [(row["width"], row["height"]) for row in others] == [(960, 720)] * 2
    assert [row["scores"] for row in rows] != [row["scores"] for row in others]
    way_out = f"imgcls models new PP-LCNet_x0_25 --weights {scaled} --decode full --output FOLDER"
    with pytest.raises(LabelStoreError, match=f"was made with decode=full, .* has decode=scaled; .*{way_out}"):
        label(model=scaled)
    with pytest.raises(LabelStoreError, match=r"was made with decode=scaled, .* --decode scaled --output FOLDER"):
        label(output=tmp_path / "scaled_store")


def test_more_workers_than_cores_are_refused_on_one_machine(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]]
) -> None:
    draw_images(64)
    with pytest.raises(ResourceError, match=r"num_workers=10000 needs 10000 CPUs"):
        label(num_workers=10_000)


@ON_RAY
def test_what_cannot_run_is_refused_with_the_numbers(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]]
) -> None:
    draw_images(64)
    with pytest.raises(ResourceError, match=r"needs 64 CPUs .* the Ray cluster has 2 CPUs and 1 GPUs"):
        label(num_workers=64)
    with pytest.raises(ResourceError, match=r"and 8 GPUs, the Ray cluster has 2 CPUs and 1 GPUs"):
        label(num_gpus=8)


def test_a_missing_input_or_model_is_refused_before_anything_is_made(
    label: Callable[..., PredictReport], draw_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="there is no such file or folder"):
        label()
    draw_images(1)
    with pytest.raises(ModelFolderError, match="there is no such model folder"):
        label(model=tmp_path / "nothing")
    assert not (tmp_path / "store").exists()


@ON_BOTH
def test_a_worker_that_cannot_write_ends_the_job_with_the_reason(
    label: Callable[..., PredictReport],
    draw_images: Callable[..., list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw_images(64)

    def block_the_parts(*args: Any, **kwargs: Any) -> Any:
        # A file where the folder of parts belongs: the tests may run as root, whom permissions do not stop.
        (tmp_path / "store" / "predictions").write_text("")
        return label_units(*args, **kwargs)

    monkeypatch.setattr("imgcls_ray.predict.job.label_units", block_the_parts)
    with pytest.raises(StorageError, match=r"predictions.*the same command goes on from there") as caught:
        label()
    assert "\n" not in str(caught.value)


@ON_BOTH
def test_a_worker_that_cannot_start_ends_the_job_with_the_reason(
    label: Callable[..., PredictReport],
    draw_images: Callable[..., list[Path]],
    small_model: ModelFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw_images(64)
    model = shutil.copytree(small_model.path, tmp_path / "model")

    def remove_the_model(*args: Any, **kwargs: Any) -> Any:
        shutil.rmtree(model)
        return label_units(*args, **kwargs)

    monkeypatch.setattr("imgcls_ray.predict.job.label_units", remove_the_model)
    with pytest.raises(ModelFolderError, match=r"there is no such model folder.*the same command goes on from there"):
        label(model=model)
