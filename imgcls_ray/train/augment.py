"""Random crops, colours and mixes of training images: torchvision's own, on uint8 where they can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch

    from imgcls_ray.train.recipe import Recipe

_ASPECT_RATIOS = (3 / 4, 4 / 3)
_NUM_OPERATIONS = 2
_BINS_PER_MAGNITUDE = 3
"""timm's magnitudes are tenths of the strongest operation, torchvision's thirtieths."""


Mixer: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]"


@dataclass(frozen=True)
class Augmentation:
    """What happens to one training image."""

    image_size: int
    interpolation: str
    crop_scale: float
    flip: float
    rand_augment: int
    random_erasing: float
    mean: tuple[float, float, float]
    """0 to 1; erased places get it, which is nought for the network."""

    def build(self) -> Callable[[np.ndarray, int], torch.Tensor]:
        """Make the function from uint8 (H, W, 3) and a seed to uint8 (3, image_size, image_size)."""
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
        if self.rand_augment:
            magnitude = self.rand_augment * _BINS_PER_MAGNITUDE
            steps.append(v2.RandAugment(_NUM_OPERATIONS, magnitude=magnitude, fill=fill))
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
    """MixUp, CutMix or one of both by turns of chance; takes normalised pixels and labels, gives soft labels."""
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
