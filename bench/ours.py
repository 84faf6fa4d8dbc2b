"""Our loaders, and the course report's, as entrants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from bench.data import BenchData, NumbersOfRows, number_of
from bench.entrant import Entrant, Runner
from bench.epoch_runner import (
    BATCH,
    HFLIP_CHANCE,
    VFLIP_CHANCE,
    EpochRunner,
    LoadedBatch,
)
from bench.rows import Setup
from fastretina.measure.rounds import FinishLine
from fastretina.nn.augment import MEAN, STD, Normaliser
from loaders import LOADERS, Loader, LoaderConfig, make_loader
from loaders.cores import granted_cores


class LoaderSetting(NamedTuple):
    """One of our loaders as it is in training, but for what is varied.

    Attributes:
        name: the loader's name.
        workers: threads that decode, or processes; ``None`` for one per granted core.
        batch: images in a batch.
        device: where its batches go.
        verify: whether images are compared with their checksums.
        cache: where decoded images are kept, if anywhere.
    """

    name: str
    workers: int | None = None
    batch: int = BATCH
    device: str = "auto"
    verify: bool = True
    cache: str | Path | None = None


def open_loader(setting: LoaderSetting, shards: Path) -> Loader:
    """Open a loader on a training split: shuffled, flipped."""
    config = LoaderConfig(
        batch_size=setting.batch,
        shuffle=True,
        hflip=HFLIP_CHANCE,
        vflip=VFLIP_CHANCE,
        workers=setting.workers,
        device=setting.device,
        verify_reads=setting.verify,
        cache=setting.cache,
    )
    return make_loader(setting.name, shards, "train", config)


def our_loaders(data: BenchData, line: FinishLine) -> list[Entrant]:
    """Every loader that there is, as it is in training."""
    return [
        Entrant(
            name, partial(our_loader, LoaderSetting(name), data, line), setup=_setup()
        )
        for name in LOADERS
    ]


def report_loader(data: BenchData, line: FinishLine) -> list[Entrant]:
    """The course report's own: 0 workers, as it has it, and one for each core."""
    return [
        Entrant(
            f"report, {workers} workers",
            partial(_report, data, line, workers),
            kind="report",
            setup=_setup(),
        )
        for workers in (0, granted_cores())
    ]


def _setup() -> Setup:
    return {"flips": "both", "batch_size": BATCH, "workers": granted_cores()}


@contextmanager
def our_loader(
    setting: LoaderSetting, data: BenchData, line: FinishLine
) -> Iterator[Runner]:
    """A loader on shards; *ready* is ``Normaliser``'s, as in the trainer."""
    with open_loader(setting, data.shards) as loader:
        yield our_epochs(loader, data, line)


def our_epochs(
    loader: Loader, data: BenchData, line: FinishLine
) -> EpochRunner[torch.Tensor]:
    """The epochs of an open loader of ours, to a finish line."""
    normalise = Normaliser()

    def epoch(number: int) -> Iterator[LoadedBatch[torch.Tensor]]:
        for batch in loader.epoch(number):
            ready = normalise(batch.images) if line == "ready" else batch.images
            yield LoadedBatch(ready, batch.index)

    numbers = NumbersOfRows(data)
    return EpochRunner(epoch, line, data, lambda index: numbers(index.tolist()))


@contextmanager
def _report(data: BenchData, line: FinishLine, workers: int) -> Iterator[Runner]:
    """The report's transforms and DataLoader; to *ready* in channels-last, as all."""
    import torchvision.transforms as trns
    from torch.utils.data import DataLoader

    from loaders.folder import RetinopathyDataset

    flips = [
        trns.RandomHorizontalFlip(p=HFLIP_CHANCE),
        trns.RandomVerticalFlip(p=VFLIP_CHANCE),
    ]
    ending = [trns.PILToTensor()]
    if line == "ready":
        ending = [trns.ToTensor(), trns.Normalize(mean=MEAN, std=STD)]
    dataset = RetinopathyDataset(
        data.photographs / "data", "train", trns.Compose(flips + ending)
    )
    dataset.label = [number_of(name) for name in dataset.img_name]
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=workers)
    epoch = partial(each_batch, loader, line)
    yield EpochRunner(epoch, line, data, torch.Tensor.tolist)


def each_batch(
    loader: Iterable[tuple[torch.Tensor, torch.Tensor]], line: FinishLine, number: int
) -> Iterator[LoadedBatch[torch.Tensor]]:
    """Batches of a torch DataLoader whose labels are numbers of images."""
    for images, numbers in loader:
        if line == "ready":
            images = images.contiguous(memory_format=torch.channels_last)
        yield LoadedBatch(images, numbers)
