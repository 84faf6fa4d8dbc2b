"""Where decoded images are kept, unflipped: in host memory, or on a GPU.

Which rows are kept is settled when a store is opened: the first of the split that have
room. So it depends on no timing, and a row that has no room never takes another's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch

from loaders.arrays import Bool, Int64, UInt8
from loaders.base import KeptImages
from loaders.device import on_device
from loaders.schedule import Schedule


class ImageStore(ABC):
    """Decoded images of some rows.

    Attributes:
        kept: where, and how many.
    """

    kept: KeptImages

    @abstractmethod
    def begin(self) -> Bool:
        """Make ready for an epoch; bool[N], the rows whose images are here by now."""

    @abstractmethod
    def wants(self, rows: Int64) -> Bool:
        """Which of these rows have room and are not here: bool[n]."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the memory; what was in no folder is forgotten."""


class HostStore(ImageStore):
    """A store that the processor copies from and to, in any thread."""

    @abstractmethod
    def images(self, rows: Int64) -> Iterator[UInt8 | None]:
        """Images of rows that are here, uint8[H, W, 3]; None for a damaged one.

        Each may be looked at until the next is asked for.
        """

    @abstractmethod
    def keep(self, row: int, image: UInt8) -> None:
        """Copy the image of a row that is wanted, uint8[H, W, 3]."""


class MemoryStore(HostStore):
    """Images in host memory, which the system grants as they come."""

    def __init__(self, schedule: Schedule, room: int) -> None:
        """Take how much room there is, bytes; nothing is allocated before ``begin``."""
        self._slot_of, self.kept = first_rows("memory", schedule, room)
        self._shape = (self.kept.images, *schedule.shape, 3)
        self._images: UInt8 | None = None
        self._here = np.zeros(len(self._slot_of), np.bool_)

    def begin(self) -> Bool:
        """Allocate on first use."""
        if self._images is None:
            # NumPy asks Linux for huge pages: they are filled twice as fast.
            self._images = np.empty(self._shape, np.uint8)
        here: Bool = self._here.copy()
        return here

    def wants(self, rows: Int64) -> Bool:
        """See ``ImageStore.wants``."""
        wanted: Bool = (self._slot_of[rows] >= 0) & ~self._here[rows]
        return wanted

    def images(self, rows: Int64) -> Iterator[UInt8 | None]:
        """See ``HostStore.images``; nothing is damaged here."""
        assert self._images is not None
        return map(self._images.__getitem__, self._slot_of[rows].tolist())

    def keep(self, row: int, image: UInt8) -> None:
        """See ``HostStore.keep``."""
        assert self._images is not None
        np.copyto(self._images[self._slot_of[row]], image)
        self._here[row] = True  # last, as another thread may read it

    def close(self) -> None:
        """Free the memory."""
        self._images = None
        self._here[:] = False


class DeviceStore(ImageStore):
    """Images on the device of the batches, which never wait for the host."""

    def __init__(self, schedule: Schedule, room: int) -> None:
        """Take how much room there is, bytes; nothing is allocated before ``begin``."""
        self._slot_of, self.kept = first_rows("device", schedule, room)
        self._shape = (self.kept.images, *schedule.shape, 3)
        self._device = schedule.device
        self._images: torch.Tensor | None = None
        self._here = np.zeros(len(self._slot_of), np.bool_)

    def begin(self) -> Bool:
        """Allocate on first use."""
        if self._images is None:
            self._images = torch.empty(
                self._shape, dtype=torch.uint8, device=self._device
            )
        here: Bool = self._here.copy()
        return here

    def wants(self, rows: Int64) -> Bool:
        """See ``ImageStore.wants``."""
        wanted: Bool = (self._slot_of[rows] >= 0) & ~self._here[rows]
        return wanted

    def gather(self, rows: Int64, here: Bool) -> torch.Tensor:
        """The images of a batch's rows, uint8[B, H, W, 3]; any where not ``here``."""
        assert self._images is not None
        slots = np.where(here, self._slot_of[rows], 0)
        images: torch.Tensor
        images = self._images.index_select(0, on_device(slots, self._device))
        return images

    def keep(self, rows: Int64, images: torch.Tensor) -> None:
        """Copy those of a batch's images, uint8[B, H, W, 3], that are wanted."""
        assert self._images is not None
        # A row that was drawn twice is written once.
        places = np.unique(rows, return_index=True)[1]
        places = places[self.wants(rows[places])]
        if len(places):
            slots = on_device(self._slot_of[rows[places]], self._device)
            taken = images.index_select(0, on_device(places, self._device))
            self._images.index_copy_(0, slots, taken)
            self._here[rows[places]] = True

    def close(self) -> None:
        """Free the memory."""
        self._images = None
        self._here[:] = False


def first_rows(place: str, schedule: Schedule, room: int) -> tuple[Int64, KeptImages]:
    """Slots for the first rows that have room, int64[N]: -1 for all others.

    Without shuffle a rank sees the same rows in every epoch, and only these are kept.
    """
    source, config = schedule.source, schedule.config
    rows = source.rows
    if config.world_size > 1 and not config.shuffle:
        parts = [plan.rows for plan in schedule.plans(0)]
        rows = np.sort(np.concatenate([np.empty(0, np.int64), *parts]))
    size = image_bytes(schedule)
    chosen = rows[: room // size]
    slots = np.full(len(source.labels), -1, np.int64)
    slots[chosen] = np.arange(len(chosen))
    return slots, KeptImages(place, len(chosen), len(rows), size)


def image_bytes(schedule: Schedule) -> int:
    """Size of a decoded image; 1 where there is none."""
    height, width = schedule.shape
    return max(3 * height * width, 1)
