"""Worker processes that end with their parent, however it ends, and worker threads."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import connection, get_context
from typing import TypeVar

from fastretina.interrupts import interrupts_held
from loaders.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Generator[tuple[int, Result], None, None]:
    """Call ``function`` with each item, in worker processes.

    Signals are left to this process. The workers end at once when it is killed, when a
    call raises, or when the generator is closed.

    Yields:
        An item's place and what came of it, as each is done.

    Raises:
        DataError: a worker was killed, as a machine does that is out of memory.
    """
    if workers == 1 or len(items) < 2:
        yield from enumerate(map(function, items))
        return
    context = get_context("spawn")  # fork would copy a locked tqdm thread
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        min(workers, len(items)), context, initializer=end_with, initargs=(theirs,)
    )
    try:
        with interrupts_held():
            futures = {pool.submit(function, item): n for n, item in enumerate(items)}
            # The pool watches a worker from the next call on: without one, the death of
            # the last to be started showed when another had done its work.
            pool.submit(int)
        for future in as_completed(futures):
            yield futures.pop(future), future.result()
    except BrokenProcessPool:
        ours.close()  # the pool ends the others by SIGTERM, which they don't heed
        raise DataError(
            "a worker process was killed, perhaps for want of memory: try again with "
            "fewer --workers"
        ) from None
    except BaseException:
        ours.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        ours.close()
        theirs.close()


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], threads: int
) -> Generator[Result, None, None]:
    """Call ``function`` with each item, in threads that go a little ahead.

    Yields:
        What came of each, in the order of the items; or raises what it has raised.
    """
    if threads == 1:
        yield from map(function, items)
        return
    left = iter(items)
    pool = ThreadPoolExecutor(threads)
    try:
        ahead = deque(pool.submit(function, item) for item in islice(left, 4 * threads))
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(pool.submit(function, item) for item in islice(left, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def end_with(pipe: connection.Connection) -> None:
    """End this process at once when ``pipe``'s other end closes, by a death too."""

    def watch() -> None:
        pipe.poll(None)
        os._exit(1)

    if pipe.poll(0):  # before a thread could see it
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()
