"""Decoded images that are kept, as only a GPU can try it."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from on_gpu import DEVICE, MARKS
from test_loaders_on_gpu import AUGMENTED, TRAIN, assert_alike, collect, config, later

from loaders import LOADERS, available, make_loader

pytestmark = MARKS

CACHING = [name for name in available() if LOADERS[name].caches]
IMAGE = 64 * 64 * 3  # bytes of an image


@pytest.fixture(params=CACHING)
def name(request):
    return request.param


@pytest.fixture
def make(name, shards, tmp_path):
    """Opens loaders of one kind, and closes them."""
    opened = []

    def make(cache=None, **options):
        cache = tmp_path / "kept" if cache == "folder" else cache
        given = config(cache=cache, **AUGMENTED, **options)
        opened.append(make_loader(name, shards, "train", given))
        return opened[-1]

    yield make
    for loader in opened:
        loader.close()


@pytest.mark.parametrize("images", [15, TRAIN])
@pytest.mark.parametrize("cache", ["device", "memory", "folder"])
def test_batches_are_those_of_the_same_loader_on_the_cpu(make, name, cache, images):
    wanted = make(device="cpu")
    found = make(cache, cache_gb=images * IMAGE / 1e9)
    assert found.kept.images == images
    assert (found.kept.place == cache) is (cache != "folder")
    for number in range(3):
        again = collect(found.epoch(number))
        assert_alike(name, again, collect(wanted.epoch(number)))
        for batch in again[:2]:
            assert batch[0].shape[0] == 8


@pytest.mark.parametrize("cache", ["device", "memory", "folder"])
def test_kept_batch_is_read_late(make, name, cache):
    """The host runs ahead: when the GPU reads a batch, later ones are in the making."""
    loader, kept = make(cache, batch_size=2), []
    wanted = make(device="cpu", batch_size=2)
    for number in range(2):
        kept.clear()
        for batch in loader.epoch(number):
            later(batch, kept)
        assert_alike(name, collect_copies(kept), collect(wanted.epoch(number)))


def collect_copies(kept):
    return [tuple(part.cpu() for part in batch) for batch in kept]


def test_epoch_on_the_device_waits_for_nothing(make):
    loader = make("device")
    for number in range(2):  # the second has the host's pinned memory ready
        collect(loader.epoch(number))
    batches = loader.epoch(2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        taken = [batch.images for batch in islice(batches, 5)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [len(images) for images in taken] == [8, 8, 8, 8, 5]
    assert {images.device.type for images in taken} == {DEVICE}
