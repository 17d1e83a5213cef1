"""Write the result of a run for programs: ``train_result.json``, with PaddleX's keys first."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgcls_ray.datasets.class_name_files import LABEL_FILE, label_file
from imgcls_ray.json_files import encode_json
from imgcls_ray.models.class_names import names_apart
from imgcls_ray.models.spec import SPEC_FILE
from imgcls_ray.train.reporter import CURVES_FILE, EVENTS_FOLDER, LOG_FILE
from imgcls_ray.train.saving import BEST, LATEST
from imgcls_ray.train.scores import ScoreOfClass, score_each_class

if TYPE_CHECKING:
    from imgcls_ray.json_files import Json
    from imgcls_ray.storage import Directory
    from imgcls_ray.train.entries import Entries
    from imgcls_ray.train.state import Metrics, TrainState

RESULT_FILE, CONFIG_FILE, BAD_FILE = "train_result.json", "config.yaml", "bad_images.csv"
PREVIEW_FILE, RANGE_FILE = "preview.png", "lr_find.png"
"""What looking before training leaves there."""
RUN_NAMES = frozenset({LABEL_FILE, CONFIG_FILE, BAD_FILE, LOG_FILE, CURVES_FILE, EVENTS_FOLDER, LATEST, BEST})
"""Files and folders that a run writes, besides its result and ``epoch_N``."""


@dataclass(frozen=True)
class TrainResult:
    """The result of a finished run."""

    output: str
    best_epoch: float
    best_metrics: Metrics
    last_metrics: Metrics
    num_bad: int
    was_done: bool
    """Whether the run was already complete when the command started."""


def write_result(state: TrainState, entries: Entries, directory: Directory, *, data: str) -> None:
    """Write ``train_result.json``, ``label.txt`` and, if images could not be read, ``bad_images.csv``.

    Raises:
        StorageError: a file cannot be written.
    """
    directory.replace(LABEL_FILE, label_file(entries.class_names))
    _write_bad_images(state, entries, directory)
    last = state.history[-1]
    models = {
        "last_1": _model(directory, LATEST, last.get("val.top1"), int(last["epoch"])),
        "best": _model(directory, BEST, state.best_metrics.get("val.top1"), state.best_epoch),
    }
    result: dict[str, Json] = {
        "model_name": state.model.name,
        "label_dict": LABEL_FILE,
        "train_log": LOG_FILE,
        "visualdl_log": EVENTS_FOLDER,
        "config": CONFIG_FILE,
        "models": models,
        "done_flag": True,
        "best": {"epoch": state.best_epoch, "metrics": state.best_metrics},
        "last": {"epoch": last["epoch"], "metrics": _numbers(last)},
        "classes": _classes(state, entries),
        "curves": CURVES_FILE,
        "dataset": {
            "path": data,
            "fingerprint": entries.fingerprint,
            "num_classes": len(entries.class_names),
            **{f"{split}_samples": len(table) for split, table in entries.tables.items()},
        },
        "bad_images": {"count": len(state.bad), "file": BAD_FILE if state.bad else None},
        "history": [_numbers(row) for row in state.history],
    }
    directory.replace(RESULT_FILE, encode_json(result))


def _classes(state: TrainState, entries: Entries) -> list[Json]:
    """How well the best epoch tells each class; without shares if it is an epoch of an earlier version."""
    train, val = (entries.images_per_class(split).tolist() for split in ("train", "val"))
    counts = state.class_counts.get(state.best_epoch)
    scores = score_each_class(counts) if counts else [ScoreOfClass(count, None, None, None) for count in val]
    return [
        {
            "label": name,
            "train_samples": num_train,
            "val_samples": score.num_images,
            "recall": score.recall,
            "precision": score.precision,
            "f1": score.f1,
        }
        for name, num_train, score in zip(names_apart(entries.class_names), train, scores, strict=True)
    ]


def _numbers(metrics: Metrics) -> dict[str, float | None]:
    """Metrics as JSON has them: it knows no NaN and no infinity."""
    return {key: value if math.isfinite(value) else None for key, value in metrics.items()}


def _model(directory: Directory, name: str, score: float | None, epoch: float) -> dict[str, Json]:
    spec = json.loads(directory.read(f"{name}/{SPEC_FILE}"))
    return {"score": score, "path": name, "epoch": epoch, "fingerprint": spec["fingerprint"]}


def _write_bad_images(state: TrainState, entries: Entries, directory: Directory) -> None:
    if not state.bad:
        directory.remove(BAD_FILE)
        return
    text = io.StringIO()
    writer = csv.writer(text)
    names = names_apart(entries.class_names)
    writer.writerow(["split", "uri", "label", "error"])
    for key in sorted(state.bad, key=lambda key: (key.partition("/")[0], int(key.partition("/")[2]))):
        split, _, number = key.partition("/")
        row = entries.tables[split].slice(int(number), 1).to_pylist()[0]
        writer.writerow([split, row["uri"], names[row["label"]], state.bad[key]])
    directory.replace(BAD_FILE, text.getvalue().encode(errors="backslashreplace"))
