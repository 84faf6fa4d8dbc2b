"""Fine-tune a ResNet on shards: first its head, then all of it.

python -m fastretina.train --shards shards --loader turbo
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastretina import cli
from fastretina.formatting import format_interval
from fastretina.interrupts import Interrupted
from fastretina.recipe import RECIPES, STRONG, Phase
from fastretina.train.options import TrainOptions
from loaders import LOADERS
from loaders.errors import RunError

if TYPE_CHECKING:
    from tqdm import tqdm

    from fastretina.data.loading import LoadingOptions
    from fastretina.data.splits import DataSplits
    from fastretina.interrupts import Stopper
    from fastretina.metrics.scores import Scores
    from fastretina.nn.distributed import Ranks
    from fastretina.train.state import TrainState
    from loaders import Batch, Loader, ShardSplit

PROG = "python -m fastretina.train"
ABOUT = f"""Fine-tune a ResNet to grade diabetic retinopathy: phase 1 trains the head,
phase 2 the whole network. The run folder holds checkpoints, log, figures and metrics;
a run that was killed continues with --resume RUN, to the very same weights.

Example: {PROG} --shards shards --recipe seed --weights imagenet
On two GPUs: torchrun --nproc-per-node 2 -m fastretina.train --shards shards
Another recipe's defaults: {PROG} --recipe seed --help
"""


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; see ``--help``."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        default = _defaults(words)
    except RunError as error:
        if cli.is_first_rank():
            print(f"error: {error}", file=sys.stderr)
        return 1
    return cli.run(
        command, TrainOptions, words, prog=prog, about=ABOUT, default=default
    )


def _defaults(words: Sequence[str]) -> TrainOptions:
    """The values of flags that are not given: the recipe's, or the resumed run's."""
    if resume := _value_of("--resume", words):
        from fastretina.run import Run

        run = Run(Path(resume))
        config = run.config()
        own = config["loader"] in LOADERS and LOADERS[config["loader"]].own_order
        return TrainOptions(
            recipe=run.recipe(),
            shards=config["shards"],
            test_shards=config.get("test_shards"),
            loader=config["loader"] if own else "auto",
            resume=run.path,
        )
    named = _value_of("--recipe", words)
    return TrainOptions(recipe=RECIPES.get(named, STRONG) if named else STRONG)


def _value_of(flag: str, words: Sequence[str]) -> str | None:
    for place, word in enumerate(words):
        if word == flag and place + 1 < len(words):
            return words[place + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def command(options: TrainOptions) -> dict[str, Any] | None:
    """Train, evaluate, report; returns what the JSON line holds, on the first rank.

    Raises:
        DataError: the data, the run folder or the device can't be used.
        KeyboardInterrupt: after saving, where a signal asked to stop.
    """
    from fastretina.nn.distributed import joined

    with joined(options.device) as ranks:
        return _train(options, ranks)


def _train(options: TrainOptions, ranks: Ranks) -> dict[str, Any] | None:
    import torch

    from fastretina.data.loading import train_loader
    from fastretina.data.splits import open_data
    from fastretina.interrupts import Stopper
    from fastretina.nn.device import choose
    from fastretina.train.start import begin, resume

    recipe = options.recipe
    if recipe.batch_size % ranks.world_size:
        raise cli.WrongUsage(
            f"--batch-size must be a multiple of the {ranks.world_size} ranks, "
            f"got {recipe.batch_size}"
        )
    compute = choose(options.device, recipe.amp)
    torch.backends.cudnn.benchmark = True  # all batches but the last have one size
    feeding = _feeding(options, str(compute.device), ranks)
    with (
        open_data(options.shards, recipe, options.test_shards) as data,
        train_loader(data.train, recipe, feeding) as loader,
        Stopper() as stopper,
    ):
        start = begin if options.resume is None else resume
        session = start(options, data, compute, feeding, loader.decoding)
        training = TrainingLoop(session, data, feeding, stopper)
        try:
            while not training.finished():
                training.run_epoch(loader, options.checkpoint_every)
                training.end_epoch()
            from fastretina.train.finish import conclude  # 1 s, not before an error

            return conclude(session, data, feeding, training.check)
        except Interrupted:
            session.save()
            raise KeyboardInterrupt(
                f"saved at step {session.progress.step:,}; continue with "
                f"{PROG} --resume {session.run.path}"
            ) from None
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"the device's memory is full at --batch-size {recipe.batch_size}: "
                f"choose a smaller one ({str(error).partition('.')[0]})"
            ) from error


def _feeding(options: TrainOptions, device: str, ranks: Ranks) -> LoadingOptions:
    from fastretina.data.loading import LoadingOptions, choose_loader

    loader = choose_loader(
        options.loader, device, fallback=options.fallback, speaks=ranks.first
    )
    return LoadingOptions(
        loader=loader,
        device=device,
        workers=options.workers,
        prefetch=options.prefetch,
        on_corrupt=options.on_corrupt,
        hw_decoder_load=options.hw_decoder_load,
        ranks=ranks,
    )


class TrainingLoop:
    """The loop: epochs of steps, and an evaluation after each."""

    def __init__(
        self,
        session: TrainState,
        data: DataSplits,
        feeding: LoadingOptions,
        stopper: Stopper,
    ) -> None:
        from fastretina.nn.augment import Augment
        from fastretina.nn.step import Loss

        self.session, self.recipe, self.ranks = session, session.recipe, session.ranks
        self.data, self.feeding, self.stopper = data, feeding, stopper
        self.augment = Augment(self.recipe)
        self._named: set[str] = set()  # images whose skipping has been told
        counts, device = data.train_counts(), session.compute.device
        phases: tuple[Phase, ...] = ("head", "full")
        self.losses = {
            phase: Loss(self.recipe, counts, self.ranks, phase).to(device)
            for phase in phases
        }

    def finished(self) -> bool:
        """Whether all epochs, or ``--max-steps``, are done and evaluated."""
        progress = self.session.progress
        evaluated = not progress.batch
        return progress.epoch >= self.recipe.epochs or (self._at_limit() and evaluated)

    def check(self) -> None:
        """Raise ``Interrupted`` where any rank has been asked to stop."""
        if any(self.ranks.agree(self.stopper.asked)):
            raise Interrupted

    def _at_limit(self) -> bool:
        limit = self.recipe.max_steps
        return limit is not None and self.session.progress.step >= limit

    def run_epoch(self, loader: Loader, checkpoint_every: float) -> None:
        """Train on what is left of the epoch.

        Raises:
            Interrupted: between two steps, where a signal asked to stop.
            RunError: the loss is not a number any more.
        """
        if self._at_limit():  # a kill came between the last step and the evaluation
            return
        session, progress = self.session, self.session.progress
        session.training_mode()
        before, already = progress.decoded_again, loader.decoded_again
        batches = loader.epoch(progress.epoch, progress.batch)
        with self._bar() as bar:
            for batch, waited in _timed(batches):
                begun = time.perf_counter()
                self.step(batch, steps_per_epoch=len(loader))
                progress.wait_seconds += waited
                progress.seconds += waited + time.perf_counter() - begun
                progress.skipped += self._told_of(loader)
                progress.decoded_again = before + loader.decoded_again - already
                bar.set_postfix_str(f"{progress.wait_share:.0%} waiting", refresh=False)
                bar.update(len(batch.labels) * self.ranks.world_size)
                asked, due = self.stopper.asked, session.is_due(checkpoint_every)
                stop, save = self.ranks.agree(asked, due)
                if save:
                    session.save()
                if stop:
                    raise Interrupted
                if self._at_limit():
                    break
        session.compute.wait()

    def step(self, batch: Batch, steps_per_epoch: int) -> None:
        """Train on one batch."""
        from fastretina.nn.step import learning_rate

        session, progress = self.session, self.session.progress
        done = progress.epoch + progress.batch / steps_per_epoch
        rate = learning_rate(self.recipe, done)
        for group in session.optimizer.param_groups:
            group["lr"] = rate
        progress.lr = rate
        inputs = self.augment(batch.images, batch.index, progress.epoch, progress.step)
        with session.compute.autocast():
            logits = session.forward(inputs)
        loss = self.losses[session.phase](logits.float(), batch.labels)
        session.optimizer.zero_grad(set_to_none=True)
        session.scaler.scale(loss).backward()
        session.scaler.step(session.optimizer)
        session.scaler.update()
        if session.average is not None:
            session.average.update_parameters(session.network)
        session.count(logits.detach(), loss.detach(), batch.labels)

    def end_epoch(self) -> None:
        """Evaluate, log, and save; the best epoch on validation is kept apart."""
        session, recipe = self.session, self.recipe
        row = session.epoch_row()
        if not math.isfinite(row["train_loss"]):
            raise RunError(
                f"the loss is {row['train_loss']} in epoch {row['epoch']}: lower --lr "
                "or --head-lr, or try --amp off"
            )
        best = session.best
        if self.data.validation is not None:
            scores = self._evaluate(self.data.validation)
            row["validation_accuracy"] = scores.accuracy
            row["validation_qwk"] = scores.qwk
            found = [scores.qwk, scores.accuracy]
            if best is None or _rank(found) > _rank(best["score"]):
                best = {"epoch": row["epoch"], "score": found}
        if recipe.test_each_epoch:
            scores = self._evaluate(self.data.test)
            row["test_accuracy"], row["test_qwk"] = scores.accuracy, scores.qwk
        improved = best is not session.best
        session.best = best  # not before: a stop while evaluating must not count it
        session.end_epoch(row)
        session.save(best=improved)
        if self.ranks.first:
            print(_line(row, recipe.epochs), file=sys.stderr)

    def _evaluate(self, split: ShardSplit) -> Scores:
        from fastretina.data.loading import evaluation_loader
        from fastretina.evaluate.command import predict_all
        from fastretina.metrics.scores import score

        session = self.session
        with evaluation_loader(split, self.recipe, self.feeding) as loader:
            network = session.evaluated()
            found = predict_all(
                network, loader, session.compute, self.check, self.ranks
            )
            self._told_of(loader)
        return score(found.labels, found.probabilities)

    def _told_of(self, loader: Loader) -> int:
        """Name images that were skipped, once each; returns how many there were."""
        for error in loader.skipped:
            if error.key not in self._named:
                self._named.add(error.key)
                print(f"skipped: {error}", file=sys.stderr)
        number = len(loader.skipped)
        loader.skipped.clear()
        return number

    def _bar(self) -> tqdm[Any]:
        from tqdm import tqdm

        session, progress = self.session, self.session.progress
        return tqdm(
            total=len(self.data.train),
            initial=progress.seen,
            desc=f"epoch {progress.epoch + 1}/{self.recipe.epochs} {session.phase}",
            unit=" images",
            disable=None if self.ranks.first else True,
            leave=False,
        )


def _timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch with the seconds that it was waited for."""
    while True:
        begun = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - begun


def _rank(score: Sequence[float | None]) -> tuple[float, ...]:
    """Orders QWK and accuracy of epochs; no QWK (one grade alone) is the worst."""
    qwk, accuracy = score
    assert accuracy is not None
    return (-math.inf if qwk is None else qwk, accuracy)


def _line(row: dict[str, Any], epochs: int) -> str:
    """An epoch in one line, for people."""
    words = [
        f"epoch {row['epoch']:>2}/{epochs} {row['phase']:<4}",
        f"loss {row['train_loss']:.4f}",
        f"train {row['train_accuracy']:.1%}",
    ]
    for split in ("validation", "test"):
        if row[f"{split}_accuracy"] is not None:
            accuracy = row[f"{split}_accuracy"]
            qwk = format_interval(row[f"{split}_qwk"], None, ".3f")
            words.append(f"{split} {accuracy:.1%} QWK {qwk}")
    waited = row["wait_seconds"] / row["seconds"] if row["seconds"] else 0.0
    words.append(f"{row['images_per_second']:,.0f} images/s, {waited:.0%} waiting")
    return "  ".join(words)
