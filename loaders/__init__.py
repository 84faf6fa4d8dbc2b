"""Loaders of labelled fundus photographs that deliver the same batches.

    from loaders import LoaderConfig, make_loader

    config = LoaderConfig(batch_size=32, shuffle=True, device="auto")
    with make_loader("turbo", "shards", "train", config) as loader:
        for epoch in range(15):
            for batch in loader:    # the next epoch; loader.epoch(3) is a given one
                batch.images        # uint8[B, H, W, C], on loader.device

Importing this package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from loaders.base import Batch, Decoding, Loader, LoaderConfig, Source
from loaders.device import find_device
from loaders.errors import DataError, LoaderError, LoaderUnavailable
from loaders.shards import ShardSplit, open_split

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "LOADERS",
    "Batch",
    "DataError",
    "Decoding",
    "Loader",
    "LoaderConfig",
    "LoaderEntry",
    "LoaderName",
    "ShardSplit",
    "available",
    "make_loader",
    "missing",
    "open_split",
    "resolve",
]


LoaderName = Literal["auto", "pil", "turbo", "dali", "dali-reader", "webdataset"]


class LoaderEntry(NamedTuple):
    """Where a loader's class lies, which extra it needs, and whose order it follows.

    Attributes:
        module: to import; it may need a package that is not installed.
        cls: the class in it.
        extra: the pip extra that brings that package.
        own_order: whether its sequence is its own. All others follow
            ``loaders.schedule.Schedule``, so one may go on where another has stopped.
        forks: whether its workers are processes, which are forked where that is usual:
            beside the threads of others, such as DALI's, they might hang.
        caches: whether it can be asked for just those images that a cache lacks.
    """

    module: str
    cls: str
    extra: str | None = None
    own_order: bool = False
    forks: bool = False
    caches: bool = True


LOADERS: Mapping[str, LoaderEntry] = {
    "pil": LoaderEntry("loaders._pil", "PilLoader", forks=True),
    "turbo": LoaderEntry("loaders._turbo", "TurboLoader"),
    "dali": LoaderEntry("loaders._dali", "DaliLoader", "dali"),
    "dali-reader": LoaderEntry(
        "loaders._dali_reader", "DaliReaderLoader", "dali", own_order=True, caches=False
    ),
    "webdataset": LoaderEntry(
        "loaders._webdataset", "WebDatasetLoader", own_order=True
    ),
}


def make_loader(
    name: str, shards: str | Path | Source, split: str, config: LoaderConfig
) -> Loader:
    """Open a split of a shard folder through a loader.

    Args:
        name: one of ``LOADERS``, or ``auto`` for the fastest one here.
        shards: the folder, or an open source such as part of a split.
        split: ``train`` or ``test``; not looked at for an open source.
        config: what to deliver.

    Raises:
        ValueError: no loader has that name.
        LoaderUnavailable: its package is not installed; the message says how to.
        LoaderError: the device is not here, or the decoded images can't be kept.
        ShardError: the folder cannot be used.
    """
    name = resolve(name, config.device)
    loader = _load(name)
    if config.cache is not None and not LOADERS[name].caches:
        raise LoaderError(
            f"the {name} loader can't keep decoded images, as it can't be asked for "
            "those that are missing: pass --loader dali, or --cache none"
        )
    if isinstance(shards, (str, Path)):
        shards = open_split(shards, split)
    if config.cache is None:
        return loader(shards, config)
    from loaders._cached import CachedLoader  # it imports torch

    return CachedLoader(loader, shards, config)


def resolve(name: str, device: str = "cpu") -> str:
    """The loader that ``auto`` stands for; other names unchanged.

    That is ``dali`` on a GPU, where it is installed, and ``turbo`` elsewhere. The
    device ``auto`` is a GPU if torch sees one.
    """
    if name != "auto":
        return name
    if device == "auto":
        device = find_device(device).type
    on_gpu = device.partition(":")[0] == "cuda"
    return "dali" if on_gpu and missing("dali") is None else "turbo"


def available() -> list[str]:
    """Names of the loaders whose packages are installed."""
    return [name for name in LOADERS if missing(name) is None]


def missing(name: str) -> str | None:
    """Why a loader can't be had here and what mends that; None where it can.

    Raises:
        ValueError: no loader has that name.
    """
    try:
        _load(name)
    except LoaderUnavailable as error:
        return str(error)
    return None


def _load(name: str) -> Callable[[Source, LoaderConfig], Loader]:
    """Import a loader's class.

    Raises:
        LoaderUnavailable: its package is not installed.
    """
    if name not in LOADERS:
        known = ", ".join(["auto", *LOADERS])
        raise ValueError(f"loader must be one of {known}, got {name!r}")
    entry = LOADERS[name]
    try:
        loader: Callable[[Source, LoaderConfig], Loader]
        loader = getattr(import_module(entry.module), entry.cls)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("loaders", "fastretina"):
            raise  # our own mistake, no missing package
        hint = f": pip install 'fastretina[{entry.extra}]'" if entry.extra else ""
        raise LoaderUnavailable(
            f"loader {name!r} needs {error.name}, which is not installed{hint}"
        ) from error
    except ImportError as error:  # a wheel for another machine, or half installed
        reason = str(error).partition("\n")[0]
        raise LoaderUnavailable(f"loader {name!r} can't be loaded: {reason}") from error
    return loader
