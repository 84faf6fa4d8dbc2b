"""BatchNorm over a global batch that several ranks share, so that it is one batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class HostSyncBatchNorm(nn.BatchNorm2d):
    """``nn.SyncBatchNorm`` for the CPU, which torch's own refuses.

    A rank may have no sample in a batch. Sums are taken in float32, or better.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise float[B, C, H, W] by the statistics of all ranks' batches."""
        if not self.training:
            return super().forward(input)
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        count = values.new_tensor([values.numel() / values.shape[1]])
        dist.all_reduce(count)
        mean = _Sum.apply(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        self._update(mean.detach(), variance.detach(), count)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        output: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return output.to(input.dtype)

    def _update(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics on, the variance without its bias."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        unbiased = variance * count / (count - 1).clamp(min=1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)


class _Sum(torch.autograd.Function):
    """The sum over all ranks: each one's values play a part in all of their losses."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def synchronised(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with BatchNorm over all ranks; parameters and names are the same."""
    if device.type == "cuda":
        convert = nn.SyncBatchNorm.convert_sync_batchnorm
        converted: nn.Module = convert(network)  # type: ignore[no-untyped-call]
        return converted
    for name, child in network.named_children():
        setattr(network, name, synchronised(child, device))
    if not isinstance(network, nn.BatchNorm2d):
        return network
    same = HostSyncBatchNorm(network.num_features, network.eps, network.momentum)
    same.load_state_dict(network.state_dict())
    return same.to(network.weight.dtype)
