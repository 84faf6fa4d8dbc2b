"""The flags of ``fastretina.train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, arg

from fastretina.recipe import STRONG, Recipe
from loaders import LOADERS, LoaderName


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """Flags of ``fastretina.train``: the recipe's, and how and where it is run.

    Attributes:
        recipe: What the result depends on.
        shards: The data set, written by scripts/shard.py; or its http(s) URL, for
            webdataset.
        test_shards: Test on the test split of this data set instead.
        loader: Who decodes: dali (on the GPU, or without one), turbo (libjpeg-turbo in
            threads), pil (Pillow in worker processes): all give the same batches. Or,
            shard after shard in an order of their own, dali-reader and webdataset,
            which streams. auto takes what fastretina.doctor found fastest on this
            machine; before it was asked, dali on a GPU and turbo elsewhere.
        fallback: Take pil where the loader is not installed, and say so.
        on_corrupt: What an image that can't be decoded does: end the run, or be skipped
            and counted.
        hw_decoder_load: Share of the images that a GPU's JPEG engine decodes, under
            DALI.
        workers: Threads that decode, or processes (pil); by default as many as the
            doctor found fastest, or else one for each core granted.
        prefetch: Batches made ahead.
        device: auto, cpu, cuda, cuda:N or mps.
        threads: Threads that compute on a CPU; another number gives other last bits.
        compile: Compile the network with torch.compile: faster steps after a minute's
            wait.
        out: The run's folder; by default runs/ARCH-RECIPE-NUMBER.
        resume: Continue this run where it stopped; its recipe and shards stay as they
            were.
        checkpoint_every: Seconds between checkpoints within an epoch; one is written
            after each, too.
    """

    recipe: OmitArgPrefixes[Recipe] = STRONG
    shards: Annotated[str, arg(metavar="PATH|URL")] = "shards"
    test_shards: Annotated[str | None, arg(metavar="PATH|URL")] = None
    loader: LoaderName = "auto"
    fallback: bool = True
    on_corrupt: Literal["raise", "skip"] = "raise"
    hw_decoder_load: float = 0.65
    workers: int | None = None
    prefetch: int = 2
    device: str = "auto"
    threads: int | None = None
    compile: bool = False
    out: Path | None = None
    resume: Annotated[Path | None, arg(metavar="RUN")] = None
    checkpoint_every: float = 120.0

    def __post_init__(self) -> None:
        for name, low in (("workers", 0), ("prefetch", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"--{name} must be at least {low}, got {value}")
        check_loading(self.loader, self.recipe.balance, self.hw_decoder_load)
        if not self.checkpoint_every >= 0:
            raise ValueError(
                f"--checkpoint-every must be at least 0, got {self.checkpoint_every}"
            )
        if self.resume is not None and self.out not in (None, self.resume):
            raise ValueError(
                "--out must be left out with --resume: it goes on in place"
            )


def check_loading(loader: str, balance: float, hw_decoder_load: float) -> None:
    """Raise ``ValueError`` where flags about loading can't be meant."""
    if balance and loader != "auto" and LOADERS[loader].own_order:
        raise ValueError(
            f"--balance must be 0 with --loader {loader}, which reads every shard "
            f"once, got {balance}"
        )
    if not 0 <= hw_decoder_load <= 1:
        raise ValueError(f"--hw-decoder-load must lie in 0 to 1, got {hw_decoder_load}")
