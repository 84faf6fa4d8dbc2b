"""Our own parsers, each as a function of bytes that a stranger may have written.

A target writes the bytes where its parser looks for them, calls it, and holds what it
returns to what is promised. What else it may raise is named beside it, in ``TARGETS``.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from fastretina.data.prepare import Rejected
from loaders.errors import DataError, LabelError, RunError, ShardError
from torture import fuzz_files as good
from torture.fuzz_files import SEPARATOR

Parse = Callable[[bytes, Path], object]


@dataclass(frozen=True, slots=True)
class Target:
    """A parser to be fuzzed.

    Attributes:
        parse: takes the bytes, and an empty folder of its own.
        refusals: what it may raise.
        good: makes files that it takes.
        words: what mutations may put in, beside bytes.
    """

    parse: Parse
    refusals: tuple[type[Exception], ...]
    good: good.Good
    words: Sequence[bytes] = ()


def table_csv(content: bytes, folder: Path) -> None:
    from fastretina.data.labels import LabelOptions, read_table
    from fastretina.data.patient_names import PatientSource

    (folder / "train.csv").write_bytes(content)
    table = read_table(folder, images=False)
    assert len({sample.key for sample in table.samples}) == len(table.samples)
    assert all(sample.grade in range(5) for sample in table.samples)
    how = LabelOptions(patients=PatientSource(column="patient"))
    assert len(read_table(folder, how, images=False).samples) == len(table.samples)


def course_csvs(content: bytes, folder: Path) -> None:
    from fastretina.audit.headers import read_label_files
    from fastretina.data.labels import read_table

    images, _, labels = content.partition(SEPARATOR)
    (folder / "train_img.csv").write_bytes(images)
    (folder / "train_label.csv").write_bytes(labels)
    (folder / "test_img.csv").write_bytes(b"1_left")
    (folder / "test_label.csv").write_bytes(b"0")
    table = read_table(folder, images=False)
    assert all(sample.grade in range(5) for sample in table.samples)
    rows = [each.rows for each in read_label_files(folder, "course")]
    assert len(table.samples) == sum(rows)


def names(content: bytes, folder: Path) -> None:
    from fastretina.data.keys import assign_keys
    from fastretina.data.patient_names import read_name
    from loaders.tar import KEY

    given = content.decode(errors="surrogateescape").split("\n")
    keys = assign_keys(given)
    assert len(set(keys.values())) == len(set(given))
    assert all(KEY.fullmatch(key) for key in keys.values())
    for name in given:
        found = read_name(name)
        assert found.patient in name
        assert found.known == bool(found.eye)


def patient_pattern(content: bytes, folder: Path) -> None:
    from fastretina.data.patient_names import patient_source

    source = patient_source(None, content.decode(errors="surrogateescape"))
    source.read("10_left", None)


def foreign_tar(content: bytes, folder: Path) -> None:
    from fastretina.data.labels import read_table

    root, unpacked = folder / "root", folder / "unpacked"
    root.mkdir()
    unpacked.mkdir()
    (root / "train.tar").write_bytes(content)
    try:
        table = read_table(root, unpack_to=lambda: unpacked)
    finally:
        assert {path.name for path in folder.iterdir()} == {"root", "unpacked"}
        assert all(path.is_file() for path in unpacked.iterdir())
        assert not any(path.is_symlink() for path in unpacked.iterdir())
    files = {sample.path for sample in table.samples}
    assert files == set(unpacked.iterdir())
    assert len(files) == len(table.samples)


def manifest(content: bytes, folder: Path) -> None:
    from loaders.shards import read_manifest

    (folder / "manifest.json").write_bytes(content)
    read_manifest(folder)


def split_index(content: bytes, folder: Path) -> None:
    from loaders import open_split

    (folder / "manifest.json").write_bytes(good.data_set()["manifest.json"])
    (folder / "train.parquet").write_bytes(content)
    with open_split(folder, "train") as split:
        assert len(split) == len(split.labels) == 4


def photograph(content: bytes, folder: Path) -> None:
    import numpy as np

    from fastretina.data.prepare import Preparer
    from loaders.decode import Decoder

    if _pixels(content) > 1 << 20:  # it takes its time, as it may
        return
    prepared = Preparer()(content)
    out = np.empty((prepared.height, prepared.width, 3), np.uint8)
    Decoder()(prepared.jpeg, out)


def _pixels(content: bytes) -> int:
    from PIL import Image

    with suppress(Exception), Image.open(io.BytesIO(content)) as image:
        return image.width * image.height
    return 0


def jpeg_header(content: bytes, folder: Path) -> None:
    from fastretina.doctor.jpeg_header import read_jpeg_header

    header = read_jpeg_header(content)
    assert header.chroma
    assert header.progressive in (True, False)


def checkpoint(content: bytes, folder: Path) -> None:
    from fastretina.nn.checkpoint import load

    (folder / "last.safetensors").write_bytes(content)
    load(folder / "last.safetensors")


def weights(content: bytes, folder: Path) -> None:
    from fastretina.nn.weights_file import read_weights

    path = folder / f"weights.{'pth' if content[:2] == b'PK' else 'safetensors'}"
    path.write_bytes(content)
    read_weights(path)


def run_config(content: bytes, folder: Path) -> None:
    from fastretina.run import Run

    (folder / "config.json").write_bytes(content)
    run = Run(folder)
    assert run.config().as_json()
    assert run.describe_unfinished()


def run_metrics(content: bytes, folder: Path) -> None:
    from fastretina.metrics.evaluation import Evaluation
    from fastretina.run import Run, as_record

    (folder / "config.json").write_bytes(good.configs()[0])
    (folder / "metrics.json").write_bytes(content)
    run = Run(folder)
    run.result()
    as_record(run.metrics(), Evaluation, folder / "metrics.json")


def run_log(content: bytes, folder: Path) -> None:
    from fastretina.run import Run

    (folder / "log.csv").write_bytes(content)
    rows = Run(folder).log()
    assert rows
    assert all(0 <= row.wait_share <= 1 for row in rows)


def experiment(content: bytes, folder: Path) -> None:
    from fastretina.report.experiment_file import read_experiment

    (folder / "experiment.json").write_bytes(content)
    read_experiment(folder)


def experiment_settings(content: bytes, folder: Path) -> None:
    import json

    from fastretina.experiments.experiment_folder import keep_settings

    (folder / "settings.json").write_bytes(content)
    keep_settings(folder, json.loads(good.settings()[0]))


def predictions(content: bytes, folder: Path) -> None:
    from fastretina.metrics.predictions import Predictions

    (folder / "test.parquet").write_bytes(content)
    read = Predictions.load(folder / "test.parquet")
    assert read.probabilities.shape == (len(read), 5)


def flags(content: bytes, folder: Path) -> None:
    from fastretina import cli
    from fastretina.shard.command import Options

    words = content.decode(errors="surrogateescape").split("\n")
    with redirect_stdout(io.StringIO()):
        cli.parse(Options, words, prog="shard", about="", default=None)


def url(content: bytes, folder: Path) -> None:
    from loaders.place import place

    refused = mock.Mock(side_effect=ConnectionRefusedError("no network in here"))
    with mock.patch("socket.create_connection", refused):
        where = place(f"http://{content.decode(errors='surrogateescape')}")
        assert not (where / "manifest.json").exists()
        where.read_bytes(1 << 20)


def http_answer(content: bytes, folder: Path) -> None:
    from loaders.place import place

    def connect(*_: object, **__: object) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(content)
        return ours

    with mock.patch("socket.create_connection", connect):
        assert len(place("http://127.0.0.1/shards").read_bytes(1 << 20)) <= len(content)


def shard_marker(content: bytes, folder: Path) -> None:
    from fastretina.shard.writer import read_written

    (folder / "marker.json").write_bytes(content)
    task: Any = SimpleNamespace(marker=folder / "marker.json", folder=folder)
    assert read_written(task) is None  # as there is no tar


def own_notes(content: bytes, folder: Path) -> None:
    """Files that count as not there where they can't be read."""
    from fastretina.audit.split_writer import _is_ours
    from fastretina.data.auto_loader import _machines
    from fastretina.data.drawn import read_note
    from fastretina.shard.data_set import _begun

    path = folder / "note.json"
    path.write_bytes(content)
    read_note(path)
    _begun(path)
    _machines(path)
    path.rename(folder / "split.json")
    _is_ours(folder)


_JSON = (b"null", b"NaN", b"1e400", b"-1", b'"', b"[]", b"{}", b"9" * 64, b"\\ud800")
_CSV = (b'"', b'""', b"\xef\xbb\xbf", b"\0", b"\r\n", b";", b"\t", b",", b"level")
_TAR = (b"../", b"/etc/x", b"ustar\x0000", b"ustar  \0", b"x", b"L", b"2", b"S")
_JPEG = (b"\xff\xff", b"\xff\xd8", b"\xff\x01", b"\xff\xe1", b"Exif\0\0", b"\0\0\0\0")
_NAMES = good.texts("10_left\n7-right\nP01012_OS\n1_L\nRET002OD\nOD_17", "P01_OS_2")
_PATTERNS = good.texts("IM([0-9]+)", r"(?P<patient>.*)_(?P<eye>left|right)")
_FLAGS = good.texts(
    "data\nshards\n--workers\n2\n--test-share\n.3", "--verify\ns", "--help"
)
_ANSWERS = good.texts(
    "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "HTTP/1.1 301 Moved\r\nLocation: /other\r\n\r\n",
)
_HEADS = (
    b"\r\n\r\n",
    b"Location: http://[",
    b"file:///etc",
    b"-1",
    b"404",
    b"ffffffff",
)
_URLS = good.texts("127.0.0.1:8000/shards", "user:word@[::1]/a%20b?c#d", "é.example/")

# What it reads, what it may raise, files to begin with, and words to put in.
TARGETS = {
    "table-csv": Target(table_csv, (LabelError,), good.tables, _CSV),
    "course-csvs": Target(course_csvs, (LabelError,), good.course, _CSV),
    "names": Target(names, (), _NAMES, (b"left", b"_", b"1", b"OS")),
    "patient-pattern": Target(patient_pattern, (ValueError,), _PATTERNS, (b"(?P<",)),
    "foreign-tar": Target(foreign_tar, (LabelError,), good.tars, _TAR),
    "manifest": Target(manifest, (ShardError,), good.manifests, _JSON),
    "split-index": Target(split_index, (ShardError,), good.indexes),
    "photograph": Target(photograph, (Rejected,), good.photographs, _JPEG),
    "jpeg-header": Target(jpeg_header, (ValueError,), good.jpegs, _JPEG),
    "checkpoint": Target(checkpoint, (RunError,), good.checkpoints, _JSON),
    "weights": Target(weights, (DataError,), good.weights),
    "run-config": Target(run_config, (RunError,), good.configs, _JSON),
    "run-metrics": Target(run_metrics, (RunError,), good.metrics, _JSON),
    "run-log": Target(run_log, (RunError,), good.logs, _CSV),
    "experiment": Target(experiment, (RunError,), good.experiments, _JSON),
    "experiment-settings": Target(
        experiment_settings, (RunError,), good.settings, _JSON
    ),
    "predictions": Target(predictions, (RunError,), good.predictions),
    "flags": Target(flags, (ValueError,), _FLAGS, (b"--", b"=", b"1e9", b"\n")),
    "url": Target(url, (OSError,), _URLS, (b"[", b"]", b"@", b":", b"%", b"\0")),
    "http-answer": Target(http_answer, (OSError,), _ANSWERS, _HEADS),
    "shard-marker": Target(shard_marker, (), good.markers, _JSON),
    "own-notes": Target(own_notes, (), good.markers, _JSON),
}
