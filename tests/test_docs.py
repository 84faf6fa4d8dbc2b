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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


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
