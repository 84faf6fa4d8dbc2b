"""An eye as lesions are drawn into it: its landmarks, and places on its retina.

Lengths are in half frames: the image spans -1 to 1, and 1/256 is a pixel at 512x512.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastretina.demo.canvas import Array, rays


@dataclass(frozen=True, kw_only=True, slots=True)
class PosedEye:
    """Where the landmarks of a posed left eye lie, in half frames."""

    disc: Array  # float64[2], its centre
    disc_radius: float
    fovea: Array  # float64[2]
    veins: tuple[Array, ...]  # float64[N, 2] each: the arcades, from the disc outwards
    reach: float  # the visible fundus is a circle of this radius about 0 ...
    height: float  # ... cut off above and below at this height


def show_retina(eye: PosedEye, places: Array, share: float = 0.93) -> Array:
    """Which places, ``float64[..., 2]``, show retina other than the disc."""
    good = np.linalg.norm(places, axis=-1) < share * eye.reach
    good &= np.abs(places[..., 1]) < share * eye.height
    good &= np.abs(places).max(-1) < 0.97
    good &= np.linalg.norm(places - eye.disc, axis=-1) > 1.35 * eye.disc_radius
    return np.asarray(good)


def choose_places(
    eye: PosedEye,
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
    good = show_retina(eye, places)
    good &= np.linalg.norm(places - eye.fovea, axis=-1) > clear_fovea
    first: Array = places[good.argmax(0), np.arange(count)][good.any(0)]
    return first
