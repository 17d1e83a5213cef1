"""Rows tell how far their labels can be trusted, by what was fitted to the model when their store began."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from imgcls_ray.config import PredictConfig, make_config
from imgcls_ray.errors import JobFailedError, UsageError
from imgcls_ray.models.api import create_model
from imgcls_ray.models.calibration import Calibration, Thresholds
from imgcls_ray.models.folder import update_model
from imgcls_ray.models.profile import Profile
from imgcls_ray.predict import identity as module
from imgcls_ray.predict.job import predict
from imgcls_ray.storage import open_directory
from imgcls_ray.store.latest import latest_rows
from imgcls_ray.store.opening import open_store
from tests.store.stores import new_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder

TRUST = ("probability", "decision", "ood_score")


def label(images: Path, model: Path, store: Path) -> list[dict[str, Any]]:
    values = {"input": str(images), "model": str(model), "output": str(store), "batch_size": 8, "on": "local"}
    # One format, so that rows of two runs can be compared.
    predict(make_config(PredictConfig, {**values, "precision": "fp32"}), Console(stderr=True, force_terminal=False))
    opened = open_store(open_directory(str(store)))
    return [row for table in latest_rows(opened) for row in table.to_pylist()]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(module.logger, "warning", lambda text, *args: lines.append(text % args))
    return lines


def test_a_store_goes_on_with_what_it_began_with(
    small_model: ModelFolder, draw_images: Callable[..., list[Path]], tmp_path: Path, told: list[str]
) -> None:
    images = draw_images(12)
    images[3].write_bytes(b"")
    model, fingerprint = shutil.copytree(small_model.path, tmp_path / "model"), small_model.spec.fingerprint
    before = label(tmp_path / "images", model, tmp_path / "plain")
    # Nobody shall take nulls for probabilities.
    assert "probability" not in before[0]
    assert {row["decision"] for row in before} == {None}

    middle = sorted(row["score"] for row in before if row["score"])[5]
    about: dict[str, Any] = {"target_precision": 0.9, "confidence": 0.95, "split": "val", "num_images": 99}
    thresholds = Thresholds(threshold=middle, coverage=0.5, **about)
    update_model(str(model), fingerprint, {}, {"temperature": 0.5, "thresholds": thresholds})
    rows = label(tmp_path / "images", model, tmp_path / "store")
    assert [{**row, **dict.fromkeys(TRUST)} for row in rows] == [{**row, **dict.fromkeys(TRUST)} for row in before]
    good = [row for row in rows if row["error"] is None]
    assert {(row["decision"], row["score"] >= np.float32(middle)) for row in good} == {
        ("accepted", True),
        ("unsure", False),
    }
    profile = open_store(open_directory(str(tmp_path / "store"))).run_record(1)["profile"]
    num_accepted = sum(row["decision"] == "accepted" for row in good)
    assert Profile.model_validate(profile).share_accepted == num_accepted / len(good)
    # Half the temperature makes the best class surer.
    assert all(row["probability"] > row["score"] for row in good)
    [bad] = [row for row in rows if row["error"] is not None]
    assert [bad[name] for name in TRUST] == [None, None, None]
    assert_python_agrees(good, model)
    assert told == []

    update_model(str(model), fingerprint, {}, {"temperature": 4.0, "thresholds": None})
    draw_images(14)
    images[3].write_bytes(b"")
    again = {row["uri"]: row for row in label(tmp_path / "images", model, tmp_path / "store")}
    assert all(
        row["decision"] is not None and row["probability"] > row["score"] for row in again.values() if row["score"]
    )
    assert [line.partition(": ")[2] for line in told] == [
        f"goes on with what it began with, temperature 0.5 and thresholds for a precision of 0.9; {model} has "
        "temperature 4 and no thresholds by now, and a new --output takes that"
    ]


def test_what_was_fitted_to_plain_images_judges_no_mirrored_ones(small_model: ModelFolder) -> None:
    fitted = small_model.spec.model_copy(update={"calibration": Calibration(temperature=2)})
    folder = replace(small_model, spec=fitted)
    values = {"input": "i", "model": "m", "output": "o"}
    for tta, calibration in (("none", Calibration(temperature=2)), ("hflip", Calibration())):
        identity = module.identity_of(make_config(PredictConfig, {**values, "tta": tta}), folder.spec)
        assert identity.calibration == calibration


def test_a_store_of_an_earlier_version_has_no_columns_and_is_told_so(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(module.logger, "info", lambda text, *args: lines.append(text % args))
    store = new_store(tmp_path)
    assert not set(TRUST) & set(store.schema.names)
    module._tell_calibration(store, "model", small_model.spec.fitted)
    assert lines == [
        f"{tmp_path}: an earlier version made it, without the columns probability, decision and ood_score; it goes on "
        "without them. A new --output has them"
    ]


def assert_python_agrees(rows: list[dict[str, Any]], model: Path) -> None:
    results = create_model(model, precision="fp32").predict([row["uri"] for row in rows], batch_size=8)
    for row, result in zip(rows, results, strict=True):
        assert (result.probability, result.ood_score) == pytest.approx((row["probability"], row["ood_score"]), rel=1e-3)
        assert result.decision == row["decision"]
        # PaddleX's files have no key for it.
        assert sorted(result.to_dict()) == ["class_ids", "input_path", "label_names", "scores"]


def test_the_drift_of_a_run_is_told_by_its_record_and_by_the_command(
    small_model: ModelFolder, draw_images: Callable[..., list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from imgcls_ray.commands.drift import run

    model, store = shutil.copytree(small_model.path, tmp_path / "model"), tmp_path / "store"
    images = draw_images(40)
    label(tmp_path / "images", model, tmp_path / "before")
    with pytest.raises(UsageError, match="its model was not evaluated before"):
        run(None, [], {"store": str(tmp_path / "before")})
    before = open_store(open_directory(str(tmp_path / "before")))
    record = before.run_record(1)
    assert "drift" not in record
    flipped = before.identity.model_copy(update={"tta": "hflip"})
    before.directory.replace("store.json", flipped.model_dump_json().encode())
    with pytest.raises(UsageError, match="was labelled with tta=hflip"):
        run(None, [], {"store": str(tmp_path / "before")})
    profile = Profile.model_validate(record["profile"])
    assert profile.num_images == 40

    update_model(str(model), small_model.spec.fingerprint, {}, {"profile": profile})
    label(tmp_path / "images", model, store)
    for path in images:
        with Image.open(path) as picture:
            picture.point(lambda value: value // 4).save(path)
    label(tmp_path / "images", model, store)
    about: dict[str, Any] = {"store": str(store), "output": str(tmp_path / "out"), "num_pictures": 3}
    run(None, [], {**about, "run": 1, "max_drift": 0.1})
    assert "drift: none above noise" in capsys.readouterr().out
    with pytest.raises(JobFailedError, match=r"run 0002 have drifted by .*brightness [01]\."):
        run(None, [], {**about, "max_drift": 0.1})
    told: Any = open_store(open_directory(str(store))).run_record(2)["drift"]
    assert told["features"]["brightness"]["is_real"] is True
    assert json.loads((tmp_path / "out" / "drift_result.json").read_text())["drift"] == told["drift"]
    assert (tmp_path / "out" / "drift" / "report.html").read_text().count("<figure>") == 3
    label(tmp_path / "images", model, store)
    with pytest.raises(UsageError, match="run 3 does not tell what its images are like: it labelled none, or"):
        run(None, [], {"store": str(store), "run": 3})
    with pytest.raises(UsageError, match="has no finished run 9"):
        run(None, [], {"store": str(store), "run": 9})
