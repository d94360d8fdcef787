"""Mutants: deliberate bugs, each a diff beside this file, that `fleetcast prove` must find.

`python -m tests.mutants.run [NAME …]` copies the tree, and runs the proof on the clean copy: every promise must be kept. Then
on a copy with the bug, with the same seed and the same arguments: a promise must be broken, and the line says which
columns of the table show it. Exit status 1 if a mutant lived, or the clean tree did not.

A mutant that lives is either no bug (say so in CONTRIBUTING.md's list) or a gap of the proof.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fleetcast.proof.rows import BREACHES

HERE = Path(__file__).resolve().parent
TREE = HERE.parents[1]
_BOUND = 300.0  # seconds for one proof: one that cannot heal waits a minute for each fault


class Run(msgspec.Struct, frozen=True):
    """A proof: as small as shows the bug, since each costs its time twice."""

    only: tuple[str, ...] = ()
    faults: int = 1
    acts: str = "faults"
    seed: int = 1
    cars: int = 4
    phones: int = 8  # of a steady and a restless mood: the proof waits for no sleeper at its end
    rate: float = 60.0
    window: float = 60.0

    @property
    def arguments(self) -> list[str]:
        """Of `fleetcast prove`."""
        named = {
            "acts": self.acts,
            "seed": self.seed,
            "faults": self.faults,
            "cars": self.cars,
            "phones": self.phones,
            "rate": self.rate,
            "window": self.window,
        }
        return [
            *("--json", "--first"),
            *(part for name, value in named.items() for part in (f"--{name}", str(value))),
            *(part for one in self.only for part in ("--only", one)),
        ]


_CRASH = Run(("consume killed before commit",), 4)
_WIRE = Run(("consume to edge cut",), 3)
_BACK = Run(("all phones come back at once",), 3)
_ANEW = Run(("all phones begin anew",), 3)
_STORE = Run(("ingest to queue cut", "between store and 202", "a store's reply lost"), 3)
_STALL = Run(("consume stalled before commit",), 2, phones=24)
_POISON = Run(("consume stopped for seconds",), 4, cars=2, rate=100)
_SOCKETS = Run(_BACK.only, 2, phones=17, rate=200)
_SILENT = Run(("consume killed while all cars are silent",), 1)

MUTANTS = {
    "accept-before-store": _STORE,
    "ack-before-commit": _CRASH,
    "boot-ignored": Run(("consume stopped for seconds",), 5, cars=1, rate=80),
    "calm-a-bucket-late": Run(("clock of ingest",), 4, phones=17),
    "calm-keeps-oldest": _BACK,
    "calm-replay-off-by-one": _BACK,
    "calm-urgent-waits": Run(_BACK.only, 3, phones=26, rate=200),
    "clock-believed": _BACK,
    "commit-without-fence": _STALL,
    "edge-keeps-accounts": Run(_BACK.only, 18, cars=20, phones=100),
    "edge-without-chain": _WIRE,
    "foreign-taken-for-ours": Run(acts="restores"),
    "gap-without-reset": Run(("phones away",), 1, window=5),
    "held-after-recovery": Run(("a commit's reply lost",), 3),
    "incarnation-ignored": Run(acts="restores"),
    "many-next-forgets-one": Run(_WIRE.only, 3, phones=11),
    "many-versions-ignored": Run(_BACK.only, 2, phones=11),
    "memory-not-kept": _CRASH,
    "next-held-behind": _WIRE,
    "observed-ignored": _BACK,
    "poll-answered-with-id-before": _BACK,
    "poll-held-at-latest": Run(_BACK.only, 4, rate=200),  # an update must fall between two reads
    "poll-held-without-id": _WIRE,
    "polls-not-heard": _BACK,
    "publish-before-commit": _CRASH,
    "publish-though-refused": Run(("nats-server killed",), 4, rate=200),
    "publish-without-prev": Run(_WIRE.only, 2, phones=34),
    "put-without-id": _STORE,
    "redelivery-applied": Run(("consume killed after commit",), 3),
    "reject-after-commit": Run(("killed before reject",), 2, cars=2, rate=100),
    "reject-drops-neighbours": _POISON,
    "reject-nowhere": _POISON,
    "repeats-applied": Run(("packets sent again",), 2),
    "resume-off-by-one": _BACK,
    "snapshot-held-behind": _ANEW,
    "snapshot-with-id-before": Run(("all phones",), 6, cars=20, phones=60, rate=6),
    "status-back-not-said": _SILENT,
    "status-forgotten-by-next-owner": _SILENT,
    "status-not-of-views": _SILENT,
    "takeover-without-reset": _CRASH,
    "update-without-times": _BACK,
    "view-not-filtered": _BACK,
    "view-touched-not-kept": _BACK,
    "view-with-chain-of-all": _BACK,
    "window-too-short": _STALL,
    # Five cars: the socket on a rare view is the only one there. While its car sleeps it is level, if it resumed.
    "ws-not-heard": Run(_BACK.only, 4, cars=5, phones=17, rate=200),
    "ws-not-subscribed": _SOCKETS,
    "ws-resume-ignores-id": _SOCKETS,
}
"""By name of its diff: the proof that must find it. Equal ones are run once on the clean tree."""


class Found(msgspec.Struct):
    """What a proof came to: `broken` is column -> count, `notes` its sentences."""

    status: int
    seconds: float
    broken: dict[str, int]
    notes: list[str]

    @property
    def text(self) -> str:
        """For a person."""
        return ", ".join(f"{name} {count}" for name, count in self.broken.items()) or "nothing broken"


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the tree, with what is not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "fleetcast"],
        cwd=TREE,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    with tempfile.TemporaryDirectory(prefix="fleetcast-mutant-") as folder:
        for name in filter(None, listed.split("\0")):
            if (TREE / name).exists():
                there = Path(folder) / name
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(TREE / name, there)
        yield Path(folder)


def mutate(folder: Path, name: str) -> None:
    """Applies the bug. Raises SystemExit if it fits the code no more."""
    done = subprocess.run(
        ["git", "apply", str(HERE / f"{name}.diff")], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{name}.diff does not apply any more; make it anew:\n{done.stderr}")


def proof(folder: Path, run: Run) -> Found:
    """The proof in this copy. Raises SystemExit if it came to no end that says anything."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    asked = [sys.executable, "-c", "import fleetcast; print(fleetcast.__file__)"]
    where = subprocess.run(asked, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert Path(where.stdout).is_relative_to(folder), f"the copy is not what runs: {where.stdout}"
    began = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "fleetcast", "prove", *run.arguments],
            cwd=folder,
            env=environment,
            stdout=out,
            stderr=err,
        )
        try:
            process.wait(_BOUND)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"the proof did not end within {_BOUND:.0f} s") from None
        finally:
            if process.poll() is None:
                process.terminate()  # it ends what it started
                process.wait(60)
        out.seek(0)
        err.seek(0)
        said = out.read().decode()
        if process.returncode not in (0, 1) or not said:
            raise SystemExit(f"the proof ended with {process.returncode}:\n{err.read().decode()}")
    rows = msgspec.json.decode(said)["rows"]
    whole, notes = rows[-1], [note for row in rows for note in row["notes"]]
    broken = {name: whole[name] for name in BREACHES if whole[name]}
    return Found(process.returncode, time.monotonic() - began, broken, notes)


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="tests.mutants.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="these only")
    parser.add_argument("--times", type=int, default=1, help="how often each (%(default)s)")
    given = parser.parse_args()
    if unknown := set(given.names) - MUTANTS.keys():
        parser.error(f"no such mutants: {', '.join(sorted(unknown))}")
    bad: list[str] = []
    for _ in range(given.times):
        clean = set[Run]()
        for name, run in MUTANTS.items():
            if given.names and name not in given.names:
                continue
            if run not in clean:
                clean.add(run)
                with copied() as folder:
                    found = proof(folder, run)
                if found.status != 0:
                    bad.append(f"the clean tree, as for {name}")
                    print(f"the clean tree: {found.text}", *found.notes, sep="\n    ", flush=True)
                print(f"{'clean':<26} {found.text} ({found.seconds:.0f} s)", flush=True)
            with copied() as folder:
                mutate(folder, name)
                found = proof(folder, run)
            if found.status == 1 and found.broken:
                print(f"{name:<26} caught: {found.text} ({found.seconds:.0f} s)", flush=True)
                print(*(f"    {note}" for note in found.notes[:1]), flush=True)
            else:
                bad.append(name)
                print(f"{name:<26} LIVES ({found.seconds:.0f} s)", *found.notes, sep="\n    ", flush=True)
    print("every mutant was caught" if not bad else f"NOT AS IT MUST BE: {'; '.join(bad)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
