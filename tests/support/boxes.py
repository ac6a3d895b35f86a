"""Two small hosts on this machine, without a lab: a process table, a network and one directory of their own; all else in common.

Enough for what QEMU is started with and what becomes of it; what a guest notices is the lab's business. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from segue.core.model import DriverKind, HostAddress
from segue.drivers.qemu.hypervisor import QemuHypervisor
from segue.hosts import LocalShell
from segue.hosts.shell import Completed

ADDRESSES = ("192.0.2.1", "192.0.2.2")
LONG_ADDRESSES = ("2001:db8::1", "2001:db8::2")
"""Of documentation (RFC 5737, RFC 3849), and inside the boxes only."""


class BoxShell(LocalShell):
    """A shell in a box."""

    def __init__(self, name: str, pid: int) -> None:
        super().__init__(name)
        self.pid = pid

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float) -> Completed:
        """As every shell."""
        return await super().run([*self.enter(), *argv], stdin=stdin, deadline_s=deadline_s)

    def enter(self) -> list[str]:
        """The words before a command that run it there."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--"]

    async def open_unix(self, path: str, *, deadline_s: float) -> socket.socket:
        """As every shell."""
        return await super().open_unix(f"/proc/{self.pid}/root{path}", deadline_s=deadline_s)


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Both hosts. `shared` is one directory on both, `private` another one on each.

    Attributes:
        root: of everything; short, for a socket's path has at most 107 bytes.
    """

    root: Path
    alpha: QemuHypervisor
    beta: QemuHypervisor

    @property
    def shared(self) -> Path:
        return self.root / "shared"

    @property
    def private(self) -> Path:
        return self.root / "private"

    def start(self, words: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
        """Start a QEMU on alpha; its monitor listens a moment later."""
        shell = self.alpha.shell
        assert isinstance(shell, BoxShell)
        full = [*shell.enter(), "sh", "-c", 'cd -- "$1"; PWD=$1; export PWD; shift; setsid "$@" >log 2>&1 </dev/null & ', "sh"]
        subprocess.run([*full, str(cwd or self.private), *words], check=True, env={**os.environ, **(env or {})}, timeout=10)


@contextlib.contextmanager
def boxes() -> Iterator[Boxes]:
    """Make both, and leave nothing."""
    root = Path(tempfile.mkdtemp(prefix="twin-", dir="/tmp"))  # short
    root.chmod(0o755)
    for name in ("shared", "private", "alpha", "beta"):
        (root / name).mkdir()
        (root / name).chmod(0o777)
    inits: list[subprocess.Popen[bytes]] = []
    try:
        shells = [_box(root, name, inits) for name in ("alpha", "beta")]
        _wire(shells[0], shells[1])
        hosts = [
            QemuHypervisor(HostAddress(name=shell.name, uri="qmp:///", driver=DriverKind.QEMU, migration_address=address), shell)
            for shell, address in zip(shells, ADDRESSES, strict=True)
        ]
        yield Boxes(root=root, alpha=hosts[0], beta=hosts[1])
    finally:
        for init in inits:
            init.kill()  # and with it all that runs in the box
            init.wait()
        shutil.rmtree(root)


def _wire(*shells: BoxShell) -> None:
    ends = [["netns", str(shell.pid), "type", "veth", "peer", "name", "eth0"] for shell in shells]
    subprocess.run(["ip", "link", "add", "eth0", *ends[0], "netns", str(shells[1].pid)], check=True, timeout=10)
    for shell, *addresses in zip(shells, ADDRESSES, LONG_ADDRESSES, strict=True):
        script = 'ip link set lo up && ip link set eth0 up && ip address add "$1/24" dev eth0 && '
        script += 'ip address add "$2/64" dev eth0 nodad'
        subprocess.run([*shell.enter(), "sh", "-c", script, "sh", *addresses], check=True, timeout=10)


def _box(root: Path, name: str, inits: list[subprocess.Popen[bytes]]) -> BoxShell:
    script = 'mount --bind "$1/$2" "$1/private" && echo up && exec tini -s -- sleep infinity'
    words = [
        "unshare",
        "--mount",
        "--pid",
        "--net",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        script,
        "sh",
        str(root),
        name,
    ]
    init = subprocess.Popen(words, stdout=subprocess.PIPE)
    inits.append(init)
    assert init.stdout is not None
    assert init.stdout.readline() == b"up\n"
    init.stdout.close()
    [pid] = Path(f"/proc/{init.pid}/task/{init.pid}/children").read_text().split()
    return BoxShell(name, int(pid))
