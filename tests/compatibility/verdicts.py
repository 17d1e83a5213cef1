"""What a model folder says of a few photos, in float32: for golden data, and for comparing with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from imgcls_ray.models.classifier import ImageClassifier, Prediction
from imgcls_ray.models.open import open_model
from imgcls_ray.storage import DEFAULT_STORAGE
from tests.compatibility.photos import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from imgcls_ray.models.engines.load import EngineName

ENGINES: dict[str, tuple[EngineName, ...]] = {
    "zoo": ("torch", "openvino"),
    "trained": ("torch", "openvino"),
    "onnx": ("openvino",),
    "openvino": ("openvino",),
    "torch_export": ("torch",),
}
"""Folders under ``models/``, and what can read them."""
_JUDGED = ("00000.jpg", "00001.jpg", "00002.jpg", "00003.jpg")
_NUM_FEATURES = 8
_HAVE_EMBEDDING = ("zoo", "trained")


class Verdict(TypedDict):
    """Of one photo."""

    label: str
    logits: list[float]
    """Of every class, in the order of the model's class names."""
    embedding: list[float]
    """Its first features; none of an exported folder. Random heads say nearly the same of everything, these do not."""


class Verdicts(TypedDict):
    fingerprint: str
    photos: dict[str, Verdict]


def judge(path: Path, engine: EngineName) -> Verdicts:
    """Label the photos in ``ROOT`` with a model folder."""
    folder = open_model(str(path), DEFAULT_STORAGE)
    spec = folder.spec
    classifier = ImageClassifier.load(
        folder,
        engine=engine,
        precision="fp32",
        batch_size=len(_JUDGED),
        embedding=path.name in _HAVE_EMBEDDING,
        logits=True,
    )
    predictions = classifier.classify_encoded((ROOT / "photos" / name).read_bytes() for name in _JUDGED)
    photos: dict[str, Verdict] = {}
    for name, prediction in zip(_JUDGED, predictions, strict=True):
        assert isinstance(prediction, Prediction)
        assert prediction.logits is not None
        embedding = prediction.embedding[:_NUM_FEATURES].tolist() if prediction.embedding is not None else []
        label = spec.class_names[prediction.class_ids[0]]
        photos[name] = Verdict(label=label, logits=prediction.logits.tolist(), embedding=embedding)
    return Verdicts(fingerprint=spec.fingerprint, photos=photos)
