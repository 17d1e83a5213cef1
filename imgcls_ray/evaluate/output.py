"""Write the result of an evaluation: PaddleX's JSON file, tables for programs, pictures for people.

::

    OUTPUT/evaluate_result.json           PaddleX's keys first; written last
    OUTPUT/evaluate/predictions.parquet   one row an image, by ``PREDICTION_SCHEMA``, in the dataset's order
    OUTPUT/evaluate/per_class.csv         precision, recall, F1 and the worst confusion of each class
    OUTPUT/evaluate/confusion.csv         counts of true and predicted class
    OUTPUT/evaluate/confusion.png
    OUTPUT/evaluate/reliability.png       confidence against accuracy
    OUTPUT/evaluate/risk_coverage.png     precision of the surest images against their share
    OUTPUT/evaluate/mistakes.jpg          the mistakes with the highest scores, if there are any
    OUTPUT/evaluate/unreadable.csv        images that could not be classified, and why

Each file is written in one step. Files of an earlier evaluation at the same place are replaced or removed.
"""

from __future__ import annotations

import csv
import io
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imgcls_ray.json_files import encode_json, failure_of
from imgcls_ray.options import decode_limits, fetch_limits, storage_options
from imgcls_ray.report.confusion import confusion_csv, draw_confusion
from imgcls_ray.report.mistakes import draw_mistakes
from imgcls_ray.report.reliability import draw_reliability
from imgcls_ray.report.risk_coverage import draw_risk_coverage
from imgcls_ray.storage import open_directory
from imgcls_ray.storage.scratch import scratch_folder
from imgcls_ray.store.schema import FINGERPRINT_KEY, STATUS_ERROR, STATUS_OK
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from _csv import Writer
    from collections.abc import Iterable, Iterator, Sequence

    from imgcls_ray.config import EvaluateConfig
    from imgcls_ray.datasets.entry_file import EntryFile
    from imgcls_ray.evaluate.block_answers import Answers
    from imgcls_ray.evaluate.evaluation import Evaluation, Scores
    from imgcls_ray.evaluate.reading import Split
    from imgcls_ray.json_files import Json
    from imgcls_ray.storage import Directory

RESULT_NAME = "evaluate_result.json"
FILES = {
    "predictions": "evaluate/predictions.parquet",
    "per_class": "evaluate/per_class.csv",
    "confusion": "evaluate/confusion.csv",
    "confusion_picture": "evaluate/confusion.png",
    "reliability_picture": "evaluate/reliability.png",
    "risk_coverage_picture": "evaluate/risk_coverage.png",
    "mistakes_picture": "evaluate/mistakes.jpg",
    "unreadable": "evaluate/unreadable.csv",
}
"""Paths relative to the output, by kind."""

_ROWS_PER_GROUP = 8192

PREDICTION_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("label_id", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("predicted", pa.string()),
        pa.field("predicted_id", pa.int32()),
        pa.field("score", pa.float32()),
        pa.field("correct", pa.bool_()),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
    ]
)
"""Class ids are the model's. ``label`` is the true class; ``labels`` and ``scores`` are the top five, best first."""


def write_report(result: Evaluation, config: EvaluateConfig, split: Split, answers: Answers) -> None:
    """Write all files under the output. The images of mistakes are read again.

    Raises:
        StorageError: a file cannot be written.
    """
    directory = open_directory(config.output, storage_options(config))
    # While the files are replaced, nothing says that they belong together.
    directory.remove(RESULT_NAME)
    _write_rows(directory, result, split.entries, answers)
    written = {"predictions", "unreadable"}
    if result.scores is not None:
        for kind, data in _files_of(result, result.scores, config):
            directory.replace(FILES[kind], data)
            written.add(kind)
    for kind, name in FILES.items():
        if kind not in written:
            directory.remove(name)
    summary = _summary(result, config, [kind for kind in FILES if kind in written])
    directory.replace(RESULT_NAME, encode_json(summary))


def _files_of(result: Evaluation, scores: Scores, config: EvaluateConfig) -> Iterator[tuple[str, bytes]]:
    names = result.class_names
    yield "per_class", _per_class_csv(scores, names)
    yield "confusion", confusion_csv(scores.confusion, names)
    title = f"{result.model_name} on {result.split}, {counted(int(scores.confusion.counts.sum()), 'image')}"
    yield "confusion_picture", draw_confusion(scores.confusion, names, title=title)
    temperature = scores.metrics.get("temperature")
    yield "reliability_picture", draw_reliability(scores.before, scores.after, temperature=temperature)
    yield "risk_coverage_picture", draw_risk_coverage(scores.risk_coverage, config.target_precision, scores.metrics)
    if scores.mistakes:
        picture = draw_mistakes(
            scores.mistakes, names, fetch_limits=fetch_limits(config), decode_limits=decode_limits(config)
        )
        yield "mistakes_picture", picture


def _per_class_csv(scores: Scores, names: Sequence[str]) -> bytes:
    columns = ("class_id", "class", "precision", "recall", "f1", "support", "most_confused_with", "num_confused")
    return _csv(
        columns,
        (
            (
                score.class_id,
                score.name,
                f"{score.precision:.6f}",
                f"{score.recall:.6f}",
                f"{score.f1:.6f}",
                score.support,
                "" if score.confused_with is None else names[score.confused_with],
                score.num_confused,
            )
            for score in scores.classes
        ),
    )


def _csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows(chain([columns], rows))
    return text.getvalue().encode(errors="backslashreplace")


def _write_rows(directory: Directory, result: Evaluation, entries: EntryFile, answers: Answers) -> None:
    """The two files that have a row an image: through files beside, for there may be millions."""
    schema = PREDICTION_SCHEMA.with_metadata({FINGERPRINT_KEY: result.fingerprint.encode()})
    with scratch_folder("evaluate") as place:
        rows, bad = Path(place, "predictions.parquet"), Path(place, "unreadable.csv")
        with (
            pq.ParquetWriter(rows, schema, compression="zstd", write_page_checksum=True) as writer,
            bad.open("w", encoding="utf-8", errors="backslashreplace", newline="") as text,
        ):
            bad_writer = csv.writer(text)
            bad_writer.writerow(("path", "uri", "label", "error", "detail"))
            for table in _row_groups(answers.in_order()):
                predictions = _predictions(table, entries, result.class_names).cast(schema)
                writer.write_table(predictions)
                _write_unreadable(bad_writer, predictions)
        directory.replace_from(FILES["predictions"], str(rows))
        directory.replace_from(FILES["unreadable"], str(bad))


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= _ROWS_PER_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _predictions(answers: pa.Table, entries: EntryFile, class_names: Sequence[str]) -> pa.Table:
    found = entries.lookup(answers["number"].to_numpy())
    names = np.array([*class_names, None], dtype=object)
    labels = answers["label_id"].to_numpy()
    class_ids, scores = answers["class_ids"].to_pylist(), answers["scores"].to_pylist()
    columns = {
        "path": [entry.path for entry in found.values()],
        "uri": [entry.uri for entry in found.values()],
        "label": names[labels],
        "label_id": labels,
        "status": [STATUS_ERROR if ids is None else STATUS_OK for ids in class_ids],
        "error": answers["code"],
        "detail": answers["detail"],
        "predicted": [ids and names[ids[0]] for ids in class_ids],
        "predicted_id": [ids and ids[0] for ids in class_ids],
        "score": [values and values[0] for values in scores],
        "correct": [None if ids is None else ids[0] == label for ids, label in zip(class_ids, labels, strict=True)],
        "labels": [ids and [names[i] for i in ids] for ids in class_ids],
        "scores": answers["scores"],
        "width": answers["width"],
        "height": answers["height"],
    }
    return pa.table(columns, schema=PREDICTION_SCHEMA)


def _write_unreadable(writer: Writer, predictions: pa.Table) -> None:
    bad = predictions.filter(pa.compute.equal(predictions["status"], STATUS_ERROR))
    writer.writerows((row["path"], row["uri"], row["label"], row["error"], row["detail"]) for row in bad.to_pylist())


def _summary(result: Evaluation, config: EvaluateConfig, written: Sequence[str]) -> dict[str, Json]:
    failure = result.failure
    outcome: dict[str, Json] = {"done_flag": True} if failure is None else failure_of(failure)
    metrics = result.scores.metrics if result.scores is not None else {}
    return {
        **outcome,
        "metrics": {f"{result.split}.{name}": value for name, value in metrics.items()},
        "num_samples": result.num_images,
        "num_unreadable": result.num_unreadable,
        "unreadable": dict(sorted(result.codes.items())),
        "num_classes": len(result.class_names),
        "dataset": {
            "path": result.dataset,
            "split": result.split,
            "num_classes": result.num_dataset_classes,
            "list_sha256": result.list_sha256,
        },
        "model": {"path": result.model, "name": result.model_name, "fingerprint": result.fingerprint},
        "kept_in_model": result.kept_in_model,
        **_of_thresholds(result),
        "engine": config.engine,
        "precision": config.precision,
        "tta": config.tta,
        "device": config.device,
        "num_workers": result.num_workers,
        "seconds": round(result.seconds, 3),
        **({} if result.images_per_s is None else {"images_per_s": round(result.images_per_s, 1)}),
        "files": {kind: FILES[kind] for kind in written},
    }


def _of_thresholds(result: Evaluation) -> dict[str, Json]:
    if result.scores is None or result.scores.thresholds is None:
        return {}
    return {"thresholds": result.scores.thresholds.model_dump(mode="json")}
