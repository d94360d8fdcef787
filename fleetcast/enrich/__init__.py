"""Business logic, one file each: pure functions `(state, packet) -> state`, named in the setting `enrichers`.

The state given already holds the packet's signals. An enricher derives signals (`state.with_signals`) and may remember
things of its own (`state.remember`); what an older version of it remembered must be tolerated. If it raises, the packet goes
to REJECTED with the reason. Enrichers run only on packets newer than the state, in the order of the setting.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from fleetcast.errors import Unusable
from fleetcast.state import Named


def load(names: Iterable[str]) -> tuple[Named, ...]:
    """`module` (its `enrich`) or `module:function`, … -> the enrichers. Raises Unusable."""
    return tuple(_one(name) for name in names)


def _one(name: str) -> Named:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function or "enrich")
    except Exception as error:  # noqa: BLE001 - a plugin's module may raise anything when it is imported
        raise Unusable(f"enrichers: {name} cannot be loaded: {error}") from None
    if not callable(found):
        raise Unusable(f"enrichers: {name} is not a function")
    return Named(name, found)
