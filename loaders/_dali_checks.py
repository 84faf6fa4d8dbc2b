"""Which rows may DALI be given to decode? Looked at in a thread, ahead of it."""

from __future__ import annotations

import numpy as np

from loaders._prefetcher import Prefetcher
from loaders.arrays import Int64
from loaders.errors import SampleError
from loaders.jpeg_structure import is_plain
from loaders.schedule import Schedule

_AT_ONCE = 64  # images


class DaliChecks:
    """Looks in a thread at the rows that DALI is about to decode: which may it have?

    Those whose bytes are what was written, and a plain JPEG: of others, the process may
    die. DALI reads for itself, so the bytes are read twice, the second time out of the
    page cache: 0.01 ms an image.
    """

    def __init__(self, schedule: Schedule, rows: Int64) -> None:
        """Take int64[n] rows, in the order in which DALI reads them.

        Args:
            schedule: the loader's.
            rows: to look at.
        """
        self._source, self._verify = schedule.source, schedule.config.verify_reads
        self._shape = schedule.decoded_shape
        pieces = np.split(rows, range(_AT_ONCE, len(rows), _AT_ONCE))
        self._num_rows, self._num_checked = len(rows), 0
        self._results = Prefetcher(map(self._check, pieces), depth=4)
        self._results.__enter__()

    def close(self) -> None:
        """End the thread."""
        self._results.__exit__(None, None, None)

    def first_apart(self, num_rows: int) -> dict[int, SampleError | None]:
        """Look at so many rows from the first on.

        Returns:
            Those that DALI is not to be given among the new, with what is wrong; None
            for those that the host may decode. It stops at the first piece with any.
        """
        while self._num_checked < min(num_rows, self._num_rows):
            self._num_checked += _AT_ONCE
            if found := next(self._results):
                return found
        return {}

    def _check(self, rows: Int64) -> dict[int, SampleError | None]:
        found: dict[int, SampleError | None] = {}
        read = self._source.reading(rows, verify=self._verify).read
        for place, row in enumerate(rows.tolist()):
            try:
                if not is_plain(read(place), self._shape):
                    found[row] = None
            except SampleError as error:
                found[row] = error.with_traceback(None)
        return found
