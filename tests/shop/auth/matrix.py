"""The matrix: each route of the shop, each kind of token, whose row is asked for; and what is answered.

What must be answered stands in `matrix.md`: an answer for one's own row, another's, and nobody's, or one for all.
`403s` is a 403 for a missing scope; `200:1` is a list of one.

    python -m tests.shop.auth.matrix --write    writes what is answered now, for a reader to judge
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg

from devstack.postgres import LocalPostgres
from eventspine.database import Database
from shop.platform import discovery
from shop.platform.auth.rules import Row
from shop.platform.migrations import migrate
from shop.platform.processes.api import check_rules
from tests.support.issuing import ENDED, Token, ended, planted
from tests.support.serving import serving, settings_of
from tests.support.token_kinds import KINDS, STATES, Headers, Kind

PAGE = Path(__file__).with_name("matrix.md")
SERVICES = ("users", "orders")
ENOUGH = {"required": True, "requests_a_second": 1e6, "service_requests_a_second": 1e6}

NOBODYS = 10_000_000
USERS = 14_000
"""As many that each cell has two of its own."""

_FILL = {
    "users": """
        INSERT INTO users (id, email, name) SELECT n, n || '@example.com', 'U' FROM generate_series(1, {n}) n;
        SELECT setval('users_id_seq', {n});
        INSERT INTO sessions (id, user_id, family_hash, token_hash)
        SELECT lpad(to_hex(n), 32, '0')::uuid, n, '', '' FROM generate_series(1, {n}) n;
        INSERT INTO orders SELECT n, n, 'tea', 1, 1, 'placed', 1, now() FROM generate_series(1, {n}) n;
    """,
    "orders": """
        INSERT INTO customers SELECT n, n || '@example.com', 'U', 1, false FROM generate_series(1, {n}) n;
        INSERT INTO orders (id, user_id, product, quantity, total_price)
        SELECT n, n, 'tea', 1, 1 FROM generate_series(1, {n}) n;
        SELECT setval('orders_id_seq', {n});
    """,
}
_GENERATIONS = """
INSERT INTO access SELECT 'user:' || n, ARRAY['customer'], false, 5, 'x', 5 FROM generate_series(1, {n}) n;
"""

_fresh = count(1)
REQUESTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "POST /users": lambda _: {"json": {"email": f"new{next(_fresh)}@example.org", "name": "N"}},
    "GET /users": lambda id_: {"params": {"email": f"{id_}@example.com"}},
    "GET /users/{user_id}": lambda _: {},
    "PATCH /users/{user_id}": lambda _: {"json": {"name": "Other"}},
    "DELETE /users/{user_id}": lambda _: {},
    "GET /users/{user_id}/orders": lambda _: {},
    # Public: whatever token is sent, the same is wrong with the body.
    "POST /sessions": lambda _: {"json": {}},
    "POST /token": lambda _: {"data": {"grant_type": "password"}},
    "POST /users/{user_id}/password": lambda _: {"json": {}},
    "GET /.well-known/jwks.json": lambda _: {},
    "GET /.well-known/oauth-authorization-server": lambda _: {},
    "DELETE /sessions/{session_id}": lambda _: {},
    "GET /users/{user_id}/sessions": lambda _: {},
    "DELETE /users/{user_id}/sessions": lambda _: {},
    "POST /users/{user_id}/password-reset": lambda _: {},
    "POST /orders": lambda id_: {
        "json": {"product": "tea", "quantity": 1, "total_price": 1, "user_id": id_}
    },
    "GET /orders": lambda id_: {"params": {"user_id": id_}},
    "GET /orders/{order_id}": lambda _: {},
    "POST /orders/{order_id}/cancel": lambda _: {},
}
"""What is sent to each route for a row with this id. A new route needs one."""


def rules(name: str) -> list[Row]:
    service = discovery.load(name)
    endpoints = service.endpoints(settings_of(name, "postgresql://nowhere.invalid/x"), Database(""))
    return check_rules(service, endpoints.router)


def routes(name: str) -> list[str]:
    return [f"{row.method} {row.path}" for row in rules(name)]


@dataclass
class Asked:
    """The services, and users that no cell has had yet."""

    clients: Mapping[str, httpx.Client]
    _users: Iterator[int] = field(default_factory=lambda: iter(range(1, USERS, 2)))

    def answers(self, service: str, route: str, kind: Kind) -> str:
        """For one's own row, another's, and nobody's."""
        found = [self._answer(service, route, kind, whose) for whose in range(3)]
        return found[0] if len({*found}) == 1 else "/".join(found)

    def _answer(self, service: str, route: str, kind: Kind, whose: int) -> str:
        own = next(self._users)
        response = self.send(
            service, route, kind(Token(f"user:{own}")), [own, own + 1, NOBODYS][whose]
        )
        return code(response)

    def send(self, service: str, route: str, headers: Headers, id_: int) -> httpx.Response:
        method, path = route.split(" ")
        return self.clients[service].request(
            method,
            path.format(user_id=id_, order_id=id_, session_id=UUID(int=id_)),
            headers=headers,
            **REQUESTS[route](id_),
        )


def code(response: httpx.Response) -> str:
    if response.status_code == 403:
        return f"403{'s' if response.json()['type'].endswith('insufficient-scope') else ''}"
    if response.status_code == 401:
        assert response.headers["www-authenticate"].startswith("Bearer ")
    if response.status_code == 200 and "items" in response.json():
        return f"200:{len(response.json()['items'])}"
    return str(response.status_code)


def fill(name: str, url: str) -> None:
    """Users, an order of each, and what is published of keys and revocations."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((_FILL[name] + _GENERATIONS).format(n=USERS).encode())
        events = [key.changed(state) for key, state in STATES]  # type: ignore[arg-type]
        for sql, values in planted([*events, ended(ENDED)]):
            connection.execute(sql.encode(), values)


@contextmanager
def asked(urls: Mapping[str, str]) -> Iterator[Asked]:
    """The services in this process, with the keys loaded."""
    with ExitStack() as held:
        clients = {}
        for name in SERVICES:
            fill(name, urls[name])
            served = held.enter_context(serving(name, urls[name], auth=ENOUGH))
            clients[name] = served.client
            for _ in range(200):
                if served.client.get("/health/ready").status_code == 200:
                    break
        yield Asked(clients)


def read(page: str) -> dict[str, dict[str, str]]:
    """By kind and route."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    names = [cell.strip("`") for cell in head[1:]]
    return {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}


def written(answers: Mapping[str, Mapping[str, str]], columns: Sequence[str]) -> str:
    head = f"| token | {' | '.join(f'`{route}`' for route in columns)} |"
    rule = f"| --- {'| --- ' * len(columns)}|"
    rows = [f"| {kind} | {' | '.join(of[c] for c in columns)} |" for kind, of in answers.items()]
    about = (
        "# Who may do what\n\n"
        "What is answered for one's own row / another's / nobody's, or for all three. `403s`: a scope is missing.\n"
        "`200:1`: a list of one. Each cell is run by `test_matrix.py`.\n"
    )
    return "\n".join([about, head, rule, *rows, ""])


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalPostgres(Path(folder) / "postgres") as server,
    ):
        urls = {}
        for name in SERVICES:
            service = discovery.load(name)
            with psycopg.connect(server.dsn("postgres"), autocommit=True) as admin:
                admin.execute(f"CREATE DATABASE {name}")
            urls[name] = server.dsn(name, "postgres")
            migrate(urls[name], service.tables(), service.migrations)
        with asked(urls) as all_:
            columns = [route for name in SERVICES for route in routes(name)]
            answers = {
                what: {
                    route: all_.answers(name, route, kind)
                    for name in SERVICES
                    for route in routes(name)
                }
                for what, kind in KINDS.items()
            }
    page = written(answers, columns)
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page, encoding="utf-8")
    else:
        print(page)


if __name__ == "__main__":
    main()
