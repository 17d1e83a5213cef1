"""``imgcls export``: say what an export wrote, and what comparing it with the original found."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rich.console import Console

from imgcls_ray.commands.stdout import StdoutConsole
from imgcls_ray.commands.terminal import native_stderr_aside
from imgcls_ray.config import ExportConfig, make_config, read_values
from imgcls_ray.errors import StoppedError
from imgcls_ray.export.gate import percent, words_of_accuracy, words_of_speed
from imgcls_ray.export.job import export
from imgcls_ray.export.parity import CONFIDENT_SCORE
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgcls_ray.config import Values
    from imgcls_ray.export.job import ExportReport

logger = logging.getLogger(__name__)


def run(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Export what the configuration says; flags win over overrides, overrides over the file.

    Raises:
        JobFailedError: the exported network labels too many images otherwise, or in 8 bits loses too much accuracy or
            is no faster; nothing is left behind.
    """
    values = read_values(ExportConfig, config_file, overrides, flags)
    config = make_config(ExportConfig, values)
    try:
        with native_stderr_aside():
            report = export(config, Console(stderr=True))
    except KeyboardInterrupt as error:
        raise StoppedError(f"stopped; nothing was exported to {config.output}") from error
    _tell(report, config)


def _tell(report: ExportReport, config: ExportConfig) -> None:
    from imgcls_ray.export.images import DRAWN

    console = StdoutConsole(highlight=False, markup=False, soft_wrap=True)
    before, after = report["size_bytes"]["before"] / 2**20, report["size_bytes"]["after"] / 2**20
    console.print(
        f"{config.output}: {config.model} as {config.format}, {report['precision']}, {after:.1f} MiB "
        f"(was {before:.1f} MiB), fingerprint {report['fingerprint'][:12]}",
        markup=False,
    )
    drawn = report["images"] == DRAWN
    of_what = "generated pictures" if drawn else f"images of {report['images']}"
    console.print(
        f"compared on {report['num_images']:,} {of_what}: {percent(report['agreement'])} get the same label, scores "
        f"differ by {report['max_score_difference']:.2g} at most, logits by {report['max_logit_difference']:.2g}",
        markup=False,
    )
    if config.int8 and report["min_agreement"] is not None and report["confident_agreement"] is not None:
        print(
            f"of {counted(report['num_confident'], 'image')} of which the original is confident (score "
            f"{CONFIDENT_SCORE:g} or more), {percent(report['confident_agreement'])} keep their label"
        )
    if report["accuracy"]:
        print(words_of_accuracy(report["accuracy"]))
    if report["accuracy_control"]:
        print("some layers are left in floating point: 8 bits in all of them cost too many labels")
    if report["speed"]:
        print(f"speed on this processor: {words_of_speed(report['speed'])}")
    if report["errors"]:
        codes = ", ".join(f"{count} {code}" for code, count in report["errors"].items())
        print(f"left out, because they cannot be read: {codes}")
    if drawn:
        logger.warning(
            "the comparison used generated pictures only; real images are a better test: --images DATASET, or a folder"
        )
