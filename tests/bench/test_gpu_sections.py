"""The GPU check's sections: order, time, --only, --continue; and shares of the peak."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import gpu_sections
import interrupted_check
import pytest
import torch
from torch import nn

from bench.gpu import check, peaks
from bench.gpu.budget import time_shares
from bench.gpu.check_state import STATE, UnfinishedCheck, load_state
from bench.gpu.markdown import TABLES
from bench.gpu.photographs import Kept
from bench.gpu.process import in_own_process
from bench.gpu.scope import (
    FULL,
    QUICK,
    Begun,
    LeftOut,
    Measured,
    Measurement,
    Scope,
    Section,
    SectionResults,
    measure,
)
from bench.gpu.section_rows import Fact
from fastretina.measure.steps import Case
from loaders.errors import DataError

ROOT = Path(__file__).parents[2]
NAMES = [section.name for stage in check.stages() for section in stage]


@pytest.fixture
def scope(tmp_path: Path) -> Scope:
    return Scope(
        out=tmp_path,
        shards=tmp_path,
        long=tmp_path,
        odd=tmp_path,
        device="cpu",
        steps=2,
        sizes=QUICK,
        deadline=time.monotonic() + 100,
    )


# ---- order


def test_most_valuable_comes_first():
    assert NAMES == [
        "environment",
        "tests",
        "end_to_end",
        "compiled_training",
        "compiled",
        "parity",
        "rare_kinds",
        "corrupt",
        "throughput",
        "steps",
        "memory",
    ]
    assert list(get_args(check.SectionName)) == NAMES == list(TABLES)


def test_first_of_each_section_fits_into_its_time(scope: Scope, monkeypatch):
    """With what is left of 8 minutes when the photographs are there; both loaders."""
    monkeypatch.setattr("bench.gpu.speed.granted_cores", lambda: 16)
    on_gpu = replace(
        scope, device="cuda:0", steps=200, sizes=FULL, deadline=time.monotonic()
    )
    sections = [section for stage in check.stages() for section in stage]
    shares, left = time_shares(sections), 430.0
    for section in sections:
        own = shares[section.name] * left
        planned = section.plan(on_gpu)
        first = sum(
            one.seconds for one in planned[: 1 + (section.name == "end_to_end")]
        )
        assert first <= own, section.name
        left -= own
    assert left == pytest.approx(0)


def test_page_has_the_order_and_the_seconds_of_the_sections():
    page = (ROOT / "bench" / "README.md").read_text().partition("## On a GPU")[2]
    rows = re.findall(r"^\| ([a-z_, ]+) \| .* \| (\d+) \|$", page, re.MULTILINE)
    seconds = {one.name: one.seconds for stage in check.stages() for one in stage}
    named = [name for names, _ in rows for name in names.split(", ")]
    assert named == list(seconds)
    for names, total in rows:
        assert sum(seconds[name] for name in names.split(", ")) == int(total)
    assert f"s of {sum(seconds.values())} |" in page


# ---- time


def plan_nothing(_: Scope) -> list[Measurement]:
    return []


def test_time_is_shared_out_over_what_is_left(scope: Scope, monkeypatch):
    times = {"one": 20.0, "two": 30.0, "three": 50.0}
    shares = time_shares([Section(n, plan_nothing, s) for n, s in times.items()])
    assert shares == {"one": 0.2, "two": 30 / 80, "three": 1.0}
    now = 100.0
    monkeypatch.setattr("bench.gpu.scope.time.monotonic", lambda: now)
    whole = replace(scope, deadline=200.0, shares=shares)

    def ends() -> list[float]:
        return [whole.of_section(name).deadline for name in times]

    assert ends() == pytest.approx([120, 137.5, 200])
    now = 120.0  # in time: 30 of the 80 s that are left are the second's
    assert ends()[1] == pytest.approx(150)
    now = 160.0  # the first took 40 s too much: both of the others pay for it
    assert ends()[1:] == pytest.approx([175, 200])
    now = 210.0  # too late
    assert ends() == [200.0] * 3
    assert whole.of_section("another").deadline == 200.0


def test_section_whose_time_is_over_leaves_the_next_its_own(scope: Scope):
    """And says by name what it had no time for."""
    shares = {"spent": 0.05, "next": 0.6}  # of 100 s
    took = []

    def plan(name: str, seconds: float) -> Section:
        def measurements(own: Scope) -> list[Measurement]:
            return [
                Measurement(f"{name} long", seconds, lambda: took.append(name) or []),
                Measurement(f"{name} short", 1.0, gpu_sections.fine),
            ]

        return Section(name, measurements)

    sections = [plan("spent", 30.0), plan("next", 30.0)]
    events = list(measure(sections, replace(scope, shares=shares)))
    assert took == ["next"]
    (left,) = (event for _, event in events if isinstance(event, LeftOut))
    assert left == ("spent long", "out of time: takes 30 s, 5 s left", True)
    limits = {event.what: event for _, event in events if isinstance(event, Begun)}
    assert limits["spent short"].limit < 26  # not the 100 s of all of it
    assert 26 < limits["next long"].limit <= 120


@pytest.mark.timeout(100)
def test_measurement_that_outlasts_its_time_is_left_out_and_is_no_failure(
    scope: Scope,
):
    soon = replace(scope, deadline=time.monotonic())
    found = SectionResults()
    for _, event in in_own_process([Section("slow", gpu_sections.plan_slow)], soon):
        found.add(event)
    assert found.failures == []
    assert [row.what for row in found.rows] == ["fine"]
    (left,) = found.left_out
    assert (left.what, left.late) == ("outlasts", True)
    assert left.why.startswith("out of time: not done within ")
    assert found.done == {"first"}


def test_what_had_no_time_is_taken_in_what_others_left(tmp_path: Path, monkeypatch):
    """In the end, and what was taken is not taken again."""
    taken = []

    def plan(name: str, seconds: float, share: float) -> list[Section]:
        def measurements(own: Scope) -> list[Measurement]:
            fact = [Fact(name, 1)]
            return [Measurement(name, seconds, lambda: taken.append(name) or fact)]

        return [Section(name, measurements, share)]

    stages = [plan("environment", 0, 1), plan("tests", 20, 1), plan("parity", 0, 50)]
    monkeypatch.setattr(check, "stages", lambda: stages)
    monkeypatch.setattr(check, "prepare", interrupted_check.prepare)
    options = check.Options(out=tmp_path, seconds=50.0, device="cpu")
    assert check.command(options)["out_of_time"] == []
    assert taken == ["environment", "parity", "tests"]


def test_no_process_is_started_for_what_is_finished_or_too_late(
    tmp_path: Path, monkeypatch
):
    """Of a GPU's: each takes 10 s to start, and there are as many as stages."""
    started = []

    def in_own_process(sections, scope, skip):
        started.append([section.name for section in sections])
        yield from measure(sections, scope, skip)

    def stages(late: bool) -> list[list[Section]]:
        def plan(_: Scope) -> list[Measurement]:
            return [Measurement("slow", 1e6 * late, gpu_sections.fine)]

        first = Section("environment", lambda _: [])
        return [[first, Section("tests", plan)], [Section("parity", lambda _: [])]]

    monkeypatch.setattr("bench.gpu.process.in_own_process", in_own_process)
    monkeypatch.setattr(Scope, "cuda", True)
    monkeypatch.setattr(check, "prepare", interrupted_check.prepare)
    options = check.Options(out=tmp_path, device="cpu")
    monkeypatch.setattr(check, "stages", lambda: stages(late=False))
    check.command(options)
    assert started == [["environment", "tests"], ["parity"]]
    started.clear()
    check.command(replace(options, continue_=True))
    assert started == []
    monkeypatch.setattr(check, "stages", lambda: stages(late=True))
    check.command(options)
    assert started == [["environment", "tests"], ["parity"], ["tests"]]
    started.clear()
    summary = check.command(replace(options, seconds=1e-6))
    assert started == []
    assert summary["out_of_time"] == ["slow"]


# ---- --only, --continue


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(check, "stages", interrupted_check.stages)
    monkeypatch.setattr(check, "prepare", interrupted_check.prepare)


def kill_in_the_middle(out: Path) -> int:
    """Run the made-up check in a process that kills itself; returns its exit code."""
    words = [sys.executable, interrupted_check.__file__, out, "--device", "cpu", "kill"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        words, env=environment, capture_output=True, timeout=100, check=False
    ).returncode


def noted(out: Path) -> list[str]:
    return (out / interrupted_check.NOTES).read_text().splitlines()


def both(*names: str) -> list[str]:
    return [f"{name} {number}" for name in names for number in (1, 2)]


@pytest.mark.timeout(200)
@pytest.mark.usefixtures("made_up")
def test_check_that_was_killed_takes_on_where_it_was(tmp_path: Path):
    assert kill_in_the_middle(tmp_path) == -9
    before = both("environment", "tests", "end_to_end")
    assert noted(tmp_path) == before
    sections = written(tmp_path)
    assert sections["end_to_end"] == ["end_to_end 1"]  # written before the kill

    words = [str(tmp_path), "--device", "cpu"]
    assert check.main([*words, "--continue"]) == 0
    assert noted(tmp_path) == [*before, "end_to_end 2", *both("parity")]
    for name, rows in written(tmp_path).items():
        assert rows == both(name)

    assert check.main([*words, "--continue"]) == 0
    assert len(noted(tmp_path)) == 9  # all was finished

    assert check.main([*words, "--continue", "--only", "parity"]) == 0
    assert len(noted(tmp_path)) == 9
    assert written(tmp_path)["tests"] == both("tests")  # is kept

    assert check.main([*words, "--only", "parity"]) == 0
    assert noted(tmp_path)[9:] == both("environment", "parity")
    assert written(tmp_path)["tests"] == []


def written(out: Path) -> dict[str, list[str]]:
    """What the rows of each section are of, in the JSON."""
    sections = json.loads((out / "gpu_check.json").read_text())["sections"]
    return {name: [row["what"] for row in sections[name]["rows"]] for name in sections}


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ((), NAMES),
        (("steps",), ["environment", "steps"]),
        (("throughput", "tests"), ["environment", "tests", "throughput"]),
    ],
)
def test_only_these_sections_are_measured(only, names):
    chosen = check.chosen_stages(only)
    assert [section.name for stage in chosen for section in stage] == names
    assert all(chosen)


def test_section_that_is_not_there_is_wrong_usage(tmp_path: Path, capsys):
    assert check.main([str(tmp_path / "out"), "--only", "speed"]) == 2
    assert "speed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


IDENTITY = {"device": "cpu", "steps": 200}


def test_state_comes_back_as_it_was(tmp_path: Path):
    found = SectionResults()
    found.add(Measured("first", [Fact("a", 1)]))
    found.add(LeftOut("second", "out of time", late=True))
    UnfinishedCheck(IDENTITY, {"parity": found}).save(tmp_path)
    results = load_state(tmp_path, IDENTITY)
    assert results == {"parity": found}
    assert results["parity"].done == {"first"}
    results["parity"].add(Measured("first", [Fact("a", 2)]))  # in place of the old row
    assert results["parity"].rows == [Fact("a", 2)]
    assert load_state(tmp_path / "new", IDENTITY) == {}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, r"got steps 100, and .*gpu_check.state has 200: leave it out"),
        (b"rubbish", r"gpu_check.state can't be read .*leave --continue out"),
    ],
)
def test_state_of_another_check_is_refused(tmp_path: Path, content, complaint):
    UnfinishedCheck(IDENTITY, {}).save(tmp_path)
    if content is not None:
        (tmp_path / STATE).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        load_state(tmp_path, {**IDENTITY, "steps": 100})


def test_shards_that_are_whole_are_kept_on_going_on(tmp_path: Path):
    made = []

    def make() -> Path:
        made.append(1)
        return tmp_path

    Kept(True)(tmp_path, make)
    assert len(made) == 1  # as there was no manifest
    (tmp_path / "manifest.json").write_text("{}")
    assert Kept(True)(tmp_path, make) == tmp_path
    assert len(made) == 1
    Kept(False)(tmp_path, make)
    assert len(made) == 2


# ---- shares of the peak


H100 = "NVIDIA H100 80GB HBM3"
CASE = Case("resnet18", 128, 512, "bf16", "channels-last", "full")


def one_convolution(num_classes: int) -> nn.Module:
    """8 channels of 3 x 3 over 4 x 4 places, then a head of 5."""
    network = nn.Sequential()
    network.conv1 = nn.Conv2d(3, 8, 3, stride=4, padding=1, bias=False)
    network.pool = nn.AdaptiveAvgPool2d(1)
    network.flatten = nn.Flatten()
    network.fc = nn.Linear(8, num_classes)
    return network


@pytest.fixture
def counted_anew():
    peaks.flop_per_image.cache_clear()
    yield
    peaks.flop_per_image.cache_clear()


def test_operations_of_a_known_network(monkeypatch, counted_anew):
    monkeypatch.setattr("torchvision.models.resnet18", one_convolution)
    convolution = 2 * 8 * 3 * 3 * 3 * 4 * 4  # two for each weight at each place
    head = 2 * 8 * 5
    # Forward; then the head's weights alone, as nothing before it is trained.
    assert peaks.flop_per_image("resnet18", 16, "head") == convolution + 2 * head
    # Forward; the gradients of both weights, and of the head's input.
    assert peaks.flop_per_image("resnet18", 16, "full") == 2 * convolution + 3 * head
    monkeypatch.setitem(peaks.PEAKS, "a GPU", peaks.Peak(1e6, 1e5, 1e4))
    step = CASE._replace(pixels=16, phase="head")
    speed = 100.0
    work = speed * (convolution + 2 * head)
    for precision, tf32, peak in (
        ("bf16", True, 1e6),
        ("fp16", False, 1e6),
        ("fp32", True, 1e5),
        ("fp32", False, 1e4),
    ):
        share = peaks.share_of_peak(
            step._replace(precision=precision), speed, "a GPU", tf32
        )
        assert share == pytest.approx(work / peak)


@pytest.mark.parametrize(("arch", "macs"), [("resnet18", 1.814), ("resnet50", 4.087)])
def test_operations_are_those_that_are_published(arch, macs):
    """Of a forward pass at 224 pixels, in 10^9 multiplications and additions."""
    forward = peaks.flop_per_image(arch, 224, "head") / 1e9
    assert forward == pytest.approx(2 * macs, rel=0.002)


def test_share_of_the_peak_is_as_it_was_computed_by_hand():
    share = peaks.share_of_peak(CASE, 2369.0, H100, True)
    assert share == pytest.approx(0.133, abs=0.001)


@pytest.mark.parametrize(
    "name",
    ["", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU"],
)
def test_device_that_is_not_known_has_no_share(name):
    assert peaks.share_of_peak(CASE, 2369.0, name, True) is None


def test_network_is_counted_without_memory():
    before = torch.cuda.is_initialized()
    assert peaks.flop_per_image("resnet50", 4096, "full") > 8e12
    assert torch.cuda.is_initialized() == before
