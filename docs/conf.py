"""The configuration of Sphinx for the documentation site: `make docs`."""

import pkgutil
import re
from importlib import import_module
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

PACKAGES = ("eventspine", "shop")

# All modules are imported before autodoc reads the first class. autodoc changes the annotations of a class's
# parents, and Pydantic can't build a model on a changed `BaseModel`.
for package in PACKAGES:
    for found in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
        if "migrations" not in found.name and not found.name.endswith("__main__"):
            import_module(found.name)

project = "eventshop"
release = version = installed("eventshop")
author = "the eventshop authors"
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
]

# Pages and their links are Markdown in the form that a forge shows: `page.md#the-heading`.
myst_heading_anchors = 4

# The API reference: a page for each module, from its docstrings. `make docs` writes docs/reference.
_AUTOMODULE = {"members", "show-inheritance"}
apidoc_modules = [
    {
        "path": f"../src/{package}",
        "destination": f"reference/{package}",
        "exclude_patterns": ["**/migrations/*", "**/__main__.py"],
        "automodule_options": _AUTOMODULE,
        "separate_modules": True,
        "module_first": True,
    }
    for package in PACKAGES
]
autodoc_member_order = "bysource"
# `Name` in a docstring becomes a link if the name exists, and code if not.
default_role = "py:obj"

html_theme = "furo"
html_title = f"eventshop {release}"
html_static_path: list[str] = []
html_show_sphinx = False
html_copy_source = False


def _from_markdown(_app: Sphinx, *args: Any) -> None:
    """Translate docstrings, which are Markdown-like: `name`s, and code that is indented by four."""
    lines: list[str] = args[-1]
    text = re.sub(r"(`[^`\n]+`)(?=\w)", r"\1\\ ", "\n".join(lines))
    text = re.sub(r"\n\n(?=    \S)", "\n\n::\n\n", text)
    lines[:] = text.split("\n")


_FROM_ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//[^"]*"
      | <link\b[^>]*\bhref="(?:https?:)?//[^"]*"
      | url\(["']?(?:https?:)?//[^)]*\)
      | @import[^;]*//[^;]*;""",
    re.VERBOSE,
)


def _needs_no_network(app: Sphinx, failure: Exception | None) -> None:
    """Check that scripts, styles, fonts and images come from the site itself, so that it works offline."""
    if failure is not None:
        return
    for file in sorted(Path(app.outdir).rglob("*")):
        if file.suffix in {".html", ".css"} and (found := _FROM_ELSEWHERE.search(file.read_text())):
            # A warning makes `make docs` fail.
            logging.getLogger(__name__).warning("%s loads from another server: %s", file, found[0])


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", _from_markdown)
    app.connect("build-finished", _needs_no_network)
