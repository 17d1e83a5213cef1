"""What an evaluation found out: everything that its files are made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.errors import JobFailedError

if TYPE_CHECKING:
    from imgcls_ray.evaluate.calibration import Reliability
    from imgcls_ray.evaluate.scoring import ClassScore, Confusion


class Mistake(NamedTuple):
    """An image that was given a wrong class."""

    path: str
    """As the dataset names it."""
    uri: str
    label_id: int
    predicted_id: int
    score: float


@dataclass
class Scores:
    """What the images that could be read say of the model."""

    metrics: dict[str, float]
    """By name, ``top1`` first; without the name of the split."""
    classes: list[ClassScore]
    confusion: Confusion
    before: Reliability
    """At temperature 1."""
    after: Reliability | None
    """At the fitted temperature, if one was fitted."""
    mistakes: list[Mistake]
    """The surest first."""


@dataclass
class Evaluation:
    """One model on one split of a dataset."""

    dataset: str
    split: str
    list_sha256: str
    """Of the split's paths and class names, in order: which images these numbers are about."""
    model: str
    model_name: str
    fingerprint: str
    class_names: tuple[str, ...]
    """Of the model, by its ids."""
    num_images: int
    num_dataset_classes: int
    max_error_rate: float
    codes: Counter[str] = field(default_factory=Counter)
    """Images that could not be classified, by error code."""
    scores: Scores | None = None
    """None if no image could be read."""
    seconds: float = 0.0
    images_per_s: float = 0.0
    """Since the first block was done; where all was done too soon to say, with the start of the workers."""
    num_workers: int = 0
    kept_in_model: bool = False
    """Whether temperature and metrics stand in ``model.json``."""

    @property
    def num_unreadable(self) -> int:
        return self.codes.total()

    @property
    def failure(self) -> JobFailedError | None:
        """Why these numbers are not those of the split, if so many images could not be read."""
        if self.num_unreadable <= self.max_error_rate * self.num_images and self.num_unreadable < self.num_images:
            return None
        codes = ", ".join(f"{count:,} {code}" for code, count in sorted(self.codes.items()))
        return JobFailedError(
            f"{self.dataset}: {self.num_unreadable:,} of the {self.num_images:,} images of {self.split} cannot be read "
            f"({codes}), more than max_error_rate={self.max_error_rate:g} allows; evaluate/unreadable.csv lists them, "
            "and `imgcls check` says what else is wrong"
        )
