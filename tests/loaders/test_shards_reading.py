"""Reading shards: the bytes of the source, and a clear refusal of anything damaged."""

import json
import os
import pickle
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loaders import _tar_maps, open_split
from loaders.errors import DataError, NoShards, SampleError, ShardError
from loaders.shards import ShardSplit, read_manifest, shard_name


@pytest.fixture
def split(shards):
    with open_split(shards, "train") as split:
        yield split


@pytest.fixture
def copied(shards, tmp_path):
    """A copy of the shards, to be damaged."""
    return Path(shutil.copytree(shards, tmp_path / "shards"))


def maps_of(folder):
    """Lines of this process's memory maps that lie in a folder."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if f"{folder}/" in line]


def rewrite_manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite_table(folder, change):
    path = folder / "train.parquet"
    pq.write_table(change(pq.read_table(path)), path)


def course_grades(course, split):
    names = (course / f"{split}_img.csv").read_text().split()
    grades = (course / f"{split}_label.csv").read_text().split()
    return dict(zip(names, map(int, grades), strict=True))


@pytest.mark.parametrize("name", ["train", "test"])
def test_every_row_reads_as_its_source_file(course, shards, name):
    with open_split(shards, name) as split:
        for row in range(len(split)):
            source = course / "data" / f"{split.key(row)}.jpeg"
            assert split.read(row) == source.read_bytes()


def test_rows_carry_the_labels_of_the_csv(course, split):
    grades = course_grades(course, "train")
    keys = split.column("key")
    assert sorted(keys) == sorted(grades)
    assert split.labels.dtype == np.int64
    assert split.labels.tolist() == [grades[key] for key in keys]
    assert [split.key(row) for row in range(37)] == keys


def test_columns_tell_patient_and_eye(split):
    pairs = list(zip(split.column("patient"), split.column("eye"), strict=True))
    assert [f"{patient}_{eye}" for patient, eye in pairs] == split.column("key")


def test_rows_are_numbered_shard_by_shard(shards, split):
    assert len(split) == 37
    assert split.rows.tolist() == list(range(37))
    assert split.shard_sizes == (10, 10, 10, 7)
    names = [shard_name("train", number) for number in range(4)]
    assert [shard.name for shard in split.shards] == names
    in_tars = []
    for name in names:
        with tarfile.open(shards / name) as tar:
            in_tars += [key[:-4] for key in tar.getnames() if key.endswith(".jpg")]
    assert split.column("key") == in_tars


def test_dimensions_are_the_distinct_heights_and_widths(make_course, shards, tmp_path):
    with open_split(shards, "train") as split:
        assert split.dimensions == ((64, 64),)
    folder = wide_shards(make_course, tmp_path)
    with open_split(folder, "train") as split:
        assert set(split.dimensions) == {(64, 64), (32, 48)}
        wide = [row for row in split.rows if split.table["width"][row].as_py() == 48]
        assert split.select(np.array(wide)).dimensions == ((32, 48),)


def wide_shards(make_course, root):
    """Shards of 8 square images and one of 48x32."""
    from PIL import Image

    from fastretina.shard import command as shard

    course = make_course(root / "course", train=9, test=2)
    path = course / "data" / "10_left.jpeg"
    Image.open(path).resize((48, 32)).save(path)
    assert shard.main([str(course), str(root / "wide"), "--workers", "1"]) == 0
    return root / "wide"


def test_select_keeps_row_numbers_and_order(split):
    part = split.select(np.array([36, 3, 12, 11]))
    assert part.rows.tolist() == [3, 11, 12, 36]
    assert len(part) == 4
    assert part.shard_sizes == (1, 2, 0, 1)
    assert part.labels.tolist() == split.labels.tolist()
    assert part.key(36) == split.key(36)
    assert part.read(36) == split.read(36)
    part.close()


def test_select_nothing_is_an_empty_split(split):
    part = split.select(np.empty(0, np.int64))
    assert len(part) == 0
    assert part.shard_sizes == (0, 0, 0, 0)
    assert part.dimensions == ()


def test_split_with_no_sample_is_empty(make_course, tmp_path):
    """A class folder per grade, every patient in one split, may leave none to test."""
    from fastretina.shard import command as shard

    course = make_course(tmp_path / "course", train=4, test=2)
    for row in (4, 5):  # damage the test images: they are quarantined, none is left
        (
            course / "data" / f"{row // 2 + 10}_{('left', 'right')[row % 2]}.jpeg"
        ).write_bytes(b"no image")
    assert shard.main([str(course), str(tmp_path / "s"), "--workers", "1"]) == 0
    with open_split(tmp_path / "s", "test") as split:
        assert len(split) == 0
        assert sum(split.shard_sizes) == 0


def test_counts_of_the_manifest_are_those_of_the_labels(split):
    counts = np.bincount(split.labels, minlength=5).tolist()
    stated = split.manifest.counts["train"]
    assert [stated[str(grade)] for grade in range(5)] == counts


@pytest.mark.parametrize("there", [True, False])
def test_no_data_set_names_the_commands_that_make_one(tmp_path, there):
    folder = tmp_path / "shards"
    if there:
        folder.mkdir()
    with pytest.raises(NoShards) as caught:
        open_split(folder, "train")
    text = str(caught.value)
    assert f"'fastretina shard data/ {folder}'" in text
    assert "'fastretina demo data/'" in text
    assert ("does not exist" in text) is not there
    assert "\n" not in text
    assert isinstance(caught.value, (ShardError, DataError))


def test_unfinished_data_set_is_said_to_be_one(copied):
    (copied / "manifest.json").unlink()
    (copied / ".progress").mkdir()
    with pytest.raises(NoShards, match="an unfinished one"):
        open_split(copied, "train")


def test_file_in_place_of_the_folder_is_no_data_set(copied):
    with pytest.raises(NoShards, match="is a file of shards, not shards"):
        open_split(copied / "train.parquet", "train")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"format": 1, "spl',
        b"\xff\xfe",
        b'{"format": 1}',
        b'{"format": 1, "splits": []}',
        b'{"format": 1, "splits": {"train": {"shards": [{"name": "a"}]}}}',
        b'{"format": 1, "splits": {"train": {"shards": [1]}}}',
        b'{"format": 1, "splits": {"train": {"shards": []}}}',
    ],
)
def test_damaged_manifest_is_refused(copied, content):
    (copied / "manifest.json").write_bytes(content)
    with pytest.raises(ShardError, match=r"manifest\.json is damaged .*shard again"):
        open_split(copied, "train")


@pytest.mark.parametrize("number", [0, 2, "1", None])
def test_other_format_is_refused(copied, number):
    rewrite_manifest(copied, format=number)
    with pytest.raises(ShardError, match="format must be 1, got") as caught:
        open_split(copied, "train")
    assert repr(number) in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "null"])
def test_manifest_of_another_kind_is_refused(copied, content):
    (copied / "manifest.json").write_text(content)
    with pytest.raises(ShardError, match="format must be 1, got"):
        open_split(copied, "train")


def test_missing_split_lists_those_there_are(shards):
    with pytest.raises(ShardError, match="no split 'val'; it has: train, test"):
        open_split(shards, "val")


def test_missing_index_is_refused(copied):
    (copied / "train.parquet").unlink()
    with pytest.raises(ShardError, match=r"train\.parquet cannot be read"):
        open_split(copied, "train")
    with open_split(copied, "test") as other:
        assert len(other) == 11


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1 nothing of the kind PAR1"])
def test_damaged_index_is_refused(copied, content):
    (copied / "train.parquet").write_bytes(content)
    with pytest.raises(ShardError, match=r"train\.parquet cannot be read"):
        open_split(copied, "train")


def test_index_cut_short_is_refused(copied):
    path = copied / "train.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ShardError, match=r"train\.parquet cannot be read"):
        open_split(copied, "train")


def test_index_without_a_column_is_refused(copied):
    rewrite_table(copied, lambda table: table.drop_columns(["offset"]))
    with pytest.raises(ShardError, match="lacks the column 'offset'; shard again"):
        open_split(copied, "train")


def test_index_with_another_number_of_rows_is_refused(copied):
    rewrite_table(copied, lambda table: table.slice(0, 36))
    with pytest.raises(ShardError, match="has 36 rows, the manifest lists 37 samples"):
        open_split(copied, "train")


@pytest.mark.parametrize("shard", [0, 4, -1])
def test_index_that_counts_other_shards_than_the_manifest_is_refused(copied, shard):
    def change(table):
        numbers = table["shard"].to_pylist()
        numbers[36] = shard
        place = table.column_names.index("shard")
        return table.set_column(place, "shard", pa.array(numbers, pa.int32()))

    rewrite_table(copied, change)
    with pytest.raises(ShardError, match="differ on what each shard holds"):
        open_split(copied, "train")


def test_index_of_the_other_split_is_refused(copied):
    shutil.copy(copied / "test.parquet", copied / "train.parquet")
    with pytest.raises(ShardError, match="has 11 rows"):
        open_split(copied, "train")


@pytest.mark.parametrize("change", [-512, -1, 1, 512, None])
def test_tar_cut_short_or_grown_is_refused(copied, change):
    """Reading past the end of a map would kill the process with a SIGBUS."""
    path = copied / "train-000001.tar"
    size = path.stat().st_size
    os.truncate(path, 0 if change is None else size + change)
    with open_split(copied, "train") as split:
        assert len(split.read(9)) > 100  # the shard before is whole
        with pytest.raises(ShardError, match="changed or cut short") as caught:
            split.read(10)
    assert str(path) in str(caught.value)
    assert not maps_of(copied)


def test_missing_tar_is_refused(copied):
    (copied / "train-000000.tar").unlink()
    with open_split(copied, "train") as split:
        with pytest.raises(ShardError, match=r"train-000000\.tar cannot be read"):
            split.read(0)
        assert len(split.read(10)) > 100


def test_failure_names_shard_key_and_remedy(shards, split):
    error = split.failure(10, "it is rubbish")
    assert isinstance(error, SampleError)
    assert error.shard == str(shards / "train-000001.tar")
    assert (error.key, error.reason) == (split.key(10), "it is rubbish")
    text = str(error)
    assert text.startswith(f"{error.shard}, sample {error.key}: it is rubbish; ")
    assert "shard the photographs again" in text
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.key) == (text, error.key)


def test_pickled_split_reads_the_same(split):
    part = split.select(np.array([2, 30]))
    part.read(2)
    with pickle.loads(pickle.dumps(part)) as again:
        assert isinstance(again, ShardSplit)
        assert again.rows.tolist() == [2, 30]
        assert again.read(30) == part.read(30)
    part.close()
    assert len(pickle.dumps(part)) < 2000  # a path and rows, no table


def test_close_lets_go_of_the_maps(shards, split):
    for row in range(37):
        split.read(row)
    assert len(maps_of(shards)) == 4
    split.close()
    assert not maps_of(shards)
    split.close()
    assert len(split.read(0)) > 100  # reading opens again
    assert len(maps_of(shards)) == 1


def test_view_outlives_close(course, shards, split):
    view = split.read(0)
    split.close()
    assert view == (course / "data" / f"{split.key(0)}.jpeg").read_bytes()
    assert len(maps_of(shards)) == 1
    del view
    assert not maps_of(shards)


def test_opening_maps_nothing(shards, split):
    assert not maps_of(shards)
    assert split.dimensions
    assert not maps_of(shards)


def test_view_cannot_be_written_to(split):
    with pytest.raises(TypeError):
        split.read(0)[0] = 0


def test_more_shards_than_maps_are_read_with_few_open(course, shards, monkeypatch):
    monkeypatch.setattr(_tar_maps, "MOST", 2)
    with open_split(shards, "train") as split:
        before = len(os.listdir("/proc/self/fd"))
        for row in (
            np.random.Generator(np.random.PCG64(0)).integers(0, 37, 200).tolist()
        ):
            source = course / "data" / f"{split.key(row)}.jpeg"
            assert split.read(row) == source.read_bytes()
            assert len(maps_of(shards)) <= 2
            assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_maps_of_two_splits_fit_the_usual_limit_of_open_files():
    assert 2 * _tar_maps.MOST + 256 <= 1024


def test_half_of_the_descriptors_are_left_to_others(shards, monkeypatch):
    monkeypatch.setattr(_tar_maps, "_most_files", lambda: 4)
    monkeypatch.setattr(_tar_maps, "_in_use", WeakSet())
    with open_split(shards, "train") as split:
        views = [split.read(row) for row in (0, 10, 20, 30)]
        assert len(maps_of(shards)) == 2
        del views
        assert split.read(36)
        assert len(maps_of(shards)) == 1


def test_threads_read_the_same(course, shards, monkeypatch):
    monkeypatch.setattr(_tar_maps, "MOST", 1)  # maps come and go all the time
    with open_split(shards, "train") as split, ThreadPoolExecutor(4) as pool:
        rows = list(range(37)) * 5
        read = list(pool.map(lambda row: bytes(split.read(row)), rows))
        for row, jpeg in zip(rows, read, strict=True):
            assert jpeg == (course / "data" / f"{split.key(row)}.jpeg").read_bytes()


def test_manifest_can_be_read_alone(shards):
    manifest = read_manifest(shards)
    assert list(manifest.splits) == ["train", "test"]
    assert sum(info.samples for info in manifest.splits["test"]) == 11
    for info in manifest.splits["train"]:
        assert (shards / info.name).stat().st_size == info.bytes
