"""What was fitted to a trained model: how far its answers can be trusted. It lies in ``model.json``.

Temperature, thresholds and what the out-of-distribution score is compared with. The fingerprint does not cover them:
they change no label and no score, and may be fitted anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from pydantic import Field

from imgcls_ray.config import StrictModel
from imgcls_ray.models.profile import Profile

if TYPE_CHECKING:
    import numpy.typing as npt

Decision = Literal["accepted", "unsure"]

NOTHING_IS_ACCEPTED = 2.0
"""A threshold above every score."""


class Thresholds(StrictModel):
    """From which score on a label is accepted."""

    target_precision: float = Field(gt=0, lt=1)
    """Share of the accepted labels that are correct, at least."""
    confidence: float = Field(gt=0, lt=1)
    """Probability that the thresholds keep this promise, before the images were drawn that they were fitted on."""
    threshold: float = Field(ge=0, le=NOTHING_IS_ACCEPTED)
    """Least score of an accepted label; 2 if no score is high enough."""
    by_class: dict[int, float] = Field(default_factory=dict, max_length=100_000)
    """Thresholds of classes that have one of their own, by class id."""
    split: str = Field(max_length=100)
    """Split of the dataset that they were fitted on."""
    num_images: int = Field(ge=1)
    """Number of images that they were fitted on."""
    coverage: float = Field(ge=0, le=1)
    """Share of these images whose label is accepted."""

    def accepts(self, class_ids: np.ndarray, scores: np.ndarray) -> npt.NDArray[np.bool_]:
        """Whether labels are accepted.

        Args:
            class_ids: int (B,), of the labels.
            scores: float32 (B,), softmax of the labels.

        Returns:
            bool (B,).
        """
        # Of a batch: there may be a thousand classes, and they are looked up for each image.
        least = np.array([self.by_class.get(i, self.threshold) for i in class_ids.tolist()], np.float32)
        accepted: npt.NDArray[np.bool_] = scores >= least
        return accepted


class Calibration(StrictModel):
    """Everything that was fitted to one model."""

    temperature: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Divides the logits, so that the probability of a label is the share of such labels that are correct."""
    thresholds: Thresholds | None = None
    """Thresholds of the score from which on labels are accepted; null if no precision was asked for."""
    profile: Profile | None = None
    """Profile of the images of the evaluation, which those of runs are compared with."""

    @property
    def in_words(self) -> str:
        """``temperature 1.31 and thresholds for a precision of 0.98``."""
        temperature = "no temperature" if self.temperature is None else f"temperature {self.temperature:.3g}"
        if self.thresholds is None:
            return f"{temperature} and no thresholds"
        return f"{temperature} and thresholds for a precision of {self.thresholds.target_precision:g}"


class Trust(NamedTuple):
    """How far the labels of a batch can be trusted; one value for each image."""

    probabilities: np.ndarray | None
    """float32 (B,), calibrated probability that the label is correct; None without a temperature."""
    accepted: npt.NDArray[np.bool_] | None
    """bool (B,); None without thresholds."""
    ood_scores: np.ndarray
    """float32 (B,), as ``ood_scores`` gives them."""


def trust_in(calibration: Calibration, logits: np.ndarray, class_ids: np.ndarray, scores: np.ndarray) -> Trust:
    """Say how far the labels of a batch can be trusted.

    Args:
        calibration: of the model.
        logits: float32 (B, num_classes).
        class_ids: int32 (B,), the best class of each image.
        scores: float32 (B,), its softmax.
    """
    probabilities = None if calibration.temperature is None else best_probability(logits, calibration.temperature)
    thresholds = calibration.thresholds
    accepted = None if thresholds is None else thresholds.accepts(class_ids, scores)
    return Trust(probabilities, accepted, ood_scores(logits))


def best_probability(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of the best class at a temperature, float32 (B,)."""
    # NaN and infinity are legal here, as in ``top_k_scores``.
    with np.errstate(invalid="ignore", over="ignore"):
        # The highest is subtracted first: however small the temperature, no exponential overflows.
        shifted = (logits - logits.max(axis=1, keepdims=True)) / np.float32(temperature)
        probabilities: np.ndarray = (1 / np.exp(shifted).sum(axis=1)).astype(np.float32)
    return probabilities


def ood_scores(logits: np.ndarray) -> np.ndarray:
    """How unlike the training set images are: the higher, the less. float32 (B,).

    The free energy of the logits (Liu et al. 2020, "Energy-based Out-of-distribution Detection",
    https://arxiv.org/abs/2010.03759).
    """
    with np.errstate(invalid="ignore", over="ignore"):
        highest = logits.max(axis=1)
        total = np.exp(logits - highest[:, None]).sum(axis=1)
        scores: np.ndarray = -(highest + np.log(total)).astype(np.float32)
    return scores
