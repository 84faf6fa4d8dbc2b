"""How a command loads: its flags, the loader that they stand for, and what it gives.

    LoadingOptions --resolve, for a device and ranks--> Loading --train_loader-->
    Loader of shuffled, flipped batches; --evaluation_loader--> each sample once

Importing this module imports no torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from tyro.conf import arg

from fastretina.data.training_config import training_config
from fastretina.lack import describe_lack
from fastretina.recipe import Recipe
from fastretina.run_config import RecordedLoading, RunConfig
from fastretina.terminal import printable
from loaders import (
    LOADERS,
    Loader,
    LoaderConfig,
    LoaderName,
    ShardSplit,
    make_loader,
    missing,
)
from loaders import resolve as resolve_loader
from loaders.base import KeptImages
from loaders.cores import granted_cores
from loaders.errors import LoaderUnavailable, SampleError

if TYPE_CHECKING:
    from fastretina.nn.distributed import Ranks

_OWN = "(default: {}; of a run that is there, its own)"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadingOptions:
    """Flags that say how batches are made.

    What is not set is as it was in the run that is resumed, evaluated or compared; in
    a new one it takes the default.

    Attributes:
        loader: Who decodes: dali (on the GPU, or without one), turbo (libjpeg-turbo in
            threads), pil (Pillow in worker processes): all give the same batches. Or,
            shard after shard in an order of their own, dali-reader and webdataset,
            which streams. auto takes what fastretina doctor found fastest on this
            machine; before it was asked, dali on a GPU and turbo elsewhere.
        fallback: Take pil where the loader is not installed, and say so.
        on_corrupt: What an image that can't be decoded does: end the command, or be
            skipped and counted.
        hw_decoder_load: Share of the images that a GPU's JPEG engine decodes, under
            DALI.
        cache: Keep the decoded images, so that later epochs decode nothing: on the
            device (a GPU's memory), in memory, or in a folder, which serves other runs
            and evaluation, too. The batches are the same bit for bit; what does not fit
            is decoded each time. device and memory serve training alone.
        cache_gb: Most that is kept, in GB: by each rank, or in the folder. The share
            that is taken by itself: 70 % of the memory, half of a GPU's or a disk.
        workers: Threads that decode, or processes (pil); by default as many as the
            doctor found fastest, or else one for each core granted.
        prefetch: Batches made ahead.
        verify_reads: Compare each image's bytes with their checksum in the shards'
            index before they are decoded.
    """

    loader: Annotated[
        LoaderName | None,
        arg(
            metavar=f"{{auto,{','.join(LOADERS)}}}",
            help_behavior_hint=_OWN.format("auto"),
        ),
    ] = None
    fallback: bool = True
    on_corrupt: Annotated[
        Literal["raise", "skip"] | None,
        arg(metavar="{raise,skip}", help_behavior_hint=_OWN.format("raise")),
    ] = None
    hw_decoder_load: Annotated[
        float | None,
        arg(
            metavar="FLOAT",
            help_behavior_hint=_OWN.format("1, where the GPU has one"),
        ),
    ] = None
    cache: Annotated[
        str | None,
        arg(
            metavar="{none,device,memory,DIR}",
            help_behavior_hint=_OWN.format("none"),
        ),
    ] = None
    cache_gb: Annotated[
        float | None,
        arg(metavar="FLOAT", help_behavior_hint=_OWN.format("a share of what is free")),
    ] = None
    workers: int | None = None
    prefetch: int = 2
    verify_reads: bool = True

    def __post_init__(self) -> None:
        for name, low in (("workers", 0), ("prefetch", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"--{name} must be at least {low}, got {value}")
        if self.hw_decoder_load is not None and not 0 <= self.hw_decoder_load <= 1:
            raise ValueError(
                f"--hw-decoder-load must lie in 0 to 1, got {self.hw_decoder_load}"
            )
        if self.cache == "":
            raise ValueError("--cache must be none, device, memory or a folder, got ''")
        if self.cache_gb is not None and not self.cache_gb > 0:
            raise ValueError(f"--cache-gb must be above 0, got {self.cache_gb}")

    @property
    def kept_in(self) -> str | None:
        """Where training keeps decoded images; None for nowhere."""
        return None if self.cache == "none" else self.cache

    @property
    def cache_folder(self) -> str | None:
        """The folder for decoded images, its path absolute; None without one."""
        if self.kept_in in (None, "device", "memory"):
            return None
        return os.path.abspath(self.kept_in)

    def check_balance(self, balance: float) -> None:
        """Raise ``ValueError`` where the loader can't draw with replacement."""
        name = self.loader or "auto"
        if balance and name != "auto" and LOADERS[name].own_order:
            raise ValueError(
                f"--balance must be 0 with --loader {name}, which reads every shard "
                f"once, got {balance}"
            )

    def filled_from_run(self, config: RunConfig) -> LoadingOptions:
        """The flags, in which what is not set is as the run had it."""
        kept = config.loading or RecordedLoading(loader=config.loader)
        unset = {
            each.name: getattr(kept, each.name)
            for each in fields(kept)
            if getattr(self, each.name) is None
        }
        return replace(self, **unset)

    def resolve(self, device: str, ranks: Ranks) -> Loading:
        """Choose the loader; the first rank says on stderr what one would not expect.

        Args:
            device: where the batches go.
            ranks: the processes that share out each batch.

        Raises:
            LoaderUnavailable: it is not installed, and no other is to take its place.
        """
        name = choose_loader(
            self.loader or "auto",
            device,
            fallback=self.fallback,
            verbose=ranks.first,
        )
        return Loading(name, self, device, ranks)


DEFAULT_LOADING = LoadingOptions()


class KeptOpen(NamedTuple):
    """Evaluation loaders that are open, by their split, and what closes them."""

    stack: ExitStack
    loaders: dict[ShardSplit, Loader]


@dataclass(frozen=True, slots=True)
class Loading:
    """How batches are made on this machine; it decides the speed, and what is skipped.

    Attributes:
        loader: one of ``loaders.LOADERS``.
        options: the flags.
        device: where the batches go.
        ranks: the processes that share out each batch.
        kept_open: loaders that evaluations share; None where each has its own.
    """

    loader: str
    options: LoadingOptions
    device: str
    ranks: Ranks
    kept_open: KeptOpen | None = field(default=None, repr=False, compare=False)
    _named: set[tuple[str, str]] = field(
        default_factory=set, init=False, repr=False, compare=False
    )

    _reported: set[str] = field(
        default_factory=set, init=False, repr=False, compare=False
    )

    @property
    def on_corrupt(self) -> Literal["raise", "skip"]:
        """What an image that can't be decoded does."""
        return self.options.on_corrupt or "raise"

    @property
    def order(self) -> str:
        """What an epoch's sequence depends on beside seed and recipe.

        A run that has stopped within an epoch can go on there only in the same order.
        """
        if not LOADERS[self.loader].own_order:
            return "planned"
        return f"{self.loader}'s with {self.ranks.world_size} ranks"

    def recorded(self) -> RecordedLoading:
        """What a run keeps of it, for who goes on or evaluates it."""
        return RecordedLoading(
            loader=self.loader,
            on_corrupt=self.on_corrupt,
            hw_decoder_load=self.hw_decoder_load(),
            verify_reads=self.options.verify_reads,
            cache=self.options.cache_folder or self.options.cache,
            cache_gb=self.options.cache_gb,
        )

    def train_loader(self, train: ShardSplit, recipe: Recipe) -> Loader:
        """Batches to train on: shuffled, flipped, the short last one kept."""
        delivered = training_config(recipe, self.ranks)
        return self.open(train, replace(delivered, cache=self.options.kept_in))

    @contextmanager
    def evaluation_loader(self, split: ShardSplit, recipe: Recipe) -> Iterator[Loader]:
        """Every sample once, as it is; each rank's batches are of full size.

        What it skips is reported at the end, and before an error: all may be bad.
        Within ``keeping_open`` its threads, buffers and pipelines serve the next
        evaluation of the split, too.
        """
        kept_open = self.kept_open
        if kept_open is None:
            with (
                self.keeping_open() as loading,
                loading.evaluation_loader(split, recipe) as own,
            ):
                yield own
            return
        delivered = LoaderConfig(
            batch_size=recipe.batch_size * self.ranks.world_size,
            image_size=recipe.image_size,
        )
        if split not in kept_open.loaders:
            opened = kept_open.stack.enter_context(self.open(split, delivered))
            kept_open.loaders[split] = opened
        loader = kept_open.loaders[split]
        try:
            yield loader
        finally:
            self.report_skipped(loader)

    @contextmanager
    def keeping_open(self) -> Iterator[Loading]:
        """The same, with evaluation loaders that stay open until the ``with`` ends."""
        with ExitStack() as stack:
            yield replace(self, kept_open=KeptOpen(stack, {}))

    def open(self, split: ShardSplit, delivered: LoaderConfig) -> Loader:
        """The loader of a split, with ``delivered`` brought to the device and ranks.

        What is in a folder for decoded images is used, and added to, by all.
        """
        load = self.hw_decoder_load()
        config = replace(
            delivered,
            device=self.device,
            workers=self.workers(),
            prefetch=self.options.prefetch,
            on_corrupt=self.on_corrupt,
            hw_decoder_load=delivered.hw_decoder_load if load is None else load,
            verify_reads=self.options.verify_reads,
            cache=self.options.cache_folder or delivered.cache,
            cache_gb=self.options.cache_gb,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )
        loader = make_loader(self.loader, split, split.name, config)
        if config.cache is not None:
            self._report_kept(loader, split.name)
        return loader

    def _report_kept(self, loader: Loader, split: str) -> None:
        """Say on stderr what of a split is kept decoded, once in a command."""
        if loader.kept is None or not self.ranks.first or split in self._reported:
            return
        self._reported.add(split)
        print(f"note: {split}: {describe_kept(loader.kept)}", file=sys.stderr)

    def report_skipped(self, loader: Loader) -> int:
        """Name on stderr what a loader has skipped, each image once in a command.

        Returns:
            The images skipped since the last call, those that are named already too.
        """
        errors: list[SampleError] = list(loader.skipped)
        loader.skipped.clear()
        for error in errors:
            if (error.shard, error.key) not in self._named:
                self._named.add((error.shard, error.key))
                print(f"skipped: {printable(str(error))}", file=sys.stderr)
        return len(errors)

    def hw_decoder_load(self) -> float | None:
        """As the flag, or as the doctor found it; None leaves it to the loader."""
        from fastretina.data.auto_loader import recall

        load = self.options.hw_decoder_load
        if load is not None or LOADERS[self.loader].extra != "dali":
            return load
        known = recall(self.device)
        return None if known is None else known.hw_decoder_load

    def workers(self) -> int:
        """Threads or processes for this rank's loader, as in ``--workers``."""
        from fastretina.data.auto_loader import recall

        if self.options.workers is not None:
            return self.options.workers
        known = recall(self.device)
        asked = known is not None and known.loader == self.loader
        cores = known.workers if known and asked else granted_cores()
        return self.ranks.share_of(cores)


def describe_kept(kept: KeptImages) -> str:
    """What is kept of the decoded images, where, and what becomes of the rest."""
    names = {"device": "on the device", "memory": "in memory"}
    where = names.get(kept.place, f"in {kept.place}")
    size = kept.images * kept.image_bytes / 1e9
    if kept.images >= kept.wanted:
        return f"{kept.images:,} decoded images ({size:,.1f} GB) are kept {where}"
    whole = kept.wanted * kept.image_bytes / 1e9
    return (
        f"{kept.images:,} of {kept.wanted:,} decoded images ({size:,.1f} of "
        f"{whole:,.1f} GB) have room {where}; the rest is decoded in every epoch"
    )


def choose_loader(
    name: LoaderName, device: str, *, fallback: bool, verbose: bool = True
) -> str:
    """The loader to use: the named one, or ``pil`` where that is not installed.

    ``auto`` is what the doctor found fastest on this machine; before it was asked,
    ``dali`` on a GPU and ``turbo`` elsewhere.

    Args:
        name: a loader, or ``auto``.
        device: where the batches go.
        fallback: whether another may take its place.
        verbose: whether to say so on stderr.

    Raises:
        LoaderUnavailable: it is not installed, and no other is to take its place; or
            it is, and there is not enough memory for it.
    """
    from fastretina.data.auto_loader import recall

    known = recall(device) if name == "auto" else None
    if known is not None and missing(known.loader) is None:
        if verbose:
            print(f"note: {known.reason}", file=sys.stderr)
        return known.loader
    chosen = resolve_loader(name, device)
    on_gpu = device.partition(":")[0] == "cuda"
    note = missing("dali" if name == "auto" and on_gpu else chosen)
    if note is not None and name != "auto":
        if not fallback or describe_lack(LoaderUnavailable(note)):
            raise LoaderUnavailable(note)
        note, chosen = f"{note}; pil takes its place", "pil"
    elif chosen.startswith("dali") and not on_gpu:
        note = f"DALI decodes on the CPU, as the device is {device}"
    if note is not None and verbose:
        print(f"note: {note}", file=sys.stderr)
    return chosen
