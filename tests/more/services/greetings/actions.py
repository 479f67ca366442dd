"""What the greeting service does. Each action takes a batch of commands and answers one result each."""

import json
from collections.abc import Sequence

from eventspine.context import Request
from eventspine.outbox import Transaction
from tests.more.contracts.greetings import GreetingSent
from tests.more.services.greetings.errors import UnknownPerson
from tests.more.services.greetings.schemas import Greeting, SendGreeting

_SEND = """
MERGE INTO greetings AS g
USING (
    SELECT c.n, c.user_id, c.text
    FROM jsonb_to_recordset(%(commands)s::jsonb) AS c(n integer, user_id bigint, text text)
    JOIN people p ON p.id = c.user_id AND NOT p.erased
    ORDER BY c.n
) AS c ON false
WHEN NOT MATCHED THEN INSERT (user_id, text) VALUES (c.user_id, c.text)
RETURNING c.n, g.id, g.user_id, g.text, g.version, g.sent_at
"""


async def send(
    tx: Transaction, requests: Sequence[Request[SendGreeting]]
) -> list[Greeting | UnknownPerson]:
    wanted = [{"n": n, **request.command._asdict()} for n, request in enumerate(requests)]
    results: list[Greeting | UnknownPerson | None] = [None] * len(requests)
    for n, *row in await tx.fetch(_SEND, {"commands": json.dumps(wanted)}):
        fields = dict(zip(Greeting.model_fields, row, strict=True))
        results[n] = Greeting(**fields)
        tx.publish(GreetingSent(**fields), requests[n].context)
    return [result or UnknownPerson("This service does not know them") for result in results]
