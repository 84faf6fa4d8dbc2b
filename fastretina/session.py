"""A training run in mid-flight: all that changes, and how it is saved and restored."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fastretina import checkpoint
from fastretina.device import Compute
from fastretina.model import WeightsError, build_model, set_phase
from fastretina.optimise import make_average, make_optimizer
from fastretina.options import TrainOptions
from fastretina.recipe import Recipe
from fastretina.run import COLUMNS, Run, create_run, describe
from loaders.errors import RunError

if TYPE_CHECKING:
    from fastretina.data import Data


@dataclass(slots=True)
class Progress:
    """How far a run is, and the sums of the epoch it is in.

    Attributes:
        epoch: counted from 0 over both phases.
        batch: batches of this epoch that are trained on.
        step: batches of the run that are.
        loss: sum over the epoch's samples.
        correct: samples of the epoch that were predicted right.
        seen: samples of the epoch.
        lr: learning rate of the last step.
        seconds: spent training in this epoch.
        wait_seconds: of these, waiting for the loader.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss: float = 0.0
    correct: int = 0
    seen: int = 0
    lr: float = 0.0
    seconds: float = 0.0
    wait_seconds: float = 0.0

    @property
    def wait_share(self) -> float:
        """Of the epoch's seconds, 0 to 1."""
        return self.wait_seconds / self.seconds if self.seconds else 0.0


class Session:
    """The network, its average, the optimizer and the progress of a run.

    No random state is kept: every draw of a run is a function of its seed and place.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: nn.Module,
        compute: Compute,
        run: Run,
        *,
        compiled: bool = False,
    ) -> None:
        self.recipe = recipe
        self.network = network.to(compute.device)
        self.compute = compute
        self.run = run
        self.progress = Progress()
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.scaler = compute.scaler()
        self.average: AveragedModel | None = None
        self._compiled = compiled
        self.begin_phase()
        self._saved_at = time.monotonic()
        # Loss and hits are summed on the device: reading them would wait for it.
        exact = torch.float32 if compute.device.type == "mps" else torch.float64
        self._sums = torch.zeros(2, dtype=exact, device=compute.device)

    @property
    def phase(self) -> Literal["head", "full"]:
        """``head`` or ``full``; a finished run stays in the one that it ended in."""
        return self.recipe.phase(min(self.progress.epoch, self.recipe.epochs - 1))

    def begin_phase(self) -> None:
        """Freeze or free the backbone; a new optimizer, and in phase 2 an average."""
        parameters = self.training_mode()
        if self.phase == "full" and self.recipe.ema_decay:
            self.average = make_average(self.network, self.recipe.ema_decay)
        self.optimizer = make_optimizer(
            self.recipe, self.phase, parameters, self.compute.device
        )
        self.forward = torch.compile(self.network) if self._compiled else self.network

    def training_mode(self) -> list[nn.Parameter]:
        """Set the network to train; returns the parameters that do."""
        return set_phase(self.network, self.phase, self.recipe.head_batchnorm)

    def evaluated(self) -> nn.Module:
        """The network to evaluate: the average where there is one, in eval mode."""
        network = self.network if self.average is None else self.average.module
        return network.eval()

    def count(self, logits: Tensor, loss: Tensor, labels: Tensor) -> None:
        """Add a step to the epoch's sums: float32[B, K], a mean, int64[B]."""
        hits = (logits.argmax(dim=1) == labels).sum()
        self._sums += torch.stack([loss * len(labels), hits]).to(self._sums.dtype)
        self.progress.seen += len(labels)
        self.progress.batch += 1
        self.progress.step += 1

    def _collect(self) -> None:
        loss, correct = self._sums.tolist()
        self.progress.loss, self.progress.correct = loss, round(correct)

    def epoch_row(self) -> dict[str, Any]:
        """What ``log.csv`` says of the epoch that has just been trained."""
        self._collect()
        progress = self.progress
        seen = max(progress.seen, 1)
        return dict.fromkeys(COLUMNS) | {
            "epoch": progress.epoch + 1,
            "phase": self.phase,
            "lr": progress.lr,
            "train_loss": progress.loss / seen,
            "train_accuracy": progress.correct / seen,
            "images_per_second": progress.seen / max(progress.seconds, 1e-9),
            "wait_seconds": progress.wait_seconds,
            "seconds": progress.seconds,
        }

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Log the epoch and go on to the next, which may be of the next phase."""
        self.rows.append(row)
        self.run.write_log(self.rows)
        self.run.write_events(row, self.progress.step)
        phase = self.phase
        self.progress = Progress(epoch=self.progress.epoch + 1, step=self.progress.step)
        self._sums.zero_()
        if self.phase != phase:
            self.begin_phase()

    def save(self, *, best: bool = False) -> None:
        """Write ``last`` (and ``best``) so that a kill leaves the old or the new."""
        self._collect()
        tensors = checkpoint.prefixed("model", self.network.state_dict())
        optimizer = checkpoint.optimizer_tensors(self.optimizer)
        tensors |= checkpoint.prefixed("optimizer", optimizer)
        if self.average is not None:
            tensors |= checkpoint.prefixed("ema", self.average.module.state_dict())
        state = {
            "progress": asdict(self.progress),
            "rows": self.rows,
            "best": self.best,
            "scaler": self.scaler.state_dict(),
            "averaged": int(self.average.n_averaged) if self.average else 0,
        }
        if best:
            checkpoint.save(self.run.best, tensors, state)
        checkpoint.save(self.run.last, tensors, state)
        self._saved_at = time.monotonic()

    def save_if_due(self, every_seconds: float) -> None:
        """Save when the last time is so long ago."""
        if time.monotonic() - self._saved_at >= every_seconds:
            self.save()

    def restore(self) -> None:
        """Go back to the run's last checkpoint.

        Raises:
            RunError: it is damaged or of another recipe.
        """
        tensors, state = checkpoint.load(self.run.last)
        try:
            self.progress = Progress(**state["progress"])
            self.rows, self.best = state["rows"], state["best"]
            sums = [self.progress.loss, self.progress.correct]
            self._sums.copy_(torch.tensor(sums, dtype=self._sums.dtype))
            self.network.load_state_dict(checkpoint.part(tensors, "model"))
            self.begin_phase()
            checkpoint.restore_optimizer(
                self.optimizer, checkpoint.part(tensors, "optimizer")
            )
            if self.average is not None:
                self.average.module.load_state_dict(checkpoint.part(tensors, "ema"))
                self.average.n_averaged.fill_(state["averaged"])
            if state["scaler"]:  # empty where the run was not in fp16 until now
                self.scaler.load_state_dict(state["scaler"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(
                f"{self.run.last} does not fit the recipe in config.json: one of the "
                "two is of another run"
            ) from error


def begin(options: TrainOptions, data: Data, compute: Compute, loader: str) -> Session:
    """Start a new run: its folder, its network, a first checkpoint.

    Raises:
        RunError: the folder holds a run already.
        WeightsError: the weights can't be had.
    """
    recipe = options.recipe
    if options.threads:
        torch.set_num_threads(options.threads)
    network, weights = _starting_network(recipe)
    run = create_run(options.out, recipe)
    run.write_config(
        {
            **describe(recipe),
            "weights": weights,
            "shards": str(options.shards),
            "data": data.describe(),
            "image_shape": data.image_shape(recipe),
            "square": data.square(),
            "loader": loader,
            "device": str(compute.device),
            "precision": compute.precision,
            "threads": torch.get_num_threads(),
        }
    )
    session = Session(recipe, network, compute, run, compiled=options.compile)
    session.save()  # so that there is something to resume from the first step on
    return session


def _starting_network(recipe: Recipe) -> tuple[nn.Module, str]:
    """The network to train, and the weights that it really starts from."""
    auto = recipe.weights == "auto"
    weights = "imagenet" if auto else recipe.weights
    try:
        return build_model(recipe.arch, weights, recipe.seed), weights
    except WeightsError as error:
        if not auto:
            raise
        print(
            f"warning: training starts from random weights and will grade worse: "
            f"{error}",
            file=sys.stderr,
        )
        return build_model(recipe.arch, "none", recipe.seed), "none"


def resume(options: TrainOptions, data: Data, compute: Compute, loader: str) -> Session:
    """Take up a run where its last checkpoint left it.

    One that was killed before it had written any begins anew.

    Raises:
        RunError: it is no run, or of another recipe or data.
    """
    assert options.resume is not None
    recipe, run = options.recipe, Run(options.resume)
    saved, config = run.recipe(), run.config()
    for field in fields(Recipe):
        before, now = getattr(saved, field.name), getattr(recipe, field.name)
        if before != now:
            flag = field.name.replace("_", "-")
            raise RunError(
                f"--{flag} can't change on --resume: it was {before}, now {now}"
            )
    if config["data"] != data.describe():
        raise RunError(
            f"{run.path} was trained on other data than {data.train.folder} holds; "
            "pass the --shards that it began with"
        )
    torch.set_num_threads(options.threads or config["threads"])
    run.remove_partial_files()
    begun = run.last.exists()
    network = build_model(
        recipe.arch, "none" if begun else config["weights"], recipe.seed
    )
    session = Session(recipe, network, compute, run, compiled=options.compile)
    if begun:
        session.restore()
    else:
        print("note: no checkpoint was written yet: from the start", file=sys.stderr)
        session.save()
    if loader != config["loader"]:
        print(
            f"note: {config['loader']} fed this run before, {loader} does now",
            file=sys.stderr,
        )
    return session
