"""The benchmarks: that they are fair and right, never how fast anything is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import race_entrants as made
from faulty_loader import delivering
from made_up_runs import made_up, row

from bench import bench_read, bench_step, compare, plots, replay, report, tables
from bench.data import NO_DATA, BenchData, number_of, prepare
from bench.decoders import decoders
from bench.entrant import Entrant, EntrantKind, EntrantResult
from bench.epoch_runner import EpochRunner, LoadedBatch
from bench.lines import lines_of
from bench.ours import our_loaders
from bench.race import Rules, race
from bench.rows import rows_of
from bench.targets import targets
from loaders import open_split

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchData:
    return prepare(shards, 12, tmp_path_factory.mktemp("bench"))


# ---- the images


def test_data_holds_the_same_bytes_as_files_and_as_shards(
    data: BenchData, shards: Path
):
    with open_split(shards, "train") as origin, data.train() as split:
        for row in split.rows.tolist():
            number = number_of(split.key(row))
            file = data.photographs / "data" / f"{number}_left.jpeg"
            assert bytes(split.read(row)) == file.read_bytes()
            assert file.read_bytes() == bytes(origin.read(number))
            assert split.labels[row] == origin.labels[number]
        assert len(split) == len(data.files) == len(data.grades) == 12


def test_data_is_prepared_once(data: BenchData, shards: Path):
    before = {path: path.stat().st_mtime_ns for path in data.all_files()}
    again = prepare(shards, 12, data.folder.parent)
    assert again.folder == data.folder
    assert {path: path.stat().st_mtime_ns for path in again.all_files()} == before
    assert prepare(shards, 5, data.folder.parent).folder != data.folder


def test_data_that_cannot_be_laid_out_leaves_nothing(shards, tmp_path, monkeypatch):
    def fails(_):
        raise OSError("no space left on the device")

    monkeypatch.setattr("bench.data.shard.write", fails)
    with pytest.raises(OSError, match="no space left"):
        prepare(shards, 12, tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- the race


def rules(tmp_path: Path, **options: Any) -> Rules:
    defaults: dict[str, Any] = {"num_rounds": 3, "num_openings": 0, "memory": False}
    return Rules(**(defaults | {"logs": tmp_path / "logs"} | options))


def test_rounds_are_taken_in_turn(tmp_path):
    notes = tmp_path / "notes"
    names = ["a", "b", "c"]
    entrants = [Entrant(name, partial(made.steady, name, notes)) for name in names]
    results = race(entrants, rules(tmp_path))
    ran = [line.split() for line in notes.read_text().splitlines()]
    assert [number for _, number in ran] == ["1"] * 3 + ["2"] * 3 + ["3"] * 3
    for number in range(3):  # each once in a round, and not always the same first
        assert sorted(name for name, _ in ran[3 * number : 3 * number + 3]) == names
    assert len({ran[3 * number][0] for number in range(3)}) == 3
    for result in results:
        assert result.speeds == [1000.0] * 3
        assert result.row("batch")["images_per_second"] == 1000


def test_nothing_is_done_ahead_between_rounds(tmp_path):
    slow = Entrant("slow", partial(made.steady, "slow", tmp_path / "notes", 0.5))
    entrants = [Entrant("ahead", made.ahead), slow]
    result, _ = race(entrants, rules(tmp_path, num_rounds=5))
    # In half a second it would do some 400 things; a round of its own has room for 10.
    assert max(timed.images for timed in result.rounds[1:]) < 100


def test_ceiling_is_measured_before_every_round(tmp_path):
    notes = tmp_path / "notes"

    def ceiling(_: Entrant) -> float:
        with notes.open("a") as file:
            file.write("ceiling\n")
        return 4000.0

    entrants = [Entrant(name, partial(made.steady, name, notes)) for name in "ab"]
    results = race(entrants, rules(tmp_path, ceiling=ceiling))
    lines = notes.read_text().splitlines()
    assert lines[::2] == ["ceiling"] * 6
    assert "ceiling" not in lines[1::2]
    assert [result.shares for result in results] == [[0.25] * 3] * 2


def test_ceiling_may_be_another_entrant(tmp_path):
    notes = tmp_path / "notes"
    fast = Entrant("fast", partial(made.steady, "fast", notes, 0.01))
    slow = Entrant("slow", partial(made.steady, "slow", notes, 0.04))
    _, result = race([fast, slow], rules(tmp_path, ceiling_of="fast"))
    assert result.shares == pytest.approx([0.25] * 3)


def test_processor_time_and_memory_are_the_entrants_own(tmp_path):
    still = Entrant("still", partial(made.steady, "still", tmp_path / "notes"))
    busy, idle = race(
        [Entrant("busy", made.burning), still], rules(tmp_path, memory=True)
    )
    assert busy.row("batch")["cpu_ms_per_image"] == pytest.approx(2.0, rel=0.3)
    assert idle.cpu_seconds < 0.1
    assert busy.peak_bytes - idle.peak_bytes > 40e6


def test_one_that_fails_does_not_stop_the_others(tmp_path):
    good = Entrant("good", partial(made.steady, "good", tmp_path / "notes"))
    entrants = [
        Entrant("dying", made.dying),
        Entrant("absent", made.not_there, kind="peer"),
        good,
    ]
    dying, absent, good_ = race(entrants, rules(tmp_path))
    assert "has died" in dying.error
    assert len(dying.rounds) == 1
    assert "a_peer_that_nobody_has_installed" in absent.error
    assert not good_.error
    assert len(good_.rounds) == 3


def test_one_that_hangs_is_given_up(tmp_path):
    entrant = Entrant("hanging", made.hanging)
    (hanging,) = race([entrant], rules(tmp_path, answer_limit=1.0))
    assert hanging.error == "no answer within 1 s"


def test_device_is_waited_for_before_the_clock_and_before_it_stops(data, monkeypatch):
    done = []

    def epoch(number: int) -> Iterator[LoadedBatch[list[int]]]:
        for batch in ("first", "second"):
            done.append(batch)
            yield LoadedBatch([b""], [0])

    runner = EpochRunner(epoch, "read", data, list)
    monkeypatch.setattr(runner, "_wait", lambda: done.append("wait"))
    assert runner.run_round(0).images == 2
    assert done == ["wait", "first", "wait", "second", "wait"]


READERS = [entrant.name for entrant in bench_read.entrants(NO_DATA)]


# The webdataset library leaves it to the garbage collector to close its files.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["turbo", "dali-reader", *READERS])
def test_labels_are_looked_at_outside_the_clock(data, monkeypatch, name):
    """Nor when an entrant is opened, which counts for its first batch."""
    if "dali" in name.lower():
        pytest.importorskip("nvidia.dali")
    looked = []

    def spy(name: str) -> int:
        looked.append(name)
        return number_of(name)

    for module in ("data", "bench_read", "dali_reader", "ours"):
        monkeypatch.setattr(f"bench.{module}.number_of", spy)
    entrants = (
        bench_read.entrants(data) if name in READERS else our_loaders(data, "batch")
    )
    (entrant,) = (one for one in entrants if one.name == name)
    with entrant.open() as runner:
        assert runner.run_round(1).images == 12
        assert looked == []
        assert runner.check() == "exact"
        assert len(looked) >= 12


FAULTS = ["none", "lost", "twice", "channels", "float", "another", "rounded"]


@pytest.fixture(scope="module")
def faulty(
    data: BenchData, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, EntrantResult]:
    """A race of loaders with one fault each, which share a process."""
    entrants = [
        Entrant(fault, partial(delivering, data, fault), process="all")
        for fault in FAULTS
    ]
    folder = tmp_path_factory.mktemp("faulty")
    cold = {"num_openings": 2, "files": data.all_files}
    results = race(entrants, rules(folder, num_rounds=1, **cold))
    return dict(zip(FAULTS, results, strict=True))


def test_first_batch_counts_the_opening(tmp_path):
    entrant = Entrant("slow to open", made.slow_to_open)
    (result,) = race([entrant], rules(tmp_path, num_openings=2))
    assert len(result.first_seconds) == 2
    assert min(result.first_seconds) >= made.OPENING
    assert max(timed.first_seconds for timed in result.rounds) < made.OPENING


def test_cold_round_drops_what_was_made_at_the_opening(tmp_path, monkeypatch):
    """Such as a peer's own format, which is not there before the race."""
    made_file = tmp_path / "own-format"
    dropped: list[list[Path]] = []
    monkeypatch.setattr("bench.race.page_cache.drop", dropped.append)
    entrant = Entrant("peer", partial(made.writing, made_file))
    race([entrant], rules(tmp_path, files=lambda: [*tmp_path.glob("own-*")]))
    assert dropped == [[made_file]]


def test_right_images_are_exact_and_all_come_from_a_cold_start(faulty):
    result = faulty["none"]
    assert result.pixels == "exact"
    if result.cold is not None:  # None where files live in memory
        assert result.cold.images == 12


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("lost", "1 of 12 images did not come"),
        ("twice", "came twice"),
        ("channels", "wrong pixels"),
        ("float", "torch.float32 instead of torch.uint8"),
        ("another", "wrong pixels"),
    ],
)
def test_what_delivers_wrong_images_is_not_timed(faulty, fault, complaint):
    result = faulty[fault]
    assert complaint in result.error
    assert not result.rounds


def test_pixels_a_little_off_are_described(faulty):
    assert faulty["rounded"].pixels.startswith("largest 1, mean ")


def test_dali_builds_its_pipeline_before_the_clock(data, monkeypatch):
    pipeline = pytest.importorskip("nvidia.dali.pipeline")
    built = []
    build = pipeline.Pipeline.build

    def spy(self):
        built.append(self)
        build(self)

    monkeypatch.setattr(pipeline.Pipeline, "build", spy)
    entrants = [one for one in decoders(data, [1]) if one.process == "DALI"]
    for number, entrant in enumerate(entrants, 1):
        with entrant.open() as runner:
            assert "mean" in runner.check() or runner.check() == "exact"
            assert [runner.run_round(n).images for n in range(3)] == [12] * 3
            assert len(set(built)) == number


def test_step_without_a_batch_is_refused_and_not_waited_for(data):
    case = bench_step._CASE._replace(pixels=64, batch=16)
    with (
        pytest.raises(AssertionError, match="fewer images than a batch of 16"),
        bench_step._fed(case, "turbo", data),
    ):
        pass


# ---- handing over, tables, comparison


def test_replay_hands_over_the_very_seconds():
    clock, taken = replay.Replay(), []

    class Benchmark:
        def pedantic(self, function, rounds):
            for _ in range(rounds):
                begun = clock()
                function()
                taken.append(clock() - begun)

    clock.hand_over(Benchmark(), [0.5, 0.25, 2.0])
    assert taken == [0.5, 0.25, 2.0]


def some_run(turbo: float = 2800.0) -> dict[str, Any]:
    return made_up(
        row("batch", "turbo", turbo),
        row("batch", "dali", 1500.0),
        row("batch", "dali-reader", 1450.0),
        row("batch", "DALI's own reader", 1600.0, kind="peer", stores="the same tars"),
        row("batch", "FFCV, raw", 2900.0, kind="peer", stores="raw pixels"),
        row("ready", "turbo", 1800.0),
        row("ready", "report, 0 workers", 290.0, kind="report"),
        row("shard", "scripts/shard.py", 1500.0),
    )


def test_bars_are_ratios_of_what_was_measured():
    ratios = {target.what: target for target in targets(some_run())}
    best = ratios["`turbo` to *batch* / the best peer (DALI's own reader)"]
    assert best.ratio == pytest.approx(1.75)  # not FFCV, which decodes no JPEG there
    assert best.met
    shard = ratios["sharding / the decode-only ceiling"]
    assert (shard.ratio, shard.met) == (0.5, False)
    assert not any("step" in what for what in ratios)  # was not measured


def test_markdown_tells_what_was_not_faster_and_what_did_not_run():
    text = tables.markdown(some_run(), ["plot.png"])
    assert "| processor | Some CPU |" in text
    assert "`dali` is not faster than FFCV, raw (1.93 x), DALI's own reader" in text
    assert "at least 0.75: MISSED" in text
    assert "batch: FFCV: not installed" in text
    assert "![plot.png](plot.png)" in text
    assert "| **turbo** | 2,800 (2,520 to 3,080) | 0.93 |" in text


def test_comparison_tells_changes_from_noise():
    noisy = [0.90, 0.95, 0.93, 0.97, 0.92]
    old = made_up(
        row("batch", "same", 2800.0, shares=noisy),
        row("batch", "better", 1000.0),
        row("batch", "worse", 1000.0),
        row("batch", "few", 1000.0, shares=[0.3]),
        row("batch", "gone", 1000.0),
    )
    new = made_up(
        row("batch", "same", 2800.0, shares=noisy[::-1]),
        row("batch", "better", 1200.0),
        row("batch", "worse", 900.0),
        row("batch", "few", 3000.0, shares=[0.9]),
    )
    verdicts = {change.entrant: change.verdict for change in compare.changes(old, new)}
    assert verdicts == {
        "same": "within the noise",
        "better": "faster",
        "worse": "SLOWER",
        "few": "too few rounds to tell",
    }


@pytest.mark.parametrize(("rounds", "tells"), [(3, False), (4, False), (5, True)])
def test_comparison_tells_only_what_so_many_rounds_can(rounds, tells):
    slow, fast = ([place + n / 100 for n in range(rounds)] for place in (0.4, 0.8))
    (change,) = compare.changes(
        made_up(row("batch", "one", 1e3, shares=slow)),
        made_up(row("batch", "one", 2e3, shares=fast)),
    )
    assert change.verdict == ("faster" if tells else "too few rounds to tell")


def test_report_writes_table_plots_and_numbers(tmp_path, capsys):
    run = some_run()
    run["benchmarks"] += made_up(
        *(
            row("scaling", f"turbo {n}", 900.0 * n, loader="turbo", workers=n, **size)
            for n in (1, 2)
            for size in ({"batch_size": 32}, {"batch_size": 64})
        )
    )["benchmarks"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    out = tmp_path / "results"
    assert report.main([str(tmp_path / "run.json"), "--out", str(out)]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["ratios_held"] == 4
    stem = "loaders_some-cpu-2-cores_202611"
    names = {path.name for path in out.iterdir()}
    plots_ = {f"{stem}_{what}.png" for what in ("batch", "ready", "scaling")}
    assert names == {f"{stem}.md", f"{stem}.json"} | plots_
    again = report.read(out / f"{stem}.json")
    assert rows_of(again) == rows_of(run)
    assert (
        report.main([str(out / f"{stem}.json"), "--compare", str(out / f"{stem}.json")])
        == 0
    )
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["slower"] == 0


def test_report_of_several_runs_takes_a_line_from_the_last():
    again = made_up(row("batch", "turbo", 3000.0), row("read", "shards", 9e4))
    again["commit_info"]["skipped"] = {"read: DALI": "gone"}
    both = report.merged([some_run(), again])
    lines = lines_of(rows_of(both))
    assert [one["images_per_second"] for one in lines["batch"]] == [3000.0]
    assert [one["entrant"] for one in lines["ready"]] == ["turbo", "report, 0 workers"]
    assert both["commit_info"]["skipped"] == {"read: DALI": "gone"}


def test_report_of_several_runs_is_of_the_newest_and_tells_the_others():
    newest, commit = some_run(), {"id": "c" * 40, "dirty": True}
    newest |= {"datetime": "2026-11-25T09:00:00+00:00", "commit_info": commit}
    again = made_up(row("batch", "turbo", 3000.0, rounds=3), row("read", "shards", 9e4))
    third = made_up(row("step", "turbo", 2.0))
    text = tables.markdown(report.merged([newest, again, third]))
    assert "| date | 2026-11-25 09:00 |" in text
    assert "| commit | cccccccccccc, with changes that it does not hold |" in text
    parts = dict(re.findall(r"^## (\S+ \S+)(.*?)(?=^## |\Z)", text, re.M | re.S))
    other = "Measured 2026-11-24 10:00, commit abc."
    assert [title for title in parts if other in parts[title]] == [
        "To *read*:",
        "To *batch*:",
        "To *step*:",
    ]


def test_report_says_what_became_of_a_run_that_was_merged_before(tmp_path):
    older = made_up(row("read", "shards", 9e4))
    older["datetime"] = "2026-10-01T10:00:00+00:00"
    both = report.slim(report.merged([older, made_up(row("batch", "turbo", 1e3))]))
    newer = made_up(row("ready", "turbo", 1e3))
    newer["datetime"] = "2026-12-01T10:00:00+00:00"
    assert report.merged([both, newer])["commit_info"]["older"] == {
        "read": "2026-10-01 10:00, commit abc",
        "batch": "2026-11-24 10:00, commit abc",
    }


def test_report_of_several_machines_is_refused(tmp_path, capsys):
    there = made_up(row("read", "shards", 9e4))
    there["machine_info"]["card"]["processor"] = "Other CPU"
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, run in zip(paths, (some_run(), there), strict=True):
        path.write_text(json.dumps(run))
    assert report.main([*map(str, paths)]) == 1
    assert capsys.readouterr().err == (
        "error: runs must be of one machine to be merged, got processor Some CPU and "
        "Other CPU: report them one by one\n"
    )


def test_room_on_the_disk_makes_no_other_machine():
    runs = [some_run(), made_up(row("read", "shards", 9e4))]
    for run, free in zip(runs, ("49", "48.5"), strict=True):
        run["machine_info"]["card"]["disk"] = f"/dev/vda (ext4), {free} GiB free"
    assert len(rows_of(report.merged(runs))) == len(rows_of(runs[0])) + 1


def test_table_tells_each_entrants_rounds_where_they_differ():
    same = made_up(row("step", "one", 2.0), row("step", "two", 1.0))
    text = tables.markdown(same)
    assert "medians over 5 rounds" in text
    assert "| rounds |" not in text
    assert "just before each round" not in text  # the ceiling of a step takes its turn
    other = made_up(row("step", "one", 2.0), row("step", "two", 1.0, rounds=3))
    text = tables.markdown(other)
    assert "medians over 3 to 5 rounds" in text
    assert re.search(r"^\| \*\*two\*\* .* \| 3 \|$", text, re.MULTILINE)


@pytest.mark.parametrize("content", [None, "{}", "rubbish", '{"benchmarks": []}'])
def test_report_of_something_else_is_one_line(tmp_path, capsys, content):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    assert report.main([str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}")


def test_plots_have_a_colour_for_every_kind():
    assert set(get_args(EntrantKind)) == set(plots._COLOURS)


# ---- the benchmarks themselves, small


@pytest.mark.slow
def test_benchmarks_run(shards: Path, tmp_path: Path):
    out = tmp_path / "small.json"
    words = [sys.executable, "-m", "pytest", "bench", "--benchmark-only", "--small"]
    words += ["-q", "--shards", str(shards), f"--benchmark-json={out}", "--no-peers"]
    slow = "torchvision or (ready and (pil or dali or webdataset))"
    slow += " or ((scaling or pause) and (pil or dali)) or (machinery and (16 or 32))"
    words += ["-k", f"not ({slow})"]
    # pytest-benchmark measures nothing where it sees that it is a worker's.
    alone = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        words, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    run = report.read(out)
    lines = lines_of(rows_of(run))
    cores = os.cpu_count()
    assert cores
    own = {"read", "batch", "ready", "step", "shard", "scaling", "machinery", "pause"}
    own |= {"intervals", "cache", "verify"}
    assert own | {"decode, 1 thread"} <= set(lines)
    ours = {one["entrant"]: one for one in lines["batch"] if one["kind"] == "ours"}
    assert {"pil", "turbo", "webdataset"} <= set(ours)
    for one in rows_of(run):
        assert one["images_per_second"] > 0
        assert one["images_per_round"] >= 2
    assert {one["pixels"] for one in ours.values()} == {"exact"}
    assert all(one["peak_bytes"] > 1e6 for one in ours.values())
    assert "not faster" in tables.markdown(run)
    assert run["machine_info"]["card"]["cores granted"] >= 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--shards", "/nowhere"], "--shards: /nowhere holds no data set"),
        (["--images", "3"], "--images must be at least 40, got 3"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
    ],
)
def test_benchmarks_of_what_cannot_be_meant(words: list[str], complaint: str):
    command = [sys.executable, "-m", "pytest", "bench", "--benchmark-only", *words]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 4
    assert f"ERROR: {complaint}" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


PUBLISHED = sorted((ROOT / "bench" / "results").glob("loaders_*.json"))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_table_is_of_its_numbers(path):
    table = path.with_suffix(".md").read_text().splitlines()
    assert set(tables.markdown(report.read(path)).splitlines()) <= set(table)


@pytest.mark.parametrize("page", ["README.md", "docs/loaders.md"])
def test_page_has_the_published_figures(page):
    """Those of the run whose picture the README shows."""
    readme = (ROOT / "README.md").read_text()
    (stem,) = re.findall(r"\(bench/results/(loaders_\S+)_batch\.png\)", readme)
    (path,) = (each for each in PUBLISHED if each.stem == stem)
    lines = lines_of(rows_of(report.read(path)))
    text = (ROOT / page).read_text()
    ready = {one["entrant"]: one for one in lines["ready"]}
    batch = {one["entrant"]: one for one in lines["batch"]}
    for name in ("turbo", "webdataset", "dali-reader", "dali", "pil"):
        found = re.search(rf"^\| `{name}` \| (.+)$", text, re.MULTILINE)
        assert found is not None
        cells = [cell.strip() for cell in found[1].split("|")]
        assert cells[:6] == [
            f"{batch[name]['images_per_second']:,.0f}",
            f"{batch[name]['share_of_ceiling']:.2f}",
            f"{ready[name]['images_per_second']:,.0f}",
            f"{batch[name]['cpu_ms_per_image']:.2f} ms",
            f"{batch[name]['first_batch_seconds'] * 1e3:.0f} ms",
            f"{batch[name]['peak_bytes'] / 2**20:.0f} MiB",
        ]
