"""What network to build: an architecture by name, and the plain values that shape it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from torch import nn

Argument = str | bool | int | float | tuple[int, ...]

# A model folder may come from anyone. What it may say to timm and to our own builders shapes the network and nothing
# else: timm's other arguments reach hubs, addresses and files, and a width or depth without bounds takes all memory.
_IS_VALID: Mapping[str, Callable[[Argument], bool]] = {
    "always_partition": lambda value: isinstance(value, bool),
    "channel_multiplier": lambda value: type(value) in (int, float) and 0.05 <= value <= 10,  # type: ignore[operator]
    "img_size": lambda value: type(value) is int and 16 <= value <= 1024,
    "layers": lambda value: (
        isinstance(value, tuple)
        and len(value) == 4
        and all(type(count) is int and 1 <= count <= 100 for count in value)
    ),
}
_PADDLE_ARGS = frozenset({"channel_multiplier"})
_TIMM_ARGS = frozenset({"always_partition", "img_size", "layers"})


@dataclass(frozen=True)
class Architecture:
    """A network of timm's, or one of ``paddle_networks``."""

    name: str
    args: dict[str, Argument] = field(default_factory=dict)


def no_memory() -> AbstractContextManager[object]:
    """Networks that are built within have shapes and no weights: they cost milliseconds, whatever their size."""
    import torch

    return torch.device("meta")


def build_network(architecture: Architecture, *, num_classes: int, drop_path: float = 0.0) -> nn.Module:
    """Build a network with random weights, in eval mode; without memory where torch's default device is ``meta``.

    Args:
        architecture: what network.
        num_classes: outputs of its head.
        drop_path: largest share of images for which training leaves a block out; not every network can.

    Raises:
        ValueError: there is no such architecture, or its arguments do not fit.
    """
    import timm

    from imgcls_ray.models.paddle.networks import PADDLE_NETWORKS

    name, args = architecture.name, architecture.args
    ours = PADDLE_NETWORKS.get(name)
    if ours is None and ("." in name or not timm.is_model(name)):
        raise ValueError(f"timm has no architecture {name[:100]!r}")
    allowed = _PADDLE_ARGS if ours else _TIMM_ARGS
    if unfit := sorted(arg for arg, value in args.items() if arg not in allowed or not _IS_VALID[arg](value)):
        raise ValueError(f"{name}: takes no {unfit[0][:100]}={str(args[unfit[0]])[:100]}")
    training = {"drop_path_rate": drop_path} if drop_path else {}
    network: nn.Module
    try:
        if ours:
            network = ours(num_classes, **args, **training)
        else:
            network = timm.create_model(name, pretrained=False, num_classes=num_classes, **args, **training)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
    return network.eval()


def at_size(network: nn.Module, architecture: Architecture, size: int) -> tuple[nn.Module, Architecture]:
    """The network for images of this size, with its weights.

    Most take any size. Of those that are built for one, timm resamples the weights that belong to places of the picture
    (position embeddings, biases of windows).

    Raises:
        ValueError: it cannot be had at this size.
    """
    problem = _problem_at(network, size)
    if problem is None:
        return network, architecture
    resampled = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if not hasattr(network, "set_input_size") or resampled is None:
        raise ValueError(problem)
    architecture = replace(architecture, args={**architecture.args, "img_size": size})
    num_classes: int = network.num_classes  # type: ignore[assignment]
    try:
        target = build_network(architecture, num_classes=num_classes)
        target.load_state_dict(resampled(network.state_dict(), target))
    # What does not fit timm says in exceptions of any kind.
    except Exception as error:
        raise ValueError(str(error)) from error
    if (problem := _problem_at(target, size)) is not None:
        raise ValueError(problem)
    return target, architecture


def _problem_at(network: nn.Module, size: int) -> str | None:
    """What goes wrong with an image of this size; None if nothing does."""
    import torch

    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 3, size, size))
    # Networks assert, and torch refuses shapes, in exceptions of any kind.
    except Exception as error:
        return " ".join(str(error).split())[:200] or type(error).__name__
    return None
