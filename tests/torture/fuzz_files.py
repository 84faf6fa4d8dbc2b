"""Small good files of every kind that our own parsers read; mutations begin there."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from bench.soak import soak_shards

SEPARATOR = b"\n=====\n"  # between the files of a parser that reads two
_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\6\0\0\0\0\0\0"

Good = Callable[[], list[bytes]]


def written(write: Callable[[Any], object]) -> bytes:
    """What a function writes to a file."""
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def saved(save: Callable[[Path], object]) -> bytes:
    """What a function writes to a path."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "file")
        return (Path(folder) / "file").read_bytes()


def texts(*given: str) -> Good:
    return lambda: [text.encode() for text in given]


def course() -> list[bytes]:
    names, grades = b"10_left\n10_right.jpeg\n12_left\n", b"0\n1\n4\n"
    return [
        names + SEPARATOR + grades,
        b"\xef\xbb\xbfimage\r\n" + names + SEPARATOR + b"level\r\n" + grades,
        b'"a\nb"\n"c,d"\n\n' + SEPARATOR + b'"2"\r3\r\r',
    ]


tables = texts(
    "image,level,patient\n10_left,0,10\n10_right,1,10\n7_OD,4,\n",
    "\ufeffid_code;diagnosis;patient\r\n000c1434d8d7;2;a\r\n",
    'patient\timage\tlevel\n"a ""b"""\t"1_l.jpeg"\t3\n',
)


def tar_of(
    members: Iterable[tuple[str, bytes]], kind: int = tarfile.USTAR_FORMAT
) -> bytes:
    """A tar that ends with its two empty blocks."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        end = tar.offset
    return file.getvalue()[:end] + bytes(2 * tarfile.BLOCKSIZE)


def tars() -> list[bytes]:
    ours = [
        ("10_left.jpg", b"\xff\xd8"),
        ("10_left.cls", b"2"),
        ("10_left.json", b"{}"),
    ]
    about = json.dumps({"grade": 3, "patient": 7, "eye": "left"}).encode()
    other = [("a/1.2.jpg", b"x"), ("a/1.2.json", about), ("__x__.png", b"y")]
    return [tar_of(ours), tar_of(other, tarfile.PAX_FORMAT), tar_of([*ours, *other])]


@cache
def data_set() -> dict[str, bytes]:
    """A small one, without checksums as older versions wrote it: else these refuse."""
    with tempfile.TemporaryDirectory() as folder:
        shards = soak_shards(Path(folder), images=4)
        files = {path.name: path.read_bytes() for path in shards.iterdir()}
    about = json.loads(files["manifest.json"])
    about.pop("sha256", None)
    for split in about["splits"].values():
        split.pop("index", None)
        for shard in split["shards"]:
            shard.pop("index_sha256", None)
    files["manifest.json"] = json.dumps(about).encode()
    return files


def manifests() -> list[bytes]:
    return [data_set()["manifest.json"]]


def indexes() -> list[bytes]:
    return [data_set()["train.parquet"]]


def jpegs() -> list[bytes]:
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("RGB", {}),
        ("L", {"progressive": True}),
        ("CMYK", {}),
        ("RGB", {"exif": _EXIF}),
    ]
    return [
        written(lambda file, how=how, mode=mode: _drawn(mode).save(file, "JPEG", **how))
        for mode, how in kinds
    ]


def photographs() -> list[bytes]:
    from PIL import Image

    deep = Image.new("I;16", (9, 9), 60_000)
    return [*jpegs(), written(lambda file: deep.save(file, "PNG"))]


def _drawn(mode: str) -> Any:
    from PIL import Image

    return Image.radial_gradient("L").resize((24, 16)).convert("RGB").convert(mode)


def checkpoints() -> list[bytes]:
    import torch

    from fastretina.nn.checkpoint import save

    tensors = {"model.a": torch.zeros(2), "b": torch.ones(1)}
    return [saved(lambda path: save(path, tensors, {"epoch": 1}))]


def weights() -> list[bytes]:
    import torch

    state = {"state_dict": {"a": torch.zeros(2)}}
    return [*checkpoints(), written(lambda file: torch.save(state, file))]


def configs() -> list[bytes]:
    from fastretina.recipe import Recipe
    from fastretina.run_config import RecordedLoading, RunConfig, RunData

    config = RunConfig(
        recipe=Recipe(),
        weights="none",
        shards="shards",
        data=RunData(train=3, test=2),
        image_shape=(64, 64),
        square=True,
        loader="turbo",
        loading=RecordedLoading(loader="turbo"),
        precision="fp32",
        threads=1,
    )
    return [json.dumps(config.as_json()).encode()]


def metrics() -> list[bytes]:
    from reported_runs import predicted

    from fastretina.metrics.evaluation import evaluate
    from fastretina.run_result import RunResult

    judged = {"checkpoint": "last", "checkpoint_epoch": 1, "weights_sha256": "a"}
    result: Any = asdict(RunResult(weights="none", **judged))  # type: ignore[arg-type]
    evaluation = asdict(evaluate(predicted(20)))
    return [json.dumps({**result, **evaluation}, default=str).encode()]


def logs() -> list[bytes]:
    from fastretina.run import COLUMNS

    row = ",".join("head" if name == "phase" else "1" for name in COLUMNS)
    return [f"{','.join(COLUMNS)}\n{row}\n{row}\n".encode()]


def experiments() -> list[bytes]:
    score = {"mean": 0.5, "spread": None, "by_seed": [0.5], "interval": [0.4, 0.6]}
    cell: dict[str, object] = dict.fromkeys(("cell", "title", "group", "why"), "a")
    cell |= {"state": "done", "error": None, "parameters": 5, "seconds": 1.0}
    cell |= {"weights": None, "runs": ["a-0"], "best_on_test": None, "collapse": None}
    cell |= {"scores": {"qwk": score}, "seeds": [0]}
    about: dict[str, object] = dict.fromkeys(("experiment", "title", "about"), "a")
    about |= {"budget": "tiny", "seeds": 1, "shards": "s", "date": "2026-01-01 10:00"}
    about |= {"seconds": 1.0, "cells": [cell], "comparisons": [], "reference": None}
    return [json.dumps({**about, "figures": [], "notes": []}).encode()]


def settings() -> list[bytes]:
    cells = {"a": {"arch": "resnet18", "seed": 0}}
    about = {"experiment": "a", "shards": "s", "fingerprint": "f", "cells": cells}
    return [json.dumps(about).encode()]


def predictions() -> list[bytes]:
    from reported_runs import predicted

    return [saved(predicted(6).save)]


def markers() -> list[bytes]:
    outcome = {"name": "train-000000.tar", "samples": 1, "num_bytes": 9, "sha256": ""}
    outcome |= {"index_sha256": "", "grades": [1], "quarantined": [], "changed": {}}
    return [json.dumps({"outcome": outcome, "rows": []}).encode()]
