"""Accuracy control: layers stay in floating point until the labels are kept, and a crash costs the attempt alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from imgcls_ray.config import ExportConfig, make_config
from imgcls_ray.export import restore
from imgcls_ray.export.attempts import _control
from imgcls_ray.export.images import CalibrationImage
from imgcls_ray.export.network import export_network
from imgcls_ray.export.parity import Parity, original_labels
from imgcls_ray.export.quantize import Control
from imgcls_ray.export.restore import NotRestoredError, quantize_with_control
from imgcls_ray.models.classifier import ModelInput
from imgcls_ray.models.engines.load import load_engine
from imgcls_ray.models.folder import new_folder
from imgcls_ray.workers.child import ChildProcess
from tests.export.test_export import pictures, plain_logits

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.models.folder import ModelFolder


def config_of(**options: Any) -> ExportConfig:
    values = {"model": "m", "output": "o", "format": "openvino", "int8": True, "images": "pictures"}
    return make_config(ExportConfig, {**values, **options})


def calibration(labels: list[int | None]) -> list[CalibrationImage]:
    pixels = pictures(len(labels))
    return [CalibrationImage(ModelInput(one, 64, 64), label) for one, label in zip(pixels, labels, strict=True)]


def test_labels_of_a_dataset_that_were_right_are_kept_to_half_of_what_may_be_lost(small_model: ModelFolder) -> None:
    answers = original_labels(small_model, [one.image for one in calibration([None] * 4)], least_score=0)
    [first, second, third, _] = answers
    assert first is not None
    images = calibration([(first + 1) % 7, second, third, None])
    control = _control(small_model, Parity(num_images=9, num_labelled=9), images, config_of(max_accuracy_drop=0.02))
    assert control == Control([None, second, third, None], 0.01)


def test_without_labels_those_of_which_the_original_is_confident_are_kept(small_model: ModelFolder) -> None:
    images = calibration([None] * 16)
    control = _control(small_model, Parity(num_images=9), images, config_of(min_agreement=0.9))
    assert control is not None
    logits = plain_logits(small_model, pictures(16))
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = [int(row.argmax()) if row.max() >= 0.5 else None for row in scores]
    assert None in expected
    # In bf16 some fall on the other side.
    assert sum(one == other for one, other in zip(control.expected, expected, strict=True)) >= 12
    assert control.max_drop == pytest.approx(0.05)


def test_without_labels_and_without_confidence_nothing_can_be_kept(
    small_model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgcls_ray.export.attempts.CONFIDENT_SCORE", 1.1)
    assert _control(small_model, Parity(num_images=9), calibration([None] * 4), config_of()) is None


def test_a_process_that_dies_is_told_as_a_failure(
    small_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "ChildProcess", lambda *_: ChildProcess("tests.export.crash", "serve"))
    with pytest.raises(NotRestoredError, match="the process that compiled its networks died: signal 9"):
        quantize_with_control(
            tmp_path / "model.xml",
            list(pictures(2)),
            small_model.spec.preprocess,
            has_attention=False,
            control=Control([0, 1], 0.0),
        )


def test_what_fails_in_that_process_is_told_with_its_reason(small_model: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(NotRestoredError, match="No such file or directory"):
        quantize_with_control(
            tmp_path / "none.xml",
            list(pictures(2)),
            small_model.spec.preprocess,
            has_attention=False,
            control=Control([0, 1], 0.0),
        )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_labels_that_8_bits_lose_come_back_in_part(small_model: ModelFolder, tmp_path: Path) -> None:
    pixels = pictures(24)
    expected = plain_logits(small_model, pixels).argmax(axis=1)
    kept = {}
    for control in (None, Control(expected.tolist(), 0.0)):
        with new_folder(tmp_path / str(control is not None)) as partial:
            exported = export_network(small_model, partial, "openvino", calibrate_on=list(pixels), control=control)
            engine = load_engine(exported, precision="fp32", batch_size=len(pixels), num_threads=1)
            kept[control is not None] = np.mean(engine(pixels).logits.argmax(axis=1) == expected)
    # Random weights have outliers that 8 bits cannot hold.
    assert kept[True] >= kept[False] + 0.1
