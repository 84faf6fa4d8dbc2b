"""A phase trains all that it frees, or the run ends in one line that says what not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small_runs import small_network
from torch import Tensor, nn

from fastretina.nn.device import Compute
from fastretina.nn.distributed import ALONE, Ranks
from fastretina.nn.phase_change import copy_weights, count_changed
from fastretina.nn.step import Learner, StepPlace, StepSetup, train_step
from fastretina.recipe import SEED, STRONG, Phase, Recipe
from loaders import Batch
from loaders.errors import RunError

ADAM = replace(STRONG, ema_decay=0, head_epochs=0, warmup_epochs=0, weight_decay=0)
ALL = sum(each.numel() for each in small_network(5).parameters())


def learner_of(
    phase: Phase = "full",
    recipe: Recipe = SEED,
    ranks: Ranks = ALONE,
    compiled: bool = False,
) -> Learner:
    torch.manual_seed(0)
    setup = StepSetup(
        recipe=recipe,
        compute=Compute(torch.device("cpu"), None),
        train_counts=[1] * 5,
        compiled=compiled,
    )
    learner = Learner(small_network(5), phase, setup)
    learner.setup = replace(setup, ranks=ranks)
    return learner


def train(learner: Learner, number: int = 0) -> None:
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (8, 64, 64, 3), generator=generator)
    rows = torch.arange(8)
    batch = Batch(images.to(torch.uint8), rows % 5, rows)
    train_step(learner, batch, StepPlace(learner.setup.recipe.head_epochs, number, 0.0))


def stale(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """As what was compiled for the frozen backbone: of it, nothing has a gradient."""
    *backbone, head = network.children()

    def forward(inputs: Tensor) -> Tensor:
        logits: Tensor = head(nn.Sequential(*backbone)(inputs).detach())
        return logits

    return forward


def test_first_step_without_the_backbone_is_an_error():
    learner = learner_of()
    learner.forward = stale(learner.network)
    with pytest.raises(RunError) as caught:
        train(learner)
    assert str(caught.value) == (
        "after the first step of phase full, 6 of the 8 tensors that it trains have no "
        "gradient, the first conv1.weight"
    )


def test_remedy_is_not_to_compile(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.compile", lambda network, **_words: stale(network))
    with pytest.raises(RunError, match=r"conv1.weight: pass --compile off$"):
        train(learner_of(compiled=True))


def test_frozen_backbone_needs_no_gradient():
    learner = learner_of("head")
    learner.forward = stale(learner.network)
    start = copy_weights(learner)
    train(learner)
    assert count_changed(learner, start) == 85


def test_error_of_one_rank_is_all_ranks(monkeypatch: pytest.MonkeyPatch):
    """Each would wait for the others, had only one of them seen it."""
    monkeypatch.setattr(Ranks, "agree", lambda _self, *_flags: (True,))
    monkeypatch.setattr(Ranks, "sum", lambda _self, values: values)
    with pytest.raises(RunError, match="another rank lacks a gradient"):
        train(learner_of(ranks=Ranks(1, 2, 2)))


@pytest.mark.parametrize("recipe", [SEED, ADAM, replace(SEED, momentum=0)])
def test_stale_forward_is_found_at_the_end_too(recipe: Recipe):
    """Whatever the first step has shown."""
    learner = learner_of(recipe=recipe)
    start = copy_weights(learner)
    learner.check_first_step = lambda: None
    learner.forward = stale(learner.network)
    for number in range(2):
        train(learner, number)
    with pytest.raises(RunError) as caught:
        count_changed(learner, start)
    assert str(caught.value) == (
        "phase full has left 6 of the 8 tensors that it trains as they were, the first "
        "conv1.weight"
    )


def test_changes_are_counted_one_by_one():
    learner = learner_of()
    start = copy_weights(learner)
    train(learner)
    assert 0.9 * ALL < count_changed(learner, start) <= ALL
    exact = sum(
        int((value != start[name]).sum())
        for name, value in learner.network.named_parameters()
    )
    assert count_changed(learner, start) == exact
    start = copy_weights(learner)
    for value in learner.trained.values():
        value.data.view(-1)[0] += 1
    assert count_changed(learner, start) == 8


def test_phase_that_has_changed_nothing_is_an_error():
    recipe = replace(SEED, head_lr=1e-30, weight_decay=0)
    learner = learner_of("head", replace(recipe, head_epochs=1))
    start = copy_weights(learner)
    learner.setup = replace(
        learner.setup, recipe=replace(recipe, head_epochs=0, lr=1e-30)
    )
    train(learner)
    with pytest.raises(RunError, match=r"left 2 of the 2 tensors .* raise --head-lr"):
        count_changed(learner, start)


@pytest.mark.parametrize("recipe", [SEED, ADAM, replace(SEED, momentum=0)])
def test_tensor_whose_gradients_were_all_zero_may_stay(recipe: Recipe):
    """Units that are never active learn nothing, and that is no fault of the run."""
    learner = learner_of(recipe=replace(recipe, weight_decay=0))
    with torch.no_grad():
        learner.network.bn2.bias.fill_(-100.0)  # no ReLU behind it lets anything by
        learner.network.fc.weight.zero_()
    start = copy_weights(learner)
    train(learner)
    assert count_changed(learner, start) == 5  # the head's biases alone
    learner.optimizer.state.clear()
    learner.network.conv1.weight.grad = None
    with pytest.raises(RunError, match=r"left 1 of the 8 tensors .* conv1.weight"):
        count_changed(learner, start)


def test_tensor_that_the_optimizer_does_not_hold_is_an_error():
    """It has a gradient at every step, and nobody to take it."""
    learner = learner_of()
    learner.optimizer.param_groups[0]["params"].pop(0)
    start = copy_weights(learner)
    train(learner)
    with pytest.raises(RunError, match=r"left 1 of the 8 tensors .* conv1.weight"):
        count_changed(learner, start)


def test_rate_too_low_for_some_tensors_is_no_error():
    learner = learner_of()
    start = copy_weights(learner)
    train(learner)
    with torch.no_grad():
        learner.network.bn1.weight.copy_(start["bn1.weight"])
    assert 0 < count_changed(learner, start) < ALL


def test_steps_that_fp16_passes_over_are_no_error():
    learner = learner_of()
    start = copy_weights(learner)
    for each in learner.trained.values():
        each.grad = torch.full_like(each, torch.inf)
    with pytest.raises(RunError, match=r"left 8 of the 8 tensors .* raise --lr"):
        count_changed(learner, start)
    learner.scaler = torch.amp.GradScaler("cpu", enabled=True)
    assert count_changed(learner, start) == 0
