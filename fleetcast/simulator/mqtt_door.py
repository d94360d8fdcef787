"""The door by MQTT 3.1.1: a packet is one PUBLISH of QoS 1, and its PUBACK is the acknowledgement.

A car has one connection, with its vehicle id as the client id and a clean session: what is not acknowledged when a
connection ends is the car's to send again, not the library's. So each connection is a new client, and has one packet in
flight. A PUBACK says that the packet is stored, not where, nor whether it was known: a packet whose PUBACK was lost is
stored twice, and the consumer recognises it by (boot, seq).
"""

from __future__ import annotations

import asyncio
import ssl

from fleetcast.mqtt_line import MqttLine
from fleetcast.packet import JSON, NDJSON
from fleetcast.simulator.door import DoorName, Failed, Receipt, TokenOf, no_token
from fleetcast.simulator.samples import Parcel

_TLS = "mqtts://"
_FORMS = {JSON: "json", NDJSON: "ndjson"}
_CONNECT = 10.0  # seconds that a CONNACK may take
_ACKNOWLEDGE = 25.0
"""Seconds that a PUBACK may take: more than the 20 after which nats-server gives up storing it, and closes the connection."""


class MqttDoor:
    """A car's connection to nats-server's MQTT listener, opened by the first packet and after each loss."""

    name: DoorName = "mqtt"

    def __init__(
        self, address: str, vehicle: str, token_of: TokenOf = no_token, trust: ssl.SSLContext | None = None
    ) -> None:
        """`address` is HOST:PORT, or mqtts://HOST:PORT, verified by `trust` or as the system has it. ValueError if not."""
        self._host, self._port = host_and_port(address)
        self._tls = (trust or ssl.create_default_context()) if address.startswith(_TLS) else None
        self._vehicle, self._token_of = vehicle, token_of
        self._line: MqttLine | None = None

    async def send(self, parcel: Parcel) -> Receipt:
        """One PUBLISH, on a new connection if there is none. Raises Failed."""
        topic = f"vehicles/{parcel.vehicle}/packets/{_FORMS[parcel.content_type]}"
        try:
            if self._line is None:
                async with asyncio.timeout(_CONNECT):
                    token = self._token_of(self._vehicle)
                    self._line = await MqttLine.open(self._port, self._vehicle, self._host, token, self._tls)
            async with asyncio.timeout(_ACKNOWLEDGE):
                await self._line.publish(topic, parcel.body)
        except TimeoutError:
            await self.leave()
            raise Failed("MQTT: timed out") from None
        except OSError as error:
            await self.leave()
            raise Failed(f"MQTT: {error}") from error
        return Receipt()

    async def leave(self) -> None:
        """Closes the connection, at once."""
        if self._line is not None:
            self._line.close()
            self._line = None


def host_and_port(address: str) -> tuple[str, int]:
    """ValueError if the text is not HOST:PORT, mqtt:// or mqtts:// before it or not."""
    host, _, port = address.removeprefix("mqtt://").removeprefix(_TLS).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host, int(port)
