"""Every loader on the CPU gives the very pixels of plain PIL, and so the same runs."""

import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from fastretina.nn.augment import MEAN, STD, normalise
from fastretina.shard import command as shard
from loaders import LOADERS, LoaderConfig, available, make_loader, open_split
from loaders.errors import LabelError
from loaders.folder import FolderSource, RetinopathyDataset
from loaders.order import flips

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

# Loaders held to plain PIL here: (largest, mean) difference of a value, and why.
TOLERANCE = {
    "pil": (0, 0.0, "it is plain PIL"),
    "turbo": (0, 0.0, "the same libjpeg-turbo"),
    "dali": (0, 0.0, "its host decoder is libjpeg-turbo, too"),
    "dali-reader": (0, 0.0, "DALI, with its own reader"),
    "webdataset": (0, 0.0, "turbo, fed by the webdataset library"),
}
AUGMENTED = {"shuffle": True, "seed": 3, "hflip": 0.4, "vflip": 0.5}

# Sides at which torch's resize of uint8 has Pillow's very weights, from 512; at others
# its fixed-point weights may round the other way.
EXACT_SIDES = (128, 224, 256, 384)
OTHER_SIDES = (96, 100, 300, 480)
ROUNDING = (2, 0.05)  # measured on 1,083 photographs: 2, and 0.042 for the worst, at 96
# DALI repeats the border where Pillow weighs what is inside; its sums are rounded
# otherwise, too. Measured on 1,083 photographs from 512 to 96, 100, 128, 224, 256, 300,
# 384 and 480: 23 in the outermost rows and columns, 1 inside; and a mean of 0.24 for
# the worst image (at 384), 0.20 for all.
DALIS, DALIS_INSIDE = (32, 0.5), 1
NAMES = available()
DALI_NAMES = [name for name in NAMES if name.startswith("dali")]
CC0 = Path(__file__).parents[2] / "fastretina" / "demo" / "assets" / "retina_cc0.jpg"
COMMON_ORDER = [name for name in NAMES if not LOADERS[name].own_order]


def resize_tolerance(name, side):
    """What a loader may differ by from Pillow, resizing from 512 to this side."""
    if name.startswith("dali"):
        return DALIS
    exact = name == "pil" or side in (*EXACT_SIDES, 512)
    return (0, 0.0) if exact else ROUNDING


def test_every_loader_has_a_tolerance():
    assert set(available()) <= set(TOLERANCE)


def differ(images, wanted):
    """Largest and mean absolute difference of two uint8 arrays."""
    gap = np.abs(np.asarray(images, np.int16) - np.asarray(wanted, np.int16))
    return int(gap.max(initial=0)), float(gap.mean()) if gap.size else 0.0


def assert_equal_within(images, wanted, tolerance, place):
    largest, mean = differ(images, wanted)
    assert largest <= tolerance[0], f"{place}: largest {largest}, mean {mean:.4f}"
    assert mean <= tolerance[1], f"{place}: largest {largest}, mean {mean:.4f}"


def flipped(image, flip):
    """A PIL image as the loader should flip it, by PIL's own means."""
    if flip[0]:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if flip[1]:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return np.asarray(image)


def compare(name, source, dataset, tolerance=None, epoch=1, **options):
    """One epoch of a loader against the plain Dataset, matched by key."""
    tolerance = tolerance or TOLERANCE[name][:2]
    place = {key: n for n, key in enumerate(dataset.img_name)}
    config = LoaderConfig(batch_size=7, **AUGMENTED, **options)
    seen = 0
    with make_loader(name, source, "", config) as loader:
        for images, labels, index in loader.epoch(epoch):
            chances = (config.hflip, config.vflip)
            mirrored = flips(config.seed, epoch, index.numpy(), chances)
            for n, row in enumerate(index.tolist()):
                image, grade = dataset[place[source.key(row)]]
                if config.image_size:
                    size = (config.image_size, config.image_size)
                    image = image.resize(size, Image.Resampling.BILINEAR)
                wanted = flipped(image, mirrored[n])
                assert_equal_within(images[n], wanted, tolerance, source.key(row))
                assert labels[n] == grade
                seen += 1
    assert seen == len(source.rows)


def write_shards(course, folder, *options):
    assert shard.main([str(course), str(folder), *options]) == 0
    return Path(folder)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_shards_equal_the_plain_dataset(name, workers, split, shards, course):
    dataset = RetinopathyDataset(course / "data", split)
    compare(name, open_split(shards, split), dataset, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", COMMON_ORDER)
def test_folder_equals_the_plain_dataset(name, workers, course):
    dataset = RetinopathyDataset(course / "data", "train")
    compare(name, FolderSource(dataset), dataset, workers=workers)


@pytest.mark.parametrize("name", COMMON_ORDER)
def test_batches_are_bit_identical_to_pils(name, shards):
    """With everything on that changes order or pixels, over several epochs."""
    config = LoaderConfig(batch_size=8, balance=0.5, workers=2, window=2, **AUGMENTED)
    with (
        make_loader("pil", shards, "train", config) as one,
        make_loader(name, shards, "train", config) as other,
    ):
        for epoch in range(3):
            assert_same_batches(one, other, epoch)


def assert_same_batches(one, other, epoch):
    for left, right in zip(one.epoch(epoch), other.epoch(epoch), strict=True):
        for a, b in zip(left, right, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


# ---------------------------------------------------------------- fundus photographs


class Retina(NamedTuple):
    """Photographs of 512 pixels in the course's layout, and their shards."""

    course: Path
    shards: Path
    counts: dict[str, int]


@pytest.fixture(
    scope="module", params=["cc0", pytest.param("real", marks=pytest.mark.slow)]
)
def retina(request, tmp_path_factory):
    """All 1,083 real photographs; or those that everyone has, cut from one of them."""
    folder = tmp_path_factory.mktemp("retina")
    if request.param == "real":
        course = request.getfixturevalue("real_data") / "retina512"
        counts = {"train": 866, "test": 217}
    else:
        course, counts = folder / "course", {"train": 24, "test": 25}
        cut_photographs(course, counts)
    shards = write_shards(course, folder / "shards", "--workers", "2")
    return Retina(course, shards, counts)


def cut_photographs(root, counts):
    """The free photograph whole (odd numbers) and in parts, turned to any side."""
    (root / "data").mkdir(parents=True)
    rng = np.random.Generator(np.random.PCG64(11))
    with Image.open(CC0) as opened:
        photograph = opened.convert("RGB")
    total = sum(counts.values())
    names = [f"{n // 2 + 1}_{('left', 'right')[n % 2]}" for n in range(total)]
    for number, name in enumerate(names):
        turned = photograph.rotate(rng.uniform(0, 360), Image.Resampling.BICUBIC)
        left, top, side = 0, 0, min(turned.size)
        if number % 2 == 0:
            side //= 2  # the middle: bright to its border
            left, top = (int(rng.uniform(0.3, 0.7) * side) for _ in range(2))
        part = turned.crop((left, top, left + side, top + side))
        image = part.resize((512, 512), Image.Resampling.LANCZOS)
        image.save(root / "data" / f"{name}.jpeg", quality=95)
    write_lists(root, names[: counts["train"]], names[counts["train"] :])


@pytest.mark.parametrize("split", ["train", "test"])
def test_photographs_equal_the_plain_dataset(split, retina):
    """Each photograph decoded by PIL alone and by all that follow one order."""
    dataset = RetinopathyDataset(retina.course / "data", split)
    wanted = {key: n for n, key in enumerate(dataset.img_name)}
    config = LoaderConfig(batch_size=16, workers=2, **AUGMENTED)
    source = open_split(retina.shards, split)
    assert len(source) == retina.counts[split]
    seen = []
    with ExitStack() as opened:
        pool = opened.enter_context(ThreadPoolExecutor(2))
        made = {
            name: opened.enter_context(make_loader(name, source, split, config))
            for name in COMMON_ORDER
        }
        assert {"pil", "turbo"} <= set(made)
        epochs = [loader.epoch(0) for loader in made.values()]
        for one, *others in zip(*epochs, strict=True):
            for other in others:
                assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
            mirrored = flips(3, 0, one.index.numpy(), (0.4, 0.5))
            rows = one.index.tolist()
            places = [wanted[source.key(row)] for row in rows]
            for n, (image, grade) in enumerate(pool.map(dataset.__getitem__, places)):
                assert np.array_equal(one.images[n], flipped(image, mirrored[n]))
                assert one.labels[n] == grade
            seen += rows
    assert sorted(seen) == list(range(len(source)))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in COMMON_ORDER])
def test_photographs_are_the_same_in_another_order(name, retina):
    config = LoaderConfig(batch_size=16, workers=2, **AUGMENTED)
    with (
        make_loader("turbo", retina.shards, "train", config) as turbo,
        make_loader(name, retina.shards, "train", config) as other,
    ):
        wanted = sums(turbo)
        assert len(wanted) == retina.counts["train"]
        assert sums(other) == wanted


def sums(loader):
    """A checksum of every image of an epoch, and its grade, by row."""
    return {
        row: (zlib.crc32(image), grade)
        for images, labels, index in loader.epoch(0)
        for image, grade, row in zip(
            images.numpy(), labels.tolist(), index.tolist(), strict=True
        )
    }


@pytest.mark.parametrize("side", [*EXACT_SIDES, *OTHER_SIDES])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "pil"])
def test_photographs_resize_as_with_pillow(name, side, retina):
    dataset = RetinopathyDataset(retina.course / "data", "test")
    with open_split(retina.shards, "test") as split:
        count = retina.counts["test"]
        some = split.select(np.arange(0, count, count // 12))
    tolerance = resize_tolerance(name, side)
    compare(name, some, dataset, tolerance, image_size=side, workers=2)


@pytest.mark.skipif(not DALI_NAMES, reason="needs DALI")
@pytest.mark.parametrize("side", [*EXACT_SIDES, *OTHER_SIDES])
def test_dali_resizes_all_but_the_border_as_pillow(side, retina):
    split = open_split(retina.shards, "test")
    some = split.select(split.rows[:64])  # or they would decode more ahead

    def images(name, workers):
        config = LoaderConfig(batch_size=64, image_size=side, workers=workers)
        with make_loader(name, some, "", config) as loader:
            return next(loader.epoch(0)).images.numpy().copy()

    wanted = images("pil", 0)
    inside = np.s_[:, 1:-1, 1:-1]
    for name in DALI_NAMES:
        resized = images(name, 2)
        assert differ(resized[inside], wanted[inside])[0] <= DALIS_INSIDE
        if side < 480:  # or the border is cured, and the documents are out of date
            assert differ(resized, wanted)[0] > DALIS_INSIDE


# --------------------------------------------------------------------- resizes, kinds


@pytest.fixture(scope="module")
def smooth(tmp_path_factory):
    """A course folder of smooth 512-pixel images."""
    root = tmp_path_factory.mktemp("smooth")
    rng = np.random.Generator(np.random.PCG64(7))
    images = {}
    for number in range(8):
        coarse = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
        large = coarse.resize((512, 512), Image.Resampling.BICUBIC)
        images[f"{number // 2 + 1}_{('left', 'right')[number % 2]}"] = large
    return write_course(root, images, ".jpeg")


def write_course(root, images, suffix, **options):
    """Save PIL images as the train split, and one more as the test split."""
    (root / "data").mkdir()
    last = next(reversed(images.values()))
    for name, image in {**images, "900_left": last}.items():
        image.save(root / "data" / f"{name}{suffix}", **options)
    write_lists(root, list(images), ["900_left"])
    return root


def write_lists(root, train, test):
    for split, names in (("train", train), ("test", test)):
        (root / f"{split}_img.csv").write_text("".join(f"{n}\n" for n in names))
        grades = "".join(f"{n % 5}\n" for n in range(len(names)))
        (root / f"{split}_label.csv").write_text(grades)


@pytest.mark.parametrize(
    ("name", "side"), [*product(COMMON_ORDER, [*EXACT_SIDES, *OTHER_SIDES, 512])]
)
def test_resized_batches_equal_pillows(name, side, smooth):
    dataset = RetinopathyDataset(smooth / "data", "train")
    tolerance = resize_tolerance(name, side) if side != 512 else (0, 0.0)
    compare(name, FolderSource(dataset), dataset, tolerance, image_size=side, workers=1)


KINDS = (
    "grey",
    "cmyk",
    "progressive",
    "rotated",
    "restarts",
    "full_chroma",
    "optimised",
)


@pytest.fixture(scope="module")
def odd(smooth, tmp_path_factory):
    """A course folder with a JPEG of every kind, and one PNG (``9_left``)."""
    root = tmp_path_factory.mktemp("odd")
    (root / "data").mkdir()
    with Image.open(smooth / "data" / "1_left.jpeg") as photo:
        image = photo.resize((96, 96))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    save = {
        "grey": lambda path: image.convert("L").save(path),
        "cmyk": lambda path: image.convert("CMYK").save(path),
        "progressive": lambda path: image.save(path, progressive=True),
        "rotated": lambda path: image.save(path, exif=exif, quality=95),
        "restarts": lambda path: image.save(path, restart_marker_rows=1),
        "full_chroma": lambda path: image.save(path, subsampling=0, quality=100),
        "optimised": lambda path: image.save(path, optimize=True, subsampling=1),
    }
    assert tuple(save) == KINDS
    for kind, write in save.items():
        write(root / "data" / f"{kind}.jpeg")
    image.save(root / "data" / "9_left.png")
    image.save(root / "data" / "9_right.jpeg")
    write_lists(root, [*KINDS, "9_left"], ["9_right"])
    return root


@pytest.fixture(scope="module")
def odd_shards(odd, tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd_shards")
    return write_shards(odd, folder / "shards", "--workers", "1")


def test_odd_kinds_are_what_they_say(odd):
    modes = {"grey": "L", "cmyk": "CMYK"}
    for kind in KINDS:
        with Image.open(odd / "data" / f"{kind}.jpeg") as image:
            assert image.mode == modes.get(kind, "RGB")
            assert ("progressive" in image.info) is (kind == "progressive")
            assert image.getexif().get(0x0112, 1) == (6 if kind == "rotated" else 1)


@pytest.mark.parametrize("size", [None, 48])
@pytest.mark.parametrize("name", COMMON_ORDER)
def test_odd_shards_are_the_same_in_every_loader(name, odd_shards, size):
    if size and name == "dali":
        pytest.skip("DALI resizes the border otherwise: tested above, with its bounds")
    config = LoaderConfig(batch_size=3, workers=2, image_size=size, **AUGMENTED)
    with make_loader("pil", odd_shards, "train", config) as one:
        assert len(one) == 3
        with make_loader(name, odd_shards, "train", config) as other:
            assert_same_batches(one, other, 0)


@pytest.mark.parametrize("name", NAMES)
def test_odd_shards_equal_the_plain_dataset(name, odd, odd_shards):
    """But for those that sharding encodes again: rotated, CMYK and PNG."""
    dataset = RetinopathyDataset(odd / "data", "train")
    with open_split(odd_shards, "train") as split:
        again = ("rotated", "cmyk", "9_left")
        kept = [row for row in split.rows if split.key(row) not in again]
        assert len(kept) == len(KINDS) - 2
        compare(name, split.select(np.array(kept)), dataset, workers=1)


def test_rotated_image_is_upright_in_shards(odd, odd_shards):
    upright = Image.open(odd / "data" / "rotated.jpeg").transpose(
        Image.Transpose.ROTATE_270
    )
    with make_loader("turbo", odd_shards, "train", LoaderConfig()) as loader:
        batch = next(loader.epoch(0))
    with open_split(odd_shards, "train") as split:
        place = [split.key(row) for row in batch.index.tolist()].index("rotated")
    assert differ(batch.images[place], np.asarray(upright))[1] < 2  # encoded again


@pytest.mark.parametrize("name", COMMON_ORDER)
def test_odd_folder_equals_the_plain_dataset(name, odd, tmp_path):
    """A folder is read as the report's Dataset reads it: nothing is turned upright."""
    write_lists(tmp_path, list(KINDS), ["9_right"])
    (tmp_path / "data").symlink_to(odd / "data")
    dataset = RetinopathyDataset(tmp_path / "data", "train")
    compare(name, FolderSource(dataset), dataset, workers=1)


def test_damaged_middle_is_refused_by_strict_decoders(shards, course, tmp_path):
    """Pillow decodes damaged entropy data without a word; libjpeg-turbo's API tells."""
    from loaders.decode import Decoder

    jpeg = bytearray((course / "data" / "10_left.jpeg").read_bytes())
    middle = len(jpeg) // 2
    jpeg[middle - 100 : middle + 100] = bytes(200)
    out = np.empty((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="Corrupt JPEG data"):
        Decoder()(bytes(jpeg), out)


# ------------------------------------------------------------------------- transforms


@pytest.mark.parametrize("name", NAMES)
def test_normalised_batch_equals_the_reports_transforms(name, shards, course):
    from torchvision import transforms

    plain = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(mean=list(MEAN), std=list(STD))]
    )
    dataset = RetinopathyDataset(course / "data", "train", plain)
    place = {key: n for n, key in enumerate(dataset.img_name)}
    with open_split(shards, "train") as split:
        keys = split.column("key")
    config = LoaderConfig(batch_size=8, workers=1, shuffle=True)
    with make_loader(name, shards, "train", config) as loader:
        for images, labels, index in loader.epoch(0):
            wanted = [dataset[place[keys[row]]] for row in index.tolist()]
            ready = normalise(images)
            assert ready.dtype == torch.float32
            assert ready.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(ready, torch.stack([image for image, _ in wanted]))
            assert labels.tolist() == [grade for _, grade in wanted]


@pytest.mark.parametrize("beside", [False, True])
def test_report_dataset_names_the_lists_that_are_missing(make_course, tmp_path, beside):
    course = make_course(tmp_path / "course", train=3, test=2)
    images = course / "data"
    holds = course
    if not beside:
        holds = images
        for csv in course.glob("*.csv"):
            csv.rename(images / csv.name)
    (holds / "test_img.csv").unlink()
    (holds / "test_label.csv").unlink()
    with pytest.raises(LabelError) as caught:
        RetinopathyDataset(images, "train")
    assert str(caught.value) == (
        f"{holds} must hold all of the course's CSVs, lacks test_img.csv, "
        "test_label.csv"
    )


def test_report_dataset_without_any_list_says_so(tmp_path):
    with pytest.raises(
        LabelError, match=r"^none of train_img\.csv, .* is in /.* or be"
    ):
        RetinopathyDataset(tmp_path, "train")
