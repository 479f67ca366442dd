"""The OpenAPI documents: what they say is what the services do."""

import json
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from uuid import uuid4

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig

from shop.platform import discovery, problems
from shop.platform.http import etag
from shop.platform.problems import Problem
from shop.platform.processes.api import make_app
from tests.support.databases import NewDatabase
from tests.support.examples import ALL
from tests.support.serving import Served, serving, settings_of
from tests.support.shop_events import user_created

NAMES = list(discovery.names())


def document(name: str, *, asks: bool = False) -> dict[str, Any]:
    """Made without a database. `asks` for tokens."""
    settings = settings_of(name, "postgresql://nowhere.invalid/none")
    settings.auth.required = asks
    return make_app(discovery.load(name), settings).openapi()


def schema(name: str) -> Any:
    config = SchemathesisConfig.from_dict(
        {
            # 412 and 409 are right answers to right requests, as 404 is.
            "checks": _right("404", "409", "412"),
            # And whoever draws passwords and tokens never draws the right ones.
            "operations": [
                {"include-tag": "sessions", "checks": _right("400", "401", "404", "429")}
            ],
        }
    )
    return schemathesis.openapi.from_dict(document(name), config=config)


def _right(*statuses: str) -> dict[str, Any]:
    return {"positive_data_acceptance": {"expected-statuses": ["2xx", *statuses]}}


BOUNDED = settings(
    max_examples=25 if ALL else 8,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def served_with_data(request: pytest.FixtureRequest) -> dict[str, Served]:
    """Every service, with three of what clients have it keep."""
    served = {name: request.getfixturevalue(name) for name in NAMES}
    for name, each in served.items():
        if "users" in discovery.load(name).handlers.topics:
            each.hears(*(user_created(n) for n in (1, 2, 3)))
        found = document(name)
        create = found["paths"].get(f"/{name}", {}).get("post")
        for n in (1, 2, 3) if create else ():
            body = {"email": f"somebody{n}@example.com"} if name == "users" else {"user_id": n}
            (example,) = bodies(found, create)
            each.client.post(f"/{name}", json={**example, **body}).raise_for_status()
    return served


def check(case: Any, served: Served) -> None:
    """Every check schemathesis has, on one request."""
    if case.meta.generation.mode.is_positive:
        # It draws some of the If-Match it takes for valid without a look at their pattern.
        if not re.fullmatch(etag.LIST, case.headers.get("if-match", "*")):
            del case.headers["if-match"]
        # It draws the same key for different requests, which is rightly refused.
        if "idempotency-key" in case.headers:
            case.headers["idempotency-key"] = uuid4().hex
        case.body = _as_sent_by_people(case.body)
    case.call_and_validate(base_url=str(served.client.base_url))


def _as_sent_by_people(body: Any) -> Any:
    """To JSON Schema 3.0 is an integer and 0.07 no multiple of 0.01, on account of floats; to a
    service that handles money it is the other way round. No document can say so.
    """
    if not isinstance(body, dict):
        return body
    body = dict(body)
    # One that is not common, which a schema can't say, and none of the examples.
    if body.get("password") is not None and "name" in body:
        body["password"] = "four words of ours"
    if "new_password" in body:
        body["new_password"] = "four words of ours"
    for name in ("user_id", "quantity"):
        if isinstance(body.get(name), float):
            body[name] = int(body[name])
    if isinstance(body.get("total_price"), float):
        body["total_price"] = round(body["total_price"], 2)
    return body


def _does_what_its_document_says(name: str) -> Any:
    @schema(name).parametrize()
    @BOUNDED
    def test(case: Any, served_with_data: dict[str, Served]) -> None:
        check(case, served_with_data[name])

    return test


for each in NAMES:
    globals()[f"test_{each}_does_what_its_document_says"] = _does_what_its_document_says(each)


@pytest.mark.parametrize("name", NAMES)
def test_the_document_is_valid_openapi(name: str) -> None:
    found = document(name)
    assert found["openapi"].startswith("3.1.")
    schema(name).validate()
    for operation in operations(found):
        assert operation["summary"] and operation["description"]


@pytest.mark.parametrize("name", NAMES)
def test_every_reference_in_the_document_leads_somewhere(name: str) -> None:
    found = document(name)
    referred = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(found)))
    assert referred
    assert referred <= set(found["components"]["schemas"])


def operations(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in found["paths"].values() for operation in path.values()]


@pytest.mark.parametrize("name", NAMES)
def test_each_limit_is_documented_exactly(name: str) -> None:
    """As a float the largest bigint would be one too large."""
    ids = [
        parameter["schema"]
        for operation in operations(document(name))
        for parameter in operation.get("parameters", ())
        if parameter["name"].endswith("_id") and parameter["schema"]["type"] == "integer"
    ]
    assert ids
    for id_ in ids:
        assert (id_["minimum"], id_["maximum"]) == (1, 9223372036854775807)


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        (
            "users",
            """
            get_users create_user get_user update_user erase_user get_user_orders open_session end_session
            get_user_sessions end_user_sessions change_password reset_password token get_keys get_metadata
            """,
        ),
        ("orders", "get_orders place_order get_order cancel_order"),
    ],
)
def test_operations_have_the_names_that_generated_clients_call_them_by(name: str, ids: str) -> None:
    """Such a name never changes."""
    found = [operation["operationId"] for operation in operations(document(name))]
    assert sorted(found) == sorted(ids.split())


def test_the_document_names_the_server_it_is_read_from_and_one_on_this_machine(
    users_url: str,
) -> None:
    app = make_app(discovery.load("users"), settings_of("users", users_url, port=9001))
    own, local = app.openapi()["servers"]
    assert own["url"] == "/"
    assert local["url"] == "http://localhost:{port}"
    assert local["variables"]["port"]["default"] == "9001"


@pytest.mark.parametrize("name", NAMES)
def test_optional_fields_of_a_problem_are_absent_and_never_null(name: str) -> None:
    found = document(name)
    schema = found["components"]["schemas"]["Problem"]
    assert sorted(schema["required"]) == ["status", "title", "type"]
    for field in ("detail", "errors"):
        assert "null" not in json.dumps(schema["properties"][field])
        assert "default" not in schema["properties"][field]
    examples = [
        example["value"]
        for operation in operations(found)
        for response in operation["responses"].values()
        for content in response.get("content", {}).values()
        for example in content.get("examples", {}).values()
    ]
    assert examples
    assert "null" not in json.dumps(examples)


def test_problems_are_sent_as_the_schema_says(users: Served) -> None:
    schemas = users.client.get("/openapi.json").json()["components"]["schemas"]
    schema = {**schemas["Problem"], "components": {"schemas": schemas}}
    sent = [
        users.client.get("/nowhere"),
        users.client.get(f"/users/{2**62}"),
        users.client.get("/users/0"),
        users.client.post("/users", json={}),
        users.client.post("/users", content="{", headers={"content-type": "application/json"}),
    ]
    members = [sorted(response.json()) for response in sent]
    for response in sent:
        jsonschema_rs.validate(schema, response.json())
    bare = ["status", "title", "type"]
    assert members[0] == bare
    assert members[1] == ["detail", *bare]
    assert members[2] == members[3] == ["detail", "errors", *bare]


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_may_be_null(name: str) -> None:
    for operation in operations(document(name)):
        for parameter in operation.get("parameters", ()):
            assert "anyOf" not in parameter["schema"], parameter


@pytest.mark.parametrize("name", NAMES)
def test_the_document_and_its_page_are_served(name: str, request: pytest.FixtureRequest) -> None:
    client = request.getfixturevalue(name).client
    assert client.get("/openapi.json").json() == document(name)
    page = client.get("/docs")
    assert page.status_code == 200
    assert "/openapi.json" in page.text


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_problem_a_service_answers_with_is_documented(name: str, *, asks: bool) -> None:
    found = document(name, asks=asks)
    modules = [problems]
    if find_spec(errors := f"{discovery.find(name).package}.errors"):
        modules.append(import_module(errors))
    kinds = {
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Problem) and kind.slug
    }
    parameters = {
        parameter["name"]
        for operation in operations(found)
        for parameter in operation.get("parameters", ())
    }
    if not asks:
        kinds -= {*problems.GUARDED}
    if "if-match" not in parameters:
        kinds.remove(problems.PreconditionFailed)
    if "idempotency-key" not in parameters:
        kinds -= {*problems.WRITES} - {*problems.READS}
    if not any("requestBody" in operation for operation in operations(found)):
        kinds -= {*problems.TAKES_JSON}
    anywhere = {kind for kind in kinds if f"`{kind.type_uri()}`" in found["info"]["description"]}
    assert {kind.type_uri() for kind in kinds - anywhere} == _documented_types(found)


def _documented_types(found: dict[str, Any]) -> set[str]:
    types = set()
    for operation in operations(found):
        for status, response in operation["responses"].items():
            content = response.get("content", {}).get(problems.MEDIA_TYPE, {})
            for example in content.get("examples", {}).values():
                assert example["value"]["status"] == int(status)
                types.add(example["value"]["type"])
    return types


def test_the_examples_in_the_documents_run(
    new_database: NewDatabase, templates: dict[str, str]
) -> None:
    """In the order of the document, on fresh databases: as somebody reading along would."""
    with (
        serving("users", new_database(templates["users"])) as users,
        serving("orders", new_database(templates["orders"])) as orders,
        serving("greetings", new_database(templates["greetings"])) as greetings,
    ):
        orders.hears(user_created(1))
        greetings.hears(user_created(1))
        ran = [*run_examples(users), *run_examples(orders), *run_examples(greetings)]
    assert ran == [
        ("post", "/users", 201),
        ("get", "/users", 200),
        ("get", "/users/1", 200),
        ("patch", "/users/1", 200),
        ("get", "/users/1/orders", 200),
        ("delete", "/users/1", 204),
        ("post", "/orders", 201),
        ("get", "/orders", 200),
        ("get", "/orders/1", 200),
        ("post", "/orders/1/cancel", 200),
        ("post", "/greetings", 201),
        ("get", "/greetings/1", 200),
    ]


def run_examples(served: Served) -> Iterator[tuple[str, str, int]]:
    found = served.client.get("/openapi.json").json()
    paths = [
        (method, path, operation)
        for path, methods in found["paths"].items()
        for method, operation in methods.items()
        # Without a signing key nobody logs in; services/identity has these.
        if operation["tags"] != ["sessions"]
    ]
    for method, path, operation in sorted(paths, key=lambda each: each[0] == "delete"):
        url = path
        for parameter in operation.get("parameters", ()):
            for example in parameter["schema"].get("examples", ()):
                if parameter["in"] == "path":
                    url = url.replace("{" + parameter["name"] + "}", str(example))
        for body in bodies(found, operation) or [None]:
            response = served.client.request(method, url, json=body)
            yield method, url, response.status_code


def bodies(found: dict[str, Any], operation: dict[str, Any]) -> list[Any]:
    if "requestBody" not in operation:
        return []
    name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    examples = found["components"]["schemas"][name.rpartition("/")[2]]["examples"]
    assert isinstance(examples, list)
    return examples


def test_a_problem_type_has_one_status_and_one_title_everywhere() -> None:
    said: dict[str, set[tuple[int, str]]] = {}
    for name in NAMES:
        for operation in operations(document(name)):
            for response in operation["responses"].values():
                examples = response.get("content", {}).get(problems.MEDIA_TYPE, {})
                for example in examples.get("examples", {}).values():
                    value = example["value"]
                    said.setdefault(value["type"], set()).add((value["status"], value["title"]))
    assert "urn:eventshop:problem:user-erased" in said
    assert [type_ for type_, ways in said.items() if len(ways) > 1] == []
