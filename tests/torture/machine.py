"""The machine's faults: one clear line each, exit 1, and the data as good as before.

Each case is a command, a fault and the moment at which it strikes. It runs the command
on the broken machine, and then, the fault being over, once more: that must give what an
undisturbed run has given.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from conftest import contents, course_folder
from safetensors.torch import load as load_tensors
from small_runs import TIMES

from torture.campaign import Case, Counts, Fault, Skip
from torture.doomed import DoomedServer, Ended, Job

_ENOUGH = "size=1g"  # of a disk that is not full
_WRITE_ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
_READ_ERRORS = (errno.EIO, errno.EACCES, errno.ESTALE)
_LOADERS = ("turbo", "pil", "webdataset", "dali", "dali-reader")


@dataclass(frozen=True)
class Work:
    """A command as it is run.

    Attributes:
        words: with ``{out}`` for where it writes, on a disk of its own.
        out: what it leaves there, which is compared; None where it writes nothing.
        on_run: whether a finished run lies there already, which it works on.
        workers: whether its DataLoader's workers share memory.
        seconds: that it may take, which undisturbed takes 2 to 20 on 2 cores.
    """

    words: tuple[str, ...]
    out: str | None = "out"
    on_run: bool = False
    workers: bool = False
    seconds: float = 60

    def at(self, disk: Path, given: Path) -> list[str]:
        """Its words for this disk, and the folder of what all cases are given."""
        return [word.format(out=disk / "out", given=given) for word in self.words]


def _training(loader: str, *more: str) -> Work:
    words = "train --shards {given}/shards --out {out} --weights none --batch-size 8 "
    words += "--head-epochs 1 --full-epochs 1 --workers 2 --image-size 64 --quiet "
    return Work((*words.split(), "--loader", loader, *more), workers=loader == "pil")


_SHARD = "shard {given}/course {out} --samples-per-shard 10 --workers 2 --quiet"
_EVALUATE = "evaluate {out} --shards {given}/shards --workers 2 --quiet --loader"
_PREDICT = "predict {given}/run {given}/course/data --out {out} --quiet"
_FIX = "audit {given}/course --workers 2 --fix {out} --quiet"
_PARITY = "parity --data {given}/course --shards {given}/shards --workers 2 --loader"

_EXPERIMENTS = (
    "experiments strong --shards {given}/shards --out {out} --budget tiny --quiet "
    "--weights none --batch-size 8 --threads 1 --head-epochs 1 --full-epochs 1"
)
_DOCTOR = (
    "doctor --shards {given}/shards --out {out}.png --seconds 5 --batch-size 8 "
    "--image-size 64"
)
_DEMO = "demo {out} --images 8 --image-size 64 --workers 2 --quiet"

WORKS: dict[str, Work] = {
    "shard": Work(tuple(_SHARD.split())),
    "shard --verify": Work(
        ("shard", "--verify", "{given}/shards", "--workers", "2"), out=None
    ),
    **{f"train, {loader}": _training(loader) for loader in _LOADERS},
    "train, cached": _training("turbo", "--cache", "{out}-cache"),
    **{
        f"evaluate, {loader}": Work(
            (*_EVALUATE.split(), loader), on_run=True, workers=loader == "pil"
        )
        for loader in _LOADERS
    },
    "predict": Work(tuple(_PREDICT.split())),
    "report": Work(("report", "{out}", "--quiet"), on_run=True),
    "export": Work(("export", "{out}", "--quiet"), on_run=True),
    "audit --fix": Work(tuple(_FIX.split())),
    **{
        f"parity, {loader}": Work((*_PARITY.split(), loader), out=None)
        for loader in ("turbo", "pil")
    },
    "demo": Work(tuple(_DEMO.split())),
    # Four runs in processes of their own, and two variants of the data.
    "experiments": Work(tuple(_EXPERIMENTS.split()), seconds=180),
    "doctor": Work(tuple(_DOCTOR.split())),
}


@dataclass(frozen=True)
class Machine:
    """What is wrong with it.

    Attributes:
        job: the command's, with what strikes it.
        disk: words for ``mount -o`` of the disk that is written to, for the time.
        harmless: whether the command must do its work all the same.
    """

    job: Job
    disk: str = _ENOUGH
    harmless: bool = False


@dataclass(frozen=True)
class Right:
    """What a command leaves undisturbed.

    Attributes:
        found: name of a file to what of it is the same each time.
        sizes: bytes of each file.
    """

    found: Mapping[str, object]
    sizes: tuple[int, ...]

    @property
    def pages(self) -> int:
        """Of a disk that they need."""
        return sum(-(-size // 4096) for size in self.sizes)


class MachineFaults:
    """Commands on machines that fail."""

    name, share, least, in_tests = "machine", 10.0, 150, 1

    def prepare(self, folder: Path) -> None:
        """Photographs, shards and a run, and a server that forks commands."""
        self._folder, self._given = folder, folder / "given"
        self._right = dict[str, Right]()
        self._server: DoomedServer | None = None
        course_folder(self._given / "course", train=37, test=11)
        try:
            self._server = DoomedServer(folder)
        except Skip as reason:
            self._why = str(reason)
            return
        self._given_by("shard", "shards")
        self._given_by("train, turbo", "run")
        self._before = contents(self._given)

    def _given_by(self, name: str, out: str) -> None:
        place = str(self._given / out)
        words = [w.format(out=place, given=self._given) for w in WORKS[name].words]
        self._undisturbed(Job(words=words, folder=str(self._folder)))

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    @property
    def server(self) -> DoomedServer:
        assert self._server is not None
        return self._server

    def run(self, case: Case) -> Counts:
        if self._server is None:
            raise Skip(self._why)
        rng = case.rng()
        name = str(rng.choice(sorted(WORKS)))
        work = WORKS[name]
        right = self._right_of(name, case.folder)
        kind = str(rng.choice([kind for kind in FAULTS if _can(kind, work)]))
        given = self._given
        if kind in SPOILING:
            given = case.folder / "given"
            shutil.copytree(self._given, given)
        disk = case.folder / "disk"
        draws = Draws(rng, work, right, self._given, given, disk)
        with self._disk(work, disk):
            job = Job(
                words=work.at(disk, given),
                folder=str(case.folder),
                seconds=work.seconds,
            )
            machine = FAULTS[kind](draws, job)
            try:
                bit = self._strike(machine, right, disk, given)
                if contents(self._given) != self._before:
                    raise Fault("what was given is not as it was")
                if kind in SPOILING:
                    shutil.rmtree(given)
                    shutil.copytree(self._given, given)
                if bit:
                    self._again(job, right, disk, given)
            except Fault as fault:
                said = f"{name}, {kind}, {_difference(machine, job)}: {fault}"
                raise Fault(said) from None
        return {kind: 1, "errors in one line": int(bit)}

    @contextmanager
    def _disk(self, work: Work, disk: Path) -> Iterator[None]:
        """A disk of its own; with a copy of the run, where it works on that."""
        disk.mkdir()
        self.server.call("mount", "-t", "tmpfs", "-o", _ENOUGH, "none", str(disk))
        try:
            if work.on_run:
                self.server.call("cp", "-a", f"{self._given}/run", f"{disk}/out")
            yield
        finally:
            self.server.call("umount", "-l", str(disk))

    def _undisturbed(self, job: Job) -> None:
        ended = self.server.run(job)
        if ended != Ended([0], False):
            raise Fault(f"undisturbed, {' '.join(job.words)}: {ended} {_said(job)}")

    def _right_of(self, name: str, folder: Path) -> Right:
        """What a command leaves; it is run for that once."""
        if name not in self._right:
            work, disk = WORKS[name], folder / "right"
            with self._disk(work, disk):
                words = work.at(disk, self._given)
                self._undisturbed(Job(words=words, folder=str(folder)))
                self._right[name] = self._left(disk, self._given)
        return self._right[name]

    def _left(self, disk: Path, given: Path) -> Right:
        """What lies on a disk."""
        seen = disk.with_name(f"{disk.name}-seen")
        shutil.rmtree(seen, ignore_errors=True)
        self.server.call("cp", "-a", str(disk), str(seen))
        files = contents(seen)
        places = {str(disk): "DISK", str(given): "GIVEN", str(self._given): "GIVEN"}
        found = {name: _lasting(name, body, places) for name, body in files.items()}
        return Right(
            {name: value for name, value in found.items() if value is not None},
            tuple(map(len, files.values())),
        )

    def _strike(self, machine: Machine, right: Right, disk: Path, given: Path) -> bool:
        """Run it on the broken machine; whether it has failed."""
        job = machine.job
        self.server.call("mount", "-o", f"remount,{machine.disk}", str(disk))
        ended = self.server.run(job)
        self.server.call("mount", "-o", f"remount,rw,{_ENOUGH}", str(disk))
        for number, code in enumerate(ended.codes):
            _judge(code, job, number)
        if ended.orphans:
            raise Fault("processes that it had begun went on")
        left = self._left(disk, given)
        for name in left.found:
            if re.search(r"\.part$|\.lock$|\.tmp$", name):
                raise Fault(f"{name} was left behind")
        if 0 in ended.codes:
            if (difference := _differ(left, right)) and job.copies == 1:
                raise Fault(f"exit code 0, but {difference}")
            return job.copies > 1
        if machine.harmless:
            raise Fault(f"failed where it need not: {_said(job)}")
        return True

    def _again(self, job: Job, right: Right, disk: Path, given: Path) -> None:
        """The machine is well: the same command does its work."""
        ended = self.server.run(job)
        said = _said(job)
        if ended.codes == [1] and "--resume" in said:
            words = ["--resume" if word == "--out" else word for word in job.words]
            ended = self.server.run(replace(job, words=words))
            said = _said(job)
        elif ended.codes == [1] and "--overwrite" in said:
            ended = self.server.run(replace(job, words=[*job.words, "--overwrite"]))
            said = _said(job)
        if ended.codes != [0]:
            raise Fault(f"afterwards, on a good machine: {ended.codes} {said}")
        if difference := _differ(self._left(disk, given), right):
            raise Fault(f"afterwards, on a good machine, {difference}")


def _judge(code: int | None, job: Job, number: int) -> None:
    said = _said(job, number)
    if code is None:
        raise Fault(f"takes longer than {job.seconds:g} s: {said}")
    if "Traceback" in said or code not in (0, 1):
        raise Fault(f"exit code {code}: {said}")
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if len(errors) != code or (code and said.splitlines()[-1] != errors[0]):
        raise Fault(f"exit code {code}, {len(errors)} lines of error: {said}")


def _said(job: Job, number: int = 0) -> str:
    text = (Path(job.folder) / f"err{number or ''}").read_text(errors="replace")
    return text[-3000:]


def _difference(machine: Machine, job: Job) -> str:
    """What the broken machine has that another has not, in one line."""
    new, old = asdict(machine.job), asdict(job)
    changed = {name: new[name] for name in new if new[name] != old[name]}
    return f"{changed} {machine.disk}"


def _differ(left: Right, right: Right) -> str:
    for name in sorted({*left.found, *right.found}):
        if left.found.get(name) != right.found.get(name):
            there = [name in side.found for side in (left, right)]
            return f"{name} differs from what it must be ({there})"
    return ""


_CHANGING = {*TIMES, "wall_seconds", "device_idle_fraction", "wait_fraction", "created"}
_CHANGING |= {"date"}
_OTHER_EACH_TIME = re.compile(r"\.(html|png|svg|md|onnx)$|/times\.json$")
_NOT_ALWAYS_THERE = re.compile(r"events\.out|-cache/|\.log$")


def _lasting(name: str, body: bytes, places: Mapping[str, str]) -> object:
    """What of a file is the same each time; None for nothing."""
    if _NOT_ALWAYS_THERE.search(name):
        return None
    if _OTHER_EACH_TIME.search(name):
        return len(body) > 0
    if name.endswith(".json"):
        return _without(json.loads(_placed(body, places)))
    if name.endswith(".csv"):
        rows = csv.DictReader(io.StringIO(_placed(body, places)))
        return [{k: v for k, v in row.items() if k not in _CHANGING} for row in rows]
    if name.endswith(".safetensors"):  # whose state holds the times that steps took
        tensors = sorted(load_tensors(body).items())
        return [
            (n, hashlib.sha256(t.numpy().tobytes()).hexdigest()) for n, t in tensors
        ]
    return hashlib.sha256(body).hexdigest()


def _placed(body: bytes, places: Mapping[str, str]) -> str:
    text = body.decode()
    for place, word in places.items():
        text = text.replace(place, word)
    return text


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items() if k not in _CHANGING}
    return [_without(one) for one in value] if isinstance(value, list) else value


# ------------------------------------------------------------------------- the faults


@dataclass(frozen=True)
class Draws:
    """What a fault draws from.

    Attributes:
        rng: of the case.
        work: the command.
        right: what it leaves undisturbed.
        shared: the folder of what all cases are given ...
        given: ... and of what this one is.
        disk: where it writes.
    """

    rng: np.random.Generator
    work: Work
    right: Right
    shared: Path
    given: Path
    disk: Path

    def below(self, most: int) -> int:
        return int(self.rng.integers(max(1, most)))

    def one_of(self, values: Sequence[Any]) -> Any:
        return values[self.below(len(values))]

    def failing(self, call: str, below: Path, errors: Sequence[int]) -> dict[str, str]:
        """The environment of calls that fail: one, or all from some moment on."""
        return {
            "FAULTY_CALL": call,
            "FAULTY_BELOW": str(below),
            "FAULTY_FIRST": str(int(2 ** self.rng.uniform(0, 7))),
            "FAULTY_COUNT": self.one_of(["1", "1000000000"]),
            "FAULTY_ERRNO": str(self.one_of(errors)),
        }


def _full_disk(draws: Draws, job: Job) -> Machine:
    pages = 1 + draws.below(draws.right.pages)
    if draws.work.on_run:  # as they lie there already
        own = [p.stat().st_size for p in (draws.shared / "run").rglob("*")]
        pages = sum(-(-size // 4096) for size in own) + draws.below(40)
    return Machine(job, disk=f"size={4 * pages}k")


def _read_only(draws: Draws, job: Job) -> Machine:
    return Machine(job, disk="ro")


def _short_files(draws: Draws, job: Job) -> Machine:
    most = 4096 + draws.below(max(draws.right.sizes, default=0))
    return Machine(replace(job, limits={"FSIZE": most}))


def _calls_that_fail(call: str) -> Callable[[Draws, Job], Machine]:
    def break_it(draws: Draws, job: Job) -> Machine:
        environment = draws.failing(call, draws.disk, _WRITE_ERRORS)
        return Machine(replace(job, environment=environment))

    return break_it


def _inputs_that_fail(call: str) -> Callable[[Draws, Job], Machine]:
    def break_it(draws: Draws, job: Job) -> Machine:
        environment = draws.failing(call, draws.given, _READ_ERRORS)
        return Machine(replace(job, environment=environment))

    return break_it


def _few_descriptors(draws: Draws, job: Job) -> Machine:
    most = draws.one_of([64, 64, 64, 24, 32, 48, 128])
    return Machine(replace(job, limits={"NOFILE": most}))


def _little_shared_memory(draws: Draws, job: Job) -> Machine:
    return Machine(replace(job, shared_memory=draws.one_of([1 << 26, 1 << 20, 4096])))


def _little_memory(draws: Draws, job: Job) -> Machine:
    return Machine(replace(job, spare_memory=int(2 ** draws.rng.uniform(21, 30))))


def _clock_set_back(draws: Draws, job: Job) -> Machine:
    environment = draws.failing("clock", draws.disk, [errno.EIO])
    environment["FAULTY_SHIFT"] = draws.one_of(["-3600", "-1000000000", "-1"])
    return Machine(replace(job, environment=environment), harmless=True)


def _twice_at_once(draws: Draws, job: Job) -> Machine:
    return Machine(replace(job, copies=2))


def _spoilt_shard(how: str) -> Callable[[Draws, Job], Machine]:
    def break_it(draws: Draws, job: Job) -> Machine:
        tars = sorted((draws.given / "shards").glob("*.tar"))
        file = draws.one_of(tars)
        call = draws.one_of(["open", "read"])
        environment = draws.failing(call, draws.given / "shards", [0])
        environment |= {"FAULTY_COUNT": "1", "FAULTY_FILE": str(file)}
        if how == "cut":
            environment["FAULTY_SIZE"] = str(draws.below(file.stat().st_size))
        elif how == "replaced":
            other = draws.given / "other.tar"
            shutil.copy(draws.one_of(tars), other)
            environment["FAULTY_BY"] = str(other)
        return Machine(replace(job, environment=environment))

    return break_it


FAULTS: dict[str, Callable[[Draws, Job], Machine]] = {
    "a full disk": _full_disk,
    "a read-only disk": _read_only,
    "a limit of file sizes": _short_files,
    "writes that fail": _calls_that_fail("write"),
    "files that can't be made": _calls_that_fail("open"),
    "fsyncs that fail": _calls_that_fail("fsync"),
    "renames that fail": _calls_that_fail("rename"),
    "folders that can't be made": _calls_that_fail("mkdir"),
    "reads that fail": _inputs_that_fail("read"),
    "files that can't be read": _inputs_that_fail("open"),
    "few descriptors": _few_descriptors,
    "little shared memory": _little_shared_memory,
    "little memory": _little_memory,
    "a clock set back": _clock_set_back,
    "two at once": _twice_at_once,
    "a shard deleted in use": _spoilt_shard("deleted"),
    "a shard cut short in use": _spoilt_shard("cut"),
    "a shard replaced in use": _spoilt_shard("replaced"),
}
SPOILING = {kind for kind in FAULTS if kind.startswith("a shard ")}
_NEED_OUT = set(list(FAULTS)[:8]) | {"two at once"}


def _can(kind: str, work: Work) -> bool:
    """Whether a fault of a kind can strike this command."""
    if kind in _NEED_OUT:
        return work.out is not None
    if kind in SPOILING:
        return "{given}/shards" in work.words
    return kind != "little shared memory" or work.workers
