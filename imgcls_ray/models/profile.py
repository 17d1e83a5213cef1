"""What the images of a run, or of a dataset, are like together: counts of a few features in fixed bins.

Profiles of parts add up to that of the whole, whatever the number of images, so workers send and files keep these and
nothing of single images.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from imgcls_ray.config import StrictModel
from imgcls_ray.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from imgcls_ray.models.classifier import Prediction

FEATURES = ("label", "confidence", "unlike", "brightness", "contrast", "sharpness", "size", "decision")
"""``label`` is the best class, ``unlike`` the out-of-distribution score; ``size`` is that of the upright picture;
``decision`` is 1 for an accepted label and 0 for an unsure one."""
# Files come from anywhere: no sum of counts is 0, and each fits an int64.
_Count = Annotated[int, Field(ge=1, le=2**40)]
# A score of 1 is rounded: the bins end here.
_LEAST_DOUBT = 2.0**-16
_MOST_UNLIKE = 1000  # bins on either side of 0


def _logarithm(values: np.ndarray) -> np.ndarray:
    """Four bins for each doubling."""
    logarithm: np.ndarray = 4 * np.log2(values)
    return logarithm


_PLACES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "label": lambda values: values,
    "confidence": lambda values: -_logarithm(1 - values + _LEAST_DOUBT),
    # Of a network whose training diverged, each image could have a bin of its own.
    "unlike": lambda values: np.clip(2 * values, -_MOST_UNLIKE, _MOST_UNLIKE),
    "brightness": lambda values: values / 4,
    "contrast": lambda values: values / 2,
    "sharpness": lambda values: _logarithm(1 + values),
    "size": _logarithm,
    "decision": lambda values: values,
}
"""Of each feature, where a value is on the scale whose unit is one bin."""


class Profile(StrictModel):
    """How many images are in each bin of each feature."""

    num_images: int = Field(default=0, ge=0)
    """Number of images that were classified."""
    counts: dict[str, dict[int, _Count]] = Field(default_factory=dict, max_length=100)
    """Number of images by feature and bin; bins without images are left out."""

    @property
    def share_accepted(self) -> float | None:
        """Share of the labels that are accepted; None without thresholds."""
        decisions = self.counts.get("decision")
        return decisions.get(1, 0) / sum(decisions.values()) if decisions else None

    def __add__(self, other: Profile) -> Profile:
        names = {*self.counts, *other.counts}
        sums = {name: Counter(self.counts.get(name, {})) + Counter(other.counts.get(name, {})) for name in names}
        return Profile.model_construct(
            num_images=self.num_images + other.num_images,
            counts={name: dict(sorted(sums[name].items())) for name in sorted(names)},
        )


def profile_of(results: Iterable[Prediction | ImageError]) -> Profile:
    """The profile of some images; those with an error do not count."""
    good = [result for result in results if not isinstance(result, ImageError)]
    if not good:
        return Profile()
    looks = np.array([(math.nan,) * 3 if result.looks is None else result.looks for result in good], np.float64)
    values: dict[str, Sequence[Any] | np.ndarray] = {
        "label": [result.class_ids[0] for result in good],
        "confidence": [result.scores[0] for result in good],
        "unlike": [math.nan if result.ood_score is None else result.ood_score for result in good],
        "brightness": looks[:, 0],
        "contrast": looks[:, 1],
        "sharpness": looks[:, 2],
        "size": [result.width * result.height for result in good],
        "decision": [math.nan if result.decision is None else result.decision == "accepted" for result in good],
    }
    return Profile(num_images=len(good), counts={name: _count(name, values[name]) for name in FEATURES})


def _count(name: str, values: Sequence[Any] | np.ndarray) -> dict[int, int]:
    places = np.floor(_PLACES[name](np.asarray(values, np.float64)))
    bins, counts = np.unique(places[np.isfinite(places)].astype(np.int64), return_counts=True)
    return dict(zip(bins.tolist(), counts.tolist(), strict=True))
