"""Streaming WebDataset shards: whole tars in sequence, from files or http.

    loader = make_loader("webdataset", "https://host/shards", "train", config)

    shards in the epoch's order --EpochStream's threads--> bytes of each row
        --ThreadedDecoder's threads, a batch's rows at a time--> Batch

The tars are such as the webdataset library reads; here they are cut by our index, as
its parser holds the GIL for 0.13 ms a sample. Every sample comes once per epoch,
whatever the number of threads and shards, and an epoch can begin anywhere. What is
shuffled is a window of shards, whose bytes are in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np

from loaders._epoch import EpochLoader, Made, to_device
from loaders._runs import Plans
from loaders._stream import EpochStream
from loaders._threads import ThreadedDecoder
from loaders.arrays import Int64
from loaders.base import LoaderConfig, Reading, Source
from loaders.cores import granted_cores
from loaders.schedule import DEFAULT_WINDOW, PieceSchedule, Plan, whole_shards
from loaders.shards import ShardSplit

_MOST_STREAMS = 8  # threads that read; more took turns at the GIL for nothing


class WebDatasetLoader(EpochLoader):
    """Streams shards and decodes as ``turbo`` does; see ``loaders.base.Loader``.

    ``workers`` are the threads that decode, and as many that stream, up to 8. One
    rank's order is that of ``EpochOrder`` with the config's ``window`` (``None`` is 2
    shards here). Several ranks share out that order in one piece each, so that a shard
    is streamed by one of them, or two; their global batches are others than a single
    rank's.
    """

    def __init__(self, source: Source, config: LoaderConfig) -> None:
        """See ``LoaderConfig``; ``balance`` can't be had.

        Raises:
            ValueError: ``balance`` is asked for, which may need a shard many times.
            LoaderError: the source holds no shards.
        """
        split = whole_shards("webdataset", source, config)
        config = replace(config, window=config.window or DEFAULT_WINDOW)
        window = config.window if config.shuffle else 1
        self._streams = _StreamedSource(
            split,
            threads=min(config.workers or granted_cores(), _MOST_STREAMS),
            ahead=max(split.shard_sizes, default=0) * (window or 1),
        )
        schedule = PieceSchedule(self._streams, config)
        self._decoder = ThreadedDecoder(schedule)
        super().__init__(schedule, self._decoder.decoding)

    def close(self) -> None:
        """Stop the threads and free the buffers."""
        super().close()
        self._decoder.close()

    def _batches(self, plans: Plans) -> Generator[Made, None, None]:
        return to_device(self._host_batches(plans), self.device)

    def _host_batches(self, plans: Plans) -> Generator[Made, None, None]:
        """The planned batches in host memory, while their shards are streamed."""
        batches = self._finish_all(self._decoder.decode(self._streamed(plans)))
        # Streams end first, as decoders may wait for them; "yield from" would not do.
        with closing(batches), closing(self._streams):
            for batch in batches:  # noqa: UP028
                yield batch

    def _streamed(self, plans: Plans) -> Iterator[Plan]:
        """The same plans; with an epoch's first, its shards are begun to be read."""
        while (epoch := plans.next_epoch()) is not None:
            listed = list(epoch)
            rows = [plan.rows for plan in listed] or [np.empty(0, np.int64)]
            self._streams.begin(np.concatenate(rows))
            yield from listed


class _StreamedSource:
    """A split as a source whose batches are read from the stream of an epoch."""

    def __init__(self, split: ShardSplit, threads: int, ahead: int) -> None:
        """Nothing is read before ``begin``.

        Args:
            split: where the samples are.
            threads: the most that read at once.
            ahead: places in an epoch that are read ahead of.
        """
        self.split = split
        self.rows, self.labels = split.rows, split.labels
        self.shard_sizes, self.dimensions = split.shard_sizes, split.dimensions
        self.failure = split.failure
        self._threads, self._ahead = threads, ahead
        self._streams: deque[EpochStream] = deque()  # the last epoch's may be in use

    def begin(self, rows: Int64) -> None:
        """Stream an epoch's rows, int64[n] in its order, after those before."""
        if len(self._streams) > 1:
            self._streams.popleft().stop()
        stream = EpochStream(self.split, rows, self._threads, self._ahead)
        self._streams.append(stream)
        stream.start()

    def read(self, row: int) -> memoryview:
        """The JPEG bytes of a row, beside the stream."""
        return self.split.read(row)

    def reading(self, rows: Int64, *, verify: bool = True) -> Reading:
        """How the next batch of the stream is read, which is of these rows."""
        return self._streams[-1].reading(rows, verify)

    def close(self) -> None:
        """End the streams, whose batches can be read no more."""
        while self._streams:
            self._streams.popleft().stop()
