"""What loaders that follow the ``Schedule`` share: how epochs begin and end."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
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


class PlannedLoader(ABC):
    """A ``loaders.base.Loader`` that only has to fill in the planned batches."""

    def __init__(self, source: Source, config: LoaderConfig) -> None:
        self.device = torch.device(config.device)
        self._source = source
        self._config = config
        self._schedule = Schedule(source, config)
        self.decoding = self._decoding()
        self.skipped: list[SampleError] = []
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

    def epoch(self, number: int, first_batch: int = 0) -> Iterator[Batch]:
        """Yield the epoch's batches; see ``loaders.base.Loader.epoch``."""
        self._end_epoch()
        plans = self._schedule.plans(number, first_batch)
        batches = self._to_device(self._host_batches(plans))
        self._running = weakref.ref(batches)
        return batches

    def close(self) -> None:
        """Stop the workers and free the buffers and memory maps."""
        self._end_epoch()
        self._source.close()

    def _end_epoch(self) -> None:
        running = self._running() if self._running else None
        if running is not None:
            running.close()
        self._running = None

    def _to_device(
        self, batches: Generator[Batch, None, None]
    ) -> Generator[Batch, None, None]:
        """Where the batches of ``_host_batches`` go from there."""
        return to_device(batches, self.device)

    @abstractmethod
    def _decoding(self) -> Decoding:
        """Who makes the pixels."""

    @abstractmethod
    def _host_batches(self, plans: Iterator[Plan]) -> Generator[Batch, None, None]:
        """The planned batches in host memory; closing it leaves nothing behind."""

    def _batch(
        self, plan: Plan, images: torch.Tensor, failures: Sequence[Failure] = ()
    ) -> Batch:
        """The finished batch of a plan.

        Raises:
            SampleError: the first of the failures, unless they are to be skipped.
        """
        if failures:
            plan, images = self._without(plan, images, sorted(failures, key=_place))
        labels = torch.from_numpy(self._source.labels[plan.rows])
        rows = torch.from_numpy(plan.rows)
        if self.device.type == "cuda":  # or their copies would wait for the device
            labels, rows = labels.pin_memory(), rows.pin_memory()
        return Batch(images, labels, rows)

    def _without(
        self, plan: Plan, images: torch.Tensor, failures: Sequence[Failure]
    ) -> tuple[Plan, torch.Tensor]:
        """The plan and its images less those that failed, which are noted."""
        if self._config.on_corrupt == "raise":
            raise failures[0][1]
        self.skipped += [error for _, error in failures]
        kept = np.ones(len(plan.rows), np.bool_)
        kept[[place for place, _ in failures]] = False
        return Plan(plan.rows[kept], plan.flips[kept]), images[torch.from_numpy(kept)]


def _place(failure: Failure) -> int:
    return failure[0]
