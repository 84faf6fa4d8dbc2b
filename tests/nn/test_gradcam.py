"""Grad-CAM: where it looks, that it is what the paper says, that it leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_runs import small_network
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from fastretina.nn.augment import normalise
from fastretina.nn.gradcam import grad_cam, overlay


def images(count: int = 3, height: int = 64, width: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    size = (count, height, width, 3)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return models.resnet18(num_classes=5).eval()


def enlarged(maps: Tensor, height: int, width: int) -> Tensor:
    """float32[B, h, w] as Grad-CAM gives it: without negative parts, 1 at most."""
    rest = maps.relu()[:, None]
    large = F.interpolate(rest, (height, width), mode="bilinear", align_corners=False)
    return (large / large.amax((2, 3), keepdim=True)).squeeze(1)


class Quadrant(nn.Module):
    """Answers by the red of one quadrant alone; grade 4 where it is bright."""

    def __init__(self, down: bool, across: bool) -> None:
        super().__init__()
        self.down, self.across = down, across
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, pixels: Tensor) -> Tensor:
        half = pixels.shape[2] // 2
        red = F.avg_pool2d(pixels[:, :1], 8).relu()
        mask = torch.zeros_like(red)
        rows = slice(half // 8, None) if self.down else slice(None, half // 8)
        columns = slice(half // 8, None) if self.across else slice(None, half // 8)
        mask[:, :, rows, columns] = 1
        score = self.pool(red * mask).flatten(1)
        return score * torch.tensor([-2.0, -1, 0, 1, 2])


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("across", [False, True])
def test_grad_cam_lies_where_the_network_looks(down: bool, across: bool):
    bright = torch.full((2, 64, 64, 3), 250, dtype=torch.uint8)
    heat = grad_cam(Quadrant(down, across).eval(), bright)
    halves = heat.reshape(2, 2, 32, 2, 32).mean((2, 4))
    assert halves[:, int(down), int(across)].min() > 0.9
    halves[:, int(down), int(across)] = 0
    assert halves.max() < 0.15  # what the enlarging smears over the edge
    assert heat[:, 8:24, 8:24].max() == (0 if down or across else 1)


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_grad_cam_of_a_resnet_equals_its_class_activation_map(
    resnet: nn.Module, size: tuple[int, int]
):
    pixels, grades = images(3, *size), torch.tensor([4, 0, 2])
    seen: list[Tensor] = []
    hook = resnet.layer4.register_forward_hook(lambda *passed: seen.append(passed[2]))
    with torch.no_grad():
        resnet(normalise(pixels))
    hook.remove()
    weights = resnet.fc.weight.detach()[grades]  # Zhou et al. 2016
    expected = enlarged(torch.einsum("bc,bchw->bhw", weights, seen[0]), *size)
    found = grad_cam(resnet, pixels, grades)
    assert found.shape == (3, *size)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.std() > 0.1


class Bent(nn.Module):
    """A head that is not linear, so that the gradient depends on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, stride=8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden, self.out = nn.Linear(4, 6), nn.Linear(6, 5)

    def features(self, pixels: Tensor) -> Tensor:
        return self.conv(pixels).tanh()

    def head(self, features: Tensor) -> Tensor:
        return self.out(self.hidden(self.pool(features).flatten(1)).tanh() ** 2)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels))


def test_grad_cam_has_the_gradient_that_finite_differences_have():
    torch.manual_seed(2)
    network, pixels = Bent().eval(), images(2, 32, 32)
    with torch.no_grad():
        exact = network.double()
        features = exact.features(normalise(pixels).double())
        base = exact.head(features)
        grades = base.argmax(1)
        weights = torch.zeros(2, 4, dtype=torch.float64)
        for channel in range(4):
            for place in np.ndindex(4, 4):
                moved = features.clone()
                moved[:, channel, place[0], place[1]] += 1e-5
                change = (exact.head(moved) - base)[torch.arange(2), grades] / 1e-5
                weights[:, channel] += change / 16
        expected = enlarged(torch.einsum("bc,bchw->bhw", weights, features), 32, 32)
    found = grad_cam(network.float(), pixels)
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=0)


def test_grad_cam_takes_the_likeliest_grade_by_default(resnet: nn.Module):
    with torch.no_grad():
        grades = resnet(normalise(images())).argmax(1)
    found = grad_cam(resnet, images())
    assert torch.equal(found, grad_cam(resnet, images(), grades))
    assert not torch.equal(found, grad_cam(resnet, images(), (grades + 1) % 5))


def test_grad_cam_of_an_image_does_not_depend_on_the_others(resnet: nn.Module):
    together = grad_cam(resnet, images())
    alone = torch.cat([grad_cam(resnet, one[None]) for one in images()])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_grad_cam_is_scaled_by_each_images_own_maximum(resnet: nn.Module, count: int):
    found = grad_cam(resnet, images(count))
    assert found.shape == (count, 64, 64)
    assert found.amin() >= 0 if count else True
    assert found.amax((1, 2)).tolist() == [1.0] * count


def test_grad_cam_is_zero_where_nothing_speaks_for_the_grade():
    black = torch.zeros((2, 64, 64, 3), dtype=torch.uint8)
    black[1, :32, :32] = 255
    found = grad_cam(Quadrant(False, False).eval(), black, torch.tensor([4, 4]))
    assert found[0].eq(0).all()  # not NaN
    assert found[1].max() == 1
    against = grad_cam(Quadrant(False, False).eval(), black, torch.tensor([0, 0]))
    assert against.eq(0).all()


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("inference", [True, False])
def test_grad_cam_leaves_nothing_behind(
    resnet: nn.Module, trains: bool, inference: bool
):
    resnet.requires_grad_(trains)
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    with torch.inference_mode(inference):
        found = grad_cam(resnet, images(), torch.tensor([1, 2, 3]))
        assert torch.is_inference_mode_enabled() == inference
    assert torch.is_grad_enabled()
    torch.testing.assert_close(
        found.clone(), grad_cam(resnet, images(), torch.tensor([1, 2, 3]))
    )
    assert not found.requires_grad
    assert not any(module._forward_pre_hooks for module in resnet.modules())
    assert not any(module._forward_hooks for module in resnet.modules())
    assert not any(module.training for module in resnet.modules())
    for parameter in resnet.parameters():
        assert parameter.grad is None
        assert parameter.requires_grad == trains
    after = resnet.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


class Broken(Quadrant):
    """Fails after its pooling, when gradients are on."""

    def forward(self, pixels: Tensor) -> Tensor:
        self.pool(pixels)
        raise RuntimeError("broken")


def test_grad_cam_leaves_no_hook_after_an_error():
    network = Broken(False, False).eval()
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="broken"):
            grad_cam(network, images())
        assert not torch.is_grad_enabled()
    assert not network.pool._forward_pre_hooks


def test_grad_cam_in_bf16_is_nearly_the_same(resnet: nn.Module):
    grades = torch.tensor([1, 2, 3])
    expected = grad_cam(resnet, images(), grades)
    with torch.autocast("cpu", torch.bfloat16):
        found = grad_cam(resnet, images(), grades)
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.02


def test_grad_cam_of_the_small_network_of_other_tests():
    torch.manual_seed(0)
    network = small_network(5).eval()
    assert grad_cam(network, images()).amax((1, 2)).tolist() == [1, 1, 1]


def test_grad_cam_refuses_what_it_cant_explain():
    with pytest.raises(ValueError, match="must be in eval mode"):
        grad_cam(small_network(5), images())
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 5)).eval()
    with pytest.raises(ValueError, match="AdaptiveAvgPool2d"):
        grad_cam(flat, images())


# ---- overlay


def test_overlay_leaves_the_photograph_where_there_is_no_heat():
    photo = images(1)[0].numpy()
    assert np.array_equal(overlay(photo, np.zeros((64, 64), np.float32)), photo)


def test_overlay_is_red_where_it_is_hot_and_the_photograph_shows_through():
    photo = np.full((64, 64, 3), 100, np.uint8)
    photo[::2] = 140
    heat = np.zeros((64, 64), np.float32)
    heat[:, 32:] = 1
    kept = photo.copy()
    found = overlay(photo, heat)
    assert found.dtype == np.uint8
    assert found.shape == photo.shape
    assert np.array_equal(photo, kept)
    red, _, blue = found[:, 32:].reshape(-1, 3).mean(axis=0)
    assert red > blue + 30
    stripes = found[::2, 32:].astype(int) - found[1::2, 32:]
    assert stripes.min() >= 15  # half of the 40 levels between the photograph's
