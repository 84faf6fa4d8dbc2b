"""``fastretina.report`` of an experiment: its cells, comparisons and figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_pages import Page, write_experiment
from reported_runs import edit
from small_runs import Outcome

Reports = Callable[..., Outcome]


@pytest.fixture
def experiment(finished: Path, tmp_path: Path) -> Path:
    return write_experiment(tmp_path / "experiment", finished)


def test_experiment_shows_cells_comparisons_figures_and_links(
    experiment: Path, reports: Reports
):
    outcome = reports(experiment)
    result = outcome.json
    assert (result["of"], result["cells"], result["done"]) == ("experiment", 4, 2)
    assert (result["figures"], result["comparisons"]) == (1, 2)
    assert result["bytes"] == (experiment / "report.html").stat().st_size
    page = Page(experiment / "report.html")
    assert "80.0% ± 1.0 [78.0, 82.0]" in page.words
    assert "Highest QWK: Cell a, 0.820 [0.800, 0.840]" in page.words
    assert "4 cells: 2 done, 1 failed, 1 waiting" in page.words
    assert "qwk: a is better" in page.words
    assert "+0.030 [+0.010, +0.050]" in page.words
    assert "81.6%" in page.words
    links = [link["href"] for link in page.all("a") if "report" in (link["href"] or "")]
    assert links == ["a%20cell/seed-0/report.html"]
    assert [each["alt"] for each in page.all("img")] == ["Bars."]
    assert len(page.all("script")) == 1
    assert "<script>document" not in page.raw
    noise = [e for e in page.all("td") if (e.get("class") or "").endswith("noise")]
    assert len(noise) == 1


def test_experiment_names_each_figure_that_it_lacks(experiment: Path, reports: Reports):
    outcome = reports(experiment)
    assert [line.partition(" is left out: ")[2] for line in outcome.err] == [
        "it is no image.",
        "no such file or directory.",
        "it lies outside of the experiment's folder.",
    ]


def test_experiment_links_are_relative_to_where_the_page_lies(
    experiment: Path, tmp_path: Path, reports: Reports
):
    reports(experiment, "--out", tmp_path / "page.html")
    links = [link["href"] for link in Page(tmp_path / "page.html").all("a")]
    assert "experiment/a%20cell/seed-0/report.html" in links


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"cells": None}, "`$.cells`"),
        ({"cells": [{"title": "no id"}]}, "`cell` - at `$.cells[0]`"),
        ({"seeds": "many"}, "`$.seeds`"),
        ({"seeds": True}, "`$.seeds`"),
        ({"title": 3}, "Expected `str`, got `int` - at `$.title`"),
        ({"comparisons": [{"first": "a"}]}, "`second` - at `$.comparisons[0]`"),
        ({"figures": ["x.png"]}, "`$.figures[0]`"),
        (
            {"reference": {"about": "", "rows": [{"title": "x", "accuracy": "high"}]}},
            "got `str` - at `$.reference.rows[0].accuracy`",
        ),
    ],
)
def test_damaged_experiment_is_one_line(
    experiment: Path, reports: Reports, changes: dict[str, Any], word: str
):
    edit(experiment / "experiment.json", **changes)
    outcome = reports(experiment)
    assert outcome.code == 1
    assert f"{experiment / 'experiment.json'} is damaged" in outcome.complaint
    assert word in outcome.complaint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", "high"),
        ("interval", [0.1]),
        ("interval", [0.1, 0.2, 0.3]),
        ("interval", [0.1, None]),
        ("by_seed", [True]),
    ],
)
def test_damaged_score_of_an_experiment_is_named(
    experiment: Path, reports: Reports, name: str, value: object
):
    path = experiment / "experiment.json"
    cells = json.loads(path.read_text())["cells"]
    cells[0]["scores"]["qwk"][name] = value
    edit(path, cells=cells)
    complaint = reports(experiment).complaint
    assert complaint.startswith(f"error: {path} is damaged")
    assert f"`$.cells[0].scores[...].{name}" in complaint


@pytest.mark.parametrize("content", ["", "{", "[]", "3"])
def test_experiment_file_of_no_object_is_one_line(
    experiment: Path, reports: Reports, content: str
):
    (experiment / "experiment.json").write_text(content)
    assert "experiment.json is damaged" in reports(experiment).complaint
