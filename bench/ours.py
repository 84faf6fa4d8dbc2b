"""Our loaders, and the course report's, as entrants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.data import BenchData, number_of
from bench.delivery import BATCH, HFLIP, VFLIP, Delivered, Delivery, Line
from bench.race import Entrant
from fastretina.nn.augment import Normaliser
from loaders import LOADERS, LoaderConfig, make_loader
from loaders.cores import granted_cores

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def our_loaders(data: BenchData, line: Line) -> list[Entrant]:
    """Every loader that there is, as it is in training."""
    return [
        Entrant(name, partial(our_loader, name, data, line), about=_about("both"))
        for name in LOADERS
    ]


def scaled(name: str, data: BenchData, workers: int, batch: int) -> Entrant:
    """A loader with other workers and another batch, to *batch*."""
    return Entrant(
        f"{name} workers={workers} batch={batch}",
        partial(our_loader, name, data, "batch", workers, batch),
        process=name,
        about={"loader": name, "workers": workers, "batch_size": batch},
    )


def report_loader(data: BenchData, line: Line) -> list[Entrant]:
    """The course report's own: 0 workers, as it has it, and one for each core."""
    return [
        Entrant(
            f"report, {workers} workers",
            partial(_report, data, line, workers),
            kind="report",
            about=_about("both"),
        )
        for workers in (0, granted_cores())
    ]


def _about(flips: str) -> dict[str, Any]:
    return {"flips": flips, "batch_size": BATCH, "workers": granted_cores()}


@contextmanager
def our_loader(
    name: str,
    data: BenchData,
    line: Line,
    workers: int | None = None,
    batch: int = BATCH,
) -> Iterator[Delivery]:
    """A loader on shards; *ready* is ``Normaliser``'s, as in the trainer."""
    config = LoaderConfig(
        batch_size=batch,
        shuffle=True,
        hflip=HFLIP,
        vflip=VFLIP,
        workers=workers,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    with make_loader(name, data.shards, "train", config) as loader:
        numbers = np.array([number_of(key) for key in data.train().column("key")])
        normalise = Normaliser()

        def epoch(number: int) -> Iterator[Delivered]:
            for batch in loader.epoch(number):
                ready = normalise(batch.images) if line == "ready" else batch.images
                yield Delivered(ready, batch.index)

        def named(index: Any) -> Sequence[int]:
            return numbers[index.cpu().numpy()].tolist()

        yield Delivery(epoch, line, data, named)


@contextmanager
def _report(data: BenchData, line: Line, workers: int) -> Iterator[Delivery]:
    """Its transforms and DataLoader; to *ready* in channels-last, as all others are."""
    import torchvision.transforms as trns
    from torch.utils.data import DataLoader

    from loaders._pil import RetinopathyDataset

    flips = [trns.RandomHorizontalFlip(p=HFLIP), trns.RandomVerticalFlip(p=VFLIP)]
    ending = [trns.PILToTensor()]
    if line == "ready":
        ending = [trns.ToTensor(), trns.Normalize(mean=MEAN, std=STD)]
    dataset = RetinopathyDataset(
        data.photographs / "data", "train", trns.Compose(flips + ending)
    )
    dataset.label = [number_of(name) for name in dataset.img_name]
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=workers)
    yield Delivery(partial(each_batch, loader, line), line, data)


def each_batch(loader: Any, line: Line, number: int) -> Iterator[Delivered]:
    """Batches of a torch DataLoader whose labels are numbers of images."""
    for images, numbers in loader:
        if line == "ready":
            images = images.contiguous(memory_format=torch.channels_last)
        yield Delivered(images, numbers)
