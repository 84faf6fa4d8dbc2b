"""Shards as other programs read them: tarfile, DALI's index, the webdataset library."""

import hashlib
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders.files import put_in_place, write_atomically
from loaders.leftovers import final_name
from loaders.tar import ShardWriter, member_header

ALPHABET = "ABCXYZabcxyz0189_-"
keys = st.text(ALPHABET, min_size=1, max_size=90)
contents = st.binary(max_size=1500) | st.sampled_from([b"", b"x" * 512, b"y" * 1024])
samples = st.lists(
    st.tuples(keys, contents, st.integers(0, 4)),
    max_size=5,
    unique_by=lambda sample: sample[0],
)
MADE = [
    ("10_left", b"\xff\xd8 jpeg", 0),
    ("10-right", b"j" * 512, 4),
    ("A" * 90, b"", 1),
]


def members(jpeg, grade):
    return {"jpg": jpeg, "cls": str(grade).encode(), "json": b'{"grade": %d}' % grade}


def write(path, made):
    """Write a shard; return what ``finish`` says and the offsets of the JPEGs."""
    with ShardWriter(path) as shard:
        offsets = [shard.add(key, members(jpeg, grade)) for key, jpeg, grade in made]
        return shard.finish(), offsets


def as_dali_indexes(path):
    """What DALI's wds2idx writes: a line per sample, ``ext offset size name`` each."""
    bundles = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            part = f"{extension} {member.offset_data} {member.size} {member.name}"
            bundles.setdefault(key, []).append(part)
    lines = [f"v1.2 {len(bundles)}", *map(" ".join, bundles.values())]
    return "\n".join(lines) + "\n"


@given(samples)
def test_tarfile_reads_back_what_was_written(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("tar") / "train-000000.tar"
    written, offsets = write(path, made)
    names, read, at = [], [], []
    with tarfile.open(path) as tar:
        for member in tar:
            names.append(member.name)
            read.append(tar.extractfile(member).read())
            at.append(member.offset_data)
            assert member.isreg()
    extensions = ("jpg", "cls", "json")
    assert names == [f"{key}.{e}" for key, _, _ in made for e in extensions]
    wanted = [m for _, jpeg, grade in made for m in members(jpeg, grade).values()]
    assert read == wanted
    assert offsets == at[::3]
    content = path.read_bytes()
    assert written == (len(made), len(content), hashlib.sha256(content).hexdigest())
    assert len(content) % 512 == 0
    assert content.endswith(bytes(1024))
    assert path.with_suffix(".idx").read_text() == as_dali_indexes(path)


@pytest.mark.skipif(
    any(tarfile.TarInfo("a").tobuf(tarfile.USTAR_FORMAT)[329:345]),
    reason="this Python's tarfile fills in device numbers of regular files",
)
@given(keys, st.sampled_from(["jpg", "cls", "json"]), st.integers(0, 8**11 - 1))
def test_header_equals_tarfiles(key, extension, size):
    info = tarfile.TarInfo(f"{key}.{extension}")
    info.size, info.mode, info.mtime = size, 0o444, 0
    assert info.uid == info.gid == 0
    assert info.uname == info.gname == ""
    assert member_header(info.name, size) == info.tobuf(tarfile.USTAR_FORMAT)


def test_index_of_two_samples_is_written_out_in_full(tmp_path):
    path = tmp_path / "a.tar"
    write(path, MADE[:2])
    assert path.with_suffix(".idx").read_text().splitlines() == [
        "v1.2 2",
        "jpg 512 7 10_left.jpg cls 1536 1 10_left.cls json 2560 12 10_left.json",
        "jpg 3584 512 10-right.jpg cls 4608 1 10-right.cls json 5632 12 10-right.json",
    ]


# webdataset's own tar reading leaves files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_a_shard(tmp_path):
    wds = pytest.importorskip("webdataset")
    path = tmp_path / "train-000000.tar"
    write(path, MADE)
    data = wds.WebDataset(str(path), shardshuffle=False).to_tuple(
        "__key__", "jpg", "cls"
    )
    read = [(key, jpeg, int(grade)) for key, jpeg, grade in data]
    assert read == MADE


@pytest.mark.parametrize(
    "key", ["", "a.b", "a/b", "../x", "a b", "a\n", "é", "x" * 91, "a\0", "٣"]
)
def test_illegal_key_is_refused(tmp_path, key):
    with ShardWriter(tmp_path / "a.tar") as shard:
        with pytest.raises(ValueError, match="key must match"):
            shard.add(key, {"jpg": b""})
        offset = shard.add("a", {"jpg": b"x"})
        shard.finish()
    assert offset == 512  # nothing of the refused one was written


@pytest.mark.parametrize("name", ["x" * 101, "é.jpg"])
def test_header_of_an_impossible_name_is_refused(name):
    with pytest.raises(ValueError, match="at most 100 ASCII characters"):
        member_header(name, 1)


def test_other_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.tar"):
        ShardWriter(tmp_path / "a.idx")
    assert not list(tmp_path.iterdir())


def test_unfinished_shard_leaves_no_file(tmp_path):
    with ShardWriter(tmp_path / "a.tar") as shard:
        shard.add("a", {"jpg": b"x"})
        assert not (tmp_path / "a.tar").exists()
    assert not list(tmp_path.iterdir())


def test_failure_inside_leaves_no_file(tmp_path):
    def fail_half_way():
        with ShardWriter(tmp_path / "a.tar") as shard:
            shard.add("a", {"jpg": b"x"})
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        fail_half_way()
    assert not list(tmp_path.iterdir())


def test_ended_shard_has_no_names_until_it_is_given_them(tmp_path):
    with ShardWriter(tmp_path / "a.tar") as shard:
        shard.add("a", {"jpg": b"x"})
        shard.end()
    names = [part.name for part, _ in shard.parts]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [final_name(part) for part, _ in shard.parts] == ["a.idx", "a.tar"]
    for part, path in shard.parts:
        put_in_place(part, path)
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == ["a.jpg"]


def test_failure_leaves_the_shard_of_before(tmp_path):
    path = tmp_path / "a.tar"
    write(path, MADE)
    before = path.read_bytes(), path.with_suffix(".idx").read_bytes()
    with ShardWriter(path) as shard:
        shard.add("other", {"jpg": b"x"})
    assert (path.read_bytes(), path.with_suffix(".idx").read_bytes()) == before


def test_finished_shard_is_two_files(tmp_path):
    write(tmp_path / "a.tar", MADE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.idx", "a.tar"]


def test_shard_of_no_samples_is_an_empty_tar(tmp_path):
    written, _ = write(tmp_path / "a.tar", [])
    assert written.samples == 0
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == []
    assert (tmp_path / "a.idx").read_text() == "v1.2 0\n"


def test_same_samples_give_the_same_bytes(tmp_path):
    one, other = tmp_path / "one.tar", tmp_path / "other.tar"
    assert write(one, MADE)[0] == write(other, MADE)[0]
    assert one.read_bytes() == other.read_bytes()
    one, other = one.with_suffix(".idx"), other.with_suffix(".idx")
    assert one.read_bytes() == other.read_bytes()


def test_write_atomically_replaces_the_whole_file(tmp_path):
    path = tmp_path / "a.json"
    write_atomically(path, "long text")
    write_atomically(path, b"short")
    assert path.read_bytes() == b"short"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomically_keeps_the_old_file_on_failure(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomically(path, "old")

    def full(_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
