"""JPEG decoders alone, from bytes in memory to RGB arrays, with or without a resize."""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bench.data import BenchData
from bench.entrant import Entrant, Round, Runner
from loaders.arrays import UInt8

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 224  # pixels, to resize to
IMAGES = 256  # at most, in a round
_MEAN_ALLOWED = {False: 2.0, True: 12.0}  # resizing differs: with and without antialias

Decode = Callable[[bytes], UInt8]
DecodeAll = Callable[[Sequence[bytes]], Iterator[UInt8]]
Make = Callable[[bool, int], DecodeAll]  # whether to resize, on how many threads


def pillow_name() -> str:
    """Pillow, or what has taken its place under the same name."""
    from fastretina.versions import installed

    return "pillow-simd" if installed("pillow-simd") else "Pillow"


def decoders(data: BenchData, threads: Sequence[int]) -> list[Entrant]:
    """Each decoder, decoding and resizing, on these numbers of threads."""
    return [
        Entrant(
            f"{name}, {'decode + resize' if resize else 'decode'}, "
            f"{number} thread{'s' * (number > 1)}",
            partial(_decoding, make, data, resize, number),
            kind="peer",
            process=name,
            setup={"decoder": name, "resize": resize, "threads": number},
        )
        for resize in (False, True)
        for number in threads
        for name, make in ({pillow_name(): _pil} | _DECODERS).items()
    ]


class _Decoding:
    """A ``Runner`` that decodes the images of a data set."""

    def __init__(self, decode: DecodeAll, data: BenchData, resize: bool) -> None:
        self._decode, self._resize = decode, resize
        self._jpegs = [file.read_bytes() for file in data.files[:IMAGES]]

    def run_round(self, number: int, first_only: bool = False) -> Round:
        """Decode all images; see ``Runner``."""
        begun = time.perf_counter()
        images = sum(1 for _ in self._decode(self._jpegs))
        seconds = time.perf_counter() - begun
        return Round(images, seconds, seconds)

    def check(self) -> str:
        """Compare with Pillow's decoding and its antialiased bilinear resize."""
        mean = largest = 0.0
        number = 0
        for number, image in enumerate(self._decode(self._jpegs), 1):
            plain = Image.open(
                io.BytesIO(self._jpegs[number - 1]), formats=("JPEG",)
            ).convert("RGB")
            if self._resize:
                plain = plain.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            image = np.asarray(image)
            if image.shape[0] == 3:
                image = image.transpose(1, 2, 0)
            assert image.dtype == np.uint8, image.dtype
            assert image.shape == (plain.height, plain.width, 3), image.shape
            off = np.abs(np.asarray(plain, np.int16) - image)
            mean, largest = max(mean, off.mean()), max(largest, off.max())
        assert number == len(self._jpegs), f"{number} of {len(self._jpegs)} images"
        assert mean <= _MEAN_ALLOWED[self._resize], f"wrong pixels: mean {mean:.1f} off"
        return f"largest {largest:.0f}, mean {mean:.2f} of 255" if largest else "exact"


@contextmanager
def _decoding(
    make: Make, data: BenchData, resize: bool, threads: int
) -> Iterator[Runner]:
    yield _Decoding(make(resize, threads), data, resize)


def _in_threads(decode: Decode, threads: int) -> DecodeAll:
    """One image after the other, or by a pool of threads, a share each."""
    if threads == 1:
        return lambda jpegs: map(decode, jpegs)

    def shared(jpegs: Sequence[bytes]) -> Iterator[UInt8]:
        with ThreadPoolExecutor(threads) as pool:
            for first in range(0, len(jpegs), 128):  # or all images would be held
                yield from pool.map(decode, jpegs[first : first + 128])

    return shared


def _pil(resize: bool, threads: int) -> DecodeAll:
    def decode(jpeg: bytes) -> UInt8:
        image = Image.open(io.BytesIO(jpeg), formats=("JPEG",)).convert("RGB")
        if resize:
            image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        return np.asarray(image)

    return _in_threads(decode, threads)


def _simplejpeg(resize: bool, threads: int) -> DecodeAll:
    """simplejpeg decodes, and torch resizes, as in ``turbo``."""
    import simplejpeg

    def decode(jpeg: bytes) -> UInt8:
        image: UInt8 = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
        if resize:
            from loaders.decode import resize as by_torch

            return by_torch(image, (SIDE, SIDE))
        return image

    if resize:
        import torch

        torch.set_num_threads(1)  # the threads are ours
    return _in_threads(decode, threads)


def _opencv(resize: bool, threads: int) -> DecodeAll:
    import cv2

    cv2.setNumThreads(1)  # the threads are ours

    def decode(jpeg: bytes) -> UInt8:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert image is not None, "OpenCV can't decode it"
        if resize:
            image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        return image.astype(np.uint8, copy=False)

    return _in_threads(decode, threads)


def _torchvision(resize: bool, threads: int) -> DecodeAll:
    import warnings

    from torchvision.io import ImageReadMode, decode_jpeg

    warnings.simplefilter("ignore")  # it is to be removed, and says so each time
    return _of_tensors(
        lambda data: decode_jpeg(data, ImageReadMode.RGB), resize, threads
    )


def _torchcodec(resize: bool, threads: int) -> DecodeAll:
    from torchcodec.decoders import decode_jpeg

    return _of_tensors(decode_jpeg, resize, threads)


def _of_tensors(
    decode_tensor: Callable[[Tensor], Tensor], resize: bool, threads: int
) -> DecodeAll:
    import torch
    from torchvision.transforms.v2 import functional

    torch.set_num_threads(1)  # the threads are ours

    def decode(jpeg: bytes) -> UInt8:
        image = decode_tensor(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8))
        if resize:
            image = functional.resize(image, [SIDE, SIDE], antialias=True)
        array: UInt8 = image.numpy()
        return array

    return _in_threads(decode, threads)


def _dali(resize: bool, threads: int) -> DecodeAll:
    """One pipeline for all rounds, as in a loader."""
    from nvidia.dali import fn, pipeline_def, types

    size = 32
    waiting: deque[list[UInt8]] = deque()  # batches that the pipeline has yet to take

    def batch() -> list[UInt8]:
        if not waiting:
            raise StopIteration
        return waiting.popleft()

    def decoding() -> Any:
        read = fn.external_source(source=batch, dtype=types.UINT8, ndim=1)
        images = fn.decoders.image(read, device="cpu", output_type=types.RGB)
        if resize:
            images = fn.resize(images, size=[SIDE, SIDE], antialias=True)
        return images

    make = pipeline_def(batch_size=size, num_threads=threads, device_id=None)
    running = make(decoding)()
    running.build()

    def all_images(jpegs: Sequence[bytes]) -> Iterator[UInt8]:
        arrays = [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs]
        firsts = range(0, len(arrays), size)
        waiting.extend(arrays[first : first + size] for first in firsts)
        for _ in firsts:
            (images,) = running.run()
            yield from images.as_array()
        running.reset()  # or it would stay at its end

    return all_images


_DECODERS: dict[str, Make] = {
    "simplejpeg": _simplejpeg,
    "OpenCV": _opencv,
    "torchvision": _torchvision,
    "torchcodec": _torchcodec,
    "DALI": _dali,
}
