"""Copies between a store in host memory and batches, flipped on the way, in threads.

An image that is decoded already costs a pass over its memory, be it flipped or not.
Each task takes several images, and its copies release the GIL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from loaders._stores import HostStore
from loaders.arrays import Bool, Int64, UInt8
from loaders.decode import flip_codes, flip_in_place
from loaders.schedule import Plan

if TYPE_CHECKING:
    from typing_extensions import Self

_TASK = 8  # images; at 0.1 ms each, handing it over is 2 % of it

Damaged = list[int]  # places in the batch
Copying = list[Future[Damaged]]


class Landing(NamedTuple):
    """Where some images go in a batch.

    Attributes:
        places: int64[n], their places.
        flips: bool[n, 2], left-right and upside-down.
    """

    places: Int64
    flips: Bool


class CopyThreads:
    """Threads that copy for one epoch; use it in a ``with``, which ends them."""

    def __init__(self, store: HostStore, threads: int) -> None:
        """None is begun before there is something to copy."""
        self._store = store
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="copy")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def wants(self, rows: Int64) -> Bool:
        """See ``ImageStore.wants``."""
        return self._store.wants(rows)

    def fill(self, out: UInt8, plan: Plan, places: Int64) -> Copying:
        """Copy kept images into a batch, uint8[B, H, W, 3].

        Args:
            out: the batch, filled at these places; not looked at where there are none.
            plan: its rows and flips.
            places: int64[n], places in the batch.

        Returns:
            What ``damaged`` waits for.
        """
        codes = flip_codes(plan.flips)

        def copy(some: Int64) -> Damaged:
            damaged = []
            images = self._store.images(plan.rows[some])
            for place, image in zip(some.tolist(), images, strict=True):
                if image is None:
                    damaged.append(place)
                else:
                    _copy(image, out[place], codes[place])
            return damaged

        return self._each(copy, places)

    def keep(self, images: UInt8, rows: Int64) -> Copying:
        """Copy those of uint8[n, H, W, 3] that are wanted to the store."""
        wanted = self._store.wants(rows)

        def copy(some: Int64) -> Damaged:
            for number in some.tolist():
                self._store.keep(int(rows[number]), images[number])
            return []

        return self._each(copy, np.flatnonzero(wanted))

    def settle(self, images: UInt8, rows: Int64, out: UInt8, to: Landing) -> Copying:
        """Keep decoded images as they are, where wanted, and bring them to a batch.

        Args:
            images: uint8[n, H, W, 3]; may be ``out`` itself, where they are mirrored.
            rows: int64[n], their rows.
            out: uint8[B, H, W, 3].
            to: where they go in it, and how they are flipped.
        """
        wanted = self._store.wants(rows).tolist()
        codes, places = flip_codes(to.flips), to.places.tolist()

        def copy(some: Int64) -> Damaged:
            for number in some.tolist():
                if wanted[number]:
                    self._store.keep(int(rows[number]), images[number])
                _copy(images[number], out[places[number]], codes[number])
            return []

        return self._each(copy, np.arange(len(rows)))

    def _each(self, copy: Callable[[Int64], Damaged], places: Int64) -> Copying:
        starts = range(0, len(places), _TASK)
        parts = [places[start : start + _TASK] for start in starts]
        return [self._threads.submit(copy, part) for part in parts]


def damaged(copying: Iterable[Future[Damaged]]) -> Damaged:
    """Wait for copies; the places of images that turned out to be damaged, in order."""
    return sorted(place for future in copying for place in future.result())


def _copy(image: UInt8, out: UInt8, code: int | None) -> None:
    same = image.ctypes.data == out.ctypes.data
    if code is None:
        if not same:
            np.copyto(out, image)
    elif same:
        flip_in_place(out, code)
    else:
        cv2.flip(image, code, dst=out)
