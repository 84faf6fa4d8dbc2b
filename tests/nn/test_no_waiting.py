"""No step makes the host wait for the device.

Without a GPU the ``meta`` device stands in for one: it holds no values, so whatever
reads one fails, and each operator is looked at for copies that would wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from on_gpu import DEVICE, MARKS
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastretina.measure.steps import Case, make_step, synthetic
from fastretina.nn.augment import Augment
from fastretina.nn.average import MovingAverage
from fastretina.nn.device import Compute
from fastretina.nn.step import Learner, StepPlace, StepSetup, train_step
from fastretina.recipe import STRONG
from loaders import Batch

AWAY = torch.device("meta")
RECIPE = replace(STRONG, saturation=0.1, balance=0.5, ema_decay=0.9)


class _Operators(TorchDispatchMode):
    """Fails on a copy between host and device that the host would wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        tensors = [one for one in (*args, made) if isinstance(one, torch.Tensor)]
        if name in ("_to_copy", "copy_") and len({one.device for one in tensors}) > 1:
            no_wait = kwargs.get("non_blocking") or args[2:3] == (True,)
            assert no_wait, f"{name} waits for the device"
        return made


class _Constants(TorchFunctionMode):
    """Fails on a tensor that is made of Python's numbers on the device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        where = torch.device((kwargs or {}).get("device") or "cpu")
        made = func in (torch.tensor, torch.as_tensor) and where == AWAY
        assert not made, f"{func.__name__} waits for the device"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting() -> Iterator[None]:
    with _Operators(), _Constants():
        yield


def batch(size: int = 4, pixels: int = 32) -> Batch:
    images = torch.zeros((size, pixels, pixels, 3), dtype=torch.uint8)
    labels, rows = torch.arange(size) % 5, torch.arange(size)
    return Batch(*(part.to(AWAY) for part in (images, labels, rows)))


def tiny() -> nn.Module:
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    network = nn.Sequential(*layers, nn.Flatten())
    network.add_module("fc", nn.Linear(8, 5))
    return network


def test_what_waits_is_seen():
    there = torch.ones(3, device=AWAY)
    for waits in (
        lambda: there + torch.tensor([1.0, 2.0, 3.0], device=AWAY),
        lambda: there + torch.ones(3).to(AWAY),
        lambda: torch.empty_like(there).copy_(torch.ones(3)),
    ):
        with pytest.raises(AssertionError, match="waits for the device"), no_waiting():
            waits()
    with pytest.raises((AssertionError, RuntimeError)), no_waiting():
        there.sum().item()
    with no_waiting():
        there + torch.ones(3).to(AWAY, non_blocking=True)


@pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPE, balance=0.0)])
def test_augmentation_does_not_wait(recipe):
    augment, given = Augment(recipe), batch()
    augment(given.images, given.index, 0, 0)  # its constants are copied once
    with no_waiting():
        for step in range(1, 3):
            made = augment(given.images, given.index, 0, step, 8)
    assert made.shape == (4, 3, 32, 32)


def test_moving_average_does_not_wait():
    network = tiny().to(AWAY)
    average = MovingAverage(network, 0.9)
    with no_waiting():
        for _ in range(3):
            average.update_parameters(network)
    assert int(average.n_averaged) == 3


@pytest.mark.parametrize("phase", ["head", "full"])
def test_step_does_not_wait(phase, monkeypatch):
    # torch has no fused optimizer there; nor has it a network of the trainer's kind.
    monkeypatch.setattr(
        "fastretina.nn.step.make_optimizer",
        lambda _, __, parameters, ___: torch.optim.SGD(parameters, lr=0.1),
    )
    monkeypatch.setattr(
        "fastretina.nn.step.set_phase",
        lambda network, *_: list(network.train().parameters()),
    )
    setup = StepSetup(
        recipe=replace(RECIPE, class_weights="balanced", distance_cost=0.5),
        compute=Compute(AWAY, None),
        train_counts=[5, 4, 3, 2, 1],
    )
    learner, given = Learner(tiny().to(AWAY), phase, setup), batch()
    train_step(learner, given, StepPlace(0, 0, 0.5))
    with no_waiting():
        for number in range(1, 3):
            train_step(learner, given, StepPlace(0, number, 0.5))


class TestOnGpu:
    """The same, asked of CUDA itself; and what only a GPU fuses."""

    pytestmark = MARKS

    @pytest.mark.parametrize("phase", ["head", "full"])
    def test_step_does_not_wait(self, phase):
        case = Case("resnet18", 8, 128, "bf16", "channels-last", phase, strong=True)
        device = torch.device(DEVICE, torch.cuda.current_device())
        step, given = make_step(case, Compute(device, torch.bfloat16)), None
        given = synthetic(case, device)
        step(0, given)  # constants, moments and cuDNN's choice
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for number in range(1, 4):
                step(number, given)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_compiled_augmentation_is_the_eager_one_to_rounding(self):
        images = torch.randint(0, 256, (8, 96, 96, 3), dtype=torch.uint8)
        given = images.to(DEVICE), torch.arange(8, device=DEVICE), 1, 2
        eager = Augment(RECIPE)(*given)
        fused = Augment(RECIPE, compiled=True)(*given)
        torch.testing.assert_close(fused, eager, atol=2e-4, rtol=0)
        assert fused.is_contiguous(memory_format=torch.channels_last)
