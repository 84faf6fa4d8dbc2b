"""Ask pip-audit for known vulnerabilities of the versions in constraints.txt.

A vulnerability that a newer version has mended fails; one without remedy is printed and
passes, as nothing can be done about it here. Where no database can be reached, that is
printed, and passes, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv-audit"
DATABASES = ("pypi", "osv")  # the second one where the first can't be reached
SECONDS = 180  # for each of them, and for installing


def judge(report: Mapping[str, Any]) -> tuple[list[str], int] | None:
    """Lines to print, and the exit code; None where the database knew no package.

    Args:
        report: what ``pip-audit --format json`` prints.
    """
    packages = report["dependencies"]
    known = [package for package in packages if "vulns" in package]
    if not known:
        return None
    lines, code = [], 0
    for package in known:
        for found in package["vulns"]:
            fixes = ", ".join(found["fix_versions"])
            code |= bool(fixes)
            what = f"{package['name']} {package['version']}: {found['id']}"
            remedy = f"mended in {fixes}" if fixes else "no version has mended it yet"
            lines.append(f"{what}, {remedy}")
    left = len(packages) - len(known)
    unknown = f", {left} are unknown to the database" if left else ""
    lines.append(
        f"pip-audit: {len(lines)} known vulnerabilities in {len(known)} packages"
        f"{unknown}"
    )
    return lines, code


def ask(database: str) -> dict[str, Any] | None:
    """The report by one of ``DATABASES``; None where it gives none."""
    output = run(
        *(VENV / "bin" / "pip-audit", "--vulnerability-service", database),
        *("--disable-pip", "--require-hashes", "-r", ROOT / "constraints.txt"),
        *("--format", "json", "--progress-spinner", "off", "--timeout", "5"),
    )
    try:
        report = json.loads(output or "")
    except ValueError:
        return None
    return report if isinstance(report, dict) else None


def run(*words: str | Path) -> str | None:
    """What a command prints to stdout; None where it takes too long."""
    try:
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, timeout=SECONDS
        )
    except (subprocess.TimeoutExpired, OSError):
        return None
    return done.stdout.decode(errors="replace")


def main(databases: Sequence[str] = DATABASES) -> int:
    if not (VENV / "bin" / "pip-audit").exists():
        venv.create(VENV, with_pip=True)
        python, wanted = VENV / "bin" / "python", ROOT / ".ci" / "pip-audit.txt"
        quiet = ("--quiet", "--disable-pip-version-check", "--no-deps")
        run(python, "-m", "pip", "install", *quiet, "--require-hashes", "-r", wanted)
    for database in databases:
        report = ask(database)
        judged = report and judge(report)
        if judged:
            print(*judged[0], sep="\n")
            return judged[1]
    print("pip-audit: no database could be reached; vulnerabilities were not looked up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
