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

    A tensor without one changed number is an error, but for two cases: all of its
    gradients were exactly zero (behind units that are never active), by what the
    optimizer remembers of them or, if it remembers nothing, by the last; or nothing at
    all has changed in fp16, whose first steps are passed over until the loss is scaled.

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
    if not total and learner.scaler.is_enabled():
        return 0
    stuck = [
        name
        for name, parameter in trained.items()
        if not counts[name] and not _never_drawn(parameter, learner.optimizer)
    ]
    if stuck:
        flag = "--head-lr" if learner.phase == "head" else "--lr"
        compiled = learner.setup.compiled
        remedy = "pass --compile off" if compiled else f"raise {flag}"
        raise RunError(
            f"phase {learner.phase} has left {len(stuck)} of the {len(trained)} "
            f"tensors that it trains as they were, the first {stuck[0]}: {remedy}"
        )
    return total


def _differences(
    trained: Mapping[str, nn.Parameter], start: Mapping[str, Tensor]
) -> list[int]:
    """The number of differences in each tensor; a GPU is waited for once."""
    differ = [(value != start[name]).sum() for name, value in trained.items()]
    counts: list[int] = torch.stack(differ).tolist()
    return counts


def _never_drawn(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> bool:
    """Whether all gradients that are known of were exactly zero."""
    known = [
        value
        for value in optimizer.state.get(parameter, {}).values()
        if isinstance(value, Tensor) and value.shape == parameter.shape
    ]
    if not known and parameter.grad is not None:
        known = [parameter.grad]
    return bool(known) and not any(bool(value.count_nonzero()) for value in known)
