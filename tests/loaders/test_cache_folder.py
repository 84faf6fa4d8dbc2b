"""Decoded images in a folder: shared, bounded, never trusted, safe from any kill."""

import errno
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from loaders import LoaderConfig, _folder_store, make_loader, open_split
from loaders._runs import Plans
from loaders.errors import LoaderError

TRAIN, TEST, IMAGE = 37, 11, 64 * 64 * 3  # samples; bytes of an image
AUGMENTED = {"shuffle": True, "hflip": 0.4, "vflip": 0.5}


def gb(images):
    """Room for so many images."""
    return images * IMAGE / 1e9


class Tried:
    """A loader on a folder; rows it had to decode, ``spoilt`` ones apart."""

    def __init__(self, shards, split="train", **options):
        config = LoaderConfig(**{"batch_size": 8, "workers": 2, **AUGMENTED, **options})
        self.loader = make_loader("turbo", shards, split, config)
        self.asked, self.spoilt = [], []
        decode, again = self.loader._decoder._batches, self.loader._decode_again
        self.loader._decoder._batches = lambda plans: decode(Plans(self._noted(plans)))

        def note_spoilt(rows):
            self.spoilt.extend(rows.tolist())
            return again(rows)

        self.loader._decode_again = note_spoilt

    def _noted(self, plans):
        for plan in plans:
            self.asked.extend(plan.rows.tolist())
            yield plan

    def run(self, number=0):
        """An epoch's batches; rows decoded for it, and rows that were found spoilt."""
        self.asked.clear()
        self.spoilt.clear()
        batches = collect(self.loader.epoch(number))
        return batches, sorted(self.asked), sorted(self.spoilt)


def collect(batches):
    return [tuple(part.clone() for part in batch) for batch in batches]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b)
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "kept"


@pytest.fixture
def open_kept(shards, kept):
    """Opens a loader on the folder, as another process or a later run does."""
    opened = []

    def open_kept(source=shards, **options):
        opened.append(Tried(source, cache=kept, **options))
        return opened[-1]

    yield open_kept
    for tried in opened:
        tried.loader.close()


@pytest.fixture(scope="module")
def wanted(shards):
    """The batches of epochs 0 and 1, decoded."""
    config = LoaderConfig(batch_size=8, workers=2, **AUGMENTED)
    with make_loader("turbo", shards, "train", config) as loader:
        return [collect(loader.epoch(number)) for number in range(2)]


@pytest.fixture
def filled(open_kept, wanted):
    """The part of the folder that holds the training split, all of it."""
    tried = open_kept()
    assert same(tried.run()[0], wanted[0])
    tried.loader.close()
    (part,) = parts(tried)
    return part


def parts(tried):
    return sorted(path.parent for path in tried.loader._store._folder.glob("*/index"))


def slots(part):
    """Checksums uint64[N] and slots uint32[N] as they lie in the index."""
    index = np.memmap(part / "index", np.uint8, "r+")
    return index[: 8 * TRAIN].view(np.uint64), index[8 * TRAIN :].view(np.uint32)


def images_of(part):
    return np.memmap(part / "images", np.uint8, "r+").reshape(-1, IMAGE)


def test_later_run_decodes_nothing_and_checks_everything(
    open_kept, filled, wanted, monkeypatch
):
    checked = []
    compute = _folder_store.checksum

    def checksum(image, row):
        checked.append(row)
        return compute(image, row)

    monkeypatch.setattr(_folder_store, "checksum", checksum)
    tried = open_kept()
    for number in (0, 1):
        batches, asked, spoilt = tried.run(number)
        assert same(batches, wanted[number])
        assert asked == spoilt == []
        assert sorted(checked) == [*range(TRAIN)]  # once in a process


def flip_a_bit(part):
    images_of(part)[slots(part)[1][9] - 1, 4321] ^= 1
    return [9]


def swap_two(part):
    """Both as they were written, but for their places."""
    _, given = slots(part)
    images, places = images_of(part), [given[5] - 1, given[30] - 1]
    images[places] = images[places[::-1]]
    return [5, 30]


def swap_two_entries(part):
    """Each with its checksum, which is of another row."""
    for values in slots(part):
        values[[5, 30]] = values[[30, 5]]
    return [5, 30]


def forget_the_pixels(part):
    """As a power cut may, that comes before they are on the disk."""
    _, given = slots(part)
    images_of(part)[:4] = 0
    return sorted(np.flatnonzero(given <= 4).tolist())


def cut_short(part):
    _, given = slots(part)
    os.truncate(part / "images", 20 * IMAGE + 100)
    return sorted(np.flatnonzero(given > 20).tolist())


def spoil_a_checksum(part):
    slots(part)[0][11] ^= 1
    return [11]


@pytest.mark.parametrize(
    "spoil",
    [
        flip_a_bit,
        swap_two,
        swap_two_entries,
        forget_the_pixels,
        cut_short,
        spoil_a_checksum,
    ],
)
def test_damaged_image_is_decoded_again_and_replaced(open_kept, filled, wanted, spoil):
    damaged = spoil(filled)
    tried = open_kept()
    batches, asked, spoilt = tried.run()
    assert same(batches, wanted[0])
    assert (asked, spoilt) == ([], damaged)
    assert same(tried.run(1)[0], wanted[1])
    assert not tried.spoilt
    batches, asked, spoilt = open_kept().run()  # and mended for others
    assert same(batches, wanted[0])
    assert asked == spoilt == []


def no_index(part):
    (part / "index").unlink()


def short_index(part):
    os.truncate(part / "index", 100)


def two_in_one_slot(part):
    slots(part)[1][3] = slots(part)[1][4]


def slot_beyond_all(part):
    slots(part)[1][3] = TRAIN + 1


def other_about(part):
    (part / "about.json").write_text("{}")


@pytest.mark.parametrize(
    "spoil", [no_index, short_index, two_in_one_slot, slot_beyond_all, other_about]
)
def test_damaged_index_is_made_anew(open_kept, filled, wanted, spoil):
    running = open_kept()  # goes on with the files that it has open
    spoil(filled)
    tried = open_kept()
    batches, asked, spoilt = tried.run()
    assert same(batches, wanted[0])
    assert (asked, spoilt) == ([*range(TRAIN)], [])
    for number in range(2):
        assert same(tried.run(number)[0], wanted[number])
    assert same(running.run(1)[0], wanted[1])
    assert open_kept().run()[1:] == ([], [])


# -------------------------------------------------------------------------- whose it is


def test_image_of_other_bytes_is_another(open_kept, shards, tmp_path, make_course):
    """A data set with the same names, sizes and grades."""
    from fastretina.shard import command as shard

    course = make_course(tmp_path / "course")
    path = course / "data" / "10_left.jpeg"
    path.write_bytes((course / "data" / "11_left.jpeg").read_bytes())
    words = [str(course), str(tmp_path / "other"), "--samples-per-shard", "10"]
    assert shard.main([*words, "--workers", "1"]) == 0
    one, other = open_kept(), open_kept(tmp_path / "other")
    for tried in (one, other):
        assert tried.run()[1] == [*range(TRAIN)]
        assert tried.run()[1] == []
    assert len(parts(one)) == 2


@pytest.mark.parametrize(
    "other", [{"image_size": 32}, {"split": "test"}], ids=["size", "split"]
)
def test_other_pixels_have_a_part_of_their_own(open_kept, filled, other):
    tried = open_kept(**other)
    assert tried.run()[1]
    assert tried.run()[1] == []
    assert len(parts(tried)) == 2


def test_other_decoder_has_a_part_of_its_own(open_kept, filled, monkeypatch):
    describe = _folder_store.describe_pixels

    def by_another(schedule, decoding, source):
        about = describe(schedule, decoding, source)
        return about | {"decoding": {**about["decoding"], "by": "simplejpeg 0.1"}}

    monkeypatch.setattr(_folder_store, "describe_pixels", by_another)
    assert open_kept().run()[1] == [*range(TRAIN)]


def test_part_of_a_split_finds_its_images(open_kept, filled, shards):
    with open_split(shards, "train") as split:
        tried = open_kept(split.select(np.array([3, 20, 21, 36])), shuffle=False)
        (batch,), asked, spoilt = tried.run()
    assert (batch[2].tolist(), asked, spoilt) == ([3, 20, 21, 36], [], [])


# ------------------------------------------------------------------------------ bounds


def taken(kept):
    return sum(path.stat().st_size for path in kept.glob("*/images"))


def test_all_parts_together_keep_within_the_bound(open_kept, kept):
    train = open_kept(cache_gb=gb(40))
    test = open_kept(split="test", cache_gb=gb(40))  # before anything is written
    assert (train.loader.kept.images, test.loader.kept.images) == (TRAIN, 3)
    for _ in range(2):
        train.run()
        asked = test.run()[1]
    assert taken(kept) == 40 * IMAGE
    assert asked == [*range(3, TEST)]


def test_run_with_more_room_goes_on_where_another_had_to_stop(open_kept, kept, wanted):
    small = open_kept(cache_gb=gb(10))
    small.run()
    large = open_kept(cache_gb=gb(25))
    assert large.run()[1] == [*range(10, TRAIN)]
    assert large.run()[1] == [*range(25, TRAIN)]
    for number in range(2):  # which the one with less room finds, too
        batches, asked, spoilt = small.run(number)
        assert same(batches, wanted[number])
        assert (asked, spoilt) == ([*range(25, TRAIN)], [])
    assert taken(kept) == 25 * IMAGE
    assert open_kept(cache_gb=gb(5)).run()[1] == [*range(25, TRAIN)]


def test_share_of_the_disk_does_not_creep_up(open_kept, kept, monkeypatch):
    """Half of 40 images, however often it is opened."""

    class Usage:
        @property
        def free(self):
            used = sum(path.stat().st_blocks for path in kept.glob("*/images"))
            return 40 * IMAGE - 512 * used

    monkeypatch.setattr("loaders._room.shutil.disk_usage", lambda folder: Usage())
    for _ in range(3):
        tried = open_kept()
        tried.run()
        tried.loader.close()
        assert taken(kept) <= 20 * IMAGE
    assert open_kept().loader.kept.images == 20


def test_full_disk_ends_the_keeping_and_nothing_else(open_kept, wanted, monkeypatch):
    left = [6]

    def fill_up(file, values, offset):
        left[0] -= values.nbytes == IMAGE
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.pwrite(file, values.data, offset)

    monkeypatch.setattr(_folder_store, "write_at", fill_up)
    tried = open_kept(workers=1)
    with pytest.warns(RuntimeWarning, match="No space left on device") as warned:
        batches = tried.run()[0]
    assert len(warned) == 1
    assert same(batches, wanted[0])
    batches, asked, spoilt = tried.run(1)
    assert same(batches, wanted[1])
    assert (len(asked), spoilt) == (TRAIN - 6, [])


def test_disk_that_fails_under_kept_images_is_warned_of_once(
    open_kept, filled, wanted, monkeypatch
):
    """Of a map the system would have ended the process."""
    read_at = _folder_store.read_at

    def fail(file, values, offset):
        if values.nbytes == IMAGE and offset >= 20 * IMAGE:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read_at(file, values, offset)

    monkeypatch.setattr(_folder_store, "read_at", fail)
    tried = open_kept()
    with pytest.warns(RuntimeWarning, match="Input/output error") as warned:
        batches, _, spoilt = tried.run()
    assert len(warned) == 1
    assert same(batches, wanted[0])
    assert spoilt == sorted(np.flatnonzero(slots(filled)[1] > 20).tolist())


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("name", ["images", "index"])
def test_file_cut_short_while_it_is_in_use_is_no_end(
    name, checked, open_kept, filled, wanted
):
    """Nothing is mapped: so there is no SIGBUS, and what is lost is decoded."""
    tried = open_kept()
    if checked:
        assert same(tried.run()[0], wanted[0])
    assert str(filled) not in Path("/proc/self/maps").read_text()
    os.truncate(filled / name, 0)
    for number in range(2):
        batches, asked, spoilt = tried.run(number)
        assert same(batches, wanted[number])
        assert (asked or spoilt) == ([*range(TRAIN)] if number == 0 else [])


def test_folder_that_cannot_be_used_is_one_line(shards, tmp_path):
    (tmp_path / "file").write_text("")
    config = LoaderConfig(cache=tmp_path / "file" / "kept")
    with pytest.raises(LoaderError) as caught:
        make_loader("turbo", shards, "train", config)
    assert str(caught.value) == (
        f"the folder for decoded images, {tmp_path / 'file' / 'kept'}, can't be used "
        "(Not a directory): pass another --cache"
    )


@pytest.mark.parametrize("name", ["", "about.json", "index", "images"])
def test_links_in_the_folder_are_not_written_through(
    name, open_kept, filled, wanted, tmp_path
):
    elsewhere = tmp_path / "elsewhere"
    (filled / name).rename(elsewhere)
    (filled / name).symlink_to(elsewhere)
    files = [*elsewhere.iterdir()] if elsewhere.is_dir() else [elsewhere]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    tried = open_kept()
    batches, asked, _ = tried.run()
    assert same(batches, wanted[0])
    assert asked == [*range(TRAIN)]
    assert not any(path.is_symlink() for path in (filled, *filled.iterdir()))
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def test_only_our_folders_are_removed(open_kept, filled, kept):
    """As where a stranger's run names a folder that is not for images."""
    theirs = [kept / name for name in (".film.part", ".a-1x1-b.new.part")]
    ours = [kept / f".{filled.name}.{state}.part" for state in ("new", "old")]
    for folder in [*theirs, *ours]:
        folder.mkdir()
    open_kept()
    assert [path.exists() for path in [*theirs, *ours]] == [True, True, False, False]


# ------------------------------------------------------------------------- kill -9


def in_child(work):
    """Run ``work`` in a fork; returns how it ended, as ``os.waitpid`` has it."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def die(*words, **options):
    os.kill(os.getpid(), signal.SIGKILL)


def after_half_an_image(patch):
    writes = []

    def write_half(file, values, offset):
        writes.append(offset)
        if len(writes) > 7 and values.nbytes == IMAGE:
            os.pwrite(file, values.data.cast("B")[: IMAGE // 2], offset)
            die()
        os.pwrite(file, values.data, offset)

    patch(_folder_store, "write_at", write_half)


def before_its_checksum(patch):
    patch(_folder_store, "checksum", die)


def before_the_part_has_its_name(patch):
    patch(_folder_store.Path, "rename", die)


def between_growing_and_giving_slots(patch):
    truncate = os.truncate

    def then_die(path, size):
        truncate(path, size)
        die()

    patch(_folder_store.os, "truncate", then_die)


MOMENTS = [
    after_half_an_image,
    before_its_checksum,
    before_the_part_has_its_name,
    between_growing_and_giving_slots,
]
forks = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@forks
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_the_worst_moment(open_kept, shards, kept, wanted, moment):
    def run():
        moment(setattr)
        Tried(shards, cache=kept, cache_gb=gb(30)).run()

    _, status = os.waitpid(in_child(run), 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    tried = open_kept(cache_gb=gb(30))
    for number in range(2):
        batches, asked, spoilt = tried.run(number)
        assert same(batches, wanted[number])
        assert spoilt == []  # what was half written does not count as there
    assert asked == [*range(30, TRAIN)]
    assert taken(kept) == 30 * IMAGE
    assert not list(kept.glob(".*.part"))


@forks
def test_killed_at_any_moment_beside_another(open_kept, shards, kept, wanted):
    """Two at once, one of them killed between its first write and its last."""
    rng = random.Random(0)

    def run():
        Tried(shards, cache=kept).run()

    def written():
        return any(path.stat().st_blocks for path in kept.glob("*/images"))

    for _ in range(10):
        children = [in_child(run), in_child(run)]
        while not written():
            time.sleep(0.0005)
        time.sleep(rng.random() * 0.01)
        os.kill(children[0], signal.SIGKILL)
        ends = [os.waitpid(child, 0)[1] for child in children]
        assert ends[1] == 0
        batches, _, spoilt = open_kept().run()
        assert same(batches, wanted[0])
        assert spoilt == []
        shutil.rmtree(kept)
