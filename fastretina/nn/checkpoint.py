"""Checkpoints: a run's tensors and state in one safetensors file, whole or not at all.

A file appears under its name only when all of it is on disk, and carries a checksum of
its tensors and state; a torn or damaged one is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from fastretina.nn.model import weights_sha256
from loaders.errors import RunError
from loaders.files import write_atomically
from loaders.untrusted import MOST_TENSORS, parse_json, read_file

NamedTensors = dict[str, Tensor]
_NOTHING: Mapping[str, str] = MappingProxyType({})


def save(
    path: Path,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    about: Mapping[str, str] = _NOTHING,
) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old one or the new.

    Args:
        path: the file.
        tensors: by name.
        state: what ``load`` gives back beside them.
        about: metadata for other readers.
    """
    packed = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = json.dumps(state)
    metadata = {**about, "state": text, "sha256": _checksum(packed, text)}
    write_atomically(path, save_tensors(packed, metadata=metadata))


def load(path: Path) -> tuple[NamedTensors, dict[str, Any]]:
    """Read a checkpoint.

    Raises:
        RunError: it is not there, or damaged.
    """
    try:
        content = read_file(path, MOST_TENSORS)
        tensors = load_tensors(content)  # which checks the header, and its length
        about = read_metadata(content)
        state = parse_json(about["state"])
        if not isinstance(state, dict):
            raise ValueError("its state is none")
    except FileNotFoundError:
        raise RunError(f"{path} is not there: no checkpoint was saved yet") from None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(f"{path} is damaged and can't be used ({error})") from error
    if _checksum(tensors, about["state"]) != about.get("sha256"):
        raise RunError(f"{path} is damaged and can't be used (its checksum differs)")
    return tensors, state


def read_metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file; its header must have been checked.

    Raises:
        KeyError, TypeError: it has none.
        ValueError: the header is no JSON.
    """
    header: Any = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
    about: dict[str, str] = header["__metadata__"]
    return about


def _checksum(tensors: Mapping[str, Tensor], state: str) -> str:
    return hashlib.sha256(f"{weights_sha256(tensors)} {state}".encode()).hexdigest()


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> NamedTensors:
    """Tensors with ``prefix.`` before their names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def part(tensors: Mapping[str, Tensor], prefix: str) -> NamedTensors:
    """The tensors under ``prefix.``, without it."""
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> NamedTensors:
    """The tensors of an optimizer's state, by parameter number and name."""
    return {
        f"{number}.{name}": value
        for number, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: NamedTensors) -> None:
    """Put saved tensors back, each in its parameter's memory format.

    A momentum of another format than its parameter would be added up by another
    kernel, and the last bits would differ from those of a run that never stopped.

    Raises:
        ValueError: they are of more parameters than the optimizer has.
    """
    saved: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, entry = name.partition(".")
        saved.setdefault(int(number), {})[entry] = tensor
    groups = optimizer.state_dict()["param_groups"]
    known = {number for group in groups for number in group["params"]}
    if unknown := saved.keys() - known:
        raise ValueError(f"the optimizer has no parameter {min(unknown)}")
    optimizer.load_state_dict({"state": saved, "param_groups": groups})
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter).copy_(value)
