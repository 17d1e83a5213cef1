"""A model that is ready to answer: loaded, compared with what it must say, and warm."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from imgcls_ray.errors import ImageError, ModelFolderError
from imgcls_ray.images.limits import DecodeLimits
from imgcls_ray.models.classifier import ImageClassifier, ModelInput, decode_model_input
from imgcls_ray.models.known_pictures import MAX_DIFFERENCE, known_pictures, logits_difference
from imgcls_ray.models.open import open_model
from imgcls_ray.packed.listing import fetch_input
from imgcls_ray.serve.reference import find_reference
from imgcls_ray.storage import FetchLimits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgcls_ray.config import ModelChoice
    from imgcls_ray.images.preprocess import Preprocess
    from imgcls_ray.models.classifier import Prediction
    from imgcls_ray.models.engines.load import EngineName, Precision
    from imgcls_ray.models.folder import ModelFolder
    from imgcls_ray.serve.reference import Reference


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
    def names_apart(self) -> tuple[str, ...]:
        return self.folder.spec.names_apart

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
        return list(self.classifiers[thread].classify_inputs(images, top_k=top_k))


@dataclass(frozen=True)
class ModelOptions:
    """How the models of a replica run."""

    engine: EngineName = "auto"
    device: str = "cpu"
    precision: Precision = "auto"
    max_batch_size: int = 8
    num_engines: int = 1
    num_threads: int = 1
    fetch_limits: FetchLimits = field(default_factory=FetchLimits)
    decode_limits: DecodeLimits = field(default_factory=DecodeLimits)


def load_model(choice: ModelChoice, options: ModelOptions) -> ServedModel:
    """Load a model, refuse it if it does not say what it must, and run it once at every batch size.

    Raises:
        ImgclsError: it cannot be loaded, or is refused; with the reason.
    """
    folder = open_model(choice.model, options.fetch_limits.storage)
    found = folder.spec.fingerprint
    if choice.fingerprint is not None and not found.startswith(choice.fingerprint):
        raise ModelFolderError(
            f"{choice.model}: is another model than the one asked for: its fingerprint begins with {found[:12]}, "
            f"asked for was {choice.fingerprint[:12]}"
        )
    if choice.fingerprint is not None:
        # Whoever names the model by its fingerprint gets what that covers: its weights, converted here.
        folder = replace(folder, takes_bundle=False)
    reference = find_reference(folder, count=options.max_batch_size, engine=options.engine, device=options.device)
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
    _warm_decoder(model, options.decode_limits)
    _warm_and_compare(model, options.max_batch_size, reference)
    for golden in choice.golden:
        _check_golden(model, golden.image, golden.label, options)
    return model


def _warm_decoder(model: ServedModel, limits: DecodeLimits) -> None:
    """Decode one file: the first one in a process loads libraries, for seconds."""
    file = io.BytesIO()
    [picture] = known_pictures(1, model.preprocess.crop_size)
    Image.fromarray(picture).save(file, "JPEG")
    decode_model_input(file.getvalue(), model.preprocess, limits)


def _warm_and_compare(model: ServedModel, max_batch_size: int, reference: Reference | None) -> None:
    """Run every batch size in every thread's engine; all must agree with float32 arithmetic on the same pictures.

    Of an exported network only its own answers are known: they must not depend on the batch.
    """
    pictures = known_pictures(max_batch_size, model.preprocess.crop_size) if reference is None else reference.pictures
    images = [ModelInput(pixels, 1, 1) for pixels in pictures]
    expected = np.concatenate([_logits(model, [i], 0) for i in images]) if reference is None else reference.logits
    for thread in range(len(model.classifiers)):
        for size in range(1, max_batch_size + 1):
            difference = logits_difference(_logits(model, images[:size], thread), expected[:size])
            if not difference <= MAX_DIFFERENCE:
                raise ModelFolderError(
                    f"{model.uri}: the engine says something else than the network in float32: its logits differ by "
                    f"{difference:.0%} (batch of {size}, engine {thread}); try precision=fp32 or engine=torch"
                )


def _logits(model: ServedModel, images: Sequence[ModelInput], thread: int) -> np.ndarray:
    """float32 (B, num_classes)."""
    classifier = replace(model.classifiers[thread], keep_logits=True, top_k=1)
    rows = []
    for answer in classifier.classify_inputs(images):
        if isinstance(answer, ImageError):
            raise ModelFolderError(f"{model.uri}: {answer.code.value} on a known picture: {answer}")
        assert answer.logits is not None
        rows.append(answer.logits)
    return np.stack(rows)


def _check_golden(model: ServedModel, image: str, label: str, options: ModelOptions) -> None:
    """A picture whose label is known goes the whole way."""
    if label not in model.class_names:
        raise ModelFolderError(f"{model.uri}: has no class {label!r}, which the golden picture {image} must get")
    try:
        data = fetch_input(image, None, options.fetch_limits)
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
