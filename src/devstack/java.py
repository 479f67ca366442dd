"""What Java has to be told in a way of its own: settings and paths."""

import os
import struct
from collections.abc import Mapping


def properties(settings: Mapping[str, str]) -> str:
    """As Java reads them: in Latin-1, whatever the machine's encoding; all else by its number."""

    def escaped(value: str) -> str:
        units = value.replace("\\", "\\\\").encode("utf-16-be", "surrogatepass")
        numbers = struct.unpack(f">{len(units) // 2}H", units)
        return "".join(chr(n) if 0x20 <= n < 0x7F else f"\\u{n:04x}" for n in numbers)  # noqa: PLR2004

    return "".join(f"{key}={escaped(value)}\n" for key, value in settings.items())


def utf_8() -> dict[str, str]:
    """The environment for Java, to which a path is text in the locale's encoding."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}
