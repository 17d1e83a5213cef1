"""Collect the answers of an evaluation in a temporary file, and read them back in the order of the dataset.

Memory holds only true and predicted classes and scores, twelve bytes per image, and the few mistakes that the report
shows.
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
from imgcls_ray.models.profile import Profile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgcls_ray.evaluate.classifying import BlockAnswer


class Answers:
    """Takes the answers of blocks in any order. The results do not depend on that order."""

    def __init__(self, path: Path, *, num_temperatures: int, num_mistakes: int) -> None:
        self._path, self._num_mistakes = path, num_mistakes
        self._places: dict[int, int] = {}
        self._true: list[np.ndarray] = []
        self._predicted: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []
        # The smallest of a heap goes: the least sure, and of these the last of the dataset.
        self._mistakes: list[tuple[float, int, int, int]] = []
        self._writer: pa.RecordBatchFileWriter | None = None
        self.codes: Counter[str] = Counter()
        """Number of images that could not be classified, by error code."""
        self.num_top_k = 0
        """Number of images whose true class is among the best ``TOP_K``."""
        self.calibration = empty_table(num_temperatures)
        """Sums over all classified images, in the columns of ``empty_table``."""
        self.profile = Profile()
        """Of all classified images."""

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Open the file for the ``with`` block. ``take`` works inside the block, ``in_order`` after it."""
        with pa.ipc.new_file(str(self._path), ANSWER_SCHEMA) as self._writer:
            yield

    def take(self, block: BlockAnswer) -> int:
        """Add the answers of one block. Returns the number of its images that could not be classified."""
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
            self.profile += block.profile
        return len(answers) - len(good)

    def _take_good(self, good: pa.Table) -> None:
        true = good["label_id"].to_numpy()
        class_ids, scores = (
            good[name].combine_chunks().flatten().to_numpy().reshape(len(good), -1) for name in ("class_ids", "scores")
        )
        self._true.append(true.copy())
        self._predicted.append(class_ids[:, 0].copy())
        self._scores.append(scores[:, 0].copy())
        self.num_top_k += int((class_ids[:, :TOP_K] == true[:, None]).any(axis=1).sum())
        numbers = good["number"].to_numpy()
        for row in np.flatnonzero(class_ids[:, 0] != true):
            mistake = (float(scores[row, 0]), -int(numbers[row]), int(true[row]), int(class_ids[row, 0]))
            if len(self._mistakes) < self._num_mistakes:
                heapq.heappush(self._mistakes, mistake)
            elif self._num_mistakes:
                heapq.heappushpop(self._mistakes, mistake)

    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """True and predicted class ids of the N classified images, two arrays int32 (N,), in no particular order."""
        if not self._true:
            return np.empty(0, np.int32), np.empty(0, np.int32)
        return np.concatenate(self._true), np.concatenate(self._predicted)

    def best_scores(self) -> np.ndarray:
        """Softmax of the predicted classes, float32 (N,), in the order of ``classes``."""
        return np.concatenate(self._scores) if self._scores else np.empty(0, np.float32)

    def mistakes(self) -> list[tuple[int, int, int, float]]:
        """The mistakes with the highest scores, highest first: (image number, true class, predicted class, score)."""
        return [(-number, true, predicted, score) for score, number, true, predicted in sorted(self._mistakes)[::-1]]

    def in_order(self) -> Iterator[pa.Table]:
        """All answers by ``ANSWER_SCHEMA``, block by block, in the order of the dataset."""
        with pa.memory_map(str(self._path)) as file, pa.ipc.open_file(file) as reader:
            for number in sorted(self._places):
                yield pa.Table.from_batches([reader.get_batch(self._places[number])])
