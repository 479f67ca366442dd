"""What becomes of what goes wrong below a route, and how a route is declared."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
import structlog
from fastapi import APIRouter, Depends, FastAPI

from eventspine.errors import Conflict, OutcomeUnknown, Overloaded, Unavailable
from shop.platform.http.app import ServiceApp
from shop.platform.http.fields import Body
from shop.platform.http.route import FastRoute
from shop.platform.problems import Problem, TemporarilyUnavailable
from tests.support.serving import problem

SECRET = "postgresql://user:secret@host/database"


class Teapot(Problem):
    """It is a teapot.

    And this is not its title.
    """

    status = 418
    slug = "teapot"


class Answer(Body):
    text: str


@asynccontextmanager
async def nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


async def is_ready() -> None:
    return


def app_of(
    endpoint: Callable[[], Any] | None = None, ready: Callable[[], Any] = is_ready
) -> ServiceApp:
    router = APIRouter(route_class=FastRoute)
    if endpoint:
        router.add_api_route("/", endpoint, response_model=Answer)
    return ServiceApp(
        title="Test", version="1", router=router, lifespan=nothing, ready=ready, port=80
    )


async def get(app: ServiceApp, path: str = "/") -> httpx.Response:
    # What the application raises is not raised here: a client would not see it either.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path)


def raising(error: Exception) -> Callable[[], Any]:
    async def endpoint() -> Answer:
        raise error

    return endpoint


async def test_a_problem_is_answered_with_its_status_type_title_and_detail() -> None:
    response = await get(app_of(raising(Teapot("short and stout", spout=1))))
    assert problem(response, 418, "teapot") == {
        "type": "urn:eventshop:problem:teapot",
        "title": "It is a teapot",
        "status": 418,
        "detail": "short and stout",
        "spout": 1,
    }


@pytest.mark.parametrize("error", [Unavailable("away"), Conflict("faster"), Overloaded("too many")])
async def test_a_request_that_was_not_done_may_be_retried(error: Exception) -> None:
    response = await get(app_of(raising(error)))
    problem(response, 503, "temporarily-unavailable")
    assert response.headers["retry-after"] == "1"


async def test_a_request_too_many_is_told_so() -> None:
    response = await get(app_of(raising(Overloaded("8 callers are waiting already"))))
    assert response.json()["detail"] == "8 callers are waiting already"


@pytest.mark.parametrize("error", [Unavailable, OutcomeUnknown])
@pytest.mark.parametrize("path", ["/", "/health/ready"])
async def test_database_errors_are_for_the_log_and_not_for_the_client(
    error: type[Exception], path: str
) -> None:
    async def away() -> Answer:
        raise error(SECRET)

    app = app_of(away, ready=away)
    with structlog.testing.capture_logs() as logs:
        for _ in range(20):
            response = await get(app, path)
            assert response.status_code == 503
            assert "secret" not in response.text
            assert "database" in response.text or error is OutcomeUnknown
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("api.waiting", "warning")
    assert (line["route"], line["reason"]) == (f"GET {path}", f"{error.__name__}: {SECRET}")


@pytest.mark.parametrize("path", ["/", "/health/ready"])
async def test_the_log_is_told_of_other_trouble_and_when_it_is_over(path: str) -> None:
    troubles: list[Exception | None] = [
        Unavailable("no such database"), Unavailable("no such database"), Overloaded("too many"),
        Teapot(), Unavailable("no such password"), None, None,
    ]  # fmt: skip

    async def endpoint() -> Answer:
        if trouble := troubles.pop(0):
            raise trouble
        return Answer(text="here")

    app = app_of(endpoint, ready=endpoint)
    with structlog.testing.capture_logs() as logs:
        while troubles:
            await get(app, path)
    assert [(line["event"], line.get("reason")) for line in logs] == [
        ("api.waiting", "Unavailable: no such database"),
        ("api.waiting", "Unavailable: no such password"),
        ("api.recovered", None),
    ]


async def test_an_unknown_outcome_is_not_to_be_retried_blindly() -> None:
    response = await get(app_of(raising(OutcomeUnknown("lost"))))
    problem(response, 503, "unknown-outcome")
    assert "retry-after" not in response.headers


async def test_a_fault_of_ours_is_logged_and_tells_the_client_nothing() -> None:
    with structlog.testing.capture_logs() as logs:
        response = await get(app_of(raising(RuntimeError(SECRET))))
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    assert set(problem(response, 500, "internal-error")) == {"type", "title", "status"}
    assert [line["event"] for line in logs] == ["api.request_failed"]


async def test_a_fault_outside_the_fast_routes_tells_the_client_nothing_either() -> None:
    async def broken() -> None:
        raise RuntimeError(SECRET)

    response = await get(app_of(ready=broken), "/health/ready")
    assert "secret" not in response.text
    problem(response, 500, "internal-error")


async def test_a_process_is_alive_even_when_it_is_not_ready() -> None:
    async def away() -> None:
        raise Unavailable("the database is away")

    app = app_of(ready=away)
    assert (await get(app, "/health/live")).json() == {"status": "alive"}
    found = problem(await get(app, "/health/ready"), 503, "temporarily-unavailable")
    assert "database is unavailable" in found["detail"]
    assert (await get(app_of(), "/health/ready")).json() == {"status": "ready"}


async def test_the_reason_why_a_process_is_not_ready_is_told_if_it_is_our_own() -> None:
    async def stopping() -> None:
        raise TemporarilyUnavailable("this process is about to stop")

    with structlog.testing.capture_logs() as logs:
        response = await get(app_of(ready=stopping), "/health/ready")
    found = problem(response, 503, "temporarily-unavailable")
    assert found["detail"] == "this process is about to stop"
    assert logs == []


async def with_dependency(_: Annotated[int, Depends(lambda: 1)]) -> Answer:
    raise NotImplementedError


async def with_two_bodies(first: Answer, second: Answer) -> Answer:
    raise NotImplementedError


@pytest.mark.parametrize("endpoint", [with_dependency, with_two_bodies])
def test_a_fast_route_refuses_what_it_could_not_call(endpoint: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="a fast route has no"):
        FastRoute("/", endpoint)


async def test_a_fast_route_answers_the_same_from_within_fastapi() -> None:
    async def endpoint() -> Answer:
        return Answer(text="here")

    app = app_of(endpoint)
    outer = FastAPI()
    outer.mount("/under", app)

    transport = httpx.ASGITransport(outer)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        found, refused = await client.get("/under/"), await client.post("/under/")
    assert found.json() == {"text": "here"}
    problem(refused, 405, "method-not-allowed")
