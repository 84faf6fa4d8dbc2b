"""Epochs of any loader to a finish line, and whether the images are the right ones."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image

from bench.data import BenchData, number_of
from bench.entrant import Round
from fastretina.measure.rounds import FinishLine
from fastretina.nn.augment import Normaliser
from loaders.arrays import Float32, UInt8

AnyFinishLine = Literal["read"] | FinishLine
Pixels = UInt8 | Float32  # [H, W, 3]
Labels = TypeVar("Labels", bound=Sized)  # a tensor or a sequence, as the loader has it
BATCH = 32
HFLIP_CHANCE, VFLIP_CHANCE = 0.4, 0.5  # as the course report has them

# Another decoder, such as FFmpeg's, rounds otherwise; a wrong image is 20 and more off.
_MEAN_ALLOWED = 2.0


@dataclass(frozen=True, slots=True)
class LoadedBatch(Generic[Labels]):
    """A batch as a loader delivers it.

    Attributes:
        images: uint8 or float32 of B images, in either layout; at *read*, JPEG bytes.
        labels: one for each image; the runner's ``numbers_of`` turns them into numbers.
    """

    images: torch.Tensor | UInt8 | Sequence[bytes]
    labels: Labels


class EpochRunner(Generic[Labels]):
    """A ``Runner`` whose round is an epoch of a loader."""

    def __init__(
        self,
        epoch: Callable[[int], Iterator[LoadedBatch[Labels]]],
        line: AnyFinishLine,
        data: BenchData,
        numbers_of: Callable[[Labels], Iterable[int]],
    ) -> None:
        """Nothing is loaded before the first round.

        Args:
            epoch: begins the epoch of a number.
            line: the finish line that its batches are taken to.
            data: the images that have to come.
            numbers_of: which images a batch holds, from its labels.
        """
        self._epoch, self._line, self._data = epoch, line, data
        self._numbers_of = numbers_of
        self._cuda = torch.cuda.is_available() and line != "read"

    def run_round(self, number: int, first_only: bool = False) -> Round:
        """An epoch; see ``Runner``."""
        self._wait()
        images, first, begun = 0, None, time.perf_counter()
        for batch in self._epoch(number):
            if self._cuda:
                _copy_to_gpu(batch.images)
            images += len(batch.labels)
            if first is None:
                self._wait()
                first = time.perf_counter() - begun
                if first_only:
                    break
        self._wait()
        return Round(images, time.perf_counter() - begun, first or 0.0)

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()

    def check(self) -> str:
        """Every image once, and each as Pillow decodes it, flipped or not."""
        expected = {number_of(file.name): file for file in self._data.files}
        seen: set[int] = set()
        worst = ImageDifference(0.0, 0.0)
        for batch in self._epoch(0):
            assert len(batch.images) == len(batch.labels), "images without numbers"
            numbers = [int(number) for number in self._numbers_of(batch.labels)]
            for image, number in zip(self._arrays(batch), numbers, strict=True):
                assert number not in seen, f"image {number} came twice"
                seen.add(number)
                jpeg = expected[number].read_bytes()
                worst = worst.larger(self._difference(image, jpeg))
        lost = len(expected) - len(seen)
        assert not lost, f"{lost} of {len(expected)} images did not come"
        assert worst.mean <= _MEAN_ALLOWED, f"wrong pixels: mean {worst.mean:.1f} off"
        return worst.describe()

    def _arrays(self, batch: LoadedBatch[Labels]) -> Iterator[Pixels | bytes]:
        """Images of a batch as HWC arrays, or bytes at *read*; checks their form."""
        if self._line == "read":
            for jpeg in batch.images:
                yield bytes(jpeg)
            return
        images = torch.as_tensor(batch.images).cpu()
        dtype = torch.uint8 if self._line == "batch" else torch.float32
        assert images.dtype == dtype, f"{images.dtype} instead of {dtype}"
        if images.shape[-1] != 3:
            if self._line == "ready":
                last = images.is_contiguous(memory_format=torch.channels_last)
                assert last, "not channels-last"
            images = images.permute(0, 2, 3, 1)
        yield from images.numpy()

    def _difference(self, image: Pixels | bytes, jpeg: bytes) -> ImageDifference:
        if isinstance(image, bytes):
            assert image == jpeg, "other bytes"
            return ImageDifference(0.0, 0.0)
        plain: Pixels = np.asarray(
            Image.open(io.BytesIO(jpeg), formats=("JPEG",)).convert("RGB")
        )
        if self._line == "ready":
            ready = self._normalise(torch.from_numpy(plain.copy())[None])
            plain = ready[0].permute(1, 2, 0).numpy()
        assert image.shape == plain.shape, f"{image.shape} instead of {plain.shape}"
        return _difference(plain, image)

    @cached_property
    def _normalise(self) -> Normaliser:
        return Normaliser()


def _copy_to_gpu(images: object) -> None:
    """Start a copy where a loader leaves its batch on the host."""
    assert isinstance(images, torch.Tensor)
    if not images.is_cuda:
        images.to("cuda", non_blocking=True)


class ImageDifference(NamedTuple):
    """How far an image is from the reference, of 255 grey levels."""

    mean: float
    largest: float

    def larger(self, other: ImageDifference) -> ImageDifference:
        """The larger of two means, and of two largest differences."""
        return ImageDifference(
            max(self.mean, other.mean), max(self.largest, other.largest)
        )

    def describe(self) -> str:
        """How equal the images are, as the tables have it."""
        if self.largest == 0:
            return "exact"
        if self.largest < 0.01:
            return "within rounding"
        return f"largest {self.largest:.0f}, mean {self.mean:.2f} of 255"


def _difference(plain: Pixels, image: Pixels) -> ImageDifference:
    """The difference to the reference, flipped in the way that fits best."""
    flips = [(down, across) for down in (1, -1) for across in (1, -1)]

    def sampled(flip: tuple[int, int]) -> float:
        few = plain[:: flip[0], :: flip[1]][::13, ::17]
        return float(np.abs(few.astype(np.float32) - image[::13, ::17]).mean())

    down, across = min(flips, key=sampled)
    reference = plain[::down, ::across]
    if np.array_equal(reference, image):
        return ImageDifference(0.0, 0.0)
    scale = 1.0 if plain.dtype == np.uint8 else 255 * 0.225
    apart = np.abs(reference.astype(np.float32) - image)
    return ImageDifference(float(apart.mean()) * scale, float(apart.max()) * scale)
