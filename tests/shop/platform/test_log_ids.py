"""Each line about a request has the ids of its trace and of the request, in JSON and for people."""

import asyncio
import io
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog
from pydantic import TypeAdapter, ValidationError

from eventspine.batching import Batcher
from shop.platform.log_ids import TRACEPARENT, note_request
from shop.platform.logging import configure_logging
from shop.platform.processes.api import Server
from shop.platform.settings import Settings
from tests.support.databases import NewDatabase
from tests.support.serving import serving

if TYPE_CHECKING:
    from shop.platform.service import Served

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-00", "x-request-id": "from-gateway"}
OWN = "0af7651916cd43dd8448eb211c80319c"

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def logged(stdout: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.getvalue().splitlines()]


def scope_with(headers: dict[str, str], **more: str) -> dict[str, Any]:
    return {"headers": [(k.encode(), v.encode()) for k, v in headers.items()], **more}


def test_the_access_log_has_both_ids_and_no_query(
    new_database: NewDatabase, templates: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdout = io.StringIO()
    monkeypatch.setattr("sys.stdout", stdout)
    configure_logging("users api")
    with serving("users", new_database(templates["users"]), access_log=True) as users:
        assert users.client.get("/users?email=ada@example.com", headers=SENT).status_code == 200
        assert users.client.get("/nowhere", headers=SENT).status_code == 404
        assert users.client.get("/users/9").status_code == 404
    found, missed, other = [line for line in logged(stdout) if line["logger"] == "uvicorn.access"]
    assert (found["trace_id"], found["request_id"]) == (TRACE, "from-gateway")
    assert (missed["trace_id"], missed["request_id"]) == (TRACE, "from-gateway")
    assert "/users " in found["event"] and "ada" not in found["event"]
    assert "trace_id" not in other and "request_id" not in other


async def test_lines_of_an_app_that_is_no_service_have_them_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdout = io.StringIO()
    monkeypatch.setattr("sys.stdout", stdout)
    configure_logging("console api")

    async def front(*_: object) -> None:
        structlog.get_logger("shop.test").warning("test.noted")

    served: Any = Server(cast("Served", front), Settings()).config.app
    await asyncio.create_task(served({"type": "http", **scope_with(SENT)}, None, None))
    [line] = logged(stdout)
    assert (line["trace_id"], line["request_id"]) == (TRACE, "from-gateway")


@pytest.mark.parametrize(
    ("scope", "ids"),
    [
        (scope_with(SENT), {"trace_id": TRACE, "request_id": "from-gateway"}),
        (scope_with(SENT, **{TRACEPARENT: f"00-{OWN}-00f067aa0ba902b7-01"}), {"trace_id": OWN, "request_id": "from-gateway"}),
        (scope_with({"traceparent": "00-nonsense-01", "x-request-id": "two words"}), {}),
        (scope_with({}), {}),
    ],
)  # fmt: skip
async def test_a_line_has_the_ids_of_the_request_that_it_is_about(
    monkeypatch: pytest.MonkeyPatch, scope: dict[str, Any], ids: dict[str, str]
) -> None:
    stdout = io.StringIO()
    monkeypatch.setattr("sys.stdout", stdout)
    configure_logging("users api")

    async def answer() -> None:
        note_request(scope)
        structlog.get_logger("shop.test").warning("test.noted")
        logging.getLogger("other").warning("noted")

    await asyncio.create_task(answer())
    for line in logged(stdout):
        assert {k: v for k, v in line.items() if k in {"trace_id", "request_id"}} == ids


async def test_a_person_is_shown_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stdout = _Terminal()
    monkeypatch.setattr("sys.stdout", stdout)
    configure_logging("users api")
    note_request(scope_with(SENT))
    structlog.get_logger("shop.test").warning("test.noted")
    assert TRACE in stdout.getvalue() and "from-gateway" in stdout.getvalue()


async def test_a_batch_of_many_requests_has_the_ids_of_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdout = io.StringIO()
    monkeypatch.setattr("sys.stdout", stdout)
    configure_logging("users api")

    async def run(commands: Sequence[int]) -> Sequence[int]:
        structlog.get_logger("shop.test").warning("test.noted")
        return commands

    batcher = Batcher(run)

    async def answer() -> None:
        note_request(scope_with(SENT))
        await batcher.submit(1)

    await asyncio.create_task(answer())
    await batcher.close()
    [line] = logged(stdout)
    assert "trace_id" not in line and "request_id" not in line


def test_a_traceback_is_without_the_values_that_were_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdout = io.StringIO()
    monkeypatch.setattr("sys.stdout", stdout)
    configure_logging("users api")
    given = "Ada" + str(1815)
    try:
        TypeAdapter(int).validate_python(given)
    except ValidationError as error:
        structlog.get_logger("shop.test").error("test.refused", exc_info=error)
        logging.getLogger("other").exception("refused")
    for line in logged(stdout):
        assert "Input should be a valid integer, unable" in line["exception"]
        assert "Ada1815" not in line["exception"]
