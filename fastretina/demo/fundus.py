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

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import simplejpeg

from fastretina.demo.canvas import UNIT
from fastretina.demo.lesions import Eye, draw_lesions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

EYES = ("left", "right")
PATIENT, LESIONS = 2, 3  # streams of draws beside those of the two eyes

# The photograph, 1024 pixels wide; landmarks were read off it by eye.
CENTRE, RADIUS = np.array([511.5, 510.5]), 503.5
DISC, DISC_RADIUS, FOVEA = np.array([160.0, 472.0]), 74.0, np.array([515.0, 508.0])
UPPER_VEIN = (
    (150, 425), (185, 350), (220, 300), (265, 265), (310, 235), (380, 230), (470, 248),
    (520, 270), (575, 303), (630, 305), (700, 313), (760, 297), (815, 255), (870, 228),
)  # fmt: skip
LOWER_VEIN = (
    (130, 545), (150, 605), (175, 670), (205, 755), (230, 805), (285, 850), (335, 877),
    (430, 885), (500, 886), (575, 885), (655, 889), (735, 893), (800, 865), (860, 840),
)  # fmt: skip
CRESCENT = (((214, 420), (236, 496)), ((190, 546), (224, 514)))  # its own old scars

INNER, EDGE = 0.85, 0.985  # radii: stretched from here on, to stay within the edge
MARGIN = 1.3  # half width of the extended detail, in radii
GRID = 64  # light and colour are smooth: computed on 64x64, then scaled up

# Mean colours from pale to dark, tan, red and grey fundi.
PIGMENTS = np.array(
    [
        (205, 118, 62), (186, 128, 92), (150, 88, 40), (176, 74, 46),
        (112, 72, 44), (128, 104, 88), (158, 100, 76), (214, 132, 100),
    ]
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """The frame's black surround, in half frames."""

    radius: float
    height: float  # the field is cut flat above and below this
    tab: float | None  # angle of the notch that marks the upper side


@dataclass(frozen=True, kw_only=True, slots=True)
class Pose:
    """From image to photograph: ``matrix @ v + shift + bend(v)``, in radii."""

    matrix: Array  # float64[2, 2]
    shift: Array  # float64[2]
    bend: Array  # float32[9, 9, 2], over the frame

    def to_image(self, points: Sequence[Any] | Array) -> Array:
        """Pixels of the photograph to half frames: ``float64[N, 2]``."""
        goal = (np.asarray(points, np.float64).reshape(-1, 2) - CENTRE) / RADIUS
        inverse = np.linalg.inv(self.matrix)
        bend = cv2.resize(self.bend, (GRID, GRID), interpolation=cv2.INTER_CUBIC)
        found = (goal - self.shift) @ inverse.T
        for _ in range(8):  # the bend is small and smooth: this settles to a pixel
            cell = np.clip((found + 1) * (GRID / 2), 0, GRID - 1).astype(int)
            found = (goal - self.shift - bend[cell[:, 1], cell[:, 0]]) @ inverse.T
        return np.asarray(found)


def draws(seed: int, patient: int, stream: int) -> np.random.Generator:
    """The generator of one patient, eye or set of lesions, and of nothing else."""
    keys = np.random.SeedSequence((seed, patient, stream % 3, stream // 3))
    return np.random.Generator(np.random.Philox(keys))


def draw_eye(
    seed: int, patient: int, eye: str, grade: int, size: int
) -> tuple[Array, int]:
    """One fundus photograph.

    Returns:
        ``uint8[size, size, 3]`` RGB, and the JPEG quality its camera uses.
    """
    side = EYES.index(eye)
    person, own = draws(seed, patient, PATIENT), draws(seed, patient, side)
    camera, colour = _camera(person), _pigment(person)
    tone, tessellation = _tone_table(person), _tessellation(person, size)
    pose = _pose(camera, person, own)
    gain, veil = _light(camera, pose, colour, own)
    bent = _bent(pose, size)
    lesions = draws(seed, patient, LESIONS + side)
    draw_lesions(bent, _landmarks(pose, camera), grade, lesions)
    detail = cv2.LUT(bent, tone)
    if tessellation is not None:
        detail *= tessellation
    detail *= _upscale(gain, size)
    detail += _upscale(veil, size)
    image = cv2.convertScaleAbs(detail)
    if side:
        image = cv2.flip(image, 1)
    return _photograph(image, camera, own), int(own.integers(85, 96))


def encode(image: Array, quality: int) -> bytes:
    """A baseline 4:2:0 JPEG."""
    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=quality, colorsubsampling="420"
    )
    return data


def _camera(person: np.random.Generator) -> Camera:
    kind = person.choice(3, p=[0.5, 0.33, 0.17])
    radius = person.uniform(*((0.955, 0.995), (1.06, 1.24), (0.99, 1.06))[kind])
    height = person.uniform(0.8, 0.92) if kind == 2 else 2.0
    angle = person.uniform(0.15, 0.32) * np.pi
    tab = angle if kind == 0 and person.random() < 0.45 else None
    return Camera(radius=radius, height=height, tab=tab)


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


def _pose(
    camera: Camera, person: np.random.Generator, own: np.random.Generator
) -> Pose:
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


def _landmarks(pose: Pose, camera: Camera) -> Eye:
    scale = np.sqrt(abs(np.linalg.det(pose.matrix)))
    disc, fovea = pose.to_image([DISC, FOVEA])
    return Eye(
        disc=disc,
        disc_radius=DISC_RADIUS / RADIUS / float(scale),
        fovea=fovea,
        veins=(pose.to_image(UPPER_VEIN), pose.to_image(LOWER_VEIN)),
        reach=camera.radius,
        height=camera.height,
    )


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
    fovea = pose.to_image(FOVEA[None])[0]
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


def _bent(pose: Pose, size: int) -> Array:
    """The photograph's detail as ``pose`` sees it: ``uint8[S, S, 3]``."""
    base = _base(size)
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


def _photograph(image: Array, camera: Camera, own: np.random.Generator) -> Array:
    """Put ``uint8[S, S, 3]`` through a camera: reflex, focus, surround, noise."""
    size = image.shape[0]
    image = _reflex(image, own)
    blur = max(0.0, own.normal(0.35, 0.6)) * size / 512
    if blur > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    mask = _mask(camera, size)
    image = cv2.multiply(image, cv2.merge([mask] * 3), scale=1 / 255)
    black = own.uniform(0, 5) * np.array([1.0, 0.9, 0.9])
    noise: Array = own.standard_normal((size, size), np.float32)
    noise *= np.float32(own.uniform(0.6, 2.6))
    noise = cv2.multiply(noise, mask, scale=1 / 255, dtype=cv2.CV_32F)
    grain = cv2.merge([noise + np.float32(level) for level in black])
    return np.asarray(cv2.add(image, grain, dtype=cv2.CV_8U))


def _reflex(image: Array, own: np.random.Generator) -> Array:
    """The lens's own reflex near the middle, a pair of pale arcs, in a quarter."""
    shown, strength = own.random() < 0.25, own.uniform(0.3, 0.9)
    place, radius = own.normal(0, 0.05, 2), own.uniform(0.018, 0.03)
    if not shown:
        return image
    size = image.shape[0]
    layer: Array = np.zeros((size, size), np.uint8)
    centre = np.round((place + 1) * size / 2 * 16).astype(int).tolist()
    axes = (max(16, round(radius * size * 8 * 0.85)), max(16, round(radius * size * 8)))
    width = max(1, size // 300)
    for start in (-65, 115):
        cv2.ellipse(
            layer, centre, axes, 0, start, start + 130, (255,), width, cv2.LINE_AA, 4
        )
    layer = cv2.GaussianBlur(layer, (0, 0), 0.8 * size / 512 + 0.2)
    glow = [layer * np.float32(strength * part) for part in (0.55, 0.6, 0.7)]
    return np.asarray(cv2.add(image, cv2.merge(glow), dtype=cv2.CV_8U))


def _mask(camera: Camera, size: int) -> Array:
    """The field of view: ``uint8[S, S]``, 255 inside, soft at its edge."""
    mask = np.zeros((size, size), np.uint8)
    middle, one = size / 2 - 0.5, 16 * size / 2
    point = (round(middle * 16), round(middle * 16))
    cv2.circle(mask, point, round(camera.radius * one), (255,), -1, cv2.LINE_AA, 4)
    cut = round((1 - camera.height) * size / 2)
    if cut > 0:
        mask[:cut] = mask[size - cut :] = 0
    if camera.tab is not None:
        along = np.array([np.cos(camera.tab), -np.sin(camera.tab)])
        across = np.array([along[1], -along[0]])
        ends = (0.9 * along, (camera.radius + 0.055) * along)
        wide = 0.045 * across
        corners = [ends[0] - wide, ends[0] + wide, ends[1] + wide, ends[1] - wide]
        pixels = np.round(np.stack(corners) * one + middle * 16).astype(np.int32)
        cv2.fillPoly(mask, [pixels], (255,), cv2.LINE_AA, 4)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.9 * size / 512 + 0.2))


@lru_cache(maxsize=2)
def _base(size: int) -> Array:
    """The photograph's detail, extended past its edge: ``uint8[B, B, 3]``.

    Sampled a little finer than the image needs. Near the edge the retina is stretched
    outwards, so a pose may look past it.
    """
    asset = resources.files("fastretina.demo") / "assets" / "retina_cc0.jpg"
    photo = simplejpeg.decode_jpeg(asset.read_bytes())
    detail = _flatten(_heal(photo))
    width = min(1330, round(1.25 * MARGIN * size))
    axis = ((np.arange(width) + 0.5) * (2 / width) - 1) * MARGIN
    x, y = np.meshgrid(axis, axis)
    far = np.hypot(x, y)
    room = EDGE - INNER
    beyond = np.maximum(far - INNER, 0)
    inner = np.minimum(far, INNER) + room * (1 - np.exp(-beyond / room))
    inward = inner / np.maximum(far, 1e-6) * RADIUS
    maps = [(x * inward + CENTRE[0]), (y * inward + CENTRE[1])]
    maps = [part.astype(np.float32) for part in maps]
    blur = 0.45 * RADIUS / (width / 2 / MARGIN)
    detail = cv2.GaussianBlur(detail, (0, 0), max(0.3, blur))
    return np.asarray(cv2.remap(detail, maps[0], maps[1], cv2.INTER_LINEAR))


def _heal(photo: Array) -> Array:
    """Paint a plain edge of the disc over its scars, which every eye would share."""
    scar = np.zeros(photo.shape[:2], np.uint8)
    for first, last in CRESCENT:
        cv2.line(scar, first, last, (255,), 30)
    alpha = cv2.GaussianBlur(scar, (0, 0), 6).astype(np.float32) / 255
    y, x = np.mgrid[0:1024, 0:1024].astype(np.float32)
    far = np.hypot(x - np.float32(DISC[0]), y - np.float32(DISC[1])) - DISC_RADIUS
    inside = 1 / (1 + np.exp(np.clip(far / 4, -30, 30)))[..., None]
    edge = inside * (238, 196, 122) + (1 - inside) * (222, 122, 84)
    return np.asarray(photo + alpha[..., None] * (edge - photo))


def _flatten(photo: Array) -> Array:
    """Divide ``uint8[1024, 1024, 3]`` by its smooth colour; 1 becomes ``UNIT``.

    The smooth colour is a cubic surface, fitted where it is plain retina.
    """
    small = cv2.resize(photo, (GRID, GRID), interpolation=cv2.INTER_AREA)
    terms, where = _surface(GRID)
    plain = (np.hypot(*where) < 0.95).ravel()
    disc = (DISC - CENTRE) / RADIUS
    plain &= (np.hypot(where[0] - disc[0], where[1] - disc[1]) > 0.25).ravel()
    values = np.log(small.reshape(-1, 3)[plain] + 1.0)
    fit = np.linalg.lstsq(terms[plain], values, rcond=None)[0]
    smooth = np.exp((terms @ fit).reshape(GRID, GRID, 3)).astype(np.float32)
    detail = (photo + np.float32(1)) / cv2.resize(smooth, photo.shape[1::-1])
    # The photograph's red is clipped on the disc and flat in vessels: the green helps.
    detail[..., 0] = detail[..., 0] ** 0.6 * detail[..., 1] ** 0.35
    return np.asarray(cv2.convertScaleAbs(detail, alpha=UNIT))


def _surface(count: int) -> tuple[Array, tuple[Array, Array]]:
    """Cubic terms ``float64[count**2, 10]`` over the photograph, and its x and y."""
    pixels = (np.arange(count) + 0.5) * (1024 / count) - 0.5
    x, y = np.meshgrid((pixels - CENTRE[0]) / RADIUS, (pixels - CENTRE[1]) / RADIUS)
    powers = [(i, j) for i in range(4) for j in range(4 - i)]
    return np.stack([(x**i * y**j).ravel() for i, j in powers], -1), (x, y)
