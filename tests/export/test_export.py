"""``fastretina.export``: the ONNX file computes what torch and evaluation compute."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from small_runs import Outcome, call, make_small, words
from torch import nn

from fastretina.export import command as export
from fastretina.export.onnx_file import ExportError, as_onnx, check
from fastretina.metrics.predictions import predict_split
from fastretina.nn.augment import normalise
from fastretina.nn.device import choose
from fastretina.nn.distributed import ALONE
from fastretina.nn.model import build_model
from fastretina.nn.trained import load_trained
from fastretina.run import Run
from fastretina.train import command as train
from loaders import LoaderConfig, make_loader, open_split

onnx = pytest.importorskip("onnx", reason="pip install 'fastretina[export]'")
ort = pytest.importorskip("onnxruntime", reason="pip install 'fastretina[export]'")
pytest.importorskip("onnxscript", reason="pip install 'fastretina[export]'")

Exports = Callable[..., Outcome]


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the small network in float32; tests write elsewhere."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    flags = ("--recipe", "seed", "--lr", 0.3, "--amp", "off", "--full-epochs", 4)
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        assert train.main(words(shards, folder, *flags)) == 0
    return folder


@pytest.fixture
def exports(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Exports:
    make_small(monkeypatch)

    def run(*flags: object) -> Outcome:
        return call(export.main, [str(flag) for flag in flags], capsys)

    return run


class Exported(NamedTuple):
    """The run's export with no flag but ``--out``; read-only by agreement."""

    outcome: Outcome
    file: Path


_EXPORTED: dict[Path, Exported] = {}  # by run: an export takes seconds


@pytest.fixture
def small(run: Path, exports: Exports) -> Exported:
    if run not in _EXPORTED:
        file = run.parent / "small.onnx"
        _EXPORTED[run] = Exported(exports(run, "--out", file), file)
    return _EXPORTED[run]


def session(path: Path) -> Any:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def pixels(count: int, size: int = 64) -> np.ndarray:
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_export_equals_evaluation(run: Path, shards: Path, small: Exported):
    outcome, file = small
    compute = choose("cpu", "off")
    trained = load_trained(Run(run), compute.device)
    with (
        open_split(shards, "test") as split,
        make_loader("pil", split, "test", LoaderConfig(workers=0)) as loader,
    ):
        expected = predict_split(trained.network, split, loader, compute, ALONE)
        images = next(iter(loader.epoch(0))).images.numpy()
    logits, chances = session(file).run(None, {"images": images})
    assert np.abs(chances - expected.probabilities).max() < 1e-5
    assert chances.std(axis=0).max() > 0.01, "the network tells the images apart"
    assert logits.dtype == chances.dtype == np.float32
    found = outcome.json
    assert found["checked_on"] == "test images"
    assert found["checked_images"] == 11
    assert found["different_grades"] == 0
    assert 0 <= found["probabilities_difference"] < 1e-5
    assert found["image_shape"] == [64, 64]
    assert found["bytes"] == file.stat().st_size
    assert found["out"] == str(file)
    assert found["weights_sha256"] == trained.weights_sha256
    assert found["notice"] == "Not a medical device."
    assert outcome.err[-1] == "Not a medical device."
    assert f"{found['logits_difference']:.2g}" in outcome.out[1]
    assert "0 different grades" in outcome.out[1]


def test_export_writes_into_the_run_by_default(
    run: Path, tmp_path: Path, exports: Exports
):
    for name in ("config.json", "last.safetensors", "metrics.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    assert exports(tmp_path).json["out"] == str(tmp_path / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "last.safetensors",
        "metrics.json",
        "model.onnx",
    ]


def test_export_describes_itself(run: Path, tmp_path: Path, exports: Exports):
    file = tmp_path / "small.onnx"
    assert exports(run, "--out", file, "--opset", 20).json["opset"] == 20
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    about = {entry.key: entry.value for entry in model.metadata_props}
    trained = load_trained(Run(run), torch.device("cpu"))
    assert about["weights_sha256"] == trained.weights_sha256
    assert (about["run"], about["checkpoint"]) == ("run", "last")
    assert about["notice"] == "Not a medical device."
    assert about["grades"].startswith("0 No DR, 1 Mild")
    assert [entry.version for entry in model.opset_import] == [20]
    described = session(file)
    assert [(i.name, i.type, i.shape) for i in described.get_inputs()] == [
        ("images", "tensor(uint8)", ["batch", 64, 64, 3])
    ]
    assert [(o.name, o.type, o.shape) for o in described.get_outputs()] == [
        (name, "tensor(float)", ["batch", 5]) for name in ("logits", "probabilities")
    ]


def test_export_keeps_no_path_of_this_machine(run: Path, small: Exported):
    assert small.outcome.code == 0
    content = small.file.read_bytes()
    for path in (Path(torch.__file__).parent, Path(export.__file__).parent, run.parent):
        assert str(path).encode() not in content
    assert b"stack_trace" not in content


def test_export_gives_the_same_bytes_again(
    run: Path, small: Exported, tmp_path: Path, exports: Exports
):
    assert exports(run, "--out", tmp_path / "again.onnx").code == 0
    assert (tmp_path / "again.onnx").read_bytes() == small.file.read_bytes()


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    network = build_model("resnet18", "none", 0)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():  # BatchNorm as after training, and answers that differ
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2, generator=rng)
                module.running_var.uniform_(0.5, 1.5, generator=rng)
    return network.eval()


@pytest.fixture(scope="module")
def exported(resnet: nn.Module) -> bytes:
    return as_onnx(resnet, (64, 64), 18, {"run": "x"})


@pytest.mark.parametrize("count", [1, 2, 3, 17])
def test_export_of_a_resnet18_takes_any_batch(
    resnet: nn.Module, exported: bytes, count: int
):
    images = pixels(count)
    runtime = ort.InferenceSession(exported, providers=["CPUExecutionProvider"])
    logits, chances = runtime.run(None, {"images": images})
    with torch.inference_mode():
        expected = resnet(normalise(torch.from_numpy(images)))
    assert logits.shape == chances.shape == (count, 5)
    assert np.abs(logits - expected.numpy()).max() < 1e-4
    assert np.abs(chances - expected.softmax(1).numpy()).max() < 1e-5


@pytest.mark.parametrize(
    "images",
    [pixels(2).astype(np.float32), pixels(2).transpose(0, 3, 1, 2), pixels(2, 96)],
    ids=["float32", "channels first", "another size"],
)
def test_export_refuses_images_of_another_kind(exported: bytes, images: np.ndarray):
    runtime = ort.InferenceSession(exported, providers=["CPUExecutionProvider"])
    with pytest.raises(
        Exception, match=r"INVALID_ARGUMENT|Unexpected input|Got invalid"
    ):
        runtime.run(None, {"images": np.ascontiguousarray(images)})


def test_check_measures_the_difference(resnet: nn.Module, exported: bytes):
    found = check(exported, resnet, pixels(7))
    assert found.images == 7
    assert found.grades == 0
    assert 0 < found.logits < 1e-4
    assert found.probabilities < 1e-5


def test_check_refuses_a_file_of_other_weights(resnet: nn.Module, exported: bytes):
    other = build_model("resnet18", "none", 1).eval()
    with pytest.raises(ExportError, match=r"probabilities differ by up to 0\.\d+"):
        check(exported, other, pixels(3))


def test_check_refuses_a_network_gone_astray(exported: bytes, resnet: nn.Module):
    astray = build_model("resnet18", "none", 0).eval()
    astray.fc.bias.data[0] = torch.nan
    with pytest.raises(ExportError, match="differ by up to nan"):
        check(exported, astray, pixels(3))


def test_check_refuses_what_is_no_file(resnet: nn.Module):
    with pytest.raises(ExportError, match=r"onnxruntime .* refuses the file"):
        check(b"nothing", resnet, pixels(1))


def test_export_writes_nothing_where_the_file_differs(
    run: Path, tmp_path: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("fastretina.export.onnx_file.MEAN", (0.5, 0.5, 0.5))
    outcome = exports(run, "--out", tmp_path / "small.onnx")
    assert outcome.code == 1
    assert "does not compute what the network does" in outcome.complaint
    assert list(tmp_path.iterdir()) == []


def test_export_at_another_size(run: Path, tmp_path: Path, exports: Exports):
    file = tmp_path / "large.onnx"
    found = exports(run, "--out", file, "--image-size", 96).json
    assert found["image_shape"] == [96, 96]
    assert found["checked_on"] == "test images"
    assert session(file).run(None, {"images": pixels(2, 96)})[0].shape == (2, 5)


def test_export_without_the_shards_is_checked_on_random_pixels(
    run: Path, tmp_path: Path, exports: Exports
):
    config = json.loads((run / "config.json").read_text())
    for shards in (str(tmp_path / "gone"), "https://nowhere.invalid/shards"):
        (tmp_path / "config.json").write_text(json.dumps(config | {"shards": shards}))
        last = (run / "last.safetensors").read_bytes()
        (tmp_path / "last.safetensors").write_bytes(last)
        outcome = exports(tmp_path)
        assert outcome.json["checked_on"] == "images of random pixels"
        assert "12 images of random pixels" in outcome.out[1]


def test_export_is_checked_on_the_images_that_the_run_was_tested_on(
    run: Path, shards: Path, tmp_path: Path, exports: Exports
):
    config = json.loads((run / "config.json").read_text())
    gone = {"shards": str(tmp_path / "gone"), "test_shards": str(shards)}
    (tmp_path / "config.json").write_text(json.dumps(config | gone))
    last = (run / "last.safetensors").read_bytes()
    (tmp_path / "last.safetensors").write_bytes(last)
    found = exports(tmp_path).json
    assert (found["checked_on"], found["checked_images"]) == ("test images", 11)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_export_without_a_package_names_the_command_that_installs_it(
    run: Path,
    tmp_path: Path,
    exports: Exports,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
):
    monkeypatch.setitem(sys.modules, package, None)
    outcome = exports(run, "--out", tmp_path / "small.onnx")
    assert outcome.code == 1
    assert "pip install 'fastretina[export]'" in outcome.complaint
    assert package in outcome.complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("RUN", "--format", "torchscript"),
        ("RUN", "--opset", "17"),
        ("RUN", "--opset", "24"),
        ("RUN", "--image-size", "63"),
        ("RUN", "--out", "model.pt"),
        ("RUN", "--out", "nowhere/model.onnx"),
    ],
)
def test_export_with_flags_that_cant_be_meant_exits_2(
    exports: Exports, flags: tuple[str, ...]
):
    outcome = exports(*flags)
    assert outcome.code == 2
    assert len(outcome.err) == 1


def test_export_without_a_run_is_one_line(tmp_path: Path, exports: Exports):
    outcome = exports(tmp_path)
    assert outcome.code == 1
    assert "holds no run" in outcome.complaint
