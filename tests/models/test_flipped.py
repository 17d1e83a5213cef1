"""Test-time augmentation: each image and its mirror image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from imgcls_ray.models.engines.load import load_engine
from imgcls_ray.workers.classifier_task import ClassifierTask

if TYPE_CHECKING:
    from imgcls_ray.models.folder import ModelFolder

BATCH = 4


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_logits_and_embeddings_are_the_mean_of_both(small_model: ModelFolder, engine: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 64, 64, 3), dtype=np.uint8)
    task = ClassifierTask(
        str(small_model.path),
        small_model.spec.fingerprint,
        top_k=3,
        embedding=True,
        engine=engine,  # type: ignore[arg-type]
        precision="fp32",
        batch_size=BATCH,
        tta="hflip",
    )
    plain = load_engine(
        small_model,
        engine=engine,  # type: ignore[arg-type]
        precision="fp32",
        batch_size=BATCH,
        num_threads=1,
        embedding=True,
    )
    one, other = plain(pixels), plain(np.ascontiguousarray(pixels[:, :, ::-1]))
    assert np.abs(one.logits - other.logits).max() > 1
    classifier = task.load_classifier(task.open_model(), device="cpu", num_threads=1, num_streams=1)
    for flipped in (classifier.engine, classifier.engine.beside()):
        got = flipped(pixels)
        assert np.allclose(got.logits, (one.logits + other.logits) / 2, atol=1e-4)
        assert got.embedding is not None
        assert one.embedding is not None
        assert other.embedding is not None
        assert np.allclose(got.embedding, (one.embedding + other.embedding) / 2, atol=1e-4)
        assert flipped.precision == "fp32"
        # A picture and its mirror image are the same.
        assert np.allclose(flipped(np.ascontiguousarray(pixels[:, :, ::-1])).logits, got.logits, atol=1e-4)


def test_without_it_the_network_runs_once(small_model: ModelFolder) -> None:
    task = ClassifierTask(str(small_model.path), small_model.spec.fingerprint, top_k=3, engine="torch")
    classifier = task.load_classifier(small_model, device="cpu", num_threads=1, num_streams=1)
    assert type(classifier.engine) is type(load_engine(small_model, engine="torch", num_threads=1))
    assert task.num_passes == 1
