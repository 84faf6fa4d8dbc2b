"""Evaluate a network on every sample of a split, exactly once.

python -m fastretina.evaluate runs/resnet18-strong-1
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from tyro.conf import Positional, arg

from fastretina import cli
from loaders import LoaderName
from loaders.errors import DataError, RunError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from fastretina.data.loading import LoadingOptions
    from fastretina.metrics.baselines import Eyes
    from fastretina.metrics.predictions import SplitPredictions
    from fastretina.nn.device import Compute
    from fastretina.nn.distributed import Ranks
    from fastretina.nn.trained import Trained
    from fastretina.recipe import Recipe
    from fastretina.run import Run
    from loaders import Loader, ShardSplit

PROG = "python -m fastretina.evaluate"
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
        loader: Who decodes, as in fastretina.train; auto for the fastest here.
        fallback: Take pil where the loader is not installed, and say so.
        on_corrupt: What an image that can't be decoded does: end it, or be skipped and
            counted.
        workers: Threads or processes that decode; by default one for each core granted.
        device: auto, cpu, cuda, cuda:N or mps.
        out: Write every sample's probabilities to this Parquet file.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    shards: Annotated[str | None, arg(metavar="PATH|URL")] = None
    split: Literal["test", "train"] = "test"
    loader: LoaderName = "auto"
    fallback: bool = True
    on_corrupt: Literal["raise", "skip"] = "raise"
    workers: int | None = None
    device: str = "auto"
    out: Annotated[Path | None, arg(metavar="PARQUET")] = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"--workers must be at least 0, got {self.workers}")


class Predictions(NamedTuple):
    """What a network says of each sample, in row order.

    Attributes:
        rows: int64[N].
        labels: int64[N].
        probabilities: float64[N, 5].
    """

    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]


def predict_all(
    network: nn.Module,
    loader: Loader,
    compute: Compute,
    check: Callable[[], None] = lambda: None,
    ranks: Ranks | None = None,
) -> Predictions:
    """Run the network, which is in eval mode, over one epoch of the loader.

    Args:
        network: takes float32[B, 3, H, W], gives float32[B, 5] logits.
        loader: one that does not shuffle.
        compute: device and precision.
        check: called after each batch; may raise to stop.
        ranks: that each have a part of the split, and get all of the predictions.

    Raises:
        RunError: the network gives no finite numbers.
    """
    import numpy as np
    import torch

    from fastretina.nn.augment import Normaliser

    normalise, parts = Normaliser(), []
    with torch.inference_mode():
        for batch in loader.epoch(0):
            with compute.autocast():
                logits = network(normalise(batch.images))
            chances = logits.float().softmax(dim=1).cpu().double().numpy()
            parts.append((batch.index.cpu(), batch.labels.cpu(), chances))
            check()
    rows, labels, chances = (np.concatenate(part) for part in zip(*parts, strict=True))
    if ranks is not None:
        rows, labels, chances = ranks.gather(rows, labels, chances)
    order = np.argsort(rows, kind="stable")  # loaders of their own order, and ranks
    rows, labels, chances = rows[order], labels[order], chances[order]
    if not np.isfinite(chances).all():
        raise RunError(
            "the network's outputs are not finite: its training has gone astray; "
            "lower --lr or --head-lr, or try --amp off"
        )
    assert len(np.unique(rows)) == len(rows), "a loader delivered a sample twice"
    return Predictions(rows, labels, chances)


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; see ``--help``."""
    return cli.run(command, Options, argv, prog=prog, about=ABOUT)


def command(options: Options) -> dict[str, Any]:
    """Evaluate a run; returns what the JSON line holds."""
    from fastretina.data.loading import LoadingOptions, choose_loader
    from fastretina.metrics.evaluation import evaluate
    from fastretina.metrics.text import table
    from fastretina.nn.device import choose_again
    from fastretina.nn.trained import load_trained
    from fastretina.run import Run

    run = Run(options.run)
    compute = choose_again(options.device, run.config()["precision"])
    trained = load_trained(run, compute.device)
    shards = options.shards or _own_shards(trained.config, options.split)
    device = str(compute.device)
    feeding = LoadingOptions(
        loader=choose_loader(options.loader, device, fallback=options.fallback),
        device=device,
        workers=options.workers,
        on_corrupt=options.on_corrupt,
    )
    predicted, skipped = _predicted(trained, compute, feeding, shards, options.split)
    if options.out is not None:
        predicted.save(options.out)
    evaluation = evaluate(
        predicted, _known(trained, options), _validation(run), _loss_weights(trained)
    )
    print(table(evaluation))
    points = evaluation.summary()
    scores = evaluation.test.summary()
    del points["test"]
    return {
        "run": str(options.run),
        "checkpoint": trained.checkpoint,
        "shards": shards,
        "split": options.split,
        "device": device,
        "loader": feeding.loader,
        "skipped": skipped,
        **{f"{options.split}_{name}": value for name, value in scores.items()},
        **points,
        "weights_sha256": trained.weights_sha256,
    }


def _predicted(
    trained: Trained,
    compute: Compute,
    feeding: LoadingOptions,
    shards: str,
    split_name: str,
) -> tuple[SplitPredictions, int]:
    """Predict a split; how many images were skipped, which are told of."""
    from fastretina.data.loading import evaluation_loader, other_pixels
    from fastretina.metrics.predictions import SplitPredictions

    with (
        _opened(shards, split_name, trained.recipe) as split,
        evaluation_loader(split, trained.recipe, feeding) as loader,
    ):
        if other := other_pixels(trained.config, loader.decoding):
            print(f"warning: {other}", file=sys.stderr)
        trained.use_threads()
        found = predict_all(trained.network, loader, compute)
        for error in loader.skipped:
            print(f"skipped: {error}", file=sys.stderr)
        about = {
            "split": split_name,
            "checkpoint": trained.checkpoint,
            "weights_sha256": trained.weights_sha256,
        }
        predicted = SplitPredictions.of(split, found.rows, found.probabilities, about)
        return predicted, len(loader.skipped)


def _loss_weights(trained: Trained) -> list[float] | None:
    """Of the grades in the run's loss; None where it was plain, or the run is old."""
    from fastretina.nn.step import class_weights

    counts = trained.config.get("train_counts")
    if counts is None:
        return None
    weights = class_weights(trained.recipe.class_weights, counts)
    return None if weights is None else list(weights.tolist())


def _own_shards(config: Mapping[str, Any], split: str) -> str:
    """The data set that the run has taken this split from."""
    other = config.get("test_shards") if split == "test" else None
    return str(other or config["shards"])


def _opened(shards: str, split: str, recipe: Recipe) -> ShardSplit:
    """A split, of which a run that has only tested on some sees these."""
    from fastretina.data.splits import some_of
    from loaders.shards import open_split

    whole = open_split(shards, split)
    return some_of(whole, recipe.test_samples) if split == "test" else whole


def _known(trained: Trained, options: Options) -> Eyes | None:
    """The labels that the run has learned from, if its shards are still there.

    None for another data set, whose patients are other people under the same numbers.
    """
    from fastretina.data.splits import open_data

    own = trained.config["shards"]
    if options.split != "test" or options.shards not in (None, own):
        return None
    try:
        with open_data(own, trained.recipe, trained.config.get("test_shards")) as data:
            return data.known()
    except DataError as error:
        print(f"warning: no baselines, as {error}", file=sys.stderr)
        return None


def _validation(run: Run) -> SplitPredictions | None:
    """The run's predictions on the patients that it held out, if there are any."""
    from fastretina.metrics.predictions import SplitPredictions

    path = run.path / "validation.parquet"
    return SplitPredictions.load(path) if path.exists() else None
