"""What every engine takes and gives: uint8 pixels in, logits out; and which numbers it computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from imgcls_ray.config import EngineName, Precision

if TYPE_CHECKING:
    import numpy as np

    from imgcls_ray.models.folder import ModelFolder

__all__ = ["Computed", "Engine", "EngineName", "EngineOutput", "Precision", "computed_by"]

Computed = Literal["bf16", "fp32", "int8+bf16", "int8+fp32"]
"""Number format that a network was run in. Layers of a quantized network that are not in 8 bits are in the second
one."""


class EngineOutput(NamedTuple):
    """What a network says about one batch."""

    logits: np.ndarray
    """float32 (B, num_classes)."""
    embedding: np.ndarray | None
    """float32 (B, num_features), the features before the classifier head, or None where not asked for."""


class Engine(Protocol):
    """A network ready to run at one batch size."""

    @property
    def precision(self) -> Computed:
        """What it computes in, whatever was asked for."""

    def __call__(self, pixels: np.ndarray) -> EngineOutput:
        """Run one batch: uint8 (batch_size, H, W, 3) at the model's input size, RGB."""

    def beside(self) -> Engine:
        """The same network for another thread, which may run while this one does."""


def computed_by(folder: ModelFolder, *, is_bf16: bool) -> Computed:
    """The number format of a folder's network on an engine that computes in bf16, or in fp32."""
    exported = folder.spec.exported
    if exported is not None and exported.precision == "int8":
        return "int8+bf16" if is_bf16 else "int8+fp32"
    return "bf16" if is_bf16 else "fp32"
