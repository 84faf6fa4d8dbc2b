"""The loaders' contract, as only a GPU can try it."""

from __future__ import annotations

import gc
import time
from itertools import islice

import pytest
import torch
from on_gpu import DEVICE, MARKS, OURS

from bench.gpu.bounds import PARITY_MAX, PARITY_MEAN
from bench.gpu.corrupt import DAMAGES, DamagedSplit
from loaders import LoaderConfig, available, make_loader, open_split
from loaders.errors import SampleError

pytestmark = MARKS

TRAIN = 37  # samples in the fixture's split
AUGMENTED = {"shuffle": True, "hflip": 0.4, "vflip": 0.5, "seed": 3}
# Largest and mean difference to Pillow; DALI decodes with nvJPEG.
TOLERANCE = dict.fromkeys(("dali", "dali-reader"), (PARITY_MAX, PARITY_MEAN))
SLOW = 20_000_000  # cycles of a GPU, some 10 ms
MIB = 2**20


def config(**options):
    given = {"batch_size": 8, "workers": 2, "device": DEVICE, **options}
    return LoaderConfig(**given)


@pytest.fixture(params=available())
def name(request):
    return request.param


@pytest.fixture
def make(name, shards):
    """Opens loaders of one kind, and closes them."""
    opened = []

    def make(source=shards, split="train", **options):
        opened.append(make_loader(name, source, split, config(**options)))
        return opened[-1]

    yield make
    for loader in opened:
        loader.close()


def collect(batches):
    """Copies of all batches, in host memory, as (images, labels, index)."""
    return [tuple(part.cpu().clone() for part in batch) for batch in batches]


def rows(batches):
    return [row for batch in batches for row in batch[2].tolist()]


def assert_alike(name, found, wanted):
    """The same samples in the same order, and the same pixels within the tolerance."""
    largest, mean = TOLERANCE.get(name, (0, 0.0))
    assert rows(found) == rows(wanted)
    for (images, labels, _), (theirs, grades, _) in zip(found, wanted, strict=True):
        assert torch.equal(labels, grades)
        assert images.shape == theirs.shape
        apart = (images.to(torch.int16) - theirs.to(torch.int16)).abs().float()
        for image in apart:
            assert image.max() <= largest
            assert image.mean() <= mean


def later(batch, kept):
    """Have the GPU copy a batch some time after it was told to."""
    torch.cuda._sleep(SLOW)
    kept.append(tuple(part.clone() for part in batch))


# -------------------------------------------------------------- the contract, on a GPU


def test_batch_lies_on_the_device(make):
    loader = make(**AUGMENTED)
    assert loader.device.type == DEVICE
    seen = 0
    for batch in loader.epoch(0):
        size = len(batch.index)
        assert {part.device.type for part in batch} == {DEVICE}
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape == (size, 64, 64, 3)
        assert batch.labels.dtype == batch.index.dtype == torch.int64
        bchw = batch.images.permute(0, 3, 1, 2)
        assert bchw.is_contiguous(memory_format=torch.channels_last)
        seen += size
    assert seen == TRAIN


def test_batches_are_those_of_the_same_loader_on_the_cpu(make, name):
    wanted = make(device="cpu", **AUGMENTED)
    found = make(**AUGMENTED)
    for epoch in (0, 2):
        assert_alike(name, collect(found.epoch(epoch)), collect(wanted.epoch(epoch)))
    assert_alike(name, collect(found.epoch(1, 3)), collect(wanted.epoch(1, 3)))


@pytest.mark.parametrize("name", OURS)
def test_order_is_that_of_pil_on_the_cpu(make, name, shards):
    with make_loader("pil", shards, "train", config(device="cpu", **AUGMENTED)) as pil:
        wanted = collect(pil.epoch(4))
    assert_alike(name, collect(make(**AUGMENTED).epoch(4)), wanted)


@pytest.mark.parametrize("load", [0.0, 0.65, 1.0])
def test_pixels_are_pillows_within_bounds(make, name, shards, load):
    with make_loader("pil", shards, "train", config(device="cpu")) as pil:
        wanted = collect(pil.epoch(0))
    assert_alike(name, collect(make(hw_decoder_load=load).epoch(0)), wanted)


def test_resized_images_are_those_of_the_same_loader_on_the_cpu(make, name):
    wanted = collect(make(device="cpu", image_size=32, **AUGMENTED).epoch(0))
    found = collect(make(image_size=32, **AUGMENTED).epoch(0))
    assert_alike(name, found, wanted)


@pytest.mark.parametrize("prefetch", [1, 2, 4])
def test_batch_is_read_late_by_what_was_queued_before_the_next_is_taken(
    make, name, prefetch
):
    """The host runs ahead: when the GPU reads a batch, later ones are in the making."""
    loader = make(batch_size=2, prefetch=prefetch, **AUGMENTED)
    wanted = collect(make(device="cpu", batch_size=2, **AUGMENTED).epoch(0))
    kept = []
    for batch in loader.epoch(0):
        later(batch, kept)
        del batch
    torch.cuda.synchronize()
    assert_alike(name, collect(kept), wanted)


@pytest.mark.parametrize("prefetch", [1, 3])
def test_batch_stays_valid_on_a_side_stream_until_the_next_but_one_is_taken(
    make, name, prefetch
):
    loader = make(batch_size=2, prefetch=prefetch, **AUGMENTED)
    wanted = collect(make(device="cpu", batch_size=2, **AUGMENTED).epoch(0))
    side, kept = torch.cuda.Stream(), []
    batches = loader.epoch(0)
    one = next(batches)
    for two in batches:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            later(one, kept)
        side.synchronize()  # before the next but one is taken
        one = two
    later(one, kept)
    torch.cuda.synchronize()
    assert_alike(name, collect(kept), wanted)


def test_batch_stays_as_it_was_while_the_next_is_held(make):
    batches = make(batch_size=2, **AUGMENTED).epoch(0)
    one = next(batches)
    for two in batches:
        before = collect([one, two])
        time.sleep(0.005)
        torch.cuda.synchronize()
        after = collect([one, two])
        for old, new in zip(before, after, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
        one = two


def test_batches_may_be_taken_on_another_stream(make, name):
    wanted = collect(make(device="cpu", **AUGMENTED).epoch(0))
    kept, stream = [], torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for batch in make(**AUGMENTED).epoch(0):
            later(batch, kept)
    stream.synchronize()
    assert_alike(name, collect(kept), wanted)


def test_two_loaders_at_once_do_not_mix(make, name):
    options = [{**AUGMENTED, "seed": 1}, {**AUGMENTED, "seed": 2, "split": "test"}]
    wanted = [collect(make(device="cpu", **each).epoch(0)) for each in options]
    one, other = (make(**each).epoch(0) for each in options)
    mixed = [], []
    for _ in range(6):
        for batches, found in zip((one, other), mixed, strict=True):
            for batch in islice(batches, 1):
                later(batch, found)
    torch.cuda.synchronize()
    for found, theirs in zip(mixed, wanted, strict=True):
        assert_alike(name, collect(found), theirs)


def test_abandoned_epoch_does_not_disturb_the_next(make, name):
    wanted = collect(make(device="cpu", batch_size=4, **AUGMENTED).epoch(1))
    loader = make(batch_size=4, **AUGMENTED)
    for taken in (0, 1, 3):
        batches = loader.epoch(0)
        kept = []
        for batch in islice(batches, taken):
            later(batch, kept)
        del batches
        assert_alike(name, collect(loader.epoch(1)), wanted)


def test_closed_loader_can_be_used_again(make, name):
    wanted = collect(make(device="cpu", **AUGMENTED).epoch(0))
    loader = make(**AUGMENTED)
    next(loader.epoch(0))
    loader.close()
    loader.close()
    assert_alike(name, collect(loader.epoch(0)), wanted)


def used():
    """Bytes of the GPU in use, by whomever."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return total - free


def test_many_epochs_do_not_grow_on_the_gpu(make, name):
    epochs = {"pil": 30, "dali-reader": 60}.get(name, 200)  # what begins anew is slow
    loader = make(batch_size=4, **AUGMENTED)

    def run(numbers):
        for number in numbers:
            batches = loader.epoch(number)
            for _ in islice(batches, 1 + number % 11):  # to the end in every 11th
                pass
        del batches
        return used()

    before = run(range(epochs // 5))
    assert run(range(epochs // 5, epochs)) - before < 32 * MIB


# ---------------------------------------------------------------------- damaged files


def damaged(shards, row=11, damage="garbage"):
    split = open_split(shards, "train")
    return DamagedSplit(split, row, DAMAGES[damage](bytes(split.read(row))))


@pytest.mark.parametrize("damage", ["garbage", "empty"])
@pytest.mark.parametrize("name", OURS)
def test_damaged_image_is_named_and_the_loader_goes_on(make, name, shards, damage):
    source = damaged(shards, damage=damage)
    wanted = collect(make(device="cpu").epoch(0))
    loader = make(source)
    batches = loader.epoch(0)
    first = collect(islice(batches, 1))
    with pytest.raises(SampleError) as caught:
        next(batches)
    with open_split(shards, "train") as split:
        assert caught.value.key == split.key(11)
    assert_alike(name, first, wanted[:1])
    assert_alike(name, collect(loader.epoch(0, first_batch=2)), wanted[2:])
    source.content = None
    assert_alike(name, collect(loader.epoch(0)), wanted)


@pytest.mark.parametrize("name", OURS)
def test_damaged_image_is_skipped_alone(make, name, shards):
    wanted = collect(make(device="cpu").epoch(0))
    loader = make(damaged(shards), on_corrupt="skip")
    found = collect(loader.epoch(0))
    assert [len(batch[2]) for batch in found] == [8, 7, 8, 8, 5]
    assert len(loader.skipped) == 1
    rest = torch.tensor([row != 11 for row in wanted[1][2].tolist()])
    wanted[1] = tuple(part[rest] for part in wanted[1])
    assert_alike(name, found, wanted)
