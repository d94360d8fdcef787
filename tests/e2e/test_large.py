"""The largest packets and states: they reach the phone whole by every way there is, and what is too large blocks nothing."""

from __future__ import annotations

import random
import string
from collections.abc import AsyncIterator

import msgspec
import pytest

from fleetcast.jetstream import connect
from tests.e2e.outside import Site, data, names, packet, rejection, site

MEGABYTE = 1_048_576
MAX_STATE = 4_000_000
LETTERS = string.ascii_letters + string.digits + "+/"


@pytest.fixture(scope="module", params=["zmq", "http"])
async def here(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    async with site(publish=request.param, consumers=1, origins=1, max_state=MAX_STATE) as running:
        yield running


def full_packet(vehicle: str, seq: int, prefix: str, *, random_text: bool = True) -> bytes:
    """A packet of exactly 1 MiB, nearly all of it 1,200 string signals; random text hardly compresses."""
    rng = random.Random(f"{vehicle}/{seq}")
    texts = ("".join(rng.choices(LETTERS, k=800)) if random_text else "x" * 800 for _ in range(1200))
    signals = {f"{prefix}.S{number:04d}": text for number, text in enumerate(texts)}
    body = packet(vehicle, seq, signals)
    signals[f"{prefix}.S0000"] += "y" * (MEGABYTE - len(body))
    body = packet(vehicle, seq, signals)
    assert len(body) == MEGABYTE
    return body


async def test_a_first_update_of_a_megabyte_reaches_phones_whole_by_every_way(here: Site) -> None:
    body = full_packet("whole", 1, "Large")
    sent = {path: signal["value"] for path, signal in msgspec.json.decode(body)["signals"].items()}
    async with here.phone("whole") as one, here.phone("whole") as other:
        await one.snapshot()
        await other.snapshot()
        assert min(await here.sessions()) >= 1
        assert (await here.post("whole", body)).status_code == 202
        for phone in (one, other):  # by live update, on both replicas
            assert await phone.versions(1) == [1]
            assert len(phone.events[-1].data) > MEGABYTE
        first_id, updated = one.events[0].id, one.view()
        assert other.view() == updated
    assert {path: signal["value"] for path, signal in updated["signals"].items()} == sent
    assert await here.latest("whole") == updated
    (snapshot,) = await here.read("whole")
    assert data(snapshot) == updated
    async with here.phone("whole", first_id) as phone:  # by resume
        assert await phone.versions(1) == [1]
        assert phone.events == [one.events[-1]]
        await here.send("whole", 2)
        assert await phone.versions(1) == [2]


async def test_several_large_updates_missed_come_back_in_order(here: Site) -> None:
    async with here.phone("many") as phone:
        await phone.snapshot()
        last = phone.last_id
    for seq in (1, 2, 3, 4):
        assert (await here.post("many", full_packet("many", seq, "Large"))).status_code == 202
    await here.reaches("many", 4)
    async with here.phone("many", last) as phone:
        assert await phone.versions(4) == [1, 2, 3, 4]
        assert {len(event.data) > MEGABYTE for event in phone.events} == {True}


@pytest.mark.parametrize("random_text", [True, False], ids=["compressed", "plain"])
async def test_a_state_that_would_be_too_large_is_rejected_and_the_vehicle_goes_on(
    here: Site, *, random_text: bool
) -> None:
    """By its plain size, and by what nats-server takes in a message."""
    vehicle = f"too-large-{random_text}"
    accepted = 2 if random_text else 3  # 0.8 MB each when compressed, of 2 MB; 1.1 MB each otherwise, of 4 MB
    async with here.phone(vehicle) as phone:
        await phone.snapshot()
        for seq in range(1, accepted + 3):
            body = full_packet(vehicle, seq, f"Part{seq}", random_text=random_text)
            assert (await here.post(vehicle, body)).status_code == 202
        await here.send(vehicle, accepted + 3, {"Test.After": True})
        assert await phone.versions(accepted + 1) == list(range(1, accepted + 2))
        view = phone.view()
    latest = await here.latest(vehicle)
    assert latest == view
    assert {path.partition(".")[0] for path in latest["signals"]} == {
        "Test",
        *(f"Part{seq}" for seq in range(1, accepted + 1)),
    }
    connection = await connect(here.settings, "test")
    try:
        reason, kept = await rejection(connection, vehicle)
    finally:
        await connection.close()
    assert kept == body
    assert reason.startswith("state of ")
    assert reason.endswith(f"more than {MAX_STATE}") is not random_text
    # The largest state that is kept reaches a phone whole.
    (snapshot,) = await here.read(vehicle)
    assert (names([snapshot]), data(snapshot)) == (["snapshot"], latest)
