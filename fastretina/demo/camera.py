"""The camera of a patient's photographs: its frame, focus, reflexes and noise."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg

from fastretina.demo.canvas import Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """The frame's black surround, in half frames."""

    radius: float
    height: float  # the field is cut flat above and below this
    tab: float | None  # angle of the notch that marks the upper side


def choose_camera(person: np.random.Generator) -> Camera:
    """A patient's camera: a whole circle, one beyond the frame, or one cut flat."""
    kind = person.choice(3, p=[0.5, 0.33, 0.17])
    radius = person.uniform(*((0.955, 0.995), (1.06, 1.24), (0.99, 1.06))[kind])
    height = person.uniform(0.8, 0.92) if kind == 2 else 2.0
    angle = person.uniform(0.15, 0.32) * np.pi
    tab = angle if kind == 0 and person.random() < 0.45 else None
    return Camera(radius=radius, height=height, tab=tab)


def photograph(image: Array, camera: Camera, own: np.random.Generator) -> Array:
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


def encode_photograph(image: Array, quality: int) -> bytes:
    """A baseline 4:2:0 JPEG."""
    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=quality, colorsubsampling="420"
    )
    return data
