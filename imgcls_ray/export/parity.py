"""How far an exported network is from its original: both label the same decoded images."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imgcls_ray.errors import ImageError
from imgcls_ray.models.classifier import ImageClassifier

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from imgcls_ray.models.classifier import ModelInput, Prediction
    from imgcls_ray.models.engines.load import Precision
    from imgcls_ray.models.folder import ModelFolder

CONFIDENT_SCORE = 0.5
"""A label with this score outweighs all others together."""
_BATCH_SIZE = 8


class ParityInput(NamedTuple):
    """One image to compare on."""

    image: ModelInput | ImageError
    label: int | None
    """Class id of the model, where it is known."""


@dataclass
class Parity:
    """What a comparison found."""

    num_images: int = 0
    """That were compared: readable, and with a finite answer of the original."""
    num_same: int = 0
    """With the same top-1 label before and after."""
    max_score_difference: float = 0.0
    """Of any class of any image; softmax, 0 to 1."""
    max_logit_difference: float = 0.0
    num_non_finite: int = 0
    """Whose exported answer is no number; they count as different."""
    num_labelled: int = 0
    num_right_before: int = 0
    num_right_after: int = 0
    num_lost: int = 0
    """That were right before and are not any more."""
    num_gained: int = 0
    """That are right after, and were not before."""
    num_confident: int = 0
    """Of whose label the original is confident: ``CONFIDENT_SCORE``."""
    num_confident_same: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Images that were not compared, by error code."""
    precision_before: str = ""
    precision_after: str = ""
    """That both were compared in, e.g. ``bf16`` and ``int8+bf16``."""

    @property
    def agreement(self) -> float:
        return self.num_same / self.num_images if self.num_images else 0.0

    def add(self, before: Prediction | ImageError, after: Prediction | ImageError, label: int | None) -> None:
        """Count one image."""
        if isinstance(before, ImageError):
            self.errors[before.code] += 1
            return
        self.num_images += 1
        best_before = int(before.class_ids[0])
        best_after = None if isinstance(after, ImageError) else int(after.class_ids[0])
        self.num_same += best_before == best_after
        if before.scores[0] >= CONFIDENT_SCORE:
            self.num_confident += 1
            self.num_confident_same += best_before == best_after
        if label is not None:
            self.num_labelled += 1
            self.num_right_before += best_before == label
            self.num_right_after += best_after == label
            self.num_lost += best_before == label != best_after
            self.num_gained += best_before != label == best_after
        if isinstance(after, ImageError):
            self.num_non_finite += 1
            return
        assert before.logits is not None, "both classifiers keep them"
        assert after.logits is not None, "both classifiers keep them"
        self.max_logit_difference = max(self.max_logit_difference, _largest(before.logits - after.logits))
        scores = _scores(before) - _scores(after)
        self.max_score_difference = max(self.max_score_difference, _largest(scores))


def compare(
    original: ModelFolder, exported: ModelFolder, inputs: Iterable[ParityInput], precision: Precision
) -> Parity:
    """Label images with both networks.

    Args:
        original: the model folder.
        exported: what was made of it.
        inputs: read once, a batch at a time.
        precision: of both, as far as a network in 8 bits is not in 8 bits.
    """
    classifiers = [_classifier(folder, precision) for folder in (original, exported)]
    images = itertools.tee(inputs, 3)
    before, after = (
        classifier.classify_inputs(item.image for item in shared)
        for classifier, shared in zip(classifiers, images[:2], strict=True)
    )
    precisions = [classifier.engine.precision for classifier in classifiers]
    parity = Parity(precision_before=precisions[0], precision_after=precisions[1])
    for first, second, item in zip(before, after, images[2], strict=True):
        parity.add(first, second, item.label)
    return parity


def original_labels(folder: ModelFolder, images: Sequence[ModelInput], *, least_score: float) -> list[int | None]:
    """Top-1 class of each image; ``None`` where its score is lower than that, or no number."""
    return [
        int(answer.class_ids[0]) if not isinstance(answer, ImageError) and answer.scores[0] >= least_score else None
        for answer in _classifier(folder, "auto").classify_inputs(images)
    ]


def _classifier(folder: ModelFolder, precision: Precision) -> ImageClassifier:
    return ImageClassifier.load(
        folder, precision=precision, batch_size=_BATCH_SIZE, top_k=folder.spec.num_classes, logits=True
    )


def _scores(prediction: Prediction) -> np.ndarray:
    """By class id."""
    scores = np.zeros_like(prediction.scores)
    scores[prediction.class_ids] = prediction.scores
    return scores


def _largest(differences: np.ndarray) -> float:
    return float(np.abs(differences).max())
