from __future__ import annotations

import stat
from pathlib import Path

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetcast import access, share
from fleetcast.errors import Unusable
from fleetcast.settings import Settings


def test_a_demo_that_is_shared_asks_for_tokens_by_a_key_of_its_own() -> None:
    with share.shared(Settings(), "192.168.1.7", 3) as shared:
        settings = shared.settings
        assert (settings.host, settings.front_plain) == ("192.168.1.7", True)
        access.check(settings)
        key = Path(settings.app_keys)
        assert key.suffix == ".secret"
        assert all(stat.S_IMODE(one.stat().st_mode) == 0o600 for one in (key, shared.own))
        claims = jwt.decode(shared.token, key.read_text(), algorithms=["HS256"])
        assert claims["exp"] - claims["iat"] == share.LASTS
        own = jwt.decode(shared.own.read_text(), key.read_text(), algorithms=["HS256"])
        assert own["exp"] - own["iat"] < settings.revoked_seconds  # else origins take none of it
        assert (
            settings.resolver_seconds > own["exp"] - own["iat"]
        )  # else streams would be closed to ask again
        assert claims["cars"] == own["cars"] == 3
        assert shared.link("http://h:1") == f"http://h:1/#token={shared.token}"
    assert not key.exists()
    with share.shared(Settings(), "192.168.1.7", 3) as again:
        assert again.settings.app_keys != settings.app_keys
        assert again.token != shared.token


def test_keys_of_ones_own_are_not_mixed_with_it() -> None:
    with (
        pytest.raises(Unusable, match="leave app_keys out"),
        share.shared(Settings(app_keys="k.pem"), "h", 1),
    ):
        pass


@given(number=st.integers(0, 10**7), cars=st.integers(0, 10**7))
async def test_the_demos_cars_are_seen(number: int, cars: int) -> None:
    assert await share.sees({"cars": cars}, share.car(number)) is (number < cars)


@pytest.mark.parametrize(
    "vehicle", ["car-3", "car-000001", "car-0000٣", "car-00001 ", "my-car-00001", "car-00001x", "other", ""]
)
async def test_nothing_else_is(vehicle: str) -> None:
    assert not await share.sees({"cars": 10}, vehicle)


@pytest.mark.parametrize("cars", [None, True, "5", 5.0, [5]])
async def test_a_token_that_says_nothing_lets_nothing_be_seen(cars: object) -> None:
    assert not await share.sees({"cars": cars}, "car-00000")


def test_the_address_is_the_one_by_which_the_kernel_would_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "_OUTSIDE", ("127.0.0.9", 9))
    assert share.address() == "127.0.0.1"
    monkeypatch.setattr(
        share, "_OUTSIDE", ("255.255.255.255", 9)
    )  # the kernel refuses that, as without any route
    with pytest.raises(Unusable, match="--share ADDRESS"):
        share.address()


def test_the_code_is_square_and_fits_a_terminal() -> None:
    lines = share.qr("http://192.168.178.120:8080/#token=" + "x" * 160).rstrip("\n").split("\n")
    assert set("".join(lines)) == set(" ▀▄█")
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) == 2 * len(lines) - 1 < 80
