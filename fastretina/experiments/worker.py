"""One run of an experiment, in a process of its own.

What one run does to its process (a crash, a CUDA error, memory) is not the next one's
trouble. The process ends with its parent, however that ends, and the run goes on from
its last checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from multiprocessing import connection, context, forkserver, get_context
from pathlib import Path

from fastretina import cli
from fastretina.interrupts import Stopper, interrupts_held
from fastretina.processes import end_with
from fastretina.progress import hushed, is_quiet
from fastretina.train.options import TrainOptions
from loaders.errors import DataError

# What the server that forks a run's process has imported. It computes nothing itself:
# so a run begins at once, in a process that knows of no other run.
_IMPORTED = [
    "fastretina.experiments.run_server",  # first
    "fastretina.train.command",
    "fastretina.train.finish",
    "loaders.decode",
    "torch._dynamo",  # which the first step of an optimizer imports
    "torch.utils.tensorboard",
    "pyarrow.parquet",
]
_POLL = 0.2  # seconds between two looks at whether a signal has come


def run_in_process(options: TrainOptions, log: Path, stopper: Stopper) -> str | None:
    """Train one run, or go on with it, and wait for its end.

    Args:
        options: the flags of the run.
        log: the file that gets what the run prints on stdout.
        stopper: in force from the start of the run's process on, and asked every 0.2 s;
            the run is then asked to save and stop.

    Returns:
        None where it is done, or else why it is not, in one line.

    Raises:
        KeyboardInterrupt: it was asked to stop, and has saved, or has not begun.
    """
    forking = get_context("forkserver")
    forking.set_forkserver_preload(_IMPORTED)
    parent_end, our_end = forking.Pipe(duplex=False)
    receiver, sender = forking.Pipe(duplex=False)
    process = forking.Process(
        target=_child,
        args=(options, log, is_quiet(), parent_end, sender),
        name=str(options.out),
    )
    with interrupts_held():  # the server would end in the midst of its imports
        forkserver.ensure_running()
    try:
        process.start()  # waits for those, and may be interrupted
    except (EOFError, ConnectionError):
        return "the server that begins runs was killed, perhaps for want of memory"
    sender.close()  # so that its end is noticed when the child's copy goes
    with stopper:
        return _watched(process, receiver, our_end, stopper)


def _watched(
    process: context.ForkServerProcess,
    receiver: connection.Connection,
    our_end: connection.Connection,
    stopper: Stopper,
) -> str | None:
    """Wait for a run's process; see ``run_in_process``."""
    stopping = answered = False
    error: str | None = None
    try:
        while not answered:
            try:
                if receiver.poll(_POLL):
                    error, answered = receiver.recv(), True
            except EOFError:
                break
            if stopper.asked and not stopping and process.pid:
                os.kill(process.pid, signal.SIGTERM)
                stopping = True
        process.join()
    finally:
        our_end.close()
        receiver.close()
        process.join()
    if stopper.asked:  # at the run's very end, too: the next one must not begin
        raise KeyboardInterrupt
    return error if answered else _describe_death(process.exitcode or 0)


def _describe_death(code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed, perhaps for want of memory"
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return f"its process ended {how}"


def _open_log(path: Path) -> int:
    """Open a file to append to; a link, which may lead out of the folder, is none."""
    return os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)


def _child(
    options: TrainOptions,
    log: Path,
    quiet: bool,
    parent: connection.Connection,
    result: connection.Connection,
) -> None:
    """Train in this process, and send what came of it: None, or why it failed."""
    os.setsid()  # Ctrl-C is the parent's to pass on, once
    end_with(parent)
    # Which the server has not heeded; from here on it is how the parent stops a run.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.dup2(_open_log(log), 1)
    from fastretina.train.command import command

    try:
        print(time.strftime("%Y-%m-%d %H:%M:%S"), options.out)
        with hushed(quiet):
            command(options)
        sys.stdout.flush()
        result.send(None)
    except (DataError, cli.WrongUsage) as error:
        result.send(str(error))
    except OSError as error:
        result.send(cli.describe_os_error(error))
    except KeyboardInterrupt:
        return  # it has saved; the parent knows why
    except BaseException as error:
        traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        first = str(error).partition("\n")[0]
        result.send(f"{type(error).__name__}: {first} (see {log})")
