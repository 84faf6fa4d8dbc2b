"""DALI's own WebDataset reader, used directly: as a peer, and alone to *read*."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bench.data import BenchData, number_of
from bench.entrant import Runner
from bench.epoch_runner import (
    BATCH,
    HFLIP_CHANCE,
    VFLIP_CHANCE,
    EpochRunner,
    LoadedBatch,
)
from fastretina.measure.rounds import FinishLine
from fastretina.nn.augment import MEAN, STD
from loaders.arrays import UInt8
from loaders.cores import granted_cores


@contextmanager
def own_reader(data: BenchData, line: FinishLine) -> Iterator[Runner]:
    """A pipeline on its WebDataset reader and the iterator for torch."""
    from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

    cuda = torch.cuda.is_available()
    pipeline = _dali_pipeline(data, line, cuda)
    iterator = DALIGenericIterator(
        [pipeline],
        ["images", "numbers"],
        reader_name="reader",
        last_batch_policy=LastBatchPolicy.PARTIAL,
        auto_reset=True,
    )

    def epoch(number: int) -> Iterator[LoadedBatch[torch.Tensor]]:
        for (batch,) in iterator:
            images = batch["images"]
            ready = images.permute(0, 3, 1, 2) if line == "ready" else images
            yield LoadedBatch(ready, batch["numbers"])

    yield EpochRunner(
        epoch, line, data, lambda about: numbers_of_documents(about.cpu().numpy())
    )


def _dali_pipeline(data: BenchData, line: FinishLine, cuda: bool) -> Any:
    from nvidia.dali import fn, pipeline_def, types

    def loading() -> Any:
        jpegs, about = _read(data)
        about = fn.pad(about, fill_value=32)  # to one length, as a batch has to be
        images = fn.decoders.image(
            jpegs, device="mixed" if cuda else "cpu", output_type=types.RGB
        )
        across = fn.random.coin_flip(probability=HFLIP_CHANCE)
        down = fn.random.coin_flip(probability=VFLIP_CHANCE)
        if line == "batch":
            images = fn.flip(images, horizontal=across, vertical=down)
        else:
            images = fn.flip(images, horizontal=0, vertical=down)
            images = fn.crop_mirror_normalize(
                images,
                mirror=across,
                dtype=types.FLOAT,
                output_layout="HWC",
                mean=[255 * value for value in MEAN],
                std=[255 * value for value in STD],
            )
        return images, about

    device = 0 if cuda else None
    make = pipeline_def(batch_size=BATCH, num_threads=granted_cores(), device_id=device)
    return make(loading)()


@contextmanager
def dali_bytes(
    data: BenchData,
) -> Iterator[Callable[[int], Iterator[LoadedBatch[list[UInt8]]]]]:
    """DALI's reader alone, as a function that yields an epoch of JPEG bytes.

    Labels are the members KEY.json, uint8[L] each, valid until the next batch.
    """
    from nvidia.dali import pipeline_def

    def reading() -> Any:
        jpegs, about = _read(data)
        return jpegs, about

    make = pipeline_def(batch_size=BATCH, num_threads=granted_cores(), device_id=None)
    pipeline = make(reading)()
    pipeline.build()
    num_images = pipeline.epoch_size("reader")

    def epoch(number: int) -> Iterator[LoadedBatch[list[UInt8]]]:
        for first in range(0, num_images, BATCH):
            jpegs, about = pipeline.run()
            size = min(BATCH, num_images - first)
            images = [bytes(jpegs.at(place)) for place in range(size)]
            yield LoadedBatch(images, [about.at(place) for place in range(size)])

    yield epoch


def numbers_of_documents(documents: Iterable[UInt8]) -> list[int]:
    """Numbers from members KEY.json, uint8[L] each, whose source names the file."""
    rows = [json.loads(bytes(document)) for document in documents]
    return [number_of(row["source"]) for row in rows]


def _read(data: BenchData) -> Any:
    """JPEGs and what is known of them: operators of the pipeline that is being made."""
    from nvidia.dali import fn

    return fn.readers.webdataset(
        paths=sorted(map(str, data.shards.glob("train-*.tar"))),
        index_paths=sorted(map(str, data.shards.glob("train-*.idx"))),
        ext=["jpg", "json"],
        random_shuffle=True,
        pad_last_batch=True,
        missing_component_behavior="error",
        name="reader",
    )
