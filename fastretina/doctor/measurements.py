"""All that the doctor has measured, as plain numbers to judge by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fastretina.doctor.storage import Storage
from fastretina.measure.rounds import Rate
from fastretina.recipe import PHASES, Arch, Phase


class LoaderRate(NamedTuple):
    """How fast a loader is with so many workers."""

    loader: str
    workers: int
    rate: Rate


class EndToEnd(NamedTuple):
    """Training steps that a loader feeds.

    Attributes:
        rate: of training.
        wait_share: of the time that the step waited for the loader, 0 to 1.
    """

    rate: Rate
    wait_share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """What is trained on.

    Attributes:
        train: images of the training split.
        test: images of the test split.
        bytes: of all shards.
        shape: height and width that are delivered, pixels.
        sizes: distinct sizes that the training images have.
        resized_to: pixels square, where the images are resized while loading.
        asked: whether that was asked for; otherwise the images' sizes made it
            necessary.
        storage: of a sample.
    """

    train: int
    test: int
    bytes: int
    shape: tuple[int, int]
    sizes: int
    resized_to: int | None
    asked: bool
    storage: Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Loading:
    """How fast images come to be.

    Attributes:
        read_warm: bytes out of the page cache, one thread.
        read_cold: bytes from the disk, one thread; None where the cache can't be
            emptied.
        decode: threads to libjpeg-turbo alone on that many.
        batch: each loader, with different numbers of workers.
        ready: the best loader of the common order, normalised.
        not_measured: loader to the reason.
    """

    read_warm: Rate
    read_cold: Rate | None
    decode: Mapping[int, Rate]
    batch: Sequence[LoaderRate]
    ready: LoaderRate | None
    not_measured: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What training takes, bytes.

    Attributes:
        before: of the process with all that is imported.
        peak: of the process and its workers while training.
        gpu: of the GPU's, torch's and DALI's; None without a GPU.
        gpu_total: that the GPU has.
    """

    before: int
    peak: int
    gpu: int | None = None
    gpu_total: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRates:
    """How fast images are trained on.

    Attributes:
        shape: height and width of the images, pixels.
        batch: images of a step that was timed; fewer than wanted where that would have
            taken too long, or where more do not fit.
        step: each phase, on a batch that is there.
        end_to_end: each phase, fed by the best loader.
        memory: while training the whole network.
        out_of_memory: whether a batch of the size that was asked for does not fit.
    """

    shape: tuple[int, int]
    batch: int
    step: Mapping[Phase, Rate]
    end_to_end: Mapping[Phase, EndToEnd]
    memory: Memory
    out_of_memory: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """Everything.

    Attributes:
        arch: the network.
        device: that it was trained on.
        cores: granted.
        memory_granted: bytes.
        batch_size: that was asked for.
        data: None where there are no shards, and then nothing was loaded.
        loading: of it.
        training: on it, or on made-up images.
    """

    arch: Arch
    device: str
    cores: int
    memory_granted: int
    batch_size: int
    data: DataSet | None
    loading: Loading | None
    training: TrainingRates

    @property
    def on_gpu(self) -> bool:
        """Whether the network does not share the processor with the loader."""
        return not self.device.startswith("cpu")


class Stage(NamedTuple):
    """A bar of the chart.

    Attributes:
        kind: read, decode, batch, ready, step or end to end.
        name: for people.
        rate: of it.
    """

    kind: str
    name: str
    rate: Rate


def stages(found: Measurements) -> list[Stage]:
    """What was measured, in the order in which an image goes through it."""
    loading, training = found.loading, found.training
    bars: list[Stage] = []
    if loading is not None:
        if loading.read_cold is not None:
            bars.append(Stage("read", "read from disk", loading.read_cold))
        bars.append(Stage("read", "read from cache", loading.read_warm))
        for threads, rate in sorted(loading.decode.items()):
            bars.append(Stage("decode", f"decode, {_counted(threads, 'thread')}", rate))
        for loader, workers, rate in loading.batch:
            bars.append(
                Stage("batch", f"batch, {loader}, {_counted(workers, 'worker')}", rate)
            )
        if loading.ready is not None:
            loader, workers, rate = loading.ready
            bars.append(
                Stage("ready", f"ready, {loader}, {_counted(workers, 'worker')}", rate)
            )
    for phase in PHASES:
        if phase in training.step:
            bars.append(Stage("step", f"step, {phase}", training.step[phase]))
    for phase in PHASES:
        if phase in training.end_to_end:
            end = training.end_to_end[phase]
            bars.append(Stage("end to end", f"end to end, {phase}", end.rate))
    return bars


def summary(found: Measurements) -> dict[str, Any]:
    """The numbers as the JSON line holds them."""
    data, memory = found.data, found.training.memory
    return {
        "arch": found.arch,
        "device": found.device,
        "batch_size": found.batch_size,
        "step_batch": found.training.batch,
        "train_images": data.train if data else None,
        "image_shape": found.training.shape,
        "storage": data.storage.summary() if data else None,
        "stages": [
            {"stage": bar.kind, "name": bar.name, **bar.rate.summary()}
            for bar in stages(found)
        ],
        "wait_share": {
            phase: round(end.wait_share, 4)
            for phase, end in found.training.end_to_end.items()
        },
        "not_measured": dict(found.loading.not_measured) if found.loading else {},
        "peak_bytes": memory.peak,
        "gpu_bytes": memory.gpu,
    }


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"
