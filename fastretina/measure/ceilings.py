"""The ceilings that a loader's speed is set against: what no loader can beat."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import simplejpeg

from loaders.arrays import UInt8
from loaders.decode import read_with_pillow
from loaders.shards import ShardSplit

Share = TypeVar("Share")


def read_all(split: ShardSplit) -> list[bytes]:
    """The JPEG bytes of a split's rows, in memory."""
    return [bytes(split.read(row)) for row in split.rows.tolist()]


def decode_only(jpegs: Sequence[bytes], threads: int) -> float:
    """Images/s of libjpeg-turbo alone, each thread with its share of the images.

    Each thread decodes into memory of its own, which stays in the processor's cache.
    """

    def decode(share: Sequence[bytes]) -> None:
        room = np.empty((0, 0, 3), np.uint8)
        for jpeg in share:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(jpeg)
            if colorspace in ("CMYK", "YCCK"):  # which the loaders leave to Pillow, too
                read_with_pillow(jpeg)
                continue
            if room.shape != (height, width, 3):
                room = np.empty((height, width, 3), np.uint8)
            simplejpeg.decode_jpeg(jpeg, colorspace="RGB", buffer=room)

    shares = [jpegs[number::threads] for number in range(threads)]
    return len(jpegs) / _seconds(decode, shares)


def memory_copy(parts: Sequence[UInt8], threads: int) -> float:
    """Bytes/s of threads that each copy a share of parts into memory they hold."""

    def copy(share: Sequence[UInt8]) -> None:
        room = rooms[id(share)]
        for part in share:
            np.copyto(room[: len(part)], part)

    shares = [parts[number::threads] for number in range(threads)]
    largest = max(len(part) for part in parts)
    rooms = {id(share): np.zeros(largest, np.uint8) for share in shares}
    return sum(len(part) for part in parts) / _seconds(copy, shares)


def _seconds(work: Callable[[Share], None], shares: Sequence[Share]) -> float:
    """Seconds until every thread, one per share, has done its work."""
    workers = [threading.Thread(target=work, args=(share,)) for share in shares]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - begun
