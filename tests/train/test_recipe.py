"""Recipes, and the loss, learning rate and average that they ask for."""

from __future__ import annotations

import copy
import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fastretina.nn.average import MovingAverage
from fastretina.nn.model import set_phase
from fastretina.nn.step import (
    Loss,
    class_weights,
    learning_rate,
    make_optimizer,
)
from fastretina.recipe import RECIPES, SEED, STRONG, Recipe

CPU = torch.device("cpu")
REPORT_COUNTS = (20655, 1955, 4210, 698, 581)


def test_recipe_seed_is_the_reports():
    expected = {
        "arch": "resnet18",
        "batch_size": 32,
        "head_epochs": 5,
        "full_epochs": 10,
        "optimizer": "sgd",
        "head_lr": 1e-3,
        "lr": 1e-3,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "constant",
        "ema_decay": 0.0,
        "label_smoothing": 0.0,
        "distance_cost": 0.0,
        "class_weights": "none",
        "balance": 0.0,
        "hflip": 0.4,
        "vflip": 0.5,
        "rotate": 0.0,
        "scale": 1.0,
        "translate": 0.0,
        "brightness": 0.0,
        "contrast": 0.0,
        "saturation": 0.0,
        "head_batchnorm": "train",
        "validation": 0.0,
    }
    assert {name: getattr(SEED, name) for name in expected} == expected


def test_recipe_strong_holds_patients_out_and_freezes_batchnorm():
    assert Recipe() == STRONG
    assert STRONG.validation > 0
    assert STRONG.head_batchnorm == "eval"
    assert not STRONG.test_each_epoch
    assert STRONG.epochs == SEED.epochs == 15


def test_recipes_are_found_by_their_name():
    assert {name: recipe.recipe for name, recipe in RECIPES.items()} == {
        "strong": "strong",
        "seed": "seed",
    }


def test_recipe_documents_every_field():
    for field in fields(Recipe):
        assert f"\n        {field.name}: " in (Recipe.__doc__ or ""), field.name


def test_recipe_phase_changes_after_the_head_epochs():
    recipe = replace(STRONG, head_epochs=2, full_epochs=3)
    phases = [recipe.phase(epoch) for epoch in range(5)]
    assert phases == ["head", "head", "full", "full", "full"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_epochs": 0, "full_epochs": 0}, "must not both be 0"),
        ({"head_epochs": -1}, "--head-epochs must be at least 0, got -1"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"lr": 0.0}, "--lr must be above 0, got 0.0"),
        ({"lr": math.nan}, "--lr must be above 0, got nan"),
        ({"lr": math.inf}, "--lr must be above 0, got inf"),
        ({"head_lr": -1.0}, "--head-lr must be above 0"),
        ({"max_steps": 0}, "--max-steps must be at least 1"),
        ({"image_size": 63}, "--image-size must lie in 64 to 8,192, got 63"),
        ({"image_size": 8193}, "--image-size must lie in 64 to 8,192"),
        ({"ema_decay": 1.0}, "--ema-decay must lie in 0 to below 1"),
        ({"validation": 1.0}, "--validation must lie in 0 to below 1"),
        ({"label_smoothing": -0.1}, "--label-smoothing must lie in"),
        ({"hflip": 1.1}, "--hflip must lie in 0 to 1"),
        ({"balance": math.nan}, "--balance must lie in 0 to 1"),
        ({"brightness": 2.0}, "--brightness must lie in 0 to 1"),
        ({"scale": 0.5}, "--scale must lie in 1 to 10, got 0.5"),
        ({"scale": 11.0}, "--scale must lie in 1 to 10"),
        ({"momentum": 5.0}, "--momentum must lie in 0 to below 1, got 5.0"),
        ({"momentum": math.nan}, "--momentum must lie in 0 to below 1"),
        ({"weight_decay": 1e9}, "--weight-decay must lie in 0 to 10"),
        ({"weight_decay": math.nan}, "--weight-decay must lie in 0 to 10"),
        ({"rotate": -1.0}, "--rotate must lie in 0 to 360, got -1.0"),
        ({"rotate": 361.0}, "--rotate must lie in 0 to 360"),
        ({"head_epochs": -1, "full_epochs": 0}, "--head-epochs must be at least 0"),
        ({"warmup_epochs": -1.0}, "--warmup-epochs must be at least 0"),
        ({"distance_cost": math.nan}, "--distance-cost must be at least 0"),
        ({"seed": -1}, "--seed must lie in 0"),
        ({"seed": 2**64}, "--seed must lie in 0"),
    ],
)
def test_recipe_refuses_what_cant_be_meant(change: dict[str, object], message: str):
    with pytest.raises(ValueError, match="must") as caught:
        replace(STRONG, **change)  # type: ignore[arg-type]
    assert message in str(caught.value)


# ---- learning rate


def test_learning_rate_of_seed_is_constant():
    recipe = replace(SEED, head_lr=0.1, lr=0.2)
    assert {learning_rate(recipe, epoch / 7) for epoch in range(35)} == {0.1}
    assert {learning_rate(recipe, 5 + epoch / 7) for epoch in range(70)} == {0.2}


def test_learning_rate_warms_up_then_follows_a_cosine():
    recipe = replace(
        STRONG,
        head_epochs=2,
        full_epochs=5,
        head_lr=1.0,
        lr=2.0,
        warmup_epochs=1.0,
        final_lr_share=0.1,
    )
    assert learning_rate(recipe, 0.0) == 1.0  # the head begins at its peak
    assert learning_rate(recipe, 1.0) == pytest.approx(0.1 + 0.9 / 2)
    assert 0.1 < learning_rate(recipe, 1.999) < 0.101
    assert 0 < learning_rate(recipe, 2.0) < 0.05  # moves, but hardly
    assert learning_rate(recipe, 2.5) == pytest.approx(1.0, rel=0.02)
    assert learning_rate(recipe, 3.0) == pytest.approx(2.0)
    assert learning_rate(recipe, 5.0) == pytest.approx(0.2 + 1.8 / 2)
    assert learning_rate(recipe, 7.0) == pytest.approx(0.2)
    falling = [learning_rate(recipe, 3 + step / 10) for step in range(41)]
    assert falling == sorted(falling, reverse=True)


def test_learning_rate_without_warm_up_begins_at_the_peak():
    recipe = replace(STRONG, head_epochs=0, warmup_epochs=0.0, lr=0.5)
    assert learning_rate(recipe, 0.0) == 0.5


@given(
    epoch=st.floats(0, 40),
    head=st.integers(0, 5),
    full=st.integers(1, 10),
    warmup=st.floats(0, 12),
)
def test_learning_rate_stays_above_0_and_below_the_peak(
    epoch: float, head: int, full: int, warmup: float
):
    recipe = replace(
        STRONG,
        head_epochs=head,
        full_epochs=full,
        warmup_epochs=warmup,
        head_lr=1.0,
        lr=1.0,
    )
    rate = learning_rate(recipe, epoch)
    assert 0 < rate <= 1 + 1e-12
    assert rate == learning_rate(recipe, epoch)


# ---- loss


def test_class_weights_are_the_reports():
    weights = class_weights("balanced", REPORT_COUNTS)
    assert weights is not None
    expected = [20655 / count for count in REPORT_COUNTS]
    torch.testing.assert_close(weights, torch.tensor(expected))
    root = class_weights("sqrt", REPORT_COUNTS)
    assert root is not None
    torch.testing.assert_close(root, torch.tensor(expected).sqrt())
    assert class_weights("none", REPORT_COUNTS) is None


def test_class_weights_of_an_absent_grade_are_0():
    weights = class_weights("balanced", (8, 4, 0, 2, 1))
    assert weights is not None
    assert weights.tolist() == [1, 2, 0, 4, 8]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(16, 5, generator=generator)
    return logits, torch.randint(0, 5, (16,), generator=generator)


def test_loss_is_torchs_cross_entropy():
    logits, labels = batch()
    plain = Loss(SEED, REPORT_COUNTS)(logits, labels)
    assert torch.equal(plain, F.cross_entropy(logits, labels))
    recipe = replace(SEED, class_weights="balanced", label_smoothing=0.1)
    found = Loss(recipe, REPORT_COUNTS)(logits, labels)
    weights = torch.tensor([20655 / count for count in REPORT_COUNTS])
    expected = F.cross_entropy(logits, labels, weight=weights, label_smoothing=0.1)
    torch.testing.assert_close(found, expected)


def test_loss_adds_the_expected_squared_distance():
    logits = torch.tensor([[0.0, 0, 0, 0, 0], [50.0, 0, 0, 0, 0]])
    labels = torch.tensor([1, 3])
    plain = Loss(SEED, REPORT_COUNTS)(logits, labels)
    costly = Loss(replace(SEED, distance_cost=0.3), REPORT_COUNTS)(logits, labels)
    # Row 0 guesses evenly: (1 + 0 + 1 + 4 + 9) / 5 = 3; row 1 is sure of 0: 3^2 = 9.
    assert (costly - plain).item() == pytest.approx(0.3 * (3 + 9) / 2, rel=1e-5)


# ---- optimizer and average


@pytest.mark.parametrize(("phase", "rate"), [("head", 0.25), ("full", 0.5)])
def test_make_optimizer_follows_recipe_and_phase(phase: str, rate: float):
    recipe = replace(SEED, head_lr=0.25, lr=0.5)
    weights = [nn.Parameter(torch.ones(3))]
    sgd = make_optimizer(recipe, phase, weights, CPU)
    assert isinstance(sgd, torch.optim.SGD)
    expected = {"lr": rate, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}
    assert expected.items() <= sgd.param_groups[0].items()
    adamw = make_optimizer(replace(recipe, optimizer="adamw"), phase, weights, CPU)
    assert isinstance(adamw, torch.optim.AdamW)
    assert {"lr": rate, "weight_decay": 5e-4}.items() <= adamw.param_groups[0].items()


def test_average_equals_a_hand_computation_buffers_too():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    average = MovingAverage(network, 0.3)
    expected: dict[str, torch.Tensor] = {}
    for number in range(6):
        loss = network(torch.randn(8, 3)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(network)
        decay = min(0.3, (1 + number) / (10 + number)) if number else 0.0
        for name, value in network.state_dict().items():
            before = expected.get(name, torch.zeros_like(value))
            expected[name] = (
                decay * before + (1 - decay) * value
                if value.is_floating_point()
                else value.clone()
            )
    found = average.module.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    # Had the decay not warmed up, the average would lie elsewhere.
    assert not torch.equal(found["0.weight"], network.state_dict()["0.weight"])
    assert found["1.num_batches_tracked"].item() == 6


def test_average_begins_with_a_low_decay():
    network = nn.Linear(1, 1, bias=False)
    average = MovingAverage(network, 0.998)
    for value in (0.0, 1.0):
        with torch.no_grad():
            network.weight.fill_(value)
        average.update_parameters(network)
    assert average.module.weight.item() == pytest.approx(1 - 2 / 11)


def test_average_leaves_the_network_alone():
    network = nn.Linear(2, 2)
    before = copy.deepcopy(network.state_dict())
    MovingAverage(network, 0.5).update_parameters(network)
    assert all(torch.equal(before[n], v) for n, v in network.state_dict().items())


def test_head_optimizer_holds_the_head_alone():
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(3, 2, 1))
    network.add_module("fc", nn.Linear(2, 5))
    optimizer = make_optimizer(SEED, "head", set_phase(network, "head", "train"), CPU)
    shapes = [tuple(p.shape) for p in optimizer.param_groups[0]["params"]]
    assert shapes == [(5, 2), (5,)]
