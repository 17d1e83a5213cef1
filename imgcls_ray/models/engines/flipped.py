"""Test-time augmentation: an engine that looks at each image and at its mirror image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from imgcls_ray.models.engines.engine import EngineOutput

if TYPE_CHECKING:
    from imgcls_ray.models.engines.engine import Computed, Engine


@dataclass(frozen=True)
class FlippedEngine:
    """Gives the mean of the logits, and of the embeddings, of each image and its mirror image, left to right.

    Each of the two is a batch of the engine's own: an image's numbers still depend on nothing beside it.
    """

    engine: Engine

    @property
    def precision(self) -> Computed:
        return self.engine.precision

    def __call__(self, pixels: np.ndarray) -> EngineOutput:
        plain, mirrored = self.engine(pixels), self.engine(np.ascontiguousarray(pixels[:, :, ::-1]))
        embedding = None
        if plain.embedding is not None and mirrored.embedding is not None:
            embedding = (plain.embedding + mirrored.embedding) / 2
        return EngineOutput((plain.logits + mirrored.logits) / 2, embedding)

    def beside(self) -> FlippedEngine:
        return FlippedEngine(self.engine.beside())
