"""What share of the images a GPU's JPEG engine should decode, by what was measured.

All of them is nearest to Pillow, and was the fastest on an H100, whose engine is as
fast as its other units. An older engine may be slower than these, and then DALI's own
share, with which both work at once, is faster.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastretina.measure.rounds import Rate

ALL, LESS = 1.0, 0.65  # shares of the images; 0.65 is DALI's own
_FASTER = 1.03  # times as fast, before pixels further from Pillow's are worth it


def choose_share(rates: Mapping[float, Rate]) -> float | None:
    """The share to decode with: all, unless another is clearly faster.

    Args:
        rates: share to the speed with it; empty where nothing was tried.
    """
    if ALL not in rates:
        return None
    fastest = max(rates, key=lambda share: rates[share].images_per_second)
    least = _FASTER * rates[ALL].images_per_second
    return fastest if rates[fastest].images_per_second >= least else ALL
