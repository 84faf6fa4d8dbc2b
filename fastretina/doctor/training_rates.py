"""How fast images are trained on: from a batch that is there, and end to end."""

from __future__ import annotations

import gc
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import count
from typing import NamedTuple

import torch

from fastretina.doctor.loader_rates import Bench, Tell
from fastretina.doctor.measurements import EndToEnd, Memory, TrainingRates
from fastretina.measure.rounds import Rate, rounds
from fastretina.measure.steps import Case, Step, make_step
from fastretina.measure.usage import PeakMemory, memory_bytes
from fastretina.nn.device import Compute, DeviceError
from fastretina.recipe import Arch, Phase
from loaders import Batch, Loader, make_loader

_PROBE = 4  # images
_LEAST_STEPS = 3


class Drill(NamedTuple):
    """What training is measured with.

    Attributes:
        arch: the network.
        shape: height and width of the images, pixels.
        compute: where it is trained.
        batch_size: images of a step.
        seconds: for all of it.
        tell: called with what is going on.
    """

    arch: Arch
    shape: tuple[int, int]
    compute: Compute
    batch_size: int
    seconds: float
    tell: Tell

    def case(self, phase: Phase, batch: int) -> Case:
        """A step as the trainer takes it."""
        return Case(
            arch=self.arch,
            batch=batch,
            pixels=self.shape[0],
            precision=self.compute.precision,
            layout="channels-last",
            phase=phase,
            strong=True,
        )

    def batch(self, images: int) -> Batch:
        """Noise on the device."""
        random = torch.Generator().manual_seed(0)
        size = (images, *self.shape, 3)
        made = torch.randint(0, 256, size, dtype=torch.uint8, generator=random)
        labels, rows = torch.arange(images) % 5, torch.arange(images)
        return Batch(*(part.to(self.compute.device) for part in (made, labels, rows)))


class Feed(NamedTuple):
    """The loader that feeds the steps."""

    bench: Bench
    loader: str
    workers: int


def measure_training(drill: Drill, feed: Feed | None) -> TrainingRates:
    """Both phases, the whole network first.

    Raises:
        DeviceError: not even one image fits in the device's memory.
    """
    torch.backends.cudnn.benchmark = True  # as in training
    used_before = _gpu_used(drill.compute)
    before = memory_bytes()
    batch = _batch_to_time(drill)
    _tidy(drill.compute)
    step: dict[Phase, Rate] = {}
    end_to_end: dict[Phase, EndToEnd] = {}
    peak, gpu = before, None
    for phase, share in _shares():
        drill.tell(f"training steps, {phase}")
        work = make_step(drill.case(phase, batch), drill.compute)
        phase_drill = drill._replace(seconds=share * drill.seconds)
        step[phase], fed, most = _measure_phase(phase_drill, work, batch, feed)
        if fed is not None:
            end_to_end[phase] = fed
        peak = max(peak, most)
        if phase == "full":
            gpu = _gpu_taken(drill.compute, used_before)
        del work
        _tidy(drill.compute)
    return TrainingRates(
        shape=drill.shape,
        batch=batch,
        step=step,
        end_to_end=end_to_end,
        memory=Memory(
            before=before, peak=peak, gpu=gpu, gpu_total=_gpu_total(drill.compute)
        ),
        out_of_memory=batch < drill.batch_size and drill.compute.device.type != "cpu",
    )


def _measure_phase(
    drill: Drill, step: Step, batch: int, feed: Feed | None
) -> tuple[Rate, EndToEnd | None, int]:
    """Steps on a batch that is there before and after those that a loader feeds.

    So a machine that slows down meanwhile, as warm ones do, slows down both.

    Returns:
        Both, and the most memory of the process meanwhile, bytes.
    """
    on_one = _Repeated(drill, step, drill.batch(batch))
    with PeakMemory() as watch:  # not while it is timed
        on_one()
    if feed is None:
        return Rate.of(rounds(on_one, drill.seconds, warm_up=False)), None, watch.bytes
    speeds = rounds(on_one, 0.25 * drill.seconds, warm_up=False)
    fed, most = _fed(drill, step, feed, batch, 0.5 * drill.seconds)
    speeds += rounds(on_one, 0.25 * drill.seconds, warm_up=False)
    return Rate.of(speeds), fed, max(most, watch.bytes)


def _shares() -> Iterator[tuple[Phase, float]]:
    """The phases, with their share of the time."""
    yield "full", 0.6
    yield "head", 0.4


def _batch_to_time(drill: Drill) -> int:
    """Images of a step: as many as wanted, where that is quick enough and fits.

    On a CPU a step of 32 images takes 5 s, so that steps of fewer images are timed.

    Raises:
        DeviceError: not even one fits in the device's memory.
    """
    batch = drill.batch_size
    if drill.compute.device.type == "cpu":
        each = _seconds_each(drill)
        while batch > _PROBE and batch * each > drill.seconds / 16:
            batch //= 2
        return batch
    while not _fits(drill, batch):
        if batch == 1:
            raise DeviceError(
                f"the memory of {drill.compute.device} is full with one image: choose "
                "a smaller --image-size, or another --device"
            )
        _tidy(drill.compute)
        batch //= 2
    return batch


def _seconds_each(drill: Drill) -> float:
    """Of an image, in a second step, as the first prepares much."""
    drill.tell("the first step")
    few = min(_PROBE, drill.batch_size)
    step = _Repeated(
        drill, make_step(drill.case("full", few), drill.compute), drill.batch(few)
    )
    step()
    begun = time.perf_counter()
    step()
    return (time.perf_counter() - begun) / few


def _fits(drill: Drill, batch: int) -> bool:
    drill.tell(f"a step of {batch} images")
    try:
        step = make_step(drill.case("full", batch), drill.compute)
        _Repeated(drill, step, drill.batch(batch))()
    except torch.OutOfMemoryError:
        return False
    return True


class _Repeated:
    """Steps on one batch that is there; a call is one and returns its images."""

    def __init__(self, drill: Drill, step: Step, batch: Batch) -> None:
        self._wait, self._step, self._batch = drill.compute.wait, step, batch
        on_gpu = drill.compute.device.type != "cpu"
        self._steps = 10 if on_gpu else 1  # so that the host runs ahead, as it does
        self._number = 0

    def __call__(self) -> int:
        for _ in range(self._steps):
            self._step(self._number, self._batch)
            self._number += 1
        self._wait()
        return self._steps * len(self._batch.labels)


def _fed(
    drill: Drill, step: Step, feed: Feed, batch: int, seconds: float
) -> tuple[EndToEnd, int]:
    """Train on what a loader brings, and the most memory meanwhile, bytes."""
    bench = feed.bench
    config = bench.config(feed.workers, batch)
    with (
        bench.subject.part() as part,
        make_loader(feed.loader, part, "train", config) as loader,
        closing(_endless(loader)) as batches,
    ):
        with PeakMemory() as watch:
            for number in range(2):
                step(number, next(batches))
            drill.compute.wait()
        return _time_fed(drill, step, batches, seconds), watch.bytes


def _time_fed(
    drill: Drill, step: Step, batches: Iterator[Batch], seconds: float
) -> EndToEnd:
    """Steps until the time is over, as they follow one another in training."""
    images, waited, laps = 0, 0.0, []
    begun = lap = time.perf_counter()
    for number in count(2):
        start = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - start
        step(number, batch)
        images += len(batch.labels)
        if drill.compute.device.type == "cpu":
            now = time.perf_counter()
            laps.append(len(batch.labels) / (now - lap))
            lap = now
        spent = time.perf_counter() - begun
        if spent > seconds and number > _LEAST_STEPS:
            break
    drill.compute.wait()
    spent = time.perf_counter() - begun
    speed = images / spent
    slowest, fastest = (min(laps), max(laps)) if laps else (speed, speed)
    return EndToEnd(Rate(speed, slowest, fastest, max(len(laps), 1)), waited / spent)


def _endless(loader: Loader) -> Generator[Batch, None, None]:
    """Epoch after epoch."""
    for number in count():
        yield from loader.epoch(number)


def _tidy(compute: Compute) -> None:
    """Give back the last network's memory, so that the next one finds room."""
    gc.collect()
    if compute.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(compute.device)


def _gpu_used(compute: Compute) -> int:
    if compute.device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(compute.device)
    return total - free


def _gpu_total(compute: Compute) -> int | None:
    if compute.device.type != "cuda":
        return None
    return torch.cuda.mem_get_info(compute.device)[1]


def _gpu_taken(compute: Compute, before: int) -> int | None:
    """What torch's and DALI's pools hold, which keep the most that was needed."""
    if compute.device.type != "cuda":
        return None
    pools = torch.cuda.max_memory_reserved(compute.device)
    return max(_gpu_used(compute) - before, pools)
