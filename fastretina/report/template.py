"""Templates to text: HTML that fetches nothing and trusts no name, and Markdown."""

from __future__ import annotations

from base64 import b64encode
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from fastretina import __version__

STYLE, SCRIPT = "report.css", "report.js"


def html(template: str, values: dict[str, Any]) -> str:
    """A page with its style, its script, and a policy that allows nothing else.

    Args:
        template: of ``fastretina/report/assets``; what it shows is escaped.
        values: that it shows.
    """
    style, script = asset(STYLE), asset(SCRIPT)
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    return (
        _pages()
        .get_template(template)
        .render(
            **values,
            style=Markup(style),
            script=Markup(script),
            policy=policy,
            version=__version__,
        )
    )


def markdown(template: str, values: dict[str, Any]) -> str:
    """A Markdown file; no value can end its line or begin an HTML tag."""
    return _cards().get_template(template).render(**values, version=__version__)


@lru_cache
def asset(name: str) -> str:
    """A text file of ``fastretina/report/assets``."""
    return (files("fastretina.report") / "assets" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _pages() -> Environment:
    return Environment(
        loader=FunctionLoader(asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _cards() -> Environment:
    return Environment(
        loader=FunctionLoader(asset),
        autoescape=False,
        finalize=_inert,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _inert(value: object) -> object:
    if not isinstance(value, str):
        return value
    one_line = " ".join(value.split())
    return one_line.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
