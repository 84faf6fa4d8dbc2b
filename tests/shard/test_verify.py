"""``--verify``: a good data set passes, and every kind of damage is found and named."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from resealed import read_json, reseal, write_sealed

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def damaged(shards: Path, tmp_path: Path) -> Path:
    """A copy of ``shards``, to be damaged by the test."""
    return Path(shutil.copytree(shards, tmp_path / "damaged"))


def found(run_shard: Run, folder: Path) -> str:
    """The lines that name the damage; there is some, and no traceback."""
    code, out, err = run_shard("--verify", folder, "--workers", 1)
    assert code == 1
    assert len(err) == 1
    assert err[0].startswith("error: ")
    assert str(folder) in err[0]
    return "\n".join([*out, *err])


def rewrite(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write a tar anew, with members changed, or left out for None."""
    buffer = io.BytesIO()
    with (
        tarfile.open(path) as old,
        tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as new,
    ):
        for member in old:
            file = old.extractfile(member)
            assert file is not None
            content = change(member.name, file.read())
            if content is not None:
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))
    path.write_bytes(buffer.getvalue())


def edit_row(folder: Path, column: str, value: object, row: int = 12) -> str:
    """Change a cell of the training index, as a forger would; returns the row's key."""
    path = folder / "train.parquet"
    table = pq.read_table(path)
    values = table[column].to_pylist()
    assert values[row] != value
    values[row] = value
    place = table.column_names.index(column)
    field = table.schema.field(column)
    pq.write_table(table.set_column(place, field, pa.array(values, field.type)), path)
    reseal(folder)
    return str(table["key"][row])


def edit_manifest(folder: Path, change: Callable[[dict], None]) -> None:
    """Change a manifest, with the right checksum of it: only the change is wrong."""
    manifest = read_json(folder)
    change(manifest)
    write_sealed(folder, manifest)


@pytest.mark.parametrize("workers", [1, 2])
def test_good_data_set(workers: int, shards: Path, run_shard: Run) -> None:
    code, out, err = run_shard("--verify", shards, "--workers", workers)
    assert (code, err) == (0, [])
    result = json.loads(out[-1])
    assert result["shards"] == str(shards)
    assert (result["samples"], result["num_shards"], result["problems"]) == (48, 6, 0)
    assert result["images_per_second"] > 0


def test_flipped_byte_in_a_jpeg(damaged: Path, run_shard: Run) -> None:
    row = pq.read_table(damaged / "train.parquet").to_pylist()[12]
    path = damaged / "train-000001.tar"
    content = bytearray(path.read_bytes())
    content[row["offset"] + row["size"] // 2] ^= 0x55
    path.write_bytes(content)
    text = found(run_shard, damaged)
    assert "train-000001.tar: its SHA-256 is not the manifest's" in text
    assert f"sample {row['key']}: the image's SHA-256 is not the index's" in text


@pytest.mark.parametrize(
    ("suffix", "content", "what"),
    [
        (".cls", b"4", "grade b'4' in the tar, 0 in the index"),
        (".cls", b"", "grade b'' in the tar, 0 in the index"),
        (".json", b'{"grade": 4}', "grade 4 in the tar's JSON, 0 in the index"),
        (".json", b"{", "grade None in the tar's JSON"),
        (".json", b"[]", "grade None in the tar's JSON"),
        (".json", b"\xff", "grade None in the tar's JSON"),
        (".jpg", b"rubbish", "the image's SHA-256 is not the index's"),
        (".jpg", None, "a member is missing"),
        (".cls", None, "a member is missing"),
    ],
)
def test_changed_member(
    suffix: str, content: bytes | None, what: str, damaged: Path, run_shard: Run
) -> None:
    table = pq.read_table(damaged / "train.parquet").to_pylist()
    key = next(r["key"] for r in table if r["label"] == 0 and r["shard"] == 2)

    def change(name: str, old: bytes) -> bytes | None:
        return content if name == f"{key}{suffix}" else old

    rewrite(damaged / "train-000002.tar", change)
    text = found(run_shard, damaged)
    assert f"train-000002.tar, sample {key}: {what}" in text
    assert re.search(r"train-000002\.tar(: its SHA-256| has [\d,]+ bytes, the m)", text)


def test_change_that_the_manifest_was_made_to_fit(
    damaged: Path, run_shard: Run
) -> None:
    """Even with the right hash in the manifest, tar and index must agree."""
    import hashlib

    path = damaged / "test-000000.tar"
    key = str(pq.read_table(damaged / "test.parquet")["key"][0])
    rewrite(path, lambda name, old: b"4" if name == f"{key}.cls" else old)
    content = path.read_bytes()

    def change(manifest: dict) -> None:
        info = manifest["splits"]["test"]["shards"][0]
        info["sha256"] = hashlib.sha256(content).hexdigest()
        info["bytes"] = len(content)

    edit_manifest(damaged, change)
    text = found(run_shard, damaged)
    assert "SHA-256" not in text
    assert f"sample {key}: grade b'4' in the tar" in text


def test_extra_member(damaged: Path, run_shard: Run) -> None:
    with tarfile.open(damaged / "train-000000.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("99_left.cls"))
    assert "31 members for 10 samples" in found(run_shard, damaged)


@pytest.mark.parametrize("content", [None, b"", b"rubbish" * 999, "half"])
def test_tar_that_is_none(
    content: bytes | str | None, damaged: Path, run_shard: Run
) -> None:
    path = damaged / "train-000001.tar"
    if content is None:
        path.unlink()
    elif isinstance(content, str):
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.write_bytes(content)
    assert "train-000001.tar" in found(run_shard, damaged)


@pytest.mark.parametrize("content", [None, b"", b"\xff\x00", b"v1.2 10\n"])
def test_dali_index(content: bytes | None, damaged: Path, run_shard: Run) -> None:
    path = damaged / "test-000001.idx"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    text = found(run_shard, damaged)
    assert "test-000001.idx is missing or does not match its tar" in text


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("label", 4, "in the index"),
        ("offset", 512, "a row points into the one before"),
        ("size", 7, "the index points elsewhere"),
        ("sha256", "0" * 64, "the image's SHA-256 is not the index's"),
        ("width", 63, "64x64 pixels, not as indexed"),
        ("components", 1, "3 components, not as indexed"),
        ("patient", "other", "'other' in the index"),
        ("eye", "up", "'up' in the index"),
        ("key", "nobody", "a member is missing"),
        ("shard", 0, "differ on what each shard holds"),
        ("shard", 99, "differ on what each shard holds"),
        ("label", None, "train.parquet: a row lacks its label"),
        ("label", -1, "train.parquet: a row's label is not within 0 to 4"),
        ("label", 5, "train.parquet: a row's label is not within 0 to 4"),
        ("offset", None, "train.parquet: a row lacks its offset"),
        ("offset", 513, "a row's offset is none of a tar's members"),
        ("offset", -5, "train.parquet: a row's offset is not within 512 to"),
        ("offset", 512 * 10**12, "a row points out of its shard"),
        ("offset", (1 << 63) - 512, "a row points out of its shard"),
        ("size", 10**6, "a row points out of its shard"),
        ("key", None, "train.parquet: a row lacks its key"),
        ("key", "10_left", "a key comes twice"),
        ("key", "../../etc/passwd", "a row's key has another form"),
        ("sha256", "f", "a row's sha256 has another form"),
        ("width", 0, "a row's width is not within 1 to 65535"),
        ("components", 5, "a row's components is not within 1 to 4"),
    ],
)
def test_changed_row_of_the_index(
    column: str, value: object, what: str, damaged: Path, run_shard: Run
) -> None:
    key = edit_row(damaged, column, value)
    text = found(run_shard, damaged)
    assert what in text
    of_table = "row" in what or column in ("key", "shard", "label", "offset")
    assert of_table or f"sample {key}: " in text


def test_index_with_labels_swapped_among_samples(damaged: Path, run_shard: Run) -> None:
    path = damaged / "train.parquet"
    table = pq.read_table(path)
    labels = table["label"].to_pylist()
    a, b = labels.index(0), next(n for n, label in enumerate(labels) if label)
    labels[a], labels[b] = labels[b], labels[a]  # the counts stay the same
    place = table.column_names.index("label")
    field = table.schema.field("label")
    pq.write_table(table.set_column(place, field, pa.array(labels, field.type)), path)
    assert "train.parquet is damaged" in found(run_shard, damaged)
    reseal(damaged)
    text = found(run_shard, damaged)
    for row in (a, b):
        assert f"sample {table['key'][row]}: grade" in text


@pytest.mark.parametrize("content", [None, b"", b"PAR1 rubbish PAR1"])
def test_index_that_is_none(
    content: bytes | None, damaged: Path, run_shard: Run
) -> None:
    path = damaged / "train.parquet"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    text = found(run_shard, damaged)
    assert str(path) in text
    assert sum("train.parquet" in line for line in text.splitlines()) == 2, (
        "on a line of its own and as the error, but not for each shard"
    )


@pytest.mark.parametrize("kind", ["no such column", "text for numbers"])
def test_index_of_another_schema(kind: str, damaged: Path, run_shard: Run) -> None:
    path = damaged / "train.parquet"
    table = pq.read_table(path)
    if kind == "no such column":
        table = table.drop_columns(["offset"])
    else:
        place = table.column_names.index("offset")
        table = table.set_column(place, "offset", pa.array(["x"] * table.num_rows))
    pq.write_table(table, path)
    assert "train" in found(run_shard, damaged)


def test_swapped_shards(damaged: Path, run_shard: Run) -> None:
    one, other = damaged / "train-000000.tar", damaged / "train-000001.tar"
    one.rename(damaged / "x")
    other.rename(one)
    (damaged / "x").rename(other)
    text = found(run_shard, damaged)
    for path in (one, other):
        assert f"{path.name}: its SHA-256 is not the manifest's" in text


def test_shard_that_the_manifest_does_not_know(damaged: Path, run_shard: Run) -> None:
    shutil.copy(damaged / "train-000000.tar", damaged / "train-000009.tar")
    assert "train-000009.tar is not in the manifest" in found(run_shard, damaged)


def test_foreign_files_are_no_damage(damaged: Path, run_shard: Run) -> None:
    (damaged / "train-old.tar").write_bytes(b"mine")
    (damaged / "notes.txt").write_bytes(b"mine")
    assert run_shard("--verify", damaged)[0] == 0


def test_changed_counts_in_the_manifest(damaged: Path, run_shard: Run) -> None:
    edit_manifest(damaged, lambda m: m["splits"]["train"]["grades"].update({"0": 5}))
    assert "grades are not the manifest's" in found(run_shard, damaged)


@pytest.mark.parametrize("how", ["no split", "no shard", "another size"])
def test_manifest_that_says_less_than_there_is(
    how: str, damaged: Path, run_shard: Run
) -> None:
    def change(manifest: dict) -> None:
        if how == "no split":
            manifest["splits"] = {}
        elif how == "no shard":
            for split in manifest["splits"].values():
                split |= {"samples": 0, "grades": {}, "shards": []}
        else:
            manifest["splits"]["train"]["shards"][1]["bytes"] += 512

    edit_manifest(damaged, change)
    wanted = {
        "no split": "manifest.json is damaged (it lists no split)",
        "no shard": "train.parquet has 37 rows, the manifest lists 0 samples",
        "another size": "train-000001.tar has ",
    }
    assert wanted[how] in found(run_shard, damaged)


def test_dali_index_that_is_not_the_manifests(damaged: Path, run_shard: Run) -> None:
    edit_manifest(
        damaged,
        lambda m: m["splits"]["test"]["shards"][1].update(index_sha256="0" * 64),
    )
    text = found(run_shard, damaged)
    assert "test-000001.idx: its SHA-256 is not the manifest's" in text


def test_grade_of_none_in_the_manifest_is_no_damage(
    damaged: Path, run_shard: Run
) -> None:
    edit_manifest(damaged, lambda m: m["splits"]["test"]["grades"].update({"9": 0}))
    assert run_shard("--verify", damaged)[0] == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["splits"]["train"]["shards"][0].update(sha256="0"),
        lambda m: m["splits"]["train"]["shards"][0].update(samples=9),
        lambda m: m["splits"]["train"]["shards"][0].update(samples=None),
        lambda m: m["splits"]["train"]["shards"][0].update(name=7),
        lambda m: m["splits"]["train"]["shards"].pop(),
        lambda m: m["splits"]["train"].update(shards=None),
        lambda m: m["splits"]["train"].update(grades=None),
        lambda m: m["splits"]["train"].update(grades={"0": []}),
        lambda m: m.update(splits=[]),
        lambda m: m.update(format="1"),
    ],
)
def test_changed_manifest(
    change: Callable[[dict], None], damaged: Path, run_shard: Run
) -> None:
    edit_manifest(damaged, change)
    found(run_shard, damaged)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "7", "null", "\xff"])
def test_manifest_that_is_none(text: str | None, damaged: Path, run_shard: Run) -> None:
    path = damaged / "manifest.json"
    path.unlink()
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    found(run_shard, damaged)


def test_no_such_folder(tmp_path: Path, run_shard: Run) -> None:
    assert "does not exist" in found(run_shard, tmp_path / "nowhere")


def test_every_problem_is_printed_and_the_first_is_the_error(
    damaged: Path, run_shard: Run
) -> None:
    (damaged / "test-000000.idx").unlink()
    (damaged / "train-000002.tar").unlink()
    code, out, err = run_shard("--verify", damaged, "--workers", 2)
    assert code == 1
    assert out == [
        "train-000002.tar is missing",
        "test-000000.idx is missing or does not match its tar",
    ]
    assert err == [
        f"error: {damaged} is damaged: train-000002.tar is missing (and 1 more); "
        "shard it again"
    ]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_interrupted(how: signal.Signals, tmp_path: Path, make_course) -> None:
    from fastretina.shard import command as shard

    data = make_course(tmp_path / "data", 60, 20, 256)
    words = [str(data), str(tmp_path / "out"), "--samples-per-shard=2", "--workers=1"]
    assert shard.main(words) == 0
    with subprocess.Popen(
        [sys.executable, ROOT / "scripts/shard.py", "--verify", tmp_path / "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        parent = psutil.Process(process.pid)
        while len(parent.children()) < 3:  # the tracker and two workers
            assert process.poll() is None
            time.sleep(0.002)
        workers = parent.children()
        if how == signal.SIGINT:
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        out, err = process.communicate(timeout=20)
        if how == signal.SIGINT:
            assert (process.returncode, out, err) == (130, "", "interrupted\n")
        psutil.wait_procs(workers, timeout=20)
        left = [w for w in workers if w.is_running() and w.status() != "zombie"]
        assert not left, "an orphan lives on"
