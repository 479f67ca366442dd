"""The page that finds orders, users and what else services keep."""

import re
from collections.abc import Iterator

import httpx
import pytest

from shop.services.console import finding
from tests.support.consoles import console
from tests.support.databases import Databases, NewDatabase, copy_of
from tests.support.living import plant


@pytest.fixture(scope="module")
def client(settled: Databases, new_database: NewDatabase) -> Iterator[httpx.Client]:
    """20 users, of whom 19 and 20 are erased, and 22 orders, of which 1, 5 and 9 are cancelled."""
    with console(copy_of(settled, new_database)) as client:
        yield client


def ids(page: str) -> list[int]:
    return [int(each) for each in re.findall(r"data-row [^>]*>(\d+)</a>", page)]


def test_it_begins_with_orders_and_knows_what_each_service_keeps(client: httpx.Client) -> None:
    answer = client.get("/find")
    assert (answer.status_code, answer.headers["location"]) == (303, "/find/orders")
    page = client.get("/find/orders").text
    assert ids(page) == list(range(22, 0, -1))
    kinds = re.findall(r'<a class="button" href="/find/([a-z.]+)"', page)
    assert set(kinds) >= {"orders", "users", "greetings"}
    assert ids(client.get("/find/users").text) == list(range(20, 0, -1))
    assert "There are no greetings yet" in client.get("/find/greetings").text
    assert client.get("/find/cows").status_code == 404


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("orders?user_id=2", [22, 2]),
        ("orders?user_id=1&status=cancelled", [1]),
        ("orders?status=CANCELLED", [9, 5, 1]),
        ("orders?id=7", [7]),
        ("orders?product=coffee", []),
        ("orders?since=2999-01-01", []),
        ("orders?until=2999-01-01&id=3", [3]),
        ("users?email=U7%40EXAMPLE.com", [7]),
        ("users?name=u+2!", [2]),
        ("users?name=%00u+2!", [2]),
    ],
)
def test_filters_are_in_the_address(
    client: httpx.Client, address: str, expected: list[int]
) -> None:
    page = client.get(f"/find/{address}").text
    assert ids(page) == expected
    if not expected:
        assert "No order matches" in page


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("orders?user_id=seven", "user_id: &#39;seven&#39; is not a number"),
        ("orders?user_id=99999999999999999999", "is not a number"),
        ("orders?since=soon", "&#39;soon&#39; is not a time like 2026-01-31 13:45"),
    ],
)
def test_a_filter_that_means_nothing_is_one_sentence(
    client: httpx.Client, address: str, sentence: str
) -> None:
    answer = client.get(f"/find/{address}")
    assert answer.status_code == 200
    assert sentence in answer.text


def test_one_is_open_at_a_time_with_its_facts_its_history_and_what_belongs_to_it(
    client: httpx.Client,
) -> None:
    page = client.get("/find/users?open=2").text
    [opened] = re.findall(r"<aside.*?</aside>", page, re.DOTALL)
    assert "<h2>user 2</h2>" in opened
    assert "u2@example.com" in opened
    assert 'href="/find/orders?user_id=2"' in opened
    assert 'hx-get="/timeline?q=users/2"' in opened
    history = client.get("/timeline?q=users/2").text
    assert 'id="story"' in history
    assert history.count('<article class="card journey"') == 2
    order = client.get("/find/orders?open=22").text
    assert 'href="/find/users?open=2&amp;id=2"' in order
    assert "There is no order 99" in client.get("/find/orders?open=99").text


def test_pages_go_on_where_the_one_before_ended(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "ON_A_PAGE", 8)
    found, address = list[int](), "/find/orders"
    for _ in range(3):
        page = client.get(address).text
        found += ids(page)
        [*_, further] = re.findall(r'rel="next" href="([^"]+)"', page) or [""]
        address = further.replace("&amp;", "&")
    assert found == list(range(22, 0, -1))
    assert not address


def test_a_look_without_an_index_is_bounded_and_goes_on(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "_WINDOW", 10)
    page = client.get("/find/orders?status=cancelled").text
    assert ids(page) == []
    assert "None of the 10 orders looked at match" in page
    [further] = re.findall(r'rel="next" href="([^"]+)"', page)
    page = client.get(further.replace("&amp;", "&")).text
    assert ids(page) == [9, 5]
    assert "Look further" in page


def test_what_people_are_called_is_never_html(copied: Databases) -> None:
    plant(copied.users, "UPDATE users SET name = '<script>alert(1)</script>' WHERE id = 3")
    with console(copied) as client:
        for address in ("/find/users", "/find/users?open=3"):
            page = client.get(address).text
            assert "&lt;script&gt;alert(1)" in page
            assert "<script>alert" not in page
