"""How an eye lies before the camera: turned, scaled, shifted and bent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fastretina.demo.camera import Camera
from fastretina.demo.canvas import Array
from fastretina.demo.detail import (
    CENTRE,
    DISC,
    DISC_RADIUS,
    FOVEA,
    GRID,
    LOWER_VEIN,
    MARGIN,
    RADIUS,
    UPPER_VEIN,
    base_detail,
)
from fastretina.demo.eye import PosedEye


@dataclass(frozen=True, kw_only=True, slots=True)
class Pose:
    """From image to photograph: ``matrix @ v + shift + bend(v)``, in radii."""

    matrix: Array  # float64[2, 2]
    shift: Array  # float64[2]
    bend: Array  # float32[9, 9, 2], over the frame

    def to_image(self, points: Sequence[tuple[int, int] | Array]) -> Array:
        """Pixels of the photograph to half frames: ``float64[N, 2]``."""
        goal = (np.asarray(points, np.float64).reshape(-1, 2) - CENTRE) / RADIUS
        inverse = np.linalg.inv(self.matrix)
        bend = cv2.resize(self.bend, (GRID, GRID), interpolation=cv2.INTER_CUBIC)
        source = (goal - self.shift) @ inverse.T
        for _ in range(8):  # the bend is small and smooth: this settles to a pixel
            cell = np.clip((source + 1) * (GRID / 2), 0, GRID - 1).astype(int)
            source = (goal - self.shift - bend[cell[:, 1], cell[:, 0]]) @ inverse.T
        return np.asarray(source)


def choose_pose(
    camera: Camera, person: np.random.Generator, own: np.random.Generator
) -> Pose:
    """The pose of one eye: the patient's own, and what changes from shot to shot."""
    upside_down = person.random() < 0.5
    turn = np.deg2rad(own.normal(0, 4))
    if upside_down:  # keeps the fovea a little below the disc
        turn += np.deg2rad(12)
    scale = person.uniform(0.86, 0.95) * own.uniform(0.98, 1.02) / camera.radius
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = scale * spin @ np.diag([1.0, -1.0 if upside_down else 1.0])
    shift = own.normal((-0.05, 0.0), (0.025, 0.03))
    bend = _bend(person, 0.034, 0.01) + _bend(own, 0.012, 0.005)
    # The photograph's disc lies far out: most fields show more beyond it.
    at = np.linspace(-1, 1, 9, dtype=np.float32)
    inward = np.float32(person.uniform(0.06, 0.17))
    bend[..., 0] -= inward * np.exp(-(((at + 0.74) / np.float32(0.36)) ** 2))
    return Pose(matrix=matrix, shift=np.clip(shift, -0.09, 0.07), bend=bend)


def _bend(rng: np.random.Generator, coarse: float, fine: float) -> Array:
    """A smooth random displacement, ``float32[9, 9, 2]``, in radii."""
    wide = rng.normal(0, coarse, (5, 5, 2)).astype(np.float32)
    near = rng.normal(0, fine, (9, 9, 2)).astype(np.float32)
    both = cv2.resize(wide, (9, 9), interpolation=cv2.INTER_CUBIC) + near
    return np.asarray(np.clip(both, -0.12, 0.12))


def find_landmarks(pose: Pose, camera: Camera) -> PosedEye:
    """Where the landmarks of a posed eye lie in the image."""
    scale = np.sqrt(abs(np.linalg.det(pose.matrix)))
    disc, fovea = pose.to_image([DISC, FOVEA])
    return PosedEye(
        disc=disc,
        disc_radius=DISC_RADIUS / RADIUS / float(scale),
        fovea=fovea,
        veins=(pose.to_image(UPPER_VEIN), pose.to_image(LOWER_VEIN)),
        reach=camera.radius,
        height=camera.height,
    )


def bend_detail(pose: Pose, size: int) -> Array:
    """The photograph's detail as ``pose`` sees it: ``uint8[S, S, 3]``."""
    base = base_detail(size)
    half = base.shape[0] / 2
    pixels = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    bend = cv2.resize(pose.bend, (size, size), interpolation=cv2.INTER_CUBIC)
    matrix = pose.matrix.astype(np.float32)
    scale = np.float32(half / MARGIN)
    maps = []
    for row, shift, part in zip(matrix, pose.shift, cv2.split(bend), strict=True):
        part += (row[0] * pixels)[None, :] + np.float32(shift)
        part += (row[1] * pixels)[:, None]
        part *= scale
        part += np.float32(half - 0.5)
        maps.append(part)
    return np.asarray(cv2.remap(base, maps[0], maps[1], cv2.INTER_LINEAR))
