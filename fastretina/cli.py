"""What every command shares: flags from a dataclass, exit codes, the JSON line.

A command is a frozen dataclass of options and a function that takes it and returns
what goes into the last line of stdout. Exit codes: 0 done, 1 an expected failure (one
``error:`` line), 2 wrong usage, 130 interrupted by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from fastretina import __version__
from fastretina.interrupts import Heeding, interrupts_heeded
from fastretina.lack import describe_lack
from fastretina.progress import hushed
from fastretina.terminal import plain_output, printable
from fastretina.wall_clock import part, wall_clock, with_wall_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMANDS = {
    "shard": "turn a folder of graded photographs into verified shards",
    "train": "fine-tune a ResNet on shards",
    "evaluate": "repeat a run's evaluation, every test sample once",
    "predict": "grade single photographs with a run's model",
    "report": "write a run's or an experiment's page and model card",
    "export": "write a run's network as an ONNX file",
    "experiments": "train and compare many runs, as the course report did",
    "audit": "find leaks, copies and conflicting grades; split by patient",
    "parity": "prove that a loader equals plain PIL",
    "doctor": "tell what limits training here, and which loader to take",
    "demo": "draw made-up photographs to try everything with",
}

_QUIET = "--quiet"  # of every command: a flag that is none of its options
_ABOUT_QUIET = "Add --quiet for no progress on stderr; warnings and errors stay."
_NO_NUMBER = (  # what Python and tyro say of a value, and what it should be
    (r"invalid literal for int\(\) with base 10: (.*)", "a whole number"),
    (r"could not convert string to float: (.*)", "a number"),
    (r"no type matching \S*INT\S* could be .* from \[(.*)\]", "a whole number"),
    (r"no type matching \S*FLOAT\S* could be .* from \[(.*)\]", "a number"),
)

Options = TypeVar("Options")


class WrongUsage(Exception):
    """What was typed can't be meant; the text is the line that says why."""


class ReportedElsewhere(Exception):
    """A failure that another rank tells of.

    Attributes:
        code: to exit with.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def run(
    command: Callable[[Options], Mapping[str, Any] | None],
    options: type[Options],
    argv: Sequence[str] | None,
    *,
    prog: str,
    about: str,
    default: Options | None = None,
) -> int:
    """Parse ``argv`` into ``options``, run ``command``, print its result as JSON.

    Args:
        command: does the work; progress goes to stderr, tables to stdout. What it
            returns is printed, if anything, with the seconds that it took by part.
        options: a frozen dataclass whose ``__post_init__`` raises ``ValueError`` for
            what can't be meant.
        argv: the words after the program's name; ``None`` takes them from the shell.
        prog: what the user typed.
        about: one paragraph for ``--help``, with an example.
        default: values of the flags that are not given.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    words = [word for word in given if word != _QUIET]

    def work() -> Mapping[str, Any] | None:
        if "--version" in words:
            print(f"fastretina {__version__}")
            return None
        try:
            text = f"{about.rstrip()}\n\n{_ABOUT_QUIET}"
            parsed = parse(options, words, prog=prog, about=text, default=default)
        except ValueError as error:
            if not is_first_rank():  # which was given the same words
                raise ReportedElsewhere(2) from None
            raise WrongUsage(f"{error}; see {prog} --help") from error
        if parsed is None:
            return None
        with plain_output():
            result = command(parsed)
        return None if result is None else with_wall_seconds(result)

    with hushed(_QUIET in given), wall_clock(of_process=argv is None):
        return guard(work)


def guard(work: Callable[[], Mapping[str, Any] | None]) -> int:
    """Run ``work`` and turn its outcome into an exit code and one last line."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # paths may hold bytes of any kind
        sys.stdout.reconfigure(errors="backslashreplace")
    with interrupts_heeded() as heeding:
        try:
            return _outcome(work, heeding)
        except KeyboardInterrupt as stop:
            heeding.done = True
            reason = f": {printable(str(stop))}" if str(stop) else ""
            print(f"interrupted{reason}", file=sys.stderr)
            return exit_code(stop)


def _outcome(work: Callable[[], Mapping[str, Any] | None], heeding: Heeding) -> int:
    """The exit code of ``work``, but for Ctrl-C; what it has to say is printed."""
    from loaders.errors import DataError  # with NumPy: too slow to begin with

    try:
        result = _attempt(work, heeding)
        if result is not None:
            print(json.dumps(result))
        sys.stdout.flush()
        heeding.done = True  # all is said
    except ReportedElsewhere as silent:
        return silent.code
    except (WrongUsage, DataError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return exit_code(error)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        lack = describe_lack(error)
        print(f"error: {printable(lack or describe_os_error(error))}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError, ImportError) as error:
        if (lack := describe_lack(error)) is None:
            raise
        print(f"error: {printable(lack)}", file=sys.stderr)
        return 1
    return 0


def _attempt(
    work: Callable[[], Mapping[str, Any] | None], heeding: Heeding
) -> Mapping[str, Any] | None:
    """Its result; where it fails, but for an interrupt that waits, that comes first."""
    try:
        return work()
    except Exception:
        heeding.check()
        raise


def exit_code(error: BaseException) -> int:
    """What a command exits with after this error."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, WrongUsage) else 1


def is_first_rank() -> bool:
    """Whether this process may speak before the ranks have joined."""
    return os.environ.get("RANK", "0") == "0"


def describe_os_error(error: OSError) -> str:
    """The system's complaint with the file it is about, e.g. a full disk."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def parse(
    options: type[Options],
    argv: Sequence[str],
    *,
    prog: str,
    about: str,
    default: Options | None,
) -> Options | None:
    """The options; None where ``--help`` was asked for, which is printed.

    Raises:
        ValueError: they can't be meant, with all that is to be said in one line.
    """
    with part("imports"):
        import tyro

    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            if default is None:
                return tyro.cli(options, args=argv, prog=prog, description=about)
            return tyro.cli(
                options, args=argv, prog=prog, description=about, default=default
            )
    except SystemExit as stop:
        if not stop.code:
            return None
        error = stop.__context__  # ours, from __post_init__, is better than its box
        plain = str(error) if type(error) is ValueError else _unboxed(output.getvalue())
        raise ValueError(plain) from None


def _unboxed(box: str) -> str:
    """The one line that matters of what tyro draws a box around, in ASCII or not."""
    rows = [row.strip("\u2502 ") for row in box.splitlines()[1:]]  # less the title
    parts = [list(part) for rule, part in groupby(rows, _is_rule) if not rule]
    message = " ".join(parts[0] if parts else rows)
    message = re.sub(r"^Error parsing \w+: (?=--)", "", message.rstrip("."))
    if "Perhaps you meant:" in rows:
        flag = rows[rows.index("Perhaps you meant:") + 1].split()[0].rstrip(",")
        message += f" (perhaps {flag}?)"
    return _in_plain_words(message[:1].lower() + message[1:])


def _in_plain_words(message: str) -> str:
    """The same without Python's words for a value that is no number."""
    for theirs, ours in _NO_NUMBER:
        found = re.fullmatch(rf"error parsing (--\S+): {theirs}", message)
        if found:
            return f"{found[1]} must be {ours}, got {found[2]}"
    unknown = message.removeprefix("unrecognized options: ")
    if unknown != message and "-" not in (word[:1] for word in unknown.split(", ")):
        return f"{message} (the flag before it may be missing)"
    return message


def _is_rule(row: str) -> bool:
    return not row.strip("\u2500-")  # or a blank line


def main(argv: Sequence[str] | None = None, *, prog: str = "fastretina") -> int:
    """The ``fastretina`` console command: one word, then that command's flags."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        name, more = words[0], words[1:]
        return _start(name, more, prog=f"{prog} {name}", of_process=argv is None)
    return guard(lambda: _describe_commands(prog, words[0] if words else ""))


def open_door(name: str) -> int:
    """What ``python -m fastretina.NAME`` runs; returns the exit code."""
    prog = f"python -m fastretina.{name}"
    return _start(name, sys.argv[1:], prog=prog, of_process=True)


def _start(name: str, words: Sequence[str], *, prog: str, of_process: bool) -> int:
    """Run a command, whose import takes long enough to be interrupted."""
    with (
        interrupts_heeded(to_the_end=of_process) as heeding,
        wall_clock(of_process=of_process),
    ):
        try:
            with part("imports"):
                command = import_module(f"fastretina.{name}.command")
            heeding.check()
            code: int = command.main(words, prog=prog)
            heeding.done = True
        except KeyboardInterrupt:
            heeding.done = True
            print("interrupted", file=sys.stderr)
            return 130
        return code


def _describe_commands(prog: str, word: str) -> None:
    if word == "--version":
        print(f"fastretina {__version__}")
    elif word in ("-h", "--help"):
        print(f"usage: {prog} COMMAND [--help] ...\n")
        for name, about in COMMANDS.items():
            print(f"  {name:<13}{about}")
        print(f"\nExample: {prog} shard data/ shards/")
    else:
        got = f"unknown command {word!r}" if word else "a command must be given"
        raise WrongUsage(f"{got}: one of {', '.join(COMMANDS)}; see {prog} --help")
