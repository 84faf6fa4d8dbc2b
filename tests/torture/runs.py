"""Run folders of strangers: each file mutated, and read by every command that does.

A command ends with 0, or with 1 and one line that names a file of the run. Nothing in
it is run, nothing outside of it is written, and a checkpoint that is taken is whole.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from torture.campaign import Case, Counts, Fault
from torture.deadline import in_time
from torture.odd_values import Bait, Rng, baits, odd_bytes, odd_json, pick

SECONDS = 30  # for a command; most take less than one
FILES = (
    *("config.json", "metrics.json", "log.csv", "test.parquet", "validation.parquet"),
    *("last.safetensors", "weights.safetensors"),
)


@dataclass(frozen=True)
class Ended:
    """What a command has ended with."""

    code: int
    out: str
    err: str


class Runs:
    """Each case mutates one file of a small finished run."""

    name, share, least, in_tests = "runs", 5.0, 600, 6

    def __init__(self) -> None:
        self._patch = pytest.MonkeyPatch()

    def prepare(self, folder: Path) -> None:
        from conftest import course_folder
        from report_pages import write_experiment
        from small_runs import make_small, words

        from fastretina.shard import command as shard
        from fastretina.train import command as train

        make_small(self._patch)
        self._patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        course, self._shards = course_folder(folder / "course", 120), folder / "shards"
        self._photo = next((course / "data").glob("*.jpeg"))
        self._run = folder / "run"
        flags = words(self._shards, self._run, "--loader", "turbo", "--validation", 0.4)
        with quiet():
            assert shard.main([str(course), str(self._shards), "--workers", "1"]) == 0
            assert train.main(flags) == 0
        weights = {
            name.removeprefix("model."): tensor
            for name, tensor in load_file(self._run / "last.safetensors").items()
            if name.startswith("model.")
        }
        self._weights = {
            ".pth": folder / "good.pth",
            ".safetensors": folder / "good.st",
        }
        torch.save(weights, self._weights[".pth"])
        save_file(weights, self._weights[".safetensors"])
        (folder / "reported" / "figures").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "reported" / "figures" / "speed.png")
        self._experiment = write_experiment(folder / "experiment", folder / "reported")
        self._answer = _run(self._predict(self._run)).out.splitlines()[:2]

    def run(self, case: Case) -> Counts:
        rng, self._bait = case.rng(), case.folder / "bait"
        counts = {"ended well": 0, "refused": 0}
        kind = rng.random()
        if kind < 0.2:
            file, commands = self._mutated_weights(rng, case.folder)
        elif kind < 0.35:
            file, commands = self._mutated_experiment(rng, case.folder)
        else:
            file, commands = self._mutated_run(rng, case.folder)
        for name, command in commands.items():
            ended = _run(command)
            what = f"{name}, {file.name}"
            counts["refused" if ended.code else "ended well"] += 1
            _check(what, ended, case.folder)
            if self._bait.exists():
                raise Fault(f"{what}: a pickle was run")
            if (name, file.suffix) != ("predict", ".safetensors") or ended.code:
                continue
            if ended.out.splitlines()[:2] != self._answer:
                raise Fault(f"{what}: a damaged checkpoint was taken")
        return counts

    def close(self) -> None:
        self._patch.undo()

    def _predict(self, run: Path) -> Callable[[], int]:
        from fastretina.predict import command as predict

        return lambda: predict.main([str(run), str(self._photo)])

    def _mutated_run(
        self, rng: Rng, folder: Path
    ) -> tuple[Path, Mapping[str, Callable[[], int]]]:
        from fastretina.evaluate import command as evaluate
        from fastretina.report import command as report
        from fastretina.train import command as train

        run = folder / "run"
        shutil.copytree(self._run, run, symlinks=True)
        file = run / pick(rng, FILES)
        self._mutate(rng, file)
        commands: dict[str, Callable[[], int]] = {
            "predict": self._predict(run),
            "report": lambda: report.main([str(run), "--mistakes", "1"]),
            "evaluate": lambda: evaluate.main([str(run), "--loader", "turbo"]),
            "resume": lambda: train.main(["--resume", str(run)]),
        }
        readers = {
            "last.safetensors": ["resume"],
            "weights.safetensors": ["predict", "report"],
            "log.csv": ["report"],
            "test.parquet": ["report"],
            "validation.parquet": ["evaluate"],
            "metrics.json": ["report", "predict"],
        }
        chosen = readers.get(file.name, list(commands))
        if "predict" in chosen and rng.random() < 0.5:
            flags = ["--pairs", "--calibrated"]
            from fastretina.predict import command as predict

            commands["predict with all"] = lambda: predict.main(
                [str(run), str(self._photo), *flags]
            )
            chosen = [*chosen, "predict with all"]
        return file, {name: commands[name] for name in chosen}

    def _mutated_weights(
        self, rng: Rng, folder: Path
    ) -> tuple[Path, Mapping[str, Callable[[], int]]]:
        from fastretina.nn.model import build_model
        from loaders.errors import DataError

        suffix = pick(rng, list(self._weights))
        file = folder / f"weights{suffix}"
        shutil.copy(self._weights[suffix], file)
        self._mutate(rng, file)

        def read() -> int:
            try:
                build_model("resnet18", str(file), 0)
            except DataError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            return 0

        return file, {"weights": read}

    def _mutated_experiment(
        self, rng: Rng, folder: Path
    ) -> tuple[Path, Mapping[str, Callable[[], int]]]:
        from fastretina.report import command as report

        copied = folder / "experiment"
        shutil.copytree(self._experiment, copied)
        file = copied / pick(rng, ("experiment.json", "experiment.json", "bars.png"))
        self._mutate(rng, file)
        return file, {"experiment": lambda: report.main([str(copied)])}

    def _mutate(self, rng: Rng, file: Path) -> None:
        kind = rng.random()
        if kind < 0.06:
            file.unlink()
            _put_in_place(rng, file)
            return
        if kind < 0.14:
            file.write_bytes(pick(rng, baits(self._bait)))
            return
        content = file.read_bytes()
        if kind < 0.35:
            file.write_bytes(odd_bytes(rng, content))
        elif file.suffix == ".json":
            file.write_bytes(odd_json(rng, content))
        elif file.suffix == ".csv":
            file.write_bytes(_odd_log(rng, content))
        elif file.suffix == ".parquet":
            _write_odd_predictions(rng, file, self._bait)
        elif file.suffix == ".safetensors":
            file.write_bytes(_odd_tensors(rng, content))
        elif file.suffix == ".png":
            file.write_bytes(odd_bytes(rng, content))
        else:
            torch.save(_odd_state(rng, self._bait, torch.load(file)), file)


def _put_in_place(rng: Rng, file: Path) -> None:
    """Something else under a file's name."""
    kind = int(rng.integers(5))
    if kind == 0:
        file.mkdir()
    elif kind == 1:
        os.mkfifo(file)
    elif kind == 2:
        file.symlink_to(file.name)
    elif kind == 3:
        file.symlink_to("/dev/zero")
    else:
        file.touch()


def _odd_log(rng: Rng, content: bytes) -> bytes:
    rows = [line.split(",") for line in content.decode().splitlines()]
    row = rows[int(rng.integers(len(rows)))]
    cells = (
        "",
        "nan",
        "-1",
        "1e999",
        "x" * 200_000,
        '"',
        "\x00",
        "1_0",
        "é",
        "\r",
        "<b>",
    )
    row[int(rng.integers(len(row)))] = pick(rng, cells)
    if rng.random() < 0.2:
        row.append("more")
    return "\n".join(map(",".join, rows)).encode()


def _write_odd_predictions(rng: Rng, file: Path, bait: Path) -> None:
    table = pq.read_table(file)
    place = int(rng.integers(table.num_columns))
    name, number = table.column_names[place], table.num_rows
    about: dict[Any, Any] = dict(table.schema.metadata)
    kind = int(rng.integers(8))
    if kind == 0:
        table = table.drop_columns([name])
    elif kind == 1:
        about[b"fastretina"] = odd_json(rng, about[b"fastretina"])
    elif kind == 2:
        about = {}
    elif kind == 3:
        table = table.slice(0, int(rng.integers(number)))
    elif kind == 4:
        table = pa.concat_tables([table, table])
    else:
        odd: tuple[Any, ...] = (
            *(pa.nulls(number), pa.array([0] * number), pa.array([""] * number)),
            *(pa.array([-1.5] * number), pa.array([float("nan")] * number)),
            *(pa.array([2**40] * number), pa.array([[1]] * number)),
            *(pa.array([b"\xff"] * number), pa.array([9] * number, pa.int8())),
            *(pa.array(["<script>"] * number), pa.array(["a" * 10**5] * number)),
        )
        table = table.set_column(place, name, pick(rng, odd))
    if kind == 7:
        field = pa.field(
            "x",
            pa.binary(),
            metadata={
                "ARROW:extension:name": "arrow.py_extension_type",
                "ARROW:extension:metadata": pick(rng, baits(bait)),
            },
        )
        table = table.append_column(field, pa.array([b""] * number, pa.binary()))
    about[b"pandas"] = pick(rng, baits(bait))
    pq.write_table(table.replace_schema_metadata(about), file)


def _odd_tensors(rng: Rng, content: bytes) -> bytes:
    """A safetensors file whose header lies, or whose tensors are others."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    body = content[8 + length :]
    kind = int(rng.integers(6))
    if kind == 0:
        lie = pick(rng, (0, 1, length - 1, length + 1, 2**40, 2**63, 2**64 - 1, 10**8))
        return struct.pack("<Q", lie) + content[8:]
    name = pick(rng, [name for name in header if name != "__metadata__"])
    tensor = header[name]
    if kind == 1:
        tensor["shape"] = pick(rng, ([], [0], [10**12], [2**63, 2], [-1], ["1"], None))
    elif kind == 2:
        tensor["dtype"] = pick(rng, ("F64", "I8", "BOOL", "F8_E4M3", "X", "", None))
    elif kind == 3:
        first, last = tensor["data_offsets"]
        offsets = ([first + 1, last + 1], [0, 10**15], [last, first], [-1, 2], [first])
        tensor["data_offsets"] = pick(rng, offsets)
    elif kind == 4:
        about = header.get("__metadata__") or {}
        if about:
            about[pick(rng, list(about))] = pick(
                rng, ("", "{}", "[" * 10**5, "null", "1")
            )
        header["__metadata__"] = pick(rng, (about, {}, None, [], {"state": "{}"}))
    else:
        first, last = tensor["data_offsets"]
        odd = np.full((last - first) // 4 + 1, pick(rng, (np.nan, np.inf, 1e38)), "<f4")
        body = body[:first] + odd.tobytes()[: last - first] + body[last:]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def _odd_state(rng: Rng, bait: Path, state: dict[str, Any]) -> object:
    """What torch.save may put into a file of weights."""
    name = pick(rng, list(state))
    odd: tuple[Any, ...] = (
        *(Bait(bait), [Bait(bait)], torch.nn.Linear(2, 2), state[name], 7, None),
        {
            **state,
            name: torch.full_like(state[name], float("nan"), dtype=torch.float32),
        },
        *({**state, name: torch.zeros(3, 3)}, {**state, name: Bait(bait)}),
        {**state, name: torch.zeros(1).expand(10**6, 10**6)},
        *({1: state[name]}, {"state_dict": {name: None}}, {"state_dict": {}}),
        *({"a" * 10**5: state[name]}, {**state, name: torch.zeros(0)}),
        {**state, name: state[name].to_sparse()},
        *({**state, name: state[name].to(torch.complex64)}, {}),
    )
    return pick(rng, odd)


@contextlib.contextmanager
def quiet() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Nothing is printed; gives what would have been."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err


def _run(command: Callable[[], int]) -> Ended:
    threads = torch.get_num_threads()
    try:
        with quiet() as (out, err), in_time(SECONDS):
            code = command()
    finally:
        torch.set_num_threads(threads)
    return Ended(code, out.getvalue(), err.getvalue())


def _check(what: str, ended: Ended, folder: Path) -> None:
    """A failure is one line that names a file, or the folder."""
    if ended.code == 0:
        return
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    if ended.code != 1 or len(lines) != 1 or lines[0] != ended.err.splitlines()[-1]:
        raise Fault(f"{what}: exit code {ended.code}, stderr {ended.err!r}")
    if len(lines[0]) > 2000 + len(str(folder)):
        raise Fault(f"{what}: {len(lines[0]):,} letters: {lines[0][:300]}")
    if str(folder) not in lines[0]:
        raise Fault(f"{what}: no file is named: {lines[0]}")
