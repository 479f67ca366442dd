"""The page of the flow: the newest look, for all who watch."""

import json
import re
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from shop.platform.flow import Flow, FlowReader
from shop.services.console.watching import EVERY_S, _Steps
from tests.support.consoles import console
from tests.support.databases import Databases
from tests.support.living import living
from tests.support.waiting import until


def figures(page: str, lane: str) -> dict[str, str]:
    """The figures of a service's lane, by their names."""
    found = re.search(
        rf'<section class="lane" aria-label="{lane}">(.*?)</section>', page, re.DOTALL
    )
    assert found, page
    return dict(re.findall(r'<dt>([^<]+)</dt><dd class="figure">\s*([^<\s]+)', found[1]))


async def test_it_shows_what_was_published_and_what_waits(databases: Databases) -> None:
    async with living(databases) as system:
        await system.create(3)
        with console(databases) as client:
            until(lambda: "The first look" not in client.get("/").text)
            found = figures(client.get("/").text, "User service")
            assert (found["published"], found["waiting"], found["records"]) == ("3", "3", "0")
            async with system.moving():
                await system.settled()
                until(lambda: figures(client.get("/").text, "User service")["records"] == "3")
            assert figures(client.get("/").text, "User service")["waiting"] == "0"


def test_a_stream_shows_look_after_look(databases: Databases) -> None:
    with console(databases) as client, client.stream("GET", "/flow/stream") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        pictures, points = 0, []
        for line in answer.iter_lines():
            pictures += 'class="card verdict' in line
            if line.startswith("data: ["):
                points.append(json.loads(line.removeprefix("data: ")))
            if pictures >= 3 and len(points) >= 3:
                break
    assert [point[0] for point in points] == sorted({point[0] for point in points})


def test_any_number_of_viewers_costs_one_look_at_a_time(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    look = FlowReader.look

    async def counted(self: FlowReader) -> Flow:
        looks.append(time.monotonic())
        return await look(self)

    monkeypatch.setattr(FlowReader, "look", counted)
    with console(databases) as client, ExitStack() as held:
        for _ in range(8):
            answer = held.enter_context(client.stream("GET", "/flow/stream"))
            assert any("verdict" in line for line in answer.iter_lines())
        until(lambda: len(looks) >= 5)
    # The last four looks of each viewer's own would have come in the time of one.
    assert looks[-1] - looks[-4] > EVERY_S * 2


def test_a_database_that_is_away_is_said_and_the_page_stays(
    databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gone = f"postgresql://nobody@/gone?host={tmp_path_factory.mktemp('gone')}"
    with console(databases.but(orders=gone)) as client:
        until(lambda: "orders database" in client.get("/").text, "it is said")
        answer = client.get("/")
        assert answer.status_code == 200
        assert "<b>users database</b>" not in answer.text


def test_when_a_checkpoint_passed_a_place_is_bounded_by_what_was_seen() -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)

    def at(seconds: int) -> datetime:
        return began + timedelta(seconds=seconds)

    steps = _Steps()
    assert steps.passed(0) is None
    for second, value in enumerate([3, 3, 5, 5, 9]):
        steps.saw(at(second), value)
    assert steps.passed(2) is None, "it was passed before the console watched"
    assert steps.passed(3) == (at(1), at(2))
    assert steps.passed(4) == (at(1), at(2))
    assert steps.passed(8) == (at(3), at(4))
    assert steps.passed(9) is None, "it was not passed yet"
    steps.saw(at(9), 1)
    assert steps.passed(0) is None, "another log has begun"
