"""Checkpoints are written beside the steps, and hold the moment that they are of."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import call, make_small, words

from fastretina.nn import checkpoint
from fastretina.run import Run
from fastretina.train import command as train
from fastretina.train.checkpoint_writer import CheckpointWriter

WAIT = 30  # s, for a thread that is there


@pytest.fixture
def writer() -> Iterator[CheckpointWriter]:
    writer = CheckpointWriter()
    yield writer
    writer.close()


def fail() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/last.safetensors")


def test_writer_keeps_tensors_as_they_were(writer: CheckpointWriter):
    weights = torch.arange(6.0).reshape(2, 3)
    kept, go, seen = writer.copy({"w": weights}), threading.Event(), []
    writer.write(lambda: (go.wait(WAIT), seen.append(kept["w"].clone()))[1])
    weights.zero_()  # training goes on
    go.set()
    writer.wait()
    assert torch.equal(seen[0], torch.arange(6.0).reshape(2, 3))


def test_writer_copies_a_channels_last_tensor_in_its_plain_order(
    writer: CheckpointWriter,
):
    images = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    copy = writer.copy({"i": images})["i"]
    assert copy.is_contiguous()
    assert torch.equal(copy, images)


def test_writer_makes_room_anew_where_shape_or_type_have_changed(
    writer: CheckpointWriter,
):
    """As the optimizer's tensors do with a phase; equal ones keep their memory."""
    before = writer.copy({"w": torch.ones(3), "v": torch.ones(3), "n": torch.ones(3)})
    after = writer.copy(
        {"w": torch.full((3,), 2.0), "v": torch.ones(4), "n": torch.tensor([1, 2, 3])}
    )
    assert after["w"] is before["w"]
    assert after["w"].tolist() == [2, 2, 2]
    assert after["v"].tolist() == [1, 1, 1, 1]
    assert after["n"].tolist() == [1, 2, 3]
    assert after["n"].dtype == torch.int64


def test_writer_waits_for_the_checkpoint_before_it_copies_over_it(
    writer: CheckpointWriter,
):
    weights, order, go = torch.zeros(1), [], threading.Event()
    kept = writer.copy({"w": weights})
    writer.write(lambda: (go.wait(WAIT), order.append(kept["w"].item()))[1])
    threading.Timer(0.1, go.set).start()
    kept = writer.copy({"w": torch.ones(1)})
    writer.write(lambda: order.append(kept["w"].item()))
    writer.wait()
    assert order == [0, 1]


def test_writer_interrupted_while_it_waits_still_waits_afterwards(
    writer: CheckpointWriter, monkeypatch: pytest.MonkeyPatch
):
    go, done = threading.Event(), []
    writer.write(lambda: (go.wait(WAIT), done.append(True))[1])
    writing: Any = writer._writing

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writing, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            writer.wait()
    threading.Timer(0.1, go.set).start()
    writer.wait()
    assert done == [True]


def test_writer_says_once_what_failed(writer: CheckpointWriter):
    writer.write(fail)
    with pytest.raises(OSError, match="No space left"):
        writer.copy({})
    writer.copy({})
    writer.wait()


def test_writer_ends_what_it_has_begun_and_its_thread():
    writer, done = CheckpointWriter(), []
    writer.write(lambda: done.append(threading.current_thread()))
    writer.close()
    assert not done[0].is_alive()
    failed = CheckpointWriter()
    failed.write(fail)
    failed.close()  # while another error is on its way: that one is to be read


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


def fill_disk(patch: pytest.MonkeyPatch, when: Callable[[Any], bool]) -> None:
    """Have those checkpoints fail whose state this finds."""
    save = checkpoint.save

    def full(path: Path, tensors: Any, state: Any, *rest: Any) -> None:
        if when(state):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(path, tensors, state, *rest)

    patch.setattr("fastretina.nn.checkpoint.save", full)


@pytest.mark.usefixtures("small")
def test_disk_that_fills_up_while_training_goes_on_is_one_line(
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    run, calls = tmp_path / "run", iter(range(100))
    flags = words(shards, run, "--recipe", "seed", "--checkpoint-every", 0)
    with monkeypatch.context() as patch:
        fill_disk(patch, lambda _state: next(calls) == 2)
        outcome = call(train.main, flags, capsys)
    assert outcome.code == 1
    place = run / "last.safetensors"
    assert outcome.complaint == f"error: {place}: No space left on device"
    _tensors, state = checkpoint.load(place)
    assert state["progress"]["step"] == 1  # the old one
    assert call(train.main, ["--resume", str(run)], capsys).code == 0


@pytest.mark.usefixtures("small")
def test_last_checkpoint_that_fails_is_no_finished_run(
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    run = tmp_path / "run"
    fill_disk(monkeypatch, lambda state: state.get("progress", {}).get("epoch") == 3)
    outcome = call(train.main, words(shards, run, "--recipe", "seed"), capsys)
    assert outcome.code == 1
    assert "No space left" in outcome.complaint
    assert not (run / "metrics.json").exists()


@pytest.mark.usefixtures("small")
def test_training_goes_on_while_a_checkpoint_is_written(
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """And what is written is of the step that it was saved after.

    Only where steps go on meanwhile does the second save ever come to be waited for.
    """
    run, slow = tmp_path / "run", threading.Event()
    save, step = checkpoint.save, "fastretina.train.loop.TrainingLoop._step"
    seen: list[dict[str, torch.Tensor]] = []
    steps = iter(range(100))

    def held(path: Path, tensors: Any, state: Any, *rest: Any) -> None:
        if path == Run(run).last and state["progress"]["step"] == 0:
            before = {name: each.clone() for name, each in tensors.items()}
            assert slow.wait(WAIT), "no step was taken meanwhile"
            seen.extend(
                [before, {name: each.clone() for name, each in tensors.items()}]
            )
        save(path, tensors, state, *rest)

    def counted(take: Callable[..., None]) -> Callable[..., None]:
        def taken(*args: Any) -> None:
            take(*args)
            if next(steps) == 2:
                slow.set()

        return taken

    from fastretina.train.loop import TrainingLoop

    monkeypatch.setattr("fastretina.nn.checkpoint.save", held)
    monkeypatch.setattr(step, counted(TrainingLoop._step))
    assert call(train.main, words(shards, run, "--recipe", "seed"), capsys).code == 0
    before, after = seen
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
