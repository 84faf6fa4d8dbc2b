"""Epochs that follow one another without a pause, under every loader."""

import shutil
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import torch

from loaders import LOADERS, LoaderConfig, available, make_loader
from loaders._runs import Plans
from loaders.shards import ShardSplit

TRAIN, BAD = 37, 13
AUGMENTED = {"shuffle": True, "hflip": 0.4, "vflip": 0.5, "seed": 5}
NAMES = available()

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def opened(name, shards, **options):
    options = {"batch_size": 8, "workers": 2, "prefetch": 2, **AUGMENTED, **options}
    return make_loader(name, shards, "train", LoaderConfig(**options))


def collect(batches):
    return [tuple(part.clone() for part in batch) for batch in batches]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b)
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )


def threads_and_processes():
    return set(threading.enumerate()), set(psutil.Process().children(recursive=True))


def test_epochs_are_those_begun_by_themselves(name, shards):
    with opened(name, shards) as plain, opened(name, shards) as loader:
        for number in range(4):
            wanted = collect(plain.epoch(number))
            assert same(collect(loader.epoch(number, then=number + 1)), wanted)
        assert same(collect(loader.epoch(4)), collect(plain.epoch(4)))


def test_same_epoch_may_follow_itself(name, shards):
    """As that of an evaluation does."""
    with opened(name, shards, shuffle=False) as loader:
        first = collect(loader.epoch(0, then=0))
        assert same(collect(loader.epoch(0, then=0)), first)
        assert same(collect(loader.epoch(0)), first)


@pytest.mark.parametrize(("number", "first_batch"), [(3, 0), (1, 2), (0, 0)])
def test_another_epoch_than_was_said_may_be_asked_for(
    name, shards, number, first_batch
):
    with opened(name, shards) as plain, opened(name, shards) as loader:
        collect(loader.epoch(0, then=1))
        found = collect(loader.epoch(number, first_batch, then=2))
        assert same(found, collect(plain.epoch(number, first_batch)))
        assert same(collect(loader.epoch(2)), collect(plain.epoch(2)))


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_epoch_that_was_left_early_is_not_gone_on_with(name, shards, taken):
    """Even with its last batch in hand: it is the fifth."""
    with opened(name, shards) as plain, opened(name, shards) as loader:
        batches = loader.epoch(0, then=1)
        for _ in range(taken):
            next(batches)
        assert same(collect(loader.epoch(1, then=2)), collect(plain.epoch(1)))
        assert same(collect(loader.epoch(2)), collect(plain.epoch(2)))


def test_epoch_of_which_nothing_is_left_is_followed(name, shards):
    """As after a kill between an epoch's last batch and what comes behind it."""
    with opened(name, shards) as plain, opened(name, shards) as loader:
        assert collect(loader.epoch(0, len(loader), then=1)) == []
        assert same(collect(loader.epoch(1, then=2)), collect(plain.epoch(1)))
        assert same(collect(loader.epoch(2)), collect(plain.epoch(2)))


def test_epochs_shorter_than_what_is_made_ahead(name, shards):
    with (
        opened(name, shards, batch_size=32) as plain,
        opened(name, shards, batch_size=32, prefetch=5) as loader,
    ):
        for number in range(4):
            found = collect(loader.epoch(number, then=number + 1))
            assert same(found, collect(plain.epoch(number)))


def test_skipped_images_count_in_their_own_epoch(name, shards, tmp_path):
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    row = pq.read_table(folder / "train.parquet").slice(BAD, 1).to_pylist()[0]
    with (folder / f"train-{row['shard']:06d}.tar").open("r+b") as tar:
        tar.seek(row["offset"])
        tar.write(bytes(200))
    with opened(name, folder, on_corrupt="skip", batch_size=TRAIN + 3) as loader:
        for number in range(3):
            (batch,) = loader.epoch(number, then=number + 1)
            assert len(batch.labels) == TRAIN - 1
            assert len(loader.skipped) == number + 1


def test_closing_ends_what_waits_for_its_epoch(name, shards):
    threads, processes = threads_and_processes()
    loader = opened(name, shards)
    collect(loader.epoch(0, then=1))
    loader.close()
    deadline = time.monotonic() + 20
    while (left := begun_since(threads, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == set()


def begun_since(threads, processes):
    """What runs now and did not then; torch's and DALI's own threads are no daemons."""
    now, running = threads_and_processes()
    return {each for each in now - threads if each.daemon} | (running - processes)


@pytest.mark.parametrize("name", [n for n in NAMES if n in ("turbo", "dali")])
def test_next_epoch_is_begun_before_it_is_asked_for(name, shards, monkeypatch):
    """Its first batches are read, as many as may be made ahead, and no more."""
    asked = []
    reading = ShardSplit.reading

    def noted(self, rows, **options):
        asked.append(rows.tolist())
        return reading(self, rows, **options)

    monkeypatch.setattr(ShardSplit, "reading", noted)
    with opened(name, shards) as plain:
        coming = [batch.index.tolist() for batch in plain.epoch(1)]
    asked.clear()
    with opened(name, shards) as loader:
        collect(loader.epoch(0, then=1))
        deadline = time.monotonic() + 20
        while len(asked) < 7 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert asked[5:7] == coming[:2]
        time.sleep(0.2)
        # DALI's reads go ahead of its decoding by as many again.
        assert len(asked) <= 5 + (2 if name == "turbo" else 5)


def test_plans_go_on_until_an_end_was_seen():
    plans = Plans(iter("ab"))
    assert next(plans) == "a"
    assert plans.follow_with(iter("c"))
    assert list(plans) == ["b", "c"]
    assert not plans.follow_with(iter("d"))
    assert list(plans) == []


def test_plans_are_handed_out_epoch_by_epoch_too():
    plans = Plans(iter("ab"))
    plans.follow_with(iter("c"))
    assert next(plans) == "a"
    assert list(plans.next_epoch()) == ["b"]
    assert list(plans.next_epoch()) == ["c"]
    assert plans.next_epoch() is None
    assert not plans.follow_with(iter("d"))


def test_every_loader_is_tried():
    assert set(NAMES) <= set(LOADERS)
    assert {"pil", "turbo", "webdataset"} <= set(NAMES)
