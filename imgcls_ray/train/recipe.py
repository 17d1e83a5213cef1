"""Resolve all hyperparameters of a run: from the configuration, otherwise from the recipe of the network's family.

For few images, ``choices`` replaces most of it.

The families' recipes are those of PaddleClas (https://github.com/PaddlePaddle/PaddleClas, ppcls/configs/ImageNet),
which published the accuracies of the zoo, without the errors in PaddleX's copies. Learning rates of SGD scale linearly
with the batch size (Goyal et al. 2017, https://arxiv.org/abs/1706.02677), those of AdamW with its square root (Malladi
et al. 2022, https://arxiv.org/abs/2205.10287): AdamW divides by the size of the gradients, which a larger batch makes
smaller. Scaled linearly, a batch of 64 would hardly move a network that was published with 4,096.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from imgcls_ray.errors import UsageError
from imgcls_ray.train.choices import FEW_IMAGES, Begin, choose_epochs, choose_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgcls_ray.config import TrainConfig

# PaddleX's own settings for fine-tuning take a quarter of the rate per image that PaddleClas trains PP-LCNet with.
_TRAINED_RATE = 0.25
LARGEST_ADAMW_RATE = 0.01
"""Nothing learns with a higher one: each step of AdamW changes each weight by the rate."""
_SCRATCH_CROP_SCALE, _TRAINED_CROP_SCALE = 0.08, 0.35


@dataclass(frozen=True)
class Recipe:
    """All hyperparameters of a run."""

    epochs: int = 20
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    """Peak learning rate, at the batch size of the run; in the table of families, at ``batch``."""
    min_learning_rate: float = 0.0
    schedule: Literal["cosine", "step", "constant", "range"] = "cosine"
    """``range`` is that of a range test: from the minimum to the peak rate."""
    warmup_epochs: float = 5.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    layer_decay: float = 1.0
    clip_grad_norm: float = 0.0
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    ema_decay: float = 0.0
    crop_scale: float = _SCRATCH_CROP_SCALE
    flip: float = 0.5
    vertical_flip: float = 0.0
    color_jitter: float = 0.0
    rand_augment: int = 0
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0


RECIPE_KEYS = ("batch_size", *(item.name for item in fields(Recipe)))
"""Keys of the configuration that this module or ``choices`` has a value for where it gives none."""


@dataclass(frozen=True)
class _Published:
    """A recipe and the batch size that its learning rate belongs to."""

    batch: int
    recipe: Recipe


def _published(batch: int, **values: Any) -> _Published:
    return _Published(batch, Recipe(**values))


def _adamw(batch: int, **values: Any) -> _Published:
    return _published(batch, optimizer="adamw", **{"weight_decay": 0.05, "label_smoothing": 0.1, **values})


_MIXED: dict[str, Any] = {"rand_augment": 9, "random_erasing": 0.25, "mixup": 0.8, "cutmix": 1.0}

_FAMILIES: Mapping[str, _Published] = {
    "CLIP": _adamw(
        512, learning_rate=3e-4, min_learning_rate=1e-6, layer_decay=0.6, rand_augment=9, random_erasing=0.25
    ),
    "ConvNeXt": _adamw(4096, learning_rate=4e-3, min_learning_rate=1e-6, warmup_epochs=20.0, drop_path=0.1, **_MIXED),
    "FasterNet": _adamw(
        512, learning_rate=6e-4, min_learning_rate=1e-5, warmup_epochs=20.0, mixup=0.1, cutmix=1.0, rand_augment=5
    ),
    "MobileNetV1": _published(256, schedule="step", warmup_epochs=0.0, weight_decay=3e-5),
    "MobileNetV2": _published(256, learning_rate=0.045, warmup_epochs=0.0, weight_decay=4e-5),
    "MobileNetV3": _published(2048, learning_rate=1.3, weight_decay=2e-5, label_smoothing=0.1),
    "MobileNetV4": _adamw(
        4096,  # of the medium ones; _BATCHES has the others'
        learning_rate=2e-3,
        warmup_epochs=20.0,
        weight_decay=0.1,
        clip_grad_norm=5.0,
        ema_decay=0.9998,
        drop_path=0.1,
        **{**_MIXED, "rand_augment": 8},
    ),
    "PP-HGNet": _published(
        512,
        learning_rate=0.5,
        weight_decay=4e-5,
        label_smoothing=0.1,
        rand_augment=7,
        random_erasing=0.25,
        mixup=0.2,
        cutmix=1.0,
    ),
    "PP-HGNetV2": _published(
        1024, learning_rate=0.5, weight_decay=2e-5, label_smoothing=0.1, rand_augment=7, random_erasing=0.25
    ),
    "PP-LCNet": _published(2048, learning_rate=0.8, weight_decay=3e-5, label_smoothing=0.1),
    "PP-LCNetV2": _published(2000, learning_rate=0.8, weight_decay=4e-5, label_smoothing=0.1),
    "ResNet": _published(256, schedule="step", warmup_epochs=0.0, weight_decay=1e-4),
    "StarNet": _adamw(1024, learning_rate=3e-3, min_learning_rate=1e-5, **{**_MIXED, "rand_augment": 1, "cutmix": 0.2}),
    "SwinTransformer": _adamw(
        1024, learning_rate=1e-3, min_learning_rate=2e-5, warmup_epochs=20.0, drop_path=0.2, **_MIXED
    ),
}
_OTHER = _adamw(1024, learning_rate=1e-3, min_learning_rate=1e-6, rand_augment=7, random_erasing=0.25)
"""Of timm's other networks: AdamW trains all of them."""

_BATCHES: Mapping[str, int] = {
    "MobileNetV4_conv_small": 8192,
    "MobileNetV4_conv_large": 2048,
    "MobileNetV4_hybrid_large": 1536,
}
"""Batch sizes of learning rates, where they are not the family's."""

_RATES: Mapping[str, _Published] = {"adamw": _OTHER, "sgd": _FAMILIES["ResNet"]}
"""Whose learning rate is taken where an optimizer is asked for that is not the family's."""

_NETWORKS: Mapping[str, dict[str, Any]] = {
    "FasterNet-T0": {"weight_decay": 0.005, "mixup": 0.05, "rand_augment": 0},
    "FasterNet-T1": {"weight_decay": 0.01, "mixup": 0.05, "rand_augment": 3},
    "FasterNet-T2": {"weight_decay": 0.02},
    "FasterNet-S": {"weight_decay": 0.03, "mixup": 0.3, "rand_augment": 7},
    "FasterNet-M": {"mixup": 0.5, "rand_augment": 7, "clip_grad_norm": 1.0},
    "FasterNet-L": {"mixup": 0.7, "rand_augment": 7, "clip_grad_norm": 0.01},
    "MobileNetV2_x0_25": {"weight_decay": 3e-5},
    "MobileNetV2_x0_5": {"weight_decay": 3e-5},
    "MobileNetV3_large_x1_25": {"weight_decay": 4e-5},
    "MobileNetV3_small_x0_35": {"weight_decay": 1e-5},
    "MobileNetV3_small_x0_5": {"weight_decay": 1e-5},
    "MobileNetV4_conv_small": {"weight_decay": 0.06, "warmup_epochs": 5.0, "drop_path": 0.03},
    "MobileNetV4_conv_large": {"weight_decay": 0.2, "drop_path": 0.35},
    "MobileNetV4_hybrid_medium": {"learning_rate": 1e-3, "rand_augment": 9},
    "MobileNetV4_hybrid_large": {"rand_augment": 9},
    "PP-HGNet_base": {"rand_augment": 10, "random_erasing": 0.4, "mixup": 0.4},
    "PP-LCNet_x1_5": {"weight_decay": 4e-5},
    "PP-LCNet_x2_0": {"weight_decay": 4e-5},
    "PP-LCNet_x2_5": {"weight_decay": 4e-5, "rand_augment": 7},
    "PP-LCNetV2_small": {"weight_decay": 2e-5},
    "ResNet50": {"schedule": "cosine", "warmup_epochs": 5.0, "label_smoothing": 0.1},
    "StarNet-S2": {"drop_path": 0.01},
    "StarNet-S3": {"drop_path": 0.01},
    "StarNet-S4": {"drop_path": 0.02},
    **{
        f"ResNet{depth}_vd": {"schedule": "cosine", "mixup": 0.2, "weight_decay": 7e-5 if depth <= 50 else 1e-4}
        for depth in (18, 34, 50, 101, 152, 200)
    },
}


def chosen_keys(config: TrainConfig) -> set[str]:
    """Keys of the batch size and of hyperparameters that the configuration does not give."""
    return {key for key in RECIPE_KEYS if getattr(config, key) is None}


def resolve_recipe(
    config: TrainConfig, *, name: str, family: str | None, batch_size: int, num_images: int, is_trained: bool
) -> Recipe:
    """Take the hyperparameters from the configuration, and the missing ones from the network's recipe.

    ::

        resolve_recipe(config, name="PP-LCNet_x1_0", family="PP-LCNet", batch_size=16, num_images=999, is_trained=False)
        # Recipe(epochs=40, optimizer="sgd", learning_rate=0.05, schedule="cosine", warmup_epochs=5.0, ...)

    Args:
        config: settings of the run; a value that is not None wins.
        name: zoo name of the network, whose recipe may differ from that of its family.
        family: family of the network in the zoo; None for other networks.
        batch_size: images of one step over all workers.
        num_images: number of training images.
        is_trained: whether the weights of the backbone were trained. Then learning rate and augmentation are weaker.

    Raises:
        UsageError: the warm-up that is asked for is longer than the run.
    """
    published = _FAMILIES.get(family or "", _OTHER)
    recipe = replace(published.recipe, **_NETWORKS.get(name, {}))
    optimizer = config.optimizer or recipe.optimizer
    batch, rates = _BATCHES.get(name, published.batch), recipe
    if optimizer != recipe.optimizer:
        batch, rates = _RATES[optimizer].batch, _RATES[optimizer].recipe
    begin: Begin = "random" if not is_trained else "probe" if config.freeze == "backbone" else "trained"
    epochs = choose_epochs(num_images, begin) if config.epochs is None else config.epochs
    share = batch_size / batch
    scale = (share if optimizer == "sgd" else math.sqrt(share)) * (_TRAINED_RATE if is_trained else 1.0)
    defaults = {
        **asdict(recipe),
        "epochs": epochs,
        "learning_rate": rates.learning_rate * scale,
        "min_learning_rate": rates.min_learning_rate * scale,
        "warmup_epochs": min(recipe.warmup_epochs, epochs / 4),
        "crop_scale": _TRAINED_CROP_SCALE if is_trained else _SCRATCH_CROP_SCALE,
    }
    if num_images <= FEW_IMAGES:
        defaults |= choose_values(
            optimizer=optimizer, batch_size=batch_size, begin=begin, epochs=epochs, drop_path=recipe.drop_path
        )
    asked = {key: value for key in defaults if (value := getattr(config, key)) is not None}
    resolved = Recipe(**{**defaults, **asked})
    if resolved.warmup_epochs > epochs:
        raise UsageError(
            f"warmup_epochs={resolved.warmup_epochs:g} is more than the {epochs} epochs that are chosen for "
            f"{num_images:,} images; give --epochs, or a shorter warm-up"
        )
    return resolved
