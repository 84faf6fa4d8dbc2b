"""What loaders share: how epochs begin and end, and what becomes of bad images."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import torch

from loaders._device import to_device
from loaders.base import Batch, Decoding, LoaderConfig, Plan, Schedule, Source
from loaders.errors import SampleError

if TYPE_CHECKING:
    from typing_extensions import Self

Failure = tuple[int, SampleError]  # the place in its batch, and what is wrong


class EpochLoader(ABC):
    """A ``loaders.base.Loader`` that has one epoch running at a time, at most."""

    def __init__(self, source: Source, config: LoaderConfig) -> None:
        self.device = torch.device(config.device)
        self._source = source
        self._config = config
        self._schedule = self._scheduled(source, config)
        self.decoding = self._decoding()
        self.skipped: list[SampleError] = []
        self.decoded_again = 0
        # Weak, so that an epoch that nobody holds any more ends there and then.
        self._running: weakref.ref[Generator[Batch, None, None]] | None = None

    def __len__(self) -> int:
        return len(self._schedule)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def epoch(self, number: int, first_batch: int = 0) -> Iterator[Batch]:
        """Yield the epoch's batches; see ``loaders.base.Loader.epoch``."""

    def close(self) -> None:
        """Stop the workers and free the buffers and memory maps."""
        self._end_epoch()
        self._source.close()

    def _begin(self, batches: Generator[Batch, None, None]) -> Iterator[Batch]:
        """End the epoch before, and hold this one weakly."""
        self._end_epoch()
        self._running = weakref.ref(batches)
        return batches

    def _end_epoch(self) -> None:
        running = self._running() if self._running else None
        if running is not None:
            running.close()
        self._running = None

    def _scheduled(self, source: Source, config: LoaderConfig) -> Schedule:
        """Which samples each batch holds."""
        return Schedule(source, config)

    @abstractmethod
    def _decoding(self) -> Decoding:
        """Who makes the pixels."""

    def _set_aside(self, errors: Iterable[SampleError]) -> None:
        """Note images that can't be decoded.

        Raises:
            SampleError: the first of them, unless they are to be skipped.
        """
        for error in errors:
            if self._config.on_corrupt == "raise":
                raise error
            self.skipped.append(error)


class PlannedLoader(EpochLoader):
    """One that only has to fill in the planned batches."""

    def epoch(self, number: int, first_batch: int = 0) -> Iterator[Batch]:
        """Yield the epoch's batches; see ``loaders.base.Loader.epoch``."""
        plans = self._schedule.plans(number, first_batch)
        return self._begin(self._to_device(self._host_batches(plans)))

    def _to_device(
        self, batches: Generator[Batch, None, None]
    ) -> Generator[Batch, None, None]:
        """Where the batches of ``_host_batches`` go from there."""
        return to_device(batches, self.device)

    @abstractmethod
    def _host_batches(self, plans: Iterator[Plan]) -> Generator[Batch, None, None]:
        """The planned batches in host memory; closing it leaves nothing behind."""

    def _batch(
        self, plan: Plan, images: torch.Tensor, failures: Sequence[Failure] = ()
    ) -> Batch:
        """The finished batch of a plan, without the images that failed.

        Raises:
            SampleError: the first of these, unless they are to be skipped.
        """
        if failures:
            failures = sorted(failures, key=_place)
            self._set_aside(error for _, error in failures)
            kept = np.ones(len(plan.rows), np.bool_)
            kept[[place for place, _ in failures]] = False
            plan = Plan(plan.rows[kept], plan.flips[kept])
            images = images[torch.from_numpy(kept).to(images.device)]
        labels = torch.from_numpy(self._source.labels[plan.rows])
        rows = torch.from_numpy(plan.rows)
        if self.device.type == "cuda":  # or their copies would wait for the device
            labels, rows = labels.pin_memory(), rows.pin_memory()
        return Batch(images, labels, rows)


def _place(failure: Failure) -> int:
    return failure[0]
