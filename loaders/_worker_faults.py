"""A DataLoader's workers that fail: an error of one line, and never a lost batch.

A worker hands its batches over by a thread, in shared memory and by file descriptors.
Where one of these lacks, that thread prints a traceback, drops the batch and goes on,
as does the one that hands out the descriptors; and who waits for it waits for ever.
"""

from __future__ import annotations

import multiprocessing.queues
import os
import sys
from collections.abc import Iterator
from typing import Any, TypeVar

from loaders.errors import LoaderError

T = TypeVar("T")

_REMEDY = (
    "allow more shared memory (/dev/shm) and open files (ulimit -n), take fewer "
    "workers, or a loader of threads such as turbo"
)


def hand_over_errors() -> None:
    """In a worker: send the error in place of a batch that can't be handed over.

    Where not even its descriptor can be handed out, end, which the owner notices.
    """

    def send_error(
        queue: multiprocessing.queues.Queue[Any], error: Exception, batch: Any
    ) -> None:
        number = batch[0]
        queue.put((number, _lost(error)))

    # The hook that the standard library has for its own executor; and what it calls
    # where multiprocessing.resource_sharer fails.
    multiprocessing.queues.Queue._on_queue_feeder_error = send_error  # type: ignore[attr-defined]
    sys.excepthook = lambda *_: os._exit(1)


def worker_faults_told(batches: Iterator[T]) -> Iterator[T]:
    """The same batches.

    Raises:
        LoaderError: a worker can't be started, has died, or can't be heard any longer.
    """
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            lost = _lost(error)  # without the traceback, which would keep the workers
        else:
            yield batch
            continue
        raise lost


def _lost(error: Exception) -> LoaderError:
    text = " ".join(str(error).split()).partition(". ")[0] or type(error).__name__
    return LoaderError(f"a worker can't deliver its images ({text}): {_REMEDY}")
