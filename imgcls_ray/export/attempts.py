"""Export and compare: in 8 bits at most twice, the second time with accuracy control.

Plain quantization keeps the labels of most networks, takes seconds, and makes the fastest ones. Accuracy control takes
minutes, and leaves layers in floating point, so it is for the networks that are refused without it.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.errors import JobFailedError
from imgcls_ray.export.gate import applied_limits, judge
from imgcls_ray.export.images import read_compared
from imgcls_ray.export.network import export_network
from imgcls_ray.export.parity import CONFIDENT_SCORE, compare, original_labels
from imgcls_ray.export.quantize import Control
from imgcls_ray.export.restore import NotRestoredError
from imgcls_ray.workers.progress import image_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rich.console import Console

    from imgcls_ray.config import ExportConfig
    from imgcls_ray.export.images import CalibrationImage, ExportImages
    from imgcls_ray.export.parity import Parity, ParityInput
    from imgcls_ray.models.folder import ModelFolder

logger = logging.getLogger(__name__)


class Attempt(NamedTuple):
    """A network that is good enough."""

    exported: ModelFolder
    parity: Parity
    is_restored: bool
    """Whether accuracy control left layers in floating point."""


def export_judged(
    folder: ModelFolder,
    partial: Path,
    images: ExportImages,
    calibration: Sequence[CalibrationImage],
    config: ExportConfig,
    console: Console,
) -> Attempt:
    """Write a network that keeps the labels.

    Args:
        folder: what to export.
        partial: an empty folder.
        images: to compare on.
        calibration: with them the network is quantized to 8 bits.
        config: of the export.
        console: for the progress.

    Raises:
        JobFailedError: no attempt kept them.
    """

    def attempt(control: Control | None) -> tuple[ModelFolder, Parity]:
        pixels = [one.image.pixels for one in calibration] if config.int8 else None
        exported = export_network(folder, partial, config.format, calibrate_on=pixels, control=control)
        with image_progress("comparing", console) as add:
            inputs = _counting(read_compared(images, config, folder.spec), add)
            # 8 bits are judged as they will run, so that their accuracy and their speed are of the same networks.
            return exported, compare(folder, exported, inputs, "auto" if config.int8 else "fp32")

    exported, parity = attempt(None)
    if images.why_no_accuracy:
        logger.warning("the accuracy is not measured: %s", images.why_no_accuracy)
    try:
        judge(parity, images.source, config)
        return Attempt(exported, parity, is_restored=False)
    except JobFailedError as refusal:
        # NNCF controls the accuracy of OpenVINO's networks, and not of ONNX'.
        may_restore = config.int8 and config.format == "openvino" and parity.num_images
        control = _control(folder, parity, calibration, config) if may_restore else None
        if control is None:
            raise
        reason = str(refusal).partition(". Nothing was exported")[0]
        logger.warning("%s; trying again with layers in floating point, which takes minutes", reason)
        start = time.monotonic()
        try:
            exported, parity = attempt(control)
        except NotRestoredError as error:
            logger.warning("accuracy control failed: %s", error)
            raise refusal from error
        logger.info("accuracy control took %.0f s", time.monotonic() - start)
        judge(parity, images.source, config)
        return Attempt(exported, parity, is_restored=True)


def _control(
    folder: ModelFolder, parity: Parity, calibration: Sequence[CalibrationImage], config: ExportConfig
) -> Control | None:
    """What has to be kept of the images that are calibrated on; none of them is compared. None if they say nothing."""
    max_drop = applied_limits(parity, config)["max_accuracy_drop"]
    pictures = [one.image for one in calibration]
    if max_drop is not None and any(one.label is not None for one in calibration):
        # What is right by accident after 8 bits would hide what is lost.
        answers = original_labels(folder, pictures, least_score=0)
        expected = [answer if answer == one.label else None for answer, one in zip(answers, calibration, strict=True)]
    else:
        expected = original_labels(folder, pictures, least_score=CONFIDENT_SCORE)
        max_drop = 1 - config.needed_agreement
    if not any(label is not None for label in expected):
        return None
    # The network was often trained on these: its labels change less there than on others.
    return Control(expected, max_drop / 2)


def _counting(inputs: Iterator[ParityInput], add: Callable[[int], None]) -> Iterator[ParityInput]:
    for item in inputs:
        yield item
        add(1)
