"""What the letter service does."""

from collections.abc import Sequence
from typing import NamedTuple

from eventspine.context import Request
from eventspine.outbox import Transaction
from tests.outside.contracts.letters import LetterPosted, LetterWritten, Status


class WriteLetter(NamedTuple):
    address: str


class NotePosted(NamedTuple):
    letter_id: int
    status: Status


async def write(tx: Transaction, requests: Sequence[Request[WriteLetter]]) -> None:
    for command, context, _ in requests:
        [(id_,)] = await tx.fetch(
            "INSERT INTO letters (address, status, version) VALUES (%(address)s, 'written', 1)"
            " RETURNING id",
            command._asdict(),
        )
        letter = LetterWritten(id=id_, version=1, address=command.address, status="written")
        tx.publish(letter, context)


async def note_posted(tx: Transaction, requests: Sequence[Request[NotePosted]]) -> None:
    for command, context, _ in requests:
        [(address, version)] = await tx.fetch(
            "UPDATE letters SET status = %(status)s, version = version + 1 WHERE id = %(letter_id)s"
            " RETURNING address, version",
            command._asdict(),
        )
        posted = LetterPosted(
            id=command.letter_id, version=version, address=address, status=command.status
        )
        tx.publish(posted, context)
