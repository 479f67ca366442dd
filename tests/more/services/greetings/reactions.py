"""What the greeting service asks of who delivers greetings, in a storm."""

from collections.abc import Sequence
from http import HTTPStatus

import httpx

from eventspine.errors import NoOutcome
from eventspine.outbox import Transaction
from eventspine.reactions import Answered, Reaction
from eventspine.received import Received
from tests.more.contracts.greetings import GreetingSent

NAME = "greetings.deliver"

# No constraint would hide a greeting that is delivered twice. The storm makes the table.
DELIVERIES = "CREATE TABLE deliveries (greeting_id bigint NOT NULL, receipt bigint NOT NULL)"


def deliver(url: str) -> Reaction:
    client = httpx.AsyncClient(base_url=url, timeout=None)  # the reaction's own timeout counts

    async def ask(received: Received[GreetingSent], key: str) -> int:
        try:
            answer = await client.post("/", headers={"Idempotency-Key": key})
        except httpx.TransportError as error:
            raise NoOutcome(f"{type(error).__name__}: {error}") from error
        if answer.status_code != HTTPStatus.OK:
            raise NoOutcome(f"status {answer.status_code}")
        return int(answer.text)

    async def delivered(tx: Transaction, answered: Sequence[Answered]) -> None:
        for one in answered:
            await tx.execute(
                "INSERT INTO deliveries VALUES (%(id)s, %(receipt)s)",
                {"id": one.event.id, "receipt": one.outcome},
            )

    return Reaction(NAME, {GreetingSent: (ask, delivered)}, timeout=2.0, close=client.aclose)
