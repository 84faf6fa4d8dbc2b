"""Processes that run a command on a broken machine, forked off one that has it all.

``DoomedServer`` starts ``python -m torture.doomed``, in a mount namespace of its own
and with the library that makes system calls fail. It has imported torch and every
command, and forks for each job that it is told of: a line of JSON each way.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path

from torture.campaign import Skip

COMMANDS = (
    "shard train evaluate predict report export audit parity doctor demo experiments"
)
_MORE = (
    "fastretina.train.finish",
    "fastretina.train.loop",
    "fastretina.shard.data_set",
    "fastretina.shard.verify",
    "fastretina.audit.survey",
    "fastretina.audit.split_writer",
    "fastretina.parity.epoch",
    "fastretina.demo.cohort",
    "fastretina.export.onnx_file",
    "fastretina.predict.network",
    "loaders._pil",
    "loaders._turbo",
    "loaders._webdataset",
    "torch._dynamo",
    "torch.utils.data",
    "torch.utils.tensorboard",
    "matplotlib.pyplot",
    "pyarrow.dataset",
    "typeguard",
    "tyro",
)
_GRACE = 5.0  # seconds in which the processes that a command has begun must have ended


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command, and the machine that it runs on.

    Attributes:
        words: of the command line.
        folder: gets what it prints, ``out`` and ``err``.
        seconds: that it may take.
        environment: of the process; see ``faulty.c``.
        limits: name of a resource limit, e.g. ``NOFILE``, to its value.
        spare_memory: bytes that may be mapped beyond what is.
        shared_memory: size of /dev/shm, bytes.
        copies: how many run at once.
    """

    words: Sequence[str]
    folder: str
    seconds: float = 60
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    spare_memory: int | None = None
    shared_memory: int | None = None
    copies: int = 1


@dataclass(frozen=True)
class Ended:
    """What has become of a job's processes.

    Attributes:
        codes: exit codes; negative for a signal, None for one that took too long.
        orphans: whether one that they have begun went on.
    """

    codes: list[int | None]
    orphans: bool


class DoomedServer:
    """Forks processes for jobs, one job after the other."""

    def __init__(self, folder: Path) -> None:
        """Compile the library, and start; ``folder`` gets it.

        Raises:
            Skip: there is no compiler, or no right to mount.
        """
        compiler = shutil.which("cc")
        if compiler is None:
            raise Skip("no C compiler for the library that makes calls fail")
        alone = ["unshare", "-m", "--propagation", "private"]
        if os.geteuid() or subprocess.run([*alone, "true"], check=False).returncode:
            raise Skip("only root may mount a small disk")
        library = folder / "faulty.so"
        source = Path(__file__).with_name("faulty.c")
        flags = ["-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
        subprocess.run([compiler, *flags], check=True)
        cache = {"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder)}
        one = {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "LD_PRELOAD": str(library),
        }
        python = [sys.executable, "-m", "torture.doomed"]
        path = {"PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            [*alone, *python],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **cache, **one, **path},
            text=True,
        )

    def run(self, job: Job) -> Ended:
        """Run a job to its end."""
        return Ended(**self._ask({"job": asdict(job)}))

    def call(self, *words: str) -> None:
        """Run a program there, e.g. ``mount``."""
        self._ask({"call": words})

    def _ask(self, question: object) -> dict[str, object]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        answer: dict[str, object] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it; its mounts go with it."""
        self._process.kill()
        self._process.communicate()


def _serve() -> int | None:
    """Answer questions to their end; in a job's process, what it is to exit with."""
    import pytest
    import small_experiments
    import small_runs

    from fastretina.experiments import worker

    for name in COMMANDS.split():
        import_module(f"fastretina.{name}.command")
    for name in _MORE:
        import_module(name)
    patch = pytest.MonkeyPatch()
    patch.setattr("torchvision.models.resnet18", small_runs.small_network)
    patch.setattr("fastretina.metrics.bootstrap.RESAMPLES", 2)
    patch.setattr(worker, "_child", small_experiments.small_child)
    patch.setattr(worker, "_IMPORTED", small_runs.PRELOADED)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        question = json.loads(line)
        if "call" in question:
            subprocess.run(question["call"], check=True, stdout=sys.stderr)
            answer: object = {}
        else:
            job = Job(**question["job"])
            ended = _run(job)
            if isinstance(ended, int):
                return ended
            answer = asdict(ended)
        print(json.dumps(answer), file=answers, flush=True)
    return None


def _run(job: Job) -> Ended | int:
    """What has become of it; in its process, what that is to exit with."""
    if job.shared_memory is not None:
        size = f"size={job.shared_memory}"
        shm = ["mount", "-t", "tmpfs", "-o", size, "none", "/dev/shm"]
        subprocess.run(shm, check=True)
    processes = []
    for number in range(job.copies):
        process = os.fork()
        if not process:
            return _become(job, number)
        os.setpgid(process, process)
        processes.append(process)
    codes = _wait(processes, job.seconds)
    orphans = sum(_end_group(process) for process in processes) > 0
    if job.shared_memory is not None:
        subprocess.run(["umount", "-l", "/dev/shm"], check=True)
    return Ended(codes, orphans)


def _wait(processes: list[int], seconds: float) -> list[int | None]:
    codes: dict[int, int | None] = {}
    until = time.monotonic() + seconds
    while len(codes) < len(processes):
        for process in processes:
            if process in codes:
                continue
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                codes[process] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
                codes[process] = None
        time.sleep(0.01)
    return [codes[process] for process in processes]


def _end_group(group: int) -> bool:
    """Whether one of a group went on for too long; it is ended."""
    until = time.monotonic() + _GRACE
    try:
        while time.monotonic() < until:
            os.killpg(group, 0)
            time.sleep(0.02)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _become(job: Job, number: int) -> int:
    """Run the command in this process, which is the job's."""
    os.setpgid(0, 0)
    os.chdir(job.folder)
    none = os.open(os.devnull, os.O_RDONLY)
    os.dup2(none, 0)
    os.close(none)
    suffix = str(number or "")
    for target, name in ((1, "out"), (2, "err")):
        opened = os.open(name + suffix, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(opened, target)
        os.close(opened)
    for name, most in job.limits.items():
        hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1]
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, hard))
    if job.spare_memory is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + job.spare_memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    os.environ.update(job.environment)
    if job.environment:
        ctypes.CDLL(os.environ["LD_PRELOAD"]).faulty_arm()
    from fastretina.cli import main

    return main(list(job.words))


if __name__ == "__main__":
    raise SystemExit(_serve())
