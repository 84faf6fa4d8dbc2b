"""An experiment in words: what will be trained, and what came of it, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

from fastretina.experiments.cells import GIVEN, ExperimentPlan
from fastretina.experiments.variants import VARIANTS
from fastretina.formatting import format_duration, format_interval, format_p
from fastretina.recipe import RECIPES, Recipe
from fastretina.report.experiment_file import (
    CellResult,
    Comparison,
    ExperimentResult,
    Reference,
)

_COLUMNS = (
    ("accuracy", "accuracy", ".1%"),
    ("balanced_accuracy", "balanced accuracy", ".1%"),
    ("qwk", "QWK", ".3f"),
)


def format_plan(plan: ExperimentPlan, seconds: Mapping[str, float], seeds: int) -> str:
    """The runs that there would be, with their time.

    Args:
        plan: the experiment.
        seconds: what one run of each cell takes, by the cell's name.
        seeds: runs of each cell.
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
    """The flags that turn ``base`` into ``recipe``."""
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


def format_result(result: ExperimentResult) -> str:
    """The whole result as Markdown, for the terminal and for ``table.md``."""
    lines = [f"## {result.title}", "", result.about, ""]
    lines += _cells(result)
    lines += _collapses(result.cells)
    lines += _reference(result.reference)
    lines += _comparisons(result)
    lines += _notes(result.notes)
    lines += _whys(result.cells)
    return "\n".join(lines)


def _cells(result: ExperimentResult) -> list[str]:
    several = result.seeds > 1
    scores = [each for cell in result.cells for each in (cell.scores or {}).values()]
    few = any(score.exact for score in scores)
    names = [name for _, name, _ in _COLUMNS]
    head = ["", *names, "best epoch on test*", "parameters", "wall time, s"]
    rows = [
        [
            cell.title + _format_seeds(cell, result.seeds),
            *(_format_score(cell, key, form, several) for key, _, form in _COLUMNS),
            _or_dash(cell.best_on_test, ".1%"),
            _or_dash(cell.parameters, ","),
            _or_dash(cell.seconds, ",.0f"),
        ]
        for cell in result.cells
    ]
    exact = ", exact ones (Clopper-Pearson) where cases are few" if few else ""
    spread = ", after it the spread of the seeds" if several else ""
    mean = ", as a mean over the seeds" if several else ""
    return [
        *_markdown(head, rows),
        "",
        f"Budget {result.budget}, {_count_seeds(result.seeds)}; in brackets 95 % "
        f"intervals over test patients{exact}{spread}. *What choosing the epoch on "
        f"test, as the report did, would have printed{mean}.",
    ]


def _count_seeds(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def _format_seeds(cell: CellResult, asked: int) -> str:
    """How many seeds the cell's line is of, where it is not all of them."""
    finished = len(cell.runs)
    return f" ({finished} of {asked} seeds)" if 0 < finished < asked else ""


def _format_score(cell: CellResult, key: str, form: str, several: bool) -> str:
    if cell.scores is None:
        return cell.state if key == "accuracy" else "-"
    score = cell.scores[key]
    text = format_interval(score.mean, score.interval, form, exact=score.exact)
    if not several or score.spread is None:
        return text
    return f"{text} ± {score.spread:{form}}"


def _collapses(cells: Sequence[CellResult]) -> list[str]:
    lines = [f"- {cell.title}: {cell.collapse}" for cell in cells if cell.collapse]
    lines += [f"- {cell.title}: failed: {cell.error}" for cell in cells if cell.error]
    return ["", *lines] if lines else []


def _reference(reference: Reference | None) -> list[str]:
    if reference is None:
        return []
    rows = [[row.title, format(row.accuracy, ".2%")] for row in reference.rows]
    return [
        "",
        f"Beside it, {reference.about}:",
        "",
        *_markdown(["", "accuracy"], rows),
    ]


def _comparisons(result: ExperimentResult) -> list[str]:
    """A line for each pair: its differences, and which of them are clear."""
    if not result.comparisons:
        return []
    titles = {cell.cell: cell.title for cell in result.cells}
    pairs: dict[tuple[str, str], dict[str, Comparison]] = {}
    for each in result.comparisons:
        pairs.setdefault((each.first, each.second), {})[each.statistic] = each
    head = ["", *(name for _, name, _ in _COLUMNS), "McNemar's p", "verdict"]
    rows = [
        [
            f"*{titles[first]}* against *{titles[second]}*",
            *(_format_difference(by_statistic[key]) for key, _, _ in _COLUMNS),
            format_p(by_statistic["accuracy"].mcnemar_p),
            _verdict([by_statistic[key] for key, _, _ in _COLUMNS]),
        ]
        for (first, second), by_statistic in pairs.items()
    ]
    lines = ["", "Compared on the same test images:", "", *_markdown(head, rows)]
    return [*lines, "", result.seed_caveat] if result.seed_caveat else lines


def _notes(notes: Sequence[str]) -> list[str]:
    return ["", *(f"- {note}" for note in notes)] if notes else []


def _format_difference(comparison: Comparison) -> str:
    return format_interval(comparison.value, comparison.interval, "+.3f")


def _verdict(comparisons: Sequence[Comparison]) -> str:
    """Where the first cell is clearly better or worse; or that nowhere it is."""
    if all(each.interval is None for each in comparisons):
        return "too few patients to tell"
    names = {key: name for key, name, _ in _COLUMNS}
    clear = [each for each in comparisons if each.clear]
    if not clear:
        return "inside the noise"
    parts = []
    for text, sign, by_one_grade in (
        ("better in {}", 1, False),
        ("worse in {}", -1, False),
        ("higher in {}, but gives one grade to all", 1, True),
        ("lower in {} than one grade for all", -1, True),
    ):
        where = [
            names[each.statistic]
            for each in clear
            if each.by_one_grade == by_one_grade and (each.value or 0) * sign > 0
        ]
        if where:
            parts.append(text.format(_enumerate(where)))
    return "; ".join(parts)


def _enumerate(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _whys(cells: Sequence[CellResult]) -> list[str]:
    lines = [f"- {cell.title}: {cell.why}" for cell in cells if cell.why]
    return ["", "### Why", "", *lines] if lines else []


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(head)
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
