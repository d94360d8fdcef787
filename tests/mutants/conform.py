"""Mutants that `fleetcast conform` must find from outside: those of the proof that break what an app sees, and some of
who may see what.

`python -m tests.mutants.conform [NAME …]` starts a platform from a copy of the tree with the bug and runs this tree's suite
against it: the check that is named must fail. Before that on a clean copy, where all must pass. Exit status 1 if a mutant
lived.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fleetcast.devpki import DevelopmentPki
from fleetcast.proof.ports import platform_settings, short_folder
from fleetcast.settings import Settings, dump
from tests.mutants.run import TREE, copied, mutate

WINDOW = 4.0
_BOUND = 120.0

MUTANTS = {
    "calm-keeps-oldest": "calm.buckets",
    "foreign-taken-for-ours": "reset.foreign",
    "gap-without-reset": "reset.expired",
    "many-versions-ignored": "many.back",
    "poll-answered-with-id-before": "polls.held",
    "polls-not-heard": "polls.held",
    "resume-off-by-one": "resume.header",
    "snapshot-held-behind": "stream.chain",
    "snapshot-with-id-before": "stream.ids",
    "ticket-not-narrowed": "tokens.anothers",
    "ticket-without-end": "tokens.ticket_goes_on",
    "update-without-times": "stream.patch",
    "view-not-filtered": "views.chain",
    "view-with-chain-of-all": "views.chain",
    "ws-resume-ignores-id": "websocket.resumes",
}
"""By name of the diff: the check that must find it."""

ONLY = {"ticket-not-narrowed", "ticket-without-end"}
"""Those that the proof cannot find: its phones show nothing."""


@contextmanager
def running(tree: Path) -> Iterator[Settings]:
    """A platform of this tree's code, ready."""
    with short_folder() as folder:
        keys = str(DevelopmentPki(folder / "dev-pki").app_keys)
        settings = platform_settings(
            folder / "d", keep_alive=1, window=WINDOW, app_keys=keys, ticket_seconds=2.0
        )
        (folder / "t.toml").write_text(dump(settings))
        log = folder / "up.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "fleetcast", "--config", str(folder / "t.toml"), "up"],
                cwd=tree,
                env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            deadline = time.monotonic() + _BOUND
            while "ready " not in log.read_text():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the platform did not start:\n{log.read_text()}")
                time.sleep(0.1)
            yield settings
        finally:
            process.terminate()
            process.wait(60)


def failed(settings: Settings) -> tuple[int, dict[str, str]]:
    """(exit status, what failed with what was seen) of this tree's suite."""
    front, ingest = (f"http://127.0.0.1:{port}" for port in (settings.front_port, settings.ingest_port))
    token = DevelopmentPki(Path(settings.app_keys).parent).app_token("conform", ["*"], 3600)
    given = (
        "--token",
        token,
        "--vehicle",
        "mutant",
        "--send",
        ingest,
        "--keep-alive",
        "1",
        "--window",
        str(WINDOW),
        "--within",
        "15",
    )
    done = subprocess.run(
        [sys.executable, "-m", "fleetcast", "conform", front, *given, "--json"],
        cwd=TREE,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if not done.stdout:
        raise SystemExit(f"conform ended with {done.returncode}:\n{done.stderr}")
    rows = json.loads(done.stdout)["checks"]
    return done.returncode, {row["check"]: row["seen"] for row in rows if row["verdict"] == "FAIL"}


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="tests.mutants.conform", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="these only")
    given = parser.parse_args()
    if unknown := set(given.names) - MUTANTS.keys():
        parser.error(f"no such mutants: {', '.join(sorted(unknown))}")
    bad: list[str] = []
    for name, check in {"": "", **MUTANTS}.items():
        if name and given.names and name not in given.names:
            continue
        began = time.monotonic()
        with copied() as tree:
            if name:
                mutate(tree, name)
            with running(tree) as settings:
                status, found = failed(settings)
        well = status == 1 and check in found if name else status == 0
        seen = f"{check}: {found.get(check)}" if name and well else found or "nothing failed"
        word = "caught" if name and well else "conforms" if well else "LIVES" if name else "DOES NOT CONFORM"
        print(f"{name or 'clean':<26} {word} ({time.monotonic() - began:.0f} s)  {seen}", flush=True)
        if not well:
            bad.append(name or "the clean tree")
    print("every mutant was caught" if not bad else f"NOT AS IT MUST BE: {'; '.join(bad)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
