"""The doctor: what it measures, what it says of it, what it remembers."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_measurements import GIB, measured, rate
from PIL import Image
from small_runs import Outcome, call, make_small
from unhurried import never_late

from fastretina.data import auto_loader
from fastretina.data.auto_loader import Choice, recall, remember
from fastretina.doctor import bottleneck, installation, notes
from fastretina.doctor import command as doctor
from fastretina.doctor.advice import advise, best_loader
from fastretina.doctor.chart import bars, decades, draw
from fastretina.doctor.examination import Examination
from fastretina.doctor.jpeg_header import JpegHeader, read_jpeg_header
from fastretina.doctor.loader_rates import counts
from fastretina.doctor.measurements import (
    LoaderRate,
    Measurements,
    Memory,
    Stage,
)
from fastretina.doctor.setup import TrainingSetup
from fastretina.doctor.storage import Change, Storage, changes, survey
from fastretina.doctor.training_rates import measure_training
from fastretina.formatting import format_count, format_duration
from fastretina.measure.forecast import forecast
from fastretina.measure.rounds import Drained, Rate, drain, rounds
from fastretina.nn.device import Compute, DeviceError
from fastretina.recipe import SEED, STRONG
from loaders import LOADERS, Loader, LoaderConfig, available, make_loader

# --------------------------------------------------------------------- what limits


def test_step_limits_where_it_is_the_slowest():
    one = measured(step=(400, 100), ready=1000)
    assert [bottleneck.limit(one, phase) for phase in ("head", "full")] == ["step"] * 2
    assert bottleneck.to_win(one, "full") == 1
    text = " ".join(bottleneck.limits(one))
    assert "the training step limits" in text
    assert "faster loading would win nothing" in text
    assert bottleneck.headline(one) == "What limits training here: the training step"


def test_phases_may_be_limited_by_different_stages():
    one = measured(step=(2000, 500), ready=1000)
    assert bottleneck.limit(one, "head") == "decode"
    assert bottleneck.limit(one, "full") == "step"
    assert bottleneck.headline(one) == (
        "What limits training here: decoding (head), the training step (whole network)"
    )
    assert "can make it 2.0 times as fast at most" in bottleneck.limits(one)[0]


def test_loader_limits_where_decoding_alone_is_much_faster():
    one = measured(step=(2000, 1200), ready=1000, ceiling=4000)
    assert bottleneck.limit(one, "full") == "loader"
    assert "can win 20% at most" in bottleneck.limits(one)[1]


def test_disk_limits_only_what_does_not_fit_in_memory():
    slow = {"step": (900, 800), "ready": 1000, "cold": 50}
    assert bottleneck.limit(measured(**slow), "full") == "step"
    assert bottleneck.limit(measured(**slow, data_bytes=100 * GIB), "full") == "read"
    unknown = measured(step=(900, 800), cold=None, data_bytes=100 * GIB)
    assert bottleneck.limit(unknown, "full") == "step"


def test_sharing_the_cores_is_named():
    together = measured(step=(400, 300), ready=400, end=(250, 200))
    assert bottleneck.to_win(together, "full") == pytest.approx(1.5)
    assert any("same cores" in line for line in bottleneck.limits(together))
    assert not any("same" in line for line in bottleneck.limits(measured()))
    on_gpu = replace(together, device="cuda:0")
    assert any("same GPU" in line for line in bottleneck.limits(on_gpu))


def test_what_loading_cannot_explain_is_not_to_be_won():
    """The step did not wait, and the loader takes a tenth of the time at most."""
    one = measured(step=(400, 100), ready=1000, end=(200, 50))
    assert bottleneck.to_win(one, "full") == pytest.approx(1.05)
    waiting = measured(step=(400, 100), end=(400, 50), waits=0.5)
    assert bottleneck.to_win(waiting, "full") == 2
    assert not any("same cores" in line for line in bottleneck.limits(one))


def test_rounds_far_apart_are_warned_of():
    assert bottleneck.unsteady(measured()) == []
    one = measured()
    step = {**one.training.step, "full": Rate(100, 40, 110, 5)}
    shaky = replace(one, training=replace(one.training, step=step))
    (line,) = bottleneck.unsteady(shaky)
    assert "differ by up to 2.8 times (step, full)" in line


def test_speed_end_to_end_above_the_step_is_noise_and_wins_nothing():
    assert bottleneck.to_win(measured(end=(450, 110)), "full") == 1


# ----------------------------------------------------------------------- what to use


def test_best_loader_is_of_the_common_order_with_the_most_workers_that_do():
    speeds = {
        ("webdataset", 16): 9000,
        ("dali", 16): 5000,
        ("dali", 8): 4900,
        ("dali", 4): 3000,
        ("turbo", 16): 4999,
    }
    best = best_loader([LoaderRate(*k, rate(v)) for k, v in speeds.items()])
    assert best is not None
    assert (best.loader, best.workers) == ("dali", 16)
    slower = {**speeds, ("dali", 16): 4000}
    best = best_loader([LoaderRate(*k, rate(v)) for k, v in slower.items()])
    assert best is not None
    assert (best.loader, best.workers) == ("turbo", 16)
    assert best_loader([LoaderRate("webdataset", 2, rate(1))]) is None


def test_advice_gives_reasons_and_flags():
    loaders = {("pil", 2): 300.0, ("turbo", 2): 1000.0, ("webdataset", 2): 1500.0}
    advice = advise(measured(loaders=loaders))
    assert advice is not None
    assert advice.flags == "--loader turbo --workers 2 --prefetch 2 --batch-size 32"
    text = " ".join(advice.sentences)
    assert "3.33 times pil's 300" in text
    assert "webdataset is 1.50 times as fast, in an order of its own" in text
    assert "any loader this fast would do" in text


def test_fewer_workers_that_would_do_are_named():
    loaders = {("turbo", 1): 990.0, ("turbo", 2): 1000.0}
    advice = advise(measured(loaders=loaders))
    assert advice is not None
    assert advice.workers == 2
    assert "with 2 threads: 1,000 images/s (1 would do)" in advice.sentences[0]


def test_loaders_alike_are_called_so():
    loaders = {("turbo", 2): 1000.0, ("dali", 2): 990.0}
    advice = advise(measured(loaders=loaders))
    assert advice is not None
    assert "1,000 images/s, as fast as dali" in advice.sentences[0]


def test_cache_is_advised_where_loading_limits_and_an_epoch_fits():
    """1,000 images of 512 pixels are 0.73 GiB."""

    def cache(granted: float = 8, step: tuple[float, float] = (4000, 100), **about):
        memory = Memory(before=0, peak=2 * GIB, **about)
        one = measured(step=step, memory=memory)
        advice = advise(replace(one, memory_granted=int(granted * GIB)))
        assert advice is not None
        says = [text for text in advice.sentences if text.startswith("Cache")]
        assert [text.split(":")[0] for text in says] == (
            [f"Cache {advice.cache}"] if advice.cache else []
        )
        assert advice.flags.partition(" --cache ")[2] == (advice.cache or "")
        assert advice.summary()["cache"] == (advice.cache or "none")
        return advice.cache

    assert cache() == "memory"
    assert cache(granted=3.1) == "memory"  # 70 % of 1.1 GiB
    assert cache(granted=3.0) is None
    assert cache(step=(400, 100)) is None  # the step limits
    assert cache(gpu=GIB, gpu_total=2 * GIB) == "device"
    assert cache(gpu=1.5 * GIB, gpu_total=2 * GIB) == "memory"
    assert cache(gpu=GIB // 4, gpu_total=1.4 * GIB) == "memory"


@pytest.mark.parametrize(
    ("about", "prefetch", "reason"),
    [
        ({"step": (400, 100), "waits": 0.001}, 2, "waited 0.1% of the time"),
        ({"step": (400, 100), "waits": 0.08}, 4, "and yet the step waited 8%"),
        ({"step": (4000, 2000), "waits": 0.5}, 2, "more would fill only once"),
    ],
)
def test_prefetch_follows_the_waiting(about, prefetch: int, reason: str):
    advice = advise(measured(**about))
    assert advice is not None
    assert advice.prefetch == prefetch
    assert any(reason in sentence for sentence in advice.sentences)


def test_batch_size_is_the_recipes_unless_memory_forbids():
    def batch_size(**about: object) -> tuple[int, str]:
        advice = advise(measured(**about))  # type: ignore[arg-type]
        assert advice is not None
        return advice.batch_size, advice.sentences[-1]

    assert batch_size()[0] == 32
    on_gpu = Memory(before=0, peak=GIB, gpu=4 * GIB, gpu_total=16 * GIB)
    assert "it takes 25% of the GPU's memory" in batch_size(memory=on_gpu)[1]
    assert batch_size(batch=16, out_of_memory=True) == (
        16,
        "Batch size 16: 32 do not fit in the GPU's memory.",
    )
    crowded = Memory(before=GIB, peak=4 * GIB)
    assert "32 would take about 13.0 GiB" in batch_size(batch=8, memory=crowded)[1]


def test_memory_is_described_with_and_without_a_gpu():
    assert notes.memory_notes(measured())[1].startswith("GPU memory: not measured")
    on_gpu = Memory(before=0, peak=GIB, gpu=4 * GIB, gpu_total=16 * GIB)
    assert "4.0 GiB of 16.0 GiB" in notes.memory_notes(measured(memory=on_gpu))[1]
    smaller = notes.memory_notes(measured(batch=8))[0]
    assert "2.0 GiB with batches of 8, at most about 5.0 GiB with 32" in smaller


def test_nothing_loaded_says_only_what_a_step_takes():
    one = replace(measured(), data=None, loading=None)
    assert advise(one) is None
    assert one.forecast(STRONG) is None
    assert notes.storage_notes(one) == []
    assert bottleneck.limit(one, "full") == "step"
    (line,) = bottleneck.limits(one)
    assert "train 100 images/s, which no loader can exceed" in line


# ------------------------------------------------------------------------ the forecast


def test_forecast_adds_up_a_recipe():
    ahead = forecast(STRONG, 1000, 200, {"head": 90, "full": 45}, 100)
    assert ahead.epoch_seconds == {"head": 900 / 90 + 1, "full": 900 / 45 + 1}
    assert ahead.recipe_seconds == pytest.approx(5 * 11 + 10 * 21 + 2)
    ahead = forecast(SEED, 1000, 200, {"head": 100, "full": 50}, 100)
    assert ahead.recipe_seconds == pytest.approx(5 * 12 + 10 * 22 + 2)


def test_forecast_takes_what_was_measured_end_to_end():
    slower = measured(step=(400, 100), end=(200, 50)).forecast(STRONG)
    assert slower is not None
    assert slower.epoch_seconds["full"] == pytest.approx(900 / 50 + 100 / 200)
    one = measured(step=(2000, 100), ready=1000)
    unfed = replace(one, training=replace(one.training, end_to_end={}))
    ahead = unfed.forecast(STRONG)
    assert ahead is not None
    assert ahead.epoch_seconds["head"] == pytest.approx(900 / 1000 + 100 / 1000)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.25 s"),
        (45, "45 s"),
        (720, "12 minutes"),
        (3.2 * 3600, "3.2 hours"),
        (60 * 3600, "2.5 days"),
    ],
)
def test_duration_for_people(seconds: float, text: str):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 eyes"), (1, "1 eye"), (2, "2 eyes"), (2000, "2,000 eyes")],
)
def test_count_for_people(number: int, text: str):
    assert format_count(number, "eye") == text


# ------------------------------------------------------------------- how it is stored


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def jpeg(image: Image.Image, **how: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **how)
    return stream.getvalue()


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 80),
    height=st.integers(1, 80),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    chroma=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    progressive=st.booleans(),
    segments=st.lists(
        st.tuples(st.sampled_from([0xE1, 0xED, 0xFE]), st.binary(max_size=300)),
        max_size=4,
    ),
    fill=st.integers(0, 3),
)
def test_header_is_what_was_encoded(
    width, height, mode, chroma, progressive, segments, fill
):
    made = jpeg(
        picture(width, height).convert(mode),
        subsampling=chroma,
        progressive=progressive,
    )
    put_in = b"".join(
        b"\xff" * fill
        + bytes([0xFF, marker])
        + (len(body) + 2).to_bytes(2, "big")
        + body
        for marker, body in segments
    )
    header = read_jpeg_header(made[:2] + put_in + made[2:])
    assert (header.width, header.height) == (width, height)
    assert header.progressive is progressive
    assert header.chroma == {"L": "gray", "CMYK": header.chroma}.get(mode, chroma)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 700), st.booleans())
def test_header_of_rubbish_is_an_error_and_nothing_else(
    rubbish: bytes, cut: int, begins: bool
):
    whole = jpeg(picture(16, 16))
    for damaged in (b"\xff\xd8" * begins + rubbish, whole[:cut], whole[:cut] + rubbish):
        with contextlib.suppress(ValueError):
            header = read_jpeg_header(damaged)
            assert isinstance(header.chroma, str)
            assert isinstance(header.progressive, bool)


@pytest.mark.parametrize(
    ("sampling", "chroma"),
    [
        (((1, 1),), "gray"),
        (((2, 2), (1, 1), (1, 1)), "4:2:0"),
        (((2, 2), (2, 2), (2, 2)), "4:4:4"),
        (((1, 2), (1, 1), (1, 1)), "4:4:0"),
        (((4, 1), (1, 1), (1, 1)), "4:1:1"),
        (((3, 2), (2, 1), (1, 1)), "other"),
        (((1, 1), (1, 1)), "other"),
    ],
)
def test_chroma_of_sampling_factors(sampling, chroma: str):
    header = JpegHeader(frame=0xC0, width=8, height=8, sampling=sampling)
    assert header.chroma == chroma


def test_survey_counts_and_changes_are_measured():
    plain = picture(256, 256)
    jpegs = [
        jpeg(plain, subsampling="4:2:0"),
        jpeg(plain, progressive=True, subsampling="4:2:0"),
        jpeg(plain, subsampling="4:4:4"),
        jpeg(picture(1024, 1024), subsampling="4:2:0"),
        jpeg(plain.convert("L")),
    ]
    storage = survey(jpegs, (256, 256))
    assert (storage.progressive, storage.oversized) == (1, 1)
    assert storage.chroma == {"4:2:0": 3, "4:4:4": 1, "gray": 1}
    for _ in range(5):  # measured: others may be at work on this machine
        by_name = {change.name: change for change in changes(jpegs, (256, 256), 1)}
        assert list(by_name) == ["baseline", "4:2:0", "smaller"]
        assert {change.share for change in by_name.values()} == {0.2}
        if by_name["smaller"].times > 2 and by_name["baseline"].times > 1:
            break
    assert by_name["smaller"].times > 2  # of a sixteenth of the pixels
    assert by_name["baseline"].times > 1
    assert list(changes(jpegs[:1], (256, 256), 1)) == []


def test_storing_names_what_to_change_and_whether_it_matters():
    def sentences(one: Measurements) -> str:
        return " ".join(notes.storage_notes(one))

    storage = Storage(
        images=10,
        mean_bytes=5e4,
        progressive=5,
        oversized=10,
        chroma={"4:4:4": 10},
        changes=(
            Change("baseline", 0.5, 2.5),
            Change("4:2:0", 1.0, 1.02),
            Change("smaller", 1.0, 8.0),
        ),
    )
    text = sentences(measured(storage=storage))
    assert "50% of the images are progressive JPEGs" in text
    assert "2.5 times as fast (measured)" in text
    assert "costs next to nothing here" in text
    assert "fastretina shard --size 512" in text
    assert "none of that would be noticed" in text
    limited = measured(step=(5000, 5000), storage=storage)
    assert "none of that would be noticed" not in sentences(limited)
    assert "stored well" in sentences(measured())
    one = measured()
    assert one.data is not None
    mixed = replace(one.data, sizes=3, resized_to=512, asked=False)
    assert "3 different sizes" in sentences(replace(one, data=mixed))


# ----------------------------------------------------------------------- the chart


@pytest.mark.parametrize("width", [10, 60, 80, 200])
@pytest.mark.parametrize("block", ["#", "\u2588"])
def test_bars_keep_to_the_width_and_to_the_order(width: int, block: str):
    all_of_them = measured(step=(7, 1.2)).stages()
    head, *lines = bars(all_of_them, width, block).splitlines()
    assert "logarithmic" in head
    assert len(lines) == len(all_of_them)
    assert all(len(line) <= max(width, 60) for line in lines)
    lengths = [line.count(block) for line in lines]
    assert min(lengths) >= 1
    speeds = [stage.rate.images_per_second for stage in all_of_them]
    for one, other in zip(np.argsort(speeds)[:-1], np.argsort(speeds)[1:], strict=True):
        assert lengths[one] <= lengths[other]


@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=8))
def test_decades_hold_every_bar(speeds: list[float]):
    low, high = decades([Stage("read", "x", rate(speed)) for speed in speeds])
    assert low < high
    assert high >= max(speeds) * 0.999


def test_chart_is_written_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "a.png"
    draw(path, measured().stages(), "title", "caption")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) > 400
    with pytest.raises(OSError, match=r"a\.png"):
        draw(tmp_path / "absent" / "a.png", measured().stages(), "title", "caption")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


# -------------------------------------------------------------------- the installation


@pytest.mark.parametrize(
    ("check", "state", "words"),
    [
        (installation.cores(4, 4), "ok", "4 granted of 4"),
        (installation.cores(2, 64), "warn", "2 granted of 64 counted"),
        (installation.threads(2, 2), "ok", ""),
        (installation.threads(64, 2), "warn", "--threads 2"),
        (installation.busy_check(0.1, 2), "ok", "0.1 of 2 cores"),
        (installation.busy_check(1.5, 2), "warn", "is not kept for --loader auto"),
        (installation.busy_check(None, 2), "ok", ""),
        (installation.open_files(256), "warn", "ulimit -n 4096"),
        (installation.open_files(4096), "ok", "4,096"),
        (installation.open_files(None), "ok", ""),
        (installation.shared_memory(64 * 2**20), "warn", "--shm-size"),
        (installation.shared_memory(8 * GIB), "ok", "8.0 GiB"),
        (installation.shared_memory(None), "ok", ""),
        (installation.memory(2 * GIB), "warn", "--batch-size"),
        (installation.memory(16 * GIB), "ok", "16.0 GiB"),
        (
            installation.pillow("12.0", "12.0", None, turbo=True),
            "ok",
            "not pillow-simd",
        ),
        (installation.pillow("9.5.0.post2", None, "9.5.0.post2", turbo=True), "ok", ""),
        (installation.pillow("12", "12", "9.5", turbo=True), "warn", "overwrite"),
        (installation.pillow("12", "12", None, turbo=False), "warn", "much slower"),
        (installation.loaders_that_run({"pil": None, "dali": "why"}), "warn", "why"),
        (installation.loaders_that_run({"pil": None}), "ok", "pil"),
        (
            installation.loaders_that_run(
                {
                    "turbo": None,
                    "dali": "loader 'dali' needs nvidia",
                    "dali-reader": "loader 'dali-reader' needs nvidia",
                    "webdataset": "loader 'webdataset' can't be loaded: torn",
                }
            ),
            "warn",
            "turbo; dali, dali-reader: needs nvidia; webdataset: can't be loaded: torn",
        ),
    ],
)
def test_installation_check(check: installation.Check, state: str, words: str):
    assert check.state == state, check.line
    assert words in check.line


@pytest.mark.parametrize(
    ("torch_cuda", "dali", "there", "sees", "state", "words"),
    [
        ("12.8", ("cuda120",), True, True, "ok", "torch for CUDA 12.8"),
        ("13.0", ("cuda130",), True, True, "ok", "nvidia-dali-cuda130 2"),
        ("13.0", ("cuda120",), True, True, "warn", "fastretina[dali-cuda13]"),
        ("12.8", ("cuda130",), True, True, "warn", "fastretina[dali]"),
        ("13.0", ("cuda120",), False, False, "ok", "no NVIDIA GPU"),
        ("12.8", (), True, True, "warn", "pip install 'fastretina[dali]'"),
        (None, (), True, False, "fail", "install torch with CUDA"),
        ("12.8", ("cuda120",), True, False, "fail", "nvidia-smi"),
        (
            "13.0",
            ("cuda120", "cuda130"),
            True,
            True,
            "warn",
            "keep nvidia-dali-cuda130",
        ),
    ],
)
def test_cuda_pairing(torch_cuda, dali, there, sees, state: str, words: str):
    installed = {f"nvidia-dali-{flavour}": "2" for flavour in dali}
    check = installation.cuda(torch_cuda, installed, there=there, sees=sees)
    assert check.state == state, check.line
    assert words in check.line


# ---------------------------------------------------------------------- what it keeps

CHOICE = Choice(loader="dali", workers=3, images_per_second=1234.5, pixels=512)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fastretina" / "doctor.json"


def test_choice_is_kept_for_the_machine_and_device(cache: Path):
    assert recall("cpu") is None
    assert remember("cpu", CHOICE) == cache
    assert recall("cpu") == CHOICE
    assert recall("mps") is None
    other = replace(CHOICE, loader="turbo")
    remember("mps", other)
    assert (recall("cpu"), recall("mps")) == (CHOICE, other)
    assert [file.name for file in cache.parent.iterdir()] == ["doctor.json"]


def test_choice_of_another_machine_is_not_this_ones(cache: Path, monkeypatch):
    remember("cpu", CHOICE)
    host = auto_loader.host_facts()
    monkeypatch.setattr(
        auto_loader, "host_facts", lambda: replace(host, cores_granted=999)
    )
    assert recall("cpu") is None
    monkeypatch.setattr(auto_loader, "host_facts", lambda: host)
    assert recall("cpu") == CHOICE
    monkeypatch.setattr(auto_loader, "installed", lambda name: "0.0.1")
    assert recall("cpu") is None


def test_choice_for_a_gpu_is_by_its_name(cache: Path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    remember("cuda:0", CHOICE)
    assert recall("cuda:1") == CHOICE
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "L4")
    assert recall("cuda:0") is None


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        "dali",
        {},
        {"loader": "webdataset"},
        {"loader": ["dali"]},
        {"workers": -1},
        {"workers": "2"},
        {"workers": True},
        {"images_per_second": "fast"},
        {"pixels": None},
    ],
)
def test_damaged_choice_is_none(cache: Path, entry: object):
    remember("cpu", CHOICE)
    kept = json.loads(cache.read_text())
    (key,) = kept["machines"]
    if isinstance(entry, dict) and entry:
        entry = {**kept["machines"][key], **entry}
    kept["machines"][key] = entry
    cache.write_text(json.dumps(kept))
    assert recall("cpu") is None
    remember("cpu", CHOICE)
    assert recall("cpu") == CHOICE


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"format": 2}', '{"format": 1, "machines": 3}', "\xff"],
)
def test_damaged_file_is_ignored_and_mended(cache: Path, text: str):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(text.encode("latin-1"))
    assert recall("cpu") is None
    remember("cpu", CHOICE)
    assert recall("cpu") == CHOICE


def test_relative_cache_folder_is_ignored(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = auto_loader.cache_file()
    assert path == tmp_path / ".cache" / "fastretina" / "doctor.json"


# ----------------------------------------------------------------------- measuring


def test_rounds_keep_to_their_time_and_are_one_at_least():
    calls = []

    def work() -> int:
        calls.append(1)
        return 5

    assert len(rounds(work, 0.0)) == 1
    assert len(calls) == 2  # with the one that warms up
    assert len(rounds(work, 60, most=4, warm_up=False)) == 4
    assert Rate.of([3.0, 1.0, 2.0]) == Rate(2.0, 1.0, 3.0, 3)


@pytest.mark.parametrize(
    ("cores", "expected"),
    [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])],
)
def test_counts_of_workers(cores: int, expected: list[int]):
    assert counts(cores) == expected


def test_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch):
    """A GPU's memory, played by a device that is not the CPU."""

    def make(case: object, compute: object) -> Callable[..., None]:
        def step(number: int, batch: tuple[torch.Tensor, ...]) -> None:
            if len(batch[1]) > 5:
                raise torch.OutOfMemoryError("full")

        return step

    monkeypatch.setattr("fastretina.doctor.step_batch.make_step", make)
    compute = Compute(torch.device("meta"), None)
    setup = TrainingSetup("resnet18", (8, 8), compute, 16, 0.1, lambda what: None)
    rates = measure_training(setup, None)
    assert (rates.batch, rates.out_of_memory) == (4, True)


def test_device_too_small_for_one_image_is_an_error(monkeypatch: pytest.MonkeyPatch):
    def full(case: object, compute: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr("fastretina.doctor.step_batch.make_step", full)
    compute = Compute(torch.device("meta"), None)
    setup = TrainingSetup("resnet18", (8, 8), compute, 16, 0.1, lambda what: None)
    with pytest.raises(DeviceError, match="full with one image"):
        measure_training(setup, None)


# --------------------------------------------------------------------- the command


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Torch computes in one thread: two spin at each other where a core is taken."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


QUIET = ("fastretina.doctor.installation._busy_cores", lambda: 0.0)


@pytest.fixture(scope="module")
def real_run(
    shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Outcome, Path]:
    """One examination of small shards with the real ResNet18."""
    folder = tmp_path_factory.mktemp("doctor")
    words = ["--shards", str(shards), "--out", str(folder / "a.png"), "--device", "cpu"]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("COLUMNS", "90")
        patch.setattr(*QUIET)
        never_late(patch)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = doctor.main([*words, "--seconds", "2", "--batch-size", "8"])
        assert recall("cpu") is not None
    lines = (out.getvalue().splitlines(), err.getvalue().splitlines())
    return Outcome(code, *lines), folder


def test_doctor_measures_every_stage(real_run: tuple[Outcome, Path]):
    result = real_run[0].json
    kinds = [stage["stage"] for stage in result["stages"]]
    assert list(dict.fromkeys(kinds)) == [
        "read",
        "decode",
        "batch",
        "ready",
        "step",
        "end to end",
    ]
    assert all(stage["images_per_second"] > 0 for stage in result["stages"])
    batches = {
        s["name"].split(", ")[1] for s in result["stages"] if s["stage"] == "batch"
    }
    assert batches == set(available())
    assert result["not_measured"].keys() == set(LOADERS) - set(available())
    assert set(result["limits"]) == set(result["to_win"]) == {"head", "full"}
    assert result["train_images"] == 37
    assert result["image_shape"] == [64, 64]
    assert result["forecast"]["recipe_seconds"] > 0
    assert result["peak_bytes"] > 50e6
    assert result["gpu_bytes"] is None


def test_doctor_says_it_in_words_within_the_width(real_run: tuple[Outcome, Path]):
    outcome, folder = real_run
    *lines, _ = outcome.out
    assert max(map(len, lines[:-3])) <= 90  # but for what is to be copied, and paths
    text = "\n".join(lines)
    for words in (
        "Training the head",
        "Loader ",
        "Prefetch ",
        "Batch size ",
        "Memory: ",
    ):
        assert f"- {words}" in text
    assert "\nUse: --loader " in text
    assert "ok    versions" in text
    lines = [line for line in outcome.err if not line.startswith("note: it took ")]
    assert all(line.startswith("measuring: ") for line in lines), outcome.err
    with Image.open(folder / "a.png") as image:
        assert image.format == "PNG"


def test_doctors_advice_is_what_auto_then_takes(real_run, monkeypatch):
    outcome, folder = real_run
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    choice = recall("cpu")
    assert choice is not None
    advice = outcome.json["advice"]
    assert (choice.loader, choice.workers) == (advice["loader"], advice["workers"])
    assert choice.pixels == 64
    assert outcome.json["remembered"] == str(auto_loader.cache_file())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    """The doctor with a small network, in an empty folder."""
    make_small(monkeypatch)
    monkeypatch.setattr(*QUIET)
    never_late(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*words: object) -> Outcome:
        flags = ["--device", "cpu", "--seconds", "0.5", "--batch-size", "4"]
        return call(doctor.main, [*flags, *map(str, words)], capsys)

    return run


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[Examination]:
    """What the doctor was to measure; it gets made-up numbers at once instead."""
    asked: list[Examination] = []

    def examine(examination: Examination) -> Measurements:
        asked.append(examination)
        return measured()

    monkeypatch.setattr("fastretina.doctor.examination.examine", examine)
    return asked


def test_without_shards_the_step_is_measured_alone(quick, tmp_path: Path):
    outcome = quick("--image-size", 64)
    result = outcome.json
    assert outcome.err[0].startswith("note: no data set in ./shards")
    assert {stage["stage"] for stage in result["stages"]} == {"step"}
    assert (result["shards"], result["advice"], result["forecast"]) == (
        None,
        None,
        None,
    )
    assert result["remembered"] is None
    assert (tmp_path / "doctor.png").exists()
    assert not (tmp_path / "cache").exists()


def test_shards_in_the_usual_place_are_found(
    quick, examined, tmp_path: Path, shards: Path
):
    (tmp_path / "shards").symlink_to(shards)
    assert quick("--image-size", 96).json["shards"] == "shards"
    (examination,) = examined
    assert (examination.shards.train, examination.shards.shape) == (37, (96, 96))


def test_cache_that_cannot_be_written_is_only_noted(
    quick, examined, tmp_path, shards, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    outcome = quick("--shards", shards)
    assert outcome.json["remembered"] is None
    assert any("not kept for --loader auto" in line for line in outcome.err)


def test_nothing_is_kept_of_a_busy_machine(quick, examined, shards, monkeypatch):
    monkeypatch.setattr(QUIET[0], lambda: 64.0)
    outcome = quick("--shards", shards)
    assert outcome.json["installation"]["load"][0] == "warn"
    assert outcome.json["remembered"] is None
    assert recall("cpu") is None


def test_loader_that_fails_is_noted_and_the_others_go_on(quick, shards, monkeypatch):
    def fail(schedule: object) -> None:
        raise RuntimeError("out of luck\nat length")

    monkeypatch.setattr("loaders._threads.new_ring", fail)
    outcome = quick("--shards", shards)
    assert outcome.json["not_measured"]["turbo"] == "out of luck"
    assert outcome.json["advice"]["loader"] != "turbo"
    assert any("Not measured: turbo (out of luck)" in line for line in outcome.out)


def failing(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[str, int, str], bool]
) -> None:
    """Epochs of a loader fail by its name, the epoch's number and the finish line."""
    opened: list[tuple[Loader, str]] = []

    def opening(name: str, *about: Any) -> Loader:
        opened.append((make_loader(name, *about), name))
        return opened[-1][0]

    def draining(loader: Loader, number: int, compute: Compute, line: Any) -> Drained:
        (name,) = (name for one, name in opened if one is loader)
        if fails(name, number, line):
            raise RuntimeError("out of memory\nat length")
        return drain(loader, number, compute, line)

    monkeypatch.setattr("fastretina.doctor.loader_rates.make_loader", opening)
    monkeypatch.setattr("fastretina.doctor.loader_rates.drain", draining)


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Only these loaders are there, and all their rounds are timed."""

    def missing(name: str) -> str | None:
        return None if name in names else "not for this test"

    clock = SimpleNamespace(monotonic=lambda: 0.0, perf_counter=time.perf_counter)
    monkeypatch.setattr("fastretina.doctor.loader_rates.missing", missing)
    monkeypatch.setattr("fastretina.doctor.loader_rates.time", clock)


def test_nothing_is_said_of_end_to_end_where_no_loader_gets_to_ready(
    quick, shards, monkeypatch
):
    failing(monkeypatch, lambda name, number, line: line == "ready")
    outcome = quick("--shards", shards)
    result, text = outcome.json, "\n".join(outcome.out[:-1])
    assert set(result["limits"].values()) == {"unknown"}
    assert set(result["to_win"].values()) == {None}
    assert (result["forecast"], result["advice"]) == (None, None)
    assert recall("cpu") is None
    failed = [name for name in result["not_measured"] if name.endswith(", to ready")]
    common = {n for n, entry in LOADERS.items() if not entry.own_order}
    assert {name.split(",")[0] for name in failed} == common & set(available())
    assert "end to end was not measured" in text
    assert "would win nothing" not in text
    one = measured()
    assert one.loading is not None
    no_end = replace(one.training, end_to_end={})
    unknown = replace(one, loading=replace(one.loading, ready=None), training=no_end)
    assert bottleneck.headline(unknown).startswith("What limits training here: not kno")


def test_loader_that_fails_to_ready_is_noted_and_the_next_one_taken(
    quick, shards, monkeypatch
):
    failing(monkeypatch, lambda name, number, line: line == "ready" and name == "turbo")
    only(monkeypatch, "pil", "turbo")
    outcome = quick("--shards", shards)
    assert outcome.json["advice"]["loader"] == "pil"
    (name,) = (n for n in outcome.json["not_measured"] if n.startswith("turbo"))
    assert name.endswith(", to ready")
    assert any(f"Not measured: {name} (out of memory)" in line for line in outcome.out)


def test_loader_that_fails_with_one_number_of_workers_is_named_with_it(
    quick, shards, monkeypatch
):
    def opening(name: str, part: Any, split: str, config: LoaderConfig) -> Loader:
        if config.workers == 2:
            raise RuntimeError("too many")
        return make_loader(name, part, split, config)

    only(monkeypatch, "turbo")
    monkeypatch.setattr("fastretina.doctor.loader_rates.make_loader", opening)
    monkeypatch.setattr("fastretina.doctor.examination.granted_cores", lambda: 2)
    result = quick("--shards", shards).json
    assert result["not_measured"]["turbo, 2 workers"] == "too many"
    assert "turbo" not in result["not_measured"]
    bars = {stage["name"] for stage in result["stages"]}
    assert "batch, turbo, 1 worker" in bars
    assert "batch, turbo, 2 workers" not in bars


def test_rounds_before_a_failure_do_not_count(quick, shards, monkeypatch):
    only(monkeypatch, "turbo")
    failing(monkeypatch, lambda name, number, line: number == 2)
    result = quick("--shards", shards).json
    assert result["not_measured"]["turbo"] == "out of memory"
    assert not [s for s in result["stages"] if s["name"].startswith("batch, turbo")]


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ("--shards absent", 1, "no data set in absent (the folder does not exist)"),
        ("--shards .", 1, "no data set in ."),
        ("--shards http://host/shards", 2, "--shards must be a folder on this machine"),
        ("--seconds 0", 2, "--seconds must be above 0, got 0.0"),
        ("--seconds nan", 2, "--seconds must be above 0, got nan"),
        ("--batch-size 0", 2, "--batch-size must be at least 1, got 0"),
        ("--image-size 8", 2, "--image-size must be at least 64, got 8"),
        ("--out a.pdf", 2, "--out must end in .png, got a.pdf"),
        ("--out no/a.png", 2, "--out must lie in a folder that exists, got no/a.png"),
        ("--out /proc/d.png", 1, "--out /proc/d.png can't be written ("),
        ("--arch vgg", 2, "invalid choice 'vgg' for argument '--arch'"),
        ("--device cuda:99", 1, "--device cuda:99 is not here"),
    ],
)
def test_bad_input_is_one_line(words: str, code: int, line: str, quick, tmp_path: Path):
    outcome = quick(*words.split())
    assert outcome.code == code
    assert outcome.complaint.startswith(f"error: {line}")
    assert len(outcome.err) == 1
    assert outcome.out == []
    assert not list(tmp_path.glob("*.png"))


def test_image_that_cannot_be_decoded_is_named(quick, shards: Path, tmp_path: Path):
    folder = Path(shutil.copytree(shards, tmp_path / "damaged"))
    # The first that the doctor looks at: on a busy machine it samples few.
    row = pq.read_table(folder / "train.parquet").slice(4, 1).to_pylist()[0]
    with (folder / f"train-{row['shard']:06d}.tar").open("r+b") as tar:
        tar.seek(row["offset"])
        tar.write(bytes(200))
    outcome = quick("--shards", folder)
    assert outcome.code == 1
    assert f"sample {row['key']}: " in outcome.complaint


def test_images_of_several_sizes_are_measured_resized(
    quick, make_course, run_shard, tmp_path: Path
):
    course = make_course(tmp_path / "course", train=12, test=3)
    (course / "data" / "10_left.jpeg").write_bytes(jpeg(picture(96, 80), quality=90))
    assert run_shard(course, tmp_path / "mixed", "--workers", 1)[0] == 0
    result = quick("--shards", tmp_path / "mixed", "--seconds", 0.1).json
    assert result["image_shape"] == [512, 512]
    outcome = quick("--shards", tmp_path / "mixed", "--image-size", 64)
    assert outcome.json["image_shape"] == [64, 64]


def shared_memory(prefix: str) -> set[str]:
    """The names in ``/dev/shm``, if there is one, less semaphores of other prefixes."""
    names = {path.name for path in Path("/dev/shm").glob("*")}
    return {name for name in names if not name.startswith("sem.") or prefix in name}


def used_by_others() -> set[str]:
    """Those names that a process maps which is neither this one nor begun by it."""
    me = psutil.Process()
    ours = {me, *me.children(recursive=True)}
    names = set()
    for process in psutil.process_iter():
        if process in ours:
            continue
        with contextlib.suppress(psutil.Error, OSError):
            maps = (Path("/proc") / str(process.pid) / "maps").read_text()
            names |= {
                line.split("/")[-1] for line in maps.splitlines() if "/shm/" in line
            }
    return names


def test_doctor_leaves_nothing_behind(
    quick, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Processes that tests beside this one kill leave semaphores that nobody maps: ours,
    # and those of the processes that we begin, have a prefix of their own.
    prefix = f"mp-doctor-{os.getpid()}"
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    monkeypatch.setitem(config, "semprefix", f"/{prefix}")
    # Of this process and its forks joblib makes the names, where it is imported.
    names = staticmethod(lambda: f"/{prefix}-{uuid4().hex[:8]}")
    monkeypatch.setattr("multiprocessing.synchronize.SemLock._make_name", names)
    kept = multiprocessing.get_context("spawn").Lock()
    assert any(prefix in name for name in shared_memory(prefix)), "what stays is seen"
    del kept
    before = shared_memory(prefix)
    quick("--shards", shards)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "doctor.png"]
    deadline = time.monotonic() + 20  # what others make is not mapped at once
    while left := shared_memory(prefix) - before - used_by_others():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
