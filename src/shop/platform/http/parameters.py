"""The parameters of a fast route: of its path, its query and its headers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from pydantic_core import ValidationError

from shop.platform.problems import Invalid, reason


class Parameter(NamedTuple):
    name: str
    alias: str
    required: bool
    default: Any
    adapter: TypeAdapter[Any]
    wire_name: bytes


def parameters(fields: list[Any]) -> list[Parameter]:
    return [
        Parameter(
            field.name,
            field.alias,
            field.field_info.is_required(),
            None if field.field_info.is_required() else field.field_info.get_default(),
            TypeAdapter(field.field_info.rebuild_annotation()),
            field.alias.lower().encode(),
        )
        for field in fields
    ]


def header(parameter: Parameter, given: Mapping[bytes, bytes]) -> Any:
    """Raises `Invalid`, as `validated` does."""
    raw = given.get(parameter.wire_name)
    if raw is None:
        return parameter.default
    return validated(parameter, raw.decode("latin-1"), "header")


def validated(parameter: Parameter, raw: str, where: str) -> Any:
    try:
        return parameter.adapter.validator.validate_python(raw)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        raise Invalid.field(where, parameter.alias, reason(detail)) from None
