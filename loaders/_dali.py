"""NVIDIA DALI in pipeline mode, on a GPU or without one.

The order and the flips are ours, so its batches are those of ``pil`` and ``turbo``;
DALI decodes, resizes and flips. On a GPU that is nvJPEG, set to upsample chroma as
libjpeg-turbo does; without one, DALI's host decoder, whose pixels are libjpeg-turbo's.

    plan --> Prefetcher: read --> BatchFeeder --> DALI pipeline --> Batch
             JPEGs and flips      one batch       decode, resize,   on the device
             of a batch, ahead    a call          flip on a GPU    flipped by OpenCV
             |                                    |                on a CPU
             `--> one is not plain                `--> fails: the host decodes the batch

A batch with a JPEG that is not plain (``loaders.jpeg_structure``) is the host's, too:
where DALI's parser refuses one, the process may end by SIGSEGV.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Generator, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from torch.utils.dlpack import from_dlpack

from loaders._dali_pipeline import (
    built,
    consumer,
    dali_reason,
    decode_operator,
    describe_decoding,
    new_pipeline,
)
from loaders._epoch import EpochLoader, Made
from loaders._flips import flip_batch
from loaders._prefetcher import Prefetcher
from loaders._runs import Plans
from loaders._threads import decode_plan
from loaders.arrays import Int32, UInt8
from loaders.base import LoaderConfig, Source
from loaders.errors import SampleError
from loaders.jpeg_structure import is_plain
from loaders.schedule import Plan, Schedule


class DaliLoader(EpochLoader):
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
            source: where the JPEG bytes come from.
            config: what to deliver.
            fancy_upsampling: whether a GPU upsamples chroma as libjpeg-turbo does; if
                not, values differ by up to 36 of 255.
        """
        schedule = Schedule(source, config)
        decoding = describe_decoding(schedule, fancy=fancy_upsampling)
        super().__init__(schedule, decoding)
        self._fancy = fancy_upsampling
        self._pipeline: Pipeline | None = None
        self._warned = False
        # On a CPU DALI's flip takes 0.4 ms an image, be it mirrored or not.
        self._flips = bool(config.hflip or config.vflip)
        on_gpu = schedule.device.type == "cuda"
        self._feeder = BatchFeeder(flips=self._flips and on_gpu)

    def close(self) -> None:
        """Free the pipeline with its threads and buffers, and the open files."""
        super().close()
        self._pipeline = None

    def _batches(self, plans: Plans) -> Generator[Made, None, None]:
        with Prefetcher(map(self._read, plans), self._config.prefetch) as feeds:
            self._feeder.begin(feeds)
            try:
                while (feed := self._next_feed()) is not None:
                    # Labels and rows follow the images, which DALI leaves there.
                    yield self._make(feed).to(self.device, non_blocking=True)
            finally:
                self._discard()

    def _read(self, plan: Plan) -> _Feed:
        """What DALI needs for a batch: views of open files, or a folder's files."""
        try:
            one = self._source.reading(plan.rows, verify=self._config.verify_reads)
            read = [one.read(place) for place in range(len(plan.rows))]
        except SampleError:
            return _Feed(plan, [])  # for the host, which names the image
        except Exception as error:  # for its turn, behind the batches under way
            return _Feed(plan, [], error)
        size = self._schedule.decoded_shape
        if not all(is_plain(jpeg, size) for jpeg in read):  # DALI might end the process
            return _Feed(plan, [], plain=False)
        return _Feed(plan, [np.frombuffer(jpeg, np.uint8) for jpeg in read])

    def _next_feed(self) -> _Feed | None:
        """The next batch, with DALI kept busy behind it; None after the last."""
        feeder = self._feeder
        while not feeder.ended and feeder.running < self._config.prefetch:
            self._built().schedule_run()
        return feeder.under_way.popleft() if feeder.under_way else None

    def _make(self, feed: _Feed) -> Made:
        """The batch, from DALI or else from the host."""
        reason = ""
        if feed.jpegs:
            try:
                images = self._take()
            except RuntimeError as error:
                feed.jpegs.clear()  # or whoever keeps the error would keep them
                self._start_anew()
                reason = dali_reason(error)
            else:
                if self._flips and not self._feeder.flips:
                    flip_batch(images, feed.plan.flips)
                return self._finish(feed.plan, images)
        if feed.error is not None:
            raise feed.error
        images, failures = decode_plan(
            self._source,
            feed.plan,
            self._schedule.shape,
            verify=self._config.verify_reads,
        )
        if reason and not failures:
            self._warn(reason)
        made = self._finish(feed.plan, images.to(self.device), failures)
        return made._replace(decoded_again=int(bool(reason) or not feed.plain))

    def _warn(self, reason: str) -> None:
        """Say once why DALI fails where no image is bad: each time costs a batch."""
        if not self._warned:
            warnings.warn(
                f"DALI failed on a batch of good images, which the host has decoded in "
                f"its place ({reason}); pass --loader turbo if it does so often",
                RuntimeWarning,
                stacklevel=2,
            )
        self._warned = True

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
        self._feeder.restart()

    def _discard(self) -> None:
        """Leave nothing in the pipeline, so that it can serve another epoch."""
        self._feeder.stop()
        try:
            for _ in range(self._feeder.running):
                self._built().outputs()
        except RuntimeError:
            self._pipeline = None
        if self._pipeline is not None:
            self._pipeline.reset()
        self._feeder.clear()

    def _built(self) -> Pipeline:
        if self._pipeline is None:
            self._pipeline = self._build()
        return self._pipeline

    def _build(self) -> Pipeline:
        config = self._config
        with new_pipeline(config, self._schedule.local_size, self.device) as pipeline:
            flips = [types.INT32, types.INT32] if self._feeder.flips else []
            jpegs, *mirrored = fn.external_source(
                source=self._feeder,
                num_outputs=1 + len(flips),
                batch=True,
                batch_info=True,
                no_copy=True,
                dtype=[types.UINT8, *flips],
                ndim=[1, *(0 for _ in flips)],
            )
            images = decode_operator(
                jpegs, self._schedule, self.device, fancy=self._fancy
            )
            if mirrored:
                images = fn.flip(images, horizontal=mirrored[0], vertical=mirrored[1])
            pipeline.set_outputs(images)
        return built(pipeline, self.device)


class _Feed(NamedTuple):
    """A batch to be: its plan, and its JPEGs where DALI is to decode it.

    Attributes:
        plan: which samples it holds.
        jpegs: their bytes, or nothing.
        error: what is to be raised in its place.
        plain: whether all are JPEGs that DALI may be given.
    """

    plan: Plan
    jpegs: list[UInt8]
    error: Exception | None = None
    plain: bool = True


class BatchFeeder:
    """A source for DALI that hands it one batch a call; keeps each until it is made.

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
        """Hand over the batches of an epoch from here on."""
        self._feeds, self.ended = feeds, False

    def restart(self) -> None:
        """Hand over again what is under way, to a new pipeline."""
        self._feeds = chain(tuple(self.under_way), self._feeds)
        self.under_way.clear()
        self.ended = False

    def stop(self) -> None:
        """Hand over no more batches; those under way are not wanted any more."""
        self._feeds, self.ended = iter(()), True

    def clear(self) -> None:
        """Let go of the bytes of an epoch that has ended."""
        self.under_way.clear()
        self._recent.clear()

    def __call__(self, info: object) -> tuple[list[UInt8] | Int32, ...]:
        """The next batch's JPEGs, uint8[n] each, and flips, int32[B] either way."""
        for feed in self._feeds:
            self.under_way.append(feed)
            if feed.jpegs:
                self._recent.append(feed)
                flips = np.int32(feed.plan.flips.T).copy() if self.flips else ()
                return feed.jpegs, *flips
        self.ended = True
        raise StopIteration
