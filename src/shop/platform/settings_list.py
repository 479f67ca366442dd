"""Every setting with its value and where that came from. Secrets are masked."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel

from shop.platform import secret_files
from shop.platform.settings import PREFIX, Settings

MASK = "********"

# Names of librdkafka's are among them: sasl.password, ssl.key.pem, ssl.keystore.password.
_SECRET = re.compile(
    r"(password|secrets?|tokens?|_pem|(encryption|private|api)_key|credentials?)$", re.IGNORECASE
)


class Shown(NamedTuple):
    name: str
    value: str
    origin: str
    """`default`, the variable's name, or the file's path."""


def is_secret(name: str) -> bool:
    """By the name of its variable."""
    return bool(_SECRET.search(name))


def masked(name: str, value: object) -> str:
    """As it may be shown: a secret, and a password in a URL, are not."""
    if value is None or value in ("", (), {}):
        return ""
    if is_secret(name):
        return MASK
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(one) for one in value)
    return _without_password(str(value))


def listed(settings: Settings) -> Iterator[Shown]:
    """All of them, the services' sections last. A free section (`SHOP_KAFKA__…`) has what is set."""
    placed = secret_files.files(os.environ, PREFIX)
    for name, value in flat(settings, PREFIX):
        origin = placed.get(name) or (name if name in os.environ else "default")
        yield Shown(name, masked(name, value), str(origin))


def flat(model: BaseModel, prefix: str = PREFIX) -> Iterator[tuple[str, Any]]:
    """Each setting by the name of its variable, with its value."""
    later: list[tuple[str, Any]] = []
    for field, info in type(model).model_fields.items():
        value, name = getattr(model, field), f"{prefix}{field.upper()}"
        if isinstance(value, BaseModel):
            later += flat(value, f"{name}__")
        elif get_origin(info.annotation) is dict and isinstance(value, Mapping):
            later += [(f"{name}__{key.upper()}", each) for key, each in sorted(value.items())]
        else:
            yield name, value
    yield from later


def _without_password(text: str) -> str:
    """Also where libpq takes one from: `?password=…`."""
    parts = urlsplit(text) if "://" in text else None
    if parts is None:
        return text
    account, at, server = parts.netloc.rpartition("@")
    if ":" in account:
        text = text.replace(parts.netloc, f"{account.partition(':')[0]}:{MASK}{at}{server}", 1)
    return re.sub(r"((?:^|[?&;])(?:ssl)?password=)[^&]*", rf"\1{MASK}", text)
