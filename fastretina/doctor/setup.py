"""What loading and training are measured with: data, device, batch size and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from fastretina.doctor.deadline import Deadline
from fastretina.doctor.sample import ExaminedShards
from fastretina.measure.steps import Case
from fastretina.nn.device import Compute
from fastretina.recipe import STRONG, Arch, Phase
from loaders import Loader, LoaderConfig, make_loader

Announce = Callable[[str], None]  # called with what is measured next


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadingSetup:
    """What loading is measured with.

    Attributes:
        shards: the data set.
        jpegs: a sample of its images.
        compute: device that the batches go to.
        batch_size: images of a batch.
        cores: number of cores that this process was granted.
        seconds: seconds that all measurements of loading may take.
        deadline: their end.
        progress: function that is called with what is measured next.
    """

    shards: ExaminedShards
    jpegs: Sequence[bytes]
    compute: Compute
    batch_size: int
    cores: int
    seconds: float
    deadline: Deadline
    progress: Announce

    def config(self, workers: int, batch_size: int | None = None) -> LoaderConfig:
        """The options of a loader as in training, with another batch size if given."""
        return LoaderConfig(
            batch_size=batch_size or self.batch_size,
            image_size=self.shards.image_size,
            shuffle=True,
            hflip=STRONG.hflip,
            vflip=STRONG.vflip,
            device=str(self.compute.device),
            workers=workers,
        )


class TrainingLoader(NamedTuple):
    """The loader that the training steps load through.

    Attributes:
        setup: the data set that it loads, and how.
        name: the loader, one of ``loaders.LOADERS``.
        workers: its threads or processes.
    """

    setup: LoadingSetup
    name: str
    workers: int

    @contextmanager
    def open(self, batch_size: int) -> Iterator[Loader]:
        """The loader, over all training images, in batches of some size."""
        config = self.setup.config(self.workers, batch_size)
        with (
            self.setup.shards.part() as part,
            make_loader(self.name, part, "train", config) as loader,
        ):
            yield loader


class TrainingSetup(NamedTuple):
    """What training is measured with.

    Attributes:
        arch: the network.
        shape: height and width of the images, pixels.
        compute: device and precision of training.
        batch_size: images of a step, as asked for.
        seconds: seconds that all measurements of training may take.
        progress: function that is called with what is measured next.
    """

    arch: Arch
    shape: tuple[int, int]
    compute: Compute
    batch_size: int
    seconds: float
    progress: Announce

    def case(self, phase: Phase, batch: int) -> Case:
        """The kind of step that the trainer takes, with a batch of so many images."""
        return Case(
            arch=self.arch,
            batch=batch,
            pixels=self.shape[0],
            precision=self.compute.precision,
            layout="channels-last",
            phase=phase,
            strong=True,
        )
