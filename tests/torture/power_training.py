"""Trainings whose power is cut: a run, one that goes on, and an experiment of some."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import course_folder

from fastretina.experiments import worker
from torture.campaign import Fault
from torture.disk import Content, content_of, put_down, read_disk
from torture.power_runs import environment, quietly

_run_child = worker._child


def run_small(words: Sequence[str]) -> int:
    """Run a command with the small network, and with all of its fsyncs.

    Args:
        words: the command's name and its flags.
    """
    from importlib import import_module

    _use_small(pytest.MonkeyPatch())
    main = import_module(f"fastretina.{words[0]}.command").main
    return int(main(words[1:]))


def _use_small(patch: pytest.MonkeyPatch) -> None:
    from small_runs import PRELOADED, small_network

    patch.setattr("torchvision.models.resnet18", small_network)
    patch.setattr("fastretina.metrics.bootstrap.RESAMPLES", 2)
    patch.setattr(worker, "_child", run_child)
    patch.setattr(worker, "_IMPORTED", PRELOADED)


def run_child(*given: Any) -> None:
    """What the process of one of an experiment's runs does, with the small network."""
    _use_small(pytest.MonkeyPatch())
    _run_child(*given)


_SMALL = """
import sys
from torture.power_training import run_small
sys.exit(run_small(sys.argv[1:]))
"""


def small_words(command: str, *flags: object) -> list[str]:
    """The words of a command with the small network."""
    return [sys.executable, "-c", _SMALL, command, *map(str, flags)]


def run_again(words: Sequence[str]) -> None:
    """Run a command in a process of its own.

    Raises:
        Fault: its exit code is not 0.
    """
    ran = subprocess.run(
        words, env=environment(), capture_output=True, text=True, check=False
    )
    if ran.returncode:
        lines = ran.stderr.strip().splitlines()
        raise Fault(f"the same command ends with {ran.returncode}: {lines[-1:]}")


def make_shards(shared: Path) -> Path:
    """37 + 11 photographs as shards, in a folder that is not watched."""
    from fastretina.shard.command import main

    course = course_folder(shared / "course", 37, 11)
    quietly(main, course, shared / "shards", "--workers", 1)
    return shared / "shards"


def check_run(folder: Path, name: str, content: Content, whole: Content) -> None:
    """Read what there is of a run as its readers do.

    Args:
        folder: the run's.
        name: of it, relative to what is watched.
        content: what is watched.
        whole: the same at the undisturbed end.

    Raises:
        Fault: a file is there without one that belongs to it.
    """
    from fastretina.nn import checkpoint
    from fastretina.run import Run

    run = Run(folder)
    written = {
        path
        for path, data in content.items()
        if path.startswith(f"{name}/")
        and data is not None
        and not re.search(r"\.part$|/\.lock", path)
    }
    if written and f"{name}/config.json" not in written:
        raise Fault(f"{sorted(written)} without config.json")
    if written:
        run.config()
    for path in (run.last, run.weights):
        if path.exists():
            checkpoint.load(path)
    if written and not run.finished:
        run.describe_unfinished()
    if run.finished:
        run.log()
        for each, data in whole.items():
            named = each.startswith(f"{name}/") and not each.endswith("/.lock")
            if named and data is not None and content.get(each) != data:
                raise Fault(f"the run is finished, and {each} is not what it has")


class Training:
    """A run from its folder to its metrics, with a checkpoint after every step."""

    name = "runs"
    in_place = re.compile(r"run/\.lock")
    seldom = 64

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        make_shards(shared)
        return small_words("train", *self._words(shared, disk))

    def _words(self, shared: Path, disk: Path) -> list[str]:
        from small_runs import words

        more = ["--checkpoint-every", 0, "--device", "cpu", "--loader", "turbo"]
        more += ["--workers", 1, "--threads", 1, "--validation", 0.3]
        return words(shared / "shards", disk / "run", *more)

    def check(self, disk: Path, content: Content, whole: Content) -> None:
        check_run(disk / "run", "run", content, whole)

    def again(self, shared: Path, disk: Path, scratch: Path, whole: Content) -> None:
        import small_runs

        from fastretina.nn import checkpoint
        from fastretina.run import Run

        words = self._words(shared, disk)
        if (disk / "run" / "config.json").exists():
            words = ["--resume", str(disk / "run")]
        process = small_runs.start(words, scratch, environment={"OMP_NUM_THREADS": "1"})
        ended = small_runs.finish(process, scratch)
        if ended.code:
            raise Fault(f"train {words[0]} ends with {ended.code}: {ended.err[-1:]}")
        reference = scratch / "undisturbed"
        reference.mkdir()
        put_down(whole, reference)
        one, other = disk / "run", reference / "run"
        (now, _), (then, _) = (
            checkpoint.load(Run(each).weights) for each in (one, other)
        )
        if {n: t.tolist() for n, t in now.items()} != {
            n: t.tolist() for n, t in then.items()
        }:
            raise Fault("the same command ends with other weights")
        for what in (small_runs.log, small_runs.metrics):
            if what(one) != what(other):
                raise Fault(f"the same command ends with other {what.__name__}")
        if left := [path.name for path in one.glob(".*")]:
            raise Fault(f"the same command leaves {left[0]}")
        events = [len([*each.glob("tensorboard/*")]) for each in (one, other)]
        if events[0] != events[1]:
            raise Fault(f"the same command leaves {events[0]} files of events")


class Resuming(Training):
    """A run that was killed at the end of its first phase, and goes on there."""

    name = "runs that go on"
    _epoch = 1  # whose events are there already, and come again

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        import small_runs

        super().prepare(shared, disk)
        killed = small_runs.start(
            self._words(shared, disk),
            shared / "killed",
            at=("fastretina.run:Run.write_events", self._epoch, "after"),
            number=signal.SIGKILL,
            environment={"OMP_NUM_THREADS": "1"},
        )
        assert small_runs.finish(killed, shared / "killed").code == -signal.SIGKILL
        return small_words("train", "--resume", disk / "run", "--checkpoint-every", 0)


class Ending(Resuming):
    """A run that was killed at the end of its last epoch."""

    name = "runs that end"
    _epoch = 3


class VariantMaking:
    """An experiment's other split of the data, made from shards."""

    name = "variants of shards"
    in_place = re.compile(
        r"data/(\.by-image/.*|by-image/\.progress/(lock|.*\.tar\.json))"
    )
    seldom = 16

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        from fastretina.shard.command import main

        course = course_folder(shared / "course", 8, 4)  # each is a name, never synced
        quietly(main, course, shared / "shards", "--workers", 1)
        code = "from torture.power_training import make_by_image; "
        code += "import sys; make_by_image(sys.argv[1], sys.argv[2])"
        return [sys.executable, "-c", code, str(shared / "shards"), str(disk / "data")]

    def check(self, disk: Path, content: Content, whole: Content) -> None:
        if "data/by-image/manifest.json" not in content:
            return
        for path, data in whole.items():
            if content.get(path) != data:
                raise Fault(f"the variant's manifest is there, and {path} is not")

    def again(self, shared: Path, disk: Path, scratch: Path, whole: Content) -> None:
        from torture.power_runs import compare

        make_by_image(str(shared / "shards"), str(disk / "data"))
        compare(disk, whole)


def make_by_image(shards: str, folder: str) -> None:
    """Make the variant that is split by image, and say nothing."""
    from fastretina.experiments.variants import BY_IMAGE, make_variant

    with contextlib.redirect_stderr(io.StringIO()):
        make_variant(BY_IMAGE, shards, Path(folder))


class Experimenting:
    """Four runs in processes of their own, their table, figures and comparisons."""

    name = "experiments"
    # A run's log is what it has printed.
    in_place = re.compile(r"out/(\.lock|runs/[^/]*\.log|runs/[^/]*/\.lock)")
    seldom = 128

    def prepare(self, shared: Path, disk: Path) -> list[str]:
        shards = make_shards(shared)
        make_by_image(str(shards), str(disk / "out" / "data"))
        return self._words(shared, disk)

    def _words(self, shared: Path, disk: Path) -> list[str]:
        flags = ["--budget", "tiny", "--weights", "none", "--batch-size", 8]
        flags += ["--threads", 1, "--full-epochs", 1, "--head-epochs", 1]
        flags += ["--device", "cpu", "--loader", "turbo", "--workers", 1]
        places = ["--shards", shared / "shards", "--out", disk / "out"]
        return small_words("experiments", "strong", *places, *flags)

    def check(self, disk: Path, content: Content, whole: Content) -> None:
        out = disk / "out"
        names = {path.split("/")[2] for path in whole if path.startswith("out/runs/")}
        for name in sorted(names):
            if not name.endswith(".log"):
                check_run(out / "runs" / name, f"out/runs/{name}", content, whole)
        if any("out/runs/" in path for path in content):
            json.loads(content["out/settings.json"] or b"")
        if "out/experiment.json" in content:
            _check_results(out)
        if "out/table.md" in content:
            for path, data in whole.items():
                if not self.in_place.fullmatch(path) and content.get(path) != data:
                    raise Fault(f"the table is there, and {path} is not of its set")

    def again(self, shared: Path, disk: Path, scratch: Path, whole: Content) -> None:
        run_again(self._words(shared, disk))
        _check_results(disk / "out")
        put_down(whole, scratch)
        now, then = (_outcome(each / "out") for each in (disk, scratch))
        for name, value in then.items():
            if now.get(name) != value:
                raise Fault(f"the same command ends with other {name}")


def _check_results(out: Path) -> None:
    """Make sure that an experiment's file names what is there, with its very scores.

    Raises:
        Fault: it doesn't.
    """
    from fastretina.report.command import main
    from fastretina.report.experiment_figures import read_pictures
    from fastretina.report.experiment_file import read_experiment
    from fastretina.report.finished_run import read_finished_run
    from fastretina.run import Run

    result = read_experiment(out)
    for cell in result.cells:
        if (cell.state == "done") != (len(cell.runs) == 1):
            raise Fault(f"{cell.cell} is {cell.state}, of the runs {cell.runs}")
        for name in cell.runs:
            scores = read_finished_run(Run(out / name)).evaluation.test
            if cell.scores is None or cell.scores["accuracy"].mean != scores.accuracy:
                raise Fault(f"{cell.cell} has other scores than {name}")
    _, missing = read_pictures(out, result.figures)
    if missing:
        raise Fault(missing[0])
    quietly(main, out, "--out", out.parent / "page.html")
    (out.parent / "page.html").unlink()


def _outcome(out: Path) -> dict[str, object]:
    """What an experiment has come to, less the times."""
    from torture.victims import of_a_run

    result = json.loads((out / "experiment.json").read_text())
    found: dict[str, object] = {
        "scores": [cell["scores"] for cell in result["cells"]],
        "comparisons": result["comparisons"],
        "files": sorted(path.name for path in out.iterdir() if path.name != ".lock"),
        "data": content_of(read_disk(out / "data")),
    }
    for run in sorted(out.glob("runs/*/")):
        (run / ".lock").unlink(missing_ok=True)  # a finished run's is nobody's
        found[run.name] = of_a_run(run)
    return found
