"""Files of strangers: nothing that they hold is run, and none leads elsewhere."""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import photograph
from hypothesis import given
from hypothesis import strategies as st
from reported_runs import log_rows, predicted
from torture.odd_values import Bait, baits

from fastretina.data.labels import read_table
from fastretina.data.loading import LoadingOptions
from fastretina.evaluate.command import _loading_of
from fastretina.experiments.variants import make_variant
from fastretina.metrics.predictions import Predictions
from fastretina.nn import checkpoint
from fastretina.nn.trained import load_trained
from fastretina.nn.weights_file import WeightsError, read_weights
from fastretina.predict.reading import (
    Preparation,
    find_photographs,
    refuse_unknown_steps,
)
from fastretina.predict.table import as_csv
from fastretina.recipe import RECIPES
from fastretina.report.experiment_file import read_experiment
from fastretina.run import Run, as_record
from fastretina.run_config import RunConfig
from fastretina.run_result import RunResult
from fastretina.shard import command as shard
from fastretina.shard.verify import _check_sample, verify
from fastretina.shard.writer import IndexRow
from loaders import manifest, untrusted
from loaders.errors import DataError, LabelError, RunError, ShardError
from loaders.formulas import guarded, unguarded
from loaders.index_table import COLUMNS
from loaders.parquet import MOST_ROWS, parse_parquet
from loaders.shards import open_split, read_manifest

ROOT = Path(__file__).parents[1]

# --- what our own source calls -------------------------------------------------------

# Calls that run what they are given. ``eval`` as a method is torch's, of a network.
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "pty.spawn"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "np.load", "numpy.load"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "shelve.open"),
    *("marshal.loads", "dill.load", "dill.loads", "cloudpickle.load", "joblib.load"),
    *("cloudpickle.loads", "yaml.load", "yaml.full_load", "yaml.unsafe_load"),
    *("torch.hub.load", "torch.jit.load", "torch.package.PackageImporter"),
    *("pd.read_pickle", "pandas.read_pickle", "pq.read_pandas", "cv2.FileStorage"),
}
KNOWN = {
    # What the GPU check has written itself, in a folder that nobody hands to it.
    ("bench/gpu/check_state.py", "pickle.loads"),
}


def sources() -> Iterator[Path]:
    for folder in ("fastretina", "loaders", "bench", "scripts", ".ci"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def named(function: ast.expr) -> str:
    """A called function's dotted name, e.g. ``os.system``; empty for others."""
    if isinstance(function, ast.Name):
        return function.id
    if isinstance(function, ast.Attribute):
        owner = named(function.value)
        return f"{owner}.{function.attr}" if owner else ""
    return ""


def imported(tree: ast.Module) -> dict[str, str]:
    """What a module calls each thing that it takes from another: ``from os import``."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def dangers(text: str) -> set[str]:
    """The calls in a source text that run what they are given, or ask a shell to."""
    tree, found = ast.parse(text), set()
    names = imported(tree)
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name = named(call.func)
        name = names.get(name, name)
        given = {each.arg: ast.unparse(each.value) for each in call.keywords}
        if name in FORBIDDEN:
            found.add(name)
        if given.get("shell", "False") != "False" or "allow_pickle" in given:
            found.add(f"{name} by a shell or pickle")
        owner, _, called = name.rpartition(".")
        pillow = names.get(owner, owner) in ("Image", "PIL.Image") and called == "open"
        if pillow and "formats" not in given:
            found.add(f"{name} of any kind, and so by Ghostscript")
        if name == "torch.load" and given.get("weights_only") != "True":
            found.add(name)
    return found


def test_our_source_runs_nothing_that_a_file_holds() -> None:
    found = {
        (str(path.relative_to(ROOT)), danger)
        for path in sources()
        for danger in dangers(path.read_text())
    }
    assert found == KNOWN


@pytest.mark.parametrize(
    "text",
    [
        "import os; os.system(x)",
        "from os import system as run; run(x)",
        "import subprocess; subprocess.run(x, shell=True)",
        "subprocess.Popen(x, shell=not False)",
        "pickle.load(file)",
        "from pickle import loads; loads(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "np.load(x)",
        "yaml.load(x)",
        "eval(x)",
        "Image.open(x)",
        "from PIL import Image; Image.open(x, 'r')",
        "from PIL import Image as pillow; pillow.open(x)",
        "import PIL; PIL.Image.open(x)",
        "from PIL.Image import open as opened; opened(x)",
    ],
)
def test_such_calls_are_found(text: str) -> None:
    assert dangers(text)


def test_other_calls_are_none() -> None:
    text = "network.eval(); subprocess.run(['a'], shell=False); re.compile(x)"
    assert not dangers(f"{text}; torch.load(x, weights_only=True); json.loads(x)")
    assert not dangers("Image.open(x, formats=('JPEG',)); open(x); tarfile.open(x)")


# --- formulas ------------------------------------------------------------------------

NAMES = st.text(alphabet=st.sampled_from("'=+-@\t\r\n＝＠ax\""), max_size=6) | st.text()  # noqa: RUF001 (meant)


@given(NAMES)
def test_guarded_text_begins_no_formula_and_can_be_read_back(text: str) -> None:
    cell = guarded(text)
    assert cell[:1] not in tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001 (meant)
    assert unguarded(cell) == text


@given(NAMES, NAMES)
def test_guarded_texts_stay_apart(one: str, other: str) -> None:
    assert (guarded(one) == guarded(other)) == (one == other)


def test_predictions_in_a_csv_hold_no_formula_and_numbers_stay() -> None:
    row = {"image": "=1+1", "grade": 2, "p0": -0.5, "error": "@x", "fellow": None}
    ordinary = {**row, "image": "10_left.jpeg", "error": "it's - so"}
    cells = list(csv.DictReader(io.StringIO(as_csv([row, ordinary]))))
    assert cells[0].pop("p0") == "-0.5"
    assert cells[0] == {"image": "'=1+1", "grade": "2", "error": "'@x", "fellow": ""}
    assert cells[1]["image"] == "10_left.jpeg"
    assert cells[1]["error"] == "it's - so"


# --- pickles -------------------------------------------------------------------------


def saved_by_torch(bait: Path, path: Path, *, new: bool) -> bytes:
    """What torch.save makes of it, as a zip or as it was before."""
    weights = {"conv1.weight": torch.zeros(1), "more": Bait(bait)}
    torch.save(weights, path, _use_new_zipfile_serialization=new)
    return path.read_bytes()


READERS: dict[str, Callable[[Path], object]] = {
    "w.pth": read_weights,
    "w.pt": read_weights,
    "w.safetensors": read_weights,
    "last.safetensors": checkpoint.load,
    "test.parquet": Predictions.load,
    "config.json": lambda path: Run(path.parent).config(),
    "log.csv": lambda path: Run(path.parent).log(),
    "experiment.json": lambda path: read_experiment(path.parent),
    "manifest.json": lambda path: read_manifest(path.parent),
}


@pytest.mark.parametrize("name", READERS)
def test_no_file_is_unpickled(name: str, tmp_path: Path) -> None:
    bait, file = tmp_path / "bait", tmp_path / name
    contents = baits(bait)
    contents += [saved_by_torch(bait, tmp_path / "x", new=n) for n in (True, False)]
    for content in contents:
        file.write_bytes(content)
        with pytest.raises(DataError, match=name):
            READERS[name](file)
        assert not bait.exists()


def test_the_bait_is_one(tmp_path: Path) -> None:
    """Or the tests above would say nothing."""
    bait = tmp_path / "bait"
    saved_by_torch(bait, tmp_path / "x", new=True)
    assert not bait.exists()
    torch.load(tmp_path / "x", weights_only=False)["more"].close()
    assert bait.exists()


def with_baits(table: pa.Table, bait: Path) -> pa.Table:
    """The same with pickles where Arrow and pandas have had theirs."""
    fields = [
        pa.field(
            f"odd {number}",
            pa.binary(),
            metadata={
                "ARROW:extension:name": "arrow.py_extension_type",
                "ARROW:extension:metadata": content,
            },
        )
        for number, content in enumerate(baits(bait))
    ]
    about = dict(table.schema.metadata or {}) | {b"pandas": baits(bait)[0]}
    table = table.replace_schema_metadata(about)
    for field in fields:
        table = table.append_column(field, pa.array([b""] * len(table), pa.binary()))
    return table


def test_no_index_is_unpickled(shards: Path, tmp_path: Path) -> None:
    copied = copy_of(shards, tmp_path)
    index = copied / "test.parquet"
    pq.write_table(with_baits(pq.read_table(index), tmp_path / "bait"), index)
    with suppress(ShardError):
        open_split(copied, "test").close()
    assert not (tmp_path / "bait").exists()


# --- names that lead elsewhere -------------------------------------------------------

PATHS = [
    "../../x",
    "/etc/passwd",
    "..",
    ".",
    "a/b",
    "",
    "a\0b",
    "a\nb",
    "a,b",
    "x" * 91,
]


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copied"))


@pytest.mark.parametrize("key", [*PATHS, None])
def test_key_in_an_index_is_a_name(
    key: str | None, shards: Path, tmp_path: Path
) -> None:
    copied = copy_of(shards, tmp_path)
    index = copied / "test.parquet"
    table = pq.read_table(index)
    keys = [key, *table["key"].to_pylist()[1:]]
    place = table.column_names.index("key")
    pq.write_table(table.set_column(place, "key", pa.array(keys, pa.string())), index)
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    with pytest.raises(ShardError, match=r"test\.parquet"):
        open_split(copied, "test")
    with pytest.raises(ShardError, match=r"test\.parquet"):  # which unpacks all of it
        make_variant("by-image", str(copied), tmp_path / "made")
    after = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert [path for path in after if path.parent.name != "made"] == before


@pytest.mark.parametrize(
    "name", [*PATHS, "../../train-000000.tar", "/train-000000.tar", 7]
)
def test_shard_in_a_manifest_is_a_name(name: Any, shards: Path, tmp_path: Path) -> None:
    copied = copy_of(shards, tmp_path)
    manifest = copied / "manifest.json"
    content = json.loads(manifest.read_text())
    content["splits"]["test"]["shards"][0]["name"] = name
    manifest.write_text(json.dumps(content))
    with pytest.raises(ShardError, match=r"manifest\.json"):
        open_split(copied, "test")


def test_tar_leads_nowhere(tmp_path: Path) -> None:
    """Names that climb or are absolute are unpacked inside; links are no members."""
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(photograph(0))
    root, folder = tmp_path / "set", tmp_path / "unpacked"
    root.mkdir()
    folder.mkdir()
    with tarfile.open(root / "a.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for n, key in enumerate(
            ("../../x_left", f"{tmp_path}/y_right", "a/../../z_left")
        ):
            for suffix, content in (("jpg", photograph(n)), ("cls", b"1")):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        for kind, key in ((tarfile.SYMTYPE, "s_left"), (tarfile.LNKTYPE, "h_left")):
            link = tarfile.TarInfo(f"{key}.jpg")
            link.type, link.linkname = kind, str(secret)
            tar.addfile(link)
            label = tarfile.TarInfo(f"{key}.cls")
            label.size = 1
            tar.addfile(label, io.BytesIO(b"1"))
    table = read_table(root, unpack_to=lambda: folder)
    assert len(table.samples) == 3
    assert all(sample.path.parent == folder for sample in table.samples)
    assert sorted(tmp_path.iterdir()) == sorted([secret, root, folder])
    code = shard.main([str(root), str(tmp_path / "shards"), "--workers", "1"])
    assert code == 0
    assert sorted(tmp_path.iterdir()) == sorted(
        [secret, root, folder, tmp_path / "shards"]
    )


def test_links_that_loop_end(course: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(course, tmp_path / "set"))
    (root / "up").symlink_to(root)
    (root / "data" / "self").symlink_to("self")
    (root / "data" / "there").symlink_to("back")
    (root / "data" / "back").symlink_to("there")
    (root / "data" / "loop.jpeg").symlink_to("loop.jpeg")
    (root / "data" / "endless.jpeg").symlink_to("/dev/zero")
    os.mkfifo(root / "data" / "pipe.jpeg")
    table = read_table(root)
    assert len(table.samples) == 48
    found = find_photographs([root])
    assert len(found.paths) == 48
    assert found.left_out


@pytest.mark.parametrize(
    "name", ["manifest.json", "test.parquet", "test-000000.idx", "test-000000.tar"]
)
@pytest.mark.parametrize("kind", ["pipe", "endless", "loop"])
def test_nothing_without_an_end_is_waited_for(
    name: str, kind: str, shards: Path, tmp_path: Path
) -> None:
    copied = copy_of(shards, tmp_path)
    (copied / name).unlink()
    if kind == "pipe":
        os.mkfifo(copied / name)
    else:
        to = "/dev/zero" if kind == "endless" else name
        (copied / name).symlink_to(to)
    with pytest.raises(ShardError, match=name):
        open_split(copied, "test").read(0)
    with pytest.raises(ShardError, match=name):
        verify(copied, workers=1)


def test_no_note_of_the_demo_is_waited_for(course: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(course, tmp_path / "set"))
    os.mkfifo(root / "demo.json")
    code = shard.main([str(root), str(tmp_path / "shards"), "--workers", "1"])
    assert code == 0


def described(**changes: object) -> RunConfig:
    recorded = {
        "recipe": asdict(RECIPES["seed"]),
        "weights": "none",
        "shards": "shards",
        "data": {},
        "image_shape": [64, 64],
        "square": True,
        "loader": "pil",
        "precision": "fp32",
        "threads": 1,
    }
    return as_record({**recorded, **changes}, RunConfig, Path("config.json"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("image_shape", shape) for shape in ([0, 9], [9, -1], [10**9, 10**9], [9])),
        *(("image_shape", shape) for shape in ([1, 2 * 10**8], [65_536, 9])),
        *(("data", {name: -5}) for name in ("train", "validation", "test")),
        *(("ranks", number) for number in (-1, 0, 2**40)),
        ("train_counts", [1, 2, 3, 4, -5]),
        ("train_counts", [10**400]),
        *(("threads", number) for number in (0, -1, 10**9, 2**70)),
        *(("loading", {"loader": "pil", "cache_gb": most}) for most in (0, -1)),
        *(("loading", {"loader": "pil", "hw_decoder_load": n}) for n in (-1, 2)),
        ("loading", {"loader": "pil", "cache": ""}),
        *(("data", {"preprocessing": {"size": size}}) for size in (0, 7, 10**9)),
    ],
)
def test_run_of_impossible_sizes_is_refused(key: str, value: object) -> None:
    described()
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        described(**{key: value})


def test_no_folder_is_made_where_a_run_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    recorded = described(loading={"loader": "pil", "cache": str(folder)})
    assert _loading_of(recorded, LoadingOptions()).cache == "none"
    assert _loading_of(recorded, LoadingOptions(cache="memory")).cache == "memory"
    asked = LoadingOptions(cache=str(folder))
    assert _loading_of(recorded, asked).cache == str(folder)
    folder.mkdir()
    assert _loading_of(recorded, LoadingOptions()).cache == str(folder)


def test_steps_that_are_not_known_are_not_left_out_in_silence(tmp_path: Path) -> None:
    odd = described(data={"preprocessing": {"steps": ["crop", "denoise"]}})
    with pytest.raises(RunError, match=r"config\.json.*denoise"):
        refuse_unknown_steps(Run(tmp_path), Preparation.of_run(odd))


# --- limits --------------------------------------------------------------------------


def test_files_without_an_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "self").symlink_to("self")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    for name in ("link", "pipe", "self", "huge", "nothing", "."):
        with pytest.raises(OSError, match=name if name != "." else str(tmp_path)):
            untrusted.read_file(tmp_path / name, 1000)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "{", ""]
)
def test_json_of_any_depth_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        untrusted.parse_json(text)
    with pytest.raises(DataError, match=r"config\.json"):
        Run(tmp_path).config()


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_a_text_that_stands_in_every_row_is_no_bomb(kind: pa.DataType) -> None:
    """47 kB that would be 3 GB."""
    once = pa.array(["a" * 1_000_000]).cast(kind)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 3000), once)
    file = io.BytesIO()
    pq.write_table(pa.table({"key": column}), file)
    assert len(file.getvalue()) < 100_000
    with pytest.raises(ValueError, match="1,000,000 bytes"):
        parse_parquet(file.getvalue(), ["key", "label"])


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.binary(100_000)])
def test_columns_of_columns_and_of_wide_bytes_are_refused(kind: pa.DataType) -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"key": pa.nulls(3, kind)}), file)
    with pytest.raises(ValueError, match="of a type that is not read"):
        parse_parquet(file.getvalue(), ["key", "label"])


def test_weights_that_are_too_much_unpacked_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A .pth is a zip, whose entries may be compressed."""
    plain, packed = tmp_path / "plain.pth", tmp_path / "packed.pth"
    torch.save({"conv1.weight": torch.zeros(1_000_000)}, plain)
    with (
        zipfile.ZipFile(plain) as one,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as other,
    ):
        for entry in one.infolist():
            other.writestr(entry.filename, one.read(entry))
    assert packed.stat().st_size < 10_000
    monkeypatch.setattr("fastretina.nn.weights_file.MOST_TENSORS", 1_000_000)
    monkeypatch.setattr(torch, "load", None)  # is not even asked
    with pytest.raises(WeightsError, match=r"packed\.pth holds no weights"):
        read_weights(packed)


def test_many_rows_in_few_bytes_are_no_bomb() -> None:
    rows = pa.nulls(MOST_ROWS + 1, pa.int8())
    file = io.BytesIO()
    pq.write_table(pa.table({"label": rows}), file)
    with pytest.raises(ValueError, match="rows"):
        parse_parquet(file.getvalue(), ["key", "label"])


COUNTING = pa.proxy_memory_pool(pa.default_memory_pool())  # outlives what it gave


def packed(table: pa.Table, **how: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **how)
    return file.getvalue()


def test_many_texts_of_the_longest_are_counted_before_they_are_written_out() -> None:
    """800,000 rows of one text: 350 kB that would be 3.3 GB, and 6.5 MB to count."""
    once = pa.array(["a" * 4096])
    rows = pa.array(np.zeros(400_000, np.int32))
    column = pa.DictionaryArray.from_arrays(rows, once)
    table = pa.table({"key": pa.chunked_array([column, column])})
    content = packed(table, row_group_size=400_000)
    assert len(content) < 400_000
    before = pa.default_memory_pool()
    pa.set_memory_pool(COUNTING)
    try:
        with pytest.raises(ValueError, match="bytes unpacked"):
            parse_parquet(content, ["key"])
    finally:
        pa.set_memory_pool(before)
    assert COUNTING.max_memory() < 64 << 20


def test_columns_that_are_not_known_are_not_read() -> None:
    table = pa.table({"label": [0, 1], "odd": [[1], [2]], "more": [b"a", b"b"]})
    assert parse_parquet(packed(table), COLUMNS).column_names == ["label"]


def test_a_column_that_comes_twice_is_refused() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["label", "label"])
    with pytest.raises(ValueError, match="twice"):
        parse_parquet(packed(table), COLUMNS)


@pytest.mark.parametrize("codec", ["zstd", "gzip", "brotli", "lz4"])
def test_parquet_is_read_whatever_it_is_packed_by(codec: str) -> None:
    table = pa.table({"label": np.arange(1000) % 5, "key": ["a"] * 1000})
    assert parse_parquet(packed(table, compression=codec), COLUMNS).equals(table)


EVERY_BYTE = """
import sys
import pyarrow as pa
from loaders.parquet import parse_parquet

content = bytearray(sys.stdin.buffer.read())
read = 0
for place in range(len(content)):
    was = content[place]
    for now in (was ^ 1, was ^ 64, 0, 255):
        content[place] = now
        try:
            parse_parquet(bytes(content), ["key", "label"])
            read += 1
        except (pa.ArrowException, OSError, ValueError):
            pass
    content[place] = was
print("read:", read)
"""


def test_no_byte_of_parquet_ends_the_process() -> None:
    """As a codec that is none did: what pyarrow tells of it raises in C++."""
    table = pa.table({"key": ["a", "bc"], "label": [0, 4]})
    done = subprocess.run(
        [sys.executable, "-c", EVERY_BYTE],
        input=packed(table),
        capture_output=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 0


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_texts_that_share_their_beginnings_are_refused(encoding: str) -> None:
    table = pa.table({"key": [f"{'a' * 4000}{n}" for n in range(1000)]})
    how = {"use_dictionary": False, "column_encoding": {"key": encoding}}
    with pytest.raises(OSError, match="DictAccumulator"):
        parse_parquet(packed(table, **how), COLUMNS)


def test_tables_within_the_limits_are_read_as_they_are(shards: Path) -> None:
    for name in ("train", "test"):
        file = shards / f"{name}.parquet"
        table = parse_parquet(file.read_bytes(), COLUMNS)
        assert table.equals(pq.read_table(file))
        assert table.schema.equals(pq.read_table(file).schema)


def test_label_file_of_any_length_is_an_error(
    monkeypatch: pytest.MonkeyPatch, course: Path
) -> None:
    monkeypatch.setattr("loaders.course.MOST_CSV", 100)
    with pytest.raises(LabelError, match=r"train_img\.csv has more than 100 bytes"):
        read_table(course)


@pytest.mark.parametrize("value", ["[]", "{}", "0", '"a"', '{"a":[]}'])
def test_manifest_of_more_values_than_any_has_is_refused_unread(
    value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """32 MB of empty lists took 863 MB."""
    many = ",".join([value] * 200_000)
    (tmp_path / "manifest.json").write_text(f'{{"format":1,"more":[{many}]}}')
    monkeypatch.setattr("loaders.manifest.json", None)  # is not even asked
    with pytest.raises(ShardError, match=r"manifest\.json is damaged .*too many"):
        read_manifest(tmp_path)


class Counted(str):
    """A text that counts how often it is compared or hashed."""

    asked = 0

    def __eq__(self, other: object) -> bool:
        Counted.asked += 1
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        Counted.asked += 1
        return str.__hash__(self)


def test_a_key_that_comes_twice_is_found_in_one_pass() -> None:
    """40,000 keys took 10 s."""
    keys = [Counted(n) for n in [*range(2000), 1999]]
    Counted.asked = 0
    with pytest.raises(ValueError, match="'1999' comes twice"):
        manifest._without_repetition([(key, 0) for key in keys])
    assert Counted.asked < 10 * len(keys)


@pytest.mark.parametrize("text", ['"\\u0000"', '["\\\\\\u0000"]', '{"a\\u0000": 1}'])
def test_json_with_a_nul_is_refused(text: str) -> None:
    for given_as in (text, text.encode()):
        with pytest.raises(ValueError, match="NUL"):
            untrusted.parse_json(given_as)


def test_a_backslash_before_a_number_is_no_nul() -> None:
    assert untrusted.parse_json(r'"\\u0000"') == r"\u0000"


@pytest.mark.parametrize("name", ["train_loss", "seconds", "lr", "images_per_second"])
@pytest.mark.parametrize("value", ["1e308", "-1", "nan", "inf", "9" * 5000])
def test_log_of_impossible_numbers_is_refused(
    name: str, value: str, tmp_path: Path
) -> None:
    """Matplotlib can place no ticks at 1e308."""
    run = Run(tmp_path)
    run.write_log(log_rows())
    path = tmp_path / "log.csv"
    lines = list(csv.DictReader(path.read_text().splitlines()))
    with path.open("w") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows({**line, name: value} for line in lines)
    with pytest.raises(RunError, match=r"log\.csv is damaged"):
        run.log()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("test_accuracy", value) for value in (-0.1, 1.1, 1e308)),
        *(("test_qwk", value) for value in (-2, 2, 1e308)),
        *(("seconds", value) for value in (-1, 1e308)),
        *(("wait_fraction", value) for value in (-1, 1e308)),
        *((name, -1) for name in ("epochs", "steps", "checkpoint_epoch", "skipped")),
        ("changed_parameters", {"head": -1}),
        ("parameters", 10**400),
    ],
)
def test_result_of_impossible_numbers_is_refused(name: str, value: object) -> None:
    result = {"weights": "none", "checkpoint": "best", "checkpoint_epoch": 1}
    known = {**result, "weights_sha256": "0", "test_qwk": None}
    as_record(known, RunResult, Path("metrics.json"))
    with pytest.raises(RunError, match=rf"metrics\.json is damaged.*{name}"):
        as_record({**known, name: value}, RunResult, Path("metrics.json"))


@pytest.mark.parametrize("text", ["1e51", "[-1e308]", "1e999", str(2**65)])
def test_json_of_numbers_too_large_to_compute_on_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a number in it is beyond"):
        untrusted.parse_json(text)
    assert untrusted.parse_json("[1e45, 9223372036854775807]") == [1e45, 2**63 - 1]


@pytest.mark.parametrize(
    "state",
    [
        *({"epoch": epoch} for epoch in ("x", [1], -1, 1e30, 2**63)),
        *({"best": [1]}, {"progress": {"epoch": None}}, {"checkpoint": "\x1b[31m"}),
    ],
)
def test_checkpoint_of_an_impossible_epoch_is_refused(
    state: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, network = Run(tmp_path), torch.nn.Linear(1, 1)
    run.write_config(described())
    tensors = checkpoint.prefixed("model", network.state_dict())
    monkeypatch.setattr("fastretina.nn.trained.build_model", lambda *_: network)
    checkpoint.save(run.last, tensors, {"progress": {"epoch": 3}})
    assert load_trained(run, torch.device("cpu")).checkpoint_epoch == 3
    checkpoint.save(run.last, tensors, state)
    with pytest.raises(RunError, match=r"last\.safetensors is damaged"):
        load_trained(run, torch.device("cpu"))


@pytest.mark.parametrize("about", [b"[" * 100_000, b"[]", b"\xff", b'"\\u0000"'])
def test_verify_names_a_sample_whose_json_is_none(about: bytes) -> None:
    sha256 = hashlib.sha256(b"").hexdigest()
    row = IndexRow("a", 0, 0, 512, 0, "p", "left", 8, 8, sha256, True, None, None)
    faults = list(_check_sample(row, [b"", b"0", about]))
    assert [fault.split()[0] for fault in faults] == ["patient", "eye", "grade"]


@pytest.mark.parametrize("name", ["row", "key", "label", "p0", "patient_known"])
def test_predictions_with_a_row_of_nothing_are_refused(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "test.parquet"
    predicted(20, 0).save(path)
    table = pq.read_table(path)
    place = table.column_names.index(name)
    nothing = pa.nulls(len(table), table[name].type)
    pq.write_table(table.set_column(place, name, nothing), path)
    with pytest.raises(RunError, match=rf"test\.parquet is damaged .*lacks its {name}"):
        Predictions.load(path)
