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
from fastretina.options import LoaderName
from loaders.errors import RunError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from fastretina.device import Compute
    from fastretina.ranks import Ranks
    from loaders import Loader

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
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    shards: Annotated[str | None, arg(metavar="PATH|URL")] = None
    split: Literal["test", "train"] = "test"
    loader: LoaderName = "auto"
    fallback: bool = True
    on_corrupt: Literal["raise", "skip"] = "raise"
    workers: int | None = None
    device: str = "auto"

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

    from fastretina.augment import Normaliser

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
    from fastretina.device import choose_again
    from fastretina.feeding import (
        Feeding,
        choose_loader,
        evaluation_loader,
        other_pixels,
    )
    from fastretina.metrics import score
    from fastretina.run import Run
    from fastretina.trained import load_trained
    from loaders.shards import open_split

    run = Run(options.run)
    compute = choose_again(options.device, run.config()["precision"])
    trained = load_trained(run, compute.device)
    shards = options.shards or trained.config["shards"]
    device = str(compute.device)
    feeding = Feeding(
        loader=choose_loader(options.loader, device, fallback=options.fallback),
        device=device,
        workers=options.workers,
        on_corrupt=options.on_corrupt,
    )
    with (
        open_split(shards, options.split) as split,
        evaluation_loader(split, trained.recipe, feeding) as loader,
    ):
        if other := other_pixels(trained.config, loader.decoding):
            print(f"warning: {other}", file=sys.stderr)
        trained.use_threads()
        found = predict_all(trained.network, loader, compute)
        skipped = list(loader.skipped)
    for error in skipped:
        print(f"skipped: {error}", file=sys.stderr)
    scores = score(found.labels, found.probabilities)
    print(table(scores))
    return {
        "run": str(options.run),
        "checkpoint": trained.checkpoint,
        "shards": shards,
        "split": options.split,
        "device": device,
        "loader": feeding.loader,
        "skipped": len(skipped),
        **{f"{options.split}_{name}": value for name, value in scores.items()},
        "weights_sha256": trained.weights_sha256,
    }


def table(scores: Mapping[str, Any]) -> str:
    """The scores for people: totals, then a line of the confusion matrix per grade."""
    from loaders._course import GRADES

    def share(value: float | None) -> str:
        return "    -" if value is None else f"{value:5.1%}"

    referable = scores["referable"]
    auc = referable["auc"]
    lines = [
        f"{scores['samples']:,} samples: accuracy {share(scores['accuracy'])}, "
        f"balanced accuracy {share(scores['balanced_accuracy'])}, "
        f"QWK {scores['qwk']:.3f}",
        "referable DR (grade 2 or worse): "
        f"sensitivity {share(referable['sensitivity'])}, "
        f"specificity {share(referable['specificity'])}, "
        f"AUC {'-' if auc is None else f'{auc:.3f}'}",
        f"{'true grade':<18}{'recall':>7}   predicted 0 to 4",
    ]
    for grade, name in enumerate(GRADES):
        counts = "".join(f"{count:>7,}" for count in scores["confusion"][grade])
        recall = share(scores["recall"][grade])
        lines.append(f"{grade} {name:<16}{recall:>7}  {counts}")
    if scores["collapse"]:
        lines.append(f"warning: {scores['collapse']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
