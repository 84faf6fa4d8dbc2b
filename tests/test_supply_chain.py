"""What is installed is what was listed: versions with hashes, and known weaknesses."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
LISTS = [ROOT / "constraints.txt", ROOT / ".ci" / "pip-audit.txt"]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def entries(path: Path) -> list[tuple[Requirement, list[str]]]:
    """The requirements of a list, each with its hashes."""
    lines = [li for li in path.read_text().splitlines() if not li.startswith("#")]
    found = []
    for entry in "\n".join(lines).replace("\\\n", " ").splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", entry.strip())
        found.append((Requirement(requirement), hashes))
    return found


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.name)
def test_every_package_has_one_version_and_hashes(path: Path) -> None:
    assert len(entries(path)) > 20
    for requirement, hashes in entries(path):
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        for each in hashes:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", each.strip())


def environment(python: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "implementation_name": "cpython",
        "extra": "",
        "platform_python_implementation": "CPython",
    }


def holds(marker: Marker | None, python: str) -> bool:
    return marker is None or marker.evaluate(environment(python))


@pytest.mark.parametrize("python", PYTHONS)
def test_all_that_is_asked_for_is_listed_once(python: str) -> None:
    """For each Python, in a version that pyproject.toml takes."""
    listed: dict[str, Requirement] = {}
    for requirement, _ in entries(ROOT / "constraints.txt"):
        if holds(requirement.marker, python):
            name = canonicalize_name(requirement.name)
            assert name not in listed, f"{name} is listed twice for {python}"
            listed[name] = requirement
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dali"], *extras["dev"]]
    wanted += extras["export"]
    for each in map(Requirement, wanted):
        if each.name == "fastretina" or not holds(each.marker, python):
            continue
        version = str(listed[canonicalize_name(each.name)].specifier).removeprefix("==")
        assert version in each.specifier, each


def test_setup_installs_by_hash_and_nothing_else() -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.partition("$(READY): ")[2].partition("\n\n")[0]
    assert "$(PIP) --require-hashes -r constraints.txt" in recipe
    assert "$(PIP) --no-build-isolation -e ." in recipe
    assert re.search(r"^PIP := .* --no-deps$", makefile, re.M)
    installs = [li for li in makefile.splitlines() if "pip install" in li]
    assert len(installs) == 1


# --- known vulnerabilities -----------------------------------------------------------


@pytest.fixture
def audit() -> SimpleNamespace:
    path = ROOT / ".ci" / "vulnerabilities.py"
    return SimpleNamespace(**runpy.run_path(str(path)))


def package(name: str, *found: tuple[str, list[str]]) -> dict[str, Any]:
    vulns = [{"id": one, "fix_versions": fixes} for one, fixes in found]
    return {"name": name, "version": "1.0", "vulns": vulns}


UNKNOWN = {"name": "b", "skip_reason": "Dependency not found on PyPI"}


def test_what_is_mended_elsewhere_fails(audit: SimpleNamespace) -> None:
    good = {"dependencies": [package("a"), UNKNOWN]}
    lines, code = audit.judge(good)
    assert code == 0
    about = "pip-audit: 0 known vulnerabilities in 1 packages"
    assert lines == [f"{about}, 1 are unknown to the database"]
    bad = {"dependencies": [package("a", ("PYSEC-1", ["1.1"]), ("PYSEC-2", []))]}
    lines, code = audit.judge(bad)
    assert code == 1
    assert "a 1.0: PYSEC-1, mended in 1.1" in lines
    assert "a 1.0: PYSEC-2, no version has mended it yet" in lines
    without = {"dependencies": [package("a", ("PYSEC-2", []))]}
    assert audit.judge(without)[1] == 0


def test_a_database_that_knows_nothing_was_not_reached(audit: SimpleNamespace) -> None:
    assert audit.judge({"dependencies": [UNKNOWN]}) is None
    assert audit.judge({"dependencies": []}) is None


def test_ci_goes_on_without_a_database(tmp_path: Path) -> None:
    """And says so; what pip-audit prints then is no report."""
    folder = tmp_path / ".ci"
    folder.mkdir()
    script = folder / "vulnerabilities.py"
    script.write_text((ROOT / ".ci" / "vulnerabilities.py").read_text())
    tool = tmp_path / ".venv-audit" / "bin" / "pip-audit"
    tool.parent.mkdir(parents=True)
    answers = {"": 0, "Traceback": 0, json.dumps({"dependencies": [UNKNOWN]}): 0}
    answers[json.dumps({"dependencies": [package("a", ("X", ["2"]))]})] = 1
    for answer, code in answers.items():
        tool.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\nexit 1\n")
        tool.chmod(0o755)
        done = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        if not code:
            assert done.stdout == (
                "pip-audit: no database could be reached; vulnerabilities were not "
                "looked up\n"
            )
