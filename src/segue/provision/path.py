"""The way between two hosts as one migration needs it: the cheap part of `connectivity`, all of it at once.

One command looks at each host; a listener and a connection try the migration port; what this migration does not need is not
tried. What may live here: the trying. What it means is decided in `segue.core.preflight`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from segue.core.connectivity import Clock, HostSeen, Pair, Reply, Sent, Way, data_host, data_ports, is_ip, names_of
from segue.core.model import Control, DriverKind, HostAddress, MigrationSpec, Transport
from segue.core.preflight.facts import Ground, Link, Path
from segue.errors import PkiError
from segue.hosts import HostShell
from segue.hosts.shell import checked
from segue.provision import connectivity

LOOK_S: Final = 6.0

# $1: the address of the guest's data; $2: "libvirt", where its networks are to be listed; then names to look up.
_LOOK: Final = r"""
PATH=$PATH:/usr/sbin:/sbin
date -u '+date %s.%N'
echo "user $(id -un)"
read -r hostname </proc/sys/kernel/hostname
echo "hostname $hostname"
address=$1 libvirt=$2; shift 2
for name in "$hostname" "$@"; do
    echo "name $name $(getent ahosts "$name" 2>/dev/null | while read -r one _; do printf '%s ' "$one"; done)"
done
resolved=$(getent ahosts "$address" 2>/dev/null | { read -r one _; echo "$one"; })
address=${resolved:-$address}
device=$(ip -o addr show to "$address" 2>/dev/null | { read -r _ device _; echo "$device"; })
set -- $(ip -o route get "$address" 2>/dev/null) end end
while [ $# -gt 1 ]; do
    case $1 in dev) [ -n "$device" ] || device=$2 ;; src) echo "source $2" ;; esac
    shift
done
mtu() { read -r mtu <"/sys/class/net/$1/mtu" && printf '%s' "$mtu"; }
[ -z "$device" ] || echo "mtu $(mtu "$device")"
vlan() {
    while IFS=' |' read -r device number _; do [ "$device" != "$1" ] || printf ' %s' "$number"; done </proc/net/vlan/config
}
for link in /sys/class/net/*; do
    case ${link##*/} in lo | vnet* | tap*) continue ;; esac
    printf 'link %s ' "${link##*/}"; mtu "${link##*/}"
    if [ -r /proc/net/vlan/config ]; then
        for member in "$link"/brif/*; do [ ! -e "$member" ] || vlan "${member##*/}"; done
    fi
    echo
done
if [ -n "$libvirt" ] && networks=$(virsh -q -c qemu:///system net-list --name 2>/dev/null); then
    echo "networks $(echo "$networks" | tr '\n' ' ')"
fi
for line in $(grep -lsE 'qemu|kvm' /proc/[0-9]*/cmdline); do
    program=$(readlink "${line%cmdline}exe"); pid=${line#/proc/}
    case ${program##*/} in qemu-system-* | qemu-kvm* | kvm) ;; *) continue ;; esac
    tr '\0' '\n' <"$line" | grep -oiE 'mac(addr)?"?[=:]"?([0-9a-f]{2}:){5}[0-9a-f]{2}' | while read -r mac; do
        echo "mac ${pid%/*} $mac"
    done
done
grep -qsE '^[[:space:]]*keepalive_interval[[:space:]]*=[[:space:]]*-' /etc/libvirt/libvirtd.conf /etc/libvirt/virtqemud.conf &&
    echo 'keepalive off'
[ ! -r /proc/sys/vm/unprivileged_userfaultfd ] || echo "userfault $(cat /proc/sys/vm/unprivileged_userfaultfd)"
exit 0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """One host."""

    seen: HostSeen
    ground: Ground
    source_address: str


async def look(
    here: HostShell, there: HostShell, spec: MigrationSpec, addresses: tuple[HostAddress, ...], *, user: str = ""
) -> Path:
    """What is between two hosts, for one migration.

    Args:
        here: the source.
        there: the destination.
        spec: what was asked for.
        addresses: the destination's.
        user: whom a bare guest's QEMU runs as; empty: as whoever is logged in.

    Raises:
        HostUnreachable, AnswerNotSeen, CommandFailed: one of the hosts does not answer.
    """
    addresses = tuple(one for one in addresses if one.driver is spec.driver)
    address = data_host(addresses) or await there.address()
    sent: Sent | None
    source, destination, sent, p2p, sealed = await asyncio.gather(
        _end(here, address, addresses),
        _end(there, address, addresses, networks=spec.driver is DriverKind.LIBVIRT),
        _send(here, there, spec, addresses, address),
        _p2p(here, spec, addresses),
        _sealed(here, there, spec, addresses, user),
    )
    pair = Pair(
        source=source.seen,
        destination=destination.seen,
        there=addresses,
        tried={} if p2p is None else {Way.P2P: p2p},
        sent=sent,
        unsent="" if sent is not None else "no port is needed",
        source_address=source.source_address,
    )
    return Path(pair=pair, here=source.ground, there=destination.ground, sealed=sealed)


async def _send(
    here: HostShell, there: HostShell, spec: MigrationSpec, addresses: tuple[HostAddress, ...], address: str
) -> Sent | None:
    if spec.transport is Transport.TUNNELLED:
        return None
    return await connectivity.send(here, there, address, data_ports(addresses), measured=False)


async def _p2p(here: HostShell, spec: MigrationSpec, addresses: tuple[HostAddress, ...]) -> Reply | None:
    if spec.control is not Control.P2P:
        return None
    user = (await here.run(["id", "-un"], deadline_s=LOOK_S)).stdout.decode(errors="replace").strip()
    return await connectivity.as_the_daemon(here, HostSeen(host=here.name, user=user), addresses)


async def _sealed(
    here: HostShell, there: HostShell, spec: MigrationSpec, addresses: tuple[HostAddress, ...], user: str
) -> Reply | None:
    """A handshake with the certificates of both QEMUs, as both will make it."""
    if spec.transport is not Transport.TLS:
        return None
    from segue.core.pki import migration_ports  # what knows certificates is loaded where there are some
    from segue.provision.pki import handshake

    address = data_host(addresses) or await there.address()
    try:
        theirs, ours = await asyncio.gather(*(_qemu_user(shell, spec, user) for shell in (there, here)))
        bind = "::" if ":" in address else "0.0.0.0"  # noqa: S104  # where QEMU itself would listen
        async with handshake.listener(there, *theirs, bind=bind, ports=migration_ports(addresses)) as port:
            why = await handshake.with_qemu(here, *ours, address, port)
    except PkiError as error:
        return Reply(worked=False, said=error.message)
    return Reply(worked=not why, said=why)


async def _qemu_user(shell: HostShell, spec: MigrationSpec, user: str) -> tuple[str, str]:
    """Whom the guest's QEMU runs as on a host, and that user's group."""
    if spec.driver is DriverKind.LIBVIRT:
        from segue.provision.pki import onhost

        return await onhost.qemu_user(shell)
    argv = ["sh", "-c", 'user=${1:-$(id -un)}; echo "$user"; id -gn -- "$user"', "sh", user]
    name, group = checked(shell.name, argv, await shell.run(argv, deadline_s=LOOK_S)).stdout.decode().split("\n")[:2]
    return name, group


async def _end(shell: HostShell, address: str, addresses: tuple[HostAddress, ...], *, networks: bool = False) -> _End:
    """One host; its libvirt's networks only where a guest is to be plugged in, as virsh takes as long as all else."""
    argv = ["sh", "-c", _LOOK, "sh", address, "libvirt" if networks else "", *names_of(addresses)]
    before = time.time()
    done = checked(shell.name, argv, await shell.run(argv, deadline_s=LOOK_S))
    return read(shell.name, done.stdout.decode(errors="replace"), before_s=before, after_s=time.time())


def read(host: str, text: str, *, before_s: float, after_s: float) -> _End:
    """What the script printed.

    Args:
        host: its name.
        text: that.
        before_s: our clock before it was asked.
        after_s: our clock when all had come.
    """
    said: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        word, *rest = line.split() or [""]
        said.setdefault(word, []).append(rest)

    def one(word: str) -> str:
        return next((rest[0] for rest in said.get(word, ()) if rest), "")

    ahead_ms = round((float(one("date") or 0) - (before_s + after_s) / 2) * 1000)
    seen = HostSeen(
        host=host,
        hostname=one("hostname"),
        user=one("user"),
        clock=Clock(ahead_ms=ahead_ms, error_ms=round((after_s - before_s) * 500) + 1) if one("date") else None,
        addresses={rest[0]: tuple(sorted(set(rest[1:]))) for rest in said.get("name", ()) if rest},
        mtu=int(one("mtu") or 0),
    )
    ground = Ground(
        links={rest[0]: Link(mtu=int(rest[1]), vlans=frozenset(map(int, rest[2:]))) for rest in said.get("link", ())},
        networks=frozenset(said["networks"][0]) if "networks" in said else None,
        macs={rest[1][-17:].lower(): int(rest[0]) for rest in said.get("mac", ())},
        keepalive="keepalive" not in said,
        userfault=one("userfault") != "0" if one("userfault") else None,
    )
    source = one("source")
    return _End(seen=seen, ground=ground, source_address=source if is_ip(source) else "")
