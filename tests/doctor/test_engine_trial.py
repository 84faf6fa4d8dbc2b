"""The share for a GPU's JPEG engine: tried, chosen, remembered, and then taken.

The measurements are made up, as no GPU is asked here.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from made_up_measurements import measured, rate

from fastretina.data.auto_loader import Choice, recall, remember
from fastretina.data.loading import LoadingOptions
from fastretina.doctor import engine_trial
from fastretina.doctor.advice import advise
from fastretina.doctor.command import _remember
from fastretina.doctor.engine_share import choose_share
from fastretina.doctor.engine_trial import measure_engine
from fastretina.doctor.measurements import Measurements
from fastretina.measure.rounds import Drained
from fastretina.nn.device import Compute
from fastretina.nn.distributed import ALONE
from loaders import LoaderConfig, LoaderError

ON_GPU = {("dali", 4): 13_000, ("dali", 16): 14_000, ("turbo", 16): 4_000}


def on_gpu(engine: dict[float, float]) -> Measurements:
    """Measurements on a GPU whose engine gives these speeds, by its share."""
    found = measured((900, 400), 14_000, device="cuda:0", loaders=ON_GPU)
    assert found.loading is not None
    tried = {share: rate(speed) for share, speed in engine.items()}
    return replace(found, loading=replace(found.loading, engine=tried))


# ---- the choice


@pytest.mark.parametrize(
    ("speeds", "share"),
    [
        ({1.0: 14_819, 0.65: 13_602}, 1.0),  # an H100
        ({1.0: 6_000, 0.65: 8_000}, 0.65),
        ({1.0: 10_000, 0.65: 10_200}, 1.0),  # what chance does: nearer to Pillow
        ({1.0: 10_000, 0.65: 10_400}, 0.65),
        ({}, None),
    ],
)
def test_share_is_all_unless_another_is_clearly_faster(speeds, share):
    assert choose_share({each: rate(speed) for each, speed in speeds.items()}) == share


def test_advice_names_the_share_where_one_was_tried():
    advice = advise(on_gpu({1.0: 6_000, 0.65: 8_000}))
    assert advice is not None
    assert "--hw-decoder-load 0.65" in advice.flags
    assert advice.summary()["hw_decoder_load"] == 0.65
    assert (
        "JPEG engine 0.65 of dali's images: faster (6,000 with 1, 8,000 with 0.65 "
        "images/s)."
    ) in advice.sentences
    untried = advise(on_gpu({}))
    assert untried is not None
    assert "--hw-decoder-load" not in untried.flags
    assert not any("JPEG engine" in each for each in untried.sentences)


def test_share_is_in_the_json_line():
    assert on_gpu({1.0: 6_000, 0.65: 8_000}).summary()["jpeg_engine"] == [
        {"hw_decoder_load": 1.0, **rate(6_000).summary()},
        {"hw_decoder_load": 0.65, **rate(8_000).summary()},
    ]


# ---- the trial


class MadeUpLoader:
    """DALI on a GPU that decodes so fast by the share that it is given."""

    def __init__(self, share: float) -> None:
        self.decoding = SimpleNamespace(hw_decoder_load=share)


class Trial:
    """What the trial asks for, in place of a GPU.

    Attributes:
        opened: the configurations of its loaders.
        epochs: the share of each epoch that was taken.
    """

    def __init__(self, patch: pytest.MonkeyPatch, default: float) -> None:
        self.opened: list[LoaderConfig] = []
        self.epochs: list[float] = []
        self.default = default
        patch.setattr(engine_trial, "make_loader", self.make_loader)
        patch.setattr(engine_trial, "drain", self.drain)
        self.setup = SimpleNamespace(
            compute=Compute(torch.device("cuda", 0), None),
            shards=SimpleNamespace(part=lambda images: nullcontext()),
            config=lambda workers: LoaderConfig(workers=workers),
            progress=lambda stage: None,
        )

    @contextmanager
    def make_loader(self, name, part, split, config):
        assert (name, split) == ("dali", "train")
        self.opened.append(config)
        share = config.hw_decoder_load
        yield MadeUpLoader(self.default if share is None else share)

    def drain(self, loader, number, compute, line):
        assert line == "batch"
        share = loader.decoding.hw_decoder_load
        self.epochs.append(share)
        speed = 1 if number == 0 else 1000 * share + number  # the first is no measure
        return Drained(speed, 1.0)

    def measure(self):
        rates = on_gpu({}).loading
        return measure_engine(self.setup, rates, 100, 60.0)


def test_trial_takes_turns_with_both_shares(monkeypatch: pytest.MonkeyPatch):
    trial = Trial(monkeypatch, default=1.0)
    found = trial.measure()
    assert [config.hw_decoder_load for config in trial.opened] == [None, 0.65]
    assert {config.workers for config in trial.opened} == {16}  # as dali is fastest
    assert trial.epochs == [1.0, 0.65] * 6
    assert {share: each.images_per_second for share, each in found.items()} == {
        1.0: 1003,
        0.65: 653,
    }
    assert [each.rounds for each in found.values()] == [5, 5]


def test_trial_is_none_without_an_engine(monkeypatch: pytest.MonkeyPatch):
    trial = Trial(monkeypatch, default=0.65)
    assert trial.measure() == {}
    assert trial.epochs == []


def test_trial_is_none_on_a_cpu_or_without_dali(monkeypatch: pytest.MonkeyPatch):
    trial = Trial(monkeypatch, default=1.0)
    without = measured(loaders={("turbo", 2): 1000}).loading
    assert measure_engine(trial.setup, without, 100, 1.0) == {}
    trial.setup.compute = Compute(torch.device("cpu"), None)
    assert trial.measure() == {}
    assert trial.opened == []


@pytest.mark.parametrize("error", [RuntimeError("full"), LoaderError("not here")])
def test_trial_that_fails_leaves_the_share_as_it_is(monkeypatch, error):
    trial = Trial(monkeypatch, default=1.0)

    def failing(*_parts: object) -> Drained:
        raise error

    monkeypatch.setattr(engine_trial, "drain", failing)
    assert trial.measure() == {}


# ---- what is remembered


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a GPU")


def test_doctor_remembers_the_share(cache: None):
    found = on_gpu({1.0: 6_000, 0.65: 8_000})
    _remember(found, advise(found), keep=True)
    choice = recall("cuda:0")
    assert choice is not None
    assert (choice.loader, choice.hw_decoder_load) == ("dali", 0.65)


@pytest.mark.parametrize(
    ("loader", "kept", "given", "taken"),
    [
        ("dali", 0.65, None, 0.65),
        ("dali-reader", 0.65, None, 0.65),
        ("dali", 0.65, 0.25, 0.25),  # the flag has the last word
        ("dali", None, None, None),
        ("turbo", 0.65, None, None),  # has no such thing
    ],
)
def test_share_that_is_remembered_is_taken(cache, loader, kept, given, taken):
    choice = Choice(
        loader="turbo",
        workers=2,
        images_per_second=1.0,
        pixels=64,
        hw_decoder_load=kept,
    )
    remember("cuda:0", choice)
    options = LoadingOptions(loader=loader, hw_decoder_load=given)
    loading = options.resolve("cuda:0", ALONE)
    assert loading.hw_decoder_load() == taken
    assert loading.recorded().hw_decoder_load == taken  # for who resumes or evaluates


def test_share_that_is_remembered_reaches_the_loader(
    cache: None, monkeypatch: pytest.MonkeyPatch
):
    remember(
        "cuda:0",
        Choice(
            loader="dali",
            workers=2,
            images_per_second=1.0,
            pixels=64,
            hw_decoder_load=0.65,
        ),
    )
    opened: list[LoaderConfig] = []
    monkeypatch.setattr(
        "fastretina.data.loading.make_loader",
        lambda name, split, which, config: opened.append(config),
    )
    loading = LoadingOptions(loader="dali").resolve("cuda:0", ALONE)
    loading.open(SimpleNamespace(name="train"), LoaderConfig())
    assert [config.hw_decoder_load for config in opened] == [0.65]


def test_share_that_can_not_be_is_no_choice():
    with pytest.raises(ValueError, match="choice must be a doctor's"):
        Choice(
            loader="dali",
            workers=2,
            images_per_second=1.0,
            pixels=64,
            hw_decoder_load=1.5,
        )
