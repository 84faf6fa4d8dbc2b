"""All that the doctor has measured, as plain numbers to judge by.

What it times, each stage up to its finish line::

    disk --> bytes --> pixels --> uint8 batch --> normalised --> trained on
       read      decode      batch          ready          step
       |                                                      |
       '------------------------ end to end ------------------'
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from fastretina.doctor.deadline import NO_TIME
from fastretina.doctor.storage import Storage
from fastretina.formatting import format_count
from fastretina.measure.forecast import Forecast, forecast
from fastretina.measure.rounds import FinishLine, Rate
from fastretina.recipe import PHASES, Arch, Phase, Recipe

CLEARLY_FASTER = 1.10  # times as fast: more than what chance does to a median

StageKind = Literal["read", "decode", "batch", "ready", "step", "end to end"]


class LoaderRate(NamedTuple):
    """The speed of a loader with some number of workers."""

    loader: str
    workers: int
    rate: Rate

    @property
    def images_per_second(self) -> float:
        """The median of the loader's rounds, images/s."""
        return self.rate.images_per_second

    @property
    def words(self) -> str:
        """The loader and its workers, e.g. ``turbo, 2 workers``."""
        return f"{self.loader}, {format_count(self.workers, 'worker')}"


class NotMeasured(NamedTuple):
    """A speed of a loader that could not be measured.

    Attributes:
        loader: the loader's name.
        reason: why not, in a line.
        workers: number of workers that it failed with; None where any would.
        line: finish line that it did not get to.
    """

    loader: str
    reason: str
    workers: int | None = None
    line: FinishLine = "batch"

    @property
    def words(self) -> str:
        """What was not measured, e.g. ``dali`` or ``turbo, 2 workers, to ready``."""
        words = self.loader
        if self.workers is not None:
            words += f", {format_count(self.workers, 'worker')}"
        return f"{words}, to ready" if self.line == "ready" else words


class EndToEnd(NamedTuple):
    """The speed of training steps on what a loader loads.

    Attributes:
        rate: images/s that were trained on.
        wait_share: share of the time that the step waited for the loader, 0 to 1.
    """

    rate: Rate
    wait_share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSetFacts:
    """The data set that is trained on.

    Attributes:
        train: images of the training split.
        test: images of the test split.
        bytes: size of all shards.
        shape: height and width in which images are delivered, pixels.
        sizes: distinct sizes that the training images have.
        resized_to: pixels square, where the images are resized while loading.
        asked: whether resizing was asked for; otherwise the images' different sizes
            made it necessary.
        storage: how a sample of the images is stored.
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
class LoadingRates:
    """How fast images are loaded, stage by stage.

    Attributes:
        read_warm: images/s that one thread reads out of the page cache.
        read_cold: images/s that one thread reads from the disk; None where the cache
            can't be emptied.
        decode: number of threads to images/s of libjpeg-turbo alone.
        batch: each loader's speed to *batch*, with different numbers of workers.
        ready: speed to *ready* of the best loader of the common order that gets there;
            None where none does.
        not_measured: what of the loaders has no speed, and why.
        engine: share of the images that a GPU's JPEG engine decoded to DALI's speed to
            *batch* with it; empty where there is no engine.
    """

    read_warm: Rate
    read_cold: Rate | None
    decode: Mapping[int, Rate]
    batch: Sequence[LoaderRate]
    ready: LoaderRate | None
    not_measured: Sequence[NotMeasured] = ()
    engine: Mapping[float, Rate] = field(default_factory=dict)

    def usable(self) -> list[LoaderRate]:
        """The speeds to *batch* of all loaders but those that fail on to *ready*."""
        failed = {one.loader for one in self.not_measured if one.line == "ready"}
        return [one for one in self.batch if one.loader not in failed]


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes of memory that training takes.

    Attributes:
        before: bytes of the process, with all that is imported, before training.
        peak: most bytes of the process and its workers while training.
        gpu: bytes that torch and DALI took on the GPU; None without a GPU.
        gpu_total: bytes that the GPU has; None without a GPU.
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
        step: phase to the speed of steps on a batch that is on the device already.
        end_to_end: phase to the speed of steps on what the best loader loads.
        memory: bytes taken while the whole network is trained.
        out_of_memory: whether a batch of the size that was asked for does not fit.
    """

    shape: tuple[int, int]
    batch: int
    step: Mapping[Phase, Rate]
    end_to_end: Mapping[Phase, EndToEnd]
    memory: Memory
    out_of_memory: bool = False


class Stage(NamedTuple):
    """A bar of the chart.

    Attributes:
        kind: the stage that was timed.
        name: the kind with loader, workers or phase, e.g. ``step, head``.
        rate: the speed of the stage.
    """

    kind: StageKind
    name: str
    rate: Rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """Everything that one run of the doctor measured.

    Attributes:
        arch: the network.
        device: the device that it was trained on.
        memory_granted: bytes that this process may take.
        batch_size: images of a step, as asked for.
        data: the data set; None where there are no shards.
        loading: speeds of loading; None where there are no shards.
        training: speeds of training on the data set, or on made-up images.
    """

    arch: Arch
    device: str
    memory_granted: int
    batch_size: int
    data: DataSetFacts | None
    loading: LoadingRates | None
    training: TrainingRates

    @property
    def on_gpu(self) -> bool:
        """Whether the network does not share the processor with the loader."""
        return not self.device.startswith("cpu")

    def training_speed(self, phase: Phase) -> float | None:
        """Images/s of a phase: measured end to end, else as the slower part allows.

        None where shards are there, and yet no loader makes them ready.
        """
        training = self.training
        if phase in training.end_to_end:
            return training.end_to_end[phase].rate.images_per_second
        step = training.step[phase].images_per_second
        if self.loading is None:
            return step
        ready = self.loading.ready
        return min(step, ready.images_per_second) if ready else None

    def forecast(self, recipe: Recipe) -> Forecast | None:
        """How long a recipe takes on the data set; None where nothing was loaded."""
        if self.data is None:
            return None
        known = {phase: self.training_speed(phase) for phase in PHASES}
        speeds = {phase: speed for phase, speed in known.items() if speed is not None}
        if len(speeds) < len(PHASES):
            return None
        # A step of the head is a forward pass and little more, as evaluation is.
        return forecast(recipe, self.data.train, self.data.test, speeds, speeds["head"])

    @property
    def not_measured(self) -> dict[str, str]:
        """What has no speed, and why; nothing that needs shards, without them."""
        if self.loading is None:
            return {}
        reasons = {one.words: one.reason for one in self.loading.not_measured}
        if self.loading.ready is not None:
            timed = self.training.end_to_end
            phases = [phase for phase in self.training.step if phase not in timed]
            reasons |= {f"end to end, {phase}": NO_TIME for phase in phases}
        return reasons

    def stages(self) -> list[Stage]:
        """What was measured, in the order in which an image goes through it."""
        loading = [] if self.loading is None else _loading_stages(self.loading)
        return [*loading, *_training_stages(self.training)]

    def summary(self) -> dict[str, object]:
        """The numbers under their JSON keys."""
        data, training = self.data, self.training
        ends = training.end_to_end.items()
        return {
            "arch": self.arch,
            "device": self.device,
            "batch_size": self.batch_size,
            "step_batch": training.batch,
            "train_images": data.train if data else None,
            "image_shape": training.shape,
            "storage": data.storage.summary() if data else None,
            "stages": [
                {"stage": stage.kind, "name": stage.name, **stage.rate.summary()}
                for stage in self.stages()
            ],
            "wait_share": {phase: round(end.wait_share, 4) for phase, end in ends},
            "not_measured": self.not_measured,
            "jpeg_engine": [
                {"hw_decoder_load": share, **rate.summary()}
                for share, rate in (self.loading.engine if self.loading else {}).items()
            ],
            "peak_bytes": training.memory.peak,
            "gpu_bytes": training.memory.gpu,
        }


def _loading_stages(loading: LoadingRates) -> Iterator[Stage]:
    if loading.read_cold is not None:
        yield Stage("read", "read from disk", loading.read_cold)
    yield Stage("read", "read from cache", loading.read_warm)
    for threads, rate in sorted(loading.decode.items()):
        yield Stage("decode", f"decode, {format_count(threads, 'thread')}", rate)
    for one in loading.batch:
        yield Stage("batch", f"batch, {one.words}", one.rate)
    if loading.ready is not None:
        yield Stage("ready", f"ready, {loading.ready.words}", loading.ready.rate)


def _training_stages(training: TrainingRates) -> Iterator[Stage]:
    for phase in PHASES:
        if phase in training.step:
            yield Stage("step", f"step, {phase}", training.step[phase])
    for phase in PHASES:
        if phase in training.end_to_end:
            end = training.end_to_end[phase]
            yield Stage("end to end", f"end to end, {phase}", end.rate)
