"""The table of settings in `docs/operations.md`, with their meanings, defaults and limits.

It is generated from the models.

    python -m shop.platform.settings_table            prints it
    python -m shop.platform.settings_table --write    writes it into docs/operations.md
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from shop.platform import discovery
from shop.platform.settings import PREFIX, ApiSettings, ServiceSettings, Settings

PAGE = Path("docs/operations.md")
BEGIN = "<!-- settings: written by `python -m shop.platform.settings_table --write` -->\n"
END = "<!-- settings end -->\n"

_HEAD = ("| setting | default | values | what it is |", "| --- | --- | --- | --- |")
_UNITS = {
    "_ms": ((1000, "s"), (1, "ms")),
    "_s": ((86_400, "days"), (3600, "hours"), (60, "minutes"), (1, "s")),
}


def table(sections: Mapping[str, type[ApiSettings]]) -> str:
    """The table in Markdown: first the settings of services, then those of the platform."""
    rows = [*_of_services(sections), *(_row([name], [field]) for name, field in _platform())]
    return "".join(f"{line}\n" for line in (*_HEAD, *rows))


def page_with(page: str, rows: str) -> str:
    """`page` with `rows` between the two markers. Raises `ValueError` if the markers are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no lines {BEGIN.strip()} and {END.strip()}; put them back")
    return f"{before}{BEGIN}\n{rows}\n{END}{after}"


def _platform() -> Iterator[tuple[str, FieldInfo]]:
    yield from _fields(PREFIX, Settings)


def _fields(prefix: str, model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from _fields(f"{prefix}{name.upper()}__", section)
            continue
        free = "__…" if get_origin(field.annotation) is dict else ""
        yield f"{prefix}{name.upper()}{free}", field


def _of_services(sections: Mapping[str, type[ApiSettings]]) -> Iterator[str]:
    """A row for each setting. Settings that every service has share one row."""
    for field in ServiceSettings.model_fields:
        having = {
            name: section.model_fields[field]
            for name, section in sections.items()
            if field in section.model_fields
        }
        names = [f"{PREFIX}{name.upper()}__{field.upper()}" for name in having]
        yield _row(names, list(having.values()))
    for name, section in sections.items():
        for field, info in section.model_fields.items():
            if field not in ServiceSettings.model_fields:
                yield _row([f"{PREFIX}{name.upper()}__{field.upper()}"], [info])


def _row(names: list[str], fields: list[FieldInfo]) -> str:
    defaults = list(dict.fromkeys(_default(names[0], field) for field in fields))
    cells = (
        ", ".join(f"`{name}`" for name in names),
        ", ".join(default for default in defaults if default),
        _values(fields[0]),
        fields[0].description or "",
    )
    return f"| {' | '.join(cells)} |"


def _default(name: str, field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None or value in ("", (), {}):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`{_in_words(name, value)}"


def _in_words(name: str, value: Any) -> str:
    """A duration with its unit; nothing for other values, such as a number per second."""
    if name.lower().endswith("_per_s"):
        return ""
    for suffix, units in _UNITS.items():
        if value and name.lower().endswith(suffix):
            size, unit = next(
                (size, unit)
                for size, unit in units
                if size == 1 or (value % size == 0 and value > size)
            )
            return f" ({value // size} {unit})"
    return ""


def _values(field: FieldInfo) -> str:
    least = next((limit.ge for limit in _limits(field) if isinstance(limit, Ge)), None)
    most = next((limit.le for limit in _limits(field) if isinstance(limit, Le)), None)
    if field.annotation in (bool, bool | None):
        return "`true`, `false`"
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    if least is not None and most is not None:
        return f"{least} to {most}"
    return f"at least {least}" if least is not None else ""


def _limits(field: FieldInfo) -> Iterator[object]:
    """The limits of a field, also of an optional number: `Annotated[int, Field(ge=1)] | None`."""
    yield from field.metadata
    for part in get_args(field.annotation):
        for limit in getattr(part, "__metadata__", ()):
            yield from getattr(limit, "metadata", ())


if __name__ == "__main__":
    rows = table(discovery.sections())
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")
    else:
        sys.stdout.write(rows)
