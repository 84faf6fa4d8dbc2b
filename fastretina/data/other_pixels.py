"""Whether a run goes on, or is evaluated, on other pixels than it was trained on."""

from __future__ import annotations

import sys

from loaders import Decoding


def other_pixels(then: Decoding | None, now: Decoding) -> str | None:
    """A sentence where a run was trained on other pixels than are made now.

    Args:
        then: who made the pixels that it was trained on; None where it is unknown.
        now: who makes the pixels now.
    """
    if then is None:
        return None
    differ = []
    if then.jpeg != now.jpeg:
        differ.append(f"decoded by {then.jpeg}, now by {now.jpeg}")
    # A split whose images have the delivered size already is resized by nobody.
    if then.resize and now.resize and then.resize != now.resize:
        differ.append(f"resized by {then.resize}, now by {now.resize}")
    if not differ:
        return None
    return (
        f"the run was trained on images {' and '.join(differ)}, whose pixels may "
        f"differ: fastretina parity --run tells by how much"
    )


def warn_of_other_pixels(then: Decoding | None, now: Decoding) -> None:
    """Warn on stderr of what ``other_pixels`` says, if it does."""
    if other := other_pixels(then, now):
        print(f"warning: {other}", file=sys.stderr)
