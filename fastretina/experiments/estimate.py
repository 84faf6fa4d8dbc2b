"""How long an experiment will take, from a few steps measured here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from fastretina.experiments.cells import Cell
from fastretina.measure.forecast import forecast
from fastretina.measure.steps import Case, make_step, synthetic
from fastretina.nn.device import Compute
from fastretina.recipe import PHASES, Arch, Phase

_STEPS, _SECONDS = 8, 2.0  # at most, of each phase
_CPU_BATCH = 8  # a CPU is no faster with more, and this many are measured sooner


class Size(NamedTuple):
    """What the speed of a step depends on here."""

    arch: Arch
    pixels: int
    strong: bool


def estimate(
    cells: Sequence[Cell], pixels: int, train: int, test: int, compute: Compute
) -> dict[str, float]:
    """Seconds for one run of each cell, by its name.

    Steps are timed with batches that are there already; where loading is slower than
    the steps, a run takes longer.

    Args:
        cells: those with runs of their own.
        pixels: side of the images as they are.
        train: number of training images.
        test: number of test images.
        compute: device and precision.
    """
    speeds: dict[Size, dict[Phase, float]] = {}
    seconds = {}
    for cell in cells:
        recipe = cell.recipe
        size = Size(recipe.arch, recipe.image_size or pixels, recipe.rotate > 0)
        if size not in speeds:
            speeds[size] = {
                phase: _speed(size, phase, recipe.batch_size, compute)
                for phase in PHASES
            }
        measured = speeds[size]
        expected = forecast(
            recipe,
            min(train, recipe.train_samples or train),
            min(test, recipe.test_samples or test),
            measured,
            measured["head"],  # a forward pass and little more, as evaluation is
        )
        seconds[cell.name] = expected.recipe_seconds
    return seconds


def _speed(size: Size, phase: Phase, batch_size: int, compute: Compute) -> float:
    """Images/s of a training step, after one to warm up."""
    on_cpu = compute.device.type == "cpu"
    case = Case(
        arch=size.arch,
        batch=min(batch_size, _CPU_BATCH) if on_cpu else batch_size,
        pixels=size.pixels,
        precision=compute.precision,
        layout="channels-last",
        phase=phase,
        strong=size.strong,
    )
    step, batch = make_step(case, compute), synthetic(case, compute.device)
    step(0, batch)
    compute.wait()
    begun, done = time.perf_counter(), 0
    while done < _STEPS and time.perf_counter() - begun < _SECONDS:
        done += 1
        step(done, batch)
        compute.wait()
    return done * case.batch / (time.perf_counter() - begun)
