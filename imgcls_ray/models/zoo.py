"""The networks that can be asked for by name: one table, built on timm.

Names, published accuracies and evaluation preprocessing are PaddleX's
(https://github.com/PaddlePaddle/PaddleX, image classification module); the networks are timm's.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from imgcls_ray.errors import UnknownModelError
from imgcls_ray.images.preprocess import Preprocess

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

# What a model folder may pass to timm: names of plain numbers, flags and strings that shape the network.
# timm's other arguments reach the network (hubs, URLs, files) and a model folder may come from anyone.
ALLOWED_TIMM_ARGS = frozenset({"act_layer", "channel_multiplier", "head_bias", "layers"})


@dataclass(frozen=True)
class ZooModel:
    """One row of the zoo."""

    name: str
    family: str
    timm_name: str
    timm_args: tuple[tuple[str, Any], ...]
    preprocess: Preprocess
    top1_percent: float
    """Published ImageNet-1k top-1 accuracy."""
    pretrained_tag: str | None
    """timm's tag of ImageNet-1k weights for this network, if timm has any."""


def _lcnet(scale: str, top1_percent: float, pretrained_tag: str | None = None) -> ZooModel:
    named = {"0_35": "lcnet_035", "0_5": "lcnet_050", "0_75": "lcnet_075", "1_0": "lcnet_100", "1_5": "lcnet_150"}
    args: dict[str, Any] = {"head_bias": False}
    if scale not in named:
        args["channel_multiplier"] = float(scale.replace("_", "."))
    return ZooModel(
        name=f"PP-LCNet_x{scale}",
        family="PP-LCNet",
        timm_name=named.get(scale, "lcnet_100"),
        timm_args=tuple(sorted(args.items())),
        preprocess=Preprocess(resize_size=256, crop_size=224, interpolation="bilinear"),
        top1_percent=top1_percent,
        pretrained_tag=pretrained_tag,
    )


def _resnet(name: str, timm_name: str, top1_percent: float, pretrained_tag: str | None, **timm_args: Any) -> ZooModel:
    return ZooModel(
        name=name,
        family="ResNet",
        timm_name=timm_name,
        timm_args=tuple(sorted(timm_args.items())),
        preprocess=Preprocess(resize_size=256, crop_size=224, interpolation="bilinear"),
        top1_percent=top1_percent,
        pretrained_tag=pretrained_tag,
    )


ZOO: Mapping[str, ZooModel] = {
    model.name: model
    for model in (
        _lcnet("0_25", 51.86),
        _lcnet("0_35", 58.09),
        _lcnet("0_5", 63.14, "ra2_in1k"),
        _lcnet("0_75", 68.18, "ra2_in1k"),
        _lcnet("1_0", 71.32, "ra2_in1k"),
        _lcnet("1_5", 73.71),
        _lcnet("2_0", 75.18),
        _lcnet("2_5", 76.60),
        _resnet("ResNet50", "resnet50", 76.5, "a1_in1k"),
        _resnet("ResNet50_vd", "resnet50d", 79.1, "ra2_in1k"),
        _resnet("ResNet101", "resnet101", 77.6, "a1_in1k"),
        _resnet("ResNet101_vd", "resnet101d", 80.2, "ra2_in1k"),
        _resnet("ResNet152", "resnet152", 78.3, "a1_in1k"),
        _resnet("ResNet152_vd", "resnet152d", 80.6, "ra2_in1k"),
        _resnet("ResNet200_vd", "resnet200d", 80.9, None, layers=(3, 12, 48, 3)),
    )
}


def find_model(name: str) -> ZooModel:
    """Look a zoo name up.

    Raises:
        UnknownModelError: with the nearest names.
    """
    if name in ZOO:
        return ZOO[name]
    folded = {known.lower(): known for known in ZOO}
    near = [folded[match] for match in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)]
    hint = f"did you mean {', '.join(near)}?" if near else f"known names: {', '.join(ZOO)}"
    raise UnknownModelError(f"{name}: no model of that name; {hint}")


def build_network(timm_name: str, timm_args: Mapping[str, Any], *, num_classes: int) -> nn.Module:
    """Build a network with random weights, in eval mode.

    Raises:
        ValueError: ``timm_name`` is not a plain architecture of timm's, or an argument is not allowed.
    """
    import timm
    from timm.models import mobilenetv3

    if not timm.is_model(timm_name) or "." in timm_name:
        raise ValueError(f"timm has no architecture {timm_name!r}")
    if unknown := sorted(set(timm_args) - ALLOWED_TIMM_ARGS):
        raise ValueError(f"these arguments are not passed to timm: {', '.join(unknown)}")
    args = dict(timm_args)
    if "channel_multiplier" in args:
        # timm has the widths of its own checkpoints only; the generator behind them makes the others.
        network: nn.Module = mobilenetv3._gen_lcnet(
            timm_name, args.pop("channel_multiplier"), num_classes=num_classes, **args
        )
    else:
        network = timm.create_model(timm_name, pretrained=False, num_classes=num_classes, **args)
    return network.eval()
