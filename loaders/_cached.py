"""A loader that keeps decoded images, around one that decodes what is missing.

    plan --> split by what is kept --> rows that are here  --> copied, flipped --> Batch
             as the epoch begins       rows that are not   --> decoded, unflipped --^
                                                               by the loader within,
                                                               and kept if there is room

The split is a pure function of the plan and of what was here when the epoch began, so
each side goes through the same plans by itself. An image that fails is never kept: it
fails in each epoch, as without a cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from loaders._copies import Copying, CopyThreads, Landing, damaged
from loaders._epoch import EpochLoader, Failure, Made, to_device
from loaders._flips import flip_batch
from loaders._folder_store import FolderStore
from loaders._ring import new_ring
from loaders._room import device_room, memory_room
from loaders._runs import BatchRun, Plans, SingleRun
from loaders._stores import (
    DeviceStore,
    HostStore,
    ImageStore,
    MemoryStore,
)
from loaders.arrays import Bool, Int64
from loaders.base import Loader, LoaderConfig, Source
from loaders.cores import granted_cores
from loaders.device import on_device
from loaders.schedule import Plan

OpenLoader = Callable[[Source, LoaderConfig], Loader]


class CachedLoader(EpochLoader):
    """Delivers the batches of another loader; see ``loaders.base.Loader``.

    An epoch that finds all of its images here decodes nothing. On the host, it holds
    ``prefetch + 2`` batches of memory beside what is kept. ``decoded_again`` counts
    what was decoded, and so nothing of a batch that is all here.
    """

    def __init__(
        self, open_loader: OpenLoader, source: Source, config: LoaderConfig
    ) -> None:
        """Open the loader that decodes, and the place where its images are kept.

        Raises:
            LoaderError: the folder can't be used.
        """
        self._open_loader, self._opened_from = open_loader, (source, config)
        self._decoder = self._new_decoder()
        super().__init__(self._decoder._schedule, self._decoder.decoding)
        try:
            self._store = self._open_store(source)
        except BaseException:
            self._decoder.close()
            raise
        self.kept = self._store.kept
        self._ring: deque[torch.Tensor] | None = None

    def close(self) -> None:
        """Close the loader within and free what is kept, but for a folder's."""
        super().close()
        self._decoder.close()
        self._store.close()
        self._ring = None

    def _new_decoder(self) -> EpochLoader:
        loader = self._open_loader(*self._opened_from)
        assert isinstance(loader, EpochLoader)
        return loader

    def _open_store(self, source: Source) -> ImageStore:
        config, schedule = self._config, self._schedule
        if config.cache == "device" and self.device.type != "cpu":
            return DeviceStore(schedule, device_room(config.cache_gb, self.device))
        if config.cache in ("device", "memory") or not len(source.labels):
            room = memory_room(config.cache_gb, config.world_size)
            return MemoryStore(schedule, room)
        return FolderStore(schedule, self.decoding, source)

    def _new_run(self, number: int, first_batch: int) -> BatchRun[Made]:
        # What is here is known when the epoch before has ended, and copied in 3 ms.
        return SingleRun(self._epoch_batches(number, first_batch))

    def _epoch_batches(
        self, number: int, first_batch: int
    ) -> Generator[Made, None, None]:
        epoch = _Epoch(number, first_batch, self._store.begin())
        if isinstance(self._store, DeviceStore):
            yield from self._on_device(epoch, self._store)
        else:
            assert isinstance(self._store, HostStore)
            yield from self._on_host(epoch, self._store)

    def _plans(self, epoch: _Epoch) -> Iterator[Plan]:
        return self._schedule.plans(epoch.number, epoch.first_batch)

    def _decoded(self, epoch: _Epoch) -> Generator[Made, None, None]:
        """What is not here, batch by batch but for those that lack nothing."""
        if epoch.here[self._source.rows].all():  # no thread is begun for nothing
            return
        missing = (_unflipped(p.rows[~epoch.here[p.rows]]) for p in self._plans(epoch))
        with closing(
            self._decoder._batches(Plans(p for p in missing if len(p.rows)))
        ) as made:
            yield from made

    def _decode_again(self, rows: Int64) -> Made:
        """Images that were found damaged at their turn, in a loader of their own."""
        with self._new_decoder() as decoder:
            (made,) = decoder._batches(Plans(iter([_unflipped(rows)])))
            images = made.batch.images.clone()  # its own may end with the loader
        return made._replace(batch=made.batch._replace(images=images))

    def _lacking(self, part: _Part, decoded: Iterator[Made]) -> list[_Lack]:
        """What a batch lacks, decoded by now."""
        lacks = []
        if len(part.absent):
            lacks.append(_Lack(part.absent, next(decoded)))
        if len(part.spoilt):
            rows = part.plan.rows[part.spoilt]
            lacks.append(_Lack(part.spoilt, self._decode_again(rows)))
        return lacks

    def _complete(
        self, made: Made, plan: Plan, lacks: Sequence[_Lack], settle: Settle
    ) -> Made:
        """The whole batch, on the device, without the images that failed."""
        failures: list[Failure] = []
        for lack in lacks:
            images = lack.made.batch.images
            arrived = _arrived(plan.rows[lack.places], lack.made)
            failed = lack.places[~arrived].tolist()
            failures += zip(failed, lack.made.errors, strict=True)
            places = lack.places[arrived]
            rows, flips = plan.rows[places], plan.flips[places]
            if len(lack.places) == len(plan.rows):  # it is the batch
                settle(images, rows, images, Landing(np.arange(len(rows)), flips))
                return lack.made
            settle(images, rows, made.batch.images, Landing(places, flips))
        if failures:
            made = self._finish(plan, made.batch.images, failures)
            made = made.to(self.device, non_blocking=True)
        again = sum(lack.made.decoded_again for lack in lacks)
        return made._replace(decoded_again=again)

    # ------------------------------------------------------- kept in the host's memory

    def _on_host(self, epoch: _Epoch, store: HostStore) -> Generator[Made, None, None]:
        waiting: deque[_Part] = deque()
        workers = self._config.workers or granted_cores()
        with ExitStack() as stack:
            threads = stack.enter_context(CopyThreads(store, workers))
            settle = partial(self._settle_on_host, threads)
            copied = self._copied(epoch, threads, waiting)
            batches = stack.enter_context(closing(to_device(copied, self.device)))
            decoded = stack.enter_context(closing(self._decoded(epoch)))
            for made in batches:
                part = waiting.popleft()
                if lacks := self._lacking(part, decoded):
                    made = self._complete(made, part.plan, lacks, settle)
                yield made
                del made, lacks  # not to be kept while the next one is made

    def _copied(
        self, epoch: _Epoch, threads: CopyThreads, waiting: deque[_Part]
    ) -> Generator[Made, None, None]:
        """Batches in host memory, filled with what is here; the rest is anything.

        Those of which nothing is here have no images at all.
        """
        plans, jobs = self._plans(epoch), deque[tuple[Plan, torch.Tensor, Copying]]()
        if self._ring is None:
            self._ring = new_ring(self._schedule)
        ring = self._ring
        while True:
            room = self._config.prefetch + 1 - len(jobs)
            for plan in islice(plans, room):
                places = np.flatnonzero(epoch.here[plan.rows])
                slot = ring[len(jobs)][: len(plan.rows) if len(places) else 0]
                copying = threads.fill(slot.numpy(), plan, places)
                jobs.append((plan, slot, copying))
            if not jobs:
                return
            plan, slot, copying = jobs.popleft()
            spoilt = np.array(damaged(copying), np.int64)
            ring.rotate(-1)  # the last to be filled again, in the next epoch, too
            absent = np.flatnonzero(~epoch.here[plan.rows])
            waiting.append(_Part(plan, absent, spoilt))
            yield self._finish(plan, slot)

    def _settle_on_host(
        self,
        threads: CopyThreads,
        images: torch.Tensor,
        rows: Int64,
        out: torch.Tensor,
        to: Landing,
    ) -> None:
        if self.device.type == "cpu":
            damaged(threads.settle(images.numpy(), rows, out.numpy(), to))
            return
        if threads.wants(rows).any():  # waits for the device, in the first epoch alone
            damaged(threads.keep(images.cpu().numpy(), rows))
        _land(images, out, to)

    # ------------------------------------------------------------ kept on the device

    def _on_device(
        self, epoch: _Epoch, store: DeviceStore
    ) -> Generator[Made, None, None]:
        settle = partial(self._settle_on_device, store)
        nothing = torch.empty(
            (0, *self._schedule.shape, 3), dtype=torch.uint8, device=self.device
        )
        with closing(self._decoded(epoch)) as decoded:
            for plan in self._plans(epoch):
                here, images = epoch.here[plan.rows], nothing
                if here.any():
                    images = store.gather(plan.rows, here)
                    flip_batch(images, plan.flips)
                made = self._finish(plan, images).to(self.device, non_blocking=True)
                part = _Part(plan, np.flatnonzero(~here), _NONE)
                if lacks := self._lacking(part, decoded):
                    made = self._complete(made, plan, lacks, settle)
                yield made
                del made, lacks, images

    def _settle_on_device(
        self,
        store: DeviceStore,
        images: torch.Tensor,
        rows: Int64,
        out: torch.Tensor,
        to: Landing,
    ) -> None:
        store.keep(rows, images)
        _land(images, out, to)


Settle = Callable[[torch.Tensor, Int64, torch.Tensor, Landing], None]
_NONE = np.empty(0, np.int64)


class _Epoch(NamedTuple):
    """An epoch, and the rows whose images were here when it began, bool[N]."""

    number: int
    first_batch: int
    here: Bool


class _Part(NamedTuple):
    """A batch that is filled as far as its images were here.

    Attributes:
        plan: which samples it holds.
        absent: int64[n], places whose images were not here as the epoch began.
        spoilt: int64[m], places whose images turned out to be damaged.
    """

    plan: Plan
    absent: Int64
    spoilt: Int64


class _Lack(NamedTuple):
    """What a batch lacks: the places, int64[n], and the images, decoded by now."""

    places: Int64
    made: Made


def _unflipped(rows: Int64) -> Plan:
    return Plan(rows, np.zeros((len(rows), 2), np.bool_))


def _arrived(rows: Int64, made: Made) -> Bool:
    """Which of the planned rows a batch holds, bool[n]; it keeps their order."""
    arrived = np.ones(len(rows), np.bool_)
    if made.errors:
        index = deque(made.batch.index.tolist())
        for place, row in enumerate(rows.tolist()):
            arrived[place] = bool(index) and index[0] == row
            if arrived[place]:
                index.popleft()
    return arrived


def _land(images: torch.Tensor, out: torch.Tensor, to: Landing) -> None:
    """Bring decoded images to a batch on a device that is not the processor."""
    flip_batch(images, to.flips)
    if images is not out:
        out.index_copy_(0, on_device(to.places, out.device), images)
