"""What the letter service publishes. Topic `letters`, key: the letter's id."""

from typing import Literal

from eventspine.event import Event, IntegerId
from shop.contracts.values import Line

Status = Literal["written", "delivered", "refused"]


class LetterEvent(Event):
    topic = "letters"
    source = "/letters"

    id: IntegerId
    address: Line
    status: Status


class LetterWritten(LetterEvent):
    type = "letter.written"


class LetterPosted(LetterEvent):
    """What the provider said: it was delivered, or refused."""

    type = "letter.posted"
