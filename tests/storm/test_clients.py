"""What a client's record comes to, when it asked more than once."""

from typing import Any

from tests.storm.clients import broken_keys, outcomes
from tests.support.load import Action, Outcome, Sent

Told = tuple[int | None, dict[str, Any], bytes]

DONE = (201, {"id": 1}, b"201 one")
UNKNOWN = (503, {"type": "urn:eventshop:problem:unknown-outcome"}, b"503")
NOT_DONE = (503, {"type": "urn:eventshop:problem:temporarily-unavailable"}, b"503")
NO_CUSTOMER = (404, {"type": "urn:eventshop:problem:unknown-customer"}, b"404")
TAKEN = (409, {"type": "urn:eventshop:problem:email-taken"}, b"409")
REUSED = (422, {"type": "urn:eventshop:problem:idempotency-key-reused"}, b"422")
NOTHING: Told = (None, {}, b"")


def asked(*told: Told, key: str | None = "k", action: Action = "place_order") -> list[Sent]:
    return [
        Sent(action, {}, status, answer, n, n, key, raw)
        for n, (status, answer, raw) in enumerate(told)
    ]


def came_to(*told: Told) -> Outcome:
    [one] = outcomes(asked(*told))
    return one.outcome


def test_all_that_was_sent_with_one_key_is_one_request() -> None:
    assert came_to(NOTHING, NOT_DONE, UNKNOWN, DONE, DONE) is Outcome.DONE
    assert came_to(NOTHING, UNKNOWN) is Outcome.UNKNOWN
    assert came_to(NOT_DONE, NOT_DONE) is Outcome.REFUSED
    assert came_to(UNKNOWN, TAKEN) is Outcome.REFUSED
    assert len(outcomes(asked(DONE, DONE, key=None))) == 2


def test_a_refusal_that_may_pass_says_nothing_of_a_try_that_was_never_answered() -> None:
    assert came_to(NOTHING, NO_CUSTOMER) is Outcome.UNKNOWN
    assert came_to(NOTHING, NOT_DONE) is Outcome.UNKNOWN
    assert came_to(NO_CUSTOMER, DONE) is Outcome.DONE


def test_another_answer_to_the_same_key_is_found() -> None:
    again = (201, {"id": 2}, b"201 two")
    assert list(broken_keys(asked(NOTHING, NO_CUSTOMER, DONE, DONE))) == []
    assert len(list(broken_keys(asked(DONE, again)))) == 1
    assert len(list(broken_keys(asked(TAKEN, DONE)))) == 1
    assert list(broken_keys(asked(DONE, again, key=None))) == []


def test_a_key_that_was_used_for_another_request_is_found() -> None:
    assert list(broken_keys(asked(REUSED, NOT_DONE, NOTHING, action="reuse_key"))) == []
    assert len(list(broken_keys(asked(DONE, action="reuse_key")))) == 1
    assert outcomes(asked(REUSED, action="reuse_key")) == []
