"""The gate of an API: what is remembered, for how long, and what is looked at with every request."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import pytest
from starlette.types import Scope

from eventspine.database import Database
from shop.platform.auth import gate as gates
from shop.platform.auth import tokens
from shop.platform.auth.gate import Gate
from shop.platform.auth.rules import PUBLIC, Rule, allowed
from shop.platform.auth.settings import AuthSettings
from shop.platform.auth.tokens import key_of
from shop.platform.problems import (
    Forbidden,
    InsufficientScope,
    Problem,
    TemporarilyUnavailable,
    TooManyRequests,
    Unauthenticated,
)
from tests.support.issuing import SESSION, Token, key

READ = Rule("notes:read", frozenset({"customer", "support", "admin", "service"}), "own")
NOTES = ("notes:read",)


@dataclass
class Clock:
    """The wall clock and the monotonic one, as the gate reads them."""

    ahead: float = 0.0
    monotonic_ahead: float = 0.0

    def time(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.monotonic_ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gates, "time", clock)
    return clock


@dataclass
class Door:
    """A gate that knows one key, and how often a token was verified."""

    gate: Gate
    verified: int = 0

    def ask(self, token: str | None, rule: Rule = READ, scheme: str = "Bearer") -> str:
        headers = [(b"host", b"x")]
        if token is not None:
            headers.append((b"authorization", f"{scheme} {token}".encode()))
        request: Scope = {"headers": headers}
        guard = self.gate.guard(rule)
        assert guard
        asks = guard(request)
        assert asks
        return asks.subject

    def refusal(self, token: str | None, rule: Rule = READ, **more: str) -> Problem:
        with pytest.raises(Problem) as refused:
            self.ask(token, rule, **more)
        return refused.value


@pytest.fixture
def door(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Door:
    door = Door(opened())
    verify = tokens.verify

    def counted(*args: object) -> object:
        door.verified += 1
        return verify(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(gates, "verify", counted)
    return door


def opened(**settings: object) -> Gate:
    gate = Gate(AuthSettings.model_validate({"required": True, **settings}), Database(""))
    gate._own.keys = {"k1": key_of(key().public_jwk)}
    gate.known.loaded = True
    return gate


def token(**changed: object) -> str:
    return Token(scopes=NOTES, **changed).signed()  # type: ignore[arg-type]


def test_a_token_is_verified_once(door: Door) -> None:
    good = token()
    assert {door.ask(good) for _ in range(10)} == {"user:1"}
    assert door.verified == 1


def test_two_tokens_never_share_a_place(door: Door) -> None:
    assert [door.ask(token(subject=f"user:{n}")) for n in range(1, 9)] == [
        f"user:{n}" for n in range(1, 9)
    ]
    assert len(door.gate._taken) == 8


def test_what_was_refused_is_not_remembered(door: Door) -> None:
    bad = token(claims={"aud": "another"})
    for _ in range(3):
        assert isinstance(door.refusal(bad), Unauthenticated)
    assert (door.verified, len(door.gate._taken)) == (3, 0)


def test_a_remembered_token_is_refused_once_it_has_expired(door: Door, clock: Clock) -> None:
    good = token()
    door.ask(good)
    clock.ahead = 299
    door.ask(good)
    clock.ahead = 301
    assert "expired" in door.refusal(good).detail


def test_a_remembered_token_is_refused_before_its_time_when_the_clock_goes_back(
    door: Door, clock: Clock
) -> None:
    good = token(claims={"nbf": int(time.time())})
    door.ask(good)
    clock.ahead = -60
    assert "not valid yet" in door.refusal(good).detail


def test_a_token_is_remembered_for_a_minute_at_most(door: Door, clock: Clock) -> None:
    good = token()
    door.ask(good)
    clock.monotonic_ahead = 59
    door.ask(good)
    assert door.verified == 1
    clock.monotonic_ahead = 61
    door.ask(good)
    assert door.verified == 2


def test_other_keys_have_all_tokens_verified_anew(door: Door) -> None:
    good = token()
    door.ask(good)
    door.gate.known._take_keys({"k2": key("k2").public_jwk})
    assert isinstance(door.refusal(good), Unauthenticated)
    door.gate.known._take_keys({"k1": key().public_jwk})
    assert door.ask(good) == "user:1"


def test_so_many_are_remembered_and_no_more(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "REMEMBERED", 3)
    tokens = [token(subject=f"user:{n}") for n in range(1, 6)]
    for each in tokens:
        door.ask(each)
    assert len(door.gate._taken) == 3
    assert door.ask(tokens[0]) == "user:1"


def test_a_token_that_ends_like_a_remembered_one_is_verified(door: Door) -> None:
    good, other = token(), token(subject="user:2")
    door.ask(good)
    end = good[-2 * gates._END :]
    head, payload, _ = other.split(".")
    signature = good.rpartition(".")[2]
    for forged in (f"{head}.{payload}.{signature}", f"A{good[1:]}", end, f"x{good}"):
        assert isinstance(door.refusal(forged), Unauthenticated)
        assert door.ask(good) == "user:1"
    for scheme in ("bearer", "BEARER"):
        assert door.ask(good, scheme=scheme) == "user:1"
    assert isinstance(door.refusal(good, scheme="Basic"), Unauthenticated)
    assert door.ask(good) == "user:1"


def test_so_many_are_found_without_a_hash_and_no_more(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "RECENT", 3)
    tokens = [token(subject=f"user:{n}") for n in range(1, 6)]
    for _ in range(3):
        assert [door.ask(each) for each in tokens] == [f"user:{n}" for n in range(1, 6)]
    assert len(door.gate._recent) == 3
    assert door.verified == 5
    door.gate._forget()
    assert (len(door.gate._recent), len(door.gate._taken)) == (0, 0)


def test_each_token_is_counted_once(door: Door, clock: Clock) -> None:
    good = token()
    for _ in range(3):
        door.ask(good)
    door.refusal(token(claims={"aud": "another"}))
    clock.ahead = 301
    door.refusal(good)
    assert door.gate.counts == [5, 1, 2]


@pytest.mark.parametrize(("generation", "taken"), [(4, True), (5, True), (6, False), (inf, False)])
def test_a_generation_is_looked_at_with_every_request(
    door: Door, generation: float, *, taken: bool
) -> None:
    good = token()
    door.ask(good)
    door.gate.known.generations["user:1"] = generation
    if taken:
        door.ask(good)
    else:
        assert "access has changed" in door.refusal(good).detail
    door.ask(token(subject="user:2"))


def test_a_session_is_looked_at_with_every_request(door: Door) -> None:
    good = token()
    door.ask(good)
    door.gate.known.ended[str(SESSION)] = 0.0
    assert "session has ended" in door.refusal(good).detail


def test_a_scope_and_a_role_are_needed(door: Door) -> None:
    refused = door.refusal(token(), READ._replace(scope="notes:write"))
    assert isinstance(refused, InsufficientScope)
    assert (b"www-authenticate",
            b'Bearer realm="eventshop", error="insufficient_scope", scope="notes:write"'
            ) in refused.headers()  # fmt: skip
    staff = READ._replace(roles=frozenset({"admin"}))
    assert isinstance(door.refusal(token(), staff), Forbidden)
    assert door.ask(token(roles=("admin",)), staff) == "user:1"


def test_without_a_token_the_answer_names_no_error(door: Door) -> None:
    assert door.refusal(None).headers() == [(b"www-authenticate", b'Bearer realm="eventshop"')]


def test_a_public_route_is_not_guarded(door: Door) -> None:
    assert door.gate.guard(PUBLIC) is None


def test_before_keys_are_known_a_token_is_answered_with_503(door: Door) -> None:
    door.gate._own.keys = {}
    door.gate.known.loaded = False
    assert isinstance(door.refusal(token()), TemporarilyUnavailable)
    with pytest.raises(TemporarilyUnavailable):
        door.gate.check_ready()


def test_a_subject_that_asks_too_often_is_told_when_to_come_again(clock: Clock) -> None:
    door = Door(opened(requests_a_second=2))
    good, other = token(), token(subject="user:2")
    for _ in range(20):
        door.ask(good)
    refused = door.refusal(good)
    assert isinstance(refused, TooManyRequests)
    assert refused.headers() == [(b"retry-after", b"1")]
    # A fresh token is the same subject; another subject is not.
    assert isinstance(door.refusal(token()), TooManyRequests)
    door.ask(other)
    clock.monotonic_ahead = 0.6
    door.ask(good)
    assert isinstance(door.refusal(good), TooManyRequests)


def test_services_have_a_limit_of_their_own() -> None:
    door = Door(opened(requests_a_second=0.1, service_requests_a_second=100))
    service: Mapping[str, object] = {"subject": "service_account:billing", "roles": ("service",)}
    good = token(**service)
    for _ in range(50):
        door.ask(good)


def test_a_rule_stands_at_its_endpoint() -> None:
    @allowed("notes:read", roles=("admin",))
    async def endpoint() -> None: ...

    rule: Rule = endpoint.rule  # type: ignore[attr-defined]
    assert rule == Rule("notes:read", frozenset({"admin"}), "all")
