"""Batch norm over the images of all workers on CPUs, for which torch's SyncBatchNorm has no kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from collections.abc import Sequence


class SyncedNorm(_BatchNorm):
    """A batch norm of one worker, also timm's, which has an activation behind it. All workers call it together.

    Args:
        norm: the batch norm that it stands for; it takes its weights and statistics.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers(recurse=False):
            setattr(self, name, buffer)
        self.drop, self.act = (getattr(norm, name, nn.Identity()) for name in ("drop", "act"))
        self.train(norm.training)

    def _check_input_dim(self, _input: torch.Tensor) -> None:
        """Any number of dimensions, as of SyncBatchNorm."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, ...); a worker may have no images."""
        normalised: torch.Tensor = self._normalised(images) if self.training else super().forward(images)
        result: torch.Tensor = self.act(self.drop(normalised))
        return result

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        values = images.float()
        places = [dim for dim in range(values.ndim) if dim != 1]
        shape = [-1 if dim == 1 else 1 for dim in range(values.ndim)]
        count = values.new_full((1,), values.numel() // values.shape[1])
        sums = _summed(torch.cat([values.sum(places), count]))
        # Where no worker has an image that can be read, nothing is learnt, and nothing divided by nought.
        total = sums[-1].detach().clamp(min=1)
        mean = sums[:-1] / total
        # In two sums: the difference of the squares' mean and the mean's square loses its digits.
        variance = _summed((values - mean.view(shape)).square().sum(places)) / total
        if self.track_running_stats and sums[-1] > 0:
            self._learn([mean.detach(), variance.detach() * (total / (total - 1).clamp(min=1))])
        normalised = (values - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        result: torch.Tensor = normalised.to(images.dtype)
        return result

    def _learn(self, statistics: Sequence[torch.Tensor]) -> None:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        for kept, new in zip((self.running_mean, self.running_var), statistics, strict=True):
            assert kept is not None
            kept.lerp_(new, share)


class _SumOverWorkers(torch.autograd.Function):
    """The sum of a tensor over all workers, whose gradient is that of the sum of their losses."""

    # torch's own, of torch.distributed.nn, is deprecated for one that is private.
    @staticmethod
    def forward(_context: Any, tensor: torch.Tensor) -> torch.Tensor:
        return _added_up(tensor)

    @staticmethod
    def backward(_context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return _added_up(gradients[0])


def _added_up(tensor: torch.Tensor) -> torch.Tensor:
    total = tensor.detach().clone()
    distributed.all_reduce(total)
    return total


def _summed(tensor: torch.Tensor) -> torch.Tensor:
    total: torch.Tensor = _SumOverWorkers.apply(tensor)
    return total


def synced(network: nn.Module) -> nn.Module:
    """The network with a ``SyncedNorm`` in the place of each batch norm; names of weights stay as they are."""
    if isinstance(network, _BatchNorm):
        return SyncedNorm(network)
    for name, child in network.named_children():
        network.add_module(name, synced(child))
    return network
