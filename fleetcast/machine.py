"""What a platform needs of its machine: programs that are installed, open files, files that only we may read."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from pathlib import Path

from fleetcast import haproxy, pushpin
from fleetcast.errors import Unusable
from fleetcast.settings import Settings


def raise_files(settings: Settings) -> int:
    """Lets our processes open as many files as they need, or twice that, for edges that are added; returns HAProxy's maxconn.

    Raises Unusable if this machine does not allow what is needed.
    """
    needed = max(haproxy.files_needed(settings), pushpin.client_maxconn(settings) + 200)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Unusable(
            f"edge_connections: needs {needed} open files a process, and this machine allows {hard}"
        )
    wanted = 2 * needed if hard == resource.RLIM_INFINITY else min(2 * needed, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return haproxy.most_connections(settings, wanted)


def missing_programs() -> list[str]:
    """The programs that are not installed."""
    path = search_path()
    missing = [
        name for name in ("pushpin", "condure", "zurl", "haproxy") if shutil.which(name, path=path) is None
    ]
    return missing + ([] if Path(nats_server()).exists() or shutil.which(nats_server()) else ["nats-server"])


def search_path() -> str:
    """Where programs are looked for: HAProxy's folder is not on the path of an ordinary user."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def nats_server() -> str:
    """The one of our virtual environment, else the one on the path."""
    ours = Path(sys.executable).parent / "nats-server"
    return str(ours) if ours.exists() else "nats-server"


def write(path: Path, text: str) -> None:
    """Readable by us alone: configurations hold the signing key."""
    path.touch(mode=0o600, exist_ok=True)
    path.write_text(text)
