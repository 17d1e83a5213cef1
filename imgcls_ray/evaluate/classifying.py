"""Classify blocks of a split's images on workers.

A worker returns some sixty bytes per image, and one small table of calibration sums per block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from imgcls_ray.errors import ImageError
from imgcls_ray.evaluate.calibration import calibration_table, empty_table
from imgcls_ray.models.calibration import Calibration
from imgcls_ray.models.engines.openvino_core import openvino_core
from imgcls_ray.models.profile import Profile, profile_of
from imgcls_ray.workers.classifier_task import ClassifierTask, ClassifierWork
from imgcls_ray.workers.fetching import any_version
from imgcls_ray.workers.local_worker import serve_workers
from imgcls_ray.workers.packing import from_ipc, most_decoded, to_ipc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgcls_ray.errors import ImageErrorCode
    from imgcls_ray.models.classifier import ModelInput, Prediction, StageSeconds
    from imgcls_ray.workers.pool import Pool
    from imgcls_ray.workers.worker import Block

TOP_K = 5
MAX_ROWS_PER_BLOCK = 512
# A worker of many cores has a batch for each in hand.
_MAX_ROWS_PER_ROUND = 2048
# Logits of 21,000 classes are 5 MB for so many images.
_ROWS_PER_TABLE = 64

ENTRY_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("uri", pa.string()),
        ("label_id", pa.int32()),
        ("source", pa.string()),
        ("locator", pa.string()),
    ]
)
"""Rows that a worker gets: ``number`` is the position in the split, ``label_id`` the model's id of the true class."""

ANSWER_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("label_id", pa.int32()),
        ("code", pa.string()),
        ("detail", pa.string()),
        ("class_ids", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float32())),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
"""Rows that a worker returns: for an image that cannot be classified, ``code`` and ``detail`` instead of classes."""


class BlockAnswer(NamedTuple):
    """The answers of one block of images."""

    number: int
    """Position of the block in the split."""
    answers: pa.Table
    """By ``ANSWER_SCHEMA``, one row for each entry, in the order of the entries."""
    calibration: np.ndarray
    """Sums over the block's classified images, as ``calibration_table`` returns them."""
    profile: Profile
    """Of the block's classified images."""


@dataclass(frozen=True)
class EvaluateTask(ClassifierTask):
    """The settings that every worker of an evaluation gets."""

    temperatures: tuple[float, ...]


def rows_per_block(
    num_images: int, *, num_workers: int, batch_size: int, cores: int = 1, crop_size: int, uses_gpus: bool = False
) -> int:
    """Choose the images per block: a whole batch for each core, about four blocks per worker, about 512 rows at most.

    With GPUs a block has at most 128 MiB of pixels.

    >>> rows_per_block(50_000, num_workers=4, batch_size=64, crop_size=224)
    512
    >>> rows_per_block(50_000, num_workers=1, batch_size=64, cores=16, crop_size=224)
    1024
    >>> rows_per_block(1_000, num_workers=4, batch_size=64, crop_size=224)
    64
    """
    num_rows = min(batch_size * cores, _MAX_ROWS_PER_ROUND) if cores > 1 else batch_size
    for_all = -(-num_images // (4 * num_workers * num_rows)) * num_rows
    # Of less than a round, some cores would have nothing to do.
    largest = max(num_rows, MAX_ROWS_PER_BLOCK // num_rows * num_rows) if cores > 1 else MAX_ROWS_PER_BLOCK
    if uses_gpus:
        largest = min(largest, most_decoded(crop_size))
    return max(1, min(for_all, largest))


def serve_classifying() -> None:
    """The process that local workers are forked from."""
    serve_workers(openvino_core)


def classify_blocks(blocks: Iterable[Block], task: EvaluateTask, pool: Pool) -> Iterator[BlockAnswer]:
    """Classify blocks of entries (``ENTRY_SCHEMA``); answers come back in any order.

    Args:
        blocks: entries to classify.
        task: settings of the workers.
        pool: its workers do it, and it is where the caller may call for a stop.

    Raises:
        ImgclsError: a worker failed for good.
    """
    done = pool.run(blocks, partial(EvaluateWork, task, num_cores=pool.plan.cores_per_worker))
    return (read_answer(block, task) for block in done)


def read_answer(block: Block, task: EvaluateTask) -> BlockAnswer:
    """Unpack the row that a worker returned for a block."""
    [row] = block.content.to_pylist()
    table = np.frombuffer(row["calibration"]).reshape(len(task.temperatures), -1)
    return BlockAnswer(block.number, from_ipc(row["answers"]), table, Profile.model_validate_json(row["profile"]))


class EvaluateWork(ClassifierWork[pa.Table]):
    """Classifies blocks of entries. The result of a block is one row: its answers and its calibration sums."""

    def __init__(self, task: EvaluateTask, *, device: str | None = "cpu", num_cores: int = 1) -> None:
        # Thresholds of an earlier evaluation judge nothing here: decisions in the profile would be by those.
        super().__init__(task, device, 1, num_cores, Calibration())
        self._temperatures = np.array(task.temperatures)

    def rows(self, entries: pa.Table) -> pa.Table:
        return any_version(entries["uri"], entries)

    def compute(self, entries: pa.Table, inputs: Iterable[ModelInput | ImageError], seconds: StageSeconds) -> pa.Table:
        table = empty_table(len(self._temperatures))
        results: list[Prediction | ImageError] = []
        waiting: list[tuple[np.ndarray, int]] = []
        labels = entries["label_id"].to_numpy()
        for label, result in zip(labels, self._classifier.classify_inputs(inputs, seconds), strict=True):
            results.append(result)
            if not isinstance(result, ImageError):
                assert result.logits is not None
                waiting.append((result.logits, int(label)))
            if len(waiting) == _ROWS_PER_TABLE:
                table += _table_of(waiting, self._temperatures)
                waiting = []
        if waiting:
            table += _table_of(waiting, self._temperatures)
        columns = {
            "number": entries["number"],
            "label_id": entries["label_id"],
            **{name: [getattr(told, name) for told in map(_Result.of, results)] for name in _Result._fields},
        }
        answers = pa.table({name: columns[name] for name in ANSWER_SCHEMA.names}, schema=ANSWER_SCHEMA)
        profile = profile_of(results).model_dump_json().encode()
        packed = {"answers": to_ipc(answers), "calibration": table.tobytes(), "profile": profile}
        return pa.table({name: pa.array([data], pa.large_binary()) for name, data in packed.items()})

    def commit(self, _entries: pa.Table, _rows: pa.Table, answer: pa.Table, _seconds: StageSeconds) -> pa.Table:
        return answer


def _table_of(waiting: list[tuple[np.ndarray, int]], temperatures: np.ndarray) -> np.ndarray:
    logits, labels = zip(*waiting, strict=True)
    return calibration_table(np.stack(logits), np.array(labels), temperatures)


class _Result(NamedTuple):
    """A prediction without its logits, or why there is none."""

    code: ImageErrorCode | None = None
    detail: str | None = None
    class_ids: np.ndarray | None = None
    scores: np.ndarray | None = None
    width: int | None = None
    height: int | None = None

    @classmethod
    def of(cls, result: Prediction | ImageError) -> _Result:
        if isinstance(result, ImageError):
            return cls(code=result.code, detail=result.detail)
        return cls(class_ids=result.class_ids, scores=result.scores, width=result.width, height=result.height)
