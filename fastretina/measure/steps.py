"""The trainer's step on its own, from a batch that is there: the ceiling of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import torch

from fastretina.nn.device import Compute
from fastretina.nn.model import build_model
from fastretina.nn.step import Learner, StepPlace, StepSetup, train_step
from fastretina.recipe import STRONG, Arch, Phase, Precision
from loaders import Batch
from loaders.grades import GRADES


class Case(NamedTuple):
    """A kind of step.

    Attributes:
        arch: the network.
        batch: images.
        pixels: their side.
        precision: of the forward pass: ``bf16`` and ``fp16`` under autocast.
        layout: ``NCHW`` or ``channels-last``.
        phase: ``head`` or ``full``.
        compiled: by ``torch.compile``.
        strong: with the strong recipe's augmentation and average of the weights, as in
            a run; otherwise only normalised.
    """

    arch: Arch
    batch: int
    pixels: int
    precision: Precision
    layout: Literal["NCHW", "channels-last"]
    phase: Phase
    compiled: bool = False
    strong: bool = False

    @property
    def name(self) -> str:
        """The case in a line of words."""
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

# What the strong recipe adds to a step: without it, images are only normalised.
_PLAIN = replace(
    STRONG, rotate=0, scale=1, translate=0, brightness=0, contrast=0, ema_decay=0
)
_EVENLY = [1] * len(GRADES)


def make_step(case: Case, compute: Compute) -> Step:
    """The trainer's own step, with a network that starts anew.

    Args:
        case: the kind of step, whose precision is the one that it is taken in.
        compute: the device; its own precision plays no part.
    """
    torch.backends.cudnn.benchmark = True  # as the trainer has it
    network = build_model(case.arch, "none", 0).to(compute.device)
    if case.layout == "NCHW":
        network = network.to(memory_format=torch.contiguous_format)
    recipe = STRONG if case.strong else _PLAIN
    setup = StepSetup(
        recipe=recipe,
        compute=compute.in_precision(case.precision),
        train_counts=_EVENLY,
        compiled=case.compiled,
        channels_last=case.layout == "channels-last",
    )
    learner = Learner(network, case.phase, setup)
    # In the middle of the phase, where the schedule's rate is one that trains.
    epoch = 0 if case.phase == "head" else recipe.head_epochs
    done = (
        epoch + (recipe.head_epochs if case.phase == "head" else recipe.full_epochs) / 2
    )

    def step(number: int, batch: Batch) -> None:
        train_step(learner, batch, StepPlace(epoch, number, done))

    return step


def synthetic(
    case: Case, device: torch.device, shape: tuple[int, int] | None = None
) -> Batch:
    """A batch of noise on the device.

    Args:
        case: says how many images, and their side.
        device: where the batch lies.
        shape: height and width in pixels, of images that are not square.
    """
    random = torch.Generator().manual_seed(0)
    size = (case.batch, *(shape or (case.pixels, case.pixels)), 3)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=random)
    labels = torch.arange(case.batch) % len(GRADES)
    rows = torch.arange(case.batch)
    return Batch(images.to(device), labels.to(device), rows.to(device))
