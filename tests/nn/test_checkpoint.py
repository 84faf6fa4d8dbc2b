"""Checkpoints: bit for bit, whole or not at all, and refused when damaged."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from small_runs import server
from torch import nn

from fastretina.nn import checkpoint
from fastretina.nn.checkpoint import (
    load,
    optimizer_tensors,
    part,
    prefixed,
    restore_optimizer,
    save,
)
from loaders.errors import RunError

STATE = {"progress": {"step": 3, "loss": 0.1 + 0.2}, "best": None, "rows": [{"a": 1}]}


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "model.conv.weight": torch.rand(4, 3, 3, 3, generator=generator).to(
            memory_format=torch.channels_last
        ),
        "model.bn.num_batches_tracked": torch.tensor(seed),
        "model.half": torch.rand(5, generator=generator).bfloat16(),
        "optimizer.0.exp_avg": torch.tensor([float("nan"), -0.0, 1e-45]),
    }


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "last.safetensors"
    save(path, tensors(), STATE)
    return path


def complaint(path: Path) -> str:
    with pytest.raises(RunError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_checkpoint_comes_back_bit_for_bit(saved: Path):
    found, state = load(saved)
    assert state == STATE
    assert found.keys() == tensors().keys()
    for name, value in tensors().items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert bits(found[name]) == bits(value), name


def test_checkpoint_that_is_torn_is_refused(saved: Path):
    whole = saved.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    cuts = [0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1]
    cuts += [(header + len(whole)) // 2, len(whole) - 1]
    for length in cuts:
        saved.write_bytes(whole[:length])
        assert "is damaged" in complaint(saved), length
    saved.write_bytes(whole + b"\x00")
    assert "is damaged" in complaint(saved)


def test_checkpoint_with_any_byte_flipped_is_refused_or_the_same(saved: Path):
    whole = saved.read_bytes()
    saved_then = load(saved)
    refused = 0
    for place in range(len(whole)):
        for bit in (0, 5):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            saved.write_bytes(damaged)
            try:
                found, state = load(saved)
            except RunError:
                refused += 1
                continue
            # JSON has bytes that mean nothing, such as the padding after it.
            assert state == saved_then[1], (place, bit)
            assert {n: bits(v) for n, v in found.items()} == {
                n: bits(v) for n, v in saved_then[0].items()
            }, (place, bit)
    assert refused > 0.95 * 2 * len(whole)


def test_checkpoint_that_is_something_else_is_refused(saved: Path):
    for content in (b"rubbish", b"\xff" * 64, bytes(8), b"PK\x03\x04" * 30):
        saved.write_bytes(content)
        assert "is damaged" in complaint(saved)
    saved.unlink()
    assert "is not there" in complaint(saved)
    saved.mkdir()
    complaint(saved)


def test_checkpoint_without_our_checksum_is_refused(tmp_path: Path):
    from safetensors.torch import save_file

    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(2)}, path)
    complaint(path)
    save_file({"a": torch.ones(2)}, path, metadata={"state": "{}"})
    complaint(path)


def test_checkpoint_that_fails_to_be_written_leaves_the_old_one(
    saved: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("loaders.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(saved, tensors(1), {})
    assert load(saved)[1] == STATE
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def _save_for_ever(path: Path) -> None:
    big = {"w": torch.arange(300_000.0)}
    for number in range(1 << 30):
        checkpoint.save(path, {"w": big["w"] + number}, {"number": number})


def test_checkpoint_survives_a_kill_at_any_moment(tmp_path: Path):
    path = tmp_path / "last.safetensors"
    seen = -1
    for delay in (0.0, 0.001, 0.003, 0.005, 0.008, 0.011, 0.013, 0.017, 0.02, 0.03):
        path.unlink(missing_ok=True)
        process = server.Process(target=_save_for_ever, args=(path,), daemon=True)
        process.start()
        while not path.exists():
            assert process.is_alive()
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        process.join()
        found, state = load(path)
        assert torch.equal(found["w"], torch.arange(300_000.0) + state["number"])
        seen = max(seen, state["number"])
    assert seen > 0  # some of the kills came after the first save


# ---- optimizers


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_optimizer_comes_back_in_its_parameters_memory_format(kind: str):
    def begin() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten()
        ).to(memory_format=torch.channels_last)
        weights = network.parameters()
        if kind == "sgd":
            return network, torch.optim.SGD(weights, 0.1, momentum=0.9, fused=True)
        return network, torch.optim.AdamW(weights, 0.1, fused=True)

    def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(2, 3, 8, 8, generator=generator)
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()

    network, optimizer = begin()
    for seed in range(3):
        step(network, optimizer, seed)
    kept = {n: v.clone().contiguous() for n, v in optimizer_tensors(optimizer).items()}
    assert {name.partition(".")[2] for name in kept} == (
        {"momentum_buffer"} if kind == "sgd" else {"step", "exp_avg", "exp_avg_sq"}
    )
    other, fresh = begin()
    other.load_state_dict(network.state_dict())
    restore_optimizer(fresh, kept)
    for parameter, entries in fresh.state.items():
        for name, value in entries.items():
            if name != "step":
                assert value.stride() == parameter.stride(), name
    for seed in range(3, 6):
        step(network, optimizer, seed)
        step(other, fresh, seed)
    for mine, its in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("name", ["2.exp_avg", "-1.exp_avg", "1000000.step"])
def test_restore_optimizer_of_more_parameters_is_refused(name: str):
    optimizer = torch.optim.AdamW(torch.nn.Linear(2, 3).parameters())
    with pytest.raises(ValueError, match="the optimizer has no parameter"):
        restore_optimizer(optimizer, {name: torch.zeros(3, 2)})


def test_restore_optimizer_without_a_first_step_is_a_new_optimizer():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], 0.1, momentum=0.9)
    assert optimizer_tensors(optimizer) == {}
    restore_optimizer(optimizer, {})
    assert not optimizer.state


def test_prefixed_and_part_are_inverse():
    one, other = {"a.b": torch.ones(1)}, {"a.b": torch.zeros(1)}
    both = prefixed("model", one) | prefixed("ema", other)
    assert part(both, "model") == one
    assert part(both, "ema") == other
    assert part(both, "mod") == {}
