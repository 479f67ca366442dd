"""Cursors: what was given out comes back, and nothing else does."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shop.platform.http.fields import MAX_BIGINT
from shop.platform.http.paging import decode_cursor, encode_cursor
from shop.platform.problems import Invalid


@given(st.integers(0, MAX_BIGINT))
def test_a_cursor_says_where_to_go_on(below: int) -> None:
    cursor = encode_cursor(below)
    assert decode_cursor(cursor) == below
    assert re.fullmatch("[A-Za-z0-9_-]+", cursor)  # goes into a URL as it is


def test_the_first_page_starts_below_everything() -> None:
    assert decode_cursor(None) == MAX_BIGINT


@given(st.text() | st.from_regex("[A-Za-z0-9_-]{14}", fullmatch=True))
def test_a_cursor_is_refused_unless_it_could_have_been_given_out(
    cursor: str,
) -> None:
    try:
        below = decode_cursor(cursor)
    except Invalid:
        return
    assert encode_cursor(below) == cursor


@given(st.integers(-MAX_BIGINT - 1, -1))
def test_no_cursor_leads_below_nothing(below: int) -> None:
    with pytest.raises(Invalid):
        decode_cursor(encode_cursor(below))
