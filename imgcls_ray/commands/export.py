"""``imgcls export``: write the network in another format, compare it with the original, and say what that found."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from imgcls_ray.commands.terminal import native_stderr_aside
from imgcls_ray.config import ExportConfig, make_config, read_values
from imgcls_ray.data.progress import image_progress, logger
from imgcls_ray.data.report import counted
from imgcls_ray.errors import JobFailedError, StoppedError, UsageError
from imgcls_ray.options import s3_options
from imgcls_ray.storage.files import path_from_uri
from imgcls_ray.storage.s3 import is_s3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imgcls_ray.commands.export_images import ExportImages
    from imgcls_ray.config import Values
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.models.parity import Parity, ParityInput

REPORT_NAME = "export_report.json"
LABEL_NAME = "label.txt"
_PACKAGES = ("imgcls-ray", "torch", "timm", "openvino", "onnx", "onnxscript", "nncf")


def run(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Export what the configuration says; flags win over overrides, overrides over the file.

    Raises:
        JobFailedError: the exported network labels too many images otherwise; nothing is left behind.
    """
    values = read_values(ExportConfig, config_file, overrides, flags)
    config = make_config(ExportConfig, values)
    try:
        with native_stderr_aside():
            report = _export(config, Console(stderr=True))
    except KeyboardInterrupt as error:
        raise StoppedError(f"stopped; there is no {config.output}") from error
    _tell(report, config)


def _export(config: ExportConfig, console: Console) -> dict[str, Any]:
    from imgcls_ray.commands.export_images import choose_images, read_calibration, read_compared
    from imgcls_ray.models.export import check_export_packages, export_network
    from imgcls_ray.models.folder import new_folder
    from imgcls_ray.models.new import open_model
    from imgcls_ray.models.parity import compare

    output = _output(config)
    check_export_packages(config.format, int8=config.int8)
    folder = open_model(config.model, s3_options(config))
    _refuse_exported(folder, config)
    images = choose_images(config, folder.spec)
    with new_folder(output) as partial:
        calibration = None
        if config.int8:
            calibration = read_calibration(images, config, folder.spec)
            logger.info("calibrating on %s", counted(len(calibration), "image"))
        exported = export_network(folder, partial, config.format, calibrate_on=calibration)
        with image_progress("comparing", console) as add:
            parity = compare(folder, exported, _counting(read_compared(images, config, folder.spec), add))
        if images.why_no_accuracy:
            logger.warning("no accuracy is told: %s", images.why_no_accuracy)
        _judge(parity, images, config)
        report = _report(folder, exported, parity, images, len(calibration or ()), config)
        (partial / REPORT_NAME).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        labels = "".join(f"{class_id} {name}\n" for class_id, name in enumerate(folder.spec.class_names))
        (partial / LABEL_NAME).write_text(labels, encoding="utf-8")
    return report


def _output(config: ExportConfig) -> Path:
    """Refuse a place where no folder can be made, before the work and not after it."""
    from imgcls_ray.models.folder import check_is_free

    if is_s3(config.output):
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


def _counting(inputs: Iterator[ParityInput], add: Callable[[int], None]) -> Iterator[ParityInput]:
    for item in inputs:
        yield item
        add(1)


def _judge(parity: Parity, images: ExportImages, config: ExportConfig) -> None:
    if not parity.num_images:
        code, count = parity.errors.most_common(1)[0]
        raise JobFailedError(
            f"{images.source}: none of the {parity.errors.total()} chosen images could be compared, {count} of them "
            f"{code}; give images that can be read. Nothing was exported"
        )
    if parity.agreement < config.needed_agreement:
        accuracy = _accuracy(parity)
        cost = f"; {_words_of_accuracy(accuracy)}" if accuracy else ""
        raise JobFailedError(
            f"{config.model}: exported to {config.format}{' in 8 bits' if config.int8 else ''}, "
            f"{parity.num_images - parity.num_same:,} of {counted(parity.num_images, 'image')} get another label "
            f"({_percent(parity.agreement)} agree, needed are {_percent(config.needed_agreement)}){cost}. "
            f"Nothing was exported; min_agreement={_floor(parity.agreement)} would accept it"
        )


def _floor(share: float) -> float:
    return int(share * 1000) / 1000


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _report(
    folder: ModelFolder,
    exported: ModelFolder,
    parity: Parity,
    images: ExportImages,
    num_calibrated: int,
    config: ExportConfig,
) -> dict[str, Any]:
    """Everything that ``export_report.json`` says."""
    return {
        "done_flag": True,
        "model": config.model,
        "format": config.format,
        "precision": "int8" if config.int8 else "fp32",
        "agreement": parity.agreement,
        "min_agreement": config.needed_agreement,
        "max_score_difference": parity.max_score_difference,
        "max_logit_difference": parity.max_logit_difference,
        "images": images.source,
        "split": images.split,
        "num_images": parity.num_images,
        "num_non_finite": parity.num_non_finite,
        "errors": dict(sorted(parity.errors.items())),
        "accuracy": _accuracy(parity),
        "calibration": {"split": images.calibration_split, "num_images": num_calibrated} if config.int8 else None,
        "size_bytes": {"before": folder.num_bytes, "after": exported.num_bytes},
        "fingerprint": exported.spec.fingerprint,
        "source_fingerprint": folder.spec.fingerprint,
        "versions": _versions(),
    }


def _accuracy(parity: Parity) -> dict[str, Any] | None:
    if not parity.num_labelled:
        return None
    return {
        "before": parity.num_right_before / parity.num_labelled,
        "after": parity.num_right_after / parity.num_labelled,
        "num_images": parity.num_labelled,
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # those of the extra, where this export needed none
            continue
    return found


def _tell(report: dict[str, Any], config: ExportConfig) -> None:
    from imgcls_ray.commands.export_images import DRAWN

    console = Console(highlight=False, markup=False, soft_wrap=True)
    before, after = (report["size_bytes"][key] / 2**20 for key in ("before", "after"))
    console.print(
        f"{config.output}: {config.model} as {config.format}, {report['precision']}, {after:.1f} MiB "
        f"(was {before:.1f} MiB), fingerprint {report['fingerprint'][:12]}",
        markup=False,
    )
    drawn = report["images"] == DRAWN
    of_what = "drawn pictures" if drawn else f"images of {report['images']}"
    console.print(
        f"compared on {report['num_images']:,} {of_what}: {_percent(report['agreement'])} get the same label, scores "
        f"differ by {report['max_score_difference']:.2g} at most, logits by {report['max_logit_difference']:.2g}",
        markup=False,
    )
    if report["accuracy"]:
        print(_words_of_accuracy(report["accuracy"]))
    if report["errors"]:
        codes = ", ".join(f"{count} {code}" for code, count in report["errors"].items())
        print(f"left out, because they cannot be read: {codes}")
    if drawn:
        logger.warning(
            "drawn pictures are all that it was compared on; real ones say more: --images DATASET, or a folder of them"
        )


def _words_of_accuracy(accuracy: dict[str, Any]) -> str:
    lost = 100 * (accuracy["before"] - accuracy["after"])
    change = "unchanged" if not lost else f"{abs(lost):.2f} points {'lost' if lost > 0 else 'gained'}"
    return (
        f"accuracy on {accuracy['num_images']:,} labelled images: {_percent(accuracy['before'])} before, "
        f"{_percent(accuracy['after'])} after, {change}"
    )
