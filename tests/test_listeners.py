"""Who listens to what, held against the plainest way of knowing it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleetcast.listeners import Listeners
from fleetcast.subjects import channel, poll_channel, sibling_of, ws_channel

REPLICAS = ["one", "two"]
CHANNELS = [channel("a"), channel("a", "tyres", 5), channel("b"), "ctl/01/"]
NAMES = [made(name) for name in CHANNELS for made in (str, poll_channel, ws_channel)]
EVENTS = st.tuples(
    st.sampled_from(["add", "discard", "gone"]), st.sampled_from(REPLICAS), st.sampled_from(NAMES)
)


@given(events=st.lists(EVENTS, max_size=60))
def test_it_knows_what_was_told(events: list[tuple[str, str, str]]) -> None:
    listeners, known = Listeners(), set[tuple[str, str]]()
    for word, replica, name in events:
        if word == "add":
            listeners.add(replica, name)
            known.add((replica, name))
        elif word == "discard":
            listeners.discard(replica, name)
            known.discard((replica, name))
        else:
            listeners.gone(replica)
            known = {one for one in known if one[0] != replica}
        for one in CHANNELS:
            assert set(listeners.of(one)) == {who for who, heard in known if sibling_of(heard) == one}
        assert listeners.channels() == sorted({sibling_of(heard) for _, heard in known})
        assert all(
            listeners.hears(who, heard) == ((who, heard) in known) for who in REPLICAS for heard in NAMES
        )
