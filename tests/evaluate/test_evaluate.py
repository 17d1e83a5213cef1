"""An evaluation is exact: figures are those of a plain loop over its rows, and labels those of every other way."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rich.console import Console

from imgcls_ray.commands import evaluate as command
from imgcls_ray.config import EvaluateConfig, PredictConfig, make_config
from imgcls_ray.datasets.entry_file import EntryFile
from imgcls_ray.errors import ConfigError, JobFailedError, StoppedError, StorageError, UsageError
from imgcls_ray.evaluate import job as module
from imgcls_ray.evaluate.calibration import TEMPERATURES
from imgcls_ray.evaluate.classifying import EvaluateTask, EvaluateWork, classify_blocks, read_answer
from imgcls_ray.evaluate.job import evaluate
from imgcls_ray.evaluate.output import PREDICTION_SCHEMA
from imgcls_ray.evaluate.reading import read_split
from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.models.api import create_model
from imgcls_ray.models.folder import open_model_folder, save_model_folder
from imgcls_ray.models.open import open_model
from imgcls_ray.predict.job import predict
from imgcls_ray.storage import open_directory
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import open_store
from imgcls_ray.workers.board import LocalBoard
from imgcls_ray.workers.plan import WorkerPlan
from imgcls_ray.workers.ray_pool import RayPool
from imgcls_ray.workers.worker import BlockWorker
from tests.conftest import SMALL_CLASSES, make_small_model
from tests.evaluate.make_data import BAD, write_dataset
from tests.workers.survival import POISON, poison

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgcls_ray.evaluate.classifying import BlockAnswer
    from imgcls_ray.evaluate.evaluation import Evaluation
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.workers.worker import Block
    from tests.s3.server import S3Server

PICTURES = ["confusion.png", "mistakes.jpg", "reliability.png", "risk_coverage.png"]
TABLES = ["confusion.csv", "per_class.csv", "predictions.parquet", "unreadable.csv"]
CONSOLE = Console(stderr=True)


class Done(NamedTuple):
    """One evaluation, done."""

    data: Path
    lines: list[tuple[str, str]]
    model: Path
    output: Path
    result: Evaluation

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(self.output / "evaluate" / "predictions.parquet").to_pylist()
        return rows

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.output / "evaluate_result.json").read_text())
        return summary


def run(data: Path, model: Path, output: Path, **options: object) -> Evaluation:
    values = {"data": str(data), "model": str(model), "output": str(output), **options}
    return evaluate(EvaluateConfig.model_validate(values), CONSOLE)


@pytest.fixture(scope="module", autouse=True)
def bundled() -> Iterator[list[str]]:
    """Model folders that would have got their converted network: a conversion takes longer than most tests here."""
    models: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imgcls_ray.evaluate.job.add_bundle", lambda model, *_: models.append(model))
        yield models


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, small_model: ModelFolder, ray_session: None) -> Done:
    """Sixty images and four bad ones; the dataset's ids are not the model's, and have gaps."""
    root = tmp_path_factory.mktemp("evaluation")
    lines = write_dataset(root / "data", 60, bad=list(BAD))
    model = shutil.copytree(small_model.path, root / "model")
    # A network with random weights is hardly ever right: so little is wanted.
    options = {"max_error_rate": 0.1, "num_mistakes": 7, "target_precision": 0.001}
    result = run(root / "data", model, root / "out", **options)
    return Done(root / "data", lines, model, root / "out", result)


def test_every_line_of_the_list_is_one_row_in_its_order(done: Done) -> None:
    rows = done.rows
    assert pq.read_schema(done.output / "evaluate" / "predictions.parquet").equals(PREDICTION_SCHEMA)
    assert [(row["path"], row["label"]) for row in rows] == done.lines
    assert all(row["uri"] == str(done.data / row["path"]) for row in rows)
    assert all(SMALL_CLASSES[row["label_id"]] == row["label"] for row in rows)


def test_top1_and_top5_are_exactly_those_of_a_loop_over_the_rows(done: Done) -> None:
    good = [row for row in done.rows if row["status"] == "ok"]
    top1 = top5 = 0
    for row in good:
        top1 += row["labels"][0] == row["label"]
        top5 += row["label"] in row["labels"][:5]
        assert row["correct"] == (row["predicted"] == row["label"])
        assert (row["predicted"], row["score"]) == (row["labels"][0], row["scores"][0])
        assert SMALL_CLASSES[row["predicted_id"]] == row["predicted"]
        assert row["scores"] == sorted(row["scores"], reverse=True)
    assert len(good) == 60
    metrics = done.summary["metrics"]
    assert (metrics["val.top1"], metrics["val.top5"]) == (top1 / 60, top5 / 60)
    assert 0 < top1 < top5 < 60


def test_with_mirror_images_nothing_is_kept_in_the_folder(done: Done, tmp_path: Path) -> None:
    model = shutil.copytree(done.model, tmp_path / "model")
    before = (model / "model.json").read_bytes()
    result = run(done.data, model, tmp_path / "out", max_error_rate=0.1, on="local", tta="hflip")
    assert result.scores is not None
    assert not result.kept_in_model
    assert (model / "model.json").read_bytes() == before
    summary = json.loads((tmp_path / "out" / "evaluate_result.json").read_text())
    assert (summary["tta"], done.summary["tta"]) == ("hflip", "none")
    assert summary["metrics"]["val.nll"] != done.summary["metrics"]["val.nll"]


def test_the_confusion_table_is_exactly_that_of_a_loop_over_the_rows(done: Done) -> None:
    cells = Counter((row["label"], row["predicted"]) for row in done.rows if row["status"] == "ok")
    with (done.output / "evaluate" / "confusion.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["true", *SMALL_CLASSES]
    assert {
        (row[0], name): int(n) for row in rows for name, n in zip(SMALL_CLASSES, row[1:], strict=True) if n != "0"
    } == cells


def test_scores_of_classes_are_those_of_a_loop_over_the_rows(done: Done) -> None:
    pairs = [(row["label"], row["predicted"]) for row in done.rows if row["status"] == "ok"]
    f1s, recalls = [], []
    with (done.output / "evaluate" / "per_class.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            name = row["class"]
            hits = sum(pair == (name, name) for pair in pairs)
            found, there = (sum(pair[side] == name for pair in pairs) for side in (1, 0))
            f1s.append(2 * hits / (found + there))
            recalls.append(hits / there)
            assert (int(row["support"]), row["recall"]) == (there, f"{hits / there:.6f}")
            assert row["f1"] == f"{f1s[-1]:.6f}"
    assert done.summary["metrics"]["val.macro_f1"] == pytest.approx(np.mean(f1s))
    assert done.summary["metrics"]["val.balanced_accuracy"] == pytest.approx(np.mean(recalls))


def test_the_calibration_error_is_that_of_the_rows(done: Done) -> None:
    gaps = np.zeros((15, 2))
    for row in done.rows:
        if row["status"] == "ok":
            gaps[int(np.ceil(row["score"] * 15)) - 1] += row["score"], row["correct"]
    assert done.summary["metrics"]["val.ece"] == pytest.approx(np.abs(gaps[:, 0] - gaps[:, 1]).sum() / 60, abs=1e-5)


def test_bulk_labelling_and_python_give_every_image_the_same_label(done: Done, tmp_path: Path) -> None:
    expected = {row["uri"]: row["predicted"] for row in done.rows if row["status"] == "ok"}
    model = create_model(done.model)
    images = sorted(expected)
    by_api = [result.label_names[0] for result in model.predict(images)]
    assert dict(zip(images, by_api, strict=True)) == expected
    values = {"input": str(done.data / "images"), "model": str(done.model), "output": str(tmp_path / "store")}
    predict(PredictConfig.model_validate({**values, "num_workers": 1, "unit_size": 64}), CONSOLE)
    store = open_store(open_directory(str(tmp_path / "store")))
    in_bulk = {row["uri"]: row["label"] for table in latest_rows(store) for row in table.to_pylist() if row["label"]}
    assert in_bulk == expected


def test_bad_images_are_counted_and_listed_and_change_no_figure(done: Done) -> None:
    bad = {Path(row["path"]).name: row["error"] for row in done.rows if row["status"] == "error"}
    assert bad == BAD
    assert all(row["predicted"] is row["score"] is row["correct"] is None for row in done.rows if row["error"])
    with (done.output / "evaluate" / "unreadable.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["error"]) for row in rows] == [(f"images/{name}", code) for name, code in BAD.items()]
    summary = done.summary
    assert (summary["num_samples"], summary["num_unreadable"]) == (64, 4)
    assert summary["unreadable"] == dict.fromkeys(sorted(BAD.values()), 1)


def test_the_summary_has_paddlex_keys_first_and_says_what_was_evaluated(done: Done) -> None:
    summary = done.summary
    assert list(summary)[:2] == ["done_flag", "metrics"]
    assert list(summary["metrics"])[:2] == ["val.top1", "val.top5"]
    assert summary["done_flag"] is True
    assert (summary["num_classes"], summary["dataset"]["num_classes"]) == (7, 7)
    assert summary["model"]["fingerprint"] == open_model_folder(done.model).spec.fingerprint
    assert sorted(summary["files"].values()) == sorted(f"evaluate/{name}" for name in (*PICTURES, *TABLES))
    assert sorted(path.name for path in (done.output / "evaluate").iterdir()) == sorted((*PICTURES, *TABLES))


@pytest.mark.usefixtures("without_ray")
def test_two_classes_of_one_name_are_two_in_every_table(tmp_path: Path, small_model: ModelFolder) -> None:
    spec, names = small_model.spec, ("crane", *SMALL_CLASSES[1:-1], "crane")
    save_model_folder(
        tmp_path / "model",
        small_model.load_network(),
        name=spec.name,
        architecture=spec.architecture,
        class_names=names,
        preprocess=spec.preprocess,
    )
    lines = write_dataset(tmp_path / "data", 30)
    labels = tmp_path / "data" / "label.txt"
    labels.write_text(labels.read_text().replace("ant", "crane").replace("gnu", "crane"))
    result = run(tmp_path / "data", tmp_path / "model", tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "evaluate" / "predictions.parquet").to_pylist()
    assert [row["label_id"] for row in rows] == [SMALL_CLASSES.index(name) for _, name in lines]
    apart = ["crane (id 0)", *SMALL_CLASSES[1:-1], "crane (id 6)"]
    assert all(row["label"] == apart[row["label_id"]] for row in rows)
    assert all(row["predicted"] == apart[row["predicted_id"]] for row in rows)
    with (tmp_path / "out" / "evaluate" / "confusion.csv").open(newline="") as file:
        header, *cells = csv.reader(file)
    assert (header[1:], [row[0] for row in cells]) == (apart, apart)
    assert result.scores is not None
    supports = Counter(name for _, name in lines)
    assert [score.support for score in result.scores.classes] == [supports[name] for name in SMALL_CLASSES]


def test_mistakes_on_the_sheet_are_the_surest(done: Done) -> None:
    wrong = sorted((row for row in done.rows if row["correct"] is False), key=lambda row: -row["score"])
    assert done.result.scores is not None
    assert [mistake.path for mistake in done.result.scores.mistakes] == [row["path"] for row in wrong[:7]]


def test_pictures_can_be_opened(done: Done) -> None:
    for name in PICTURES:
        with Image.open(done.output / "evaluate" / name) as picture:
            assert min(picture.size) > 200


def test_metrics_are_kept_in_the_model_whose_labels_stay(
    done: Done, small_model: ModelFolder, bundled: list[str]
) -> None:
    spec = open_model_folder(done.model).spec
    metrics = done.summary["metrics"]
    kept = {name: metrics[name] for name in ("val.top1", "val.top5", "val.ece")}
    assert spec.metrics == kept
    assert spec.fitted.temperature == metrics.get("val.temperature")
    assert spec.fingerprint == small_model.spec.fingerprint
    assert done.summary["kept_in_model"] is True
    # And what a folder of an earlier version lacks.
    assert str(done.model) in bundled


def test_thresholds_and_the_profile_are_kept_in_the_model(done: Done) -> None:
    good = [row for row in done.rows if row["status"] == "ok"]
    fitted = open_model_folder(done.model).spec.fitted
    assert fitted.thresholds is not None
    assert fitted.profile is not None
    assert (fitted.thresholds.num_images, fitted.profile.num_images) == (60, 60)
    assert done.summary["thresholds"] == json.loads(fitted.thresholds.model_dump_json())
    ids, scores = np.array([row["predicted_id"] for row in good]), np.array([row["score"] for row in good], np.float32)
    accepted = fitted.thresholds.accepts(ids, scores)
    assert accepted.sum() > 0
    metrics = done.summary["metrics"]
    assert metrics["val.coverage"] == accepted.mean()
    assert metrics["val.precision_accepted"] == np.mean([row["correct"] for row in good], where=accepted)
    assert Counter(row["predicted_id"] for row in good) == fitted.profile.counts["label"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"split": "train"}, "target_precision needs split=val or test"),
        ({"calibrate": False}, "leave calibrate=false out"),
        ({"target_precision": 1.0}, "target_precision"),
    ],
)
def test_thresholds_that_cannot_be_fitted_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        make_config(EvaluateConfig, {"data": "d", "model": "m", "target_precision": 0.9, **values})


def test_actors_of_a_gpu_give_the_same_answers(done: Done, tmp_path: Path) -> None:
    entries = EntryFile(tmp_path / "entries.parquet")
    split = read_split(str(done.data), "val", entries, model="", model_names=SMALL_CLASSES)
    task = task_of(open_model_folder(done.model))
    blocks = list(classify_blocks(split.blocks(40), task, RayPool(WorkerPlan(1, 1), gpu_device="cpu")))
    rows = sorted((row for block in blocks for row in block.answers.to_pylist()), key=lambda row: row["number"])
    assert [row["code"] for row in rows] == [row["error"] for row in done.rows]
    assert [row["class_ids"] and row["class_ids"][0] for row in rows] == [row["predicted_id"] for row in done.rows]
    assert sum(block.calibration[0, 1:16].sum() for block in blocks) == 60


def task_of(model: ModelFolder) -> EvaluateTask:
    return EvaluateTask(
        str(model.path),
        model.spec.fingerprint,
        top_k=5,
        logits=True,
        decode_limits=DecodeLimits(timeout_s=20),
        temperatures=tuple(TEMPERATURES),
    )


def classify_here(
    blocks: Iterable[Block], task: EvaluateTask, *_: object, num_deaths: int = 0
) -> Iterator[BlockAnswer]:
    """What one worker does, in this process."""
    board = LocalBoard()
    worker = BlockWorker(lambda: EvaluateWork(task), board, lambda: "alone")
    for block in blocks:
        for _death in range(num_deaths):
            board.begin("label", block.name)
        yield read_answer(worker.run(block), task)


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "start_classifiers", lambda *_: RayPool(WorkerPlan(1)))
    monkeypatch.setattr(module, "classify_blocks", classify_here)
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.usefixtures("without_ray")
def test_an_image_that_ends_its_worker_costs_its_own_row_only(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(POISON)
    write_dataset(tmp_path / "data", 6)
    poison(tmp_path / "data" / "images" / "002.jpg", "CRASH")
    entries = EntryFile(tmp_path / "entries.parquet")
    split = read_split(str(tmp_path / "data"), "val", entries, model="", model_names=SMALL_CLASSES)
    [block] = split.blocks(32)
    [answer] = classify_here([block], task_of(small_model), num_deaths=2)
    rows = answer.answers.to_pylist()
    assert [row["code"] for row in rows] == [None, None, "decoder_crashed", None, None, None]
    [clean] = classify_here(
        [replace(block, content=block.content.filter([i != 2 for i in range(6)]))], task_of(small_model)
    )
    assert [row for row in rows if row["code"] is None] == clean.answers.to_pylist()


def test_a_block_that_ends_every_worker_ends_the_job(small_model: ModelFolder, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", 3)
    entries = EntryFile(tmp_path / "entries.parquet")
    split = read_split(str(tmp_path / "data"), "val", entries, model="", model_names=SMALL_CLASSES)
    with pytest.raises(
        JobFailedError, match=r"the block of 3 images from .*images/000\.jpg on has ended its worker 5 times"
    ):
        list(classify_here(split.blocks(32), task_of(small_model), num_deaths=5))


@pytest.mark.usefixtures("without_ray")
def test_too_many_bad_images_fail_the_job_after_everything_is_written(
    tmp_path: Path, small_model: ModelFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data", 9, bad=["cut.jpg"])
    model = shutil.copytree(small_model.path, tmp_path / "model")
    before = (model / "model.json").read_bytes()
    flags = {"data": str(tmp_path / "data"), "model": str(model), "output": str(tmp_path / "out")}
    with pytest.raises(JobFailedError, match=r"1 of the 10 images of val cannot be read \(1 truncated\)") as caught:
        command.run(None, ["max_error_rate=0.05"], flags)
    assert caught.value.exit_code == 1
    summary = json.loads((tmp_path / "out" / "evaluate_result.json").read_text())
    assert summary["done_flag"] is False
    assert summary["err_type"] == "<class 'imgcls_ray.errors.JobFailedError'>"
    assert summary["err_msg"] == str(caught.value)
    assert "val.top1" in summary["metrics"]
    assert set(TABLES) < {path.name for path in (tmp_path / "out" / "evaluate").iterdir()}
    assert (model / "model.json").read_bytes() == before
    out = capsys.readouterr().out
    assert "val.top1" in out
    assert "left out: 1 image, truncated" in out

    # The same place again, with nothing that can be read: what does not apply any more goes.
    for path in (tmp_path / "data" / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(JobFailedError, match="10 of the 10 images of val cannot be read"):
        command.run(None, ["max_error_rate=1"], flags)
    summary = json.loads((tmp_path / "out" / "evaluate_result.json").read_text())
    assert (summary["done_flag"], summary["metrics"], summary["num_unreadable"]) == (False, {}, 10)
    assert sorted(path.name for path in (tmp_path / "out" / "evaluate").iterdir()) == TABLES[2:]


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("names", [("only",), ("no", "yes")])
def test_models_of_one_and_two_classes_have_a_top5_of_one(tmp_path: Path, names: tuple[str, ...]) -> None:
    write_dataset(tmp_path / "data", 8, ids={name: place for place, name in enumerate(reversed(names))})
    model = make_small_model(tmp_path / "model", seed=0, class_names=names)
    result = run(tmp_path / "data", model.path, tmp_path / "out", engine="torch", calibrate=False)
    assert result.scores is not None
    assert result.scores.metrics["top5"] == 1.0
    assert "temperature" not in result.scores.metrics
    assert result.kept_in_model is False
    rows = pq.read_table(tmp_path / "out" / "evaluate" / "predictions.parquet").to_pylist()
    assert result.scores.metrics["top1"] == sum(row["correct"] for row in rows) / 8
    assert {len(row["labels"]) for row in rows} == {len(names)}
    # Nothing was wrong with one class: no sheet of mistakes.
    assert (tmp_path / "out" / "evaluate" / "mistakes.jpg").exists() is (len(names) > 1)


def test_what_is_refused_is_written_over_an_earlier_result(tmp_path: Path, small_model: ModelFolder) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evaluate_result.json").write_text('{"done_flag": true}')
    with pytest.raises(UsageError) as caught:
        run(tmp_path / "none", small_model.path, tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "evaluate_result.json").read_text())
    assert summary == {
        "done_flag": False,
        "err_type": "<class 'imgcls_ray.errors.InputError'>",
        "err_msg": str(caught.value),
    }


def test_someone_who_stops_it_is_told_that_nothing_of_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "open_model", stop)
    flags = {"data": "data", "model": "model", "output": str(tmp_path / "out")}
    with pytest.raises(StoppedError, match="stopped before the evaluation was complete"):
        command.run(None, [], flags)
    assert json.loads((tmp_path / "out" / "evaluate_result.json").read_text())["done_flag"] is False


@pytest.mark.usefixtures("without_ray")
def test_everything_may_lie_on_s3(
    tmp_path: Path, small_model: ModelFolder, s3: S3Server, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "set", 12, bad=["cut.jpg"])
    shutil.copytree(small_model.path, tmp_path / "model")
    for path in (path for name in ("set", "model") for path in (tmp_path / name).rglob("*.*")):
        s3.client().put_object(Bucket=bucket, Key=str(path.relative_to(tmp_path)), Body=path.read_bytes())
    flags = {key: f"s3://{bucket}/{name}" for key, name in (("data", "set"), ("model", "model"), ("output", "out"))}
    command.run(None, ["max_error_rate=0.1"], flags)
    place = open_directory(f"s3://{bucket}")
    summary = json.loads(place.read("out/evaluate_result.json"))
    assert (summary["done_flag"], summary["num_samples"]) == (True, 13)
    assert summary["unreadable"] == {"truncated": 1}
    rows = pq.read_table(place.open("out/evaluate/predictions.parquet")).to_pylist()
    assert [row["path"] for row in rows if row["error"]] == ["images/cut.jpg"]
    assert sorted(place.entries("out/evaluate")) == sorted((*PICTURES, *TABLES))
    # Who opens the model now sees its metrics, though a copy of it was kept before it had any.
    top1 = summary["metrics"]["val.top1"]
    assert json.loads(place.read("model/model.json"))["metrics"]["val.top1"] == top1
    assert open_model(flags["model"]).spec.metrics["val.top1"] == top1
    assert f"s3://{bucket}/out/evaluate_result.json" in capsys.readouterr().out


@pytest.mark.usefixtures("without_ray")
def test_a_second_evaluation_at_the_same_place_gives_the_same_files(tmp_path: Path, small_model: ModelFolder) -> None:
    write_dataset(tmp_path / "data", 20)
    model = shutil.copytree(small_model.path, tmp_path / "model")

    def files() -> dict[str, bytes]:
        run(tmp_path / "data", model, tmp_path / "out", batch_size=8, target_precision=0.001)
        assert json.loads((tmp_path / "out" / "evaluate_result.json").read_text())["done_flag"] is True
        fitted = open_model(str(model)).spec.fitted
        assert fitted.thresholds is not None
        assert fitted.profile is not None
        # Decisions of the second one would be by the thresholds of the first.
        assert not fitted.profile.counts["decision"]
        return {path.name: path.read_bytes() for path in (tmp_path / "out" / "evaluate").iterdir()}

    assert files() == files()


@pytest.mark.usefixtures("without_ray")
def test_a_model_that_cannot_be_written_is_warned_of_and_evaluated(
    tmp_path: Path, small_model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("model.json: cannot be written: Read-only file system")

    monkeypatch.setattr(module, "update_model", refuse)
    # Whatever other tests have done to logging.
    told: list[str] = []
    monkeypatch.setattr(module.logger, "warning", lambda text, *args: told.append(text % args))
    write_dataset(tmp_path / "data", 20)
    result = run(tmp_path / "data", small_model.path, tmp_path / "out")
    assert result.kept_in_model is False
    assert "the metrics are not saved with the model: model.json: cannot be written: Read-only file system" in told
    assert json.loads((tmp_path / "out" / "evaluate_result.json").read_text())["done_flag"] is True
