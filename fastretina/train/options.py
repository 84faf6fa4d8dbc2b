"""The flags of ``fastretina.train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, arg

from fastretina.data.loading import DEFAULT_LOADING, LoadingOptions
from fastretina.recipe import STRONG, Recipe

# What the recipe's augmentation must be, so that nothing but flips is left of it.
_FLIPS_ALONE = {
    "rotate": 0.0,
    "scale": 1.0,
    "translate": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """Flags of ``fastretina.train``: the recipe's, and how and where it is run.

    Attributes:
        recipe: What the result depends on.
        shards: The data set, written by fastretina shard; or its http(s) URL, for
            webdataset.
        test_shards: Test on the test split of this data set instead.
        loading: How batches are made.
        device: auto, cpu, cuda, cuda:N or mps.
        threads: Threads that compute on a CPU; another number gives other last bits.
        compile: Compile the network with torch.compile, anew for each phase: faster
            steps after up to a minute's wait. auto does so on one GPU where the run is
            long enough to save more than that, and never on a CPU; --compile alone is
            on, --no-compile off.
        cache_features: Keep what the frozen backbone makes of each image in phase 1, so
            that all but its first epoch neither decode nor compute a backbone: the
            same weights, to rounding. For flips alone as augmentation, and
            --head-batchnorm eval.
        out: The run's folder; by default runs/ARCH-RECIPE-NUMBER.
        resume: Continue this run where it stopped; its recipe and shards stay as they
            were.
        checkpoint_every: Seconds between checkpoints within an epoch; one is written
            after each, too.
    """

    recipe: OmitArgPrefixes[Recipe] = STRONG
    shards: Annotated[str, arg(metavar="PATH|URL")] = "shards"
    test_shards: Annotated[str | None, arg(metavar="PATH|URL")] = None
    loading: OmitArgPrefixes[LoadingOptions] = DEFAULT_LOADING
    device: str = "auto"
    threads: int | None = None
    compile: Literal["auto", "on", "off"] = "auto"
    cache_features: bool = False
    out: Path | None = None
    resume: Annotated[Path | None, arg(metavar="RUN")] = None
    checkpoint_every: float = 120.0

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise ValueError(f"--threads must lie in 1 to 1,024, got {self.threads:,}")
        if self.resume is None:
            self.recipe.check_warmup()
        self.loading.check_balance(self.recipe.balance)
        if self.cache_features:
            _check_features(self.recipe)
        if not self.checkpoint_every >= 0:
            raise ValueError(
                f"--checkpoint-every must be at least 0, got {self.checkpoint_every}"
            )
        if self.resume is not None and self.out not in (None, self.resume):
            raise ValueError(
                "--out must be left out with --resume: it goes on in place"
            )


def _check_features(recipe: Recipe) -> None:
    """Raise ``ValueError`` where an image's features change from epoch to epoch."""
    if not recipe.head_epochs:
        raise ValueError(
            "--head-epochs must be at least 1 with --cache-features, got 0: "
            "without phase 1 there is nothing to keep"
        )
    if recipe.head_batchnorm != "eval":
        raise ValueError(
            "--head-batchnorm must be eval with --cache-features, got "
            f"{recipe.head_batchnorm}"
        )
    if recipe.balance:
        raise ValueError(
            "--balance must be 0 with --cache-features, as each epoch draws other "
            f"samples, got {recipe.balance}"
        )
    beyond = {n: v for n, v in _FLIPS_ALONE.items() if getattr(recipe, n) != v}
    if beyond:
        remedy = " ".join(f"--{name} {value:g}" for name, value in beyond.items())
        raise ValueError(
            f"--cache-features must have flips alone as augmentation: pass {remedy}"
        )
