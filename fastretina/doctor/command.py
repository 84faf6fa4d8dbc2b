"""Tell what limits training on this machine, and which loader to take.

python -m fastretina.doctor --shards shards --arch resnet18
"""

from __future__ import annotations

import math
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from fastretina import cli
from fastretina.recipe import STRONG, Arch

if TYPE_CHECKING:
    from fastretina.doctor.advice import Advice
    from fastretina.doctor.measurements import Measurements
    from fastretina.doctor.sample import ImageSample

PROG = "python -m fastretina.doctor"
ABOUT = f"""Measure every stage that an image goes through, from the disk to the trained
network, in about a minute; then say which stage limits, how much there is to win, which
loader, workers, prefetch and batch size to use, whether the images should be stored
differently, and how long training takes. Checks the installation, too. What it finds
fastest is what --loader auto takes on this machine from then on.

Example: {PROG} --shards shards --arch resnet18
"""

_SHARDS = "shards"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Flags of ``fastretina.doctor``.

    Attributes:
        shards: The data set to train on. Without one, the installation is checked and a
            training step is timed on made-up images.
        arch: The network.
        image_size: Resize to this many pixels square while loading.
        batch_size: Images per step.
        amp: Mixed precision: auto takes bf16 where the device has it, fp16 on older
            GPUs.
        device: auto, cpu, cuda, cuda:N or mps.
        seconds: To take for it, about.
        out: The chart.
    """

    shards: Annotated[
        Path | None,
        arg(metavar="PATH", help_behavior_hint="(default: shards, where it is)"),
    ] = None
    arch: Arch = "resnet18"
    image_size: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: as they are)")
    ] = None
    batch_size: int = STRONG.batch_size
    amp: Literal["auto", "bf16", "fp16", "off"] = "auto"
    device: str = "auto"
    seconds: float = 60.0
    out: Annotated[Path, arg(metavar="PNG")] = Path("doctor.png")

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 64:
            raise ValueError(f"--image-size must be at least 64, got {self.image_size}")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, got {self.batch_size}")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"--seconds must be above 0, got {self.seconds}")
        if self.out.suffix != ".png":
            raise ValueError(f"--out must end in .png, got {self.out}")
        if not self.out.parent.is_dir():
            raise ValueError(f"--out must lie in a folder that exists, got {self.out}")
        if str(self.shards).startswith(("http:", "https:")):
            raise ValueError(
                f"--shards must be a folder on this machine, got {self.shards}"
            )


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Run the command; see ``--help``."""
    return cli.run(command, Options, argv, prog=prog, about=ABOUT)


def command(options: Options) -> dict[str, Any]:
    """Measure, judge, draw, remember; returns what the JSON line holds.

    Raises:
        DataError: the shards or the device can't be used.
        OSError: the chart can't be written.
    """
    from fastretina.doctor import text as wording
    from fastretina.doctor.examination import Wanted, examine
    from fastretina.doctor.installation import inspect, load
    from fastretina.nn.device import choose

    begun = time.perf_counter()
    compute = choose(options.device, options.amp)
    subject = _subject(options)
    machine, checks = wording.machine(compute), inspect()
    width = shutil.get_terminal_size().columns
    print(f"{machine}\n\n{wording.installation(checks, width)}\n", flush=True)
    wanted = Wanted(
        subject=subject,
        arch=options.arch,
        compute=compute,
        image_size=options.image_size,
        batch_size=options.batch_size,
        seconds=options.seconds,
        tell=_tell,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # of broken metadata
        found = examine(wanted)
    quiet = load().state == "ok" and all(
        check.state == "ok" for check in checks if check.name == "load"
    )
    return {
        "shards": None if subject is None else str(subject.shards),
        "machine": machine,
        "installation": {check.name: check[1:] for check in checks},
        **_judge(found, options.out, machine, keep=quiet),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def _subject(options: Options) -> ImageSample | None:
    """The data set; None where none was named and there is none.

    Raises:
        NoShards: what was named is none.
    """
    from fastretina.doctor.sample import look_at

    if options.shards is None and not Path(_SHARDS).exists():
        print(
            "note: no data set in ./shards, so loading is not measured: make one with "
            "'python scripts/shard.py data/ shards/', or pass --shards",
            file=sys.stderr,
        )
        return None
    return look_at(options.shards or Path(_SHARDS), options.image_size)


def _judge(
    found: Measurements, out: Path, machine: str, *, keep: bool
) -> dict[str, Any]:
    """Show the verdict; returns its part of the JSON line."""
    from fastretina.doctor import bottleneck as verdict
    from fastretina.doctor import text as wording
    from fastretina.doctor.advice import advise
    from fastretina.doctor.chart import bars, draw
    from fastretina.doctor.forecast import foreseen
    from fastretina.doctor.measurements import stages, summary

    recipe = replace(STRONG, arch=found.arch, batch_size=found.batch_size)
    advice, ahead = advise(found), foreseen(found, recipe)
    width = shutil.get_terminal_size().columns
    print(f"{bars(stages(found), width, wording.block())}\n")
    print(wording.told(found, advice, ahead, width))
    if advice is not None:
        print(f"\nUse: {advice.flags}")
    title, about = verdict.headline(found), wording.about(found)
    draw(out, stages(found), title, f"{about}\n{machine}")
    print(f"Chart: {out}")
    phases = tuple(found.training.step)
    return {
        **summary(found),
        "limits": {phase: verdict.limit(found, phase) for phase in phases},
        "to_win": {phase: round(verdict.to_win(found, phase), 3) for phase in phases},
        "advice": advice.summary() if advice else None,
        "forecast": ahead.summary() if ahead else None,
        "figure": str(out),
        "remembered": _remember(found, advice, keep=keep),
    }


def _remember(found: Measurements, advice: Advice | None, *, keep: bool) -> str | None:
    """Keep the best loader for ``--loader auto``; returns the file."""
    from fastretina.data.auto_loader import Choice, remember

    if advice is None or found.data is None:
        return None
    if not keep:
        print("Not kept for --loader auto, as something else was running.")
        return None
    choice = Choice(
        loader=advice.loader,
        workers=advice.workers,
        images_per_second=round(advice.images_per_second, 1),
        pixels=max(found.data.shape),
    )
    try:
        path = remember(found.device, choice)
    except OSError as error:
        print(
            f"note: not kept for --loader auto: {cli.describe(error)}", file=sys.stderr
        )
        return None
    if path is not None:
        print(f"Kept for --loader auto: {advice.loader}, in {path}")
    return None if path is None else str(path)


def _tell(what: str) -> None:
    print(f"measuring: {what}", file=sys.stderr)
