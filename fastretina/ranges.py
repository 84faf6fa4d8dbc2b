"""The ranges of what records hold: beyond them a file was not written by a run.

They are far above what any run has, and low enough to be shown, drawn and computed on.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

MOST_SIDE = 65_535  # pixels; a JPEG's most

Count = Annotated[int, Meta(ge=0, le=2**53)]  # which a float holds exactly
RankCount = Annotated[int, Meta(ge=1, le=1 << 20)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Ratio = Annotated[float, Meta(ge=0, le=1000)]  # a share by two clocks
Kappa = Annotated[float, Meta(ge=-1.001, le=1.001)]  # sums round
Statistic = Annotated[float, Meta(ge=-1000, le=1000)]  # or a difference of two
LossValue = Annotated[float, Meta(ge=0, le=1e39)]  # float32 ends below
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Speed = Annotated[float, Meta(ge=0, le=1e20)]  # of any images in 0 seconds
