"""The backbone by itself, images flipped anew, and features that are kept by code."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_runs import small_network

from fastretina.nn.device import Compute
from fastretina.nn.distributed import Ranks
from fastretina.nn.features import FrozenFeatures, codes_of, flipped
from fastretina.nn.model import backbone_of, build_model, head_of, set_phase
from fastretina.nn.step import Learner, StepPlace, StepSetup, train_on, train_step
from fastretina.recipe import SEED, Arch
from loaders import Batch
from loaders.errors import RunError

CPU = Compute(torch.device("cpu"), None)
RECIPE = replace(SEED, head_batchnorm="eval", head_lr=0.05)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_backbone_and_head_are_the_network(arch: Arch):
    network = build_model(arch, "none", seed=0)
    names = list(network.state_dict())
    trained = set_phase(network, "head", "eval")
    inputs = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    with torch.no_grad():
        features = backbone_of(network)(inputs)
        assert features.shape == (2, head_of(network).in_features)
        assert torch.equal(head_of(network)(features), network(inputs))
    assert list(network.state_dict()) == names
    assert trained == list(head_of(network).parameters())


def test_flips_of_flips_are_flips():
    images = torch.randint(0, 256, (16, 4, 6, 3), dtype=torch.uint8)
    shown, wanted = np.arange(16) // 4, np.arange(16) % 4

    def directly(codes: np.ndarray) -> torch.Tensor:
        found = []
        for image, code in zip(images, codes.tolist(), strict=True):
            image = image.flip(1) if code & 1 else image
            found.append(image.flip(0) if code & 2 else image)
        return torch.stack(found)

    assert torch.equal(flipped(directly(shown), shown ^ wanted), directly(wanted))
    mirrored = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.bool_)  # as a Plan's
    assert codes_of(np.full(4, 5), mirrored).tolist() == [20, 21, 22, 23]


def kept_of(wanted: list[int], ranks: Ranks | None = None) -> FrozenFeatures:
    chosen = np.zeros(16, np.bool_)
    chosen[wanted] = True
    return FrozenFeatures(chosen, 2, CPU, ranks or Ranks())


def rows_of(codes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([codes, -codes], axis=1)).to(torch.float32)


def test_features_come_back_by_their_codes():
    kept = kept_of([2, 5, 7, 15])
    first = np.array([7, 3, 2])
    assert kept.lacking(first).tolist() == [True, False, True]
    kept.keep(first, rows_of(first))
    kept.keep(np.array([7, 15]), rows_of(np.array([8, 15])))  # 7 is here and stays
    assert kept.here.nonzero()[0].tolist() == [2, 7, 15]
    asked = np.array([15, 2, 7, 15])
    assert torch.equal(kept.gather(asked), rows_of(asked))
    with pytest.raises(AssertionError):
        kept.gather(np.array([5]))


class InThreads:
    """Two ranks that are threads: each sum waits for the other's part."""

    alone, local_world_size = False, 2

    def __init__(self) -> None:
        self._parts: list[torch.Tensor] = []
        self._met = threading.Barrier(2, timeout=10)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self._parts.append(values.clone())
        self._met.wait()
        total = torch.stack(self._parts).sum(0).to(values.dtype)
        if self._met.wait() == 0:
            self._parts.clear()
        self._met.wait()
        return total


def test_exchange_gives_each_rank_what_the_other_has_kept():
    """In two goes; what is there from the first is not added up once more."""
    wanted, ranks = np.array([1, 2, 5, 8, 9]), InThreads()
    both = [kept_of(wanted.tolist(), ranks) for _ in range(2)]  # type: ignore[arg-type]
    for shares in (([2], [5]), ([1, 9], [8])):
        for kept, codes in zip(both, shares, strict=True):
            kept.keep(np.array(codes), rows_of(np.array(codes)) / 3)
        both[1].bad[3] = True
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(FrozenFeatures.exchange, both))
    for kept in both:
        assert torch.equal(kept.gather(wanted), rows_of(wanted) / 3)
        assert kept.bad.tolist() == [False, False, False, True]


def test_features_that_no_memory_holds_are_refused(monkeypatch: pytest.MonkeyPatch):
    free = SimpleNamespace(available=100)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    kept_of(list(range(8)))  # 8 of 2 numbers of 4 bytes: 64, of 70
    with pytest.raises(RunError, match="--cache-features needs"):
        kept_of(list(range(9)))


def photographs(number: int, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (8, 64, 64, 3), generator=generator)
    rows = torch.arange(8)
    batch = images.to(torch.uint8), rows % 5, rows
    return Batch(*(part.to(device) for part in batch))


def trained_head(compute: Compute, way: str, compiled: bool = False) -> torch.Tensor:
    """The head after three steps: ``plain``, with a backbone, or on its features."""
    torch.manual_seed(0)
    network = small_network(5).to(compute.device)
    setup = StepSetup(
        recipe=RECIPE,
        compute=compute,
        train_counts=[1] * 5,
        compiled=compiled,
        keeps_features=way != "plain",
    )
    learner = Learner(network, "head", setup)
    kept = FrozenFeatures(np.ones(96, np.bool_), 16, compute)
    for number in range(3):
        batch, place = photographs(number, compute.device), StepPlace(0, number, 0.0)
        if way != "kept":
            train_step(learner, batch, place)
            continue
        codes = np.arange(8) * 4 + 32 * number
        kept.keep(codes, learner.features(learner.inputs(batch, place)))
        train_on(learner, kept.gather(codes), batch.labels, place)
    return head_of(network).weight.detach().cpu().float()


def test_head_learns_the_same_on_features():
    plain = trained_head(CPU, "plain")
    for way in ("split", "kept"):
        torch.testing.assert_close(trained_head(CPU, way), plain, rtol=1e-6, atol=1e-6)


def test_compiled_backbone_makes_the_features(monkeypatch: pytest.MonkeyPatch):
    """Traced as for generated code, which is not made here."""
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="aot_eager"))
    plain = trained_head(CPU, "plain")
    torch.compiler.reset()
    kept = trained_head(CPU, "kept", compiled=True)
    torch.testing.assert_close(kept, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_features_are_kept_on_a_gpu(precision: str):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA: none here")
    compute = Compute(torch.device("cuda"), None).in_precision(precision)  # type: ignore[arg-type]
    plain = trained_head(compute, "plain")
    torch.testing.assert_close(
        trained_head(compute, "kept"), plain, rtol=1e-2, atol=1e-3
    )
