"""How fast images are trained on: from a batch that is there, and end to end.

The two kinds of steps take turns in each phase, so that a machine that slows down
meanwhile, as warm ones do, slows down both::

    one batch of noise:  step step step .................... step step step
    what a loader loads:                load step load step
                         '-- 1/4 ------'-- 1/2 -----------'-- 1/4 --------'  of the time
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import count
from typing import NamedTuple

from fastretina.doctor import gpu_memory
from fastretina.doctor.deadline import Deadline
from fastretina.doctor.measurements import EndToEnd, Memory, TrainingRates
from fastretina.doctor.setup import TrainingLoader, TrainingSetup
from fastretina.doctor.step_batch import RepeatedStep, choose_step_batch
from fastretina.measure.rounds import Rate, rounds
from fastretina.measure.steps import Step
from fastretina.measure.usage import PeakMemory, memory_bytes
from fastretina.recipe import Phase
from loaders import Batch, Loader

_SHARES: dict[Phase, float] = {"full": 0.6, "head": 1.0}  # of what is left, in turn
_WARM_UP_STEPS, _LEAST_STEPS = 2, 3


class PhaseRates(NamedTuple):
    """What was measured of a phase.

    Attributes:
        step: speed of steps on a batch that is there.
        end_to_end: speed of steps on what a loader loads; None without a loader.
        peak_bytes: the most memory of this process and its workers meanwhile.
    """

    step: Rate
    end_to_end: EndToEnd | None
    peak_bytes: int


def measure_training(
    setup: TrainingSetup, loader: TrainingLoader | None
) -> TrainingRates:
    """Time both phases, the whole network first; end to end where there is a loader.

    Raises:
        DeviceError: not even one image fits in the device's memory.
    """
    compute, gpu = setup.compute, None
    deadline = Deadline.after(setup.seconds)
    gpu_before, before = gpu_memory.used(compute), memory_bytes()
    batch = choose_step_batch(setup)
    gpu_memory.release(compute)
    phases: dict[Phase, PhaseRates] = {}
    for phase, share in _SHARES.items():
        part = setup._replace(seconds=share * deadline.left)
        phases[phase] = _measure_phase(part, phase, batch, loader)
        if phase == "full":
            gpu = gpu_memory.taken(compute, gpu_before)
        gpu_memory.release(compute)
    return TrainingRates(
        shape=setup.shape,
        batch=batch,
        step={p: rates.step for p, rates in phases.items()},
        end_to_end={p: e for p, rates in phases.items() if (e := rates.end_to_end)},
        memory=Memory(
            before=before,
            peak=max(before, *(rates.peak_bytes for rates in phases.values())),
            gpu=gpu,
            gpu_total=gpu_memory.total(compute),
        ),
        out_of_memory=batch < setup.batch_size and compute.device.type != "cpu",
    )


def _measure_phase(
    setup: TrainingSetup, phase: Phase, batch: int, loader: TrainingLoader | None
) -> PhaseRates:
    """Time steps on one batch, before and after those on what a loader loads.

    The latter are left out where the fewest of them would take longer than is left.
    """
    setup.progress(f"training steps, {phase}")
    deadline = Deadline.after(setup.seconds)
    step = RepeatedStep(setup, phase, batch)
    begun = time.perf_counter()
    with PeakMemory() as watch:  # not while it is timed, where there is time for both
        images = step()
    seconds = time.perf_counter() - begun
    if not _fits(seconds, deadline.left):
        return PhaseRates(Rate.of([images / max(seconds, 1e-9)]), None, watch.bytes)
    if loader is None:
        alone = rounds(step, deadline.left, warm_up=False)
        return PhaseRates(Rate.of(alone), None, watch.bytes)
    speeds = rounds(step, 0.25 * deadline.left, warm_up=False)
    seconds = batch / speeds[-1]  # of a step
    if not _fits((_WARM_UP_STEPS + _LEAST_STEPS) * seconds, deadline.left):
        return PhaseRates(Rate.of(speeds), None, watch.bytes)
    part = setup._replace(seconds=0.67 * deadline.left)
    end_to_end, peak = _measure_end_to_end(part, step.step, loader, batch)
    if deadline.left > seconds:
        speeds += rounds(step, deadline.left, warm_up=False)
    return PhaseRates(Rate.of(speeds), end_to_end, max(peak, watch.bytes))


def _fits(seconds: float, left: float) -> bool:
    return seconds <= left


def _measure_end_to_end(
    setup: TrainingSetup, step: Step, loading: TrainingLoader, batch: int
) -> tuple[EndToEnd, int]:
    """Train on what a loader brings; also the most memory of the warm-up, bytes."""
    deadline = Deadline.after(setup.seconds)
    with loading.open(batch) as loader, closing(_endless(loader)) as batches:
        with PeakMemory() as watch:
            for number in range(_WARM_UP_STEPS):
                step(number, next(batches))
            setup.compute.wait()
        timed = setup._replace(seconds=deadline.left)
        return _time_end_to_end(timed, step, batches), watch.bytes


def _time_end_to_end(
    setup: TrainingSetup, step: Step, batches: Iterator[Batch]
) -> EndToEnd:
    """Time steps as they follow one another in training, until the time is over."""
    images, waited, speeds = 0, 0.0, []
    begun = last = time.perf_counter()
    for done in count(1):
        start = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - start
        step(_WARM_UP_STEPS + done - 1, batch)
        images += len(batch.labels)
        now = time.perf_counter()
        if setup.compute.device.type == "cpu":
            speeds.append(len(batch.labels) / (now - last))
            last = now
        if now - begun > setup.seconds and done >= _LEAST_STEPS:
            break
    setup.compute.wait()
    spent = time.perf_counter() - begun
    speed = images / spent
    slowest, fastest = (min(speeds), max(speeds)) if speeds else (speed, speed)
    rate = Rate(speed, slowest, fastest, max(len(speeds), 1))
    return EndToEnd(rate, waited / spent)


def _endless(loader: Loader) -> Generator[Batch, None, None]:
    """The batches of epoch after epoch."""
    for number in count():
        yield from loader.epoch(number)
