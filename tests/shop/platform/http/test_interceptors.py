"""Interceptors around fast routes: what they see, what they may change, and how they refuse."""

from collections.abc import Iterator

import pytest

from eventspine.answers import Answer
from shop.platform.http.app import ServiceApp
from shop.platform.http.interceptors import Exchange, Proceed
from shop.platform.interceptors import Interceptors, interceptors
from shop.platform.problems import PreconditionFailed
from shop.platform.settings import NotConfigured
from tests.support.databases import NewDatabase
from tests.support.serving import Served, problem, serving

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SEEN: list[tuple[str, str, int]] = []


async def _outer(exchange: Exchange, proceed: Proceed) -> Answer:
    answer = await proceed()
    SEEN.append((exchange.method, exchange.route, answer.status))
    return answer


async def _inner(exchange: Exchange, proceed: Proceed) -> Answer:
    match dict(exchange.scope["headers"]).get(b"x-do"):
        case b"refuse":
            raise PreconditionFailed("not so")
        case b"break":
            raise RuntimeError("broken")
        case b"trace":
            exchange.context = exchange.context._replace(traceparent=TRACE, caller="user:5")
    return await proceed()


def factory(part: str, service: str) -> Interceptors:
    assert (part, service) == ("api", "users")
    return Interceptors(routes=(_outer, _inner))


@pytest.fixture(scope="module")
def users(new_database: NewDatabase, templates: dict[str, str]) -> Iterator[Served]:
    url = new_database(templates["users"])
    with serving("users", url, interceptors=f"{__name__}:factory") as served:
        yield served


def test_an_interceptor_sees_method_template_and_answer(users: Served) -> None:
    SEEN.clear()
    assert users.client.get("/users/123").status_code == 404
    assert users.client.head("/users/9").status_code == 404
    assert users.client.get("/users/0").status_code == 422
    route = "/users/{user_id}"
    assert [("GET", route, 404), ("HEAD", route, 404), ("GET", route, 422)] == SEEN


@pytest.mark.parametrize(("do", "status"), [("refuse", 412), ("break", 500)])
def test_an_error_of_an_inner_interceptor_is_an_answer_to_the_outer_one(
    users: Served, do: str, status: int
) -> None:
    SEEN.clear()
    refused = users.client.get("/users/1", headers={"X-Do": do})
    assert refused.status_code == status
    problem(refused, status, {412: "precondition-failed", 500: "internal-error"}[status])
    assert [("GET", "/users/{user_id}", status)] == SEEN


def test_values_put_into_the_context_are_stored_with_the_event(users: Served) -> None:
    body = {"email": "i@example.com", "name": "I"}
    created = users.client.post("/users", json=body, headers={"X-Do": "trace"})
    assert created.status_code == 201
    *_, headers = users.events()[-1]
    assert headers == {"traceparent": TRACE, "ce_authtype": "user", "ce_authid": "5"}


def test_a_middleware_is_refused_since_it_would_not_see_fast_routes(users: Served) -> None:
    assert isinstance(users.app, ServiceApp)
    with pytest.raises(TypeError, match="route interceptor"):
        users.app.add_middleware(object)


@pytest.mark.parametrize("name", ["no.such.module:x", "tests.support.callers:nothing", "", "plain"])
def test_a_module_that_cannot_be_loaded_is_named(name: str) -> None:
    if not name:
        assert interceptors(name, "api", "users") == Interceptors()
        return
    with pytest.raises(NotConfigured, match=f"SHOP_INTERCEPTORS: cannot load {name}"):
        interceptors(name, "api", "users")
