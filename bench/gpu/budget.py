"""How the time is shared out over the sections, so that all of them end in time."""

from __future__ import annotations

from collections.abc import Sequence

from bench.gpu.scope import Section


def time_shares(sections: Sequence[Section]) -> dict[str, float]:
    """Each section's share of the time that is left when it begins, by its name.

    It is that of its ``seconds`` in those of all from it on: what one does not need is
    shared out over the others, and so is what one has taken too much.
    """
    shares = {}
    left = sum(section.seconds for section in sections)
    for section in sections:
        shares[section.name] = section.seconds / left if left > 0 else 1.0
        left -= section.seconds
    return shares
