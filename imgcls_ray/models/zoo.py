"""The networks that can be asked for by name: one table.

Names, published accuracies and evaluation preprocessing are PaddleX's image classification module
(https://github.com/PaddlePaddle/PaddleX); every network is built of timm's classes and has exactly the parameters of
the one that PaddleX means by the name.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgcls_ray.config import letters_and_digits
from imgcls_ray.errors import UnknownModelError
from imgcls_ray.images.preprocess import Preprocess
from imgcls_ray.models.architecture import Architecture

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgcls_ray.models.architecture import Argument


@dataclass(frozen=True)
class ZooModel:
    """One network that can be asked for by name."""

    name: str
    family: str
    architecture: Architecture
    train_size: int
    """Height and width of the images that PaddleX trains it on, pixels."""
    preprocess: Preprocess
    """Of evaluation, and of everything else here: the size that accuracy was published at."""
    top1_percent: float | None
    """Published ImageNet-1k top-1 accuracy; of the zoo's networks, not of timm's other ones."""
    num_parameters: int | None
    """Trainable, with 1,000 classes; of the zoo's networks."""
    timm_weights: str | None
    """timm's name, with tag, of weights for this network, if timm has any."""


@dataclass(frozen=True)
class _Row:
    name: str
    top1_percent: float
    num_parameters: int
    architecture: str
    timm_weights: str | None
    args: dict[str, Argument]


def _row(
    name: str,
    top1_percent: float,
    num_parameters: int,
    architecture: str,
    timm_weights: str | None = None,
    **args: Argument,
) -> _Row:
    """One network; ``timm_weights`` is a tag, after another architecture's name where they are that one's."""
    if timm_weights is not None and "." not in timm_weights:
        timm_weights = f"{architecture}.{timm_weights}"
    return _Row(name, top1_percent, num_parameters, architecture, timm_weights, args)


def _family(
    family: str, preprocess: Preprocess, *rows: _Row, train_size: int | None = None, **args: Argument
) -> list[ZooModel]:
    return [
        ZooModel(
            name=row.name,
            family=family,
            architecture=Architecture(row.architecture, {**args, **row.args}),
            train_size=train_size or preprocess.crop_size,
            preprocess=preprocess,
            top1_percent=row.top1_percent,
            num_parameters=row.num_parameters,
            timm_weights=row.timm_weights,
        )
        for row in rows
    ]


def _bilinear(resize_size: int, crop_size: int) -> Preprocess:
    return Preprocess(resize_size=resize_size, crop_size=crop_size, interpolation="bilinear")


def _bicubic(resize_size: int, crop_size: int) -> Preprocess:
    return Preprocess(resize_size=resize_size, crop_size=crop_size, interpolation="bicubic")


ZOO: Mapping[str, ZooModel] = {
    model.name: model
    for model in [
        *_family(
            "CLIP",
            _bicubic(224, 224),
            _row("CLIP_vit_base_patch16_224", 85.36, 86_568_424, "vit_base_patch16_clip_224", "openai_ft_in1k"),
            _row("CLIP_vit_large_patch14_224", 88.1, 304_204_776, "vit_large_patch14_clip_224", "openai_ft_in1k"),
        ),
        *_family(
            "ConvNeXt",
            _bicubic(256, 224),
            _row("ConvNeXt_tiny", 82.03, 28_589_128, "convnext_tiny", "fb_in1k"),
            _row("ConvNeXt_small", 83.13, 50_223_688, "convnext_small", "fb_in1k"),
            _row("ConvNeXt_base_224", 83.84, 88_591_464, "convnext_base", "fb_in1k"),
            _row("ConvNeXt_large_224", 84.26, 197_767_336, "convnext_large", "fb_in1k"),
        ),
        *_family(
            "ConvNeXt",
            _bicubic(384, 384),
            _row("ConvNeXt_base_384", 84.9, 88_591_464, "convnext_base", "fb_in22k_ft_in1k_384"),
            _row("ConvNeXt_large_384", 85.27, 197_767_336, "convnext_large", "fb_in22k_ft_in1k_384"),
        ),
        *_family(
            "FasterNet",
            _bicubic(248, 224),
            _row("FasterNet-T0", 71.9, 3_905_500, "fasternet_t0", "in1k"),
            _row("FasterNet-T1", 75.9, 7_595_368, "fasternet_t1", "in1k"),
            _row("FasterNet-T2", 79.1, 14_982_888, "fasternet_t2", "in1k"),
            _row("FasterNet-S", 81.3, 31_181_032, "fasternet_s", "in1k"),
            _row("FasterNet-M", 83.0, 53_521_464, "fasternet_m", "in1k"),
            _row("FasterNet-L", 83.5, 93_465_192, "fasternet_l", "in1k"),
        ),
        *_family(
            "MobileNetV1",
            _bilinear(256, 224),
            _row("MobileNetV1_x0_25", 51.4, 470_072, "paddle_mobilenetv1", channel_multiplier=0.25),
            _row("MobileNetV1_x0_5", 63.5, 1_331_592, "paddle_mobilenetv1", channel_multiplier=0.5),
            _row("MobileNetV1_x0_75", 68.8, 2_585_560, "paddle_mobilenetv1", channel_multiplier=0.75),
            _row(
                "MobileNetV1_x1_0",
                71.0,
                4_231_976,
                "paddle_mobilenetv1",
                "mobilenetv1_100.ra4_e3600_r224_in1k",
                channel_multiplier=1.0,
            ),
        ),
        *_family(
            "MobileNetV2",
            _bilinear(256, 224),
            _row("MobileNetV2_x0_25", 53.2, 1_517_392, "paddle_mobilenetv2", channel_multiplier=0.25),
            _row("MobileNetV2_x0_5", 65.0, 1_965_736, "paddle_mobilenetv2", channel_multiplier=0.5),
            _row("MobileNetV2_x1_0", 72.2, 3_505_960, "paddle_mobilenetv2", channel_multiplier=1.0),
            _row("MobileNetV2_x1_5", 74.1, 6_852_712, "paddle_mobilenetv2", channel_multiplier=1.5),
            _row("MobileNetV2_x2_0", 75.2, 11_262_312, "paddle_mobilenetv2", channel_multiplier=2.0),
        ),
        *_family(
            "MobileNetV3",
            _bilinear(256, 224),
            _row("MobileNetV3_small_x0_35", 53.0, 1_665_954, "paddle_mobilenetv3_small", channel_multiplier=0.35),
            _row("MobileNetV3_small_x0_5", 59.2, 1_902_536, "paddle_mobilenetv3_small", channel_multiplier=0.5),
            _row("MobileNetV3_large_x0_35", 64.3, 2_104_328, "paddle_mobilenetv3_large", channel_multiplier=0.35),
            _row("MobileNetV3_small_x0_75", 66.0, 2_375_106, "paddle_mobilenetv3_small", channel_multiplier=0.75),
            _row("MobileNetV3_large_x0_5", 69.2, 2_673_422, "paddle_mobilenetv3_large", channel_multiplier=0.5),
            _row("MobileNetV3_small_x1_0", 68.2, 2_939_958, "paddle_mobilenetv3_small", channel_multiplier=1.0),
            _row("MobileNetV3_small_x1_25", 70.7, 3_627_370, "paddle_mobilenetv3_small", channel_multiplier=1.25),
            _row("MobileNetV3_large_x0_75", 73.1, 3_912_248, "paddle_mobilenetv3_large", channel_multiplier=0.75),
            _row("MobileNetV3_large_x1_0", 75.3, 5_480_206, "paddle_mobilenetv3_large", channel_multiplier=1.0),
            _row("MobileNetV3_large_x1_25", 76.4, 7_443_308, "paddle_mobilenetv3_large", channel_multiplier=1.25),
        ),
        *_family(
            "MobileNetV4",
            _bicubic(256, 256),
            _row("MobileNetV4_conv_small", 74.6, 3_774_024, "mobilenetv4_conv_small", "e2400_r224_in1k"),
            _row("MobileNetV4_hybrid_medium", 80.5, 11_074_648, "mobilenetv4_hybrid_medium", "e500_r224_in1k"),
            train_size=224,
        ),
        *_family(
            "MobileNetV4",
            _bicubic(320, 320),
            _row("MobileNetV4_conv_medium", 79.9, 9_715_512, "mobilenetv4_conv_medium", "e500_r256_in1k"),
            train_size=256,
        ),
        *_family(
            "MobileNetV4",
            _bicubic(448, 448),
            _row("MobileNetV4_conv_large", 83.4, 32_590_864, "mobilenetv4_conv_large", "e600_r384_in1k"),
            _row("MobileNetV4_hybrid_large", 83.8, 37_764_624, "mobilenetv4_hybrid_large", "e600_r384_in1k"),
            train_size=384,
        ),
        *_family(
            "PP-HGNet",
            _bicubic(232, 224),
            _row("PP-HGNet_tiny", 79.83, 14_735_864, "hgnet_tiny", "paddle_in1k"),
        ),
        *_family(
            "PP-HGNet",
            _bicubic(236, 224),
            _row("PP-HGNet_small", 81.51, 24_360_872, "hgnet_small", "paddle_in1k"),
            _row("PP-HGNet_base", 85.0, 71_578_184, "hgnet_base", "ssld_in1k"),
        ),
        *_family(
            "PP-HGNetV2",
            _bicubic(232, 224),
            _row("PP-HGNetV2-B0", 77.77, 5_996_550, "paddle_hgnetv2_b0", "hgnetv2_b0.ssld_stage2_ft_in1k"),
            _row("PP-HGNetV2-B1", 79.18, 6_343_158, "paddle_hgnetv2_b1", "hgnetv2_b1.ssld_stage2_ft_in1k"),
            _row("PP-HGNetV2-B2", 81.74, 11_221_356, "paddle_hgnetv2_b2", "hgnetv2_b2.ssld_stage2_ft_in1k"),
            _row("PP-HGNetV2-B3", 82.98, 16_292_216, "paddle_hgnetv2_b3", "hgnetv2_b3.ssld_stage2_ft_in1k"),
            _row("PP-HGNetV2-B4", 83.57, 19_796_680, "hgnetv2_b4", "ssld_stage2_ft_in1k"),
            _row("PP-HGNetV2-B5", 84.75, 39_569_064, "hgnetv2_b5", "ssld_stage2_ft_in1k"),
            _row("PP-HGNetV2-B6", 86.3, 75_256_776, "hgnetv2_b6", "ssld_stage2_ft_in1k"),
        ),
        *_family(
            "PP-LCNet",
            _bilinear(256, 224),
            _row("PP-LCNet_x0_25", 51.86, 1_521_184, "paddle_lcnet", channel_multiplier=0.25),
            _row("PP-LCNet_x0_35", 58.09, 1_643_090, "paddle_lcnet", channel_multiplier=0.35),
            _row("PP-LCNet_x0_5", 63.14, 1_879_576, "paddle_lcnet", "lcnet_050.ra2_in1k", channel_multiplier=0.5),
            _row("PP-LCNet_x0_75", 68.18, 2_357_008, "paddle_lcnet", "lcnet_075.ra2_in1k", channel_multiplier=0.75),
            _row("PP-LCNet_x1_0", 71.32, 2_952_520, "paddle_lcnet", "lcnet_100.ra2_in1k", channel_multiplier=1.0),
            _row("PP-LCNet_x1_5", 73.71, 4_499_832, "paddle_lcnet", channel_multiplier=1.5),
            _row("PP-LCNet_x2_0", 75.18, 6_521_512, "paddle_lcnet", channel_multiplier=2.0),
            _row("PP-LCNet_x2_5", 76.6, 9_017_560, "paddle_lcnet", channel_multiplier=2.5),
        ),
        *_family(
            "PP-LCNetV2",
            _bilinear(256, 224),
            _row("PP-LCNetV2_small", 73.97, 4_128_552, "lcnetv2_small", "paddle_in1k"),
            _row("PP-LCNetV2_base", 77.05, 6_687_208, "lcnetv2_base", "paddle_in1k"),
            _row("PP-LCNetV2_large", 78.51, 10_542_120, "lcnetv2_large", "paddle_in1k"),
        ),
        *_family(
            "ResNet",
            _bilinear(256, 224),
            _row("ResNet18", 71.0, 11_693_736, "paddle_resnet18"),
            _row("ResNet18_vd", 72.3, 11_712_968, "paddle_resnet18d"),
            _row("ResNet34", 74.6, 21_801_896, "paddle_resnet34"),
            _row("ResNet34_vd", 76.0, 21_821_128, "paddle_resnet34d"),
            _row("ResNet50", 76.5, 25_557_032, "resnet50", "a1_in1k"),
            _row("ResNet50_vd", 79.1, 25_576_264, "resnet50d", "ra2_in1k"),
            _row("ResNet101", 77.6, 44_549_160, "resnet101", "a1_in1k"),
            _row("ResNet101_vd", 80.2, 44_568_392, "resnet101d", "ra2_in1k"),
            _row("ResNet152", 78.3, 60_192_808, "resnet152", "a1_in1k"),
            _row("ResNet152_vd", 80.6, 60_212_040, "resnet152d", "ra2_in1k"),
            _row("ResNet200_vd", 80.9, 74_738_504, "resnet200d", layers=(3, 12, 48, 3)),
        ),
        *_family(
            "StarNet",
            _bicubic(256, 224),
            _row("StarNet-S1", 73.6, 2_869_168, "starnet_s1", "in1k"),
            _row("StarNet-S2", 74.8, 3_682_024, "starnet_s2", "in1k"),
            _row("StarNet-S3", 77.0, 5_750_792, "starnet_s3", "in1k"),
            _row("StarNet-S4", 79.0, 7_482_728, "starnet_s4", "in1k"),
        ),
        *_family(
            "SwinTransformer",
            _bicubic(256, 224),
            _row(
                "SwinTransformer_tiny_patch4_window7_224", 81.1, 28_288_354, "swin_tiny_patch4_window7_224", "ms_in1k"
            ),
            _row(
                "SwinTransformer_small_patch4_window7_224",
                83.21,
                49_606_258,
                "swin_small_patch4_window7_224",
                "ms_in1k",
            ),
            _row(
                "SwinTransformer_base_patch4_window7_224", 83.37, 87_768_224, "swin_base_patch4_window7_224", "ms_in1k"
            ),
            _row(
                "SwinTransformer_large_patch4_window7_224",
                86.19,
                196_532_476,
                "swin_large_patch4_window7_224",
                "ms_in22k_ft_in1k",
            ),
            always_partition=True,
        ),
        *_family(
            "SwinTransformer",
            _bicubic(438, 384),
            _row(
                "SwinTransformer_base_patch4_window12_384",
                84.17,
                87_903_584,
                "swin_base_patch4_window12_384",
                "ms_in1k",
            ),
            _row(
                "SwinTransformer_large_patch4_window12_384",
                87.06,
                196_735_516,
                "swin_large_patch4_window12_384",
                "ms_in22k_ft_in1k",
            ),
            always_partition=True,
        ),
    ]
}


def find_model(name: str) -> ZooModel:
    """Look a zoo name up.

    Raises:
        UnknownModelError: with the nearest names.
    """
    if name in ZOO:
        return ZOO[name]
    near = near_names(name)
    hint = f"did you mean {', '.join(near)}?" if near else "`imgcls models` lists them"
    raise UnknownModelError(f"{name}: no model of that name; {hint}")


def near_names(name: str) -> list[str]:
    """Up to three names of the zoo that may have been meant, nearest first."""
    folded = {letters_and_digits(known): known for known in ZOO}
    return [folded[match] for match in difflib.get_close_matches(letters_and_digits(name), folded, n=3, cutoff=0.6)]
