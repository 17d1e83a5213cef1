"""Write a network in another format, and compare it with the original: a folder that is as good, or none."""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from imgcls_ray.datasets.class_name_files import LABEL_FILE, label_file
from imgcls_ray.errors import UsageError
from imgcls_ray.export.gate import accuracy_of, applied_limits, judge_speed
from imgcls_ray.json_files import encode_json
from imgcls_ray.machine import has_fast_int8
from imgcls_ray.options import storage_options
from imgcls_ray.storage.files import check_address, path_from_uri
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from imgcls_ray.config import ExportConfig
    from imgcls_ray.export.attempts import Attempt
    from imgcls_ray.export.gate import Accuracy
    from imgcls_ray.export.images import CalibrationImage, ExportImages
    from imgcls_ray.export.speed import Speed
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.models.spec import ExportFormat

logger = logging.getLogger(__name__)

REPORT_NAME = "export_report.json"
_PACKAGES = ("imgcls-ray", "torch", "timm", "openvino", "onnx", "onnxscript", "nncf")


class Calibrated(TypedDict):
    """What the 8 bits were chosen on."""

    split: str | None
    num_images: int


class SizeBytes(TypedDict):
    """Of the network's files."""

    before: int
    after: int


class ExportReport(TypedDict):
    """``export_report.json``."""

    done_flag: bool
    model: str
    format: ExportFormat
    precision: Literal["fp32", "int8"]
    precision_before: str
    precision_after: str
    """That both were compared in: with 8 bits those that ``imgcls predict`` takes by default, else fp32."""
    agreement: float
    """Share of the images that both give the same label."""
    min_agreement: float | None
    """As ``Limits``, which says what each of the three limits is of."""
    max_score_difference: float
    max_logit_difference: float
    images: str
    """Where the compared images come from."""
    split: str | None
    num_images: int
    num_non_finite: int
    errors: dict[str, int]
    """Images that could not be compared, by code."""
    accuracy: Accuracy | None
    max_accuracy_drop: float | None
    num_confident: int
    """Images of which the original is confident: a score of at least 0.5."""
    confident_agreement: float | None
    """Share of them that both give the same label."""
    calibration: Calibrated | None
    accuracy_control: bool
    """Whether layers were left in floating point, because 8 bits in all of them cost too many labels."""
    size_bytes: SizeBytes
    speed: Speed | None
    """On the processor of the export, of 8 bits."""
    min_speedup: float | None
    fingerprint: str
    source_fingerprint: str
    versions: dict[str, str]


def export(config: ExportConfig, console: Console) -> ExportReport:
    """Run ``imgcls export``; returns what ``export_report.json`` says.

    Raises:
        JobFailedError: the exported network labels too many images otherwise, or in 8 bits loses too much accuracy or
            is no faster; nothing is left behind.
        UsageError: a limit on the accuracy was given, and no labels to measure it on.
    """
    from imgcls_ray.export.attempts import export_judged
    from imgcls_ray.export.images import choose_images, read_calibration
    from imgcls_ray.export.network import check_export_packages
    from imgcls_ray.export.speed import measure_speed
    from imgcls_ray.models.folder import new_folder
    from imgcls_ray.models.open import open_model

    output = _output(config)
    check_export_packages(config.format, int8=config.int8)
    folder = open_model(config.model, storage_options(config))
    _refuse_exported(folder, config)
    images = choose_images(config, folder.spec)
    with new_folder(output) as partial:
        calibration: list[CalibrationImage] = []
        if config.int8:
            if has_fast_int8() is False:
                logger.warning("this processor has neither VNNI nor AMX: 8 bits are hardly faster here, or slower")
            calibration = read_calibration(images, config, folder.spec)
            logger.info("calibrating on %s", counted(len(calibration), "image"))
        attempt = export_judged(folder, partial, images, calibration, config, console)
        speed = None
        if config.int8:
            speed = measure_speed(folder, attempt.exported)
            judge_speed(speed, config)
        report = _report(folder, attempt, images, len(calibration), speed, config)
        (partial / REPORT_NAME).write_bytes(encode_json(report))
        (partial / LABEL_FILE).write_bytes(label_file(folder.spec.class_names))
    return report


def _output(config: ExportConfig) -> Path:
    """Refuse a place where no folder can be made, before the work and not after it."""
    from imgcls_ray.models.folder import check_is_free

    check_address(config.output)
    if is_object(config.output):
        raise UsageError(f"{config.output}: an export is made on this machine; copy it to the bucket afterwards")
    output = Path(path_from_uri(config.output))
    check_is_free(output)
    return output


def _refuse_exported(folder: ModelFolder, config: ExportConfig) -> None:
    if folder.spec.exported is not None:
        raise UsageError(
            f"{config.model}: was exported to {folder.spec.exported.format} already; give the model folder that it was "
            "exported from"
        )


def _report(
    folder: ModelFolder,
    attempt: Attempt,
    images: ExportImages,
    num_calibrated: int,
    speed: Speed | None,
    config: ExportConfig,
) -> ExportReport:
    """Everything that ``export_report.json`` says."""
    exported, parity, is_restored = attempt
    limits = applied_limits(parity, config)
    return {
        "done_flag": True,
        "model": config.model,
        "format": config.format,
        "precision": "int8" if config.int8 else "fp32",
        "precision_before": parity.precision_before,
        "precision_after": parity.precision_after,
        "agreement": parity.agreement,
        "min_agreement": limits["min_agreement"],
        "max_score_difference": parity.max_score_difference,
        "max_logit_difference": parity.max_logit_difference,
        "images": images.source,
        "split": images.split,
        "num_images": parity.num_images,
        "num_non_finite": parity.num_non_finite,
        "errors": dict(sorted(parity.errors.items())),
        "accuracy": accuracy_of(parity),
        "max_accuracy_drop": limits["max_accuracy_drop"],
        "num_confident": parity.num_confident,
        "confident_agreement": parity.num_confident_same / parity.num_confident if parity.num_confident else None,
        "calibration": {"split": images.calibration_split, "num_images": num_calibrated} if config.int8 else None,
        "accuracy_control": is_restored,
        "size_bytes": {"before": folder.num_bytes, "after": exported.num_bytes},
        "speed": speed,
        "min_speedup": limits["min_speedup"],
        "fingerprint": exported.spec.fingerprint,
        "source_fingerprint": folder.spec.fingerprint,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # those of the extra, where this export needed none
            continue
    return found
