"""Streams of random draws: one for each patient, eye and set of lesions."""

from __future__ import annotations

import numpy as np

PATIENT, LESIONS = 2, 3  # streams beside those of the two eyes, 0 and 1


def make_generator(seed: int, patient: int, stream: int) -> np.random.Generator:
    """The generator of one patient, eye or set of lesions, and of nothing else."""
    keys = np.random.SeedSequence((seed, patient, stream % 3, stream // 3))
    return np.random.Generator(np.random.Philox(keys))
