"""What each host can reach of each other, judged: the cells of the connectivity matrix.

`Pair` is what was seen of one ordered pair of hosts; `judge` makes one cell of it for each way. A way that nothing in segue.toml
needs may fail without being wrong; one that could not be tried is never called fine.
What may live here: the nouns and the judging. Trying is `segue.provision.connectivity`'s.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import unquote, urlsplit

from segue import units
from segue.core import causes
from segue.core.causes import Scene
from segue.core.causes.codes import VIRSH
from segue.core.firewall import Packet, opening, passage
from segue.core.model import DriverKind, HostAddress
from segue.core.pki import MIGRATION_PORTS
from segue.errors import HypervisorError

CLOCK_WARN_MS: Final = 1_000
"""Hosts whose clocks somebody keeps are within some milliseconds (NTP over a LAN); a guest's own clock follows its host's."""
CLOCK_BAD_MS: Final = 60_000
"""A certificate that was just made does not hold yet on a host so far behind."""
SLOW_BPS: Final = 12_500_000
"""100 Mbit/s: at that rate a guest of 4 GiB takes six minutes at best, and one that writes more in a second never converges."""

ROUND_TRIPS: Final = 10
"""TCP doubles what it has under way with each of these, from ten packets on (RFC 6928): after ten it fills any link."""


class Way(StrEnum):
    """A column of the matrix."""

    SSH = "ssh"
    TCP = "tcp"
    TLS = "tls"
    P2P = "p2p"
    DATA = "data"
    NAMES = "names"
    CLOCK = "clock"
    VERSIONS = "versions"
    MTU = "mtu"
    SPEED = "speed"
    FIREWALL = "firewall"


class State(StrEnum):
    """How a cell stands."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"
    UNUSED = "unused"
    """It does not work, and nothing that is configured needs it."""
    UNCHECKED = "unchecked"
    """It could not be tried. That is never the same as fine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of trying something.

    Attributes:
        worked: ``None``: it could not be tried.
        said: why not, in the words of whoever tried it; where it worked, what it said.
    """

    worked: bool | None
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A connection to a migration port, and what was sent over it.

    Attributes:
        address, port: where to; an address is a name or an IP address.
        reply: whether it came to be.
        sent_bytes, took_ms: what was sent until it was acknowledged, and how long that took; 0: nothing was sent.
        rtt_ms: the shortest round trip that was seen.
        mtu: of the path, as the source's kernel knows it afterwards; 0: not known.
    """

    address: str
    port: int
    reply: Reply
    sent_bytes: int = 0
    took_ms: int = 0
    rtt_ms: int = 0
    mtu: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """How far a host's clock is ahead of ours, and by how much that may be wrong."""

    ahead_ms: int
    error_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSeen:
    """One host.

    Attributes:
        host: its name in segue.toml.
        hostname: what it calls itself.
        user: as whom it was looked at.
        clock: ``None``: not known.
        addresses: by name, what it takes that name for; nothing: it does not know it.
        libvirt, qemu: versions; empty: not there.
        rules: its packet filter's; ``None``: they may not be read, or nobody there could show them.
        keeper: who keeps the rules: ``ufw``, ``firewalld``, or empty.
        mtu: of the link to the other hosts; 0: not known.
    """

    host: str
    hostname: str = ""
    user: str = ""
    clock: Clock | None = None
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    libvirt: str = ""
    qemu: str = ""
    rules: str | None = None
    keeper: str = ""
    mtu: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What was seen of one ordered pair.

    Attributes:
        source, destination: both hosts.
        there: the destination's addresses in segue.toml.
        tried: by way, what came of it.
        sent: the migration port; ``None``: not tried, and `unsent` says why.
        unsent: why not.
        source_address: from where the source's packets come; empty: not known.
    """

    source: HostSeen
    destination: HostSeen
    there: tuple[HostAddress, ...]
    tried: Mapping[Way, Reply] = field(default_factory=dict)
    sent: Sent | None = None
    unsent: str = ""
    source_address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of the matrix.

    Attributes:
        source, destination, way: which.
        state: how it stands.
        text: what was seen, one sentence.
        fix: what to do; empty where there is nothing to do.
    """

    source: str
    destination: str
    way: Way
    state: State
    text: str
    fix: str = ""


_Found = tuple[State, str, str]
"""State, sentence, fix."""


def judge(pair: Pair) -> tuple[Cell, ...]:
    """A cell for each way, in their order."""
    return tuple(
        Cell(source=pair.source.host, destination=pair.destination.host, way=way, state=state, text=text, fix=fix)
        for way, (state, text, fix) in ((way, _JUDGES[way](pair)) for way in Way)
    )


# --- what is wanted of a host


def libvirt_address(addresses: tuple[HostAddress, ...]) -> HostAddress | None:
    """The address of its libvirt guests."""
    return next((one for one in addresses if one.driver is DriverKind.LIBVIRT), None)


def needs(addresses: tuple[HostAddress, ...], way: Way) -> bool:
    """Whether something that is configured goes this way to the host."""
    schemes = {urlsplit(one.uri).scheme for one in addresses}
    match way:
        case Way.SSH:
            return bool(schemes & {"qemu+ssh", "qemu+libssh", "qemu+libssh2"})
        case Way.TCP:
            return "qemu+tcp" in schemes
        case Way.TLS:
            return "qemu+tls" in schemes
        case _:
            return True


def data_ports(addresses: tuple[HostAddress, ...]) -> tuple[int, int] | None:
    """The range that a migration's port is taken from; ``None``: any that the kernel gives (bare QEMU)."""
    configured = next((one.migration_ports for one in addresses if one.migration_ports), None)
    return configured or (MIGRATION_PORTS if libvirt_address(addresses) else None)


def data_host(addresses: tuple[HostAddress, ...]) -> str:
    """Where a guest's memory is sent, as segue.toml says it; empty: it does not."""
    said = (one.migration_address or unquote(urlsplit(one.uri).hostname or "") for one in addresses)
    return next((one for one in said if one), "")


def names_of(addresses: tuple[HostAddress, ...]) -> tuple[str, ...]:
    """The names, not the IP addresses, by which the fleet calls a host."""
    said = (name for one in addresses for name in (unquote(urlsplit(one.uri).hostname or ""), one.migration_address))
    return tuple(dict.fromkeys(name for name in said if name and not is_ip(name)))


def is_ip(name: str) -> bool:
    """Whether it is an IP address already."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """127.0.0.0/8 or ::1."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


# --- the ways


def _asked(pair: Pair, way: Way) -> _Found:
    if way in (Way.TCP, Way.TLS) and libvirt_address(pair.there) is None:
        return State.UNUSED, f"{pair.destination.host} has no address for libvirt guests.", ""
    reply = pair.tried.get(way, Reply(worked=None, said="it was not tried"))
    if reply.worked:
        return State.OK, reply.said or "it answers", ""
    if reply.worked is None:
        return State.UNCHECKED, f"Could not be tried: {reply.said.rstrip('.')}.", ""
    there = pair.destination.host
    if not needs(pair.there, way):
        return State.UNUSED, f"Does not answer, and no address of {there} needs it: {reply.said.rstrip('.')}.", ""
    error = HypervisorError(f"{reply.said.rstrip('.')}.", host=there, raw=reply.said, number=VIRSH)
    told = causes.explain(error, (), Scene(guest="", here=pair.source.host, there=there))
    return State.BAD, told.sentence, told.fix


def _p2p(pair: Pair) -> _Found:
    address = libvirt_address(pair.there)
    if address is not None and not urlsplit(address.uri).hostname:
        what = f"{address.uri} is {pair.destination.host} only from itself, so no other host's daemon can go there."
        return State.UNUSED, what, ""
    return _asked(pair, Way.P2P)


def _data(pair: Pair) -> _Found:
    if pair.sent is None:
        return State.UNCHECKED, f"Could not be tried: {pair.unsent.rstrip('.')}.", ""
    where, reply, there = f"{pair.sent.address}:{pair.sent.port}", pair.sent.reply, pair.destination.host
    if reply.worked:
        return State.OK, f"{where} was opened and answered", ""
    if reply.worked is None:
        return State.UNCHECKED, f"{where} could not be tried: {reply.said.rstrip('.')}.", ""
    if not pair.sent.port:
        fix = f"Look who has them ('ss -ltnp' on {there}), or give a wider range: migration_ports in segue.toml."
        return State.BAD, f"None of {_range(pair)} of {there} is free: {reply.said.rstrip('.')}.", fix
    stopped = _stopped(pair)
    if stopped is not None:
        return State.BAD, f"No connection to {where}: {reply.said.rstrip('.')}; {there} has the rule '{stopped[0]}'.", stopped[1]
    fix = (
        f"Let {_range(pair)} through on {there} and on what stands between both; is {pair.sent.address} an address of {there} "
        f"('ip address' there)? Another one is set with migration_address in segue.toml."
    )
    return State.BAD, f"No connection to {where}: {reply.said.rstrip('.')}.", fix


def _range(pair: Pair) -> str:
    ports = data_ports(pair.there)
    return f"ports {ports[0]} to {ports[1]}" if ports else "the ports that the kernel gives"


def _stopped(pair: Pair) -> tuple[str, str] | None:
    """The rule of the destination that surely stops the migration port, and the command that opens it."""
    port = pair.sent.port if pair.sent is not None and pair.sent.port else (data_ports(pair.there) or (0, 0))[0]
    if not port or pair.destination.rules is None or not pair.source_address:
        return None
    found = passage(pair.destination.rules, Packet(source=pair.source_address, port=port))
    if found.passes is not False:
        return None
    ports = data_ports(pair.there) or (port, port)
    command = opening(pair.destination.keeper, pair.source_address, ports, found.chain)
    return found.rule, f"On {pair.destination.host}: {command}"


def _firewall(pair: Pair) -> _Found:
    there, ports = pair.destination, data_ports(pair.there)
    if there.rules is None:
        return State.UNCHECKED, f"The packet filter of {there.host} could not be read as {there.user or 'this user'}.", ""
    if not pair.source_address or ports is None:
        return State.OK if not there.rules.strip() else State.UNCHECKED, "there are no rules", ""
    worst: _Found = (State.OK, f"no rule of {there.host} stops ports {ports[0]} to {ports[1]}", "")
    for port in dict.fromkeys((ports[0], (ports[0] + ports[1]) // 2, ports[1])):
        found = passage(there.rules, Packet(source=pair.source_address, port=port))
        command = f"On {there.host}: {opening(there.keeper, pair.source_address, ports, found.chain)}"
        if found.passes is False:
            return State.BAD, f"{there.host} stops port {port} for {pair.source_address}: '{found.rule}'.", command
        if found.passes is None:
            what = f"{there.host} may stop port {port}: '{found.rule}' has a condition that is not understood here."
            worst = (State.UNCHECKED, what, "")
    return worst


def _names(pair: Pair) -> _Found:
    source, there = pair.source, pair.destination
    for name in names_of(pair.there):
        here = source.addresses.get(name, ())
        if not here:
            fix = f"Add {name} to DNS, or to /etc/hosts on {source.host}; or use IP addresses in segue.toml."
            state = State.WARN if _is_sshs(pair.there, name) else State.BAD
            return state, f"{source.host} does not know the name {name}.", fix
        if all(is_loopback(one) for one in here):
            return State.BAD, f"{source.host} takes {name} for itself ({', '.join(here)}).", _hosts_file(source.host, name)
    own = there.addresses.get(there.hostname, ())
    if own and all(is_loopback(one) for one in own):
        # Segue says where the memory is to go wherever it knows that; "virsh migrate" without a migration URI fails here.
        what = f"{there.host} takes its own name {there.hostname} for {', '.join(own)}: sent to that name, a guest goes nowhere."
        return (State.WARN if data_host(pair.there) else State.BAD), what, _hosts_file(there.host, there.hostname)
    for name in names_of(pair.there):
        ours, theirs = set(source.addresses.get(name, ())), set(there.addresses.get(name, ()))
        if theirs and not ours & {one for one in theirs if not is_loopback(one)}:
            what = f"{source.host} takes {name} for {_list(ours)}, {there.host} itself for {_list(theirs)}."
            return State.WARN, what, f"Let both resolve {name} alike (DNS, or the same line in /etc/hosts on both)."
    known = ", ".join(f"{name} is {_list(set(source.addresses.get(name, ())))}" for name in names_of(pair.there))
    return State.OK, known or "only IP addresses are used", ""


def _is_sshs(addresses: tuple[HostAddress, ...], name: str) -> bool:
    """Whether only ssh goes by that name: it may be an alias in somebody's ~/.ssh/config, which no resolver knows."""
    users = [one for one in addresses if unquote(urlsplit(one.uri).hostname or "") == name]
    by_ssh = all(urlsplit(one.uri).scheme.endswith("ssh") for one in users)
    return by_ssh and not any(one.migration_address == name for one in addresses)


def _hosts_file(host: str, name: str) -> str:
    return f"On {host}: remove {name} from the lines of 127.0.0.1 and 127.0.1.1 in /etc/hosts, and give it its address."


def _list(addresses: set[str]) -> str:
    return ", ".join(sorted(addresses)) or "nothing"


def _clock(pair: Pair) -> _Found:
    here, there = pair.source.clock, pair.destination.clock
    if here is None or there is None:
        return State.UNCHECKED, "A clock could not be read.", ""
    apart, error = there.ahead_ms - here.ahead_ms, there.error_ms + here.error_ms
    surely = max(0, abs(apart) - error)
    which = "ahead of" if apart > 0 else "behind"
    text = f"{pair.destination.host} is {units.format_duration_ms(abs(apart))} {which} {pair.source.host} (± {error} ms)"
    fix = "Let both follow the same time server: 'timedatectl set-ntp true' (systemd-timesyncd), or chrony."
    if surely > CLOCK_BAD_MS:
        return State.BAD, f"{text}; new certificates do not hold yet on the one that is behind.", fix
    if surely > CLOCK_WARN_MS:
        return State.WARN, f"{text}; the guest's clock may jump by as much.", fix
    return State.OK, f"within {max(abs(apart), error)} ms", ""


def _versions(pair: Pair) -> _Found:
    here, there = pair.source, pair.destination
    if not here.qemu or not there.qemu:
        silent = there.host if here.qemu else here.host
        return State.UNCHECKED, f"{silent} has no QEMU where it is looked for.", ""
    text = f"QEMU {here.qemu} → {there.qemu}" + (
        f", libvirt {here.libvirt} → {there.libvirt}" if here.libvirt and there.libvirt else ""
    )
    if _number(there.qemu) < _number(here.qemu):
        what = f"{text}: to an older QEMU. A guest goes there only with a machine type that both know, and QEMU promises nothing."
        return State.WARN, what, f"Upgrade {there.host}, or move to hosts with QEMU {here.qemu} or newer."
    return State.OK, text, ""


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _mtu(pair: Pair) -> _Found:
    here, there, sent = pair.source.mtu, pair.destination.mtu, pair.sent
    if sent is not None and sent.reply.worked and sent.sent_bytes == 0 and sent.reply.said:
        what = f"Small packets arrive at {pair.destination.host}, large ones do not: {sent.reply.said.rstrip('.')}."
        return State.BAD, what, "Give all links of the path the same MTU ('ip link'), or let ICMP 'fragmentation needed' through."
    if not here or not there:
        return State.UNCHECKED, "The MTU of a link could not be read.", ""
    if here != there:
        what = f"{pair.source.host} sends with an MTU of {here}, {pair.destination.host} has {there}."
        return State.WARN, what, "Give both links the same MTU ('ip link set DEVICE mtu …')."
    path = sent.mtu if sent is not None and sent.mtu else here
    if path < here:
        return (
            State.WARN,
            f"The path carries {path} bytes a packet, the links {here}.",
            "Look for a link with a smaller MTU between both.",
        )
    return State.OK, f"{path}", ""


def carried_bps(sent: Sent) -> tuple[int | None, str]:
    """What the way carried, in bytes per second; ``None`` and the reason where that was not to be seen."""
    if not sent.took_ms or not sent.sent_bytes:
        return None, (sent.reply.said or "no data was sent").rstrip(".")
    if sent.took_ms < sent.rtt_ms * ROUND_TRIPS:
        return None, f"the way takes {sent.rtt_ms} ms: in {sent.took_ms} ms a connection does not come up to speed there"
    return sent.sent_bytes * 1000 // sent.took_ms, ""


def _speed(pair: Pair) -> _Found:
    sent = pair.sent
    if sent is None:
        return State.UNCHECKED, f"Could not be measured: {(pair.unsent or 'no data was sent').rstrip('.')}.", ""
    bps, why = carried_bps(sent)
    if bps is None:
        return State.UNCHECKED, f"Could not be measured: {pair.unsent.rstrip('.') or why}.", ""
    text = f"{units.format_rate(bps)} in {sent.took_ms} ms"
    if bps < SLOW_BPS:
        return (
            State.WARN,
            f"{text}: a guest's memory takes long, and one that writes much never converges.",
            "Use a faster network for it: migration_address.",
        )
    return State.OK, text, ""


_JUDGES: Final[dict[Way, Callable[[Pair], _Found]]] = {
    Way.SSH: lambda pair: _asked(pair, Way.SSH),
    Way.TCP: lambda pair: _asked(pair, Way.TCP),
    Way.TLS: lambda pair: _asked(pair, Way.TLS),
    Way.P2P: _p2p,
    Way.DATA: _data,
    Way.NAMES: _names,
    Way.CLOCK: _clock,
    Way.VERSIONS: _versions,
    Way.MTU: _mtu,
    Way.SPEED: _speed,
    Way.FIREWALL: _firewall,
}
