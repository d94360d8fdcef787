"""Exceptions, each named after the decision its catcher must take. Anything else that is raised is a bug."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class FleetcastError(Exception):
    """Any of ours; its text is one line for a person."""


class Unusable(FleetcastError):
    """Settings, arguments or this machine will not do: say the line, exit with status 2."""


class NotReady(Unusable):
    """A process did not become ready: of a platform that starts, the same; of one that runs, exit with status 1."""


class Refuse(FleetcastError):
    """A request that will not be served: answer `status` (4xx or 503) with this text and headers, store nothing.

    `retry_after`: the seconds after which the same request may be served; of a 503 one, if not said otherwise.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str = "",
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{title}: {detail}" if detail else title)
        self.status, self.title, self.detail, self.headers = status, title, detail, headers or {}
        self.retry_after = 1 if retry_after is None and status == 503 else retry_after


class Reject(FleetcastError):
    """A stored packet that can never be applied: put it into REJECTED with this reason, ack it, go on."""


class TooLarge(Reject):
    """The same, for its size: a caller who can still refuse it says 413."""


class Poisoned(FleetcastError):
    """Nearly everything would be rejected: stop consuming, say so, and leave the queue as it is."""


class Recover(FleetcastError):
    """What we hold of these partitions may be wrong: discard it, reload from the leader, reset the consumers."""

    def __init__(self, why: str, partitions: Iterable[int]) -> None:
        super().__init__(why)
        self.partitions = frozenset(partitions)


class Unavailable(FleetcastError):
    """Something we depend on does not answer now: tell the caller to try again."""
