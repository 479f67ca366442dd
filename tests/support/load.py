"""Clients that buy, and write down what they sent and what they were told.

Each is a thread with connections of its own that sends one request after the other, so that many
are under way at once. What is written down is all that a client can know: no more is needed to say
afterwards what must be there, what must not, and what may.
"""

import http.client
import json
import random
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

Action = Literal[
    "create_user", "rename_user", "place_order", "cancel_order", "send_greeting", "reuse_key"
]

_JSON = {"Content-Type": "application/json", "Accept": "*/*"}
TIMEOUT = 15.0  # seconds a client waits for its answer
_PAUSE = 0.02  # seconds, after no answer came


class Outcome(Enum):
    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Sent:
    """One request and what its client was told; `status` is None if no answer came."""

    action: Action
    fields: Mapping[str, Any]
    status: int | None
    answer: Mapping[str, Any]
    sent_at: float
    """By the monotonic clock, as `answered_at`."""
    answered_at: float
    key: str | None = None
    """The idempotency key it was sent with."""
    raw: bytes = b""
    """The answer to the byte: status, the headers that say what was done, body."""

    @property
    def outcome(self) -> Outcome:
        if self.status is None or self.answer.get("type", "").endswith(":unknown-outcome"):
            return Outcome.UNKNOWN
        # Another 503 says "not done", and is taken at its word.
        return Outcome.DONE if self.status < 300 else Outcome.REFUSED

    def __str__(self) -> str:
        told = "no answer" if self.status is None else f"{self.status} {dict(self.answer)}"
        by = f" by key {self.key}" if self.key else ""
        return f"{self.action} {dict(self.fields)}{by} → {told}"


Ports = Mapping[str, Sequence[int]]
"""Of each service's APIs."""


class Load:
    """Runs in a `with` block. `name` keeps what it sends apart from another load's."""

    def __init__(
        self,
        ports: Ports,
        *,
        name: str,
        clients: int = 12,
        seed: int = 0,
        kind: "Callable[[Load, Ports, str, int], Client] | None" = None,
        token: Callable[[], str] | None = None,
    ) -> None:
        self.token = token
        """Gives an access token for the next request; None where no API asks for one."""
        self.sent: list[Sent] = []
        self._news = threading.Condition()
        self._stop = threading.Event()
        make = kind or Client
        self._threads = [
            threading.Thread(target=make(self, ports, f"{name}-{n}", seed).run, daemon=True)
            for n in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * TIMEOUT)
        assert not any(thread.is_alive() for thread in self._threads)

    def until(self, more: int, action: Action = "place_order", timeout: float = 90) -> None:
        """Go on until so many more of these have been sent from now on, and done."""
        begin, now = len(self.sent), time.monotonic()

        def enough() -> bool:
            done = sum(
                sent.action == action and sent.sent_at >= now and sent.outcome is Outcome.DONE
                for sent in self.sent[begin:]
            )
            return done >= more

        with self._news:
            assert self._news.wait_for(enough, timeout), (
                f"less than {more} × {action} in {timeout:g} s; "
                f"last: {', '.join(map(str, self.sent[-3:]))}"
            )

    def wait(self, seconds: float) -> bool:
        """True once it is to stop."""
        return self._stop.wait(seconds)

    def note(self, sent: Sent) -> None:
        with self._news:
            self.sent.append(sent)
            self._news.notify_all()


class Request(NamedTuple):
    """What a client asks for; `about` is what its record says of it besides the body."""

    action: Action
    service: str
    connection: http.client.HTTPConnection
    method: str
    path: str
    body: Mapping[str, Any] | None
    about: Mapping[str, Any]


@dataclass
class Client:
    load: Load
    ports: Ports
    name: str
    seed: int
    users: list[dict[str, Any]] = field(default_factory=list)
    not_renamed: list[dict[str, Any]] = field(default_factory=list)
    not_cancelled: list[int] = field(default_factory=list)

    def run(self) -> None:
        self._chance = random.Random(f"{self.seed}/{self.name}")
        # Each begins at one of a service's APIs, so that all of them have work.
        begins = random.Random(self.name)
        self._connections = {
            service: http.client.HTTPConnection(
                "127.0.0.1", begins.choice(self.ports[service]), timeout=TIMEOUT
            )
            for service in sorted(self.ports)
        }
        self._count = 0
        todo: list[tuple[Callable[[], None], int]] = [
            (self._create_user, 12), (self._rename_user, 3), (self._cancel_order, 7),
            (self._be_refused, 3), (self._place_order, 75),
        ]  # fmt: skip
        if "greetings" in self.ports:
            todo.append((self._send_greeting, 25))
        what, weights = zip(*todo, strict=True)
        while not self.load.wait(0):
            self._count += 1
            step = self._chance.choices(what, weights)[0] if self.users else self._create_user
            step()
        for connection in self._connections.values():
            connection.close()

    def _create_user(self) -> None:
        email = f"{self.name}-{self._count}@example.com"
        sent = self._send(
            "create_user", "users", "POST", "/users", {"email": email, "name": "Setiadi"}
        )
        if sent.outcome is Outcome.DONE:
            user = dict(sent.answer)
            self.users.append(user)
            self.not_renamed.append(user)
            self._place_order(user)

    def _rename_user(self) -> None:
        """Once each, so that afterwards it is plain which name is right."""
        if self.not_renamed:
            user = self.not_renamed.pop(self._chance.randrange(len(self.not_renamed)))
            self._send(
                "rename_user", "users", "PATCH", f"/users/{user['id']}",
                {"name": f"{self.name}-{self._count}"}, id=user["id"],
            )  # fmt: skip

    def _place_order(self, user: Mapping[str, Any] | None = None) -> None:
        order = {
            "user_id": (user or self._chance.choice(self.users))["id"],
            # Nobody else's: by it the order is found again.
            "product": f"{self.name}-{self._count}",
            "quantity": self._chance.randint(1, 100),
            "total_price": f"{self._chance.randint(0, 99_999) / 100:.2f}",
        }
        sent = self._send("place_order", "orders", "POST", "/orders", order)
        if sent.outcome is Outcome.DONE:
            self.not_cancelled.append(sent.answer["id"])

    def _cancel_order(self) -> None:
        if self.not_cancelled:
            chosen = self._chance.randrange(len(self.not_cancelled))
            id_ = self.not_cancelled.pop(chosen)
            self._send(
                "cancel_order", "orders", "POST", f"/orders/{id_}/cancel", None, id=id_
            )  # fmt: skip

    def _send_greeting(self) -> None:
        greeting = {"user_id": self._chance.choice(self.users)["id"]}
        greeting["text"] = f"{self.name}-{self._count}"
        self._send("send_greeting", "greetings", "POST", "/greetings", greeting)

    def _be_refused(self) -> None:
        if self._chance.random() < 0.5:
            email = self._chance.choice(self.users)["email"].upper()
            self._send("create_user", "users", "POST", "/users", {"email": email, "name": "Twin"})
        else:
            order = {"user_id": self.users[0]["id"], "product": f"{self.name}-{self._count}"}
            order |= {"quantity": 0, "total_price": "1.00"}
            self._send("place_order", "orders", "POST", "/orders", order)

    def _send(
        self,
        action: Action,
        service: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        **about: Any,
    ) -> Sent:
        """Ask, once; for those who ask otherwise."""
        return self._ask(self._request(action, service, method, path, body, about))

    def _request(
        self,
        action: Action,
        service: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        about: Mapping[str, Any],
    ) -> Request:
        return Request(action, service, self._connections[service], method, path, body, about)

    def _ask(self, request: Request, key: str | None = None) -> Sent:
        action, _, connection, method, path, body, about = request
        sent_at = time.monotonic()
        status: int | None = None
        answer: Mapping[str, Any] = {}
        raw = b""
        headers = (_JSON if body else {}) | ({"Idempotency-Key": key} if key else {})
        if self.load.token is not None:
            headers["Authorization"] = f"Bearer {self.load.token()}"
        if _was_closed(connection):
            connection.close()
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read()
            answer = json.loads(content)
            status = response.status
            told = (str(status), response.getheader("ETag"), response.getheader("Location"))
            raw = f"{told} ".encode() + content
        except (OSError, http.client.HTTPException, ValueError):
            # What came was no answer, or not a whole one.
            connection.close()
        fields = {**(body or {}), **about}
        sent = Sent(action, fields, status, answer, sent_at, time.monotonic(), key, raw)
        self.load.note(sent)
        if sent.status is None:
            self.load.wait(_PAUSE)
        return sent


def _was_closed(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has closed it while it was idle, which is no answer to anything."""
    return bool(connection.sock and select.select([connection.sock], [], [], 0)[0])
