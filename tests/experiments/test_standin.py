"""Stand-in weights: made by a command, and taken by the experiments."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file
from small_experiments import use_small
from small_runs import call

from fastretina.experiments import command as experiments
from fastretina.experiments.options import Options
from fastretina.nn.model import build_model

SMALL = ["--arch", "resnet18", "--images", 24, "--image-size", 64, "--epochs", 1]


def test_standin_makes_weights_that_the_table_starts_from(
    tmp_path: Path,
    shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    use_small(monkeypatch)
    out = tmp_path / "standin"
    words = ["standin", "--out", out, *SMALL, "--threads", 1]
    first = call(experiments.main, words, capsys)
    path = out / "resnet18.safetensors"
    assert first.json["files"] == {"resnet18": str(path)}
    weights = load_file(path)
    assert not [name for name in weights if name.startswith("fc.")]
    network = build_model("resnet18", str(path), seed=1).state_dict()
    for name, tensor in weights.items():
        assert (network[name].numpy() == tensor).all(), name
    untrained = build_model("resnet18", "none", seed=0).state_dict()
    assert (weights["conv1.weight"] != untrained["conv1.weight"].numpy()).any()

    (out / "resnet50.safetensors").write_bytes(b"")
    options = Options(name="table", shards=str(shards), pretrained=out, out=tmp_path)
    cells = experiments.make_plan(options, [], 64).cells
    assert cells[0].recipe.weights == str(path)
    assert cells[0].title == "ResNet18, weights of standin"

    before = path.read_bytes()
    again = call(experiments.main, words, capsys)
    assert again.json == first.json
    assert "training" not in "\n".join(again.err)  # it is there already
    assert path.read_bytes() == before
    other = call(experiments.main, [*words, "--seed", 8], capsys)
    assert other.code == 1
    assert "holds an experiment with other settings" in other.complaint


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--image-size", "32"], "--image-size must be 64 to 512, got 32"),
        (["--arch", "vgg"], "vgg"),
    ],
)
def test_standin_refuses_flags_that_cant_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], line: str
):
    words = ["standin", "--out", str(tmp_path / "out"), *flags]
    outcome = call(experiments.main, words, capsys)
    assert outcome.code == 2
    assert line in outcome.complaint
    assert not (tmp_path / "out").exists()


def test_standin_teaches_its_use(capsys: pytest.CaptureFixture[str]):
    outcome = call(experiments.main, ["standin", "--help"], capsys)
    assert outcome.code == 0
    text = " ".join("\n".join(outcome.out).split())
    assert "Example: python -m fastretina.experiments standin --out standin" in text
    assert "table --pretrained standin" in text
