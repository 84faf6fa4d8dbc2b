"""What GPU memory a loader takes, torch's and DALI's alike."""

from __future__ import annotations

import gc
import threading
from functools import partial
from types import TracebackType

import torch

from bench.gpu.scope import Measurement, Scope
from bench.gpu.section_rows import LoaderMemoryRow
from bench.gpu.speed import Candidate, candidates
from loaders import available

_BATCHES = 40
_POLL = 0.002  # seconds between two readings


def plan_memory(scope: Scope) -> list[Measurement]:
    """What each loader takes of the GPU's memory, torch's allocator or not."""
    return [
        Measurement(
            f"GPU memory of {one.name}",
            6.0,
            partial(_memory, scope, one),
            scope.lacks_cuda,
        )
        for one in candidates(scope)
    ]


class MemoryWatch:
    """Reads again and again how much of a GPU's memory is in use; for a ``with``.

    DALI's memory is not torch's allocator's, so it is the device that is asked. That
    takes time from what goes on meanwhile.

    Attributes:
        before: bytes in use at the start.
        largest: bytes in use in the largest reading.
        after: bytes in use at the end.
    """

    def __init__(self, device: torch.device, poll: float = _POLL) -> None:
        self._device, self._poll = device, poll
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = self.largest = self.after = 0

    def __enter__(self) -> MemoryWatch:
        self.before = self.largest = self._used()
        if self._device.type == "cuda":
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        if error is None:
            self.after = self._used()
            self.largest = max(self.largest, self.after)

    def _watch(self) -> None:
        while not self._ended.wait(self._poll):
            self.largest = max(self.largest, self._used())

    def _used(self) -> int:
        if self._device.type != "cuda":
            return 0
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free


def _memory(scope: Scope, one: Candidate) -> list[LoaderMemoryRow]:
    device = torch.device(scope.device)
    _release(device)
    torch.cuda.reset_peak_memory_stats(device)
    with MemoryWatch(device) as watch, one.open(scope) as loader:
        for number, _ in enumerate(loader.epoch(0)):
            if number == _BATCHES:
                break
        torch.cuda.synchronize(device)
    return [
        LoaderMemoryRow(
            loader=one.name,
            before_bytes=watch.before,
            largest_bytes=watch.largest,
            after_bytes=watch.after,
            taken_bytes=watch.largest - watch.before,
            torch_peak_bytes=torch.cuda.max_memory_allocated(device),
        )
    ]


def _release(device: torch.device) -> None:
    """Give back what loaders before have left in pools."""
    torch.cuda.init()  # type: ignore[no-untyped-call]
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    if "dali" in available():
        from nvidia.dali import backend

        backend.ReleaseUnusedMemory()  # type: ignore[attr-defined]
