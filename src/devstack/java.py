"""Settings and paths in the form that Java needs."""

import os
import struct
from collections.abc import Mapping


def properties(settings: Mapping[str, str]) -> str:
    """The settings as Java properties: Latin-1 in every locale, and other characters as escapes."""

    def escaped(value: str) -> str:
        units = value.replace("\\", "\\\\").encode("utf-16-be", "surrogatepass")
        numbers = struct.unpack(f">{len(units) // 2}H", units)
        return "".join(chr(n) if 0x20 <= n < 0x7F else f"\\u{n:04x}" for n in numbers)  # noqa: PLR2004

    return "".join(f"{key}={escaped(value)}\n" for key, value in settings.items())


def utf_8() -> dict[str, str]:
    """The environment for Java, without the shop's settings. Java decodes paths by the locale, so this sets UTF-8."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("SHOP_")}
    return {**others, "LC_ALL": "C.UTF-8"}
