"""The networks that timm's classes make but timm has no name for.

They are PaddleClas' (https://github.com/PaddlePaddle/PaddleClas): with its weights they give its logits. Where they
differ from timm's networks of nearly the same name was found by comparing logits, and stands at each of them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.layers import BatchNormAct2d, make_divisible
from timm.models import efficientnet, mobilenetv3
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, efficientnet_init_weights, round_channels
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import downsample_avg, downsample_conv
from timm.models.vision_transformer import VisionTransformer
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable


def _lcnet(num_classes: int, *, channel_multiplier: float) -> nn.Module:
    """PP-LCNet: the last convolution has no bias (timm's has one), at any width (timm has those of its weights)."""
    network: nn.Module = mobilenetv3._gen_lcnet(
        "lcnet_100", channel_multiplier, num_classes=num_classes, head_bias=False
    )
    return network


def _mobilenet_v1(num_classes: int, *, channel_multiplier: float) -> nn.Module:
    """MobileNetV1: ReLU (timm: ReLU6), at any width."""
    network: nn.Module = efficientnet._gen_mobilenet_v1(
        "mobilenetv1_100", channel_multiplier, num_classes=num_classes, act_layer="relu"
    )
    return network


def _mobilenet_v2(num_classes: int, *, channel_multiplier: float) -> nn.Module:
    """MobileNetV2: widths cut to whole channels (timm: multiples of eight), an expansion in the first block too."""
    network: nn.Module = EfficientNet(
        decode_arch_def(
            [
                ["ir_r1_k3_s1_e1_c16"],
                ["ir_r2_k3_s2_e6_c24"],
                ["ir_r3_k3_s2_e6_c32"],
                ["ir_r4_k3_s2_e6_c64"],
                ["ir_r3_k3_s1_e6_c96"],
                ["ir_r3_k3_s2_e6_c160"],
                ["ir_r1_k3_s1_e6_c320"],
            ]
        ),
        num_classes=num_classes,
        stem_size=32,
        num_features=max(1280, int(1280 * channel_multiplier)),
        round_chs_fn=lambda channels: int(channels * channel_multiplier),
        act_layer=nn.ReLU6,
    )
    blocks: Any = network.get_submodule("blocks")
    for stage, blocks_of_stage in enumerate(blocks):
        for block in blocks_of_stage:
            _set_expansion(block, block.conv_pw.in_channels * (1 if stage == 0 else 6))
    return network


def _set_expansion(block: Any, num_channels: int) -> None:
    """Give a block of MobileNetV2 exactly this many channels inside, where timm rounded to a multiple of eight."""
    if block.conv_pw.out_channels == num_channels:
        return
    depthwise = block.conv_dw
    block.conv_pw = nn.Conv2d(block.conv_pw.in_channels, num_channels, 1, bias=False)
    block.bn1 = BatchNormAct2d(num_channels, act_layer=nn.ReLU6)
    block.conv_dw = nn.Conv2d(
        num_channels,
        num_channels,
        depthwise.kernel_size,
        stride=depthwise.stride,
        padding=depthwise.padding,
        groups=num_channels,
        bias=False,
    )
    block.bn2 = BatchNormAct2d(num_channels, act_layer=nn.ReLU6)
    block.conv_pwl = nn.Conv2d(num_channels, block.conv_pwl.out_channels, 1, bias=False)
    efficientnet_init_weights(block)


# Kernel size, expanded channels, channels, squeeze-and-excitation, activation and stride of each block: tables 1 and 2
# of Howard et al. 2019, https://arxiv.org/abs/1905.02244.
_MOBILENET_V3_BLOCKS = {
    "large": [
        (3, 16, 16, False, "relu", 1),
        (3, 64, 24, False, "relu", 2),
        (3, 72, 24, False, "relu", 1),
        (5, 72, 40, True, "relu", 2),
        (5, 120, 40, True, "relu", 1),
        (5, 120, 40, True, "relu", 1),
        (3, 240, 80, False, "hard_swish", 2),
        (3, 200, 80, False, "hard_swish", 1),
        (3, 184, 80, False, "hard_swish", 1),
        (3, 184, 80, False, "hard_swish", 1),
        (3, 480, 112, True, "hard_swish", 1),
        (3, 672, 112, True, "hard_swish", 1),
        (5, 672, 160, True, "hard_swish", 2),
        (5, 960, 160, True, "hard_swish", 1),
        (5, 960, 160, True, "hard_swish", 1),
    ],
    "small": [
        (3, 16, 16, True, "relu", 2),
        (3, 72, 24, False, "relu", 2),
        (3, 88, 24, False, "relu", 1),
        (5, 96, 40, True, "hard_swish", 2),
        (5, 240, 40, True, "hard_swish", 1),
        (5, 240, 40, True, "hard_swish", 1),
        (5, 120, 48, True, "hard_swish", 1),
        (5, 144, 48, True, "hard_swish", 1),
        (5, 288, 96, True, "hard_swish", 2),
        (5, 576, 96, True, "hard_swish", 1),
        (5, 576, 96, True, "hard_swish", 1),
    ],
}


def _mobilenet_v3(num_classes: int, *, variant: str, channel_multiplier: float) -> nn.Module:
    """MobileNetV3: where timm's differs, as in PaddleClas.

    Expanded widths are rounded from the paper's (timm: from a ratio), the first block expands, the stem is scaled, the
    last convolution has 1,280 channels without bias also in ``small``, squeezes have a quarter of the channels without
    rounding, and their gate is 0.2 x + 0.5 (timm: x / 6 + 0.5).
    """
    blocks = []
    in_channels = make_divisible(16 * channel_multiplier)
    for kernel_size, expanded, channels, squeeze, activation, stride in _MOBILENET_V3_BLOCKS[variant]:
        # timm takes a ratio; with six digits it comes back to the whole width.
        ratio = make_divisible(expanded * channel_multiplier) / in_channels
        suffix = ("_se0.25" if squeeze else "") + ("_nre" if activation == "relu" else "")
        blocks.append([f"ir_r1_k{kernel_size}_s{stride}_e{ratio:.6f}_c{channels}{suffix}"])
        in_channels = make_divisible(channels * channel_multiplier)
    blocks.append([f"cn_r1_k1_s1_c{6 * (160 if variant == 'large' else 96)}"])
    network: nn.Module = MobileNetV3(
        decode_arch_def(blocks),
        num_classes=num_classes,
        stem_size=16,
        num_features=1280,
        head_bias=False,
        round_chs_fn=partial(round_channels, multiplier=channel_multiplier),
        act_layer=nn.Hardswish,
        se_layer=partial(SqueezeExcite, gate_layer=_HardSigmoid, force_act_layer=nn.ReLU, rd_round_fn=int),
    )
    return network


class _HardSigmoid(nn.Module):
    """Paddle's: slope 0.2; torch's has 1/6."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (0.2 * x + 0.5).clamp(0, 1)


def _resnet(num_classes: int, *, variant: str) -> nn.Module:
    """ResNet18 and 34 (and their ``d`` variants): a convolution also in the shortcut of the very first block."""
    network: nn.Module = timm.create_model(f"resnet{variant}", num_classes=num_classes)
    shortcut = (downsample_avg if variant.endswith("d") else downsample_conv)(64, 64, kernel_size=1)
    for layer in shortcut.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    network.get_submodule("layer1.0").downsample = shortcut
    return network


def _hgnet_v2(num_classes: int, *, variant: str) -> nn.Module:
    """PP-HGNetV2 B0-B3: the stem's pooling repeats the border, where timm's sees zeros beyond it.

    timm's own weights of these networks are PaddleClas', so this is right for them too.
    """
    network: nn.Module = timm.create_model(f"hgnetv2_{variant}", num_classes=num_classes)
    network.get_submodule("stem").pool = _BorderPool()
    return network


class _BorderPool(nn.Module):
    """2 x 2 maximum, stride 1, of an input that timm has padded with zeros on the right and below."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.pad(x[..., :-1, :-1], (0, 1, 0, 1), mode="replicate")
        return nn.functional.max_pool2d(x, kernel_size=2, stride=1)


def _clip_vit_base(num_classes: int) -> nn.Module:
    """CLIP_vit_base_patch16_224 as PaddleClas runs it: the head sees the first patch, not the class token.

    An accident of PaddleClas' code, but its weights are trained that way; without them take timm's network.
    """
    network: nn.Module = _FirstPatchTransformer(
        num_classes=num_classes, pre_norm=True, norm_layer=partial(nn.LayerNorm, eps=1e-5)
    )
    return network


class _FirstPatchTransformer(VisionTransformer):  # type: ignore[misc]
    def pool(self, x: torch.Tensor, pool_type: str | None = None) -> torch.Tensor:
        return x[:, 1]


PADDLE_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "paddle_clip_vit_base": _clip_vit_base,
    "paddle_hgnetv2_b0": partial(_hgnet_v2, variant="b0"),
    "paddle_hgnetv2_b1": partial(_hgnet_v2, variant="b1"),
    "paddle_hgnetv2_b2": partial(_hgnet_v2, variant="b2"),
    "paddle_hgnetv2_b3": partial(_hgnet_v2, variant="b3"),
    "paddle_lcnet": _lcnet,
    "paddle_mobilenetv1": _mobilenet_v1,
    "paddle_mobilenetv2": _mobilenet_v2,
    "paddle_mobilenetv3_large": partial(_mobilenet_v3, variant="large"),
    "paddle_mobilenetv3_small": partial(_mobilenet_v3, variant="small"),
    "paddle_resnet18": partial(_resnet, variant="18"),
    "paddle_resnet18d": partial(_resnet, variant="18d"),
    "paddle_resnet34": partial(_resnet, variant="34"),
    "paddle_resnet34d": partial(_resnet, variant="34d"),
}
"""Each takes ``num_classes``; those that come at any width also ``channel_multiplier``."""
