"""The one classifier: encoded bytes to labels, used by every path.

One image that cannot be decoded costs its own result and no other: errors are values here, never exceptions.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from imgcls_ray.errors import ImageError, ImageErrorCode
from imgcls_ray.images.decoder import DecodeLimits, decode_scaled
from imgcls_ray.images.looks import looks_of
from imgcls_ray.images.preprocess import preprocess_image
from imgcls_ray.models.calibration import Calibration, trust_in
from imgcls_ray.models.engines.load import load_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imgcls_ray.images.crops import Crop
    from imgcls_ray.images.preprocess import Preprocess
    from imgcls_ray.models.calibration import Decision
    from imgcls_ray.models.engines.engine import Computed
    from imgcls_ray.models.engines.load import Engine, EngineName, Precision
    from imgcls_ray.models.folder import ModelFolder

D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says about one image."""

    width: int
    """Of the upright picture, or of the box of it, pixels."""
    height: int
    class_ids: np.ndarray
    """int32 (k,), best first."""
    scores: np.ndarray
    """float32 (k,), softmax, best first."""
    embedding: np.ndarray | None = None
    """float32 (num_features,)."""
    logits: np.ndarray | None = None
    """float32 (num_classes,)."""
    probability: float | None = None
    """Calibrated probability that the best class is correct; None for a model without a temperature."""
    decision: Decision | None = None
    """Whether the best class is sure enough; None for a model without thresholds."""
    ood_score: float | None = None
    """The higher, the less the image is like those of the training set."""
    looks: np.ndarray | None = None
    """float32 (3,), brightness, contrast and sharpness, as ``looks_of`` gives them."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One image, decoded and at the model's input size."""

    pixels: np.ndarray
    """uint8 (crop_size, crop_size, 3), RGB."""
    width: int
    """Of the upright picture before resizing, pixels."""
    height: int


@dataclass
class StageSeconds:
    """Where the time of one worker went, seconds."""

    fetch: float = 0.0
    """Waiting for bytes."""
    decode: float = 0.0
    """Decoding, resizing and cropping."""
    forward: float = 0.0
    """The engine, and picking the best classes."""
    write: float = 0.0
    """Building, encoding and committing part files."""


def decode_model_input(data: bytes | Crop, preprocess: Preprocess, limits: DecodeLimits) -> ModelInput | ImageError:
    """The way of one image up to the engine: decode, resize, crop. Failures are values."""
    try:
        decoded = decode_scaled(data, limits, min_side=preprocess.min_side)
    except ImageError as error:
        return error.as_value()
    return ModelInput(preprocess_image(decoded.pixels, preprocess), width=decoded.width, height=decoded.height)


def decode_model_inputs(
    encoded: Iterable[bytes | Crop | ImageError], decode: Callable[[Any], D | ImageError], seconds: StageSeconds
) -> Iterator[D | ImageError]:
    """Decode images in order, one result each; an error in is the same error out. ``D`` is a decoded image."""
    for data in encoded:
        start = time.perf_counter()
        result = data if isinstance(data, ImageError) else decode(data)
        seconds.decode += time.perf_counter() - start
        yield result


@dataclass
class ImageClassifier:
    """A model folder, ready to label batches.

    Not thread-safe: one thread classifies. Decoding (``decode_model_input``) may run in others.
    """

    folder: ModelFolder
    engine: Engine
    batch_size: int
    top_k: int
    keep_logits: bool = False
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    pad: bool = True
    """Fill short batches up, so that the engine sees one shape and an image's numbers do not depend on how many there
    are."""
    calibration: Calibration = field(default_factory=Calibration)
    """What the answers are judged by."""

    def __post_init__(self) -> None:
        size = self.folder.spec.preprocess.crop_size
        # One buffer for every batch: rows past a short batch's end keep older pixels, whose outputs are dropped.
        self._batch = np.zeros((self.batch_size, size, size, 3), dtype=np.uint8)
        self.top_k = min(self.top_k, self.folder.spec.num_classes)

    @classmethod
    def load(
        cls,
        folder: ModelFolder,
        *,
        engine: EngineName = "auto",
        device: str = "cpu",
        precision: Precision = "auto",
        batch_size: int = 32,
        num_threads: int | None = None,
        num_streams: int = 1,
        pad: bool = True,
        top_k: int = 5,
        embedding: bool = False,
        logits: bool = False,
        limits: DecodeLimits | None = None,
        calibration: Calibration | None = None,
    ) -> ImageClassifier:
        """Load the engine for a model folder; ``top_k`` is capped at the number of classes.

        Answers are judged by the folder's calibration where no other is given.

        Where short batches are not padded, ``num_streams`` says how many classifiers ``beside`` each other will run.

        Raises:
            ModelFolderError: the folder's parts do not fit together.
            ResourceError: there is no such device.
        """
        ready = load_engine(
            folder,
            engine=engine,
            device=device,
            precision=precision,
            batch_size=batch_size if pad else None,
            num_threads=num_threads,
            num_streams=num_streams,
            embedding=embedding,
        )
        return cls(
            folder,
            ready,
            batch_size,
            top_k,
            keep_logits=logits,
            limits=limits or DecodeLimits(),
            pad=pad,
            calibration=calibration or folder.spec.fitted,
        )

    @property
    def precision(self) -> Computed:
        """Number format that the engine computes in."""
        return self.engine.precision

    def beside(self) -> ImageClassifier:
        """The same network for another thread."""
        return replace(self, engine=self.engine.beside())

    def classify_encoded(
        self, encoded: Iterable[bytes | Crop | ImageError], seconds: StageSeconds | None = None
    ) -> Iterator[Prediction | ImageError]:
        """Label images from their bytes, in order, one result each; an error in is the same error out."""
        seconds = seconds or StageSeconds()

        def decode(data: bytes | Crop) -> ModelInput | ImageError:
            return decode_model_input(data, self.folder.spec.preprocess, self.limits)

        return self.classify_inputs(decode_model_inputs(encoded, decode, seconds), seconds)

    def classify_inputs(
        self,
        inputs: Iterable[ModelInput | ImageError],
        seconds: StageSeconds | None = None,
        *,
        top_k: int | None = None,
    ) -> Iterator[Prediction | ImageError]:
        """Label decoded images, in order, one result each; only good images take a place in a batch.

        ``top_k`` stands in for the classifier's own, for these images; it is capped at the number of classes too.
        """
        seconds = seconds or StageSeconds()
        top_k = self.top_k if top_k is None else min(top_k, self.folder.spec.num_classes)
        waiting: list[ModelInput | ImageError] = []
        num_good = 0
        for item in inputs:
            waiting.append(item)
            if not isinstance(item, ImageError):
                self._batch[num_good] = item.pixels
                num_good += 1
            if num_good == self.batch_size:
                yield from self._classify_batch(waiting, num_good, seconds, top_k)
                waiting, num_good = [], 0
        if waiting:
            yield from self._classify_batch(waiting, num_good, seconds, top_k)

    def _classify_batch(
        self, waiting: list[ModelInput | ImageError], num_good: int, seconds: StageSeconds, top_k: int
    ) -> list[Prediction | ImageError]:
        start = time.perf_counter()
        good = self._predictions(num_good, top_k) if num_good else iter(())
        results: list[Prediction | ImageError] = []
        for item in waiting:
            if isinstance(item, ImageError):
                results.append(item)
                continue
            answer = next(good)
            results.append(answer if isinstance(answer, ImageError) else Prediction(item.width, item.height, *answer))
        seconds.forward += time.perf_counter() - start
        return results

    def _predictions(self, num_good: int, top_k: int) -> Iterator[_Answer | ImageError]:
        output = self.engine(self._batch if self.pad else self._batch[:num_good])
        logits = output.logits[:num_good]
        class_ids, scores = top_k_scores(logits, top_k)
        trust = trust_in(self.calibration, logits, class_ids[:, 0], scores[:, 0])
        looks = looks_of(self._batch[:num_good])
        finite = np.isfinite(logits).all(axis=1)
        for i in range(num_good):
            if not finite[i]:
                yield ImageError(ImageErrorCode.NON_FINITE_OUTPUT)
                continue
            yield _Answer(
                class_ids[i],
                scores[i],
                None if output.embedding is None else output.embedding[i],
                logits[i] if self.keep_logits else None,
                None if trust.probabilities is None else float(trust.probabilities[i]),
                None if trust.accepted is None else "accepted" if trust.accepted[i] else "unsure",
                float(trust.ood_scores[i]),
                looks[i],
            )


class _Answer(NamedTuple):
    """A prediction without the size of its picture."""

    class_ids: np.ndarray
    scores: np.ndarray
    embedding: np.ndarray | None
    logits: np.ndarray | None
    probability: float | None
    decision: Decision | None
    ood_score: float
    looks: np.ndarray


def top_k_scores(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Softmax and pick the best classes; equal scores go to the lower class id.

    Args:
        logits: float32 (B, num_classes).
        k: at most num_classes.

    Returns:
        Class ids int32 (B, k) and softmax scores float32 (B, k), best first.
    """
    # NaN and infinity are legal here: their rows are dropped as non_finite_output.
    with np.errstate(invalid="ignore", over="ignore"):
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    # One integer per class, ordered by score and then by lower id: bf16 scores do tie, and a partial selection
    # of distinct integers is both exact and several times faster than a stable sort of all classes.
    bits = np.ascontiguousarray(logits).view(np.int32)
    ordered = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)
    keys = (ordered << 32) - np.arange(logits.shape[1])
    best = -np.sort(-np.partition(keys, -k, axis=1)[:, -k:], axis=1)
    class_ids = ((-best) & 0xFFFFFFFF).astype(np.int32)
    return class_ids, np.take_along_axis(probabilities, class_ids, axis=1).astype(np.float32)
