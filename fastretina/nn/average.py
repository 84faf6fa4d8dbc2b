"""The moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """An exponential moving average, of BatchNorm's statistics too.

    The decay begins low, at (1 + n) / (10 + n) for the n-th update, so that short runs
    do not end with an average of their beginning. torch's own update copies the number
    of updates to the GPU at each, and waits for it.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the network's weights as they are after a step."""
        number = int(self.n_averaged)  # which lies on the host
        weight = 1 - min(self._decay, (1 + number) / (10 + number))
        averages = [*self.module.parameters(), *self.module.buffers()]
        values = [*model.parameters(), *model.buffers()]
        blended: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        for average, value in zip(averages, values, strict=True):
            if number and average.is_floating_point():
                blended[0].append(average)
                blended[1].append(value)
            else:
                average.copy_(value)
        if blended[0]:
            torch._foreach_lerp_(*blended, weight)
        self.n_averaged += 1
