"""``imgcls evaluate``: evaluate, write everything, and say how good the model is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from imgcls_ray.commands.check import check_output, plain
from imgcls_ray.commands.device import settle_device
from imgcls_ray.commands.stdout import StdoutConsole
from imgcls_ray.commands.terminal import native_stderr_aside
from imgcls_ray.config import EvaluateConfig, make_config, read_values
from imgcls_ray.errors import ImageErrorCode, StoppedError
from imgcls_ray.options import storage_options
from imgcls_ray.words import counted, duration

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgcls_ray.config import Values
    from imgcls_ray.evaluate.evaluation import Evaluation, Scores

_NUM_WORST = 5
_MEANINGS = {
    "top1": "the best class is right",
    "top5": "the right one is among the best {k}",
    "ece": "expected calibration error: how far confidence is from accuracy",
    "nll": "negative log-likelihood",
    "macro_f1": "F1, every class counting the same",
    "balanced_accuracy": "recall, every class counting the same",
    "temperature": "divides the logits, so that confidence fits",
    "ece_calibrated": "with that temperature",
    "nll_calibrated": "with that temperature",
    "coverage": "share of the labels that the thresholds accept",
    "precision_accepted": "share of these that are correct, on the images that the thresholds were fitted on",
}


def run(config_file: Path | None, overrides: Sequence[str], flags: Values) -> None:
    """Evaluate what the configuration says; flags win over overrides, overrides over the file.

    Raises:
        JobFailedError: too many images cannot be read; everything is written all the same.
    """
    values = read_values(EvaluateConfig, config_file, overrides, flags)
    config = make_config(EvaluateConfig, values)
    check_output(config.output, storage_options(config))

    from imgcls_ray.evaluate.job import evaluate

    try:
        with native_stderr_aside():
            config = settle_device(config)
            result = evaluate(config, Console(stderr=True))
    except KeyboardInterrupt as error:
        raise StoppedError("stopped before the evaluation was complete; there is no result") from error
    _tell(result, config)
    if failure := result.failure:
        raise failure


def _tell(result: Evaluation, config: EvaluateConfig) -> None:
    console = StdoutConsole(highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{result.model_name} on {result.split} of {result.dataset}: {counted(result.num_images, 'image')}, "
        f"{result.num_dataset_classes:,} of the model's {len(result.class_names):,} classes; "
        f"{duration(result.seconds)} on {counted(result.num_workers, 'worker')}",
        markup=False,
    )
    if result.scores is not None:
        console.print(_metrics_table(result, result.scores))
        if result.scores.mistakes:
            console.print(_worst_table(result, result.scores))
    for code, count in sorted(result.codes.items()):
        console.print(f"left out: {counted(count, 'image')}, {code}: {ImageErrorCode(code).message}", markup=False)
    if result.kept_in_model:
        console.print(f"saved in {result.model}: the metrics and what was fitted", markup=False)
    output = config.output.rstrip("/")
    console.print(f"result: {output}/evaluate_result.json; tables and pictures: {output}/evaluate/", markup=False)


def _metrics_table(result: Evaluation, scores: Scores) -> Table:
    table = Table("metric", "value", "meaning", box=box.SIMPLE_HEAD)
    table.columns[1].justify = "right"
    k = min(5, len(result.class_names))
    for name, value in scores.metrics.items():
        table.add_row(f"{result.split}.{name}", f"{value:.4f}", _MEANINGS[name].format(k=k))
    return table


def _worst_table(result: Evaluation, scores: Scores) -> Table:
    worst = sorted((score for score in scores.classes if score.num_confused), key=lambda score: score.f1)[:_NUM_WORST]
    columns = ("worst classes", "F1", "precision", "recall", "images", "most often taken for")
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for column in table.columns[1:5]:
        column.justify = "right"
    for score in worst:
        assert score.confused_with is not None
        other = f"{result.class_names[score.confused_with]} ({score.num_confused:,})"
        numbers = (f"{value:.3f}" for value in (score.f1, score.precision, score.recall))
        table.add_row(plain(score.name), *numbers, f"{score.support:,}", plain(other))
    return table
