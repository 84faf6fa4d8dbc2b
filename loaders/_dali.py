"""NVIDIA DALI in pipeline mode, on a GPU or without one.

The order and the flips are ours, so a batch is the one that every planned loader makes;
DALI decodes, resizes and flips. On a GPU that is nvJPEG, told to upsample chroma as
libjpeg-turbo does; without one, DALI's host decoder, whose pixels are libjpeg-turbo's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from torch.utils.dlpack import from_dlpack

from loaders._ahead import Ahead
from loaders._dali_pipeline import built, consumer, decode, decoding, new_pipeline
from loaders._planned import PlannedLoader
from loaders._turbo import decode_plan
from loaders.arrays import UInt8
from loaders.base import Batch, Decoding, LoaderConfig, Plan, Source
from loaders.errors import SampleError


class DaliLoader(PlannedLoader):
    """Decodes with DALI, ``prefetch`` batches ahead; see ``loaders.base.Loader``.

    ``workers`` are DALI's threads. A batch that DALI fails on is decoded again on the
    host, which names the image that can't be; the pipeline is built anew, as DALI calls
    it invalid from then on.
    """

    def __init__(
        self, source: Source, config: LoaderConfig, *, fancy_upsampling: bool = True
    ) -> None:
        """Nothing is built before the first epoch.

        Args:
            source: of the JPEG bytes.
            config: what to deliver.
            fancy_upsampling: of chroma on a GPU, as libjpeg-turbo does; without it,
                values differ by up to 36 of 255.
        """
        self._fancy = fancy_upsampling
        super().__init__(source, config)
        self._pipeline: Pipeline | None = None
        self._turns = _Turns(flips=bool(config.hflip or config.vflip))

    def close(self) -> None:
        """Free the pipeline with its threads and buffers, and the memory maps."""
        super().close()
        self._pipeline = None

    def _decoding(self) -> Decoding:
        return decoding(self.device, self._fancy, self._schedule.resizes)

    def _to_device(
        self, batches: Generator[Batch, None, None]
    ) -> Generator[Batch, None, None]:
        """Labels and rows follow the images, which DALI leaves on the device."""
        with closing(batches):
            for batch in batches:
                yield Batch(
                    *(part.to(self.device, non_blocking=True) for part in batch)
                )

    def _host_batches(self, plans: Iterator[Plan]) -> Generator[Batch, None, None]:
        """The planned batches, on the device already."""
        turns = self._turns
        with Ahead(map(self._read, plans), self._config.prefetch) as feeds:
            turns.begin(feeds)
            try:
                while (feed := self._under_way()) is not None:
                    yield self._finish(feed)
            finally:
                self._discard()

    def _read(self, plan: Plan) -> _Feed:
        """What DALI needs for a batch: views of memory maps, or a folder's files."""
        try:
            read = [self._source.read(row) for row in plan.rows.tolist()]
        except (SampleError, OSError):
            return _Feed(plan, [])  # for the host, which names the image
        except Exception as error:  # for its turn, behind the batches under way
            return _Feed(plan, [], error)
        jpegs = [np.frombuffer(jpeg, np.uint8) for jpeg in read if len(jpeg)]
        return _Feed(plan, jpegs if len(jpegs) == len(read) else [])

    def _under_way(self) -> _Feed | None:
        """The next batch, with DALI kept busy behind it; None after the last."""
        turns = self._turns
        while not turns.ended and turns.running < self._config.prefetch:
            self._built().schedule_run()
        return turns.under_way.popleft() if turns.under_way else None

    def _finish(self, feed: _Feed) -> Batch:
        """The batch, from DALI or else from the host."""
        if feed.jpegs:
            try:
                return self._batch(feed.plan, self._take())
            except RuntimeError:
                feed.jpegs.clear()  # or whoever keeps the error would keep the map
                self._start_anew()
                self.decoded_again += 1
        if feed.error is not None:
            raise feed.error
        images, failures = decode_plan(self._source, feed.plan, self._schedule.shape)
        return self._batch(feed.plan, images.to(self.device), failures)

    def _take(self) -> torch.Tensor:
        """The images that DALI has made, uint8[B, H, W, 3], without a copy.

        On a GPU they belong to torch's current stream: it waits for DALI's, and their
        memory is used again only after what it has been given until they are let go.
        """
        (made,) = self._built().outputs(cuda_stream=consumer(self.device))
        images: torch.Tensor = from_dlpack(made.as_tensor())
        return images

    def _start_anew(self) -> None:
        """Give what DALI had under way to a new pipeline."""
        self._pipeline = None
        self._turns.again()

    def _discard(self) -> None:
        """Leave nothing in the pipeline, so that it can serve another epoch."""
        self._turns.stop()
        try:
            for _ in range(self._turns.running):
                self._built().outputs()
        except RuntimeError:
            self._pipeline = None
        if self._pipeline is not None:
            self._pipeline.reset()
        self._turns.clear()

    def _built(self) -> Pipeline:
        if self._pipeline is None:
            self._pipeline = self._build()
        return self._pipeline

    def _build(self) -> Pipeline:
        config = self._config
        with new_pipeline(config, self._schedule, self.device) as pipeline:
            flips = [types.INT32, types.INT32] if self._turns.flips else []
            jpegs, *mirrored = fn.external_source(
                source=self._turns,
                num_outputs=1 + len(flips),
                batch=True,
                batch_info=True,
                no_copy=True,
                dtype=[types.UINT8, *flips],
                ndim=[1, *(0 for _ in flips)],
            )
            images = decode(jpegs, self._schedule, self.device, fancy=self._fancy)
            if mirrored:
                images = fn.flip(images, horizontal=mirrored[0], vertical=mirrored[1])
            pipeline.set_outputs(images)
        return built(pipeline, self.device)


class _Feed(NamedTuple):
    """A batch to be: its plan, and its JPEGs where DALI is to decode it."""

    plan: Plan
    jpegs: list[UInt8]
    error: Exception | None = None


class _Turns:
    """What DALI asks for its next batch; keeps each until it is made.

    The JPEGs are handed over without a copy, so they must stay where they are.

    Attributes:
        flips: whether flips go with the JPEGs.
        under_way: batches asked for and not yet taken, in order.
        ended: whether there are no more.
    """

    def __init__(self, *, flips: bool) -> None:
        self.flips = flips
        self.under_way: deque[_Feed] = deque()
        self.ended = True
        self._feeds: Iterator[_Feed] = iter(())
        # On a GPU a batch is handed out before its bytes are copied there for sure.
        self._recent: deque[_Feed] = deque(maxlen=2)

    @property
    def running(self) -> int:
        """Batches that DALI has under way."""
        return sum(bool(feed.jpegs) for feed in self.under_way)

    def begin(self, feeds: Iterator[_Feed]) -> None:
        """Take turns from here on."""
        self._feeds, self.ended = feeds, False

    def again(self) -> None:
        """Begin again with what is under way."""
        self._feeds = chain(tuple(self.under_way), self._feeds)
        self.under_way.clear()
        self.ended = False

    def stop(self) -> None:
        """No more turns; the batches under way are not wanted any more."""
        self._feeds, self.ended = iter(()), True

    def clear(self) -> None:
        """Let go of the bytes of an epoch that has ended."""
        self.under_way.clear()
        self._recent.clear()

    def __call__(self, info: object) -> tuple[Any, ...]:
        """The next batch's JPEGs, uint8[n] each, and flips, int32[B] either way."""
        for feed in self._feeds:
            self.under_way.append(feed)
            if feed.jpegs:
                self._recent.append(feed)
                flips = np.int32(feed.plan.flips.T).copy() if self.flips else ()
                return feed.jpegs, *flips
        self.ended = True
        raise StopIteration
