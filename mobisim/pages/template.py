"""Pages from templates: escaped, in one file, and allowed nothing but what they hold themselves."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent
STATIC = HERE / "static"


@cache
def environment() -> Environment:
    """The templates of this room; what is not marked as safe is escaped."""
    found = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["breakable"] = breakable
    return found


def breakable(path: str) -> Markup:
    """A path that may be broken after its dots and underscores, escaped."""
    return Markup("<wbr>").join(re.split(r"(?<=[._])", path))


@cache
def asset(name: str) -> str:
    """The text of a style sheet or script of this room."""
    return (STATIC / name).read_text("utf-8")


def whole_page(
    template: str, styles: str, script: str, *, connect: str = "'none'", **content: Any
) -> str:
    """A page in one file: style sheet and script are in it, and its policy lets in nothing else.

    `connect` is whom the script may ask.
    """
    # Our own files, whose very bytes the policy names: the only text that is not escaped.
    inline = {"styles": Markup(styles), "script": Markup(script)}  # noqa: S704
    policy = policy_of(styles, script, connect)
    return environment().get_template(template).render(policy=policy, **inline, **content)


def policy_of(styles: str, script: str, connect: str = "'none'") -> str:
    """A content security policy that allows these very texts, pictures within the page, no more."""
    return (
        f"default-src 'none'; img-src data:; style-src {digest(styles)}; "
        f"script-src {digest(script)}; connect-src {connect}; base-uri 'none'; form-action 'none'"
    )


def digest(text: str) -> str:
    """How a content security policy names an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
