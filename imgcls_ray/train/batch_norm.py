"""Batch norm's statistics: the same on all workers, and learnt from images alone.

They are weights that no gradient reaches: each worker would otherwise keep those of its own images, evaluate another
network than the others do, and the first worker's would be published.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn


class BatchNorms:
    """The batch norms of one worker's network.

    Args:
        network: the network that learns.
        is_synced: whether they take the statistics of all workers' images (SyncBatchNorm).
    """

    def __init__(self, network: nn.Module, *, is_synced: bool = False) -> None:
        from torch.nn.modules.batchnorm import _BatchNorm

        self._norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        self._is_synced = is_synced

    def share(self, world_size: int) -> None:
        """Set the statistics that this step has changed to their mean over all workers, who all call it.

        After every step and not only before they are used: when a run is saved depends on the clock, and a run that
        goes on must have the statistics that it would have had.
        """
        import torch
        from torch import distributed

        learning = [norm for norm in self._norms if norm.training]
        statistics = [
            tensor for norm in learning for tensor in (norm.running_mean, norm.running_var) if tensor is not None
        ]
        if not statistics:
            return
        together = torch.cat([tensor.reshape(-1) for tensor in statistics])
        distributed.all_reduce(together)
        together /= world_size
        parts = torch.split(together, [tensor.numel() for tensor in statistics])
        torch._foreach_copy_(statistics, [part.view_as(tensor) for part, tensor in zip(parts, statistics, strict=True)])

    @contextmanager
    def for_images(self, count: int) -> Iterator[None]:
        """For the forward pass of so many images.

        A norm that sees one value of each channel, as after the pooling of a single image, has nothing to take the
        statistics of: it uses those that it has. Without images, all of them do.
        """
        # Norms that are synced have all workers' images, and must all take part, also without any here.
        if count >= 2 or self._is_synced:
            yield
            return
        norms = [norm for norm in self._norms if norm.training]

        def use(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            norm.training = count > 0 and inputs[0].numel() > inputs[0].shape[1]

        hooks = [norm.register_forward_pre_hook(use) for norm in norms]
        try:
            yield
        finally:
            for hook, norm in zip(hooks, norms, strict=True):
                hook.remove()
                norm.train()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """For passes that are computed again for the gradients: each image would count twice in the statistics."""
        import torch

        norms = [norm for norm in self._norms if norm.training]
        momenta = [norm.momentum for norm in norms]
        counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
        before = [count.clone() for count in counts]
        for norm in norms:
            # Without statistics to learn, as by ``track_running_stats``, the pass would not be the same one to torch.
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            if counts:
                torch._foreach_copy_(counts, before)


def with_synced_norms(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with norms that take the statistics of all workers' images."""
    if device.type == "cpu":
        from imgcls_ray.train.synced_norm import synced

        return synced(network)
    from timm.layers import convert_sync_batchnorm

    converted: nn.Module = convert_sync_batchnorm(network)
    return converted
