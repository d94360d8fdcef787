"""Which processes there are: ports by position at the start, free ones for what is added, and nobody's move."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest

from fleetcast.errors import Unusable
from fleetcast.layout import Layout, with_edges
from fleetcast.settings import Settings
from tests.servers import free_ports, platform_settings


def test_the_ports_of_the_start_are_those_that_the_docs_name() -> None:
    layout = Layout(with_edges(Settings()))
    assert {name: (one.port, one.admin) for name, one in layout.processes.items()} == {
        "ingest": (8081, 8070),
        "consume-0": (0, 8071),
        "consume-1": (0, 8072),
        "origin-0": (8090, 8073),
        "origin-1": (8091, 8074),
        "edge-0": (8100, 0),
        "edge-1": (8110, 0),
    }


def test_what_is_replaced_and_in_which_order() -> None:
    layout = Layout(with_edges(Settings(consumers=1, origins=1, edges=1)))
    assert layout.chosen("all") == ["ingest", "consume-0", "origin-0", "edge-0"]
    assert layout.chosen("edge") == layout.chosen("edge-0") == ["edge-0"]
    for what in ("haproxy", "nats-server", "edge-1"):
        with pytest.raises(Unusable, match=what):
            layout.chosen(what)


@pytest.fixture
def layout(folder: Path) -> Layout:
    return Layout(with_edges(platform_settings(folder, spare=2)))


@pytest.mark.parametrize("role", ["consume", "origin", "edge"])
def test_what_is_added_moves_nobody_and_takes_free_ports(layout: Layout, role: str) -> None:
    before = dict(layout.processes)
    assert [layout.add(role), layout.add(role)] == [f"{role}-2", f"{role}-3"]
    assert before.items() <= layout.processes.items()
    ports = [port for one in layout.processes.values() for port in (one.port, one.admin) if port]
    assert len(set(ports)) == len(ports)
    layout.remove(f"{role}-1")
    assert layout.numbers(role) == [0, 2, 3]
    assert layout.add(role) == f"{role}-1"  # a number that is free is given again


def test_a_port_that_is_taken_is_passed_over(layout: Layout) -> None:
    free = layout.processes[layout.add("origin")].port
    layout.remove("origin-2")
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", free))
        assert layout.processes[layout.add("origin")].port > free


def test_an_edge_whose_ports_are_taken_is_passed_over(layout: Layout) -> None:
    port = layout.processes["edge-1"].port + 10
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", port + 3))
        assert layout.add("edge") == "edge-3"
    assert layout.add("edge") == "edge-2"


def test_roles_are_given_the_edges_that_there_are(folder: Path) -> None:
    settings = with_edges(platform_settings(folder, spare=1))
    layout = Layout(settings)
    layout.add("edge")
    settings = with_edges(settings, 3)
    layout.remove("edge-0")
    layout.remove("consume-0")
    found = layout.counted(settings)
    assert (found.edges, found.consumers, found.origins) == (2, 1, 2)
    assert found.edge_sub == settings.edge_sub[1:]
    assert found.edge_http == settings.edge_http[1:]


def test_only_some_can_be_added_and_not_without_end() -> None:
    with pytest.raises(Unusable, match="ingest: only consume, origin, edge"):
        Layout(with_edges(Settings())).add("ingest")
    (port,) = free_ports(1)
    with pytest.raises(Unusable, match="as many as can be"):
        Layout(with_edges(Settings(consumers=64, admin_port=port))).add("consume")
