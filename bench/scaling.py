"""Our loaders by number of threads and by batch size, each beside a ceiling of its own.

The ceiling of so many threads is libjpeg-turbo alone on as many, so that its share says
what the loader loses and not what the cores do.
"""

from __future__ import annotations

from functools import partial

from bench.data import BenchData
from bench.entrant import Entrant
from bench.epoch_runner import BATCH
from bench.ours import LoaderSetting, our_loader
from loaders import LOADERS

THREADS = (1, 2, 4, 8, 16)
_BATCHES = (8, 16, 64, 128)


def sweep(data: BenchData, cores: int, full: bool) -> list[Entrant]:
    """Each loader with each number of threads that there are cores for.

    Args:
        data: the images.
        cores: how many cores are granted.
        full: whether to go on to twice as many threads as there are cores, and to
            other batch sizes on all cores.
    """
    settings = {(threads, BATCH) for threads in threads_up_to(cores)}
    if full:
        settings |= {(2 * cores, BATCH), *((cores, batch) for batch in _BATCHES)}
    return [
        _scaled(LoaderSetting(name, *setting), data)
        for name in LOADERS
        for setting in sorted(settings)
    ]


def threads_up_to(cores: int) -> list[int]:
    """The numbers of threads that are timed: powers of two, and all cores."""
    return sorted({*(threads for threads in THREADS if threads < cores), cores})


def _scaled(setting: LoaderSetting, data: BenchData) -> Entrant:
    assert setting.workers is not None
    return Entrant(
        f"{setting.name} workers={setting.workers} batch={setting.batch}",
        partial(our_loader, setting, data, "batch"),
        process=setting.name,
        setup={
            "loader": setting.name,
            "workers": setting.workers,
            "threads": setting.workers,  # of the ceiling
            "batch_size": setting.batch,
        },
    )
