from collections.abc import Callable

import msgspec
import pytest
from backports import zstd

from fleetcast.decode import load
from fleetcast.proof.packets import BOOT_AFTER, NAME, POISON, body, good_before, is_poison, packet
from fleetcast.settings import Settings

decode = load(Settings().decoders).decode

TEXT: dict[str, Callable[[bytes], bytes]] = {"identity": bytes, "zstd": zstd.decompress}
NUMBERS = [0, 1, 2, 3, 98, 99, 100, 199, 499, 500, 501, 999, 1000, 1500]


@pytest.mark.parametrize("n", NUMBERS)
def test_the_same_seed_gives_the_same_packet(n: int) -> None:
    assert packet(1, "a", n) == packet(1, "a", n)
    assert body(1, "a", n) == body(1, "a", n)
    assert packet(1, "a", n) != packet(2, "a", n)
    assert packet(1, "a", n) != packet(1, "b", n)
    assert packet(1, "a", n).signals != packet(1, "a", n + 1).signals


def test_one_in_a_hundred_is_poison() -> None:
    poison = [n for n in range(1000) if is_poison(n)]
    assert poison == list(range(99, 1000, 100))
    assert all(
        packet(1, "a", n).poison == (POISON in packet(1, "a", n).signals) == is_poison(n) for n in NUMBERS
    )
    for n in range(300):
        assert good_before(n) == sum(not is_poison(k) for k in range(n))


def test_a_car_starts_again_and_counts_from_one() -> None:
    names = [packet(1, "a", n).name for n in (0, 1, BOOT_AFTER - 1, BOOT_AFTER, BOOT_AFTER + 1)]
    assert names == ["1/1", "1/2", f"1/{BOOT_AFTER}", "2/1", "2/2"]


@pytest.mark.parametrize("n", NUMBERS)
def test_the_platform_reads_what_cars_send(n: int) -> None:
    sent, (content, form, encoding) = packet(1, "a", n), body(1, "a", n)
    read = decode(content, form, encoding, 1_048_576)
    assert (read.vehicle, read.boot, read.seq, read.sent_at) == ("a", sent.boot, sent.seq, sent.sent_at)
    assert {path: (signal.value, signal.at) for path, signal in read.signals.items()} == sent.signals
    assert read.signals[NAME].value == sent.name


def test_each_way_of_sending_is_used_and_some_are_large() -> None:
    sent = [body(1, "a", n) for n in range(1000)]
    assert {(form, encoding) for _, form, encoding in sent} == {
        ("application/json", "identity"),
        ("application/msgpack", "identity"),
        ("application/x-ndjson", "zstd"),
    }
    sizes = [len(TEXT[encoding](content)) for content, _, encoding in sent]
    assert max(sizes) > 400_000
    assert sorted(sizes)[500] < 2000
    for content, form, encoding in sent[:10]:
        if form != "application/msgpack":
            for line in TEXT[encoding](content).splitlines():
                msgspec.json.decode(line)
