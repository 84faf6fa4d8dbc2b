"""Templates to text: HTML that fetches nothing and trusts no name, and Markdown."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from fastretina import __version__

STYLE, SCRIPT = "report.css", "report.js"


def html(template: str, values: Mapping[str, object]) -> str:
    """A page with its style, its script, and a policy that allows nothing else.

    Args:
        template: Name of a template in ``fastretina/report/assets``.
        values: What the template shows; all text in it is escaped.
    """
    style, script = asset(STYLE), asset(SCRIPT)
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    return (
        _page_environment()
        .get_template(template)
        .render(
            **values,
            style=Markup(style),
            script=Markup(script),
            policy=policy,
            version=__version__,
        )
    )


def markdown(template: str, values: Mapping[str, object]) -> str:
    """A Markdown file, in which no value can end its line or begin an HTML tag."""
    return (
        _card_environment().get_template(template).render(**values, version=__version__)
    )


@lru_cache
def asset(name: str) -> str:
    """The content of a text file of ``fastretina/report/assets``."""
    return (files("fastretina.report") / "assets" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """SHA-256 in the form that a Content-Security-Policy takes."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _page_environment() -> Environment:
    return Environment(
        loader=FunctionLoader(asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _card_environment() -> Environment:
    return Environment(
        loader=FunctionLoader(asset),
        autoescape=False,
        finalize=_escape_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _escape_markdown(value: object) -> object:
    """Text on one line, without what begins a tag, makes a link or ends a cell."""
    if not isinstance(value, str):
        return value
    text = " ".join(value.split()).replace("&", "&amp;").replace("<", "&lt;")
    # Of [a](b), ![a](b), [a][b] and of what they refer to, [b]: c.
    return re.sub(r"\](?=[(\[:])", "&#93;", text).replace("|", "\\|")
