"""From which score on a label may be accepted, so that a wanted share of the accepted ones is correct.

Scores decide how many images a threshold accepts, and a binomial test (Clopper and Pearson 1934) whether they are
correct often enough. Many thresholds are tried, so the chance that one of them passes by luck has to be bounded for all
together: they are tested in an order that is fixed beforehand, from the surest images on, and the first that fails ends
the sequence (fixed-sequence testing; Angelopoulos et al. 2021, "Learn then Test", https://arxiv.org/abs/2110.01052).
Every test is of a number of images that is fixed beforehand, and the threshold is the score of the next image: given
that score, the images above it are independent draws from everything above it. This holds for a model that is not less
often correct where it is surer.

One mistake among the surest images would end the only sequence at once. So there are two, each with half of the error
probability: from the fewest images on that could pass, and from half of all images on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imgcls_ray.models.calibration import NOTHING_IS_ACCEPTED, Thresholds

if TYPE_CHECKING:
    import numpy.typing as npt

CONFIDENCE = 0.95
"""Probability that thresholds keep their promise."""
_NUM_STEPS = 100
# A class gets a threshold of its own if it has so many times the images without a mistake that one needs.
_TIMES_FEWEST = 2


class RiskCoverage(NamedTuple):
    """What would be accepted, and how often it would be correct, at every threshold; by falling score."""

    coverage: npt.NDArray[np.float64]
    """(N,), share of the images."""
    precision: npt.NDArray[np.float64]
    """(N,), share of these that are correct."""


def fit_thresholds(
    class_ids: np.ndarray, scores: np.ndarray, is_correct: np.ndarray, *, target_precision: float, split: str
) -> Thresholds:
    """Find the lowest thresholds of which it is sure enough that they keep the precision.

    Classes that are predicted often enough get one of their own, all others share one. Each is sure enough of itself,
    and the probability of an error is shared out among them, so the promise is one for all of them at once.

    Args:
        class_ids: int (N,), predicted classes.
        scores: float32 (N,), their softmax.
        is_correct: bool (N,).
        target_precision: share of the accepted labels that has to be correct.
        split: of the dataset, for the record.
    """
    own = _classes_of_their_own(class_ids, target_precision)
    is_rest = ~np.isin(class_ids, own)
    error = (1 - CONFIDENCE) / (len(own) + int(is_rest.any()))

    def fit(chosen: npt.NDArray[np.bool_]) -> float:
        return _threshold(scores[chosen], is_correct[chosen], target_precision, error)

    thresholds = Thresholds(
        target_precision=target_precision,
        confidence=CONFIDENCE,
        threshold=fit(is_rest),
        by_class={class_id: fit(class_ids == class_id) for class_id in own},
        split=split,
        num_images=len(scores),
        coverage=0,
    )
    coverage = float(thresholds.accepts(class_ids, scores).mean())
    return thresholds.model_copy(update={"coverage": coverage})


def fewest_images(target_precision: float, error: float) -> int:
    """How many images without a mistake it takes to be sure of a precision.

    >>> fewest_images(0.98, 0.05)
    149
    """
    return int(np.ceil(np.log(error) / np.log(target_precision)))


def _classes_of_their_own(class_ids: np.ndarray, target: float) -> list[int]:
    """The classes that are predicted often enough. The more they are, the more images each one needs."""
    ids, counts = np.unique(class_ids, return_counts=True)
    most_first = np.argsort(-counts, kind="stable")
    for number in range(len(ids), 0, -1):
        least = _TIMES_FEWEST * fewest_images(target, (1 - CONFIDENCE) / (number + 1) / 2)
        if counts[most_first[number - 1]] >= least:
            return sorted(ids[most_first[:number]].tolist())
    return []


def _threshold(scores: np.ndarray, is_correct: np.ndarray, target: float, error: float) -> float:
    """The lowest score that may be accepted; ``NOTHING_IS_ACCEPTED`` if none may."""
    order = np.argsort(-scores, kind="stable")
    scores, num_correct = scores[order], np.cumsum(is_correct[order])
    fewest = fewest_images(target, error / 2)
    starts = {fewest, max(fewest, len(scores) // 2)}
    best = NOTHING_IS_ACCEPTED
    for start in starts:
        if start > len(scores):
            continue
        for num_images in np.unique(np.linspace(start, len(scores), _NUM_STEPS).astype(int)):
            # Of equal scores all are accepted, and the threshold is just above the next one. Sure networks have many
            # scores of exactly 1.
            num_above = int((scores >= scores[num_images - 1]).sum())
            if not _is_sure(num_above, int(num_correct[num_above - 1]), target, error / len(starts)):
                break
            is_all = num_above == len(scores)
            best = min(best, 0.0 if is_all else float(np.nextafter(scores[num_above], np.float32(np.inf))))
    return best


def _is_sure(num_images: int, num_correct: int, target: float, error: float) -> bool:
    """Whether a share of at least ``target`` is correct, but for an error of this probability."""
    from scipy.stats import binom

    # Of images of a lower share, so many or more would be correct with less than this probability.
    return bool(binom.sf(num_correct - 1, num_images, target) <= error)


def risk_coverage(scores: np.ndarray, is_correct: np.ndarray) -> RiskCoverage:
    """Coverage and precision at every threshold.

    Args:
        scores: float32 (N,).
        is_correct: bool (N,).
    """
    order = np.argsort(-scores, kind="stable")
    num_accepted = np.arange(1, len(scores) + 1)
    # Of equal scores all are accepted, or none.
    is_last = np.append(np.diff(scores[order]) != 0, True)
    return RiskCoverage((num_accepted / len(scores))[is_last], (np.cumsum(is_correct[order]) / num_accepted)[is_last])
