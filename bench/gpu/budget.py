"""When each section has to end, so that all of them end in time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from bench.gpu.scope import Section


def section_ends(
    sections: Sequence[Section], begun: float, deadline: float
) -> dict[str, float]:
    """When each section ends, by its name, on the clock of ``begun`` and ``deadline``.

    The time is shared out as the sections' ``seconds`` are to one another. What one
    does not need goes to the next; none takes what was meant for those after it.
    """
    wanted = [section.seconds for section in sections]
    share = max(deadline - begun, 0) / max(sum(wanted), 1e-9)
    return {
        section.name: begun + share * until
        for section, until in zip(sections, accumulate(wanted), strict=True)
    }
