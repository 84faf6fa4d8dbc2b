"""What a page of ``fastretina.report`` holds, and an experiment to make one of."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from fastretina.report.experiment_file import (
    CellResult,
    Comparison,
    ExperimentResult,
    Figure,
    Reference,
    ReferenceRow,
    Score,
)

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

    def scores(*means: float) -> dict[str, Score]:
        return {
            name: Score(
                mean=mean,
                spread=0.01,
                by_seed=[mean - 0.01, mean + 0.01],
                interval=(mean - 0.02, mean + 0.02),
            )
            for name, mean in zip(names, means, strict=True)
        }

    def cell(name: str, **more: Any) -> CellResult:
        empty = dict.fromkeys(CellResult.__slots__)
        texts = {"cell": name, "title": f"Cell {name}", "group": "g", "why": "Why."}
        return CellResult(**{**empty, **texts, "state": "done", "runs": [], **more})

    def difference(statistic: str, clear: bool) -> Comparison:
        return Comparison(
            first="a",
            second="b",
            why="Does it help?",
            statistic=statistic,
            value=0.03,
            interval=(0.01, 0.05) if clear else (-0.01, 0.07),
            by_seed=[0.02, 0.04],
            mcnemar_p=None,
            verdict=f"{statistic}: {'a is better' if clear else 'inside the noise'}",
            clear=clear,
        )

    names = ("accuracy", "balanced_accuracy", "qwk", "macro_f1")
    content = ExperimentResult(
        experiment="course",
        title=f"Again {HOSTILE}",
        about="What is asked.",
        budget="15 epochs",
        seeds=2,
        shards="shards",
        date="2026-01-01 12:00",
        seconds=90.0,
        cells=[
            cell(
                "a",
                runs=["a cell/seed-0", "a cell/seed-1"],
                scores=scores(0.8, 0.81, 0.82, 0.83),
                parameters=11_179_077,
                seconds=90.0,
            ),
            cell("b", scores=scores(*[0.7] * 4), collapse="constant predictor"),
            cell("c", state="failed", error=f"the loss is nan {HOSTILE}"),
            cell("d", state="waiting"),
        ],
        comparisons=[difference("qwk", True), difference("accuracy", False)],
        reference=Reference("Printed.", [ReferenceRow("R", 0.8162)]),
        figures=[
            Figure(file="bars.png", alt="Bars.", caption="How fast."),
            Figure(file="bad.png", alt="?", caption="?"),
            Figure(file="gone.png", alt="?", caption="?"),
            Figure(file="../../etc/x.png", alt="?", caption="?"),
        ],
    )
    (folder / "experiment.json").write_text(json.dumps(asdict(content)))
    return folder
