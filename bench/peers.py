"""Loaders that people would otherwise pick, each as its own documentation has it.

They load the same images to the same finish lines. Labels are the numbers of images,
so that what arrives can be compared with the reference. A peer's own format is written
once and kept; of an image that goes in as a file the bytes are kept, where it can.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.dali_reader import own_reader
from bench.data import NO_DATA, BenchData, number_of
from bench.entrant import Entrant, Runner
from bench.epoch_runner import (
    BATCH,
    HFLIP_CHANCE,
    VFLIP_CHANCE,
    EpochRunner,
    LoadedBatch,
)
from bench.ours import each_batch, our_loaders, report_loader
from fastretina.measure.rounds import FinishLine
from fastretina.nn.augment import MEAN, STD
from loaders.cores import granted_cores

if TYPE_CHECKING:
    import pytest
    from PIL.Image import Image

NumberedImage = tuple[Tensor, int]  # an image and its number
Transform = Callable[[Any], Tensor]  # of an image of whatever library
Opening = Callable[[BenchData, FinishLine], AbstractContextManager[Runner]]


class Peer(NamedTuple):
    """A loader of others.

    Attributes:
        name: the peer's name in the tables.
        open: opens it, for some images and a finish line.
        flips: what its own operations flip: ``both``, ``left-right`` or ``none``.
        stores: the format that it reads, in words.
    """

    name: str
    open: Opening
    flips: str
    stores: str


def peers(data: BenchData, line: FinishLine) -> list[Entrant]:
    """Loaders of others; one that is not installed will say so when it is opened."""
    return [
        Entrant(
            peer.name,
            partial(peer.open, data, line),
            kind="peer",
            setup={
                "flips": peer.flips,
                "stores": peer.stores,
                "batch_size": BATCH,
                "workers": granted_cores(),
            },
        )
        for peer in _PEERS
    ]


def all_entrants(
    data: BenchData, line: FinishLine, config: pytest.Config
) -> list[Entrant]:
    """Ours, the report's and, without ``--no-peers``, those of others."""
    others = [] if config.getoption("no_peers") else peers(data, line)
    return [*our_loaders(data, line), *report_loader(data, line), *others]


def loader_names(line: FinishLine, config: pytest.Config) -> list[str]:
    """Names of all that load to a finish line."""
    return [entrant.name for entrant in all_entrants(NO_DATA, line, config)]


# ---- torch's DataLoader, with torchvision and with torchcodec


def _transforms(line: FinishLine, first: Transform) -> Transform:
    from torchvision.transforms import v2

    steps = [
        first,
        v2.RandomHorizontalFlip(HFLIP_CHANCE),
        v2.RandomVerticalFlip(VFLIP_CHANCE),
    ]
    if line == "ready":
        steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    compose: Transform = v2.Compose(steps)
    return compose


def _data_loader(dataset: Dataset[NumberedImage]) -> DataLoader[NumberedImage]:
    return DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=True,
        num_workers=granted_cores(),
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
    )


@contextmanager
def _torchvision(data: BenchData, line: FinishLine) -> Iterator[Runner]:
    """ImageFolder and transforms v2."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    folder = _cached(data.folder / "by_grade", partial(_by_grade, data))
    dataset = ImageFolder(folder, _transforms(line, v2.ToImage()))
    dataset.samples = [(path, number_of(path)) for path, _ in dataset.samples]
    loader = _data_loader(dataset)
    epoch = partial(each_batch, loader, line)
    yield EpochRunner(epoch, line, data, Tensor.tolist)


def _by_grade(data: BenchData, folder: Path) -> None:
    for file, grade in zip(data.files, data.grades, strict=True):
        (folder / str(grade)).mkdir(parents=True, exist_ok=True)
        os.link(file, folder / str(grade) / file.name)


@contextmanager
def _torchcodec(data: BenchData, line: FinishLine) -> Iterator[Runner]:
    """A Dataset that decodes to tensors, and transforms v2."""
    from torchcodec.decoders import decode_image
    from torchvision.transforms import v2

    dataset = _Files(data, decode_image, _transforms(line, v2.Identity()))
    epoch = partial(each_batch, _data_loader(dataset), line)
    yield EpochRunner(epoch, line, data, Tensor.tolist)


class _Files(Dataset[NumberedImage]):
    """The images' files, decoded."""

    def __init__(
        self, data: BenchData, decode: Callable[[str], Tensor], transform: Transform
    ) -> None:
        self._paths = [str(file) for file in data.files]
        self._decode, self._transform = decode, transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> NumberedImage:
        path = self._paths[index]
        return self._transform(self._decode(path)), number_of(path)


# ---- FFCV


@contextmanager
def _ffcv(mode: str, data: BenchData, line: FinishLine) -> Iterator[Runner]:
    import numpy as np
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import (
        NormalizeImage,
        RandomHorizontalFlip,
        Squeeze,
        ToTensor,
        ToTorchImage,
    )

    file = _cached(data.folder / f"ffcv-{mode}", partial(_write_beton, data, mode))
    steps = [SimpleRGBImageDecoder(), RandomHorizontalFlip(HFLIP_CHANCE)]
    if line == "ready":
        mean, std = (np.array(values) * 255 for values in (MEAN, STD))
        steps.append(NormalizeImage(mean, std, np.float32))
    loader = Loader(
        str(file / "train.beton"),
        batch_size=BATCH,
        num_workers=granted_cores(),
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={
            "image": [*steps, ToTensor(), ToTorchImage()],
            "number": [IntDecoder(), ToTensor(), Squeeze(1)],
        },
    )

    def epoch(number: int) -> Iterator[LoadedBatch[Tensor]]:
        for images, numbers in loader:
            yield LoadedBatch(images, numbers)

    yield EpochRunner(epoch, line, data, Tensor.tolist)


def _write_beton(data: BenchData, mode: str, folder: Path) -> None:
    """FFCV's JPEG mode encodes anew, at quality 95, that of most of the originals."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    folder.mkdir(parents=True)
    fields = {
        "image": RGBImageField(write_mode=mode, jpeg_quality=95),
        "number": IntField(),
    }
    writer = DatasetWriter(str(folder / "train.beton"), fields, num_workers=1)
    writer.from_indexed_dataset(_Pictures(data))


class _Pictures:
    """Pairs of a PIL image and its number."""

    def __init__(self, data: BenchData) -> None:
        self._files = data.files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        from PIL import Image

        file = self._files[index]
        return Image.open(file, formats=("JPEG",)), number_of(file.name)


# ---- SPDL


@contextmanager
def _spdl(data: BenchData, line: FinishLine) -> Iterator[Runner]:
    """A pipeline whose threads load a batch each."""
    import random

    import spdl.io
    from spdl.pipeline import PipelineBuilder
    from torchvision.transforms.v2.functional import normalize

    paths = [str(file) for file in data.files]

    def load(chosen: list[str]) -> LoadedBatch[list[str]]:
        # Any width asks for FFmpeg's scaler, even where there is nothing to scale.
        buffer = spdl.io.load_image_batch(chosen, width=None, height=None)
        images = spdl.io.to_torch(buffer)
        if line == "ready":
            images = images.permute(0, 3, 1, 2)
            images = normalize(images.float().div_(255), MEAN, STD, inplace=True)
        return LoadedBatch(images, chosen)

    def epoch(number: int) -> Iterator[LoadedBatch[list[str]]]:
        order = random.Random(number).sample(paths, len(paths))
        pipeline = (
            PipelineBuilder()
            .add_source(order)
            .aggregate(BATCH)
            .pipe(load, concurrency=granted_cores())
            .add_sink(3)
            .build(num_threads=granted_cores())
        )
        with pipeline.auto_stop():
            yield from pipeline

    yield EpochRunner(epoch, line, data, lambda chosen: list(map(number_of, chosen)))


# ---- litData and MosaicML streaming


@contextmanager
def _litdata(data: BenchData, line: FinishLine) -> Iterator[Runner]:
    import litdata

    folder = _cached(data.folder / "litdata", partial(_optimize, data))
    transform = _transforms(line, _to_image())
    dataset = litdata.StreamingDataset(
        str(folder), shuffle=True, transform=partial(_transformed, transform)
    )
    loader = litdata.StreamingDataLoader(
        dataset, batch_size=BATCH, num_workers=granted_cores()
    )
    epoch = partial(each_batch, loader, line)
    yield EpochRunner(epoch, line, data, Tensor.tolist)


def _to_image() -> Transform:
    from torchvision.transforms import v2

    to_image: Transform = v2.ToImage()
    return to_image


def _transformed(transform: Transform, sample: dict[str, Any]) -> NumberedImage:
    return transform(sample["image"]), sample["number"]


def _optimize(data: BenchData, folder: Path) -> None:
    import litdata

    litdata.optimize(
        fn=_litdata_sample,
        inputs=[str(file) for file in data.files],
        output_dir=str(folder),
        chunk_bytes="64MB",
        num_workers=1,
    )


def _litdata_sample(path: str) -> dict[str, Any]:
    from PIL import Image

    return {"image": Image.open(path, formats=("JPEG",)), "number": number_of(path)}


@contextmanager
def _streaming(data: BenchData, line: FinishLine) -> Iterator[Runner]:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    folder = _cached(data.folder / "mds", partial(_write_mds, data))
    clean_stale_shared_memory()  # a process that was killed leaves some behind
    transform = _transforms(line, _to_image())

    class Pictures(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> NumberedImage:
            return _transformed(transform, super().__getitem__(at))

    dataset = Pictures(local=str(folder), shuffle=True, batch_size=BATCH)
    loader: DataLoader[NumberedImage] = DataLoader(
        dataset,
        batch_size=BATCH,
        num_workers=granted_cores(),
        persistent_workers=True,
    )
    epoch = partial(each_batch, loader, line)
    yield EpochRunner(epoch, line, data, Tensor.tolist)


def _write_mds(data: BenchData, folder: Path) -> None:
    from PIL import Image
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"image": "jpeg", "number": "int"}) as out:
        for file in data.files:
            with Image.open(io.BytesIO(file.read_bytes()), formats=("JPEG",)) as image:
                image.filename = str(file)  # of which it takes the bytes as they are
                out.write({"image": image, "number": number_of(file.name)})


def _cached(folder: Path, make: Callable[[Path], None]) -> Path:
    """A peer's own format, made under another name until it is whole."""
    if not folder.exists():
        making = folder.with_name(f".{folder.name}")
        shutil.rmtree(making, ignore_errors=True)
        make(making)
        making.rename(folder)
    return folder


_JPEG = "JPEG files, as they were"
_PEERS = [
    Peer("DALI's own reader", own_reader, "both", "the same tars"),
    Peer("torchvision DataLoader", _torchvision, "both", _JPEG),
    Peer("torchcodec DataLoader", _torchcodec, "both", _JPEG),
    Peer("SPDL", _spdl, "none", _JPEG),
    Peer("FFCV, jpg", partial(_ffcv, "jpg"), "left-right", "JPEGs encoded anew, q95"),
    Peer(
        "FFCV, raw", partial(_ffcv, "raw"), "left-right", "raw pixels, 15 x the bytes"
    ),
    Peer("litData", _litdata, "both", "its chunks of JPEGs, as they were"),
    Peer("MosaicML streaming", _streaming, "both", "its shards of JPEGs, as they were"),
]
