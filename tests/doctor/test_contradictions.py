"""Where the doctor's rounds contradict one another, it says so and judges nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_up_measurements import measured, rate
from small_runs import call

from fastretina.doctor import bottleneck
from fastretina.doctor import command as doctor
from fastretina.doctor.advice import advise
from fastretina.doctor.contradictions import contradictions, contradicts, sentences
from fastretina.doctor.measurements import EndToEnd, Measurements
from fastretina.measure.rounds import Rate


def of(median: float, slowest: float, fastest: float) -> Rate:
    return Rate(median, slowest, fastest, 3)


@pytest.mark.parametrize(
    ("whole", "part", "yes"),
    [
        (101, of(1.85, 1.8, 1.9), True),
        (101, of(1.85, 1.8, 110), True),  # rounds that far apart excuse nothing
        (11, of(10.9, 10.8, 10.9), False),
        (5, of(10, 9, 11), False),
        # Rounds that are closer together than 10 % are granted that much.
        (109.9, of(100, 100, 100), False),
        (110.1, of(100, 100, 100), True),
        # Up to the fastest of them where they lie further apart.
        (139, of(100, 60, 140), False),
        (141, of(100, 60, 140), True),
        # And up to 1.6 times their median.
        (159, of(100, 60, 400), False),
        (161, of(100, 60, 400), True),
    ],
)
def test_whole_may_be_faster_than_its_part_by_the_spread_alone(
    whole: float, part: Rate, yes: bool
) -> None:
    assert contradicts(rate(whole), part) is yes


def contradictory() -> Measurements:
    """101 images/s end to end, beside a step of 1.85 and a loader of 900."""
    return measured(step=(90, 1.85), ready=900, end=(60, 101))


def test_contradiction_is_said_first_in_one_plain_sentence() -> None:
    (line,) = sentences(contradictory())
    assert line == (
        "The rounds contradict one another: end to end, full 101 images/s, but step, "
        "full 1.85, which is part of it. Another program was taking the cores for some "
        "of the time, so what limits is not certain: run it again on a quiet machine, "
        "or with more --seconds."
    )
    assert bottleneck.unsteady(contradictory()) == [line]


def test_no_bottleneck_is_named_of_a_phase_that_contradicts_itself() -> None:
    one = contradictory()
    assert bottleneck.limit(one, "full") == "unknown"
    assert bottleneck.to_win(one, "full") is None
    assert bottleneck.limit(one, "head") == "step"
    assert bottleneck.to_win(one, "head") is not None
    head, full = bottleneck.limits(one)[:2]
    assert "the training step limits" in head
    assert full == (
        "Training the whole network: what limits is not certain, as the rounds "
        "contradict one another. 1.85 images/s on a batch that is there; 101 end to "
        "end."
    )
    assert bottleneck.headline(one) == (
        "What limits training here: the training step (head), not certain, as the "
        "rounds contradict one another (whole network)"
    )


def test_advice_rests_on_no_limit_that_is_not_known() -> None:
    advice = advise(contradictory())
    assert advice is not None
    text = " ".join(advice.sentences)
    assert "the step limits" not in text
    assert "the step is faster" not in text
    assert "what limits is not known" in text


def test_prefetch_is_no_advice_where_end_to_end_was_not_timed() -> None:
    one = measured()
    advice = advise(replace(one, training=replace(one.training, end_to_end={})))
    assert advice is not None
    text = " ".join(advice.sentences)
    assert "Prefetch 2: as ever, as end to end was not timed." in text
    assert "waited" not in text


def test_consistent_measurements_are_silent() -> None:
    for one in (
        measured(),
        measured(step=(2000, 500), ready=1000),
        measured(step=(400, 300), ready=400, end=(250, 200)),
        measured(step=(20, 10.9), end=(15, 11)),
    ):
        assert contradictions(one) == []
        assert sentences(one) == []
        assert bottleneck.limit(one, "full") != "unknown"


def test_end_to_end_faster_than_the_loader_is_a_contradiction() -> None:
    one = measured(step=(4000, 2000), ready=1000, end=(900, 1800))
    (found,) = contradictions(one)
    assert found.summary() == {
        "whole": "end to end, full",
        "part": "ready, turbo, 2 workers",
        "times": 1.8,
    }
    assert bottleneck.limit(one, "head") == "decode"


def test_ready_faster_than_the_batches_it_is_made_of_concerns_both_phases() -> None:
    one = measured(ready=1000, loaders={("turbo", 2): 500.0})
    (found,) = contradictions(one)
    assert (found.whole.name, found.part.name) == (
        "ready, turbo, 2 workers",
        "batch, turbo, 2 workers",
    )
    assert [bottleneck.limit(one, phase) for phase in ("head", "full")] == [
        "unknown",
        "unknown",
    ]


def test_whole_network_faster_than_its_head_is_a_contradiction() -> None:
    one = measured(step=(10, 100), ready=1000, end=(9, 90))
    assert [found.part.name for found in contradictions(one)] == ["step, head"]
    alone = replace(one, data=None, loading=None)
    assert [found.times for found in contradictions(alone)] == [10]


def test_worst_of_several_is_the_one_that_is_said() -> None:
    one = measured(step=(400, 100), ready=1000)
    ends = {
        "head": EndToEnd(rate(4000), 0.0),  # 10 times its step, 4 times the loader
        "full": EndToEnd(rate(5000), 0.0),  # 50 times, and 5 times
    }
    worse = replace(one, training=replace(one.training, end_to_end=ends))
    assert [round(found.times) for found in contradictions(worse)] == [50, 10, 5, 4]
    assert "end to end, full 5,000 images/s, but step, full 100," in sentences(worse)[0]


def test_contradiction_is_in_the_json_and_nothing_rests_on_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    shards: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "fastretina.doctor.examination.examine", lambda examination: contradictory()
    )
    monkeypatch.setattr("fastretina.doctor.installation._busy_cores", lambda: 0.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "d.png"
    words = ["--shards", str(shards), "--out", str(out), "--device", "cpu"]
    outcome = call(doctor.main, words, capsys)
    assert outcome.code == 0
    result = outcome.json
    assert result["contradictions"] == [
        {"whole": "end to end, full", "part": "step, full", "times": 54.59}
    ]
    assert result["limits"] == {"head": "step", "full": "unknown"}
    assert result["to_win"]["full"] is None
    assert result["forecast"] is None
    assert result["remembered"] is None
    first = next(line for line in outcome.out if line.startswith("- "))
    assert first.startswith("- The rounds contradict one another: end to end, full 101")
    assert "An epoch of" not in "\n".join(outcome.out)
