"""Several ranks train on the batches of one, and write and speak as one."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from small_runs import Outcome, finish, log, metrics, server, start, words
from torch import nn

from fastretina.nn.distributed import (
    ALONE,
    HostSyncBatchNorm,
    Ranks,
    synchronised,
    wrapped,
)
from fastretina.nn.model import build_model
from fastretina.nn.step import Loss
from fastretina.recipe import SEED
from loaders import LOADERS, available

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(120)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun sets; OMP_NUM_THREADS is read before, so --threads is given too."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def begin(
    argv: list[str],
    folder: Path,
    world_size: int,
    at: dict[int, tuple[str, int, str]] | None = None,
    number: int = signal.SIGTERM,
) -> list[multiprocessing.process.BaseProcess]:
    """Start the ranks of a run, some of which may send themselves a signal."""
    port = free_port()
    return [
        start(
            [*argv, "--threads", "1"],
            folder / f"rank{rank}",
            at=(at or {}).get(rank),
            number=number,
            environment=environment(rank, world_size, port),
        )
        for rank in range(world_size)
    ]


def train(argv: list[str], folder: Path, world_size: int, **more: Any) -> list[Outcome]:
    """Run a training to its end on some ranks; what each of them said."""
    processes = begin(argv, folder, world_size, **more)
    return [
        finish(process, folder / f"rank{rank}")
        for rank, process in enumerate(processes)
    ]


def complaints(outcomes: list[Outcome]) -> list[str]:
    """All that the ranks wrote to stderr, but for notes."""
    lines = [line for outcome in outcomes for line in outcome.err]
    return [line for line in lines if not line.startswith("note: ")]


# The recipe in float32, as the order of sums is another on each number of ranks.
PLAIN = ["--amp", "off", "--device", "cpu"]
RECIPES = {
    "seed": ["--recipe", "seed"],
    "strong": ["--recipe", "strong", "--validation", "0.2"],
    "weighted": [
        "--recipe",
        "seed",
        "--class-weights",
        "balanced",
        "--label-smoothing",
        "0.1",
        "--distance-cost",
        "0.1",
        "--head-batchnorm",
        "eval",
    ],
    "balanced": ["--recipe", "strong", "--validation", "0.2", "--balance", "0.5"],
}


@pytest.mark.parametrize("name", list(RECIPES))
def test_ranks_train_as_one_process_does(name: str, shards: Path, tmp_path: Path):
    """37 samples in batches of 12: of the last one, most of three ranks get none."""
    runs = {}
    for world_size in (1, 3):
        out = tmp_path / f"run{world_size}"
        argv = words(shards, out, *PLAIN, *RECIPES[name], "--batch-size", 12)
        outcomes = train(argv, tmp_path / f"of{world_size}", world_size)
        assert [outcome.code for outcome in outcomes] == [0] * world_size, outcomes
        runs[world_size] = log(out), metrics(out)
    (one, one_metrics), (three, three_metrics) = runs[1], runs[3]
    assert len(one) == len(three) == 3
    for alone, shared in zip(one, three, strict=True):
        assert alone.keys() == shared.keys()
        for column in ("train_loss", "validation_qwk", "test_qwk", "lr"):
            if alone[column]:
                assert float(shared[column]) == pytest.approx(
                    float(alone[column]), rel=2e-4, abs=2e-4
                ), (alone, shared)
        assert float(shared["train_accuracy"]) == pytest.approx(
            float(alone["train_accuracy"]), abs=1.5 / 37
        )
    assert three_metrics["steps"] == one_metrics["steps"]
    assert three_metrics["test"]["samples"] == 11
    assert three_metrics["test"]["confusion"] == one_metrics["test"]["confusion"]


def test_only_the_first_rank_writes_and_speaks(shards: Path, tmp_path: Path):
    out = tmp_path / "run"
    argv = words(shards, out, *PLAIN, "--recipe", "seed")
    first, *others = train(argv, tmp_path, 2)
    assert first.json["steps"] == 15
    assert [(rank.code, rank.out, rank.err) for rank in others] == [(0, [], [])]
    assert len(list(out.glob("tensorboard/*"))) == 3
    config = json.loads((out / "config.json").read_text())
    assert config["ranks"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank0", "rank1", "run"]


def test_run_without_a_name_gets_one_folder(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    argv = words(shards, tmp_path, *PLAIN, "--recipe", "seed", "--max-steps", 1)
    at = argv.index("--out")
    del argv[at : at + 2]
    monkeypatch.chdir(tmp_path)  # the ranks start where this process is
    for number in (1, 2):
        first, other = train(argv, tmp_path, 2)
        assert (other.code, other.out) == (0, [])
        name = f"resnet18-seed-{number}"
        assert first.json["run"] == f"runs/{name}"
        assert (tmp_path / "runs" / name / "metrics.json").exists()
        assert len(list((tmp_path / "runs").iterdir())) == number


def test_every_loader_feeds_ranks(shards: Path, tmp_path: Path):
    weights = {}
    for name in available():
        out = tmp_path / name
        flags = ["--recipe", "seed", "--loader", name, "--max-steps", 8]
        outcomes = train(words(shards, out, *PLAIN, *flags), tmp_path / f"of-{name}", 2)
        assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
        assert metrics(out)["test"]["samples"] == 11
        weights[name] = metrics(out)["weights_sha256"]
    assert {"pil", "turbo"} <= set(weights)
    common = {weights[name] for name in weights if not LOADERS[name].own_order}
    assert len(common) == 1


# ---------------------------------------------------------------------------- failures


def test_error_of_all_ranks_is_one_line(tmp_path: Path):
    argv = words(tmp_path / "none", tmp_path / "run", *PLAIN, "--batch-size", 9)
    outcomes = train(argv, tmp_path, 3)
    assert [outcome.code for outcome in outcomes] == [1, 1, 1]
    (line,) = complaints(outcomes)
    assert line.startswith(f"error: no data set in {tmp_path / 'none'}")


def with_rubbish(shards: Path, folder: Path, row: int) -> Path:
    """The shards with zeros in place of an image's first bytes."""
    shutil.copytree(shards, folder)
    found = pq.read_table(folder / "train.parquet").slice(row, 1).to_pylist()[0]
    with (folder / f"train-{found['shard']:06d}.tar").open("r+b") as tar:
        tar.seek(found["offset"])
        tar.write(bytes(200))
    return folder


def test_error_of_one_rank_ends_all_in_one_line(shards: Path, tmp_path: Path):
    damaged = with_rubbish(shards, tmp_path / "damaged", 19)
    argv = words(damaged, tmp_path / "run", *PLAIN, "--recipe", "seed")
    outcomes = train(argv, tmp_path, 2)
    assert [outcome.code for outcome in outcomes] == [1, 1]
    (line,) = complaints(outcomes)
    assert line.startswith("error: ")
    assert "train-000001.tar, sample " in line


def test_image_that_one_rank_skips_is_counted_by_all(shards: Path, tmp_path: Path):
    damaged = with_rubbish(shards, tmp_path / "damaged", 19)
    flags = ["--recipe", "seed", "--on-corrupt", "skip"]
    argv = words(damaged, tmp_path / "run", *PLAIN, *flags)
    outcomes = train(argv, tmp_path, 2)
    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert [row["skipped"] for row in log(tmp_path / "run")] == ["1", "1", "1"]
    assert metrics(tmp_path / "run")["skipped"] == 3
    named = [line for line in complaints(outcomes) if line.startswith("skipped: ")]
    assert 1 <= len(named) <= 2  # once by each rank that met it
    one = tmp_path / "one"
    (alone,) = train(words(damaged, one, *PLAIN, *flags), tmp_path / "of1", 1)
    assert alone.code == 0
    for theirs, ours in zip(log(one), log(tmp_path / "run"), strict=True):
        assert float(ours["train_loss"]) == pytest.approx(
            float(theirs["train_loss"]), rel=2e-4
        )


COUNTED = [
    (loader, stop)
    for loader, stop in [("turbo", 2), ("turbo", 4), ("dali", 4)]
    if loader in available()
]


@pytest.mark.parametrize(("loader", "stop"), COUNTED)
def test_skipped_images_are_counted_right_by_ranks_that_were_stopped(
    loader: str, stop: int, shards: Path, tmp_path: Path
):
    """Each rank's own are added up, and the checkpoint's only once."""
    damaged = with_rubbish(shards, tmp_path / "damaged", 19)
    out = tmp_path / "run"
    flags = ["--recipe", "seed", "--on-corrupt", "skip", "--loader", loader]
    unverified = "--no-verify-reads"  # or DALI would not see what it fails on
    flags.append(unverified)
    at = {0: ("fastretina.train.loop:TrainingLoop._step", stop, "after")}
    outcomes = train(words(damaged, out, *PLAIN, *flags), tmp_path, 2, at=at)
    assert [outcome.code for outcome in outcomes] == [130, 130], outcomes
    outcomes = train(["--resume", str(out), unverified], tmp_path / "resumed", 2)
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert [row["skipped"] for row in log(out)] == ["1", "1", "1"]
    assert metrics(out)["skipped"] == 3
    # DALI fails on the one batch that holds the image, on the rank that has it.
    assert metrics(out)["decoded_again"] == (3 if loader == "dali" else 0)


def test_batch_that_cannot_be_shared_out_is_wrong_usage(shards: Path, tmp_path: Path):
    argv = words(shards, tmp_path / "run", *PLAIN, "--batch-size", 7)
    outcomes = train(argv, tmp_path, 2)
    assert [outcome.code for outcome in outcomes] == [2, 2]
    assert complaints(outcomes) == [
        "error: --batch-size must be a multiple of the 2 ranks, got 7"
    ]


def test_wrong_usage_is_one_line(shards: Path, tmp_path: Path):
    outcomes = train(words(shards, tmp_path / "run", "--lr", "x"), tmp_path, 2)
    assert [outcome.code for outcome in outcomes] == [2, 2]
    (line,) = complaints(outcomes)
    assert line.startswith("error: ")


# ----------------------------------------------------------------- signals and resuming


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that never stopped; read-only by agreement."""
    folder = tmp_path_factory.mktemp("whole")
    argv = words(shards, folder / "run", *PLAIN, "--recipe", "seed")
    (alone,) = train(argv, folder, 1)
    assert alone.code == 0
    return folder / "run"


@pytest.mark.parametrize("rank", [0, 1])
def test_signal_to_one_rank_stops_all_after_saving(
    rank: int, shards: Path, whole: Path, tmp_path: Path
):
    """And any number of ranks goes on, to the weights of a run that never stopped."""
    flags = [*PLAIN, "--recipe", "seed"]
    out = tmp_path / "run"
    at = {rank: ("fastretina.train.loop:TrainingLoop._step", 7, "after")}
    outcomes = train(words(shards, out, *flags), tmp_path, 2, at=at)
    assert [outcome.code for outcome in outcomes] == [130, 130], outcomes
    lines = [line for line in complaints(outcomes) if "interrupted" in line]
    assert len(lines) == 1
    assert lines[0].startswith("interrupted: saved at step 7; continue with ")
    resume = ["--resume", str(out)]
    (resumed,) = train(resume, tmp_path / "resumed", 1)
    assert resumed.code == 0, resumed
    for theirs, ours in zip(log(whole), log(out), strict=True):
        assert float(ours["train_loss"]) == pytest.approx(
            float(theirs["train_loss"]), rel=2e-4
        )
        assert ours["lr"] == theirs["lr"]
    assert metrics(out)["steps"] == metrics(whole)["steps"] == 15


def test_one_rank_killed_ends_the_other(shards: Path, tmp_path: Path):
    """As torchrun would end it, too; it must not wait for the dead."""
    at = {1: ("fastretina.train.loop:TrainingLoop._step", 7, "before")}
    argv = words(shards, tmp_path / "run", *PLAIN, "--recipe", "seed")
    begun = time.monotonic()
    first, second = train(argv, tmp_path, 2, at=at, number=signal.SIGKILL)
    assert second.code == -signal.SIGKILL
    assert first.code not in (0, -signal.SIGKILL)
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("name", [n for n in available() if LOADERS[n].own_order])
def test_epoch_of_another_order_cannot_be_continued(
    name: str, shards: Path, tmp_path: Path
):
    """With another number of ranks, or by a loader that follows the common order."""
    out = tmp_path / "run"
    at = {0: ("fastretina.train.loop:TrainingLoop._step", 7, "after")}
    argv = words(shards, out, *PLAIN, "--recipe", "seed", "--loader", name)
    (stopped,) = train(argv, tmp_path / "stopped", 1, at=at)
    assert stopped.code == 130
    resume = ["--resume", str(out)]
    (turbo,) = train([*resume, "--loader", "turbo"], tmp_path / "turbo", 1)
    assert turbo.code == 1
    assert f"whose order was {name}'s with 1 ranks" in turbo.complaint
    outcomes = train(resume, tmp_path / "two", 2)
    assert [outcome.code for outcome in outcomes] == [1, 1]
    (same,) = train(resume, tmp_path / "same", 1)  # its loader is the default
    assert same.code == 0
    whole = tmp_path / "whole"
    argv[argv.index("--out") + 1] = str(whole)
    (alone,) = train(argv, tmp_path / "alone", 1)
    assert alone.code == 0
    assert metrics(out)["weights_sha256"] == metrics(whole)["weights_sha256"]


# ---------------------------------------------------------------------------- torchrun


@pytest.mark.slow
def test_torchrun_trains_in_both_phases(shards: Path, tmp_path: Path):
    """The command of the documents, with the network of the documents."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(free_port()), "-m", "few_resamples"]
    command += ["fastretina.train"]
    command += words(shards, tmp_path / "run", "--recipe", "strong", "--max-steps", 6)
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        },
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()[-1:]
    assert json.loads(line)["steps"] == 6
    assert json.loads(line)["epochs"] == 2


# --------------------------------------------------------------------------- the pieces


def test_a_world_of_one_changes_nothing():
    values = torch.tensor([1.5])
    array = np.arange(3)
    assert ALONE.sum(values) is values
    assert ALONE.gather(array) == (array,)
    assert ALONE.agree(True, False) == (True, False)
    assert ALONE.from_first(lambda: 5) == 5


def in_ranks(work: Callable[[Ranks], Any], world_size: int, folder: Path) -> list[Any]:
    """Call a function of this module on some ranks; what each returned."""
    port = free_port()
    processes = [
        server.Process(target=_call, args=(work, rank, world_size, port, folder))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt") for rank in range(world_size)]


def _call(
    work: Callable[[Ranks], Any], rank: int, world_size: int, port: int, folder: Path
) -> None:
    os.environ.update(environment(rank, world_size, port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.save(work(Ranks(rank, world_size, world_size)), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_ranks_agree_sum_gather_and_listen_to_the_first(tmp_path: Path):
    for rank, (agreed, total, joined, said) in enumerate(in_ranks(_all, 3, tmp_path)):
        assert agreed == (True, False, True), rank
        assert total.tolist() == [3.0, 30.0]
        assert joined == [[0, 1, 1, 2, 2, 2], [0.0, 1.0, 1.0, 2.0, 2.0, 2.0]]
        assert said == "rank 0"


def _all(ranks: Ranks) -> Any:
    rank = ranks.rank
    part = np.full(rank + 1, rank)
    return (
        ranks.agree(rank == 1, False, True),
        ranks.sum(torch.tensor([1.0, 10.0]) * rank),
        [found.tolist() for found in ranks.gather(part, part.astype(float))],
        ranks.from_first(lambda: f"rank {rank}"),
    )


SIZES = (5, 0, 3)  # samples of each rank


def _normalise(ranks: Ranks) -> Any:
    """One training step's worth of BatchNorm on a rank's part of a batch."""
    network, values = _network_and_batch()
    network = synchronised(network, torch.device("cpu"))
    assert isinstance(network[0], HostSyncBatchNorm)
    first = sum(SIZES[: ranks.rank])
    part = values[first : first + SIZES[ranks.rank]].clone().requires_grad_()
    output = network.train()(part)
    _loss(output).backward()
    weights = {name: ranks.sum(p.grad) for name, p in network.named_parameters()}
    return output.detach(), part.grad, weights, network.state_dict()


def _network_and_batch() -> tuple[nn.Sequential, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    network = nn.Sequential(nn.BatchNorm2d(4))
    with torch.no_grad():
        network[0].weight.copy_(torch.rand(4, generator=generator))
        network[0].bias.copy_(torch.rand(4, generator=generator))
    return network, torch.randn(sum(SIZES), 4, 6, 6, generator=generator) * 3 + 1


def _loss(output: torch.Tensor) -> torch.Tensor:
    shape = output.shape[1:]
    scale = torch.linspace(-1, 2, shape.numel()).reshape(shape)
    return (output.square() * scale).sum()


def _resnet_step(ranks: Ranks) -> Any:
    """Loss and gradients of torchvision's ResNet18 for a rank's part of a batch.

    In float64: in float32 an activation next to zero may fall on the other side of a
    ReLU, which changes gradients by a percent, on any two numbers of threads, too.
    """
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(sum(SIZES), 3, 64, 64, generator=generator).double()
    labels = torch.arange(sum(SIZES)) % 5
    network = build_model("resnet18", "none", 0).double()
    if not ranks.alone:
        network = synchronised(network, torch.device("cpu"))
    recipe = replace(SEED, class_weights="sqrt", label_smoothing=0.1, distance_cost=0.5)
    loss = Loss(recipe, [5, 4, 3, 2, 1], ranks).double()
    first = 0 if ranks.alone else sum(SIZES[: ranks.rank])
    size = sum(SIZES) if ranks.alone else SIZES[ranks.rank]
    part = slice(first, first + size)
    forward = wrapped(network.train(), ranks)
    mean = loss(forward(images[part]), labels[part])
    mean.backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return ranks.sum(mean.detach()) / ranks.world_size, gradients, network.state_dict()


def test_step_of_ranks_is_that_of_one_process(tmp_path: Path):
    loss, gradients, state = _resnet_step(ALONE)
    for found, theirs, after in in_ranks(_resnet_step, len(SIZES), tmp_path):
        # The loss counts in float32, hence not 1e-12.
        torch.testing.assert_close(found, loss, rtol=1e-6, atol=0)
        for name, gradient in gradients.items():
            gap = (theirs[name] - gradient).norm() / gradient.norm()
            assert gap < 1e-6, name
        for name, tensor in state.items():
            torch.testing.assert_close(after[name], tensor, rtol=1e-9, atol=1e-12)


def test_batchnorm_over_ranks_is_that_of_the_whole_batch(tmp_path: Path):
    network, values = _network_and_batch()
    values.requires_grad_()
    wanted = network.train()(values)
    _loss(wanted).backward()
    parts = in_ranks(_normalise, len(SIZES), tmp_path)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), wanted, **close)
    gradient = torch.cat([part[1] for part in parts])
    torch.testing.assert_close(gradient, values.grad, **close)
    for _, _, weights, state in parts:
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(weights[name], parameter.grad, **close)
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(state[name], tensor, **close)
