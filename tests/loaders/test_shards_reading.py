"""Reading shards: the bytes of the source, and a clear refusal of anything damaged."""

import hashlib
import json
import os
import pickle
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from resealed import read_json, without_checksums, write_sealed

from loaders import open_split
from loaders import shards as shards_module
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


@pytest.fixture
def older(copied):
    """The copy with a manifest of an older version: without checksums."""
    without_checksums(copied)
    return copied


def open_in(folder):
    """Files of a folder that this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if path.startswith(f"{folder}/")]


def rewrite_manifest(folder, **changes):
    write_sealed(folder, read_json(folder) | changes)


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
def test_damaged_index_is_refused(older, content):
    (older / "train.parquet").write_bytes(content)
    with pytest.raises(ShardError, match=r"train\.parquet cannot be read"):
        open_split(older, "train")


def test_index_cut_short_is_refused(older):
    path = older / "train.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ShardError, match=r"train\.parquet cannot be read"):
        open_split(older, "train")


def test_index_without_a_column_is_refused(older):
    rewrite_table(older, lambda table: table.drop_columns(["offset"]))
    with pytest.raises(ShardError, match="lacks the column 'offset'; shard again"):
        open_split(older, "train")


def test_index_with_another_number_of_rows_is_refused(older):
    rewrite_table(older, lambda table: table.slice(0, 36))
    with pytest.raises(ShardError, match="has 36 rows, the manifest lists 37 samples"):
        open_split(older, "train")


@pytest.mark.parametrize("shard", [0, 4, -1])
def test_index_that_counts_other_shards_than_the_manifest_is_refused(older, shard):
    def change(table):
        numbers = table["shard"].to_pylist()
        numbers[36] = shard
        place = table.column_names.index("shard")
        return table.set_column(place, "shard", pa.array(numbers, pa.int32()))

    rewrite_table(older, change)
    with pytest.raises(ShardError, match="differ on what each shard holds"):
        open_split(older, "train")


def test_index_of_the_other_split_is_refused(older):
    shutil.copy(older / "test.parquet", older / "train.parquet")
    with pytest.raises(ShardError, match="has 11 rows"):
        open_split(older, "train")


@pytest.mark.parametrize("change", [-512, -1, 1, 512, None])
def test_tar_cut_short_or_grown_is_refused(copied, change):
    path = copied / "train-000001.tar"
    size = path.stat().st_size
    os.truncate(path, 0 if change is None else size + change)
    with open_split(copied, "train") as split:
        assert len(split.read(9)) > 100  # the shard before is whole
        with pytest.raises(ShardError, match="changed or cut short") as caught:
            split.read(10)
    assert str(path) in str(caught.value)
    assert not open_in(copied)


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


def test_close_lets_go_of_the_files(shards, split):
    for row in range(37):
        split.read(row)
    assert len(open_in(shards)) == 4
    split.close()
    assert not open_in(shards)
    split.close()
    assert len(split.read(0)) > 100  # reading opens again
    assert len(open_in(shards)) == 1


def test_view_outlives_close(course, shards, split):
    view = split.read(0)
    split.close()
    assert not open_in(shards)
    assert view == (course / "data" / f"{split.key(0)}.jpeg").read_bytes()


def test_opening_a_split_opens_no_tar(shards, split):
    assert not open_in(shards)
    assert split.dimensions
    assert not open_in(shards)


def test_view_cannot_be_written_to(split):
    with pytest.raises(TypeError):
        split.read(0)[0] = 0


def test_more_shards_than_open_files_are_read(course, shards, monkeypatch):
    monkeypatch.setattr(shards_module, "_OPEN_TARS", 2)
    with open_split(shards, "train") as split:
        before = len(os.listdir("/proc/self/fd"))
        for row in (
            np.random.Generator(np.random.PCG64(0)).integers(0, 37, 200).tolist()
        ):
            source = course / "data" / f"{split.key(row)}.jpeg"
            assert split.read(row) == source.read_bytes()
            assert len(open_in(shards)) <= 2
            assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_tars_of_two_splits_fit_the_usual_limit_of_open_files():
    assert 2 * shards_module._OPEN_TARS + 256 <= 1024


def test_most_of_the_descriptors_are_left_to_others(shards, monkeypatch):
    monkeypatch.setattr(shards_module, "most_files", lambda: 8)
    with open_split(shards, "train") as split:
        before = len(os.listdir("/proc/self/fd"))
        for row in (0, 10, 20, 30):
            split.read(row)
        assert len(os.listdir("/proc/self/fd")) == before + 2


def test_threads_read_the_same(course, shards, monkeypatch):
    monkeypatch.setattr(
        shards_module, "_OPEN_TARS", 1
    )  # files come and go all the time
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


# ---------------------------------------------------------------------------- checksums


def swap_labels(table):
    labels = table["label"].to_pylist()
    a, b = labels.index(0), next(n for n, label in enumerate(labels) if label)
    labels[a], labels[b] = labels[b], labels[a]
    place = table.column_names.index("label")
    return table.set_column(place, "label", pa.array(labels, pa.int8()))


def test_index_whose_labels_were_swapped_is_refused(copied):
    rewrite_table(copied, swap_labels)
    with pytest.raises(ShardError, match=r"train\.parquet is damaged: it is not what"):
        open_split(copied, "train")
    with open_split(copied, "test") as other:
        assert len(other) == 11


@pytest.mark.parametrize("change", [swap_labels, lambda table: table])
def test_older_data_set_opens_without_checksums(older, change):
    """And can't tell labels that were swapped, which --verify can."""
    rewrite_table(older, change)
    with open_split(older, "train") as split:
        assert len(split) == 37


def test_index_over_http_is_held_against_its_checksum(copied, monkeypatch):
    from loaders.place import Url

    def read_bytes(url, most):
        return (copied / url.text.rpartition("/")[2]).read_bytes()

    monkeypatch.setattr(Url, "read_bytes", read_bytes)
    assert len(open_split("http://host/shards", "train")) == 37
    rewrite_table(copied, swap_labels)
    with pytest.raises(ShardError, match=r"shards/train\.parquet is damaged"):
        open_split("http://host/shards", "train")


def test_dali_index_that_was_changed_is_refused(copied):
    path = copied / "train-000002.idx"
    lines = path.read_text().splitlines()
    lines[3], lines[4] = lines[4], lines[3]
    path.write_text("\n".join([*lines, ""]))
    with pytest.raises(ShardError, match=r"train-000002\.idx is damaged"):
        open_split(copied, "train")
    assert len(open_split(copied, "test")) == 11


def test_dali_indices_may_be_missing_as_no_loader_reads_them(copied):
    for path in copied.glob("*.idx"):
        path.unlink()
    with open_split(copied, "train") as split:
        assert len(split.read(0)) > 100


@pytest.mark.parametrize("how", ["none", "of the index", "of a shard", "of itself"])
def test_manifest_that_has_lost_a_checksum_is_refused(copied, how):
    manifest = read_json(copied)
    train = manifest["splits"]["train"]
    if how == "of the index":
        del train["index"]
    elif how == "of a shard":
        del train["shards"][1]["index_sha256"]
    write_sealed(copied, manifest)
    if how == "of itself":
        path = copied / "manifest.json"
        path.write_text(path.read_text().replace(', "sha256"', ', "sha257"'))
        path.write_text(path.read_text().replace('\n "sha256"', '\n "sha257"'))
    if how == "none":
        assert open_split(copied, "train").manifest.indices["train"].bytes > 1000
        return
    with pytest.raises(ShardError, match="some of its checksums are missing"):
        open_split(copied, "train")


def test_every_byte_of_the_manifest_that_says_something_counts(copied):
    path = copied / "manifest.json"
    whole, read = path.read_bytes(), read_manifest(copied)
    said = json.loads(whole)
    refused = []
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 4
        path.write_bytes(changed)
        try:
            same = read_manifest(copied) == read
        except ShardError as error:
            refused.append(str(error))
        else:
            assert same
            assert json.loads(bytes(changed)) == said
    assert len(refused) > len(whole) / 7 * 0.8  # the rest is indentation
    assert all(text.startswith(f"{path}") for text in refused)
    assert not any("\n" in text for text in refused)


def test_checksum_of_the_manifest_is_as_documented(shards):
    """However it is indented."""
    said = json.loads((shards / "manifest.json").read_text())
    checksum = said.pop("sha256")
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == checksum


DEEP = "[" * 50_000 + "]" * 50_000
MANY = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"bytes": ', '"bytes": "7", "was": ', "Expected `int`, got `str`"),
        ('"bytes": ', '"bytes": true, "was": ', "Expected `int`, got `bool`"),
        ('"bytes": ', '"bytes": 7.5, "was": ', "Expected `int`, got `float`"),
        ('"bytes": ', f'"bytes": {"9" * 5000}, "was": ', "4300 digits"),
        ('"bytes": ', f'"bytes": {"9" * 30}, "was": ', "`int`"),
        ('"bytes": ', '"bytes": -1, "was": ', "Expected `int` >= 0"),
        ('"bytes": ', '"bytes": NaN, "was": ', "NaN is no JSON"),
        ('"bytes": ', f'"bytes": {DEEP}, "was": ', "recursion"),
        ('"bytes": ', f'"bytes": {MANY}, "was": ', "too many"),
        ('"bytes": ', '"bytes": 7, "bytes": ', "the key 'bytes' comes twice"),
        ('"train-000001.tar"', '"../train-000001.tar"', "must be called train-000001"),
        ('"train-000001.tar"', '"train-000002.tar"', "got 'train-000002.tar'"),
        ('"train-000001.tar"', '"\\u001b[31m.tar"', r"got '\x1b[31m.tar'"),
        ('"train": {', '"../train": {', "no split can be called '../train'"),
        ('"splits": {', '"splits": {}, "more": {', "it lists no split"),
        ('"splits": {', '"splits": [], "more": {', "Expected `object`, got `array`"),
        ('"samples": 37', '"samples": 38', "counts 38 samples in train, and 37"),
        ('"quarantine": []', '"quarantine": [{"key": 1}]', "Expected `str`"),
        ('"seed"', '\0"seed"', "Expecting property name"),
    ],
)
def test_odd_manifest_is_refused_in_one_line(older, old, new, reason):
    """With no checksum that would tell."""
    path = older / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ShardError, match="is damaged") as caught:
        open_split(older, "train")
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"{path} is damaged (")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
def test_manifest_in_another_encoding_is_refused(copied, encoding):
    path = copied / "manifest.json"
    path.write_bytes(path.read_text().encode(encoding))
    with pytest.raises(ShardError, match=r"manifest\.json is damaged"):
        open_split(copied, "train")


def test_manifest_of_a_terabyte_is_not_read(copied):
    os.truncate(copied / "manifest.json", 1 << 40)  # a hole
    with pytest.raises(ShardError, match="may be read"):
        open_split(copied, "train")


@pytest.mark.parametrize("name", ["train.parquet", "train-000001.idx"])
def test_index_of_a_terabyte_is_not_read(copied, name):
    os.truncate(copied / name, 1 << 40)
    with pytest.raises(ShardError, match=f"{name} is damaged"):
        open_split(copied, "train")


def test_format_of_many_letters_is_shortened(copied):
    rewrite_manifest(copied, format="x" * 9999)
    with pytest.raises(ShardError, match=r"got 'xxx.*\.\.\.; shard again") as caught:
        open_split(copied, "train")
    assert len(str(caught.value)) < 400


def as_type(name, kind):
    def change(table):
        place = table.column_names.index(name)
        if kind == "null":
            values = [None, *table[name].to_pylist()[1:]]
            return table.set_column(place, name, pa.array(values, table[name].type))
        return table.set_column(place, name, table[name].cast(kind))

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (as_type("label", "float64"), "has double in the column 'label', where int8"),
        (
            as_type("crc32c", "string"),
            "has string in the column 'crc32c', where uint32",
        ),
        (as_type("key", "large_string"), "has large_string in the column 'key', where"),
        (as_type("offset", "null"), "a row lacks its offset"),
        (as_type("shard", "null"), "a row lacks its shard"),
        (as_type("components", "null"), "a row lacks its components"),
        (lambda t: t.append_column("key", t["key"]), "has the column 'key' 2 times"),
    ],
)
def test_index_of_other_types_is_refused(older, change, reason):
    rewrite_table(older, change)
    with pytest.raises(ShardError, match=r"train\.parquet") as caught:
        open_split(older, "train")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_index_of_text_that_is_none_is_refused(older):
    def change(table):
        keys = [key.encode() for key in table["key"].to_pylist()]
        keys[3] = b"\xff\xfe"
        column = pa.array(keys, pa.binary()).view(pa.string())
        return table.set_column(table.column_names.index("key"), "key", column)

    rewrite_table(older, change)
    with pytest.raises(ShardError, match=r"train\.parquet cannot be read .*UTF8"):
        open_split(older, "train")


def test_grades_that_are_not_the_manifests_are_refused(older):
    def change(table):
        labels = [(label + 1) % 5 for label in table["label"].to_pylist()]
        place = table.column_names.index("label")
        return table.set_column(place, "label", pa.array(labels, pa.int8()))

    rewrite_table(older, change)
    with pytest.raises(ShardError, match="its grades are not the manifest's"):
        open_split(older, "train")
