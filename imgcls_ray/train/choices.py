"""Choose batch size, epochs, rate and augmentation from the number of training images.

The recipes of the families were published for a million images and a hundred epochs or more. On some thousand images
they end near chance: a run has too few steps, at rates that belong to large batches, on crops and mixtures too hard to
learn from. Up to ``FEW_IMAGES`` the values of this module are the defaults. docs/train.md says which are measured;
``benchmarks/recipes.py`` measures them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

FEW_IMAGES = 20_000
"""Up to so many training images a run has the defaults of this module."""

Begin = Literal["random", "trained", "probe"]
"""What a run begins with: random weights, trained ones, or trained ones of which only the head is trained."""

# Batches of few images make many steps. Above, the larger batches use the cores better.
_BATCHES = ((4_000, 16), (10_000, 32))
_LARGEST_BATCH = 64
# Batch norm of a pass with fewer images is noise.
_MIN_PER_PASS = 8
_MAX_LEFT_OUT = 0.02

_IMAGES_SEEN: Mapping[Begin, int] = {"random": 40_000, "trained": 20_000, "probe": 20_000}
_EPOCHS: Mapping[Begin, tuple[int, int]] = {"random": (20, 200), "trained": (10, 100), "probe": (10, 100)}
_EPOCHS_OF_MANY = 20

_RATE_BATCH = 16
_RATES: Mapping[str, Mapping[Begin, float]] = {
    "sgd": {"random": 0.05, "trained": 0.0125, "probe": 0.1},
    "adamw": {"random": 5e-4, "trained": 1e-4, "probe": 1e-3},
}
"""Peak learning rates at batches of 16 images."""
_MAX_WARMUP_EPOCHS = 5.0
_CROP_SCALE = 0.7
_MAX_DROP_PATH = 0.1


def keys_for_few() -> frozenset[str]:
    """Keys of the batch size and of hyperparameters that this module has values for."""
    values = choose_values(optimizer="sgd", batch_size=_RATE_BATCH, begin="random", epochs=20, drop_path=0.0)
    return frozenset({"batch_size", "epochs", *values})


def choose_batch_size(num_images: int, *, num_parts: int) -> int:
    """Number of images of a step: few for few images, and such that an epoch leaves out at most one in fifty.

    >>> [choose_batch_size(count, num_parts=1) for count in (20, 300, 1_649, 8_000, 1_000_000)]
    [10, 15, 16, 32, 64]

    Args:
        num_images: number of training images.
        num_parts: number of passes that a step is divided into, over all workers.
    """
    wanted = next((size for most, size in _BATCHES if num_images <= most), _LARGEST_BATCH)
    wanted = min(max(wanted, _MIN_PER_PASS * num_parts), num_images)
    sizes = range(wanted, max(wanted // 2, 1) - 1, -1)
    few = (size for size in sizes if num_images % size <= num_images * _MAX_LEFT_OUT)
    return next(few, min(sizes, key=lambda size: num_images % size))


def choose_epochs(num_images: int, begin: Begin) -> int:
    """Number of epochs: the fewer images, the more often each is seen.

    >>> [choose_epochs(count, "random") for count in (100, 300, 1_649, 8_000, 1_000_000)]
    [200, 133, 24, 20, 20]
    """
    if num_images > FEW_IMAGES:
        return _EPOCHS_OF_MANY
    low, high = _EPOCHS[begin]
    return min(max(round(_IMAGES_SEEN[begin] / num_images), low), high)


def choose_values(*, optimizer: str, batch_size: int, begin: Begin, epochs: int, drop_path: float) -> dict[str, Any]:
    """Hyperparameters for few images that replace those of the network's family.

    Args:
        optimizer: the one that is used.
        batch_size: number of images of a step.
        begin: what the run begins with.
        epochs: number of epochs of the run.
        drop_path: that of the family.
    """
    share = batch_size / _RATE_BATCH
    rate = _RATES[optimizer][begin] * (share if optimizer == "sgd" else math.sqrt(share))
    return {
        "learning_rate": rate,
        "schedule": "cosine",
        "warmup_epochs": min(_MAX_WARMUP_EPOCHS, epochs / 4),
        "drop_path": min(drop_path, _MAX_DROP_PATH),
        "crop_scale": _CROP_SCALE,
        "rand_augment": 0,
        "random_erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
    }
