"""Bytes between processes of this machine, as they are on the loopback interface: IP packets with all headers, both directions,
acknowledgements and handshakes included. So a connection that stays and one that is made for each request are counted alike.

A packet socket with a filter in the kernel, by TCP port; it needs root (CAP_NET_RAW).
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Iterable, Mapping

_ETH_IP = 0x0800
_SOL_PACKET, _IGNORE_OUTGOING, _STATISTICS = 263, 23, 6
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_ROOM = 64_000_000
_ACCEPT = 0x40000
_TCP = 6


class Unseen(Exception):
    """More came than could be read: the count would be too low."""


async def counted(links: Mapping[str, Iterable[int]], seconds: float) -> dict[str, float]:
    """Bytes a second by link; a link is the TCP ports of one side of it. Raises PermissionError, Unseen."""
    sums = dict.fromkeys(links, 0)
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []

    def read(name: str, one: socket.socket) -> None:
        byte, total = bytearray(1), 0
        try:
            for _ in range(500):  # then others have a turn
                total += one.recv_into(byte, 1, socket.MSG_TRUNC)  # its length, whatever fits
        except BlockingIOError:
            pass
        sums[name] += total

    try:
        for name, ports in links.items():
            one = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
            one.setsockopt(
                _SOL_PACKET, _IGNORE_OUTGOING, 1
            )  # on loopback each packet is seen going and coming
            _attach(one, program(ports))
            loop.add_reader(one, read, name, one)
        for one in sockets:
            one.bind(("lo", _ETH_IP))
        began = loop.time()
        await asyncio.sleep(seconds)
        took = loop.time() - began
        for one in sockets:
            packets, dropped = struct.unpack("II", one.getsockopt(_SOL_PACKET, _STATISTICS, 8))
            if dropped:
                raise Unseen(f"{dropped:,} of {packets:,} packets on loopback were not read")
    finally:
        for one in sockets:
            loop.remove_reader(one)
            one.close()
    return {name: total / took for name, total in sums.items()}


def program(ports: Iterable[int]) -> list[tuple[int, int, int, int]]:
    """The filter, in the kernel's classic BPF: TCP from or to one of these ports."""
    ports = list(ports)
    accept = 6 + 2 * len(ports)  # where `accept` stands; jumps count from the instruction after them
    made = [(0x30, 0, 0, 9), (0x15, 0, accept - 3, _TCP), (0xB1, 0, 0, 0)]
    for offset in (0, 2):  # the source's port, the destination's
        made.append((0x48, 0, 0, offset))
        made += [(0x15, accept - len(made) - n - 1, 0, port) for n, port in enumerate(ports)]
    return [*made, (0x06, 0, 0, 0), (0x06, 0, 0, _ACCEPT)]


def _attach(one: socket.socket, instructions: list[tuple[int, int, int, int]]) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code)
    one.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("HxxxxxxQ", len(instructions), ctypes.addressof(buffer)),
    )
