"""A GPU check of three made-up sections, whose second ends the process where told."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from bench.gpu import check
from bench.gpu.scope import QUICK, Measurement, Scope, Section
from bench.gpu.section_rows import Fact

NOTES = "notes"  # which measurements were taken, a line each


def plan(name: str, *, kills: bool = False) -> Section:
    def take(scope: Scope, number: int) -> list[Fact]:
        notes = scope.out / NOTES
        with notes.open("a") as file:
            file.write(f"{name} {number}\n")
        if kills and number == 2 and "kill" in sys.argv:
            os.kill(os.getpid(), signal.SIGKILL)
        return [Fact(f"{name} {number}", number)]

    def measurements(scope: Scope) -> list[Measurement]:
        return [
            Measurement(f"{name} {number}", 0.0, lambda n=number: take(scope, n))
            for number in (1, 2)
        ]

    return Section(name, measurements)


def stages() -> list[list[Section]]:
    return [
        [plan("environment")],
        [plan("tests"), plan("end_to_end", kills=True)],
        [plan("parity")],
    ]


def prepare(options: check.Options, device: str, deadline: float) -> Scope:
    """Without photographs: nothing here looks at them."""
    options.out.mkdir(parents=True, exist_ok=True)
    nowhere = Path("nowhere")
    return Scope(
        out=options.out,
        shards=nowhere,
        long=nowhere,
        odd=nowhere,
        device=device,
        steps=2,
        sizes=QUICK,
        deadline=deadline,
    )


if __name__ == "__main__":
    check.stages, check.prepare = stages, prepare
    sys.exit(check.main([word for word in sys.argv[1:] if word != "kill"]))
