"""Fellow-eye fusion: better where the fellow tells something, harmless where not."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from fastretina.metrics.both_eyes import (
    FEWEST_PAIRS,
    FusionError,
    fit_fusion,
    judge_fusion,
    pairs_of,
)
from fastretina.metrics.predictions import Predictions
from loaders.errors import DataError

SHARES = (0.73, 0.07, 0.15, 0.025, 0.025)  # of the grades, as in the course's set


def made(
    pairs: int, agreement: float, seed: int, shares: tuple[float, ...] = SHARES
) -> Predictions:
    """Both eyes of patients, and a network that is as good as its noise lets it be.

    Args:
        pairs: patients.
        agreement: chance that the second eye's grade is copied from the first, and not
            drawn anew.
        seed: of the draws.
        shares: of the grades.
    """
    rng, noise = np.random.default_rng(seed), 0.8
    first, second = rng.choice(5, (2, pairs), p=shares)
    second = np.where(rng.random(pairs) < agreement, first, second)
    labels = np.stack([first, second], axis=1).ravel()
    seen = labels + rng.normal(0, noise, len(labels))
    likely = np.exp(-((seen[:, None] - np.arange(5)) ** 2) / (2 * noise**2)) * shares
    return Predictions(
        rows=np.arange(2 * pairs),
        keys=[f"{n // 2}_{('left', 'right')[n % 2]}" for n in range(2 * pairs)],
        patients=[str(n // 2) for n in range(2 * pairs)],
        eyes=["left", "right"] * pairs,
        labels=labels.astype(np.int64),
        probabilities=likely / likely.sum(axis=1, keepdims=True),
    )


def chosen(predicted: Predictions, places: list[int]) -> Predictions:
    return Predictions(
        rows=predicted.rows[places],
        keys=[predicted.keys[n] for n in places],
        patients=[predicted.patients[n] for n in places],
        eyes=[predicted.eyes[n] for n in places],
        labels=predicted.labels[places],
        probabilities=predicted.probabilities[places],
    )


# ---- pairs_of


def test_pairs_of_finds_each_eye_once_the_first():
    own, fellow = pairs_of(made(3, 0.8, 0))
    assert own.tolist() == [0, 1, 2, 3, 4, 5]
    assert fellow.tolist() == [1, 0, 3, 2, 5, 4]
    assert own.dtype == fellow.dtype == np.int64


def test_pairs_of_leaves_out_eyes_without_a_fellow_and_names_without_an_eye():
    some = chosen(made(4, 0.8, 0), [7, 0, 3, 6, 2])  # 3_right 0_left 1_right 3_left ...
    assert [place.tolist() for place in pairs_of(some)] == [[0, 2, 3, 4], [3, 4, 0, 2]]
    nameless = replace(some, eyes=["", "left", "", "", "odd"])
    assert [place.tolist() for place in pairs_of(nameless)] == [[], []]
    assert pairs_of(nameless)[0].dtype == np.int64
    assert len(pairs_of(chosen(some, []))[0]) == 0


# ---- fit_fusion


def test_fusion_gives_probabilities():
    fusion, test = fit_fusion(made(200, 0.85, 0)), made(50, 0.85, 1)
    own, fellow = pairs_of(test)
    found = fusion.fused(test.probabilities[own], test.probabilities[fellow])
    assert found.shape == (100, 5)
    assert found.dtype == np.float64
    assert found.min() >= 0
    assert found.sum(axis=1) == pytest.approx(np.ones(100))
    assert fusion.pairs == 200


def test_fusion_is_the_same_for_the_same_validation_in_any_order_of_fit():
    validation, test = made(100, 0.85, 0), made(20, 0.85, 1).probabilities
    one, other = fit_fusion(validation), fit_fusion(validation)
    assert np.array_equal(one.fused(test, test[::-1]), other.fused(test, test[::-1]))


def test_fusion_treats_left_and_right_alike():
    validation, test = made(100, 0.85, 0), made(20, 0.85, 1).probabilities
    swapped = [n + 1 - 2 * (n % 2) for n in range(200)]
    turned = replace(
        chosen(validation, swapped), eyes=["left", "right"] * 100, rows=validation.rows
    )
    one = fit_fusion(validation).fused(test, test[::-1])
    other = fit_fusion(turned).fused(test, test[::-1])
    assert np.abs(one - other).max() < 1e-4


def test_fusion_heeds_a_fellow_that_tells_something():
    fusion, own = fit_fusion(made(300, 0.9, 0)), made(50, 0.9, 1).probabilities
    assert fusion.share > 0.5
    healthy, ill = (np.repeat(own[own[:, k].argmax()][None], 100, 0) for k in (0, 2))
    with_healthy, with_ill = fusion.fused(own, healthy), fusion.fused(own, ill)
    assert (with_healthy[:, 0] > with_ill[:, 0]).all()
    assert (with_healthy[:, 2] < with_ill[:, 2]).all()


def test_fusion_hardly_heeds_a_fellow_that_tells_nothing():
    shares, costs = [], []
    test = made(1000, 0.0, 100)
    own, fellow = pairs_of(test)
    alone, labels = test.probabilities[own], test.labels[own]
    right = (alone.argmax(axis=1) == labels).mean()
    for seed in range(8):
        fusion = fit_fusion(made(60, 0.0, seed))
        fused = fusion.fused(alone, test.probabilities[fellow])
        shares.append(fusion.share)
        costs.append(right - (fused.argmax(axis=1) == labels).mean())
        if fusion.share == 0:
            assert np.array_equal(fused, alone)
    assert 0 in shares
    assert np.median(shares) <= 0.25
    assert np.mean(costs) < 0.01


def test_fusion_keeps_the_networks_word_on_a_grade_that_validation_lacks():
    validation = made(200, 0.9, 0, (0.6, 0.2, 0.2, 0, 0))
    fusion, test = fit_fusion(validation), made(50, 0.9, 1).probabilities
    found = fusion.fused(test, test[::-1])
    assert found[:, 3:] == pytest.approx(test[:, 3:])
    assert found.sum(axis=1) == pytest.approx(np.ones(100))
    assert fusion.share > 0


@pytest.mark.parametrize("pairs", [0, 1, FEWEST_PAIRS - 1])
def test_fusion_refuses_too_few_pairs(pairs: int):
    lone = chosen(made(FEWEST_PAIRS, 0.8, 0), [*range(2 * pairs)])
    with pytest.raises(FusionError, match=f"and validation has {pairs}; train with"):
        fit_fusion(lone)
    assert issubclass(FusionError, DataError)


def test_fusion_is_fitted_on_the_fewest_pairs_without_a_warning():
    for seed in range(5):  # pytest makes an error of a warning
        assert fit_fusion(made(FEWEST_PAIRS, 0.8, seed)).pairs == FEWEST_PAIRS


def test_fusion_refuses_one_grade():
    validation = made(30, 0.8, 0)
    healthy = replace(validation, labels=np.zeros(60, np.int64))
    with pytest.raises(FusionError, match=r"all 30 pairs .* grade 0 \(No DR\)"):
        fit_fusion(healthy)


def test_fusion_takes_a_grade_that_one_eye_alone_has():
    labels = np.zeros(60, np.int64)
    labels[7] = 4
    fusion = fit_fusion(replace(made(30, 0.8, 0), labels=labels))
    found = fusion.fused(np.full((1, 5), 0.2), np.full((1, 5), 0.2))
    assert np.isfinite(found).all()


def test_fusion_takes_a_network_that_is_certain():
    validation = made(60, 0.8, 0)
    certain = np.eye(5)[validation.probabilities.argmax(axis=1)]
    fusion = fit_fusion(replace(validation, probabilities=certain))
    found = fusion.fused(np.eye(5), np.eye(5)[::-1])
    assert np.isfinite(found).all()
    assert found.sum(axis=1) == pytest.approx(np.ones(5))


# ---- judge_fusion


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of 200 resamples tell these cases apart as well as those of 1,000."""
    monkeypatch.setattr("fastretina.metrics.bootstrap.RESAMPLES", 200)


@pytest.fixture
def enough_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastretina.metrics.bootstrap.RESAMPLES", 200)


@pytest.mark.usefixtures("enough_resamples")
def test_judge_fusion_where_the_fellow_tells_something():
    found = asdict(judge_fusion(made(300, 0.9, 0), made(600, 0.9, 1)))
    json.dumps(found)
    assert (found["pairs"], found["fitted_on"]) == (600, 300)
    assert found["single"]["samples"] == found["fused"]["samples"] == 1200
    differences = {each["statistic"]: each for each in found["differences"]}
    for name in ("accuracy", "qwk"):
        value = found["fused"][name] - found["single"][name]
        assert differences[name]["value"] == pytest.approx(value)
        assert differences[name]["interval"][0] > 0
        assert differences[name]["clear"]
        assert "both eyes is better than one eye" in differences[name]["verdict"]


@pytest.mark.usefixtures("enough_resamples")
@pytest.mark.parametrize("pairs", [40, 300])
def test_judge_fusion_where_the_fellow_tells_nothing(pairs: int):
    found = asdict(judge_fusion(made(pairs, 0.0, 0), made(600, 0.0, 1)))
    for difference in found["differences"]:
        assert difference["interval"][1] >= 0, difference  # not worse than the noise
        assert abs(difference["value"]) < 0.03


def test_judge_fusion_looks_at_paired_eyes_alone():
    whole = made(100, 0.9, 1)
    some = chosen(whole, [*range(60), *range(60, 200, 2)])
    found = judge_fusion(made(100, 0.9, 0), some)
    paired = judge_fusion(made(100, 0.9, 0), chosen(whole, [*range(60)]))
    assert found == paired
    assert found.pairs == 30


def test_judgement_of_other_differences_than_those_of_the_statistics_is_refused():
    found = judge_fusion(made(100, 0.9, 0), made(100, 0.9, 1))
    assert found.difference("qwk").statistic == "qwk"
    for wrong in ([], found.differences[:3], found.differences[::-1]):
        with pytest.raises(ValueError, match="differences must be those of accuracy,"):
            replace(found, differences=wrong)


def test_judge_fusion_refuses_a_test_split_without_pairs():
    lone = chosen(made(100, 0.9, 1), [*range(0, 200, 2)])
    with pytest.raises(FusionError, match="no patient with both eyes"):
        judge_fusion(made(100, 0.9, 0), lone)
    with pytest.raises(FusionError, match="and validation has 0"):
        judge_fusion(lone, made(100, 0.9, 0))
