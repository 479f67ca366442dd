"""What a storm puts into the log on purpose, and what the checker must know of it."""

import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from eventspine.log import LogUnavailable
from shop.platform import discovery
from tests.storm import foreign_records
from tests.storm.stage import UNFIT, Stage
from tests.support.load import Action, Sent
from tests.support.waiting import until

READERS = {
    service.topic: {
        each.name for each in discovery.load_all() if service.topic in each.handlers.topics
    }
    for service in discovery.load_all()
}
"""Which services listen to a topic."""


@dataclass
class Planted:
    """Foreign records are known in the log by their mark, and need not be kept here."""

    unfit: set[tuple[str, str]] = field(default_factory=set)
    """Topic and key of what was published, and can't be applied until the fault is mended."""
    mended: set[tuple[str, str]] = field(default_factory=set)
    """Those of them that were applied after all."""
    discarded: set[foreign_records.Place] = field(default_factory=set)
    """Foreign records that were forgotten on purpose."""
    sent: list[Sent] = field(default_factory=list)
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))


def unfit(stage: Stage, planted: Planted, topic: str) -> str:
    """Two events of a key that no other service can apply: one fails, one waits behind it."""
    name = f"{UNFIT}-{next(planted.numbers)}"

    def ask(action: Action, path: str, body: Mapping[str, Any] | None, **about: Any) -> Any:
        sent = ask_by_key(stage, action, path, body, f"{name}-{action}", **about)
        planted.sent.append(sent)
        assert sent.status in {200, 201}, sent
        return sent.answer["id"]

    if topic == "users":
        id_ = ask("create_user", "/users", {"email": f"{name}@example.com", "name": name})
        planted.unfit.add((topic, str(id_)))
        ask("rename_user", f"/users/{id_}", {"name": f"{name} renamed"}, id=id_)
    else:
        [(customer,)] = stage.rows("orders", "SELECT min(id) FROM customers WHERE NOT erased")
        order = {"user_id": customer, "product": name, "quantity": 1, "total_price": "1.00"}
        id_ = ask("place_order", "/orders", order)
        planted.unfit.add((topic, str(id_)))
        ask("cancel_order", f"/orders/{id_}/cancel", None, id=id_)
    return f"key {id_}"


def duplicate(stage: Stage, _: Planted, topic: str, back: int, length: int, which: int) -> str:
    repeated = _plant(
        lambda: foreign_records.duplicate(
            stage.open_log, topic, back=back, length=length, which=which
        )
    )
    return f"{len(repeated.keys)} keys repeated"


def poison(stage: Stage, _: Planted, topic: str, which: int) -> str:
    return _where(_plant(lambda: foreign_records.poison(stage.open_log, topic, which)))


def forge(stage: Stage, _: Planted, topic: str, which: int) -> str:
    return _where(_plant(lambda: foreign_records.forge(stage.open_log, topic, which)))


def _where(planted: foreign_records.Planted) -> str:
    places = [f"{topic}/{partition}@{offset}" for topic, partition, offset in planted.places]
    return ", ".join(places) or "there was no place for it"


def _plant(
    plant: Callable[[], foreign_records.Planted], timeout: float = 60
) -> foreign_records.Planted:
    """Another fault may keep the log away."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return plant()
        except LogUnavailable:
            if time.monotonic() > deadline:
                raise


def ask_by_key(
    stage: Stage,
    action: Action,
    path: str,
    body: Mapping[str, Any] | None,
    key: str,
    timeout: float = 60,
    **about: Any,
) -> Sent:
    """Asked by key until it is known what became of it."""
    service = path.split("/")[1]
    method = "PATCH" if action == "rename_user" else "POST"
    port = stage.ports[service][0]
    url = f"http://127.0.0.1:{port}{path}"
    began = time.monotonic()

    def answer() -> httpx.Response | None:
        authorization = f"Bearer {stage.tokens.current()}"
        headers = {"Idempotency-Key": key, "Authorization": authorization}
        with suppress(httpx.TransportError):
            response = httpx.request(method, url, json=body, headers=headers, timeout=15)
            # A customer not known yet is a matter of time.
            if response.status_code not in {404, 503}:
                return response
        return None

    found = until(answer, f"an answer to {method} {path} {body}", timeout)
    assert found is not None
    told, fields = found.json(), {**(body or {}), **about}
    return Sent(action, fields, found.status_code, told, began, time.monotonic(), key)
