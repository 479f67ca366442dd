"""The worker deletes sessions, answers and the like that are too old, and nothing else."""

import asyncio

import pytest

from eventspine.database import Database
from eventspine.pruning import Pruner
from shop.platform import discovery
from shop.platform.auth.copies import ENDED_SESSIONS
from shop.services.users.app import SERVICE
from tests.support.issuer import Issuer
from tests.support.serving import settings_of

DAY_MS = 24 * 3600 * 1000
FOR_EVER = 1e9


def prune(issuer: Issuer) -> dict[str, int]:
    url = issuer.served.database_url

    async def scenario() -> dict[str, int]:
        database = Database(url, size=1)
        await database.open()
        pruner = Pruner(
            database,
            outbox_seconds=FOR_EVER,
            key_seconds=FOR_EVER,
            parked_seconds=FOR_EVER,
            aged=SERVICE.all_aged(settings_of("users", url)),
        )
        try:
            return await pruner.prune_aged()
        finally:
            await database.close()

    return asyncio.run(scenario())


def test_what_is_too_old_goes_and_what_is_not_stays(issuer: Issuer) -> None:
    user = issuer.user()
    sessions = [issuer.session(user) for _ in range(3)]
    issuer.refresh(sessions[0]["refresh_token"])
    gone = [issuer.session(user) for _ in range(2)]
    for each in gone:
        issuer.client.delete(f"/sessions/{each['session_id']}")
    issuer.client.post(f"/users/{user['id']}/password-reset")
    assert not any(prune(issuer).values())
    execute = issuer.served.connection.execute
    execute(
        "UPDATE sessions SET running_ms = running_ms - %s WHERE id = %s",
        [14 * DAY_MS + 1, sessions[1]["session_id"]],
    )
    execute(
        "UPDATE sessions SET begun_ms = begun_ms - %s WHERE id = %s",
        [90 * DAY_MS + 1, sessions[2]["session_id"]],
    )
    execute("UPDATE refresh_answers SET running_ms = running_ms - 151000")
    # A trigger stamps each change.
    execute("ALTER TABLE ended_sessions DISABLE TRIGGER stamped")
    execute(
        "UPDATE ended_sessions SET changed_ms = changed_ms - 1321000 WHERE session_id = %s",
        [gone[0]["session_id"]],
    )
    execute("UPDATE password_resets SET running_ms = running_ms - 3600001")
    execute("UPDATE devices SET running_ms = running_ms - %s", [181 * DAY_MS])
    assert prune(issuer) == {
        "sessions": 2,
        "refresh_answers": 1,
        "password_resets": 1,
        "devices": 5,
        "ended_sessions": 1,
    }
    [(left,)] = execute("SELECT session_id FROM ended_sessions").fetchall()
    assert str(left) == gone[1]["session_id"]
    listed = issuer.client.get(f"/users/{user['id']}/sessions").json()["items"]
    assert [each["id"] for each in listed] == [sessions[0]["session_id"]]


@pytest.mark.parametrize("name", discovery.names())
def test_every_service_that_verifies_tokens_forgets_ended_sessions(name: str) -> None:
    service = discovery.load(name)
    names = {each.table for each in service.all_aged(settings_of(name, "postgresql:///x"))}
    assert ENDED_SESSIONS not in service.projections or "ended_sessions" in names
