"""Who may see what: nothing is seen that no claim names, at any endpoint, and no stream goes on without its right."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast import pushpin
from fleetcast.access import Guarded, load_resolver
from fleetcast.auth import Unproven
from fleetcast.closing import Closing
from fleetcast.errors import Unusable
from fleetcast.known import Known
from fleetcast.many import Stream
from fleetcast.nats_revoked import Follower, everything, put
from fleetcast.origin import application
from fleetcast.registry import Vehicle
from fleetcast.revoked import TOKEN, USER, Revocation, Revoked, digest
from fleetcast.rights import Credential, credential, rights
from fleetcast.settings import Settings
from fleetcast.subjects import expiry_channel, split_channel, token_channel, user_channel
from tests.conftest import Connect
from tests.servers import until
from tests.test_known import Memory
from tests.test_origin import EPOCH, KEY, SETTINGS, SIGNATURE, Live

SECRET = "a secret of the app's issuer, 32 bytes or more"
IDS = ("car-1", "car-2", "car-3", "car-4")
FLEETS = ("north", "south")


class Hand:
    """Near to the machine's clock, which PyJWT looks at, and moved by hand."""

    def __init__(self) -> None:
        self.time = float(int(time.time()))

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


class KeptStreams:
    """`many.Streams` in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[Stream, float]] = {}

    async def put(self, name: str, stream: Stream, seconds: float) -> None:
        self.kept[name] = stream, seconds

    async def get(self, name: str) -> Stream | None:
        return self.kept[name][0] if name in self.kept else None


class Ground:
    """An origin with keys, in this process: four cars, of which car-3 is in the fleet north, car-4 in south."""

    def __init__(self, folder: Path, resolve: Any = None, **changes: Any) -> None:
        keys = folder / "app.secret"
        keys.write_text(SECRET)
        given = {"app_keys": str(keys), "ticket_key": "t" * 32, **changes}
        self.settings: Settings = msgspec.structs.replace(SETTINGS, **given)
        self.clock, self.live, self.registry, self.revoked = Hand(), Live(), Memory(), Revoked()
        for vehicle in IDS:
            self.live.drive(vehicle, 2)
            self.registry.vehicles[vehicle] = Vehicle(vehicle)
        for vehicle, fleet in (("car-3", "north"), ("car-4", "south")):
            self.registry.vehicles[vehicle] = Vehicle(vehicle, (fleet,))
        known, self.streams = Known(self.registry, self.clock), KeptStreams()
        self.access = Guarded(self.settings, known, self.registry, self.revoked, self.clock, resolve)
        app = application(
            self.live,
            self.settings,
            signed=lambda signature: pushpin.signed_by_edge(signature, KEY),
            hold=lambda name, at, control, link, begins: pushpin.hold(
                name, at, control, link, self.settings, begins=begins
            ),
            hold_poll=pushpin.hold_poll,
            last_ids=pushpin.last_ids,
            clock=self.clock,
            access=self.access,
            asked=self.streams,
        )
        self.client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app),
            base_url="http://origin",
            headers={"Grip-Sig": SIGNATURE, "Accept": "text/event-stream"},
        )

    def token(self, sub: str = "ann", seconds: float = 3600, key: str = SECRET, **claims: Any) -> str:
        now = int(self.clock.time)
        body = {"sub": sub, "iat": now, "exp": now + seconds, "jti": f"{sub}-1", **claims}
        return jwt.encode(body, key, "HS256")

    async def get(
        self, path: str, token: str = "", scheme: str = "Bearer", **headers: str
    ) -> httpx2.Response:
        shown = {"Authorization": f"{scheme} {token}"} if token else {}
        return await self.client.get(path, headers={**shown, **headers})

    async def ticket(self, token: str, vehicles: Sequence[str] | None = None) -> httpx2.Response:
        body = b"" if vehicles is None else msgspec.json.encode({"vehicles": vehicles})
        return await self.client.post(
            "/v1/tickets", content=body, headers={"Authorization": f"Bearer {token}"}
        )

    async def goes_on(self, answer: httpx2.Response) -> bool:
        """Whether the edge, which asks with what it was told to hold, is told to hold on."""
        last = [
            ("Grip-Last", f"{name}; last-id={at}")
            for name, _, at in (one.partition("; prev-id=") for one in channels(answer))
            if at
        ]
        again = await self.client.get("/next/3", headers=last)
        assert again.status_code == 200
        assert not again.content
        return "grip-hold" in again.headers


def channels(answer: httpx2.Response) -> list[str]:
    return answer.headers.get_list("grip-channel")


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


# Pure

digests = st.text("0123456789abcdef", min_size=20, max_size=20)
moments = st.integers(0, 10**11)


@given(
    digests,
    digests | st.just(""),
    moments,
    moments,
    st.sampled_from(["v", "r", "f-north", "f-A_-9", "f-a.b.c"]),
)
def test_a_credential_survives_the_channel_that_names_it(
    user: str, token: str, issued: int, ends: int, by: str
) -> None:
    stream = Credential(user, token, issued, ends, by)
    assert credential(stream.channel) == stream
    (first, at), *closing = stream.seen.channels
    assert (first, bool(at)) == (stream.channel, True)
    assert not any(chained for _, chained in closing)  # a close needs a channel without a chain
    for name, _ in stream.seen.channels:
        assert split_channel(name) is None
        assert not set(name) & set(",;=\"' ")
        assert name.endswith("/")


@given(st.text())
def test_no_other_text_is_a_credential(text: str) -> None:
    found = credential(text)
    assert found is None or found.channel == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(
    st.fixed_dictionaries(
        {"sub": json_values}, optional=dict.fromkeys(("jti", "iat", "vehicles", "fleets"), json_values)
    )
)
def test_whatever_the_claims_are_they_are_read_or_refused(claims: dict[str, Any]) -> None:
    try:
        found = rights({**claims, "exp": 10.0})
    except Unproven as why:
        assert why.status == 401  # noqa: PT017 - or it is read
    else:
        listed = claims.get("vehicles", [])
        assert set(found.vehicles) <= set([listed] if isinstance(listed, str) else listed)
        assert found.everything == ("*" in listed)


@given(
    st.lists(
        st.tuples(st.sampled_from([USER, TOKEN]), st.sampled_from("abc"), st.integers(0, 20)), max_size=6
    ),
    st.sampled_from("abc"),
    st.sampled_from("abc"),
    st.integers(0, 20),
)
def test_a_user_is_revoked_up_to_then_and_a_token_for_good(
    done: list[tuple[Any, str, int]], user: str, token: str, issued: int
) -> None:
    known = Revoked()
    for kind, name, at in sorted(done, key=lambda one: one[2]):
        known.take([Revocation(kind, name, at, 1e9)], 0)
    expected = any(
        (kind == USER and name == user and issued <= at) or (kind == TOKEN and name == token)
        for kind, name, at in done
    )
    assert known.holds(digest(user), digest(token), issued) == expected
    known.take([], 1e9)
    assert not known.holds(digest(user), digest(token), issued)


@given(
    vehicles=st.lists(st.sampled_from([*IDS, "car-9", "*"]), max_size=4),
    fleets=st.lists(st.sampled_from([*FLEETS, "east"]), max_size=2),
    only=st.none() | st.lists(st.sampled_from(IDS), min_size=1, max_size=3),
)
def test_all_ways_agree_on_what_may_be_seen(
    tmp_path_factory: pytest.TempPathFactory, vehicles: list[str], fleets: list[str], only: list[str] | None
) -> None:
    may = {
        one
        for one in IDS
        if "*" in vehicles
        or one in vehicles
        or (one == "car-3" and "north" in fleets)
        or (one == "car-4" and "south" in fleets)
    }

    async def asked() -> None:
        ground = Ground(tmp_path_factory.mktemp("g"))
        token, scheme = ground.token(vehicles=vehicles, fleets=fleets), "Bearer"
        seen = may
        if only is not None:
            made = await ground.ticket(token, only)
            assert made.status_code == (201 if set(only) <= may else 403)
            if made.status_code != 201:
                return
            token, scheme, seen = made.json()["ticket"], "Ticket", may & set(only)
        listed = await ground.get("/v1/vehicles", token, scheme)
        assert [one["vehicle"] for one in listed.json()["vehicles"]] == sorted(seen)
        for one in (*IDS, "car-9"):
            allowed = one in seen or (one == "car-9" and only is None and {"*", one} & set(vehicles))
            stream = await ground.get(f"/v1/vehicles/{one}/events", token, scheme)
            assert stream.status_code == (200 if allowed else 403)
            assert (len(channels(stream)) > 2) == bool(allowed)
            state = await ground.get(f"/v1/vehicles/{one}", token, scheme)
            assert state.status_code == ((200 if one in IDS else 404) if allowed else 403)

    asyncio.run(asked())


# What an origin answers

PATHS = ("/v1/vehicles", "/v1/vehicles/car-1", "/v1/vehicles/car-1/events", "/v1/vehicles/nobody/events")


async def test_without_credentials_or_with_bad_ones_every_endpoint_answers_401_and_holds_nothing(
    ground: Ground,
) -> None:
    good = ground.token(vehicles=["*"])
    header, body, signature = good.split(".")
    none = jwt.encode({"sub": "ann", "exp": 9e9, "vehicles": ["*"]}, "", "none")
    bad = {
        "": ("Bearer", ""),
        "foreign": ("Bearer", ground.token(key="another secret of 32 bytes or more.", vehicles=["*"])),
        "expired": ("Bearer", ground.token(seconds=-60, vehicles=["*"])),
        "just expired": ("Bearer", ground.token(seconds=0, vehicles=["*"])),
        "unsigned": ("Bearer", none),
        "cut": ("Bearer", f"{header}.{body}."),
        "changed": ("Bearer", f"{header}.{body[:-4]}AAAA.{signature}"),
        "too long": ("Bearer", ground.token(seconds=ground.settings.revoked_seconds + 60, vehicles=["*"])),
        "a token as a ticket": ("Ticket", good),
        "basic": ("Basic", "YW5uOmFubg=="),
        "claims": ("Bearer", ground.token(vehicles=7)),
    }
    for path in PATHS:
        for what, (scheme, token) in bad.items():
            answer = await ground.get(path, token, scheme)
            assert answer.status_code == 401, (path, what)
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["www-authenticate"].startswith('Bearer realm="fleetcast"')
            assert ("error=" in answer.headers["www-authenticate"]) == bool(what), what
            assert "car-1" not in answer.text
            assert not channels(answer)
            assert not token or token not in answer.text
    two = [("Authorization", f"Bearer {good}"), ("Authorization", f"Bearer {good}")]
    assert (await ground.client.get(PATHS[1], headers=two)).status_code == 401
    assert (await ground.get(PATHS[1], good)).status_code == 200


async def test_what_may_not_be_seen_is_403_whether_it_exists_or_not(ground: Ground) -> None:
    token = ground.token(vehicles=["car-1"])
    answers = [
        await ground.get(f"/v1/vehicles/{one}{end}", token)
        for one in ("car-2", "nobody")
        for end in ("", "/events")
    ]
    assert [answer.status_code for answer in answers] == [403] * 4
    assert {answer.text.replace("car-2", "nobody") for answer in answers} == {answers[2].text}
    assert 'error="insufficient_scope"' in answers[0].headers["www-authenticate"]
    assert (await ground.get("/v1/vehicles", ground.token())).json() == {"vehicles": [], "next": None}


async def test_a_stream_carries_whose_it_is_and_ends_at_the_next_link_without_the_right(
    ground: Ground,
) -> None:
    token = ground.token(vehicles=["car-1"])
    answer = await ground.get("/v1/vehicles/car-1/events", token)
    until_ = int(ground.clock.time) + 3600
    assert channels(answer)[2:] == [
        f"as/{digest('ann')}.{digest('ann-1')}.{int(ground.clock.time)}.{until_}.v/; prev-id=0",
        user_channel(digest("ann")),
        token_channel(digest("ann-1")),
        expiry_channel(until_),
    ]
    assert await ground.goes_on(answer)
    ground.revoked.take([Revocation(TOKEN, "ann-1", 0.0, 1e11)], 0)
    assert not await ground.goes_on(answer)
    assert (await ground.get("/v1/vehicles/car-1", token)).status_code == 401


async def test_it_ends_with_the_token_and_with_a_revocation_of_the_user_but_not_of_one_before(
    ground: Ground,
) -> None:
    answer = await ground.get("/v1/vehicles/car-1/events", ground.token(vehicles=["car-1"]))
    ground.revoked.take([Revocation(USER, "ann", ground.clock.time - 1, 1e11)], 0)
    assert await ground.goes_on(answer)
    ground.revoked.take([Revocation(USER, "ann", ground.clock.time, 1e11)], 0)
    assert not await ground.goes_on(answer)
    ground.revoked = Revoked()
    answer = await ground.get("/v1/vehicles/car-2/events", ground.token("bob", vehicles=["car-2"]))
    assert await ground.goes_on(answer)
    ground.clock.time += 3600
    assert not await ground.goes_on(answer)


async def test_a_vehicle_that_leaves_the_fleet_ends_the_stream(ground: Ground) -> None:
    answer = await ground.get("/v1/vehicles/car-3/events", ground.token(fleets=["north"]))
    assert await ground.goes_on(answer)
    await ground.registry.put(Vehicle("car-3", ("south",)))
    ground.clock.time += 5
    assert not await ground.goes_on(answer)
    listed = await ground.get("/v1/vehicles", ground.token(fleets=["south"]))
    assert [one["vehicle"] for one in listed.json()["vehicles"]] == ["car-3", "car-4"]


async def test_the_next_link_lets_nobody_read_and_nothing_go_on_that_shows_no_credential(
    ground: Ground,
) -> None:
    chain = ("Grip-Last", f"v/car-1/all/; last-id={EPOCH}-1")
    answer = await ground.client.get("/next/3", headers=[chain])
    assert (answer.status_code, answer.content) == (200, b"")  # a stream of before there were keys: it ends
    assert "grip-hold" not in answer.headers
    one = Credential(digest("ann"), "", 0, int(ground.clock.time) + 9, "v").channel
    two = Credential(digest("bob"), "", 0, int(ground.clock.time) + 9, "v").channel
    both = [chain, *(("Grip-Last", f"{name}; last-id=0") for name in (one, two))]
    assert "grip-hold" not in (await ground.client.get("/next/3", headers=both)).headers
    assert "grip-hold" in (await ground.client.get("/next/3", headers=both[:2])).headers
    token = ground.token(vehicles=["*"])
    assert (await ground.get("/next/3", token)).status_code == 404
    unsigned = httpx2.ASGITransport(app=ground.client._transport.app)  # type: ignore[attr-defined] # the same one
    async with httpx2.AsyncClient(transport=unsigned, base_url="http://origin") as client:
        assert (await client.get("/next/3", headers=both[:2])).status_code == 403


# Tickets and the cookie


async def test_a_ticket_opens_for_a_while_and_what_it_opened_lives_as_long_as_the_token(
    ground: Ground,
) -> None:
    token = ground.token(vehicles=["car-1", "car-2"])
    made = await ground.ticket(token, ["car-1"])
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    ticket = made.json()["ticket"]
    stream = await ground.get("/v1/vehicles/car-1/events", ticket, "Ticket")
    assert expiry_channel(int(ground.clock.time) + 3600) in channels(stream)
    assert (await ground.get("/v1/vehicles/car-2", ticket, "Ticket")).status_code == 403
    assert (await ground.get("/v1/vehicles/car-1", ticket, "Bearer")).status_code == 401
    for scheme in ("Ticket", "Bearer"):  # it takes no part in getting another one
        shown = {"Authorization": f"{scheme} {ticket}"}
        for path in ("/v1/tickets", "/v1/session"):
            assert (await ground.client.post(path, headers=shown)).status_code == 401
    ground.clock.time += 60
    assert (await ground.get("/v1/vehicles/car-1/events", ticket, "Ticket")).status_code == 401
    assert await ground.goes_on(stream)
    made = await ground.ticket(token)
    ground.revoked.take([Revocation(USER, "ann", ground.clock.time, 1e11)], 0)
    assert (await ground.get("/v1/vehicles/car-1", made.json()["ticket"], "Ticket")).status_code == 401


async def test_a_ticket_ends_no_later_than_its_token(ground: Ground) -> None:
    made = await ground.ticket(ground.token(seconds=10, vehicles=["car-1"]))
    ground.clock.time += 10
    assert (await ground.get("/v1/vehicles/car-1", made.json()["ticket"], "Ticket")).status_code == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"vehicles":"car-1"}', 400),
        (b'{"vehicles":[]}', 400),
        (b'{"vehicles":["a/b"]}', 400),
        (b'{"more":1}', 400),
        (b'{"vehicles":["car-2"]}', 403),
        (b" " * 70_000, 413),
        (b"{}", 201),
        (b'{"vehicles":null}', 201),
    ],
)
async def test_what_is_asked_of_a_ticket_is_checked(ground: Ground, body: bytes, status: int) -> None:
    shown = {"Authorization": f"Bearer {ground.token(vehicles=['car-1'])}"}
    assert (await ground.client.post("/v1/tickets", content=body, headers=shown)).status_code == status


async def test_rights_that_are_too_many_for_a_url_are_narrowed(ground: Ground) -> None:
    many = [f"car-{number}" for number in range(600)]
    token = ground.token(vehicles=many)
    made = await ground.ticket(token)
    assert (made.status_code, made.json()["title"]) == (400, "Too long")
    assert (await ground.ticket(token, many[:3])).status_code == 201


async def test_forged_tickets_are_none(ground: Ground) -> None:
    claims = {"sub": "ann", "exp": ground.clock.time + 99, "vehicles": ["*"]}
    for key, body in (
        ("x" * 32, {"iss": "fleetcast", "aud": "ticket", "exp": 9e9, "claims": claims}),
        (KEY, {"iss": "fleetcast", "aud": "ticket", "exp": 9e9, "claims": claims}),
        ("t" * 32, {"iss": "fleetcast", "aud": "session", "exp": 9e9, "claims": claims}),
        ("t" * 32, {"iss": "fleetcast-edge", "aud": "ticket", "exp": 9e9, "claims": claims}),
        ("t" * 32, {"iss": "fleetcast", "aud": "ticket", "claims": claims}),
    ):
        forged = jwt.encode(body, key, "HS256")
        assert (await ground.get("/v1/vehicles/car-1", forged, "Ticket")).status_code == 401


async def test_a_cookie_is_a_session_for_reading_only(ground: Ground) -> None:
    token = ground.token(vehicles=["car-1"])
    begun = await ground.client.post("/v1/session", headers={"Authorization": f"Bearer {token}"})
    assert begun.status_code == 204
    cookie = begun.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=3600"} <= set(cookie.split("; "))
    assert "Secure" not in cookie  # a browser would not send it over plain HTTP
    assert (await ground.get("/v1/vehicles/car-1/events")).status_code == 200  # the client keeps it
    assert (await ground.get("/v1/vehicles/car-2/events")).status_code == 403
    assert (await ground.client.post("/v1/tickets")).status_code == 401
    assert (await ground.get("/v1/vehicles/car-2", ground.token(vehicles=["car-2"]))).status_code == 200
    assert (await ground.client.delete("/v1/session")).status_code == 204
    assert (await ground.get("/v1/vehicles/car-1")).status_code == 401


async def test_with_tls_the_cookie_goes_over_nothing_else(tmp_path: Path) -> None:
    ground = Ground(tmp_path, front_cert="c.pem", front_key="c-key.pem")
    header = {"Authorization": f"Bearer {ground.token(vehicles=['car-1'])}"}
    for answer in (
        await ground.client.post("/v1/session", headers=header),
        await ground.client.delete("/v1/session"),
    ):
        assert {"HttpOnly", "SameSite=strict", "Secure"} <= set(answer.headers["set-cookie"].split("; "))


# The resolver


async def test_a_resolver_alone_decides_and_is_asked_again(tmp_path: Path) -> None:
    allowed, asked = {"car-2", "car-3"}, list[str]()

    async def resolve(claims: Mapping[str, Any], vehicle: str) -> bool:
        assert claims["sub"] == "ann"
        asked.append(vehicle)
        return vehicle in allowed

    ground = Ground(tmp_path, resolve, resolver_seconds=50)
    token = ground.token(vehicles=["car-1"])
    assert (await ground.get("/v1/vehicles/car-1", token)).status_code == 403
    stream = await ground.get("/v1/vehicles/car-2/events", token)
    assert expiry_channel(int(ground.clock.time) + 50) in channels(stream)
    listed = await ground.get("/v1/vehicles", token)
    assert [one["vehicle"] for one in listed.json()["vehicles"]] == ["car-2", "car-3"]
    listed = await ground.get("/v1/vehicles?limit=1", token)
    assert listed.json()["next"] == "car-2"
    before = len(asked)
    assert await ground.goes_on(stream)
    assert len(asked) == before
    ground.clock.time += 50
    assert not await ground.goes_on(stream)


async def test_a_resolver_that_fails_or_hangs_is_a_temporary_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(claims: Mapping[str, Any], vehicle: str) -> bool:
        raise RuntimeError("the carmaker's service is away")

    async def hangs(claims: Mapping[str, Any], vehicle: str) -> bool:
        return await asyncio.Event().wait()

    monkeypatch.setattr("fleetcast.origin._PATIENCE", {})
    monkeypatch.setattr("fleetcast.access._ANSWERS", 0.05)
    for resolve in (fails, hangs):
        ground = Ground(tmp_path, resolve)
        token = ground.token()
        stream = await ground.get("/v1/vehicles/car-1/events", token)
        assert stream.status_code == 200
        assert b"event: unavailable" in stream.content
        assert not channels(stream)
        assert (await ground.get("/v1/vehicles/car-1", token)).status_code == 503
        assert (await ground.get("/v1/vehicles", token)).status_code == 503
        assert (await ground.ticket(token, ["car-1"])).status_code == 503


def test_resolvers_that_cannot_be_loaded_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("resolvers")
    module.plain = lambda claims, vehicle: True  # type: ignore[attr-defined] # made here

    async def good(claims: Mapping[str, Any], vehicle: str) -> bool:
        return True

    module.good = good  # type: ignore[attr-defined] # the same
    monkeypatch.setitem(sys.modules, "resolvers", module)
    assert load_resolver("resolvers:good") is good
    for name in ("resolvers", "resolvers:none", "nowhere:good", "resolvers:plain"):
        with pytest.raises(Unusable, match="app_resolver"):
            load_resolver(name)


def test_settings_that_do_not_go_together_are_said() -> None:
    for name in ("app_issuer", "app_audience", "app_resolver"):
        with pytest.raises(Unusable, match="app_keys"):
            msgspec.structs.replace(Settings(), **{name: "x"}).checked()
    with pytest.raises(Unusable, match="ticket_key"):
        Guarded(Settings(app_keys="x"), *[None] * 4)  # type: ignore[arg-type] # it looks at nothing else first


async def test_issuer_and_audience_count(tmp_path: Path) -> None:
    ground = Ground(tmp_path, app_issuer="maker", app_audience="app")
    for claims, status in (({}, 401), ({"iss": "maker"}, 401), ({"iss": "maker", "aud": ["app"]}, 200)):
        token = ground.token(vehicles=["car-1"], **claims)
        assert (await ground.get("/v1/vehicles/car-1", token)).status_code == status


async def test_fleets_are_served_as_they_were_while_the_registry_is_away(ground: Ground) -> None:
    token = ground.token(fleets=["north"])
    ground.registry.away = True
    assert (await ground.get("/v1/vehicles", token)).status_code == 503
    ground.registry.away = False
    ground.clock.time += 5
    assert len((await ground.get("/v1/vehicles", token)).json()["vehicles"]) == 1
    ground.registry.away = True
    ground.clock.time += 5
    assert len((await ground.get("/v1/vehicles", token)).json()["vehicles"]) == 1


# Closing


class Listened:
    """What an edge is asked to close, of the channels that have listeners."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.ended: list[str] = []

    def listeners(self, channel: str) -> int:
        return int(channel in self.names)

    async def end(self, channels: Sequence[str]) -> None:
        self.ended += channels


async def test_what_expires_is_closed_in_its_second_and_not_before() -> None:
    clock, edge = Hand(), Listened()
    start = int(clock.time)
    edge.names = {expiry_channel(start + 2), expiry_channel(start + 3)}
    closing = Closing(edge, clock, hears=True)
    clock.time = start + 1.9
    await closing.tick()
    assert not edge.ended
    clock.time = start + 2
    await closing.tick()
    assert edge.ended == [expiry_channel(start + 2)]
    edge.names.clear()
    clock.time = start + 100  # a process that stood still
    edge.names = {expiry_channel(start + 50)}
    await closing.tick()
    assert edge.ended[1:] == [expiry_channel(start + 50)]


async def test_an_edge_that_does_not_hear_is_told_each_second_once() -> None:
    class All(Listened):
        def listeners(self, channel: str) -> int:
            return 2

    clock, edge = Hand(), All()
    start = int(clock.time)
    closing = Closing(edge, clock, hears=False)
    for step in range(11):
        clock.time = start + step / 5
        await closing.tick()
    assert edge.ended == [expiry_channel(start + number) for number in range(3)]


async def test_a_revocation_is_published_for_a_while_and_one_of_long_ago_not_at_all() -> None:
    clock, names = (
        Hand(),
        (user_channel(digest("ann")), token_channel(digest("t")), user_channel(digest("old"))),
    )
    edge = Listened(*names)
    closing = Closing(edge, clock, hears=True)
    now = clock.time
    closing.take([Revocation(USER, "ann", now, 1e11), Revocation(TOKEN, "t", now, 1e11)])
    closing.take([Revocation(USER, "old", now - 1000, 1e11)])
    for step in range(40):
        clock.time = now + step / 5
        await closing.tick()
    assert set(edge.ended) == set(names[:2])
    assert 10 <= len(edge.ended) / 2 <= 20  # it ends: who has a new token is let in again, and stays


# Revocations on the real nats-server


async def test_revocations_reach_every_follower_and_end_by_themselves(
    connected: Connect, settings: Settings
) -> None:
    from fleetcast.jetstream import provision

    writer, reader = await connected(), await connected()
    await provision(writer, settings)
    clock = Hand()
    clock.time = time.time()
    await put(writer, Revocation(USER, "ann", clock.time, clock.time + 900), clock)
    known, taken = Revoked(), list[Revocation]()

    def take(entries: Sequence[Revocation]) -> None:
        taken.extend(entries)
        known.take(entries, time.time())

    follower = Follower(reader, take)
    await follower.start()
    assert known.holds(digest("ann"), "", 0)
    running = asyncio.create_task(follower.run())
    try:
        for number in range(3):
            await put(writer, Revocation(TOKEN, f"t{number}", clock.time, clock.time + 1), clock)
        await until(lambda: {one.name for one in taken} == {"ann", "t0", "t1", "t2"}, "all are known")
        await put(writer, Revocation(USER, "ann", clock.time + 5, clock.time + 900), clock)
        await until(lambda: known.holds(digest("ann"), "", clock.time + 4), "the later one counts")

        async def left() -> bool:
            return [one.name for one in (await everything(writer))[0]] == ["ann"]

        await until(left, "those that are over are gone")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_follower_whose_news_is_lost_looks_itself(connected: Connect, settings: Settings) -> None:
    from fleetcast.jetstream import provision

    writer, reader = await connected(), await connected()
    await provision(writer, settings)
    clock = Hand()
    taken: list[Revocation] = []
    follower = Follower(reader, taken.extend)
    follower._heard = deaf  # type: ignore[method-assign] # as if each message were lost
    await follower.start()
    running = asyncio.create_task(follower.run())
    try:
        for number in range(3):
            await put(writer, Revocation(TOKEN, f"t{number}", clock.time, clock.time + 900), clock)
        await until(lambda: [one.name for one in taken] == ["t0", "t1", "t2"], "it looked")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def deaf(message: object) -> None:
    pass
