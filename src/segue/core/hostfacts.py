"""A host that is made ready for guests: what it is like, and what it is to be.

What may live here: the nouns, and what things are called on a host. `segue.core.preparing` decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from segue.core.firewalls import Firewall
from segue.core.pki import LIBVIRT_TLS_PORT, MIGRATION_PORTS

PACKAGES: Final = (
    "libvirt-daemon-system",
    "libvirt-daemon-driver-qemu",
    "libvirt-clients",
    "qemu-system-x86",
    "qemu-utils",
    "qemu-block-extra",
    "netcat-openbsd",
)
"""Of Debian and Ubuntu: libvirt and QEMU, virsh and qemu-nbd for the probes, QEMU's NFS client, and nc for libvirt over ssh."""
NFS_CLIENT: Final = "nfs-common"
NFS_SERVER: Final = "nfs-kernel-server"
TIME_SERVICE: Final = "systemd-timesyncd"
"""The package and the unit, for hosts that have nothing of the kind."""
NFS_PORT: Final = 2049
"""All that NFS 4 needs (RFC 7530, section 3.1)."""
LIBVIRT_TCP_PORT: Final = 16509
QEMU_CONF: Final = "/etc/libvirt/qemu.conf"
LIBVIRTD_CONF: Final = "/etc/libvirt/libvirtd.conf"
VIRTPROXYD_CONF: Final = "/etc/libvirt/virtproxyd.conf"
HOSTS: Final = "/etc/hosts"
EXPORTS: Final = "/etc/exports.d/segue.exports"
UNIT_DIRECTORY: Final = "/etc/systemd/system"
DROP_IN: Final = {name: f"{UNIT_DIRECTORY}/{name}.service.d/segue.conf" for name in ("libvirtd", "virtproxyd")}
"""Files of Segue's own, beside each daemon's unit."""
READ_FILES: Final = (QEMU_CONF, LIBVIRTD_CONF, VIRTPROXYD_CONF, HOSTS, EXPORTS, *DROP_IN.values())
QEMU_PKI: Final = "/etc/pki/qemu"


class Init(StrEnum):
    """Who starts daemons on a host."""

    SYSTEMD = "systemd"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """The daemon that serves the network.

    Attributes:
        name: of its service.
        conf: its own file.
        restarted: the services that read the files anew, in the order of stopping.
    """

    name: str
    conf: str
    restarted: tuple[str, ...]


MONOLITHIC: Final = Daemon(name="libvirtd", conf=LIBVIRTD_CONF, restarted=("libvirtd.service",))
MODULAR: Final = Daemon(name="virtproxyd", conf=VIRTPROXYD_CONF, restarted=("virtproxyd.service", "virtqemud.service"))
UNITS: Final = tuple(
    f"{one.name}{suffix}" for one in (MONOLITHIC, MODULAR) for suffix in (".socket", "-tls.socket", "-tcp.socket", ".service")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A directory of guests' disks that another host exports, mounted at the same path everywhere."""

    server: str
    path: str

    def __str__(self) -> str:
        return f"{self.server}:{self.path}"

    @property
    def unit(self) -> str:
        """The name of its mount unit, as ``systemd-escape --path --suffix=mount`` makes it."""
        words = self.path.strip("/").replace("/", "\0")
        escaped = re.sub(r"[^A-Za-z0-9:_.\0]", lambda one: "".join(f"\\x{byte:02x}" for byte in one[0].encode()), words)
        return f"{escaped.replace(chr(0), '-')}.mount"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a host is to be.

    Attributes:
        tcp: also listen without TLS.
        insecure: without asking who connects.
        address: where its QEMU listens for guests, and what a source is told; empty: any.
        ports: the first and the last port for that.
        shares: mounted there.
        exports: directories that it exports to `peers`; it is then a server of disks, and no host of guests.
        peers: names and addresses of the other hosts of the fleet.
        names: what /etc/hosts must say where a name resolves to nothing, or to the host itself: name → address.
        firewall: open the ports; else they are only told.
        uuids: of the other hosts' firmware.
    """

    tcp: bool = False
    insecure: bool = False
    address: str = ""
    ports: tuple[int, int] = MIGRATION_PORTS
    shares: tuple[Share, ...] = ()
    exports: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    firewall: bool = False
    uuids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit of systemd as it is."""

    enabled: bool
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A host as it is.

    Attributes:
        host: its name.
        apt: it has Debian's packages.
        packages: those of the ones asked about that are installed.
        init: who starts daemons.
        units: of `UNITS`, those that there are.
        files: of `READ_FILES`, those that there are, by path.
        daemon_argv: of a libvirtd that runs without systemd.
        listening: TCP ports on which somebody listens.
        certificates: of the files that libvirt and QEMU need (`segue.core.pki.FILES`), those that there are.
        uuid: of its firmware, as 32 hexadecimal digits.
        resolved: what each name of the fleet resolves to there.
        mounts: what is mounted at the paths that were asked about.
        firewall: what filters there.
        container: it shares the clock of the machine that it runs on.
        time_service: a unit that keeps its clock in step; empty where none does.
    """

    host: str
    apt: bool = True
    packages: frozenset[str] = frozenset()
    init: Init = Init.SYSTEMD
    units: Mapping[str, Unit] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    daemon_argv: tuple[str, ...] = ()
    listening: frozenset[int] = frozenset()
    certificates: frozenset[str] = frozenset()
    uuid: str = ""
    resolved: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)
    firewall: Firewall = field(default_factory=Firewall)
    container: bool = False
    time_service: str = ""

    @property
    def daemon(self) -> Daemon:
        """Who serves the network there, or will: the modular daemons only where they are set up."""
        socket = self.units.get("virtproxyd.socket")
        return MODULAR if socket and (socket.enabled or socket.active) else MONOLITHIC

    @property
    def socket_activated(self) -> bool:
        """Whether systemd holds the daemon's sockets; where nothing is installed yet, it will."""
        socket = self.units.get(f"{self.daemon.name}.socket")
        return self.init is Init.SYSTEMD and (socket is None or socket.enabled or socket.active)


def ports_needed(wanted: Wanted) -> tuple[str, ...]:
    """What a firewall must let in from the other hosts, each a port or ``first-last``."""
    if wanted.exports:
        return (str(NFS_PORT),)
    ports = [str(LIBVIRT_TLS_PORT), f"{wanted.ports[0]}-{wanted.ports[1]}"]
    return tuple([*ports, str(LIBVIRT_TCP_PORT)] if wanted.tcp else ports)
