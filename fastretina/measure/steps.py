"""A training step on its own, from a batch that is there: the ceiling of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fastretina.nn.augment import Augment, Normaliser
from fastretina.nn.device import Compute
from fastretina.nn.model import build_model, set_phase
from fastretina.nn.step import Loss, make_average, make_optimizer
from fastretina.recipe import STRONG, Arch, Phase
from loaders import Batch


class Case(NamedTuple):
    """A kind of step.

    Attributes:
        arch: the network.
        batch: images.
        pixels: their side.
        precision: ``fp32`` or ``bf16`` under autocast.
        layout: ``NCHW`` or ``channels-last``.
        phase: ``head`` or ``full``.
        compiled: by ``torch.compile``.
        strong: with the strong recipe's augmentation and average of the weights, as in
            a run; otherwise only normalised.
    """

    arch: Arch
    batch: int
    pixels: int
    precision: Literal["fp32", "bf16"]
    layout: Literal["NCHW", "channels-last"]
    phase: Phase
    compiled: bool = False
    strong: bool = False

    @property
    def name(self) -> str:
        """For people."""
        words = [
            f"{self.arch} step",
            f"batch {self.batch}",
            self.precision,
            self.layout,
            self.phase,
            "compiled" if self.compiled else "eager",
        ]
        return ", ".join([*words, "strong recipe"] if self.strong else words)


Step = Callable[[int, Batch], None]  # which step this is, and what to train on


def make_step(case: Case, compute: Compute) -> Step:
    """A step as the trainer takes it, with a network that starts anew."""
    device = compute.device
    network = build_model(case.arch, "none", 0).to(device)
    if case.layout == "NCHW":
        network = network.to(memory_format=torch.contiguous_format)
    parameters = set_phase(network, case.phase, STRONG.head_batchnorm)
    optimizer = make_optimizer(STRONG, case.phase, parameters, device)
    average = make_average(network, STRONG.ema_decay) if case.strong else None
    forward = torch.compile(network) if case.compiled else network
    augment, normalise = Augment(STRONG), Normaliser()
    loss_of = Loss(STRONG, [1] * 5).to(device)

    def prepare(number: int, batch: Batch) -> Tensor:
        if case.strong:
            return augment(batch.images, batch.index, 0, number)
        return normalise(batch.images)

    def step(number: int, batch: Batch) -> None:
        inputs = prepare(number, batch)
        if case.layout == "NCHW":
            inputs = inputs.contiguous()
        with compute.autocast():
            logits = forward(inputs)
        loss = loss_of(logits.float(), batch.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if average is not None:
            average.update_parameters(network)

    return step


def synthetic(case: Case, device: torch.device) -> Batch:
    """A batch of noise on the device."""
    random = torch.Generator().manual_seed(0)
    size = (case.batch, case.pixels, case.pixels, 3)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=random)
    labels = torch.arange(case.batch) % 5
    rows = torch.arange(case.batch)
    return Batch(images.to(device), labels.to(device), rows.to(device))
