"""Ctrl-C ends a command with 130 and one line, whatever it comes upon."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from small_runs import PRELOADED, make_haste, words

from fastretina import cli
from fastretina.experiments import worker
from fastretina.interrupts import Stopper, interrupts_heeded
from fastretina.train import command as train
from fastretina.train.options import TrainOptions

ROOT = Path(__file__).parents[1]
# Python code that interrupts its own process when a module is about to be imported.
AT_IMPORT = """
import os, runpy, signal, sys
command, module, *words = sys.argv[1:]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = [command, *words]
runpy.run_module(f"fastretina.{command}", run_name="__main__")
"""


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def child(*argv: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python in another process, which heeds Ctrl-C and finds modules in a path."""
    return subprocess.run(
        [sys.executable, *argv],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}"},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_end_a_command_with_130_and_one_line(
    number: int, capsys: pytest.CaptureFixture[str]
):
    before = signal.getsignal(number)

    def work() -> None:
        os.kill(os.getpid(), number)
        threading.Event().wait(20)

    assert cli.guard(work) == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert signal.getsignal(number) is before


def test_sigterm_of_a_rank_is_torchruns(monkeypatch: pytest.MonkeyPatch):
    """It ends by it the ranks that wait for one that has failed, which tells why."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with interrupts_heeded():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) != signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_after_the_last_word_changes_nothing(number: int):
    text = f"os.kill(os.getpid(), {number:d})"
    done = child("-c", AFTER_ALL.format(text=text))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("fastretina ")


# A signal in the last lines of the main module, and in what Python does at exit.
AFTER_ALL = """
import atexit, os, sys
from fastretina import cli
atexit.register(lambda: {text})
sys.argv = ["demo", "--version"]
code = cli.open_door("demo")
{text}
sys.exit(code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_does_not_wait_for_a_long_import(tmp_path: Path, number: int):
    (tmp_path / "taken.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {number:d})\n"
        "for _ in range(6000):\n    time.sleep(0.01)\nprint('imported')"
    )
    done = child("-c", LONG_IMPORT, path=tmp_path)
    said = (done.returncode, done.stdout, done.stderr)
    assert said == (130, "", "interrupted\n")


LONG_IMPORT = """
from fastretina.interrupts import interrupts_heeded
with interrupts_heeded(to_the_end=True):
    import taken
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_while_the_server_of_runs_imports(tmp_path: Path, number: int):
    """A terminal sends it to the server, too, which does not heed it."""
    sign = tmp_path / "importing"
    (tmp_path / "slow_import.py").write_text(
        f"import time\nopen({str(sign)!r}, 'w').close()\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_SERVER, str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until(sign.exists)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    wait_until(lambda: not lives(process.pid))
    assert not (tmp_path / "run.log").exists(), "the run must not begin"


SLOW_SERVER = """
import sys
from pathlib import Path
from fastretina import cli
from fastretina.experiments import worker
from fastretina.interrupts import Stopper
from fastretina.train.options import TrainOptions
worker._IMPORTED[1:] = ["slow_import"]
run = Path(sys.argv[1])
options = TrainOptions(out=run)
sys.exit(cli.guard(
    lambda: worker.run_in_process(options, run.with_suffix(".log"), Stopper())
))
"""


def wait_until(happened: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


def lives(group: int) -> bool:
    """Whether a process group has any process left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_server_of_runs_that_was_killed_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def lost(_self: object) -> None:
        raise EOFError

    monkeypatch.setattr(worker, "_IMPORTED", PRELOADED)  # the one server's
    monkeypatch.setattr(ForkServerProcess, "start", lost)
    options = TrainOptions(out=tmp_path / "run")
    error = worker.run_in_process(options, tmp_path / "log", Stopper())
    assert error is not None
    assert error.startswith("the server that begins runs was")


def test_interrupt_that_a_destructor_swallows_comes_again(
    capsys: pytest.CaptureFixture[str],
):
    class Deaf:
        def __del__(self) -> None:
            interrupt()
            sum(range(1000))  # the handler runs here, and what it raises is ignored

    def work() -> None:
        Deaf()
        threading.Event().wait(20)

    assert cli.guard(work) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_interrupt_that_is_caught_by_all_and_sundry_comes_again():
    caught = []

    def work() -> None:
        for _ in range(3):
            try:
                interrupt()
                sum(range(1000))
            except BaseException:
                caught.append(1)
        threading.Event().wait(20)

    assert cli.guard(work) == 130
    assert len(caught) == 3


def test_interrupt_is_told_once_and_then_over(capsys: pytest.CaptureFixture[str]):
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        try:
            interrupt()
            sum(range(1000))
        except KeyboardInterrupt:
            raise KeyboardInterrupt("saved") from None

    assert cli.guard(work) == 130
    assert capsys.readouterr() == ("", "interrupted: saved\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupts_stay_as_they_are_where_they_are_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_heeded():
            interrupt()
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_interrupts_in_a_thread_are_the_main_threads():
    kept = []

    def work() -> None:
        with interrupts_heeded():
            kept.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert kept == [signal.getsignal(signal.SIGINT)]


def test_second_interrupt_of_a_stopper_is_insistent():
    def work() -> None:
        with Stopper() as stopper:
            interrupt()
            sum(range(1000))
            assert stopper.asked
            try:
                interrupt()
                sum(range(1000))
            except BaseException:
                pass
            threading.Event().wait(20)

    assert cli.guard(work) == 130


def finish_at_once(
    _options: TrainOptions, _log: Path, _quiet: bool, _parent: object, result: Any
) -> None:
    """A run's process that has nothing to do."""
    result.send(None)


class AskedAtTheEnd(Stopper):
    """Asked to stop when no run is there any more that could be told."""

    @property
    def asked(self) -> bool:
        return not multiprocessing.active_children()


def test_interrupt_at_the_end_of_a_run_keeps_the_next_from_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(worker, "_child", finish_at_once)
    monkeypatch.setattr(worker, "_IMPORTED", PRELOADED)  # the one server's
    options = TrainOptions(out=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        worker.run_in_process(options, tmp_path / "log", AskedAtTheEnd())
    assert worker.run_in_process(options, tmp_path / "log", Stopper()) is None


def test_interrupt_through_exec_exits_with_130(tmp_path: Path):
    """Of a plain KeyboardInterrupt ``python -m`` would end by the signal itself."""
    (tmp_path / "interrupted_command.py").write_text(
        "import os, signal, sys\nfrom fastretina import cli\n"
        "text = 'os.kill(os.getpid(), signal.SIGINT); sum(range(1000))'\n"
        "sys.exit(cli.guard(lambda: exec(text)))"
    )
    done = child("-m", "interrupted_command", path=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("ending", ["threading.Event().wait(20)", "1 / 0"])
def test_interrupt_waits_for_an_import(tmp_path: Path, ending: str):
    """As torch's C++ ends the process, where Python raises in the midst of it."""
    (tmp_path / "taken.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsum(range(1000))\n"
        "print('imported')"
    )
    text = f"import threading, taken; {ending}"
    run = f"sys.exit(cli.guard(lambda: exec({text!r})))"
    done = child("-c", f"import sys; from fastretina import cli; {run}", path=tmp_path)
    said = (done.returncode, done.stdout, done.stderr)
    assert said == (130, "imported\n", "interrupted\n")


@pytest.mark.parametrize("module", ["tyro", "numpy"])
@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "experiments"])
def test_interrupt_while_a_command_is_imported(command: str, module: str):
    done = child("-c", AT_IMPORT, command, module, "run", "image")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a ResNet18, two steps long."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        make_haste(patch)
        flags = ("--max-steps", 2, "--head-epochs", 0, "--image-size", 64)
        assert train.main(words(shards, folder, *flags)) == 0
    return folder


@pytest.mark.parametrize("module", ["torch", "fastretina.metrics.text"])
def test_interrupt_while_evaluate_works(module: str, run: Path):
    done = child("-c", AT_IMPORT, "evaluate", module, str(run))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "export"])
def test_interrupt_at_any_moment(
    command: str, run: Path, shards: Path, course: Path, tmp_path: Path
):
    """From the first import to the last line: 130 and one line, or all is said."""
    argv = {
        "train": words(shards, tmp_path / "new", "--image-size", 64),
        "evaluate": [str(run)],
        "predict": [str(run), str(course / "data")],
        "export": [str(run), "--out", str(tmp_path / "model.onnx")],
    }[command]
    moments = random.Random(0)
    for number in range(3 if command == "train" else 4):
        words_now = [word.replace("new", f"new{number}") for word in argv]
        process = subprocess.Popen(
            [sys.executable, "-c", WITH_A_SIGN, command, *words_now],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        threading.Event().wait(moments.uniform(0, 6))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        told = [line for line in err.splitlines() if "interrupted" in line]
        assert "Traceback" not in err
        assert process.returncode in (0, 130), err
        assert len(told) == (process.returncode == 130), err
        if process.returncode == 0:
            assert out.splitlines()[-1].startswith("{")


# Python itself and the first modules are not ours to guard.
WITH_A_SIGN = """
import runpy, sys
import fastretina.cli
command, *words = sys.argv[1:]
sys.argv = [command, *words]
print("begun", flush=True)
runpy.run_module(f"fastretina.{command}", run_name="__main__")
"""
