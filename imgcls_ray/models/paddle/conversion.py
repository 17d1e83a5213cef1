"""Give PaddleClas' weights to our networks: its names, layouts and inference-time differences.

What differs where was found by comparing logits with PaddleClas' own networks; ``benchmarks/paddle_parity.py`` repeats
the comparison.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from imgcls_ray.models.architecture import Architecture
from imgcls_ray.models.paddle.pdparams import shown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import torch
    from torch import nn

    from imgcls_ray.models.zoo import ZooModel

_DROPPED = ""
"""The new name of what PaddleClas saves and does not use."""

# PaddleClas numbers its blocks from first to last, timm within their stage.
_BLOCKS = {
    "MobileNetV1": r"blocks\.\d+\.",
    "MobileNetV2": r"conv\d\.(?:_first_block|conv\d_\d)\.",
    "MobileNetV3": r"blocks\.\d+\.|last_second_conv\.",
    "MobileNetV4": r"blocks\.\d+\.",
    "PP-LCNet": r"blocks\d\.\d+\.",
    "ResNet": r"blocks\.\d+\.",
}
_LAST_BLOCK = "last_second_conv."

_Rule = tuple[str, "str | Callable[[re.Match[str]], str]"]

_RULES: dict[str, list[_Rule]] = {
    "CLIP": [(r"^ln_pre\.", "norm_pre."), (r"^head\.fc_head\.", "head."), (r"^proj$", _DROPPED)],
    "ConvNeXt": [
        (r"^downsample_layers\.0\.", "stem."),
        (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
        (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
        (r"\.dwconv\.", ".conv_dw."),
        (r"\.pwconv(\d)\.", r".mlp.fc\1."),
        (r"^norm\.", "head.norm."),
        (r"^head\.(weight|bias)$", r"head.fc.\1"),
    ],
    "FasterNet": [
        (r"^stages\.(\d)\.blocks\.", lambda match: f"stages.{int(match[1]) // 2}.blocks."),
        (r"^stages\.(\d)\.(norm|reduction)\.", lambda match: f"stages.{int(match[1]) // 2 + 1}.downsample.{match[2]}."),
        (r"^avgpool_pre_head\.1\.", "conv_head."),
        (r"^head\.", "classifier."),
    ],
    "MobileNetV1": [
        (r"^conv\.conv\.", "conv_stem."),
        (r"^conv\.bn\.", "bn1."),
        (r"\.depthwise_conv\.conv\.", ".conv_dw."),
        (r"\.depthwise_conv\.bn\.", ".bn1."),
        (r"\.pointwise_conv\.conv\.", ".conv_pw."),
        (r"\.pointwise_conv\.bn\.", ".bn2."),
        (r"^fc\.", "classifier."),
    ],
    "MobileNetV2": [
        (r"^conv1\._conv\.", "conv_stem."),
        (r"^conv1\._batch_norm\.", "bn1."),
        (r"\._expand_conv\._conv\.", ".conv_pw."),
        (r"\._expand_conv\._batch_norm\.", ".bn1."),
        (r"\._bottleneck_conv\._conv\.", ".conv_dw."),
        (r"\._bottleneck_conv\._batch_norm\.", ".bn2."),
        (r"\._linear_conv\._conv\.", ".conv_pwl."),
        (r"\._linear_conv\._batch_norm\.", ".bn3."),
        (r"^conv9\._conv\.", "conv_head."),
        (r"^conv9\._batch_norm\.", "bn2."),
        (r"^out\.", "classifier."),
    ],
    "MobileNetV3": [
        (r"^conv\.conv\.", "conv_stem."),
        (r"^conv\.bn\.", "bn1."),
        (r"\.expand_conv\.conv\.", ".conv_pw."),
        (r"\.expand_conv\.bn\.", ".bn1."),
        (r"\.bottleneck_conv\.conv\.", ".conv_dw."),
        (r"\.bottleneck_conv\.bn\.", ".bn2."),
        (r"\.linear_conv\.conv\.", ".conv_pwl."),
        (r"\.linear_conv\.bn\.", ".bn3."),
        (r"\.mid_se\.conv1\.", ".se.conv_reduce."),
        (r"\.mid_se\.conv2\.", ".se.conv_expand."),
        (r"^(blocks\.\d+\.\d+)\.bn\.", r"\1.bn1."),
        (r"^last_conv\.", "conv_head."),
        (r"^fc\.", "classifier."),
    ],
    "MobileNetV4": [
        (r"^conv_stem\.conv\.", "conv_stem."),
        (r"^conv_stem\.bn\.", "bn1."),
        (r"\.conv_exp\.conv\.", ".conv_exp."),
        (r"\.conv_exp\.bn\.", ".bn1."),
        (r"\.conv_pwl\.conv\.", ".conv_pwl."),
        (r"\.conv_pwl\.bn\.", ".bn2."),
        (r"^(blocks\.\d+\.\d+)\.bn\.", r"\1.bn1."),
        (r"\.(key|value)_down_proj\.conv\.", r".attn.\1.down_conv."),
        (r"\.(key|value)_down_proj\.bn\.", r".attn.\1.norm."),
        (r"\.(query|key|value)_proj\.", r".attn.\1.proj."),
        (r"^(blocks\.\d+\.\d+)\.proj\.", r"\1.attn.output.proj."),
        (r"^conv_head\.conv\.", "conv_head."),
        (r"^conv_head\.bn\.", "norm_head."),
    ],
    "PP-HGNet": [
        (r"^stem\.", "stem.stem."),
        (r"\.aggregation_conv\.", ".aggregation.0."),
        (r"\.att\.conv\.", ".aggregation.1.conv."),
        (r"^last_conv\.", "head.last_conv.0."),
        (r"^fc\.", "head.fc."),
    ],
    "PP-HGNetV2": [
        (r"\.aggregation_squeeze_conv\.", ".aggregation.0."),
        (r"\.aggregation_excitation_conv\.", ".aggregation.1."),
        (r"^last_conv\.", "head.last_conv.0."),
        (r"^lab\.", "head.last_conv.2."),
        (r"^fc\.", "head.fc."),
    ],
    "PP-LCNet": [
        (r"^conv1\.conv\.", "conv_stem."),
        (r"^conv1\.bn\.", "bn1."),
        (r"\.dw_conv\.conv\.", ".conv_dw."),
        (r"\.dw_conv\.bn\.", ".bn1."),
        (r"\.pw_conv\.conv\.", ".conv_pw."),
        (r"\.pw_conv\.bn\.", ".bn2."),
        (r"\.se\.conv1\.", ".se.conv_reduce."),
        (r"\.se\.conv2\.", ".se.conv_expand."),
        (r"^last_conv\.", "conv_head."),
        (r"^fc\.", "classifier."),
    ],
    "PP-LCNetV2": [
        # The sum of the branches beside it, made anew at export.
        (r"^stages\.\d\.\d+\.dw_conv\.(weight|bias)$", _DROPPED),
        (r"\.se\.conv(\d)\.", r".se.fc\1."),
        (r"\.pw_conv_1\.", ".pw_conv.0."),
        (r"\.pw_conv_2\.", ".pw_conv.1."),
        (r"^last_conv\.", "conv_head."),
        (r"^fc\.", "classifier."),
    ],
    "ResNet": [
        (r"\.conv(\d)\.conv\.", lambda match: f".conv{int(match[1]) + 1}."),
        (r"\.conv(\d)\.bn\.", lambda match: f".bn{int(match[1]) + 1}."),
    ],
    "StarNet": [],
    "SwinTransformer": [
        (r"^.*\.relative_position_index$", _DROPPED),
        (r"^layers\.(\d)\.downsample\.", lambda match: f"layers.{int(match[1]) + 1}.downsample."),
        (r"^head\.", "head.fc."),
    ],
}
_STEM_OF_RESNET: list[_Rule] = [
    (r"^stem\.0\.conv\.", "conv1."),
    (r"^stem\.0\.bn\.", "bn1."),
    (r"\.short\.conv\.", ".downsample.0."),
    (r"\.short\.bn\.", ".downsample.1."),
]
_STEM_OF_RESNET_VD: list[_Rule] = [
    (r"^stem\.(\d)\.conv\.", lambda match: f"conv1.{3 * int(match[1])}."),
    (r"^stem\.([01])\.bn\.", lambda match: f"conv1.{3 * int(match[1]) + 1}."),
    (r"^stem\.2\.bn\.", "bn1."),
    (r"\.short\.conv\.", ".downsample.1."),
    (r"\.short\.bn\.", ".downsample.2."),
]

# Paddle's dropout of 0.2 before the head scales by 0.8 when it predicts, torch's by 1.25 when it trains.
_KEPT_BY_DROPOUT = {"MobileNetV3": 0.8, "PP-LCNet": 0.8, "PP-LCNetV2": 0.8, "PP-HGNet_base": 0.8}


def paddle_architecture(model: ZooModel) -> Architecture:
    """The network that gives PaddleClas' logits with PaddleClas' weights."""
    if model.name == "CLIP_vit_base_patch16_224":
        return Architecture("paddle_clip_vit_base")
    return model.architecture


def from_paddle(model: ZooModel, arrays: Mapping[str, np.ndarray], network: nn.Module) -> dict[str, torch.Tensor]:
    """Turn PaddleClas' arrays into a state dict for ``paddle_architecture(model)``.

    What is of another network keeps Paddle's name: whether all fits is for who loads it to say.

    Args:
        arrays: by PaddleClas' names.
        network: of that architecture, with any weights and any number of classes.

    Raises:
        ValueError: two arrays are one tensor of ours.
    """
    import torch
    from torch import nn

    modules = dict(network.named_modules())
    head: Any = network.get_classifier()  # type: ignore[operator]
    kept_by_dropout = _KEPT_BY_DROPOUT.get(model.name) or _KEPT_BY_DROPOUT.get(model.family, 1.0)
    names = _new_names(model, arrays, network)
    state: dict[str, torch.Tensor] = {}
    for name, array in arrays.items():
        new_name = names[name]
        if new_name == _DROPPED:
            continue
        if new_name in state:
            raise ValueError(f"{shown_name(name)} and another one are both {shown_name(new_name)}")
        module_name, _, parameter = new_name.rpartition(".")
        module = modules.get(module_name)
        tensor = torch.from_numpy(_plain_numbers(array))
        if parameter == "weight" and isinstance(module, nn.Linear):
            tensor = tensor.T.contiguous()
            if module is head:
                tensor = tensor * kept_by_dropout
        attention: Any = modules.get(module_name.removesuffix(".query.proj"))
        if module_name.endswith(".attn.query.proj") and attention is not None:
            # Paddle divides by the root of all heads' width, timm by that of one.
            tensor = tensor * attention.num_heads**-0.5
        state[new_name] = tensor
    return state


def _plain_numbers(array: np.ndarray) -> np.ndarray:
    """A copy in the machine's byte order; numpy has no bfloat16, and Paddle saves it as its 16 bits."""
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(array.dtype.newbyteorder("="))


def _new_names(model: ZooModel, old_names: Iterable[str], network: nn.Module) -> dict[str, str]:
    rules = [*_RULES[model.family], (r"\._mean$", ".running_mean"), (r"\._variance$", ".running_var")]
    if model.family == "ResNet":
        rules += _STEM_OF_RESNET_VD if model.name.endswith("_vd") else _STEM_OF_RESNET
    blocks = _new_blocks(model.family, old_names, network)
    return {name: _new_name(name, rules, blocks) for name in old_names}


def _new_name(name: str, rules: list[_Rule], blocks: Mapping[str, str]) -> str:
    for block, new_block in blocks.items():
        if name.startswith(block):
            name = new_block + name.removeprefix(block)
            break
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _new_blocks(family: str, names: Iterable[str], network: nn.Module) -> dict[str, str]:
    if family not in _BLOCKS:
        return {}
    pattern = re.compile(_BLOCKS[family])
    old = {match[0] for name in names if (match := pattern.match(name))}
    new_pattern = re.compile(r"layer\d\.\d+" if family == "ResNet" else r"blocks\.\d+\.\d+")
    new = [f"{name}." for name, _ in network.named_modules() if new_pattern.fullmatch(name)]
    return dict(zip(sorted(old, key=_block_order), new, strict=False))


def _block_order(block: str) -> tuple[bool, list[int]]:
    return block == _LAST_BLOCK, [int(number) for number in re.findall(r"\d+", block)]
