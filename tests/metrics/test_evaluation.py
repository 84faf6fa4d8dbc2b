"""Intervals, baselines, calibration and comparisons: what may be said of a score."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    roc_auc_score,
)

from fastretina.formatting import format_interval
from fastretina.metrics import bootstrap as intervals
from fastretina.metrics.baselines import (
    Eyes,
    Leak,
    baselines,
    fellow_eye,
    leak,
    majority,
)
from fastretina.metrics.bootstrap import patient_intervals
from fastretina.metrics.calibration import (
    Calibration,
    calibrate,
    cool,
    correct_prior,
    cut,
    expected_grade,
    fit_temperature,
    fit_thresholds,
)
from fastretina.metrics.comparison import Contender, compare, mcnemar
from fastretina.metrics.evaluation import Evaluation, evaluate
from fastretina.metrics.intervals import grade_intervals, score_with_intervals
from fastretina.metrics.predictions import Predictions, PredictionSource
from fastretina.metrics.reliability import calibration_error, reliability
from fastretina.metrics.scores import quadratic_kappa, score
from fastretina.metrics.statistics import (
    GRADE_STATISTICS,
    grade_statistics,
    once,
    score_statistics,
)
from fastretina.metrics.text import table, warnings
from loaders.errors import RunError


@pytest.fixture(autouse=True)
def enough_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 60)


Record = TypeVar("Record", Calibration, Evaluation)
SHARES = [0.735, 0.07, 0.15, 0.025, 0.02]


def made(samples: int, seed: int, skill: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels int64[N], and probabilities float64[N, 5] that know something of them."""
    rng = np.random.Generator(np.random.PCG64(seed))
    labels = rng.choice(5, samples, p=SHARES)
    logits = rng.normal(size=(samples, 5)) + np.log(SHARES)
    logits[np.arange(samples), labels] += 3 * skill
    shares = np.exp(logits)
    return labels, shares / shares.sum(axis=1, keepdims=True)


def pairs(samples: int) -> list[str]:
    return [str(n // 2) for n in range(samples)]


def read_back(record: Record, kind: type[Record]) -> Record:
    """A record through the JSON of a run's ``metrics.json``."""
    return msgspec.convert(
        json.loads(json.dumps(asdict(record), allow_nan=False)), kind
    )


# ---- intervals


def test_intervals_have_the_shape_of_the_scores():
    labels, chances = made(200, 0)
    found = asdict(score_with_intervals(labels, chances, pairs(200)))
    plain = asdict(score(labels, chances))
    assert {k: v for k, v in found.items() if k != "intervals"} == plain
    ends = found["intervals"]
    for name in (*GRADE_STATISTICS, "calibration_error"):
        low, high = ends[name]
        assert low <= high
    for name in GRADE_STATISTICS:
        assert ends[name][0] <= plain[name] <= ends[name][1], name
    for name in ("recall", "precision", "auc"):
        assert len(ends[name]) == 5
    for name in ("referable", "sight_threatening"):
        assert ends[name].keys() == {*plain[name], "exact"}
    json.dumps(found, allow_nan=False)


def test_statistics_of_weighted_samples_are_those_of_repeated_ones():
    labels, chances = made(120, 1)
    said = chances.argmax(axis=1)
    times = np.random.Generator(np.random.PCG64(2)).integers(0, 4, 120)
    repeated = np.repeat(np.arange(120), times)
    weights = times[:, None].astype(float)
    weighted = grade_statistics(labels, said)(weights)[:, 0]
    true, guess = labels[repeated], said[repeated]
    wanted = [
        np.mean(true == guess),
        balanced_accuracy_score(true, guess),
        quadratic_kappa(true, guess),
        f1_score(true, guess, labels=np.unique(true), average="macro"),
    ]
    assert weighted == pytest.approx(wanted)
    everything = score_statistics(labels, said, chances)(weights)[:, 0]
    place = len(GRADE_STATISTICS) + 10 + 5 + 2  # after recalls, precisions, AUCs
    referable = chances[repeated][:, 2:].sum(axis=1)
    assert everything[place] == pytest.approx(roc_auc_score(true >= 2, referable))
    assert everything[-1] == pytest.approx(calibration_error(true, chances[repeated]))


def test_interval_of_a_share_is_the_normal_one_where_patients_have_one_eye():
    labels = np.array([0] * 700 + [1] * 300)
    alone = [str(n) for n in range(1000)]
    (found,) = patient_intervals(
        lambda weights: (labels == 0)[None] @ weights / weights.sum(axis=0),
        alone,
        resamples=4000,
    )
    assert found is not None
    half = norm.ppf(0.975) * np.sqrt(0.7 * 0.3 / 1000)
    assert found == pytest.approx([0.7 - half, 0.7 + half], abs=0.005)


def test_interval_is_wider_where_both_eyes_of_a_patient_go_together():
    labels = np.repeat([0] * 70 + [1] * 30, 2)  # both eyes are right, or both wrong
    said = np.zeros(200, int)

    def right(weights: np.ndarray) -> np.ndarray:
        return (labels == said)[None] @ weights / weights.sum(axis=0)

    widths = []
    for patients in (pairs(200), [str(n) for n in range(200)]):
        (found,) = patient_intervals(right, patients, resamples=4000)
        assert found is not None
        widths.append(found[1] - found[0])
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(2), rel=0.1)


def test_interval_covers_the_truth_as_often_as_it_says():
    """Of 100 made test sets, 95 % intervals of accuracy should miss about 5."""
    truth, missed = 0.8, 0
    for seed in range(100):
        rng = np.random.Generator(np.random.PCG64(seed))
        right = rng.random(300) < truth
        drawn = intervals.patient_resamples(
            lambda weights, right=right: right[None] @ weights / weights.sum(axis=0),
            [str(n) for n in range(300)],
            resamples=200,
        )
        low, high = np.percentile(drawn[0], [2.5, 97.5])
        missed += not low <= truth <= high
    assert 1 <= missed <= 12  # a binomial of 100 and 0.05 is there but 1 time in 200


def test_intervals_are_the_same_every_time():
    labels, chances = made(60, 3)
    first, second = (score_with_intervals(labels, chances, pairs(60)) for _ in range(2))
    assert first == second


def test_intervals_of_one_patient_are_none():
    labels, chances = made(2, 4)
    found = score_with_intervals(labels, chances, ["7", "7"])
    assert found.intervals.accuracy is None
    assert found.intervals.referable.auc is None


def test_interval_of_what_is_undefined_is_none():
    labels = np.array([0, 0, 0, 0, 1, 1])  # nothing referable
    found = score_with_intervals(labels, np.eye(5)[labels], list("abcdef"))
    assert found.intervals.referable.auc is None
    assert found.intervals.recall[2] is None
    assert found.intervals.recall[0] is not None
    assert found.intervals.recall[0][0] < found.intervals.recall[0][1] == 1


@pytest.mark.parametrize(
    ("value", "interval", "form", "text"),
    [
        (0.829, [0.78, 0.874], ".1%", "82.9% [78.0, 87.4]"),
        (0.7461, [0.6, 0.8], ".3f", "0.746 [0.600, 0.800]"),
        (0.5, None, ".1%", "50.0%"),
        (None, None, ".1%", "-"),
    ],
)
def test_format_interval_writes_a_score_with_its_interval(value, interval, form, text):
    assert format_interval(value, interval, form) == text


# ---- baselines


def eyes(rows: list[tuple[str, str, int]]) -> Eyes:
    patients, sides, labels = zip(*rows, strict=True)
    names = [f"{patient}_{side}" for patient, side, _ in rows]
    return Eyes(
        names=names, patients=patients, sides=sides, labels=np.array(labels, np.int64)
    )


def test_fellow_eye_is_copied_where_it_is_known():
    train = eyes([("1", "left", 3), ("2", "right", 1), ("x", "", 4), ("4", "left", 2)])
    test = eyes(
        [
            ("1", "right", 3),
            ("2", "left", 0),
            ("3", "left", 2),
            ("x", "", 4),
            ("4", "left", 2),  # the very eye: a duplicate, and no fellow
        ]
    )
    assert fellow_eye(train, test).tolist() == [3, 1, 0, 0, 0]
    assert leak(train, test) == Leak(eyes=3, total=5, unknown=2)
    named_alike = eyes([("1", "", 3)])  # of an unknown patient
    assert leak(train, named_alike) == Leak(eyes=0, total=1, unknown=2)
    commonest = eyes([("5", "left", 2), ("6", "left", 0), ("7", "left", 2)])
    assert majority(commonest, test).tolist() == [2] * 5


def test_leak_of_a_split_by_patient_is_nothing():
    train, test = eyes([("1", "left", 0), ("1", "right", 0)]), eyes([("2", "left", 1)])
    assert leak(train, test).warning() is None
    told_of = leak(train, eyes([("1", "left", 0), ("2", "left", 0)])).warning()
    assert told_of is not None
    assert "1 of 2 test images (50.0%)" in told_of


def test_baselines_of_the_course_split(real_data: Path):
    from fastretina.data.labels import read_table

    samples = read_table(real_data / "course_labels", images=False).samples
    sides = {
        split: eyes([(s.patient, s.eye, s.grade) for s in samples if s.split == split])
        for split in ("train", "test")
    }
    assert leak(sides["train"], sides["test"]) == Leak(eyes=5618, total=7026, unknown=0)
    found = baselines(sides["train"], sides["test"])
    fellow = found["fellow_eye"]
    assert fellow.accuracy == pytest.approx(0.847, abs=5e-4)
    assert fellow.qwk == pytest.approx(0.723, abs=5e-4)
    assert fellow.balanced_accuracy == pytest.approx(0.625, abs=5e-4)
    assert found["majority"].qwk == 0
    assert found["majority"].accuracy == pytest.approx(0.7335, abs=5e-4)


# ---- calibration


def test_temperature_is_found_again():
    labels, honest = made(20_000, 5)
    # made() draws logits around the labels; what is calibrated is found by fitting.
    base = cool(honest, fit_temperature(labels, honest))
    for temperature in (0.5, 1.0, 3.0):
        spoilt = cool(base, 1 / temperature)
        assert fit_temperature(labels, spoilt) == pytest.approx(temperature, rel=0.02)


def test_temperature_lowers_the_calibration_error_and_keeps_the_grades():
    labels, chances = made(4000, 6)
    sure = cool(chances, 0.2)
    fitted = calibrate(labels, sure)
    assert fitted.temperature > 2
    assert fitted.error_after < fitted.error_before / 2
    assert (fitted.cooled(sure).argmax(axis=1) == sure.argmax(axis=1)).all()
    assert read_back(fitted, Calibration) == fitted


def test_temperature_of_certainties_is_finite():
    labels = np.array([0, 1, 2, 3])
    fitted = calibrate(labels, np.eye(5)[[0, 1, 2, 4]])
    assert np.isfinite(fitted.temperature)
    assert np.isfinite(fitted.cooled(np.eye(5)[[0]])).all()


def test_thresholds_beat_the_likeliest_grade_where_the_loss_was_plain():
    labels, chances = made(3000, 7, skill=0.4)
    thresholds = fit_thresholds(labels, chances)
    fresh, others = made(3000, 8, skill=0.4)
    by_cut = quadratic_kappa(fresh, cut(expected_grade(others), thresholds))
    assert by_cut > quadratic_kappa(fresh, others.argmax(axis=1)) + 0.02
    assert (np.diff(thresholds) >= 0).all()


def test_thresholds_stay_at_halves_where_nothing_is_better():
    labels = np.array([0, 1, 2, 3, 4])
    assert fit_thresholds(labels, np.eye(5)).tolist() == [0.5, 1.5, 2.5, 3.5]
    assert cut(np.array([0.4, 0.5, 3.6]), [0.5, 1.5, 2.5, 3.5]).tolist() == [0, 1, 4]


def test_prior_correction_undoes_what_class_weights_do():
    """A network under weights w answers p(y|x) w(y), normalised; take w out again."""
    _, honest = made(500, 9)
    weights = np.array([1.0, 10.6, 4.9, 29.6, 35.6])
    weighted = honest * weights / (honest * weights).sum(axis=1, keepdims=True)
    assert correct_prior(weighted, weights.tolist()) == pytest.approx(honest)
    assert (weighted.argmax(axis=1) != honest.argmax(axis=1)).mean() > 0.1


def test_reliability_adds_up():
    labels, chances = made(1000, 10)
    found = reliability(labels, chances)
    assert sum(n for n in found.samples if n) == 1000
    gaps = [
        n * abs(c - a)
        for n, c, a in zip(*found, strict=True)
        if n and c is not None and a is not None
    ]
    assert sum(gaps) / 1000 == pytest.approx(calibration_error(labels, chances))


# ---- comparisons


def test_comparison_of_the_same_predictions_is_noise():
    labels, chances = made(300, 11)
    said = chances.argmax(axis=1)
    for difference in compare(
        labels, Contender("a", [said]), Contender("b", [said]), pairs(300)
    ):
        assert difference.value == 0
        assert difference.interval == (0, 0)
        assert not difference.clear
        assert "inside the noise" in difference.verdict


def test_comparison_finds_the_better_one_and_names_it():
    labels, good = made(600, 12, skill=1.5)
    poor = made(600, 12, skill=0.2)[1]
    sides = Contender("good", [good.argmax(1)]), Contender("poor", [poor.argmax(1)])
    found = {d.statistic: d for d in compare(labels, *sides, pairs(600))}
    assert found["qwk"].clear
    assert found["qwk"].verdict.startswith("QWK: good is better than poor (+0.")
    assert found["accuracy"].mcnemar_p is not None
    assert found["accuracy"].mcnemar_p < 1e-6
    turned = {d.statistic: d for d in compare(labels, *sides[::-1], pairs(600))}
    assert turned["qwk"].value == -found["qwk"].value
    assert turned["qwk"].verdict.startswith("QWK: good is better than poor (-0.")


def test_comparison_of_seeds_that_disagree_is_noise():
    labels = np.zeros(400, int)
    labels[200:] = 2
    right, wrong = labels.copy(), labels.copy()
    wrong[:60] = 2
    slightly = labels.copy()
    slightly[:5] = 2
    first = Contender("a", [right, slightly])
    second = Contender("b", [wrong, right])
    accuracy = compare(labels, first, second, [str(n) for n in range(400)])[0]
    assert accuracy.by_seed[0] > 0 > accuracy.by_seed[1]
    assert accuracy.interval is not None
    assert accuracy.interval[0] > 0
    assert not accuracy.clear
    assert "as the seeds disagree" in accuracy.verdict


def test_mcnemar_counts_what_only_one_has_right():
    labels = np.zeros(20, int)
    one, other = np.zeros(20, int), np.zeros(20, int)
    other[:6] = 1  # six that only the first has right: p = 2 / 2**6
    assert mcnemar(labels, one, other) == pytest.approx(2 / 64)
    assert mcnemar(labels, one, one) == 1
    for better, worse in ((6, 6), (1, 0), (9, 4), (3, 14)):
        one[:], other[:] = 0, 0
        other[:better], one[20 - worse :] = 1, 1
        wanted = binomtest(better, better + worse).pvalue
        assert mcnemar(labels, one, other) == pytest.approx(wanted, abs=1e-12)


def test_other_grades_are_scored_against_the_true_ones(
    monkeypatch: pytest.MonkeyPatch,
):
    """Thresholds and the undone prior, by scikit-learn, and not the other way round."""
    monkeypatch.setattr("fastretina.metrics.bootstrap.RESAMPLES", 5)
    test, validation = predictions(120, 21), predictions(80, 22)
    weights = [1.0, 4.0, 2.0, 9.0, 16.0]
    found = evaluate(test, None, validation, weights)
    fitted = calibrate(validation.labels, validation.probabilities)
    undone = correct_prior(test.probabilities, weights).argmax(axis=1)
    assert found.calibrated is not None
    for point, grades in (
        (found.calibrated.thresholds, fitted.grades(test.probabilities)),
        (found.prior_corrected, undone),
    ):
        assert point is not None
        matrix = confusion_matrix(test.labels, grades, labels=range(5))
        assert point.confusion == matrix.tolist() != matrix.T.tolist()
        wanted = balanced_accuracy_score(test.labels, grades)
        assert point.balanced_accuracy == pytest.approx(wanted)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30)
)
def test_grade_intervals_lie_around_the_score(rows):
    labels, said = np.array(rows).T
    found = grade_intervals(labels, said, [str(n) for n in range(len(rows))])
    alone = once(grade_statistics(labels, said), len(rows))
    for value, name in zip(alone, GRADE_STATISTICS, strict=True):
        interval = getattr(found, name)
        if interval is None:  # what no resample changes, or that most leave undefined
            assert name != "accuracy"
            continue
        low, high = interval
        assert -1 <= low < high <= 1
        if name == "accuracy":
            assert low <= value <= high


# ---- predictions and the whole evaluation


def predictions(samples: int, seed: int, skill: float = 1.0) -> Predictions:
    labels, chances = made(samples, seed, skill)
    return Predictions(
        rows=np.arange(samples),
        keys=[f"{n // 2}_{('left', 'right')[n % 2]}" for n in range(samples)],
        patients=pairs(samples),
        eyes=[("left", "right")[n % 2] for n in range(samples)],
        labels=labels,
        probabilities=chances,
        source=PredictionSource(checkpoint="best"),
    )


def test_predictions_survive_their_file(tmp_path: Path):
    wanted = replace(predictions(40, 13), skipped=2)
    wanted.save(tmp_path / "test.parquet")
    found = Predictions.load(tmp_path / "test.parquet")
    assert (found.rows == wanted.rows).all()
    assert (found.probabilities == wanted.probabilities).all()
    assert (found.keys, found.patients, found.eyes) == (
        wanted.keys,
        wanted.patients,
        wanted.eyes,
    )
    assert (found.source, found.skipped) == (wanted.source, 2)
    turned = found.of_keys(found.keys[::-1])
    assert turned.labels.tolist() == wanted.labels[::-1].tolist()
    assert turned.rows.tolist() == wanted.rows[::-1].tolist()


@pytest.mark.parametrize("content", [None, b"", b"PAR1 this is none"])
def test_predictions_that_are_missing_or_damaged_say_so(tmp_path: Path, content):
    path = tmp_path / "test.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"predictions of test|test\.parquet"):
        Predictions.load(path)


CUT = "sensitivity specificity auc sensitivity_at_specificity"
POINT = "accuracy balanced_accuracy qwk macro_f1"
BY_GRADE = "recall precision"
DIFFERENCES = (
    "differences(statistic value interval by_seed mcnemar_p verdict clear by_one_grade)"
)
RULE = "(about accuracy qwk balanced_accuracy macro_f1)"
SCORES = (
    f"samples {POINT} {BY_GRADE} confusion auc referable({CUT}) "
    f"sight_threatening({CUT}) calibration_error collapse"
)
INTERVALS = (
    f"intervals({POINT} exact {BY_GRADE} auc referable({CUT} exact) "
    f"sight_threatening({CUT} exact) calibration_error)"
)
OTHER_POINT = f"({POINT} confusion intervals({POINT} exact))"
NAMES = (
    f"test({SCORES} {INTERVALS}) baselines(majority{RULE} fellow_eye{RULE}) "
    "gains(majority fellow_eye) "
    "leak(eyes total unknown) "
    "calibration(temperature thresholds samples error_before error_after) "
    "calibrated(calibration_error intervals(calibration_error) "
    f"thresholds{OTHER_POINT}) prior_corrected{OTHER_POINT} "
    f"pairs(pairs fitted_on share single({SCORES}) fused({SCORES}) "
    f"{DIFFERENCES})"
)


def names_in(saved: dict[str, object]) -> str:
    """The names of a JSON object in their order, those within in brackets."""
    parts = []
    for name, value in saved.items():
        within = value[0] if name == "differences" else value
        parts.append(
            f"{name}({names_in(within)})" if isinstance(within, dict) else name
        )
    return " ".join(parts)


def test_evaluation_says_all_of_it_and_is_json():
    test, validation = predictions(200, 14), predictions(150, 15)
    known = eyes([("1", "left", 0), ("999", "left", 0)])
    weights = [1.0, 10.0, 5.0, 30.0, 36.0]
    evaluation = evaluate(test, known, validation, weights)
    assert read_back(evaluation, Evaluation) == evaluation
    assert names_in(asdict(evaluation)) == NAMES
    text = table(evaluation)
    for words in (
        "95 % intervals over patients",
        "QWK",
        "sight-threatening DR (grade 3 or worse)",
        "fitted on 150 validation images: temperature",
        "with the class weights undone",
        "both eyes of 100 patients together: QWK",
        "without a pixel: the commonest grade for all",
        "without a pixel: the fellow eye's training label",
        "warning: the split leaks: 2 of 200 test images",
    ):
        assert words in text, words
    known = warnings(evaluation.test, evaluation.leak)
    assert [each[:15] for each in known] == ["the split leaks"]


def test_evaluation_without_labels_or_validation_leaves_them_out():
    evaluation = evaluate(predictions(50, 16))
    saved = asdict(evaluation)
    assert read_back(evaluation, Evaluation) == evaluation
    others = {name: value for name, value in saved.items() if name != "test"}
    assert set(others.values()) == {None}
    assert "without a pixel" not in table(evaluation)


def test_evaluation_warns_of_a_collapse():
    test = predictions(50, 17)
    constant = np.tile([0.9, 0.1, 0, 0, 0], (50, 1))
    fallen = Predictions(**{**_fields(test), "probabilities": constant})
    evaluation = evaluate(fallen)
    assert "constant predictor" in warnings(evaluation.test, None)[0]
    assert "warning: constant predictor" in table(evaluation)


def _fields(predicted: Predictions) -> dict[str, object]:
    names = ("rows", "keys", "patients", "eyes", "labels", "probabilities", "source")
    return {name: getattr(predicted, name) for name in names}


def test_unknown_patients_are_doubted_in_a_sentence():
    known = eyes([("1", "left", 0), ("x", "", 0)])
    found = leak(known, eyes([("2", "left", 0), ("y", "", 1), ("z", "", 1)]))
    assert found.warning() is None
    doubt = found.doubt()
    assert doubt is not None
    assert doubt.startswith("the patients of 3 photographs, of train or of test, are ")
    assert warnings(evaluate(predictions(200, 19)).test, found) == [doubt]
    named = replace(known, patient_known=[True, True])  # by a column of the labels
    assert leak(named, named) == Leak(eyes=2, total=2, unknown=0)
    assert leak(eyes([("1", "left", 0)]), eyes([("2", "left", 0)])).doubt() is None


def test_patients_are_kept_by_predictions(tmp_path):
    test = predictions(20, 3)
    known = [n % 2 == 0 for n in range(20)]
    test = Predictions(**{**_fields(test), "patient_known": known})
    test.save(tmp_path / "test.parquet")
    assert Predictions.load(tmp_path / "test.parquet").patient_known == known
    assert test.of_keys(test.keys[:3]).patient_known == known[:3]
    found = evaluate(test, eyes([("1", "left", 0)])).leak
    assert found is not None
    assert found.unknown == 10


def test_rules_without_a_pixel_are_compared_on_the_same_patients():
    """Right where the rule is, and 7 times more: a gain that no patient takes back."""
    test = predictions(200, 18)
    ill = np.flatnonzero(test.labels)
    known = Eyes(names=["x"], patients=["x"], sides=[""], labels=np.zeros(1, np.int64))
    grades = np.zeros(200, np.int64)
    grades[ill[:7]] = test.labels[ill[:7]]
    slightly = replace(test, probabilities=np.eye(5)[grades])
    evaluation = evaluate(slightly, known)
    assert evaluation.baselines is not None
    assert evaluation.gains is not None
    rule = evaluation.baselines["majority"]
    ends = evaluation.test.intervals.accuracy
    assert ends is not None
    assert ends[0] < rule.accuracy < evaluation.test.accuracy  # unpaired: no telling
    gain = evaluation.gains["majority"][0]
    assert gain.statistic == "accuracy"
    assert gain.clear
    assert gain.value == pytest.approx(7 / 200)
    assert "the network is better than the commonest grade for all" in gain.verdict
    assert evaluate(test).gains is None


def test_grades_that_are_never_predicted_are_named_with_their_number():
    test = predictions(200, 19)
    chances = test.probabilities.copy()
    chances[:, [3, 4]] = 0
    lacking = replace(test, probabilities=chances)
    evaluation = evaluate(lacking)
    severe, worst = (int((test.labels == grade).sum()) for grade in (3, 4))
    assert severe > 0 < worst
    sentence = (
        f"never predicted: grades 3 (Severe; {severe} on test) and 4 (Proliferative; "
        f"{worst} on test), so every such photograph is graded wrong"
    )
    assert sentence in warnings(evaluation.test, None)
    assert f"warning: {sentence}" in table(evaluation)
    assert "never predicted" not in table(evaluate(test))
    absent = replace(lacking, labels=np.minimum(test.labels, 2))
    assert "never predicted" not in table(evaluate(absent))
