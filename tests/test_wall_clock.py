"""Where a command's time goes: parts that add up, and none of it twice."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass, fields

import pytest

from fastretina import cli, wall_clock
from fastretina.wall_clock import (
    WallSeconds,
    part,
    wall_seconds,
    with_wall_seconds,
)


class Time:
    """A clock that goes on only when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(wall_clock.time, "perf_counter", clock)
    return clock


def test_parts_add_up_and_what_none_claims_is_other(time: Time):
    with wall_clock.wall_clock(of_process=False):
        time.pass_(1)
        with part("data"):
            time.pass_(2)
        time.pass_(0.5)
        with part("data"):
            time.pass_(4)
        found = wall_seconds()
    assert found == WallSeconds(total=7.5, data=6, other=1.5)
    assert found.as_json() == {"total": 7.5, "data": 6, "other": 1.5}


def test_part_within_another_is_not_counted_twice(time: Time):
    with wall_clock.wall_clock(of_process=False):
        with part("steps"):
            time.pass_(10)
            with part("checkpoints"):
                time.pass_(3)
                with part("imports"):
                    time.pass_(2)
            with part("steps"):
                time.pass_(1)
        found = wall_seconds()
    assert found is not None
    assert found.as_json() == {
        "total": 16,
        "imports": 2,
        "steps": 11,
        "checkpoints": 3,
        "other": 0,
    }


def test_part_that_fails_ends_all_the_same(time: Time):
    @part("figures")
    def draw() -> None:
        time.pass_(2)
        raise KeyError

    with wall_clock.wall_clock(of_process=False):
        for _ in range(2):
            with pytest.raises(KeyError):
                draw()
        time.pass_(1)
        assert wall_seconds() == WallSeconds(total=5, figures=4, other=1)


def test_time_until_now_counts_for_the_part_that_goes_on(time: Time):
    with wall_clock.wall_clock(of_process=False), part("evaluation"):
        time.pass_(3)
        assert wall_seconds() == WallSeconds(total=3, evaluation=3, other=0)
        time.pass_(1)
        assert wall_seconds() == WallSeconds(total=4, evaluation=4, other=0)


def test_threads_of_loaders_do_not_count(time: Time):
    def load() -> None:
        with part("data"):
            time.pass_(1)
        assert wall_seconds() is None
        assert with_wall_seconds({"a": 1}) == {"a": 1}

    with wall_clock.wall_clock(of_process=False):
        with part("steps"):
            thread = threading.Thread(target=load)
            thread.start()
            thread.join()
        assert wall_seconds() == WallSeconds(total=1, steps=1, other=0)


def test_command_within_another_goes_on_with_its_clock(time: Time):
    with wall_clock.wall_clock(of_process=False):
        time.pass_(1)
        with part("steps"), wall_clock.wall_clock(of_process=True):
            time.pass_(2)
            assert wall_seconds() == WallSeconds(total=3, steps=2, other=1)
        assert wall_seconds() == WallSeconds(total=3, steps=2, other=1)
    assert wall_seconds() is None


def test_rounded_parts_sum_to_the_rounded_total(time: Time):
    with wall_clock.wall_clock(of_process=False):
        for name in ("imports", "start", "data", "steps"):
            with part(name):
                time.pass_(0.0149)
        found = wall_seconds()
    assert found is not None
    shown = found.as_json()
    total = shown.pop("total")
    assert total == pytest.approx(sum(shown.values()), abs=1e-9)
    assert total == pytest.approx(4 * 0.0149, abs=0.01 * len(shown))


def test_record_has_every_part():
    parts = set(wall_clock.Part.__args__)
    assert {field.name for field in fields(WallSeconds)} == {"total", *parts}


@dataclass(frozen=True)
class Options:
    """Flags of nothing."""


def test_command_says_where_its_time_went(capsys: pytest.CaptureFixture[str]):
    def work(_: Options) -> dict[str, object]:
        with part("intervals"):
            pass
        return {"answer": 42}

    assert cli.run(work, Options, [], prog="x", about="X.") == 0
    line = json.loads(capsys.readouterr().out)
    assert list(line) == ["answer", "wall_seconds"]
    assert list(line["wall_seconds"]) == ["total", "imports", "intervals", "other"]
    assert 0 <= line["wall_seconds"]["total"] < 60  # not of the whole of pytest


def test_process_is_counted_from_its_start():
    """The second before fastretina was imported counts, too."""
    code = (
        "import sys, time\n"
        "time.sleep(1)\n"
        "begun = time.perf_counter()\n"
        "from fastretina.cli import main\n"
        "sys.argv[1:] = ['demo', '--version']\n"
        "from fastretina import wall_clock\n"
        "with wall_clock.wall_clock(of_process=True):\n"
        "    assert main() == 0\n"
        "    found = wall_clock.wall_seconds()\n"
        "print(found.total - (time.perf_counter() - begun), found.imports)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    before, imports = map(float, done.stdout.splitlines()[-1].split())
    assert 0.95 <= before < 10
    assert imports > 0.05
