"""Who may send by HTTP: the checks that ingest asks before it reads a body, and the TLS under them.

A check is an `Admit`: it returns, or raises Refuse. `every` makes one of several; `identified` is the one that wants a token
(RFC 6750) or a client certificate of the vehicle in the path. `TlsProtocol` hands the certificate on, by the TLS extension of
ASGI.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fleetcast import metrics
from fleetcast.auth import Identity, Proof, Unproven
from fleetcast.errors import Unusable
from fleetcast.settings import Settings

Admit = Callable[[Request, str], Awaitable[None]]
"""`await admit(request, vehicle)`. Raises Refuse."""


def every(*admits: Admit) -> Admit:
    """All of them, one after the other; the first that refuses is the answer."""

    async def admit(request: Request, vehicle: str) -> None:
        for one in admits:
            await one(request, vehicle)

    return admit


def identified(identity: Identity) -> Admit:
    """The vehicle of the path must prove that it is this one. What it shows must agree: a token counts beside a
    certificate too, and a certificate beside a token.
    """

    async def admit(request: Request, vehicle: str) -> None:
        try:
            _prove(identity, request, vehicle)
        except Unproven as why:
            metrics.UNIDENTIFIED.labels("http", why.reason).inc()
            raise

    return admit


def _prove(identity: Identity, request: Request, vehicle: str) -> None:
    proofs: list[Proof] = []
    if chain := request.scope.get("extensions", {}).get("tls", {}).get("client_cert_chain"):
        proofs.append(identity.by_certificate(chain[0]))
    if shown := request.headers.getlist("authorization"):
        scheme, _, token = shown[0].partition(" ")
        if len(shown) > 1 or scheme.lower() != "bearer" or not token.strip():
            raise Unproven("malformed", "Authorization must be one: Bearer and the token")
        proofs.append(identity.by_token(token.strip()))
    if not proofs:
        raise Unproven("missing", "show a token (Authorization: Bearer …) or a client certificate")
    for proof in proofs:
        if proof.vehicle != vehicle:
            raise Unproven("other", f"these credentials are of {proof.vehicle}, not of {vehicle}", 403)


# TLS


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """For the vehicles' HTTP door; None without TLS. A certificate of the client is asked for, not demanded, if `vehicle_ca`
    is set, and then verified: a foreign one ends the handshake. Raises Unusable.
    """
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for name in ("tls_cert", "tls_key", "vehicle_ca"):
        path = getattr(settings, name)
        if path and not Path(path).is_file():
            raise Unusable(f"{name}: {path}: no such file")
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise Unusable(f"tls_cert, tls_key: {_said(error)}") from None
    if settings.vehicle_ca:
        try:
            context.load_verify_locations(settings.vehicle_ca)
        except (OSError, ssl.SSLError) as error:
            raise Unusable(f"vehicle_ca: {settings.vehicle_ca}: {_said(error)}") from None
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _said(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)


class TlsProtocol(HttpToolsProtocol):
    """uvicorn's, with the ASGI TLS extension, as far as it is asked for here: the client's certificate and its subject."""

    _extensions: dict[str, dict[str, Any]]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """The handshake is done by now, and what the client showed is verified."""
        super().connection_made(transport)
        self._extensions = {}
        if (connection := transport.get_extra_info("ssl_object")) is not None:
            shown = connection.getpeercert(binary_form=True)
            self._extensions = {"tls": {"client_cert_chain": (), "client_cert_name": None}}
            if shown:
                name = x509.load_der_x509_certificate(shown).subject.rfc4514_string()
                self._extensions["tls"] = {
                    "client_cert_chain": (ssl.DER_cert_to_PEM_cert(shown),),
                    "client_cert_name": name,
                }

    def on_message_begin(self) -> None:
        """A request on this connection."""
        super().on_message_begin()
        cast("MutableMapping[str, Any]", self.scope)["extensions"] = self._extensions
