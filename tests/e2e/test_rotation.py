"""Passwords of a database's roles and of its administrator are replaced under load, and no request is refused."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg import sql

from tests.support.newcomers import Newcomers, end_connections
from tests.support.secured import Secured, new_password
from tests.support.shop import Running, answers, free_ports, shop_command
from tests.support.tls_postgres import ADMINISTRATOR
from tests.support.waiting import until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    with ExitStack() as stops:
        yield Secured(tmp_path, stops)


@contextmanager
def users_api(secured: Secured) -> Iterator[str]:
    """Yields its address."""
    (port,) = free_ports(1)
    api = Running(
        "api", "users", by=shop_command,
        **secured.environment("api", "users"), SHOP_USERS__PORT=port,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as stops:
        stops.callback(api.stop)
        client = stops.enter_context(closing(httpx.Client(base_url=url)))
        until(lambda: answers(client), "the API answers", 60)
        yield url


def test_a_databases_password_is_replaced_and_no_request_is_refused(secured: Secured) -> None:
    role = "users_api"
    with users_api(secured) as url:
        [old], new = secured.passwords(role), new_password()
        # The steps of docs/operations.md, each under load.
        with Newcomers(url) as first:
            first.more()
            secured.set_file(role, old, new)
            first.more()
            secured.set_roles("users")
            first.more()
        with closing(secured.as_superuser()) as admin:
            end_connections(admin, role)
        with Newcomers(url) as between:
            between.more()
            secured.set_file(role, new)
            between.more()
        with closing(secured.as_superuser()) as admin:
            end_connections(admin, role)
        with Newcomers(url) as last:
            last.more()
        assert {*first.answers, *between.answers, *last.answers} == {201}
        with pytest.raises(Exception, match="password authentication failed"):
            secured.connect("users", role, old)
    made_new = secured.connect("users", role)
    made_new.close()


def test_the_administrators_password_is_replaced_and_roles_can_be_set_at_any_time(
    secured: Secured,
) -> None:
    old, new = secured.passwords(ADMINISTRATOR)[0], new_password()
    with users_api(secured) as url, Newcomers(url) as newcomers:
        # The steps of docs/operations.md. In between, an operator may set roles, such as another password.
        newcomers.more()
        secured.set_file(ADMINISTRATOR, old, new)
        secured.set_roles("users")
        with closing(secured.as_superuser()) as admin:
            admin.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(ADMINISTRATOR), new)
            )
        secured.set_roles("users")
        newcomers.more()
        secured.set_file(ADMINISTRATOR, new)
        secured.set_roles("users")
        newcomers.more()
    assert {*newcomers.answers} == {201}
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        secured.connect("postgres", ADMINISTRATOR, old)
