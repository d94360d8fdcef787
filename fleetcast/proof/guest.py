"""A virtual machine that runs nats-server on a disk of its own, and whose power can be cut.

Debian's kernel, and an initial file system made here: busybox, virtio modules, the same nats-server as everywhere, and the
configuration that the platform writes. The disk is `disk.VolatileDisk`; the server answers on a port of loopback. `make
setup-prove` gets what it needs; without /dev/kvm it is emulated, some ten times slower.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from fleetcast import natsserver
from fleetcast.errors import FleetcastError, Unusable
from fleetcast.proof.disk import BLOCK, VolatileDisk, serve
from fleetcast.settings import Settings

PARTS = Path(__file__).resolve().parents[2] / "build" / "guest"
_QEMU = "qemu-system-x86_64"
_MODULES = ("virtio_pci", "virtio_blk", "virtio_net")
_SYNC = "  sync_interval: always\n"
_SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

_INIT = """\
#!/bin/busybox sh
busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
for module in {modules}; do busybox insmod /modules/$module.ko; done
busybox ip link set lo up
busybox ip link set eth0 up
busybox ip addr add 10.0.2.15/24 dev eth0
if busybox mount -t ext4 /dev/vda /data; then
    /nats-server -c /nats.conf
else
    echo "the disk cannot be mounted"
fi
echo "nats-server has ended"
busybox poweroff -f
"""


def missing() -> str:
    """What a guest needs and is not here, on one line; empty if nothing is."""
    found = {
        "qemu": shutil.which(_QEMU),
        "mkfs.ext4": shutil.which("mkfs.ext4", path=_SBIN),
        "a kernel": (PARTS / "made").exists(),
    }
    return ", ".join(name for name, there in found.items() if not there)


def emulated() -> bool:
    """Whether there is no /dev/kvm that helps: one that is nested without the processor's help boots no common kernel."""
    helps = re.search(r"^flags.* (vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return helps is None or not os.access("/dev/kvm", os.R_OK | os.W_OK)


class Guest:
    """One machine with one disk: `boot` and `cut`, again and again. `folder` is for its files, and short."""

    def __init__(self, folder: Path, settings: Settings, *, synced: bool = True) -> None:
        """`synced`: with the platform's configuration; else with nats-server's own `sync_interval`."""
        if lacks := missing():
            raise Unusable(f"prove: the act `power` needs {lacks}: run `make setup-prove`")
        self._folder = folder
        _, self._port = natsserver.address(settings)
        text = natsserver.configuration(
            msgspec.structs.replace(settings, nats="nats://0.0.0.0:4222"), Path("/data/jetstream")
        )
        assert _SYNC in text
        self._image = folder / "initramfs"
        self._image.write_bytes(_initramfs(text if synced else text.replace(_SYNC, "")))
        medium = folder / "medium"
        with medium.open("wb") as file:
            file.truncate(4_000_000_000)  # sparse: it takes what is written
        subprocess.run(
            ["mkfs.ext4", "-q", "-F", "-b", "4096", str(medium)], check=True, env=os.environ | {"PATH": _SBIN}
        )
        self.disk = VolatileDisk(medium)
        self._server: asyncio.Server | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._console = folder / "console"

    async def __aenter__(self) -> Guest:
        self._server = await serve(self.disk, self._folder / "disk")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._kill()
        if self._server is not None:
            self._server.close()
        self.disk.close()

    async def boot(self) -> None:
        """Power on; the server answers some seconds later."""
        self._console.unlink(missing_ok=True)
        accelerator = ["-accel", "tcg", "-cpu", "max"] if emulated() else ["-accel", "kvm", "-cpu", "host"]
        size = f"logical_block_size={BLOCK},physical_block_size={BLOCK}"
        # setpriv: so that no machine is left behind by a proof that was killed itself
        with (self._folder / "qemu.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("setpriv", "--pdeathsig", "KILL", _QEMU, *accelerator, "-m", "768", "-smp", "1"),
                *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
                *("-kernel", str(PARTS / "kernel"), "-initrd", str(self._image)),
                *("-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on"),
                *("-chardev", f"file,id=console,path={self._console}", "-serial", "chardev:console"),
                *(
                    "-blockdev",
                    f"driver=nbd,node-name=disk,server.type=unix,server.path={self._folder / 'disk'}",
                ),
                *("-device", f"virtio-blk-pci,drive=disk,write-cache=on,{size}"),
                *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self._port}-:4222"),
                *("-device", "virtio-net-pci,netdev=net,romfile="),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
            )

    async def cut(self, dice: random.Random) -> None:
        """The power is gone, this instant: for the machine, and for the cache of its disk."""
        self.disk.cut(dice)
        await self._kill()

    @property
    def ready(self) -> bool:
        """Whether nats-server has said so since the boot. Before that a connection is taken, and nobody answers on it."""
        return self._console.exists() and b"Server is ready" in self._console.read_bytes()

    def check(self) -> None:
        """Raises FleetcastError if the machine has gone by itself."""
        if self._process is not None and self._process.returncode is not None:
            raise FleetcastError(f"the guest has ended: {self.said()}")

    def said(self) -> str:
        """Its last words, on one line."""
        texts = [
            path.read_text(errors="replace").strip().splitlines()[-3:]
            for path in (self._folder / "qemu.log", self._console)
            if path.exists()
        ]
        return "; ".join(line.strip() for lines in texts for line in lines) or "it said nothing"

    async def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


def _initramfs(configuration: str) -> bytes:
    """What the kernel unpacks and starts from: an archive of cpio's newc format."""
    modules = _in_order(_MODULES)
    files: dict[str, bytes | None] = dict.fromkeys(("bin", "dev", "proc", "sys", "data", "modules"))
    files["bin/busybox"] = (PARTS / "busybox").read_bytes()
    files["nats-server"] = (Path(sys.executable).parent / "nats-server").read_bytes()
    files["nats.conf"] = configuration.encode()
    files["init"] = _INIT.format(modules=" ".join(modules)).encode()
    files |= {f"modules/{name}.ko": data for name, data in modules.items()}
    return _archive(files)


def _archive(files: Mapping[str, bytes | None]) -> bytes:
    """None is a folder; all is executable, and root's."""
    parts = []
    for number, (name, data) in enumerate([*files.items(), ("TRAILER!!!", b"")], 1):
        mode = 0o040755 if data is None else 0o100755
        fields = (number, mode, 0, 0, 1, 0, len(data or b""), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        parts += [_padded(head), _padded(data or b"")]
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _in_order(names: tuple[str, ...]) -> dict[str, bytes]:
    """These modules and those that they need, which come first."""
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        data = (PARTS / "modules" / f"{name}.ko").read_bytes()
        needed = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in needed[1].decode().split(",") if needed else []:
            if other and other not in found:
                add(other)
        found.setdefault(name, data)

    for name in names:
        add(name)
    return found
