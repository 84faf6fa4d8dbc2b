"""Killed at any moment and taken up again, a run ends as if nothing had been.

The kills are real ones, of another process; most come at a named event, so that a
failure can be repeated.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch
from small_runs import (
    Outcome,
    call,
    finish,
    log,
    make_haste,
    make_small,
    metrics,
    start,
    words,
)

from fastretina.interrupts import Interrupted
from fastretina.nn import checkpoint
from fastretina.nn.device import Compute
from fastretina.train import command as train
from fastretina.train.loop import TrainingLoop
from fastretina.train.state import TrainState
from loaders import available

RATES = ("--lr", 0.01, "--head-lr", 0.01)
# With seed 1 the best epoch is the second of three; in float32 on any machine.
STRONG = ("--test-each-epoch", *RATES, "--seed", 1, "--amp", "off")
SEED = ("--recipe", "seed", *RATES)
FLAGS = {"strong": STRONG, "seed": SEED}
EACH_STEP = ("--checkpoint-every", 0)

STEP = "fastretina.train.loop:TrainingLoop._step"
PHASE = "fastretina.nn.step:Learner.__init__"
EVALUATE = "fastretina.train.loop:predict_split"
REPORT = "fastretina.train.finish:predict_with_checkpoint"
SAVE = "fastretina.nn.checkpoint:save"
RENAME = "pathlib:Path.replace"
LOG = "fastretina.run:Run.write_log"
METRICS = "fastretina.run:Run.write_metrics"
FIGURES = "fastretina.train.finish:draw_confusion"
CARD = "fastretina.train.finish:write_card"
CONFIG = "fastretina.run:Run.write_config"

Resumes = Callable[..., Outcome]


class Whole(NamedTuple):
    """A run that nobody stopped."""

    weights: str
    log: list[dict[str, str]]
    metrics: dict[str, Any]


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    """Uninterrupted runs of both recipes."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        for recipe, flags in FLAGS.items():
            run = tmp_path_factory.mktemp(recipe) / "run"
            assert train.main(words(shards, run, *flags)) == 0
            found[recipe] = Whole(
                metrics(run)["weights_sha256"], log(run), metrics(run)
            )
    assert found["strong"].metrics["checkpoint_epoch"] == 2
    assert found["strong"].weights != found["seed"].weights
    return found


@pytest.fixture
def resumes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Resumes:
    """Resume a small run in this process."""
    make_small(monkeypatch)

    def run(path: Path, *more: object) -> Outcome:
        return call(train.main, ["--resume", str(path), *map(str, more)], capsys)

    return run


def kill(
    shards: Path, folder: Path, recipe: str, at: tuple[str, int, str], *more: object
) -> Path:
    """Train in another process until it kills itself; returns the run's folder."""
    run = folder / "run"
    flags = words(shards, run, *FLAGS[recipe], *EACH_STEP, *more)
    outcome = finish(start(flags, folder / "said", at), folder / "said")
    assert outcome.code == -signal.SIGKILL, outcome
    return run


def assert_same(run: Path, outcome: Outcome, whole: Whole) -> None:
    assert outcome.json["weights_sha256"] == whole.weights
    assert log(run) == whole.log
    assert metrics(run) == whole.metrics
    assert not list(run.glob(".*")), "left half-written"


# The strong run has 4 steps in an epoch, the seed run 5; a save follows each, while the
# next is taken: a kill loses one or two of them.
STRONG_KILLS = [
    (STEP, 1, "before"),  # nothing but the first checkpoint
    (STEP, 3, "after"),  # within the head phase, steps are lost
    (STEP, 4, "after"),  # its last step
    (EVALUATE, 1, "before"),  # all steps of the head phase done, not evaluated
    (EVALUATE, 2, "after"),  # validated, and tested
    (PHASE, 2, "before"),  # the phase changes ...
    (PHASE, 2, "after"),
    (LOG, 1, "after"),  # the log is ahead of the checkpoint
    (SAVE, 12, "after"),  # best is saved, last is not
    (SAVE, 7, "after"),  # the first checkpoint of the full phase
    (STEP, 5, "after"),  # the average's first step is lost
    (STEP, 7, "before"),  # within the full phase
    (RENAME, 12, "before"),  # within a write
    (EVALUATE, 5, "before"),  # the last epoch
    (REPORT, 1, "before"),
    (METRICS, 1, "before"),  # all but the report
    (FIGURES, 1, "before"),
    (CARD, 1, "before"),
]
SEED_KILLS = [
    (STEP, 3, "after"),
    (EVALUATE, 1, "before"),
    (PHASE, 2, "after"),
    (STEP, 8, "before"),
    (REPORT, 1, "before"),
]


@pytest.mark.parametrize("at", STRONG_KILLS, ids=str)
def test_resume_strong_after_a_kill(
    at: tuple[str, int, str],
    shards: Path,
    tmp_path: Path,
    resumes: Resumes,
    whole: dict[str, Whole],
):
    run = kill(shards, tmp_path, "strong", at)
    assert not (run / "metrics.json").exists()  # with which it would count as finished
    assert_same(run, resumes(run), whole["strong"])


@pytest.mark.parametrize("at", SEED_KILLS, ids=str)
def test_resume_seed_after_a_kill(
    at: tuple[str, int, str],
    shards: Path,
    tmp_path: Path,
    resumes: Resumes,
    whole: dict[str, Whole],
):
    run = kill(shards, tmp_path, "seed", at)
    assert_same(run, resumes(run), whole["seed"])


PAIRS = [
    pair
    for pair in [
        ("turbo", "pil"),
        ("pil", "turbo"),
        ("dali", "turbo"),
        ("turbo", "dali"),
    ]
    if set(pair) <= set(available())
]


@pytest.mark.parametrize("recipe", ["strong", "seed"])
@pytest.mark.parametrize(("before", "now"), PAIRS)
def test_resume_within_an_epoch_under_another_loader(
    before: str,
    now: str,
    recipe: str,
    shards: Path,
    tmp_path: Path,
    resumes: Resumes,
    whole: dict[str, Whole],
):
    at = (STEP, 8, "after")  # the save after step 7 may not have ended
    run = kill(shards, tmp_path, recipe, at, "--loader", before, "--workers", 1)
    state = checkpoint.load(run / "last.safetensors")[1]
    assert state["progress"]["batch"] > 0  # in mid-epoch
    outcome = resumes(run, "--loader", now, "--workers", 1)
    assert f"note: loader was {before} before and is {now} now" in outcome.err
    assert outcome.json["loader"] == now
    assert_same(run, outcome, whole[recipe])


def test_resume_after_a_kill_on_every_leg(
    shards: Path, tmp_path: Path, resumes: Resumes, whole: dict[str, Whole]
):
    run = kill(shards, tmp_path, "strong", (STEP, 2, "before"))
    for leg, at in enumerate(
        [(STEP, 2, "after"), (STEP, 3, "before"), (SAVE, 3, "after")]
    ):
        said = tmp_path / f"leg-{leg}"
        flags = ["--resume", str(run), "--checkpoint-every", "0"]
        assert finish(start(flags, said, at), said).code == -signal.SIGKILL
    assert_same(run, resumes(run), whole["strong"])


@pytest.mark.parametrize("delay", [0.05, 0.2, 0.4, 0.7])
def test_resume_after_a_kill_from_outside(
    delay: float,
    shards: Path,
    tmp_path: Path,
    resumes: Resumes,
    whole: dict[str, Whole],
):
    run, said = tmp_path / "run", tmp_path / "said"
    process = start(words(shards, run, *STRONG, *EACH_STEP), said)
    deadline = time.monotonic() + 60
    while not (run / "config.json").exists():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    assert finish(process, said).code in (-signal.SIGKILL, 0)
    assert_same(run, resumes(run), whole["strong"])


@pytest.mark.slow
def test_resume_resnet18_after_a_kill(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    make_haste(monkeypatch)
    flags = ("--full-epochs", 1, "--batch-size", 16, "--checkpoint-every", 0)
    run, said = tmp_path / "run", tmp_path / "said"
    process = start(words(shards, run, *flags), said, (STEP, 4, "before"), real=True)
    other = call(train.main, words(shards, tmp_path / "whole", *flags), capsys).json
    assert finish(process, said).code == -signal.SIGKILL
    resumed = ["--resume", str(run), "--loader", "pil", "--workers", "0"]
    assert (
        call(train.main, resumed, capsys).json["weights_sha256"]
        == (other["weights_sha256"])
    )
    assert log(run) == log(tmp_path / "whole")


# ---- before there is anything to resume


def test_resume_before_the_first_checkpoint_begins_anew(
    shards: Path, tmp_path: Path, resumes: Resumes, whole: dict[str, Whole]
):
    run = kill(shards, tmp_path, "strong", (SAVE, 1, "before"))
    assert not (run / "last.safetensors").exists()
    outcome = resumes(run)
    assert "note: no checkpoint was written yet: from the start" in outcome.err
    assert_same(run, outcome, whole["strong"])


def test_resume_before_the_first_checkpoint_starts_from_the_same_weights(
    shards: Path, tmp_path: Path, resumes: Resumes, whole: dict[str, Whole]
):
    # auto may have found ImageNet's then and not now, or the other way round.
    run = kill(shards, tmp_path, "strong", (SAVE, 1, "before"))
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["weights"] = "auto"
    (run / "config.json").write_text(json.dumps(config))
    assert resumes(run).json["weights_sha256"] == whole["strong"].weights


def test_resume_before_the_config_says_what_to_do(
    shards: Path,
    tmp_path: Path,
    resumes: Resumes,
    whole: dict[str, Whole],
    capsys: pytest.CaptureFixture[str],
):
    run = kill(shards, tmp_path, "strong", (CONFIG, 1, "before"))
    outcome = resumes(run)
    assert outcome.code == 1
    assert f"pass --out {run}" in outcome.complaint
    again = call(train.main, words(shards, run, *STRONG), capsys)
    assert_same(run, again, whole["strong"])


# ---- asked to stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("at", "step"),
    [
        ((STEP, 2, "before"), 2),  # the step is ended, then saved
        ((STEP, 7, "after"), 7),
        ((EVALUATE, 3, "before"), 8),  # in the validation of epoch 2
        ((EVALUATE, 4, "before"), 8),  # in its test, after a best validation
        ((REPORT, 1, "before"), 12),  # in the report
    ],
)
def test_train_asked_to_stop_saves_and_says_how_to_go_on(
    number: int,
    at: tuple[str, int, str],
    step: int,
    shards: Path,
    tmp_path: Path,
    resumes: Resumes,
    whole: dict[str, Whole],
):
    run, said = tmp_path / "run", tmp_path / "said"
    outcome = finish(start(words(shards, run, *STRONG), said, at, number), said)
    assert outcome.code == 130
    assert outcome.err[-1] == (
        f"interrupted: saved at step {step}; continue with "
        f"fastretina train --resume {run}"
    )
    assert not any("Traceback" in line for line in outcome.err)
    assert checkpoint.load(run / "last.safetensors")[1]["progress"]["step"] == step
    assert_same(run, resumes(run), whole["strong"])


def test_train_asked_twice_stops_at_once(
    shards: Path, tmp_path: Path, resumes: Resumes, whole: dict[str, Whole]
):
    run, said = tmp_path / "run", tmp_path / "said"
    at = (STEP, 6, "twice")
    flags = words(shards, run, *STRONG)
    outcome = finish(start(flags, said, at, signal.SIGINT), said)
    assert outcome.code == 130
    assert outcome.err[-1] == "interrupted"
    assert_same(run, resumes(run), whole["strong"])  # from the end of epoch 1


# ---- what can't change


def stopped(shards: Path, folder: Path) -> Path:
    return kill(shards, folder, "strong", (STEP, 6, "after"))


@pytest.mark.parametrize(
    "flags",
    [
        ("--lr", "0.5"),
        ("--batch-size", "4"),
        ("--recipe", "seed"),
        ("--seed", "7"),
        ("--full-epochs", "9"),
        ("--no-test-each-epoch",),
    ],
)
def test_resume_with_another_recipe_is_one_line(
    flags: tuple[str, ...], shared_run: Path, resumes: Resumes
):
    before = (shared_run / "last.safetensors").read_bytes()
    outcome = resumes(shared_run, *flags)
    assert outcome.code == 1
    flag = flags[0].replace("--no-", "--")
    assert f"{flag} can't change on --resume: it was" in outcome.complaint
    assert (shared_run / "last.safetensors").read_bytes() == before


@pytest.fixture(scope="module")
def shared_run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its full phase; read-only by agreement."""
    return stopped(shards, tmp_path_factory.mktemp("stopped"))


def test_resume_with_the_same_flags_again_is_fine(
    shards: Path, tmp_path: Path, resumes: Resumes, whole: dict[str, Whole]
):
    run = stopped(shards, tmp_path)
    same = words(shards, run, *STRONG)
    assert_same(run, resumes(run, *same), whole["strong"])


def test_resume_on_other_shards_is_one_line(
    make_course: Callable[..., Path],
    shared_run: Path,
    tmp_path: Path,
    resumes: Resumes,
):
    from fastretina.shard import command as shard

    other = tmp_path / "other"
    course = make_course(tmp_path / "course", train=38)
    assert shard.main([str(course), str(other), "--workers", "1"]) == 0
    outcome = resumes(shared_run, "--shards", other)
    assert outcome.code == 1
    assert "was trained on other data" in outcome.complaint
    assert str(other) in outcome.complaint
    gone = resumes(shared_run, "--shards", tmp_path / "gone")
    assert gone.code == 1
    assert "no data set in" in gone.complaint


def test_changes_since_an_older_versions_checkpoint_are_unknown(
    shards: Path, tmp_path: Path, resumes: Resumes, whole: dict[str, Whole]
):
    """It kept no weights of its phase's start, and counted nothing before."""
    run = kill(shards, tmp_path, "strong", (STEP, 7, "after"))
    tensors, state = checkpoint.load(run / "last.safetensors")
    kept = {name: t for name, t in tensors.items() if not name.startswith("start.")}
    assert len(kept) == len(tensors) - 8
    del state["changed"]
    checkpoint.save(run / "last.safetensors", kept, state)
    found = resumes(run).json
    assert found["changed_parameters"] == {"head": None, "full": None}
    assert found["weights_sha256"] == whole["strong"].weights


def test_first_step_of_a_resume_is_checked_too(
    shards: Path, tmp_path: Path, resumes: Resumes, monkeypatch: pytest.MonkeyPatch
):
    run = kill(shards, tmp_path, "strong", (STEP, 7, "after"))  # within phase full

    def stale(network: torch.nn.Module, **_words: object) -> Callable[..., Any]:
        *backbone, head = network.children()
        return lambda images: head(torch.nn.Sequential(*backbone)(images).detach())

    monkeypatch.setattr("torch.compile", stale)
    outcome = resumes(run, "--compile")
    assert outcome.code == 1
    assert "6 of the 8 tensors that it trains have no gradient" in outcome.complaint
    assert resumes(run, "--no-compile").code == 0


def test_finished_run_keeps_no_weights_of_its_last_phases_start(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    make_small(monkeypatch)
    run = tmp_path / "run"
    assert call(train.main, words(shards, run, *SEED), capsys).code == 0
    tensors, _state = checkpoint.load(run / "last.safetensors")
    assert not [name for name in tensors if name.startswith("start.")]


def test_changes_are_counted_from_the_phases_start(
    shards: Path, tmp_path: Path, resumes: Resumes
):
    """Not from the resume: none of its own steps is left here."""
    run = kill(shards, tmp_path, "strong", (EVALUATE, 6, "before"))
    tensors, state = checkpoint.load(run / "last.safetensors")
    assert state["progress"]["epoch"] == 2
    name = "start.conv1.weight"
    tensors[name] = tensors["model.conv1.weight"].clone()
    tensors[name].view(-1)[:3] += 1
    checkpoint.save(run / "last.safetensors", tensors, state)
    whole = sum(t.numel() for name, t in tensors.items() if name.startswith("start."))
    found = resumes(run).json["changed_parameters"]["full"]
    assert found <= whole - tensors[name].numel() + 3


def test_resume_finds_shards_that_have_moved(
    shards: Path, tmp_path: Path, resumes: Resumes, whole: dict[str, Whole]
):
    run = stopped(shards, tmp_path)
    shutil.copytree(shards, tmp_path / "moved")
    outcome = resumes(run, "--shards", tmp_path / "moved")
    assert_same(run, outcome, whole["strong"])


@pytest.mark.parametrize(
    "flags",
    [(), ("--full-epochs", 0), ("--head-epochs", 0), ("--max-steps", 6)],
    ids=str,
)
@pytest.mark.parametrize("recipe", ["strong", "seed"])
def test_resume_of_a_finished_run_repeats_its_report(
    recipe: str,
    flags: tuple[object, ...],
    shards: Path,
    tmp_path: Path,
    resumes: Resumes,
    capsys: pytest.CaptureFixture[str],
):
    run = tmp_path / "run"
    first = call(train.main, words(shards, run, *FLAGS[recipe], *flags), capsys)
    before = (log(run), metrics(run))
    again = resumes(run)
    assert again.json == first.json
    assert again.out == first.out
    assert (log(run), metrics(run)) == before
    assert again.err == []


@pytest.mark.parametrize("steps", [3, 4, 6])
def test_resume_at_max_steps_evaluates_the_last_epoch(
    steps: int,
    shards: Path,
    tmp_path: Path,
    resumes: Resumes,
    capsys: pytest.CaptureFixture[str],
):
    flags = ("--max-steps", steps)
    run = kill(shards, tmp_path, "strong", (LOG, -(-steps // 4), "before"), *flags)
    limited = words(shards, tmp_path / "whole", *STRONG, *flags)
    whole_run = call(train.main, limited, capsys).json
    found = resumes(run).json
    assert found["steps"] == steps
    assert found["weights_sha256"] == whole_run["weights_sha256"]
    assert log(run) == log(tmp_path / "whole")


def test_resume_computes_on_as_many_threads_as_the_run(
    shards: Path, tmp_path: Path, resumes: Resumes, monkeypatch: pytest.MonkeyPatch
):
    # On another number, sums are split otherwise and round otherwise.
    run = kill(shards, tmp_path, "seed", (STEP, 2, "after"), "--threads", 3)
    used: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", used.append)
    resumes(run).json  # noqa: B018  # asserts that it went well
    assert 3 in used


def test_resume_with_another_out_is_wrong_usage(shared_run: Path, resumes: Resumes):
    outcome = resumes(shared_run, "--out", "elsewhere")
    assert outcome.code == 2
    assert "--out must be left out with --resume" in outcome.complaint


# ---- what is no run


def test_resume_of_what_is_no_run_is_one_line(tmp_path: Path, resumes: Resumes):
    (tmp_path / "file").write_text("")
    for name, mistake in (
        ("", "holds no run"),
        ("gone", "does not exist"),
        ("file", "is a file, not a run"),
    ):
        path = tmp_path / name
        outcome = resumes(path)
        assert outcome.code == 1
        assert f"{path} {mistake}" in outcome.complaint
        assert "config.json" not in outcome.complaint
        assert len(outcome.err) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "can't be read"),
        ("{", "can't be read"),
        ("[]", "is damaged"),
        ("{}", "is damaged, or of an older version"),
        ("\xff", "can't be read"),
    ],
)
def test_resume_with_a_damaged_config_is_one_line(
    content: str, message: str, tmp_path: Path, resumes: Resumes
):
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    outcome = resumes(tmp_path)
    assert outcome.code == 1
    assert message in outcome.complaint
    assert len(outcome.err) == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lr", -1, "--lr must be above 0"),
        ("lr", "fast", "is damaged"),
        ("novelty", 1, "was made by another version"),
    ],
)
def test_resume_with_a_recipe_that_cant_be_is_one_line(
    field: str,
    value: object,
    message: str,
    shared_run: Path,
    tmp_path: Path,
    resumes: Resumes,
):
    config = json.loads((shared_run / "config.json").read_text())
    config["recipe"][field] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    outcome = resumes(tmp_path)
    assert outcome.code == 1
    assert message in outcome.complaint


def test_resume_from_a_damaged_checkpoint_is_one_line(
    shared_run: Path, tmp_path: Path, resumes: Resumes
):
    whole = (shared_run / "last.safetensors").read_bytes()
    (tmp_path / "config.json").write_bytes((shared_run / "config.json").read_bytes())
    flipped = bytearray(whole)
    flipped[-9] ^= 4
    for content in (b"", whole[:100], whole[: len(whole) // 2], bytes(flipped)):
        (tmp_path / "last.safetensors").write_bytes(content)
        outcome = resumes(tmp_path)
        assert outcome.code == 1
        assert "last.safetensors is damaged" in outcome.complaint
        assert len(outcome.err) == 1
        assert not (tmp_path / ".lock").exists()


def test_resume_from_a_checkpoint_of_another_run_is_one_line(
    shared_run: Path, tmp_path: Path, resumes: Resumes
):
    config = json.loads((shared_run / "config.json").read_text())
    config["recipe"]["arch"] = "resnet50"
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "last.safetensors").write_bytes(
        (shared_run / "last.safetensors").read_bytes()
    )
    outcome = resumes(tmp_path)
    assert outcome.code == 1
    assert f"is of another run than {tmp_path}" in outcome.complaint
    assert len(outcome.err) == 1


def test_second_trainer_in_a_run_folder_is_refused_in_one_line(
    shards: Path,
    tmp_path: Path,
    resumes: Resumes,
    capsys: pytest.CaptureFixture[str],
):
    """And once the first is killed, it goes on at once."""
    run = tmp_path / "run"
    at = (STEP, 7, "after")
    argv = words(shards, run, *FLAGS["seed"], *EACH_STEP)
    process = start(argv, tmp_path / "said", at, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 60
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline, "it never came to its seventh step"
            time.sleep(0.05)
        outcome = resumes(run)
        assert outcome.code == 1
        assert outcome.complaint == (
            f"error: another process is training in {run}: wait for it to end"
        )
        (run / "config.json").rename(tmp_path / "config.json")  # as if it just began
        outcome = call(train.main, argv, capsys)
        assert outcome.complaint.endswith("wait for it to end, or choose another --out")
        (tmp_path / "config.json").rename(run / "config.json")
    finally:
        process.kill()
        process.join()
    assert resumes(run).code == 0
    assert not (run / ".lock").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_run_goes_on_in_a_folder_that_cant_be_locked_and_says_so(
    number: int, shared_run: Path, tmp_path: Path, resumes: Resumes, monkeypatch
):
    run = Path(shutil.copytree(shared_run, tmp_path / "run"))
    monkeypatch.setattr("fcntl.lockf", raising(number))
    outcome = resumes(run)
    assert outcome.code == 0, outcome.err
    (line,) = [line for line in outcome.err if not line.startswith("epoch")]
    assert line == (
        f"warning: {run} can't be locked ({os.strerror(number)}): see to it that no "
        "other process trains there"
    )
    assert not (run / ".lock").exists()


def test_lock_that_fails_otherwise_is_one_line(
    shared_run: Path, resumes: Resumes, monkeypatch
):
    monkeypatch.setattr("fcntl.lockf", raising(errno.EIO))
    outcome = resumes(shared_run)
    assert outcome.code == 1
    assert outcome.err == [f"error: {shared_run / '.lock'}: Input/output error"]


def raising(number: int) -> Callable[..., None]:
    def fail(*_words: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_log_agrees_with_the_checkpoint_as_soon_as_a_run_is_resumed(
    shards: Path,
    tmp_path: Path,
    resumes: Resumes,
    monkeypatch: pytest.MonkeyPatch,
):
    """A kill between the two leaves the log an epoch ahead."""
    run = kill(shards, tmp_path, "strong", (LOG, 2, "after"))
    assert len(log(run)) == 2
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "run_epoch", stop)
        assert resumes(run).code == 130
    assert len(log(run)) == 1


def test_memory_that_is_full_on_resume_is_not_taken_for_another_run(
    shared_run: Path,
    tmp_path: Path,
    resumes: Resumes,
    monkeypatch: pytest.MonkeyPatch,
):
    run = tmp_path / "run"
    shutil.copytree(shared_run, run)

    def full(_self: TrainState) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(TrainState, "begin_phase", full)
    outcome = resumes(run)
    assert outcome.code == 1
    assert "memory is full at --batch-size 8" in outcome.complaint


def stop(_self: TrainingLoop, *_words: object) -> None:
    raise Interrupted


def test_waiting_for_the_device_counts_as_training(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Steps that a GPU has still to do when the last one was handed to it."""
    make_small(monkeypatch)
    monkeypatch.setattr(Compute, "wait", lambda _self: time.sleep(0.5))
    assert train.main(words(shards, tmp_path / "run")) == 0
    assert all(float(row["seconds"]) > 0.5 for row in times(tmp_path / "run"))


def times(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open() as file:
        return list(csv.DictReader(file))
