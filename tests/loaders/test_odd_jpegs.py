"""Data sets that hold what sharding would not accept today: no loader dies of it."""

from __future__ import annotations

import errno
import io
import multiprocessing
import resource
from pathlib import Path

import numpy as np
import pytest
from conftest import course_folder, photograph
from fork_server import server
from PIL import Image
from small_runs import PRELOADED
from torture.child import in_child
from torture.images import Trusting
from torture.jpeg_mutants import exif, insert, kinds, segment, with_byte

from fastretina.shard import command as shard
from loaders import LOADERS, LoaderConfig, available, make_loader, open_split
from loaders.errors import LoaderError, SampleError, ShardError
from loaders.folder import FolderSource, RetinopathyDataset
from loaders.untrusted import read_file

server.set_forkserver_preload(PRELOADED)

PLAIN = kinds()["baseline"]
# What all loaders deliver as Pillow does, though it is not plain.
DELIVERED = {
    "cmyk": kinds()["cmyk"],
    "rgb": kinds()["rgb"],
    "names": kinds()["names-012"],
    "arithmetic": kinds()["arithmetic"],
    "exif": insert(PLAIN, exif(1) + exif(6)),
    "fill": insert(PLAIN, b"\xff" * 30),
    "rst": insert(PLAIN, b"\xff\xd0"),
    "length": insert(PLAIN, b"\xff\xfe\0\1"),
}
# What some can't decode.
REFUSED = {
    "tem": insert(PLAIN, b"\xff\x01"),
    "junk": insert(PLAIN, b"\x12\x34", 20),
    "profile": insert(PLAIN, segment(0xE2, b"ICC_PROFILE\0")),
    "bits": with_byte(PLAIN, PLAIN.index(b"\xff\xc0") + 4, 12),
    "two": with_byte(PLAIN, PLAIN.index(b"\xff\xc0") + 9, 2),
    "wide": with_byte(PLAIN, PLAIN.index(b"\xff\xc0") + 8, 72),
    "giant": PLAIN.replace(b"\x08\0\x40\0\x40", b"\x08\xfd\xe8\xfd\xe8", 1),
    "truncated": PLAIN[:-200],
}
BESIDE = 12  # good ones


def write_older(folder: Path, odd: dict[str, bytes]) -> Path:
    """Shards of good images and odd ones, as a version that knew less wrote them."""
    course = course_folder(folder / "course", BESIDE, 2)
    names = (course / "train_img.csv").read_text().split()
    for name, jpeg in odd.items():
        (course / "data" / f"{name}.jpeg").write_bytes(jpeg)
    mixed = [*names[:7], *odd, *names[7:]]
    (course / "train_img.csv").write_text("\n".join(mixed) + "\n")
    (course / "train_label.csv").write_text("\n".join("1" for _ in mixed) + "\n")
    argv = [str(course), str(folder / "shards"), "--samples-per-shard", "9"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastretina.shard.writer.Preparer", Trusting)
        assert shard.main([*argv, "--workers", "1"]) == 0
    return folder / "shards"


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_older(tmp_path_factory.mktemp("older"), DELIVERED)


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_older(tmp_path_factory.mktemp("worse"), DELIVERED | REFUSED)


def config(name: str, **options: object) -> LoaderConfig:
    return LoaderConfig(**{"batch_size": 5, "workers": 2 * (name != "pil"), **options})


def read(
    name: str, folder: Path, options: dict[str, object], epochs: int = 1
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Images by their keys, and the keys of those that were left out."""
    images: dict[str, np.ndarray] = {}
    with (
        open_split(folder, "train") as split,
        make_loader(name, folder, "train", config(name, **options)) as loader,
    ):
        for number in range(epochs):
            seen = []
            for batch in loader.epoch(number):
                for row, image in zip(
                    batch.index.tolist(), batch.images.numpy(), strict=True
                ):
                    images[split.keys[row]] = image.copy()
                    seen.append(row)
            assert len(set(seen)) == len(seen)
        return images, [error.key for error in loader.skipped]


def with_pillow(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


@pytest.mark.parametrize("verify_reads", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("name", available())
def test_what_is_not_plain_comes_as_pillow_has_it(
    name: str, shuffle: bool, verify_reads: bool, older: Path
) -> None:
    options = {"shuffle": shuffle, "verify_reads": verify_reads}
    images, left_out = read(name, older, options)
    assert left_out == []
    assert len(images) == BESIDE + len(DELIVERED)
    for key, jpeg in DELIVERED.items():
        assert np.array_equal(images[key], with_pillow(jpeg)), key
    for number in range(BESIDE):
        key = f"{number // 2 + 10}_{('left', 'right')[number % 2]}"
        assert np.array_equal(images[key], with_pillow(photograph(number)))


@pytest.mark.parametrize("name", available())
def test_what_cannot_be_decoded_takes_no_good_one_with_it(
    name: str, worse: Path
) -> None:
    images, left_out = read(name, worse, {"on_corrupt": "skip"})
    assert set(left_out) <= set(REFUSED)
    assert {"bits", "two", "giant", "truncated"} <= set(left_out)
    assert images.keys() | set(left_out) >= DELIVERED.keys() | REFUSED.keys()
    assert len(images) + len(left_out) == BESIDE + len(DELIVERED) + len(REFUSED)
    for key, jpeg in DELIVERED.items():
        assert np.array_equal(images[key], with_pillow(jpeg)), key


@pytest.mark.parametrize("name", available())
def test_what_cannot_be_decoded_is_named(name: str, worse: Path) -> None:
    with pytest.raises(SampleError) as caught:
        read(name, worse, {})
    assert caught.value.key in REFUSED


@pytest.mark.skipif("dali" not in available(), reason="DALI is not installed")
@pytest.mark.parametrize("name", ["dali", "dali-reader"])
def test_dali_does_not_die_of_a_marker_without_length(
    name: str, tmp_path: Path
) -> None:
    """Its parser refuses one; in the middle of a batch the process ended by SIGSEGV."""
    odd = {"rst": DELIVERED["rst"], "fill": DELIVERED["fill"], "tem": REFUSED["tem"]}
    folder = write_older(tmp_path, odd)
    options = {"batch_size": 8, "shuffle": True}
    images, left_out = in_child(read, name, folder, options, 12, seconds=120)
    assert (len(images), left_out) == (BESIDE + len(odd), [])


@pytest.mark.skipif("dali" not in available(), reason="DALI is not installed")
def test_batches_that_dali_may_not_have_are_counted(older: Path) -> None:
    with make_loader("dali", older, "train", config("dali")) as loader:
        assert sum(1 for _ in loader.epoch(0)) > 0
        assert 0 < loader.decoded_again < len(loader)


# ----------------------------------------------- what can't be read is no corrupt image


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of two images each, more than there are descriptors for."""
    folder = tmp_path_factory.mktemp("many")
    course = course_folder(folder / "course", 160, 2, size=16)
    argv = [str(course), str(folder / "shards"), "--samples-per-shard", "2"]
    assert shard.main([*argv, "--workers", "1"]) == 0
    return folder / "shards"


def count_with_few_files(
    name: str, folder: Path, most: int, hard: int | None = None
) -> tuple[int, int]:
    multiprocessing.set_start_method(None, force=True)  # or a server starts workers
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard or most))
    options = {"batch_size": 16, "shuffle": True, "on_corrupt": "skip", "workers": 2}
    images, left_out = read(name, folder, options)
    return len(images), len(left_out)


@pytest.mark.parametrize("name", sorted({*available()} - {"dali-reader"}))
def test_few_file_descriptors_are_enough_for_many_shards(name: str, many: Path) -> None:
    counts = in_child(count_with_few_files, name, many, 80, seconds=120)
    assert counts == (160, 0)


def test_dali_reader_allows_itself_the_files_that_it_needs(many: Path) -> None:
    pytest.importorskip("nvidia.dali")
    assert in_child(count_with_few_files, "dali-reader", many, 80, 4096) == (160, 0)
    with pytest.raises(LoaderError, match=r"keeps all \d+ tars open .*ulimit -n"):
        in_child(count_with_few_files, "dali-reader", many, 80, seconds=120)


def no_more_files(_: Path, *__: object, **___: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files", "train.tar")


@pytest.mark.parametrize(
    "name", [n for n in available() if n not in ("dali-reader", "webdataset")]
)
def test_shard_that_cannot_be_opened_ends_the_epoch(
    name: str, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = config(name, on_corrupt="skip")
    with make_loader(name, many, "train", options) as loader:
        with monkeypatch.context() as patch:
            patch.setattr("loaders.shards.open_regular", no_more_files)
            with pytest.raises(ShardError, match="Too many open files") as caught:
                list(loader.epoch(0))
        assert not isinstance(caught.value, SampleError)
        assert loader.skipped == []
        assert sum(len(batch.labels) for batch in loader.epoch(0)) == 160


@pytest.mark.parametrize("name", [n for n in available() if not LOADERS[n].own_order])
@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENOMEM])
def test_file_that_cannot_be_read_ends_the_epoch(
    name: str, number: int, course: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FolderSource(RetinopathyDataset(course / "data", "train"))

    def fail(path: Path, most: int) -> bytes:
        if path.stem == "15_left":
            raise OSError(number, "any reason", str(path))
        return read_file(path, most)

    with make_loader(name, source, "train", config(name, on_corrupt="skip")) as loader:
        monkeypatch.setattr("loaders.folder.read_file", fail)
        with pytest.raises(OSError, match="15_left") as caught:
            list(loader.epoch(0))
        assert caught.value.errno == number
        assert loader.skipped == []


def test_memory_that_is_short_is_no_fault_of_the_image(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("simplejpeg.decode_jpeg", greedy)
    options = config("turbo", on_corrupt="skip")
    with (
        make_loader("turbo", shards, "train", options) as loader,
        pytest.raises(MemoryError),
    ):
        list(loader.epoch(0))
