"""The metrics of an evaluation, and which epoch is the best one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_recall_fscore_support

from imgcls_ray.errors import JobFailedError
from imgcls_ray.train.learner import Learner
from imgcls_ray.train.scores import (
    Evaluated,
    class_scores,
    is_better,
    mean_average_precision,
    recalls_by_epoch,
    score_each_class,
    told_of_loss,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from imgcls_ray.config import TrainConfig
    from imgcls_ray.train.loading import Batch
    from imgcls_ray.train.result import TrainResult

NAN = math.nan


def test_scores_of_classes_are_scikit_learns_over_the_classes_that_have_images() -> None:
    rng = np.random.default_rng(0)
    true, told = rng.integers(0, 4, 200), rng.integers(0, 6, 200)
    counts = [np.bincount(of, minlength=7) for of in (true[true == told], true, told)]
    scores = class_scores(*counts)
    expected = f1_score(true, told, labels=np.unique(true), average="macro")
    assert scores["val.macro_f1"] == pytest.approx(expected)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert scores["val.balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true, told))
    assert class_scores(*np.zeros((3, 2)))["val.macro_f1"] == 0.0


def test_scores_of_each_class_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    true, told = rng.integers(0, 4, 200), rng.integers(0, 5, 200)
    scores = score_each_class([np.bincount(of, minlength=6).tolist() for of in (true[true == told], true, told)])
    expected = precision_recall_fscore_support(true, told, labels=range(4), zero_division=0)
    for place, (precision, recall, f1, count) in enumerate(zip(*expected, strict=True)):
        assert scores[place] == pytest.approx((count, recall, precision, f1))
    # One that is told without having images, and one without anything.
    assert [(one.num_images, one.recall, one.f1) for one in scores[4:]] == [(0, None, None)] * 2
    assert (scores[4].precision, scores[5].precision) == (0.0, None)


def test_a_class_has_a_curve_if_it_has_images_on_val() -> None:
    counts: dict[float, list[list[int]]] = {1: [[1, 0], [2, 0], [2, 0]], 3: [[2, 0], [2, 0], [2, 0]]}
    assert recalls_by_epoch(counts, ["ant", "bee"]) == {"ant": [(1, 0.5), (3, 1.0)]}


def test_average_precision_is_of_each_class_that_has_images() -> None:
    scores = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.7, 0.3, 0]], np.float32)
    # Class 0: right, right, wrong in the order 0.9, 0.7 (wrong), 0.6; class 1: right is last of three but for 0.4.
    labels = np.array([0, 0, 1])
    assert mean_average_precision(scores, labels) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    assert math.isnan(mean_average_precision(np.full((2, 2), NAN, np.float32), np.array([0, 1])))


@pytest.mark.parametrize(
    ("monitor", "one", "other"),
    [
        ("top1", {"top1": 0.9, "loss": 2.0}, {"top1": 0.8, "loss": 1.0}),
        ("top1", {"top1": 0.9, "loss": 1.0}, {"top1": 0.9, "loss": 2.0}),
        ("loss", {"top1": 0.8, "loss": 1.0}, {"top1": 0.9, "loss": 2.0}),
        ("macro_f1", {"macro_f1": 0.5, "loss": 2.0}, {"macro_f1": 0.4, "loss": 1.0}),
        ("top1", {"top1": 0.1, "loss": 9.0}, {}),
    ],
)
def test_the_better_epoch_is_that_of_the_metric_asked_for(
    monitor: str, one: dict[str, float], other: dict[str, float]
) -> None:
    better, worse = ({f"val.{key}": value for key, value in metrics.items()} for metrics in (one, other))
    assert is_better(better, worse, monitor)
    assert not is_better(better, better, monitor)
    assert not worse or not is_better(worse, better, monitor)


@pytest.mark.parametrize("monitor", ["top1", "loss"])
def test_what_is_no_number_is_never_better(monitor: str) -> None:
    for metrics in ({"val.top1": 0.9, "val.loss": NAN}, {"val.top1": NAN, "val.loss": math.inf}):
        assert not is_better(metrics, {}, monitor)
        assert not is_better(metrics, {"val.top1": 0.1, "val.loss": 5.0}, monitor)


@pytest.mark.parametrize(("loss", "is_told"), [(0.1, False), (2.3, False), (11.0, False), (24.0, True), (NAN, True)])
def test_an_absurd_loss_is_told(loss: float, is_told: bool) -> None:
    assert bool(told_of_loss(loss, 10)) == is_told


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[tuple[float, float, float]]], None]:
    """Evaluations with these losses, top-1 and macro F1, one after the other."""

    def script(found: list[tuple[float, float, float]]) -> None:
        rows = iter(found)

        def evaluate(_self: Learner, batches: Iterable[Batch]) -> Evaluated:
            list(batches)
            loss, top1, f1 = next(rows)
            metrics = {"val.loss": loss, "val.top1": top1, "val.top5": 1.0, "val.macro_f1": f1}
            return Evaluated(metrics, 0, [[1, 2, 3], [5, 5, 5], [5, 5, 5]])

        monkeypatch.setattr(Learner, "evaluate", evaluate)

    return script


@pytest.mark.parametrize(("monitor", "best"), [("top1", 2), ("loss", 4), ("macro_f1", 3)])
def test_the_best_epoch_is_that_of_the_metric_asked_for(
    make_train_config: Callable[..., TrainConfig],
    train_here: Callable[..., TrainResult],
    scripted: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    monitor: str,
    best: int,
) -> None:
    scripted([(NAN, 0.99, 0.99), (2.0, 0.9, 0.1), (99.0, 0.5, 0.8), (0.5, 0.4, 0.3)])
    config = make_train_config(epochs=4, monitor=monitor)
    assert train_here(config).best_epoch == best
    text = Path(config.output, "train_result.json").read_text()
    assert "NaN" not in text
    result = json.loads(text)
    assert result["history"][0]["val.loss"] is None
    assert [(one["label"], one["train_samples"], one["recall"]) for one in result["classes"]] == [
        ("red", 16, 0.2),
        ("green", 16, 0.4),
        ("blue", 16, 0.6),
    ]
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.partition(":")[0] for line in told if "val loss" in line] == ["epoch 1", "epoch 3"]


def test_a_run_stops_early_by_the_metric_asked_for(
    make_train_config: Callable[..., TrainConfig], train_here: Callable[..., TrainResult], scripted: Callable[..., None]
) -> None:
    scripted([(1.0, 0.1, 0), (2.0, 0.2, 0), (3.0, 0.3, 0), (4.0, 0.4, 0), (5.0, 0.5, 0)])
    result = train_here(make_train_config(epochs=5, monitor="loss", early_stop=2))
    assert (result.best_epoch, result.last_metrics["epoch"]) == (1, 3)


def test_an_evaluation_within_an_epoch_may_be_the_best_one(
    make_train_config: Callable[..., TrainConfig],
    train_here: Callable[..., TrainResult],
    scripted: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    scripted([(1.0, 0.1, 0), (1.0, 0.2, 0), (1.0, 0.4, 0), (1.0, 0.3, 0)])
    config = make_train_config(epochs=2, eval_steps=2)
    result = train_here(config)
    assert (result.best_epoch, result.best_metrics["val.top1"]) == (1.666667, 0.4)
    written = json.loads(Path(config.output, "train_result.json").read_text())
    assert [(row["epoch"], row["step"], "train.loss" in row) for row in written["history"]] == [
        (0.666667, 2, False),
        (1, 3, True),
        (1.666667, 5, False),
        (2, 6, True),
    ]
    assert written["models"]["best"]["epoch"] == 1.666667
    assert [record.getMessage()[:40] for record in caplog.records if "best)" in record.getMessage()][-1].startswith(
        "epoch 1.667: val top-1 40.00%"
    )


def test_a_run_without_any_number_fails_and_says_so(
    make_train_config: Callable[..., TrainConfig], train_here: Callable[..., TrainResult], scripted: Callable[..., None]
) -> None:
    config: Any = make_train_config(epochs=2)
    for _ in range(2):
        scripted([(NAN, 0.9, 0.9), (NAN, 0.9, 0.9)])
        with pytest.raises(JobFailedError, match="no epoch has a loss on val that is a number"):
            train_here(config)


def test_map_is_measured_where_it_is_asked_for(
    make_train_config: Callable[..., TrainConfig], train_here: Callable[..., TrainResult]
) -> None:
    result = train_here(make_train_config(epochs=2, monitor="mAP"))
    assert 0 < result.best_metrics["val.mAP"] <= 1
