"""Who may not see anything more, though a token says so: revocations of an app's user, or of one token.

A user's revocation is of the tokens issued up to then: whoever gets a new one afterwards is let in again. Users and tokens are
known by digests, which can stand in names of channels and subjects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec

USER: Literal["user"] = "user"
TOKEN: Literal["token"] = "token"  # noqa: S105 - a word


def digest(text: str) -> str:
    """What stands for a user or a token's id in channels and subjects: 20 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class Revocation(msgspec.Struct, frozen=True):
    """Of a `user` (a token's `sub`) or a `token` (its `jti`), at `at` and forgotten after `until`, in seconds since 1970."""

    kind: Literal["user", "token"]
    name: str
    at: float
    until: float

    @property
    def digest(self) -> str:
        """Of its name."""
        return digest(self.name)

    @property
    def key(self) -> str:
        """Of its entry: a later one of the same replaces it."""
        return f"{self.kind}.{self.digest}"


class Revoked:
    """The revocations that are known here."""

    def __init__(self) -> None:
        self._users: dict[str, Revocation] = {}
        self._tokens: dict[str, Revocation] = {}

    def take(self, entries: Iterable[Revocation], now: float) -> None:
        """Adds them, and forgets those that are over."""
        for one in entries:
            (self._users if one.kind == USER else self._tokens)[one.digest] = one
        for known in (self._users, self._tokens):
            for key in [key for key, one in known.items() if one.until <= now]:
                del known[key]

    def holds(self, user: str, token: str, issued: float) -> bool:
        """Whether a credential is revoked: the digests of its user and token (empty: none), when it was issued (0: unknown)."""
        if token and token in self._tokens:
            return True
        one = self._users.get(user)
        return one is not None and issued <= one.at
