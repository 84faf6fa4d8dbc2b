"""Drawn signs of diabetic retinopathy: their kinds and numbers follow the grade.

Everything is drawn as opacity, ``uint8[S, S]``, in the frame of a left eye and blended
into the *detail* of a fundus: the photograph divided by its own smooth colour, in bytes
where ``UNIT`` is plain retina. So a lesion takes on the light and pigment of its eye.

Lengths are in half frames: the image spans -1 to 1, and 1/256 is a pixel at 512x512.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastretina.demo import proliferation
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
from fastretina.demo.eye import PosedEye, choose_places, show_retina

EXUDATE = (1.50, 2.20, 1.55)
COTTON_WOOL = (1.30, 1.75, 2.00)


@dataclass(frozen=True, kw_only=True, slots=True)
class Burden:
    """How many lesions of each kind a grade has: the least and the most."""

    microaneurysms: tuple[int, int] = (0, 0)
    dots: tuple[int, int] = (0, 0)
    blots: tuple[int, int] = (0, 0)
    flames: tuple[int, int] = (0, 0)
    exudate_clusters: tuple[int, int] = (0, 0)
    cotton_wool: tuple[int, int] = (0, 0)
    beaded_veins: tuple[int, int] = (0, 0)
    irma: tuple[int, int] = (0, 0)
    neovessels: tuple[int, int] = (0, 0)


BURDEN = (
    Burden(),
    Burden(microaneurysms=(4, 12)),
    Burden(
        microaneurysms=(8, 20),
        dots=(5, 14),
        blots=(3, 8),
        flames=(0, 3),
        exudate_clusters=(1, 3),
        cotton_wool=(0, 2),
    ),
    Burden(
        microaneurysms=(15, 35),
        dots=(18, 34),
        blots=(20, 34),
        flames=(5, 12),
        exudate_clusters=(2, 5),
        cotton_wool=(1, 5),
        beaded_veins=(1, 2),
        irma=(2, 5),
    ),
    Burden(
        microaneurysms=(6, 20),
        dots=(5, 15),
        blots=(4, 12),
        flames=(0, 4),
        exudate_clusters=(0, 3),
        cotton_wool=(0, 3),
        beaded_veins=(0, 2),
        irma=(0, 2),
        neovessels=(2, 4),
    ),
)


def draw_lesions(
    detail: Array, eye: PosedEye, grade: int, rng: np.random.Generator
) -> None:
    """Draw the lesions of ``grade`` into ``detail``, ``uint8[S, S, 3]``, in place."""
    if grade == 0:
        return
    canvas = Canvas(detail, rng)
    burden = BURDEN[grade]
    if grade == 4:
        proliferation.draw_laser_scars(canvas, eye, rng)
    _cotton_wool(canvas, eye, _count(burden.cotton_wool, rng), rng)
    _blood(canvas, eye, burden, rng)
    _exudates(canvas, eye, _count(burden.exudate_clusters, rng), rng)
    if grade == 4:
        proliferation.draw_neovessels(canvas, eye, _count(burden.neovessels, rng), rng)
        proliferation.draw_blood(canvas, eye, rng)


def _count(limits: tuple[int, int], rng: np.random.Generator) -> int:
    return int(rng.integers(limits[0], limits[1] + 1))


def _blood(
    canvas: Canvas, eye: PosedEye, burden: Burden, rng: np.random.Generator
) -> None:
    layer = canvas.layer()
    for index in rng.permutation(len(eye.veins))[: _count(burden.beaded_veins, rng)]:
        _bead(canvas, layer, eye.veins[index], rng)
    for place in choose_places(eye, _count(burden.irma, rng), rng, inner=0.25):
        for _ in range(3):
            path = wander(place, rng.uniform(0, 6.3), 0.13, rng, curl=0.5)
            canvas.stroke(layer, path, 0.5, 1.0)
    for place in choose_places(eye, _count(burden.flames, rng), rng, inner=0.15):
        _flame(canvas, layer, eye, place, rng)
    canvas.tint(layer, BLOOD, 1.0 * PIXEL)
    layer = canvas.layer()
    places = choose_places(eye, _count(burden.blots, rng), rng, clear_fovea=0.12)
    radius = np.clip(rng.lognormal(1.6, 0.3, len(places)), 3.2, 11) * PIXEL
    outlines = blobs(places, radius, rng, stretch=(1.0, 1.7))
    canvas.fill(layer, outlines, rng.uniform(0.55, 1.0, len(places)))
    places = choose_places(eye, _count(burden.dots, rng), rng)
    radius = rng.uniform(1.8, 3.6, len(places)) * PIXEL
    canvas.fill(layer, blobs(places, radius, rng), rng.uniform(0.55, 1.0, len(places)))
    canvas.tint(layer, BLOOD, 1.3 * PIXEL)
    _microaneurysms(canvas, eye, _count(burden.microaneurysms, rng), rng)


def _microaneurysms(
    canvas: Canvas, eye: PosedEye, count: int, rng: np.random.Generator
) -> None:
    """Small round dots; most lie at the posterior pole, about the fovea."""
    places = choose_places(eye, count, rng)
    near = eye.fovea + rng.normal(0, 0.22, places.shape)
    pole = show_retina(eye, near) & (rng.random(len(places)) < 0.6)
    places = np.where(pole[:, None], near, places)
    radius = rng.uniform(1.3, 2.2, len(places)) * PIXEL
    outlines = blobs(places, radius, rng, rough=0.06, stretch=(1.0, 1.2))
    layer = canvas.layer()
    canvas.fill(layer, outlines, rng.uniform(0.6, 1.0, len(places)))
    canvas.tint(layer, BLOOD, 0.8 * PIXEL)


def _flame(
    canvas: Canvas, layer: Array, eye: PosedEye, place: Array, rng: np.random.Generator
) -> None:
    """Streaks of blood along the nerve fibres, which run away from the disc."""
    away = place - eye.disc
    streaks = int(rng.integers(4, 8))
    angle = np.arctan2(away[1], away[0]) + rng.normal(0, 0.2)
    angle = angle + rng.normal(0, 0.12, streaks)
    offsets = rng.normal(0, (6 * PIXEL, 2.5 * PIXEL), (streaks, 1, 2))
    centres = place + turned(offsets, angle)[:, 0]
    radius = rng.uniform(0.9, 2.0, streaks) * PIXEL
    outlines = blobs(centres, radius, rng, stretch=(3.5, 7.0), angle=angle)
    canvas.fill(layer, outlines, rng.uniform(0.4, 0.85, streaks))


def _bead(canvas: Canvas, layer: Array, vein: Array, rng: np.random.Generator) -> None:
    """Swellings in a row along a stretch of a vein, like sausages."""
    beads = int(rng.integers(6, 12))
    first = rng.uniform(2, 6)
    steps = first + np.cumsum(rng.uniform(0.3, 0.7, beads))
    index = np.arange(len(vein))
    centres = np.stack([np.interp(steps, index, vein[:, i]) for i in (0, 1)], -1)
    ahead = np.stack([np.interp(steps + 0.2, index, vein[:, i]) for i in (0, 1)], -1)
    along = ahead - centres
    radius = rng.uniform(1.6, 2.8, beads) * PIXEL
    angle = np.arctan2(along[:, 1], along[:, 0])
    outlines = blobs(centres, radius, rng, stretch=(1.3, 2.2), angle=angle)
    canvas.fill(layer, outlines, rng.uniform(0.3, 0.6, beads))


def _exudates(
    canvas: Canvas, eye: PosedEye, count: int, rng: np.random.Generator
) -> None:
    """Sharp-edged yellow deposits, in clusters and rings near the macula.

    Most are specks; a few run together into plaques.
    """
    layer = canvas.layer()
    for _ in range(count):
        centre = eye.fovea + rng.uniform(0.12, 0.5) * rays(rng.uniform(0, 2 * np.pi))
        spots = int(rng.integers(18, 55))
        places = _ring(spots, rng) if rng.random() < 0.4 else _cluster(spots, rng)
        places = places + centre
        places = places[show_retina(eye, places)]
        radius = np.clip(0.5 + rng.gamma(1.1, 1.1, len(places)), 0.6, 5.5) * PIXEL
        outlines = blobs(places, radius, rng, rough=0.25, stretch=(1.0, 1.8))
        opacity = np.clip(radius / PIXEL / 2.5, 0.4, 1) * rng.uniform(0.6, 1)
        canvas.fill(layer, outlines, opacity)
    canvas.tint(layer, EXUDATE, 0.6 * PIXEL)


def _ring(spots: int, rng: np.random.Generator) -> Array:
    """Most of a circle about a leaking vessel: ``float64[spots, 2]``."""
    turn = rng.uniform(0, 2 * np.pi) + rng.uniform(0, 1.6 * np.pi, spots)
    radius = rng.uniform(0.07, 0.16) + rng.normal(0, 0.014, spots)
    return np.asarray(rays(turn) * radius[:, None])


def _cluster(spots: int, rng: np.random.Generator) -> Array:
    """A clump, denser inside and longer one way: ``float64[spots, 2]``."""
    spread = rng.uniform(0.02, 0.08, 2)
    clump = rng.normal(0, 1, (1, spots, 2)) * spread
    return np.asarray(turned(clump, rng.uniform(0, np.pi, 1))[0])


def _cotton_wool(
    canvas: Canvas, eye: PosedEye, count: int, rng: np.random.Generator
) -> None:
    """Pale, fluffy patches near the arcades; each is a few overlapping puffs."""
    layer = canvas.layer()
    for place in choose_places(eye, count, rng, inner=0.3, clear_fovea=0.25):
        puffs = int(rng.integers(3, 7))
        centres = place + rng.normal(0, 5 * PIXEL, (puffs, 2))
        radius = rng.uniform(3, 8, puffs) * PIXEL
        opacity = rng.uniform(0.5, 0.95, puffs)
        canvas.fill(layer, blobs(centres, radius, rng, rough=0.25), opacity)
    canvas.tint(layer, COTTON_WOOL, 2.2 * PIXEL)
