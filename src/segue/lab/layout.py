"""Where everything of a lab is: names, addresses, paths, and which host sees which of them where.

All of it follows from the lab's name, so that `down` needs no record of what `up` did. What may live here: pure functions and
constants.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from segue.errors import LabError

BASE: Final = Path("/var/lib/segue-lab")
NETNS_DIR: Final = Path("/run/netns")
GREEK: Final = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")
ADMIN: Final = "admin"
STORAGE: Final = "storage"
SWITCH: Final = "switch"
UPLINK: Final = "up0"
BRIDGE: Final = "br0"
PREFIX: Final = "10.77.0"
"""A private network that exists inside the lab's namespaces only."""
_NAME: Final = re.compile(r"[a-z][a-z0-9]{0,15}")

# What a host sees under these paths is its own; everything else is the machine's. They are mount points, so they must exist on
# every machine: nothing is ever created on it to mount over.
OWN_DIRECTORIES: Final = ("/etc", "/run", "/var/log", "/var/lib/libvirt", "/var/lib/nfs", "/var/cache/libvirt")
GUEST_LOGS: Final = "/var/log/segue-guests"
GUEST_RUN: Final = "/run/segue-guests"
HOST_STATE: Final = "/run/segue-state"
"""Where the Segue of a host writes down what it leads; that of the admin has a place of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The names and paths of one lab.

    Attributes:
        name: of the lab; lower-case letters and digits.
    """

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise LabError(f"{self.name!r} is no name for a lab.", hint="Use up to 16 lower-case letters and digits.")

    @property
    def root(self) -> Path:
        """Everything of the lab that is a file, and nothing else."""
        return BASE / self.name

    @property
    def lock(self) -> Path:
        """Held by whoever brings the lab up or takes it down."""
        return BASE / f"{self.name}.lock"

    @property
    def state(self) -> Path:
        """Written when the lab is up."""
        return self.root / "lab.json"

    @property
    def written(self) -> Path:
        """Where the lab's segue writes its migrations down."""
        return self.root / "written"

    @property
    def pki(self) -> Path:
        """Where the lab's segue keeps its CA."""
        return self.root / "pki"

    @property
    def config(self) -> Path:
        """The segue.toml of this lab."""
        return self.root / "segue.toml"

    @property
    def export(self) -> Path:
        """What storage exports, and where hosts mount it when their kernel can."""
        return self.root / "export"

    @property
    def client_key(self) -> Path:
        """The private key that opens every host of the lab."""
        return self.root / "ssh" / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The public keys of all hosts."""
        return self.root / "ssh" / "known_hosts"

    def netns(self, host: str) -> str:
        """The name of a host's network namespace, as ``ip netns list`` shows it."""
        return f"segue-{self.name}-{host}"

    @property
    def netns_prefix(self) -> str:
        """How the names of all its network namespaces begin; no other lab's do."""
        return f"segue-{self.name}-"

    def host_root(self, host: str) -> Path:
        """The directory that holds what is a host's own."""
        return self.root / "hosts" / host

    def host_path(self, host: str, path: str) -> Path:
        """Where a path that a host sees lies on this machine."""
        own = any(path == place or path.startswith(f"{place}/") for place in OWN_DIRECTORIES)
        return self.host_root(host) / path.lstrip("/") if own else Path(path)


def address(host: str) -> str:
    """The IPv4 address of a host of the lab."""
    if host in (ADMIN, STORAGE):
        return f"{PREFIX}.{2 if host == ADMIN else 3}"
    return f"{PREFIX}.{11 + GREEK.index(host)}"


def uplink_mac(host: str) -> str:
    """The MAC address of a host's uplink.

    A bridge takes the lowest of its ports' (net/bridge/br_if.c), and a guest's tap is fe:… of the guest's own, the same on each
    host (libvirt, virNetDevTapCreateInBridgePort). An uplink of a random address was above that in one lab of a hundred: both
    bridges had the tap's then, and the two hosts lost each other as soon as one waited for the other's guest.
    """
    return f"02:5e:60:00:00:{int(address(host).rpartition('.')[2]):02x}"
