"""An experiment's file, checked: cells, comparisons, a reference, figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loaders.errors import RunError

FILE = "experiment.json"
SCORES = (
    ("accuracy", "Accuracy", ".1%"),
    ("balanced_accuracy", "Balanced accuracy", ".1%"),
    ("qwk", "QWK", ".3f"),
    ("macro_f1", "Macro-F1", ".3f"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """What ``experiment.json`` says.

    Attributes:
        folder: that holds it.
        name: of the experiment.
        title: for people.
        about: what is asked, in sentences.
        budget: what each cell was given.
        seeds: runs of each cell.
        cells: that are compared; of one that is not done, little is there.
        comparisons: of pairs of cells.
        reference: numbers of others, to set beside; or None.
        figures: file (relative to the folder), alt and caption.
    """

    folder: Path
    name: str
    title: str
    about: str
    budget: str
    seeds: int
    cells: Sequence[Mapping[str, Any]]
    comparisons: Sequence[Mapping[str, Any]]
    reference: Mapping[str, Any] | None
    figures: Sequence[Mapping[str, Any]]


def read_experiment(folder: Path) -> Experiment:
    """Read ``experiment.json``.

    Raises:
        RunError: it is damaged.
    """
    path = folder / FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Experiment(
            folder=folder,
            name=_text(raw, "experiment"),
            title=_text(raw, "title"),
            about=_text(raw, "about"),
            budget=_text(raw, "budget"),
            seeds=int(raw["seeds"]),
            cells=[_cell(each) for each in raw["cells"]],
            comparisons=[_comparison(each) for each in raw.get("comparisons") or []],
            reference=_reference(raw.get("reference")),
            figures=[_figure(each) for each in raw.get("figures") or []],
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged ({error})") from error
    except KeyError as error:
        raise RunError(f"{path} is damaged: no {error.args[0]!r}") from error


def _text(raw: Mapping[str, Any], name: str) -> str:
    value = raw[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, got {value!r}")
    return value


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"a score must be a number, got {value!r}")
    return float(value)


def _interval(value: object) -> list[float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"an interval must be [low, high], got {value!r}")
    low, high = map(_number, value)
    return None if low is None or high is None else [low, high]


def _cell(raw: Mapping[str, Any]) -> dict[str, Any]:
    scores = {
        name: {
            "mean": _number(found.get("mean")),
            "spread": _number(found.get("spread")),
            "interval": _interval(found.get("interval")),
        }
        for name, found in (raw.get("scores") or {}).items()
    }
    return {
        "cell": _text(raw, "cell"),
        "title": str(raw.get("title") or raw["cell"]),
        "group": str(raw.get("group") or ""),
        "why": str(raw.get("why") or ""),
        "state": str(raw.get("state") or "waiting"),
        "error": raw.get("error"),
        "parameters": _number(raw.get("parameters")),
        "seconds": _number(raw.get("seconds")),
        "runs": [str(run) for run in raw.get("runs") or []],
        "scores": scores,
        "collapse": raw.get("collapse"),
    }


def _comparison(raw: Mapping[str, Any]) -> dict[str, Any]:
    by_seed = [
        value
        for each in raw.get("by_seed") or []
        if (value := _number(each)) is not None
    ]
    return {
        "first": _text(raw, "first"),
        "second": _text(raw, "second"),
        "statistic": str(raw.get("statistic") or ""),
        "value": _number(raw.get("value")),
        "interval": _interval(raw.get("interval")),
        "by_seed": by_seed,
        "mcnemar_p": _number(raw.get("mcnemar_p")),
        "verdict": str(raw.get("verdict") or ""),
        "clear": bool(raw.get("clear")),
        "why": str(raw.get("why") or ""),
    }


def _reference(raw: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not raw:
        return None
    rows = [
        {
            "title": str(row["title"]),
            **{name: _number(row.get(name)) for name, _, _ in SCORES},
        }
        for row in raw.get("rows") or []
    ]
    return {"about": str(raw.get("about") or ""), "rows": rows}


def _figure(raw: Mapping[str, Any]) -> dict[str, str]:
    return {
        "file": _text(raw, "file"),
        "alt": _text(raw, "alt"),
        "caption": str(raw.get("caption") or ""),
    }
