"""A database's password is replaced under load, and no request is refused."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from tests.support.newcomers import Newcomers, end_connections
from tests.support.secured import Secured, new_password
from tests.support.shop import Running, answers, free_ports, shop_command
from tests.support.waiting import until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    with ExitStack() as stops:
        yield Secured(tmp_path, stops)


def test_a_databases_password_is_replaced_and_no_request_is_refused(secured: Secured) -> None:
    (port,) = free_ports(1)
    role = "users_api"
    api = Running(
        "api", "users", by=shop_command,
        **secured.environment("api", "users"), SHOP_USERS__PORT=port,
    )  # fmt: skip
    with ExitStack() as stops:
        stops.callback(api.stop)
        client = stops.enter_context(closing(httpx.Client(base_url=f"http://127.0.0.1:{port}")))
        until(lambda: answers(client), "the API answers", 60)
        url = f"http://127.0.0.1:{port}"
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
