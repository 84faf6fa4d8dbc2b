"""Which loader feeds a run, what becomes of bad images, and what a run says of it."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest
import torch
from conftest import photograph
from small_runs import Outcome, call, log, make_small, metrics, words

import loaders
from fastretina.data.auto_loader import Choice, remember
from fastretina.data.loading import (
    Loading,
    LoadingOptions,
    choose_loader,
    describe_kept,
)
from fastretina.data.other_pixels import other_pixels
from fastretina.evaluate import command as evaluate
from fastretina.nn.distributed import ALONE, Ranks
from fastretina.recipe import STRONG
from fastretina.run import Run
from fastretina.run_config import RunConfig, RunData
from fastretina.shard import command as shard
from fastretina.train import command as train
from fastretina.train.loop import TrainingLoop
from loaders import (
    LOADERS,
    Decoding,
    LoaderConfig,
    LoaderName,
    available,
    open_split,
)
from loaders.base import KeptImages
from loaders.errors import LoaderUnavailable, SampleError

Trains = Callable[..., Outcome]
EXTRA = "needs nvidia.dali, which is not installed: pip install 'fastretina[dali]'"


@pytest.fixture
def trains(
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Trains:
    """Train a small network in this process: name of the run, then flags."""
    make_small(monkeypatch)

    def run(name: str, *more: object, data: Path | str = shards) -> Outcome:
        return call(train.main, words(data, tmp_path / name, *more), capsys)

    return run


@pytest.fixture
def without_dali(monkeypatch: pytest.MonkeyPatch):
    """A machine on which DALI is not installed."""
    import_module = loaders.import_module

    def refuse(name: str):
        if name in ("loaders._dali", "loaders._dali_reader"):
            raise ModuleNotFoundError("no DALI", name="nvidia.dali")
        return import_module(name)

    monkeypatch.setattr(loaders, "import_module", refuse)


@pytest.fixture
def damaged(shards: Path, tmp_path: Path) -> Path:
    """The shards with one training image and one test image of zeros."""
    return spoil(shards, tmp_path / "damaged", train=[19], test=[3])


def spoil(shards: Path, folder: Path, **rows: Iterable[int]) -> Path:
    """A copy of the shards with zeros in place of the first bytes of some images."""
    shutil.copytree(shards, folder)
    for split, numbers in rows.items():
        table = pq.read_table(folder / f"{split}.parquet").to_pylist()
        for number in numbers:
            row = table[number]
            with (folder / f"{split}-{row['shard']:06d}.tar").open("r+b") as tar:
                tar.seek(row["offset"])
                tar.write(bytes(200))
    return folder


def test_options_name_every_loader():
    assert get_args(LoaderName) == ("auto", *LOADERS)


def test_run_opens_each_loader_once_and_names_the_next_epoch(
    trains: Trains, monkeypatch: pytest.MonkeyPatch
):
    """Training, validation after each epoch and at the end, test: three loaders."""
    opened, asked = [], []

    def make(name: str, source: Any, split: str, config: LoaderConfig) -> Any:
        loader = loaders.make_loader(name, source, split, config)
        opened.append((len(source.rows), config.shuffle))
        epoch = loader.epoch

        def noted(number: int, first_batch: int = 0, *, then: int | None = None) -> Any:
            if config.shuffle:
                asked.append((number, first_batch, then))
            return epoch(number, first_batch, then=then)

        loader.epoch = noted
        return loader

    monkeypatch.setattr("fastretina.data.loading.make_loader", make)
    trains("run", "--head-epochs", 1, "--full-epochs", 2, "--validation", 0.2)
    assert [shuffled for _, shuffled in opened].count(True) == 1
    assert len(opened) == len(set(opened)) == 3
    assert asked == [(0, 0, 1), (1, 0, 2), (2, 0, None)]


# ------------------------------------------------------------------------- which loader


def test_auto_is_turbo_on_a_cpu_and_dali_on_a_gpu():
    assert choose_loader("auto", "cpu", fallback=True) == "turbo"
    if "dali" in available():
        assert choose_loader("auto", "cuda:1", fallback=True) == "dali"


def test_auto_on_a_gpu_without_dali_is_turbo_and_says_what_is_missing(
    without_dali, capsys: pytest.CaptureFixture[str]
):
    assert choose_loader("auto", "cuda", fallback=True) == "turbo"
    assert capsys.readouterr().err == f"note: loader 'dali' {EXTRA}\n"


def test_auto_on_a_cpu_says_nothing_of_dali(
    without_dali, capsys: pytest.CaptureFixture[str]
):
    assert choose_loader("auto", "cpu", fallback=False) == "turbo"
    assert capsys.readouterr().err == ""


@pytest.fixture
def doctors_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Choice:
    """A machine on which the doctor has found one worker of pil to be the fastest."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    choice = Choice(loader="pil", workers=1, images_per_second=1234.5, pixels=64)
    remember("cpu", choice)
    return choice


def test_auto_takes_what_the_doctor_found_fastest(
    doctors_choice: Choice, trains: Trains
):
    outcome = trains("run", "--max-steps", 1)
    assert outcome.json["loader"] == "pil"
    notes = [line for line in outcome.err if line.startswith("note: ")]
    assert notes == [
        "note: --loader auto takes pil, which fastretina doctor found fastest here: "
        "1,234 images/s of 64 pixels"
    ]


def test_doctors_choice_is_for_auto_on_that_device_alone(
    doctors_choice: Choice, capsys: pytest.CaptureFixture[str]
):
    assert choose_loader("turbo", "cpu", fallback=True) == "turbo"
    assert choose_loader("auto", "mps", fallback=True) == "turbo"
    assert choose_loader("auto", "cpu", fallback=True, verbose=False) == "pil"
    assert capsys.readouterr().err == ""


def test_doctors_choice_of_workers_is_for_that_loader_alone(
    doctors_choice: Choice, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("fastretina.data.loading.granted_cores", lambda: 16)
    for loader, asked, got in (("pil", None, 1), ("turbo", None, 16), ("pil", 5, 5)):
        options = LoadingOptions(loader=loader, workers=asked)
        assert options.resolve("cpu", ALONE).workers() == got


def test_doctors_choice_that_is_not_installed_is_forgotten(
    without_dali, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remember("cpu", Choice(loader="dali", workers=2, images_per_second=9, pixels=64))
    assert choose_loader("auto", "cpu", fallback=True) == "turbo"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["dali", "dali-reader"])
def test_dali_that_is_missing_is_replaced_by_pil(
    name, without_dali, trains: Trains, tmp_path: Path
):
    outcome = trains("run", "--loader", name, "--max-steps", 1, "--workers", 0)
    assert outcome.json["loader"] == "pil"
    assert outcome.err[0] == f"note: loader '{name}' {EXTRA}; pil takes its place"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["loader"] == "pil"


def test_dali_that_has_not_enough_memory_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch,
):
    reason = "loader 'dali' can't be loaded: libdali.so: failed to map segment"
    monkeypatch.setattr("fastretina.data.loading.missing", lambda name: reason)
    with pytest.raises(LoaderUnavailable, match="failed to map segment"):
        choose_loader("dali", "cpu", fallback=True)


def test_dali_that_is_missing_is_an_error_without_fallback(
    without_dali, trains: Trains, tmp_path: Path
):
    outcome = trains("run", "--loader", "dali", "--no-fallback")
    assert outcome.code == 1
    assert outcome.complaint == f"error: loader 'dali' {EXTRA}"
    assert not (tmp_path / "run").exists()
    with pytest.raises(LoaderUnavailable):
        choose_loader("dali", "cpu", fallback=False)


@pytest.mark.skipif("dali" not in available(), reason="DALI is not installed")
def test_dali_on_a_cpu_says_so_in_one_line(trains: Trains):
    outcome = trains("run", "--loader", "dali", "--max-steps", 1)
    notes = [line for line in outcome.err if line.startswith("note: ")]
    assert notes == ["note: DALI decodes on the CPU, as the device is cpu"]
    assert outcome.json["loader"] == "dali"


@pytest.mark.parametrize("name", [n for n in available() if LOADERS[n].own_order])
def test_balance_with_a_loader_that_cannot_is_wrong_usage(trains: Trains, name: str):
    outcome = trains("run", "--loader", name, "--balance", 0.5)
    assert outcome.code == 2
    assert f"--balance must be 0 with --loader {name}" in outcome.complaint


def test_loaders_of_the_common_order_have_one():
    def order(name: str, ranks: Ranks) -> str:
        return Loading(name, LoadingOptions(), "cpu", ranks).order

    two = Ranks(1, 2, 2)
    assert {order(name, two) for name in ("pil", "turbo", "dali")} == {"planned"}
    assert order("webdataset", two) != order("webdataset", Ranks())


def test_cores_are_shared_out_among_ranks(
    monkeypatch: pytest.MonkeyPatch, shards: Path
):
    monkeypatch.setattr("fastretina.data.loading.granted_cores", lambda: 16)
    for ranks, workers in ((Ranks(), 16), (Ranks(3, 16, 8), 2), (Ranks(0, 64, 64), 1)):
        loading = LoadingOptions(loader="turbo").resolve("cpu", ranks)
        assert loading.workers() == workers
        with monkeypatch.context() as patch, open_split(shards, "test") as split:
            make = "fastretina.data.loading.make_loader"
            patch.setattr(make, lambda *words: words[-1])
            config: Any = loading.open(split, LoaderConfig(batch_size=64))
        assert (config.workers, config.rank) == (workers, ranks.rank)


# -------------------------------------------------------------------- what runs record


@pytest.mark.parametrize("name", available())
def test_record_names_loader_and_decoder(name: str, trains: Trains, tmp_path: Path):
    trains("run", "--loader", name, "--max-steps", 1, "--image-size", 80)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["loader"] == name
    decoding = Decoding(**config["decoding"])
    assert decoding.jpeg == "libjpeg-turbo"
    package = {"pil": "Pillow", "turbo": "simplejpeg", "webdataset": "simplejpeg"}
    assert decoding.by.startswith(f"{package.get(name, 'DALI')} ")
    resize = {"pil": "Pillow", "turbo": "torch", "webdataset": "torch"}
    assert decoding.resize == resize.get(name, "DALI")


def test_same_pixels_are_not_warned_of(trains: Trains, tmp_path: Path, capsys):
    trains("run", "--loader", "pil", "--workers", 0, "--max-steps", 1)
    run = str(tmp_path / "run")
    for name in available():
        outcome = call(evaluate.main, [run, "--loader", name, "--workers", "1"], capsys)
        assert not [line for line in outcome.err if line.startswith("warning")]
        assert outcome.json["loader"] == name
        assert (
            outcome.json["test_accuracy"] == metrics(tmp_path / "run")["test_accuracy"]
        )


def test_other_pixels_are_warned_of(trains: Trains, tmp_path: Path, capsys):
    """As after training on a GPU: here the record is what such a run would write."""
    trains("run", "--max-steps", 1)
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    config["decoding"]["jpeg"] = "nvJPEG, fancy upsampling"
    path.write_text(json.dumps(config))
    outcome = call(evaluate.main, [str(tmp_path / "run")], capsys)
    assert outcome.code == 0
    (line,) = [line for line in outcome.err if line.startswith("warning: ")]
    assert "decoded by nvJPEG, fancy upsampling, now by libjpeg-turbo" in line


def test_other_pixels_names_all_that_differs():
    then = Decoding("DALI 2.4", "nvJPEG, nearest upsampling", "DALI")
    now = Decoding("Pillow 13", "libjpeg-turbo", "Pillow")
    text = other_pixels(then, now)
    assert text is not None
    assert "resized by DALI, now by Pillow" in text
    assert other_pixels(now, now) is None
    assert other_pixels(None, now) is None  # a run of an earlier version


# ---------------------------------------------------------- what a run goes on with


@pytest.fixture
def stopped(trains: Trains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run under pil that was stopped in its second epoch; auto would take turbo.

    Its images are resized, which Pillow and torch do differently to this size.
    """
    flags = ("--loader", "pil", "--workers", 0, "--image-size", 75, "--recipe", "seed")
    whole = trains("whole", *flags)
    assert whole.code == 0, whole.err
    with stop_at(7, monkeypatch):
        assert trains("run", *flags, "--on-corrupt", "skip").code == 130
    return tmp_path / "run"


@contextmanager
def stop_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ask the trainer to stop after this step of the run."""
    step = TrainingLoop._step

    def stopping(self: TrainingLoop, *words: Any) -> None:
        step(self, *words)
        if self.state.progress.step == number:
            self.stopper._asked = True

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_step", stopping)
        yield


def test_resume_takes_the_loader_that_the_run_had(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    outcome = call(train.main, ["--resume", str(stopped)], capsys)
    assert outcome.json["loader"] == "pil"
    assert outcome.err == [line for line in outcome.err if line.startswith("epoch")]
    whole = metrics(tmp_path / "whole")
    assert outcome.json["weights_sha256"] == whole["weights_sha256"]


def test_resume_tells_what_a_flag_has_changed(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    flags = ["--resume", str(stopped), "--loader", "auto", "--on-corrupt", "raise"]
    outcome = call(train.main, [*flags, "--workers", "1"], capsys)
    assert outcome.json["loader"] == "turbo"
    notes = [line for line in outcome.err if not line.startswith("epoch")]
    assert notes[:2] == [
        "note: loader was pil before and is turbo now",
        "note: on-corrupt was skip before and is raise now",
    ]
    assert "resized by Pillow, now by torch" in notes[2]
    whole = metrics(tmp_path / "whole")
    assert outcome.json["weights_sha256"] != whole["weights_sha256"]


def auc(evaluated: Outcome) -> list[float | None]:
    """The AUC of each grade on test, from the file that the JSON line names."""
    content = json.loads(Path(evaluated.json["details"]).read_text())
    found: list[float | None] = content["test_auc"]
    return found


def test_run_goes_on_as_it_last_did_and_evaluate_too(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Flags of a resume are the run's from there on, warned of once."""
    threads = json.loads((stopped / "config.json").read_text())["threads"]
    flags = ["--resume", str(stopped), "--loader", "turbo", "--on-corrupt", "raise"]
    with stop_at(9, monkeypatch):
        first = call(train.main, [*flags, "--threads", str(threads + 1)], capsys)
    assert first.code == 130
    *notes, warning, _interrupted = first.err
    assert notes == [
        "note: loader was pil before and is turbo now",
        "note: on-corrupt was skip before and is raise now",
        f"note: threads was {threads} before and is {threads + 1} now",
    ]
    assert "resized by Pillow, now by torch" in warning
    again = call(train.main, ["--resume", str(stopped)], capsys)
    assert again.json["loader"] == "turbo"
    assert [line for line in again.err if not line.startswith("epoch")] == []
    config = json.loads((stopped / "config.json").read_text())
    recorded = {"loader": "turbo", "on_corrupt": "raise", "hw_decoder_load": None}
    recorded |= {"cache": None, "cache_gb": None, "verify_reads": True}
    assert (config["loader"], config["loading"]) == ("turbo", recorded)
    assert config["threads"] == threads + 1
    assert config["decoding"]["resize"] == "torch"
    assert [each["resize"] for each in config["decoding_before"]] == ["Pillow"]
    evaluated = call(evaluate.main, [str(stopped)], capsys)
    assert (evaluated.json["loader"], evaluated.err) == ("turbo", [])
    assert auc(evaluated) == metrics(stopped)["test"]["auc"]
    flags = ["--loader", "pil", "--on-corrupt", "skip"]
    other = call(evaluate.main, [str(stopped), *flags], capsys)
    *notes, warning = other.err
    assert notes == [
        "note: loader was turbo before and is pil now",
        "note: on-corrupt was raise before and is skip now",
    ]
    assert "resized by torch, now by Pillow" in warning


def test_resume_compiles_as_the_run_did(
    trains: Trains,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    compiled = []

    def compile_(network: torch.nn.Module, **_words: object) -> torch.nn.Module:
        compiled.append(network)
        return network

    monkeypatch.setattr("torch.compile", compile_)
    with stop_at(2, monkeypatch):
        assert trains("run", "--compile").code == 130
    words = ["--resume", str(tmp_path / "run")]
    before = len(compiled)
    with stop_at(3, monkeypatch):
        outcome = call(train.main, words, capsys)
    assert len(compiled) > before
    assert not [line for line in outcome.err if line.startswith("note")]
    outcome = call(train.main, [*words, "--no-compile"], capsys)
    assert "note: compile was True before and is False now" in outcome.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["compile"] is False


def test_shards_that_have_moved_are_the_runs_from_there_on(
    trains: Trains, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Whoever evaluates the run then finds them."""
    here, moved = tmp_path / "here", tmp_path / "moved"
    shutil.copytree(shards, here)
    assert trains("run", "--max-steps", 1, data=here).code == 0
    here.rename(moved)
    words = ["--resume", str(tmp_path / "run"), "--shards", str(moved)]
    outcome = call(train.main, words, capsys)
    assert f"note: shards was {here} before and is {moved} now" in outcome.err
    assert call(evaluate.main, [str(tmp_path / "run")], capsys).code == 0


def test_device_that_a_run_goes_on_with_is_recorded(
    trains: Trains, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert trains("run", "--max-steps", 1).code == 0
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"device": "cuda:0"}))
    outcome = call(train.main, ["--resume", str(tmp_path / "run")], capsys)
    assert "note: device was cuda:0 before and is cpu now" in outcome.err
    assert json.loads(path.read_text())["device"] == "cpu"


def test_images_of_one_name_are_each_named_when_skipped(
    capsys: pytest.CaptureFixture[str],
):
    """Of two data sets, as --test-shards gives."""

    class Skipping:
        def __init__(self, shard: str) -> None:
            self.skipped = [SampleError(shard, "7_left", "it is damaged")]

    loading = LoadingOptions(loader="turbo").resolve("cpu", ALONE)
    for shard_of in ("train.tar", "test.tar", "test.tar"):
        found: Any = Skipping(shard_of)
        assert loading.report_skipped(found) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.count("train.tar") for line in said] == [1, 0]


def test_resume_under_another_loader_warns_once(
    trains: Trains, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """And not again where validation and test are predicted."""
    flags = ("--image-size", 75, "--validation", 0.2, "--workers", 0)
    assert trains("run", "--loader", "pil", *flags, "--max-steps", 1).code == 0
    words = ["--resume", str(tmp_path / "run"), "--loader", "turbo"]
    outcome = call(train.main, words, capsys)
    assert len([line for line in outcome.err if line.startswith("warning")]) == 1
    assert call(train.main, words, capsys).err == []


def test_run_of_which_one_split_is_resized_does_not_warn_of_itself(
    trains: Trains,
    make_course: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    """All of train is 64 pixels already, of test one image is 96."""
    course, data = make_course(tmp_path / "course"), tmp_path / "data"
    name = (course / "test_img.csv").read_text().split()[0]
    (course / "data" / f"{name}.jpeg").write_bytes(photograph(1, 96))
    assert shard.main([str(course), str(data), "--workers", "1"]) == 0
    outcome = trains("run", "--image-size", 64, "--max-steps", 1, data=data)
    assert outcome.code == 0
    assert not [line for line in outcome.err if line.startswith("warning")]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["decoding"]["resize"] is None
    for loader in ("turbo", "pil"):
        words = [str(tmp_path / "run"), "--loader", loader, "--workers", "0"]
        said = call(evaluate.main, words, capsys).err
        assert not [line for line in said if line.startswith("warning")]


@pytest.mark.parametrize(
    "options",
    [
        LoadingOptions(loader="pil", on_corrupt="skip", hw_decoder_load=0.25),
        LoadingOptions(loader="turbo", on_corrupt="raise"),
        LoadingOptions(
            loader="turbo", on_corrupt="raise", cache="memory", cache_gb=0.5
        ),
    ],
)
def test_loading_that_was_recorded_comes_back(
    options: LoadingOptions, shards: Path, tmp_path: Path
):
    loading = options.resolve("cpu", ALONE)
    config = RunConfig(
        recipe=STRONG,
        weights="none",
        shards=str(shards),
        data=RunData(),
        image_shape=(64, 64),
        square=True,
        loader=loading.loader,
        loading=loading.recorded(),
        precision="fp32",
        threads=1,
    )
    Run(tmp_path).write_config(config)
    config = Run(tmp_path).config()
    assert LoadingOptions().filled_from_run(config) == options
    flags = LoadingOptions(
        loader="auto",
        on_corrupt="raise",
        hw_decoder_load=0.0,
        cache="none",
        cache_gb=9.0,
    )
    assert flags.filled_from_run(config) == flags  # neither 0 nor none is unset
    older = replace(config, loader="pil", loading=None)
    assert LoadingOptions().filled_from_run(older).loader == "pil"


def test_hw_decoder_load_of_a_run_reaches_the_loader(
    shards: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("fastretina.data.loading.make_loader", lambda *words: words[-1])
    with open_split(shards, "test") as split:
        for given, got in ((0.25, 0.25), (0.0, 0.0), (None, None)):
            options = LoadingOptions(loader="turbo", hw_decoder_load=given)
            config: Any = options.resolve("cpu", ALONE).open(split, LoaderConfig())
            assert config.hw_decoder_load == got


# ----------------------------------------------------- decoded images that are kept


def test_run_that_keeps_images_trains_the_same_weights(
    trains: Trains,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    """And says what it keeps; evaluation finds what is in a folder, and only that."""
    flags = ["--max-steps", 6, "--batch-size", 16, "--loader", "turbo"]
    plain = trains("plain", *flags)
    kept = tmp_path / "kept"
    for cache, where in (("memory", "in memory"), (kept, f"in {kept}")):
        run = tmp_path / f"run-{cache == kept}"
        outcome = trains(run.name, *flags, "--cache", cache)
        notes = [line for line in outcome.err if "decoded images" in line]
        assert notes[0] == f"note: train: 27 decoded images (0.0 GB) are kept {where}"
        assert outcome.json["weights_sha256"] == plain.json["weights_sha256"]
        config = json.loads((run / "config.json").read_text())
        assert config["loading"]["cache"] == str(cache)
    assert notes[1:] == [f"note: test: 11 decoded images (0.0 GB) are kept {where}"]
    evaluated = call(evaluate.main, [str(run)], capsys)
    assert evaluated.err == notes[1:]
    evaluated = call(evaluate.main, [str(run), "--cache", "none"], capsys)
    assert evaluated.err == [f"note: cache was {kept} before and is none now"]


def test_cache_is_as_far_as_it_serves(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Memory would be forgotten before it is used again, but for training."""
    monkeypatch.chdir(tmp_path)
    asked = []

    def opened(*words: Any) -> Any:
        asked.append(words[-1].cache)
        return loaders.make_loader(*words)

    monkeypatch.setattr("fastretina.data.loading.make_loader", opened)
    folder = str(tmp_path / "kept")
    for cache, expected in (
        (None, [None, None]),
        ("none", [None, None]),
        ("memory", ["memory", None]),
        ("kept", [folder, folder]),
    ):
        loading = LoadingOptions(loader="turbo", cache=cache).resolve("cpu", ALONE)
        asked.clear()
        with open_split(shards, "test") as split:
            loading.train_loader(split, STRONG).close()
            with loading.evaluation_loader(split, STRONG):
                pass
        assert asked == expected


def test_kept_images_are_described():
    assert describe_kept(KeptImages("device", 28_100, 28_100, 512 * 512 * 3)) == (
        "28,100 decoded images (22.1 GB) are kept on the device"
    )
    assert describe_kept(KeptImages("memory", 12_000, 28_100, 512 * 512 * 3)) == (
        "12,000 of 28,100 decoded images (9.4 of 22.1 GB) have room in memory; the "
        "rest is decoded in every epoch"
    )


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"cache": ""}, "--cache must be none, device, memory or a folder, got ''"),
        ({"cache_gb": 0.0}, "--cache-gb must be above 0, got 0.0"),
    ],
)
def test_cache_that_cannot_be_meant(options: dict[str, Any], error: str):
    with pytest.raises(ValueError, match=error):
        LoadingOptions(**options)


# ------------------------------------------------------- the precision that a run had


@pytest.fixture
def has_bf16(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Say whether this machine computes in bf16; it can emulate it at any rate."""

    def say(has: bool) -> None:
        monkeypatch.setattr("fastretina.nn.device._cpu_has_bf16", lambda: has)

    return say


def precisions(run: Path) -> tuple[str, str]:
    """Of a run: what its config and its metrics name."""
    config = json.loads((run / "config.json").read_text())
    return config["precision"], metrics(run)["precision"]


def test_resume_keeps_the_precision_although_another_would_be_chosen(
    trains: Trains, tmp_path: Path, has_bf16: Callable[[bool], None], capsys
):
    for has, name in ((False, "fp32"), (True, "bf16")):
        has_bf16(has)
        assert trains(name, "--max-steps", 1).code == 0
        assert precisions(tmp_path / name) == (name, name)
    outcome = call(train.main, ["--resume", str(tmp_path / "fp32")], capsys)
    assert (outcome.json["precision"], outcome.err) == ("fp32", [])
    outcome = call(evaluate.main, [str(tmp_path / "bf16")], capsys)
    assert outcome.err == []
    assert auc(outcome) == metrics(tmp_path / "bf16")["test"]["auc"]


def test_precision_that_is_not_here_is_replaced_and_told(
    trains: Trains, tmp_path: Path, has_bf16: Callable[[bool], None], capsys
):
    has_bf16(True)
    assert trains("run", "--max-steps", 1).code == 0
    has_bf16(False)
    run = tmp_path / "run"
    outcome = call(evaluate.main, [str(run)], capsys)
    assert outcome.err == [
        "note: the run computed in bf16, cpu does in fp32: last digits may differ"
    ]
    outcome = call(train.main, ["--resume", str(run)], capsys)
    assert outcome.err == ["note: precision was bf16 before and is fp32 now"]
    assert precisions(run) == ("fp32", "fp32")  # as metrics.json was computed now
    assert call(evaluate.main, [str(run)], capsys).err == []
    assert call(train.main, ["--resume", str(run)], capsys).err == []


def test_precision_asked_for_by_flag_is_not_replaced_on_resume(
    trains: Trains, tmp_path: Path, has_bf16: Callable[[bool], None], capsys
):
    has_bf16(True)
    assert trains("run", "--max-steps", 1, "--amp", "bf16").code == 0
    has_bf16(False)
    outcome = call(train.main, ["--resume", str(tmp_path / "run")], capsys)
    assert outcome.code == 1
    assert outcome.err == [
        "error: --amp bf16 is not supported on cpu; choose fp16 or off"
    ]


def test_evaluate_takes_the_loader_that_the_run_had(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    whole = tmp_path / "whole"
    outcome = call(evaluate.main, [str(whole)], capsys)
    assert (outcome.json["loader"], outcome.err) == ("pil", [])
    assert auc(outcome) == metrics(whole)["test"]["auc"]


def test_evaluate_goes_on_skipping_as_the_run_did(
    trains: Trains, tmp_path: Path, damaged: Path, capsys: pytest.CaptureFixture[str]
):
    flags = ("--max-steps", 1, "--on-corrupt", "skip", "--workers", 1)
    assert trains("run", *flags, data=damaged).json["test_skipped"] == 1
    outcome = call(evaluate.main, [str(tmp_path / "run")], capsys)
    assert outcome.json["skipped"] == 1
    words = [str(tmp_path / "run"), "--on-corrupt", "raise"]
    assert "sample " in call(evaluate.main, words, capsys).complaint


# -------------------------------------------------------------------- a web server


def test_training_streams_from_a_web_server(
    trains: Trains, tmp_path: Path, shards, capsys
):
    """And is evaluated from there, and resumed; other loaders say that they can't."""
    handler = partial(Quiet, directory=str(shards))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        flags = ("--loader", "webdataset", "--recipe", "seed")
        there = trains("there", *flags, data=url)
        run = str(tmp_path / "there")
        assert (
            there.json["weights_sha256"]
            == trains("here", *flags).json["weights_sha256"]
        )
        again = call(evaluate.main, [run, "--loader", "webdataset"], capsys)
        assert again.json["test_accuracy"] == there.json["test_accuracy"]
        assert again.json["shards"] == url
        resumed = call(train.main, ["--resume", run], capsys)
        assert resumed.json["weights_sha256"] == there.json["weights_sha256"]
        turbo = trains("turbo", "--loader", "turbo", data=url)
        assert turbo.code == 1
        assert turbo.complaint.endswith("pass --loader webdataset")
        server.shutdown()
        thread.join()


class Quiet(SimpleHTTPRequestHandler):
    """A web server that logs nothing."""

    def log_message(self, *args):
        pass


# ------------------------------------------------------------------------- bad images


@pytest.mark.parametrize("name", available())
def test_bad_image_ends_the_run_in_one_line(name: str, trains: Trains, damaged: Path):
    outcome = trains("run", "--loader", name, "--workers", 1, data=damaged)
    assert outcome.code == 1
    assert "train-000001.tar, sample " in outcome.complaint


@pytest.mark.parametrize("name", available())
def test_bad_image_is_skipped_named_and_counted(
    name: str, trains: Trains, tmp_path: Path, damaged: Path
):
    flags = ("--loader", name, "--workers", 1, "--on-corrupt", "skip")
    flags = (*flags, "--no-verify-reads")  # or DALI would not see what it fails on
    outcome = trains("run", *flags, "--recipe", "seed", data=damaged)
    assert outcome.json["skipped"] == 3  # in each of three epochs
    assert outcome.json["test_skipped"] == 1
    assert outcome.json["decoded_again"] == (3 if name == "dali" else 0)
    assert [row["skipped"] for row in log(tmp_path / "run")] == ["1", "1", "1"]
    assert metrics(tmp_path / "run")["test"]["samples"] == 10
    named = [line for line in outcome.err if line.startswith("skipped: ")]
    assert len(named) == 2  # each once, in the whole run
    assert any("train-000001.tar, sample " in line for line in named)


def test_skipping_ends_in_the_same_weights_under_any_loader(
    trains: Trains, damaged: Path
):
    common_order = [name for name in available() if not LOADERS[name].own_order]
    flags = ("--on-corrupt", "skip", "--recipe", "seed", "--workers", 1)
    found = {
        name: trains(name, "--loader", name, *flags, data=damaged).json[
            "weights_sha256"
        ]
        for name in common_order
    }
    assert len(found) >= 2
    assert len(set(found.values())) == 1


@pytest.mark.parametrize("name", available())
def test_batch_that_skipping_left_empty_is_passed_over(
    name: str, trains: Trains, tmp_path: Path, damaged: Path
):
    flags = ("--loader", name, "--workers", 1, "--on-corrupt", "skip")
    outcome = trains(
        *("run", *flags, "--recipe", "seed", "--batch-size", 1, "--full-epochs", 1),
        data=damaged,
    )
    assert outcome.json["skipped"] == 2
    assert outcome.json["steps"] == 2 * 37
    assert metrics(tmp_path / "run")["test"]["samples"] == 10
    assert all(float(row["train_loss"]) > 0 for row in log(tmp_path / "run"))


def test_skipped_and_decoded_again_are_counted_right_after_a_stop(
    trains: Trains,
    tmp_path: Path,
    damaged: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Wherever in an epoch it is stopped, before or after the image that is skipped."""
    name = "dali" if "dali" in available() else "turbo"
    flags = ("--loader", name, "--workers", 1, "--on-corrupt", "skip")
    unverified = "--no-verify-reads"  # or DALI would not see what it fails on
    flags = (*flags, unverified, "--recipe", "seed")
    flags = (*flags, "--head-epochs", 1, "--full-epochs", 0)
    assert trains("whole", *flags, data=damaged).code == 0
    for place in range(1, 5):
        with stop_at(place, monkeypatch):
            assert trains(f"run{place}", *flags, data=damaged).code == 130
        again = ["--resume", str(tmp_path / f"run{place}"), unverified]
        assert call(train.main, again, capsys).json
        assert log(tmp_path / f"run{place}") == log(tmp_path / "whole"), place


def test_epoch_of_which_every_image_is_bad_is_one_line(
    trains: Trains, tmp_path: Path, shards: Path
):
    nothing = spoil(shards, tmp_path / "nothing", train=range(37))
    flags = ("--on-corrupt", "skip", "--recipe", "seed", "--workers", 1)
    outcome = trains("run", *flags, data=nothing)
    assert outcome.code == 1
    assert outcome.complaint == "error: all 37 training images of epoch 1 are bad"
    assert len([line for line in outcome.err if line.startswith("skipped: ")]) == 37
    assert not (tmp_path / "run" / "log.csv").exists()


@pytest.mark.parametrize("each_epoch", [True, False])
def test_bad_images_are_named_though_nothing_is_left_to_test_on(
    each_epoch: bool, trains: Trains, tmp_path: Path, shards: Path
):
    nothing = spoil(shards, tmp_path / "nothing", test=range(11))
    flags = ["--on-corrupt", "skip", "--max-steps", 1]
    flags += ["--test-each-epoch"] * each_epoch
    outcome = trains("run", *flags, data=nothing)
    assert outcome.code == 1
    assert outcome.complaint == f"error: {nothing}: all 11 images of test are bad"
    assert len([line for line in outcome.err if line.startswith("skipped: ")]) == 11


def test_evaluate_skips_and_says_so(trains: Trains, tmp_path: Path, damaged, capsys):
    trains("run", "--max-steps", 1)
    words = [str(tmp_path / "run"), "--shards", str(damaged)]
    assert "sample " in call(evaluate.main, words, capsys).complaint
    outcome = call(evaluate.main, [*words, "--on-corrupt", "skip"], capsys)
    assert outcome.json["skipped"] == 1
    assert outcome.json["test_samples"] == 10
    assert [line for line in outcome.err if line.startswith("skipped: ")]
