"""The door by MQTT 3.1.1: a packet is one PUBLISH of QoS 1, and its PUBACK is the acknowledgement.

A car has one connection, with its vehicle id as the client id and a clean session: what is not acknowledged when a
connection ends is the car's to send again, not the library's. So each connection is a new client, and has one packet in
flight. A PUBACK says that the packet is stored, not where, nor whether it was known: a packet whose PUBACK was lost is
stored twice, and the consumer recognises it by (boot, seq).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import aiomqtt

from fleetcast.packet import JSON, NDJSON
from fleetcast.simulator.door import DoorName, Failed, Receipt, TokenOf, no_token
from fleetcast.simulator.samples import Parcel

_FORMS = {JSON: "json", NDJSON: "ndjson"}
_CONNECT = 10.0  # seconds that a CONNACK may take
_ACKNOWLEDGE = 25.0
"""Seconds that a PUBACK may take: more than the 20 after which nats-server gives up storing it, and closes the connection."""
_GOODBYE = 1.0

_log = logging.getLogger(__name__)
# What the library says of each connection that it lost is said by Failed: it must not fill the screen.
_log.addHandler(logging.NullHandler())
_log.propagate = False


class MqttDoor:
    """A car's connection to nats-server's MQTT listener, opened by the first packet and after each loss."""

    name: DoorName = "mqtt"

    def __init__(self, address: str, vehicle: str, token_of: TokenOf = no_token) -> None:
        """`address` is HOST:PORT. ValueError if it is not."""
        self._host, self._port = host_and_port(address)
        self._vehicle, self._token_of = vehicle, token_of
        self._client: aiomqtt.Client | None = None
        self._losing: asyncio.Task[None] | None = None

    async def send(self, parcel: Parcel) -> Receipt:
        """One PUBLISH, on a new connection if there is none. Raises Failed."""
        try:
            if self._losing is None or self._losing.done():
                await self._connect()
            await self._publish(parcel)
        except aiomqtt.MqttError as error:
            # Whatever it was: a client that gave up on a packet still has it in flight, and would send it once more.
            await self.leave()
            raise Failed(f"MQTT: {error}") from error
        return Receipt()

    async def leave(self) -> None:
        """Closes the connection."""
        losing, client = self._losing, self._client
        self._losing = self._client = None
        if client is None or losing is None:
            return
        with suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)
        # It ends with the connection; what it ended by is to be asked for, or asyncio complains.
        await asyncio.wait({losing}, timeout=_GOODBYE)
        losing.cancel()
        await asyncio.gather(losing, return_exceptions=True)

    async def _connect(self) -> None:
        await self.leave()
        token = self._token_of(self._vehicle)
        client = aiomqtt.Client(
            self._host,
            self._port,
            identifier=self._vehicle,
            username=None if token is None else self._vehicle,
            password=token,
            clean_session=True,
            timeout=_CONNECT,
            logger=_log,
        )
        try:
            await client.__aenter__()
        except aiomqtt.MqttError:
            client.timeout = 0.0
            with suppress(aiomqtt.MqttError):  # closes what the library leaves open if nobody answered
                await client.__aexit__(None, None, None)
            raise
        client.timeout = _GOODBYE  # of the disconnect: a server that hangs does not take it
        self._client, self._losing = client, asyncio.create_task(_lost(client))

    async def _publish(self, parcel: Parcel) -> None:
        """Returns with the PUBACK. Raises MqttError, at once if the connection ends: the library would wait out the time."""
        assert self._client is not None
        assert self._losing is not None
        topic = f"vehicles/{parcel.vehicle}/packets/{_FORMS[parcel.content_type]}"
        publishing = asyncio.create_task(
            self._client.publish(topic, parcel.body, qos=1, timeout=_ACKNOWLEDGE)
        )
        try:
            await asyncio.wait({publishing, self._losing}, return_when=asyncio.FIRST_COMPLETED)
            if publishing.done():
                publishing.result()
            else:
                self._losing.result()
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)


async def _lost(client: aiomqtt.Client) -> None:
    """Raises MqttError when the connection ends. A car is sent nothing."""
    async for _ in client.messages:
        pass


def host_and_port(address: str) -> tuple[str, int]:
    """ValueError if the text is not HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host, int(port)
