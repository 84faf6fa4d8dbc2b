"""Train and compare many runs: the report's table, its ablations, and what is better.

python -m fastretina.experiments table --shards shards
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastretina import cli
from fastretina.options import LoaderName
from fastretina.recipe import Recipe
from loaders.errors import RunError

if TYPE_CHECKING:
    from fastretina.experiment.cells import Plan

PROG = "python -m fastretina.experiments"
ABOUT = f"""Train and compare many runs: table (the course report's comparison of
ResNet18/50 with and without ImageNet weights), ablations (what the report tried and
gave up), strong (recipe strong against recipe seed, by image and by patient). Killed at
any moment, the same command goes on where it was; what is finished is not done again.
Any flag of a recipe can be given, too, and counts for all runs, e.g. --image-size 128:
see python -m fastretina.train --help.

Example: {PROG} table --shards shards --budget small --seeds 3
"""
_RECIPE = {field.name: field for field in fields(Recipe)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Flags of ``fastretina.experiments``.

    Attributes:
        name: The experiment: table, ablations or strong.
        shards: The data set, written by scripts/shard.py.
        out: Folder of the runs and results; by default experiments/NAME.
        budget: full trains as the recipes say. small has 0.4 of the epochs, 128 pixels
            and 1,000 images, for a CPU; tiny only shows that it works.
        seeds: Runs of each cell: they give a mean and a spread.
        dry_run: Say what would be trained and how long it would take here, and stop.
        pretrained: Folder with resnet18 and resnet50 as .pth or .safetensors, in place
            of torchvision's ImageNet weights.
        loader: Who decodes, as in fastretina.train.
        workers: Threads or processes that decode.
        device: auto, cpu, cuda, cuda:N or mps.
        threads: Threads that compute on a CPU.
    """

    name: Annotated[
        Positional[Literal["table", "ablations", "strong"]],
        arg(metavar="NAME"),
    ]
    shards: Annotated[str, arg(metavar="PATH")] = "shards"
    out: Path | None = None
    budget: Literal["full", "small", "tiny"] = "full"
    seeds: int = 1
    dry_run: FlagCreatePairsOff[bool] = False
    pretrained: Annotated[Path | None, arg(metavar="DIR")] = None
    loader: LoaderName = "auto"
    workers: int | None = None
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, low in (("seeds", 1), ("workers", 0), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"--{name} must be at least {low}, got {value}")

    @property
    def folder(self) -> Path:
        """Of the experiment."""
        return self.out or Path("experiments") / self.name


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; see ``--help``."""
    words = list(sys.argv[1:] if argv is None else argv)
    own, recipe_words = split_words(words)

    def run(options: Options) -> dict[str, Any]:
        return command(options, recipe_words)

    return cli.run(run, Options, own, prog=prog, about=ABOUT)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of this command's own flags, and those that name recipe fields."""
    own: list[str] = []
    recipe: list[str] = []
    rest = iter(words)
    for word in rest:
        name = field_of(word)
        if name is None:
            own.append(word)
            continue
        recipe.append(word)
        takes_value = _RECIPE[name].type != "bool" and "=" not in word
        if takes_value and (value := next(rest, None)) is not None:
            recipe.append(value)
    return own, recipe


def field_of(word: str) -> str | None:
    """The recipe's field that a flag sets, if it is one of its flags."""
    if not word.startswith("--"):
        return None
    name = word[2:].partition("=")[0].replace("-", "_")
    for candidate in (name, name.removeprefix("no_")):
        if candidate in _RECIPE:
            return candidate
    return None


def command(options: Options, recipe_words: Sequence[str] = ()) -> dict[str, Any]:
    """Train what is not trained yet, compare, and report.

    Args:
        options: of the command.
        recipe_words: flags of the recipe, for all cells.

    Raises:
        DataError: the data or the folder can't be used; or, after all others are done
            and reported, some cells have failed.
        KeyboardInterrupt: after the run in progress has saved.
    """
    import torch

    from fastretina.device import choose
    from fastretina.experiment.estimate import estimate
    from fastretina.experiment.series import Series
    from fastretina.experiment.telling import planned
    from loaders.shards import open_split

    with open_split(options.shards, "train") as train:
        num_train, pixels = len(train), max(max(train.dimensions))
    with open_split(options.shards, "test") as test:
        num_test = len(test)
    plan = make_plan(options, recipe_words, pixels)
    if options.threads:
        torch.set_num_threads(options.threads)
    compute = choose(options.device, plan.cells[0].recipe.amp)
    seconds = estimate(plan.trained, pixels, num_train, num_test, compute)
    if options.dry_run:
        print(planned(plan, seconds, options.seeds))
        total = options.seeds * sum(seconds.values())
        return {
            "experiment": plan.name,
            "runs": options.seeds * len(plan.trained),
            "estimated_seconds": round(total),
        }
    options.folder.mkdir(parents=True, exist_ok=True)
    with _alone(options.folder):
        series = Series(plan, options, seconds)
        _claim(options, plan)
        series.train()
        return series.report()


def make_plan(options: Options, recipe_words: Sequence[str], pixels: int) -> Plan:
    """The experiment's cells, within the budget and with the user's flags.

    Raises:
        WrongUsage: a flag is one that the cells set themselves, or can't be meant.
        WeightsError: ``--pretrained`` holds no weights of a network that is asked for.
    """
    from fastretina.experiment.budget import BUDGETS
    from fastretina.experiment.plans import PLANS
    from fastretina.experiment.weights import with_pretrained

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
    from fastretina.evidence.baselines import Eyes, leak
    from loaders.shards import open_split

    with open_split(shards, "train") as train, open_split(shards, "test") as test:
        return leak(Eyes.of(train), Eyes.of(test)).eyes > 0


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise RunError(
            f"another process is at work in {folder}; wait for it to end"
        ) from None


def _claim(options: Options, plan: Plan) -> None:
    """Refuse a folder that holds an experiment with other settings."""
    from loaders._files import write_atomically

    settings = {
        "experiment": plan.name,
        "shards": options.shards,
        "cells": {cell.name: asdict(cell.recipe) for cell in plan.cells},
    }
    path = options.folder / "settings.json"
    text = json.dumps(settings, indent=1) + "\n"
    if not path.exists():
        write_atomically(path, text)
        return
    try:
        before = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): choose another --out") from error
    if before != json.loads(text):
        what = _changed(before, json.loads(text))
        raise RunError(
            f"{options.folder} holds an experiment with other settings ({what}): "
            "choose another --out"
        )


def _changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first setting that differs, for people."""
    for key in ("experiment", "shards"):
        if before.get(key) != now[key]:
            return f"{key} was {before.get(key)}, is {now[key]}"
    for name, recipe in now["cells"].items():
        old = before["cells"].get(name)
        if old is None:
            return f"no cell {name} then"
        for key, value in recipe.items():
            if old.get(key) != value:
                flag = key.replace("_", "-")
                return f"{name}: --{flag} was {old.get(key)}, is {value}"
    return "other cells"


if __name__ == "__main__":
    sys.exit(main())
