"""Evaluate a model on a split of a labelled dataset: every image once, nothing sampled, nothing replaced."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.datasets.entry_file import EntryFile
from imgcls_ray.errors import ImgclsError
from imgcls_ray.evaluate.block_answers import Answers
from imgcls_ray.evaluate.calibration import TEMPERATURES, fit_temperature, reliability_at
from imgcls_ray.evaluate.classifying import TOP_K, EvaluateTask, classify_blocks, rows_per_block, serve_classifying
from imgcls_ray.evaluate.evaluation import Evaluation, Mistake, Scores
from imgcls_ray.evaluate.output import RESULT_NAME, write_report
from imgcls_ray.evaluate.reading import read_split
from imgcls_ray.evaluate.scoring import balanced_accuracy, confusion_of, macro_f1, score_classes
from imgcls_ray.evaluate.thresholds import CONFIDENCE, fewest_images, fit_thresholds, risk_coverage
from imgcls_ray.json_files import write_failure
from imgcls_ray.models.engines.converted import add_bundle
from imgcls_ray.models.engines.load import check_engine, runs_converted
from imgcls_ray.models.folder import update_model
from imgcls_ray.models.open import is_model_path, open_model
from imgcls_ray.options import decode_limits, fetch_limits, storage_options
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.schemes import is_object
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.words import counted
from imgcls_ray.workers.prepare import check_resources, local_pool, shared_precision, start_classifiers
from imgcls_ray.workers.progress import label_progress
from imgcls_ray.workers.stopping import interrupt_on_stop

if TYPE_CHECKING:
    from rich.console import Console

    from imgcls_ray.config import EvaluateConfig
    from imgcls_ray.evaluate.reading import Split
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.models.profile import Profile
    from imgcls_ray.workers.local_pool import LocalPool

logger = logging.getLogger(__name__)

# Sums come in any order, and so do their last digits.
_NUM_DIGITS = 6


def evaluate(config: EvaluateConfig, console: Console) -> Evaluation:
    """Run ``imgcls evaluate``: classify every image, compute the metrics, write all files.

    An error is also written to ``evaluate_result.json``, as ``done_flag`` false with the reason. Too many unreadable
    images raise nothing here: the caller raises ``Evaluation.failure``.

    Raises:
        UsageError: the configuration cannot work; raised before workers start.
        JobFailedError: a worker failed for good.
        StorageError: the storage of the dataset, the model or the output fails.
    """
    directory = open_directory(config.output, storage_options(config))
    try:
        return _evaluate(config, console)
    except BaseException as error:
        with suppress(ImgclsError):
            write_failure(directory, RESULT_NAME, error)
        raise


def _evaluate(config: EvaluateConfig, console: Console) -> Evaluation:
    start = time.monotonic()
    storage = storage_options(config)
    check_resources(config, num_workers=config.num_workers, cores_per_worker=config.cores_per_worker)
    temperatures = TEMPERATURES if config.calibrate else np.ones(1)
    # The processes load while the dataset is read.
    with local_pool(config, serve_classifying) as local, scratch_folder("evaluate") as place:
        folder = open_model(config.model, storage)
        device = "gpu" if config.uses_gpus else "cpu"
        check_engine(folder, config.engine, device, embedding=False)
        split = read_split(
            config.data,
            config.split,
            EntryFile(Path(place, "entries.parquet")),
            model=config.model,
            model_names=folder.spec.class_names,
            delimiter=config.delimiter,
            split_folders=config.split_places,
            storage=storage,
        )
        answers = Answers(
            Path(place, "answers.arrow"), num_temperatures=len(temperatures), num_mistakes=config.num_mistakes
        )
        result = _new_result(config, folder, split)
        _classify(config, folder, split, answers, temperatures, result, console, local)
        result.codes = answers.codes
        result.scores = _scores(config, split, answers, temperatures, folder.spec.names_apart)
        result.kept_in_model = _keep_in_model(config, result, answers.profile)
        result.seconds = time.monotonic() - start
        write_report(result, config, split, answers)
        if result.kept_in_model and runs_converted(folder, config.engine, device):
            # Folders of earlier versions have none yet.
            add_bundle(config.model, folder, storage)
    return result


def _new_result(config: EvaluateConfig, folder: ModelFolder, split: Split) -> Evaluation:
    return Evaluation(
        dataset=config.data,
        split=config.split,
        list_sha256=split.list_sha256,
        model=config.model,
        model_name=folder.spec.name,
        fingerprint=folder.spec.fingerprint,
        class_names=folder.spec.names_apart,
        num_images=split.num_images,
        num_dataset_classes=split.num_classes,
        max_error_rate=config.max_error_rate,
    )


def _classify(
    config: EvaluateConfig,
    folder: ModelFolder,
    split: Split,
    answers: Answers,
    temperatures: np.ndarray,
    result: Evaluation,
    console: Console,
    local: LocalPool,
) -> None:
    """Fill the answers, and say in the result how long it took."""
    pool = start_classifiers(config, local, folder)
    task = EvaluateTask(
        model=config.model if is_object(config.model) else os.path.abspath(folder.path),
        fingerprint=folder.spec.fingerprint,
        top_k=TOP_K,
        logits=True,
        engine=config.engine,
        precision=shared_precision(config, folder, pool),
        batch_size=config.batch_size,
        tta=config.tta,
        decode_limits=decode_limits(config),
        fetch_limits=fetch_limits(config),
        temperatures=tuple(temperatures.tolist()),
    )
    num_rows = rows_per_block(
        split.num_images,
        num_workers=pool.plan.num_cpu_workers,
        batch_size=config.batch_size,
        cores=pool.plan.cores_per_worker,
        crop_size=folder.spec.preprocess.crop_size,
        uses_gpus=config.uses_gpus,
    )
    with (
        # Nothing of a part of the answers is kept, so a stop waits for nothing.
        interrupt_on_stop(0, pool.stop),
        answers.taking(),
        label_progress(split.num_images, 0, console, doing="evaluating") as progress,
    ):
        for block in classify_blocks(split.blocks(num_rows), task, pool):
            progress.add(len(block.answers), answers.take(block))
    result.images_per_s = progress.images_per_s
    result.num_workers = pool.plan.num_gpu_workers or pool.plan.num_cpu_workers


def _scores(
    config: EvaluateConfig, split: Split, answers: Answers, temperatures: np.ndarray, class_names: tuple[str, ...]
) -> Scores | None:
    true, predicted = answers.classes()
    if not len(true):
        return None
    confusion = confusion_of(true, predicted, len(class_names))
    classes = score_classes(true, predicted, class_names, confusion)
    before = reliability_at(1.0, temperatures, answers.calibration)
    metrics = {
        "top1": float(np.mean(true == predicted)),
        "top5": answers.num_top_k / len(true),
        "ece": round(before.ece, _NUM_DIGITS),
        "nll": round(before.mean_nll, _NUM_DIGITS),
        "macro_f1": macro_f1(classes),
        "balanced_accuracy": balanced_accuracy(classes),
    }
    after = None
    if (temperature := fit_temperature(temperatures, answers.calibration)) is not None:
        after = reliability_at(temperature, temperatures, answers.calibration)
        metrics["temperature"] = round(temperature, _NUM_DIGITS)
        metrics["ece_calibrated"] = round(after.ece, _NUM_DIGITS)
        metrics["nll_calibrated"] = round(after.mean_nll, _NUM_DIGITS)
    elif len(temperatures) > 1:
        logger.warning(
            "no temperature can be fitted, because all answers are correct or no better than random; it stays 1"
        )
    is_correct, scores = true == predicted, answers.best_scores()
    thresholds = None
    if config.target_precision is not None:
        thresholds = fit_thresholds(
            predicted, scores, is_correct, target_precision=config.target_precision, split=config.split
        )
        accepted = thresholds.accepts(predicted, scores)
        metrics["coverage"] = thresholds.coverage
        if accepted.any():
            metrics["precision_accepted"] = float(is_correct[accepted].mean())
        else:
            logger.warning(
                "no threshold keeps a precision of %g for sure, so all labels will be unsure: it takes at least %s "
                "without a mistake among the surest; give a lower target_precision, or more images",
                config.target_precision,
                counted(fewest_images(config.target_precision, (1 - CONFIDENCE) / 2), "image"),
            )
    surest = answers.mistakes()
    entries = split.entries.lookup(np.array(sorted(number for number, *_ in surest), np.int64))
    mistakes = [
        Mistake(entries[number].path, entries[number].uri, label_id, predicted_id, score)
        for number, label_id, predicted_id, score in surest
    ]
    risk = risk_coverage(scores, is_correct)
    return Scores(metrics, classes, confusion, before, after, risk, thresholds, mistakes)


def _keep_in_model(config: EvaluateConfig, result: Evaluation, profile: Profile) -> bool:
    """Put what was found into ``model.json``, where that can be done and the images are the split's."""
    if not config.calibrate or result.scores is None or result.failure is not None:
        return False
    if config.tta != "none":
        logger.warning("nothing is saved in the model folder: the metrics are those with tta=%s", config.tta)
        return False
    metrics = result.scores.metrics
    fitted: dict[str, object] = {}
    kept = {f"{config.split}.{name}": metrics[name] for name in ("top1", "top5", "ece")}
    if config.split != "train":
        fitted["profile"] = profile
    if config.split == "train":
        logger.warning("the temperature is not saved: models are overconfident on the images that they were trained on")
    elif "temperature" in metrics:
        fitted["temperature"] = metrics["temperature"]
    if result.scores.thresholds is not None:
        fitted["thresholds"] = result.scores.thresholds
    if not is_object(config.model) and not is_model_path(config.model):
        logger.warning("%s is a name, not a folder: the metrics are not saved with the model", config.model)
        return False
    try:
        update_model(config.model, result.fingerprint, kept, fitted, storage_options(config))
    except (ImgclsError, OSError) as error:
        logger.warning("the metrics are not saved with the model: %s", error)
        return False
    return True
