"""Settings from files, so that no secret is in the environment."""

import os
from typing import Any

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsError

from shop.platform import environment, secret_files


class FromFiles(PydanticBaseSettingsSource):
    """`SHOP_A__B_FILE=path` sets a.b to the content of the file. Raises `SettingsError`."""

    def __init__(self, settings: type[BaseSettings], prefix: str) -> None:
        super().__init__(settings)
        self._prefix = prefix

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError(field, field_name)

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        known = set(environment.names(self.settings_cls, self._prefix))
        for variable, path in secret_files.files(os.environ, self._prefix).items():
            if f"{variable}_FILE" in known:
                continue  # a setting that is a path itself
            *parents, name = variable[len(self._prefix) :].lower().split("__")
            into = values
            for parent in parents:
                into = into.setdefault(parent, {})
            try:
                into[name] = secret_files.content(path)
            except (OSError, UnicodeDecodeError) as error:
                why = getattr(error, "strerror", "it is not text")
                named = f"{variable}_FILE" if f"{variable}_FILE" in os.environ else variable
                raise SettingsError(f"{named}: cannot read {path}: {why}") from error
        return values
