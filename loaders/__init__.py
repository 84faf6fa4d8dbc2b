"""Loaders of labelled fundus photographs that deliver the same batches.

    from loaders import LoaderConfig, make_loader

    config = LoaderConfig(batch_size=32, shuffle=True, hflip=0.4, vflip=0.5)
    with make_loader("turbo", "shards", "train", config) as loader:
        for batch in loader.epoch(0):
            batch.images        # uint8[B, H, W, C]

Importing this package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from loaders.base import Batch, Loader, LoaderConfig, Source
from loaders.errors import DataError, LoaderUnavailable
from loaders.shards import ShardSplit, open_split

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "LOADERS",
    "Batch",
    "DataError",
    "Loader",
    "LoaderConfig",
    "ShardSplit",
    "available",
    "make_loader",
    "open_split",
    "resolve",
]

# Name to (module, class, pip extra that brings what it needs).
LOADERS: Mapping[str, tuple[str, str, str | None]] = {
    "pil": ("loaders._pil", "PilLoader", None),
    "turbo": ("loaders._turbo", "TurboLoader", None),
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
        ShardError: the folder cannot be used.
    """
    module, cls, extra = _entry(resolve(name))
    try:
        loader = getattr(import_module(module), cls)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("loaders", "fastretina"):
            raise  # our own mistake, no missing package
        hint = f": pip install 'fastretina[{extra}]'" if extra else ""
        raise LoaderUnavailable(
            f"loader {name!r} needs {error.name}, which is not installed{hint}"
        ) from error
    if isinstance(shards, (str, Path)):
        shards = open_split(shards, split)
    made: Loader = loader(shards, config)
    return made


def resolve(name: str) -> str:
    """The loader that ``auto`` stands for here; other names unchanged."""
    return "turbo" if name == "auto" else name


def available() -> list[str]:
    """Names of the loaders whose packages are installed."""
    found = []
    for name, (module, _, _) in LOADERS.items():
        try:
            import_module(module)
        except ImportError:
            continue
        found.append(name)
    return found


def _entry(name: str) -> tuple[str, str, str | None]:
    try:
        return LOADERS[name]
    except KeyError:
        known = ", ".join(["auto", *LOADERS])
        raise ValueError(f"loader must be one of {known}, got {name!r}") from None
