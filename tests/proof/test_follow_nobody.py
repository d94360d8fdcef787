"""The follower goes on through everything that happens to nats-server."""

from __future__ import annotations

from pathlib import Path

from fleetcast.jetstream import connect
from fleetcast.machine import nats_server
from fleetcast.proof.follow import Follower
from fleetcast.settings import Settings
from tests.servers import Server, tcp_answers


async def test_that_nobody_is_there_to_answer_is_no_update(folder: Path, settings: Settings) -> None:
    """nats-server's 503 names the subject of the question, where an update names its own: the follower ended at it.

    A cluster without a leader says so; here a nats-server without JetStream does.
    """
    port = int(settings.nats.rpartition(":")[2])
    (folder / "nats.conf").write_text(f'listen: "127.0.0.1:{port}"\n')
    command = [nats_server(), "-c", str(folder / "nats.conf")]
    server = Server("nats-server", command, folder / "nats.log", lambda: tcp_answers(port))
    await server.start()
    connection = await connect(settings, "test")
    try:
        seen: list[str] = []
        assert await Follower(connection, lambda vehicle, update, stored: seen.append(vehicle))._read() == 0
        assert not seen
    finally:
        await connection.close()
        await server.stop()
