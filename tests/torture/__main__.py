"""``make torture``: faults by the thousand, from a seed, and a JSON line of counts."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import tyro

from loaders.cores import granted_cores
from torture.run import known, repeat, torture


@dataclass(frozen=True)
class Torture:
    """What to run.

    Attributes:
        minutes: for all campaigns together.
        seed: of all draws; a new one by default, which is printed.
        only: names of campaigns; all by default.
        case: one case of the one campaign, to be run again.
        jobs: cases at once; one per granted core by default.
    """

    minutes: float = 50
    seed: int | None = None
    only: tuple[str, ...] = ()
    case: int | None = None
    jobs: int | None = None


def main() -> int:
    options = tyro.cli(Torture)
    names = known(options.only)
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    if options.case is not None:
        if len(options.only) != 1:
            raise SystemExit("error: --case needs one campaign, named by --only")
        return repeat(seed, names[0], options.case)
    return torture(seed, options.minutes, names, options.jobs or granted_cores())


if __name__ == "__main__":
    raise SystemExit(main())
