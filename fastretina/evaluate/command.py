"""Evaluate a network on every sample of a split, exactly once.

fastretina evaluate runs/resnet18-strong-1
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from fastretina import cli
from fastretina.data.loading import DEFAULT_LOADING, LoadingOptions
from fastretina.outputs import ask_for_file
from fastretina.wall_clock import part
from loaders.errors import NoShards, RunError
from loaders.shards import SplitName

if TYPE_CHECKING:
    from fastretina.metrics.baselines import Eyes
    from fastretina.metrics.predictions import Predictions
    from fastretina.nn.device import Compute
    from fastretina.nn.trained import Trained
    from fastretina.recipe import Recipe
    from fastretina.run import Run
    from fastretina.run_config import RunConfig
    from loaders import ShardSplit

# Of the scores, what the JSON line has; the file of details has all of them.
_IN_SHORT = (
    "samples",
    "accuracy",
    "balanced_accuracy",
    "qwk",
    "macro_f1",
    "calibration_error",
)

PROG = "fastretina evaluate"
ABOUT = f"""Repeat a run's evaluation: every test sample once, with the checkpoint that
the run itself reports. The numbers are those of its metrics.json.

Example: {PROG} runs/resnet18-strong-1
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Flags of ``fastretina.evaluate``.

    Attributes:
        run: The run's folder.
        shards: The data set; by default the run's own.
        split: What to evaluate on.
        loading: How batches are made; what is not set is as the run had it.
        device: auto, cpu, cuda, cuda:N or mps.
        out: Write every sample's probabilities to this Parquet file.
        details: Write all scores, intervals and baselines to this file.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    shards: Annotated[str | None, arg(metavar="PATH|URL")] = None
    split: Annotated[SplitName, arg(metavar="{test,train}")] = "test"
    loading: OmitArgPrefixes[LoadingOptions] = DEFAULT_LOADING
    device: str = "auto"
    out: Annotated[Path | None, arg(metavar="PARQUET")] = None
    details: Annotated[
        Path | None,
        arg(metavar="JSON", help_behavior_hint="(default: RUN/evaluation.json)"),
    ] = None

    def __post_init__(self) -> None:
        for name, path in (("out", self.out), ("details", self.details)):
            if path is not None and not path.parent.is_dir():
                raise ValueError(
                    f"--{name} must lie in a folder that exists, got {path}"
                )
            if path is not None and path.is_dir():
                raise ValueError(f"--{name} must be a file, got the folder {path}")


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; see ``--help``."""
    return cli.run(command, Options, argv, prog=prog, about=ABOUT)


def command(options: Options) -> dict[str, object]:
    """Evaluate a run; returns what the JSON line holds."""
    from fastretina.run import Run

    run = Run(options.run)
    config = run.config()
    details = options.details or run.path / "evaluation.json"
    ask_for_file(details, "--details")
    if options.out is not None:
        ask_for_file(options.out)
    with part("imports"):
        from fastretina.data.run_shards import shards_of_run
        from fastretina.metrics.evaluation import evaluate
        from fastretina.metrics.predictions import predict_with_checkpoint
        from fastretina.metrics.text import table
        from fastretina.nn.distributed import ALONE
        from fastretina.nn.trained import load_trained, warn_if_unfinished
        from loaders.files import write_atomically

    with part("start"):
        compute = _compute_of(config, options.device)
        trained = load_trained(run, compute.device)
    warn_if_unfinished(run, trained)
    shards = options.shards or shards_of_run(run, options.split)
    loading = _loading_of(config, options.loading).resolve(str(compute.device), ALONE)
    loads = replace(config, loader=loading.loader, loading=loading.recorded())
    for change in config.changes_to(loads):
        print(f"note: {change}", file=sys.stderr)
    with _open(shards, options.split, trained.recipe) as split:
        predictions = predict_with_checkpoint(
            trained, split, options.split, compute, loading
        )
    if options.out is not None:
        predictions.save(options.out)
    with part("data"):
        known = _known_eyes(run, trained, options)
        validation = _validation(run, trained) if options.split == "test" else None
    evaluation = evaluate(
        predictions,
        known,
        validation,
        trained.loss_weights(config.train_counts),
    )
    print(table(evaluation))
    scores = asdict(evaluation.test)
    about: dict[str, object] = {
        "run": str(options.run),
        "checkpoint": trained.checkpoint,
        "shards": shards,
        "split": options.split,
        "device": loading.device,
        "loader": loading.loader,
        "skipped": predictions.skipped,
    }
    named = {f"{options.split}_{name}": value for name, value in scores.items()}
    weights = {"weights_sha256": trained.weights_sha256}
    rest = {k: v for k, v in asdict(evaluation).items() if k != "test"}
    text = json.dumps({**about, **named, **rest, **weights}, indent=1)
    write_atomically(details, text + "\n")
    short = {f"{options.split}_{name}": scores[name] for name in _IN_SHORT}
    return {**about, **short, **weights, "details": str(details)}


def _compute_of(config: RunConfig, device: str) -> Compute:
    """The run's precision on a device; says so where that has another one."""
    from fastretina.nn.device import choose_again

    compute = choose_again(device, config.precision)
    if compute.precision != config.precision:
        print(
            f"note: the run computed in {config.precision}, {compute.device} does "
            f"in {compute.precision}: last digits may differ",
            file=sys.stderr,
        )
    return compute


def _loading_of(config: RunConfig, flags: LoadingOptions) -> LoadingOptions:
    """The flags, and the run's own loading; no folder is made where the run names it.

    Its decoded images are used where they are. Somebody else's run could name any.
    """
    loading = flags.filled_from_run(config)
    folder = loading.cache_folder
    if flags.cache is None and folder is not None and not Path(folder).is_dir():
        return replace(loading, cache="none")
    return loading


def _open(shards: str, split: str, recipe: Recipe) -> ShardSplit:
    """A split; of test, the samples that the run has tested on."""
    from fastretina.data.patients import some_of
    from loaders.shards import open_split

    whole = open_split(shards, split)
    return some_of(whole, recipe.test_samples) if split == "test" else whole


def _known_eyes(run: Run, trained: Trained, options: Options) -> Eyes | None:
    """The labels that the run has learned from, if its shards are still there.

    None for another data set, whose patients are other people under the same numbers.
    """
    from fastretina.data.run_shards import shards_of_run
    from fastretina.data.splits import open_data
    from fastretina.metrics.baselines import Eyes

    if options.split != "test":
        return None
    test_shards = options.shards
    try:
        if test_shards is None and trained.config.test_shards is not None:
            test_shards = shards_of_run(run, "test")
        shards = shards_of_run(run, "train")
        with open_data(shards, trained.recipe, test_shards) as data:
            if not data.is_one_cohort():
                return None
            return Eyes.of(data.train, data.known_rows())
    except (NoShards, RunError) as error:  # one that is there and damaged is an error
        print(f"warning: no baselines, as {error}", file=sys.stderr)
        return None


def _validation(run: Run, trained: Trained) -> Predictions | None:
    """The network's predictions on the patients held out, to calibrate it by.

    None where there are none, or those that are there are an earlier network's.
    """
    from fastretina.metrics.predictions import Predictions

    path = run.path / "validation.parquet"
    if not path.exists():
        return None
    validation = Predictions.load(path)
    if validation.source.weights_sha256 != trained.weights_sha256:
        print(
            "warning: nothing is calibrated, as the predictions on validation are of "
            "other weights: the run has gone on since",
            file=sys.stderr,
        )
        return None
    return validation
