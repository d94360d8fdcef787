"""`fleetcast revoke`: an app's user, or one token, sees nothing more, and what it has open is closed."""

from __future__ import annotations

import argparse
from typing import Any

from fleetcast import jetstream
from fleetcast.clock import SystemClock, rfc3339
from fleetcast.errors import Unavailable, Unusable
from fleetcast.nats_revoked import everything, put
from fleetcast.revoked import TOKEN, USER, Revocation
from fleetcast.settings import Settings

_TEXT = """Closes every open stream of a user or of one token within two seconds, at every edge replica, and refuses its
credentials from then on. A user's tokens are revoked that were issued up to now: with a new one the user is let in again.
Kept for `revoked_seconds`, which no app token outlives."""


def add_commands(commands: Any) -> None:
    """Adds it to the parser."""
    sub = commands.add_parser("revoke", help="an app's user or token sees nothing more", description=_TEXT)
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "user", metavar="SUB", nargs="?", help="all tokens of this `sub` that were issued up to now"
    )
    which.add_argument("--token-id", metavar="JTI", help="the token with this `jti`")
    which.add_argument("--list", action="store_true", help="what is revoked")
    sub.set_defaults(run=run)


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """On disk when it returns. Raises Unusable or Unavailable."""
    name = arguments.user if arguments.token_id is None else arguments.token_id
    if not arguments.list and (not name or len(name) > 256):
        raise Unusable("revoke: a sub or jti is a text of 1 to 256 characters")
    connection = await jetstream.connect(settings, "fleetcast-revoke")
    try:
        if arguments.list:
            found, _ = await everything(connection)
            for one in sorted(found, key=lambda one: one.at):
                print(f"{one.kind} {one.name}   revoked {rfc3339(one.at)}   until {rfc3339(one.until)}")
            return 0
        now = SystemClock().now()
        kind = USER if arguments.token_id is None else TOKEN
        entry = Revocation(kind, name, now, now + settings.revoked_seconds)
        try:
            await put(connection, entry, SystemClock())
        except Unavailable as why:
            raise Unavailable(f"not revoked: {why}") from why
    finally:
        await connection.close()
    print(f"revoked: {kind} {name}")
    if not settings.app_keys:
        print("app_keys is not set here: if the platform has none either, everything is open all the same")
    return 0
