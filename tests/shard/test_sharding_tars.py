"""``scripts/shard.py`` on tars without an index: our own, and whoever's."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import webdataset
from filelock import FileLock
from PIL import Image

from loaders.errors import NoShards
from loaders.shards import SPLITS, open_split

Run = Callable[..., tuple[int, list[str], list[str]]]
Read = Callable[[Path], dict[str, bytes]]
Members = Iterable[tuple[str, bytes]]


def jpeg(seed: int, size: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    return simplejpeg.encode_jpeg(pixels)


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: Members) -> Path:
    """A tar of these files, in this order, as ``tar cf`` packs them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def sample(key: str, grade: object = 0) -> list[tuple[str, bytes]]:
    """The usual members; another JPEG for every key."""
    image = jpeg(sum(key.encode()))
    return [(f"{key}.cls", str(grade).encode()), (f"{key}.jpg", image)]


def samples(*keys: str, first: int = 0) -> list[tuple[str, bytes]]:
    graded = (sample(key, n % 5) for n, key in enumerate(keys, first))
    return [member for members in graded for member in members]


def eyes(numbers: Iterable[int]) -> list[str]:
    return [f"{n}_{eye}" for n in numbers for eye in ("left", "right")]


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Every sample by its key: its split, its JPEG, and the index but its place."""
    found = {}
    for name in SPLITS:
        with open_split(folder, name) as split:
            for row, told in enumerate(split.table.to_pylist()):
                jpeg = bytes(split.read(row))
                place = {"shard", "offset"}
                kept = {key: told[key] for key in told if key not in place}
                found[told["key"]] = {"split": name, "jpeg": jpeg, **kept}
    return found


def only_tars(shards: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for tar in shards.glob("*.tar"):
        shutil.copy(tar, folder)
    return folder


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def one_error(err: list[str]) -> str:
    assert [line for line in err if line.startswith("error: ")] == err, err
    (line,) = err
    return line


@pytest.fixture
def refused(tmp_path: Path, run_shard: Run) -> Callable[..., str]:
    """Shard ``tars``, which must be refused in a line, with nothing left behind."""

    def run(*flags: object) -> str:
        before = sorted(tmp_path.iterdir())
        code, _, err = run_shard(tmp_path / "tars", tmp_path / "new" / "out", *flags)
        assert code == 1
        assert sorted(tmp_path.iterdir()) == before
        return one_error(err)

    return run


@pytest.fixture
def taken(tmp_path: Path, run_shard: Run) -> Callable[..., list[str]]:
    """Shard ``tars`` to ``out``; what stderr says of more than few samples."""

    def run(*flags: object) -> list[str]:
        code, _, err = run_shard(tmp_path / "tars", tmp_path / "out", *flags)
        assert code == 0, err
        assert not list((tmp_path / "out").glob(".*"))
        assert run_shard("--verify", tmp_path / "out")[0] == 0
        return [line for line in err if line != "warning: the test split is empty"]

    return run


# There and back


def test_our_own_tars_give_the_same_samples(
    shards: Path, tmp_path: Path, taken: Callable[..., list[str]]
) -> None:
    only_tars(shards, tmp_path / "tars")
    assert taken("--samples-per-shard", 7, "--seed", 3) == []
    out = tmp_path / "out"
    assert len(rows(shards)) == 48
    assert rows(out) == rows(shards)
    about = manifest_of(out)["source"]
    assert about["layout"] == "tars"
    assert about["listed"] == 48
    assert about["patients"] == "the tars' .json and eye markers in the image names"
    assert about["left_out"] == {}


def test_whatever_the_names_and_patients_were(
    tmp_path: Path, run_shard: Run, taken: Callable[..., list[str]]
) -> None:
    """Patients by a column, some unknown; names that no key can hold; a PNG."""
    data = tmp_path / "data"
    data.mkdir()
    lines = ["image,level,who"]
    named = ["Ä b_left", "Ä-b_left", "x.1 r", "plain", "10_left", "11+right", "p" * 95]
    for number, name in enumerate(named):
        (data / f"{name}.jpeg").write_bytes(jpeg(number))
        lines.append(f"{name},{number % 5},{['', 'Ms Ö', 'plain'][number % 3]}")
    (data / "grey_OS.png").write_bytes(png(99))
    lines.append("grey_OS,4,somebody")
    (data / "labels.csv").write_text("\n".join(lines) + "\n")
    first = tmp_path / "first"
    flags = ["--patient-column", "who", "--test-share", 0.4]
    assert run_shard(data, first, *flags)[0] == 0
    only_tars(first, tmp_path / "tars")
    taken()
    assert len(rows(first)) == 8
    assert {row["patient_known"] for row in rows(first).values()} == {True, False}
    assert rows(tmp_path / "out") == rows(first)


def test_from_grade_folders_even_the_same_bytes(
    tmp_path: Path, run_shard: Run, taken: Callable[..., list[str]], read_folder: Read
) -> None:
    """As both are sorted by name before they are shuffled."""
    for number, name in enumerate(eyes(range(12))):
        split = "test" if number % 6 > 3 else "train"
        folder = tmp_path / "data" / split / str(number % 5)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jpg").write_bytes(jpeg(number))
    first = tmp_path / "first"
    assert run_shard(tmp_path / "data", first, "--samples-per-shard", 5)[0] == 0
    only_tars(first, tmp_path / "tars")
    taken("--samples-per-shard", 5)
    before, after = read_folder(first), read_folder(tmp_path / "out")
    del before["manifest.json"], after["manifest.json"]
    assert before == after


def test_again_and_elsewhere_the_same_bytes(
    tmp_path: Path, run_shard: Run, taken: Callable[..., list[str]], read_folder: Read
) -> None:
    write_tar(tmp_path / "tars" / "b.tar", samples(*eyes(range(9))))
    write_tar(tmp_path / "tars" / "a.tar", samples(*eyes(range(10, 20))))
    taken("--samples-per-shard", 4)
    again, out = shutil.copytree(tmp_path / "tars", tmp_path / "x"), tmp_path / "y"
    flags = ["--samples-per-shard", 4, "--workers", 3]
    assert run_shard(again, out, *flags)[0] == 0
    assert read_folder(out) == read_folder(tmp_path / "out")
    code, printed, err = run_shard(again, out, *flags)
    assert (code, err) == (0, [])
    assert json.loads(printed[-1])["shards_written"] == 0
    assert read_folder(out) == read_folder(tmp_path / "out")


# Of the library's own writers


def test_tars_of_the_library_writers(
    tmp_path: Path, taken: Callable[..., list[str]]
) -> None:
    images = {key: jpeg(n) for n, key in enumerate(eyes(range(20)))}
    (tmp_path / "tars").mkdir()
    pattern = str(tmp_path / "tars" / "shard-%03d.tar")
    with webdataset.ShardWriter(pattern, maxcount=15, verbose=0) as writer:
        for n, (key, image) in enumerate(images.items()):
            writer.write({"__key__": key, "jpg": image, "cls": n % 5})
    more = {f"P{n}": jpeg(100 + n) for n in range(3)}
    (tmp_path / "tars" / "more").mkdir()
    with webdataset.TarWriter(str(tmp_path / "tars" / "more" / "x.tar")) as writer:
        for n, (key, image) in enumerate(more.items()):
            about = {"level": n, "patient": n // 2, "eye": ["OS", "R", None][n]}
            writer.write({"__key__": key, "jpeg": image, "json": about, "txt": "hm"})
    err = taken("--test-share", 0.25)
    assert err == []
    found = rows(tmp_path / "out")
    assert {key: row["jpeg"] for key, row in found.items()} == images | more
    assert [found[key]["label"] for key in images] == [n % 5 for n in range(40)]
    assert [found[key]["label"] for key in more] == [0, 1, 2]
    assert [found[key]["patient"] for key in more] == ["0", "0", "1"]
    assert [found[key]["eye"] for key in more] == ["left", "right", ""]
    assert [found[key]["patient"] for key in eyes([3])] == ["3", "3"]
    assert [found[key]["eye"] for key in eyes([3])] == ["left", "right"]
    test = [row for row in found.values() if row["split"] == "test"]
    assert 8 <= len(test) <= 14
    for number in range(20):  # both eyes on one side
        assert len({found[key]["split"] for key in eyes([number])}) == 1


def test_bad_images_are_quarantined_under_their_names(
    tmp_path: Path, taken: Callable[..., list[str]]
) -> None:
    members = [*samples("1_left", "2_left"), ("a/b.cls", b"3"), ("a/b.png", b"broken")]
    write_tar(tmp_path / "tars" / "x.tar", members)
    err = taken()
    assert any(line.startswith("quarantined a-b.png: ") for line in err)
    (bad,) = manifest_of(tmp_path / "out")["quarantine"]
    assert (bad["key"], bad["grade"]) == ("a-b", 3)


def test_where_no_image_is_usable_nothing_is_left_of_the_copy(
    tmp_path: Path, run_shard: Run
) -> None:
    write_tar(tmp_path / "tars" / "x.tar", [("a.cls", b"3"), ("a.png", b"broken")])
    code, _, err = run_shard(tmp_path / "tars", tmp_path / "out")
    assert code == 1
    assert "not one image can be used" in err[-1]
    assert not (tmp_path / "out" / ".unpacked.part").exists()


# Splits


def test_splits_by_the_names_of_tars(
    tmp_path: Path, taken: Callable[..., list[str]]
) -> None:
    write_tar(tmp_path / "tars" / "train-000000.tar", samples("1_left", "2_left"))
    write_tar(tmp_path / "tars" / "Test_1.tar", samples("3_left"))
    for number, name in enumerate(("val-0", "valid-0", "validation-0")):
        write_tar(tmp_path / "tars" / f"{name}.tar", samples(f"{number + 4}_left"))
    assert taken() == ["warning: the val split counts as train, images: 3"]
    found = rows(tmp_path / "out")
    test = {key for key, row in found.items() if row["split"] == "test"}
    assert test == {"3_left"}
    assert len(found) == 6


def test_splits_by_the_folders_of_tars(
    tmp_path: Path, taken: Callable[..., list[str]]
) -> None:
    write_tar(tmp_path / "tars" / "train" / "0.tar", samples(*eyes(range(2))))
    write_tar(tmp_path / "tars" / "test" / "0.tar", samples(*eyes(range(2, 9))))
    assert taken() == []
    found = rows(tmp_path / "out")
    test = {key for key, row in found.items() if row["split"] == "test"}
    assert test == set(eyes(range(2, 9)))


def test_a_split_that_not_all_names_tell(
    tmp_path: Path, taken: Callable[..., list[str]]
) -> None:
    write_tar(tmp_path / "tars" / "test-0.tar", samples(*eyes(range(10))))
    write_tar(tmp_path / "tars" / "trainees.tar", samples(*eyes(range(10, 20))))
    assert taken("--test-share", 0.1) == [
        "warning: the split that some tars' names tell is not kept, as others tell "
        "none: trainees.tar"
    ]
    found = rows(tmp_path / "out").values()
    assert sum(row["split"] == "test" for row in found) < 10


def test_train_alone_is_split_by_patient(
    tmp_path: Path, taken: Callable[..., list[str]]
) -> None:
    write_tar(tmp_path / "tars" / "train-0.tar", samples(*eyes(range(10))))
    write_tar(tmp_path / "tars" / "val-0.tar", samples(*eyes(range(10, 20))))
    assert taken() == ["warning: the val split counts as train, images: 20"]
    assert {row["split"] for row in rows(tmp_path / "out").values()} == set(SPLITS)


def test_patients_in_both_splits(
    tmp_path: Path, taken: Callable[..., list[str]]
) -> None:
    write_tar(tmp_path / "tars" / "train-0.tar", samples("1_left", "2_left"))
    write_tar(tmp_path / "tars" / "test-0.tar", samples("1_right", "3_left"))
    assert taken() == [
        "warning: 1 of 2 test photographs are of patients who are in train, too, so a "
        "score is partly memory; under names that tell none, the same tars get a split "
        "by patient"
    ]


# What is not taken


def test_samples_that_are_not_whole_are_counted_and_named(
    tmp_path: Path, run_shard: Run, taken: Callable[..., list[str]]
) -> None:
    root = tmp_path / "tars"
    members = [
        *samples("1_left", "2_left"),
        ("3_left.cls", b"1"),
        ("4_left.jpg", jpeg(4)),
        ("5_left.json", b"{}"),
        ("6_left.jpg", jpeg(6)),
        ("6_left.json", b'{"grade": null}'),
        ("7_left.cls", b"1"),
        ("7_left.jpg", jpeg(7)),
        ("7_left.png", png(7)),
        ("README.md", b"hello"),
    ]
    write_tar(root / "a.tar", members)
    write_tar(root / "b" / "empty.tar", [])
    (root / "notes.txt").write_text("mine")
    (root / "a.idx").write_text("DALI's")
    assert taken() == [
        f"warning: 3 samples in {root}/ left out, without an image: a.tar: 3_left, "
        "a.tar: 5_left, a.tar: README",
        f"warning: 2 samples in {root}/ left out, without a grade: a.tar: 4_left, "
        "a.tar: 6_left",
        f"warning: 1 sample in {root}/ left out, with more than one image: "
        "a.tar: 7_left",
        f"warning: 1 tar in {root}/ left out, without a graded photograph: b/empty.tar",
        f"warning: 1 file in {root}/ left out, no images by their suffix: notes.txt",
    ]
    assert set(rows(tmp_path / "out")) == {"1_left", "2_left"}
    assert manifest_of(tmp_path / "out")["source"]["left_out"] == {
        "without an image": 3,
        "without a grade": 2,
        "with more than one image": 1,
        "without a graded photograph": 1,
        "no images by their suffix": 1,
    }
    _, printed, _ = run_shard(root, tmp_path / "out")
    assert json.loads(printed[-1])["left_out"] == 8


def test_no_graded_photograph_at_all(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    """As where all images come first, and then all grades."""
    keys = ("1_left", "2_left")
    members = [(f"{key}.jpg", jpeg(0)) for key in keys]
    members += [(f"{key}.cls", b"0") for key in keys]
    root = write_tar(tmp_path / "tars" / "a.tar", members).parent
    assert refused() == (
        f"error: {root} holds no graded photograph in its tars, as KEY.jpg right "
        "beside its KEY.cls or KEY.json is one: "
        f"2 samples in {root}/ left out, without an image: a.tar: 1_left, a.tar: "
        f"2_left; 2 samples in {root}/ left out, without a grade: a.tar: 1_left, "
        f"a.tar: 2_left; 1 tar in {root}/ left out, without a graded photograph: a.tar"
    )


def test_photographs_beside_tars(
    tmp_path: Path, taken: Callable[..., list[str]]
) -> None:
    root = tmp_path / "tars"
    for number, name in enumerate(eyes(range(3))):
        (root / str(number % 5)).mkdir(parents=True, exist_ok=True)
        (root / str(number % 5) / f"{name}.jpg").write_bytes(jpeg(number))
    write_tar(root / "train-0.tar", samples("9_left"))
    assert taken() == [
        f"warning: 1 file in {root}/ left out, no images by their suffix: train-0.tar"
    ]
    assert set(rows(tmp_path / "out")) == set(eyes(range(3)))
    assert manifest_of(tmp_path / "out")["source"]["layout"] == "folders"


def test_photographs_without_labels_beside_tars(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    root = write_tar(tmp_path / "tars" / "a.tar", samples("9_left")).parent
    (root / "some").mkdir()
    (root / "some" / "1_left.JPEG").write_bytes(jpeg(1))
    assert f"{root} and its parent hold no labels" in refused()


def test_shards_inside_the_folder_of_tars(
    tmp_path: Path, run_shard: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished or begun, they are no source."""
    write_tar(tmp_path / "a.tar", samples("1_left", "2_left"))
    monkeypatch.chdir(tmp_path)
    assert run_shard(".", "shards")[0] == 0
    (tmp_path / "shards" / "manifest.json").unlink()
    code, _, err = run_shard(".", "shards", "--overwrite")
    assert (code, err) == (0, ["warning: the test split is empty"])
    assert set(rows(tmp_path / "shards")) == {"1_left", "2_left"}
    (tmp_path / "a.tar").unlink()
    (tmp_path / "shards" / "manifest.json").unlink()
    code, _, err = run_shard(".", "shards", "--overwrite")
    assert code == 1
    assert "hold no labels" in one_error(err)


def test_shards_that_are_not_finished_are_no_source(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    root = write_tar(tmp_path / "tars" / "train-000000.tar", samples("1_left")).parent
    (root / ".progress").mkdir()
    (root / ".progress" / "plan.json").write_text("{}")
    assert refused() == (
        f"error: {root} holds shards that are not finished: the command that began "
        "them goes on where it was"
    )


def test_begun_shards_do_not_look_like_a_source(tmp_path: Path, run_shard: Run) -> None:
    """An error in DATA is not taken for two folders the wrong way round."""
    write_tar(tmp_path / "out" / "train-000000.tar", samples("1_left"))
    (tmp_path / "empty").mkdir()
    code, _, err = run_shard(tmp_path / "empty", tmp_path / "out")
    assert code == 1
    assert "hold no labels" in one_error(err)


# Bad tars


def damaged(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


@pytest.mark.parametrize("blocks", range(1, 13))
def test_a_tar_that_was_cut_short(
    blocks: int, tmp_path: Path, refused: Callable[..., str]
) -> None:
    """Anywhere: inside an image, a header, or between two members."""
    tar = write_tar(tmp_path / "tars" / "a.tar", samples("1_left", "2_left"))
    write_tar(tmp_path / "tars" / "b.tar", samples("3_left"))
    for size in (512 * blocks, 512 * blocks - 100):
        os.truncate(tar, size)
        line = refused()
        assert line.startswith(f"error: {tar} is ")
        assert "damaged or cut short" in line
        assert line.endswith("get it again, or move it away")


def test_a_tar_of_which_only_the_padding_was_cut(
    tmp_path: Path, taken: Callable[..., list[str]]
) -> None:
    tar = write_tar(tmp_path / "tars" / "a.tar", samples("1_left", "2_left"))
    with tarfile.open(tar) as opened:
        opened.getmembers()
        end = opened.offset
    os.truncate(tar, end + 512)
    taken()
    assert len(rows(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    "content", [b"", b"x" * 2000, b"\x1f\x8b" + b"x" * 2000], ids=["0", "text", "gzip"]
)
def test_a_tar_that_is_none(
    content: bytes, tmp_path: Path, refused: Callable[..., str]
) -> None:
    tar = write_tar(tmp_path / "tars" / "a.tar", samples("1_left"))
    other = tmp_path / "tars" / "b.tar"
    other.write_bytes(content)
    line = refused()
    assert line.startswith(f"error: {other} is no plain tar, damaged or cut short (")
    assert tar.exists()


def test_a_damaged_header(tmp_path: Path, refused: Callable[..., str]) -> None:
    """There the library ends, and says nothing."""
    tar = write_tar(tmp_path / "tars" / "a.tar", samples("1_left", "2_left", "3_left"))
    with tarfile.open(tar) as opened:
        header = opened.getmembers()[2].offset
    damaged(tar, header + 20, b"\xff\xff")
    assert refused() == (
        f"error: {tar} is damaged or cut short after byte {header:,}: a tar's end is "
        "not there; get it again, or move it away"
    )


def test_two_tars_in_one_file(tmp_path: Path, refused: Callable[..., str]) -> None:
    tar = write_tar(tmp_path / "tars" / "a.tar", samples("1_left"))
    other = write_tar(tmp_path / "b.tar", samples("2_left"))
    tar.write_bytes(tar.read_bytes() + other.read_bytes())
    assert f"{tar} goes on after its end" in refused()


@pytest.mark.parametrize("grade", ["5", "-1", "2.0", "two", "", "1 2", "½", "02"])
def test_a_grade_that_is_none(
    grade: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    tar = tmp_path / "tars" / "a.tar"
    write_tar(tar, [*samples("1_left"), *sample("2_left", grade)])
    assert refused() == (
        f"error: {tar}, sample 2_left: a grade must be an integer from 0 to 4, got "
        f"{grade!r}; correct it, or leave the sample out of the tar"
    )


@pytest.mark.parametrize("grade", [True, 1.5, [1], "mild", 7])
def test_a_grade_of_json_that_is_none(
    grade: object, tmp_path: Path, refused: Callable[..., str]
) -> None:
    about = json.dumps({"label": grade}).encode()
    members = [("x.jpg", jpeg(0)), ("x.json", about)]
    write_tar(tmp_path / "tars" / "a.tar", members)
    assert f"an integer from 0 to 4, got {str(grade)!r};" in refused()


def test_two_grades(tmp_path: Path, refused: Callable[..., str]) -> None:
    members = [*sample("1_left", 2), ("1_left.json", b'{"grade": 3}')]
    tar = write_tar(tmp_path / "tars" / "a.tar", members)
    assert refused() == (
        f"error: {tar}, sample 1_left: its .cls and its .json must say one grade, got "
        "'2' and '3'; correct one of them"
    )


def test_json_that_is_none(tmp_path: Path, refused: Callable[..., str]) -> None:
    members = [*sample("1_left"), ("1_left.json", b"{")]
    tar = write_tar(tmp_path / "tars" / "a.tar", members)
    line = refused()
    assert line.startswith(f"error: {tar}, sample 1_left: its .json is none (")


def test_one_key_twice_in_a_tar(tmp_path: Path, refused: Callable[..., str]) -> None:
    members = [*samples("1_left", "2_left"), *sample("1_left")]
    tar = write_tar(tmp_path / "tars" / "a.tar", members)
    assert refused() == (
        f"error: {tar}, sample 1_left: a name must stand once, got '1_left' again "
        f"(first: {tar}, sample 1_left); remove or rename one of them"
    )


def test_one_key_twice_in_a_row(tmp_path: Path, refused: Callable[..., str]) -> None:
    tar = write_tar(tmp_path / "tars" / "a.tar", [*sample("1_left"), *sample("1_left")])
    assert refused() == (
        f"error: {tar}: a name must stand once, got '1_left.cls' again; remove or "
        "rename one of them"
    )


def test_one_key_in_two_tars(tmp_path: Path, refused: Callable[..., str]) -> None:
    one = write_tar(tmp_path / "tars" / "a.tar", samples("1_left"))
    other = write_tar(tmp_path / "tars" / "b.tar", samples("1_left", first=1))
    line = refused()
    assert f"{other}, sample 1_left: a name must stand once" in line
    assert f"(first: {one}, sample 1_left)" in line


def test_names_that_lead_out_stay_in(
    tmp_path: Path, taken: Callable[..., list[str]]
) -> None:
    outside = tmp_path / "tars" / "outside"
    names = ["../../../evil", f"{outside}", "/etc/passwd", "a/../../b", "..", "..."]
    before = sorted(path for path in tmp_path.rglob("*"))
    write_tar(tmp_path / "tars" / "a.tar", samples(*names, "1_left"))
    taken()
    after = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    new = {path for path in after - set(before) if (tmp_path / "out") != path}
    assert {p for p in new if tmp_path / "out" not in p.parents} == {
        tmp_path / "tars",
        tmp_path / "tars" / "a.tar",
    }
    assert not outside.exists()
    found = rows(tmp_path / "out")
    assert len(found) == 5  # of hidden files, as ".." and "..." are, none
    for image in (jpeg(sum(key.encode())) for key in names[:4]):
        assert image in [row["jpeg"] for row in found.values()]


# The folder of the copy


def test_what_a_killed_run_has_left_is_removed(
    course: Path, tmp_path: Path, run_shard: Run, taken: Callable[..., list[str]]
) -> None:
    """By a run on photographs, too, whichever folder they lie in."""
    left = tmp_path / "out" / ".unpacked.part" / "images"
    write_tar(tmp_path / "tars" / "a.tar", samples("1_left", "2_left"))
    left.mkdir(parents=True)
    (left / "1_left.jpg").write_bytes(b"half")
    taken()
    assert set(rows(tmp_path / "out")) == {"1_left", "2_left"}
    left.mkdir(parents=True)
    assert run_shard(course, tmp_path / "out", "--overwrite")[0] == 0
    assert not left.parent.exists()


def test_another_process_unpacks(tmp_path: Path, run_shard: Run) -> None:
    """Its images stay."""
    out = tmp_path / "out"
    theirs = out / ".unpacked.part"
    (theirs / "images").mkdir(parents=True)
    (theirs / "images" / "1_left.jpg").write_bytes(b"half")
    write_tar(tmp_path / "tars" / "a.tar", samples("1_left", "2_left"))
    with FileLock(theirs / "lock"):
        code, _, err = run_shard(tmp_path / "tars", out)
        assert code == 1
        line = f"error: another process is writing to {out}; wait for it to end"
        assert one_error(err) == line
        assert (theirs / "images" / "1_left.jpg").read_bytes() == b"half"
    assert run_shard(tmp_path / "tars", out)[0] == 0
    assert not theirs.exists()


def test_a_folder_of_other_things_is_not_unpacked_to(
    tmp_path: Path, run_shard: Run
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "beach.jpg").write_bytes(b"mine")
    write_tar(tmp_path / "tars" / "a.tar", samples("1_left"))
    code, _, err = run_shard(tmp_path / "tars", tmp_path / "out")
    assert code == 1
    assert "holds other files (beach.jpg)" in one_error(err)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["beach.jpg"]


def test_an_empty_folder_that_was_there_stays(tmp_path: Path, run_shard: Run) -> None:
    write_tar(tmp_path / "tars" / "a.tar", sample("1_left", 9))
    (tmp_path / "out").mkdir()
    assert run_shard(tmp_path / "tars", tmp_path / "out")[0] == 1
    assert list((tmp_path / "out").iterdir()) == []


# Elsewhere


@pytest.mark.parametrize("name", SPLITS)
def test_opened_as_shards(name: str, shards: Path, tmp_path: Path) -> None:
    folder = only_tars(shards, tmp_path / "tars")
    with pytest.raises(NoShards) as raised:
        open_split(folder, name)
    assert str(raised.value) == (
        f"{folder} holds tars without an index, not shards: run 'fastretina shard "
        f"{folder} new_shards', which makes shards of them, and name new_shards"
    )


def test_unfinished_shards_are_no_such_tars(shards: Path, tmp_path: Path) -> None:
    folder = only_tars(shards, tmp_path / "tars")
    (folder / ".progress").mkdir()
    with pytest.raises(NoShards, match="an unfinished one"):
        open_split(folder, "train")
