"""The README and the pages under docs/: links lead somewhere, and it is short."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "bench" / "README.md", *ROOT.glob("docs/*.md")]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
SCRIPTS = [*ROOT.glob("scripts/*"), *ROOT.glob("bench/*.sh"), ROOT / "Makefile"]
SCRIPTS += [ROOT / ".ci" / "run"]
OURS = "tests|bench|scripts|docs|loaders|fastretina"
PATH = re.compile(rf"(?<![\w./-])(?:{OURS})/[\w./-]*\w")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize(
    "file",
    [path for path in (*PAGES, *SCRIPTS) if path.is_file()],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_paths_that_are_named_are_there(file: Path) -> None:
    named = PATH.findall(file.read_text())
    assert not [path for path in named if not (ROOT / path).exists()]


def test_paths_of_tests_are_seen() -> None:
    named = PATH.findall((ROOT / "scripts" / "pillow_simd.sh").read_text())
    assert "tests/loaders/test_parity.py" in named


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


def test_readme_names_commands_that_are_there() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"python -m fastretina\.(\w+)", text))
    assert len(named) >= 9  # and scripts/shard.py
    for name in named:
        assert (ROOT / "fastretina" / name / "__main__.py").is_file(), name


def test_pages_build_without_a_warning(tmp_path: Path) -> None:
    """With the API page, whose names must exist; a dead link is an error, too."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q"]
    done = subprocess.run(
        [*command, "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    api = (tmp_path / "site" / "api.html").read_text()
    for name in ("make_loader", "LoaderConfig", "train_step", "predict_split"):
        assert name in api
