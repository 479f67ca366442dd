"""What a log may say of an error: never the values of rows, events or requests."""

import json

import psycopg
import pytest
from pydantic import BaseModel, ValidationError

from eventspine.error_text import text_of, traceback_of
from tests.support.databases import NewDatabase

SECRET = "Lovelace"


class _Aged(BaseModel):
    age: int


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("CREATE TEMP TABLE a (name text CHECK (name = '')); INSERT INTO a VALUES (%s)", "a_name_check"),
        ("CREATE TEMP TABLE a (name text UNIQUE); INSERT INTO a VALUES (%s), (%s)", "a_name_key"),
        ("SELECT %s::text::bigint", "invalid input syntax for type bigint"),
        ("SELECT %s::text::jsonb", "invalid input syntax for type json"),
    ],
)  # fmt: skip
def test_an_error_of_the_database_is_told_without_the_row(
    new_database: NewDatabase, statement: str, says: str
) -> None:
    with psycopg.ClientCursor(psycopg.connect(new_database(None))) as cursor:
        with pytest.raises(psycopg.Error) as failed:
            cursor.execute(statement.encode(), [SECRET] * statement.count("%s"))
        cursor.connection.close()
    assert SECRET in str(failed.value)
    for told in (text_of(failed.value), traceback_of(failed.value)):
        assert SECRET not in told
        assert says in told


def test_a_refused_value_is_told_without_it() -> None:
    with pytest.raises(ValidationError) as failed:
        _Aged.model_validate_json(json.dumps({"age": SECRET}))
    assert SECRET in str(failed.value)
    assert text_of(failed.value).startswith("age: Input should be a valid integer")


def test_a_traceback_has_what_led_to_the_error() -> None:
    def broken() -> None:
        try:
            _Aged.model_validate({"age": SECRET})
        except ValidationError as error:
            raise RuntimeError("outer") from error

    with pytest.raises(RuntimeError) as failed:
        broken()
    told = traceback_of(failed.value)
    assert (
        told.index("age: Input should be") < told.index("direct cause") < told.rindex("in broken")
    )
    assert told.endswith("RuntimeError: outer")
    assert SECRET not in told


def test_a_group_has_each_of_its_errors() -> None:
    told = traceback_of(ExceptionGroup("two", [ValueError("first"), OSError("second")]))
    assert "ValueError: first" in told and "OSError: second" in told
