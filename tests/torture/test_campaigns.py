"""The shortest form of every campaign, and what the harness itself promises."""

from __future__ import annotations

import json
import os
import signal
import time
from itertools import count
from pathlib import Path

import pytest

from torture import campaigns, run
from torture.campaign import Case, Counts, Fault, Skip
from torture.campaigns import CAMPAIGNS, make_campaign
from torture.child import in_child

SEED = 20261130


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_short_form_finds_no_fault(name: str) -> None:
    numbers = range(make_campaign(name).in_tests)
    assert run.run_campaign(name, SEED, numbers, float("inf")).faults == []


class Odd:
    """Fails at odd numbers; number 4 can't be had."""

    name, share, least, in_tests = "odd", 1.0, 6, 6

    def prepare(self, folder: Path) -> None:
        self.shared = folder

    def run(self, case: Case) -> Counts:
        assert self.shared.is_dir()
        assert list(case.folder.iterdir()) == []
        (case.folder / "left").touch()
        if case.number == 4:
            raise Skip("no fours here")
        if case.number % 2:
            raise Fault(f"{case.rng().integers(1 << 40)} is odd")
        return {"good": 2}

    def close(self) -> None:
        pass


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(campaigns.CAMPAIGNS, "odd", "test_campaigns:Odd")


def test_cases_are_counted_and_faults_say_how_to_repeat_them(odd: None) -> None:
    tally = run.run_campaign("odd", 7, range(6), float("inf"))
    assert (tally.cases, tally.counts, tally.skipped) == (
        5,
        {"good": 4},
        {"no fours here": 1},
    )
    assert len(tally.faults) == 3
    again = run.run_campaign("odd", 7, [3], float("inf"))
    assert again.faults == [tally.faults[1]]
    assert "make torture SEED=7 ONLY=odd CASE=3" in again.faults[0]
    assert run.run_campaign("odd", 8, [3], float("inf")).faults != again.faults


def test_run_ends_with_a_line_of_counts_and_1(
    odd: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Here:  # a pool of this process, where the campaign is known
        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: object) -> None: ...

        map = staticmethod(map)

    monkeypatch.setattr(run, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(run, "LONG", 0)  # or one case a process would do
    monkeypatch.setattr(run, "count", lambda first, jobs: range(first, 6, jobs))
    assert run.torture(7, 0.0, ["odd"], 2) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("torture: seed 7")
    assert sum(line.startswith("fault: ") for line in lines) == 3
    line = json.loads(lines[-1])
    assert (line["seed"], line["faults"]) == (7, 3)
    assert line["campaigns"]["odd"] == {
        "cases": 5,
        "faults": 3,
        "good": 4,
        "skipped": {"no fours here": 1},
    }


def test_cases_end_with_the_minutes_but_the_least_number_is_run(odd: None) -> None:
    over = time.monotonic()
    assert run.run_campaign("odd", 7, count(), over).cases == 1
    assert run.run_campaign("odd", 7, count(0, 2), over, least=4).cases == 2
    assert run.run_campaign("odd", 7, count(1, 2), over, least=4).cases == 2


def double(number: int) -> int:
    return 2 * number


def die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def fail() -> None:
    raise KeyError("mine")


def test_child_answers_raises_dies_or_hangs() -> None:
    assert in_child(double, 21) == 42
    with pytest.raises(KeyError, match="mine"):
        in_child(fail)
    with pytest.raises(Fault, match="SIGSEGV"):
        in_child(die)
    with pytest.raises(Fault, match="hangs"):
        in_child(time.sleep, 60, seconds=0.3)
