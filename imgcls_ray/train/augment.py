"""Augment training images with torchvision: crops, flips, colours, RandAugment, random erasing, MixUp and CutMix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch

    from imgcls_ray.train.recipe import Recipe

_ASPECT_RATIOS = (3 / 4, 4 / 3)
_NUM_OPERATIONS = 2
_OPERATION_SHARE = 0.5
"""Probability of each operation: timm's, and so PaddleClas'."""
_BINS_PER_MAGNITUDE = 3
"""timm's magnitudes are tenths of the strongest operation, torchvision's thirtieths."""


Mixer: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]"


@dataclass(frozen=True)
class Augmentation:
    """The settings of the augmentation of single training images."""

    image_size: int
    """Height and width of the result, pixels."""
    interpolation: str
    """torchvision's name, e.g. ``bicubic``."""
    crop_scale: float
    """Smallest share of the picture's area that a random crop takes; the largest is 1."""
    flip: float
    """Probability of a horizontal flip."""
    rand_augment: int
    """Magnitude of RandAugment from 0 (off) to 10, as timm counts."""
    random_erasing: float
    """Probability of erasing a rectangle."""
    mean: tuple[float, float, float]
    """Mean colour, 0 to 1. Erased areas get this colour, which is 0 after normalisation."""
    vertical_flip: float = 0.0
    """Probability of a vertical flip."""
    color_jitter: float = 0.0
    """Largest change of brightness, contrast and saturation, as a share of each."""

    @property
    def full_side(self) -> int:
        """Short side of the whole picture, pixels, at the size at which its smallest crop is the result."""
        return math.ceil(self.image_size / math.sqrt(self.crop_scale))

    def build(self) -> Callable[[np.ndarray, int], torch.Tensor]:
        """Make the function that augments one image.

        ::

            augment = Augmentation(224, "bicubic", 0.35, 0.5, 0, 0.0, mean).build()
            augment(pixels, 7)  # tensor of shape (3, 224, 224); the same for the same pixels and seed

        Returns:
            A function from uint8 (H, W, 3) and a seed to uint8 (3, image_size, image_size).
        """
        import torch
        from torchvision.transforms import v2

        interpolation = v2.InterpolationMode(self.interpolation)
        fill = [round(255 * value) for value in self.mean]
        size = [self.image_size, self.image_size]
        steps: list[v2.Transform] = [
            v2.RandomResizedCrop(
                size,
                scale=(self.crop_scale, 1.0),
                ratio=_ASPECT_RATIOS,
                interpolation=interpolation,
                antialias=True,
            )
        ]
        if self.flip:
            steps.append(v2.RandomHorizontalFlip(self.flip))
        if self.vertical_flip:
            steps.append(v2.RandomVerticalFlip(self.vertical_flip))
        if self.color_jitter:
            # Without the hue, as in timm: a colour may be what tells two classes apart.
            steps.append(v2.ColorJitter(*[self.color_jitter] * 3))
        if self.rand_augment:
            magnitude = self.rand_augment * _BINS_PER_MAGNITUDE
            # Each operation by itself, as the published recipes have it: a quarter of the images stay as they are.
            steps += [
                v2.RandomApply([v2.RandAugment(1, magnitude=magnitude, fill=fill)], p=_OPERATION_SHARE)
                for _ in range(_NUM_OPERATIONS)
            ]
        if self.random_erasing:
            steps.append(v2.RandomErasing(self.random_erasing, value=fill))
        transform = v2.Compose(steps)

        def augment(pixels: np.ndarray, seed: int) -> torch.Tensor:
            # One seed for each image: what it looks like does not depend on which process loads it, nor after what.
            torch.default_generator.manual_seed(seed)
            # HWC memory seen as CHW is channels-last, which torch's vectorised uint8 kernels want.
            result: torch.Tensor = transform(torch.from_numpy(pixels).permute(2, 0, 1))
            return result

        return augment


def make_mixer(recipe: Recipe, num_classes: int) -> Mixer | None:
    """Make the function that mixes the images of a batch: MixUp, CutMix, or one of both at random for each batch.

    Returns:
        A function from normalised pixels (B, 3, H, W) and labels (B,) to mixed pixels and soft labels (B, num_classes);
        None if the recipe has neither, or with fewer than two classes.
    """
    from torchvision.transforms import v2

    mixes: list[v2.Transform] = []
    if recipe.mixup:
        mixes.append(v2.MixUp(alpha=recipe.mixup, num_classes=num_classes))
    if recipe.cutmix:
        mixes.append(v2.CutMix(alpha=recipe.cutmix, num_classes=num_classes))
    if not mixes or num_classes < 2:
        return None
    mixer: Mixer = v2.RandomChoice(mixes) if len(mixes) > 1 else mixes[0]
    return mixer
