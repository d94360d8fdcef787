"""`fleetcast simulate cars`: its arguments, and what it prints while the fleet drives."""

from __future__ import annotations

import argparse
import asyncio
import resource
import signal
import sys
import time
from typing import Any, get_args

import msgspec

from fleetcast.simulator.cars import run_cars
from fleetcast.simulator.options import Acked, MixedDoor, MixedForm, Options, Totals
from fleetcast.simulator.samples import Encoding
from fleetcast.simulator.trouble import SOME, Trouble

REPORT_EVERY = 0.5
_FILES_A_CAR = 4  # an MQTT client has three

_TROUBLE = {
    "tunnels": "offline for 2 to 5 ticks, then the packets kept meanwhile, oldest first",
    "bursts": "2 to 4 packets at once",
    "duplicates": "a packet sent again after it was acknowledged",
    "late": "a packet sent after 1 to 3 newer ones; its times stay true",
    "reboots": "the sender restarts: boot rises, seq begins at 1",
    "skewed": "a clock that is an hour ahead, or in 1970",
}

EPILOG = """\
examples:
  fleetcast simulate cars --cars 20                           by HTTP, to ingest
  fleetcast simulate cars --cars 20 --door mqtt --mqtt 127.0.0.1:1883
  fleetcast simulate cars --cars 20 --door mix --trouble      every second car by MQTT; all that goes wrong on a road
  fleetcast simulate cars --door mix --credentials .fleetcast/dev-pki --ingest https://localhost:8081 --mqtt mqtts://localhost:1883
  fleetcast simulate cars --cars 5 --tunnels 0.2 --seed 7     only tunnels; the same seed gives the same ones

A packet counts as acknowledged with ingest's 202, or with the PUBACK of MQTT 3.1.1, QoS 1. Until then it is sent again,
the same bytes, and the car's next packet waits. Ctrl-C stops the cars once what they hold is acknowledged. Exit status: 0
if every packet was, 1 if not, 2 if an argument is wrong.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `fleetcast simulate cars`."""
    default = Options()
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--door",
        choices=get_args(MixedDoor),
        default=default.door,
        help="mix: every second car by MQTT (%(default)s)",
    )
    parser.add_argument("--ingest", default=default.ingest, metavar="URL", help="by HTTP (%(default)s)")
    parser.add_argument("--mqtt", default=default.mqtt, metavar="HOST:PORT", help="by MQTT (%(default)s)")
    parser.add_argument("--noun", default=default.noun, help="of the addresses by HTTP (%(default)s)")
    parser.add_argument("--cars", type=int, default=default.cars, metavar="N")
    parser.add_argument("--prefix", default=default.prefix, help="of the vehicle ids: car- gives car-00000")
    parser.add_argument(
        "--per-minute", type=float, default=default.per_minute, metavar="X", help="1 to 120 packets"
    )
    parser.add_argument("--min-bytes", type=int, default=default.min_bytes, metavar="B", help="inflated")
    parser.add_argument("--max-bytes", type=int, default=default.max_bytes, metavar="B", help="inflated")
    parser.add_argument("--encoding", choices=get_args(Encoding), default=default.encoding)
    parser.add_argument("--form", choices=get_args(MixedForm), default=default.form)
    parser.add_argument(
        "--precompressed", action="store_true", help="compress the samples once, not in each packet"
    )
    parser.add_argument("--seconds", type=float, default=0.0, metavar="S", help="0: until stopped")
    parser.add_argument(
        "--speedup", type=float, default=default.speedup, metavar="X", help="seconds lived in one"
    )
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--boot", type=int, default=default.boot, help="0: the time now in ms")
    parser.add_argument("--drives", metavar="DIR", help="a folder of traces second,speed_kmh")
    parser.add_argument(
        "--credentials",
        metavar="DIR",
        help="tokens by the key in this folder, `dev-pki` of the data folder, which also says whom to trust",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, twice a second")
    add_trouble(parser)


def add_trouble(parser: argparse.ArgumentParser) -> None:
    """What goes wrong; `trouble_of` reads it."""
    group = parser.add_argument_group(
        "trouble",
        "What goes wrong around real cars; nothing by default. Each rate is from 0 to 1:\n"
        "a chance at each tick, of --skewed the share of cars. The same --seed gives the\nsame trouble.",
    )
    group.add_argument(
        "--trouble", action="store_true", help="some of all of it; a rate given beside it holds"
    )
    for name, what in _TROUBLE.items():
        rate = getattr(SOME, name)
        group.add_argument(f"--{name}", type=float, metavar="X", help=f"{what} (with --trouble {rate:g})")
    group.add_argument(
        "--batches",
        action="store_true",
        help="by HTTP what was kept in a tunnel is one request, multipart/mixed (with --trouble too)",
    )


def trouble_of(args: argparse.Namespace) -> Trouble:
    """The rates as given. ValueError if one is none."""
    given = {name: getattr(args, name) for name in _TROUBLE if getattr(args, name) is not None}
    for name, rate in given.items():
        if not 0 <= rate <= 1:
            raise ValueError(f"--{name}: {rate:g} is not from 0 to 1")
    return msgspec.structs.replace(SOME if args.trouble else Trouble(), **given)


def trouble_made(totals: Totals) -> str:
    """In words; empty if there was none."""
    made = (
        (totals.tunnels, "tunnels"),
        (totals.batches, "batches"),
        (totals.repeats, "packets sent again"),
        (totals.late, "sent late"),
        (totals.reboots, "reboots"),
    )
    return ", ".join(f"{count} {what}" for count, what in made if count)


async def run(args: argparse.Namespace) -> int:
    """`fleetcast simulate cars`: 0 if every packet was acknowledged, 1 if not, 2 if the arguments are wrong.

    With --json: lines `{"acked": [[vehicle, boot, seq, acked, duplicate, door], ...], "raw", "wire", "errors", "retries"}`,
    where `duplicate` is null by MQTT, `raw` and `wire` are the bytes of that line's packets, and `errors` and `retries`
    count from the start; the last line is `{"done": true, ...totals}`.
    """
    try:
        fields = {name: getattr(args, name) for name in Options.__struct_fields__}
        fields |= {"trouble": trouble_of(args), "batches": args.batches or args.trouble}
        options = msgspec.convert(fields, Options)
    except ValueError as error:
        return _wrong(error)
    if options.door != "http":
        _allow_files(_FILES_A_CAR * options.cars + 200)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if args.seconds > 0:
        loop.call_later(args.seconds, stop.set)
    acked: list[Acked] = []
    totals = Totals()
    screen = _Screen(args.json, acked, totals, stop)
    printing = asyncio.create_task(screen.keep())
    try:
        await run_cars(options, report=acked.append, stop=stop, totals=totals)
    except ValueError as error:
        return _wrong(error)
    finally:
        printing.cancel()
        await asyncio.gather(printing, return_exceptions=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    screen.last()
    return 1 if totals.errors or totals.unacknowledged else 0


def _allow_files(count: int) -> None:
    """As many open files as this machine allows: a shell's default of 1,024 is 250 cars by MQTT."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (count if hard == resource.RLIM_INFINITY else min(count, hard), hard)
        )


def _wrong(error: Exception) -> int:
    sys.stderr.write(f"simulate cars: {error}\n")
    return 2


class _Screen:
    """What is printed. Whoever reads may go away: then the fleet stops too."""

    def __init__(self, json: bool, acked: list[Acked], totals: Totals, stop: asyncio.Event) -> None:
        self.json, self.acked, self.totals, self.stop = json, acked, totals, stop
        self.begin = time.monotonic()

    async def keep(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY)
            self.now()

    def now(self) -> None:
        acked, totals = self.acked[:], self.totals
        self.acked.clear()
        if self.json:
            self._print(
                {
                    "acked": [[a.vehicle, a.boot, a.seq, a.acked, a.duplicate, a.door] for a in acked],
                    "raw": sum(a.raw_bytes for a in acked),
                    "wire": sum(a.wire_bytes for a in acked),
                    "errors": totals.errors,
                    "retries": totals.retries,
                    "error": totals.error,
                }
            )
        elif sys.stdout.isatty():
            self._write("\r" + self._sentence() + "\x1b[K")

    def last(self) -> None:
        if self.json:
            self.now()
            self._print({"done": True, **msgspec.structs.asdict(self.totals)})
        else:
            end = "\r" if sys.stdout.isatty() else ""
            self._write(
                f"{end}{self._sentence()}\n"
                + (f"last error: {self.totals.error}\n" if self.totals.error else "")
            )

    def _sentence(self) -> str:
        t, seconds = self.totals, max(time.monotonic() - self.begin, 0.001)
        return (
            f"{t.acked} packets acknowledged ({t.acked / seconds:.1f}/s; {t.mqtt} by MQTT), {t.raw / seconds / 1e6:.1f} MB/s"
            f" ({t.wire / seconds / 1e6:.1f} compressed), {t.duplicates} duplicates, {t.retries} retries,"
            f" {t.errors} errors, {t.unacknowledged} unacknowledged"
        ) + (f"; {made}" if (made := trouble_made(t)) else "")

    def _print(self, line: dict[str, Any]) -> None:
        self._write(msgspec.json.encode(line).decode() + "\n")

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            self.stop.set()
