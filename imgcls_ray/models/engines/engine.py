"""What every engine takes and gives: uint8 pixels in, logits out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from imgcls_ray.config import EngineName, Precision

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Engine", "EngineName", "EngineOutput", "Precision"]


class EngineOutput(NamedTuple):
    """What a network says about one batch."""

    logits: np.ndarray
    """float32 (B, num_classes)."""
    embedding: np.ndarray | None
    """float32 (B, num_features), the features before the classifier head, or None where not asked for."""


class Engine(Protocol):
    """A network ready to run at one batch size."""

    def __call__(self, pixels: np.ndarray) -> EngineOutput:
        """Run one batch: uint8 (batch_size, H, W, 3) at the model's input size, RGB."""

    def beside(self) -> Engine:
        """The same network for another thread, which may run while this one does."""
