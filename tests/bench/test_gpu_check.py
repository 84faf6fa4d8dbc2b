"""``scripts/gpu_check.py`` without a GPU, and its judgement of one's figures."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from multiprocessing import get_context

import gpu_sections
import numpy as np
import psutil
import pytest
import torch
from PIL import Image, JpegImagePlugin
from small_runs import make_small, small_network

from bench.gpu import check as gpu_check
from bench.gpu import corrupt as gpu_corrupt
from bench.gpu import memory as gpu_memory
from bench.gpu import photographs as gpu_photographs
from bench.gpu import pixels as gpu_pixels
from bench.gpu import runs as gpu_runs
from bench.gpu import speed as gpu_speed
from bench.gpu import steps as gpu_steps
from bench.gpu import tests as gpu_tests
from bench.gpu.bounds import judge
from bench.gpu.markdown import TABLES, render
from bench.gpu.process import in_own_process
from bench.gpu.scope import (
    FULL,
    QUICK,
    Begun,
    FailedMeasurement,
    LeftOut,
    Measured,
    Measurement,
    Scope,
    Section,
    SectionResults,
    measure,
)
from bench.gpu.section_rows import (
    DamagedFileRow,
    DecoderSetting,
    DifferencesRow,
    Fact,
    FailedLoaderRow,
    KindDifference,
    LoaderMemoryRow,
    MarkedTestsRow,
    ParityRow,
    RareKindsRow,
    StepRow,
    ThroughputRow,
    TrainedPhaseRow,
    as_json,
)
from fastretina.measure import steps
from fastretina.measure.rounds import Rate
from fastretina.nn.device import Compute
from loaders import available, make_loader, open_split

# Python 3.12 warns of any fork beside threads, and torch's own are always there.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

DALI = "dali" in available()
needs_dali = pytest.mark.skipif(not DALI, reason="DALI is not installed")


def run(*words):
    """The command in this process: exit code, lines of stdout and of stderr."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = gpu_check.main([str(word) for word in words])
    return code, out.getvalue().splitlines(), err.getvalue().splitlines()


@pytest.fixture(scope="module")
def quick(shards, tmp_path_factory):
    """One quick check of the fixture's shards: folder, exit code, lines.

    What is trained is a network of 2,000 weights: it is not speed that is looked at.
    """
    out = tmp_path_factory.mktemp("gpu_check")
    words = (out, "--quick", "--shards", shards, "--device", "cpu")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        return out, *run(*words)


@pytest.fixture
def scope(shards, tmp_path):
    return Scope(
        out=tmp_path,
        shards=shards,
        long=shards,
        odd=shards,
        device="cpu",
        steps=2,
        sizes=QUICK,
        deadline=time.monotonic() + 100,
    )


def read_record(out):
    return json.loads((out / "gpu_check.json").read_text())


# ---------------------------------------------------------------------- the whole of it


def test_quick_check_ends_well_and_says_so_in_json(quick):
    out, code, lines, err = quick
    assert code == 0, err
    summary = json.loads(lines[-1])
    assert summary["out"] == str(out)
    assert summary["device"] == "cpu"
    assert summary["failed"] == summary["bounds_not_held"] == []
    held = ["libjpeg-turbo, exact", *(["damaged files"] if DALI else [])]
    # A trainer that counts what it has changed is judged by that, too.
    assert [name for name in summary["bounds_held"] if name != TRAINS] == held
    assert "mixed, fancy on" in summary["bounds_not_measured"]
    assert 0 < summary["seconds"] < 100


def test_quick_check_writes_both_files_and_removes_its_work(quick):
    out, *_ = quick
    left = {"gpu_check.json", "gpu_check.md", "gpu_check.state"}
    assert {path.name for path in out.iterdir()} == left
    found = read_record(out)
    assert set(found["sections"]) == set(TABLES)
    assert found["environment"]["torch"] == torch.__version__
    assert re.match(r"20\d\d-\d\d-\d\d \d\d:", found["environment"]["date"])


def test_quick_check_measures_what_it_can(quick):
    sections = read_record(quick[0])["sections"]
    rows = {name: section["rows"] for name, section in sections.items()}
    decoders = {row["loader"]: row for row in rows["parity"]}
    assert set(decoders) == {"turbo", "dali"} if DALI else {"turbo"}
    assert all(row["images"] == 16 for row in decoders.values())
    assert all(row["images_exact"] == 1 for row in decoders.values())
    assert all(row["CMYK"]["max"] <= 1 for row in rows["rare_kinds"])
    timed = {(row["line"], row["loader"]) for row in rows["throughput"]}
    assert timed == {(line, n) for line in ("batch", "ready") for n in available()}
    assert all(row["rounds"] == 3 for row in rows["throughput"])
    assert all(row["images_per_round"] == 24 for row in rows["throughput"])
    assert [row["arch"] for row in rows["steps"]] == ["resnet18"]
    assert rows["steps"][0]["share_of_peak"] is None
    trained = rows["end_to_end"]
    assert {(row["loader"], row["phase"]) for row in trained} == {
        (loader, phase) for loader in decoders for phase in ("head", "full")
    }
    for row in trained:
        assert row["epochs"] == 2
        assert 0 <= row["wait_fraction"] < 1
        assert row["images_per_second"] > 0
        assert row["first_seconds"] > row["first_wait_seconds"] >= 0
        assert not row["compiled"]
        # 5 x 16 + 5 of the small network's head; all of its 1,500 and more.
        trains = row["trained_parameters"]
        assert trains == 85 if row["phase"] == "head" else trains > 1000
        assert row["changed_parameters"] is None or row["changed_parameters"] > 0


def test_quick_check_lists_by_name_what_it_could_not_do(quick):
    text = (quick[0] / "gpu_check.md").read_text()
    listed = text.partition("## Left out\n")[2]
    for what in (
        "parity: parity of mixed, fancy on, load 0.65",
        "parity: parity of mixed, fancy off, load 1",
        "rare_kinds: rare kinds of JPEG under mixed, fancy on, load 0",
        "memory: GPU memory of turbo",
        "steps: resnet18 step, batch 64, bf16, channels-last, full, eager",
        "steps: resnet50 step, batch 32, fp32, NCHW, head, eager",
        "compiled_training: compiled training with turbo",
        "compiled: resnet50 step, batch 32, bf16, channels-last, full, compiled",
        "tests: the tests marked gpu",
    ):
        assert f"- {what} (needs CUDA, and the device is cpu)\n" in listed, what
    assert read_record(quick[0])["summary"]["left_out"] == listed.count("\n- ")


def test_report_has_every_table_and_every_bound(quick):
    text = (quick[0] / "gpu_check.md").read_text()
    for table in TABLES.values():
        assert text.count(f"## {table.title}\n") == 1
    for bound in read_record(quick[0])["bounds"]:
        assert f"| {bound['name']} | {bound['rule']} |" in text
    assert text.partition("## Failed\n")[2].startswith("\nNothing.\n")
    assert "| turbo, libjpeg-turbo | 16 | 100.00% |" in text


def test_photographs_are_drawn_where_none_are_given(tmp_path):
    options = gpu_check.Options(out=tmp_path, quick=True, steps=2)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        scope = gpu_check.prepare(options, "cpu", 0.0)
    assert scope.steps == 2
    assert scope.shards == tmp_path / "shards"
    with open_split(scope.shards, "train") as split:
        assert len(split) == 32
        assert split.dimensions == ((64, 64),)


def test_folder_of_photographs_can_be_given(tmp_path, course):
    options = gpu_check.Options(out=tmp_path, data=course, quick=True)
    with redirect_stdout(io.StringIO()):
        scope = gpu_check.prepare(options, "cpu", 0.0)
    with open_split(scope.shards, "train") as split:
        assert len(split) == 37


def test_script_finds_its_checkout_from_anywhere(tmp_path):
    script = gpu_tests.ROOT / "scripts" / "gpu_check.py"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, script, "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "usage: python scripts/gpu_check.py" in done.stdout


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--seconds", "0"], "--seconds must be above 0, got 0.0"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--data", "a", "--shards", "b"], "must not both be given"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, words, complaint):
    code, out, err = run(tmp_path / "out", *words)
    assert (code, out) == (2, [])
    assert complaint in err[-1]
    assert not (tmp_path / "out").exists()


def test_device_that_is_not_here_is_one_line(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    code, out, err = run(tmp_path / "out", "--device", "cuda")
    assert (code, out) == (1, [])
    (line,) = err
    assert line.startswith("error: --device cuda is not here: 0 CUDA devices found;")


# ------------------------------------------------------------ failures, lack of time


@pytest.fixture
def staged(monkeypatch, shards, tmp_path):
    """Runs the command with the given stages in place of all."""

    def staged(*stages, **flags):
        make_small(monkeypatch)
        monkeypatch.setattr(gpu_check, "stages", lambda: [list(s) for s in stages])
        words = [part for flag in flags.items() for part in flag]
        quick = (tmp_path / "out", "--quick", "--device", "cpu", "--shards", shards)
        code, out, err = run(*quick, *words)
        return tmp_path / "out", code, out, err

    return staged


def test_failing_section_is_recorded_and_the_rest_goes_on(staged):
    out, code, lines, err = staged(
        [
            Section("parity", gpu_sections.plan_badly),
            Section("rare_kinds", gpu_pixels.plan_odd),
        ],
        [Section("steps", gpu_steps.plan_steps)],
    )
    assert code == 1
    assert [line for line in err if line.startswith("error:")] == [
        f"error: failed: parity; see {out / 'gpu_check.md'}"
    ]
    assert json.loads(lines[-1])["failed"] == ["parity"]
    sections = read_record(out)["sections"]
    (failure,) = sections["parity"]["failures"]
    assert failure["error"] == "RuntimeError: no plan"
    assert failure["trace"][-1] == "RuntimeError: no plan"
    assert any("plan_badly" in line for line in failure["trace"])
    assert sections["rare_kinds"]["rows"]
    assert sections["steps"]["rows"]
    assert (
        "- parity: parity: RuntimeError: no plan" in (out / "gpu_check.md").read_text()
    )


def test_results_are_written_after_every_measurement(staged):
    out, code, lines, _ = staged(
        [Section("environment", gpu_sections.plan_looking)],
    )
    assert code == 1
    assert json.loads(lines[-1])["failed"] == ["raises"]
    rows = read_record(out)["sections"]["environment"]["rows"]
    assert rows[-1] == {"what": "seen", "value": [rows[0]]}


def test_what_no_time_is_left_for_is_listed(scope):
    late = replace(scope, deadline=time.monotonic() - 1)
    stages = [section for stage in gpu_check.stages() for section in stage]
    listed = {
        section.name: [one.name for one in section.plan(late)] for section in stages
    }
    found = {section.name: SectionResults() for section in stages}
    for name, event in measure(stages, late):
        found[name].add(event)
    for name, section in found.items():
        lacking = [one.what for one in section.left_out]
        if name == "environment":  # needed whatever the time
            assert {row.what for row in section.rows} >= {"torch", "cores granted"}
            assert lacking == ["GPU"]
        else:
            assert lacking == listed[name]
            assert not section.rows
        assert not section.failures
    whys = {one.what: one.why for one in found["parity"].left_out}
    assert whys["parity of turbo, libjpeg-turbo"] == (
        "out of time: takes 5 s, 0 s left"
    )


def test_smaller_measurement_may_still_fit(scope):
    def plan(_):
        return [
            Measurement("long", 1e6, gpu_sections.fine),
            Measurement("short", 0.0, gpu_sections.fine),
        ]

    events = [event for _, event in measure([Section("some", plan)], scope)]
    assert isinstance(events[0], LeftOut)
    assert [event.what for event in events[1:]] == ["short", "short"]
    assert isinstance(events[-1], Measured)


def test_training_of_an_hour_on_a_cpu_is_left_out(scope):
    real = replace(scope, steps=200, sizes=FULL)
    events = measure([Section("end_to_end", gpu_runs.plan_end_to_end)], real)
    whys = [event.why for _, event in events]
    assert [why for why in whys if why.startswith("out of time: takes 5125 s,")]
    assert len(whys) == len(gpu_runs.TRAINED_WITH)


FAILED = FailedLoaderRow("batch", "b", "E: x", 8, 2)


def test_row_with_an_error_counts_as_failed():
    found = SectionResults()
    found.add(Measured("speed", [Fact("a", 1), FAILED]))
    assert found.failures == [FailedMeasurement("speed", "E: x", [])]
    assert len(found.rows) == 2


def test_begun_measurement_has_until_shortly_after_the_deadline(scope):
    def plan(_):
        return [Measurement("one", 1.0, gpu_sections.fine)]

    soon = replace(scope, deadline=time.monotonic() + 5)
    (_, begun), _ = measure([Section("some", plan)], soon)
    assert isinstance(begun, Begun)
    assert 20 < begun.limit < 26
    assert not begun.hangs  # but has no more time
    (_, begun), _ = measure([Section("some", plan)], scope)
    assert (begun.limit, begun.hangs) == (60, True)


@pytest.mark.timeout(120)
def test_process_that_dies_or_hangs_loses_only_one_measurement(scope):
    found = {section.name: SectionResults() for section in gpu_sections.TROUBLED}
    begun = []
    for name, event in in_own_process(gpu_sections.TROUBLED, scope):
        found[name].add(event)
        begun += [event.what] if isinstance(event, Begun) else []
    assert begun == ["first", "dies", "raises", "hangs", "last", "after"]
    assert len(found["troubled"].rows) == 2
    usual = get_context().get_start_method()  # that of a loader's workers, unspoilt
    assert found["after"].rows == [Fact("method", usual)]
    assert [(one.what, one.error) for one in found["troubled"].failures] == [
        ("dies", "crash: ended by SIGSEGV"),
        ("raises", "RuntimeError: CUDA error: an illegal memory access"),
        ("hangs", "hangs: no end within 1 s"),
    ]
    assert found["troubled"].left_out == [LeftOut("lacking", "needs a moon")]
    assert not found["after"].failures


@pytest.mark.timeout(60)
def test_process_that_never_starts_is_not_tried_for_ever(scope):
    section = Section("some", gpu_sections.Stubborn())
    ((name, failure),) = in_own_process([section], scope)
    assert name == "some"
    assert failure.error == "crash: exit code 4"


# ---------------------------------------------------------------------------- judgement


def mixed(fancy=True, load=0.65, mean=0.04, largest=3):
    name = f"mixed, fancy {fancy}, load {load}"
    setting = DecoderSetting(name, "dali", "cuda:0", fancy, load)
    differences = DifferencesRow(
        images=512,
        images_exact=0.0,
        values_exact=0.7,
        values_above_2=0.01,
        mean=mean / 2,
        worst_mean=mean,
        max=largest,
        worst_key="7_left",
    )
    return ParityRow(setting, differences, batches_by_host=0)


def kinds(fancy=True, mean=0.04, largest=3):
    each = KindDifference(mean, largest, by_host=False)
    setting = DecoderSetting("mixed", "dali", "cuda:0", fancy, 1.0)
    every = dict.fromkeys(gpu_photographs.ODD_KINDS.values(), each)
    return RareKindsRow(setting, every)


def step(ms, precision="bf16", layout="channels-last", arch="resnet18", **more):
    case = steps.Case(arch, 64, 512, precision, layout, "full")
    return StepRow(
        case=case._replace(**more),
        ms=ms,
        fastest_ms=ms,
        slowest_ms=ms,
        steps=20,
        images_per_second=64e3 / ms,
        peak_bytes=2**33,
        warmup_seconds=3.0,
        flop_per_image=5.6e10,
        share_of_peak=0.131,
        tf32_convolutions=True,
        tf32_products=False,
    )


def trained(share=0.01, loader="dali", device="cuda:0", **more):
    row = TrainedPhaseRow(
        loader=loader,
        device=device,
        precision="bf16",
        compiled=False,
        phase="full",
        batch_size=64,
        epochs=2,
        images_per_second=2000.0,
        wait_fraction=share,
        first_seconds=9.0,
        first_wait_seconds=1.0,
        trained_parameters=11_179_077,
        changed_parameters=None,
        torch_peak_bytes=2**33,
        largest_bytes=2**34,
    )
    return row._replace(**more)


def changed(count, phase="full", trains=11_179_077, **more):
    return trained(
        changed_parameters=count, trained_parameters=trains, phase=phase, **more
    )


def damaged(rest=True, following=True):
    return DamagedFileRow(
        file="garbage",
        loader="dali on cuda:0",
        outcome="SampleError that names it",
        skipped=1,
        rest="23 of 23",
        rest_mean=0.1,
        rest_max=2,
        rest_good=rest,
        next_epoch="24 of 24",
        next_epoch_good=following,
        batches_by_host=1,
    )


def counted(passed=9, failed=0, not_run=()):
    path = "tests/loaders/test_loaders_on_gpu.py"
    return MarkedTestsRow(
        passed=passed,
        failed=failed,
        skipped=1,
        not_run=list(not_run),
        limit_seconds=150.0,
        failures=[f"FAILED {path}::test_a"] * failed,
        last_lines=[],
    )


def results(**sections):
    return {name: SectionResults(rows=rows) for name, rows in sections.items()}


def states(**sections):
    return {bound.name: bound.state for bound in judge(results(**sections))}


TRAINS = "training trains what it should"
FAST, SLOW = step(30.0), step(60.0, "fp32", "NCHW")


@pytest.mark.parametrize(
    ("bound", "section", "rows", "state"),
    [
        ("mixed, fancy on", "parity", [], "not measured"),
        ("mixed, fancy on", "parity", [mixed(mean=0.05, largest=4)], "held"),
        ("mixed, fancy on", "parity", [mixed(), mixed(mean=0.051)], "NOT held"),
        ("mixed, fancy on", "parity", [mixed(largest=5), mixed()], "NOT held"),
        ("mixed, fancy on", "parity", [mixed(fancy=False)], "not measured"),
        ("mixed, fancy on", "parity", [mixed(), mixed(False, 0, 4, 36)], "held"),
        ("libjpeg-turbo, exact", "parity", [mixed(None, None, 0, 0)], "held"),
        ("libjpeg-turbo, exact", "parity", [mixed(None, None, 0.001, 1)], "NOT held"),
        ("libjpeg-turbo, exact", "parity", [mixed()], "not measured"),
        ("mixed, fancy on, rare kinds of JPEG", "rare_kinds", [kinds()], "held"),
        (
            "mixed, fancy on, rare kinds of JPEG",
            "rare_kinds",
            [kinds(), kinds(largest=5)],
            "NOT held",
        ),
        ("damaged files", "corrupt", [damaged()], "held"),
        ("damaged files", "corrupt", [damaged(), damaged(rest=False)], "NOT held"),
        ("damaged files", "corrupt", [damaged(following=False)], "NOT held"),
        ("waiting for data, dali", "end_to_end", [trained(0.02)], "held"),
        ("waiting for data, dali", "end_to_end", [trained(0.0201)], "NOT held"),
        (
            "waiting for data, dali",
            "end_to_end",
            [trained(0.5, "turbo")],
            "not measured",
        ),
        (
            "waiting for data, dali",
            "end_to_end",
            [trained(0.0, device="cpu")],
            "not measured",
        ),
        (
            "waiting for data, dali",
            "end_to_end",
            [trained(0.9, phase="head")],
            "not measured",
        ),
        (TRAINS, "end_to_end", [trained()], "not measured"),
        (
            TRAINS,
            "end_to_end",
            [changed(2565, "head", 2565), changed(11_179_077)],
            "held",
        ),
        (TRAINS, "end_to_end", [changed(11_100_000)], "held"),
        # As torch 2.11 did: what phase 2 frees stays as it is, but for the head.
        (
            TRAINS,
            "end_to_end",
            [changed(2565, "head", 2565), changed(2565)],
            "NOT held",
        ),
        (f"compiled {TRAINS}", "compiled_training", [changed(2565)], "NOT held"),
        (f"compiled {TRAINS}", "end_to_end", [changed(2565)], "not measured"),
        ("channels-last bf16, resnet18", "steps", [FAST, SLOW], "held"),
        ("channels-last bf16, resnet18", "steps", [step(33.4), SLOW], "NOT held"),
        ("channels-last bf16, resnet18", "steps", [FAST], "not measured"),
        ("channels-last bf16, resnet50", "steps", [FAST, SLOW], "not measured"),
        (
            "channels-last bf16, resnet18",
            "steps",
            [FAST, SLOW, step(59.0, strong=True), step(1.0, phase="head")],
            "held",
        ),
        ("tests marked gpu", "tests", [counted()], "held"),
        ("tests marked gpu", "tests", [counted(failed=1)], "NOT held"),
        ("tests marked gpu", "tests", [counted(not_run=["a"])], "not measured"),
        ("tests marked gpu", "tests", [counted(failed=1, not_run=["a"])], "NOT held"),
        ("tests marked gpu", "tests", [counted(passed=0)], "NOT held"),
    ],
)
def test_bound_is_judged(bound, section, rows, state):
    assert states(**{section: rows})[bound] == state


def test_row_that_failed_is_not_judged():
    assert states(parity=[FAILED])["mixed, fancy on"] == "not measured"


def test_broken_bound_names_what_breaks_it():
    found = judge(results(parity=[mixed(), mixed(load=1.0, largest=12)]))
    bound = next(one for one in found if one.name == "mixed, fancy on")
    assert bound.measured == "mean 0.040, max 12 (load 1)"


def test_broken_bound_makes_the_command_fail(staged, monkeypatch):
    def plan(_):
        return [Measurement("runs", 0.0, lambda: [trained(0.3)])]

    out, code, lines, err = staged([Section("end_to_end", plan)])
    assert code == 1
    assert json.loads(lines[-1])["bounds_not_held"] == ["waiting for data, dali"]
    assert err[-1].startswith("error: not held: waiting for data, dali; see ")
    assert "| 30.00% | NOT held |" in (out / "gpu_check.md").read_text()


def test_report_of_a_gpu_machine_has_its_numbers():
    speed = gpu_speed.TimedEpochs()
    speed.add(6400, 0.5)
    share = speed.share_of([25600.0])
    timed = ("ready", "dali, load 1", speed.rate, speed.images, 25600.0, share)
    worst = kinds()._replace(kinds={"CMYK": KindDifference(9.0, 99, by_host=True)})
    text = render(
        results(
            environment=[Fact("GPU", "NVIDIA | X")],
            parity=[mixed()],
            rare_kinds=[worst],
            corrupt=[damaged()],
            throughput=[ThroughputRow(*timed, batch_size=64, cores=16), FAILED],
            memory=[LoaderMemoryRow("dali", 2**29, 2**31, 2**30, 2**31 - 2**29, 0)],
            steps=[FAST, SLOW],
            end_to_end=[trained(0.011)],
            compiled_training=[changed(2565)],
            tests=[counted(failed=1)],
            compiled=[step(20.0, compiled=True)],
        ),
        {"date": "2026-01-02", "device": "cuda:0", "seconds": 421.0},
    )
    for cells in (
        "| GPU | NVIDIA \\| X |",
        "| 7_left | 0 |",
        "| 9.000 / 99, by the host |",
        "| SampleError that names it | 1 | 23 of 23 | yes | 24 of 24 | yes |",
        "| ready | dali, load 1 | 12,800 | 12,800 | 12,800 | 25,600 | 0.50 | 1 |",
        "| dali | 0.50 | 2.00 | 1.50 | 1.00 | 0.00 |",
        "| channels-last | plain | 30.00 | 30.00 | 30.00 | 2,133.3 | 13.1% | 8.00 |",
        "| 2,000.0 | 1.10% | 9.0 | 1.0 | 11,179,077 | - | 8.00 | 16.00 |",
        "| 11,179,077 | 2,565 | 8.00 | 16.00 |",
        "| 9 | 1 | 1 | 0 | FAILED tests/loaders/test_loaders_on_gpu.py::test_a | - |",
        ">= 1.8x float32 NCHW, full phase, eager | 2.00x | held |",
    ):
        assert cells in text, cells


ABOUT_MIXED = {
    "decoder": "mixed, fancy True, load 0.65",
    "loader": "dali",
    "device": "cuda:0",
    "fancy": True,
    "hw_decoder_load": 0.65,
}


@pytest.mark.parametrize(
    ("row", "values"),
    [
        (Fact("torch", "2.9"), {"what": "torch", "value": "2.9"}),
        (
            mixed(),
            {
                **ABOUT_MIXED,
                "images": 512,
                "images_exact": 0.0,
                "values_exact": 0.7,
                "values_above_2": 0.01,
                "mean": 0.02,
                "worst_mean": 0.04,
                "max": 3,
                "worst_key": "7_left",
                "batches_by_host": 0,
            },
        ),
        (
            RareKindsRow(mixed().setting, {"4:4:4": KindDifference(0.1, 2, True)}),
            {**ABOUT_MIXED, "4:4:4": {"mean": 0.1, "max": 2, "by_host": True}},
        ),
        (
            ThroughputRow("ready", "pil", Rate(9.0, 8.0, 9.5, 3), 24, 18.0, 0.5, 8, 2),
            {
                "line": "ready",
                "loader": "pil",
                "images_per_second": 9.0,
                "slowest": 8.0,
                "fastest": 9.5,
                "rounds": 3,
                "images_per_round": 24,
                "ceiling_images_per_second": 18.0,
                "share_of_ceiling": 0.5,
                "batch_size": 8,
                "cores": 2,
            },
        ),
        (
            FAILED,
            {
                "line": "batch",
                "loader": "b",
                "error": "E: x",
                "batch_size": 8,
                "cores": 2,
            },
        ),
        (
            step(30.0),
            {
                "arch": "resnet18",
                "batch": 64,
                "pixels": 512,
                "precision": "bf16",
                "layout": "channels-last",
                "phase": "full",
                "compiled": False,
                "strong": False,
                "ms": 30.0,
                "fastest_ms": 30.0,
                "slowest_ms": 30.0,
                "steps": 20,
                "images_per_second": 64e3 / 30,
                "peak_bytes": 2**33,
                "warmup_seconds": 3.0,
                "flop_per_image": 5.6e10,
                "share_of_peak": 0.131,
                "tf32_convolutions": True,
                "tf32_products": False,
            },
        ),
        (counted(failed=1), counted(failed=1)._asdict()),
    ],
)
def test_json_of_a_row_is_flat(row, values):
    found = as_json(row)
    assert found == values
    assert list(found) == list(values)
    json.dumps(found)


# ------------------------------------------------------------------- what is measured


def test_differences_count_values_and_name_the_worst():
    differences = gpu_pixels.PixelDifferences()
    zeros = torch.zeros(2, 2, 3, dtype=torch.uint8)
    differences.add("same", zeros, zeros)
    differences.add("off", torch.full_like(zeros, 1), zeros)
    far = zeros.clone()
    far[0, 0] = torch.tensor([3, 255, 2])
    differences.add("far", zeros, far)
    assert differences.row == DifferencesRow(
        images=3,
        images_exact=1 / 3,
        values_exact=21 / 36,
        values_above_2=2 / 36,
        mean=(12 + 260) / 36,
        worst_mean=260 / 12,
        max=255,
        worst_key="far",
    )


def test_mixed_is_tried_with_every_load_and_upsampling(scope):
    on_gpu = replace(scope, device="cuda:0")
    settings = gpu_pixels.decoder_settings(on_gpu)
    found = [setting for setting, lacks in settings if not lacks]
    tried = {(one.fancy, one.hw_decoder_load) for one in found if one.loader == "dali"}
    assert tried == (
        {(f, n) for f in (True, False) for n in (0, 0.65, 1)} if DALI else set()
    )
    assert [one.loader for one in found if one.hw_decoder_load is None] == ["turbo"]


def test_parity_sees_another_pixel(scope):
    turbo = gpu_pixels.decoder_setting("turbo", "cpu")
    with gpu_photographs.usual_size(scope.shards, 16) as split:
        wanted = list(gpu_pixels.pillow(split, 8))
        key = split.key(int(split.rows[13]))
    wanted[13] = wanted[13].clone()
    wanted[13][5, 7, 2] ^= 64
    (row,) = gpu_pixels._compare_photographs(scope, turbo, lambda: wanted)
    found = row.differences
    assert (found.max, found.worst_key, found.images_exact) == (64, key, 15 / 16)


def test_long_epoch_repeats_the_photographs(shards, tmp_path):
    with redirect_stdout(io.StringIO()):
        folder = gpu_photographs.long_epoch(shards, tmp_path, 90, 5)
    with open_split(folder, "train") as split, open_split(shards, "train") as own:
        counts = {}
        for row in split.rows:
            jpeg = bytes(split.read(int(row)))
            counts[jpeg] = counts.get(jpeg, 0) + 1
        assert set(counts) == {bytes(own.read(int(row))) for row in own.rows}
        assert sum(counts.values()) == 90
        assert set(counts.values()) == {2, 3}
        grades = np.bincount(own.labels)
        assert np.all(np.bincount(split.labels) >= 2 * grades)
    with open_split(folder, "test") as split:
        assert len(split) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


def test_photographs_of_another_size_are_left_out(make_course, tmp_path):
    course = make_course(tmp_path / "course", train=9, test=2)
    path = course / "data" / "11_right.jpeg"
    Image.open(path).resize((48, 32)).save(path)
    with redirect_stdout(io.StringIO()):
        options = gpu_check.Options(out=tmp_path / "out", data=course, quick=True)
        scope = gpu_check.prepare(options, "cpu", 0.0)
    with gpu_photographs.usual_size(scope.shards) as split:
        assert len(split) == 8
        assert split.dimensions == ((64, 64),)
    with open_split(scope.long, "train") as split:
        assert split.dimensions == ((64, 64),)


def test_rare_kinds_are_what_they_are_called(shards):
    with gpu_photographs.usual_size(shards, 1) as split:
        jpeg = io.BytesIO(split.read(int(split.rows[0])))
    picture = Image.open(jpeg).convert("RGB")
    made = {
        kind: Image.open(io.BytesIO(gpu_photographs.encoded(picture, kind)))
        for kind in gpu_photographs.ODD_KINDS.values()
    }
    sampling = {kind: JpegImagePlugin.get_sampling(made[kind]) for kind in made}
    assert (sampling["4:4:4"], sampling["4:2:2"]) == (0, 1)
    assert sampling["progressive"] == 2
    assert "progressive" in made["progressive"].info
    assert "progressive" not in made["4:4:4"].info
    assert (made["grayscale"].mode, made["CMYK"].mode) == ("L", "CMYK")


SILENT = "64 bytes zeroed mid-stream"


@pytest.mark.parametrize("damage", [d for d in gpu_corrupt.DAMAGES if d != SILENT])
def test_damaged_file_is_named_and_the_rest_is_whole(scope, damage):
    row = gpu_corrupt.try_damage(scope, "turbo", damage)
    assert row.outcome.startswith("SampleError that names it: ")
    assert (row.skipped, row.rest, row.rest_good) == (1, "23 of 23", True)
    assert (row.next_epoch, row.next_epoch_good) == ("24 of 24", True)


@needs_dali
def test_damaged_file_that_decodes_silently_is_reported(scope):
    row = gpu_corrupt.try_damage(scope, "dali", SILENT)
    assert re.match(r"decodes silently, [1-9]\d*\.\d\d from the undam", row.outcome)
    assert (row.skipped, row.rest_good) == (0, True)
    row = gpu_corrupt.try_damage(scope, "dali", "garbage")
    assert row.outcome.startswith("SampleError that names it: ")
    assert row.batches_by_host == 1


class Careless:
    """A loader that loses a good image beside the damaged one, and spoils another."""

    def __init__(self, loader):
        self._loader = loader
        self.skipped = loader.skipped
        self.decoded_again = loader.decoded_again

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._loader.close()

    def epoch(self, number):
        for batch in self._loader.epoch(number):
            if self.skipped and len(batch.index) < 8:
                batch = type(batch)(*(part[:-1] for part in batch))
            if number == 1:
                batch.images[0, 0, 0, 0] ^= 128
            yield batch


def test_rest_that_is_not_whole_is_seen(scope, monkeypatch):
    def careless(*words):
        return Careless(make_loader(*words))

    monkeypatch.setattr(gpu_corrupt, "make_loader", careless)
    row = gpu_corrupt.try_damage(scope, "turbo", "garbage")
    assert (row.rest, row.rest_good) == ("22 of 23", False)
    assert (row.next_epoch, row.next_epoch_good) == ("24 of 24", False)


def test_loader_that_fails_leaves_the_others_times(scope, monkeypatch):
    def fails(name, *words):
        if name == "pil":
            raise RuntimeError("no such thing")
        return make_loader(name, *words)

    monkeypatch.setattr(gpu_speed, "make_loader", fails)
    group = [gpu_speed.Candidate("pil"), gpu_speed.Candidate("turbo")]
    bad, good = gpu_speed._rounds(scope, "batch", group)
    assert bad.error == "RuntimeError: no such thing"
    assert (good.rate.rounds, good.images_per_round) == (3, 37)
    assert good.rate.slowest <= good.rate.images_per_second <= good.rate.fastest


def test_dali_is_timed_at_other_loads_on_a_gpu_only(scope):
    names = [one.name for one in gpu_speed.candidates(scope)]
    assert names == available()
    names = [one.name for one in gpu_speed.candidates(replace(scope, device="cuda:0"))]
    assert names == available() + ["dali, load 0", "dali, load 1"] * DALI


def test_memory_watch_finds_the_largest_reading(monkeypatch):
    used = iter([3, 4, 9, *[5] * 1_000_000])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 - next(used), 10))
    with gpu_memory.MemoryWatch(torch.device("cuda"), poll=0.001) as watch:
        time.sleep(0.2)
    assert (watch.before, watch.largest, watch.after) == (3, 9, 5)


@pytest.mark.parametrize("phase", ["head", "full"])
@pytest.mark.parametrize("layout", ["NCHW", "channels-last"])
@pytest.mark.parametrize("strong", [False, True])
def test_step_trains_what_it_says(monkeypatch, phase, layout, strong):
    networks = []

    def watched(num_classes):
        networks.append(small_network(num_classes))
        return networks[-1]

    monkeypatch.setattr("torchvision.models.resnet18", watched)
    case = steps.Case("resnet18", 2, 64, "fp32", layout, phase, strong=strong)
    cpu = torch.device("cpu")
    step = steps.make_step(case, Compute(cpu, None))
    (network,) = networks
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    seen = []
    network.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    step(0, steps.synthetic(case, cpu))
    moved = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert moved == ({"fc.weight", "fc.bias"} if phase == "head" else set(before))
    format = {"NCHW": torch.contiguous_format}.get(layout, torch.channels_last)
    assert seen[0].shape == (2, 3, 64, 64)
    assert seen[0].is_contiguous(memory_format=format)
    assert network.conv2.weight.is_contiguous(memory_format=format)


def test_step_lets_cudnn_choose_its_convolutions_as_the_trainer_does(monkeypatch):
    monkeypatch.setattr("torchvision.models.resnet18", small_network)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    case = steps.Case("resnet18", 2, 64, "fp32", "NCHW", "full")
    steps.make_step(case, Compute(torch.device("cpu"), None))
    assert torch.backends.cudnn.benchmark


def test_all_steps_of_the_issue_are_planned(scope):
    on_gpu = replace(scope, device="cuda:0")
    eager = [case for case in gpu_steps.cases(on_gpu) if not case.compiled]
    plain = {case[:1] + case[3:6] for case in eager if not case.strong}
    assert len(plain) == 2 * 2 * 2 * 2
    assert {case.pixels for case in eager} == {512}
    compiled = [case for case in gpu_steps.cases(on_gpu) if case.compiled]
    assert {(case.arch, case.phase) for case in compiled} == {
        (arch, phase) for arch in ("resnet18", "resnet50") for phase in ("head", "full")
    }
    names = [one.name for one in gpu_steps.plan_steps(on_gpu)]
    assert len(set(names)) == len(names) == 17
    assert not any(one.lacks for one in gpu_steps.plan_steps(on_gpu))


def test_trainer_that_fails_is_reported_with_its_last_words(scope):
    lost = replace(scope, long=scope.out / "nowhere")
    with pytest.raises(RuntimeError, match=r"trainer ends with 1: error: .*nowhere"):
        gpu_runs.train_with(lost, "turbo")


@pytest.mark.parametrize(
    ("said", "rows"),
    [
        ({"changed_parameters": {"head": 85, "full": 90}}, [85, 90]),
        ({"changed_parameters": {"full": 90}}, [None, 90]),
        ({"changed_parameters": None}, [None, None]),
        ({}, [None, None]),
    ],
)
def test_what_a_run_says_it_changed_is_taken_over(scope, monkeypatch, said, rows):
    words = []

    def train(argv):
        words.extend(argv)
        run = gpu_runs.Path(argv[argv.index("--out") + 1])
        run.mkdir(parents=True)
        lines = ["epoch,phase,images_per_second,wait_seconds,seconds"]
        for phase in ("head", "full"):
            lines += [f"1,{phase},10,3,4", f"2,{phase},20,1,4"]
        (run / "log.csv").write_text("\n".join(lines))
        print(json.dumps({"device": "cpu", "precision": "fp32", **said}))
        return 0

    monkeypatch.setattr(gpu_runs.train, "main", train)
    found = gpu_runs.train_with(scope, "turbo", compiled=True)
    assert [row.changed_parameters for row in found] == rows
    for row in found:
        assert (row.images_per_second, row.wait_fraction) == (20, 0.25)
        assert (row.first_seconds, row.first_wait_seconds, row.epochs) == (4, 3, 2)
        assert row.compiled
    assert [row.trained_parameters for row in found] == [2565, 11_179_077]
    assert "--compile" in words
    assert words[words.index("--train-samples") + 1] == "8"  # a step, twice, of 2


def test_run_that_lacks_an_epoch_is_an_error(scope, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("phase,images_per_second,wait_seconds,seconds\nhead,1,1,1\n")
    with pytest.raises(RuntimeError, match="1 epochs of phase head, not 2"):
        gpu_runs.read_log(log, "head")


CHECKOUT = """
import time
import pytest
@pytest.mark.gpu
def test_good(): pass
@pytest.mark.gpu
def test_bad(): assert 0, "wrong pixels"
@pytest.mark.gpu
@pytest.mark.skip(reason="no")
def test_not(): pass
def test_other(): raise SystemExit("not marked")
"""


@pytest.fixture
def checkout(tmp_path):
    def checkout(text):
        (tmp_path / "tests").mkdir()
        (tmp_path / "tests" / "test_some.py").write_text(text)
        (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs one\n")
        return tmp_path

    return checkout


def test_gpu_tests_are_counted(checkout, tmp_path):
    row = gpu_tests.run_tests(checkout(CHECKOUT), 60, tmp_path / "progress")
    assert (row.passed, row.failed, row.skipped) == (1, 1, 1)
    assert row.failures == [
        "FAILED tests/test_some.py::test_bad - AssertionError: wrong pixels"
    ]
    assert row.not_run == []
    assert "wrong pixels" in "\n".join(row.last_lines)


def test_gpu_tests_that_hang_are_ended_and_the_rest_is_named(checkout, tmp_path):
    text = CHECKOUT.replace('assert 0, "wrong pixels"', "time.sleep(600)")
    begun = time.monotonic()
    row = gpu_tests.run_tests(checkout(text), 6, tmp_path / "progress")
    assert time.monotonic() - begun < 60
    assert row.failed == 0
    names = [f"tests/test_some.py::test_{name}" for name in ("good", "bad", "not")]
    assert row.not_run == names[3 - len(row.not_run) :]  # from that on which hangs
    assert names[1] in row.not_run


def runs(child: int) -> bool:
    try:
        return psutil.Process(child).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_a_hanging_test_has_started_is_ended_too(checkout, tmp_path):
    started = tmp_path / "started"
    hang = f"""
    import subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open({str(started)!r}, "w").write(str(child.pid))
    time.sleep(600)"""
    root = checkout(CHECKOUT.replace(' assert 0, "wrong pixels"', hang))
    for _ in range(5):  # on a slow machine pytest takes longer to come so far
        gpu_tests.run_tests(root, 10, tmp_path / "progress")
        if started.exists():
            break
    child, deadline = int(started.read_text()), time.monotonic() + 20
    while runs(child) and time.monotonic() < deadline:  # it is killed, and ends soon
        time.sleep(0.05)
    assert not runs(child)


def test_gpu_tests_go_on_where_they_were_ended(checkout, tmp_path):
    root, progress = checkout(CHECKOUT), tmp_path / "progress"
    name = "tests/test_some.py::test_{}".format
    lines = [("planned", name("good"), ""), ("planned", name("bad"), "")]
    lines += [("outcome", name("good"), "passed"), ("ended", name("good"), "")]
    lines += [("began", name("bad"), ""), ("outcome", name("bad"), "passed")]
    progress.write_text("\n".join(map(json.dumps, lines)) + '\n["outc')
    (root / "tests" / "test_some.py").write_text(
        CHECKOUT.replace("def test_good(): pass", "def test_good(): assert 0, 'again'")
    )
    row = gpu_tests.run_tests(root, 60, progress)
    assert (row.passed, row.failed, row.skipped, row.not_run) == (1, 1, 1, [])
    assert "again" not in "\n".join(row.last_lines)


def test_gpu_test_that_ends_the_process_is_named_and_the_rest_goes_on(
    checkout, tmp_path, monkeypatch
):
    monkeypatch.setattr(gpu_tests, "_LEAST_SECONDS", 1.0)
    text = CHECKOUT.replace('assert 0, "wrong pixels"', "import os; os._exit(9)")
    row = gpu_tests.run_tests(checkout(text), 100, tmp_path / "progress")
    assert (row.passed, row.failed, row.skipped, row.not_run) == (1, 1, 1, [])
    assert row.failures == [
        "FAILED tests/test_some.py::test_bad - the process ended in it"
    ]


def test_gpu_tests_that_cannot_run_are_an_error(checkout, tmp_path):
    root = checkout("import nothing_of_that_name")
    with pytest.raises(RuntimeError, match="pytest ends with 2"):
        gpu_tests.run_tests(root, 60, tmp_path / "progress")


def test_gpu_tests_that_were_not_all_run_are_out_of_time(scope, monkeypatch):
    row = counted(not_run=["tests/a.py::test_b"])
    monkeypatch.setattr(gpu_tests, "run_tests", lambda *_: row)
    on_gpu = replace(scope, device="cuda:0")
    found = SectionResults()
    for _, event in measure([Section("tests", gpu_tests.plan_tests)], on_gpu):
        found.add(event)
    assert found.rows == [row]
    assert [one.late for one in found.left_out] == [True]
    assert not found.done
    monkeypatch.setattr(gpu_tests, "run_tests", lambda *_: counted(12))
    for _, event in measure([Section("tests", gpu_tests.plan_tests)], on_gpu):
        found.add(event)
    assert found.rows == [counted(12)]  # in place of the first
    assert found.left_out == []
    assert found.done == {"the tests marked gpu"}
