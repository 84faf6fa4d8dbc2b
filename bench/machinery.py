"""A loader's machinery alone: all but the decoding, which a stub stands in for.

What is left is reading, planning, handing out to the threads and mirroring: what a
loader costs beside the decoder, and what many threads have to share.
"""

from __future__ import annotations

import io
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from bench.course_folder import LabelledJpeg, write_course_folder
from bench.entrant import Entrant, Round
from bench.epoch_runner import BATCH
from bench.ours import LoaderSetting, open_loader
from fastretina.shard import command as shard
from loaders import Loader, open_split
from loaders.arrays import UInt8
from loaders.shards import MANIFEST

LOADERS_TIMED = ("turbo", "webdataset")
THREADS = (1, 2, 4, 8, 16, 32)  # whatever the cores: it is the sharing that is timed
SIDE = 16  # pixels: so small that copying and mirroring them takes next to no time
_PER_SHARD = 512

# Where decoding is stubbed: what ``loaders.decode`` calls on this module. A decoder
# that goes another way is told by ``check``, which counts the stub's calls.
_DECODER = simplejpeg
_Header = tuple[int, int, str, str]  # height, width, colorspace, subsampling


class _Stub(NamedTuple):
    """What stands in for the decoder; writes nothing.

    Attributes:
        calls: counts the images.
    """

    calls: count[int]

    def decode_jpeg_header(self, data: object, **_: object) -> _Header:
        """The header that every image has."""
        return SIDE, SIDE, "YCbCr", "420"

    def decode_jpeg(
        self, data: object, *_: object, buffer: UInt8 | None = None, **__: object
    ) -> UInt8:
        """Leave the room for the image as it is."""
        next(self.calls)
        if buffer is None:
            return np.empty((SIDE, SIDE, 3), np.uint8)
        if buffer.ndim == 3:
            return buffer
        return buffer.reshape(-1)[: SIDE * SIDE * 3].reshape(SIDE, SIDE, 3)


@contextmanager
def stubbed_decoding() -> Iterator[_Stub]:
    """Decode nothing within the ``with``, anywhere in this process."""
    stub = _Stub(count())
    names = ("decode_jpeg", "decode_jpeg_header")
    real = {name: getattr(_DECODER, name) for name in names}
    try:
        for name in names:
            setattr(_DECODER, name, getattr(stub, name))
        yield stub
    finally:
        for name, function in real.items():
            setattr(_DECODER, name, function)


def tiny_shards(images: int, cache: Path) -> Path:
    """Shards of so many images of ``SIDE`` pixels, made once; returns their folder."""
    folder = cache / f"tiny-{images}"
    if not (folder / MANIFEST).exists():
        jpeg = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), (90, 40, 20)).save(jpeg, "JPEG")
        photographs = cache / f"tiny-{images}-photographs"
        splits = {"train": (0, images), "test": (images, images + 1)}
        write_course_folder(
            photographs,
            {
                name: (
                    LabelledJpeg(f"{n}_left", jpeg.getvalue(), n % 5)
                    for n in range(*numbers)
                )
                for name, numbers in splits.items()
            },
        )
        with redirect_stdout(sys.stderr):
            shard.write(
                shard.Options(
                    data=photographs,
                    shards=folder,
                    samples_per_shard=min(_PER_SHARD, -(-images // 4)),
                    overwrite=True,
                )
            )
        shutil.rmtree(photographs)
    return folder


def machinery(shards: Path) -> list[Entrant]:
    """Each loader that decodes in threads, with each number of them."""
    return [
        Entrant(
            f"{name}, {threads} thread{'s' * (threads > 1)}",
            partial(_running, name, shards, threads),
            process=name,
            setup={"loader": name, "workers": threads, "batch_size": BATCH},
        )
        for name in LOADERS_TIMED
        for threads in THREADS
    ]


class MachineryRunner:
    """A ``Runner`` whose round is an epoch that decodes nothing."""

    def __init__(self, loader: Loader, images: int) -> None:
        """Take an open loader, and how many images its epochs have."""
        self._loader, self._images = loader, images

    def check(self) -> str:
        """Every image once, and the stub was asked for each.

        Raises:
            AssertionError: an image is lost or doubled, or something was decoded.
        """
        with stubbed_decoding() as stub:
            rows = [row for b in self._loader.epoch(0) for row in b.index.tolist()]
        assert sorted(rows) == list(range(self._images)), "images lost or doubled"
        calls = next(stub.calls)
        assert calls >= self._images, (
            f"the decoder is not stubbed: {calls} calls for {self._images} images; "
            "aim bench.machinery at what loaders.decode calls"
        )
        return "not decoded"

    def run_round(self, number: int, first_only: bool = False) -> Round:
        """An epoch; see ``Runner``."""
        with stubbed_decoding():
            images, first, begun = 0, None, time.perf_counter()
            for batch in self._loader.epoch(number):
                images += len(batch.labels)
                first = first or time.perf_counter() - begun
                if first_only:
                    break
            seconds = time.perf_counter() - begun
        return Round(images, seconds, first or 0.0)


@contextmanager
def _running(name: str, shards: Path, threads: int) -> Iterator[MachineryRunner]:
    setting = LoaderSetting(name, threads, device="cpu")
    with open_split(shards, "train") as split:
        images = len(split)
    with open_loader(setting, shards) as loader:
        yield MachineryRunner(loader, images)
