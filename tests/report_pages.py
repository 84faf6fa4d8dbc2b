"""What a page of ``fastretina.report`` holds, and an experiment to make one of."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

FIGURES = {
    "confusion_counts",
    "confusion_shares",
    "roc_grades",
    "roc_cuts",
    "reliability",
    "curve_loss",
    "curve_accuracy",
    "curve_qwk",
    "speed",
}
HOSTILE = "</script><script>document.title='gotcha'</script><img src=x onerror=boom()>"


class Page(HTMLParser):
    """What of a page can be asked without a browser."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.raw = path.read_text()
        self.feed(self.raw)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def write_experiment(folder: Path, run: Path) -> Path:
    """Of four cells, of which one failed, one waits and one has a run with a page.

    Args:
        folder: to make.
        run: that was reported.
    """
    folder.mkdir()
    shutil.copytree(run, folder / "a cell" / "seed-0")
    shutil.copy(run / "figures" / "speed.png", folder / "bars.png")
    (folder / "bad.png").write_text("no image")

    def score(mean: float) -> dict[str, Any]:
        return {"mean": mean, "spread": 0.01, "interval": [mean - 0.02, mean + 0.02]}

    def cell(name: str, **more: Any) -> dict[str, Any]:
        empty = {"error": None, "parameters": None, "seconds": None, "collapse": None}
        names = {"cell": name, "title": f"Cell {name}", "group": "g", "why": "Why."}
        return {**names, **empty, "state": "done", "runs": [], "scores": {}, **more}

    def difference(statistic: str, clear: bool) -> dict[str, Any]:
        return {
            "first": "a",
            "second": "b",
            "statistic": statistic,
            "value": 0.03,
            "interval": [0.01, 0.05] if clear else [-0.01, 0.07],
            "by_seed": [0.02, 0.04],
            "mcnemar_p": None,
            "verdict": f"{statistic}: {'a is better' if clear else 'inside the noise'}",
            "clear": clear,
            "why": "Does it help?",
        }

    names = ("accuracy", "balanced_accuracy", "qwk", "macro_f1")
    cells = [
        cell(
            "a",
            runs=["a cell/seed-0", "a cell/seed-1"],
            scores={name: score(0.8 + n / 100) for n, name in enumerate(names)},
            parameters=11_179_077,
            seconds=90.0,
        ),
        cell("b", scores={n: score(0.7) for n in names}, collapse="constant predictor"),
        cell("c", state="failed", error=f"the loss is nan {HOSTILE}"),
        cell("d", state="waiting"),
    ]
    content = {
        "experiment": "course",
        "title": f"Again {HOSTILE}",
        "about": "What is asked.",
        "budget": "15 epochs",
        "seeds": 2,
        "cells": cells,
        "comparisons": [difference("qwk", True), difference("accuracy", False)],
        "reference": {
            "about": "Printed.",
            "rows": [{"title": "R", "accuracy": 0.8162}],
        },
        "figures": [
            {"file": "bars.png", "alt": "Bars.", "caption": "How fast."},
            {"file": "bad.png", "alt": "?", "caption": "?"},
            {"file": "gone.png", "alt": "?", "caption": "?"},
            {"file": "../../etc/x.png", "alt": "?", "caption": "?"},
        ],
    }
    (folder / "experiment.json").write_text(json.dumps(content))
    return folder
