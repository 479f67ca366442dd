"""How events reach the functions that answer them."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventspine.event import Event
from eventspine.handlers import Handlers
from eventspine.received import Received
from tests.support.notes import NoteChanged, NoteEvent, NoteTaken
from tests.support.received import heard


class Note(NoteEvent):
    type = "note.erased"


class Other(Event):
    topic = "others"
    source = "/others"
    type = "other.made"


KINDS: list[Any] = [NoteTaken, NoteChanged, Note, Other]

histories = st.lists(st.tuples(st.integers(1, 5), st.sampled_from(KINDS)), max_size=50)


def numbered(history: list[tuple[int, Any]]) -> list[Event]:
    versions: dict[tuple[str, int], int] = defaultdict(int)
    events = []
    for id_, kind in history:
        versions[kind.topic, id_] += 1
        events.append(kind(id=id_, version=versions[kind.topic, id_], text=""))
    return events


@given(histories)
async def test_a_handler_never_sees_a_key_twice_in_a_call_nor_out_of_order(
    history: list[tuple[int, Any]],
) -> None:
    """Nothing is lost, even where one function answers several types and another only one."""
    seen: list[Event] = []

    async def see(tx: object, received: Sequence[Received[Event]]) -> None:
        events = [one.event for one in received]
        keys = [(event.topic, event.id) for event in events]
        assert len(set(keys)) == len(keys)
        seen.extend(events)

    async def see_taken(tx: object, received: Sequence[Received[Event]]) -> None:
        assert {type(one.event) for one in received} == {NoteTaken}
        await see(tx, received)

    handlers = Handlers("all", {NoteTaken: see_taken, NoteChanged: see, Note: see, Other: see})
    events = numbered(history)
    await handlers._apply(None, heard(*events))  # type: ignore[arg-type]
    assert len(seen) == len(events)
    for topic, id_ in {(event.topic, event.id) for event in events}:
        own = [event.version for event in seen if (event.topic, event.id) == (topic, id_)]
        assert own == list(range(1, len(own) + 1))


def test_a_topic_of_two_sources_is_refused() -> None:
    """Their positions can't be compared, so one's events would be taken for the other's repeats."""

    class Stranger(NoteEvent):
        source = "/strangers"
        type = "note.stolen"

    async def see(tx: object, events: object) -> None: ...

    with pytest.raises(ValueError, match=r"notes.*/notes.*/strangers"):
        Handlers("all", {NoteTaken: see, Stranger: see})
