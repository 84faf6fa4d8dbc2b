"""The names of the pre-processing steps, for those who must not import OpenCV."""

from __future__ import annotations

STEPS = ("crop", "clahe", "graham")  # in the order in which they are applied
