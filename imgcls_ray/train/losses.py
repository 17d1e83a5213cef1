"""The loss that is learnt from: cross-entropy, focal loss, and what answers classes out of balance.

All are sums over the images of a pass, of class ids as well as of mixed targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

IGNORED = -100
"""torch's own number for targets that do not count."""
_LOWEST_DOUBT = 1e-7
"""Below it ``(1 - p) ** gamma`` has no gradient: that of a gamma below 1 has no limit."""


class Loss:
    """The sum of the losses of a pass.

    Args:
        labels: int32 (N,), class ids of the train split.
        num_classes: number of classes.
        device: device of the logits.
        is_weighted: weight each image with its class, inverse to the number of images of the class.
        label_smoothing: share of the target that is spread evenly over all classes.
        focal_gamma: gamma of the focal loss (Lin et al. 2017, https://arxiv.org/abs/1708.02002); 0 is cross-entropy.
        logit_adjustment: tau of the logit adjustment (Menon et al. 2021, https://arxiv.org/abs/2007.07314); 0 is none.
    """

    def __init__(
        self,
        labels: np.ndarray,
        num_classes: int,
        *,
        device: torch.device,
        is_weighted: bool = False,
        label_smoothing: float = 0.0,
        focal_gamma: float = 0.0,
        logit_adjustment: float = 0.0,
    ) -> None:
        counts = np.bincount(labels, minlength=num_classes)
        self._weights = class_weights(counts).to(device) if is_weighted else None
        self._offsets = logit_adjustment * log_priors(counts).to(device) if logit_adjustment else None
        self._smoothing, self._gamma = label_smoothing, focal_gamma

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The sum over the images. An image counts for the weight of its class, or of its classes if it is mixed.

        torch's own ``weight`` would weight the smoothing by class, too: a small class gets its large weight from every
        image of another one, until nothing else is predicted.

        Args:
            logits: float32 (B, num_classes).
            target: int64 (B,), class ids or ``IGNORED``; or float32 (B, num_classes), shares of the classes.
        """
        from torch.nn import functional as F

        if self._offsets is not None:
            logits = logits + self._offsets
        if self._gamma:
            losses = focal_losses(logits, target, gamma=self._gamma, label_smoothing=self._smoothing)
        else:
            reduction = "sum" if self._weights is None else "none"
            losses = F.cross_entropy(logits, target, reduction=reduction, label_smoothing=self._smoothing)
        if self._weights is None:
            return losses.sum()
        # What is ignored has no class, and a loss of 0.
        weights = target @ self._weights if target.ndim == 2 else self._weights[target.clamp(min=0)]
        return (weights * losses).sum()


def focal_losses(
    logits: torch.Tensor, target: torch.Tensor, *, gamma: float, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Focal loss of each image: each class' part of the cross-entropy, times ``(1 - p) ** gamma`` of the class.

    Images that are predicted right and surely hardly count. With a gamma of 0 it is torch's cross-entropy.

    Args:
        logits, target: as of ``Loss``.
        gamma: exponent of the doubt.
        label_smoothing: share of the target that is spread evenly over all classes.

    Returns:
        float32 (B,).
    """
    import torch
    from torch.nn import functional as F

    num_classes = logits.shape[1]
    if target.ndim == 2:
        shares = target * (1 - label_smoothing) + label_smoothing / num_classes
    else:
        counts = (target != IGNORED).float()[:, None]
        one_hot = F.one_hot(target.clamp(min=0), num_classes).float()
        shares = counts * (one_hot * (1 - label_smoothing) + label_smoothing / num_classes)
    log_p = logits.log_softmax(1)
    doubt: torch.Tensor = -torch.expm1(log_p)
    return -(shares * doubt.clamp(min=_LOWEST_DOUBT) ** gamma * log_p).sum(1)


def class_weights(counts: np.ndarray) -> torch.Tensor:
    """Inverse to how many images a class has; 1 on average over the images. A class without images has 0.

    Args:
        counts: (num_classes,), images of each class.
    """
    import torch

    shares = np.count_nonzero(counts) * counts
    weights = np.divide(counts.sum(), shares, out=np.zeros(len(counts)), where=shares > 0)
    return torch.from_numpy(weights).float()


def log_priors(counts: np.ndarray) -> torch.Tensor:
    """Logarithm of each class' share of the images. A class without images has that of the largest class.

    What is added while the network learns is missing when it predicts: a small class gains by it. A class that was
    never shown must not.

    Args:
        counts: (num_classes,), images of each class.
    """
    import torch

    return torch.from_numpy(np.log(np.where(counts > 0, counts, counts.max()) / counts.sum())).float()
