"""Prove that a loader delivers what plain PIL does: the whole set, sample by sample.

fastretina parity --data data/ --shards shards/ --loader dali
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, arg

from fastretina import cli
from fastretina.data.loading import Loading, LoadingOptions
from fastretina.wall_clock import part, with_wall_seconds
from loaders.shards import SplitName

if TYPE_CHECKING:
    from fastretina.parity.certificate import Certificate
    from fastretina.parity.equivalence import NetworkComparison
    from fastretina.run_config import RunConfig
    from loaders import LoaderConfig

PROG = "fastretina parity"
ABOUT = f"""Compare a loader with plain PIL over the whole set: every sample once, its
label, its pixels, and with --run what a network says of them. The exit code is 0 where
they are equal within stated bounds, which are zero on a CPU at the photographs' own
size, and 1 where they are not, with what is wrong named and the samples that have it.

Example: {PROG} --data data/ --shards shards/ --loader dali
"""


# A proof of one loader must not be another's.
_LOADING = LoadingOptions(fallback=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Flags of ``fastretina parity``.

    Attributes:
        data: Folder with the photographs and their labels.
        shards: The data set made of it.
        loading: How the batches that are put to the test are made.
        split: Compare only this one.
        image_size: Resize to this many pixels square.
        run: A run's folder: its network grades the test split twice.
        labels: The file with the grades, where more than one could be meant.
        device: auto, cpu, cuda, cuda:N or mps.
    """

    data: Path
    shards: Annotated[str, arg(metavar="PATH|URL")] = "shards"
    loading: OmitArgPrefixes[LoadingOptions] = _LOADING
    split: Annotated[
        SplitName | None,
        arg(metavar="{train,test}", help_behavior_hint="(default: both)"),
    ] = None
    image_size: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: as they are)")
    ] = None
    run: Annotated[
        Path | None, arg(metavar="RUN", help_behavior_hint="(default: none)")
    ] = None
    labels: Annotated[
        Path | None, arg(metavar="CSV", help_behavior_hint="(default: found)")
    ] = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 8:
            raise ValueError(f"--image-size must be at least 8, got {self.image_size}")
        if self.run is not None and self.split == "train":
            raise ValueError("--split must be test with --run, got train")


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; see ``--help``."""
    return cli.run(command, Options, argv, prog=prog, about=ABOUT)


def command(options: Options) -> dict[str, object]:
    """Compare; returns what the JSON line holds.

    Raises:
        ParityError: they differ; the report and the JSON line are printed already.
        DataError: they can't be compared.
    """
    from fastretina.parity.reference import ParityError

    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # of broken metadata
        certificate = certify(options)
    print(certificate.report())
    result = {
        "data": str(options.data),
        "shards": options.shards,
        "run": None if options.run is None else str(options.run),
        **certificate.summary(),
        "seconds": round(time.perf_counter() - started, 3),
    }
    if not certificate.equal:
        print(json.dumps(with_wall_seconds(result)))
        raise ParityError(certificate.sentence())
    return result


def certify(options: Options) -> Certificate:
    """Compare one split after the other.

    Raises:
        ParityError: folder, shards and run do not belong together.
        DataError: one of them can't be used, or the loader can't be had.
    """
    with part("imports"):
        from fastretina.parity.certificate import Certificate
        from fastretina.parity.epoch import Expected, compare_epoch
        from fastretina.parity.matching import match
        from loaders import open_split
        from loaders.cores import granted_cores
        from loaders.shards import SPLITS

    with part("data"):
        matched = match(options.data, options.shards, options.labels)
    with part("start"):
        loading, delivered, network = prepare(options)
    reference = matched.reference(delivered.image_size)
    threads = options.loading.workers or granted_cores()
    comparisons = []
    for split in (options.split,) if options.split else SPLITS:
        expected = Expected(
            split=split,
            samples=matched.samples[split],
            set_aside=matched.set_aside[split],
            reference=reference,
        )
        watch = network.watch if network and split == "test" else None
        with (
            part("evaluation"),
            open_split(options.shards, split) as source,
            loading.open(source, delivered) as loader,
        ):
            keys = source.column("key")
            comparisons.append(compare_epoch(loader, keys, expected, threads, watch))
            loading.report_skipped(loader)
    return Certificate(
        loader=loading.loader,
        device=loading.device,
        splits=comparisons,
        network=network.result() if network else None,
    )


def prepare(
    options: Options,
) -> tuple[Loading, LoaderConfig, NetworkComparison | None]:
    """Choose the loader and what it delivers, and load the network of a run, if any.

    Raises:
        RunError: the run can't be used.
        ParityError: it was trained on images of another size than is asked for.
        LoaderUnavailable: the loader is not installed.
    """
    from fastretina.nn.device import choose, choose_again
    from fastretina.nn.distributed import ALONE
    from fastretina.nn.trained import load_trained, warn_if_unfinished
    from fastretina.parity.equivalence import NetworkComparison
    from fastretina.parity.reference import ParityError
    from fastretina.run import Run
    from loaders import LoaderConfig

    if options.run is None:
        device = choose(options.device, "off").device
        loading = options.loading.resolve(str(device), ALONE)
        return loading, LoaderConfig(image_size=options.image_size), None
    run = Run(options.run)
    config = run.config()
    compute = choose_again(options.device, config.precision)
    trained = load_trained(run, compute.device)
    warn_if_unfinished(run, trained)
    size = trained.recipe.image_size
    if options.image_size not in (None, size):
        wanted = "left out, as the run's is" if size is None else f"{size}, the run's"
        raise ParityError(f"--image-size must be {wanted}, got {options.image_size}")
    trained.use_threads()
    loading = _loading_of_run(options.loading, config, str(compute.device))
    delivered = LoaderConfig(batch_size=trained.recipe.batch_size, image_size=size)
    return loading, delivered, NetworkComparison(trained.network, compute)


def _loading_of_run(options: LoadingOptions, config: RunConfig, device: str) -> Loading:
    """What loads as the run did, but for what the flags say.

    Raises:
        LoaderUnavailable: the loader is not installed.
    """
    from fastretina.nn.distributed import ALONE
    from loaders.errors import LoaderUnavailable

    try:
        return options.filled_from_run(config).resolve(device, ALONE)
    except LoaderUnavailable as error:
        if options.loader is not None:
            raise
        raise LoaderUnavailable(
            f"{error}; the run was trained under {config.loader}: name another with "
            "--loader"
        ) from error
