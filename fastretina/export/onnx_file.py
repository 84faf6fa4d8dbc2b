"""A network as ONNX bytes that normalise inside, and their comparison with torch."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fastretina.formatting import NOTICE
from fastretina.nn.augment import MEAN, STD, normalise
from loaders.arrays import Float32, UInt8
from loaders.errors import DataError
from loaders.grades import GRADES

if TYPE_CHECKING:
    from onnx import GraphProto

ALLOWED = 1e-3  # difference of a probability
BATCHES = (1, 3)  # images that the check gives at once
_TRACED = 2  # images; 1 would be taken for a constant


class ExportError(DataError):
    """A file that can't be made here, or does not compute what the network does."""


class LargestDifferences(NamedTuple):
    """The largest differences between torch and onnxruntime.

    Attributes:
        logits: the largest difference of a logit.
        probabilities: the largest difference of a probability.
        grades: number of images whose likeliest grade is another.
        images: number of images compared.
    """

    logits: float
    probabilities: float
    grades: int
    images: int


class Session(Protocol):
    """The one method of onnxruntime's InferenceSession that is needed here."""

    def run(self, outputs: list[str], inputs: dict[str, UInt8]) -> list[Float32]:
        """Compute the named outputs."""


class FromPixels(nn.Module):
    """A network that takes a loader's batch and also gives probabilities.

    Args:
        network: takes float32[B, 3, H, W], gives float32[B, 5] logits.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8[B, H, W, 3] to logits and probabilities, float32[B, 5] each."""
        unit = images.permute(0, 3, 1, 2).to(torch.float32) / 255
        logits = self.network((unit - self.mean) / self.std)
        return logits, logits.softmax(dim=1)


def require() -> None:
    """Make sure that all packages are there, before anything is computed.

    Raises:
        ExportError: one is missing; the message names the command that installs it.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _package(name)


def as_onnx(
    network: nn.Module, shape: tuple[int, int], opset: int, about: Mapping[str, str]
) -> bytes:
    """The network as one ONNX file, in float32.

    It takes ``images``, uint8[B, H, W, 3], and gives ``logits`` and ``probabilities``,
    float32[B, 5], for any B.

    Args:
        network: on the CPU, in eval mode.
        shape: H and W.
        opset: version of ONNX's operators.
        about: the file's metadata, by name.

    Raises:
        ExportError: a package is missing, or torch can't translate the network.
    """
    onnx = _package("onnx")
    _package("onnxscript")
    example = torch.zeros((_TRACED, *shape, 3), dtype=torch.uint8)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(sys.stderr),  # stdout ends with our JSON line
    ):
        warnings.simplefilter("ignore")  # of torch to its own developers
        try:
            program = torch.onnx.export(
                FromPixels(network).eval(),
                (example,),
                input_names=["images"],
                output_names=["logits", "probabilities"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = " ".join(str(error).split())
            raise ExportError(f"torch can't export the network: {reason}") from error
    assert program is not None  # as dynamo is asked for
    model = program.model_proto
    _forget_origin(model.graph)
    onnx.helper.set_model_props(model, dict(about))
    content: bytes = model.SerializeToString()
    return content


def check(content: bytes, network: nn.Module, images: UInt8) -> LargestDifferences:
    """Compare ONNX bytes with the network, on images as evaluation gives them.

    Every image is computed twice: alone, and in a batch with others.

    Args:
        content: the file, as ``as_onnx`` makes it.
        network: on the CPU, in eval mode.
        images: uint8[N, H, W, 3], N at least 1.

    Raises:
        ExportError: onnxruntime is missing or refuses the file, or a probability
            differs by more than ``ALLOWED``.
    """
    session = _session(content)
    with torch.inference_mode():
        expected = network(normalise(torch.from_numpy(images)))
        logits, probabilities = expected.numpy(), expected.softmax(dim=1).numpy()
    differences = []
    for size in BATCHES:
        parts = [
            session.run(["logits", "probabilities"], {"images": images[at : at + size]})
            for at in range(0, len(images), size)
        ]
        own, likely = (np.concatenate(part) for part in zip(*parts, strict=True))
        differences.append(
            LargestDifferences(
                logits=float(np.abs(own - logits).max()),
                probabilities=float(np.abs(likely - probabilities).max()),
                grades=int((likely.argmax(1) != probabilities.argmax(1)).sum()),
                images=len(images),
            )
        )
    worst = LargestDifferences(
        *(max(values) for values in zip(*differences, strict=True))
    )
    if not worst.probabilities <= ALLOWED:  # or NaN
        raise ExportError(
            f"the file does not compute what the network does: probabilities differ by "
            f"up to {worst.probabilities:.2g}, {ALLOWED:g} is allowed; nothing was "
            "written; try another --opset"
        )
    return worst


def metadata(run: str, checkpoint: str, weights_sha256: str) -> dict[str, str]:
    """The facts that the file carries: its run, weights, grades and input."""
    return {
        "run": run,
        "checkpoint": checkpoint,
        "weights_sha256": weights_sha256,
        "grades": ", ".join(f"{grade} {name}" for grade, name in enumerate(GRADES)),
        "images": "uint8[B, H, W, 3], RGB, not normalised",
        "notice": NOTICE,
    }


def _session(content: bytes) -> Session:
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        session: Session = runtime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # they have no common base
        reason = " ".join(str(error).split())
        raise ExportError(
            f"onnxruntime {runtime.__version__} refuses the file ({reason}); try a "
            f"lower --opset"
        ) from error
    return session


def _forget_origin(graph: GraphProto) -> None:
    """Remove the tracer's notes, which hold paths of this machine."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ExportError(
            f"--format onnx needs {error.name}, which is not installed: "
            "pip install 'fastretina[export]'"
        ) from error
    except ImportError as error:  # a wheel for another machine, or half installed
        reason = str(error).partition("\n")[0]
        raise ExportError(f"{name} can't be loaded: {reason}") from error
