"""``python scripts/shard.py DATA SHARDS``: what it writes, refuses and says."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image
from resealed import without_checksums

from fastretina.processes import in_threads
from fastretina.shard import writer
from loaders.files import naming
from loaders.index_table import COLUMNS
from loaders.leftovers import final_name
from loaders.shards import open_split

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "shard.py"

Run = Callable[..., tuple[int, list[str], list[str]]]
Read = Callable[[Path], dict[str, bytes]]


def jpeg(seed: int, size: int = 48, **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def kaggle(root: Path, files: dict[str, bytes]) -> Path:
    """A folder in Kaggle's layout; grades go round from 0 to 4."""
    (root / "images").mkdir(parents=True)
    lines = ["image,level"]
    for number, (name, content) in enumerate(files.items()):
        (root / "images" / name).write_bytes(content)
        lines.append(f"{name.rpartition('.')[0]},{number % 5}")
    (root / "trainLabels.csv").write_text("\n".join(lines) + "\n")
    return root


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def one_error(err: list[str]) -> str:
    """The only ``error:`` line, which is the last; no traceback."""
    assert [line for line in err if line.startswith("error: ")] == err[-1:], err
    assert not any("Traceback" in line for line in err)
    return err[-1]


def listed_course(course: Path, split: str) -> dict[str, int]:
    names = (course / f"{split}_img.csv").read_text().split()
    grades = (course / f"{split}_label.csv").read_text().split()
    return dict(zip(names, map(int, grades), strict=True))


# What is written


def test_from_a_shell(course: Path, shards: Path, tmp_path: Path, read_folder: Read):
    command = f"{sys.executable} {SCRIPT} {course} out --samples-per-shard 10"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["splits"] == {
        split: {
            str(grade): list(listed_course(course, split).values()).count(grade)
            for grade in range(5)
        }
        for split in ("train", "test")
    }
    assert result["samples"] == 48
    assert result["num_shards"] == result["shards_written"] == 6
    assert result["bytes"] == sum(p.stat().st_size for p in tmp_path.glob("out/*.tar"))
    assert result["quarantined"] == 0
    assert result["changed"] == {}
    assert result["shards"] == "out"
    assert 0 < result["seconds"] < 60
    assert result["images_per_second"] == pytest.approx(48 / result["seconds"], rel=0.1)
    assert read_folder(tmp_path / "out") == read_folder(shards)  # workers: 1


def test_files_and_manifest(shards: Path) -> None:
    tars = [f"train-00000{n}.tar" for n in range(4)]
    tars += [f"test-00000{n}.tar" for n in range(2)]
    others = ["manifest.json", "train.parquet", "test.parquet"]
    names = {*tars, *(name.replace(".tar", ".idx") for name in tars), *others}
    assert {path.name for path in shards.iterdir()} == names

    manifest = manifest_of(shards)
    keys = "format tool fingerprint source preprocessing seed splits changed"
    keys += " quarantine sha256"
    assert " ".join(manifest) == keys
    assert manifest["format"] == 1
    assert manifest["source"] == {
        "source": None,
        "layout": "course",
        "listed": 48,
        "drawn": 0,
        "patients": "eye markers in the image names",
        "patients_unknown": 0,
        "left_out": {},
    }
    assert manifest["preprocessing"] == {"steps": [], "size": None}
    assert manifest["changed"] == {}
    assert manifest["quarantine"] == []
    assert list(manifest["splits"]) == ["train", "test"]
    train = manifest["splits"]["train"]
    assert [shard["samples"] for shard in train["shards"]] == [10, 10, 10, 7]
    assert train["samples"] == sum(train["grades"].values()) == 37
    for shard in train["shards"]:
        content = (shards / shard["name"]).read_bytes()
        assert len(content) == shard["bytes"]
        assert hashlib.sha256(content).hexdigest() == shard["sha256"]


def test_members_are_the_source_bytes_label_and_origin(
    course: Path, shards: Path
) -> None:
    for split in ("train", "test"):
        grades = listed_course(course, split)
        for path in sorted(shards.glob(f"{split}-*.tar")):
            with tarfile.open(path) as tar:
                members = tar.getmembers()
                content = [tar.extractfile(member).read() for member in members]
            assert {(m.mtime, m.uid, m.gid, m.uname, m.type) for m in members} == {
                (0, 0, 0, "", tarfile.REGTYPE)
            }
            for n in range(0, len(members), 3):
                key, kind = members[n].name.split(".")
                assert kind == "jpg"
                assert [m.name for m in members[n + 1 : n + 3]] == [
                    f"{key}.cls",
                    f"{key}.json",
                ]
                assert content[n] == (course / "data" / f"{key}.jpeg").read_bytes()
                grade = grades.pop(key)
                assert content[n + 1] == str(grade).encode()
                assert json.loads(content[n + 2]) == {
                    "source": key,
                    "grade": grade,
                    "patient": key.partition("_")[0],
                    "eye": key.partition("_")[2],
                }
        assert not grades, "each listed image once, in its split"


def test_parquet_points_into_the_tars(course: Path, shards: Path) -> None:
    table = pq.read_table(shards / "train.parquet")
    assert {field.name: str(field.type) for field in table.schema} == COLUMNS
    assert table["shard"].to_pylist() == sorted(table["shard"].to_pylist())
    grades = listed_course(course, "train")
    for row in table.to_pylist():
        source = (course / "data" / f"{row['key']}.jpeg").read_bytes()
        tar = (shards / f"train-{row['shard']:06d}.tar").read_bytes()
        assert tar[row["offset"] : row["offset"] + row["size"]] == source
        assert hashlib.sha256(source).hexdigest() == row["sha256"]
        assert row["label"] == grades[row["key"]]
        assert (row["width"], row["height"]) == (64, 64)
        assert f"{row['patient']}_{row['eye']}" == row["key"]


def test_dali_index_lists_every_member(shards: Path) -> None:
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        lines = [f"v1.2 {len(members) // 3}"]
        for n in range(0, len(members), 3):
            lines.append(
                " ".join(
                    f"{m.name.split('.')[1]} {m.offset_data} {m.size} {m.name}"
                    for m in members[n : n + 3]
                )
            )
        assert path.with_suffix(".idx").read_text() == "\n".join(lines) + "\n"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # it leaves files open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_library_reads_them(shards: Path) -> None:
    urls = [str(path) for path in sorted(shards.glob("train-*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    with open_split(shards, "train") as split:
        assert [sample["__key__"] for sample in samples] == split.column("key")
        assert [sample["cls"] for sample in samples] == split.labels.tolist()
    assert {sample["jpg"].size for sample in samples} == {(64, 64)}
    gc.collect()


def test_seed_shuffles_globally(course: Path, tmp_path: Path, run_shard: Run) -> None:
    orders = []
    for seed in (0, 1):
        code, _, _ = run_shard(course, tmp_path / str(seed), "--seed", seed)
        assert code == 0
        with open_split(tmp_path / str(seed), "train") as split:
            orders.append(split.column("key"))
    listed = list(listed_course(course, "train"))
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(listed)
    for order in orders:
        places = [listed.index(key) for key in order]
        assert abs(np.corrcoef(places, range(37))[0, 1]) < 0.5
        assert max(places[:10]) > 25, "the first ten come from everywhere"


@pytest.mark.parametrize("workers", [2, 3, 9])
def test_any_number_of_workers_writes_the_same_bytes(
    workers: int,
    course: Path,
    shards: Path,
    tmp_path: Path,
    run_shard: Run,
    read_folder: Read,
) -> None:
    out = tmp_path / "out"
    code, _, err = run_shard(
        course, out, "--samples-per-shard", 10, "--workers", workers
    )
    assert (code, err) == (0, [])
    assert read_folder(out) == read_folder(shards)


def test_tomorrow_elsewhere_the_same_bytes(
    course: Path,
    shards: Path,
    tmp_path: Path,
    run_shard: Run,
    read_folder: Read,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = tmp_path / "a copy of it"
    shutil.copytree(course, copy, copy_function=shutil.copyfile)
    for path in copy.rglob("*"):
        os.utime(path, (1e9, 1e9))
    monkeypatch.setattr(time, "time", lambda: 4e9)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.chdir(tmp_path)
    code, _, _ = run_shard(
        copy.name, "x/y", "--samples-per-shard", 10, "--workers", 1
    )  # SHARDS' parent is made too
    assert code == 0
    assert read_folder(tmp_path / "x" / "y") == read_folder(shards)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for a file's name")
def test_all_is_on_the_disk_before_the_manifest(
    course: Path, tmp_path: Path, run_shard: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves no manifest without its data: each file is waited for."""
    synced: dict[Path, int] = {}  # final name to bytes, in the order of the calls
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.pop(path, None)
        name = final_name(path) or path.name
        synced[path.with_name(name)] = os.fstat(descriptor).st_size
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    out = (tmp_path / "out").resolve()
    assert run_shard(course, out, "--samples-per-shard", 10, "--workers", 2)[0] == 0
    *_, last_file, last = synced
    assert (last_file, last) == (out / "manifest.json", out)  # the name of it, too
    written = {path: path.stat().st_size for path in out.iterdir()}
    assert len(written) == 15
    assert {path: synced.get(path) for path in written} == written


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    measure = (
        "import re, sys; from fastretina.shard.command import main;"
        "code = main(sys.argv[1:]);"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    comment = b"\xff\xfe\xea\x62" + bytes(60_000)
    image = jpeg(0)
    one = tmp_path / "one.jpeg"
    one.write_bytes(image[:2] + comment + image[2:])
    peaks = []
    for count in (50, 1500):
        data = tmp_path / f"data{count}"
        for grade in range(5):
            (data / str(grade)).mkdir(parents=True)
        for n in range(count):
            (data / str(n % 5) / f"{n}_left.jpeg").hardlink_to(one)
        words = [data, tmp_path / f"out{count}", "--samples-per-shard", "25"]
        done = subprocess.run(
            [sys.executable, "-c", measure, *words, "--workers", "1"],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
        shutil.rmtree(tmp_path / f"out{count}")
    assert peaks[1] - peaks[0] < 25, f"MB: {peaks}, for 3 and for 90 MB of images"


# What is encoded again, and what is left out


def odd_files() -> dict[str, bytes]:
    def picture(mode: str, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(jpeg(7))) as image:
            image.convert(mode).save(buffer, kind, **options)
        return buffer.getvalue()

    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "rotated.jpg": picture("RGB", "JPEG", exif=exif),
        "plain.png": picture("RGB", "PNG"),
        "alpha.png": picture("RGBA", "PNG"),
        "palette.png": picture("P", "PNG"),
        "gray.png": picture("L", "PNG"),
        "named.jpg": picture("RGB", "PNG"),
        "grayjpeg.JPG": picture("L", "JPEG"),
        "cmyk.jpeg": picture("CMYK", "JPEG"),
        "progressive.jpeg": picture("RGB", "JPEG", progressive=True),
    }


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Content, and a word of the reason."""

    def picture(mode: str, kind: str, size: int = 48) -> bytes:
        buffer = io.BytesIO()
        Image.new(mode, (size, size)).save(buffer, kind)
        return buffer.getvalue()

    holed = bytearray(jpeg(1, 256, quality=95))
    middle = len(holed) // 2
    holed[middle : middle + 300] = bytes(300)
    return {
        "truncated.jpeg": (jpeg(2)[:-200], "Premature end"),
        "empty.jpeg": (b"", "empty"),
        "garbage.jpeg": (os.urandom(16) + b"rubbish" * 99, "no JPEG, PNG, TIFF"),
        "holed.jpeg": (bytes(holed), "Corrupt JPEG data"),
        "gif.jpeg": (picture("RGB", "GIF"), "no JPEG, PNG, TIFF"),
        "deep.png": (picture("I;16", "PNG"), "16 bits"),
        "tiny.jpeg": (picture("RGB", "JPEG", 4), "4x4 pixels"),
    }


def test_odd_images_are_counted_and_kept_where_they_can_be(
    tmp_path: Path, run_shard: Run
) -> None:
    files = odd_files()
    data = kaggle(tmp_path / "data", files)
    code, out, err = run_shard(data, tmp_path / "out", "--workers", 1)
    assert code == 0, err
    changed = {"from png": 5, "normalised": 1, "upright": 1}
    assert manifest_of(tmp_path / "out")["changed"] == changed
    assert json.loads(out[-1])["changed"] == changed
    kept = {}
    for name in ("train", "test"):
        with open_split(tmp_path / "out", name) as split:
            for row, key in enumerate(split.column("key")):
                kept[key] = bytes(split.read(row))
    for name, content in files.items():
        ours = kept.pop(name.partition(".")[0])
        same = name.startswith(("grayjpeg", "progressive"))
        assert (ours == content) == same, name
        assert ours.startswith(b"\xff\xd8"), name
    assert not kept


def test_bad_images_are_quarantined_with_their_reasons(
    tmp_path: Path, run_shard: Run, read_folder: Read
) -> None:
    bad = bad_files()
    good = {f"{n}_left.jpeg": jpeg(n) for n in range(20)}
    data = kaggle(
        tmp_path / "data", good | {name: bad for name, (bad, _) in bad.items()}
    )
    out = tmp_path / "out"
    code, lines, err = run_shard(data, out, "--samples-per-shard", 6, "--workers", 1)
    assert code == 0
    result = json.loads(lines[-1])
    assert (result["quarantined"], result["samples"]) == (7, 20)
    assert "7 images are quarantined" in err[-1]
    assert str(out / "manifest.json") in err[-1]
    entries = manifest_of(out)["quarantine"]
    assert {entry["source"] for entry in entries} == set(bad)
    for entry in entries:
        assert set(entry) == {"key", "source", "split", "grade", "reason"}
        assert bad[entry["source"]][1] in entry["reason"], entry
        assert f"quarantined {entry['source']}: {entry['reason']}" in err
    assert manifest_of(out)["source"]["listed"] == 27
    keys = set()
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            keys |= {name.rpartition(".")[0] for name in tar.getnames()}
    assert keys == {name[:-5] for name in good}

    code, _, _ = run_shard(data, tmp_path / "2", "--samples-per-shard", 6)
    assert code == 0
    assert read_folder(tmp_path / "2") == read_folder(out), "reasons have no addresses"


def test_all_images_bad(tmp_path: Path, run_shard: Run) -> None:
    data = kaggle(tmp_path / "data", {"a.jpeg": b"", "b.jpeg": b"", "c.jpeg": b"x"})
    code, out, err = run_shard(data, tmp_path / "out")
    assert (code, out) == (1, [])
    assert "not one image can be used" in one_error(err)
    assert ".jpeg" in err[-1]
    assert not list(tmp_path.glob("out/manifest.json"))
    assert not list(tmp_path.glob("out/*.parquet"))


def test_real_odd_photographs(real_data: Path, tmp_path: Path, run_shard: Run) -> None:
    files = {
        path.name: path.read_bytes()
        for path in sorted((real_data / "odd").iterdir())
        if path.suffix in (".jpg", ".jpeg")
    }
    data = kaggle(tmp_path / "data", files)
    code, _, _ = run_shard(data, tmp_path / "out", "--workers", 1)
    assert code == 0
    manifest = manifest_of(tmp_path / "out")
    bad = {entry["source"] for entry in manifest["quarantine"]}
    assert bad == {"derived_truncated60.jpg", "real_truncated_skimage_testfile.jpg"}
    assert manifest["changed"] == {"normalised": 1, "upright": 1}


@pytest.mark.parametrize(
    ("flags", "steps", "size"),
    [
        (["--preprocess", "crop"], ["crop"], None),
        (["--preprocess", "clahe"], ["clahe"], None),
        (["--preprocess=graham"], ["graham"], None),
        (["--preprocess", "graham,crop,clahe", "--size", "32"], None, 32),
        (["--size", "40"], [], 40),
    ],
)
def test_preprocess_and_size(
    flags: list[str],
    steps: list[str] | None,
    size: int | None,
    tmp_path: Path,
    run_shard: Run,
    read_folder: Read,
) -> None:
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[10:50, 30:70] = np.random.default_rng(0).integers(60, 200, (40, 40, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    data = kaggle(
        tmp_path / "data", {f"{n}_left.jpg": buffer.getvalue() for n in range(9)}
    )
    for name, workers in (("1", 1), ("2", 2)):
        # The flags come first: they must not swallow the folders.
        code, _, err = run_shard(
            *flags, data, tmp_path / name, "--workers", workers, "--samples-per-shard=4"
        )
        assert code == 0, err
    assert read_folder(tmp_path / "1") == read_folder(tmp_path / "2")
    manifest = manifest_of(tmp_path / "1")
    assert manifest["changed"] == {"preprocessed": 9}
    assert manifest["preprocessing"] == {
        "steps": ["crop", "clahe", "graham"] if steps is None else steps,
        "size": size,
    }
    with open_split(tmp_path / "1", "train") as split:
        ((height, width),) = split.dimensions
        with Image.open(io.BytesIO(bytes(split.read(0)))) as image:
            assert image.size == (width, height)
            corner = np.asarray(image)[:3, :3].mean()
    if size:
        assert (width, height) == (size, size)
    elif "crop" in (steps or ()):
        assert 38 <= width == height <= 42
        assert corner > 40, "the black border is gone"
    else:
        assert (width, height) == (100, 60)


# A folder that holds something already


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


@pytest.fixture
def written(course: Path, shards: Path, tmp_path: Path) -> Path:
    """A copy of ``shards`` that a test may change."""
    return Path(shutil.copytree(shards, tmp_path / "written"))


def test_same_data_set_again(written: Path, course: Path, run_shard: Run) -> None:
    before = stamps(written)
    code, out, err = run_shard(course, written, "--samples-per-shard", 10)
    assert (code, err) == (0, [])
    assert "was complete already" in out[-2]
    result = json.loads(out[-1])
    assert (result["shards_written"], result["images_per_second"]) == (0, 0)
    assert result["samples"] == 48
    assert stamps(written) == before


@pytest.mark.parametrize(
    "flags",
    [
        ["--samples-per-shard", "9"],
        ["--samples-per-shard", "10", "--seed", "1"],
        ["--samples-per-shard", "10", "--size", "32"],
        ["--samples-per-shard", "10", "--preprocess", "crop"],
    ],
)
def test_different_data_set_is_refused(
    flags: list[str], written: Path, course: Path, run_shard: Run
) -> None:
    before = stamps(written)
    code, out, err = run_shard(course, written, *flags)
    assert (code, out, len(err)) == (1, [], 1)
    assert "holds a different data set; pass --overwrite" in one_error(err)
    assert stamps(written) == before


def test_different_labels_or_image_is_another_data_set(
    course: Path, tmp_path: Path, run_shard: Run
) -> None:
    data = Path(shutil.copytree(course, tmp_path / "data"))
    assert run_shard(data, tmp_path / "out")[0] == 0
    grades = (data / "train_label.csv").read_text()
    changed = grades[:-2] + str((int(grades[-2]) + 1) % 5) + "\n"
    (data / "train_label.csv").write_text(changed)
    assert run_shard(data, tmp_path / "out")[0] == 1
    (data / "train_label.csv").write_text(grades)
    assert run_shard(data, tmp_path / "out")[0] == 0
    with (data / "data" / "10_left.jpeg").open("ab") as file:
        file.write(b"!")
    assert run_shard(data, tmp_path / "out")[0] == 1


def test_overwrite_replaces_all_and_only_ours(
    written: Path,
    make_course: Callable[..., Path],
    tmp_path: Path,
    run_shard: Run,
    read_folder: Read,
) -> None:
    foreign = {
        "train-old.tar": b"mine",
        "train-000000.tar.bak": b"mine",
        "notes.txt": b"mine",
        ".film.part": b"mine",
        ".test.parquet.20241231.part": b"mine",
        ".mine.json": b"mine",
        "sub/train-000000.tar": b"mine",
        "train.csv": b"mine",
    }
    (written / "sub").mkdir()
    for name, content in foreign.items():
        (written / name).write_bytes(content)
    (written / "train-000077.idx").write_bytes(b"a killed run's")
    small = make_course(tmp_path / "small", 5, 3)
    code, _, err = run_shard(small, written, "--overwrite", "--workers", 1)
    assert code == 0, err
    assert run_shard(small, tmp_path / "fresh", "--workers", 1)[0] == 0
    assert read_folder(written) == read_folder(tmp_path / "fresh") | foreign


@pytest.mark.parametrize(
    "name", ["train-000001.tar", "train-000002.idx", "test.parquet"]
)
def test_complete_data_set_that_lost_a_file(
    name: str,
    written: Path,
    course: Path,
    shards: Path,
    run_shard: Run,
    read_folder: Read,
) -> None:
    (written / name).unlink()
    before = stamps(written)
    words = [course, written, "--samples-per-shard", 10]
    code, _, err = run_shard(*words)
    assert code == 1
    assert f"{written / name} is missing or changed" in one_error(err)
    assert "--overwrite" in err[-1]
    assert stamps(written) == before
    assert run_shard(*words, "--overwrite")[0] == 0
    assert read_folder(written) == read_folder(shards)


def test_shards_without_a_manifest_are_refused(
    written: Path, course: Path, run_shard: Run
) -> None:
    (written / "manifest.json").unlink()
    before = stamps(written)
    code, _, err = run_shard(course, written, "--samples-per-shard", 10)
    assert code == 1
    assert "shards without a manifest" in one_error(err)
    assert "--overwrite" in err[-1]
    assert stamps(written) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1}'])
def test_manifest_of_rubbish(
    text: str, written: Path, course: Path, run_shard: Run
) -> None:
    (written / "manifest.json").write_text(text)
    code, _, err = run_shard(course, written, "--samples-per-shard", 10)
    assert code == 1
    assert "manifest.json" in one_error(err)
    assert run_shard(course, written, "--samples-per-shard", 10, "--overwrite")[0] == 0


def test_another_process_at_work(tmp_path: Path, course: Path, run_shard: Run) -> None:
    out = tmp_path / "out"
    (out / ".progress").mkdir(parents=True)
    with (out / ".progress" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = run_shard(course, out)
        assert code == 1
        assert f"another process is writing to {out}" in one_error(err)
        assert [path.name for path in out.iterdir()] == [".progress"]
    assert run_shard(course, out)[0] == 0
    assert not (out / ".progress").exists()


def test_two_processes_at_once(
    course: Path, shards: Path, tmp_path: Path, read_folder: Read
) -> None:
    words = [sys.executable, str(SCRIPT), str(course), "out", "--samples-per-shard=10"]
    both = [
        subprocess.Popen(
            words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    ends = [process.communicate(timeout=60) for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes
    for code, (_, err) in zip(codes, ends, strict=True):
        assert code in (0, 1)
        if code:
            assert b"another process is writing" in err
            assert err.count(b"\n") == 1
    assert read_folder(tmp_path / "out") == read_folder(shards)


# A machine that doesn't go along


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 128 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(command, capture_output=True).returncode == 0:
            yield disk
            subprocess.run(["umount", "-l", disk], check=True)
            return
    pytest.skip("no tmpfs can be mounted here: not root, or not allowed")


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_full_disk(
    workers: int,
    small_disk: Path,
    course: Path,
    shards: Path,
    run_shard: Run,
    read_folder: Read,
) -> None:
    out = small_disk / "out"
    words = [course, out, "--samples-per-shard", 10, "--workers", workers]
    code, lines, err = run_shard(*words)
    assert (code, lines) == (1, [])
    assert "No space left on device" in one_error(err)
    assert str(out) in err[-1]
    whole = read_folder(shards)
    left = read_folder(out)
    assert not [name for name in left if name.endswith(".part")]
    assert "manifest.json" not in left
    for name, content in left.items():
        assert name.startswith(".progress/") or content == whole[name]
    remount(small_disk, "size=16m")
    assert run_shard(*words)[0] == 0
    assert read_folder(out) == whole


def test_disk_full_at_the_very_end(
    small_disk: Path, course: Path, shards: Path, run_shard: Run, read_folder: Read
) -> None:
    """The shards fit, their index doesn't, for every file after the last marker."""
    whole = read_folder(shards)
    out = small_disk / "out"
    words = [course, out, "--samples-per-shard", 10, "--workers", 1]
    failed = set()
    size = sum(-(-len(content) // 4096) * 4 for content in whole.values())
    for pages in range(size, size + 100, 4):
        remount(small_disk, f"size={pages}k")
        code, _, err = run_shard(*words)
        if code == 0:
            break
        failed.add(re.search(rf"{out}/(\S+?):", one_error(err))[1])
    assert failed & {"train.parquet", "test.parquet", "manifest.json"}, failed
    assert read_folder(out) == whole


def test_file_size_limit(
    course: Path, shards: Path, tmp_path: Path, run_shard: Run, read_folder: Read
) -> None:
    limited = (
        "import resource, sys; from fastretina.shard.command import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = [str(course), str(tmp_path / "out"), "--samples-per-shard=10"]
    done = subprocess.run(
        [sys.executable, "-c", limited, *words, "--workers=2"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "File too large" in one_error(done.stderr.splitlines())
    assert re.search(r"out/t\w+-00000\d\.tar: ", done.stderr)
    assert run_shard(*words)[0] == 0
    assert read_folder(tmp_path / "out") == read_folder(shards)


def test_read_only_target(
    small_disk: Path, shards: Path, course: Path, run_shard: Run
) -> None:
    remount(small_disk, "ro")
    code, _, err = run_shard(course, small_disk / "out")
    assert code == 1
    assert len(err) == 1
    assert "Read-only file system" in one_error(err)
    assert str(small_disk / "out") in err[-1]

    remount(small_disk, "rw,size=16m")
    shutil.copytree(shards, small_disk / "done")
    remount(small_disk, "ro")
    words = [course, small_disk / "done", "--samples-per-shard", 10]
    assert run_shard(*words)[0] == 0, "complete already"
    assert run_shard("--verify", small_disk / "done")[0] == 0
    code, _, err = run_shard(*words, "--overwrite")
    assert code == 1
    assert "Read-only file system" in one_error(err)


def test_target_is_a_file(tmp_path: Path, course: Path, run_shard: Run) -> None:
    (tmp_path / "out").write_text("mine")
    code, _, err = run_shard(course, tmp_path / "out")
    assert code == 1
    assert str(tmp_path / "out") in one_error(err)
    assert (tmp_path / "out").read_text() == "mine"


def test_unreadable_image(
    course: Path,
    shards: Path,
    tmp_path: Path,
    run_shard: Run,
    read_folder: Read,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = writer.read_source

    def broken(path: Path) -> bytes:
        with naming(path):
            if path.name == "20_left.jpeg":
                raise OSError(
                    errno.EIO, "Input/output error"
                )  # as read() does: no name
            return read(path)

    out = tmp_path / "out"
    words = [course, out, "--samples-per-shard", 10, "--workers", 1]
    monkeypatch.setattr(writer, "read_source", broken)
    code, _, err = run_shard(*words)
    monkeypatch.undo()
    assert code == 1
    source = course / "data" / "20_left.jpeg"
    assert one_error(err) == f"error: {source}: Input/output error"
    assert not list(out.rglob("*.part"))
    assert not (out / "manifest.json").exists()
    assert run_shard(*words)[0] == 0
    assert read_folder(out) == read_folder(shards)


def test_image_that_is_a_folder_is_missing(
    course: Path, tmp_path: Path, run_shard: Run
) -> None:
    data = Path(shutil.copytree(course, tmp_path / "data"))
    (data / "data" / "20_left.jpeg").unlink()
    (data / "data" / "20_left.jpeg").mkdir()
    code, _, err = run_shard(data, tmp_path / "out")
    assert code == 1
    assert "20_left" in one_error(err)


def test_worker_killed_for_want_of_memory(
    course: Path, shards: Path, tmp_path: Path, run_shard: Run, read_folder: Read
) -> None:
    # `-c` is not imported by the workers, a module is.
    (tmp_path / "greedy.py").write_text(
        "import os, signal, sys\n"
        "from fastretina.shard import writer\n"
        "if __name__ != '__main__':\n"
        "    writer.Preparer = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "else:\n"
        "    from fastretina.shard.command import main\n"
        "    sys.exit(main(sys.argv[1:]))\n"
    )
    words = [str(course), str(tmp_path / "out"), "--samples-per-shard=10"]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "greedy.py"), *words, "--workers=8"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "fewer --workers" in one_error(done.stderr.splitlines())
    assert run_shard(*words)[0] == 0
    assert read_folder(tmp_path / "out") == read_folder(shards)


# Labels


def test_missing_image_is_listed_or_allowed(
    course: Path, tmp_path: Path, run_shard: Run
) -> None:
    data = Path(shutil.copytree(course, tmp_path / "data"))
    (data / "data" / "20_left.jpeg").unlink()
    code, out, err = run_shard(data, tmp_path / "out")
    assert (code, out, len(err)) == (1, [], 1)
    assert "1 of 48 listed images is missing" in one_error(err)
    assert "20_left" in err[-1]
    assert "--allow-missing" in err[-1]
    assert not (tmp_path / "out").exists()
    code, out, err = run_shard(data, tmp_path / "out", "--allow-missing")
    assert code == 0
    assert json.loads(out[-1])["samples"] == 47
    assert len(err) == 1
    assert err[0].startswith("warning: 1 of 48 listed images is missing")


def test_unlisted_image_is_a_warning(
    course: Path, tmp_path: Path, run_shard: Run
) -> None:
    data = Path(shutil.copytree(course, tmp_path / "data"))
    (data / "data" / "999_left.jpeg").write_bytes(jpeg(0))
    code, out, err = run_shard(data, tmp_path / "out")
    assert code == 0
    assert json.loads(out[-1])["samples"] == 48
    assert len(err) == 1
    assert err[0].startswith("warning: 1 image")
    assert "999_left" in err[0]


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_data_that_is_none(name: str, tmp_path: Path, run_shard: Run) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = run_shard(tmp_path / name, tmp_path / "out")
    assert (code, len(err)) == (1, 1)
    assert str(tmp_path / name) in one_error(err)
    assert not (tmp_path / "out").exists()


def test_only_a_train_split(tmp_path: Path, run_shard: Run) -> None:
    data = tmp_path / "data"
    for grade in range(2):
        (data / "train" / str(grade)).mkdir(parents=True)
        (data / "train" / str(grade) / f"{grade}_left.jpg").write_bytes(jpeg(grade))
    (data / "test" / "0").mkdir(parents=True)
    code, out, err = run_shard(data, tmp_path / "out")
    assert code == 0
    assert "warning: the test split is empty" in err
    assert json.loads(out[-1])["splits"]["test"] == dict.fromkeys("01234", 0)
    assert pq.read_table(tmp_path / "out" / "test.parquet").num_rows == 0
    assert run_shard("--verify", tmp_path / "out")[0] == 0


def test_name_that_is_not_utf8(tmp_path: Path, run_shard: Run) -> None:
    folder = tmp_path / "d\udcff" / "0"
    try:
        folder.mkdir(parents=True)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    for n in range(4):
        (folder / f"{n}\udcfe_left.jpg").write_bytes(jpeg(n))
    out = tmp_path / "out\udcff"
    code, _, err = run_shard(folder.parent, out, "--workers", 1)
    assert code == 0, err
    assert run_shard("--verify", out)[0] == 0
    with open_split(out, "train") as split:
        assert all(re.fullmatch(r"\d\\udcfe", p) for p in split.column("patient"))


# Threads


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_keep_the_order_and_a_little_ahead(threads: int) -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.001 * (item % 3))
        return item * item

    results = in_threads(work, range(40), threads)
    for number, result in zip(range(10), results, strict=False):
        assert result == number * number
        assert len(begun) <= number + 1 + 4 * threads
    results.close()
    ended = len(begun)
    time.sleep(0.02)
    assert len(begun) == ended  # what was not begun never is


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_raise_what_was_raised_in_its_place(threads: int) -> None:
    def work(item: int) -> int:
        if item == 4:
            raise OSError("the disk has gone")
        return item

    results = in_threads(work, range(100), threads)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="gone"):
        next(results)


# A stranger's own folder


def graded(root: Path, names: list[str], suffix: str = "jpeg") -> Path:
    """Photographs in grade folders 0 to 4, in turn."""
    for number, name in enumerate(names):
        folder = root / str(number % 5)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.{suffix}").write_bytes(jpeg(number))
    return root


def index(folder: Path, split: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / f"{split}.parquet").to_pylist()
    return rows


@pytest.mark.parametrize("form", ["P{:05}_{}", "{}-{}", "{} {}", "{1}_{0}"])
@pytest.mark.parametrize("eyes", [("OS", "OD"), ("L", "R"), ("left", "right")])
def test_both_eyes_of_a_patient_stay_together(
    form: str, eyes: tuple[str, str], tmp_path: Path, run_shard: Run
) -> None:
    names = [form.format(number, eye) for number in range(20) for eye in eyes]
    out = tmp_path / "out"
    code, lines, err = run_shard(graded(tmp_path / "data", names), out)
    assert (code, err) == (0, [])
    sides = {
        split: {row["patient"] for row in index(out, split)}
        for split in ("train", "test")
    }
    assert sides["test"]
    assert not sides["train"] & sides["test"]
    rows = index(out, "train") + index(out, "test")
    assert {row["eye"] for row in rows} == {"left", "right"}
    assert all(row["patient_known"] for row in rows)
    assert json.loads(lines[-1])["patients_unknown"] == 0


def test_patients_that_are_not_known_are_not_claimed(
    tmp_path: Path, run_shard: Run
) -> None:
    names = [*(f"img{number:03}" for number in range(20)), "7_left", "7_right"]
    out = tmp_path / "out"
    code, lines, err = run_shard(graded(tmp_path / "data", names), out)
    assert code == 0
    assert err == [
        "warning: the patients of 20 of 22 photographs can't be identified from eye "
        "markers in the image names, so a patient may be in train and in test; "
        "--patient-column or --patient-pattern says who is whose"
    ]
    assert json.loads(lines[-1])["patients_unknown"] == 20
    assert manifest_of(out)["source"]["patients_unknown"] == 20
    known = {
        r["key"]: r["patient_known"] for s in ("train", "test") for r in index(out, s)
    }
    assert {key for key in known if known[key]} == {"7_left", "7_right"}


def test_a_pattern_keeps_patients_together(tmp_path: Path, run_shard: Run) -> None:
    data = graded(tmp_path / "data", [f"{n // 3:02}x{n}" for n in range(60)])
    out = tmp_path / "out"
    code, _, err = run_shard(data, out, "--patient-pattern", "^([0-9]+)x")
    assert (code, err) == (0, [])
    test = {row["patient"] for row in index(out, "test")}
    assert len(test) == len(index(out, "test")) / 3
    assert not test & {row["patient"] for row in index(out, "train")}
    assert manifest_of(out)["source"]["patients"] == "the pattern ^([0-9]+)x"
    # Other patients are another data set, also with the same split.
    code, _, err = run_shard(data, out, "--patient-pattern", "^([0-9]+x)")
    assert code == 1
    assert "holds a different data set" in one_error(err)


def test_other_patients_are_another_data_set(
    course: Path, tmp_path: Path, run_shard: Run
) -> None:
    """Even where the split is the labels' own, and so the same."""
    out = tmp_path / "out"
    assert run_shard(course, out)[0] == 0
    code, _, err = run_shard(course, out, "--patient-pattern", "^([0-9])")
    assert code == 1
    assert "holds a different data set" in one_error(err)


def test_a_split_that_leaks_is_said_to(
    make_course: Callable[..., Path], tmp_path: Path, run_shard: Run
) -> None:
    course = make_course(tmp_path / "set", 8, 4)
    (course / "test_img.csv").write_text("10_left\n15_left\n15_right\n14_left\n")
    (course / "train_img.csv").write_text(
        "10_right\n11_left\n11_right\n12_left\n12_right\n13_left\n13_right\n14_right\n"
    )
    _, lines, err = run_shard(course, tmp_path / "out")
    assert err == [
        "warning: 2 of 4 test photographs are of patients who are in train, too, so a "
        f"score is partly memory; fastretina audit {course} --fix fixed writes a split "
        "by patient"
    ]
    assert json.loads(lines[-1])["patients_in_both"] == 2


def test_what_is_not_taken_is_counted_and_named(tmp_path: Path, run_shard: Run) -> None:
    data = graded(tmp_path / "data", [f"{n}_L" for n in range(10)])
    Image.open(io.BytesIO(jpeg(1))).save(data / "0" / "90_L.tiff")
    Image.open(io.BytesIO(jpeg(2))).save(data / "1" / "91_L.webp", lossless=True)
    Image.open(io.BytesIO(jpeg(3))).save(data / "1" / "92_L.bmp")
    (data / "notes.txt").write_text("mine")
    code, lines, err = run_shard(data, data / "shards")  # inside DATA, and no stray
    assert code == 0
    result = json.loads(lines[-1])
    assert (result["samples"], result["left_out"]) == (12, 2)
    assert result["changed"] == {"from tiff": 1, "from webp": 1}
    assert err == [
        f"warning: 1 image in {data}/ left out, in a format that is not read (.bmp 1): "
        "1/92_L.bmp",
        f"warning: 1 file in {data}/ left out, no images by their suffix: notes.txt",
    ]
    assert manifest_of(data / "shards")["source"]["left_out"] == {
        "in a format that is not read": 1,
        "no images by their suffix": 1,
    }
    assert run_shard(data, data / "shards")[2] == err


def test_folders_the_wrong_way_round(
    course: Path, shards: Path, run_shard: Run
) -> None:
    code, _, err = run_shard(shards, course)
    assert code == 1
    assert one_error(err) == (
        f"error: {shards} holds shards: DATA, the folder named first, must hold the "
        "photographs; SHARDS, the second, is written"
    )


@pytest.mark.parametrize("there", [False, True])
def test_a_new_folder_before_the_photographs(
    there: bool, course: Path, tmp_path: Path, run_shard: Run
) -> None:
    new = tmp_path / "new"
    if there:
        new.mkdir()
    code, _, err = run_shard(new, course)
    assert code == 1
    assert one_error(err) == (
        f"error: DATA and SHARDS must stand the other way round: {course} holds "
        f"labels, {new} does not"
    )


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_a_folder_of_other_things_is_not_written_to(
    flags: list[str], course: Path, tmp_path: Path, run_shard: Run
) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.jpg").write_bytes(b"mine")
    code, _, err = run_shard(course, tmp_path / "holiday", *flags)
    assert code == 1
    assert one_error(err) == (
        f"error: {tmp_path / 'holiday'} holds other files (beach.jpg): name a new or "
        "an empty folder for the shards"
    )
    assert [path.name for path in (tmp_path / "holiday").iterdir()] == ["beach.jpg"]


def test_a_run_is_not_written_over(
    course: Path, tmp_path: Path, run_shard: Run
) -> None:
    """Whose test.parquet is named as an index of shards is."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "test.parquet"):
        (run / name).write_bytes(b"mine")
    for flags in ([], ["--overwrite"]):
        code, _, err = run_shard(course, run, *flags)
        assert code == 1
        assert f"{run} holds other files (config.json, test.parquet)" in one_error(err)
    assert sorted(path.name for path in run.iterdir()) == [
        "config.json",
        "test.parquet",
    ]


def test_a_file_is_no_folder_of_shards(
    course: Path, tmp_path: Path, run_shard: Run
) -> None:
    (tmp_path / "notes").write_text("mine")
    code, _, err = run_shard(course, tmp_path / "notes")
    assert code == 1
    assert one_error(err).endswith(
        f"must be a folder, got the file {tmp_path / 'notes'}"
    )


def test_where_photographs_come_from_is_kept(
    course: Path, tmp_path: Path, run_shard: Run
) -> None:
    out = tmp_path / "out"
    assert run_shard(course, out, "--source", "EyePACS 2015")[0] == 0
    assert manifest_of(out)["source"]["source"] == "EyePACS 2015"
    with open_split(out, "test") as split:
        assert split.manifest.origin.source == "EyePACS 2015"
        assert split.manifest.origin.drawn == 0
    _, _, err = run_shard(course, out, "--source", "Messidor")
    assert err == [
        f"warning: {out} is complete, and its source stays EyePACS 2015; --overwrite "
        "writes it again"
    ]


@pytest.mark.parametrize("reached", ["folder", "images", "link", "links"])
def test_drawn_photographs_are_known_to_be(
    reached: str, tmp_path: Path, run_shard: Run
) -> None:
    from fastretina.demo import command as demo

    drawn, data = tmp_path / "drawn", tmp_path / "drawn"
    flags = ["--images", "6", "--image-size", "64", "--workers", "1"]
    assert demo.main([str(drawn), *flags]) == 0
    if reached == "images":
        data = drawn / "data"
    elif reached in ("link", "links"):  # as audit --fix makes them
        data = tmp_path / "fixed"
        data.mkdir()
        for path in drawn.glob("*.csv"):
            shutil.copy(path, data)
        if reached == "link":
            (data / "data").symlink_to(drawn / "data")
        else:
            (data / "data").mkdir()
            for path in (drawn / "data").iterdir():
                (data / "data" / path.name).symlink_to(path)
    code, _, err = run_shard(data, tmp_path / "out")
    assert (code, err) == (0, [])
    assert manifest_of(tmp_path / "out")["source"]["drawn"] == 6


def test_an_index_without_known_patients_reads_them_off_the_eyes(
    written: Path, run_shard: Run
) -> None:
    """As older versions have written it."""
    path = written / "train.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["patient_known"]), path)
    without_checksums(written)
    with open_split(written, "train") as split:
        assert split.column("patient_known") == [bool(e) for e in split.column("eye")]
    assert run_shard("--verify", written)[0] == 0


@pytest.mark.parametrize("name", ["train.parquet", "train-000001.idx"])
def test_finished_data_set_with_a_damaged_index_is_not_called_finished(
    name: str, written: Path, course: Path, run_shard: Run
) -> None:
    path = written / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, _, err = run_shard(course, written, "--samples-per-shard", 10)
    assert code == 1
    assert f"{path} is missing or changed; pass --overwrite" in one_error(err)
