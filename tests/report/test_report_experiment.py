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
    assert (
        "Highest QWK: Cell a, 0.820 [0.800, 0.840]; left out, as collapsed to one "
        "grade: Cell b" in page.words
    )
    assert (
        "4 cells: 2 done, 1 failed, 1 waiting; 2 seeds each, of which 2 of 8 are "
        in (page.words)
    )
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


def test_collapsed_cell_is_never_the_best(experiment: Path, reports: Reports):
    path = experiment / "experiment.json"
    cells = json.loads(path.read_text())["cells"]
    for score in cells[1]["scores"].values():
        score["mean"] = 0.95
    edit(path, cells=cells)
    reports(experiment)
    assert "Highest QWK: Cell a, 0.820" in Page(experiment / "report.html").words
    cells[0]["collapse"] = "constant predictor"
    edit(path, cells=cells)
    reports(experiment)
    words = Page(experiment / "report.html").words
    assert "Best None; left out, as collapsed to one grade: Cell a, Cell b" in words
    assert "Highest" not in words


def test_score_of_one_grade_for_all_is_not_clear_on_the_page(
    experiment: Path, reports: Reports
):
    changed(experiment, "comparisons", by_one_grade=True)
    reports(experiment)
    page = Page(experiment / "report.html")
    assert "No difference is: all are of one grade for all, which is no merit." in (
        page.words
    )
    classes = [each.get("class") or "" for each in page.all("td")]
    assert not [each for each in classes if each.endswith(" clear")]


def test_cells_that_failed_or_wait_explain_nothing(experiment: Path, reports: Reports):
    reports(experiment)
    words = Page(experiment / "report.html").words
    assert "failed: the loss is nan" in words
    assert words.count("Why.") == 2  # of the two that have run
    changed(experiment, "cells", state="failed")
    reports(experiment)
    assert "Why." not in Page(experiment / "report.html").words


def test_exact_interval_of_a_cell_is_marked(experiment: Path, reports: Reports):
    path = experiment / "experiment.json"
    cells = json.loads(path.read_text())["cells"]
    cells[0]["scores"]["accuracy"]["exact"] = True
    edit(path, cells=cells)
    reports(experiment)
    assert "80.0% ± 1.0 [78.0, 82.0] exact" in Page(experiment / "report.html").words


def test_experiment_names_each_figure_that_it_lacks(experiment: Path, reports: Reports):
    outcome = reports(experiment)
    assert [line.partition(" is left out: ")[2] for line in outcome.err] == [
        "it is no PNG.",
        "no such file or directory.",
        "it lies outside of the experiment's folder.",
    ]


def changed(experiment: Path, name: str, **values: object) -> None:
    """Change all of an experiment's cells or comparisons."""
    path = experiment / "experiment.json"
    each = json.loads(path.read_text())[name]
    edit(path, **{name: [one | values for one in each]})


QWK = {
    "statistic": "qwk",
    "clear": False,
    "verdict": "",
    "first": "a",
    "second": "b",
    "why": "",
    "value": 0.03,
    "interval": [-0.01, 0.07],
    "by_seed": [0.02, 0.04],
    "mcnemar_p": None,
}
FEW, UNDEFINED = QWK | {"interval": None}, QWK | {"interval": None, "value": None}


@pytest.mark.parametrize(
    ("comparisons", "sentence"),
    [
        ([QWK, QWK], "No difference is: all are inside the noise."),
        ([FEW], "No difference is: all are of too few patients to tell."),
        (
            [UNDEFINED],
            "No difference is: all are undefined, as there is one grade alone.",
        ),
        (
            [QWK, FEW, QWK, UNDEFINED],
            "No difference is: 2 are inside the noise; 1 is of too few patients to "
            "tell; 1 is undefined, as there is one grade alone.",
        ),
        ([QWK | {"statistic": "accuracy"}], "No difference was measured."),
    ],
)
def test_experiment_says_why_nothing_is_clear(
    experiment: Path,
    reports: Reports,
    comparisons: list[dict[str, object]],
    sentence: str,
):
    edit(experiment / "experiment.json", comparisons=comparisons)
    reports(experiment)
    assert sentence in Page(experiment / "report.html").words


def test_experiment_says_how_many_seeds_each_cell_has(
    experiment: Path, reports: Reports
):
    edit(experiment / "experiment.json", seeds=3)
    changed(experiment, "cells", state="begun", runs=["r/a-seed1"], seeds=[1])
    reports(experiment)
    words = Page(experiment / "report.html").words
    assert "4 cells: 4 begun; 3 seeds each, of which 4 of 12 are finished" in words
    assert words.count("1 of 3 seeds") == 5  # the best one's as well
    changed(experiment, "cells", state="done", runs=["r/a", "r/b", "r/c"])
    reports(experiment)
    words = Page(experiment / "report.html").words
    assert "4 cells: 4 done; 3 seeds each" in words
    assert "of 3 seeds" not in words


def test_experiment_of_one_seed_says_what_its_intervals_leave_out(
    experiment: Path, reports: Reports
):
    caveat = "compared by one seed: the intervals are over patients alone"
    reports(experiment)
    assert caveat not in Page(experiment / "report.html").words
    changed(experiment, "comparisons", by_seed=[0.03])
    reports(experiment)
    assert f"All pairs are {caveat}" in Page(experiment / "report.html").words
    two = [QWK | {"by_seed": [0.03]}, QWK | {"second": "c"}]
    edit(experiment / "experiment.json", comparisons=two)
    reports(experiment)
    assert f"1 of 2 pairs are {caveat}" in Page(experiment / "report.html").words


def test_experiment_shows_what_its_comparisons_leave_out(
    experiment: Path, reports: Reports
):
    edit(experiment / "experiment.json", notes=["A against B: seed 0 is left out."])
    reports(experiment)
    page = Page(experiment / "report.html")
    assert "A against B: seed 0 is left out." in page.words


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
