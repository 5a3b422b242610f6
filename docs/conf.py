"""How Sphinx builds these pages: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))  # the generated tables, which lie beside this file
import generated

project = "mobisim"
author = "The mobisim authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
html_theme = "furo"
html_title = "mobisim"
html_copy_source = False

default_role = "code"  # docstrings say `name`, as Markdown does
autodoc_typehints = "description"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
myst_heading_anchors = 3
myst_url_schemes = {
    "http": None,
    "https": None,
    "repo": "https://github.com/mobisim/mobisim/blob/main/{{path}}",
}


def fill(_: Sphinx, page: str, source: list[str]) -> None:
    """Fill the reference with what the code itself says."""
    if page.startswith("reference/"):
        template = Environment(undefined=StrictUndefined, autoescape=False)  # noqa: S701 - Markdown
        source[0] = template.from_string(source[0]).render(vars(generated))


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", fill)
