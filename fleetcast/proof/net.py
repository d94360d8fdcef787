"""A small network of this machine's own: some hosts, each a network namespace, on one bridge. A host can be cut off.

Cut off, its packets are dropped without a word, as by a switch that died: no connection ends, and nobody is told. All of it
is taken away at the end. Needs root.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fleetcast.errors import Unusable


class Net:
    """`addresses` of the hosts, by number; this machine itself is on the bridge too."""

    def __init__(self, count: int) -> None:
        self._name = f"fc{os.getpid()}"
        subnet = _free_subnet()
        self._own = f"{subnet}.1"
        self.addresses = [f"{subnet}.{number + 2}" for number in range(count)]

    def within(self, number: int) -> list[str]:
        """What to put before a command that is to run on this host."""
        return ["ip", "netns", "exec", self._space(number)]

    def cut(self, number: int) -> None:
        """From all others, and from this machine."""
        _ip("link", "set", self._wire(number), "down")

    def part(self, number: int) -> None:
        """From the other hosts, and not from this machine."""
        for address in self._others(number):
            _ip("-n", self._space(number), "route", "add", "blackhole", f"{address}/32")

    def heal(self, number: int) -> None:
        """As if nothing had been."""
        _ip("link", "set", self._wire(number), "up")
        for address in self._others(number):
            with suppress(Unusable):
                _ip("-n", self._space(number), "route", "del", "blackhole", f"{address}/32")

    def make(self) -> None:
        """Raises Unusable."""
        _ip("link", "add", self._name, "type", "bridge")
        _ip("address", "add", f"{self._own}/24", "dev", self._name)
        _ip("link", "set", self._name, "up")
        for number, address in enumerate(self.addresses):
            space, wire = self._space(number), self._wire(number)
            _ip("netns", "add", space)
            _ip("link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", wire, "master", self._name, "up")
            _ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", space, "link", "set", device, "up")

    def remove(self) -> None:
        """Whatever of it is there."""
        for number in range(len(self.addresses)):
            for what in (("link", "del", self._wire(number)), ("netns", "del", self._space(number))):
                with suppress(Unusable):
                    _ip(*what)
        with suppress(Unusable):
            _ip("link", "del", self._name)

    def _space(self, number: int) -> str:
        return f"{self._name}-{number}"

    def _wire(self, number: int) -> str:
        return f"{self._name}v{number}"

    def _others(self, number: int) -> list[str]:
        return [address for other, address in enumerate(self.addresses) if other != number]


@contextmanager
def small_net(count: int) -> Iterator[Net]:
    """So many hosts. Raises Unusable without root."""
    net = Net(count)
    try:
        net.make()
        yield net
    finally:
        net.remove()


def _free_subnet() -> str:
    taken = _ip("-4", "-o", "address")
    for number in range(250):
        subnet = f"10.213.{(os.getpid() + number) % 250}"
        if f" {subnet}." not in taken:
            return subnet
    raise Unusable("prove: no network 10.213.x is free")


def _ip(*words: str) -> str:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    except OSError as error:
        raise Unusable(f"prove: network namespaces need `ip` (apt-get install iproute2): {error}") from None
    if done.returncode != 0:
        raise Unusable(f"prove: network namespaces need root: ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
