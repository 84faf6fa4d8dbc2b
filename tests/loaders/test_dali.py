"""What is DALI's own: its index files, its failures, its shuffling."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from loaders import LoaderConfig, make_loader, open_split
from loaders.errors import LoaderUnavailable, SampleError

dali = pytest.importorskip("nvidia.dali", reason="DALI is not installed")

from nvidia.dali import fn  # noqa: E402
from nvidia.dali.pipeline import Pipeline  # noqa: E402

from loaders._dali import DaliLoader  # noqa: E402
from loaders._dali_reader import DaliReaderLoader  # noqa: E402

TRAIN = 37  # samples in the fixture's split, in shards of 10
BAD = 19
AUGMENTED = {"shuffle": True, "hflip": 0.4, "vflip": 0.5}


def tars(folder: Path) -> list[Path]:
    found = sorted(folder.glob("train-*.tar"))
    assert len(found) == 4
    return found


def test_index_files_are_those_of_dalis_own_tool(shards: Path, tmp_path: Path):
    """wds2idx ships with DALI, and asks GNU tar for the offsets."""
    from wds2idx import IndexCreator

    for tar in tars(shards):
        with IndexCreator(str(tar), str(tmp_path / "made.idx"), verbose=False) as maker:
            maker.create_index()
        ours = tar.with_suffix(".idx").read_text().split()
        assert ours == (tmp_path / "made.idx").read_text().split()


def test_dalis_reader_reads_our_shards_as_they_are(shards: Path):
    """Image, grade and document of every sample, by the index files as written."""
    pipeline = Pipeline(batch_size=TRAIN, num_threads=1, device_id=None)
    with pipeline:
        parts = fn.readers.webdataset(
            paths=[str(tar) for tar in tars(shards)],
            index_paths=[str(tar.with_suffix(".idx")) for tar in tars(shards)],
            ext=["jpg", "cls", "json"],
            missing_component_behavior="error",
        )
        pipeline.set_outputs(*parts)
    jpegs, grades, documents = pipeline.run()
    with open_split(shards, "train") as split:
        for row in range(TRAIN):
            assert bytes(jpegs.at(row)) == bytes(split.read(row))
            assert bytes(grades.at(row)) == b"%d" % split.labels[row]
            assert bytes(documents.at(row)).startswith(b"{")


# --------------------------------------------------------------------------- failures


@pytest.fixture
def damaged(shards: Path, tmp_path: Path) -> Path:
    """The shards with one image of zeros."""
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    row = pq.read_table(folder / "train.parquet").slice(BAD, 1).to_pylist()[0]
    with (folder / f"train-{row['shard']:06d}.tar").open("r+b") as tar:
        tar.seek(row["offset"])
        tar.write(bytes(200))
    return folder


def collect(loader, number=0):
    return [tuple(part.clone() for part in batch) for batch in loader.epoch(number)]


def test_batch_that_dali_fails_on_is_decoded_again(shards: Path, damaged: Path):
    config = LoaderConfig(
        batch_size=8, on_corrupt="skip", workers=2, verify_reads=False, **AUGMENTED
    )
    with (
        DaliLoader(open_split(damaged, "train"), config) as loader,
        make_loader(
            "pil", shards, "train", LoaderConfig(batch_size=8, **AUGMENTED)
        ) as plain,
    ):
        for number in range(3):
            found, wanted = collect(loader, number), collect(plain, number)
            for ours, theirs in zip(found, wanted, strict=True):
                kept = theirs[2] != BAD
                for one, other in zip(ours, theirs, strict=True):
                    assert torch.equal(one, other[kept])
            assert loader.decoded_again == number + 1
        assert len(loader.skipped) == 3


def test_batch_that_only_dali_fails_on_comes_whole(shards: Path, monkeypatch):
    """What another decoder can read is not lost: DALI fails once, for no reason."""
    config = LoaderConfig(batch_size=8, workers=2, **AUGMENTED)
    outputs, calls = Pipeline.outputs, iter(range(1000))

    def fails_once(self, *args, **named):
        if next(calls) == 2:
            raise RuntimeError("Current pipeline object is no longer valid.")
        return outputs(self, *args, **named)

    with DaliLoader(open_split(shards, "train"), config) as loader:
        wanted = collect(loader)
        monkeypatch.setattr(Pipeline, "outputs", fails_once)
        with pytest.warns(RuntimeWarning, match=r"\(Current pipeline object is no"):
            found = collect(loader)
        assert loader.decoded_again == 1
        assert loader.skipped == []
    for ours, theirs in zip(found, wanted, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_dali_that_keeps_failing_says_why_once_a_loader(shards: Path, monkeypatch):
    def fails(self, *args, **named):
        raise RuntimeError("\nCUDA error: out of memory\nStacktrace (12 entries):")

    monkeypatch.setattr(Pipeline, "outputs", fails)
    config = LoaderConfig(batch_size=8, workers=2)
    for _ in range(2):
        with (
            DaliLoader(open_split(shards, "train"), config) as loader,
            pytest.warns(RuntimeWarning, match="CUDA error: out of memory") as warned,
        ):
            assert len(collect(loader)) == loader.decoded_again == 5
        assert len(warned) == 1
        assert "\n" not in str(warned[0].message)


def test_error_of_our_own_is_not_taken_for_dalis(shards: Path, monkeypatch):
    def fails(*_):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(DaliLoader, "_finish", fails)
    config = LoaderConfig(batch_size=8, workers=2)
    with DaliLoader(open_split(shards, "train"), config) as loader:
        with pytest.raises(RuntimeError, match="a bug of ours"):
            next(loader.epoch(0))
        assert loader.decoded_again == 0


def test_pipeline_serves_one_epoch_after_the_other(shards: Path):
    config = LoaderConfig(batch_size=8, workers=2, **AUGMENTED)
    with DaliLoader(open_split(shards, "train"), config) as loader:
        collect(loader)
        first = loader._pipeline
        next(loader.epoch(1))  # abandoned
        collect(loader, 2)
        assert loader._pipeline is first


def test_pipeline_has_batches_from_dalis_pool_unless_told_otherwise(
    shards: Path, monkeypatch
):
    name = "DALI_MALLOC_POOL_THRESHOLD"
    for given, got in ((None, "1M"), ("64M", "64M")):
        monkeypatch.delenv(name, raising=False)
        if given is not None:
            monkeypatch.setenv(name, given)
        with reader(shards) as loader:
            next(loader.epoch(0))
        assert os.environ[name] == got


@pytest.mark.parametrize("kind", [DaliLoader, DaliReaderLoader])
def test_dali_leaves_flips_on_a_cpu_to_opencv(shards: Path, monkeypatch, kind):
    """Its own takes five times as long, whether an image is flipped or not."""
    monkeypatch.setattr(fn, "flip", None)
    config = LoaderConfig(batch_size=8, workers=2, **AUGMENTED)
    with kind(open_split(shards, "train"), config) as loader:
        assert len(collect(loader)) == len(loader)


def test_device_that_dali_cannot_use_is_one_line(shards: Path, monkeypatch):
    def refuse(self):
        raise RuntimeError("\nThe CUDA driver is too old.\nStacktrace (12 entries):")

    monkeypatch.setattr(Pipeline, "build", refuse)
    with (
        DaliLoader(open_split(shards, "train"), LoaderConfig(workers=1)) as loader,
        pytest.raises(LoaderUnavailable) as caught,
    ):
        next(loader.epoch(0))
    assert str(caught.value) == (
        "DALI can't use cpu (The CUDA driver is too old.); pass --loader turbo"
    )


# ------------------------------------------------------------------------- dali-reader


def reader(folder: Path, **options) -> DaliReaderLoader:
    config = LoaderConfig(**{"batch_size": 8, "workers": 2, **options})
    return DaliReaderLoader(open_split(folder, "train"), config)


def rows(batches) -> list[int]:
    return [row for batch in batches for row in batch.index.tolist()]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [6, 12, 60])
def test_reader_epochs_are_exact_for_all_ranks(shards: Path, world_size, batch_size):
    for number in range(3):
        seen, lengths = [], set()
        for rank in range(world_size):
            options = {"batch_size": batch_size, "shuffle": True}
            with reader(shards, rank=rank, world_size=world_size, **options) as loader:
                batches = [batch.index.tolist() for batch in loader.epoch(number)]
            seen += [row for batch in batches for row in batch]
            lengths.add(len(batches))
        assert sorted(seen) == list(range(TRAIN))
        assert lengths == {-(-TRAIN // batch_size)}


def test_reader_shuffles_within_shards_and_beyond(shards: Path):
    """Neither the order of the tars nor that inside them is that of the files."""
    with reader(shards, shuffle=True, window=4) as loader:
        order = rows(loader.epoch(0))
    steps = np.diff(order)
    assert np.mean(steps == 1) < 0.2
    shard = np.array(order) // 10
    assert np.mean(np.diff(shard) != 0) > 0.3


def test_reader_takes_its_part_of_a_split(shards: Path):
    chosen = np.array([0, 3, 11, 12, 13, 36])
    with (
        open_split(shards, "train") as split,
        DaliReaderLoader(
            split.select(chosen), LoaderConfig(batch_size=4, workers=1)
        ) as loader,
    ):
        batches = list(loader.epoch(0))
        assert rows(batches) == chosen.tolist()
        labels = torch.cat([batch.labels for batch in batches])
        assert labels.tolist() == split.labels[chosen].tolist()


def test_reader_names_the_image_that_dali_does_not(damaged: Path):
    with (
        reader(damaged, shuffle=True) as loader,
        pytest.raises(SampleError) as caught,
    ):
        list(loader.epoch(0))
    with open_split(damaged, "train") as split:
        assert caught.value.key == split.key(BAD)


def test_reader_leaves_no_file_behind(shards: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with reader(shards, shuffle=True, rank=0, world_size=2) as loader:
        batches = loader.epoch(0)
        next(batches)
        assert list(tmp_path.rglob("*.idx"))  # of a shard that two ranks share
        del batches
        assert list(tmp_path.iterdir()) == []
