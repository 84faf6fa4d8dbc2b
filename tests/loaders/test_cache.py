"""Decoded images that are kept: the same batches, and nothing decoded twice."""

import shutil
from contextlib import nullcontext
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from loaders import (
    LOADERS,
    LoaderConfig,
    _cached,
    _epoch,
    available,
    make_loader,
    open_split,
)
from loaders._flips import flip_batch, flip_on_device
from loaders._runs import Plans
from loaders._stores import DeviceStore
from loaders.errors import LoaderError, SampleError

# Python 3.12 warns of any fork beside threads, such as for pil's workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

TRAIN, IMAGE = 37, 64 * 64 * 3  # samples in shards of 10; bytes of an image
AUGMENTED = {"shuffle": True, "hflip": 0.4, "vflip": 0.5}
CACHING = [name for name in available() if LOADERS[name].caches]


def gb(images):
    """Room for so many images."""
    return images * IMAGE / 1e9


@pytest.fixture
def make(shards, tmp_path):
    """Opens a loader that notes in ``asked`` what it has had decoded."""
    opened = []

    def make(name="turbo", source=shards, split="train", **options):
        if options.get("cache") == "folder":
            options["cache"] = tmp_path / "kept"
        config = LoaderConfig(**{"batch_size": 8, "workers": 2, **options})
        loader = make_loader(name, source, split, config)
        opened.append(loader)
        loader.asked = []
        if config.cache is not None:
            note_what_is_decoded(loader)
        return loader

    yield make
    for loader in opened:
        loader.close()


def note_what_is_decoded(loader):
    decode = loader._decoder._batches

    def noted(plans):
        for plan in plans:
            assert not plan.flips.any()  # or a flip would be kept
            loader.asked.extend(plan.rows.tolist())
            yield plan

    loader._decoder._batches = lambda plans: decode(Plans(noted(plans)))


def asked(loader):
    rows, loader.asked = sorted(loader.asked), []
    return rows


def collect(batches):
    return [tuple(part.clone() for part in batch) for batch in batches]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b)
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("cache", ["memory", "folder", "device"])
@pytest.mark.parametrize("name", CACHING)
def test_later_epochs_decode_nothing_and_are_the_same(make, name, cache):
    plain, loader = make(name, **AUGMENTED), make(name, cache=cache, **AUGMENTED)
    assert loader.kept[1:] == (TRAIN, TRAIN, IMAGE)
    for number, rows in ((0, [*range(TRAIN)]), (1, []), (0, []), (5, [])):
        wanted = collect(plain.epoch(number))
        assert same(collect(loader.epoch(number)), wanted)
        assert asked(loader) == rows
        assert same(collect(loader.epoch(number, first_batch=3)), wanted[3:])
        assert asked(loader) == []


@pytest.mark.parametrize("cache", ["memory", "folder"])
@pytest.mark.parametrize("name", CACHING)
def test_what_has_no_room_is_decoded_each_time(make, name, cache):
    """The first of the split are kept, whatever comes first: no more, and no fewer."""
    plain = make(name, **AUGMENTED)
    loader = make(name, cache=cache, cache_gb=gb(15), **AUGMENTED)
    assert loader.kept[1:] == (15, TRAIN, IMAGE)
    for number in range(3):
        assert same(collect(loader.epoch(number)), collect(plain.epoch(number)))
        assert asked(loader) == [*range(15 if number else 0, TRAIN)]


@pytest.mark.parametrize("cache", ["memory", "folder"])
def test_room_is_never_exceeded(make, tmp_path, cache):
    assert make(cache=cache, cache_gb=gb(15) - 1e-9).kept.images == 14
    loader = make(cache=cache, cache_gb=1e-9)
    assert loader.kept.images == (0 if cache == "memory" else 14)  # there already
    assert len(collect(loader.epoch(0))) == 5


def test_room_is_a_share_of_what_is_free(make, monkeypatch):
    monkeypatch.setattr("loaders._room._free_memory", lambda: 100 * IMAGE)
    assert make(cache="memory").kept.images == TRAIN
    monkeypatch.setattr("loaders._room._free_memory", lambda: 20 * IMAGE)
    assert make(cache="memory").kept.images == 14
    assert make(cache="memory", cache_gb=1.0).kept.images == 19  # not what there isn't
    two = {"world_size": 2, "shuffle": True}
    assert make(cache="memory", rank=1, **two).kept.images == 7


@pytest.mark.parametrize("cache", ["memory", "folder"])
@pytest.mark.parametrize("images", [10, TRAIN])
def test_balanced_epochs_are_the_same(make, cache, images):
    options = {"balance": 0.9, **AUGMENTED}
    plain, loader = make(**options), make(cache=cache, cache_gb=gb(images), **options)
    seen = set()
    for number in range(3):
        wanted = collect(plain.epoch(number))
        drawn = [row for _, _, index in wanted for row in index.tolist()]
        assert same(collect(loader.epoch(number)), wanted)
        assert asked(loader) == sorted(row for row in drawn if row not in seen)
        seen |= {row for row in drawn if row < images}


def test_abandoned_epoch_keeps_what_it_has_handed_out(make):
    plain, loader = make(**AUGMENTED), make(cache="memory", **AUGMENTED)
    batches = loader.epoch(0)
    got = [next(batches).index.tolist() for _ in range(2)]
    batches.close()
    asked(loader)
    wanted = collect(plain.epoch(0))
    assert same(collect(loader.epoch(0)), wanted)
    kept = {row for rows in got for row in rows}
    assert asked(loader) == [row for row in range(TRAIN) if row not in kept]


def test_closed_loader_has_forgotten_what_was_in_memory(make):
    loader = make(cache="memory")
    wanted = collect(loader.epoch(0))
    loader.close()
    asked(loader)
    assert same(collect(loader.epoch(0)), wanted)
    assert asked(loader) == [*range(TRAIN)]


@pytest.mark.parametrize("cache", ["memory", "folder"])
def test_images_are_kept_in_the_size_that_is_delivered(make, cache):
    loaders = [make(cache=cache, image_size=size) for size in (32, None, 48)]
    for loader, size in zip(loaders, (32, None, 48), strict=True):
        wanted = collect(make(image_size=size).epoch(0))
        for _ in range(2):
            assert same(collect(loader.epoch(0)), wanted)
        assert asked(loader) == [*range(TRAIN)]


# ----------------------------------------------------------------------------- ranks


@pytest.mark.parametrize("name", ["turbo", "webdataset"])
def test_rank_keeps_only_what_it_sees(make, name):
    two = {"world_size": 2, **AUGMENTED}
    for rank in range(2):
        plain = make(name, rank=rank, **two)
        loader = make(name, cache="memory", rank=rank, **two)
        seen = set()
        for number in range(3):
            wanted = collect(plain.epoch(number))
            rows = {row for _, _, index in wanted for row in index.tolist()}
            assert same(collect(loader.epoch(number)), wanted)
            assert asked(loader) == sorted(rows - seen)
            seen |= rows


@pytest.mark.parametrize("name", ["turbo", "webdataset"])
def test_rank_without_shuffle_has_room_for_its_own_alone(make, name):
    for rank in range(2):
        loader = make(name, cache="memory", cache_gb=gb(19), rank=rank, world_size=2)
        assert loader.kept.images == loader.kept.wanted < TRAIN
        collect(loader.epoch(0))
        asked(loader)
        collect(loader.epoch(1))
        assert asked(loader) == []


def test_ranks_share_a_folder(make):
    two = {"world_size": 2, **AUGMENTED}
    plain = [make(rank=rank, **two) for rank in range(2)]
    ranks = [make(cache="folder", rank=rank, **two) for rank in range(2)]
    for number in range(3):
        for one, other in zip(ranks, plain, strict=True):
            assert same(collect(one.epoch(number)), collect(other.epoch(number)))
        decoded = sorted(row for loader in ranks for row in asked(loader))
        assert decoded == ([] if number else [*range(TRAIN)])


# -------------------------------------------------------------------- images that fail


@pytest.fixture
def damaged(shards, tmp_path):
    """Shards in which two images are zeros."""
    folder = shutil.copytree(shards, tmp_path / "damaged")
    with open_split(folder, "train") as split:
        places = [split.table.slice(row, 1).to_pylist()[0] for row in (4, 19)]
    for place in places:
        with (folder / f"train-{place['shard']:06d}.tar").open("r+b") as tar:
            tar.seek(place["offset"])
            tar.write(bytes(place["size"]))
    return folder


@pytest.mark.parametrize("cache", ["memory", "folder"])
@pytest.mark.parametrize("images", [12, TRAIN])
@pytest.mark.parametrize("name", CACHING)
def test_bad_images_fail_in_every_epoch(make, damaged, name, images, cache):
    options = {"source": damaged, "on_corrupt": "skip", **AUGMENTED}
    plain = make(name, **options)
    loader = make(name, cache=cache, cache_gb=gb(images), **options)
    for number in range(3):
        assert same(collect(loader.epoch(number)), collect(plain.epoch(number)))
        assert [e.key for e in loader.skipped] == [e.key for e in plain.skipped]
        decoded = {4, 19, *range(images, TRAIN)} if number else {*range(TRAIN)}
        assert asked(loader) == sorted(decoded)
    assert len(loader.skipped) == 6


def test_bad_image_ends_every_epoch(make, damaged):
    loader = make(source=damaged, cache="memory")
    for _ in range(2):
        with pytest.raises(SampleError):
            collect(loader.epoch(0))
    assert [b[2].tolist() for b in collect(loader.epoch(0, first_batch=3))] == [
        [*range(24, 32)],
        [*range(32, 37)],
    ]


def test_bad_image_in_a_batch_that_is_here_but_for_it(make, damaged):
    """As long as it fails; a batch of it alone is empty."""
    alone = open_split(damaged, "train").select(np.array([18, 19, 20]))
    for cache in ("memory", "folder"):
        loader = make(source=alone, cache=cache, on_corrupt="skip")
        for number in range(2):
            (batch,) = collect(loader.epoch(number))
            assert batch[2].tolist() == [18, 20]
            assert len(loader.skipped) == number + 1
    batches = make(source=alone, cache="memory", on_corrupt="skip", batch_size=1)
    assert [len(batch.index) for batch in batches] == [1, 0, 1]


# ------------------------------------------------------------------------- the device


@pytest.fixture
def on_device(monkeypatch):
    """Keep images as on a GPU, in the processor's memory."""

    def store(loader, source):
        room = round((loader._config.cache_gb or 1) * 1e9)
        return DeviceStore(loader._schedule, room)

    monkeypatch.setattr(_cached.CachedLoader, "_open_store", store)


@pytest.mark.parametrize("images", [0, 15, TRAIN])
@pytest.mark.parametrize("more", [{}, {"balance": 0.9}])
def test_device_keeps_the_same(make, on_device, images, more):
    options = {**AUGMENTED, **more}
    plain = make(**options)
    loader = make(cache="device", cache_gb=max(gb(images), 1e-9), **options)
    assert loader.kept[:2] == ("device", images)
    for number in range(3):
        assert same(collect(loader.epoch(number)), collect(plain.epoch(number)))
    if images == TRAIN and not more:
        assert asked(loader) == [*range(TRAIN)]


def test_device_skips_the_same(make, on_device, damaged):
    options = {"source": damaged, "on_corrupt": "skip", **AUGMENTED}
    plain, loader = make(**options), make(cache="device", cache_gb=gb(20), **options)
    for number in range(3):
        assert same(collect(loader.epoch(number)), collect(plain.epoch(number)))
    assert len(loader.skipped) == 6


@pytest.mark.parametrize("flip", [flip_batch, flip_on_device])
def test_flips_of_a_batch_are_those_of_the_plan(flip):
    images = torch.arange(4 * 2 * 3 * 3, dtype=torch.uint8).reshape(4, 2, 3, 3)
    flips = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.bool_)
    flipped = images.clone()
    flip(flipped, flips)
    for image, was, (left_right, upside_down) in zip(
        flipped, images, flips.tolist(), strict=True
    ):
        assert torch.equal(image, was.flip([1] * left_right + [0] * upside_down))


@pytest.fixture
def copied_to_gpu(monkeypatch):
    """Bring batches to the device as on a GPU, with streams that do nothing."""
    nothing = Mock()
    monkeypatch.setattr("torch.cuda.Stream", lambda device: nothing)
    monkeypatch.setattr("torch.cuda.stream", lambda stream: nullcontext())
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: nothing)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *words: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(_epoch.Made, "to", lambda made, *words, **more: made)


@pytest.mark.parametrize("images", [15, TRAIN])
@pytest.mark.parametrize("cache", ["memory", "folder"])
def test_memory_serves_a_gpu(make, copied_to_gpu, damaged, cache, images):
    options = {"source": damaged, "on_corrupt": "skip", **AUGMENTED}
    plain, loader = make(**options), make(cache=cache, cache_gb=gb(images), **options)
    loader.device = torch.device("cuda", 0)
    for number in range(3):
        assert same(collect(loader.epoch(number)), collect(plain.epoch(number)))
        decoded = {4, 19, *range(images, TRAIN)} if number else {*range(TRAIN)}
        assert asked(loader) == sorted(decoded)
    assert len(loader.skipped) == 6


# ------------------------------------------------------------------ what can't be kept


@pytest.mark.skipif("dali-reader" not in available(), reason="DALI is not installed")
def test_loader_that_cannot_be_asked_for_images_is_refused(shards):
    with pytest.raises(LoaderError) as caught:
        make_loader("dali-reader", shards, "train", LoaderConfig(cache="memory"))
    assert str(caught.value) == (
        "the dali-reader loader can't keep decoded images, as it can't be asked for "
        "those that are missing: pass --loader dali, or --cache none"
    )


def test_device_of_the_processor_is_its_memory(make):
    assert make(cache="device").kept.place == "memory"
    assert make().kept is None
