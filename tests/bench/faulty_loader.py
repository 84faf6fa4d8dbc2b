"""A loader that goes wrong, for tests of the race; its process imports this."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from bench.data import BenchData, number_of
from bench.epoch_runner import EpochRunner, LoadedBatch
from loaders._pil import decode_with_pillow


@contextmanager
def delivering(data: BenchData, fault: str) -> Iterator[EpochRunner[list[int]]]:
    """The images of a data set by Pillow, with one fault."""

    def epoch(number: int) -> Iterator[LoadedBatch[list[int]]]:
        for place, file in enumerate(data.files):
            image = decode_with_pillow(
                file.read_bytes(), (place % 2 == 0, place % 3 == 0), (64, 64)
            )
            numbers = [number_of(file.name)]
            images = np.array(image)[None]
            if place == 3:
                if fault == "lost":
                    continue
                if fault == "twice":
                    images, numbers = np.concatenate([images] * 2), numbers * 2
                if fault == "channels":
                    images = images[..., ::-1].copy()
                if fault == "float":
                    images = images.astype(np.float32)
                if fault == "rounded":
                    images = np.where(images < 255, images + 1, images)
            if fault == "another" and place in (3, 4):
                numbers = [number_of(data.files[7 - place].name)]
            yield LoadedBatch(images, numbers)

    yield EpochRunner(epoch, "batch", data, list)
