"""What a check has measured so far, for ``--continue`` not to measure it again."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bench.gpu.scope import SectionResults
from loaders.errors import DataError
from loaders.files import write_atomically

STATE = "gpu_check.state"

Identity = Mapping[str, object]  # what has to be the same for results to go together


class UnfinishedCheck(NamedTuple):
    """The results of an unfinished check, and what it is of.

    Attributes:
        identity: device, sizes and data.
        results: by section.
    """

    identity: Identity
    results: dict[str, SectionResults]

    def save(self, out: Path) -> None:
        """Write it into the folder of the results; a kill leaves the old or the new."""
        write_atomically(out / STATE, pickle.dumps(tuple(self)), durable=False)


def load_state(out: Path, identity: Identity) -> dict[str, SectionResults]:
    """The results of the check that was begun there; none where there was none.

    Raises:
        DataError: it is of another device, other data or other sizes, or unreadable.
    """
    path = out / STATE
    try:
        found = UnfinishedCheck(*pickle.loads(path.read_bytes()))
    except FileNotFoundError:
        return {}
    except Exception as error:
        raise DataError(
            f"{path} can't be read ({error}): leave --continue out to begin anew"
        ) from None
    for what, value in identity.items():
        if found.identity.get(what) != value:
            raise DataError(
                f"--continue must go on with the check of before, got {what} {value}, "
                f"and {path} has {found.identity.get(what)}: leave it out to begin anew"
            )
    return found.results
