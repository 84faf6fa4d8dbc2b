"""The flags of ``fastretina experiments``, and which words are a recipe's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from fastretina.data.loading import DEFAULT_LOADING, LoadingOptions
from fastretina.experiments.budget import BudgetName
from fastretina.recipe import Recipe

_RECIPE = {field.name: field for field in fields(Recipe)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Flags of ``fastretina experiments``.

    Attributes:
        name: The experiment: table, ablations or strong.
        shards: The data set, written by fastretina shard.
        out: Folder of the runs and results; by default experiments/NAME.
        budget: full trains as the recipes say. small has 0.4 of the epochs, 128 pixels
            and 1,000 images, for a CPU; tiny only shows that it works.
        seeds: Runs of each cell: they give a mean and a spread.
        dry_run: Say what would be trained and how long it would take here, and stop.
        pretrained: Folder with resnet18 and resnet50 as .pth or .safetensors, in place
            of torchvision's ImageNet weights.
        loading: How batches are made, as in fastretina train.
        device: auto, cpu, cuda, cuda:N or mps.
        threads: Threads that compute on a CPU.
    """

    name: Annotated[
        Positional[Literal["table", "ablations", "strong"]],
        arg(metavar="NAME"),
    ]
    shards: Annotated[str, arg(metavar="PATH")] = "shards"
    out: Path | None = None
    budget: BudgetName = "full"
    seeds: int = 1
    dry_run: FlagCreatePairsOff[bool] = False
    pretrained: Annotated[Path | None, arg(metavar="DIR")] = None
    loading: OmitArgPrefixes[LoadingOptions] = DEFAULT_LOADING
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, got {self.seeds}")
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise ValueError(f"--threads must lie in 1 to 1,024, got {self.threads:,}")
        if self.out is not None and self.out.is_file():
            raise ValueError(f"--out must be a folder, got the file {self.out}")

    @property
    def folder(self) -> Path:
        """The experiment's folder: ``--out``, or experiments/NAME."""
        return self.out or Path("experiments") / self.name


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
