"""The signs of grade 4, proliferative: new vessels, their blood, and laser scars."""

from __future__ import annotations

import numpy as np

from fastretina.demo.canvas import (
    BLOOD,
    PIXEL,
    Array,
    Canvas,
    blobs,
    rays,
    turned,
    wander,
)
from fastretina.demo.eye import PosedEye, choose_places

DEEP_BLOOD = (0.42, 0.17, 0.24)
SCAR = (1.12, 1.55, 1.55)
SCAR_PIGMENT = (0.40, 0.45, 0.60)


def draw_laser_scars(canvas: Canvas, eye: PosedEye, rng: np.random.Generator) -> None:
    """Round pale burns in the periphery, some with pigment in them."""
    if rng.random() < 0.45:
        return
    far = rng.uniform(0.5, 0.68)
    places = choose_places(eye, int(rng.integers(30, 90)), rng, inner=far)
    radius = rng.uniform(3.5, 7.5, len(places)) * PIXEL
    pale, pigment = canvas.layer(), canvas.layer()
    outlines = blobs(places, radius, rng, rough=0.12, stretch=(1.0, 1.3))
    canvas.fill(pale, outlines, rng.uniform(0.25, 0.85, len(places)))
    canvas.tint(pale, SCAR, 1.5 * PIXEL)
    dark = rng.random(len(places)) < 0.3
    places = places[dark] + rng.normal(0, 1.5 * PIXEL, (int(dark.sum()), 2))
    outlines = blobs(places, radius[dark] * 0.45, rng, rough=0.25)
    canvas.fill(pigment, outlines, rng.uniform(0.3, 0.8, len(places)))
    canvas.tint(pigment, SCAR_PIGMENT, 1.4 * PIXEL)


def draw_neovessels(
    canvas: Canvas, eye: PosedEye, count: int, rng: np.random.Generator
) -> None:
    """Tangles of fine new vessels: on the disc in most eyes, and on the arcades."""
    layer = canvas.layer()
    at_disc = rng.random() < 0.7
    for tangle in range(count):
        if at_disc and tangle == 0:
            root = eye.disc + rng.normal(0, 0.4 * eye.disc_radius, 2)
        else:
            vein = eye.veins[int(rng.integers(len(eye.veins)))]
            root = vein[int(rng.integers(2, len(vein) - 3))]
        heading = rng.uniform(0, 2 * np.pi)
        for _ in range(int(rng.integers(12, 22))):
            start = root + rng.normal(0, 0.015, 2)
            towards = heading + rng.normal(0, 0.9)
            path = wander(start, towards, rng.uniform(0.1, 0.34), rng, curl=0.4)
            canvas.stroke(layer, path, rng.uniform(0.3, 0.85), 1)
    canvas.tint(layer, BLOOD, 0.6 * PIXEL)


def draw_blood(canvas: Canvas, eye: PosedEye, rng: np.random.Generator) -> None:
    """Blood before the retina, most often in two of three eyes, or in the vitreous."""
    pools = int(rng.choice([0, 1, 2], p=[0.25, 0.5, 0.25]))
    layer = canvas.layer()
    for place in choose_places(eye, pools, rng, inner=0.2, clear_fovea=0.15):
        pool = _boat(rng) if rng.random() < 0.55 else _spill(rng)
        opacity = rng.uniform(0.85, 1.0, len(pool))
        canvas.fill(layer, pool + 0.85 * place, opacity)
    canvas.tint(layer, DEEP_BLOOD, 2.2 * PIXEL)
    if pools == 0 or rng.random() < 0.3:
        layer = canvas.layer()
        places = choose_places(eye, int(rng.integers(2, 5)), rng, inner=0.2)
        radius = rng.uniform(0.08, 0.2, len(places))
        outlines = blobs(places, radius, rng, rough=0.3)
        canvas.fill(layer, outlines, rng.uniform(0.35, 0.85, len(places)))
        canvas.tint(layer, DEEP_BLOOD, 0.05)


def _boat(rng: np.random.Generator) -> Array:
    """A hull of blood under a level line: ``float64[1, 30, 2]``."""
    width, depth = rng.uniform(0.11, 0.24), rng.uniform(0.09, 0.18)
    turn = np.linspace(0, np.pi, 22)
    phase = rng.uniform(0, 2 * np.pi, (3, 1))
    swell = 1 + 0.07 * np.cos(np.array([[2], [3], [5]]) * turn + phase).sum(0)
    hull = rays(turn) * (width, depth) * swell[:, None]
    top = np.linspace(-width, width, 10)[1:-1]
    level = np.stack([top, rng.normal(0, 0.005, 8)], -1)
    outline = np.concatenate([hull, level])[None]
    return turned(outline, rng.normal(0, 0.1, 1))


def _spill(rng: np.random.Generator) -> Array:
    """Larger patches run into each other: ``float64[N, 20, 2]``."""
    count = int(rng.integers(3, 7))
    radius = rng.uniform(0.03, 0.085, count)
    return blobs(rng.normal(0, 0.06, (count, 2)), radius, rng, stretch=(1.0, 2.2))
