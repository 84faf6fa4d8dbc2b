"""``fastretina.report``: a run's page, its figures and its model card."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
from base64 import b64decode
from collections.abc import Callable
from dataclasses import asdict, replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import markdown
import numpy as np
import pytest
from PIL import Image
from report_pages import FIGURES, HOSTILE, Page
from reported_runs import (
    SHA256,
    edit,
    log_rows,
    made_up_run,
    predicted,
    renamed,
    run_on,
    write_run,
)
from small_runs import Outcome, small_network

from fastretina.formatting import format_interval
from fastretina.metrics.predictions import Predictions
from fastretina.report import command as report
from fastretina.report.finished_run import FinishedRun, read_finished_run
from fastretina.report.grade_meanings import MEANINGS
from fastretina.report.headline import describe_model, describe_scores, warn
from fastretina.report.mistakes import distinct, list_mistakes
from fastretina.report.model_card import model_card, write_card
from fastretina.report.remarks import (
    describe_both_eyes,
    describe_calibration,
    describe_intervals,
)
from fastretina.report.run_page import Figures, ShownMistakes, run_page
from fastretina.report.samples import pack_samples
from fastretina.report.tables import environment
from fastretina.run import Run, as_record
from fastretina.run_config import RunConfig
from fastretina.run_result import RunResult
from loaders import open_split
from loaders.errors import RunError
from loaders.shards import Origin

Reports = Callable[..., Outcome]


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="module")
def figures(finished: Path) -> Figures:
    return Figures.of(read_finished_run(Run(finished)))


@pytest.fixture
def undrawn(figures: Figures, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the first run's figures, where it is not them that is asked about."""
    monkeypatch.setattr(Figures, "of", lambda _: figures)


def metrics(run: Path) -> dict[str, Any]:
    saved: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return saved


# What the page is made of


def mistakes_of(test: Predictions, number: int = 12) -> dict[str, list[int]]:
    """The places of the mistakes that are shown, by the list's id."""
    return {
        each.id: [mistake.place for mistake in each.shown]
        for each in list_mistakes(test, number)
    }


def test_mistakes_are_the_surest_ones_and_only_mistakes():
    test = predicted(200)
    surest = list_mistakes(test, 12)[0]
    wrong = [p for p in range(200) if test.grades[p] != test.labels[p]]
    by_hand = sorted(wrong, key=lambda p: -test.probabilities[p].max())[:12]
    assert [each.place for each in surest.shown] == by_hand
    assert surest.total == len(wrong) > 12
    for each in surest.shown:
        assert each.key == test.keys[each.place]
        assert each.probability == test.probabilities[each.place].max()
        assert each.true_probability == test.probabilities[each.place, each.true]
        assert each.predicted_meaning == MEANINGS[each.predicted]


def test_mistakes_are_listed_by_distance_and_then_by_probability():
    test = predicted(200)

    def worst_first(place: int) -> tuple[int, float]:
        off = abs(int(test.labels[place]) - int(test.grades[place]))
        return -off, -test.probabilities[place].max()

    wrong = [p for p in range(200) if test.grades[p] != test.labels[p]]
    found = mistakes_of(test)["farthest"]
    assert found == sorted(wrong, key=worst_first)[:12]
    assert found != mistakes_of(test)["surest"]
    assert abs(test.labels[found[0]] - test.grades[found[0]]) == 4


@pytest.mark.parametrize(
    ("name", "least"), [("missed-referable", 2), ("missed-sight-threatening", 3)]
)
def test_mistakes_below_a_cut_are_the_missed_ones_the_surest_first(
    name: str, least: int
):
    test = predicted(300)
    missed = [
        p for p in range(300) if test.labels[p] >= least and test.grades[p] < least
    ]
    by_hand = sorted(missed, key=lambda p: -test.probabilities[p].max())
    assert len(missed) > 3
    assert mistakes_of(test, 300)[name] == by_hand
    assert mistakes_of(test, 3)[name] == by_hand[:3]
    totals = {each.id: each.total for each in list_mistakes(test, 3)}
    assert totals[name] == len(missed)


def test_mistakes_of_several_kinds_are_counted_once():
    lists = list_mistakes(predicted(200), 12)
    places = [each.place for each in distinct(lists)]
    assert len(set(places)) == len(places) < sum(len(each.shown) for each in lists)
    assert set(places) == {m.place for each in lists for m in each.shown}


def test_mistakes_of_a_perfect_network_are_none():
    labels = np.array([0, 1, 2, 3, 4])
    rest = {name: [str(n) for n in range(5)] for name in ("keys", "patients", "eyes")}
    test = Predictions(
        rows=np.arange(5), labels=labels, probabilities=np.eye(5)[labels], **rest
    )
    assert distinct(list_mistakes(test, 12)) == []


def test_samples_are_packed_in_full_and_in_few_bytes():
    test = renamed(predicted(7026), [("odd", "Mr X", ""), ("10_up", "10", "up")])
    data = pack_samples(test)
    assert len(data["rows"]) == 7026
    for place, (key, patient, eye, true, grade, *chances) in enumerate(data["rows"]):
        name = data["eyes"][eye]
        whose = key.removesuffix(f"_{name}") if patient == 0 else patient
        assert (key, name) == (test.keys[place], test.eyes[place])
        assert whose == test.patients[place]
        assert (true, grade) == (test.labels[place], test.grades[place])
        assert np.abs(np.array(chances) / 1000 - test.probabilities[place]).max() < 6e-4
    assert len(json.dumps(data, separators=(",", ":"))) < 60 * 7026


def test_log_is_read_as_it_was_written(run: Path):
    rows = [*log_rows(), replace(log_rows()[0], validation_qwk=None, skipped=3)]
    Run(run).write_log(rows)
    assert Run(run).log() == rows


def test_records_are_what_the_run_has_written(finished: Path):
    run, saved = read_finished_run(Run(finished)), metrics(finished)
    read = json.loads(json.dumps(asdict(run.result) | asdict(run.evaluation)))
    assert {name: read[name] for name in saved} == saved
    assert read["seconds"] is None  # as an older version left it out
    assert (run.result.test_skipped, run.config.data.train) == (0, 900)
    assert run.short_id == SHA256[:12]
    assert [row.epoch for row in run.log] == [1, 2, 3, 4, 5]
    assert (run.log[0].test_qwk, run.log[3].train_loss) == (None, 1.5 / 4)
    assert run.checkpoint.endswith(f"weights {SHA256[:12]}")


def test_run_of_before_there_were_intervals_can_be_read(run: Path):
    saved = metrics(run)
    del saved["test"]["intervals"], saved["calibrated"]["intervals"]
    del saved["calibrated"]["thresholds"]["intervals"], saved["pairs"]
    (run / "metrics.json").write_text(json.dumps(saved))
    read = read_finished_run(Run(run))
    assert read.scores.accuracy == saved["test"]["accuracy"]
    assert read.scores.intervals.auc == [None] * 5
    assert read.scores.intervals.referable.auc is None
    assert read.evaluation.calibrated is not None
    assert read.evaluation.calibrated.thresholds.intervals.qwk is None
    assert (
        f"{saved['test']['accuracy']:.1%} |"
        in write_card(read_finished_run(Run(run))).read_text()
    )


def test_words_count_people_out_of_a_hundred(finished: Path):
    scores = metrics(finished)["test"]
    words = " ".join(describe_scores(read_finished_run(Run(finished))))
    low, high = (round(100 * end) for end in scores["intervals"]["accuracy"])
    assert f"grades {100 * scores['accuracy']:.0f} (95% interval {low} to {high})" in (
        words
    )
    cut = scores["referable"]
    found = round(100 * cut["sensitivity"])
    assert scores["intervals"]["referable"]["exact"] == ["sensitivity"]
    assert f"it finds {found} (exact 95% interval" in words
    assert f"and misses {100 - found}." in words
    low, high = scores["intervals"]["referable"]["specificity"]
    ends = f"{100 * (1 - high):.0f} to {100 * (1 - low):.0f}"
    alarms = f"{100 * (1 - cut['specificity']):.0f}"
    assert f"it would refer {alarms} (95% interval {ends}) needlessly." in words
    cut = scores["sight_threatening"]
    low, high = (round(100 * end) for end in cut_ends_of(scores)["sensitivity"])
    found = round(100 * cut["sensitivity"])
    assert cut_ends_of(scores)["exact"] == ["sensitivity", "specificity"]
    assert (
        "Of 100 with sight-threatening disease (grade 3 or worse, to be seen soon) it "
        f"recognises {found} (exact 95% interval {low} to {high}) as such and grades "
        f"{100 - found} lower."
    ) in words


def cut_ends_of(scores: dict[str, Any]) -> dict[str, Any]:
    """The intervals of the sight-threatening cut."""
    ends: dict[str, Any] = scores["intervals"]["sight_threatening"]
    return ends


@pytest.mark.parametrize(
    ("leak", "end"),
    [
        (
            {"eyes": 0, "total": 120, "unknown": 0},
            " of 60 patients that it was not trained on.",
        ),
        ({"eyes": 0, "total": 120, "unknown": 3}, " of 60 patients."),
        ({"eyes": 0, "total": 120}, " of 60 patients."),  # an older version's
        (
            {"eyes": 59, "total": 120},
            " of 60 patients; for 59 of these photographs it was trained on the "
            "patient's other eye.",
        ),
        (None, " of 60 patients."),
    ],
)
def test_model_is_said_to_know_no_patient_only_where_that_is_so(
    run: Path, leak: dict[str, int] | None, end: str
):
    edit(run / "metrics.json", leak=leak)
    text = describe_model(read_finished_run(Run(run)))
    assert text.endswith(f"It is judged here on 120 photographs{end}")


def test_unknown_patients_are_counted_and_nothing_is_claimed_of_them(run: Path):
    edit(run / "metrics.json", leak={"eyes": 0, "total": 120, "unknown": 0})
    finished = read_finished_run(Run(run))
    card = model_card(finished)
    assert "It shares no patient with the training photographs." in card
    assert "100 of other patients to choose" in card
    assert not any("patients of" in warning for warning in warn(finished))
    edit(run / "metrics.json", leak={"eyes": 0, "total": 120, "unknown": 7})
    known = [place >= 2 for place in range(120)]
    test = replace(finished.test, patient_known=known)
    some = replace(read_finished_run(Run(run)), test=test)
    assert describe_model(some).endswith(
        "120 photographs of 59 patients (2 of them of unknown patients)."
    )
    card = model_card(some)
    assert "shares no patient" not in card
    assert "of other patients" not in card
    assert "training photographs is unknown, as not all patients are known." in card
    (doubt,) = (warning for warning in warn(some) if "patients of" in warning)
    assert doubt.startswith("The patients of 7 photographs, of train or of test, are")
    assert f"> **Note.** {doubt}" in card
    none = replace(some, test=replace(test, patient_known=[False] * 120))
    assert describe_model(none).endswith("120 photographs of unknown patients.")


def of_origin(finished: FinishedRun, **origins: Origin) -> FinishedRun:
    """The same, of photographs that come from somewhere else."""
    data = replace(finished.config.data, **origins)
    return replace(finished, config=replace(finished.config, data=data))


@pytest.mark.parametrize(
    "text",
    ["![x](http://a.b/x.png)", "[x](javascript:1)", "[x][y]", "[y]: http://a.b", "<b>"],
)
def test_model_card_has_no_link_of_a_strangers(run: Path, text: str):
    finished = of_origin(read_finished_run(Run(run)), origin=Origin(source=text))
    card = model_card(finished)
    shown = html.unescape(card)
    assert text in shown
    assert text not in card
    rendered = markdown.markdown(card)
    for tag in ("<img", "<a ", 'javascript:1)"', "<b>"):
        assert tag not in rendered


def test_drawn_photographs_are_called_so(run: Path, figures: Figures):
    real = read_finished_run(Run(run))
    assert "drawn by" not in model_card(real)
    assert "graded by people, as the data set has it. Where they come from" in (
        model_card(real)
    )
    drawn = of_origin(real, origin=Origin(layout="course", listed=1120, drawn=1120))
    text, card = describe_model(drawn), model_card(drawn)
    assert "It was trained on 900 drawn photographs" in text
    assert "judged here on 120 drawn photographs of 60 made-up patients" in text
    assert describe_scores(drawn)[0].endswith("as they were drawn.")
    assert describe_scores(real)[0].endswith("as people did.")
    first = warn(drawn)[0]
    assert first.startswith("Drawn photographs: all of these were made up by ")
    assert f"> **Note.** {first}" in card
    assert "drawn by fastretina demo to their grades; no person's eye is among" in card
    assert "graded by people" not in card
    lists = list_mistakes(drawn.test, 3)
    page = run_page(drawn, figures, ShownMistakes(lists=lists))
    assert "people" not in page
    assert first in page


def test_a_few_drawn_photographs_are_not_hidden(run: Path):
    origin = Origin(listed=1120, drawn=5)
    some = of_origin(read_finished_run(Run(run)), origin=origin)
    assert warn(some)[0].startswith("Drawn photographs: some of these were made up")
    assert "as the data set has it, but for 5 that fastretina demo" in model_card(some)
    assert "drawn photographs of" not in describe_model(some)


def test_a_drawn_test_set_does_not_make_training_drawn(run: Path):
    origins = {"origin": Origin(source="EyePACS 2015", listed=1000, drawn=0)}
    origins["test_origin"] = Origin(listed=120, drawn=120)
    finished = of_origin(read_finished_run(Run(run)), **origins)
    text = describe_model(finished)
    assert "trained on 900 photographs" in text
    assert "judged here on 120 drawn photographs of 60 made-up patients" in text
    card = model_card(finished)
    assert "as the data set has it. Source: EyePACS 2015." in card
    assert "They are drawn by fastretina demo" in card


def test_where_photographs_come_from_is_on_the_card(run: Path):
    origin = Origin(
        source="EyePACS 2015",
        layout="kaggle",
        listed=1120,
        drawn=0,
        patients="eye markers in the image names",
    )
    edit(run / "metrics.json", leak={"eyes": 0, "total": 120, "unknown": 3})
    card = model_card(of_origin(read_finished_run(Run(run)), origin=origin))
    assert (
        "graded by people, as the data set has it. Source: EyePACS 2015. Layout of the "
        "labels: kaggle. Patients could not all be identified from eye markers in the "
        "image names.\n"
    ) in card
    edit(run / "metrics.json", leak={"eyes": 0, "total": 120, "unknown": 0})
    card = model_card(of_origin(read_finished_run(Run(run)), origin=origin))
    assert "Patients were identified from eye markers in the image names." in card


def test_what_was_left_out_is_said(run: Path):
    assert "could not be decoded" not in model_card(read_finished_run(Run(run)))
    edit(run / "metrics.json", test_skipped=2)
    finished = read_finished_run(Run(run))
    said = "2 test photographs could not be decoded: in no score here."
    assert said in warn(finished)
    assert said in model_card(finished)
    rows = {row for group in environment(finished) for row in group.rows}
    assert ("on_corrupt", "skip") in rows


@pytest.mark.parametrize(
    ("temperature", "words"),
    [
        (2.0, "it is too sure"),
        (0.5, "it is not sure enough"),
        (1.04, "it is about as sure as it is right"),
    ],
)
def test_calibration_says_which_way_it_errs(run: Path, temperature: float, words: str):
    saved = metrics(run)["calibration"]
    edit(run / "metrics.json", calibration={**saved, "temperature": temperature})
    assert words in describe_calibration(read_finished_run(Run(run)))


def test_intervals_are_explained_by_their_kinds(tmp_path: Path, run: Path):
    test = predicted(60)
    test.probabilities[test.labels == 4] = [1, 0, 0, 0, 0]
    read = read_finished_run(Run(write_run(tmp_path / "other", test)))
    recall = read.scores.intervals.recall[4]
    assert recall is not None
    assert 0 == recall[0] < recall[1]
    text = describe_intervals(read)
    assert "Those marked exact are Clopper and Pearson's, for shares of fewer" in text
    assert "without width" not in text
    saved = metrics(run)
    saved["test"]["intervals"]["recall"][4] = [0, 0]  # an older version's
    edit(run / "metrics.json", test=saved["test"])
    assert "An interval without width says" in describe_intervals(
        read_finished_run(Run(run))
    )


def test_scores_without_interval_are_explained(tmp_path: Path):
    labels = np.repeat([0, 2], 30)
    test = replace(predicted(60), labels=labels, probabilities=np.eye(5)[labels])
    perfect = read_finished_run(Run(write_run(tmp_path / "run", test)))
    assert perfect.scores.auc[2] == 1
    assert perfect.scores.intervals.auc[2] is None
    assert "A score without an interval is one that the photographs are too few" in (
        describe_intervals(perfect)
    )


def test_grades_that_are_never_predicted_are_a_warning_on_page_and_card(
    tmp_path: Path, reports: Reports
):
    test = predicted(100)
    test.probabilities[:, 3] = 0
    run = write_run(tmp_path / "run", test)
    assert reports(run).code == 0
    severe = int((test.labels == 3).sum())
    sentence = (
        f"Never predicted: grade 3 (Severe; {severe} on test), so every such photograph"
        " is graded wrong."
    )
    assert sentence in Page(run / "report.html").words
    assert sentence in (run / "model_card.md").read_text()


def test_both_eyes_are_described_with_their_gain(run: Path):
    pairs = metrics(run)["pairs"] | {"pairs": 1200, "fitted_on": 300}
    gains = {each["statistic"]: each for each in pairs["differences"]}
    for name, value in (("accuracy", 0.02), ("qwk", 0.1)):
        gains[name].update(value=value, interval=[-0.01, 0.2], clear=False)
    edit(run / "metrics.json", pairs=pairs)
    text = describe_both_eyes(read_finished_run(Run(run)))
    assert text is not None
    assert "for the 1,200 test patients who have both" in text
    assert "accuracy +0.020 [-0.010, +0.200], QWK +0.100 [-0.010, +0.200]" in text
    assert text.endswith("against each eye alone, which is inside the noise.")
    gains["qwk"]["clear"] = True
    edit(run / "metrics.json", pairs=pairs)
    clear = describe_both_eyes(read_finished_run(Run(run)))
    assert (clear or "").endswith("against each eye alone.")
    gains["qwk"].update(value=None, interval=None, clear=False)  # of one grade alone
    edit(run / "metrics.json", pairs=pairs)
    undefined = describe_both_eyes(read_finished_run(Run(run)))
    assert "QWK - against each eye alone" in (undefined or "")


# The page


def test_page_shows_where_the_time_of_the_run_went(run: Path, reports: Reports):
    assert reports(run).code == 0
    assert "Wall clock" not in Page(run / "report.html").words  # an older version's
    parts = {"total": 200.0, "steps": 150.0, "intervals": 1.0, "other": 49.0}
    edit(run / "metrics.json", wall_seconds=parts)
    assert reports(run).code == 0
    words = Page(run / "report.html").words
    for text in (
        "Wall clock total 200.0 s steps 150.0 s, 75% other 49.0 s, 24%",
        "intervals 1.0 s, 0%",
    ):
        assert text in words
    assert "checkpoints" not in words.partition("Wall clock")[2]


def test_page_is_described_by_one_json_line(run: Path, reports: Reports):
    result = reports(run).json
    page = run / "report.html"
    assert result == {
        "report": str(page),
        "of": "run",
        "figures": len(FIGURES),
        "bytes": page.stat().st_size,
        "samples": 120,
        "mistakes": len(distinct(list_mistakes(read_finished_run(Run(run)).test, 12))),
        "thumbnails": 0,
        "card": str(run / "model_card.md"),
        "weights_sha256": SHA256,
    }


def test_page_has_every_score_with_its_interval(finished: Path):
    page, scores = Page(finished / "report.html"), metrics(finished)["test"]
    ends = scores["intervals"]

    def shown(value: float, interval: list[float], form: str) -> str:
        return format_interval(value, interval, form)

    for name, form in (
        ("accuracy", ".1%"),
        ("balanced_accuracy", ".1%"),
        ("qwk", ".3f"),
        ("macro_f1", ".3f"),
    ):
        assert shown(scores[name], ends[name], form) in page.words
    for cut in ("referable", "sight_threatening"):
        for part, form in (
            ("sensitivity", ".1%"),
            ("specificity", ".1%"),
            ("auc", ".3f"),
            ("sensitivity_at_specificity", ".1%"),
        ):
            assert shown(scores[cut][part], ends[cut][part], form) in page.words
    for name, form in (("recall", ".1%"), ("precision", ".1%"), ("auc", ".3f")):
        for grade in range(5):
            assert shown(scores[name][grade], ends[name][grade], form) in page.words
    points = metrics(finished)["calibrated"]["thresholds"]
    assert shown(points["qwk"], points["intervals"]["qwk"], ".3f") in page.words


def test_page_sets_the_pixel_free_rules_beside_and_warns_of_the_leak(finished: Path):
    page, saved = Page(finished / "report.html"), metrics(finished)
    for rule in saved["baselines"].values():
        assert f"Without a pixel: {rule['about']} {rule['accuracy']:.1%}" in page.words
    best = max(rule["qwk"] for rule in saved["baselines"].values())
    assert f"a rule without a pixel has up to {best:.3f}" in page.words
    leak = saved["leak"]
    assert leak["eyes"] > 0
    assert f"The split leaks: {leak['eyes']:,} of {leak['total']:,}" in page.words
    assert "Not a medical device." in page.words


@pytest.mark.usefixtures("undrawn")
def test_page_says_that_a_rule_without_pixels_is_as_good(run: Path, reports: Reports):
    saved = metrics(run)
    rule = saved["baselines"]["fellow_eye"]
    no_better = "No better than a rule that sees no photograph: the fellow eye's "
    said = f"{no_better}training label, else 0 has accuracy 99.9%, this model "
    rule["accuracy"] = 0.999
    edit(run / "metrics.json", **saved)
    assert reports(run).code == 0
    score = saved["test"]["accuracy"]
    gain = saved["gains"]["fellow_eye"][0]
    text = format_interval(gain["value"], gain["interval"], "+.3f")
    assert f"{said}{score:.1%}, on the same patients a gain of {text}." in (
        Page(run / "report.html").words
    )
    del saved["gains"]  # as an older version wrote it
    (run / "metrics.json").write_text(json.dumps(saved))
    assert reports(run).code == 0
    ends = saved["test"]["intervals"]["accuracy"]
    assert f"{said}{format_interval(score, ends, '.1%')}." in (
        Page(run / "report.html").words
    )


def test_rule_without_pixels_is_beaten_by_a_gain_on_the_same_patients(run: Path):
    """Its score may well lie within the interval of the model's own."""
    saved = metrics(run)
    rule = saved["baselines"]["majority"]
    rule["accuracy"] = saved["test"]["accuracy"] - 1e-3
    for clear in (True, False):
        saved["gains"]["majority"][0] |= {"clear": clear, "value": 1e-3}
        edit(run / "metrics.json", **saved)
        told = [each for each in warn(read_finished_run(Run(run))) if "No bet" in each]
        about = "the commonest grade for all has accuracy"
        assert any(about in each for each in told) == (not clear)


def test_page_of_a_constant_predictor_says_so_first(tmp_path: Path, reports: Reports):
    test = predicted(100)
    constant = np.tile([0.9, 0.04, 0.03, 0.02, 0.01], (100, 1))
    test = Predictions(
        rows=test.rows,
        keys=test.keys,
        patients=test.patients,
        eyes=test.eyes,
        labels=test.labels,
        probabilities=constant,
        source=test.source,
    )
    run = write_run(tmp_path / "run", test)
    assert reports(run).json["mistakes"] >= 12
    sentence = metrics(run)["test"]["collapse"]
    page = Page(run / "report.html")
    place = page.words.index(f"Constant{sentence[8:]}.")
    assert place < page.words.index("Beside rules that see no photograph")


def test_page_fetches_nothing(finished: Path):
    page = Page(finished / "report.html")
    (policy,) = [each["content"] for each in page.all("meta") if "http-equiv" in each]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    sources = [each["src"] for each in page.all("img")]
    assert sources
    assert all(source.startswith("data:image/") for source in sources if source)
    assert not any("src" in each for each in page.all("script"))
    assert {each["href"] for each in page.all("link")} == {"data:,"}
    links = [each["href"] or "" for each in page.all("a")]
    assert all(link.startswith("#") for link in links)
    assert "http:" not in page.raw
    assert "https:" not in page.raw
    assert "url(" not in page.raw


def test_page_tells_who_cannot_see_the_numbers_of_each_figure(finished: Path):
    page, scores = Page(finished / "report.html"), metrics(finished)["test"]
    figures = page.all("img")
    assert len(figures) == len(FIGURES)
    alts = [each["alt"] or "" for each in figures]
    for alt in alts:
        assert len(re.findall(r"\d", alt)) > 20
        assert SHA256[:12] in alt
    row = ", ".join(f"{count:,}" for count in scores["confusion"][0])
    assert f"true 0 No DR ({sum(scores['confusion'][0])}): {row}" in alts[0]
    assert f"AUC {scores['referable']['auc']:.3f}" in " ".join(alts)


def test_page_is_accessible_by_its_structure(finished: Path):
    page = Page(finished / "report.html")
    assert page.all("html") == [{"lang": "en"}]
    for landmark in ("header", "nav", "main", "footer", "h1", "title"):
        assert len(page.all(landmark)) == 1
    assert all(each.get("scope") in ("col", "row") for each in page.all("th"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    levels = [int(name[1]) for name, _ in page.tags if re.fullmatch("h[1-6]", name)]
    assert all(b - a <= 1 for a, b in pairwise(levels))
    for section in page.all("section"):
        assert section["aria-labelledby"] in ids
    for link in page.all("a"):
        assert (link["href"] or "")[1:] in ids


@pytest.mark.usefixtures("undrawn")
def test_names_of_samples_are_shown_and_never_run(tmp_path: Path, reports: Reports):
    names = [(HOSTILE, HOSTILE, "left"), (f"{HOSTILE}_right", HOSTILE, "right")]
    test = renamed(predicted(30), names)
    test.probabilities[:2] = [[0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]  # the surest mistakes
    run = write_run(tmp_path / f"<b>{'run'}", test)
    assert reports(run).code == 0
    page = Page(run / "report.html")
    assert len(page.all("script")) == 2
    assert all((each["src"] or "").startswith("data:") for each in page.all("img"))
    assert "<script>document" not in page.raw
    assert "&lt;b&gt;run" in page.raw
    data = re.search(r'id="sample-data">(.*?)</script>', page.raw, re.S)
    assert data is not None
    assert json.loads(data[1])["rows"][0][:2] == [HOSTILE, HOSTILE]
    assert "<b>" not in (run / "model_card.md").read_text()


def hostile(saved: Any, kind: Any, path: Path) -> tuple[Any, int]:
    """The same with every text that may be any, another one; and how many were."""
    content, count = json.loads(json.dumps(saved)), 0

    def walk(node: Any) -> None:
        nonlocal count
        for key, value in list(
            node.items() if isinstance(node, dict) else enumerate(node)
        ):
            if isinstance(value, dict | list):
                walk(value)
            elif isinstance(value, str):
                node[key] = HOSTILE
                try:
                    as_record(content, kind, path)
                    count += 1
                except RunError:  # one of a few words
                    node[key] = value

    walk(content)
    return content, count


@pytest.mark.usefixtures("undrawn")
def test_no_text_of_a_run_is_run_as_a_script(tmp_path: Path, reports: Reports):
    run = write_run(tmp_path / "run", predicted(30))
    edit(
        run / "config.json",
        versions={"torch": "1", HOSTILE: "2"},
        data={
            **json.loads((run / "config.json").read_text())["data"],
            "preprocessing": {"steps": ["crop"], "size": 64},
            "origin": {"source": "me", "layout": "course", "patients": "names"},
        },
    )
    for name, kind, least in (
        ("config.json", RunConfig, 8),
        ("metrics.json", RunResult, 1),
    ):
        content, count = hostile(json.loads((run / name).read_text()), kind, run / name)
        assert count >= least
        if name == "metrics.json":
            content["weights_sha256"] = SHA256
        (run / name).write_text(json.dumps(content))
    outcome = reports(run)
    assert outcome.code == 0, outcome.err
    page = Page(run / "report.html")
    assert len(page.all("script")) == 2
    assert not any(set(attrs) & {"onerror", "onload"} for _, attrs in page.tags)
    assert all((each["src"] or "").startswith("data:") for each in page.all("img"))
    assert HOSTILE in page.words
    card = (run / "model_card.md").read_text()
    assert "<script" not in card
    assert "<img" not in card


ODD_NAMES = ["$x$ $\\frac{ \u7f51\u819c a'\"&b", os.fsdecode(b"\xff\xfe") + 90 * "x"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=["signs", "bytes"])
def test_run_may_have_any_name(tmp_path: Path, reports: Reports, name: str):
    run = write_run(tmp_path / name, predicted(20))
    outcome = reports(run, "--mistakes", 0)
    assert outcome.json["figures"] == len(FIGURES)
    assert not outcome.err
    shown = name.encode(errors="replace").decode()
    assert f"{shown}: report" in Page(run / "report.html").words
    assert (run / "model_card.md").read_text().startswith("# Model card: ")


@pytest.mark.usefixtures("undrawn")
def test_page_of_7026_photographs_stays_small(tmp_path: Path, reports: Reports):
    names = [(f"{HOSTILE[:20]}{n}", f"patient {n}", "") for n in range(7026)]
    run = write_run(tmp_path / "run", renamed(predicted(7026), names))
    assert reports(run).json["bytes"] < 1_500_000


def test_page_without_validation_or_baselines_says_what_is_missing(
    tmp_path: Path, reports: Reports
):
    run = write_run(tmp_path / "run", predicted(60))
    assert metrics(run)["calibrated"] is None
    assert reports(run).code == 0
    words = Page(run / "report.html").words
    assert "No such rule was computed for this run." in words
    assert "no other thresholds were fitted" in words
    assert "fit a temperature on" in words


@pytest.mark.usefixtures("undrawn")
def test_page_of_one_patient_has_no_intervals(tmp_path: Path, reports: Reports):
    test = predicted(30)
    names = [(key, "one", "") for key in test.keys]
    run = write_run(tmp_path / "run", renamed(test, names))
    assert metrics(run)["test"]["intervals"]["accuracy"] is None
    assert reports(run).code == 0
    assert "no interval" in Page(run / "report.html").words


def test_page_of_a_grade_that_is_absent_has_a_dash(tmp_path: Path, reports: Reports):
    test = predicted(60)
    test.labels[test.labels >= 2] = 0
    run = write_run(tmp_path / "run", test)
    assert metrics(run)["test"]["referable"]["auc"] is None
    assert reports(run).json["figures"] == len(FIGURES)
    assert "4 Proliferative 0 -" in Page(run / "report.html").words


# Figures


def test_figures_are_png_files_with_something_on_them(finished: Path):
    files = sorted((finished / "figures").iterdir())
    assert {path.name for path in files} == {f"{name}.png" for name in FIGURES}
    for path in files:
        with Image.open(path) as image:
            assert image.format == "PNG"
            pixels = np.asarray(image.convert("L"), np.float64)
        assert pixels.shape[1] == 920
        assert pixels.std() > 10, path
        foot = pixels[int(0.955 * len(pixels)) :, 300:]  # where the checkpoint stands
        assert (foot < 160).sum() > 200, path


def test_figures_of_the_page_are_those_files(finished: Path):
    embedded = {
        b64decode((each["src"] or "").partition(",")[2])
        for each in Page(finished / "report.html").all("img")
    }
    assert embedded == {p.read_bytes() for p in (finished / "figures").iterdir()}


def test_figures_follow_the_predictions(finished: Path, tmp_path: Path):
    other = made_up_run(tmp_path / "other", seed=5)
    assert report.main([str(other), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").is_file()
    assert not (other / "report.html").exists()
    for name in ("confusion_counts", "roc_grades", "reliability"):
        one, two = (run / "figures" / f"{name}.png" for run in (finished, other))
        assert one.read_bytes() != two.read_bytes()


# Thumbnails


@pytest.fixture
def looked_at(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of the small network on real shards."""
    monkeypatch.setattr("torchvision.models.resnet18", small_network)
    return run_on(shards, tmp_path / "run")


@pytest.mark.usefixtures("undrawn")
def test_mistakes_have_their_photographs_and_where_it_looked(
    looked_at: Path, shards: Path, reports: Reports
):
    outcome = reports(looked_at)
    result = outcome.json
    assert not outcome.err
    assert result["thumbnails"] == result["mistakes"] > 0
    page = Page(looked_at / "report.html")
    pairs = [each for each in page.all("img") if "jpeg" in (each["src"] or "")[:20]]
    assert len(pairs) == 2 * result["mistakes"]  # though some are in several lists
    lists = list_mistakes(read_finished_run(Run(looked_at)).test, 12)
    assert sum(len(each.shown) for each in lists) > result["mistakes"]
    for each in lists:
        assert f"{each.title} ({len(each.shown)} of {each.total})" in page.words
    homes = {attrs["id"] for attrs in page.all("li") if "id" in attrs}
    links = {(link["href"] or "")[1:] for link in page.all("a")}
    assert {f"mistake-{each.place}" for each in distinct(lists)} == homes
    assert homes & links
    test = read_finished_run(Run(looked_at)).test
    surest = list_mistakes(test, 1)[0].shown[0]
    assert surest.key in (pairs[0]["alt"] or "")
    first, looked = (_pixels(each["src"] or "") for each in pairs[:2])
    with open_split(shards, "test") as split:
        source = _decoded(bytes(split.read(surest.row)))
    assert np.abs(first - source).mean() < 8  # but for a second JPEG, of noise
    assert np.abs(_pixels(pairs[2]["src"] or "") - source).mean() > 30
    assert np.abs(looked - first).mean() > 1


def _pixels(url: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return _decoded(b64decode(url.partition(",")[2]))


def _decoded(content: bytes) -> np.ndarray[Any, np.dtype[np.float64]]:
    with Image.open(BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"), np.float64)


@pytest.mark.usefixtures("undrawn")
def test_mistakes_without_shards_are_explained(finished: Path, reports: Reports):
    outcome = reports(finished, "--mistakes", 3)
    lists = list_mistakes(read_finished_run(Run(finished)).test, 3)
    assert outcome.json["mistakes"] == len(distinct(lists)) > 3
    (line,) = outcome.err
    assert line == (
        "note: the mistakes are shown without their photographs: the shards that "
        f"{finished} was tested on are no longer in no-such-shards: pass --shards and "
        "the folder that they are in now"
    )
    page = Page(finished / "report.html")
    assert "The mistakes are shown without their photographs" in page.words
    for each in distinct(lists):
        assert (
            f"{each.key} The network, {each.probability:.1%} sure "
            f"{each.predicted_name} : "
        ) in page.words


@pytest.mark.usefixtures("undrawn")
def test_mistakes_can_be_left_out(finished: Path, reports: Reports):
    outcome = reports(finished, "--mistakes", 0)
    assert outcome.json["mistakes"] == 0
    assert not outcome.err


@pytest.mark.usefixtures("undrawn")
def test_moved_shards_are_found_by_flag(
    looked_at: Path, shards: Path, reports: Reports
):
    edit(looked_at / "config.json", shards="elsewhere")
    assert reports(looked_at).json["thumbnails"] == 0
    assert reports(looked_at, "--shards", shards).json["thumbnails"] > 0


@pytest.mark.usefixtures("undrawn")
def test_named_shards_that_are_not_there_are_an_error(
    looked_at: Path, tmp_path: Path, reports: Reports
):
    outcome = reports(looked_at, "--shards", tmp_path / "none")
    assert outcome.code == 1
    assert outcome.complaint.startswith(f"error: no data set in {tmp_path / 'none'}")
    assert not (looked_at / "report.html").exists()


def test_named_device_that_is_not_here_is_an_error(run: Path, reports: Reports):
    outcome = reports(run, "--device", "tpu")
    assert outcome.code == 1
    assert "--device must be auto, cpu" in outcome.complaint


@pytest.mark.usefixtures("undrawn")
def test_shards_of_other_samples_are_not_shown(
    looked_at: Path, reports: Reports, tmp_path: Path
):
    test = Predictions.load(looked_at / "test.parquet")
    renamed(test, [("another", "another", "")]).save(looked_at / "test.parquet")
    outcome = reports(looked_at)
    assert outcome.json["thumbnails"] == 0
    assert "holds other samples than the run was tested on" in outcome.err[0]


@pytest.mark.usefixtures("undrawn")
def test_network_of_another_checkpoint_is_not_looked_through(
    looked_at: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
):
    from fastretina.nn import trained

    monkeypatch.setattr(trained, "weights_sha256", lambda _: "f" * 64)
    outcome = reports(looked_at)
    assert outcome.json["thumbnails"] == 0
    assert "is of another checkpoint than the predictions" in outcome.err[0]


# The model card


def test_card_has_the_runs_own_numbers(finished: Path):
    card = (finished / "model_card.md").read_text()
    saved = metrics(finished)
    scores, ends = saved["test"], saved["test"]["intervals"]
    assert format_interval(scores["accuracy"], ends["accuracy"], ".1%") in card
    assert format_interval(scores["qwk"], ends["qwk"], ".3f") in card
    for grade in range(5):
        assert (
            format_interval(scores["recall"][grade], ends["recall"][grade], ".1%")
            in card
        )
    cut, cut_ends = scores["referable"], ends["referable"]
    assert format_interval(cut["sensitivity"], cut_ends["sensitivity"], ".1%") in card
    for rule in saved["baselines"].values():
        assert f"{rule['about']} | {rule['accuracy']:.1%}" in card
    assert SHA256 in card
    assert f"{saved['leak']['eyes']:,} of its {saved['leak']['total']:,}" in card
    assert f"{saved['calibrated']['calibration_error']:.3f}" in card


def test_card_stands_under_the_headings_of_model_cards(finished: Path):
    card = (finished / "model_card.md").read_text()
    assert re.findall(r"^## (.*)", card, re.M) == [
        "Model details",
        "Intended use",
        "Not intended use",
        "Factors",
        "Metrics",
        "Training data",
        "Evaluation data",
        "Ethical considerations",
        "Caveats and recommendations",
    ]
    assert card.startswith("# Model card: made-up\n\n**Not a medical device.**")
    tables = [line for line in card.splitlines() if line.startswith("|")]
    widths = {line.count("|") for line in tables}
    assert widths == {6}
    assert card.endswith("\n")


def test_card_can_be_written_alone(run: Path):
    written = (run / "model_card.md").read_text()
    (run / "model_card.md").unlink()
    assert write_card(read_finished_run(Run(run))) == run / "model_card.md"
    again = (run / "model_card.md").read_text()
    assert again == written.replace("# Model card: made-up", "# Model card: run")


def test_card_lets_no_name_end_its_line_or_begin_a_tag(tmp_path: Path):
    run = write_run(tmp_path / "a\n## <script>|x", predicted(20))
    card = write_card(read_finished_run(Run(run))).read_text()
    assert card.splitlines()[0] == "# Model card: a ## &lt;script>\\|x"


# What can't be reported


def test_unfinished_run_is_named_so(run: Path, reports: Reports):
    (run / "metrics.json").unlink()
    assert reports(run).complaint == (
        f"error: {run} is not finished: it has trained 5 of 5 epochs; "
        f"'fastretina train --resume {run}' finishes it"
    )


def test_run_without_predictions_names_the_remedy(run: Path, reports: Reports):
    (run / "test.parquet").unlink()
    outcome = reports(run)
    assert f"{run} has no predictions of test" in outcome.complaint
    assert f"'fastretina train --resume {run}'" in outcome.complaint


def test_folder_that_is_neither_run_nor_experiment_is_refused(
    tmp_path: Path, reports: Reports
):
    assert f"error: {tmp_path} holds no run: " in reports(tmp_path).complaint
    none = tmp_path / "none"
    assert reports(none).complaint.startswith(f"error: {none} does not exist: ")
    photograph = tmp_path / "eye.jpeg"
    photograph.touch()
    assert reports(tmp_path).complaint == (
        f"error: {tmp_path} holds photographs, not a run or an experiment: name the "
        "folder that 'fastretina train' has made"
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", "{"),
        ("metrics.json", "[]"),
        ("metrics.json", "{}"),
        ("config.json", "{}"),
        ("config.json", "\0"),
        ("test.parquet", "PAR1"),
        ("log.csv", ""),
        ("log.csv", "epoch,phase\n1,head\n"),
        ("log.csv", "epoch,phase,train_loss\none,head,0.5\n"),
    ],
)
def test_damaged_file_is_named(run: Path, reports: Reports, name: str, content: str):
    (run / name).write_text(content)
    outcome = reports(run)
    assert outcome.code == 1
    assert name in outcome.complaint


@pytest.mark.parametrize(
    "change",
    [
        lambda test: test.pop("qwk"),
        lambda test: test.update(accuracy=None),
        lambda test: test.update(recall=[0.5]),
        lambda test: test.update(referable=3),
        lambda test: test.update(auc=["much"] * 5),
        lambda test: test.update(samples=True),
        lambda test: test.update(samples="120"),
        lambda test: test.update(recall=test["recall"][:4]),
        lambda test: test["recall"].append(None),
        lambda test: test["recall"].__setitem__(0, None),
        lambda test: test["referable"].pop("auc"),
        lambda test: test["confusion"].pop(),
        lambda test: test["confusion"][4].pop(),
        lambda test: test["confusion"][4].__setitem__(4, 1.5),
        lambda test: test["intervals"].update(qwk=[0.5]),
        lambda test: test["intervals"].update(qwk=[0.5, "1"]),
        lambda test: test["intervals"].update(qwk=[0.5, 0.6, 0.7]),
        lambda test: test["intervals"]["auc"].pop(),
        lambda test: test["intervals"].pop("referable"),
        lambda test: test["confusion"][0].reverse(),
        lambda test: test.update(collapse="constant predictor"),
    ],
)
def test_scores_that_are_not_those_of_the_predictions_are_refused(
    run: Path, reports: Reports, change: Callable[[dict[str, Any]], object]
):
    saved = metrics(run)
    change(saved["test"])
    edit(run / "metrics.json", test=saved["test"])
    outcome = reports(run)
    assert outcome.code == 1
    assert "metrics.json" in outcome.complaint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("calibration", {"temperature": 1.0}),
        ("calibration", {"temperature": "x", "thresholds": [1, 2, 3, 4], "samples": 3}),
        (
            "calibration",
            {
                "temperature": 1.0,
                "thresholds": [1, 2, 3],
                "samples": 3,
                "error_before": 0.1,
                "error_after": 0.1,
            },
        ),
        ("calibrated", {"calibration_error": 0.1}),
        ("prior_corrected", []),
        ("leak", {"eyes": 3}),
        ("leak", {"eyes": "3", "total": 4}),
        ("leak", {"eyes": True, "total": 4}),
        ("pairs", {"pairs": 30, "fitted_on": 50}),
        ("baselines", {"majority": {"about": "x", "accuracy": 0.5}}),
        ("baselines", [3]),
        ("gains", {"majority": [{"statistic": "qwk"}]}),
        ("baselines", {"majority": []}),
        ("checkpoint_epoch", "4"),
        ("checkpoint_epoch", True),
        ("epochs", "five"),
        ("parameters", 0.5),
        ("test", None),
        ("weights_sha256", None),
    ],
)
def test_damaged_part_of_the_metrics_is_named(
    run: Path, reports: Reports, name: str, value: object
):
    edit(run / "metrics.json", **{name: value})
    outcome = reports(run)
    assert outcome.code == 1
    assert "metrics.json" in outcome.complaint
    assert f"`$.{name}" in outcome.complaint
    assert len(outcome.err) == 1


@pytest.mark.parametrize("differences", [[], [{"statistic": "qwk"}], None])
def test_damaged_gain_of_both_eyes_is_named(
    run: Path, reports: Reports, differences: object
):
    pairs = metrics(run)["pairs"]
    edit(run / "metrics.json", pairs={**pairs, "differences": differences})
    outcome = reports(run)
    assert "metrics.json is damaged, or of an older version" in outcome.complaint
    assert "differences" in outcome.complaint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data", []),
        ("data", {"train": "many"}),
        ("data", {"preprocessing": {"steps": "clahe"}}),
        ("image_shape", [64]),
        ("image_shape", [64, "64"]),
        ("shards", None),
        ("recipe", {"lr": -1}),
        ("recipe", {"arch": "resnet19"}),
        ("recipe", []),
    ],
)
def test_damaged_config_is_named(run: Path, reports: Reports, name: str, value: object):
    edit(run / "config.json", **{name: value})
    complaint = reports(run).complaint
    assert "config.json is damaged" in complaint
    assert f"`$.{name}" in complaint


def test_predictions_of_another_checkpoint_are_refused(run: Path, reports: Reports):
    edit(run / "metrics.json", weights_sha256="f" * 64)
    assert "are of different checkpoints" in reports(run).complaint


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--mistakes", -1], "--mistakes must be at least 0, got -1"),
        (["--out", "page.txt"], "--out must end in .html, got page.txt"),
        (
            ["--out", "no/such/page.html"],
            "--out must lie in a folder that exists, got no/such/page.html",
        ),
    ],
)
def test_wrong_flags_say_the_rule(
    finished: Path, reports: Reports, flags: list[object], text: str
):
    outcome = reports(finished, *flags)
    assert outcome.code == 2
    assert text in outcome.complaint
