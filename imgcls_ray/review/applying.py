"""Add what a person answered to a dataset, so that the next training uses it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgcls_ray.datasets.additions import Addition, AdditionReport, add_to_lists
from imgcls_ray.errors import ImageError, ImgclsError, UsageError
from imgcls_ray.packed.listing import fetch_input
from imgcls_ray.review.answers import Answer, each_once, read_answers

if TYPE_CHECKING:
    from imgcls_ray.storage import FetchLimits

_NUM_THREADS = 8


@dataclass(frozen=True)
class Applied:
    """What became of answers."""

    report: AdditionReport
    num_unsure: int
    """Images that nobody could tell."""
    num_corrected: int
    """Answers that differ from what the model had said."""


def apply_answers(
    file: str,
    dataset: str,
    *,
    split: str,
    queue: str | None,
    delimiter: str | None,
    time: str,
    fetch_limits: FetchLimits,
) -> Applied:
    """Add the answers of a file to a dataset's lists.

    Args:
        file: of answers.
        dataset: folder with lists, local or in object storage.
        split: which list.
        queue: folder with ``queue.csv``; ``None``: that of the file.
        delimiter: of the lists.
        time: what ``reviewed.csv`` says of when.
        fetch_limits: bounds on reading an image.

    Raises:
        UsageError: answers differ, a label is no class, an image cannot be read or has changed since, or is in the
            dataset with another label; nothing was written.
        StorageError: a list cannot be written.
    """
    answers = read_answers(file, queue)
    told = each_once(file, answers)
    _refuse_unreadable(file, told, fetch_limits)
    additions = [
        Addition(answer.uri, answer.label or "", answer.where, answer.etag, answer.predicted, file) for answer in told
    ]
    report = add_to_lists(dataset, additions, split=split, delimiter=delimiter, time=time, storage=fetch_limits.storage)
    num_unsure = len({answer.uri for answer in answers}) - len(told)
    num_corrected = sum(bool(answer.predicted) and answer.predicted != answer.label for answer in told)
    return Applied(report, num_unsure, num_corrected)


def _refuse_unreadable(file: str, answers: list[Answer], limits: FetchLimits) -> None:
    """A list with images that are not there ends the next training."""

    def fault(answer: Answer) -> str | None:
        try:
            fetch_input(answer.uri, answer.etag, limits)
        except (ImageError, ImgclsError) as error:
            return str(error)
        return None

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        faults = [
            (answer, what) for answer, what in zip(answers, pool.map(fault, answers), strict=True) if what is not None
        ]
    if faults:
        answer, what = faults[0]
        several = (
            f"{len(faults):,} images cannot be read as they were" if faults[1:] else "an image cannot be read as it was"
        )
        raise UsageError(
            f"{file}: {several} labelled, e.g. {answer.uri} ({answer.where}): {what}. Nothing "
            "was written: bring the images back, or take their answers out"
        )
