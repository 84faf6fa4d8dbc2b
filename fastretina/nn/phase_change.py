"""What a phase has changed of the network: all that it trains has to move.

A forward pass that passes a parameter by, as a graph does that was compiled while the
parameter was frozen, fails nowhere: it trains less, and faster. So it is looked for,
after a phase's first step and after each of its epochs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fastretina.nn.step import Learner
from loaders.errors import RunError


def copy_weights(learner: Learner) -> dict[str, Tensor]:
    """The weights that a learner's phase trains, as they are now, by name."""
    trained = learner.trained.items()
    return {name: parameter.detach().clone() for name, parameter in trained}


@torch.no_grad()
def count_changed(learner: Learner, start: Mapping[str, Tensor]) -> int:
    """How many of the phase's parameters are not what they were at its start.

    Counted are single numbers, of the network itself and not of its average, that the
    phase trains: neither BatchNorm's running statistics nor what is frozen. A weight
    that has come back to its very value counts as unchanged.

    Too few have changed where nothing has, or where a tensor is as it was that the
    optimizer never had a gradient of. Others may stay as they were: their gradients
    were exactly zero (behind units that are never active), or the rate is so low that
    float32 shows no step. In fp16 nothing at all may have changed, as the first steps
    are passed over until the loss is scaled.

    Args:
        learner: the phase's, after one step or more.
        start: what ``copy_weights`` gave when the phase began.

    Raises:
        RunError: the phase leaves a tensor as it was that it should have trained; the
            message says how many, and names the first.
    """
    trained = learner.trained
    counts = dict(zip(trained, _differences(trained, start), strict=True))
    total = sum(counts.values())
    left = [
        name
        for name, parameter in trained.items()
        if not counts[name] and not _had_gradient(parameter, learner.optimizer)
    ]
    if not (total or learner.scaler.is_enabled()):
        left = list(trained)
    if left:
        remedy = ": pass --compile off" if learner.setup.compiled else ""
        if not total and not remedy:
            remedy = f": raise {'--head-lr' if learner.phase == 'head' else '--lr'}"
        raise RunError(
            f"phase {learner.phase} has left {len(left)} of the {len(trained)} tensors "
            f"that it trains as they were, the first {left[0]}{remedy}"
        )
    return total


def _differences(
    trained: Mapping[str, nn.Parameter], start: Mapping[str, Tensor]
) -> list[int]:
    """The number of differences in each tensor; a GPU is waited for once."""
    differ = [(value != start[name]).sum() for name, value in trained.items()]
    counts: list[int] = torch.stack(differ).tolist()
    return counts


def _had_gradient(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer remembers a gradient or, keeping none, got one now.

    A remembered one outlives a resume, so it is looked for first.
    """
    held = {each for group in optimizer.param_groups for each in group["params"]}
    known = bool(optimizer.state.get(parameter)) or parameter.grad is not None
    return parameter in held and known
