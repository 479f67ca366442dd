"""Every link between the project's own pages leads to a file and a heading that exist.

`make docs` checks the site; this also checks what is not in it, and needs no Sphinx.
"""

import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in (
        "*.md",
        ".github/**/*.md",
        "benchmarks/**/*.md",
        "deploy/**/*.md",
        "docs/**/*.md",
    )
    for page in ROOT.glob(pattern)
)
OWN_PATH = re.compile(r"(src|tests|docs|deploy|benchmarks|requirements)/[\w./-]*")


@cache
def inline(text: str) -> Sequence[Token]:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    return [child for token in tokens for child in token.children or ()]


def targets(text: str) -> list[str]:
    found = [token.attrGet("href") or token.attrGet("src") for token in inline(text)]
    return [target for target in found if isinstance(target, str)]


@cache
def headings(text: str) -> set[str]:
    """Anchors as forges make them: lower case, hyphens, a number behind a repeated one."""
    tokens = MarkdownIt().parse(text)
    anchors: set[str] = set()
    for opening, token in pairwise(tokens):
        if opening.type == "heading_open":
            words = "".join(part.content for part in token.children or ())
            slug = re.sub(r"[^\w\- ]", "", words.lower()).strip().replace(" ", "-")
            repeats = sum(anchor == slug or anchor.startswith(f"{slug}-") for anchor in anchors)
            anchors.add(f"{slug}-{repeats}" if slug in anchors else slug)
    return anchors


def dead_links(page: Path, text: str) -> list[str]:
    dead = []
    for target in targets(text):
        link = urlsplit(target)
        if link.scheme or link.netloc:
            continue
        file = (page.parent / unquote(link.path)).resolve() if link.path else page
        if not file.is_relative_to(ROOT) or not file.exists():
            dead.append(f"{target}: there is no such file")
        elif link.fragment and link.fragment not in headings(
            text if file == page else file.read_text()
        ):
            dead.append(f"{target}: there is no such heading")
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert dead_links(page, page.read_text()) == []


# A changelog may name what is gone.
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "CHANGELOG.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_path_named_in_a_page_exists(page: Path) -> None:
    named = {token.content for token in inline(page.read_text()) if token.type == "code_inline"}
    paths = {name for name in named if OWN_PATH.fullmatch(name)}
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("[a](docs/nowhere.md)", "no such file"),
        ("![a](docs/nowhere.svg)", "no such file"),
        ("[a](../outside.md)", "no such file"),
        ("[a](docs/operations.md#nowhere)", "no such heading"),
        ("[a](#nowhere)", "no such heading"),
    ],
)
def test_a_dead_link_is_found(link: str, said: str) -> None:
    (found,) = dead_links(ROOT / "README.md", f"# Start\n\n{link} and [b](#start)")
    assert said in found
