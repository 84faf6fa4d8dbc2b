"""Bring batches to the device, one ahead of the one in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import closing

import torch

from loaders.base import Batch


def to_device(
    batches: Generator[Batch, None, None], device: torch.device
) -> Generator[Batch, None, None]:
    """Move host batches to ``device``; on a CPU they pass through.

    On a GPU the copies run on a stream of their own, from pinned memory, while the
    batch before is trained on. A host batch is let go only when its copy has ended.
    """
    if device.type == "cuda":
        yield from _copy_ahead(batches, device)
    elif device.type == "cpu":
        yield from batches
    else:  # MPS has neither pinned memory nor streams of this kind
        for batch in batches:
            yield Batch(*(tensor.to(device) for tensor in batch))


def _copy_ahead(
    batches: Generator[Batch, None, None], device: torch.device
) -> Generator[Batch, None, None]:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    pending: deque[tuple[Batch, torch.cuda.Event]] = deque()
    with closing(batches):
        for host in batches:
            with torch.cuda.stream(stream):
                moved = Batch(*(part.to(device, non_blocking=True) for part in host))
                pending.append((moved, stream.record_event()))
            if len(pending) > 1:
                yield from _hand_over(pending, device)
        while pending:
            yield from _hand_over(pending, device)


def _hand_over(
    pending: deque[tuple[Batch, torch.cuda.Event]], device: torch.device
) -> Generator[Batch, None, None]:
    batch, copied = pending.popleft()
    consumer = torch.cuda.current_stream(device)
    consumer.wait_event(copied)
    for tensor in batch:  # the allocator must not reuse it while the consumer reads
        tensor.record_stream(consumer)
    yield batch
    copied.synchronize()  # the host slot is overwritten two batches on
