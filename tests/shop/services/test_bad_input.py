"""Bad input, to both services: a problem that names the field, nothing stored, and life goes on."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.support.serving import Served, problem, wrong_fields
from tests.support.shop_events import user_created

JSON = {"Content-Type": "application/json"}
DIGITS_5000 = "9" * 5000


class Target(NamedTuple):
    """A request with a body, and a body that it takes: each field with its JSON."""

    service: str
    method: str
    path: str
    fields: dict[str, str]


CREATE = Target("users", "POST", "/users", {"email": '"new@example.com"', "name": '"New"'})
CHANGE = Target("users", "PATCH", "/users/1", {"email": '"changed@example.com"', "name": '"New"'})
PLACE = Target(
    "orders",
    "POST",
    "/orders",
    {"user_id": "1", "product": '"coffee"', "quantity": "1", "total_price": "1"},
)
TARGETS = [CREATE, CHANGE, PLACE]


class Sender:
    """Sends to a target, and knows whether anything was stored since it was made."""

    def __init__(self, services: dict[str, Served]) -> None:
        self._services = services
        self._before = {name: served.stored() for name, served in services.items()}

    def body(self, target: Target, body: bytes | str, headers: dict[str, str] = JSON) -> Any:
        content = body.encode() if isinstance(body, str) else body
        client = self._services[target.service].client
        return client.request(target.method, target.path, content=content, headers=headers)

    def get(self, service: str, url: str) -> Any:
        return self._services[service].client.get(url)

    def assert_nothing_stored(self) -> None:
        for name, served in self._services.items():
            assert served.stored() == self._before[name]
            assert served.client.get("/health/ready").status_code == 200


@pytest.fixture(scope="module")
def services(users: Served, orders: Served) -> dict[str, Served]:
    body = {"email": "taken@example.com", "name": "Setiadi"}
    users.client.post("/users", json=body).raise_for_status()
    orders.hears(user_created(1))
    order = {"user_id": 1, "product": "tea", "quantity": 1, "total_price": 1}
    orders.client.post("/orders", json=order).raise_for_status()
    return {"users": users, "orders": orders}


@pytest.fixture
def send(services: dict[str, Served]) -> Iterator[Sender]:
    sender = Sender(services)
    yield sender
    sender.assert_nothing_stored()


def with_field(target: Target, field: str, value: str) -> str:
    fields = {**target.fields, field: value}
    return "{" + ",".join(f'"{name}":{json}' for name, json in fields.items()) + "}"


NOT_TEXT = ["null", "true", "1", "1.5", "[]", "{}", '["x"]', "NaN"]
UNSTORABLE = [r'"a\u0000"', r'"\u0000"', r'"\ud800"', r'"a\udc00b"', r'"\ud800\ud800"']
LINES = [
    *NOT_TEXT,
    *UNSTORABLE,
    '""',
    '" "',
    '" \\t\\n"',
    '"\u3000"',
    f'"{"x" * 201}"',
    f'"{"é" * 10_000}"',
]
EMAILS = [
    *NOT_TEXT,
    *UNSTORABLE,
    '""',
    '"@"',
    '"plain"',
    '"a@"',
    '"@b"',
    '"a b@example.com"',
    '"a@example.com\\n"',
    '" a@example.com"',
    '"a@b@c"',
    '"a@-example.com"',
    '"a@example..com"',
    '"é@example.com"',
    f'"{"x" * 243}@example.com"',
    f'"a@{"x" * 10_000}"',
]
INTEGERS = [
    *("0", "-1", "-0", "null", "true", "false", "1.0", "1e0", "1.5", '"1"', '"one"', "[]", "{}"),
    *("NaN", "Infinity", "1e400", "9223372036854775808", DIGITS_5000, f"-{DIGITS_5000}"),
]
PRICES = [
    *("-1", "-0.01", "NaN", "Infinity", "-Infinity", "1e400", "1E+300", "0.001", "1.234"),
    *("10000000000", "9999999999.999", "99999999999999", "12345678901234.5", DIGITS_5000),
    *("null", "true", "false", "[]", "{}", '""', '"."', '"one"', '"-1"', '"1.234"', '"+1"', '" 1"'),
    *('"1_0"', '"1E+300"', '"0E+999999999"', '"1e400"', '"NaN"', '"sNaN"', '"Infinity"', '"0x10"'),
    *('"99999999999999"', '"10000000000"', '"１"', '"1\\u0000"', r'"\ud800"', f'"{DIGITS_5000}"'),
]
WRONG = [
    *((CREATE, "name", value) for value in LINES),
    *((CHANGE, "name", value) for value in LINES),
    *((PLACE, "product", value) for value in LINES),
    *((CREATE, "email", value) for value in EMAILS),
    *((CHANGE, "email", value) for value in EMAILS),
    *((PLACE, "user_id", value) for value in INTEGERS),
    *((PLACE, "quantity", value) for value in [*INTEGERS, "2147483648"]),
    *((PLACE, "total_price", value) for value in PRICES),
]


def test_a_value_that_will_not_do_is_named(send: Sender) -> None:
    for target, field, value in WRONG:
        response = send.body(target, with_field(target, field, value))
        shown = (target.method, target.path, field, value[:40], response.text)
        assert response.status_code == 422, shown
        assert wrong_fields(problem(response, 422, "invalid")) == [("body", field)], shown
        assert len(response.content) < 1000, shown


def test_every_wrong_value_is_named_at_once(send: Sender) -> None:
    response = send.body(PLACE, '{"user_id":0,"quantity":"many","total_price":-1}')
    named = wrong_fields(problem(response, 422, "invalid"))
    assert sorted(field for _, field in named) == ["product", "quantity", "total_price", "user_id"]


@pytest.mark.parametrize("target", [CREATE, PLACE], ids=["users", "orders"])
def test_a_missing_field_is_named(send: Sender, target: Target) -> None:
    for missing in target.fields:
        fields = [f'"{name}":{json}' for name, json in target.fields.items() if name != missing]
        response = send.body(target, "{" + ",".join(fields) + "}")
        assert wrong_fields(problem(response, 422, "invalid")) == [("body", missing)]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.path)
@pytest.mark.parametrize("name", ["id", "version", "Name", "", "a\\u0000", "x" * 5000, "a.b"])
def test_an_unknown_field_is_refused_by_name(send: Sender, target: Target, name: str) -> None:
    response = send.body(target, with_field(target, name, "1"))
    named = wrong_fields(problem(response, 422, "invalid"))
    assert named == [("body", name.replace("\\u0000", "\0")[:200])]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.path)
def test_wrong_fields_are_named_up_to_a_few_and_very_many_are_not(
    send: Sender, target: Target
) -> None:
    """To name each of them would keep everybody else waiting."""

    def unknown(count: int) -> dict[str, Any]:
        members = ",".join(f'"x{n}":1' for n in range(count))
        body = with_field(target, *next(iter(target.fields.items())))[:-1] + f",{members}}}"
        return problem(send.body(target, body), 422, "invalid")

    found = unknown(100)
    assert [("body", f"x{n}") for n in range(20)] == wrong_fields(found)
    found = unknown(6_000)
    assert wrong_fields(found) == []
    assert "6000 fields" in found["detail"]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.path)
def test_a_field_given_twice_is_refused_by_name(send: Sender, target: Target) -> None:
    for name, json in target.fields.items():
        escaped = f"\\u{ord(name[0]):04x}{name[1:]}"
        for again in (name, escaped):
            response = send.body(
                target, with_field(target, name, json)[:-1] + f',"{again}":{json}}}'
            )
            assert wrong_fields(problem(response, 422, "invalid")) == [("body", name)]


def test_a_colon_in_a_value_is_no_field_given_twice(users: Served) -> None:
    body = '{"name": "Dr: who: {\\"name\\": 1}", "email": "colon@example.com"}'
    response = users.client.post("/users", content=body, headers=JSON)
    assert response.status_code == 201
    assert response.json()["name"] == 'Dr: who: {"name": 1}'


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.path)
@pytest.mark.parametrize("body", ["[]", "1", "null", "true", '"text"', "[{}]", "NaN"])
def test_a_body_that_is_no_object_is_refused(send: Sender, target: Target, body: str) -> None:
    assert wrong_fields(problem(send.body(target, body), 422, "invalid")) == [("body", "")]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.path)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"name":',
        b'{"name":"x"',
        b'{"name":"x",}',
        b'{"name" "x"}',
        b"{'name':'x'}",
        b"{name:1}",
        b"{}{}",
        b"{} x",
        b'{"name":01}',
        b'{"name":"\\x"}',
        b'{"name":"a\nb"}',
        b'{"name":"a\x00"}',
        b'{"name":"\xff"}',
        b'{"name":"\xed\xa0\x80"}',
        b"\xef\xbb\xbf\xef\xbb\xbf{}",
        '{"name":"x"}'.encode("utf-16"),
        b"\x1f\x8b\x08\x00",
        b"name=x&email=y",
        b"<user/>",
        b"[" * 60_000,
        b'{"name":' * 8_000,
        b'{"name":' + b"[" * 500 + b"]" * 500 + b"}",
    ],
    ids=lambda body: body[:12].decode("latin-1"),
)
def test_a_body_that_is_no_json_is_malformed(send: Sender, target: Target, body: bytes) -> None:
    response = send.body(target, body)
    if body.startswith(b'{"name":' + b"[" * 500 + b"]"):
        # Deeper than is read, yet JSON: the field can still be named.
        assert ("body", "name") in wrong_fields(problem(response, 422, "invalid"))
    else:
        assert "Invalid JSON" in problem(response, 400, "malformed-body")["detail"]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.path)
def test_deep_nesting_is_refused(send: Sender, target: Target) -> None:
    field = "product" if target is PLACE else "name"
    for value in ("[" * 150 + "]" * 150, '{"a":' * 150 + "1" + "}" * 150):
        response = send.body(target, with_field(target, field, value))
        assert wrong_fields(problem(response, 422, "invalid")) == [("body", field)]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.path)
@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "application/xml",
        "json",
        "text/json",
        "application/json; charset=utf-16",
        "application/json;charset=latin-1",
        "\xe4",
    ],
)
def test_another_content_type_is_not_supported(
    send: Sender, target: Target, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    body = with_field(target, *next(iter(target.fields.items())))
    response = send.body(target, body, headers={k: v.encode("latin-1") for k, v in headers.items()})
    problem(response, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "APPLICATION/JSON",
        "application/json; charset=UTF-8",
        "application/x+json",
    ],
)
def test_json_may_be_called_so_in_several_ways(users: Served, content_type: str) -> None:
    # Refused for what it says, so it was read.
    response = users.client.post("/users", content="{}", headers={"Content-Type": content_type})
    problem(response, 422, "invalid")


IDS = [
    *(
        "0",
        "-1",
        "9223372036854775808",
        DIGITS_5000,
        "x",
        "1_0",
        "%201",
        "1%20",
        "+1",
        "%2B1",
        "01",
    ),
    *("1.0", "1e0", "0x1", "1%0A", "%00", "%FF", "%ED%A0%80", "%EF%BC%91", "true", "null", "1,2"),
]


@pytest.mark.parametrize("id_", IDS, ids=lambda id_: id_[:24])
def test_an_id_that_is_none_is_refused_by_name(
    send: Sender, users: Served, orders: Served, id_: str
) -> None:
    for response in (
        users.client.get(f"/users/{id_}"),
        users.client.get(f"/users/{id_}/orders"),
        users.client.patch(f"/users/{id_}", json={"name": "New"}),
        users.client.delete(f"/users/{id_}"),
    ):
        assert wrong_fields(problem(response, 422, "invalid")) == [("path", "user_id")]
    for response in (
        orders.client.get(f"/orders/{id_}"),
        orders.client.post(f"/orders/{id_}/cancel"),
    ):
        assert wrong_fields(problem(response, 422, "invalid")) == [("path", "order_id")]
    found = problem(orders.client.get(f"/orders?user_id={id_.replace('+', '%2B')}"), 422, "invalid")
    assert wrong_fields(found) == [("query", "user_id")]


LISTS = [("users", "/users"), ("users", "/users/1/orders"), ("orders", "/orders")]


@pytest.mark.parametrize(("service", "path"), LISTS)
@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.0", "limit"),
        ("limit=%201", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("limit", "limit"),
        (f"limit={DIGITS_5000}", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=", "cursor"),
        ("cursor=1", "cursor"),
        ("cursor=c1", "cursor"),
        ("cursor=null", "cursor"),
        ("cursor=%00", "cursor"),
        ("cursor=%FF", "cursor"),
        ("cursor=%C3%A4", "cursor"),
        ("cursor=YzEAAAAAAAAAA", "cursor"),
        ("cursor=YzEAAAAAAAAAAAA", "cursor"),
        ("cursor=YzEAAAAAAAAAAB", "cursor"),
        ("cursor=YzL_________8A", "cursor"),
        ("cursor=YjEAAAAAAAAAAQ", "cursor"),
        ("cursor=YzEAAAAAAAAAAQ%3D%3D", "cursor"),
        (f"cursor={'A' * 10_000}", "cursor"),
        ("cursor=YzEAAAAAAAAAAQ&cursor=YzEAAAAAAAAAAQ", "cursor"),
        ("page=2", "page"),
        ("Limit=2", "Limit"),
        ("%00=1", "\0"),
        ("&".join(f"a{n}=1" for n in range(500)), "a0"),
    ],
    ids=lambda value: value[:30],
)
def test_a_bad_query_parameter_is_refused_by_name(
    send: Sender, service: str, path: str, query: str, named: str
) -> None:
    response = send.get(service, f"{path}?{query}")
    assert wrong_fields(problem(response, 422, "invalid")) == [("query", named)]


@pytest.mark.parametrize("status", ["", "PLACED", "shipped", "placed,cancelled", "%00"])
def test_an_unknown_status_is_refused_by_name(send: Sender, status: str) -> None:
    found = problem(send.get("orders", f"/orders?status={status}"), 422, "invalid")
    assert wrong_fields(found) == [("query", "status")]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/users/1?x=1"), ("DELETE", "/users/1?x=1"), ("POST", "/users?x=1")],
)
def test_a_request_that_takes_no_query_is_sent_none(
    send: Sender, users: Served, method: str, path: str
) -> None:
    response = users.client.request(method, path)
    assert wrong_fields(problem(response, 422, "invalid")) == [("query", "x")]


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/users/",
        "/users/1/",
        "/users//orders",
        "/users/1/2/3",
        "/orders/1%2F2",
        "/orders/1/cancel%0A",
        "/users/1/orders%0A",
    ],
)
def test_a_path_that_does_not_exist_gets_a_problem_too(
    send: Sender, services: dict[str, Served], path: str
) -> None:
    for served in services.values():
        problem(served.client.get(path), 404, "not-found")


@pytest.mark.parametrize(
    ("service", "method", "path", "allowed"),
    [
        ("users", "PUT", "/users", "GET, HEAD, POST"),
        ("users", "PUT", "/users/1", "DELETE, GET, HEAD, PATCH"),
        ("users", "POST", "/users/1/orders", "GET, HEAD"),
        ("orders", "DELETE", "/orders", "GET, HEAD, POST"),
        ("orders", "TRACE", "/orders", "GET, HEAD, POST"),
        ("orders", "PATCH", "/orders/1", "GET, HEAD"),
        ("orders", "GET", "/orders/1/cancel", "POST"),
        ("orders", "POST", "/health/live", "GET, HEAD"),
    ],
)
def test_a_method_an_address_does_not_answer_is_refused_with_those_it_does(
    send: Sender, services: dict[str, Served], service: str, method: str, path: str, allowed: str
) -> None:
    response = services[service].client.request(method, path)
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == allowed
