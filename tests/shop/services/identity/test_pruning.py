"""The worker deletes sessions, answers and the like that are too old, and nothing else."""

import asyncio

from eventspine.database import Database
from eventspine.pruning import Pruner
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
            aged=SERVICE.aged(settings_of("users", url)),
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
    execute("UPDATE password_resets SET running_ms = running_ms - 3600001")
    execute("UPDATE devices SET running_ms = running_ms - %s", [181 * DAY_MS])
    assert prune(issuer) == {
        "sessions": 2,
        "refresh_answers": 1,
        "password_resets": 1,
        "devices": 3,
    }
    listed = issuer.client.get(f"/users/{user['id']}/sessions").json()["items"]
    assert [each["id"] for each in listed] == [sessions[0]["session_id"]]
