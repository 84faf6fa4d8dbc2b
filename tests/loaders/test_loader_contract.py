"""What every loader promises, tried on every loader that is installed here."""

import gc
import os
import pickle
import random
import shutil
import signal
import threading
import time
from collections import deque
from contextlib import nullcontext, suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from resealed import reseal, without_checksums

from loaders import LOADERS, LoaderConfig, _epoch, available, make_loader, open_split
from loaders.base import Batch, Reading
from loaders.errors import LoaderError, SampleError, ShardError
from loaders.folder import FolderSource, RetinopathyDataset
from loaders.order import EpochOrder, flips

# Processes for pil, where 0 is none; threads for turbo. Later loaders join by name.
WORKERS = {"pil": (0, 2), "turbo": (1, 2), "webdataset": (1, 3)}


class Variant(NamedTuple):
    """A loader to try; ``keeps`` decoded images, ``warm`` all that there are."""

    name: str
    workers: int
    keeps: str = ""
    warm: bool = False

    def __str__(self):
        words = [self.name, str(self.workers)]
        words += ["keeps", self.keeps] if self.keeps else []
        return "-".join([*words, "warm"] if self.warm else words)


VARIANTS = [Variant(name, n) for name in available() for n in WORKERS.get(name, (2,))]
VARIANTS += [
    variant
    for variant in (
        Variant("turbo", 2, "memory"),
        Variant("turbo", 2, "folder", warm=True),
        Variant("dali", 2, "memory", warm=True),
        Variant("dali", 2, "folder"),
    )
    if variant.name in available()
]
COMMON_ORDER = [variant for variant in VARIANTS if not LOADERS[variant[0]].own_order]

# Loaders that start processes per epoch are tried for fewer of them.
pytestmark = [
    # Python 3.12 warns of any fork beside threads, and torch's own are always there.
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
    pytest.mark.timeout(60),
]

TRAIN = 37  # samples in the fixture's split, in shards of 10
AUGMENTED = {"shuffle": True, "hflip": 0.4, "vflip": 0.5}


def pytest_generate_tests(metafunc):
    """Every loader; no own order where a test is ``common_order``."""
    if "variant" not in metafunc.fixturenames:
        return
    common = metafunc.definition.get_closest_marker("common_order")
    variants = COMMON_ORDER if common else VARIANTS
    names = [str(variant) for variant in variants]
    if "source" not in metafunc.fixturenames:
        metafunc.parametrize("variant", variants, ids=names)
        return
    both = [
        pytest.param(variant, kind, id=f"{name}-{kind}")
        for variant, name in zip(variants, names, strict=True)
        for kind in ("shards", "folder")
        if kind == "shards" or variant in COMMON_ORDER
    ]
    metafunc.parametrize(("variant", "kind"), both)


common_order = pytest.mark.common_order


@pytest.fixture
def make(variant, shards, tmp_path):
    """Opens loaders of one kind, and closes them."""
    name, workers, keeps, warm = variant
    opened = []

    def cache(source):
        """A folder for each, as an image is known by the hash in the index."""
        if keeps != "folder":
            return keeps or None
        return tmp_path / f"kept-{abs(hash(str(getattr(source, 'folder', source))))}"

    def make(source=shards, split="train", *, warm=warm, **options):
        defaults = {"workers": workers, "batch_size": 8, "cache": cache(source)}
        config = LoaderConfig(**{**defaults, **options})
        opened.append(make_loader(name, source, split, config))
        if warm:  # with all that can be decoded, and nothing counted of it
            with suppress(ShardError, RuntimeError):
                deque(opened[-1]._epoch_batches(0, 0), maxlen=0)
        return opened[-1]

    yield make
    for loader in opened:
        loader.close()


@pytest.fixture
def source(kind, shards, course):
    """Both kinds of source, with the same 37 samples in different orders."""
    if kind == "shards":
        return open_split(shards, "train")
    return FolderSource(RetinopathyDataset(course / "data", "train"))


def collect(batches):
    """Copies of all batches, as lists of (images, labels, index)."""
    return [tuple(part.clone() for part in batch) for batch in batches]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b)
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )


def indices(batches):
    return [batch[2].tolist() for batch in batches]


def flat(batches):
    return [row for rows in indices(batches) for row in rows]


# ---------------------------------------------------------------- what an epoch holds


@pytest.mark.parametrize("shuffle", [False, True])
def test_epoch_visits_every_index_once(make, source, shuffle):
    rows = flat(make(source, shuffle=shuffle).epoch(0))
    assert sorted(rows) == list(range(TRAIN))
    assert (rows == list(range(TRAIN))) is not shuffle


@common_order
def test_order_is_that_of_order_py(make, source):
    rows = flat(make(source, seed=4, shuffle=True, window=2).epoch(3))
    order = EpochOrder(sizes=source.shard_sizes, seed=4, epoch=3, window=2)
    assert rows == order.rows(0, TRAIN).tolist()


def test_labels_are_those_of_the_index(make, source):
    grades = source.labels
    assert len(set(grades.tolist())) == 5
    for batch in make(source, shuffle=True).epoch(0):
        assert batch.labels.tolist() == grades[batch.index].tolist()


def test_images_are_flipped_as_order_py_says(make, source):
    plain = {}
    for images, _, index in make(source).epoch(0):
        plain |= zip(index.tolist(), images.clone(), strict=True)
    kinds = set()
    for images, _, index in make(source, seed=5, **AUGMENTED).epoch(2):
        mirrored = flips(5, 2, index.numpy(), (0.4, 0.5)).tolist()
        for image, row, (left_right, upside_down) in zip(
            images, index.tolist(), mirrored, strict=True
        ):
            dims = [1] * left_right + [0] * upside_down
            assert torch.equal(image, plain[row].flip(dims)), (row, dims)
            kinds.add((left_right, upside_down))
    assert len(kinds) == 4


def test_batch_is_uint8_bhwc_on_loader_device(make, source):
    loader = make(source, **AUGMENTED)
    assert loader.device == torch.device("cpu")
    for batch in loader.epoch(0):
        size = len(batch.index)
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape == (size, 64, 64, 3)
        assert batch.labels.dtype == batch.index.dtype == torch.int64
        assert batch.labels.shape == batch.index.shape == (size,)
        assert {part.device for part in batch} == {loader.device}


def test_permuted_batch_is_channels_last_without_a_copy(make):
    for batch in make().epoch(0):
        bchw = batch.images.permute(0, 3, 1, 2)
        assert bchw.is_contiguous(memory_format=torch.channels_last)
        assert bchw.data_ptr() == batch.images.data_ptr()


def test_image_size_resizes(make):
    images = next(make(image_size=32).epoch(0)).images
    assert images.shape == (8, 32, 32, 3)
    whole = next(make().epoch(0)).images.float()
    averaged = whole.reshape(8, 32, 2, 32, 2, 3).mean((2, 4))
    assert (images.float() - averaged).abs().mean() < 8  # the same picture, smaller


# ------------------------------------------------------------------- lengths and ends


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "lengths"),
    [
        (8, False, [8, 8, 8, 8, 5]),
        (8, True, [8, 8, 8, 8]),
        (37, True, [37]),
        (100, False, [37]),
        (100, True, []),
        (36, False, [36, 1]),
    ],
)
def test_len_matches_batches(make, batch_size, drop_last, lengths):
    loader = make(batch_size=batch_size, drop_last=drop_last, shuffle=True)
    assert len(loader) == len(lengths)
    assert [len(rows) for rows in indices(loader.epoch(0))] == lengths


@pytest.mark.parametrize("shuffle", [False, True])
def test_no_samples_make_no_batches(make, shards, shuffle):
    nothing = open_split(shards, "train").select(np.empty(0, np.int64))
    loader = make(nothing, shuffle=shuffle)
    assert len(loader) == 0
    assert list(loader.epoch(0)) == []


@common_order
def test_no_samples_make_no_balanced_batches(make, shards):
    nothing = open_split(shards, "train").select(np.empty(0, np.int64))
    assert list(make(nothing, shuffle=True, balance=1.0).epoch(0)) == []


def test_one_sample_is_a_batch(make, shards):
    one = open_split(shards, "train").select(np.array([23]))
    batches = collect(make(one, **AUGMENTED).epoch(0))
    assert indices(batches) == [[23]]
    assert batches[0][0].shape == (1, 64, 64, 3)


def test_selected_rows_keep_their_numbers(make, shards):
    part = open_split(shards, "train").select(np.array([36, 5, 11, 30]))
    for batch in make(part, shuffle=True).epoch(0):
        assert sorted(batch.index.tolist()) == [5, 11, 30, 36]
        assert batch.labels.tolist() == part.labels[batch.index].tolist()


def test_mixed_sizes_without_image_size_are_refused(make, mixed):
    with pytest.raises(ShardError, match="2 different sizes") as caught:
        make(mixed)
    assert "--image-size" in str(caught.value)
    assert "48x32" in str(caught.value)  # width first, as people write it


def test_mixed_sizes_with_image_size_are_resized(make, mixed):
    batches = collect(make(mixed, image_size=40).epoch(0))
    assert batches[0][0].shape == (8, 40, 40, 3)
    assert sorted(flat(batches)) == list(range(9))


@pytest.fixture(scope="module")
def mixed(make_course, tmp_path_factory):
    """Shards of nine photographs, one of them of 48x32 pixels."""
    from fastretina.shard import command as shard

    root = tmp_path_factory.mktemp("mixed")
    course = make_course(root / "course", train=9, test=2)
    path = course / "data" / "11_right.jpeg"
    Image.open(path).resize((48, 32)).save(path)
    assert shard.main([str(course), str(root / "shards"), "--workers", "1"]) == 0
    return root / "shards"


# --------------------------------------------------------------------------- repeats


def test_same_seed_and_epoch_repeat(make, source):
    loader = make(source, seed=9, **AUGMENTED)
    first = collect(loader.epoch(1))
    collect(loader.epoch(2))
    assert same(collect(loader.epoch(1)), first)
    assert same(collect(make(source, seed=9, **AUGMENTED).epoch(1)), first)


def test_next_epoch_and_next_seed_differ(make):
    loader = make(**AUGMENTED)
    first = collect(loader.epoch(0))
    assert flat(collect(loader.epoch(1))) != flat(first)
    assert flat(collect(make(seed=1, **AUGMENTED).epoch(0))) != flat(first)


def test_without_shuffle_only_flips_differ_between_epochs(make):
    loader = make(hflip=0.5)
    one, other = collect(loader.epoch(0)), collect(loader.epoch(1))
    assert flat(one) == flat(other) == list(range(TRAIN))
    assert not same(one, other)


@pytest.mark.parametrize("drop_last", [False, True])
def test_first_batch_continues_the_very_sequence(make, drop_last):
    check_every_first_batch(make(batch_size=11, drop_last=drop_last, **AUGMENTED))


@common_order
def test_first_batch_continues_a_balanced_sequence(make):
    check_every_first_batch(make(batch_size=11, balance=0.7, **AUGMENTED))


def check_every_first_batch(loader):
    whole = collect(loader.epoch(3))
    for first in range(len(loader) + 2):
        assert same(collect(loader.epoch(3, first_batch=first)), whole[first:])


@pytest.mark.parametrize(("number", "first"), [(-1, 0), (0, -1)])
def test_negative_place_is_refused_where_it_is_given(make, number, first):
    loader = make()
    with pytest.raises(ValueError, match="must be at least 0, got"):
        loader.epoch(number, first)


@common_order
def test_balance_repeats_and_draws_rare_grades_more_often(make):
    loader = make(balance=1.0, **AUGMENTED)
    first = collect(loader.epoch(0))
    assert same(collect(loader.epoch(0)), first)
    rows = flat(first)
    assert len(rows) == TRAIN
    assert len(set(rows)) < TRAIN  # with replacement
    grades = torch.cat([labels for _, labels, _ in first])
    assert (grades == 0).sum() < TRAIN / 2  # 29 of the 37 samples are
    assert flat(collect(loader.epoch(1))) != rows


@common_order
def test_balanced_images_are_flipped_by_their_place_in_the_epoch(make):
    plain = {}
    for images, _, index in make().epoch(0):
        plain |= zip(index.tolist(), images.clone(), strict=True)
    mirrored = flips(5, 2, np.arange(TRAIN), (0.4, 0.5)).tolist()
    place = 0
    for images, _, index in make(seed=5, balance=1.0, **AUGMENTED).epoch(2):
        for image, row in zip(images, index.tolist(), strict=True):
            left_right, upside_down = mirrored[place]
            dims = [1] * left_right + [0] * upside_down
            assert torch.equal(image, plain[row].flip(dims)), (place, row)
            place += 1
    assert place == TRAIN


@common_order
def test_balance_decay_lets_go_of_balance(make):
    loader = make(balance=1.0, balance_decay=0.0, shuffle=True)
    zeros = [
        sum((batch.labels == 0).sum().item() for batch in loader.epoch(n))
        for n in (0, 1)
    ]
    assert zeros[0] < TRAIN / 2 < zeros[1]


@common_order
def test_sample_drawn_twice_is_not_flipped_the_same_each_time(make, shards):
    few = open_split(shards, "train").select(np.array([0, 1, 2, 15]))
    looks = {}
    loader = make(few, balance=1.0, batch_size=4, **AUGMENTED)
    for number in range(3):
        for images, _, index in loader.epoch(number):
            for image, row in zip(images, index.tolist(), strict=True):
                looks.setdefault((number, row), []).append(image.numpy().tobytes())
    repeated = [images for images in looks.values() if len(images) > 1]
    assert repeated
    assert any(len(set(images)) > 1 for images in repeated)


def test_global_random_state_is_left_alone(make):
    torch.manual_seed(123)
    torch.rand(5)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    collect(make(**AUGMENTED).epoch(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    after = np.random.get_state()
    assert all(np.array_equal(a, b) for a, b in zip(before[1], after, strict=True))
    assert random.getstate() == before[2]


def test_global_seed_changes_nothing(make):
    epochs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        epochs.append(collect(make(**AUGMENTED).epoch(0)))
    assert same(*epochs)


# ---------------------------------------------------------------- one epoch, the next


def test_iterating_takes_one_epoch_after_the_other(make, source):
    loader = make(source, batch_size=16, **AUGMENTED)
    wanted = [collect(loader.epoch(number)) for number in range(3)]
    assert len({str(flat(epoch)) for epoch in wanted}) == 3
    another = make(source, batch_size=16, **AUGMENTED)
    for epoch in wanted:
        assert len(another) == len(epoch)
        assert same(collect(another), epoch)


def test_iterating_goes_on_behind_the_epoch_begun_last(make):
    loader = make(batch_size=16, **AUGMENTED)
    wanted = {number: collect(loader.epoch(number)) for number in (1, 5)}
    assert same(collect(loader.epoch(4, first_batch=2)), collect(loader.epoch(4))[2:])
    assert same(collect(loader), wanted[5])
    collect(loader.epoch(0))  # back to it, such as for another run
    assert same(collect(loader), wanted[1])


def iterate_and_break(loader):
    for _ in loader:
        break


def test_iterating_again_after_a_break_is_the_next_epoch(make, shards):
    """And what was broken off leaves nothing behind."""
    loader = make(batch_size=4, **AUGMENTED)
    second = collect(loader.epoch(1))
    loader.close()
    gc.collect()  # of the tests before
    before = held(shards)
    another = make(batch_size=4, **AUGMENTED)
    iterate_and_break(another)
    assert ends(before, shards, WORKERS_ONLY)
    found = collect(another)
    another.close()
    assert ends(before, shards)
    assert same(found, second)


def test_epoch_of_which_no_batch_was_asked_for_does_not_count(make):
    """Lightning asks for an iterator before the first epoch, and again for it."""
    loader = make(batch_size=16, **AUGMENTED)
    wanted = collect(loader.epoch(0))
    another = make(batch_size=16, **AUGMENTED)
    another.epoch(7)
    old = iter(another)
    assert same(collect(another), wanted)
    assert list(old) == []


# ------------------------------------------------------------------------ the device


def test_auto_is_the_device_that_is_there(make):
    loader = make(device="auto")
    here = "cuda" if torch.cuda.is_available() else "cpu"
    assert loader.device.type == here
    for batch in loader:
        assert {part.device for part in batch} == {loader.device}


def test_gpu_that_is_not_there_is_one_clear_error(make, monkeypatch):
    """Where it is asked for, and not at the first batch from deep within torch."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for device in ("cuda", "cuda:1"):
        with pytest.raises(LoaderError) as caught:
            make(device=device)
        assert str(caught.value) == (
            f"device {device} is not here: 0 CUDA devices found; auto takes what is "
            "there"
        )


# ----------------------------------------------------------------------------- ranks


@common_order
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [6, 12])
def test_ranks_together_make_the_batches_of_one(make, batch_size, drop_last):
    options = {"batch_size": batch_size, "drop_last": drop_last, **AUGMENTED}
    whole = collect(make(**options).epoch(1))
    ranks = [make(rank=rank, world_size=3, **options) for rank in range(3)]
    assert {len(loader) for loader in ranks} == {len(whole)}
    parts = [collect(loader.epoch(1)) for loader in ranks]
    joined = [
        tuple(torch.cat(pieces) for pieces in zip(*batches, strict=True))
        for batches in zip(*parts, strict=True)
    ]
    assert same(joined, whole)
    sizes = [[len(index) for _, _, index in part] for part in parts]
    full = TRAIN // batch_size
    assert all(size[:full] == [batch_size // 3] * full for size in sizes)


def test_ranks_together_see_every_sample_once(make):
    options = {"batch_size": 6, **AUGMENTED}
    ranks = [make(rank=rank, world_size=3, **options) for rank in range(3)]
    parts = [collect(loader.epoch(1)) for loader in ranks]
    assert sorted(row for part in parts for row in flat(part)) == list(range(TRAIN))
    assert {len(part) for part in parts} == {len(ranks[0])}


def test_rank_without_a_sample_still_gets_its_batch(make):
    """37 samples in batches of 6 leave one for the last batch, and three ranks."""
    lengths = []
    for rank in range(3):
        *_, last = make(batch_size=6, rank=rank, world_size=3).epoch(0)
        assert last.images.shape == (len(last.index), 64, 64, 3)
        assert last.images.dtype == torch.uint8
        assert last.labels.dtype == torch.int64
        lengths.append(len(last.index))
    assert sorted(lengths) == [0, 0, 1]


@common_order
def test_ranks_draw_one_balanced_epoch_between_them(make):
    options = {"batch_size": 6, "balance": 0.5, **AUGMENTED}
    whole = collect(make(**options).epoch(0))
    parts = [collect(make(rank=r, world_size=2, **options).epoch(0)) for r in range(2)]
    for batch, *halves in zip(whole, *parts, strict=True):
        assert torch.equal(batch[0], torch.cat([half[0] for half in halves]))


# ------------------------------------------------------------ memory, threads, endings


def held(folder):
    """Threads, child processes and file descriptors, and maps of a folder."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {
        "threads": set(threading.enumerate()),
        "children": {child.pid for child in psutil.Process().children(recursive=True)},
        "fds": len(os.listdir("/proc/self/fd")),
        "maps": {line for line in maps if f"{folder}/" in line},
    }


WORKERS_ONLY = ("threads", "children")


def ends(before, folder, kinds=("threads", "children", "fds", "maps")):
    """Whether nothing is held any more beyond what was held before.

    What was told to end may take a moment, such as the feeder threads of queues.
    """
    for _ in range(200):
        now = held(folder)
        if all(now[kind] <= before[kind] for kind in kinds):
            return True
        time.sleep(0.005)
    return False


def take_one_and_break(loader):
    for _ in loader.epoch(0):
        break


def take_one_and_drop(loader):
    batches = loader.epoch(0)
    next(batches)
    del batches


def never_start(loader):
    loader.epoch(0)


def take_one_and_keep(loader):
    batches = loader.epoch(0)
    next(batches)
    return batches


def keep_without_starting(loader):
    return loader.epoch(0)


@pytest.mark.parametrize(
    "abandon",
    [
        take_one_and_break,
        take_one_and_drop,
        never_start,
        take_one_and_keep,
        keep_without_starting,
        lambda loader: collect(loader.epoch(0)) and None,
    ],
    ids=["break", "drop", "unstarted", "keep", "keep-unstarted", "exhaust"],
)
def test_abandoned_epoch_leaves_nothing_behind(make, shards, abandon):
    loader = make(shuffle=True, batch_size=4)
    collect(loader.epoch(1))  # what starts once has started
    loader.close()
    gc.collect()  # of the tests before
    before = held(shards)
    assert not before["maps"]
    kept = abandon(loader)
    if kept is None:  # nobody holds the epoch: it has ended there and then
        assert ends(before, shards, WORKERS_ONLY)
    loader.close()
    assert ends(before, shards)
    assert list(kept or []) == []


def test_closed_loader_holds_no_map(make, shards):
    loader = make(shuffle=True)
    batches = loader.epoch(0)
    next(batches)
    loader.close()
    assert held(shards)["maps"] == set()


def test_closed_loader_leaves_no_thread_of_the_systems(make):
    """Such as DALI's, which Python knows nothing of."""

    def use():
        loader = make(**AUGMENTED)
        next(loader.epoch(0))
        loader.close()

    use()  # what starts once, and stays
    before = psutil.Process().num_threads()
    for _ in range(3):
        use()
    for _ in range(200):
        if psutil.Process().num_threads() <= before:
            return
        time.sleep(0.005)
    assert psutil.Process().num_threads() <= before


def test_with_block_closes_even_on_failure(make, shards):
    collect(make().epoch(0))
    before = held(shards)
    loader = make(batch_size=4)

    def fail():
        with loader:
            next(batches)
            raise KeyError("in training")

    batches = loader.epoch(0)
    with pytest.raises(KeyError):
        fail()
    assert ends(before, shards, WORKERS_ONLY)
    with pytest.raises(StopIteration):
        next(batches)


def test_new_epoch_ends_the_one_before(make):
    loader = make(batch_size=4, **AUGMENTED)
    wanted = collect(loader.epoch(1))
    old = loader.epoch(0)
    next(old)
    new = loader.epoch(1)
    with pytest.raises(StopIteration):
        next(old)
    assert same(collect(new), wanted)


def test_close_twice_and_use_again(make):
    loader = make(**AUGMENTED)
    wanted = collect(loader.epoch(0))
    loader.close()
    loader.close()
    assert same(collect(loader.epoch(0)), wanted)


def test_close_before_any_epoch(make):
    make().close()


def test_batch_stays_valid_until_the_next_but_one_is_taken(make):
    for prefetch in (1, 3):
        loader = make(batch_size=2, shuffle=True, prefetch=prefetch)
        batches = loader.epoch(0)
        one = next(batches)
        for two in batches:
            wanted = [part.clone() for part in one], [part.clone() for part in two]
            time.sleep(0.005)  # give whatever is made ahead the time to be made
            assert same([one, two], wanted)
            one = two


def test_batch_taken_stays_valid_while_the_next_is_waited_for(make):
    loader = make(batch_size=2, shuffle=True)
    wanted = collect(loader.epoch(0))
    batches = loader.epoch(0)
    one = next(batches)
    for place, two in enumerate(batches):
        time.sleep(0.005)
        assert same([one, two], wanted[place : place + 2])
        one = two


@pytest.mark.parametrize("taken", [2, 5])
def test_batch_stays_valid_into_the_next_epoch(make, taken):
    """Whether its own epoch was exhausted (at 5 batches) or abandoned."""
    loader = make(**AUGMENTED)
    for number in range(3):  # a ring of buffers may stand at any of its places
        batches = loader.epoch(number)
        for batch in islice(batches, taken):
            last = batch
        wanted = [part.clone() for part in last]
        first = next(loader.epoch(number + 1))
        time.sleep(0.005)
        assert same([last], [wanted])
        assert len(first.index) == 8


def test_two_loaders_at_once_do_not_mix(make, shards):
    def open_both():
        return make(seed=1, **AUGMENTED), make(split="test", seed=2, **AUGMENTED)

    wanted = [collect(loader.epoch(0)) for loader in open_both()]
    one, other = open_both()
    left, right = one.epoch(0), other.epoch(0)
    mixed = [], []
    for _ in range(6):
        mixed[0].extend(collect(islice(left, 1)))
        mixed[1].extend(collect(islice(right, 1)))
    assert same(mixed[0], wanted[0])
    assert same(mixed[1], wanted[1])


def test_loaders_share_an_open_source(make, shards):
    split = open_split(shards, "train")
    one, other = make(split, **AUGMENTED), make(split, **AUGMENTED)
    wanted = collect(one.epoch(0))
    batches = other.epoch(0)
    first = collect(islice(batches, 1))
    one.close()  # closes the source, too
    assert same(first + collect(batches), wanted)


def test_many_epochs_grow_nothing(make, variant):
    process = psutil.Process()
    begins_anew = {("pil", 2): 10, ("dali-reader", 2): 60}  # takes 40 to 60 ms
    epochs = begins_anew.get(variant[:2], 200)
    loader = make(split="test", batch_size=4, **AUGMENTED)

    def run(first, last):
        for number in range(first, last):
            batches = loader.epoch(number)
            for _ in range(1 + number % 3):  # to the end only in every third
                next(batches, None)

    def kept():
        """Descriptors, threads and child processes."""
        children = process.children(recursive=True)
        return process.num_fds(), process.num_threads(), len(children)

    run(0, min(epochs, 50))
    memory, before = process.memory_info().rss, kept()
    run(50, 50 + epochs)
    assert process.memory_info().rss - memory < 16 * 2**20
    for _ in range(200):  # what is ending right now may still be counted
        after = kept()
        if all(now <= then + 3 for now, then in zip(after, before, strict=True)):
            return
        time.sleep(0.02)
    raise AssertionError(f"{before} grew to {after}")


# ---------------------------------------------------------------------- damaged images

BAD = 19  # in the second shard, and in the third batch of 8


def with_rubbish(folder, place=BAD):
    """Zeros in place of the image's first 200 bytes."""
    row = pq.read_table(folder / "train.parquet").slice(place, 1).to_pylist()[0]
    with (folder / f"train-{row['shard']:06d}.tar").open("r+b") as tar:
        tar.seek(row["offset"])
        tar.write(bytes(200))
    return folder


def cut_short(folder):
    """Half an image, as the index has it."""
    path = folder / "train.parquet"
    table = pq.read_table(path)
    sizes = table["size"].to_pylist()
    sizes[BAD] //= 2
    place = table.column_names.index("size")
    pq.write_table(table.set_column(place, "size", pa.array(sizes, pa.int64())), path)
    reseal(folder)
    return folder


@pytest.fixture(scope="module", params=[with_rubbish, cut_short])
def damaged(request, shards, tmp_path_factory):
    """The shards with one image spoilt."""
    root = tmp_path_factory.mktemp("damaged")
    return request.param(Path(shutil.copytree(shards, root / "shards")))


def test_damaged_image_names_shard_and_sample(make, damaged):
    with open_split(damaged, "train") as split:
        key = split.key(BAD)
    loader = make(damaged)
    batches = loader.epoch(0)
    assert indices(collect(islice(batches, 2))) == [[*range(8)], [*range(8, 16)]]
    with pytest.raises(SampleError) as caught:
        next(batches)
    assert caught.value.shard == str(damaged / "train-000001.tar")
    assert caught.value.key == key
    assert caught.value.reason
    text = str(caught.value)
    assert text.startswith(f"{caught.value.shard}, sample {key}: ")
    assert "\n" not in text
    assert next(batches, None) is None


def image_at(folder, place=BAD):
    """The tar that an image lies in, where in it, and its bytes."""
    row = pq.read_table(folder / "train.parquet").slice(place, 1).to_pylist()[0]
    tar = folder / f"train-{row['shard']:06d}.tar"
    end = row["offset"] + row["size"]
    return tar, row["offset"], tar.read_bytes()[row["offset"] : end]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda jpeg: bytes(200), "it is no JPEG"),
        (lambda jpeg: jpeg[:2] + bytes(range(200)), "its JPEG header can't be read"),
        (
            lambda jpeg: jpeg.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
            "Unsupported JPEG data precision 12",
        ),
    ],
)
def test_damage_has_one_reason_under_every_loader(
    make, shards, tmp_path, spoil, reason
):
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    tar, offset, jpeg = image_at(folder)
    with tar.open("r+b") as file:
        file.seek(offset)
        assert file.write(spoil(jpeg)) <= len(jpeg)
    with pytest.raises(SampleError) as caught:
        collect(make(folder, verify_reads=False).epoch(0))
    assert caught.value.reason == reason


def test_damage_that_decodes_is_found_by_its_checksum(make, shards, tmp_path):
    """A bit of a quantisation table: every decoder makes another image of it."""
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    tar, offset, jpeg = image_at(folder)
    place = jpeg.index(b"\xff\xdb") + 10
    with tar.open("r+b") as file:
        file.seek(offset + place)
        file.write(bytes([jpeg[place] ^ 1]))
    with open_split(shards, "train") as split:
        key = split.key(BAD)
    with pytest.raises(SampleError, match="as their checksum tells") as caught:
        collect(make(folder).epoch(0))
    assert (caught.value.shard, caught.value.key) == (str(tar), key)
    other = collect(make(folder, verify_reads=False).epoch(0))
    assert not same(other, collect(make(shards).epoch(0)))


def test_shards_without_checksums_are_read_as_before(make, shards, tmp_path):
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    table = pq.read_table(folder / "train.parquet")
    older = table.drop_columns(["crc32c", "components"])
    pq.write_table(older, folder / "train.parquet")
    without_checksums(folder)
    assert same(collect(make(folder).epoch(1)), collect(make(shards).epoch(1)))


def test_half_an_image_has_one_reason_under_every_loader(
    make, variant, shards, tmp_path
):
    folder = cut_short(Path(shutil.copytree(shards, tmp_path / "shards")))
    with pytest.raises(SampleError) as caught:
        collect(make(folder, verify_reads=False).epoch(0))
    assert caught.value.reason == "Premature end of JPEG file"


@common_order
def test_rubbish_then_good_sample(make, shards, damaged):
    wanted = collect(make(shards).epoch(0))
    loader = make(damaged)
    for _ in range(2):
        with pytest.raises(SampleError):
            collect(loader.epoch(0))
        assert same(collect(loader.epoch(0, first_batch=3)), wanted[3:])


@pytest.mark.parametrize("batch_size", [2, 8])
def test_skipped_image_leaves_its_batch_shorter(make, damaged, batch_size):
    """And is named; every other image comes, in both of two epochs."""
    loader = make(damaged, batch_size=batch_size, on_corrupt="skip", **AUGMENTED)
    assert loader.skipped == []
    for number in range(2):
        batches = collect(loader.epoch(number))
        assert len(batches) == len(loader)
        assert sorted(flat(batches)) == [row for row in range(TRAIN) if row != BAD]
        assert all(len(images) == len(index) for images, _, index in batches)
        assert len(loader.skipped) == number + 1
    with open_split(damaged, "train") as split:
        assert {error.key for error in loader.skipped} == {split.key(BAD)}
    assert loader.skipped[0].shard == str(damaged / "train-000001.tar")


@pytest.mark.parametrize("batch_size", [1, 8])
def test_each_batch_is_shorter_by_what_was_skipped_for_it(
    make, shards, tmp_path, batch_size
):
    """And no batch is filled up, or emptied, on account of another."""
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    for place in (BAD, BAD + 1, TRAIN - 2):
        with_rubbish(folder, place)
    loader = make(folder, batch_size=batch_size, on_corrupt="skip", **AUGMENTED)
    lengths, skipped = [], []
    for batch in loader.epoch(0):
        lengths.append(len(batch.index))
        skipped.append(len(loader.skipped))
    planned = [batch_size] * (TRAIN // batch_size) + [5] * (batch_size == 8)
    assert np.add(lengths, np.diff(skipped, prepend=0)).tolist() == planned
    assert skipped[-1] == 3


@common_order
def test_skipped_image_changes_no_other(make, shards, damaged):
    wanted = collect(make(shards, **AUGMENTED).epoch(0))
    found = collect(make(damaged, on_corrupt="skip", **AUGMENTED).epoch(0))
    for theirs, ours in zip(wanted, found, strict=True):
        kept = theirs[2] != BAD
        assert same([ours], [tuple(part[kept] for part in theirs)])


def test_skipped_image_alone_in_its_batch_leaves_it_empty(make, damaged):
    alone = open_split(damaged, "train").select(np.array([BAD]))
    (batch,) = make(alone, on_corrupt="skip").epoch(0)
    assert batch.images.shape == (0, 64, 64, 3)
    assert len(batch.labels) == len(batch.index) == 0


@pytest.fixture
def copies(monkeypatch, variant):
    """Copy batches ahead as on a GPU, with streams and events that do nothing."""
    nothing = Mock()
    monkeypatch.setattr("torch.cuda.Stream", lambda device: nothing)
    monkeypatch.setattr("torch.cuda.stream", lambda stream: nullcontext())
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: nothing)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *words: None)
    names = [LOADERS[variant.name].module, *["loaders._cached"] * bool(variant.keeps)]
    for module in map(import_module, names):
        if hasattr(module, "to_device"):  # DALI decodes there
            monkeypatch.setattr(module, "to_device", _epoch._copy_ahead)


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("batch_size", [4, 19])
def test_skipped_image_counts_when_its_batch_is_handed_out(
    make, damaged, batch_size, gpu, request
):
    """A checkpoint must hold what was skipped until then, and a resumed run the rest.

    BAD is the last of its batch, or the first.
    """
    if gpu:
        request.getfixturevalue("copies")
    loader = make(damaged, batch_size=batch_size, on_corrupt="skip")
    meets = BAD // batch_size
    counts = [len(loader.skipped) for _ in loader.epoch(0)]
    assert counts == [int(place >= meets) for place in range(len(loader))]
    loader.skipped.clear()
    for _ in range(2):  # abandoned just before it, with the next batch in the making
        batches = loader.epoch(0)
        collect(islice(batches, meets))
        assert loader.skipped == []
    collect(loader.epoch(0, first_batch=meets + 1))
    assert loader.skipped == []
    collect(loader.epoch(0, first_batch=meets))
    assert len(loader.skipped) == 1


def test_batches_before_a_broken_shard_come_from_a_gpu_too(copies):
    def decoded():
        for row in range(2):
            zeros = torch.zeros(1, dtype=torch.int64)
            yield _epoch.Made(Batch(torch.zeros(1, 2, 2, 3), zeros, zeros + row))
        raise ShardError("train-000000.tar is cut short")

    batches = _epoch._copy_ahead(decoded(), torch.device("cpu"))
    assert [next(batches).batch.index.tolist() for _ in range(2)] == [[0], [1]]
    with pytest.raises(ShardError, match="cut short"):
        next(batches)


@pytest.mark.parametrize("taken", [1, 2])
def test_abandoned_epoch_waits_for_its_copies_to_a_gpu(copies, monkeypatch, taken):
    """Before its slots are let go of, which the next epoch fills again."""
    ended = []
    stream = Mock()
    stream.synchronize.side_effect = lambda: ended.append("copied")
    monkeypatch.setattr("torch.cuda.Stream", lambda device: stream)

    def decoded():
        try:
            for row in range(3):
                zeros = torch.zeros(1, dtype=torch.int64)
                yield _epoch.Made(Batch(torch.zeros(1, 2, 2, 3), zeros, zeros + row))
        finally:
            ended.append("let go")

    batches = _epoch._copy_ahead(decoded(), torch.device("cpu"))
    assert len(list(islice(batches, taken))) == taken
    batches.close()
    assert ended == ["copied", "let go"]


def test_batches_before_a_bad_image_come_from_a_gpu_too(make, damaged, copies):
    batches = make(damaged, batch_size=8).epoch(0)
    assert indices(islice(batches, 2)) == [[*range(8)], [*range(8, 16)]]
    with pytest.raises(SampleError):
        next(batches)


@pytest.mark.parametrize("batch_size", [6, 12])
def test_ranks_skip_an_image_and_stay_in_step(make, damaged, batch_size):
    options = {"batch_size": batch_size, "on_corrupt": "skip", **AUGMENTED}
    ranks = [make(damaged, rank=rank, world_size=3, **options) for rank in range(3)]
    parts = [collect(loader.epoch(0)) for loader in ranks]
    assert len({len(part) for part in parts}) == 1
    rows = sorted(row for part in parts for row in flat(part))
    assert rows == [row for row in range(TRAIN) if row != BAD]


def test_failed_epoch_leaves_no_workers(make, damaged):
    loader = make(damaged, batch_size=2)
    collect(make(split="test").epoch(0))
    before = held(damaged)
    with pytest.raises(SampleError) as caught:
        collect(loader.epoch(0))
    assert ends(before, damaged, WORKERS_ONLY)
    loader.close()
    assert held(damaged)["maps"] == set()
    assert caught.value.key


@common_order
def test_damaged_image_of_a_rank_is_only_that_ranks(make, damaged):
    options = {"batch_size": 8, "world_size": 2}
    collect(make(damaged, rank=1, **options).epoch(0))  # rows 20 to 23 of that batch
    with pytest.raises(SampleError):
        collect(make(damaged, rank=0, **options).epoch(0))


@common_order
@pytest.mark.parametrize("length", [0, 400, 1500])  # nothing, half a header, half
def test_damaged_file_of_a_folder_is_named(make, make_course, tmp_path, length):
    course = make_course(tmp_path / "course", train=9, test=2)
    path = course / "data" / "12_left.jpeg"
    path.write_bytes(path.read_bytes()[:length])
    source = FolderSource(RetinopathyDataset(course / "data", "train"))
    with pytest.raises(SampleError) as caught:
        collect(make(source, batch_size=2).epoch(0))
    assert (caught.value.shard, caught.value.key) == (str(path), "12_left")
    assert "; replace that file" in str(caught.value)  # no shard is there to write anew
    reasons = {0: "it is empty", 400: "its JPEG header can't be read"}
    assert caught.value.reason == reasons.get(length, "Premature end of JPEG file")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@common_order
@pytest.mark.parametrize("on_corrupt", ["raise", "skip"])
def test_file_gone_from_a_folder_is_named(make, make_course, tmp_path, on_corrupt):
    """It may be as good as any: what can't be read is no corrupt image."""
    course = make_course(tmp_path / "course", train=9, test=2)
    source = FolderSource(RetinopathyDataset(course / "data", "train"))
    loader = make(source, batch_size=2, on_corrupt=on_corrupt, warm=False)
    (course / "data" / "12_left.jpeg").unlink()
    with pytest.raises(FileNotFoundError, match=r"12_left\.jpeg"):
        collect(loader.epoch(0))


def test_shard_cut_short_under_a_loader_is_one_clear_error(make, shards, tmp_path):
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    loader = make(folder, warm=False)
    os.truncate(folder / "train-000001.tar", 4096)
    with pytest.raises(ShardError, match=r"train-000001\.tar .*cut short"):
        collect(loader.epoch(0))


class Broken:
    """A source with a bug in it."""

    def __init__(self, source):
        self._source = source
        self.rows, self.labels = source.rows, source.labels
        self.shard_sizes, self.dimensions = source.shard_sizes, source.dimensions
        self.close, self.failure = source.close, source.failure

    def read(self, row):
        if row == 9:
            raise RuntimeError("a bug of ours")
        return self._source.read(row)

    def reading(self, rows, *, verify=True):
        return Reading(lambda place: self.read(int(rows[place])))


@common_order
@pytest.mark.timeout(20)
def test_unforeseen_failure_is_raised_and_not_waited_for(make, variant, shards):
    if variant.keeps == "folder":
        pytest.skip("what is no shards is read as a whole where the loader is opened")
    loader = make(Broken(open_split(shards, "train")))
    collect(make(split="test").epoch(0))
    before = held(shards)
    batches = loader.epoch(0)
    assert next(batches).index.tolist() == [*range(8)]
    with pytest.raises(RuntimeError, match="a bug of ours") as caught:
        next(batches)
    assert ends(before, shards, WORKERS_ONLY)  # even while somebody keeps the error
    assert caught.value
    assert flat(collect(loader.epoch(0, first_batch=2))) == [*range(16, TRAIN)]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["turbo", "webdataset"])
def test_no_memory_for_a_decoder_is_raised_and_not_waited_for(
    shards, monkeypatch, name
):
    def fails():
        raise MemoryError

    config = LoaderConfig(batch_size=8, workers=2)
    with make_loader(name, shards, "train", config) as loader:
        before = held(shards)
        with monkeypatch.context() as patched:
            patched.setattr("loaders._threads.Decoder", fails)
            with pytest.raises(MemoryError):
                next(loader.epoch(0))
        assert ends(before, shards, WORKERS_ONLY)
        assert len(collect(loader.epoch(0))) == len(loader)


def test_pil_workers_leave_signals_to_their_parent(shards):
    # Slurm, systemd and docker may signal the whole group; the parent has to save.
    config = LoaderConfig(batch_size=4, workers=2)
    with make_loader("pil", shards, "train", config) as loader:
        batches = loader.epoch(0)
        seen = [next(batches).index, next(batches).index]  # of either, so both are up
        for worker in psutil.Process().children():
            os.kill(worker.pid, signal.SIGTERM)
            os.kill(worker.pid, signal.SIGINT)
        seen += [batch.index for batch in batches]
    assert torch.cat(seen).tolist() == list(range(37))


# ------------------------------------------------------------- orders of loaders' own


@pytest.fixture(params=[n for n in available() if LOADERS[n].own_order])
def own(request):
    return request.param


def test_loader_that_reads_whole_shards_cannot_balance(own, shards):
    config = LoaderConfig(shuffle=True, balance=0.5)
    with pytest.raises(ValueError, match=f"balance must be 0 with the {own} loader"):
        make_loader(own, shards, "train", config)


def test_loader_that_reads_whole_shards_takes_no_folder(own, course):
    source = FolderSource(RetinopathyDataset(course / "data", "train"))
    with pytest.raises(LoaderError, match=f"the {own} loader reads shards"):
        make_loader(own, source, "train", LoaderConfig())


def test_ranks_of_whole_shards_share_few_of_them(own, shards):
    """37 samples in shards of 10: a rank of two reads two shards, or three."""
    config = {"batch_size": 4, "world_size": 2, "workers": 2, "shuffle": True}
    seen = []
    with open_split(shards, "train") as split:
        for rank in range(2):
            with make_loader(
                own, shards, "train", LoaderConfig(rank=rank, window=1, **config)
            ) as loader:
                rows = np.array(flat(loader.epoch(0)))
            seen.append(len(set(split.shard_of(rows).tolist())))
    assert sorted(seen) in ([2, 3], [2, 2], [3, 3])
