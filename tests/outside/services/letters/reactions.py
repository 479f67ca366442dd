"""What the letter service asks its postal provider."""

from collections.abc import Sequence
from http import HTTPStatus

import httpx

from eventspine.context import Request
from eventspine.errors import NoOutcome
from eventspine.outbox import Transaction
from eventspine.reactions import Answered, Reaction
from eventspine.received import Received
from tests.outside.contracts.letters import LetterWritten, Status
from tests.outside.services.letters.actions import NotePosted, note_posted


def post_letters(url: str, timeout: float) -> Reaction:
    client = httpx.AsyncClient(base_url=url, timeout=None)  # the reaction's own timeout counts

    async def post(received: Received[LetterWritten], key: str) -> Status:
        letter = {"id": received.event.id, "address": received.event.address}
        try:
            answer = await client.post("/letters", json=letter, headers={"Idempotency-Key": key})
        except httpx.TransportError as error:
            raise NoOutcome(f"{type(error).__name__}: {error}") from error
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise NoOutcome(f"status {answer.status_code}")
        return "refused" if answer.status_code == HTTPStatus.CONFLICT else answer.json()["status"]

    async def posted(tx: Transaction, answered: Sequence[Answered]) -> None:
        await note_posted(
            tx, [Request(NotePosted(one.event.id, one.outcome), one.context) for one in answered]
        )

    return Reaction(
        "letters.post",
        {LetterWritten: (post, posted)},
        timeout=timeout,
        concurrency=4,
        close=client.aclose,
    )
