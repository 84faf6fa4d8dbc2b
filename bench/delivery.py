"""Delivering images to a finish line, and whether they are the right ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image

from bench.data import BenchData, number_of
from bench.race import Lap
from fastretina.nn.augment import Normaliser

Line = Literal["read", "batch", "ready"]
BATCH = 32
HFLIP, VFLIP = 0.4, 0.5  # as the course report has them

# Another decoder, such as FFmpeg's, rounds otherwise; a wrong image is 20 and more off.
_MEAN_ALLOWED = 2.0


class Delivered(NamedTuple):
    """A batch.

    Attributes:
        images: uint8 or float32 of B images, in either layout; at *read*, JPEG bytes.
        numbers: of the images, or what ``Delivery`` is told how to make them of.
    """

    images: Any
    numbers: Any


Epoch = Callable[[int], Iterator[Delivered]]
Named = Callable[[Any], Sequence[int]]


class Delivery:
    """A ``Runner`` that takes epochs from a loader."""

    def __init__(
        self, epoch: Epoch, line: Line, data: BenchData, named: Named | None = None
    ) -> None:
        self._epoch, self._line, self._data = epoch, line, data
        self._named: Named = named or list
        self._cuda = torch.cuda.is_available() and line != "read"

    def lap(self, number: int, first_only: bool = False) -> Lap:
        """An epoch; see ``race.Runner``."""
        images, first, begun = 0, None, time.perf_counter()
        for batch in self._epoch(number):
            if self._cuda and not batch.images.is_cuda:
                batch.images.to("cuda", non_blocking=True)
            images += len(batch.numbers)
            if first is None:
                self._wait()
                first = time.perf_counter() - begun
                if first_only:
                    break
        self._wait()
        return Lap(images, time.perf_counter() - begun, first or 0.0)

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()

    def check(self) -> str:
        """Every image once, and each as Pillow decodes it, flipped or not."""
        expected = {number_of(file.name): file for file in self._data.files}
        seen: set[int] = set()
        worst = Difference(0.0, 0.0)
        for batch in self._epoch(0):
            assert len(batch.images) == len(batch.numbers), "images without numbers"
            numbers = [int(number) for number in self._named(batch.numbers)]
            for image, number in zip(self._each(batch.images), numbers, strict=True):
                assert number not in seen, f"image {number} came twice"
                seen.add(number)
                found = self._difference(image, expected[number].read_bytes())
                worst = Difference(*map(max, zip(worst, found, strict=True)))
        lost = len(expected) - len(seen)
        assert not lost, f"{lost} of {len(expected)} images did not come"
        assert worst.mean <= _MEAN_ALLOWED, f"wrong pixels: mean {worst.mean:.1f} off"
        return worst.verdict()

    def _each(self, images: Any) -> Iterator[Any]:
        """Images of a batch as HWC arrays, after a look at their form."""
        if self._line == "read":
            yield from images
            return
        images = torch.as_tensor(images).cpu()
        dtype = torch.uint8 if self._line == "batch" else torch.float32
        assert images.dtype == dtype, f"{images.dtype} instead of {dtype}"
        if images.shape[-1] != 3:
            if self._line == "ready":
                last = images.is_contiguous(memory_format=torch.channels_last)
                assert last, "not channels-last"
            images = images.permute(0, 2, 3, 1)
        yield from images.numpy()

    def _difference(self, image: Any, jpeg: bytes) -> Difference:
        if self._line == "read":
            assert bytes(image) == jpeg, "other bytes"
            return Difference(0.0, 0.0)
        import io

        plain = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
        if self._line == "ready":
            ready = self._reference(torch.from_numpy(plain.copy())[None])
            plain = ready[0].permute(1, 2, 0).numpy()
        assert image.shape == plain.shape, f"{image.shape} instead of {plain.shape}"
        return _difference(plain, image)

    @cached_property
    def _reference(self) -> Normaliser:
        return Normaliser()


class Difference(NamedTuple):
    """From the reference, of 255 grey levels."""

    mean: float
    largest: float

    def verdict(self) -> str:
        """In words."""
        if self.largest == 0:
            return "exact"
        if self.largest < 0.01:
            return "within rounding"
        return f"largest {self.largest:.0f}, mean {self.mean:.2f} of 255"


def _difference(plain: Any, image: Any) -> Difference:
    """To the reference, flipped in the way that fits best."""
    flips = [(down, across) for down in (1, -1) for across in (1, -1)]

    def off(flip: tuple[int, int]) -> float:
        few = plain[:: flip[0], :: flip[1]][::13, ::17]
        return float(np.abs(few.astype(np.float32) - image[::13, ::17]).mean())

    down, across = min(flips, key=off)
    reference = plain[::down, ::across]
    if np.array_equal(reference, image):
        return Difference(0.0, 0.0)
    scale = 1.0 if plain.dtype == np.uint8 else 255 * 0.225
    apart = np.abs(reference.astype(np.float32) - image)
    return Difference(float(apart.mean()) * scale, float(apart.max()) * scale)
