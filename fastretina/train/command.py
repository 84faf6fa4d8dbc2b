"""Fine-tune a ResNet on shards: first its head, then all of it.

fastretina train --shards shards --loader turbo
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from fastretina import cli
from fastretina.interrupts import Interrupted
from fastretina.outputs import ask_for_folder
from fastretina.recipe import RECIPES, STRONG
from fastretina.run import RUNS, Run, refuse_taken
from fastretina.terminal import printable
from fastretina.train.options import TrainOptions
from fastretina.wall_clock import part
from loaders import LOADERS
from loaders.errors import DataError, RunError

if TYPE_CHECKING:
    from fastretina.data.loading import Loading
    from fastretina.nn.device import Compute
    from fastretina.nn.distributed import Ranks

PROG = "fastretina train"
ABOUT = f"""Fine-tune a ResNet to grade diabetic retinopathy: phase 1 trains the head,
phase 2 the whole network. The run folder holds checkpoints, log, figures and metrics;
a run that was killed continues with --resume RUN, to the very same weights.

Example: {PROG} --shards shards --recipe seed --weights imagenet
On two GPUs: torchrun --nproc-per-node 2 -m fastretina.train --shards shards
Another recipe's defaults: {PROG} --recipe seed --help
"""


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; see ``--help``."""
    words = _with_choice(list(sys.argv[1:] if argv is None else argv))
    try:
        default = _defaults(words)
    except RunError as error:
        if cli.is_first_rank():
            print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    return cli.run(
        command, TrainOptions, words, prog=prog, about=ABOUT, default=default
    )


def _defaults(words: Sequence[str]) -> TrainOptions:
    """The values of flags that are not given: the recipe's, or the resumed run's."""
    if resume := _value_of("--resume", words):
        from fastretina.data.run_shards import shards_of_run

        run = Run(Path(resume))
        config = run.config()
        test_shards = config.test_shards and (
            _value_of("--test-shards", words)
            or shards_of_run(run, "test", "--test-shards")
        )
        return TrainOptions(
            recipe=config.recipe,
            shards=_value_of("--shards", words) or shards_of_run(run, "train"),
            test_shards=test_shards,
            compile="on" if config.compile else "off",
            cache_features=config.cache_features,
            resume=run.path,
        )
    named = _value_of("--recipe", words)
    return TrainOptions(recipe=RECIPES.get(named, STRONG) if named else STRONG)


def _with_choice(words: Sequence[str]) -> list[str]:
    """Give ``--compile`` alone and ``--no-compile`` the choice that they mean."""
    found: list[str] = []
    for word, following in zip_longest(words, words[1:]):
        if word == "--no-compile":
            found += ["--compile", "off"]
        elif word == "--compile" and (following is None or following.startswith("-")):
            found += ["--compile", "on"]
        else:
            found.append(word)
    return found


def _value_of(flag: str, words: Sequence[str]) -> str | None:
    for place, word in enumerate(words):
        if word == flag and place + 1 < len(words):
            return words[place + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def command(options: TrainOptions) -> dict[str, object] | None:
    """Train, evaluate, report; returns what the JSON line holds, on the first rank.

    Raises:
        DataError: the data, the run folder or the device can't be used.
        KeyboardInterrupt: after saving, where a signal asked to stop.
    """
    _ask_for_run(options)
    with part("imports"):
        import torch

        from fastretina.nn.distributed import joined

    with ExitStack() as stack:
        with part("start"):
            ranks = stack.enter_context(joined(options.device))
        try:
            return _train(options, ranks)
        except torch.OutOfMemoryError as error:
            raise RunError(
                "the device's memory is full at --batch-size "
                f"{options.recipe.batch_size}: choose a smaller one "
                f"({str(error).partition('.')[0]})"
            ) from error


def _ask_for_run(options: TrainOptions) -> None:
    """Refuse a run's folder that can't be had, before torch is imported.

    Raises:
        DataError: there is a run in it already, or it can't be written.
    """
    try:
        if options.resume is not None:
            ask_for_folder(options.resume, "--resume", "make it writable")
        else:
            refuse_taken(options.out)
            ask_for_folder(options.out or RUNS)
    except DataError:
        if not cli.is_first_rank():
            raise cli.ReportedElsewhere(1) from None
        raise


def _train(options: TrainOptions, ranks: Ranks) -> dict[str, object] | None:
    with part("imports"):
        import torch

        from fastretina.data.splits import open_data
        from fastretina.interrupts import Stopper
        from fastretina.train.loop import TrainingLoop
        from fastretina.train.start import start

    recipe = options.recipe
    if recipe.batch_size % ranks.world_size:
        raise cli.WrongUsage(
            f"--batch-size must be a multiple of the {ranks.world_size} ranks, "
            f"got {recipe.batch_size}"
        )
    with part("start"):
        compute, loading = _chosen(options, ranks)
    if options.cache_features and LOADERS[loading.loader].own_order:
        raise cli.WrongUsage(
            "--cache-features must have an order that all loaders share: choose "
            f"another --loader than {loading.loader}"
        )
    torch.backends.cudnn.benchmark = True  # all batches but the last have one size
    with ExitStack() as stack:
        with part("data"):
            data = stack.enter_context(
                open_data(options.shards, recipe, options.test_shards)
            )
            loading = stack.enter_context(loading.keeping_open())
            loader = stack.enter_context(loading.train_loader(data.train, recipe))
        stopper = stack.enter_context(Stopper())
        with part("start"):
            state = stack.enter_context(
                start(options, data, compute, loading, loader.decoding)
            )
        loop = TrainingLoop(state, data, loading, stopper)
        try:
            while not loop.finished():
                with part("steps"):
                    loop.run_epoch(loader, options.checkpoint_every)
                loop.end_epoch()
            with part("imports"):  # 1 s, not before an error
                from fastretina.train.finish import finish

            with part("checkpoints"):
                state.wait_saved()
            return finish(state, data, loading, loop.check)
        except Interrupted:
            state.save()
            state.wait_saved()
            raise KeyboardInterrupt(
                f"saved at step {state.progress.step:,}; continue with "
                f"fastretina train --resume {state.run.path}"
            ) from None


def _chosen(options: TrainOptions, ranks: Ranks) -> tuple[Compute, Loading]:
    """Device, precision and loading; those of the run that is resumed, if one is."""
    from fastretina.nn.device import choose, choose_again

    config = Run(options.resume).config() if options.resume else None
    if config and options.recipe.amp == "auto":
        compute = choose_again(options.device, config.precision)
    else:  # by flag, perhaps when the run began: nothing else may take its place
        compute = choose(options.device, options.recipe.amp)
    loading = options.loading.filled_from_run(config) if config else options.loading
    return compute, loading.resolve(str(compute.device), ranks)
