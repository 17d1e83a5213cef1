"""A model that is ready to answer: loaded, compared with what it must say, and warm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.errors import ImageError, ModelFolderError
from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.models.classifier import ImageClassifier, ModelInput, decode_model_input
from imgcls_ray.models.new import open_model
from imgcls_ray.models.torch_engine import from_uint8
from imgcls_ray.storage import FetchLimits, fetch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.config import ModelChoice
    from imgcls_ray.images.preprocess import Preprocess
    from imgcls_ray.models.classifier import Prediction
    from imgcls_ray.models.engines import EngineName, Precision
    from imgcls_ray.models.folder import ModelFolder

# Of any class's score between the engine and float32 arithmetic: bf16 stays within 0.03, a wrong network does not.
_MAX_SCORE_DIFFERENCE = 0.1


@dataclass(frozen=True, eq=False)
class ServedModel:
    """One model in one replica. Each engine thread has a classifier of its own."""

    uri: str
    """As it was asked for."""
    folder: ModelFolder
    classifiers: tuple[ImageClassifier, ...]

    @property
    def name(self) -> str:
        return self.folder.spec.name

    @property
    def fingerprint(self) -> str:
        return self.folder.spec.fingerprint

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.folder.spec.class_names

    @property
    def preprocess(self) -> Preprocess:
        return self.folder.spec.preprocess

    def classify(
        self, images: Sequence[ModelInput], thread: int = 0, *, top_k: int = 1
    ) -> list[Prediction | ImageError]:
        """Label at most one batch.

        Args:
            images: decoded and at the model's input size.
            thread: which of the engine threads asks.
            top_k: labels per image, at most the number of classes.
        """
        classifier = self.classifiers[thread]
        classifier.top_k = min(top_k, len(self.class_names))
        return list(classifier.classify_inputs(images))


@dataclass(frozen=True)
class ModelOptions:
    """How the models of a replica run."""

    engine: EngineName = "auto"
    device: str = "cpu"
    precision: Precision = "auto"
    max_batch_size: int = 8
    num_engines: int = 1
    num_threads: int = 1
    fetch_limits: FetchLimits = FetchLimits()
    decode_limits: DecodeLimits = DecodeLimits()


def load_model(choice: ModelChoice, options: ModelOptions) -> ServedModel:
    """Load a model, refuse it if it does not say what it must, and run it once at every batch size.

    Raises:
        ImgclsError: it cannot be loaded, or is refused; with the reason.
    """
    folder = open_model(choice.model, options.fetch_limits.s3)
    found = folder.spec.fingerprint
    if choice.fingerprint is not None and not found.startswith(choice.fingerprint):
        raise ModelFolderError(
            f"{choice.model}: is another model than the one asked for: its fingerprint begins with {found[:12]}, "
            f"asked for was {choice.fingerprint[:12]}"
        )
    first = ImageClassifier.load(
        folder,
        engine=options.engine,
        device=options.device,
        precision=options.precision,
        batch_size=options.max_batch_size,
        num_threads=options.num_threads,
        num_streams=options.num_engines,
        pad=False,
    )
    classifiers = (first, *(first.beside() for _ in range(options.num_engines - 1)))
    model = ServedModel(choice.model, folder, classifiers)
    _warm_and_compare(model, options.max_batch_size)
    for golden in choice.golden:
        _check_golden(model, golden.image, golden.label, options)
    return model


def _warm_and_compare(model: ServedModel, max_batch_size: int) -> None:
    """Run every batch size in every thread's engine; all must agree with float32 arithmetic on the same pictures."""
    pictures = _test_pictures(max_batch_size, model.preprocess.crop_size)
    expected = _reference_scores(model, pictures)
    for number, classifier in enumerate(model.classifiers):
        for size in range(1, max_batch_size + 1):
            images = [ModelInput(pixels, 1, 1) for pixels in pictures[:size]]
            classifier.top_k = len(model.class_names)
            found = list(classifier.classify_inputs(images))
            for answer, scores in zip(found, expected[:size], strict=True):
                if isinstance(answer, ImageError):
                    raise ModelFolderError(f"{model.uri}: {answer.code.value} on a test picture: {answer}")
                difference = float(np.abs(scores[answer.class_ids] - answer.scores).max())
                if difference > _MAX_SCORE_DIFFERENCE:
                    raise ModelFolderError(
                        f"{model.uri}: the engine says something else than the network in float32: a score differs by "
                        f"{difference:.2f} (batch of {size}, engine {number}); try precision=fp32 or engine=torch"
                    )


def _test_pictures(count: int, size: int) -> np.ndarray:
    """Soft patterns in all colours, the same every time: uint8 (count, size, size, 3)."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    repeats = -(-size // 8)
    return np.ascontiguousarray(coarse.repeat(repeats, axis=1).repeat(repeats, axis=2)[:, :size, :size])


def _reference_scores(model: ServedModel, pictures: np.ndarray) -> np.ndarray:
    """float32 (B, num_classes): of the network itself, or of an exported one alone its own at batch size 1."""
    if model.folder.spec.exported is not None:
        classifier = model.classifiers[0]
        classifier.top_k = len(model.class_names)
        scores = np.zeros((len(pictures), len(model.class_names)), np.float32)
        for i, pixels in enumerate(pictures):
            [answer] = classifier.classify_inputs([ModelInput(pixels, 1, 1)])
            if isinstance(answer, ImageError):
                raise ModelFolderError(f"{model.uri}: {answer.code.value} on a test picture: {answer}")
            scores[i, answer.class_ids] = answer.scores
        return scores
    import torch

    with torch.inference_mode():
        logits = from_uint8(model.folder, embedding=False)(torch.from_numpy(pictures))
        scores = torch.softmax(logits.float(), dim=1).numpy()
    if not np.isfinite(scores).all():
        raise ModelFolderError(f"{model.uri}: the network's output for a test picture is not a finite number")
    return scores


def _check_golden(model: ServedModel, image: str, label: str, options: ModelOptions) -> None:
    """A picture whose label is known goes the whole way."""
    if label not in model.class_names:
        raise ModelFolderError(f"{model.uri}: has no class {label!r}, which the golden picture {image} must get")
    try:
        data = fetch(image, None, options.fetch_limits)
    except ImageError as error:
        raise ModelFolderError(f"golden picture {image}: cannot be read: {error}") from error
    decoded = decode_model_input(data, model.preprocess, options.decode_limits)
    if isinstance(decoded, ImageError):
        raise ModelFolderError(f"golden picture {image}: cannot be read: {decoded}") from decoded
    [answer] = model.classify([decoded])
    if isinstance(answer, ImageError):
        raise ModelFolderError(f"{model.uri}: {answer.code.value} on the golden picture {image}") from answer
    found = model.class_names[answer.class_ids[0]]
    if found != label:
        raise ModelFolderError(
            f"{model.uri}: takes the golden picture {image} for {found!r} ({answer.scores[0]:.2f}), it must be "
            f"{label!r}"
        )
