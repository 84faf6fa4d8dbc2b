"""The networks, what they start from, and what trains in which phase."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from fastretina.nn import checkpoint
from fastretina.nn.model import build_model, set_phase, weights_sha256
from fastretina.nn.weights_file import WeightsError

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    """Read-only by agreement."""
    return build_model("resnet18", "none", 0)


@pytest.fixture(scope="module")
def imagenet_like() -> State:
    """A state dict as torchvision's: 1,000 classes."""
    torch.manual_seed(5)
    return models.resnet18().state_dict()


def same(one: State, other: State, but: tuple[str, ...] = ()) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) for name in one if name not in but
    )


def count(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize(
    ("arch", "all_of_them", "head"),
    [("resnet18", 11_179_077, 2_565), ("resnet50", 23_518_277, 10_245)],
)
def test_build_model_has_the_parameters_that_the_issue_names(
    arch: str, all_of_them: int, head: int
):
    network = build_model(arch, "none", 0)
    assert count(list(network.parameters())) == all_of_them
    assert count(set_phase(network, "head", "eval")) == head
    trained = [n for n, p in network.named_parameters() if p.requires_grad]
    assert trained == ["fc.weight", "fc.bias"]
    assert count(set_phase(network, "full", "eval")) == all_of_them
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_build_model_is_channels_last(resnet18: nn.Module):
    convolutions = [p for p in resnet18.parameters() if p.dim() == 4]
    assert len(convolutions) == 20
    for weight in convolutions:
        assert weight.is_contiguous(memory_format=torch.channels_last)


def test_build_model_is_fixed_by_its_seed(resnet18: nn.Module):
    torch.rand(7)  # whatever the global generator did before
    again, other = (build_model("resnet18", "none", seed) for seed in (0, 1))
    assert same(resnet18.state_dict(), again.state_dict())
    assert not torch.equal(resnet18.fc.weight, other.fc.weight)
    assert not torch.equal(resnet18.conv1.weight, other.conv1.weight)


# ---- weights from a file


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_1000_classes_leave_the_head_as_initialised(
    suffix: str, tmp_path: Path, resnet18: nn.Module, imagenet_like: State
):
    path = tmp_path / f"some.{suffix}"
    save(imagenet_like, path)
    found = build_model("resnet18", str(path), 0).state_dict()
    head = ("fc.weight", "fc.bias")
    assert same(found, imagenet_like, but=head)
    assert all(torch.equal(found[n], resnet18.state_dict()[n]) for n in head)
    assert found["conv1.weight"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_5_classes_are_kept_whole(suffix: str, tmp_path: Path):
    state = build_model("resnet18", "none", 3).state_dict()
    path = tmp_path / f"five.{suffix}"
    save({name: value.contiguous() for name, value in state.items()}, path)
    assert same(build_model("resnet18", str(path), 0).state_dict(), state)


def test_weights_without_a_head_and_batch_counts_are_taken(
    tmp_path: Path, resnet18: nn.Module, imagenet_like: State
):
    # torchvision's files of before torch 0.4.1 count no batches.
    bare = {
        name: value
        for name, value in imagenet_like.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    save(bare, tmp_path / "bare.pth")
    found = build_model("resnet18", str(tmp_path / "bare.pth"), 0).state_dict()
    assert torch.equal(found["layer4.1.bn2.weight"], bare["layer4.1.bn2.weight"])
    assert torch.equal(found["conv1.weight"], bare["conv1.weight"])
    assert torch.equal(found["fc.weight"], resnet18.state_dict()["fc.weight"])


def test_weights_of_our_own_checkpoint_are_taken(tmp_path: Path):
    trained, average = (
        build_model("resnet18", "none", seed).state_dict() for seed in (3, 4)
    )
    tensors = checkpoint.prefixed("model", trained)
    tensors |= {"optimizer.0.momentum_buffer": torch.ones(5)}
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, tensors, {"any": 1})
    assert same(build_model("resnet18", str(path), 0).state_dict(), trained)
    tensors |= checkpoint.prefixed("ema", average)
    checkpoint.save(path, tensors, {"any": 1})
    assert same(build_model("resnet18", str(path), 0).state_dict(), average)


def test_weights_inside_a_state_dict_entry_are_taken(
    tmp_path: Path, imagenet_like: State
):
    path = tmp_path / "other.pth"
    torch.save({"epoch": 3, "state_dict": imagenet_like}, path)
    found = build_model("resnet18", str(path), 0).state_dict()
    assert torch.equal(found["conv1.weight"], imagenet_like["conv1.weight"])


def test_weights_of_another_network_are_refused(tmp_path: Path, imagenet_like: State):
    path = tmp_path / "some.pth"
    save(imagenet_like, path)
    assert refused("resnet50", path) == (
        f"{path} is of another network, resnet18, not resnet50: pass --arch resnet18, "
        "or name another file"
    )
    save(models.resnet34().state_dict(), path)
    assert refused("resnet18", path).endswith(
        "resnet34, not resnet18: name another file"
    )
    wide = imagenet_like | {"conv1.weight": torch.ones(64, 4, 7, 7)}
    save(wide, path)
    assert "99 of the 100 tensors of resnet18, and 1 others" in refused(
        "resnet18", path
    )
    lacking = {n: v for n, v in imagenet_like.items() if n != "bn1.running_mean"}
    save(lacking, path)
    assert "99 of the 100 tensors of resnet18, and 0 others" in refused(
        "resnet18", path
    )
    save(imagenet_like | {"layer9.weight": torch.ones(1)}, path)
    assert "100 of the 100 tensors" in refused("resnet18", path)
    assert "and 1 others" in refused("resnet18", path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "txt"])
def test_weights_that_are_rubbish_are_refused(suffix: str, tmp_path: Path):
    path = tmp_path / f"rubbish.{suffix}"
    for content in (b"", b"no weights at all", bytes(range(256)) * 8):
        path.write_bytes(content)
        assert "holds no weights" in refused("resnet18", path)


def test_weights_that_are_no_weights_are_called_what_they_are(
    tmp_path: Path, imagenet_like: State
):
    """Never by what torch or safetensors say of it."""
    whole = tmp_path / "whole.pth"
    torch.save(imagenet_like, whole)
    content = whole.read_bytes()
    torch.save(models.resnet18(), tmp_path / "module.pth")
    module = (tmp_path / "module.pth").read_bytes()
    for name, held, text in (
        ("README.md", b"# Weights\nare elsewhere\n", "is a text, and holds no weights"),
        ("page.pth", b"<!DOCTYPE html><html>404</html>", "is a web page, and holds no"),
        ("page.safetensors", b"\n<html>404</html>", "is a web page, and holds no"),
        ("empty.pth", b"", "is empty, and holds no weights"),
        ("cut.pth", content[: len(content) // 2], "damaged or cut short"),
        ("cut.safetensors", (10**6).to_bytes(8, "little") + b"{", "cut short"),
        ("net.pth", module, "save a network's state_dict()"),
    ):
        path = tmp_path / name
        path.write_bytes(held)
        message = refused("resnet18", path)
        assert message.startswith(f"{path} ")
        assert text in message
        assert not any(word in message for word in ("pickle", "header", "PyTorch"))
    (tmp_path / "config.json").touch()
    assert f"name {tmp_path / 'weights.safetensors'}" in refused("resnet18", tmp_path)


def test_weights_that_are_something_else_are_refused(tmp_path: Path):
    path = tmp_path / "list.pth"
    for thing in ([1, 2], {"a": 1}, torch.ones(3)):
        torch.save(thing, path)
        assert "but something else" in refused("resnet18", path)


def test_weights_that_are_missing_are_refused(tmp_path: Path):
    assert "No such file" in refused("resnet18", tmp_path / "none.pth")
    assert "is a folder" in refused("resnet18", tmp_path)


def test_weights_whose_hash_is_not_in_their_name_are_refused(
    tmp_path: Path, imagenet_like: State
):
    path = tmp_path / "resnet18-deadbeef.pth"
    save(imagenet_like, path)
    message = refused("resnet18", path)
    assert f"{path} is damaged" in message
    assert "deadbeef" in message
    right = path.rename(tmp_path / f"resnet18-{digest(path)[:8]}.pth")
    build_model("resnet18", str(right), 0)


# ---- imagenet


@pytest.fixture
def cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imagenet_like: State
) -> Callable[[], Path]:
    """No network; returns a function that fills torch's cache with true weights."""

    def offline(*_args: object, **_named: object) -> None:
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr("fastretina.nn.model.urlopen", offline)
    monkeypatch.setattr("torch.hub.urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "hub" / "checkpoints"

    def fill() -> Path:
        folder.mkdir(parents=True)
        save(imagenet_like, folder / "new.pth")
        name = f"resnet18-{digest(folder / 'new.pth')[:8]}.pth"
        url = f"https://example.org/models/{name}"
        monkeypatch.setattr(
            "fastretina.nn.model.IMAGENET", {"resnet18": SimpleNamespace(url=url)}
        )
        return (folder / "new.pth").rename(folder / name)

    return fill


def test_imagenet_offline_says_what_to_put_where(
    cache: Callable[[], Path], tmp_path: Path
):
    message = refused("resnet18", "imagenet")
    name = "resnet18-f37072fd.pth"
    assert f"https://download.pytorch.org/models/{name}" in message
    assert str(tmp_path / "home" / "hub" / "checkpoints" / name) in message
    assert "Temporary failure in name resolution" in message


def test_imagenet_is_taken_from_torchs_cache(
    cache: Callable[[], Path], imagenet_like: State
):
    cache()
    found = build_model("resnet18", "imagenet", 0).state_dict()
    assert same(found, imagenet_like, but=("fc.weight", "fc.bias"))


def test_imagenet_checks_the_cached_file_too(cache: Callable[[], Path]):
    path = cache()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert f"{path} is damaged" in refused("resnet18", "imagenet")
    path.write_bytes(content[: len(content) // 2])
    assert f"{path} is damaged" in refused("resnet18", "imagenet")


# ---- phases


@pytest.fixture
def small() -> nn.Module:
    """A backbone of two BatchNorms; random statistics would hide an update."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    )
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flat", nn.Flatten())
    network.add_module("fc", nn.Linear(4, 5))
    return network


def moved(network: nn.Module, phase: str, batchnorm: str) -> tuple[bool, bool]:
    """Whether a forward pass after an evaluation moves statistics: any, all."""
    set_phase(network, phase, batchnorm)  # type: ignore[arg-type]
    network.eval()
    network(torch.rand(4, 3, 8, 8))
    set_phase(network, phase, batchnorm)  # type: ignore[arg-type]
    before = {n: b.clone() for n, b in network.named_buffers()}
    network(torch.rand(4, 3, 8, 8) + 1)
    changes = [not torch.equal(before[n], b) for n, b in network.named_buffers()]
    assert len(changes) == 6
    return any(changes), all(changes)


@pytest.mark.parametrize(
    ("phase", "batchnorm", "moves"),
    [
        ("head", "eval", False),
        ("head", "train", True),
        ("full", "eval", True),
        ("full", "train", True),
    ],
)
def test_set_phase_decides_whether_batchnorm_moves(
    small: nn.Module, phase: str, batchnorm: str, moves: bool
):
    assert moved(small, phase, batchnorm) == (moves, moves)


def test_set_phase_full_after_head_frees_batchnorm_again(small: nn.Module):
    assert moved(small, "head", "eval") == (False, False)
    assert moved(small, "full", "eval") == (True, True)


def test_set_phase_leaves_the_weights_alone(small: nn.Module):
    before = weights_sha256(small.state_dict())
    for phase in ("head", "full"):
        set_phase(small, phase, "eval")  # type: ignore[arg-type]
    assert weights_sha256(small.state_dict()) == before


# ---- fingerprints


def test_weights_sha256_sees_names_shapes_types_and_bytes():
    base = {"a": torch.arange(6.0), "b": torch.ones(2)}
    changed = [
        {"a": torch.arange(6.0), "c": torch.ones(2)},
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)},
        {"a": torch.arange(6, dtype=torch.float64), "b": torch.ones(2)},
        {"a": torch.arange(6.0), "b": torch.tensor([1, 1 + 2**-23])},
        {"a": torch.arange(6.0)},
    ]
    found = {weights_sha256(state) for state in [base, *changed]}
    assert len(found) == 6
    assert weights_sha256(dict(reversed(base.items()))) == weights_sha256(base)


def test_weights_sha256_is_the_same_in_any_memory_format():
    image = torch.rand(2, 3, 4, 4)
    other = image.to(memory_format=torch.channels_last)
    assert weights_sha256({"a": image}) == weights_sha256({"a": other})


def save(state: State, path: Path) -> None:
    if path.suffix == ".safetensors":
        save_file({n: v.contiguous() for n, v in state.items()}, path)
    else:
        torch.save(state, path)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refused(arch: str, weights: Path | str) -> str:
    with pytest.raises(WeightsError) as caught:
        build_model(arch, str(weights), 0)
    message = str(caught.value)
    assert "\n" not in message
    return message
