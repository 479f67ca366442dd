"""The table of metrics in `docs/operations.md`, generated from their declarations.

python -m shop.platform.telemetry.metrics_table            prints it
python -m shop.platform.telemetry.metrics_table --write    writes it into docs/operations.md
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from shop.platform.telemetry.declared import ALL, Declared

PAGE = Path("docs/operations.md")
BEGIN = "<!-- metrics: written by `python -m shop.platform.telemetry.metrics_table --write` -->\n"
END = "<!-- metrics end -->\n"

_HEAD = ("| metric | kind | labels | in | what it is |", "| --- | --- | --- | --- | --- |")


def table() -> str:
    """The table in Markdown, in the order of the declarations."""
    return "".join(f"{line}\n" for line in (*_HEAD, *_rows()))


def page_with(page: str) -> str:
    """`page` with the table between the two markers. Raises `ValueError` if the markers are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no lines {BEGIN.strip()} and {END.strip()}; put them back")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _rows() -> Iterator[str]:
    for of in ALL:
        labels = ", ".join(f"`{label}`" for label in of.labels)
        yield f"| `{of.name}` | {of.kind} | {labels} | {of.of} | {of.description}{_bounds(of)} |"


def _bounds(of: Declared) -> str:
    if not of.bounds:
        return ""
    return f". Buckets from {of.bounds[0]:g} to {of.bounds[-1]:g}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        sys.stdout.write(table())
