"""Drawn signs of diabetic retinopathy: their kinds and numbers follow the grade.

Everything is drawn as opacity, ``uint8[S, S]``, in the frame of a left eye and blended
into the *detail* of a fundus: the photograph divided by its own smooth colour, in bytes
where ``UNIT`` is plain retina. So a lesion takes on the light and pigment of its eye.

Lengths are in half frames: the image spans -1 to 1, and 1/256 is a pixel at 512x512.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastretina.demo.canvas import PIXEL, Canvas, blobs, rays, turned, wander

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

BLOOD = (0.54, 0.24, 0.30)  # what a lesion makes of plain retina (R, G, B)
DEEP_BLOOD = (0.42, 0.17, 0.24)
EXUDATE = (1.50, 2.20, 1.55)
COTTON_WOOL = (1.30, 1.75, 2.00)
SCAR = (1.12, 1.55, 1.55)
SCAR_PIGMENT = (0.40, 0.45, 0.60)


@dataclass(frozen=True, kw_only=True, slots=True)
class Eye:
    """Where the landmarks of a posed left eye lie, in half frames."""

    disc: Array  # float64[2], its centre
    disc_radius: float
    fovea: Array  # float64[2]
    veins: tuple[Array, ...]  # float64[N, 2] each: the arcades, from the disc outwards
    reach: float  # the visible fundus is a circle of this radius about 0 ...
    height: float  # ... cut off above and below at this height


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


def draw_lesions(detail: Array, eye: Eye, grade: int, rng: np.random.Generator) -> None:
    """Draw the lesions of ``grade`` into ``detail``, ``uint8[S, S, 3]``, in place."""
    if grade == 0:
        return
    canvas = Canvas(detail, rng)
    burden = BURDEN[grade]
    if grade == 4:
        _laser_scars(canvas, eye, rng)
    _cotton_wool(canvas, eye, _count(rng, burden.cotton_wool), rng)
    _blood(canvas, eye, burden, rng)
    _exudates(canvas, eye, _count(rng, burden.exudate_clusters), rng)
    if grade == 4:
        _neovessels(canvas, eye, _count(rng, burden.neovessels), rng)
        _proliferative_blood(canvas, eye, rng)


def _count(rng: np.random.Generator, limits: tuple[int, int]) -> int:
    return int(rng.integers(limits[0], limits[1] + 1))


def _inside(eye: Eye, places: Array, share: float = 0.93) -> Array:
    """Which places, ``float64[..., 2]``, show retina other than the disc."""
    good = np.linalg.norm(places, axis=-1) < share * eye.reach
    good &= np.abs(places[..., 1]) < share * eye.height
    good &= np.abs(places).max(-1) < 0.97
    good &= np.linalg.norm(places - eye.disc, axis=-1) > 1.35 * eye.disc_radius
    return np.asarray(good)


def _places(
    eye: Eye,
    count: int,
    rng: np.random.Generator,
    *,
    inner: float = 0.0,
    clear_fovea: float = 0.05,
) -> Array:
    """Places inside the fundus, off disc and fovea: ``float64[count, 2]``.

    Their angles are stratified, so that many lesions reach all four quadrants.
    """
    tries = 30  # far more than it takes: about one place in ten is refused
    sector = np.arange(count) + rng.random((tries, count))
    turn = rng.random() + sector / max(1, count)
    radius = np.sqrt(rng.uniform(inner**2, 0.92**2, (tries, count))) * eye.reach
    places = rays(2 * np.pi * turn) * radius[..., None]
    good = _inside(eye, places)
    good &= np.linalg.norm(places - eye.fovea, axis=-1) > clear_fovea
    found: Array = places[good.argmax(0), np.arange(count)][good.any(0)]
    return found


def _blood(canvas: Canvas, eye: Eye, burden: Burden, rng: np.random.Generator) -> None:
    layer = canvas.layer()
    for index in rng.permutation(len(eye.veins))[: _count(rng, burden.beaded_veins)]:
        _bead(canvas, layer, eye.veins[index], rng)
    for place in _places(eye, _count(rng, burden.irma), rng, inner=0.25):
        for _ in range(3):
            path = wander(place, rng.uniform(0, 6.3), 0.13, rng, curl=0.5)
            canvas.stroke(layer, path, 0.5, 1.0)
    for place in _places(eye, _count(rng, burden.flames), rng, inner=0.15):
        _flame(canvas, layer, eye, place, rng)
    canvas.tint(layer, BLOOD, 1.0 * PIXEL)
    layer = canvas.layer()
    places = _places(eye, _count(rng, burden.blots), rng, clear_fovea=0.12)
    radius = np.clip(rng.lognormal(1.6, 0.3, len(places)), 3.2, 11) * PIXEL
    outlines = blobs(places, radius, rng, stretch=(1.0, 1.7))
    canvas.fill(layer, outlines, rng.uniform(0.55, 1.0, len(places)))
    places = _places(eye, _count(rng, burden.dots), rng)
    radius = rng.uniform(1.8, 3.6, len(places)) * PIXEL
    canvas.fill(layer, blobs(places, radius, rng), rng.uniform(0.55, 1.0, len(places)))
    canvas.tint(layer, BLOOD, 1.3 * PIXEL)
    _microaneurysms(canvas, eye, _count(rng, burden.microaneurysms), rng)


def _microaneurysms(
    canvas: Canvas, eye: Eye, count: int, rng: np.random.Generator
) -> None:
    """Small round dots; most lie at the posterior pole, about the fovea."""
    places = _places(eye, count, rng)
    near = eye.fovea + rng.normal(0, 0.22, places.shape)
    pole = _inside(eye, near) & (rng.random(len(places)) < 0.6)
    places = np.where(pole[:, None], near, places)
    radius = rng.uniform(1.3, 2.2, len(places)) * PIXEL
    outlines = blobs(places, radius, rng, rough=0.06, stretch=(1.0, 1.2))
    layer = canvas.layer()
    canvas.fill(layer, outlines, rng.uniform(0.6, 1.0, len(places)))
    canvas.tint(layer, BLOOD, 0.8 * PIXEL)


def _flame(
    canvas: Canvas, layer: Array, eye: Eye, place: Array, rng: np.random.Generator
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


def _exudates(canvas: Canvas, eye: Eye, count: int, rng: np.random.Generator) -> None:
    """Sharp-edged yellow deposits, in clusters and rings near the macula.

    Most are specks; a few run together into plaques.
    """
    layer = canvas.layer()
    for _ in range(count):
        centre = eye.fovea + rng.uniform(0.12, 0.5) * rays(rng.uniform(0, 2 * np.pi))
        spots = int(rng.integers(18, 55))
        places = _ring(spots, rng) if rng.random() < 0.4 else _cluster(spots, rng)
        places = places + centre
        places = places[_inside(eye, places)]
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
    canvas: Canvas, eye: Eye, count: int, rng: np.random.Generator
) -> None:
    """Pale, fluffy patches near the arcades; each is a few overlapping puffs."""
    layer = canvas.layer()
    for place in _places(eye, count, rng, inner=0.3, clear_fovea=0.25):
        puffs = int(rng.integers(3, 7))
        centres = place + rng.normal(0, 5 * PIXEL, (puffs, 2))
        radius = rng.uniform(3, 8, puffs) * PIXEL
        opacity = rng.uniform(0.5, 0.95, puffs)
        canvas.fill(layer, blobs(centres, radius, rng, rough=0.25), opacity)
    canvas.tint(layer, COTTON_WOOL, 2.2 * PIXEL)


def _neovessels(canvas: Canvas, eye: Eye, count: int, rng: np.random.Generator) -> None:
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


def _proliferative_blood(canvas: Canvas, eye: Eye, rng: np.random.Generator) -> None:
    """Blood before the retina, most often in two of three eyes, or in the vitreous."""
    pools = int(rng.choice([0, 1, 2], p=[0.25, 0.5, 0.25]))
    layer = canvas.layer()
    for place in _places(eye, pools, rng, inner=0.2, clear_fovea=0.15):
        pool = _boat(rng) if rng.random() < 0.55 else _spill(rng)
        opacity = rng.uniform(0.85, 1.0, len(pool))
        canvas.fill(layer, pool + 0.85 * place, opacity)
    canvas.tint(layer, DEEP_BLOOD, 2.2 * PIXEL)
    if pools == 0 or rng.random() < 0.3:
        layer = canvas.layer()
        places = _places(eye, int(rng.integers(2, 5)), rng, inner=0.2)
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


def _laser_scars(canvas: Canvas, eye: Eye, rng: np.random.Generator) -> None:
    """Round pale burns in the periphery, some with pigment in them."""
    if rng.random() < 0.45:
        return
    far = rng.uniform(0.5, 0.68)
    places = _places(eye, int(rng.integers(30, 90)), rng, inner=far)
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
