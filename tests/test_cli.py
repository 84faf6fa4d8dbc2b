"""What every command promises: exit codes, one line for a mistake, JSON last."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_runs import without_seconds

from fastretina import __version__, cli
from fastretina.shard import command as shard
from loaders.errors import LabelError

ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "scripts" / "shard.py")
Run = Callable[..., tuple[int, list[str], list[str]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    size: int = 7
    """A size."""

    name: str = "none"
    """A name."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"--size must be at least 1, got {self.size}")


def run(
    command: Callable[[Options], Any],
    argv: Sequence[str] = (),
    default: Options | None = None,
) -> int:
    return cli.run(command, Options, argv, prog="prog", about="About.", default=default)


def raising(error: BaseException) -> Callable[[Options], Any]:
    def command(_: Options) -> Any:
        raise error

    return command


def test_result_is_the_last_line_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    def command(options: Options) -> dict[str, Any]:
        print("a table")
        return {"size": options.size, "name": options.name}

    assert run(command, ["--size", "3"]) == 0
    out, err = capsys.readouterr()
    table, line = out.splitlines()
    assert (table, without_seconds(line)) == ("a table", '{"size": 3, "name": "none"}')
    assert err == ""


def test_default_options(capsys: pytest.CaptureFixture[str]) -> None:
    def command(options: Options) -> dict[str, Any]:
        return {"size": options.size, "name": options.name}

    assert run(command, ["--name=x"], Options(size=9)) == 0
    line = json.loads(capsys.readouterr().out)
    assert set(line.pop("wall_seconds")) >= {"total", "imports", "other"}
    assert line == {"size": 9, "name": "x"}


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (LabelError("no labels"), 1, "error: no labels"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a/b"),
            1,
            "error: a/b: No space left on device",
        ),
        (OSError(errno.EIO, "Input/output error"), 1, "error: Input/output error"),
        (OSError("odd"), 1, "error: odd"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("saved"), 130, "interrupted: saved"),
        (cli.WrongUsage("not so"), 2, "error: not so"),
    ],
)
def test_failure_is_one_line_and_an_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(raising(error)) == code
    assert capsys.readouterr() == ("", line + "\n")


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (MemoryError(), "not enough memory"),
        (RuntimeError("x: can't allocate memory: you tried\nto"), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to"), "not enough memory"),
        (RuntimeError("can't start new thread"), "no further thread"),
        (OSError(errno.EMFILE, "Too many open files", "a"), "(ulimit -n 1024)"),
        (ImportError("libx.so: cannot allocate memory"), "not enough memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by"), "a worker process"),
        (
            RuntimeError("unable to mmap 99 bytes from file </torch_7>: x (12)"),
            "not enough memory",
        ),
        (
            RuntimeError("unable to allocate shared memory(shm) for file </torch_1>"),
            "not enough shared memory",
        ),
    ],
)
def test_what_the_machine_lacks_is_one_line(
    error: Exception, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(raising(error)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert part in err
    assert err.count("\n") == 1


def test_name_of_a_file_is_no_reason(capsys: pytest.CaptureFixture[str]) -> None:
    missing = FileNotFoundError(errno.ENOENT, "No such file", "/out of memory.csv")
    assert run(raising(missing)) == 1
    err = capsys.readouterr().err
    assert err == "error: /out of memory.csv: No such file\n"


@pytest.mark.parametrize(
    "error", [RuntimeError("ours"), KeyError("ours"), AssertionError("ours")]
)
def test_bug_of_ours_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match="ours"):
        run(raising(error))


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--size", "0"], "--size must be at least 1, got 0"),
        (["--size", "x"], "--size must be a whole number, got 'x'; see prog"),
        (["--size", "1.5"], "--size must be a whole number, got '1.5'; see prog"),
        (["--size"], "missing value for argument '--size'"),
        (["--sise", "3"], "unrecognized options: --sise, 3 (perhaps --size?)"),
        (["3"], "unrecognized options: 3 (the flag before it may be missing)"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    argv: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(raising(AssertionError("not to be run")), argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {line}")
    assert err.endswith("; see prog --help\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_wrong_usage_in_any_encoding(encoding: str) -> None:
    """Tyro's box is drawn with other characters where the terminal has none of them."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--wokers", "3"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: unrecognized options: --wokers, 3 (perhaps --workers?); "
        "see python scripts/shard.py --help\n"
    )


def test_help_and_version_run_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    command = raising(AssertionError("not to be run"))
    assert run(command, ["--help"]) == 0
    out, err = capsys.readouterr()
    assert "About." in out
    assert "(default: 7)" in out
    assert err == ""
    assert run(command, ["--size", "0", "--version"]) == 0
    assert capsys.readouterr() == (f"fastretina {__version__}\n", "")


# What takes longer to import than an answer may take. Of NumPy this is a tenth of it.
SLOW = {"torch", "torchvision", "cv2", "pyarrow", "simplejpeg", "PIL", "webdataset"}
SLOW |= {"scipy", "sklearn", "matplotlib", "jinja2", "safetensors", "tensorboard"}
# They import up to 400, of which NumPy's are 86; torch would bring 1,000 more.
MOST_MODULES = 530


def imported_by(code: str, *words: str) -> tuple[int, str, set[str]]:
    """Run code in another process: exit code, stdout, packages that are imported."""
    report = (
        "import atexit, sys\n"
        "atexit.register(lambda: sys.stderr.write('\\n' + ' '.join(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", report + code, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return done.returncode, done.stdout, set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("word", ["--help", "--version", "--nonsense"])
@pytest.mark.parametrize("module", ["shard.command", "cli"])
def test_help_and_version_import_nothing_slow(module: str, word: str) -> None:
    code = f"from fastretina.{module} import main; sys.exit(main([{word!r}]))"
    exit_code, _, modules = imported_by(code)
    assert exit_code == (2 if word == "--nonsense" else 0)
    assert f"fastretina.{module}" in modules
    assert not SLOW & modules
    assert len(modules) < MOST_MODULES


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_module_can_be_run_and_its_help_imports_nothing_slow(name: str) -> None:
    code = f"import runpy; runpy.run_module('fastretina.{name}', run_name='__main__')"
    exit_code, out, modules = imported_by(code, "--help")
    assert exit_code == 0
    assert out.startswith(f"usage: python -m fastretina.{name} ")
    assert f"fastretina.{name}.command" in modules
    assert not SLOW & modules
    assert len(modules) < MOST_MODULES


# The flags of `fastretina shard`


def test_shard_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert shard.main(["--help"]) == 0
    out = capsys.readouterr().out
    text = " ".join(out.replace("│", " ").split())
    assert "Example: fastretina shard data/ shards/" in text
    assert "DATA SHARDS" in text
    assert "(default: 512)" in text
    assert "(default: all cores granted)" in text
    assert "{course,kaggle,aptos,folders,tars}" in text
    for word in ("crop", "clahe", "graham", "quality 95", "pixels"):
        assert word in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "two folders must be given, DATA and SHARDS"),
        ("a", "two folders must be given, DATA and SHARDS"),
        ("a b c", "unrecognized options: c"),
        ("a a", "SHARDS must be another folder than DATA, got a"),
        (
            f"{'a' * 99} {'a' * 99}",
            f"SHARDS must be another folder than DATA, got {'a' * 99};",
        ),
        ("a a/../a", "SHARDS must be another folder than DATA"),
        ("a b --verify c", "--verify must stand alone"),
        ("--verify", "missing value for argument '--verify'"),
        ("a b --workers 0", "--workers must be 1 to 1,024, got 0"),
        ("a b --workers x", "--workers must be a whole number, got 'x'"),
        ("a b --samples-per-shard 0", "--samples-per-shard must be 1 to "),
        ("a b --size 7", "--size must be 8 to 8,192, got 7"),
        ("a b --size 9999", "--size must be 8 to 8,192, got 9,999"),
        ("a b --seed -1", "--seed must be 0 to"),
        ("a b --test-share 1", "--test-share must lie between 0 and 1, got 1.0"),
        ("a b --test-share nan", "--test-share must lie between 0 and 1, got nan"),
        ("a b --layout cars", "invalid choice 'cars' for argument '--layout'"),
        ("a b --preprocess blur", "--preprocess must be some of crop,clahe,graham"),
        ("a b --preprocess crop,", "--preprocess must be some of crop,clahe,graham"),
        ("a b --preprocess crop clahe", "unrecognized options: clahe"),
        ("a b --shuffle", "unrecognized options: --shuffle"),
    ],
)
def test_shard_with_wrong_flags(
    words: str,
    line: str,
    run_shard: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run_shard(*words.split())
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith(f"error: {line}")
    assert err[0].endswith("; see fastretina shard --help")
    assert not list(tmp_path.iterdir())


def test_shards_that_are_data_by_another_name(course: Path, tmp_path: Path, run_shard):
    (tmp_path / "link").symlink_to(course)
    assert run_shard(course, tmp_path / "link")[0] == 2


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", ()),
        ("crop", ("crop",)),
        ("graham,crop", ("crop", "graham")),
        ("crop,crop", ("crop",)),
    ],
)
def test_shard_steps(text: str, steps: tuple[str, ...]) -> None:
    options = shard.Options(data=Path("a"), shards=Path("b"), preprocess=text)
    assert options.steps == steps


# The console command


def test_console_command_dispatches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def main(argv: list[str], *, prog: str) -> int:
        seen.append((argv, prog))
        return 5

    for name in cli.COMMANDS:
        monkeypatch.setitem(
            sys.modules, f"fastretina.{name}.command", SimpleNamespace(main=main)
        )
        assert cli.main([name, "--help", "x"]) == 5
        assert seen.pop() == (["--help", "x"], f"fastretina {name}")


def test_console_command_names_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["shard", "--size", "1", "a", "b"]) == 2
    assert capsys.readouterr().err.endswith("; see fastretina shard --help\n")


@pytest.mark.parametrize("words", [[], ["frobnicate"], ["--frobnicate"], ["", "shard"]])
def test_console_command_without_a_command(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert "shard, train, evaluate, predict" in err
    assert all(word in err for word in words)


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_console_command_help(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([word]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name, about in cli.COMMANDS.items():
        assert f"{name:<13}{about}" in out
    assert "Example: " in out


def test_console_command_can_be_run_as_a_module() -> None:
    def run(*words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "fastretina", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert out.startswith("usage: python -m fastretina COMMAND")
    assert run("--version")[:2] == (0, f"fastretina {__version__}\n")
    for words in ([], ["shard", "--size", "1", "a", "b"]):
        code, out, err = run(*words)
        named = " ".join(["python -m fastretina", *words[:1]])
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.endswith(f"; see {named} --help\n")


@pytest.mark.parametrize(
    "door", [[SCRIPT], ["-m", "fastretina.shard"], ["-m", "fastretina", "shard"]]
)
def test_every_door_to_sharding_shards(
    door: list[str], course: Path, tmp_path: Path
) -> None:
    """Its workers are processes, which must not open the door a second time."""
    done = subprocess.run(
        [sys.executable, *door, course, tmp_path / "out", "--workers", "5"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["shards"] == str(tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").exists()


def test_console_command_is_installed() -> None:
    command = Path(sys.executable).with_name("fastretina")
    if not command.exists():
        pytest.skip("fastretina is not installed in this environment")
    done = subprocess.run([command, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"fastretina {__version__}\n")


# A reader that has seen enough


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["DATA", "OUT"]])
def test_broken_pipe_is_quiet(words: list[str], course: Path, tmp_path: Path) -> None:
    places = {"DATA": str(course), "OUT": str(tmp_path / "out")}
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, SCRIPT, *(places.get(word, word) for word in words)],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1
    assert (tmp_path / "out" / "manifest.json").exists() == ("DATA" in words)


def test_head_in_a_shell(course: Path, tmp_path: Path) -> None:
    command = f"set -o pipefail; {sys.executable} {SCRIPT} {course} out | head -1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout.startswith("train ")
    assert done.stdout.count("\n") == 1


def test_output_in_any_encoding(tmp_path: Path) -> None:
    """A path that the terminal can't show is shown somehow."""
    folder = tmp_path / "Größe"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from fastretina import cli\n"
            "cli.guard(lambda: print('Größe \\udcff') or {'a': 1})",
        ],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        cwd=folder.parent,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'Gr\\xf6\\xdfe \\udcff\n{"a": 1}\n'
