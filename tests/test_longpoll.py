"""The answers of long-polling: the same events as the stream's."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast import longpoll, sse
from fleetcast.errors import Refuse

NAMES = st.sampled_from(["snapshot", "update", "reset", "status"])
DATA = st.dictionaries(
    st.text(), st.recursive(st.integers() | st.text() | st.none(), lambda one: st.lists(one, max_size=3))
)


@given(st.lists(st.tuples(NAMES, DATA), max_size=5), st.text("0123456789abcdef.-", min_size=1))
def test_an_answer_has_the_streams_events_in_their_order(events: list[tuple[str, object]], last: str) -> None:
    stream = b"".join(
        sse.event(name, msgspec.json.encode(data), f"ab-{number}")
        for number, (name, data) in enumerate(events)
    )
    told = msgspec.json.decode(longpoll.answer(sse.comment() + stream + sse.comment(), last))
    assert told == {
        "events": [
            {"event": name, "id": f"ab-{number}", "data": data} for number, (name, data) in enumerate(events)
        ],
        "last_event_id": last,
    }


def test_an_event_without_an_id_has_none() -> None:
    stream = sse.event("reset", b'{"reason":"foreign"}') + sse.event("snapshot", b"{}", "ab-1")
    assert longpoll.answer(stream, "ab-1") == (
        b'{"events":[{"event":"reset","data":{"reason":"foreign"}},{"event":"snapshot","id":"ab-1","data":{}}],'
        b'"last_event_id":"ab-1"}'
    )


@given(st.integers(1, longpoll.LONGEST))
def test_a_wait_is_seconds(seconds: int) -> None:
    assert longpoll.wait_of(str(seconds)) == seconds


@given(st.text().filter(lambda text: not text.isdigit()) | st.integers().map(str))
def test_anything_else_is_refused_and_nothing_raises(text: str) -> None:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= longpoll.LONGEST:
        return
    with pytest.raises(Refuse, match="wait is 1 to 60, in seconds") as refused:
        longpoll.wait_of(text)
    assert refused.value.status == 400


@given(st.integers(1, 60), st.integers(-100_000, 100_000))
def test_what_is_left_of_a_wait_is_never_more_than_it_and_less_by_what_has_passed(
    wait: int, waited: int
) -> None:
    left = longpoll.left(wait, str(waited))
    if waited < 0:
        assert left == wait
    elif waited < wait * 1000:
        assert wait * 1000 <= left * 1000 + waited < wait * 1000 + 1000  # never less than was asked for
    else:
        assert left == 0


@pytest.mark.parametrize("nothing", [None, "", "x", "1.5"])
def test_a_wait_of_which_nobody_says_when_it_began_begins_now(nothing: str | None) -> None:
    assert longpoll.left(7, nothing) == 7
