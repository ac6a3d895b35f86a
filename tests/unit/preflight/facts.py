"""Facts of a pair between which a guest can move, to be changed in one point."""

from __future__ import annotations

from segue.core.evidence import Evidence, Sighting
from segue.core.model import DriverKind, Guest, GuestState, HostFacts, MigrationSpec
from segue.core.preflight import judge
from segue.core.preflight.facts import Facts, Side, Standing
from segue.core.preflight.findings import Severity

HERE = HostFacts(host="alpha", driver=DriverKind.LIBVIRT, hypervisor="libvirt 9.0.0, QEMU 7.2.22", identity="a")
THERE = HostFacts(host="beta", driver=DriverKind.LIBVIRT, hypervisor="libvirt 9.0.0, QEMU 7.2.22", identity="b")
RUNNING = Standing(state=GuestState.RUNNING, raw="running")


def absent(sighting: Sighting = Sighting.ABSENT) -> Evidence:
    return Evidence(host="beta", sighting=sighting, seen_at_ms=0, raw="as seen")


CLEAN = Facts(
    spec=MigrationSpec(id="1", guest="web", source="alpha", destination="beta", driver=DriverKind.LIBVIRT),
    guest=Guest(name="web", host="alpha", driver=DriverKind.LIBVIRT, state=GuestState.RUNNING),
    source=Side(hypervisor=HERE),
    destination=Side(hypervisor=THERE, sighting=absent()),
    standing=RUNNING,
)


def said(facts: Facts) -> list[tuple[str, Severity]]:
    """What is found, in short."""
    return [(one.code, one.severity) for one in judge(facts)]
