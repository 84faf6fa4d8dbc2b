"""The fast CPU path: threads and libjpeg-turbo, straight into the batch."""

from __future__ import annotations

from collections.abc import Generator

from loaders._epoch import EpochLoader, Made, to_device
from loaders._runs import Plans
from loaders._threads import ThreadedDecoder
from loaders.base import LoaderConfig, Source
from loaders.schedule import Schedule


class TurboLoader(EpochLoader):
    """Decodes in threads into a ring of batch buffers; see ``loaders.base.Loader``.

    ``workers`` are threads; memory and stages are those of ``ThreadedDecoder``.
    """

    def __init__(self, source: Source, config: LoaderConfig) -> None:
        schedule = Schedule(source, config)
        self._decoder = ThreadedDecoder(schedule)
        super().__init__(schedule, self._decoder.decoding)

    def close(self) -> None:
        """Stop the threads, free the buffers and the open files."""
        super().close()
        self._decoder.close()

    def _batches(self, plans: Plans) -> Generator[Made, None, None]:
        return to_device(self._finish_all(self._decoder.decode(plans)), self.device)
