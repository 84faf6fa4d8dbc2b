"""From uint8 batches to the network's input: exact where promised, pure everywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import Normalize, ToTensor
from torchvision.transforms import functional as tv

from fastretina.nn import augment
from fastretina.nn.augment import MEAN, STD, Augment, Normaliser, normalise
from fastretina.recipe import SEED, STRONG, Recipe
from loaders.order import AUGMENT, uniform

OFF = replace(SEED, hflip=0.0, vflip=0.0)
ALL = replace(
    OFF,
    rotate=180.0,
    scale=1.15,
    translate=0.05,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
)


def batch(size: int = 6, height: int = 32, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    shape = (size, height, width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def rows(count: int = 6, first: int = 100) -> Tensor:
    return torch.arange(first, first + count)


def unit(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


def undo(normalised: Tensor) -> Tensor:
    """Back to 0..1."""
    return (
        normalised * torch.tensor(STD)[:, None, None]
        + torch.tensor(MEAN)[:, None, None]
    )


def fix_draws(monkeypatch: pytest.MonkeyPatch, *signed: float) -> None:
    """Let the draws be these, -1 to 1, for every sample: angle, zoom, x, y, ..."""
    drawn = [*signed, *[0.0] * (7 - len(signed))]

    def draws(seed: int, epoch: int, step: int, rows: Tensor) -> Tensor:
        return torch.tensor(drawn)[:, None].expand(-1, len(rows))

    monkeypatch.setattr(augment, "draws", draws)


# ---- normalise


def reference(images: Tensor) -> Tensor:
    as_torchvision = Normalize(MEAN, STD)
    return torch.stack([as_torchvision(ToTensor()(i.numpy())) for i in images])


def every_level() -> Tensor:
    levels = torch.arange(256, dtype=torch.uint8)
    return torch.stack([levels, levels.flip(0), levels.roll(9)], dim=1).view(
        1, 16, 16, 3
    )


def test_normalise_is_torchvisions_bit_for_bit():
    for images in (every_level(), batch(4)):
        found = normalise(images)
        assert found.dtype == torch.float32
        assert torch.equal(found, reference(images))


def test_normaliser_keeps_a_batch_until_the_next_but_one():
    normaliser, seen = Normaliser(), []
    for number, size in enumerate((4, 4, 2, 4, 8, 8, 3)):  # short batches, growing ones
        images = batch(size) + number
        seen.append((normaliser(images), reference(images)))
        for found, expected in seen[-2:]:
            assert torch.equal(found, expected)
    sizes = [len(found) for found, _ in seen]
    assert sizes == [4, 4, 2, 4, 8, 8, 3]


def test_normaliser_uses_two_buffers():
    normaliser = Normaliser()
    places = [normaliser(batch(4)).data_ptr() for _ in range(6)]
    assert len(set(places)) == 2
    assert places[:2] == places[2:4] == places[4:]


def test_normalise_op_by_op_is_torchvisions_bit_for_bit():
    # What a GPU does; the table is for the CPU.
    found = augment._standardise(augment._unit(every_level()))
    assert torch.equal(found, reference(every_level()))


def test_normalise_takes_views_of_a_loaders_ring():
    ring = batch(8)
    part = ring[2:5]
    assert torch.equal(normalise(part), reference(part))
    assert torch.equal(ring, batch(8))  # not written to
    columns = ring[:, :, 3:20]
    assert torch.equal(normalise(columns), reference(columns.contiguous()))


@pytest.mark.parametrize("recipe", [OFF, ALL, replace(OFF, contrast=0.3)])
def test_augment_gives_channels_last_float32(recipe: Recipe):
    found = Augment(recipe)(batch(), rows(), 0, 0)
    assert found.shape == (6, 3, 32, 32)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.isfinite(found).all()


def test_augment_switched_off_is_normalise():
    assert torch.equal(Augment(OFF)(batch(), rows(), 3, 77), normalise(batch()))


def test_augment_switched_on_changes_every_image():
    found = Augment(ALL)(batch(), rows(), 0, 0)
    plain = normalise(batch())
    assert all(not torch.equal(a, b) for a, b in zip(found, plain, strict=True))


# ---- draws


def test_augment_is_a_pure_function():
    first = Augment(ALL)(batch(), rows(), 1, 2)
    torch.rand(5)
    np.random.default_rng().random(5)
    assert torch.equal(Augment(ALL)(batch(), rows(), 1, 2), first)


@pytest.mark.parametrize("change", ["seed", "epoch", "step", "row"])
def test_augment_draws_anew_for_each(change: str):
    def run(seed: int = 0, epoch: int = 1, step: int = 2, row: int = 100) -> Tensor:
        one = Augment(replace(ALL, seed=seed))
        return one(batch(1), torch.tensor([row]), epoch, step)

    assert not torch.equal(run(), run(**{change: 9}))


def test_augment_of_a_sample_does_not_depend_on_its_batch():
    together = Augment(ALL)(batch(), rows(), 1, 2)
    for place in range(6):
        alone = Augment(ALL)(
            batch()[place : place + 1], rows()[place : place + 1], 1, 2
        )
        assert torch.equal(alone[0], together[place])
    order = [4, 1, 5]
    some = Augment(ALL)(batch()[order], rows()[order], 1, 2)
    assert torch.equal(some, together[order])


def test_augment_draws_are_uniform_over_their_range(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(
        Augment, "_warp", lambda self, unit, draws: seen.append(draws) or unit
    )
    images = torch.zeros((2000, 8, 8, 3), dtype=torch.uint8)
    Augment(replace(OFF, rotate=90.0))(images, rows(2000), 0, 0)
    (draws,) = seen
    assert draws.shape == (4, 2000)
    assert -1 <= draws.min() < -0.99
    assert 0.99 < draws.max() < 1
    assert draws.mean(dim=1).abs().max() < 0.05
    assert np.abs(np.corrcoef(draws.numpy()) - np.eye(4)).max() < 0.08


def test_draws_are_those_of_the_order_to_24_bits():
    found = augment.draws(seed=5, epoch=3, step=2**31, rows=rows(1000))
    for number in range(7):
        drawn = uniform(5, 3, rows(1000).numpy(), AUGMENT, 2**31, number)
        wanted = np.floor(drawn * 2**24) / 2**23 - 1
        assert np.array_equal(found[number].numpy(), wanted.astype(np.float32))


# ---- warps


def smooth(height: int = 33, width: int = 33) -> Tensor:
    """An image that interpolation hardly changes, without symmetry; uint8[1, ...]."""
    y, x = torch.meshgrid(
        torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij"
    )
    image = torch.stack([x, y, (x + 2 * y) / 3], dim=-1)
    return (image * 200 + 20).to(torch.uint8)[None]


@pytest.mark.parametrize("quarters", [1, 2, -1])
def test_augment_rotates_by_quarters_as_rot90(
    monkeypatch: pytest.MonkeyPatch, quarters: int
):
    fix_draws(monkeypatch, quarters / 2)
    found = undo(Augment(replace(OFF, rotate=180.0))(smooth(), rows(1), 0, 0))
    expected = torch.rot90(unit(smooth()), quarters, (2, 3))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_augment_rotates_photographs_that_are_not_square_without_shearing(
    monkeypatch: pytest.MonkeyPatch,
):
    fix_draws(monkeypatch, 0.5)  # a quarter turn
    found = undo(Augment(replace(OFF, rotate=180.0))(smooth(20, 40), rows(1), 0, 0))
    expected = torch.rot90(unit(smooth(20, 40)), 1, (2, 3))  # 40 high, 20 wide
    middle = found[:, :, :, 10:30]
    torch.testing.assert_close(middle, expected[:, :, 10:30], atol=1e-3, rtol=0)
    assert found[:, :, :, :9].abs().max() < 1e-6  # outside of the photograph


def test_augment_brings_in_black(monkeypatch: pytest.MonkeyPatch):
    fix_draws(monkeypatch, 0.0, 0.0, 1.0, 0.0)
    white = torch.full((1, 32, 32, 3), 255, dtype=torch.uint8)
    found = undo(Augment(replace(OFF, translate=0.25))(white, rows(1), 0, 0))
    assert found[..., :24].min() > 0.999
    assert found[..., 24:].abs().max() < 1e-6  # a quarter of the side


def test_augment_shifts_by_a_share_of_the_side(monkeypatch: pytest.MonkeyPatch):
    fix_draws(monkeypatch, 0.0, 0.0, 0.0, -1.0)
    images = batch(1)
    found = undo(Augment(replace(OFF, translate=0.25))(images, rows(1), 0, 0))
    expected = unit(images)[:, :, :24]
    torch.testing.assert_close(found[:, :, 8:], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("draw", [-1.0, 1.0])
def test_augment_zooms_by_the_scale_either_way(
    monkeypatch: pytest.MonkeyPatch, draw: float
):
    fix_draws(monkeypatch, 0.0, draw)
    images = torch.zeros((1, 64, 64, 3), dtype=torch.uint8)
    images[:, 16:48, 16:48] = 255  # 32 pixels wide
    found = undo(Augment(replace(OFF, scale=1.25))(images, rows(1), 0, 0))
    assert found[0, 0, 32].sum().item() == pytest.approx(32 * 1.25**draw, abs=0.25)


# ---- colour


@pytest.mark.parametrize("draw", [-1.0, -0.3, 0.6, 1.0])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_augment_recolours_as_torchvision(
    monkeypatch: pytest.MonkeyPatch, name: str, draw: float
):
    place = 4 + ["brightness", "contrast", "saturation"].index(name)
    fix_draws(monkeypatch, *[0.0] * place, draw)
    recipe = replace(OFF, **{name: 0.5})  # type: ignore[arg-type]
    found = undo(Augment(recipe)(batch(), rows(), 0, 0))
    adjust = getattr(tv, f"adjust_{name}")
    expected = torch.stack([adjust(image, 1 + 0.5 * draw) for image in unit(batch())])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert found.min() > -1e-6
    assert found.max() < 1 + 1e-6


@pytest.mark.parametrize("level", [0, 255])
def test_augment_survives_black_and_white(level: int):
    images = torch.full((4, 16, 16, 3), level, dtype=torch.uint8)
    recipe = replace(ALL, brightness=1.0, contrast=1.0, saturation=1.0)
    found = Augment(recipe)(images, rows(4), 0, 0)
    assert torch.isfinite(found).all()
    assert undo(found).min() > -1e-6
    assert undo(found).max() < 1 + 1e-6


def test_augment_of_a_row_drawn_twice_in_a_batch_differs():
    recipe = replace(STRONG, balance=1.0)
    images = batch(1).expand(4, -1, -1, -1)
    twice = torch.tensor([7, 7, 9, 7])
    made = Augment(recipe)(images, twice, 0, 0)
    assert len({image.numpy().tobytes() for image in made}) == 4
    once = Augment(STRONG)(images, twice, 0, 0)
    assert torch.equal(once[0], once[1]), "without replacement, the row decides alone"


def test_augment_of_repeated_rows_does_not_depend_on_the_number_of_ranks():
    recipe = replace(STRONG, balance=1.0)
    images, twice = batch(4), torch.tensor([7, 7, 9, 7])
    whole = Augment(recipe)(images, twice, 0, 0).clone()
    for first in (0, 2):
        part = Augment(recipe)(images[first:][:2], twice[first:][:2], 0, 0, first)
        assert torch.equal(part, whole[first : first + 2])


def test_augmentation_is_one_graph_for_the_compiler():
    """A break would bring back the kernels that a GPU is to fuse."""
    eager, traced = Augment(ALL), Augment(ALL)
    traced._changed = torch.compile(  # type: ignore[method-assign]
        traced._changed, backend="eager", fullgraph=True
    )
    for step in range(2):
        given = batch(), rows(), 1, step
        assert torch.equal(traced(*given), eager(*given))


def test_mean_grey_of_one_pass_is_that_of_two_to_rounding():
    grey = augment._constants(torch.device("cpu")).grey
    ways = (
        augment._grey_mean(unit(batch()), grey, once=once) for once in (True, False)
    )
    torch.testing.assert_close(*ways, atol=1e-6, rtol=0)
