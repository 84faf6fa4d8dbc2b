"""An experiment in words: what will be trained, and what came of it, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from fastretina.experiments.cells import GIVEN, Plan
from fastretina.experiments.variants import VARIANTS
from fastretina.formatting import format_duration, format_interval
from fastretina.recipe import RECIPES, Recipe

_COLUMNS = (
    ("accuracy", "accuracy", ".1%"),
    ("balanced_accuracy", "balanced accuracy", ".1%"),
    ("qwk", "QWK", ".3f"),
)


def planned(plan: Plan, seconds: Mapping[str, float], seeds: int) -> str:
    """The runs that there would be, with their time.

    Args:
        plan: of the experiment.
        seconds: of one run of each cell.
        seeds: runs of each.
    """
    lines = [f"{plan.title}: {len(plan.trained) * seeds} runs"]
    for cell in plan.trained:
        recipe = cell.recipe
        words = " ".join(differences(recipe, RECIPES[recipe.recipe]))
        times = f"{seeds} x " if seeds > 1 else ""
        lines.append(f"  {cell.name}: {times}{format_duration(seconds[cell.name])}")
        lines.append(f"      --recipe {recipe.recipe} {words}".rstrip())
        if cell.data != GIVEN:
            both = "train and test" if cell.test == cell.data else "train"
            lines.append(f"      {both}: {VARIANTS[cell.data]}")
    total = seeds * sum(seconds.values())
    lines.append(f"in all about {format_duration(total)}, loading not counted")
    return "\n".join(lines)


def differences(recipe: Recipe, base: Recipe) -> list[str]:
    """The flags that make ``recipe`` of ``base``."""
    words = []
    for field in fields(Recipe):
        value = getattr(recipe, field.name)
        if value == getattr(base, field.name):
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words.append(f"--{flag} {value}")
    return words


def table(found: Mapping[str, Any]) -> str:
    """The whole result as Markdown, for the terminal and for ``table.md``."""
    lines = [f"## {found['title']}", "", found["about"], ""]
    lines += _cells(found)
    lines += _collapses(found["cells"])
    lines += _reference(found)
    lines += _comparisons(found)
    lines += _whys(found["cells"])
    return "\n".join(lines)


def _cells(found: Mapping[str, Any]) -> list[str]:
    several = found["seeds"] > 1
    names = [name for _, name, _ in _COLUMNS]
    head = ["", *names, "best epoch on test*", "parameters", "wall time, s"]
    rows = [
        [
            cell["title"],
            *(_score(cell, key, form, several) for key, _, form in _COLUMNS),
            _or_dash(cell["best_on_test"], ".1%"),
            _or_dash(cell["parameters"], ","),
            _or_dash(cell["seconds"], ",.0f"),
        ]
        for cell in found["cells"]
    ]
    spread = ", after it the spread of the seeds" if several else ""
    return [
        *_markdown(head, rows),
        "",
        f"Budget {found['budget']}, {_counted(found['seeds'])}; in brackets 95 % "
        f"intervals over test patients{spread}. *What choosing the epoch on test, as "
        "the report did, would have printed.",
    ]


def _counted(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def _score(cell: Mapping[str, Any], key: str, form: str, several: bool) -> str:
    if cell["scores"] is None:
        return cell["state"] if key == "accuracy" else "-"
    score = cell["scores"][key]
    text = format_interval(score["mean"], score["interval"], form)
    if not several or score["spread"] is None:
        return text
    return f"{text} ± {score['spread']:{form}}"


def _collapses(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    fallen = [cell for cell in cells if cell["collapse"]]
    failed = [cell for cell in cells if cell["error"]]
    lines = [f"- {cell['title']}: {cell['collapse']}" for cell in fallen]
    lines += [f"- {cell['title']}: failed: {cell['error']}" for cell in failed]
    return ["", *lines] if lines else []


def _reference(found: Mapping[str, Any]) -> list[str]:
    if not found["reference"]:
        return []
    rows = [
        [row["title"], format(row["accuracy"], ".2%")]
        for row in found["reference"]["rows"]
    ]
    about = found["reference"]["about"]
    return ["", f"Beside it, {about}:", "", *_markdown(["", "accuracy"], rows)]


def _comparisons(found: Mapping[str, Any]) -> list[str]:
    """A line for each pair: the differences, and what they say."""
    if not found["comparisons"]:
        return []
    titles = {cell["cell"]: cell["title"] for cell in found["cells"]}
    pairs: dict[tuple[str, str], dict[str, Any]] = {}
    for each in found["comparisons"]:
        pair = pairs.setdefault((each["first"], each["second"]), {})
        pair[each["statistic"]] = each
    head = ["", *(name for _, name, _ in _COLUMNS), "McNemar's p", "verdict"]
    rows = [
        [
            f"*{titles[first]}* against *{titles[second]}*",
            *(_difference(of[key]) for key, _, _ in _COLUMNS),
            _chance(of["accuracy"]["mcnemar_p"]),
            _verdict([of[key] for key, _, _ in _COLUMNS]),
        ]
        for (first, second), of in pairs.items()
    ]
    return ["", "Compared on the same test images:", "", *_markdown(head, rows)]


def _difference(each: Mapping[str, Any]) -> str:
    return format_interval(each["value"], each["interval"], "+.3f")


def _verdict(each: Sequence[Mapping[str, Any]]) -> str:
    """Where the first is better or worse for sure; or that it is inside the noise."""
    names = {key: name for key, name, _ in _COLUMNS}
    clear = [one for one in each if one["clear"]]
    if not clear:
        return "inside the noise"
    parts = []
    for word, sign in (("better", 1), ("worse", -1)):
        in_it = [names[one["statistic"]] for one in clear if one["value"] * sign > 0]
        if in_it:
            parts.append(f"{word} in {_listed(in_it)}")
    return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _chance(p: float) -> str:
    return "< 0.001" if p < 0.001 else format(p, ".3f")


def _whys(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    return ["", "### Why", "", *(f"- {cell['title']}: {cell['why']}" for cell in cells)]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(head)
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
