"""The lines that isolate something: machinery, numbers of threads, pauses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_runs import made_up, row
from matplotlib import image as png

import loaders.decode
from bench import machinery, pause, plots, tables
from bench.bench_batch import _sweep
from bench.data import NO_DATA
from bench.entrant import Entrant, EntrantResult
from bench.ours import LoaderSetting, open_loader
from bench.scaling import sweep, threads_up_to
from bench.targets import targets
from loaders import LOADERS, Batch, open_split


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return machinery.tiny_shards(96, tmp_path_factory.mktemp("tiny"))


# ---- the machinery alone


def test_tiny_shards_are_made_once_and_lie_in_several(tiny: Path):
    made = (tiny / "manifest.json").stat().st_mtime_ns
    assert machinery.tiny_shards(96, tiny.parent) == tiny
    assert (tiny / "manifest.json").stat().st_mtime_ns == made
    assert {path.name for path in tiny.parent.iterdir()} == {"tiny-96"}
    with open_split(tiny, "train") as split:
        assert len(split) == 96
        assert len(split.shard_sizes) == 4
        assert split.dimensions == ((machinery.SIDE, machinery.SIDE),)


@pytest.mark.parametrize("name", machinery.LOADERS_TIMED)
def test_machinery_delivers_all_and_decodes_nothing(tiny: Path, name, monkeypatch):
    real, decoded = loaders.decode.simplejpeg.decode_jpeg, []
    monkeypatch.setattr(
        loaders.decode.simplejpeg, "decode_jpeg", lambda *a, **k: decoded.append(a)
    )
    entrant = next(
        one for one in machinery.machinery(tiny) if one.name == f"{name}, 2 threads"
    )
    with entrant.open() as runner:
        assert runner.check() == "not decoded"
        timed = runner.run_round(1)
    assert timed.images == 96
    assert 0 < timed.first_seconds < timed.seconds
    assert not decoded
    monkeypatch.undo()
    assert loaders.decode.simplejpeg.decode_jpeg is real


def test_decoder_that_is_not_stubbed_is_told(tiny: Path, monkeypatch):
    """Such as one that is called by another name: its time would count as ours."""
    monkeypatch.setattr(
        machinery,
        "_DECODER",
        type("Elsewhere", (), dict.fromkeys(("decode_jpeg", "decode_jpeg_header"))),
    )
    setting = LoaderSetting("turbo", 1, device="cpu")
    with open_loader(setting, tiny) as loader:
        runner = machinery.MachineryRunner(loader, 96)
        with pytest.raises(AssertionError, match="not stubbed: 0 calls for 96 images"):
            runner.check()


def test_machinery_that_loses_an_image_is_not_timed(tiny: Path):
    with open_loader(LoaderSetting("turbo", 1, device="cpu"), tiny) as loader:
        runner = machinery.MachineryRunner(loader, 97)
        with pytest.raises(AssertionError, match="lost or doubled"):
            runner.check()


def test_machinery_is_timed_up_to_32_threads_whatever_the_cores():
    entrants = machinery.machinery(Path("nowhere"))
    found = {(one.setup["loader"], one.setup["workers"]) for one in entrants}
    assert found == {
        (name, threads)
        for name in ("turbo", "webdataset")
        for threads in (1, 2, 4, 8, 16, 32)
    }


# ---- numbers of threads


@pytest.mark.parametrize(
    ("cores", "threads"),
    [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])],
)
def test_threads_go_up_to_the_cores(cores, threads):
    assert threads_up_to(cores) == threads
    settings = [one.setup for one in sweep(NO_DATA, cores, full=False)]
    assert {one["batch_size"] for one in settings} == {32}
    for name in LOADERS:
        own = [one["workers"] for one in settings if one["loader"] == name]
        assert own == threads


def test_full_sweep_goes_beyond_and_varies_the_batch():
    settings = [one.setup for one in sweep(NO_DATA, 4, full=True)]
    own = {(s["workers"], s["batch_size"]) for s in settings if s["loader"] == "turbo"}
    usual = {(1, 32), (2, 32), (4, 32), (8, 32)}
    assert own == usual | {(4, 8), (4, 16), (4, 64), (4, 128)}
    assert all(one["threads"] == one["workers"] for one in settings)


def test_ceiling_has_the_threads_of_the_loader_beside_it(monkeypatch, pytestconfig):
    """What the fixture hands to the race, which asks it before each round."""
    from bench import bench_batch
    from bench.race import Rules

    monkeypatch.setattr(bench_batch, "granted_cores", lambda: 4)
    monkeypatch.setattr(bench_batch, "decode_only", lambda jpegs, threads: 10 * threads)
    monkeypatch.setattr(
        bench_batch, "_sweep", lambda data, config: sweep(data, 4, full=True)
    )
    found = {}

    def run_race(entrants, rules):
        for one in entrants:
            found[one.setup["workers"]] = rules.ceiling(one)
        return {}

    rules = Rules(num_rounds=1, logs=Path("nowhere"))
    fixture = bench_batch.scaling
    function = getattr(fixture, "__wrapped__", None) or fixture._fixture_function
    function(run_race, NO_DATA, [b""], rules, pytestconfig)
    assert found == {1: 10, 2: 20, 4: 40, 8: 80}


# ---- the pause between two epochs


class Slow:
    """A loader of three batches; the first of an epoch takes its time."""

    def __init__(self, pause: float, between: float = 0.0) -> None:
        self.pause, self.between = pause, between
        self.begun: list[int] = []

    def epoch(self, number: int, *, then: int | None = None) -> Iterator[Batch]:
        assert then == number + 1
        self.begun.append(number)
        for step in range(3):
            time.sleep(self.between if step else self.pause)
            rows = torch.arange(4)
            yield Batch(torch.zeros(4, 1, 1, 3, dtype=torch.uint8), rows, rows)


class Right:
    def check(self) -> str:
        return "exact"


def test_pause_is_from_an_epochs_end_to_the_next_ones_first_batch():
    loader = Slow(pause=0.05, between=0.02)
    runner = pause.PacedRunner(loader, Right(), pace=0.03)
    assert runner.check() == "exact"
    rounds = [runner.run_round(number) for number in range(3)]
    assert loader.begun == [0, 1, 2, 3]
    for timed in rounds:
        assert timed.images == 3 * 4
        # Neither the waits within the epoch nor the work on a batch belong to it.
        assert 0.05 <= timed.pause_seconds < timed.seconds - 3 * 0.03 - 2 * 0.02 + 1e-3
        assert timed.wait_seconds >= 0.02


def test_waits_within_an_epoch_are_those_of_its_slower_batches():
    """Two processes that make a batch each have it done at the same time."""

    class Pairs(Slow):
        def epoch(self, number: int, *, then: int | None = None) -> Iterator[Batch]:
            for step in range(9):
                time.sleep(0.1 if step % 2 else 0.0)
                rows = torch.arange(4)
                yield Batch(torch.zeros(4, 1, 1, 3, dtype=torch.uint8), rows, rows)

    runner = pause.PacedRunner(Pairs(0.0), Right(), pace=0.0)
    runner.check()
    timed = runner.run_round(0)
    assert timed.wait_seconds >= 0.1
    result = EntrantResult(Entrant("one", open))
    result.rounds += [timed, timed._replace(wait_seconds=0.4)] * 2
    row = result.row("pause")
    assert row["wait_ms"] == pytest.approx((timed.wait_seconds + 0.4) / 2 * 1e3, 1e-3)


def test_epoch_that_ends_late_is_part_of_the_pause():
    class Lingering(Slow):
        def epoch(self, number: int, *, then: int | None = None) -> Iterator[Batch]:
            yield from super().epoch(number, then=then)
            time.sleep(0.1)

    runner = pause.PacedRunner(Lingering(0.0), Right(), pace=0.0)
    runner.check()
    assert runner.run_round(0).pause_seconds >= 0.1


def test_pause_of_a_real_loader_goes_on_from_epoch_to_epoch(tiny: Path):
    with open_loader(LoaderSetting("turbo", 2, device="cpu"), tiny) as loader:
        runner = pause.PacedRunner(loader, Right(), pace=0.001)
        runner.check()
        assert [runner.run_round(number).images for number in range(2)] == [96, 96]
        rows = [b.index for b in islice(runner._batches, 2)]
        wanted = [batch.index for batch in islice(loader.epoch(2), 1, 3)]
        assert all(map(torch.equal, rows, wanted))


# ---- what is made of them


def threads_row(line: str, name: str, workers: int, speed: float, **more: Any):
    setup = {"loader": name, "workers": workers, "batch_size": 32}
    return row(line, f"{name}, {workers} threads", speed, **(setup | more))


def some_lines() -> dict[str, Any]:
    rows = []
    for threads in (1, 2, 4, 8, 16, 32):
        rows += [
            threads_row("machinery", "turbo", threads, 150_000.0 - threads * 1_000),
            threads_row("machinery", "webdataset", threads, 60_000.0 / threads),
        ]
    for threads in (1, 2, 4, 8, 16):
        ceiling = {"threads": threads, "ceiling_images_per_second": 700.0 * threads}
        for name, share in (("turbo", 0.95), ("webdataset", 0.9 - threads / 50)):
            speed = 700.0 * threads * share
            shares = {"share_of_ceiling": share, "shares": [share] * 5}
            rows.append(
                threads_row("scaling", name, threads, speed, **ceiling, **shares)
            )
    for name, ms in (("turbo", 12.0), ("webdataset", 40.0), ("pil", 300.0)):
        more = {"pause_ms": ms, "longest_pause_ms": 2 * ms, "wait_ms": ms / 3}
        rows.append(row("pause", name, 900.0, **more))
    for one in rows:
        if one["line"] != "scaling":
            del one["ceiling_images_per_second"], one["share_of_ceiling"], one["shares"]
    return made_up(*rows)


def test_goals_of_the_lines_are_judged():
    found = {one.what: one for one in targets(some_lines())}

    def ratio(what: str) -> tuple[float, bool]:
        return pytest.approx(found[what].ratio), found[what].met

    slowest = "the machinery of `{}` where it is slowest / {} images/s"
    assert ratio(slowest.format("turbo", "100,000")) == (1.18, True)
    assert ratio(slowest.format("webdataset", "30,000")) == (1 / 16, False)
    assert ratio("the machinery of `turbo`, 32 threads / 2") == (118 / 148, False)
    least = "`turbo` / the ceiling of as many threads, where that is least"
    assert ratio(least) == (0.95, True)
    two = "`webdataset` / `turbo` on 2 threads, as shares"
    assert ratio(two) == (0.86 / 0.95, True)
    many = "`webdataset` on 16 threads / the ceiling of as many"
    assert ratio(many) == (0.58, False)
    pauses = "20 ms / the pause between two epochs of `{}`"
    assert ratio(pauses.format("turbo")) == (20 / 12, True)
    assert ratio(pauses.format("webdataset")) == (0.5, False)
    assert ratio(pauses.format("pil")) == (20 / 300, False)
    assert pauses.format("dali") not in found  # nor was it measured


def test_checked_reads_are_held_against_unchecked():
    rows = [row("verify", "turbo", 990.0), row("verify", "turbo, unchecked", 1100.0)]
    (checked,) = targets(made_up(*rows))
    assert (checked.ratio, checked.met) == (0.9, False)


def test_images_that_are_kept_are_held_against_turbo():
    rows = [
        row("cache", "turbo", 1000.0),
        row("cache", "turbo, kept in memory", 2600.0),
    ]
    (kept,) = targets(made_up(*rows))
    assert (kept.ratio, kept.met) == (2.6, True)
    text = tables.markdown(made_up(*rows))
    assert (
        "Ceiling: `turbo` without a cache, which takes its turn in each round" in text
    )


def test_rows_with_one_ceiling_for_all_threads_are_not_judged():
    """As they were measured once: the share of one thread was of two threads'."""
    run = made_up(threads_row("scaling", "turbo", 1, 1000.0))
    assert targets(run) == []


def test_table_of_pauses_has_no_speed_and_the_shortest_first():
    text = tables.markdown(some_lines())
    part = text.partition("## The pause between two epochs")[2].partition("\n## ")[0]
    assert "|  | pause | within an epoch | CPU per image | pixels |" in part
    assert "| **turbo** | 12.0 ms (at most 24.0) | 4.0 ms |" in part
    assert part.index("**turbo**") < part.index("**webdataset**") < part.index("**pil")
    assert "Ceiling" not in part
    assert "sleeps 30 ms" in part
    part = text.partition("## The machinery alone")[2].partition("\n## ")[0]
    assert "of the ceiling" not in part
    assert "no ceiling is known" in part
    said = tables.summary(some_lines())
    assert "\nmachinery\n" in said
    assert "12.0 ms (at most 24.0) 4.0 ms within" in said


def test_plots_of_threads_are_written(tmp_path: Path):
    names = plots.draw(some_lines(), tmp_path, "some")
    assert names == ["some_scaling.png", "some_machinery.png"]
    for name in names:
        drawn = png.imread(tmp_path / name)
        assert drawn.shape[0] > 400
        assert len(np.unique(drawn.reshape(-1, drawn.shape[2]), axis=0)) > 50


def test_plot_shows_rates_beside_the_ceiling_of_as_many_threads():
    rows = [
        one["extra_info"]
        for one in some_lines()["benchmarks"]
        if one["group"] == "scaling"
    ]
    figure = plots.scaling_curves(rows)
    speeds, shares = figure.axes
    lines = {line.get_label(): line for line in speeds.lines}
    assert set(lines) == {"turbo", "webdataset", "ceiling, same threads"}
    ceiling = lines["ceiling, same threads"]
    assert list(ceiling.get_xdata()) == [1, 2, 4, 8, 16]
    assert list(ceiling.get_ydata()) == [700, 1400, 2800, 5600, 11200]
    curve = next(line for line in shares.lines if line.get_label() == "turbo")
    assert list(curve.get_ydata()) == [0.95] * 5
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["turbo", "webdataset", "ceiling, same threads"]


def test_sweep_follows_the_flag(pytestconfig, monkeypatch):
    asked = []
    monkeypatch.setattr("bench.bench_batch.sweep", lambda *words: asked.append(words))
    config = type("Config", (), {"getoption": lambda self, name: name == "full"})()
    _sweep(NO_DATA, config)
    assert asked[0][2] is True
