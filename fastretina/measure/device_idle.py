"""How long a GPU had nothing to train on, by its own clock and without a wait for it.

    step's work | nothing queued: idle | the next step's work
              free                   busy                      events in the stream

The host's waiting is another thing: a host that runs ahead of a busy GPU waits for a
loader, too, and costs nothing by it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import torch


class TimedEvent(Protocol):
    """A mark in a stream of work, as ``torch.cuda.Event``."""

    def record(self) -> None:
        """Set the mark behind what is queued now."""

    def query(self) -> bool:
        """Whether the device has come to the mark."""

    def elapsed_time(self, end: TimedEvent) -> float:
        """Milliseconds from this mark to a later one; both have been come to."""


class DeviceIdle:
    """Adds up the gaps between the steps of a stream.

    What is within a step, such as kernels that are queued too late, is no gap. While a
    gap lasts, other streams may copy or decode.
    """

    def __init__(self, new_event: Callable[[], TimedEvent]) -> None:
        """Take what makes an event."""
        self._new_event = new_event
        self._free: TimedEvent | None = None
        self._gaps: deque[tuple[TimedEvent, TimedEvent]] = deque()

    def free(self) -> None:
        """Mark that nothing is left to do behind what is queued now."""
        self._free = self._mark()

    def busy(self) -> None:
        """Mark that there is work from here on; a gap where it was ``free`` before."""
        if self._free is not None:
            self._gaps.append((self._free, self._mark()))
            self._free = None

    def take(self) -> float:
        """Seconds of the gaps that the device has passed, each handed out once."""
        seconds = 0.0
        while self._gaps and self._gaps[0][1].query():
            free, busy = self._gaps.popleft()
            seconds += free.elapsed_time(busy) / 1000
        return seconds

    def _mark(self) -> TimedEvent:
        event = self._new_event()
        event.record()
        return event


def device_idle(device: torch.device) -> DeviceIdle | None:
    """The clock of a GPU's current stream; None for a device that has none."""
    if device.type != "cuda":
        return None

    def new_event() -> TimedEvent:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        return cast(TimedEvent, event)  # of the device that it is recorded on

    return DeviceIdle(new_event)
