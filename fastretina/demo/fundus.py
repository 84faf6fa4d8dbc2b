"""A made-up fundus photograph: one free photograph, bent, lit and coloured anew.

The photograph is first divided by its own smooth colour. What is left, the *detail*, is
1 on plain retina; its vessels, disc and macula are warped per patient and eye, lesions
are drawn into it, and then a new pigment, light and camera are put over it.

How an eye is posed, lit and photographed is drawn from (seed, patient, eye) before its
grade is looked at, and lesions from a stream of their own: nothing but the lesions can
tell the grade. Without lesions about 14 ms for 512x512 on one core of an EPYC (Zen 4),
with those of grade 4 twice that.
"""

from __future__ import annotations

import cv2
import numpy as np

from fastretina.demo.camera import Camera, choose_camera, photograph
from fastretina.demo.canvas import UNIT, Array
from fastretina.demo.detail import FOVEA, GRID
from fastretina.demo.lesions import draw_lesions
from fastretina.demo.pose import Pose, bend_detail, choose_pose, find_landmarks
from fastretina.demo.streams import LESIONS, PATIENT, make_generator

EYES = ("left", "right")

# Mean colours from pale to dark, tan, red and grey fundi.
PIGMENTS = np.array(
    [
        (205, 118, 62), (186, 128, 92), (150, 88, 40), (176, 74, 46),
        (112, 72, 44), (128, 104, 88), (158, 100, 76), (214, 132, 100),
    ]
)  # fmt: skip


def draw_eye(
    seed: int, patient: int, eye: str, grade: int, size: int
) -> tuple[Array, int]:
    """One fundus photograph.

    Returns:
        ``uint8[size, size, 3]`` RGB, and the JPEG quality its camera uses.
    """
    side = EYES.index(eye)
    person = make_generator(seed, patient, PATIENT)
    own = make_generator(seed, patient, side)
    camera, colour = choose_camera(person), _pigment(person)
    tone, tessellation = _tone_table(person), _tessellation(person, size)
    pose = choose_pose(camera, person, own)
    gain, veil = _light(camera, pose, colour, own)
    bent = bend_detail(pose, size)
    lesions = make_generator(seed, patient, LESIONS + side)
    draw_lesions(bent, find_landmarks(pose, camera), grade, lesions)
    detail = cv2.LUT(bent, tone)
    if tessellation is not None:
        detail *= tessellation
    detail *= _upscale(gain, size)
    detail += _upscale(veil, size)
    image = cv2.convertScaleAbs(detail)
    if side:
        image = cv2.flip(image, 1)
    return photograph(image, camera, own), int(own.integers(85, 96))


def _pigment(person: np.random.Generator) -> Array:
    """A mean colour, ``float32[3]``, between those of the table."""
    mix = person.dirichlet(np.full(len(PIGMENTS), 0.3))
    jitter = np.exp(person.normal(0, (0.06, 0.08, 0.1)))
    red, green, blue = mix @ PIGMENTS * jitter
    green = min(green, 0.78 * red)  # no fundus is green or violet
    return np.array((red, green, min(blue, 0.82 * green)), np.float32)


def _tone_table(person: np.random.Generator) -> Array:
    """From the detail's bytes to detail: ``float32[256, 1, 3]``.

    Vessels (below 1) and disc (above) get a contrast of their own per patient.
    """
    vessels = person.uniform(0.75, 1.25)
    disc = person.uniform(0.7, 1.0) * np.array([1.25, 0.85, 0.9])
    value = np.arange(256)[:, None] / UNIT
    table = np.where(value < 1, value**vessels, value**disc)
    return table.astype(np.float32).reshape(256, 1, 3)


def _tessellation(person: np.random.Generator, size: int) -> Array | None:
    """The choroid's vessels shining through, in one patient of three."""
    strength = person.uniform(-0.18, 0.09)
    waves: Array = person.standard_normal((30, 44)).astype(np.float32)
    if strength < 0:
        return None
    half = max(64, size // 2)
    waves = cv2.resize(waves, (half, half), interpolation=cv2.INTER_CUBIC)
    lines = cv2.exp(-3 * waves * waves) - np.float32(0.5)
    lines = cv2.resize(lines, (size, size), interpolation=cv2.INTER_LINEAR)
    weights = np.array([0.8, 1.0, 0.6], np.float32) * np.float32(strength)
    return np.asarray(1 + lines[..., None] * weights)


def _light(
    camera: Camera, pose: Pose, colour: Array, own: np.random.Generator
) -> tuple[Array, Array]:
    """Gain and veil, ``float32[64, 64, 3]`` each: image = detail * gain + veil."""
    axis = np.linspace(-1, 1, GRID)
    x, y = np.meshgrid(axis, axis)
    aim = own.normal(0, 0.12, 2)
    far = np.hypot(x - aim[0], y - aim[1]) / camera.radius
    light = 1.08 - own.uniform(0.08, 0.5) * far ** own.uniform(1.6, 3.0)
    light *= 1 + own.normal(0, 0.1) * x + own.normal(0, 0.1) * y
    fovea = pose.to_image([FOVEA])[0]
    near = np.exp(-((x - fovea[0]) ** 2 + (y - fovea[1]) ** 2) / own.uniform(0.04, 0.2))
    light *= 1 - max(0.0, own.uniform(-0.3, 0.4)) * near
    mottle = cv2.resize(own.normal(0, 0.03, (24, 24)), (GRID, GRID))
    light = np.clip(light * (1 + mottle), 0.05, None) * np.exp(own.normal(0.05, 0.24))
    tint = np.exp(own.normal(0, 0.04, 3))
    haze = max(0.0, own.uniform(-0.8, 0.35))
    gain = light[..., None] * (colour * tint * (1 - haze))
    veil = haze * light[..., None] * (0.6 * colour + (50, 52, 50))
    veil = veil + _rim(x, y, camera, own)
    return gain.astype(np.float32), veil.astype(np.float32)


def _rim(x: Array, y: Array, camera: Camera, own: np.random.Generator) -> Array:
    """Stray light along the edge of the field, in about every second eye."""
    strength = max(0.0, own.uniform(-0.9, 1.0)) * 110
    start, towards = own.uniform(0.84, 0.95), own.uniform(0, 2 * np.pi)
    rise = np.clip((np.hypot(x, y) / camera.radius - start) / 0.12, 0, None)
    side = 0.6 + 0.4 * np.cos(np.arctan2(y, x) - towards)
    tints = np.array([(0.55, 0.85, 0.8), (0.95, 0.85, 0.55), (0.75, 0.8, 0.95)])
    tint = own.dirichlet(np.ones(3)) @ tints
    glow = strength * np.clip(side * rise**1.5, 0, 1.2)
    return np.asarray(glow[..., None] * tint)


def _upscale(grid: Array, size: int) -> Array:
    return np.asarray(cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR))
