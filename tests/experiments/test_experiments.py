"""Experiments: their cells, their keeping of what is done, and what they say."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
import simplejpeg
from conftest import contents
from resealed import read_json, write_sealed
from small_experiments import LABELS, LONG, made_run, small_experiment, use_small
from small_runs import Outcome, call, server

from fastretina import cli
from fastretina.data.preprocess import equalise
from fastretina.experiments import command as experiments
from fastretina.experiments import series, worker
from fastretina.experiments.ablations import ablations
from fastretina.experiments.budget import BUDGETS
from fastretina.experiments.experiment_plans import PLANS, strong, table
from fastretina.experiments.experiment_text import differences
from fastretina.experiments.flags import Options, split_words
from fastretina.experiments.variants import BY_IMAGE, BY_PATIENT, CLAHE, make_variant
from fastretina.metrics.baselines import Eyes, leak
from fastretina.recipe import RECIPES, Recipe
from fastretina.run_config import RunData
from loaders.errors import RunError
from loaders.shards import open_split

Runs = Callable[..., Outcome]
SMALL = ["--weights", "none", "--batch-size", "8", "--threads", "1"]


def same(recipe: Recipe) -> Recipe:
    return recipe


@pytest.fixture
def runs(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Runs:
    use_small(monkeypatch)

    def run(name: str, *flags: object) -> Outcome:
        words = [name, "--shards", shards, "--out", tmp_path / "out", *SMALL, *flags]
        if "--budget" not in words:
            words += ["--budget", "tiny"]
        return call(experiments.main, [str(word) for word in words], capsys)

    return run


def experiment(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "experiment.json").read_text())
    return content


# ---- flags


def test_split_words_tells_recipe_flags_from_its_own():
    words = ["table", "--image-size", "128", "--seeds", "3", "--lr=1e-4"]
    words += ["--no-test-each-epoch", "--out", "x", "--test-each-epoch", "--dry-run"]
    own, recipe = split_words(words)
    assert own == ["table", "--seeds", "3", "--out", "x", "--dry-run"]
    assert recipe == [
        *("--image-size", "128", "--lr=1e-4"),
        *("--no-test-each-epoch", "--test-each-epoch"),
    ]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--recipe", "seed"], "--recipe must be left out: it is what strong varies"),
        (["--lr", "-1"], "--lr must be above 0, got -1.0"),
        (["--lr", "fast"], "--lr"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--budget", "huge"], "--budget"),
        (["--nonsense"], "nonsense"),
        (
            ["--loader", "webdataset", "--balance", "0.5"],
            "--balance must be 0 with --loader webdataset, which reads every shard "
            "once, got 0.5",
        ),
    ],
)
def test_experiments_refuses_flags_that_cant_be_meant(
    runs: Runs, tmp_path: Path, flags: list[str], line: str
):
    outcome = runs("strong", *flags)
    assert outcome.code == 2
    assert line in outcome.complaint
    assert not (tmp_path / "out").exists()


def test_experiments_of_no_shards_say_what_makes_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    flags = ["strong", "--shards", str(tmp_path / "none")]
    outcome = call(experiments.main, flags, capsys)
    assert outcome.code == 1
    assert "fastretina shard" in outcome.complaint


# ---- plans


def changed(cell: Recipe, base: Recipe) -> set[str]:
    names = (field.name for field in fields(Recipe))
    return {name for name in names if getattr(cell, name) != getattr(base, name)}


def test_table_is_the_reports_four_networks():
    plan = table(same, 512, leaks=True)
    assert [(c.recipe.arch, c.recipe.weights) for c in plan.cells] == [
        (arch, weights)
        for arch in ("resnet18", "resnet50")
        for weights in ("imagenet", "none")
    ]
    for cell in plan.cells:
        assert changed(cell.recipe, RECIPES["seed"]) <= {"arch", "weights"}
        assert cell.recipe.test_each_epoch  # the curves of the report
    reported = dict(plan.reference)
    assert reported["ResNet18, ImageNet weights"] == 0.8162
    assert reported["ResNet50, from scratch"] == 0.7338


ABLATIONS = {
    "base": set(),
    "weights-max": {"class_weights"},
    "weights-max-corrected": {"class_weights"},
    "weights-sqrt": {"class_weights"},
    "weights-after-head": {"class_weights", "weighted_phases"},
    "resize-224": {"image_size"},
    "jitter-0.5": {"brightness", "contrast", "saturation"},
    "jitter-0.2": {"brightness", "contrast", "saturation"},
    "jitter-0.5-weights-max": {
        "brightness",
        "contrast",
        "saturation",
        "class_weights",
    },
    "clahe-train": set(),
    "clahe-both": set(),
    "one-phase": {"head_epochs", "full_epochs"},
    "batchnorm-eval": {"head_batchnorm"},
}


def test_ablations_change_one_thing_each():
    plan = ablations(same, 512, leaks=True)
    found = {c.name: changed(c.recipe, RECIPES["seed"]) for c in plan.cells}
    assert found == ABLATIONS
    assert plan.cell("resize-224").recipe.image_size == 224
    assert (plan.cell("clahe-train").data, plan.cell("clahe-train").test) == (
        CLAHE,
        "given",
    )
    assert plan.cell("clahe-both").test == CLAHE
    one_phase = plan.cell("one-phase").recipe
    assert (one_phase.head_epochs, one_phase.full_epochs) == (0, 15)
    assert plan.variants == [CLAHE]
    sentences = [r.text for cell in plan.cells for r in cell.reasons]
    sentences += [cell.about for cell in plan.cells if cell.about]
    assert all(sentence.endswith(".") for sentence in sentences)


@pytest.mark.parametrize(("leaks", "other"), [(True, BY_PATIENT), (False, BY_IMAGE)])
def test_strong_is_held_against_seed_on_both_kinds_of_split(leaks: bool, other: str):
    plan = strong(same, 512, leaks)
    assert {(c.recipe.recipe, c.data, c.test) for c in plan.cells} == {
        (recipe, data, data)
        for recipe in ("seed", "strong")
        for data in ("given", other)
    }
    assert [(p.first, p.second) for p in plan.pairings] == [
        ("strong-given", "seed-given"),
        (f"strong-{other}", f"seed-{other}"),
    ]


@pytest.mark.parametrize("name", PLANS)
def test_pairings_name_cells_of_the_plan(name: str):
    plan = PLANS[name](same, 512, True)
    names = [cell.name for cell in plan.cells]
    assert len(set(names)) == len(names)
    paired = {n for p in plan.pairings for n in (p.first, p.second)}
    assert paired <= set(names)


def test_budgets_scale_epochs_size_and_samples():
    small = BUDGETS["small"].scaled(RECIPES["strong"], 512)
    assert (small.head_epochs, small.full_epochs) == (2, 4)
    assert (small.image_size, small.train_samples) == (128, 1000)
    assert BUDGETS["small"].scaled(RECIPES["strong"], 96).image_size == 96
    assert BUDGETS["full"].scaled(RECIPES["seed"], 512) == RECIPES["seed"]


def test_differences_are_flags_that_make_the_recipe():
    recipe = ablations(same, 512, True).cell("weights-after-head").recipe
    assert differences(recipe, RECIPES["seed"]) == [
        "--class-weights balanced",
        "--weighted-phases full",
    ]
    plain = experiments._with_words(RECIPES["seed"], ["--no-test-each-epoch"])
    assert differences(plain, RECIPES["seed"]) == ["--no-test-each-epoch"]


# ---- running


def test_dry_run_tells_time_and_trains_nothing(runs: Runs, tmp_path: Path):
    outcome = runs("ablations", "--dry-run", "--seeds", 2)
    assert outcome.json["runs"] == 2 * 11  # of 12 cells one is derived
    assert outcome.json["estimated_seconds"] > 0
    text = "\n".join(outcome.out)
    assert "weights-sqrt: 2 x " in text
    assert "--class-weights sqrt" in text
    assert "in all about" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_experiment_is_done_once_and_more_seeds_add_to_it(runs: Runs, tmp_path: Path):
    out = tmp_path / "out"
    first = runs("strong").json
    assert first["runs"] == 4
    found = experiment(out)
    assert [cell["state"] for cell in found["cells"]] == ["done"] * 4
    for cell in found["cells"]:
        (run,) = cell["runs"]
        metrics = json.loads((out / run / "metrics.json").read_text())
        assert cell["scores"]["qwk"]["mean"] == pytest.approx(metrics["test"]["qwk"])
        assert cell["scores"]["qwk"]["spread"] is None
        assert cell["parameters"] == metrics["parameters"]
    assert {(c["first"], c["second"]) for c in found["comparisons"]} == {
        ("strong-given", "seed-given"),
        (f"strong-{BY_IMAGE}", f"seed-{BY_IMAGE}"),
    }
    assert (out / "table.md").read_text().startswith("## Recipe strong")
    assert (out / found["figures"][0]["file"]).stat().st_size > 1000

    weights = {p: p.stat().st_mtime_ns for p in out.rglob("last.safetensors")}
    again = runs("strong")
    assert again.json == first
    assert "4 of 4 runs are finished already" in again.err
    assert {p: p.stat().st_mtime_ns for p in out.rglob("last.safetensors")} == weights

    more = runs("strong", "--seeds", 2)
    assert more.json["runs"] == 8
    assert "4 of 8 runs are finished already" in more.err
    for cell in experiment(out)["cells"]:
        assert len(cell["runs"]) == 2
        assert len(cell["scores"]["accuracy"]["by_seed"]) == 2
        assert cell["scores"]["accuracy"]["spread"] is not None
    assert any("±" in line for line in more.out)


def test_failed_cell_does_not_lose_the_others(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = worker.run_in_process

    def failing(options: Any, *rest: Any) -> str | None:
        if options.recipe.recipe == "seed":
            return "no memory left"
        return real(options, *rest)

    monkeypatch.setattr(worker, "run_in_process", failing)
    outcome = runs("strong")
    assert outcome.code == 1
    assert "2 of 4 runs failed" in outcome.complaint
    assert "seed-given-seed0: no memory left" in outcome.complaint
    states = {c["cell"]: c["state"] for c in experiment(tmp_path / "out")["cells"]}
    assert states == {
        "seed-given": "failed",
        "strong-given": "done",
        f"seed-{BY_IMAGE}": "failed",
        f"strong-{BY_IMAGE}": "done",
    }
    assert any("failed: no memory left" in line for line in outcome.out)
    monkeypatch.setattr(worker, "run_in_process", real)
    again = runs("strong")
    assert "2 of 4 runs are finished already" in again.err
    assert again.json["runs"] == 4


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("os.kill(os.getpid(), 9)", "killed, perhaps for want of memory"),
        ("os._exit(7)", "ended with exit code 7"),
        ("raise ZeroDivisionError('oh')", "ZeroDivisionError: oh (see "),
        ("raise RunError('one line')", "one line"),
    ],
)
def test_run_that_dies_is_reported_in_a_line(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, reason: str
):
    monkeypatch.setattr(worker, "_child", partial(dying_child, end))
    outcome = runs("strong")
    assert outcome.code == 1
    assert reason in outcome.complaint
    assert "4 of 4 runs failed" in outcome.complaint


def dying_child(end: str, *parts: Any) -> None:
    """A run's process in which training comes to this end."""

    def command(_: object) -> None:
        exec(end, {"os": os, "RunError": RunError})

    pytest.MonkeyPatch().setattr("fastretina.train.command.command", command)
    training_child(*parts)


training_child = worker._child


LASTING = ("--full-epochs", "2")  # so that epochs are left when a run is stopped


@contextmanager
def experiment_held_at(run: Path, shards: Path) -> Iterator[BaseProcess]:
    """A process of its own that waits in this run, once its first checkpoint is there.

    It is killed at the end of the block, if it is still there.
    """
    out = run.parents[1]
    words = ["strong", "--shards", str(shards), "--out", str(out), *SMALL]
    words += ["--budget", "tiny", *LASTING]
    output = out.with_name("output")
    process = server.Process(target=small_experiment, args=(words, run.name, output))
    process.start()
    try:
        end = time.monotonic() + LONG
        while not (run / "last.safetensors").exists():
            assert process.exitcode is None, output.read_text()
            assert time.monotonic() < end, f"{run.name} has no checkpoint"
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.join()


@pytest.mark.slow
@pytest.mark.timeout(5 * LONG)
def test_stopped_experiment_leaves_no_process_and_goes_on_to_the_same_weights(
    shards: Path, tmp_path: Path, runs: Runs
):
    """Ctrl-C in the first run, kill -9 in the second; then on to the end."""
    whole, stopped = tmp_path / "out", tmp_path / "stopped"
    first = stopped / "runs" / "seed-given-seed0"
    with experiment_held_at(first, shards) as process:
        os.kill(process.pid, signal.SIGINT)
        process.join(LONG)
        assert process.exitcode == 130, (tmp_path / "output").read_text()
    output = (tmp_path / "output").read_text().splitlines()
    assert output[-1] == "interrupted: the same command goes on where it was"
    assert not (first / "metrics.json").exists()

    second = stopped / "runs" / "strong-given-seed0"
    with experiment_held_at(second, shards) as process:
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.kill()
        process.join(LONG)
        _, alive = psutil.wait_procs(children, timeout=LONG)
        assert not alive

    for out in (whole, stopped):
        assert runs("strong", *LASTING, "--out", out).code == 0
    assert weights(stopped) == weights(whole)
    cells = [experiment(out)["cells"] for out in (stopped, whole)]
    for one, other in zip(*cells, strict=True):
        assert one["scores"] == other["scores"]


def weights(out: Path) -> dict[str, str]:
    found = {
        path.parent.name: json.loads(path.read_text())["weights_sha256"]
        for path in out.glob("runs/*/metrics.json")
    }
    assert len(found) == 4
    return found


def test_two_experiments_dont_share_a_folder(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        outcome = runs("strong")
    assert outcome.code == 1
    assert "another process is at work in" in outcome.complaint


@pytest.mark.parametrize("name", ["runs", "runs/seed-given-seed0", ".lock"])
def test_links_in_an_experiment_are_refused(
    name: str, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(worker, "run_in_process", lambda *_: "not today")
    runs("strong")
    elsewhere, link = tmp_path / "elsewhere", tmp_path / "out" / name
    elsewhere.mkdir()
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(elsewhere)
    outcome = runs("strong")
    assert outcome.code == 1
    assert outcome.complaint.startswith(f"error: {link}: ")
    assert "link" in outcome.complaint
    assert not list(elsewhere.iterdir())


def test_log_of_a_run_in_an_experiment_is_no_link(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(worker, "run_in_process", lambda *_: "not today")
    log, victim = tmp_path / "out/runs/seed-given-seed0.log", tmp_path / "victim"
    victim.write_text("precious")
    log.parent.mkdir(parents=True)
    log.symlink_to(victim)
    assert runs("strong").complaint.startswith(f"error: {log}: Is a link")
    with pytest.raises(OSError, match="symbolic link"):
        worker._open_log(log)
    assert victim.read_text() == "precious"


def test_other_settings_need_another_folder(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(worker, "run_in_process", lambda *_: "not today")
    assert runs("strong").code == 1
    outcome = runs("strong", "--lr", "0.5")
    assert outcome.code == 1
    assert "--lr was 0.001, is 0.5" in outcome.complaint
    assert "choose another --out" in outcome.complaint
    assert "experiment was strong, is ablations" in runs("ablations").complaint


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"experiment": "strong", "shards": "shards"}',
        '{"experiment": "strong", "shards": "shards", "cells": ["seed-given"]}',
        '{"experiment": "strong", "shards": "shards", "cells": {"seed-given": 1}}',
    ],
)
def test_damaged_settings_are_reported(runs: Runs, tmp_path: Path, content: str):
    path = tmp_path / "out" / "settings.json"
    path.parent.mkdir()
    path.write_text(content)
    outcome = runs("strong")
    assert outcome.code == 1
    assert f"{path} is damaged" in outcome.complaint
    assert outcome.complaint.endswith("choose another --out")


def reshard(folder: Path) -> None:
    """What sharding other photographs into the same folder changes in its manifest."""
    write_sealed(folder, read_json(folder) | {"fingerprint": "of other photographs"})


@pytest.fixture
def own_shards(shards: Path, tmp_path: Path) -> Path:
    """Shards that a test may change."""
    return Path(shutil.copytree(shards, tmp_path / "shards"))


def test_other_data_under_the_same_name_needs_another_folder(
    runs: Runs, own_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(worker, "run_in_process", lambda *_: "not today")
    assert "runs failed" in runs("strong", "--shards", own_shards).complaint
    reshard(own_shards)
    assert runs("strong", "--shards", own_shards).complaint == (
        f"error: {tmp_path / 'out'} holds an experiment with other settings "
        f"({own_shards} has other data than then): choose another --out"
    )


def test_settings_of_an_older_version_are_taken_and_hold_from_then_on(
    runs: Runs, own_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(worker, "run_in_process", lambda *_: "not today")
    runs("strong", "--shards", own_shards)
    path = tmp_path / "out" / "settings.json"
    settings = json.loads(path.read_text())
    fingerprint = settings.pop("fingerprint")
    path.write_text(json.dumps(settings))
    assert "runs failed" in runs("strong", "--shards", own_shards).complaint
    assert json.loads(path.read_text())["fingerprint"] == fingerprint
    del settings["cells"]["seed-given"]
    path.write_text(json.dumps(settings))
    complaint = runs("strong", "--shards", own_shards).complaint
    assert "(no cell seed-given then)" in complaint


def test_finished_runs_of_other_data_are_refused(
    runs: Runs, own_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(worker, "run_in_process", lambda *_: "not today")
    first = tmp_path / "out" / "runs" / "strong-given-seed0"
    made_run(first, LABELS, LABELS, data=RunData(fingerprint="of other photographs"))
    assert runs("strong", "--shards", own_shards).complaint == (
        f"error: {first} is of other data than {own_shards} has now: choose another "
        "--out"
    )
    reshard(own_shards)  # to what the run was trained on
    (tmp_path / "out" / "settings.json").unlink()
    assert "3 of 4 runs failed" in runs("strong", "--shards", own_shards).complaint


# ---- pre-trained weights


def test_pretrained_folder_takes_the_place_of_imagenet(tmp_path: Path, shards: Path):
    for name in ("resnet18-abc.pth", "resnet50.safetensors", "readme.txt"):
        (tmp_path / name).write_bytes(b"")
    options = Options(
        name="table", shards=str(shards), pretrained=tmp_path, out=tmp_path
    )
    plan = experiments.make_plan(options, [], 64)
    assert [cell.recipe.weights for cell in plan.cells] == [
        str(tmp_path / "resnet18-abc.pth"),
        "none",
        str(tmp_path / "resnet50.safetensors"),
        "none",
    ]
    assert plan.cells[0].title == f"ResNet18, weights of {tmp_path.name}"


@pytest.mark.parametrize("names", [[], ["resnet18-a.pth", "resnet18-b.pth"]])
def test_pretrained_folder_must_hold_one_file_of_each(
    runs: Runs, tmp_path: Path, names: list[str]
):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    outcome = call_table(runs, tmp_path)
    assert outcome.code == 1
    assert "must hold one file resnet18*.pth" in outcome.complaint


def call_table(runs: Runs, folder: Path) -> Outcome:
    return runs("ablations", "--pretrained", folder, "--weights", "auto")


# ---- variants of the data


def names(shards: Path) -> dict[str, Eyes]:
    found = {}
    for name in ("train", "test"):
        with open_split(shards, name) as split:
            found[name] = Eyes.of(split)
    return found


def test_variant_by_patient_and_by_image_keep_every_sample(
    make_course: Callable[..., Path], tmp_path: Path, run_shard: Any
):
    course = make_course(tmp_path / "course", train=120, test=40)
    assert run_shard(course, tmp_path / "shards")[0] == 0
    given = names(tmp_path / "shards")
    everyone = sorted([*given["train"].names, *given["test"].names])
    grades = {
        name: grade
        for eyes in given.values()
        for name, grade in zip(eyes.names, eyes.labels.tolist(), strict=True)
    }
    for variant, leaking in ((BY_PATIENT, False), (BY_IMAGE, True)):
        folder = make_variant(variant, str(tmp_path / "shards"), tmp_path / variant)
        found = names(folder)
        assert sorted([*found["train"].names, *found["test"].names]) == everyone
        assert 30 <= len(found["test"].names) <= 50
        assert (leak(found["train"], found["test"]).eyes > 0) is leaking
        for eyes in found.values():
            for name, grade in zip(eyes.names, eyes.labels.tolist(), strict=True):
                assert grades[name] == grade
        left = sorted(p.name for p in (tmp_path / variant).iterdir())
        assert left == [variant, f"{variant}.json"]


def test_variant_clahe_is_clahe_of_every_image(shards: Path, tmp_path: Path):
    folder = make_variant(CLAHE, str(shards), tmp_path)
    for name in ("train", "test"):
        with open_split(shards, name) as given, open_split(folder, name) as changed:
            where = {changed.key(row): row for row in range(len(changed))}
            assert len(where) == len(given)
            for row in range(len(given)):
                pixels = simplejpeg.decode_jpeg(bytes(given.read(row)))
                now = simplejpeg.decode_jpeg(bytes(changed.read(where[given.key(row)])))
                difference = cv2.absdiff(equalise(pixels), now)
                assert difference.mean() < 4  # it was encoded once more
                assert np.abs(now.astype(int) - pixels).mean() > 8
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert make_variant(CLAHE, str(shards), tmp_path) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before


def test_variant_leaves_nothing_that_a_loss_of_power_has_brought_back(
    shards: Path, tmp_path: Path
):
    folder = make_variant(BY_PATIENT, str(shards), tmp_path)
    before = contents(tmp_path)
    for back in (tmp_path / f".{BY_PATIENT}" / "data", folder / ".progress"):
        back.mkdir(parents=True)
        (back / "10_left.jpeg").touch()
    assert make_variant(BY_PATIENT, str(shards), tmp_path) == folder
    assert contents(tmp_path) == before


def test_variant_is_there_for_good_without_what_it_was_made_of(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found: list[list[str]] = []
    monkeypatch.setattr(
        "fastretina.experiments.variants.sync_folder",
        lambda folder: found.append(sorted(path.name for path in folder.iterdir())),
    )
    make_variant(BY_PATIENT, str(shards), tmp_path)
    assert found == [[BY_PATIENT, f"{BY_PATIENT}.json"]]


def test_variant_of_other_data_is_refused(own_shards: Path, tmp_path: Path):
    folder = make_variant(CLAHE, str(own_shards), tmp_path / "data")
    record = tmp_path / "data" / "clahe.json"
    fingerprint = json.loads((own_shards / "manifest.json").read_text())["fingerprint"]
    assert json.loads(record.read_text()) == {"fingerprint": fingerprint}
    reshard(own_shards)
    with pytest.raises(RunError, match=r"clahe was made from other data than .* has"):
        make_variant(CLAHE, str(own_shards), tmp_path / "data")
    for damaged in ("{", "[]", '{"fingerprint": 3}'):
        record.write_text(damaged)
        with pytest.raises(RunError, match=r"clahe\.json is damaged"):
            make_variant(CLAHE, str(own_shards), tmp_path / "data")
    record.unlink()  # as an older version left it
    assert make_variant(CLAHE, str(own_shards), tmp_path / "data") == folder


# ---- the series


def test_series_asks_for_no_run_of_a_derived_cell():
    plan = ablations(same, 512, leaks=False)
    options = Options(name="ablations", seeds=2)
    of = series.Series(plan, options, dict.fromkeys(ABLATIONS, 1.0))
    runs = [(cell.name, number) for cell, number in of._runs()]
    assert len(runs) == 24
    assert "weights-max-corrected" not in dict(runs)
    assert runs[0] == ("base", 0)
    assert runs[12] == ("base", 1)


def test_experiments_is_a_command():
    assert "experiments" in cli.COMMANDS
