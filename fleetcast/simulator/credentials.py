"""What simulated cars show where vehicles must prove who they are: tokens by a development key, as `enroll` makes them."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

from fleetcast.devpki import DevelopmentPki

_DAYS = 1.0
_AGAIN = 12 * 3600.0  # s after which a car gets another token


class Credentials:
    """`token` of a vehicle, as `door.TokenOf`; `trust` verifies doors that speak TLS with a certificate of the same folder."""

    def __init__(self, folder: str) -> None:
        """ValueError if there is no key: one that is made now would be known to no platform. Unusable if it cannot be read."""
        if not Path(folder, "token-key.pem").is_file():
            raise ValueError(f"credentials: no token-key.pem in {folder}; `fleetcast enroll` makes it")
        self._pki = DevelopmentPki(Path(folder))
        self._tokens: dict[str, tuple[float, str]] = {}
        self.trust = ssl.create_default_context(cafile=self._pki.ca)

    def token(self, vehicle: str) -> str | None:
        """One that holds for half a day at least."""
        now = time.monotonic()
        made, token = self._tokens.get(vehicle, (0.0, ""))
        if not token or now - made > _AGAIN:
            token = self._pki.token(vehicle, _DAYS)
            self._tokens[vehicle] = now, token
        return token
