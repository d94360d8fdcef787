"""Who may connect by MQTT: nats-server asks (auth callout), and this answers, in as many ingest processes as there are.

In: the connection as nats-server describes it, with its password (the token) or its client certificate. Out: a user that may
publish to its own vehicle's subjects and subscribe to nothing, for as long as its credentials hold and for `_LONGEST` at most;
or the reason, which nats-server logs, and answers with CONNACK 5. Nobody else is let in by this: our own processes have a
password of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import nats.errors
import structlog
from nats.aio.msg import Msg

from fleetcast import metrics
from fleetcast.auth import Identity, Proof, Unproven
from fleetcast.errors import Refuse
from fleetcast.jetstream import Connection
from fleetcast.nats_jwt import AccountKey, BadJwt, claims_of
from fleetcast.subjects import own_subjects

log = structlog.get_logger()

Welcome = Callable[[str], Awaitable[None]]
"""`await welcome(vehicle)`, of a vehicle that has proved who it is. Raises Refuse."""

_ASKED = "$SYS.REQ.USER.AUTH"
_LONGEST = 3600
"""Seconds after which a connection is closed, and the vehicle must show its credentials again: as long as a key that was taken
away may still hold."""


class Callout:
    """`await Callout(…).start()`: answers from then on, until the connection is closed."""

    def __init__(
        self, connection: Connection, seed: str, identity: Identity, welcomes: Sequence[Welcome]
    ) -> None:
        self._client = connection.client
        self._key = AccountKey(seed)
        self._identity = identity
        self._welcomes = welcomes
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """One of all processes is asked for each connection."""

        async def asked(message: Msg) -> None:
            task = asyncio.create_task(self._answer(message))
            self._answering.add(task)
            task.add_done_callback(self._answered)

        await self._client.subscribe(_ASKED, queue="ingest", cb=asked)
        await self._client.flush()

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("bug", exc_info=error)  # nats-server waits in vain, and lets nobody in

    async def _answer(self, message: Msg) -> None:
        try:
            claims = claims_of(message.data)
            request = claims["nats"]
            who, server, user = request["client_info"], request["server_id"]["id"], request["user_nkey"]
        except (BadJwt, KeyError, TypeError) as error:
            log.error("nats-server asks what cannot be understood", error=repr(error))
            return  # it waits, and then lets nobody in
        now = int(time.time())
        answer: dict[str, Any] = {"type": "authorization_response", "version": 2}
        try:
            proof = prove(self._identity, request)
            for welcome in self._welcomes:
                await welcome(proof.vehicle)
            answer["jwt"] = self._key.sign(user_claims(proof, user, now))
        except Refuse as why:
            answer["error"] = str(why)
            reason = why.reason if isinstance(why, Unproven) else "unwelcome"
            metrics.UNIDENTIFIED.labels("mqtt", reason).inc()
            log.info(
                "vehicle refused by MQTT",
                client=who.get("mqtt_id", ""),
                host=who.get("host", ""),
                reason=str(why),
            )
        try:
            await message.respond(
                self._key.sign({"sub": user, "aud": server, "iat": now, "nats": answer}).encode()
            )
        except (nats.errors.Error, OSError) as error:
            log.warning("nats-server is not answered", error=str(error))


def prove(identity: Identity, request: dict[str, Any]) -> Proof:
    """Of nats-server's request. Raises Unproven.

    The client id must be the vehicle's: it names the session, and who connects with a name ends the connection that had it.
    """
    who, shown, tls = request["client_info"], request.get("connect_opts", {}), request.get("client_tls", {})
    if who.get("type") != "mqtt":
        raise Unproven("unexpected", "only vehicles are let in so, by MQTT")
    proofs = []
    if chains := tls.get("verified_chains"):
        proofs.append(identity.by_certificate(chains[0][0]))
    if identity.takes_tokens and shown.get("pass"):
        proofs.append(identity.by_token(shown["pass"]))
    if not proofs:
        raise Unproven("missing", "show a token as the password, or a client certificate")
    vehicle = proofs[0].vehicle
    if any(name != vehicle for name in [*(proof.vehicle for proof in proofs), shown.get("user") or vehicle]):
        raise Unproven("other", f"the credentials are of {vehicle}, and the user name or others are not", 403)
    if who.get("mqtt_id") != vehicle:
        raise Unproven("other", f"the client id must be the vehicle's: {vehicle}", 403)
    return Proof(vehicle, min(proof.until for proof in proofs))


def user_claims(proof: Proof, user: str, now: int) -> dict[str, Any]:
    """What nats-server holds a vehicle to. -1: as much as it likes; what it sends is the doorkeeper's (`mqtt.py`)."""
    return {
        "sub": user,
        "name": proof.vehicle,
        "aud": "$G",  # the account
        "iat": now,
        "exp": min(max(int(min(proof.until, 1e12)), now + 1), now + _LONGEST),
        "nats": {
            "type": "user",
            "version": 2,
            "pub": {"allow": [own_subjects(proof.vehicle)]},
            "sub": {"deny": [">"]},
            "subs": -1,
            "data": -1,
            "payload": -1,
            "allowed_connection_types": ["MQTT"],
        },
    }
