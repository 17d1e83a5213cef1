"""The answers of an evaluation: written aside as they come, then read in the dataset's order.

Nothing but the classes is held in memory: eight bytes an image, and the few mistakes that are shown.
"""

from __future__ import annotations

import heapq
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imgcls_ray.evaluate.calibration import empty_table
from imgcls_ray.evaluate.classifying import ANSWER_SCHEMA, TOP_K

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgcls_ray.evaluate.classifying import BlockAnswer


class Answers:
    """Takes answers in any order; what it gives does not depend on it."""

    def __init__(self, path: Path, *, num_temperatures: int, num_mistakes: int) -> None:
        self._path, self._num_mistakes = path, num_mistakes
        self._places: dict[int, int] = {}
        self._true: list[np.ndarray] = []
        self._predicted: list[np.ndarray] = []
        # The smallest of a heap goes: the least sure, and of these the last of the dataset.
        self._mistakes: list[tuple[float, int, int, int]] = []
        self._writer: pa.RecordBatchFileWriter | None = None
        self.codes: Counter[str] = Counter()
        """Images that could not be classified, by error code."""
        self.num_top_k = 0
        """Images whose class is among the first ``TOP_K``."""
        self.calibration = empty_table(num_temperatures)

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Answers can be taken in the block, and read after it."""
        with pa.ipc.new_file(str(self._path), ANSWER_SCHEMA) as self._writer:
            yield

    def take(self, block: BlockAnswer) -> int:
        """Take what became of a block; returns how many of its images could not be classified."""
        assert self._writer is not None
        answers = block.answers.combine_chunks()
        self._places[block.number] = len(self._places)
        self._writer.write_batch(answers.to_batches()[0])
        is_good = pc.is_null(answers["code"])
        for item in pc.value_counts(answers["code"].drop_null()).to_pylist():
            self.codes[item["values"]] += item["counts"]
        good = answers.filter(is_good)
        if len(good):
            self._take_good(good)
            self.calibration += block.calibration
        return len(answers) - len(good)

    def _take_good(self, good: pa.Table) -> None:
        true = good["label_id"].to_numpy()
        class_ids, scores = (
            good[name].combine_chunks().flatten().to_numpy().reshape(len(good), -1) for name in ("class_ids", "scores")
        )
        self._true.append(true.copy())
        self._predicted.append(class_ids[:, 0].copy())
        self.num_top_k += int((class_ids[:, :TOP_K] == true[:, None]).any(axis=1).sum())
        numbers = good["number"].to_numpy()
        for row in np.flatnonzero(class_ids[:, 0] != true):
            mistake = (float(scores[row, 0]), -int(numbers[row]), int(true[row]), int(class_ids[row, 0]))
            if len(self._mistakes) < self._num_mistakes:
                heapq.heappush(self._mistakes, mistake)
            elif self._num_mistakes:
                heapq.heappushpop(self._mistakes, mistake)

    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """True and predicted class of each image that was classified, int32 (N,), in no particular order."""
        if not self._true:
            return np.empty(0, np.int32), np.empty(0, np.int32)
        return np.concatenate(self._true), np.concatenate(self._predicted)

    def mistakes(self) -> list[tuple[int, int, int, float]]:
        """Number of the image, true class, predicted class and score of the surest mistakes, the surest first."""
        return [(-number, true, predicted, score) for score, number, true, predicted in sorted(self._mistakes)[::-1]]

    def in_order(self) -> Iterator[pa.Table]:
        """All answers by ``ANSWER_SCHEMA``, block by block in the dataset's order."""
        with pa.memory_map(str(self._path)) as file, pa.ipc.open_file(file) as reader:
            for number in sorted(self._places):
                yield pa.Table.from_batches([reader.get_batch(self._places[number])])
