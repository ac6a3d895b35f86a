"""Theme network: whether the guest finds its network again, and whether its memory gets there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from segue.core.connectivity import State, Way, data_host, is_ip, judge
from segue.core.model import Control, DriverKind, Transport
from segue.core.preflight.facts import Facts, Nic, Parts, Path, Plug, Unseen
from segue.core.preflight.findings import Finding, Seen, Severity

_GUESTS: Final = ("bridge-missing", "network-missing", "bridge-mtu", "bridge-vlan", "mac-taken")
_WAYS: Final = {Way.NAMES: "names", Way.DATA: "data-port", Way.MTU: "path-mtu", Way.SPEED: "link-speed"}
_GRAVITY: Final[Mapping[tuple[str, State], Severity]] = {
    ("names", State.BAD): Severity.BLOCKER,
    # A Debian host takes its own name for 127.0.1.1 from its installation on; Segue says to which address the memory goes.
    ("names", State.WARN): Severity.NOTE,
    ("data-port", State.BAD): Severity.BLOCKER,
    ("path-mtu", State.BAD): Severity.BLOCKER,
    ("path-mtu", State.WARN): Severity.WARNING,
    ("link-speed", State.WARN): Severity.WARNING,
}


def find(facts: Facts) -> Iterator[Finding]:
    """Everything about the network."""
    path, parts = facts.path, facts.parts
    if isinstance(path, Unseen):
        yield from unseen(path, (*_GUESTS, *_WAYS.values()))
        return
    yield from _ways(facts, path)
    if isinstance(parts, Unseen):
        yield from unseen(parts, _GUESTS)
        return
    for nic in parts.nics:
        yield from _plugged(facts, path, nic)
    yield from _macs(facts, path, parts)


def unseen(why: Unseen, codes: tuple[str, ...]) -> Iterator[Finding]:
    """That none of these could be checked."""
    for code in codes:
        yield why.unchecked(code)


def _ways(facts: Facts, path: Path) -> Iterator[Finding]:
    cells = {cell.way: cell for cell in judge(path.pair)}
    for way, code in _WAYS.items():
        if way is not Way.NAMES and facts.spec.transport is Transport.TUNNELLED:
            continue  # it goes through the connection of whoever controls it
        cell = cells[way]
        severity = _GRAVITY.get((code, cell.state))
        if way is Way.NAMES and severity is Severity.BLOCKER and not _goes_by_name(facts, path):
            severity = Severity.WARNING
        if cell.state is State.UNCHECKED:
            if way in (Way.MTU, Way.SPEED) and cells[Way.DATA].state is not State.OK:
                continue  # the port says it
            severity = Severity.UNCHECKED
        if severity is not None:
            evidence = (Seen(host=cell.source, what=f"to {cell.destination}: {cell.text}"),)
            yield Finding(code=code, severity=severity, sentence=cell.text, seen=evidence, fix=cell.fix)


def _goes_by_name(facts: Facts, path: Path) -> bool:
    """Whether a host has to look up the destination's name in this migration."""
    there = data_host(path.pair.there)
    return facts.spec.control is Control.P2P or not there or not is_ip(there)


def _named(facts: Facts, nic: Nic) -> str:
    """As --set calls it."""
    return nic.mac if facts.spec.driver is DriverKind.LIBVIRT else nic.name


def _plugged(facts: Facts, path: Path, nic: Nic) -> Iterator[Finding]:
    here, there, name = facts.source.host, facts.destination.host, facts.guest.name
    if nic.plug is Plug.NETWORK and nic.into:
        yield from _network(facts, path, nic)
        return
    if nic.plug is Plug.OTHER or not nic.into:
        return
    if nic.open_vswitch and nic.into not in path.there.links:
        what = f"{there} may have the Open vSwitch bridge {nic.into} or not: 'ovs-vsctl br-exists {nic.into}' there tells."
        yield Finding(code="bridge-missing", severity=Severity.UNCHECKED, sentence=what)
        return
    ours, theirs = path.here.links.get(nic.into), path.there.links.get(nic.into)
    if theirs is None:
        yield Finding(
            code="bridge-missing",
            severity=Severity.BLOCKER,
            sentence=f"{nic.name} of {name} is plugged into {nic.plug} {nic.into}, which {there} has not.",
            seen=(Seen(host=there, what=f"network devices {', '.join(sorted(path.there.links)) or 'none'}"),),
            fix=f"Make {nic.into} on {there}, or plug it into another one there: '--set nic.{_named(facts, nic)}=…'.",
        )
        return
    if ours is None:
        return
    evidence = tuple(
        Seen(host=host, what=f"{nic.into}: {_link(link.mtu, link.vlans)}") for host, link in ((here, ours), (there, theirs))
    )
    if ours.mtu != theirs.mtu:
        worse = "its large packets would be lost there" if theirs.mtu < ours.mtu else "a guest that uses more cannot come back"
        yield Finding(
            code="bridge-mtu",
            severity=Severity.WARNING,
            sentence=f"{nic.into} has an MTU of {ours.mtu} on {here} and of {theirs.mtu} on {there}: {worse}.",
            seen=evidence,
            fix=f"On {there}: ip link set {nic.into} mtu {ours.mtu}",
        )
    if ours.vlans != theirs.vlans:
        yield Finding(
            code="bridge-vlan",
            severity=Severity.WARNING,
            sentence=f"{nic.into} leads to other VLANs on {there} than on {here}: {name} may reach nobody there.",
            seen=evidence,
            fix=f"Plug the same VLAN into {nic.into} on both hosts ('bridge link', 'ip -d link').",
        )


def _link(mtu: int, vlans: frozenset[int]) -> str:
    return f"MTU {mtu}, VLAN {', '.join(map(str, sorted(vlans)))}" if vlans else f"MTU {mtu}, no VLAN"


def _network(facts: Facts, path: Path, nic: Nic) -> Iterator[Finding]:
    there = facts.destination.host
    if path.there.networks is None:
        what = f"The libvirt networks of {there} could not be listed ('virsh net-list' there)."
        yield Finding(code="network-missing", severity=Severity.UNCHECKED, sentence=what)
    elif nic.into not in path.there.networks:
        yield Finding(
            code="network-missing",
            severity=Severity.BLOCKER,
            sentence=f"{nic.name} of {facts.guest.name} is plugged into libvirt network {nic.into}, not active on {there}.",
            seen=(Seen(host=there, what=f"active networks {', '.join(sorted(path.there.networks)) or 'none'}"),),
            fix=f"On {there}: virsh net-start {nic.into} && virsh net-autostart {nic.into} (after 'virsh net-define')",
        )


def _macs(facts: Facts, path: Path, parts: Parts) -> Iterator[Finding]:
    for nic in parts.nics:
        if nic.mac and (pid := path.there.macs.get(nic.mac)):
            yield Finding(
                code="mac-taken",
                severity=Severity.BLOCKER,
                sentence=f"Another QEMU on {facts.destination.host} has the MAC address {nic.mac} of {facts.guest.name}.",
                seen=(Seen(host=facts.destination.host, what=f"{nic.mac} in the command line of pid {pid}"),),
                fix="Is it another copy of the same guest? Then find out which one is wanted. Else give that guest another MAC.",
            )
