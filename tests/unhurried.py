"""The doctor as on a quiet machine with time enough: nothing depends on the clock."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


def never_late(patch: pytest.MonkeyPatch) -> None:
    """No loader and no phase is left out, and no rounds contradict one another."""
    still = SimpleNamespace(monotonic=lambda: 0.0)
    patch.setattr("fastretina.doctor.deadline.time", still)
    race = "fastretina.doctor.loader_rates._Race"
    patch.setattr(f"{race}._is_late", lambda race, others, seconds=0.0: False)
    patch.setattr("fastretina.doctor.training_rates._fits", lambda *seconds: True)
    patch.setattr(
        "fastretina.doctor.contradictions.contradicts", lambda whole, part: False
    )
