"""The result of an evaluation: all data of its output files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from imgcls_ray.errors import JobFailedError

if TYPE_CHECKING:
    from imgcls_ray.evaluate.calibration import Reliability
    from imgcls_ray.evaluate.scoring import ClassScore
    from imgcls_ray.evaluate.thresholds import RiskCoverage
    from imgcls_ray.models.calibration import Thresholds
    from imgcls_ray.report.confusion import Confusion


class Mistake(NamedTuple):
    """An image whose predicted class is wrong."""

    path: str
    """Path as it is written in the dataset."""
    uri: str
    label_id: int
    """True class, as an id of the model."""
    predicted_id: int
    score: float
    """Softmax score of the predicted class."""


@dataclass
class Scores:
    """Metrics of the model on all images that could be classified."""

    metrics: dict[str, float]
    """Metrics by name without the split, ``top1`` first, e.g. ``{"top1": 0.91, "top5": 0.99, ...}``."""
    classes: list[ClassScore]
    """Metrics of every class of the model, by id."""
    confusion: Confusion
    before: Reliability
    """Calibration at temperature 1."""
    after: Reliability | None
    """Calibration at the fitted temperature; None if none was fitted."""
    risk_coverage: RiskCoverage
    """Coverage and precision at every threshold."""
    thresholds: Thresholds | None
    """Those for the wanted precision; None if none is wanted."""
    mistakes: list[Mistake]
    """The mistakes with the highest scores, highest first; at most ``num_mistakes`` of the configuration."""


@dataclass
class Evaluation:
    """The evaluation of one model on one split of a dataset."""

    dataset: str
    split: str
    list_sha256: str
    """Hash of the split's paths and class names, in order. It identifies the images of these metrics."""
    model: str
    model_name: str
    fingerprint: str
    class_names: tuple[str, ...]
    """Class names of the model, by id."""
    num_images: int
    num_dataset_classes: int
    max_error_rate: float
    codes: Counter[str] = field(default_factory=Counter)
    """Number of images that could not be classified, by error code."""
    scores: Scores | None = None
    """None if no image could be classified."""
    seconds: float = 0.0
    images_per_s: float | None = None
    """Throughput since the first finished block; None if all blocks finished too soon to measure it."""
    num_workers: int = 0
    kept_in_model: bool = False
    """Whether temperature and metrics were written to ``model.json``."""

    @property
    def num_unreadable(self) -> int:
        return self.codes.total()

    @property
    def failure(self) -> JobFailedError | None:
        """The error if more images were unreadable than ``max_error_rate`` allows, or all of them; otherwise None."""
        if self.num_unreadable <= self.max_error_rate * self.num_images and self.num_unreadable < self.num_images:
            return None
        codes = ", ".join(f"{count:,} {code}" for code, count in sorted(self.codes.items()))
        return JobFailedError(
            f"{self.dataset}: {self.num_unreadable:,} of the {self.num_images:,} images of {self.split} cannot be read "
            f"({codes}), more than max_error_rate={self.max_error_rate:g} allows; evaluate/unreadable.csv lists them, "
            "and `imgcls check` finds other faults"
        )
