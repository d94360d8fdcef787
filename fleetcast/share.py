"""`demo --share`: the front door for phones in the same network, behind one random token, for as long as the demo runs.

In: the demo's settings, an address of this machine, how many cars there are. Out: settings that make the front listen there,
where nothing is to be had without a token; and tokens, by a key that is made for this demo and gone with it. They let nothing
be seen but the demo's own cars, whatever else the data folder holds. The link has its token behind the `#`, which browsers keep
to themselves: the page (`web/enter.js`) changes it for a session's cookie.
"""

from __future__ import annotations

import io
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import msgspec

from fleetcast.errors import Unusable
from fleetcast.machine import write
from fleetcast.settings import Settings

LASTS = 12 * 3600.0
"""Seconds that a link holds."""
_OUTSIDE = ("192.0.2.1", 9)  # of nobody (RFC 5737)


class Shared(NamedTuple):
    """What a demo is run with: its settings, the token of the link, and the file that holds the token of its own phones."""

    settings: Settings
    token: str
    own: Path

    def link(self, url: str) -> str:
        """What a phone opens."""
        return f"{url}/#token={self.token}"


@contextmanager
def shared(settings: Settings, host: str, cars: int) -> Iterator[Shared]:
    """The key is in a folder of its own, not in `data`, where another platform may run. Raises Unusable."""
    if settings.app_keys:
        raise Unusable("demo: --share makes a key of its own; leave app_keys out")
    with tempfile.TemporaryDirectory(prefix="fleetcast-share-") as folder:
        key, own, secret = Path(folder, "app.secret"), Path(folder, "phones"), secrets.token_urlsafe(32)
        write(key, secret)
        write(own, _token(secret, "demo", settings.revoked_seconds - 60, cars))
        given = {
            "host": host,
            "front_plain": True,
            "app_keys": str(key),
            "app_resolver": f"{__name__}:sees",
            "resolver_seconds": settings.revoked_seconds,
        }
        token = _token(secret, "share", min(LASTS, settings.revoked_seconds - 60), cars)
        yield Shared(msgspec.structs.replace(settings, **given).checked(), token, own)


def _token(secret: str, user: str, seconds: float, cars: int) -> str:
    now = int(time.time())
    return jwt.encode({"sub": user, "iat": now, "exp": now + int(seconds), "cars": cars}, secret, "HS256")


def car(number: int) -> str:
    """The id of one of the demo's cars."""
    return f"car-{number:05d}"


async def sees(claims: Mapping[str, Any], vehicle: str) -> bool:
    """The resolver (`app_resolver`): whether it is a car of the demo that the token is of."""
    cars, found = claims.get("cars"), re.fullmatch(r"car-([0-9]{5,9})", vehicle)
    return type(cars) is int and found is not None and int(found[1]) < cars and car(int(found[1])) == vehicle


def address() -> str:
    """The one by which this machine is in its network. Raises Unusable."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(_OUTSIDE)  # sends nothing: the kernel says by which address it would
            found = str(probe.getsockname()[0])
        except OSError:
            raise Unusable("demo: this machine seems to be in no network; say --share ADDRESS") from None
    return found


def qr(text: str) -> str:
    """For a terminal: half blocks, the light ones of the code in the text's colour, as on a dark background."""
    import segno

    drawn = io.StringIO()
    segno.make(text, error="l", boost_error=False).terminal(drawn, border=2, compact=True)
    return drawn.getvalue()
