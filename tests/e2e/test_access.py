"""A whole platform with keys: another's car is tried from every endpoint and by every way of showing a credential, what is open
is closed at every replica when it is revoked or over, and no log of any process holds a credential.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import jwt
import pytest

from fleetcast.devpki import DevelopmentPki
from tests.e2e.outside import Phone, Site, site
from tests.e2e.test_identity import output
from tests.e2e.test_websocket import refused, socket
from tests.servers import short_folder, until

_STREAMS = 36
_BOUND = 2.0
CARS = ("car-1", "car-2", "car-3", "car-4")


class Keyed:
    """The platform, and app tokens for it, all of which are remembered."""

    def __init__(self, here: Site, pki: DevelopmentPki, folder: Path) -> None:
        self.here, self.pki, self.folder = here, pki, folder
        self.secrets: list[str] = []

    def token(self, user: str, *vehicles: str, seconds: float = 3600, **claims: Any) -> str:
        self.secrets.append(self.pki.app_token(user, vehicles, seconds, **claims))
        return self.secrets[-1]

    async def ticket(self, token: str, *vehicles: str) -> str:
        answer = await self.here.client.post(
            f"{self.here.url}/v1/tickets",
            json={"vehicles": vehicles} if vehicles else None,
            headers=bearer(token),
        )
        assert answer.status_code == 201, answer.text
        self.secrets.append(answer.json()["ticket"])
        return self.secrets[-1]

    async def fleetcast(self, *arguments: str) -> str:
        import sys

        config = self.here.platform.run_folder / "fleetcast.toml"
        return await output(sys.executable, "-m", "fleetcast", "--config", str(config), *arguments)

    async def shown(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and text; of a stream its beginning."""
        async with self.here.client.stream("GET", f"{self.here.url}{path}", headers=headers) as answer:
            text = ""
            async for chunk in answer.aiter_text():
                text += chunk
                if answer.headers["content-type"].startswith("text/event-stream"):
                    break
            return answer.status_code, text


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
async def keyed() -> AsyncIterator[Keyed]:
    with short_folder() as folder:
        pki = DevelopmentPki(folder / "dev-pki")
        given: dict[str, Any] = {"app_keys": str(pki.app_keys), "log_level": "debug", "ticket_seconds": 2.0}
        async with site(folder, edges=2, origins=2, consumers=2, **given) as here:
            for vehicle in CARS:
                await here.send(vehicle, 1)
            made = Keyed(here, pki, folder)
            await made.fleetcast("vehicles", "add", "car-3", "--fleet", "north")
            everything = bearer(made.token("operator", "*"))

            async def there() -> bool:
                listed = (await here.get("/v1/vehicles", everything)).json()["vehicles"]
                return [one["vehicle"] for one in listed] == list(CARS)

            await until(there, "all vehicles are shown")
            yield made


Ask = Callable[[str], Awaitable[tuple[int, str]]]


async def ways(keyed: Keyed) -> dict[str, Ask]:
    """Each way in which ann, who may see car-1 alone, asks for a path."""
    token = keyed.token("ann", "car-1")
    begun = await keyed.here.client.post(f"{keyed.here.url}/v1/session", headers=bearer(token))
    cookie = begun.headers["set-cookie"].partition(";")[0]
    keyed.here.client.cookies.clear()

    async def by_ticket(path: str, more: str = "", **headers: str) -> tuple[int, str]:
        ticket = await keyed.ticket(token)  # each time: it is good for two seconds
        return await keyed.shown(f"{path}{'&' if '?' in path else '?'}ticket={ticket}{more}", **headers)

    return {
        "token": lambda path: keyed.shown(path, **bearer(token)),
        "ticket": by_ticket,
        "ticket in front": lambda path: by_ticket(path, "&x=1&ticket=y"),
        "ticket beside another's token": lambda path: by_ticket(path, Authorization="Bearer x"),
        "cookie": lambda path: keyed.shown(path, Cookie=f"a=b; {cookie}"),
    }


async def test_each_way_shows_ones_own_car_and_no_other_at_any_endpoint(keyed: Keyed) -> None:
    for way, ask in (await ways(keyed)).items():
        for end in ("", "/events", "/events?last_event_id=ab12-1"):
            status, text = await ask(f"/v1/vehicles/car-1{end}")
            assert status == 200, (way, end, text)
            assert "car-1" in text
            for other in ("car-2", "car-3", "nobody"):
                status, text = await ask(f"/v1/vehicles/{other}{end}")
                assert (status, "Test.Number" in text) == (403, False), (way, end, other)
        for path in (
            "/v1/vehicles",
            "/v1/vehicles?search=car",
            "/v1/vehicles?after=car-1&signals=Test.Number",
        ):
            status, text = await ask(path)
            assert status == 200
            assert not [one for one in CARS[1:] if one in text], (way, path)
        for path in ("/next/3", "/next/3?channel=v/car-2/all/"):
            assert (await ask(path))[0] == 404


async def test_a_websocket_opens_as_a_stream_does_and_ends_as_one(keyed: Keyed) -> None:
    here, token, short = keyed.here, keyed.token("wes", "car-1"), keyed.token("wanda", "car-1", seconds=5)
    ticket = await keyed.ticket(token)
    begun = await here.client.post(f"{here.url}/v1/session", headers=bearer(token))
    cookie = {"Cookie": begun.headers["set-cookie"].partition(";")[0]}
    here.client.cookies.clear()
    assert await refused(here, "car-1") == 401
    for shown, query in ((bearer(token), ""), (cookie, ""), ({}, f"?ticket={ticket}")):
        assert await refused(here, "car-1", query, **shown) == 101
        assert await refused(here, "car-2", query, **shown) == 403
    foreign = {"Origin": "http://other.example"}
    assert await refused(here, "car-1", **cookie, **foreign) == 403
    assert await refused(here, "car-1", f"?ticket={ticket}", **foreign) == 101  # no page has that by itself
    async with (
        socket(here, "car-1", **bearer(short)) as expires,
        socket(here, "car-1", f"?ticket={ticket}") as by_ticket,
        socket(here, "car-1", **cookie) as by_cookie,
    ):
        await until(lambda: expires.closed == 4401, "the token ends")
        for app in (by_ticket, by_cookie):  # the ticket is over long since
            await app.resume()
            assert app.versions == [1]
        await keyed.fleetcast("revoke", "wes")
        began = time.monotonic()
        await until(lambda: by_ticket.closed == by_cookie.closed == 4401, "they are closed")
        assert time.monotonic() - began < _BOUND
    assert await refused(here, "car-1", **bearer(token)) == 401


async def test_the_next_link_is_of_no_use_to_a_phone(keyed: Keyed) -> None:
    forged = {"Grip-Last": "v/car-2/all/; last-id=ab12-1", "Grip-Sig": "x"}
    for more in ({}, bearer(keyed.token("ann", "car-1"))):
        status, text = await keyed.shown("/next/3", **forged, **more)
        assert (status, "Test.Number" in text) == (404, False)


async def test_nothing_is_shown_to_who_shows_nothing_good(keyed: Keyed) -> None:
    stranger = DevelopmentPki(keyed.folder / "stranger-pki")
    ticket = await keyed.ticket(keyed.token("ann", "car-1"))
    head, body, _ = ticket.split(".")
    own = jwt.decode(ticket, options={"verify_signature": False})
    forged = jwt.encode(own | {"exp": own["exp"] + 3600}, "k" * 32, "HS256")
    bad: dict[str, dict[str, str]] = {
        "nothing": {},
        "foreign": bearer(stranger.app_token("ann", ["car-1"], 3600)),
        "a vehicle's": bearer(keyed.pki.token("car-1", 1)),
        "expired": bearer(keyed.token("ann", "car-1", seconds=-10)),
        "a ticket as a token": bearer(ticket),
        "a token as a ticket": {"Authorization": f"Ticket {keyed.token('ann', 'car-1')}"},
        "cookie": {"Cookie": f"fleetcast={ticket}"},
    }
    await until(lambda: own["exp"] < time.time(), "the ticket has expired")
    for path in ("/v1/vehicles", "/v1/vehicles/car-1", "/v1/vehicles/car-1/events"):
        for what, headers in bad.items():
            stream = {"Accept": "text/event-stream", **headers}
            answer = await keyed.here.get(path, stream)
            assert answer.status_code == 401, (path, what)
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["www-authenticate"].startswith("Bearer ")
        for used in (ticket, forged, f"{head}.{body}.", "", keyed.token("ann", "car-1")):
            status, text = await keyed.shown(f"{path}?ticket={used}")
            assert (status, "Test.Number" in text) == (401, False), path


async def test_a_fleet_is_seen_and_left(keyed: Keyed) -> None:
    token = keyed.token("fred", fleets=["north"])
    listed = await keyed.here.get("/v1/vehicles", bearer(token))
    assert [one["vehicle"] for one in listed.json()["vehicles"]] == ["car-3"]
    assert (await keyed.here.get("/v1/vehicles/car-3", bearer(token))).status_code == 200
    assert (await keyed.here.get("/v1/vehicles/car-4", bearer(token))).status_code == 403


async def opened(
    keyed: Keyed, stack: AsyncExitStack, count: int, headers: Callable[[int], dict[str, str]]
) -> list[Phone]:
    """So many streams of car-1, some at each replica, that have seen an update and are held."""
    phones = [
        await stack.enter_async_context(keyed.here.phone("car-1", headers=headers(number)))
        for number in range(count)
    ]
    assert {phone.status for phone in phones} == {200}
    await until(lambda: all(phone.events for phone in phones), "all have begun")
    return phones


async def ends(phones: Sequence[Phone]) -> list[float]:
    """When each ended."""
    when = dict[int, float]()

    def all_over() -> bool:
        for number, phone in enumerate(phones):
            if phone.ended:
                when.setdefault(number, time.time())
        return len(when) == len(phones)

    await until(all_over, "all have ended")
    return [when[number] for number in range(len(phones))]


def said(what: str, seconds: Sequence[float]) -> None:
    ordered = sorted(seconds)
    p99 = ordered[math.ceil(len(ordered) * 0.99) - 1]
    print(f"{what}: {len(ordered)} streams, p50 {ordered[len(ordered) // 2]:.3f} s, p99 {p99:.3f} s")


async def test_a_long_poll_is_guarded_and_answered_at_once_when_its_user_is_revoked(keyed: Keyed) -> None:
    path = "/v1/vehicles/car-1/events?wait=60"
    assert (await keyed.here.get(path)).status_code == 401
    token = keyed.token("paula", "car-1")
    assert (await keyed.here.get(path.replace("car-1", "car-2"), bearer(token))).status_code == 403
    last = (await keyed.here.get(path, bearer(token))).json()["last_event_id"]
    held = await keyed.here.counts("polls", "origin", label="held")
    polling = asyncio.create_task(keyed.here.get(path, {**bearer(token), "Last-Event-ID": last}))

    async def waits() -> bool:
        return await keyed.here.counts("polls", "origin", label="held") > held

    await until(waits, "the poll is held")
    await keyed.fleetcast("revoke", "paula")
    revoked = time.time()
    answer = await polling
    assert answer.status_code == 401
    assert time.time() - revoked < _BOUND


async def test_a_revoked_users_streams_end_at_every_replica_and_no_others(keyed: Keyed) -> None:
    async with AsyncExitStack() as stack:
        mine = [keyed.token("rita", "car-1") for _ in range(3)]
        before = await keyed.here.counts("replays", "origin", label="edge")
        phones = await opened(keyed, stack, _STREAMS, lambda number: bearer(mine[number % 3]))
        (other,) = await opened(keyed, stack, 1, lambda _: bearer(keyed.token("otto", "car-1")))
        assert min(await keyed.here.sessions()) > 0

        async def asked() -> bool:
            return await keyed.here.counts("replays", "origin", label="edge") >= before + 8

        # Each token's streams of a replica have asked the next link by then: the edge has not answered one by another's.
        await until(asked, "the next links were asked")
        revoking = asyncio.create_task(keyed.fleetcast("revoke", "rita"))
        ended = await ends(phones)
        assert await revoking == "revoked: user rita\n"
        listed = await keyed.fleetcast("revoke", "--list")
        at = next(line.split()[3] for line in listed.splitlines() if line.startswith("user rita "))
        from fleetcast.clock import seconds

        took = [moment - seconds(at) for moment in ended]
        said("revoked to closed", took)
        assert max(took) < _BOUND
        assert (await keyed.here.get("/v1/vehicles/car-1", bearer(mine[0]))).status_code == 401
        version = (await keyed.here.get("/v1/vehicles/car-1", bearer(keyed.token("otto", "car-1")))).json()[
            "version"
        ]
        await keyed.here.send("car-1", version + 1)
        await until(lambda: other.events[-1].event == "update", "others go on")
        assert not any(
            "update" in phone.raw.decode() and phone.events[-1].event == "update" for phone in phones
        )


async def test_a_revoked_token_ends_alone_and_a_new_one_lets_in_again(keyed: Keyed) -> None:
    async with AsyncExitStack() as stack:
        lost, kept = keyed.token("tina", "car-1"), keyed.token("tina", "car-1")
        (of_lost,) = await opened(keyed, stack, 1, lambda _: bearer(lost))
        (of_kept,) = await opened(keyed, stack, 1, lambda _: bearer(kept))
        await keyed.fleetcast(
            "revoke", "--token-id", jwt.decode(lost, options={"verify_signature": False})["jti"]
        )
        await until(lambda: of_lost.ended, "it is closed")
        assert not of_kept.ended
        await keyed.fleetcast("revoke", "tina")
        revoked = int(time.time())
        await until(lambda: of_kept.ended, "that one too")
        await until(lambda: int(time.time()) > revoked, "it is a second after that of the revocation")
        (again,) = await opened(keyed, stack, 1, lambda _: bearer(keyed.token("tina", "car-1")))
        assert again.status == 200


async def test_streams_end_with_their_tokens_by_themselves(keyed: Keyed) -> None:
    async with AsyncExitStack() as stack:
        tokens = [keyed.token("eva", "car-1", seconds=8 + number % 3) for number in range(_STREAMS)]
        tickets = [await keyed.ticket(token) for token in tokens[:2]]

        def shows(number: int) -> dict[str, str]:
            return bearer(tokens[number]) if number > 1 else {"Authorization": f"Ticket {tickets[number]}"}

        phones = await opened(keyed, stack, _STREAMS, shows)
        assert min(await keyed.here.sessions()) > 0
        ended = await ends(phones)
        due = [jwt.decode(token, options={"verify_signature": False})["exp"] for token in tokens]
        took = [moment - exp for moment, exp in zip(ended, due, strict=True)]
        said("expired to closed", took)
        assert min(took) > 0
        assert max(took) < _BOUND
        assert (await keyed.here.get("/v1/vehicles/car-1/events", bearer(tokens[0]))).status_code == 401


async def test_what_enroll_prints_works_and_tail_takes_a_token(keyed: Keyed) -> None:
    printed = await keyed.fleetcast("enroll", "--app", "ann", "--vehicles", "car-1,car-2", "--days", "2")
    file = keyed.folder / "dev-pki" / "ann.app-token"
    keyed.secrets.append(file.read_text())
    assert f'app_keys = "{keyed.pki.app_keys}"' in printed
    curls = [line for line in printed.splitlines() if line.startswith("curl ")]
    assert len(curls) == 2
    assert '"vehicle":"car-2"' in await output("bash", "-c", curls[0])
    made = await output("bash", "-c", curls[1])
    assert '"expires_at"' in made
    tail = printed.splitlines()[-1].split()[1:]
    assert '"event":"snapshot"' in await keyed.fleetcast(*tail, "--events", "1")


async def test_roles_are_replaced_under_open_streams(keyed: Keyed) -> None:
    async with AsyncExitStack() as stack:
        (phone,) = await opened(keyed, stack, 1, lambda _: bearer(keyed.token("rob", "car-4", "car-1")))
        for what in ("consume", "origin"):
            await keyed.here.platform.roll(what, lambda _: None)
        assert not phone.ended
        await keyed.fleetcast("revoke", "rob")
        await until(lambda: phone.ended, "the new processes close it")


async def test_no_log_holds_any_part_of_a_credential(keyed: Keyed) -> None:
    assert len(keyed.secrets) > 50
    logs = [
        path for path in keyed.folder.rglob("*") if path.is_file() and "log" in path.parts[-2] + path.suffix
    ]
    assert {"haproxy.log", "origin-0.log", "consume-0.log", "edge-0.log", "ingest.log"} <= {
        one.name for one in logs
    }
    assert any('"level": "debug"' in path.read_text(errors="replace") for path in logs)
    for path in logs:
        text = path.read_text(errors="replace")
        for secret in keyed.secrets:
            assert not [part for part in secret.split(".")[1:] if part[-24:] in text], path


async def test_by_http_too_streams_end_that_are_over(folder: Path) -> None:
    pki = DevelopmentPki(folder / "dev-pki")
    async with site(
        folder, publish="http", edges=2, origins=1, consumers=1, app_keys=str(pki.app_keys)
    ) as here:
        keyed = Keyed(here, pki, folder)
        await here.send("car-1", 1)
        async with AsyncExitStack() as stack:
            lasting = keyed.token("ann", "car-1")
            (revoked,) = await opened(keyed, stack, 1, lambda _: bearer(lasting))
            (other,) = await opened(keyed, stack, 1, lambda _: bearer(keyed.token("bob", "car-1")))
            short = keyed.token("eva", "car-1", seconds=4)
            expired = await opened(keyed, stack, 2, lambda _: bearer(short))
            ended = await ends(expired)
            exp = jwt.decode(short, options={"verify_signature": False})["exp"]
            assert 0 < max(ended) - exp < _BOUND
            assert not revoked.ended
            await keyed.fleetcast("revoke", "ann")
            await until(lambda: revoked.ended, "it is closed")
            assert not other.ended
