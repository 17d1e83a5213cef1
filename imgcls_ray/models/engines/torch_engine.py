"""Run a network with torch: on GPUs, and on CPUs where OpenVINO is not wanted."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from imgcls_ray.models.engines.engine import EngineOutput

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from imgcls_ray.images.preprocess import Preprocess
    from imgcls_ray.models.engines.engine import Computed, Precision
    from imgcls_ray.models.folder import ModelFolder


class TorchEngine:
    """Torch eager: GPUs in bf16 channels-last."""

    def __init__(self, network: nn.Module, *, device: str, precision: Precision, num_threads: int) -> None:
        """Make a network ready.

        Args:
            network: uint8 (B, H, W, 3) in; logits, or logits and embedding, out.
            device: torch's name of it.
            precision: ``auto`` takes bf16 where the device computes it natively.
            num_threads: of one forward pass on a CPU.
        """
        import torch

        self._torch = torch
        self._device = torch.device(device)
        if self._device.type == "cpu":
            torch.set_num_threads(num_threads)
        if precision == "auto":
            precision = "bf16" if self._device.type == "cuda" or has_native_bf16() else "fp32"
        self._bf16 = precision == "bf16"
        self._network = network.to(self._device).to(memory_format=torch.channels_last)

    def __call__(self, pixels: np.ndarray) -> EngineOutput:
        torch = self._torch
        # inference_mode is a property of the thread: Ray may call from another one than built the engine.
        autocast = torch.autocast(self._device.type, dtype=torch.bfloat16) if self._bf16 else nullcontext()
        with torch.inference_mode(), autocast:
            output = self._network(torch.from_numpy(pixels).to(self._device, non_blocking=True))
        logits, embedding = output if isinstance(output, tuple) else (output, None)
        return EngineOutput(
            logits.float().cpu().numpy(), embedding.float().cpu().numpy() if embedding is not None else None
        )

    @property
    def precision(self) -> Computed:
        # Quantized networks are run by OpenVINO alone.
        return "bf16" if self._bf16 else "fp32"

    def beside(self) -> TorchEngine:
        return self


def has_native_bf16() -> bool:
    """Whether torch computes bf16 natively on this machine's processor: what ``auto`` takes on CPUs."""
    import torch

    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return supported


def from_uint8(folder: ModelFolder, *, embedding: bool) -> nn.Module:
    """Wrap the folder's network: uint8 (B, H, W, 3) in; logits, and the embedding if asked for, out."""
    import torch

    class FromUint8(torch.nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.normalise = make_normalise(folder.spec.preprocess)
            self.network: Any = network

        def forward(self, pixels: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
            features = self.network.forward_features(self.normalise(pixels))
            logits: torch.Tensor = self.network.forward_head(features)
            if not embedding:
                return logits
            return logits, self.network.forward_head(features, pre_logits=True)

    return FromUint8(folder.load_network()).eval()


def make_normalise(preprocess: Preprocess) -> nn.Module:
    """The first layer of every network: uint8 (B, H, W, 3) in, normalised float32 (B, 3, H, W) out."""
    import torch

    class Normalise(torch.nn.Module):
        mean: torch.Tensor
        std: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", 255 * torch.tensor(preprocess.mean).view(1, 3, 1, 1))
            self.register_buffer("std", 255 * torch.tensor(preprocess.std).view(1, 3, 1, 1))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std

    return Normalise()
