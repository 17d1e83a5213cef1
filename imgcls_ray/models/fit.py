"""Whether weights fit a network: names, shapes and kinds, and values that are finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgcls_ray.config import shown
from imgcls_ray.errors import ModelFolderError
from imgcls_ray.models.spec import SPEC_FILE
from imgcls_ray.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import nn


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a safetensors file, not yet read."""

    shape: tuple[int, ...]
    dtype: str

    def is_floating_point(self) -> bool:
        return "F" in self.dtype


def stored_weights(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, by name."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return {name: StoredTensor(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}


def check_weights_fit(
    folder: Path, num_classes: int, network: nn.Module, weights: Mapping[str, torch.Tensor | StoredTensor]
) -> None:
    """Compare names, shapes and kinds; values are not looked at.

    Args:
        folder: for people.
        num_classes: that its description says.
        network: as its description says.
        weights: by name.

    Raises:
        ModelFolderError: they do not fit.
    """
    expected = network.state_dict()
    if missing := sorted(set(expected) - set(weights)):
        raise ModelFolderError(f"{folder}: lacks {counted(len(missing), 'weight')}, first {missing[0]!r}")
    if extra := sorted(set(weights) - set(expected)):
        raise ModelFolderError(
            f"{folder}: has {counted(len(extra), 'weight')} not of this network, first {shown(extra[0])}"
        )
    for key, tensor in weights.items():
        if tensor.shape != expected[key].shape:
            raise ModelFolderError(
                f"{folder}: {key} has shape {tuple(tensor.shape)}, but the network with the "
                f"{num_classes} classes of {SPEC_FILE} needs {tuple(expected[key].shape)}"
            )
        if tensor.is_floating_point() != expected[key].is_floating_point():
            raise ModelFolderError(f"{folder}: {key} holds {tensor.dtype}, the network has {expected[key].dtype}")


def check_values(folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Refuse values that are no numbers.

    Raises:
        ModelFolderError: there are some.
    """
    for key, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise ModelFolderError(f"{folder}: {key} holds values that are not finite numbers")
