"""What the greeting service publishes. Topic `greetings`, key: the greeting's id."""

from eventspine.event import Event
from shop.contracts.values import Id, Line, Time


class GreetingSent(Event):
    """The first event of a greeting, and the last."""

    topic = "greetings"
    source = "/greetings"
    type = "greeting.sent"

    user_id: Id
    text: Line
    sent_at: Time
