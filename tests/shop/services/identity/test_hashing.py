"""How passwords are hashed and compared: which hashes are taken, by which threads, and what fails."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest
import structlog.testing

from eventspine.errors import Overloaded
from shop.services.users.identity.passwords import Passwords
from tests.support.issuer import PASSWORD

# Of `PASSWORD`, made by the reference implementation (argon2-cffi 25.1).
THE_SAME = "$argon2id$v=19$m=19456,t=2,p=1$IhRQbfCWXf/6BF6C6reRtg$o/2licmf4OpOqFFRIGoPuGEQalIglITp0W/LmQRa/ng"
FOUR_LANES = "$argon2id$v=19$m=8192,t=1,p=4$g+IqpYj/Rk+NRIXwq1KIRg$LoG36J4rdJwHZFqfL7Lvo0XsGGBjGrbcqhIyxwdLPX0"
OTHER_SIZES = "$argon2id$v=19$m=8192,t=1,p=1$2Vo2+tltFsM$pvyPQXdgX3Y7JGX6X8bM+1GBI6MEGt55"
# Of "Café 🐎", a NUL and an "x".
ANY_TEXT = (
    "$argon2id$v=19$m=64,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$DwbHqAKYFhqfz2RdfXg1qS46OsZsmQNvhvXwN6u5Aqk"
)


@pytest.mark.parametrize(
    ("stored", "password", "outdated"),
    [
        (THE_SAME, PASSWORD, False),
        (FOUR_LANES, PASSWORD, True),
        (OTHER_SIZES, PASSWORD, True),
        (ANY_TEXT, "Caf\u00e9 \U0001f40e\0x", True),
        (ANY_TEXT, "Cafe\u0301 \U0001f40e\0x", True),
    ],
)
@pytest.mark.anyio
async def test_hashes_of_the_reference_implementation_are_taken(
    stored: str, password: str, outdated: bool
) -> None:
    passwords = Passwords()
    assert await passwords.verify(stored, password) is True
    assert await passwords.verify(stored, password[:-1]) is False
    assert await passwords.verify(stored, password + "\0") is False
    assert passwords.is_outdated(stored) is outdated
    await passwords.close()


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "secret",
        "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
        "$argon2i$v=19$m=8192,t=3,p=1$MDEyMzQ1Njc4OWFiY2RlZg$DwbHqAKYFhqfz2RdfXg1qS46OsZsmQNvhvXwN6u5Aqk",
        "$argon2id$v=19$m=0,t=0,p=1$MDEyMzQ1Njc4OWFiY2RlZg$DwbHqAKYFhqfz2RdfXg1qS46OsZsmQNvhvXwN6u5Aqk",
        THE_SAME + "\n",
        FOUR_LANES + "A" * 100,
    ],
)
@pytest.mark.anyio
async def test_what_is_no_argon2id_hash_matches_nothing_and_the_log_says_so(stored: str) -> None:
    passwords = Passwords()
    with structlog.testing.capture_logs() as logs:
        assert await passwords.verify(stored, PASSWORD) is False
    assert [line["event"] for line in logs] == ["passwords.stored_hash_rejected"]
    await passwords.close()


@pytest.mark.anyio
async def test_a_password_of_a_megabyte_is_hashed() -> None:
    passwords = Passwords(memory_kib=64, passes=1)
    stored = await passwords.hash("\u0416" * 500_000)
    assert await passwords.verify(stored, "\u0416" * 500_000) is True
    assert await passwords.verify(stored, "\u0416" * 499_999) is False
    await passwords.close()


_WITHOUT_MEMORY = f"""
import asyncio, resource
from eventspine.errors import Unavailable
from shop.services.users.identity.passwords import Passwords

async def scenario():
    passwords = Passwords()
    assert await passwords.verify({THE_SAME!r}, {PASSWORD!r})
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 8 * 1024**2, resource.RLIM_INFINITY))
    for work in (passwords.verify({THE_SAME!r}, {PASSWORD!r}), passwords.hash({PASSWORD!r})):
        try:
            print(await work)
        except Unavailable as error:
            print(error)

asyncio.run(scenario())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory so")
def test_without_memory_no_password_is_called_wrong() -> None:
    run = [sys.executable, "-c", _WITHOUT_MEMORY]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["no 19456 KiB of memory for a password's hash"] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux do threads have priorities")
@pytest.mark.anyio
async def test_hashes_have_a_lower_priority_than_their_process() -> None:
    passwords = Passwords()

    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    theirs = await passwords.queue.submit(priority)
    assert theirs == min(priority() + 10, 19)
    await passwords.close()


@pytest.mark.anyio
async def test_hashes_run_one_at_a_time_and_the_queue_has_an_end() -> None:
    passwords = Passwords(max_waiting=1)
    first = asyncio.create_task(passwords.hash("first password"))
    await asyncio.sleep(0)
    second = asyncio.create_task(passwords.hash("second password"))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        passwords.admit()
    assert await passwords.verify(await first, "first password") is True
    assert await passwords.verify(await second, "first password") is False
    assert await passwords.verify(None, "first password") is False
    await passwords.close()
