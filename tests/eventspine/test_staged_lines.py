"""Lines of staged events: whatever a writer wrote, both ways to read a record come to the same."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from eventspine.event import NotAnEvent, envelope
from eventspine.log import Raw, record_of
from eventspine.staged_lines import Lines
from eventspine.upcasting import read_events
from tests.support.examples import examples
from tests.support.notes import TOPIC, NoteChanged, NoteTaken

_CLASSES = {event.type: event for event in (NoteTaken, NoteChanged)}

_GOOD = {
    "ce_specversion": b"1.0",
    "ce_id": b"7",
    "ce_source": NoteTaken.source.encode(),
    "ce_type": NoteTaken.type.encode(),
    "ce_time": b"2026-11-26T12:00:00.123456+00:00",
    "ce_dataversion": b"%d" % NoteTaken.schema_version,
}
_LARGE = b"9" * 18
_ODD = st.sampled_from(
    [
        b"",
        b"0",
        b"07",
        b"+7",
        _LARGE,
        b"9" * 19,
        b"x\ty",
        b"x\\y",
        b"\xff",
        b"a\nb",
        b"\x00",
        None,
    ]
)
_DATA = json.loads(NoteTaken(id=7, version=3, text="tea").as_json())
_VALUES = st.sampled_from(
    [
        json.dumps(_DATA).encode(),
        json.dumps(_DATA, indent=1).replace("\n", "\r\n\t").encode(),
        json.dumps({**_DATA, "text": 'a\\b"\n\tc'}).encode(),
        json.dumps({**_DATA, "more": float("nan")}).encode(),
        json.dumps({**_DATA, "text": "\x00"}).encode(),
        json.dumps({**_DATA, "version": True}).encode(),
        json.dumps({**_DATA, "version": 0}).encode(),
        json.dumps({"version": 4}).encode(),
        b"1,2",
        b"\xff",
        b"",
        b"[]",
        None,
    ]
)


@st.composite
def raws(draw: Any) -> list[Raw]:
    found: list[Raw] = []
    for offset in range(draw(st.integers(1, 6))):
        headers = {**_GOOD, "ce_id": b"%d" % (offset + 1)}
        headers |= draw(st.dictionaries(st.sampled_from(sorted(_GOOD)), _ODD, max_size=1))
        for name in draw(st.sets(st.sampled_from(sorted(_GOOD)), max_size=1)):
            headers.pop(name)
        if headers.get("ce_id") == _LARGE:
            headers["ce_id"] = _LARGE[:-1] + b"%d" % offset  # no two records have one position
        key = draw(st.one_of(st.just(b"7"), st.just(b"key:a-b"), _ODD))
        found.append((offset, key, draw(_VALUES), list(headers.items())))
    return found


@given(raws())
@examples(300)
def test_every_event_that_a_consumer_would_apply_has_one_line_and_no_other(page: list[Raw]) -> None:
    expected, undecodable = [], []
    for raw in page:
        record = record_of(TOPIC, 0, raw)
        try:
            found = envelope(record)
        except NotAnEvent:
            continue
        if found.source != NoteTaken.source:
            continue
        event_class = _CLASSES.get(found.type)
        if event_class is None:
            continue
        try:
            [event] = read_events(event_class, [record])
        except NotAnEvent:
            undecodable.append(found.position)
        else:
            expected.append((found.position, event.version))
    told: list[int] = []
    lines = Lines(
        TOPIC,
        lambda _partition, source, _position: source == NoteTaken.source,
        _CLASSES.get,
        lambda _record, position: told.append(position),
    ).of(0, page)
    known = []
    for line, position in lines:
        assert line.endswith(b"\n") and line.count(b"\n") == 1
        topic, id_, type_, _key, version, _time, data, turn = line.decode()[:-1].split("\t")
        assert (topic, int(id_), turn) == (TOPIC, position, "1")
        json.loads(data.replace("\\\\", "\\"), parse_constant=_refused)
        if type_ in _CLASSES:
            known.append((position, int(version)))
    assert sorted(known) == sorted(expected)
    assert sorted(set(told) - {p for p, _ in known}) == sorted(told)
    assert set(undecodable) <= set(told)


def _refused(constant: str) -> None:
    raise AssertionError(f"PostgreSQL reads no {constant}")
