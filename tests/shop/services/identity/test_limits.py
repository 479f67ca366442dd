"""Wrong passwords are limited, and nobody can lock somebody else out."""

import pytest

from shop.services.users.identity.limits import Limit, Limits, Rates, Try, network
from tests.support.issuer import PASSWORD, Issuer
from tests.support.serving import problem


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


RATES = Rates(
    device=Limit(3, 60), address_and_account=Limit(2, 60), address=Limit(4, 5), account=Limit(6, 60)
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> Limits:
    return Limits(RATES, clock)


def tried(limits: Limits, one: Try, *, right: bool = False) -> float:
    """0 if it was let through; else how long to wait."""
    if wait := limits.wait(one):
        return wait
    limits.begin(one)
    if right:
        limits.right(one)
    return 0


def test_an_address_has_a_few_wrong_tries_for_an_account_and_then_one_a_minute(
    limits: Limits, clock: Clock
) -> None:
    one = Try("a", "1.1.1.1", None)
    assert [tried(limits, one) for _ in range(3)] == [0, 0, 60]
    clock.now += 60
    assert tried(limits, one) == 0
    assert tried(limits, one) == 60


def test_right_passwords_are_never_counted(limits: Limits) -> None:
    one = Try("a", "1.1.1.1", None)
    assert not any(tried(limits, one, right=True) for _ in range(100))


def test_an_address_has_a_limit_for_all_accounts_together(limits: Limits) -> None:
    waits = [tried(limits, Try(f"account {n}", "1.1.1.1", None)) for n in range(5)]
    assert waits[:4] == [0, 0, 0, 0]
    assert waits[4] == 5
    assert tried(limits, Try("account 9", "2.2.2.2", None)) == 0


def test_under_attack_from_many_addresses_each_new_one_has_one_try(limits: Limits) -> None:
    for n in range(100):
        tried(limits, Try("a", f"10.0.0.{n}", None))
    guess = Try("a", "10.0.1.1", None)
    assert tried(limits, guess) == 0
    assert tried(limits, guess) > 0


def test_whoever_attacks_an_account_its_owner_comes_in(limits: Limits) -> None:
    owner_at_home, owner_abroad = Try("a", "9.9.9.9", "device"), Try("a", "8.8.8.8", None)
    for n in range(1000):
        tried(limits, Try("a", f"10.0.{n // 250}.{n % 250}", None))
        # Even from the owner's own address, a neighbour behind the same router.
        tried(limits, Try("a", "9.9.9.9", None))
    assert tried(limits, owner_at_home, right=True) == 0
    assert tried(limits, owner_abroad, right=True) == 0


def test_a_stolen_device_token_is_no_licence_to_guess(limits: Limits) -> None:
    one = Try("a", "1.1.1.1", "device")
    assert [tried(limits, one) for _ in range(4)] == [0, 0, 0, 60]


def test_many_tries_at_once_are_counted_before_any_is_answered(limits: Limits) -> None:
    one = Try("a", "1.1.1.1", None)
    for _ in range(2):
        assert limits.wait(one) == 0
        limits.begin(one)
    assert limits.wait(one) > 0


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("", ""),
        ("x" * 1000, "x" * 64),
    ],
)
def test_an_address_of_ipv6_counts_by_its_network(address: str, counted: str) -> None:
    assert network(address) == counted


def test_over_http_the_sixth_wrong_password_has_to_wait_and_a_known_device_has_not(
    issuer: Issuer,
) -> None:
    user = issuer.user()
    device = issuer.session(user)["device_token"]
    for _ in range(5):
        problem(issuer.log_in(user["email"], "wrong password"), 401, "wrong-credentials")
    slowed = issuer.log_in(user["email"], "wrong password")
    problem(slowed, 429, "too-many-attempts")
    assert 1 <= int(slowed.headers["retry-after"]) <= 60
    # The right password, from where nobody has logged in, waits as well: it says nothing.
    problem(issuer.log_in(user["email"]), 429, "too-many-attempts")
    known = issuer.log_in(user["email"], PASSWORD, device_token=device)
    assert known.status_code == 201
    assert known.json()["device_token"] == device
    # Another account is not slowed.
    assert issuer.session(issuer.user())


def test_another_users_device_token_is_not_known_to_the_account(issuer: Issuer) -> None:
    device = issuer.session(issuer.user())["device_token"]
    user = issuer.user()
    for _ in range(5):
        issuer.log_in(user["email"], "wrong password", device_token=device)
    slowed = issuer.log_in(user["email"], PASSWORD, device_token=device)
    problem(slowed, 429, "too-many-attempts")


def test_an_unknown_account_is_slowed_as_a_known_one_is(issuer: Issuer) -> None:
    answers = [issuer.log_in("nobody@example.org", "wrong password") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429]
