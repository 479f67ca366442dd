"""Rules where routes stand, and ownership in what services read and write."""

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import APIRouter
from typer.testing import CliRunner

from eventspine.context import Request
from eventspine.database import Database
from eventspine.outbox import transaction
from shop.cli.main import app as command
from shop.contracts.identity import SigningKeyChanged
from shop.platform import discovery
from shop.platform.auth.rules import PUBLIC, allowed
from shop.platform.http.route import FastRoute
from shop.platform.processes.api import make_app
from shop.platform.service import Endpoints
from shop.platform.settings import NotConfigured
from shop.services.orders import actions, queries
from shop.services.orders.errors import OrderNotFound
from shop.services.orders.schemas import CancelOrder, GetOrder, Order, StoredOrder
from shop.services.users import queries as user_queries
from shop.services.users.schemas import GetUser
from tests.shop.auth import matrix
from tests.support.databases import NewDatabase
from tests.support.issuing import Token, bearer
from tests.support.serving import Served, problem, serving, settings_of

NOWHERE = "postgresql://nowhere.invalid/none"
CUSTOMERS = matrix.read(matrix.PAGE.read_text(encoding="utf-8"))["customer"]
OWN_ROWS = [route for route, answer in CUSTOMERS.items() if answer.endswith("/404/404")]
ORDER = {"product": "tea", "quantity": 1, "total_price": 1}


@pytest.fixture(scope="module")
def asking(new_database: NewDatabase, templates: dict[str, str]) -> Iterator[matrix.Asked]:
    """Both services, asking for tokens."""
    urls = {name: new_database(templates[name]) for name in matrix.SERVICES}
    with matrix.asked(urls) as all_:
        yield all_


@pytest.fixture(scope="module")
def orders(new_database: NewDatabase, templates: dict[str, str]) -> Iterator[Served]:
    url = new_database(templates["orders"])
    matrix.fill("orders", url)
    with serving("orders", url, auth=matrix.ENOUGH) as served:
        yield served


def by(user: int, **changed: Any) -> dict[str, str]:
    return bearer(Token(f"user:{user}", **changed).signed())


def by_service() -> dict[str, str]:
    token = Token("service_account:billing", roles=("service",), without=("sid",))
    return bearer(token.signed())


def service_with(endpoint: Any, name: str = "orders") -> Any:
    router = APIRouter(route_class=FastRoute)
    router.get("/things")(endpoint)
    return replace(discovery.load(name), endpoints=lambda *_: Endpoints(router, ()))


def things() -> Callable[[], Awaitable[dict[str, str]]]:
    """An endpoint without a rule."""

    async def endpoint() -> dict[str, str]:
        return {}

    return endpoint


@pytest.mark.parametrize("required", [False, True])
def test_a_route_without_a_rule_keeps_the_api_from_starting(*, required: bool) -> None:
    settings = settings_of("orders", NOWHERE, auth={"required": required})
    with pytest.raises(NotConfigured, match=r"service orders: GET /things has no rule"):
        make_app(service_with(things()), settings)
    make_app(service_with(allowed(PUBLIC)(things())), settings)


def test_a_service_without_copies_of_keys_does_not_start_where_tokens_are_required() -> None:
    from sqlalchemy import MetaData

    service = replace(service_with(allowed(PUBLIC)(things())), tables=MetaData)
    make_app(service, settings_of("orders", NOWHERE))
    with pytest.raises(NotConfigured, match="has no copies of keys"):
        make_app(service, settings_of("orders", NOWHERE, auth={"required": True}))


def test_a_guarded_route_must_be_one_that_is_guarded() -> None:
    router = APIRouter()
    router.get("/things")(allowed("things:read")(things()))
    service = replace(discovery.load("orders"), endpoints=lambda *_: Endpoints(router, ()))
    with pytest.raises(TypeError, match="/things"):
        make_app(service, settings_of("orders", NOWHERE, auth={"required": True}))


@pytest.mark.usefixtures("only_shipped_services")
def test_the_command_prints_the_matrix() -> None:
    plain = CliRunner().invoke(command, ["routes"]).stdout.splitlines()
    assert plain[0].split() == ["method", "path", "scope", "roles", "rows"]
    [line] = [line for line in plain if "/cancel" in line]
    assert line.split("  ")[0].strip() == "POST"
    assert "orders:write" in line and line.endswith("customer, support: own; others: all")
    rows = [
        json.loads(line)
        for line in CliRunner().invoke(command, ["routes", "orders", "--json"]).stdout.splitlines()
    ]
    assert [row["path"] for row in rows] == [
        route.split(" ")[1] for route in matrix.routes("orders")
    ]


def test_where_nobody_is_asked_nothing_is_installed() -> None:
    app = make_app(discovery.load("orders"), settings_of("orders", NOWHERE))
    assert {route.guard for routes in app._fast.values() for route in routes} == {None}


def test_a_request_that_comes_by_fastapis_own_routing_is_asked_too(orders: Served) -> None:
    fast, orders.app._fast = orders.app._fast, {}
    try:
        problem(orders.client.get("/orders/1"), 401, "unauthenticated")
        assert orders.client.get("/orders/1", headers=by(1)).status_code == 200
    finally:
        orders.app._fast = fast


def test_head_is_asked_too(orders: Served) -> None:
    assert orders.client.head("/orders/1").status_code == 401
    assert orders.client.head("/orders/1", headers=by(2)).status_code == 404
    assert orders.client.head("/orders/1", headers=by(1)).status_code == 200


def test_health_and_documents_need_no_token(orders: Served) -> None:
    for path in ("/health/live", "/health/ready", "/docs", "/openapi.json"):
        assert orders.client.get(path).status_code == 200


@pytest.mark.parametrize("route", OWN_ROWS)
def test_anothers_row_is_answered_as_one_that_is_not_there(
    asking: matrix.Asked, route: str
) -> None:
    name = next(name for name in matrix.SERVICES if route in matrix.routes(name))
    answers = []
    for id_ in (11, matrix.NOBODYS):
        response = asking.send(name, route, by(12), id_)
        assert response.headers["content-length"] == str(len(response.content))
        text = response.text.replace(str(UUID(int=id_)), "ID").replace(f"id {id_}", "id ID")
        different = {"date": "", "content-length": ""}
        answers.append((response.status_code, {**response.headers, **different}, text))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


@pytest.mark.parametrize("whose", [1, 2, 9_999_999])
def test_anothers_address_finds_nobody(asking: matrix.Asked, whose: int) -> None:
    found = asking.clients["users"].get(
        "/users", params={"email": f"{whose}@example.com"}, headers=by(1)
    )
    assert [user["id"] for user in found.json()["items"]] == [1] * (whose == 1)


def test_a_list_without_a_filter_has_own_rows_alone(asking: matrix.Asked) -> None:
    for name, path in (("users", "/users"), ("orders", "/orders")):
        found = asking.clients[name].get(path, headers=by(3)).json()
        assert [row["id"] for row in found["items"]] == [3]
        staff = asking.clients[name].get(path, headers=by(3, roles=("support",))).json()
        assert len(staff["items"]) > 10
    anothers = asking.clients["orders"].get("/orders", params={"user_id": 4}, headers=by(3))
    assert anothers.json() == {"items": [], "next_cursor": None}
    filtered = {"product": "tea", "placed_from": "2020-01-01T00:00:00Z", "status": "placed"}
    found = asking.clients["orders"].get("/orders", params=filtered, headers=by(3)).json()
    assert [row["user_id"] for row in found["items"]] == [3]


async def test_neighbours_in_a_batch_are_each_given_their_own(orders: Served) -> None:
    database = Database(orders.database_url, size=1)
    await database.open()
    asked = [GetOrder(21, 21), GetOrder(21, 22), GetOrder(22, 21), GetOrder(22), GetOrder(23, 21)]
    found = await queries.get(database, asked)
    assert [isinstance(each, StoredOrder) for each in found] == [True, False, False, True, False]
    async with transaction(database) as tx:
        done = await actions.cancel(
            tx,
            [Request(CancelOrder(21, None, 22)), Request(CancelOrder(21, None, 21)),
             Request(CancelOrder(23, None, 21)), Request(CancelOrder(22, None, 0))],
        )  # fmt: skip
    await database.close()
    refused, own, *others = done
    assert isinstance(own, Order) and own.status == "cancelled"
    assert [type(each) for each in (refused, *others)] == [OrderNotFound] * 3
    assert orders.rows("SELECT id FROM orders WHERE status = 'cancelled'") == [(21,)]


async def test_anothers_row_is_looked_for_by_the_statement_for_a_missing_one() -> None:
    """So it takes as long. A user's own id is known before, and another's is looked for as that of nobody."""
    asked: list[tuple[object, object]] = []

    class Recording:
        async def fetch(self, sql: object, given: dict[str, list[int]]) -> list[object]:
            asked.append((sql, {name: len(values) for name, values in given.items()}))
            return []

    for id_ in (11, matrix.NOBODYS):
        await queries.get(Recording(), [GetOrder(id_, 12)])  # type: ignore[arg-type]
        await user_queries.get(Recording(), [GetUser(id_, 12)])  # type: ignore[arg-type]
    assert asked[:2] == asked[2:]


def test_a_caller_that_sends_too_many_requests_is_told_when_to_come_again(
    new_database: NewDatabase, templates: dict[str, str]
) -> None:
    url = new_database(templates["orders"])
    matrix.fill("orders", url)
    slow = {"required": True, "requests_a_second": 0.2}  # two in ten seconds
    with serving("orders", url, auth=slow) as served:
        answers = [served.client.get("/orders/1", headers=by(1)) for _ in range(4)]
        assert [answer.status_code for answer in answers[:2]] == [200, 200]
        problem(answers[-1], 429, "too-many-requests")
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 5
        assert served.client.get("/orders/2", headers=by(2)).status_code == 200
        assert served.client.get("/health/live").status_code == 200


def test_a_customers_order_is_its_own_unless_it_says_otherwise(orders: Served) -> None:
    placed = orders.client.post("/orders", json=ORDER, headers=by(31))
    assert (placed.status_code, placed.json()["user_id"]) == (201, 31)
    *_, headers = orders.events()[-1]
    assert (headers["ce_authtype"], headers["ce_authid"]) == ("user", "31")
    answers = [
        orders.client.post("/orders", json={**ORDER, "user_id": whose}, headers=by(31))
        for whose in (32, matrix.NOBODYS)
    ]
    for answer in answers:
        problem(answer, 403, "forbidden")
    assert answers[0].text == answers[1].text
    admin = orders.client.post("/orders", json=ORDER, headers=by(31, roles=("admin",)))
    assert admin.json()["user_id"] == 31


def test_a_service_says_whose_order_it_is(orders: Served) -> None:
    refused = problem(
        orders.client.post("/orders", json=ORDER, headers=by_service()), 422, "invalid"
    )
    assert refused["errors"][0]["field"] == "user_id"
    placed = orders.client.post("/orders", json={**ORDER, "user_id": 33}, headers=by_service())
    assert placed.json()["user_id"] == 33
    *_, headers = orders.events()[-1]
    assert (headers["ce_authtype"], headers["ce_authid"]) == ("service_account", "billing")


def test_a_stored_answer_is_its_callers(orders: Served) -> None:
    named = {"Idempotency-Key": uuid4().hex}
    body = {**ORDER, "user_id": 41}
    first = orders.client.post("/orders", json=body, headers={**by(41), **named})
    assert first.status_code == 201
    again = orders.client.post("/orders", json=body, headers={**by(41), **named})
    assert (again.status_code, again.content) == (201, first.content)
    stored = orders.stored()
    for other in (by(42), by(42, roles=("admin",)), by_service()):
        answer = orders.client.post("/orders", json=body, headers={**other, **named})
        assert answer.status_code in {403, 422}
        assert str(first.json()["id"]) not in answer.text
    assert orders.client.post("/orders", json=body, headers=named).status_code == 401
    assert orders.stored() == stored


def test_who_lost_the_right_is_not_given_the_stored_answer(orders: Served) -> None:
    named = {"Idempotency-Key": uuid4().hex}
    path = "/orders/51/cancel"
    assert orders.client.post(path, headers={**by(51), **named}).status_code == 200
    less = by(51, scopes=("orders:read",))
    problem(orders.client.post(path, headers={**less, **named}), 403, "insufficient-scope")


def test_the_document_says_which_scope_an_operation_needs() -> None:
    settings = settings_of("orders", NOWHERE, auth={"required": True})
    document = make_app(discovery.load("orders"), settings).openapi()
    place = document["paths"]["/orders"]["post"]
    assert place["security"] == [{"bearer": ["orders:write"]}]
    assert {"401", "403", "429"} <= set(place["responses"])
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    schema = document["components"]["schemas"]["NewOwnOrder"]
    assert "user_id" not in schema["required"] and "user_id" in schema["properties"]
    open_ = make_app(discovery.load("orders"), settings_of("orders", NOWHERE)).openapi()
    assert "security" not in open_["paths"]["/orders"]["post"]
    assert place["operationId"] == open_["paths"]["/orders"]["post"]["operationId"]
    assert "securitySchemes" not in open_["components"]


def test_an_event_of_identity_is_never_taken_for_a_user() -> None:
    event = SigningKeyChanged(id="key:k", kid="k", state="gone", public_jwk={}, version=1)
    assert not event.key.isdigit()
