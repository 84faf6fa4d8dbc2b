"""Training steps on a batch that is there, and how many images it can hold."""

from __future__ import annotations

import time

import torch

from fastretina.doctor import gpu_memory
from fastretina.doctor.setup import TrainingSetup
from fastretina.measure.steps import make_step, synthetic
from fastretina.nn.device import DeviceError
from fastretina.recipe import Phase

_PROBE = 4  # images
_AHEAD = 10  # steps between two waits, so that a GPU's host runs ahead as in training


class RepeatedStep:
    """Training steps, over and over on one batch of noise.

    Attributes:
        step: one training step, given its number and a batch.
    """

    def __init__(self, setup: TrainingSetup, phase: Phase, batch: int) -> None:
        case, compute = setup.case(phase, batch), setup.compute
        self.step = make_step(case, compute)
        self._batch = synthetic(case, compute.device, setup.shape)
        self._wait = compute.wait
        self._steps = 1 if setup.compute.device.type == "cpu" else _AHEAD
        self._number = 0

    def __call__(self) -> int:
        """Take one step on a CPU or ten on a GPU, wait, and return their images."""
        for _ in range(self._steps):
            self.step(self._number, self._batch)
            self._number += 1
        self._wait()
        return self._steps * len(self._batch.labels)


def choose_step_batch(setup: TrainingSetup) -> int:
    """Images of a step: as many as wanted, where that is quick enough and fits.

    On a CPU a step of 32 images takes 5 s, so that steps of fewer images are timed, of
    one where time is short.

    Raises:
        DeviceError: not even one fits in the device's memory.
    """
    batch = setup.batch_size
    if setup.compute.device.type == "cpu":
        each = _seconds_each(setup)
        while batch > 1 and batch * each > setup.seconds / 16:
            batch //= 2
        return batch
    while not _fits(setup, batch):
        if batch == 1:
            raise DeviceError(
                f"the memory of {setup.compute.device} is full with one image: choose "
                "a smaller --image-size, or another --device"
            )
        gpu_memory.release(setup.compute)
        batch //= 2
    return batch


def _seconds_each(setup: TrainingSetup) -> float:
    """Seconds that an image of a step takes that is not the first: that prepares much.

    A few images share a step's costs as those of training do, where time allows it.
    """
    setup.progress("the first step")
    step = RepeatedStep(setup, "full", 1)
    each = _seconds(step)
    if each > setup.seconds / 8:  # a second one would cost as much again
        return each
    few = min(_PROBE, setup.batch_size)
    if 2 * few * each > setup.seconds / 8:
        return _seconds(step)
    step = RepeatedStep(setup, "full", few)
    step()
    return _seconds(step) / few


def _seconds(step: RepeatedStep) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def _fits(setup: TrainingSetup, batch: int) -> bool:
    """Whether a step of so many images fits in the device's memory."""
    setup.progress(f"a step of {batch} images")
    try:
        RepeatedStep(setup, "full", batch)()
    except torch.OutOfMemoryError:
        return False
    return True
