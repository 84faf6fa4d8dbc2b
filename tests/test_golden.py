"""Configurations, outputs and signatures that change only on purpose.

``pytest --update-golden`` writes ``tests/golden`` anew; its diff shows the changes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import OF_MACHINE, OF_MINUTE, OF_RELEASE, Golden, compare, steady
from small_experiments import use_small
from unhurried import never_late

from fastretina import cli
from fastretina.experiments.budget import BUDGETS
from fastretina.experiments.experiment_plans import PLANS
from fastretina.recipe import RECIPES, Recipe

COMMANDS = [*cli.COMMANDS, "experiments-standin"]


# ---- configurations


def as_json(value: object) -> str:
    """A dataclass, or several, with a line for each field."""

    def plain(part: Any) -> Any:
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            return {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
        if isinstance(part, (set, frozenset)):
            return sorted(part)
        return repr(part)

    return json.dumps(value, indent=1, default=plain, ensure_ascii=False)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str, golden: Golden) -> None:
    golden(f"recipes/{name}.json", as_json(RECIPES[name]))


@pytest.mark.parametrize("budget", ["full", "small"])
@pytest.mark.parametrize("name", PLANS)
def test_experiment(name: str, budget: str, golden: Golden) -> None:
    """For photographs of 512 pixels, split by image: as the course's."""

    def adjust(recipe: Recipe) -> Recipe:
        return BUDGETS[budget].scaled(recipe, 512)

    golden(f"experiments/{name}-{budget}.json", as_json(PLANS[name](adjust, 512, True)))


# ---- commands

TRAIN = (
    "--shards shards --weights none --recipe seed --amp off --device cpu "
    "--loader turbo --batch-size 8 --head-epochs 1 --full-epochs 1 --lr 0.05"
)
CALLS = {
    "shard-good": "shard course out/shards --samples-per-shard 10 --workers 1",
    "shard-bad": "shard course course",
    "train-good": f"train {TRAIN} --out out/run",
    "train-bad": "train --shards missing --out out/bad",
    "evaluate-good": "evaluate run --device cpu --loader turbo",
    "evaluate-bad": "evaluate missing",
    "predict-good": "predict run course/data/10_left.jpeg course/data/10_right.jpeg "
    "--device cpu",
    "predict-bad": "predict run missing.jpeg",
    "report-good": "report run --out out/report.html --mistakes 1 --device cpu",
    "report-bad": "report missing",
    "export-good": "export run --out out/model.onnx",
    "export-bad": "export run --opset 3",
    "experiments-good": "experiments strong --shards shards --budget tiny --dry-run "
    "--device cpu",
    "experiments-bad": "experiments strong --shards shards --recipe seed",
    "experiments-standin-good": "experiments standin --out out/standin --images 24 "
    "--arch resnet18 --image-size 64 --epochs 2 --device cpu --threads 1",
    "experiments-standin-bad": "experiments standin --out out/bad --seed -1",
    "audit-good": "audit course --workers 1",
    "audit-bad": "audit missing",
    "parity-good": "parity --data course --shards shards --loader turbo --workers 1",
    "parity-bad": "parity --data course --shards missing",
    "doctor-good": "doctor --shards shards --seconds 0.1 --batch-size 8 --device cpu "
    "--out out/doctor.png",
    "doctor-bad": "doctor --seconds 0",
    "demo-good": "demo out/demo --images 12 --image-size 64 --workers 1",
    "demo-bad": "demo out/demo --images 0",
    "unknown-bad": "frobnicate",
}
# A machine decides on the lines of these, and on the names in some objects.
KEYS_ONLY = {"doctor-good"}
KEYS_OF_MACHINE = {"installation", "not_measured"}
# These count, and divide counts: that is the same everywhere.
COUNTED = {"audit-good", "parity-good"}


def test_every_command_has_a_good_and_a_bad_call() -> None:
    called = {tuple(name.rsplit("-", 1)) for name in CALLS}
    assert called >= {(name, kind) for name in COMMANDS for kind in ("good", "bad")}
    for call, words in CALLS.items():
        assert call.startswith(("unknown-", words.split()[0]))


def call(words: list[str]) -> int:
    """Run a command in this process."""
    threads = torch.get_num_threads()
    try:
        return cli.main(words)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def workspace(
    course: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The current folder: ``course``, ``shards`` and a ``run`` of a small network."""
    from small_runs import make_small

    folder = tmp_path_factory.mktemp("golden")
    shutil.copytree(course, folder / "course")
    shutil.copytree(shards, folder / "shards")
    (folder / "out").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        patch.chdir(folder)
        patch.setenv("COLUMNS", "80")
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        assert call(["train", *TRAIN.split(), "--out", "run"]) == 0
        yield folder


@pytest.mark.parametrize("name", COMMANDS)
def test_help(
    name: str,
    golden: Golden,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert call([*name.split("-"), "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    golden(f"help/{name}.txt", steady(out, varying=OF_RELEASE))


def test_help_of_the_console_command(
    golden: Golden, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["--help"]) == 0
    golden("help/fastretina.txt", capsys.readouterr().out)


@pytest.mark.parametrize("name", CALLS)
def test_call(
    name: str,
    golden: Golden,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name.startswith("export"):
        pytest.importorskip("onnxscript", reason="pip install 'fastretina[export]'")
    use_small(monkeypatch)
    never_late(monkeypatch)
    words = CALLS[name].split()
    capsys.readouterr()
    code = call(words)
    out, err = capsys.readouterr()
    if name in KEYS_ONLY:
        out = "\n".join(keys(json.loads(out.splitlines()[-1]))) + "\n"
        err = ""
    places = {str(workspace): "HERE", os.path.realpath(workspace): "HERE"}
    text = f"exit code {code}\n---- stdout\n{out}---- stderr\n{err}"
    assert code == 0 if name.endswith("-good") else code in (1, 2)
    text = steady(text, places, OF_MINUTE if name in COUNTED else OF_MACHINE)
    golden(f"calls/{name}.txt", f"$ {' '.join(words)}\n{text}")


def keys(value: object, path: str = "") -> list[str]:
    """The dotted names of a JSON object, those of a list's first element too."""
    if isinstance(value, dict):
        names = []
        for name, part in value.items():
            names.append(f"{path}{name}")
            if name not in KEYS_OF_MACHINE:
                names += keys(part, f"{path}{name}.")
        return names
    return keys(value[0], path) if isinstance(value, list) and value else []


# ---- the mechanism


def test_changed_golden_fails_with_a_diff(tmp_path: Path) -> None:
    compare("a/b.txt", "one\ntwo", update=True, folder=tmp_path)
    assert (tmp_path / "a" / "b.txt").read_text() == "one\ntwo\n"
    compare("a/b.txt", "one\ntwo\n", update=False, folder=tmp_path)
    with pytest.raises(pytest.fail.Exception) as caught:
        compare("a/b.txt", "one\n2\n", update=False, folder=tmp_path)
    assert str(caught.value).splitlines() == [
        "--- golden/a/b.txt",
        "+++ now",
        "@@ -1,2 +1,2 @@",
        " one",
        "-two",
        "+2",
        "",
        "If that is meant: pytest --update-golden",
    ]
    assert (tmp_path / "a" / "b.txt").read_text() == "one\ntwo\n"


def test_missing_golden_fails_with_the_whole_text(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"(?m)^\+one$"):
        compare("b.txt", "one", update=False, folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "steadied"),
    [
        ("2,345 images/s in 1.25 s", "N images/s in TIME"),
        ('{"seconds": 1.5, "images": 37}', '{"seconds": N, "images": 37}'),
        (
            '"wall_seconds": {"total": 1.5, "data": 0}}',
            '"wall_seconds": {"total": N, "data": N}}',
        ),
        ("/tmp/x-1/run: 0.8162", "HERE/run: 0.N"),
        ("fastretina 0.1.0, torch 2.14.1+cpu", "fastretina VERSION, torch VERSION"),
        ("weights 85975224aec5 (0.3 MB)", "weights HASH (N MB)"),
        ("48 images, grade 2", "48 images, grade 2"),
    ],
)
def test_output_is_steadied(text: str, steadied: str) -> None:
    assert steady(text, {"/tmp/x-1": "HERE"}) == steadied


def test_only_what_varies_is_steadied() -> None:
    text = '0.1.0, Pillow 12.0.0: {"bytes": 3, "seconds": 0.1}, 0.8162, 72.5%, 5.0'
    assert steady(text, varying=OF_RELEASE) == text.replace("0.1.0", "VERSION")
    assert steady(text, varying=OF_MINUTE) == (
        'VERSION, Pillow VERSION: {"bytes": 3, "seconds": N}, 0.8162, 72.5%, 5.0'
    )
    for last in "678":
        sums = steady(f'"p": 0.123456789012345{last}', varying=OF_MINUTE)
        assert sums == '"p": 0.123456789'
