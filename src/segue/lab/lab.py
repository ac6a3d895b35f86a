"""The lab itself: bring it up, find it again, take it down, change its links.

`up` undoes itself when it fails or is interrupted; `down` works from the lab's name alone, whatever `up` had got to when it died.
What may live here: the order of things. Who does them is in `network`, `hosts` and `services`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from segue import units
from segue.errors import CommandFailed, LabError
from segue.lab import hosts as processes
from segue.lab import images, network, services
from segue.lab.layout import ADMIN, GREEK, STORAGE, Layout, address
from segue.lab.lock import locked
from segue.lab.shell import Completed, run

DEFAULT_NAME: Final = "segue"
NEEDED: Final = {
    "ip": "iproute2",
    "tc": "iproute2",
    "bridge": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "tini": "tini",
    "libvirtd": "libvirt-daemon-system",
    "qemu-system-x86_64": "qemu-system-x86",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "rpcbind": "rpcbind",
    "ganesha.nfsd": "nfs-ganesha",
}
"""Programs a lab cannot do without, and the Debian package of each."""
HOST_MEMORY_BYTES: Final = 160 * units.MIB
"""What one host's daemons take before any guest runs, rounded up (measured: 60 to 110 MiB)."""

COMM_LENGTH: Final = 15  # linux/sched.h, TASK_COMM_LEN without the zero at its end

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A lab that is up.

    Attributes:
        layout: its names and paths.
        hosts: the hosts that run guests, in order.
        pids: the init of every host, admin and storage included.
        storage: how hosts reach the export: ``kernel`` (mounted at the same path) or ``qemu-nfs`` (QEMU's own client).
        rates: the rate of each host's link in bytes per second; ``None``: unshaped.
        images: the hosts that are a tree of another release, and which.
    """

    layout: Layout
    hosts: tuple[str, ...]
    pids: Mapping[str, int]
    storage: str
    rates: Mapping[str, int | None] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def load(name: str | None = None) -> Lab:
        """Find a lab that is up.

        Args:
            name: its name; default: ``$SEGUE_LAB``, else ``segue``.

        Raises:
            LabError: it is not up, or not whole, or not ours.
        """
        layout = Layout(name=name or os.environ.get("SEGUE_LAB") or DEFAULT_NAME)
        try:
            state = json.loads(layout.state.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise LabError(f"The lab {layout.name!r} is not up.", hint="'segue lab up' brings it up.") from None
        except PermissionError:
            raise LabError(f"The lab {layout.name!r} belongs to root.", hint="Run it with sudo.") from None
        lab = Lab(**state | {"layout": layout, "hosts": tuple(state["hosts"])})
        alive = set(processes.members(processes.namespaces(layout)))
        if dead := [host for host, pid in lab.pids.items() if pid not in alive]:
            raise LabError(
                f"The lab {layout.name!r} is broken: {', '.join(dead)} died.", hint="'segue lab down', then 'segue lab up'."
            )
        return lab

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.layout.name

    @property
    def root(self) -> Path:
        """Everything of the lab that is a file."""
        return self.layout.root

    @property
    def export(self) -> Path:
        """The directory that storage exports, on this machine."""
        return self.layout.export

    def netns(self, host: str) -> str:
        """The name of a host's network namespace."""
        return self.layout.netns(host)

    def host_path(self, host: str, path: str) -> Path:
        """Where a path that a host sees lies on this machine, while the host runs."""
        if host in self.images:
            return Path(f"/proc/{self.pids[host]}/root{path}")
        return self.layout.host_path(host, path)

    def enter_argv(self, host: str, argv: Sequence[str]) -> list[str]:
        """Words that, executed, become the command inside the host.

        Raises:
            LabError: no such host.
        """
        if host not in self.pids:
            raise LabError(f"The lab {self.name!r} has no host {host!r}.", hint=f"It has {', '.join(self.pids)}.")
        if host in self.images:
            return processes.enter_tree_argv(self.pids[host], argv)
        return processes.enter_argv(self.pids[host], argv, environment=processes.environment(self.layout))

    async def run(
        self, host: str, argv: Sequence[str], *, deadline_s: float = 30.0, check: bool = True, stdin: str | None = None
    ) -> Completed:
        """Run a command inside a host and take what it prints.

        Raises:
            LabError: no such host, or not done by the deadline.
            CommandFailed: its status is not zero, and that was to be checked.
        """
        inside = self.enter_argv(host, [])
        return await run(argv, inside=inside, deadline_s=deadline_s, check=check, stdin=stdin, host=host)

    async def set_rate(self, host: str, rate_bps: int | None) -> None:
        """Give a host's link a rate, and remember it."""
        self._check_link(host)
        await network.shape(self.layout, host, rate_bps)
        _write(replace(self, rates={**self.rates, host: rate_bps}))

    async def cuts(self) -> set[str]:
        """The hosts whose link is cut now."""
        return await network.cuts(self.layout)

    def daemons(self, host: str) -> dict[str, bool]:
        """Whether each daemon that a host should have runs there now (that it answers is more: ask it)."""
        running = set(processes.programs(self.layout, host).values())
        wanted = images.DAEMONS if host in self.images else [Path(argv[0]).name for argv in services.daemons(host)]
        return {name: name[:COMM_LENGTH] in running for name in wanted}

    async def cut(self, host: str) -> None:
        """Let every packet from and to the host vanish."""
        self._check_link(host)
        await network.cut(self.layout, host)

    async def heal(self, host: str) -> None:
        """Undo `cut`."""
        self._check_link(host)
        await network.heal(self.layout, host)

    def _check_link(self, host: str) -> None:
        if host not in self.pids:
            raise LabError(f"The lab {self.name!r} has no host {host!r}.", hint=f"It has {', '.join(self.pids)}.")


async def up(
    *,
    name: str | None = None,
    hosts: int = 2,
    rate_bps: int | None = None,
    image: Sequence[str] = (),
    say: Say = lambda _: None,
) -> Lab:
    """Bring a lab up. When it fails or is interrupted, nothing of it is left.

    Args:
        name: of the lab; default: ``$SEGUE_LAB``, else ``segue``.
        hosts: how many hosts that run guests, 1 to 8.
        rate_bps: of every host's link; ``None``: as fast as the machine.
        image: the Debian releases that the hosts are, in turn; none: each is this machine again, with a libvirtd of its own.
        say: is told every step.

    Raises:
        LabError: with what is missing or in the way.
    """
    layout = Layout(name=name or os.environ.get("SEGUE_LAB") or DEFAULT_NAME)
    _check_machine(hosts)
    own = {host: image[number % len(image)] for number, host in enumerate(GREEK[:hosts])} if image else {}
    if own:
        images.check(image)
        for release in dict.fromkeys(own.values()):
            await images.build(release, say)
    async with locked(layout) as lock:
        if processes.namespaces(layout) or layout.root.exists():
            how = "is already up" if layout.state.exists() else "was left half-way"
            raise LabError(
                f"A lab named {layout.name!r} {how}.",
                hint="'segue lab down' removes it; 'segue lab up --name OTHER' makes another beside it.",
            )
        try:
            return await _build(layout, dict.fromkeys(GREEK[:hosts], rate_bps), own, say, lock)
        except BaseException as error:
            say("taking down what was made")
            await _to_the_end(_remove(layout))
            if isinstance(error, BaseExceptionGroup):  # several failed at once: the first is told
                raise error.exceptions[0] from None
            raise


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Do it whole, however often somebody asks to stop meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()


def _check_machine(hosts: int) -> None:
    if os.geteuid():
        raise LabError("A lab is made of network namespaces and mounts, which only root may make.", hint="Run it with sudo.")
    if not 1 <= hosts <= len(GREEK):
        raise LabError(f"A lab has 1 to {len(GREEK)} hosts, not {hosts}.")
    missing = {package for program, package in NEEDED.items() if not shutil.which(program, path=services.SBIN_PATH)}
    if missing:
        raise LabError(
            f"Programs are missing: {', '.join(sorted(missing))}.",
            hint=f"apt-get install {' '.join(sorted(missing))}, or './run setup'.",
        )
    available = _available_memory_bytes()
    if available < hosts * HOST_MEMORY_BYTES:
        raise LabError(
            f"{hosts} hosts need {units.format_bytes(hosts * HOST_MEMORY_BYTES)} of memory before any guest runs, "
            f"and {units.format_bytes(available)} is available.",
            hint="Use fewer hosts, or end something.",
        )


def _available_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * units.KIB
    return 0


async def _build(layout: Layout, rates: Mapping[str, int | None], own: Mapping[str, str], say: Say, lock: int) -> Lab:
    guest_hosts = tuple(rates)
    everyone = (ADMIN, STORAGE, *guest_hosts)
    say(f"network: {', '.join(everyone)} on one switch")
    layout.root.mkdir(mode=0o700)
    layout.export.mkdir()
    layout.export.chmod(0o1777)  # whoever QEMU runs as writes there
    async with asyncio.TaskGroup() as group:  # when one fails, the others have ended before anything is taken down
        group.create_task(services.make_keys(layout, everyone, lock=lock))
        group.create_task(_wire(layout, everyone, rates, lock))
    say("hosts: init, files, daemons")
    async with asyncio.TaskGroup() as group:
        started = {host: group.create_task(_start(layout, host, everyone, own.get(host, ""))) for host in everyone}
    pids = {host: task.result() for host, task in started.items()}
    lab = Lab(
        layout=layout,
        hosts=guest_hosts,
        pids=pids,
        storage="qemu-nfs" if own else await _mount_export(layout, [pids[host] for host in guest_hosts]),
        rates=rates,
        images=own,
    )
    layout.config.write_text(_config(layout, guest_hosts, own), encoding="utf-8")
    _write(lab)
    return lab


async def _wire(layout: Layout, everyone: Sequence[str], rates: Mapping[str, int | None], lock: int) -> None:
    await network.add_namespaces(layout, everyone, lock=lock)
    await network.wire(layout, everyone)
    for host, rate_bps in rates.items():
        if rate_bps:
            await network.shape(layout, host, rate_bps)


async def _start(layout: Layout, host: str, everyone: Sequence[str], image: str) -> int:
    if image:
        images.write_layer(layout, host, everyone)
        pid = await processes.boot(layout, host, partial(images.boot_argv, layout, host, image))
        await images.wait_booted(host, processes.enter_tree_argv(pid, []))
        return pid
    services.write_host(layout, host, everyone)  # in no thread: that would go on writing after a cancel
    pid = await processes.start(layout, host)
    enter = processes.enter_argv(pid, [])
    for argv in services.daemons(host):
        try:
            await run(argv, inside=enter, host=host)
        except CommandFailed as error:
            raise LabError(f"{argv[0]} does not start on {host}: {error.stderr.strip() or error.status}.") from error
    await services.wait_ready(layout, host, enter)
    return pid


async def _mount_export(layout: Layout, pids: Sequence[int]) -> str:
    """Mount the export at the same path on every host where the kernel can; the first refusal decides for all.

    Raises:
        LabError: neither the kernel nor QEMU has an NFS client (Ubuntu 22.04 builds QEMU without one).
    """
    for pid in pids:
        mount = [
            "mount",
            "-t",
            "nfs",
            "-o",
            "vers=3,proto=tcp,nolock,hard",
            f"{address(STORAGE)}:{layout.export}",
            str(layout.export),
        ]
        refused = await run(processes.enter_argv(pid, mount), check=False)
        if not refused.status:
            continue
        if " nfs" not in (await run(["qemu-img", "--help"])).stdout:
            raise LabError(
                f"Neither this kernel nor this QEMU has an NFS client: {refused.stderr.strip()}.",
                hint="Use a kernel with NFS (modprobe nfs), or a QEMU with its nfs driver (package qemu-block-extra).",
            )
        return "qemu-nfs"
    return "kernel"


def _config(layout: Layout, guest_hosts: Sequence[str], own: Mapping[str, str]) -> str:
    tables = (
        f"[hosts.{host}]\n"
        f'uris = ["qemu+{"ssh://root@" if host in own else "tcp://"}{host}/system", "qmp+ssh://root@{host}/"]\n'
        f'migration_address = "{address(host)}"\n'
        f'ssh_identity = "{layout.client_key}"\n'
        f'ssh_known_hosts = "{layout.known_hosts}"\n'
        for host in guest_hosts
    )
    return "\n".join(tables)


def _write(lab: Lab) -> None:
    state = {name: getattr(lab, name) for name in ("hosts", "pids", "storage", "rates", "images")}
    new = lab.layout.state.with_suffix(".new")
    new.write_text(json.dumps(state, indent=1), encoding="utf-8")
    new.replace(lab.layout.state)


async def down(name: str | None = None, *, say: Say = lambda _: None) -> bool:
    """Take a lab down: processes, namespaces, files. Harmless when there is none.

    Returns:
        Whether there was anything.

    Raises:
        LabError: not root, somebody else is at it, or a process does not die.
    """
    layout = Layout(name=name or os.environ.get("SEGUE_LAB") or DEFAULT_NAME)
    if os.geteuid():
        raise LabError("Only root may take a lab down.", hint="Run it with sudo.")
    async with locked(layout):
        there = bool(processes.namespaces(layout)) or layout.root.exists()
        if there:
            say(f"ending the processes of {layout.name!r}, removing its namespaces and files")
            await _to_the_end(_remove(layout))
    return there


async def _remove(layout: Layout) -> None:
    await processes.end(layout)
    await asyncio.to_thread(shutil.rmtree, layout.root, ignore_errors=True)
    if layout.root.exists():
        raise LabError(f"{layout.root} could not be removed.", hint="Look at what is in it, then remove it.")
