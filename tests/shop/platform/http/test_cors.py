"""Pages of other origins: shut out unless a setting names theirs, and then told all they need."""

from collections.abc import Iterator

import httpx
import pytest
from pydantic import ValidationError

from shop.platform.http.cors import Cors
from shop.platform.processes.api import Server
from shop.platform.settings import Settings
from tests.support.databases import NewDatabase
from tests.support.serving import Served, problem, serving, stalled

SHOP = "https://shop.example"
LOCAL = "http://localhost:3000"


@pytest.fixture(scope="module")
def open_(new_database: NewDatabase, templates: dict[str, str]) -> Iterator[Served]:
    """A service that pages of two origins may ask."""
    database = new_database(templates["users"])
    origins = f"{SHOP}, {LOCAL}"
    with serving("users", database, cors_origins=origins, request_timeout_ms=300) as served:
        yield served


def preflight(
    served: Served, path: str, origin: str = SHOP, method: str = "POST", headers: str = ""
) -> httpx.Response:
    asked = {"origin": origin, "access-control-request-method": method}
    if headers:
        asked["access-control-request-headers"] = headers
    return served.client.options(path, headers=asked)


def words(value: str) -> set[str]:
    return {word.strip().lower() for word in value.split(",")}


@pytest.mark.parametrize("path", ["/users", "/users/1", "/health/live", "/nothing", "/docs"])
@pytest.mark.parametrize("origin", [SHOP, LOCAL])
def test_a_preflight_is_answered(open_: Served, path: str, origin: str) -> None:
    answer = preflight(open_, path, origin, headers="content-type,idempotency-key,if-match")
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == origin
    assert {"get", "post", "patch", "delete"} <= words(
        answer.headers["access-control-allow-methods"]
    )
    assert {
        "content-type", "idempotency-key", "if-match", "if-none-match", "authorization",
        "traceparent",
    } <= words(answer.headers["access-control-allow-headers"])  # fmt: skip
    assert "origin" in words(answer.headers["vary"])
    assert int(answer.headers["access-control-max-age"]) > 0


STRANGERS = [
    "https://evil.example",
    "http://shop.example",
    "https://shop.example.evil.example",
    "https://sub.shop.example",
    "https://shop.example:8443",
    "https://shop.example/",
    "HTTPS://SHOP.EXAMPLE",
    "null",
    "*",
    "",
]


@pytest.mark.parametrize("origin", STRANGERS)
def test_another_origin_is_told_nothing(open_: Served, origin: str) -> None:
    asked = [
        preflight(open_, "/users", origin),
        open_.client.get("/users/1", headers={"origin": origin}),
    ]
    for answer in asked:
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert "origin" in words(answer.headers["vary"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health/live", 200),
        ("GET", "/users/999", 404),
        ("GET", "/users/0", 422),
        ("GET", "/nothing", 404),
        ("GET", "/users/1%0A", 422),
        ("GET", "/docs%0A", 404),
        ("PUT", "/users/1", 405),
        ("OPTIONS", "/users", 204),
        ("POST", "/users", 415),
        ("GET", "/", 307),
        ("GET", "/openapi.json", 200),
    ],
)
def test_every_answer_can_be_read(open_: Served, method: str, path: str, status: int) -> None:
    answer = open_.client.request(method, path, headers={"origin": SHOP})
    assert answer.status_code == status
    readable(answer)


def readable(answer: httpx.Response) -> None:
    assert answer.headers.get_list("access-control-allow-origin") == [SHOP]
    assert {"etag", "location", "retry-after", "allow"} <= words(
        answer.headers["access-control-expose-headers"]
    )
    assert "origin" in words(answer.headers["vary"])
    # Or any page could ask in the name of whoever looks at it.
    assert "access-control-allow-credentials" not in answer.headers


def test_what_is_made_and_what_is_unavailable_can_be_read(open_: Served) -> None:
    headers = {"origin": SHOP}
    user = {"email": "cors@example.com", "name": "C"}
    made = open_.client.post("/users", json=user, headers=headers)
    assert (made.status_code, made.headers["etag"]) == (201, '"1"')
    readable(made)
    known = {**headers, "if-none-match": '"1"'}
    unchanged = open_.client.get(made.headers["location"], headers=known)
    assert unchanged.status_code == 304
    readable(unchanged)
    with stalled(open_.database_url):
        with httpx.Client(base_url=open_.client.base_url, timeout=20) as other:
            # One is under way, and the next waits for it in vain.
            with pytest.raises(httpx.ReadTimeout):
                other.post("/users", json={**user, "email": "a@b.example"}, timeout=0.2)
            refused = other.post("/users", json={**user, "email": "c@d.example"}, headers=headers)
    problem(refused, 503, "temporarily-unavailable")
    readable(refused)


def test_a_cache_keeps_what_no_page_asked_for_apart(open_: Served) -> None:
    assert "origin" in words(open_.client.get("/users/1").headers["vary"])


def test_cors_headers_are_absent_by_default(users: Served) -> None:
    assert preflight(users, "/users").status_code == 204  # an OPTIONS like another
    for answer in (
        preflight(users, "/users"),
        users.client.get("/users/1", headers={"origin": SHOP}),
    ):
        assert "vary" not in answer.headers
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    # Nor does a request pass through anything for it.
    own: object = Server(users.app, Settings()).config.app
    assert own is users.app
    named = Settings(cors_origins=(SHOP,))
    assert isinstance(Server(users.app, named).config.app, Cors)


@pytest.mark.parametrize(
    "given",
    [
        "*",
        "null",
        "shop.example",
        "https://shop.example/",
        "https://shop.example/path",
        "https://*.shop.example",
        "https://Shop.example",
        "https://shop.example:443",
        "http://shop.example:80",
        "https://user@shop.example",
        "https://shop.example https://other.example",
        f"{SHOP},*",
    ],
)
def test_an_origin_that_no_browser_would_send_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("SHOP_CORS_ORIGINS", given)
    with pytest.raises(ValidationError, match="is not an origin as a browser sends it"):
        Settings()


@pytest.mark.parametrize(
    ("given", "is_"),
    [
        ("", ()),
        (SHOP, (SHOP,)),
        (f"{SHOP}, {LOCAL},", (SHOP, LOCAL)),
        ("http://[::1]:8080", ("http://[::1]:8080",)),
        ("http://127.0.0.1", ("http://127.0.0.1",)),
    ],
)
def test_origins_stand_in_one_variable(
    monkeypatch: pytest.MonkeyPatch, given: str, is_: tuple[str, ...]
) -> None:
    monkeypatch.setenv("SHOP_CORS_ORIGINS", given)
    assert Settings().cors_origins == is_
