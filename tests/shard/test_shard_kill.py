"""Killed at any moment and started again: the same bytes, and never a half shard."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from fastretina.processes import in_processes
from fastretina.shard import command as shard
from loaders.errors import DataError

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "shard.py"
Read = Callable[[Path], dict[str, bytes]]
NUM_SHARDS = 30


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, make_course) -> Path:
    """500 + 100 photographs of 256 pixels, made of 24 different ones."""
    root = tmp_path_factory.mktemp("many")
    few = make_course(root / "few", 20, 4, 256)
    sources = sorted((few / "data").iterdir())
    for grade in range(5):
        for split, count in (("train", 100), ("test", 20)):
            folder = root / "many" / split / str(grade)
            folder.mkdir(parents=True)
            for n in range(count):
                source = sources[(n + grade) % len(sources)]
                (folder / f"{split}{grade}{n}_left.jpeg").hardlink_to(source)
    return root / "many"


@pytest.fixture(scope="module")
def whole(many: Path, tmp_path_factory: pytest.TempPathFactory, read_folder: Read):
    """What an uninterrupted run writes."""
    folder = tmp_path_factory.mktemp("whole")
    assert shard.main(words(many, folder, workers=1)) == 0
    written: dict[str, bytes] = read_folder(folder)
    assert len([name for name in written if name.endswith(".tar")]) == NUM_SHARDS
    return written


def words(data: Path, folder: Path, workers: int) -> list[str]:
    flags = ["--samples-per-shard", "20", "--workers", str(workers)]
    return [str(data), str(folder), *flags]


@contextlib.contextmanager
def started(data: Path, folder: Path, workers: int) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own, as from a terminal."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *words(data, folder, workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_until(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.001)


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def tars(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tar"))


def stamp(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def check_interrupted(folder: Path, whole: dict[str, bytes]) -> None:
    """Every final name holds the final bytes, and nothing claims to be a data set."""
    assert not (folder / "manifest.json").exists()
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith("."):
            assert path.read_bytes() == whole[path.name], path.name
    for marker in (folder / ".progress").glob("t*.json"):
        assert (folder / marker.stem).exists(), "a marker says that its shard is whole"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 8])
def test_killed_again_and_again(
    workers: int, many: Path, whole: dict[str, bytes], tmp_path: Path, read_folder: Read
) -> None:
    folder = tmp_path / "out"
    for number in (0, 1, 6, 11, 18):
        with started(many, folder, workers) as process:
            wait_until(folder.exists, process)
            wait_until(lambda n=number: len(tars(folder)) >= n, process)
            workers_then = psutil.Process(process.pid).children(recursive=True)
            process.kill()  # the parent alone
            assert process.wait() == -signal.SIGKILL
            end = time.monotonic() + 20
            while any(map(alive, workers_then)):
                assert time.monotonic() < end, "an orphan lives on"
                time.sleep(0.01)
        check_interrupted(folder, whole)

    markers = [path.stem for path in (folder / ".progress").glob("t*.json")]
    finished = {name: stamp(folder / name) for name in markers}
    assert finished
    with started(many, folder, workers) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    result = json.loads(out.splitlines()[-1])
    assert result["shards_written"] == NUM_SHARDS - len(finished)
    assert result["samples"] == 600
    assert {name: stamp(folder / name) for name in finished} == finished
    assert read_folder(folder) == whole


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1, 0.2])
def test_killed_after_a_while(
    delay: float, many: Path, whole: dict[str, bytes], tmp_path: Path, read_folder: Read
) -> None:
    """While the workers are being started, mostly."""
    folder = tmp_path / "out"
    with started(many, folder, 8) as process:
        wait_until((folder / ".progress" / "plan.json").exists, process)
        time.sleep(delay)
        before = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        end = time.monotonic() + 20
        while any(map(alive, before)):
            assert time.monotonic() < end, "an orphan lives on"
            time.sleep(0.01)
    if not (folder / "manifest.json").exists():  # on a fast machine it may be done
        check_interrupted(folder, whole)
    assert shard.main(words(many, folder, 1)) == 0
    assert read_folder(folder) == whole


@pytest.mark.parametrize(
    ("when", "workers"),
    [("plan", 1), ("third shard", 1), ("third shard", 2), ("third shard", 8)]
    + [(delay, 8) for delay in (0.0, 0.03, 0.06, 0.12)],
)
def test_ctrl_c(
    when: str | float,
    workers: int,
    many: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    read_folder: Read,
) -> None:
    folder = tmp_path / "out"
    with started(many, folder, workers) as process:
        wait_until((folder / ".progress" / "plan.json").exists, process)
        if isinstance(when, float):  # after the first worker has been started
            parent = psutil.Process(process.pid)
            wait_until(lambda: len(parent.children()) > 1, process)  # one is a tracker
            time.sleep(when)
        elif when == "third shard":
            wait_until(lambda: len(tars(folder)) >= 3, process)
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # to all of them, as a terminal does
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 3
    assert process.returncode == 130
    assert err == "interrupted: the same command goes on where it was\n"
    assert out == ""
    check_interrupted(folder, whole)
    assert not list(folder.glob(".*.part"))
    markers = (folder / ".progress").glob("t*.json")
    finished = {folder / path.stem: stamp(folder / path.stem) for path in markers}
    assert len(finished) >= 2 * (when == "third shard")
    assert shard.main(words(many, folder, 1)) == 0
    assert {path: stamp(path) for path in finished} == finished
    assert read_folder(folder) == whole


@pytest.mark.parametrize("end", ["closed", "error"])
def test_workers_are_not_waited_for(end: str) -> None:
    """Neither after a Ctrl-C nor after an error, such as a full disk."""
    began = time.monotonic()
    run = in_processes(time.sleep, [0 if end == "closed" else -1, 60, 60], 2)
    if end == "closed":
        assert next(run) == (0, None)
        run.close()
    else:
        with pytest.raises(ValueError, match="non-negative"):
            next(run)
    assert time.monotonic() - began < 20


def test_worker_that_is_killed_ends_all() -> None:
    began = time.monotonic()
    texts = ["import os; os.kill(os.getpid(), 9)", "import time; time.sleep(60)"]
    with pytest.raises(DataError, match="perhaps for want of memory"):
        list(in_processes(exec, texts, 2))
    assert time.monotonic() - began < 20


def test_damaged_shard_of_an_unfinished_set_is_written_again(
    many: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    read_folder: Read,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "out"
    with started(many, folder, 1) as process:
        wait_until(lambda: len(tars(folder)) >= 8, process)
        process.kill()
    markers = sorted((folder / ".progress").glob("t*.json"))
    names = [path.stem for path in markers]
    with (folder / names[0]).open("r+b") as tar:
        tar.seek(2000)
        tar.write(b"damage")
    os.truncate(folder / names[1], 5000)
    (folder / names[2]).unlink()
    (folder / names[3]).with_suffix(".idx").unlink()
    markers[4].write_text("{")
    markers[5].write_text("[]")
    markers[6].write_text('{"name": "train-000000.tar"}')
    assert shard.main(words(many, folder, 2)) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["shards_written"] == NUM_SHARDS - len(names) + 7
    assert read_folder(folder) == whole


def test_other_command_than_the_one_that_was_killed(
    many: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    read_folder: Read,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "out"
    with started(many, folder, 1) as process:
        wait_until(lambda: len(tars(folder)) >= 3, process)
        process.kill()
    before = read_folder(folder)
    other = [*words(many, folder, 1), "--seed", "5"]
    assert shard.main(other) == 1
    err = capsys.readouterr().err
    assert "unfinished data set; pass --overwrite" in err
    assert err.count("\n") == 1
    after = read_folder(folder)
    assert {name: after[name] for name in before if ".part" not in name} == {
        name: content for name, content in before.items() if ".part" not in name
    }
    (folder / ".progress" / "plan.json").write_text("{")  # not even that is readable
    assert shard.main(words(many, folder, 1)) == 1
    assert shard.main([*words(many, folder, 1), "--overwrite"]) == 0
    assert read_folder(folder) == whole


# Every single step of the way, in one process: an audit hook ends it before the n-th
# operation on the folder. SIGKILL at that moment leaves just what lies there then.
CRASHER = """
import os, shutil, sys
from pathlib import Path
from fastretina.shard import command as shard, data_set, verify  # before the forks
from fastretina.shard import replacing
import pyarrow.parquet
import webdataset

start, folder, data, overwrite, exchange = sys.argv[1:]
start, folder = Path(start), Path(folder)
above = folder.parent  # of nothing else
aside = replacing.aside_of(folder)
options = shard.Options(
    data=Path(data), shards=folder, samples_per_shard=3, workers=1,
    overwrite=bool(overwrite),
)
os.fsync = lambda file: None  # slow, and for power cuts only
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
exchange_names = replacing.exchange_names


def told(one, other):
    sys.audit("exchange", str(one))
    if not exchange:
        raise OSError("a mount point")
    exchange_names(one, other)
    sys.audit("exchange", str(one))


replacing.exchange_names = told
EVENTS.add("exchange")


def die_before(number):
    seen = 0

    def hook(event, args):
        nonlocal seen
        if event not in EVENTS or not str(args[0]).startswith(str(above)):
            return
        if event == "open" and args[1] in ("r", "rb"):
            return
        seen += 1
        if seen == number:
            os._exit(77)

    sys.addaudithook(hook)


def run(number):
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if number:
            die_before(number)
        shard.command(options)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def look():
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*") if p.is_file()
    }


def reset():
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)
    if start.exists():
        shutil.copytree(start, folder)


reset()
old = look()
mine = "notes.txt" in old
assert run(0) == 0
new = look()
assert "manifest.json" in new
for number in range(1, 1000):
    reset()
    code = run(number)
    left = look()
    if code == 0:
        assert left == new
        break
    assert code == 77, code
    beside = {str(p.relative_to(aside)) for p in aside.rglob("*")}
    assert mine == ("notes.txt" in left.keys() | beside), number
    left.pop("notes.txt", None)
    old.pop("notes.txt", None)
    known = {name for name in left if not name.startswith(".")}
    if "manifest.json" in left:
        whole = old if left["manifest.json"] == old.get("manifest.json") else new
        whole = {name: whole[name] for name in whole if name != "notes.txt"}
        assert {name: left[name] for name in known} == whole, number
    else:
        assert not (old and exchange), (number, "neither the old nor the new")
        for name in known:
            assert left[name] in (old.get(name), new.get(name)), (number, name)
    markers = [name for name in left if name.startswith(".progress/t")]
    code = run(0)
    assert code == 0, (number, code)
    again = look()
    assert again == new, (number, again.keys() ^ new.keys())
    assert not aside.exists(), number
print("points:", number - 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "before",
    ["nothing", "another data set", "another that can't be exchanged", "tars"],
)
def test_killed_before_every_single_step(
    before: str, make_course, tmp_path: Path
) -> None:
    data, start = make_course(tmp_path / "data", 7, 3, 16), tmp_path / "start"
    if before == "tars":
        assert shard.main([str(data), str(tmp_path / "shards")]) == 0
        data = tmp_path / "tars"
        data.mkdir()
        for tar in tars(tmp_path / "shards"):
            shutil.copy(tar, data)
    if before.startswith("another"):
        other = make_course(tmp_path / "other", 14, 3, 16)
        flags = ["--workers=1", "--samples-per-shard=3"]
        assert shard.main([str(other), str(start), *flags]) == 0
        (start / "notes.txt").write_text("mine")
    folder, overwrite = tmp_path / "above" / "out", "yes" * start.exists()
    folder.parent.mkdir()
    exchange = "yes" * (before == "another data set")
    done = subprocess.run(
        [sys.executable, "-c", CRASHER, start, folder, data, overwrite, exchange],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    points = int(done.stdout.rpartition(":")[2])
    assert points >= 40, "so many steps are worth a kill"


# Tars without an index: unpacked first, and again after a kill


@pytest.fixture(scope="module")
def unindexed(whole: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory):
    """The tars of a data set, and nothing else."""
    folder = tmp_path_factory.mktemp("unindexed")
    for name, content in whole.items():
        if name.endswith(".tar"):
            (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    unindexed: Path, tmp_path_factory: pytest.TempPathFactory, read_folder: Read
) -> dict[str, bytes]:
    """What an uninterrupted run makes of them."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert shard.main(words(unindexed, folder, workers=1)) == 0
    return read_folder(folder)


@pytest.mark.parametrize("moment", ["unpacking", "unpacked", "third shard", "manifest"])
def test_killed_over_tars(
    moment: str,
    unindexed: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    read_folder: Read,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, folder = unindexed, tmp_path / "out"
    unpacked = folder / ".unpacked.part"
    happened: dict[str, Callable[[], object]] = {
        "unpacking": lambda: len(list(unpacked.glob("images/*"))) > 50,
        "unpacked": (folder / ".progress" / "plan.json").exists,
        "third shard": lambda: len(tars(folder)) >= 3,
        "manifest": (folder / "manifest.json").exists,
    }
    with started(data, folder, 2) as process:
        wait_until(happened[moment], process)
        process.kill()
        code = process.wait()
    if moment != "manifest":  # at which it may just have ended
        assert code == -signal.SIGKILL
        assert list(unpacked.glob("images/*"))
        check_interrupted(folder, undisturbed)
    capsys.readouterr()
    assert shard.main(words(data, folder, 1)) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["samples"] == 600
    if moment == "third shard":
        assert result["shards_written"] < NUM_SHARDS
    assert read_folder(folder) == undisturbed


@pytest.mark.parametrize("moment", ["unpacking", "third shard"])
def test_ctrl_c_over_tars(moment: str, unindexed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    unpacked = folder / ".unpacked.part"
    with started(unindexed, folder, 2) as process:
        if moment == "unpacking":
            wait_until(lambda: len(list(unpacked.glob("images/*"))) > 50, process)
        else:
            wait_until(lambda: len(tars(folder)) >= 3, process)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.startswith("interrupted")
    assert not unpacked.exists()
    assert folder.exists() == (moment == "third shard")
