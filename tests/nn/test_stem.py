"""The stem over blocks: the sums of the 7 x 7 convolution, and of its gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from small_runs import small_network
from torch import Tensor, nn
from torch.nn import functional as F

from fastretina.nn import stem
from fastretina.nn.model import build_model


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(32, 32), (17, 32), (32, 21), (9, 7), (1, 2), (7, 8)])
def test_sums_and_gradients_are_those_of_the_convolution(
    size: tuple[int, int], layout: torch.memory_format
):
    images = drawn(2, 3, *size).to(memory_format=layout)
    weight = drawn(8, 3, 7, 7).to(memory_format=layout)
    found = []
    for convolve in (lambda *given: F.conv2d(*given, None, 2, 3), stem.convolve_blocks):
        inputs = [images.clone().requires_grad_(), weight.clone().requires_grad_()]
        sums = convolve(*inputs)
        sums.backward(drawn(*sums.shape))
        found.append([sums, *(each.grad for each in inputs)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_parameter_stays_where_and_what_it_is():
    network = build_model("resnet18", "none", 0)
    weight, names = network.conv1.weight, list(network.state_dict())
    layout = repr(network)
    stem.use_blocks(network)
    assert network.conv1.weight is weight
    assert list(network.state_dict()) == names
    assert repr(network) == layout.replace(
        "(conv1): Conv2d(3,", "(conv1): BlockStem(3,"
    )
    assert isinstance(copy.deepcopy(network).conv1, stem.BlockStem)


def test_blocks_are_for_compiled_graphs_of_a_resnet(monkeypatch: pytest.MonkeyPatch):
    calls = []
    convolve = stem.convolve_blocks
    monkeypatch.setattr(
        stem, "convolve_blocks", lambda *given: calls.append(1) or convolve(*given)
    )
    network = nn.Sequential()
    network.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False).double()
    images = drawn(2, 3, 33, 40)
    expected = network.conv1(images)
    stem.use_blocks(network)
    assert torch.equal(network.conv1(images), expected)
    assert not calls
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
    torch.testing.assert_close(network.conv1(images), expected, rtol=1e-12, atol=1e-12)
    assert calls
    other = small_network(5)
    stem.use_blocks(other)
    assert type(other.conv1) is nn.Conv2d


def test_compiled_graph_computes_over_blocks():
    targets: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> nn.Module:
        def spied(*given: Tensor) -> object:
            targets.extend(node.target for node in graph.graph.nodes)
            return graph(*given)

        return spied

    network = nn.Sequential()
    network.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False).double()
    images = drawn(2, 3, 33, 40)
    expected = network.conv1(images)
    stem.use_blocks(network)
    found = torch.compile(network.conv1, backend=backend)(images)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert any(name in ("permute", torch.permute) for name in targets)
