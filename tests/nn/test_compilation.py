"""Compiled training: it trains what each phase frees, to the weights of eager steps.

With the oldest torch that pyproject.toml allows, ``FASTRETINA_OLDEST_TORCH`` names the
Python of an environment that has it. Made so, it takes 6 GB and some minutes:

    python3.11 -m venv oldest
    oldest/bin/pip install torch==2.4.0 torchvision==0.19.0 pytest pytest-timeout .
    FASTRETINA_OLDEST_TORCH=oldest/bin/python pytest --slow tests/nn/test_compilation.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import small_network
from torch import Tensor, nn

from fastretina.nn import compilation, step
from fastretina.nn.compilation import CompiledForward, pays, seconds_saved
from fastretina.nn.device import Compute
from fastretina.nn.phase_change import copy_weights, count_changed
from fastretina.nn.step import Learner, StepPlace, StepSetup, train_step
from fastretina.recipe import PHASES, SEED, STRONG, Recipe
from loaders import Batch

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
OLDEST = "FASTRETINA_OLDEST_TORCH"
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch compiles for a CPU with g++: none here"
)
# BatchNorm that trains in both phases: with another mode in each, torch looks anew.
RECIPE = replace(SEED, head_lr=0.05, lr=0.05, head_epochs=1, full_epochs=1)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Neither the environment nor what is compiled outlives a test."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    yield
    torch.compiler.reset()


def photographs(number: int, count: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (count, 64, 64, 3), generator=generator)
    rows = torch.arange(count)
    return Batch(images.to(torch.uint8), rows % 5, rows)


def train_phases(recipe: Recipe, compiled: bool) -> tuple[nn.Module, dict[str, int]]:
    """Three steps of each phase, the last one short; what each of them changed."""
    torch.manual_seed(0)
    network = small_network(5).to(memory_format=torch.channels_last)
    setup = StepSetup(
        recipe=recipe,
        compute=Compute(CPU, torch.bfloat16),
        train_counts=[1] * 5,
        compiled=compiled,
    )
    changed: dict[str, int] = {}
    for epoch, phase in enumerate(PHASES):
        learner = Learner(network, phase, setup)
        start = copy_weights(learner)
        for number, count in enumerate((8, 8, 3)):
            place = StepPlace(epoch, 3 * epoch + number, epoch + number / 3)
            train_step(learner, photographs(number, count), place)
        changed[phase] = count_changed(learner, start)
        learner.evaluated()(torch.zeros(1, 3, 64, 64))
    return network, changed


def assert_alike(recipe: Recipe) -> None:
    (ours, changed), (theirs, expected) = (
        train_phases(recipe, compiled) for compiled in (True, False)
    )
    torch.manual_seed(0)
    started = small_network(5).state_dict()
    assert changed.keys() == expected.keys() == set(PHASES)
    assert changed["head"] == 85
    assert changed["full"] > 1000
    for name, value in theirs.state_dict().items():
        if value.is_floating_point():
            moved = (value - started[name]).abs().max()
            off = (ours.state_dict()[name] - value).abs().max()
            # bf16 has 8 bits: two ways to round differ by some per cent of a move, by
            # 8.4 on a processor that computes in it.
            assert off <= 0.15 * moved + 1e-6, (name, float(off), float(moved))


@pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPE, head_batchnorm="eval")])
def test_traced_training_equals_eager(recipe: Recipe, monkeypatch: pytest.MonkeyPatch):
    """All but the generated code: traced and differentiated as for it."""
    backend = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr("torch.compile", backend)
    assert_alike(recipe)


@pytest.mark.slow
@needs_compiler
@pytest.mark.timeout(600)
def test_compiled_training_equals_eager():
    assert_alike(RECIPE)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_oldest_torch_trains_compiled():
    python = os.environ.get(OLDEST)
    if python is None:
        pytest.skip(f"{OLDEST} names no Python: torch 2.4 takes 6 GB, for this alone")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    del environment[OLDEST]
    found = subprocess.run(
        [python, "-c", "import torch; print(torch.__version__)"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert found.stdout.startswith("2.4."), found
    words = [python, "-m", "pytest", "-q", "--slow", "-p", "no:cacheprovider"]
    words += ["-W", "default", "tests/nn/test_compilation.py", "tests/nn/test_stem.py"]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_each_phase_is_compiled_anew(monkeypatch: pytest.MonkeyPatch):
    events: list[object] = []

    def compile_(network: nn.Module, **_words: object) -> nn.Module:
        events.append(sum(each.requires_grad for each in network.parameters()))
        return network

    monkeypatch.setattr("torch.compile", compile_)
    monkeypatch.setattr("torch.compiler.reset", lambda: events.append("reset"))
    train_phases(RECIPE, compiled=True)
    assert events == ["reset", 2, "reset", 8]


def test_batch_smaller_than_others_is_not_compiled(monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []

    def compile_(network: nn.Module, **_words: object) -> Callable[[Tensor], Tensor]:
        return lambda inputs: sizes.append(len(inputs)) or network(inputs)

    monkeypatch.setattr("torch.compile", compile_)
    forward = CompiledForward(nn.Linear(2, 1))
    for size in (3, 8, 8, 3, 0, 8):  # first, what a resumed epoch has left
        assert forward(torch.zeros(size, 2)).shape == (size, 1)
    assert sizes == [3, 8, 8, 8]


def test_stem_is_over_blocks_in_what_is_compiled_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
):
    used: list[nn.Module] = []
    monkeypatch.setattr(step, "use_blocks", used.append)
    monkeypatch.setattr(step, "CompiledForward", lambda network: network)
    # Nothing is put on a device that is not there.
    monkeypatch.setattr(nn.Module, "to", lambda self, *_words: self)
    monkeypatch.setattr(step, "make_optimizer", lambda *_words: None)
    network = small_network(5)
    cuda, counts = Compute(torch.device("cuda"), None), [1] * 5
    for compute, compiled in ((cuda, False), (Compute(CPU, None), True), (cuda, True)):
        assert not used
        setup = StepSetup(
            recipe=SEED, compute=compute, train_counts=counts, compiled=compiled
        )
        Learner(network, "head", setup)
    assert used == [network]


# ---- --compile auto


def test_auto_compiles_where_it_saves_more_than_it_takes(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(compilation, "can_compile", lambda _device: True)
    gpu, cpu = (Compute(torch.device(name), None) for name in ("cuda", "cpu"))
    shape = (512, 512)
    assert pays(STRONG, gpu, 28_100, shape, 1)
    assert pays(replace(STRONG, arch="resnet50"), gpu, 28_100, shape, 1)
    assert not pays(STRONG, cpu, 28_100, shape, 1)
    assert not pays(STRONG, gpu, 28_100, shape, 4)
    assert not pays(STRONG, gpu, 10_000, shape, 1)
    assert not pays(STRONG, gpu, 28_100, (224, 224), 1)
    assert not pays(replace(STRONG, max_steps=100), gpu, 28_100, shape, 1)
    monkeypatch.setattr(compilation, "can_compile", lambda _device: False)
    assert not pays(STRONG, gpu, 28_100, shape, 1)


def test_saving_is_that_of_the_phases_that_are_trained():
    shape = (512, 512)
    whole = seconds_saved(STRONG, 50_000, shape)
    head = seconds_saved(replace(STRONG, full_epochs=0), 50_000, shape)
    full = seconds_saved(replace(STRONG, head_epochs=0), 50_000, shape)
    assert whole == pytest.approx(head + full)
    assert head == pytest.approx(250_000 * (1 / 6548 - 1 / 9500) - 10)
    assert full == pytest.approx(500_000 * (1 / 2369 - 1 / 3346) - 25)
    steps = 250_000 // STRONG.batch_size  # all of phase head, and no more
    short = replace(STRONG, max_steps=steps)
    assert seconds_saved(short, 50_000, shape) == pytest.approx(head, abs=0.01)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: none here")
def test_a_gpu_with_triton_and_a_compiler_can_compile():
    assert compilation.can_compile(torch.device("cuda"))


# ---- the cache


def test_graphs_are_kept_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.delenv("TORCHINDUCTOR_FX_GRAPH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation.use_user_cache()
    folder = tmp_path / "fastretina" / "inductor"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    assert folder.is_dir()
    assert os.environ.pop("TORCHINDUCTOR_FX_GRAPH_CACHE") == "1"


def test_cache_is_open_to_no_other_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """What lies there is unpickled."""
    folder = tmp_path / "fastretina" / "inductor"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with monkeypatch.context() as other:
        other.setattr("os.getuid", lambda: os.geteuid() + 1)
        compilation.use_user_cache()
        assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    compilation.use_user_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    assert not folder.stat().st_mode & 0o077


@pytest.mark.parametrize("case", ["chosen", "a file", "no home", "unwritable"])
def test_cache_that_cannot_be_had_is_torchs_own(
    case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    variables: dict[str, Any] = {"XDG_CACHE_HOME": str(tmp_path)}
    if case == "chosen":
        variables["TORCHINDUCTOR_CACHE_DIR"] = "elsewhere"
    elif case == "a file":
        (tmp_path / "fastretina").write_text("")
    elif case == "no home":
        monkeypatch.setattr(compilation, "user_cache", lambda: None)
    else:
        monkeypatch.setattr("os.access", lambda *_words: False)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    compilation.use_user_cache()
    assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") == variables.get(
        "TORCHINDUCTOR_CACHE_DIR"
    )
