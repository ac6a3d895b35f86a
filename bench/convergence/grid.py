"""The cells: workloads times links, and who moves the guest in each of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

from segue import units
from segue.lab.guests import GuestSpec, memory_for

GUEST: Final = "mover"
PROMISED_MS: Final = 300
"""QEMU's own default downtime limit, and Segue's."""
GOODPUT: Final = 0.956
"""Of a link's rate what is left for TCP's payload: 1448 of 1514 bytes at an MTU of 1500 (RFC 1323 time stamps on)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the guest does. Sizes in MiB, rate in MiB/s or "max", bursts in ms on and off; `fill` is the guest's."""

    name: str
    touch: int
    writes: int = 0
    rate: str = "0"
    bursts: tuple[int, int] | None = None
    fill: Literal["random", "text", "whole"] = "random"

    def spec(self) -> GuestSpec:
        """The guest that does it."""
        most = max(self.touch, self.writes) * units.MIB
        return GuestSpec(
            name=GUEST,
            host="alpha",
            kind="libvirt",
            memory_bytes=memory_for(most) + 32 * units.MIB,
            touch_bytes=self.touch * units.MIB,
            set_bytes=self.writes * units.MIB,
            rate=self.rate,
            bursts=self.bursts,
            fill=self.fill,
        )

    def __str__(self) -> str:
        """In words."""
        if not self.writes:
            return f"{self.touch} MiB touched, idle"
        rate = "flat out" if self.rate == "max" else f"at {self.rate} MiB/s"
        bursts = f", {self.bursts[0] / 1000:g} s of every {sum(self.bursts) / 1000:g}" if self.bursts else ""
        kind = {"random": "", "text": ", compressible", "whole": ", whole pages"}[self.fill]
        return f"{self.touch} MiB touched, {self.writes} written {rate}{bursts}{kind}"


WORKLOADS: Final = {
    one.name: one
    for one in (
        Workload(name="idle", touch=128),
        Workload(name="idle-big", touch=320),
        Workload(name="idle-1g", touch=1024),
        Workload(name="idle-4g", touch=4096),
        Workload(name="quiet", touch=96, writes=8, rate="4"),
        Workload(name="steady-8", touch=96, writes=48, rate="8"),
        Workload(name="steady-16", touch=96, writes=48, rate="16"),
        Workload(name="steady-24", touch=96, writes=48, rate="24"),
        Workload(name="steady-30", touch=96, writes=48, rate="30"),
        Workload(name="steady-40", touch=96, writes=48, rate="40"),
        Workload(name="steady-60", touch=96, writes=48, rate="60"),
        Workload(name="steady-90", touch=96, writes=80, rate="90"),
        Workload(name="outrun-160", touch=128, writes=96, rate="160"),
        Workload(name="small-4", touch=96, writes=4, rate="max"),
        Workload(name="small-8", touch=96, writes=8, rate="max"),
        Workload(name="small-12", touch=96, writes=12, rate="max"),
        Workload(name="small-16", touch=96, writes=16, rate="max"),
        Workload(name="set-32", touch=96, writes=32, rate="max"),
        Workload(name="set-64", touch=96, writes=64, rate="max"),
        Workload(name="bursts", touch=96, writes=48, rate="100", bursts=(1000, 3000)),
        Workload(name="text-24", touch=96, writes=48, rate="24", fill="text"),
        Workload(name="whole-24", touch=96, writes=48, rate="24", fill="whole"),
        Workload(name="whole-60", touch=96, writes=48, rate="60", fill="whole"),
        Workload(name="whole-160", touch=128, writes=96, rate="160", fill="whole"),
    )
}
LINKS: Final[dict[str, int | None]] = {
    "300mbit": units.parse_rate("300mbit"),
    "1gbit": units.parse_rate("1gbit"),
    "unshaped": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One workload over one link."""

    workload: Workload
    link: str

    @property
    def name(self) -> str:
        """As in results."""
        return f"{self.workload.name}@{self.link}"

    @property
    def goodput_bps(self) -> float | None:
        """What the link carries for QEMU; ``None`` where nobody limits it."""
        rate_bps = LINKS[self.link]
        return rate_bps * GOODPUT if rate_bps else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Who moves the guest: `segue migrate` with options, or `virsh migrate` with its own."""

    name: str
    tool: str
    options: tuple[str, ...] = ()
    what: str

    @property
    def is_peer(self) -> bool:
        """Not Segue's own choice."""
        return not self.name.startswith("segue")


_PROMISE: Final = ("--max-downtime", f"{PROMISED_MS}ms")


def _ladder(name: str, what: str) -> Contender:
    return Contender(name=name, tool="segue", options=(*_PROMISE, "--policy", name), what=f"{what} (bench/ladders.toml)")


CONTENDERS: Final = {
    one.name: one
    for one in (
        Contender(name="segue", tool="segue", options=_PROMISE, what="Segue's own choice, post-copy not allowed"),
        Contender(name="segue-postcopy", tool="segue", options=(*_PROMISE, "--postcopy"), what="the same, post-copy allowed"),
        Contender(
            name="segue-postcopy-full",
            tool="segue",
            options=(*_PROMISE, "--postcopy", "--bandwidth", "10GiB/s"),
            what="the same, under a limit that limits nothing: nothing is held back for what the guest asks for",
        ),
        Contender(
            name="segue-multifd",
            tool="segue",
            options=(*_PROMISE, "--connections", "4"),
            what="Segue's own choice, 4 connections",
        ),
        Contender(name="virsh", tool="virsh", what="virsh migrate --live"),
        Contender(name="virsh-ac", tool="virsh", options=("--auto-converge",), what="… --auto-converge"),
        Contender(
            name="virsh-postcopy",
            tool="virsh",
            options=("--postcopy", "--postcopy-after-precopy"),
            what="… --postcopy --postcopy-after-precopy",
        ),
        Contender(
            name="virsh-xbzrle",
            tool="virsh",
            options=("--comp-methods", "xbzrle", "--comp-xbzrle-cache", str(256 * units.MIB)),
            what="… --comp-methods xbzrle, which Segue does by itself",
        ),
        _ladder("nova", "OpenStack Nova"),
        _ladder("ovirt-minimal", "oVirt, minimal downtime"),
        _ladder("ovirt-suspend", "oVirt, suspend workload if needed"),
        _ladder("ovirt-postcopy", "oVirt, post-copy"),
        _ladder("proxmox", "Proxmox VE"),
        _ladder("kubevirt", "KubeVirt"),
        _ladder("ganeti", "Ganeti"),
        _ladder("ganeti-postcopy", "Ganeti with post-copy"),
    )
}
QUICK_WORKLOADS: Final = ("idle", "steady-16", "steady-40")
QUICK_LINKS: Final = ("300mbit",)
QUICK_CONTENDERS: Final = ("segue", "segue-postcopy", "virsh", "virsh-ac", "virsh-postcopy")


def cells(workloads: tuple[str, ...], links: tuple[str, ...]) -> list[Cell]:
    """The chosen ones, in the order of playing: a guest is booted once for all of its links."""
    return [Cell(workload=WORKLOADS[workload], link=link) for workload, link in product(workloads, links)]
