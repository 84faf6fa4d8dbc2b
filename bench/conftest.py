"""What the benchmarks share: the images, the races, and how they are reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.data import BenchData, prepare
from bench.entrant import Entrant, EntrantResult
from bench.race import Rules, RunRace, race
from bench.replay import Benchmark, HandOver, clock
from bench.rows import BenchmarkRun
from bench.tables import summary
from loaders.cores import granted_cores
from loaders.shards import MANIFEST

if TYPE_CHECKING:
    from fastretina.measure.rounds import FinishLine

_IMAGES, _ROUNDS = 512, 5
_FULL_IMAGES, _FULL_ROUNDS = 2048, 9
_SMALL_IMAGES, _SMALL_ROUNDS = 40, 1


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastretina")
    group.addoption(
        "--shards",
        type=Path,
        help="shards to benchmark on; by default demo photographs, drawn once",
    )
    group.addoption(
        "--full",
        action="store_true",
        help=f"{_FULL_ROUNDS} rounds of up to {_FULL_IMAGES:,} images instead of "
        f"{_ROUNDS} of {_IMAGES}, and more threads and other batch sizes, too",
    )
    group.addoption(
        "--small",
        action="store_true",
        help="only show that it all runs: no figure of it means anything",
    )
    group.addoption("--images", type=int, help="images in a round, instead of these")
    group.addoption("--rounds", type=int, help="rounds, instead of these")
    group.addoption(
        "--no-peers", action="store_true", help="leave out the loaders of others"
    )


def pytest_configure(config: pytest.Config) -> None:
    if not getattr(config.option, "benchmark_only", False):
        return
    shards = config.getoption("shards")
    if shards is not None and not (shards / MANIFEST).exists():
        raise pytest.UsageError(
            f"--shards: {shards} holds no data set; scripts/shard.py makes one"
        )
    for name, least in (("images", _SMALL_IMAGES), ("rounds", 1)):
        value = config.getoption(name)
        if value is not None and value < least:
            raise pytest.UsageError(f"--{name} must be at least {least}, got {value}")
    if config.option.benchmark_json is None:  # for bench.report
        path = Path(config.rootpath) / ".benchmarks" / "latest.json"
        path.parent.mkdir(exist_ok=True)
        config.option.benchmark_json = str(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # a race is run in the set-up of its first entrant
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(0))


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, object]
) -> None:
    import torch

    from fastretina.measure import machine

    assert config.cache is not None
    cache = Path(config.cache.mkdir("fastretina"))
    card = machine.host_facts().summary() | machine.disk_facts(cache).summary()
    if torch.cuda.is_available():
        card |= machine.gpu_facts(torch.device("cuda")).summary()
    else:
        card["GPU"] = "none"
    machine_info["card"] = card | machine.package_facts().summary()


def pytest_benchmark_generate_json(
    config: pytest.Config,
    benchmarks: list[object],
    include_data: bool,
    machine_info: dict[str, object],
    commit_info: dict[str, object],
) -> None:
    commit_info["skipped"] = _skipped


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    file = getattr(config.option, "benchmark_json", None)
    if file is None or not Path(file).exists():
        return
    try:
        run: BenchmarkRun = json.loads(Path(file).read_text())
    except ValueError:  # no benchmark has run
        return
    terminalreporter.section("images/s, beside the ceiling of the same round")
    terminalreporter.write(summary(run))
    terminalreporter.write(f"\npython -m bench.report {file}  # table, plots\n")


_skipped: dict[str, str] = {}  # names of entrants, with the reason


@pytest.fixture(scope="session")
def photographs(pytestconfig: pytest.Config) -> Path:
    """A course-format folder of demo photographs of 512 pixels, drawn once."""
    from fastretina.demo import command as demo

    assert pytestconfig.cache is not None
    folder = Path(pytestconfig.cache.mkdir("fastretina")) / "photographs"
    assert demo.main([str(folder), "--images", "650"]) == 0
    return folder


@pytest.fixture(scope="session")
def shards(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Path:
    """The shards to take images from."""
    given: Path | None = pytestconfig.getoption("shards")
    if given is not None:
        return given
    from fastretina.shard import command as shard

    photographs: Path = request.getfixturevalue("photographs")
    folder = photographs.parent / "shards"
    assert shard.main([str(photographs), str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def data(pytestconfig: pytest.Config, shards: Path) -> BenchData:
    """The images, laid out for all entrants."""
    sizes = (_SMALL_IMAGES, _IMAGES, _FULL_IMAGES)
    images = pytestconfig.getoption("images") or _number_for(pytestconfig, sizes)
    assert pytestconfig.cache is not None
    return prepare(shards, images, Path(pytestconfig.cache.mkdir("fastretina")))


@pytest.fixture(scope="session")
def jpegs(data: BenchData) -> list[bytes]:
    """The bytes of all images, in memory."""
    return [file.read_bytes() for file in data.files]


@pytest.fixture(scope="session")
def rules(pytestconfig: pytest.Config, data: BenchData) -> Rules:
    """The rules of every race of this session; what is going on is printed."""
    numbers = (_SMALL_ROUNDS, _ROUNDS, _FULL_ROUNDS)
    rounds: int | None = pytestconfig.getoption("rounds")
    reporter = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")
    assert reporter is not None
    assert capture is not None

    def report_progress(text: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.write(f"\n  {text}")

    small = pytestconfig.getoption("small")
    return Rules(
        num_rounds=rounds or _number_for(pytestconfig, numbers),
        num_openings=1 if small else 3,
        start="forkserver" if small else "spawn",
        logs=data.logs,
        report_progress=report_progress,
    )


@pytest.fixture(scope="session")
def decode_rules(rules: Rules, jpegs: list[bytes]) -> Rules:
    """The session's rules, with libjpeg-turbo alone on all granted cores as ceiling."""
    from fastretina.measure.ceilings import decode_only

    return replace(rules, ceiling=lambda _: decode_only(jpegs, granted_cores()))


def _number_for(config: pytest.Config, values: tuple[int, int, int]) -> int:
    """The value for ``--small``, for neither flag, or for ``--full``."""
    small, usual, full = values
    if config.getoption("small"):
        return small
    return full if config.getoption("full") else usual


@pytest.fixture(scope="module")
def run_race(request: pytest.FixtureRequest) -> RunRace:
    """``race`` for those that ``-k`` has left, and for what their ceiling is."""
    names = {
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.getparent(pytest.Module) is request.node
    }

    def run(entrants: Sequence[Entrant], rules: Rules) -> dict[str, EntrantResult]:
        wanted = names | {rules.ceiling_of}
        chosen = [entrant for entrant in entrants if entrant.name in wanted]
        return {result.entrant.name: result for result in race(chosen, rules)}

    return run


@pytest.fixture(scope="module")
def loader_results(
    request: pytest.FixtureRequest,
    run_race: RunRace,
    data: BenchData,
    decode_rules: Rules,
) -> dict[str, EntrantResult]:
    """What all loaders took to the module's finish line.

    First batches, memory and the page cache are looked at on the way to *batch*.
    """
    from bench.peers import all_entrants

    line: FinishLine = request.module.LINE
    rules = replace(decode_rules, files=data.all_files)
    if line != "batch":
        rules = replace(decode_rules, num_openings=0, memory=False)
    return run_race(all_entrants(data, line, request.config), rules)


@pytest.fixture
def hand_over(benchmark: Benchmark) -> HandOver:
    """Hand an entrant's rounds to pytest-benchmark, or skip with its reason."""

    def to_benchmark(line: str, results: dict[str, EntrantResult], name: str) -> None:
        if name not in results:
            pytest.skip("left out")
        result = results[name]
        if not result.rounds or result.error:
            _skipped[f"{line}: {name}"] = result.error
            if result.entrant.kind != "peer" and "not installed" not in result.error:
                pytest.fail(f"{name}: {result.error}")
            pytest.skip(f"{name}: {result.error}")
        benchmark.group = line
        benchmark.extra_info.update(result.row(line))
        clock.hand_over(benchmark, [timed.seconds for timed in result.rounds])

    return to_benchmark
