"""Answers give the same whatever order their blocks come back in."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from imgcls_ray.evaluate.block_answers import Answers
from imgcls_ray.evaluate.calibration import empty_table
from imgcls_ray.evaluate.classifying import ANSWER_SCHEMA, BlockAnswer
from imgcls_ray.models.profile import Profile

if TYPE_CHECKING:
    from pathlib import Path

_NUM_CLASSES = 8


def blocks(count: int, rows: int) -> list[BlockAnswer]:
    """Every fifth image cannot be read; scores repeat, so that only the place tells mistakes apart."""
    rng = np.random.default_rng(0)
    made = []
    for start in range(0, count * rows, rows):
        answers = []
        for number in range(start, start + rows):
            about = {"number": number, "label_id": int(rng.integers(_NUM_CLASSES))}
            if number % 5 == 0:
                answers.append({**about, "code": "empty", "detail": ""})
                continue
            ids = rng.permutation(_NUM_CLASSES)[:5].tolist()
            answers.append({**about, "class_ids": ids, "scores": [0.5 + number % 3 / 8, 0.1, 0.1, 0.1, 0.1]})
        table = pa.Table.from_pylist(answers, schema=ANSWER_SCHEMA)
        made.append(BlockAnswer(start, table, empty_table(1) + start, Profile(num_images=rows)))
    return made


def taken(path: Path, given: list[BlockAnswer], *, num_mistakes: int = 4) -> Answers:
    answers = Answers(path, num_temperatures=1, num_mistakes=num_mistakes)
    with answers.taking():
        for block in given:
            answers.take(block)
    return answers


@pytest.mark.parametrize("seed", range(3))
def test_they_are_read_in_the_order_of_the_dataset(tmp_path: Path, seed: int) -> None:
    made = blocks(6, 7)
    shuffled = [made[place] for place in np.random.default_rng(seed).permutation(6)]
    rows = [row for table in taken(tmp_path / "a", shuffled).in_order() for row in table.to_pylist()]
    assert rows == [row for block in made for row in block.answers.to_pylist()]


def test_what_is_counted_does_not_depend_on_the_order(tmp_path: Path) -> None:
    made = blocks(6, 7)
    one, other = taken(tmp_path / "a", made), taken(tmp_path / "b", made[::-1])
    assert one.codes == other.codes == Counter({"empty": 9})
    assert one.num_top_k == other.num_top_k
    assert one.mistakes() == other.mistakes()
    assert one.calibration.tolist() == other.calibration.tolist()
    pairs = [Counter(zip(*(ids.tolist() for ids in answers.classes()), strict=True)) for answers in (one, other)]
    assert pairs[0] == pairs[1]
    assert pairs[0].total() == 42 - 9


def test_the_surest_mistakes_are_kept_and_of_equally_sure_ones_the_first(tmp_path: Path) -> None:
    made = blocks(6, 7)
    rows = [row for block in made for row in block.answers.to_pylist()]
    wrong = [row for row in rows if row["class_ids"] and row["class_ids"][0] != row["label_id"]]
    wrong.sort(key=lambda row: (-row["scores"][0], row["number"]))
    mistakes = taken(tmp_path / "a", made[::-1]).mistakes()
    assert [number for number, *_ in mistakes] == [row["number"] for row in wrong[:4]]


def test_no_mistakes_may_be_wanted(tmp_path: Path) -> None:
    assert taken(tmp_path / "a", blocks(2, 7), num_mistakes=0).mistakes() == []
