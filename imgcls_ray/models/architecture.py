"""What network to build: an architecture by name, and the plain values that shape it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

Argument = str | bool | int | float | tuple[int, ...]

# What a model folder may pass to timm. timm's other arguments reach hubs, addresses and files, and a model folder may
# come from anyone.
_ALLOWED_TIMM_ARGS = frozenset({"always_partition", "layers"})


@dataclass(frozen=True)
class Architecture:
    """A network of timm's, or one of ``paddle_networks``."""

    name: str
    args: dict[str, Argument] = field(default_factory=dict)


def build_network(architecture: Architecture, *, num_classes: int) -> nn.Module:
    """Build a network with random weights, in eval mode; without memory where torch's default device is ``meta``.

    Raises:
        ValueError: there is no such architecture, or an argument is not allowed.
    """
    import timm

    from imgcls_ray.models.paddle_networks import PADDLE_NETWORKS

    if build := PADDLE_NETWORKS.get(architecture.name):
        try:
            return build(num_classes, **architecture.args).eval()
        except TypeError as error:
            raise ValueError(f"{architecture.name}: {error}") from error
    if "." in architecture.name or not timm.is_model(architecture.name):
        raise ValueError(f"timm has no architecture {architecture.name!r}")
    if unknown := sorted(set(architecture.args) - _ALLOWED_TIMM_ARGS):
        raise ValueError(f"these arguments are not passed to timm: {', '.join(unknown)}")
    network: nn.Module = timm.create_model(
        architecture.name, pretrained=False, num_classes=num_classes, **architecture.args
    )
    return network.eval()


def num_parameters(network: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
