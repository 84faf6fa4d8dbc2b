"""What loaders that follow the ``Schedule`` share: how epochs begin and end."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from loaders._device import to_device
from loaders.base import Batch, LoaderConfig, Plan, Schedule, Source

if TYPE_CHECKING:
    from typing_extensions import Self


class PlannedLoader(ABC):
    """A ``loaders.base.Loader`` that only has to fill in the planned batches."""

    def __init__(self, source: Source, config: LoaderConfig) -> None:
        self.device = torch.device(config.device)
        self._source = source
        self._config = config
        self._schedule = Schedule(source, config)
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
        batches = to_device(self._host_batches(plans), self.device)
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

    @abstractmethod
    def _host_batches(self, plans: Iterator[Plan]) -> Generator[Batch, None, None]:
        """The planned batches in host memory; closing it leaves nothing behind."""

    def _batch(self, plan: Plan, images: torch.Tensor) -> Batch:
        labels = torch.from_numpy(self._source.labels[plan.rows])
        rows = torch.from_numpy(plan.rows)
        if self.device.type == "cuda":  # or their copies would wait for the device
            labels, rows = labels.pin_memory(), rows.pin_memory()
        return Batch(images, labels, rows)
