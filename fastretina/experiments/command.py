"""Train and compare many runs: the report's table, its ablations, and what is better.

fastretina experiments table --shards shards
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastretina import cli
from fastretina.experiments import standin
from fastretina.experiments.flags import Options, field_of, split_words
from fastretina.outputs import ask_for_folder
from fastretina.recipe import Recipe
from fastretina.wall_clock import part

if TYPE_CHECKING:
    from fastretina.experiments.cells import ExperimentPlan

PROG = "fastretina experiments"
ABOUT = f"""Train and compare many runs: table (the course report's comparison of
ResNet18/50 with and without ImageNet weights), ablations (what the report tried and
gave up), strong (recipe strong against recipe seed, by image and by patient). Killed at
any moment, the same command goes on where it was; what is finished is not done again.
Any flag of a recipe can be given, too, and counts for all runs, e.g. --image-size 128:
see fastretina train --help. Where ImageNet's weights can't be fetched,
standin trains substitutes: see {PROG} standin --help.

Example: {PROG} table --shards shards --budget small --seeds 3
"""


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; see ``--help``."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] == standin.NAME:
        return standin.main(words[1:], prog=f"{prog} {standin.NAME}")
    own, recipe_words = split_words(words)

    def run(options: Options) -> dict[str, object]:
        return command(options, recipe_words)

    return cli.run(run, Options, own, prog=prog, about=ABOUT)


def command(options: Options, recipe_words: Sequence[str] = ()) -> dict[str, object]:
    """Train what is not trained yet, compare, and report.

    Args:
        options: the command's own flags.
        recipe_words: flags of a recipe, which count for all cells.

    Raises:
        DataError: the data or the folder can't be used; or, after all others are done
            and reported, some cells have failed.
        KeyboardInterrupt: after the run in progress has saved.
    """
    if not options.dry_run:
        ask_for_folder(options.folder)
    with part("imports"):
        import torch

        from fastretina.experiments.estimate import estimate
        from fastretina.experiments.experiment_folder import (
            keep_settings,
            locked,
            settings_of,
        )
        from fastretina.experiments.experiment_text import format_plan
        from fastretina.experiments.series import Series
        from fastretina.nn.device import choose
        from loaders.files import make_folder
        from loaders.shards import open_split

    with open_split(options.shards, "train") as train:
        num_train, pixels = len(train), max(max(train.dimensions))
    with open_split(options.shards, "test") as test:
        num_test = len(test)
    plan = make_plan(options, recipe_words, pixels)
    if options.threads:
        torch.set_num_threads(options.threads)
    with part("start"):
        compute = choose(options.device, plan.cells[0].recipe.amp)
        seconds = estimate(plan.trained, pixels, num_train, num_test, compute)
    if options.dry_run:
        print(format_plan(plan, seconds, options.seeds))
        total = options.seeds * sum(seconds.values())
        return {
            "experiment": plan.name,
            "runs": options.seeds * len(plan.trained),
            "estimated_seconds": round(total, 1),
        }
    make_folder(options.folder)
    with locked(options.folder):
        keep_settings(options.folder, settings_of(plan, options.shards))
        series = Series(plan, options, seconds)
        with part("steps"):  # with all that the runs' own processes do
            series.train()
        with part("intervals"):
            return series.report()


def make_plan(
    options: Options, recipe_words: Sequence[str], pixels: int
) -> ExperimentPlan:
    """The experiment's cells, within the budget and with the user's flags.

    Raises:
        WrongUsage: a flag is one that the cells set themselves, or can't be meant.
        WeightsError: ``--pretrained`` holds no weights of a network that is asked for.
    """
    from fastretina.experiments.budget import BUDGETS
    from fastretina.experiments.experiment_plans import PLANS
    from fastretina.experiments.weights import with_pretrained

    def adjust(recipe: Recipe) -> Recipe:
        scaled = BUDGETS[options.budget].scaled(recipe, pixels)
        return _with_words(scaled, recipe_words)

    plan = PLANS[options.name](adjust, pixels, _leaks(options.shards))
    for word in recipe_words:
        if (name := field_of(word)) in plan.varied:
            flag = str(name).replace("_", "-")
            raise cli.WrongUsage(
                f"--{flag} must be left out: it is what {plan.name} varies"
            )
    try:
        for cell in plan.cells:
            options.loading.check_balance(cell.recipe.balance)
            cell.recipe.check_warmup()
    except ValueError as error:
        raise cli.WrongUsage(f"{error}; see {PROG} --help") from error
    return with_pretrained(plan, options.pretrained)


def _with_words(recipe: Recipe, words: Sequence[str]) -> Recipe:
    try:
        parsed = cli.parse(Recipe, words, prog=PROG, about=ABOUT, default=recipe)
    except ValueError as error:
        raise cli.WrongUsage(f"{error}; see {PROG} --help") from error
    assert parsed is not None, "--help is no flag of a recipe"
    return parsed


def _leaks(shards: str) -> bool:
    """Whether some patients are on both sides of the split."""
    from fastretina.metrics.baselines import Eyes, leak
    from loaders.shards import open_split

    with open_split(shards, "train") as train, open_split(shards, "test") as test:
        return leak(Eyes.of(train), Eyes.of(test)).eyes > 0
