"""Which loader feeds the network, and the loaders for training and for evaluation."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastretina.data.auto_loader import recall
from fastretina.nn.distributed import ALONE, Ranks, shares
from fastretina.recipe import Recipe
from loaders import (
    LOADERS,
    Decoding,
    Loader,
    LoaderConfig,
    LoaderName,
    ShardSplit,
    make_loader,
    missing,
)
from loaders import resolve as resolve_loader
from loaders.cores import granted_cores
from loaders.errors import LoaderUnavailable


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadingOptions:
    """How batches are made; it decides the speed, and nothing else but what is skipped.

    Attributes:
        loader: one of ``loaders.LOADERS``.
        device: where the batches go.
        workers: threads or processes that decode; ``None`` for as many as the doctor
            found fastest, or else one per core.
        prefetch: batches made ahead.
        on_corrupt: what an image that can't be decoded does.
        hw_decoder_load: share of a GPU's JPEG engine, under DALI.
        ranks: among whom each batch is shared out.
    """

    loader: str
    device: str
    workers: int | None = None
    prefetch: int = 2
    on_corrupt: Literal["raise", "skip"] = "raise"
    hw_decoder_load: float = 0.65
    ranks: Ranks = ALONE

    def config(self, **what: Any) -> LoaderConfig:
        """The options of a loader that is fed this way."""
        workers = self.workers
        if workers is None:
            known = recall(self.device)
            asked = known is not None and known.loader == self.loader
            cores = known.workers if known and asked else granted_cores()
            workers = shares(cores, self.ranks)
        return LoaderConfig(
            **what,
            device=self.device,
            workers=workers,
            prefetch=self.prefetch,
            on_corrupt=self.on_corrupt,
            hw_decoder_load=self.hw_decoder_load,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )


def choose_loader(
    name: LoaderName, device: str, *, fallback: bool, speaks: bool = True
) -> str:
    """The loader to use: the named one, or ``pil`` where that is not installed.

    ``auto`` is what the doctor found fastest on this machine; before it was asked,
    ``dali`` on a GPU and ``turbo`` elsewhere.

    Args:
        name: as in ``--loader``.
        device: where the batches go.
        fallback: whether another may take its place.
        speaks: whether to say so on stderr.

    Raises:
        LoaderUnavailable: it is not installed, and no other is to take its place.
    """
    known = recall(device) if name == "auto" else None
    if known is not None and missing(known.loader) is None:
        if speaks:
            print(f"note: {known.reason}", file=sys.stderr)
        return known.loader
    found = resolve_loader(name, device)
    on_gpu = device.partition(":")[0] == "cuda"
    note = missing("dali" if name == "auto" and on_gpu else found)
    if note is not None and name != "auto":
        if not fallback:
            raise LoaderUnavailable(note)
        note, found = f"{note}; pil takes its place", "pil"
    elif found.startswith("dali") and not on_gpu:
        note = f"DALI decodes on the CPU, as the device is {device}"
    if note is not None and speaks:
        print(f"note: {note}", file=sys.stderr)
    return found


def order_of(loader: str, ranks: Ranks) -> str:
    """What an epoch's sequence depends on beside seed and recipe.

    A run that has stopped within an epoch can go on there only in the same order.
    """
    if not LOADERS[loader].own_order:
        return "planned"
    return f"{loader}'s with {ranks.world_size} ranks"


def other_pixels(config: Mapping[str, Any], now: Decoding) -> str | None:
    """A sentence where a run was trained on other pixels than ``now`` makes.

    Args:
        config: of the run; one of an older version says nothing.
        now: who makes the pixels now.
    """
    if "decoding" not in config:
        return None
    then = Decoding(**config["decoding"])
    differ = []
    if then.jpeg != now.jpeg:
        differ.append(f"decoded by {then.jpeg}, now by {now.jpeg}")
    if then.resize != now.resize:
        differ.append(f"resized by {then.resize or 'nobody'}, now by {now.resize}")
    if not differ:
        return None
    return (
        f"the run was trained on images {' and '.join(differ)}, whose pixels may "
        f"differ: python -m fastretina.parity --run tells by how much"
    )


def train_loader(train: ShardSplit, recipe: Recipe, feeding: LoadingOptions) -> Loader:
    """Batches to train on: shuffled, flipped, the short last one kept."""
    config = feeding.config(
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        shuffle=True,
        balance=recipe.balance,
        balance_decay=recipe.balance_decay,
        hflip=recipe.hflip,
        vflip=recipe.vflip,
        image_size=recipe.image_size,
    )
    return make_loader(feeding.loader, train, train.name, config)


def evaluation_loader(
    split: ShardSplit, recipe: Recipe, feeding: LoadingOptions
) -> Loader:
    """Every sample of a split once, as it is; each rank's batches are of full size."""
    config = feeding.config(
        batch_size=recipe.batch_size * feeding.ranks.world_size,
        image_size=recipe.image_size,
    )
    return make_loader(feeding.loader, split, split.name, config)
