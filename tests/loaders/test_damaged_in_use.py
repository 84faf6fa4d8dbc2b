"""Shards that are cut short, removed, replaced or written over while they are in use.

Each loader runs in a process of its own: a memory map of such a file would end it with
a SIGBUS.
"""

import multiprocessing
import os
import re
import shutil

import numpy as np
import pytest
from fork_server import server
from small_runs import PRELOADED
from torture.child import in_child

from loaders import LoaderConfig, available, make_loader, open_split
from loaders.errors import SampleError, ShardError

server.set_forkserver_preload(PRELOADED)


def cut_short(path):
    os.truncate(path, 2048)


def cut_to_nothing(path):
    os.truncate(path, 0)


def remove(path):
    path.unlink()


def replace(path):
    """By what is none, under another inode."""
    part = path.with_suffix(".part")
    part.write_bytes(b"rubbish" * 999)
    part.replace(path)


def write_over(path):
    """With as many bytes, in the same inode."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(bytes(size))


DAMAGES = (cut_short, cut_to_nothing, remove, replace, write_over)


def go_on(shards, root, name, more):
    """What comes of an epoch by a loader for each damage that is done after a batch."""
    multiprocessing.set_start_method(None, force=True)  # pil's workers fork at once
    with make_loader(name, shards, "train", config(more)) as loader:
        whole = [images(batch) for batch in loader.epoch(0)]
    found = {}
    for damage in DAMAGES:
        folder = root / damage.__name__
        shutil.copytree(shards, folder)
        found[damage.__name__] = under(damage, whole, folder, name, more)
    return found


def config(more):
    return LoaderConfig(batch_size=2, prefetch=1, **more)


def images(batch):
    return batch.images.numpy().copy(), batch.labels.tolist(), batch.index.tolist()


def under(damage, whole, folder, name, more):
    with make_loader(name, folder, "train", config(more)) as loader:
        batches = loader.epoch(0)
        taken = [images(next(batches))]
        for path in folder.glob("train-*.tar"):
            damage(path)
        try:
            taken += [images(batch) for batch in batches]
            error = None
        except ShardError as refused:
            error = refused
    for (theirs, *about), (ours, *listed) in zip(taken, whole, strict=False):
        if about != listed or not np.array_equal(theirs, ours):
            return "other images or labels"
    if error is None:
        return "whole" if len(taken) == len(whole) else "images are missing"
    return type(error).__name__, str(error)


VARIANTS = [
    (name, {"workers": workers})
    for name, workers in (("pil", 0), ("pil", 2), ("turbo", 2), ("webdataset", 1))
] + [(name, {"workers": 1}) for name in ("dali", "dali-reader") if name in available()]


@pytest.mark.parametrize(("name", "more"), VARIANTS)
def test_shard_damaged_while_in_use_is_one_line(shards, tmp_path, name, more):
    found = in_child(go_on, shards, tmp_path, name, more, seconds=120)
    assert list(found) == [damage.__name__ for damage in DAMAGES]
    for how, outcome in found.items():
        if outcome == "whole":  # those that were open stay as they were
            assert how in ("remove", "replace"), how
            continue
        kind, text = outcome
        assert kind in ("ShardError", "SampleError"), outcome
        assert re.search(r"train-00000\d\.tar\b", text), text
        assert "\n" not in text
        assert str(tmp_path / how) in text


@pytest.mark.parametrize("name", ["pil", "turbo"])
def test_shard_cut_short_in_use_names_the_sample_and_is_not_skipped(
    shards, tmp_path, name
):
    """It is the shard that fails, and no image that can't be decoded."""
    folder = tmp_path / "shards"
    shutil.copytree(shards, folder)
    path = folder / "train-000000.tar"
    with open_split(folder, "train") as split:
        split.read(0)
        os.truncate(path, 2048)
        reading = split.reading(np.array([9]))
        with pytest.raises(ShardError, match="was cut short while") as caught:
            reading.read(0)
        assert not isinstance(caught.value, SampleError)
        assert str(caught.value).startswith(f"{path}, sample {split.key(9)}: ")
        options = LoaderConfig(batch_size=8, workers=0 if name == "pil" else 1)
        with (
            make_loader(name, split, "train", options) as loader,
            pytest.raises(ShardError, match="was cut short while"),
        ):
            list(loader)


def test_disk_that_fails_is_no_fault_of_the_image(shards, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    with open_split(shards, "train") as split:
        monkeypatch.setattr("loaders._open_tar._read_at", broken)
        with pytest.raises(ShardError, match="Input/output error") as caught:
            split.read(0)
        assert not isinstance(caught.value, SampleError)
        assert split.key(0) in str(caught.value)


def test_reading_goes_on_where_a_file_system_gives_a_part(shards, monkeypatch):
    pread = os.pread
    with open_split(shards, "train") as split:
        whole = bytes(split.read(3))
        monkeypatch.setattr(
            "loaders._open_tar._read_at", lambda f, n, at: pread(f, min(n, 100), at)
        )
        assert split.read(3) == whole


def test_reading_without_pread_is_the_same(shards, monkeypatch):
    from loaders._open_tar import _read_with_lock

    with open_split(shards, "train") as split:
        whole = [bytes(split.read(row)) for row in range(37)]
        monkeypatch.setattr("loaders._open_tar._read_at", _read_with_lock)
        assert [bytes(split.read(row)) for row in range(37)] == whole
