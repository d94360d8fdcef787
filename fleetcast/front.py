"""The front door's address and certificate: what HAProxy is given, and how our own commands trust it.

With the settings `front_cert` and `front_key` it speaks TLS, with HTTP/2 for those who can; otherwise plain HTTP.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from fleetcast import probes
from fleetcast.errors import Unusable
from fleetcast.settings import Settings

BUNDLE = "front.pem"
"""The file, beside HAProxy's configuration, that holds certificate and key together, as HAProxy wants them."""


def url(settings: Settings) -> str:
    """Where apps find it from this machine."""
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
    return f"{'https' if settings.front_cert else 'http'}://{host}:{settings.front_port}"


def bundle(settings: Settings) -> str:
    """The certificate with its chain, then the key, as PEM. Raises Unusable if they cannot be read, or do not fit."""
    files = dict.fromkeys((settings.front_cert, settings.front_key))  # one file may hold both
    for name in ("front_cert", "front_key"):
        if not Path(getattr(settings, name)).is_file():
            raise Unusable(f"{name}: {getattr(settings, name)}: no such file")
    try:
        # Without the password it would ask for one, on the terminal or for ever.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.front_cert, settings.front_key, password=lambda: ""
        )
        texts = [Path(file).read_text() for file in files]
    except (OSError, ValueError) as error:  # SSLError is an OSError
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise Unusable(f"front_cert, front_key: {why}") from None
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts)


def expires(settings: Settings) -> datetime:
    """When its certificate ends. Raises Unusable if that cannot be read."""
    try:
        first = x509.load_pem_x509_certificates(Path(settings.front_cert).read_bytes())[0]
    except (OSError, ValueError) as error:
        raise Unusable(f"front_cert: {settings.front_cert}: {error}") from None
    return first.not_valid_after_utc


def days_left(settings: Settings) -> float:
    """Until its certificate ends; negative once it has. Raises Unusable."""
    return (expires(settings) - datetime.now(UTC)).total_seconds() / 86_400


def trust(settings: Settings) -> ssl.SSLContext:
    """What our own commands on this machine verify it with: this very certificate, whatever name they call it by.

    That it ended is no matter: they ask whether the door is there. Without TLS it is not used.
    """
    if not settings.front_cert:
        return probes.authorities()
    context = ssl.create_default_context(cafile=settings.front_cert)
    context.check_hostname = False
    # It need not be its own issuer.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
