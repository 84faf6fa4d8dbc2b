"""Measure all that only a GPU can tell, in one go and in a given time.

python scripts/gpu_check.py OUT

Each section runs on its own, and what is known is written after every measurement: a
failure, a crash or a kill loses nothing else.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastretina import cli
from loaders.errors import DataError

if TYPE_CHECKING:
    from bench.gpu.scope import Event, Scope, Section, SectionResults

PROG = "python scripts/gpu_check.py"
ABOUT = f"""Measure all that only a GPU can tell: how far its JPEG decoder is from
Pillow, what it makes of damaged files, how fast each loader and a training step are,
how long a step waits for data, and what memory that takes; and run the tests marked
gpu. Writes OUT/gpu_check.md and .json after every measurement. Without CUDA it does
what it can and lists what it could not.

Example: {PROG} check --seconds 460
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Flags of ``scripts/gpu_check.py``.

    Attributes:
        out: Folder of the results, and of the photographs that are drawn.
        data: Folder of graded photographs; by default 1,000 are drawn, of 512 pixels.
        shards: Shards of photographs, instead of --data.
        seconds: Time for all of it; what does not fit is left out, the least important
            first.
        device: auto, cpu, cuda or cuda:N.
        steps: Training steps in an epoch; a run from end to end has two.
        quick: Tiny sizes, to see that it works.
    """

    out: Annotated[Positional[Path], arg(metavar="OUT")]
    data: Path | None = None
    shards: Path | None = None
    seconds: float = 460.0
    device: str = "auto"
    steps: int = 200
    quick: FlagCreatePairsOff[bool] = False

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"--seconds must be above 0, got {self.seconds}")
        if self.steps < 1:
            raise ValueError(f"--steps must be at least 1, got {self.steps}")
        if self.data is not None and self.shards is not None:
            raise ValueError("--data and --shards must not both be given")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see ``--help``."""
    return cli.run(command, Options, argv, prog=PROG, about=ABOUT)


def command(options: Options) -> dict[str, Any]:
    """Measure everything; returns the JSON line's content.

    Raises:
        DataError: a bound does not hold or something failed; the line is printed then,
            too. Or the photographs or the device can't be used.
    """
    from bench.gpu.process import in_own_process
    from bench.gpu.scope import measure
    from fastretina.nn.device import choose

    begun = time.monotonic()
    device = choose(options.device, "off").device
    scope = prepare(options, str(device), begun + options.seconds)
    record = CheckRecord(scope, begun)
    record.save()
    run = in_own_process if scope.cuda else measure
    try:
        for stage in stages():
            for section, event in run(stage, scope):
                record.add(section, event)
    finally:
        shutil.rmtree(scope.out / "work", ignore_errors=True)
    summary = record.summary()
    if broken := record.broken():
        print(json.dumps(summary))
        raise DataError(f"{broken}; see {scope.out / 'gpu_check.md'}")
    return summary


def stages() -> list[list[Section]]:
    """All sections, the most important first; those of a stage share a process."""
    from bench.gpu import corrupt, environment, memory, pixels, runs, speed, steps
    from bench.gpu.scope import Section

    return [
        [
            Section("environment", environment.plan_environment),
            Section("parity", pixels.plan_parity),
            Section("rare_kinds", pixels.plan_odd),
            Section("corrupt", corrupt.plan_corrupt),
        ],
        [  # memory first, while nothing is in anybody's pool
            Section("memory", memory.plan_memory),
            Section("throughput", speed.plan_throughput),
        ],
        [
            Section("steps", steps.plan_steps),
            Section("end_to_end", runs.plan_end_to_end),
        ],
        [Section("tests", runs.plan_tests)],
        [Section("compiled", steps.plan_compiled)],
    ]


def prepare(options: Options, device: str, deadline: float) -> Scope:
    """Make the photographs and all that follows from them.

    Raises:
        DataError: the photographs can't be used.
    """
    from bench.gpu import photographs
    from bench.gpu.scope import FULL, QUICK, Scope

    sizes = QUICK if options.quick else FULL
    steps = min(options.steps, sizes.most_steps)
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    shards = options.shards or photographs.shard_photographs(options.data, out, sizes)
    images, held_out = steps * sizes.batch, 2 * sizes.batch
    return Scope(
        out=out,
        shards=shards,
        long=photographs.long_epoch(shards, out / "work" / "long", images, held_out),
        odd=photographs.odd_jpegs(shards, out / "work" / "odd"),
        device=device,
        steps=steps,
        sizes=sizes,
        deadline=deadline,
    )


class CheckRecord:
    """The results so far, written after every event."""

    def __init__(self, scope: Scope, begun: float) -> None:
        from bench.gpu.scope import SectionResults

        self._scope, self._begun = scope, begun
        self._date = time.strftime("%Y-%m-%d %H:%M:%S %z")
        self.results: dict[str, SectionResults] = {
            section.name: SectionResults() for stage in stages() for section in stage
        }
        self._last = time.monotonic()

    def add(self, section: str, event: Event) -> None:
        """Add an event to its section, and write everything."""
        from bench.gpu.scope import Begun

        results, now = self.results[section], time.monotonic()
        results.add(event)
        results.seconds = round(results.seconds + now - self._last, 2)
        self._last = now
        if isinstance(event, Begun):
            print(f"{section}: {event.what}", file=sys.stderr)
        else:
            self.save()

    def save(self) -> None:
        """Write both files."""
        from bench.gpu.bounds import judge
        from bench.gpu.markdown import render
        from bench.gpu.section_rows import as_json
        from loaders.files import write_atomically

        summary = self.summary()
        record = {
            "summary": summary,
            "environment": self._environment(),
            "bounds": [bound._asdict() for bound in judge(self.results)],
            "sections": {
                name: {
                    "seconds": results.seconds,
                    "rows": [as_json(row) for row in results.rows],
                    "failures": [failure._asdict() for failure in results.failures],
                    "left_out": [left._asdict() for left in results.left_out],
                }
                for name, results in self.results.items()
            },
        }
        text = render(self.results, {**summary, "date": self._date})
        for name, content in (
            ("gpu_check.json", json.dumps(record, indent=1) + "\n"),
            ("gpu_check.md", text),
        ):
            write_atomically(self._scope.out / name, content, durable=False)

    def summary(self) -> dict[str, Any]:
        """The content of the JSON line."""
        from bench.gpu.bounds import judge

        states: dict[str, list[str]] = {"held": [], "NOT held": [], "not measured": []}
        for bound in judge(self.results):
            states[bound.state].append(bound.name)
        return {
            "out": str(self._scope.out),
            "device": self._scope.device,
            "seconds": round(time.monotonic() - self._begun, 1),
            "bounds_held": states["held"],
            "bounds_not_held": states["NOT held"],
            "bounds_not_measured": states["not measured"],
            "failed": [f.what for part in self.results.values() for f in part.failures],
            "left_out": sum(len(part.left_out) for part in self.results.values()),
        }

    def broken(self) -> str:
        """What is not as it should be, in one line; empty where all is."""
        summary = self.summary()
        parts = [
            f"{what}: {', '.join(names)}"
            for what, names in (
                ("not held", summary["bounds_not_held"]),
                ("failed", summary["failed"]),
            )
            if names
        ]
        return "; ".join(parts)

    def _environment(self) -> dict[str, Any]:
        from bench.gpu.scope import SectionResults
        from bench.gpu.section_rows import Fact

        scope = self._scope
        results = self.results.get("environment", SectionResults())
        facts = {row.what: row.value for row in results.rows if isinstance(row, Fact)}
        sizes = asdict(scope.sizes)
        return {"date": self._date, **facts, "steps": scope.steps, "sizes": sizes}
