"""What is known before a migration: frozen facts of the guest, of both hosts and of the path between them.

Whoever gathers them puts `Unseen` where there is no answer, and a rule makes "could not check" of it. What may live here: nouns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from segue.core.connectivity import Pair, Reply
from segue.core.evidence import Evidence
from segue.core.files import Seen
from segue.core.forecast import Forecast
from segue.core.model import Guest, GuestState, MigrationSpec
from segue.core.preflight.findings import Finding, Severity
from segue.core.preflight.findings import Seen as Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """A fact that could not be learnt.

    Attributes:
        host: where it was looked for.
        why: one clause.
    """

    host: str
    why: str

    def unchecked(self, code: str) -> Finding:
        """That this could not be checked."""
        return Finding(code=code, severity=Severity.UNCHECKED, sentence=f"{self.host}: {self.why}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """Something that cannot be done, as whoever would have to do it says.

    Attributes:
        code: ``asked``, of what was asked for; ``unsupported``, whatever is asked for.
        sentence: one sentence.
        seen: the evidence.
        fix: what can be asked for instead.
    """

    sentence: str
    seen: Shown
    fix: str = ""
    code: str = "asked"


BUSY_S: Final = 0.1
"""How long it is watched for that: as long as the rest of a check takes, so that nobody waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the guest stands on the source, as its hypervisor tells.

    Attributes:
        state: what it is doing.
        raw: the hypervisor's own words for that.
        job: a job that is under way, in words; empty without one.
        snapshots, checkpoints: their names.
        managed_save: a saved state of it is kept, which a later start would resume.
        autostart: it starts with its host.
        io_errors: the disks at whose errors it was stopped, or that show errors.
        busy_percent: what it used of one CPU's time while it was looked at, `BUSY_S` long, or would have used, had others not had
            it; ``None``: nobody saw that.
    """

    state: GuestState
    raw: str = ""
    job: str = ""
    snapshots: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    managed_save: bool = False
    autostart: bool = False
    io_errors: tuple[str, ...] = ()
    busy_percent: int | None = None


class Kind(StrEnum):
    """A kind of device that has something to do with its host."""

    PCI = "PCI device"
    VF = "virtual function"
    MDEV = "mediated device"
    USB = "USB device"
    SCSI = "SCSI device"
    LUN = "SCSI disk that is passed through"
    SHMEM = "shared memory"
    VHOST_USER = "vhost-user device"
    VIRTIOFS = "virtiofs share"
    P9 = "9p share"
    VSOCK = "vsock"
    TPM = "TPM"
    TPM_HOST = "TPM of the host"
    VNC = "VNC server"
    SPICE = "SPICE server"
    CDROM = "CD-ROM drive"
    FLOPPY = "floppy drive"
    OUTPUT = "output file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A device of the guest that has something to do with its host.

    Attributes:
        kind: what it is.
        name: by which its driver knows it: the alias or target (libvirt), the id (bare QEMU).
        what: which one, for people: an address, a path.
        path: the file, socket or device of the host that it needs; empty without one.
        ports: that it listens on, where that was fixed.
        listens: the address that it listens on, where that was fixed.
        failover: the guest has a spare for it, and QEMU unplugs it by itself for a migration.
        password: it asks for one that only the running QEMU knows.
        valid_until: when its password expires, in UTC as ISO 8601 says it; empty: never, or it has none.
        expired: that time was past when it was looked at.
        read_only: what a drive holds is only read.
    """

    kind: Kind
    name: str
    what: str
    path: str = ""
    ports: tuple[int, ...] = ()
    listens: str = ""
    failover: bool = False
    password: bool = False
    valid_until: str = ""
    expired: bool = False
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPart:
    """A disk of the guest.

    Attributes:
        name: by which its driver knows it.
        path: its file or block device on the host; empty for one that QEMU reaches by network.
        url: what it is reached by, where that is a network.
        format: of the topmost image.
        direct: it goes around the host's page cache (cache none or directsync).
        read_only: for the guest.
        shared: more than one guest may write to it, by agreement.
        backing: the files below it, from the top.
        virtual_bytes: as the guest sees it; ``None`` where that is not known.
    """

    name: str
    path: str = ""
    url: str = ""
    format: str = "raw"
    direct: bool = True
    read_only: bool = False
    shared: bool = False
    backing: tuple[str, ...] = ()
    virtual_bytes: int | None = None


class Plug(StrEnum):
    """What of its host a NIC is plugged into."""

    BRIDGE = "bridge"
    NETWORK = "libvirt network"
    DEVICE = "network device"
    OTHER = "something else"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A NIC of the guest.

    Attributes:
        name: by which its driver knows it.
        plug: what it is plugged into.
        into: which one; empty where that has no name.
        mac: in lower case; empty where QEMU chose it.
        target: the host's end of it, by libvirt; empty without a name.
        open_vswitch: the bridge is one of Open vSwitch's, which the kernel does not list as a bridge.
    """

    name: str
    plug: Plug
    into: str = ""
    mac: str = ""
    target: str = ""
    open_vswitch: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The CPU that the guest sees.

    Attributes:
        model: its name.
        mode: ``custom``, ``host-passthrough``, ``host-model`` or ``maximum``.
        features: those that are on, by name, as far as the hypervisor lists them.
        xml: libvirt's description of it, as it is live; empty for bare QEMU.
        count: how many there are.
        pinned: the host's CPUs that it is bound to.
        tsc_fixed: the frequency of its TSC was fixed, so that every host keeps it.
    """

    model: str = ""
    mode: str = "custom"
    features: frozenset[str] = frozenset()
    xml: str = ""
    count: int = 1
    pinned: frozenset[int] = frozenset()
    tsc_fixed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The memory that the guest may take.

    Attributes:
        total_bytes: all of it.
        page_bytes: the size of huge pages it is made of; 0 for ordinary ones.
        nodes: NUMA nodes of the host that it must lie on; empty: any.
        locked: it may not be swapped out.
        limit_bytes: what its QEMU may take at most, by libvirt (memtune, hard_limit); 0: no limit was set.
    """

    total_bytes: int
    page_bytes: int = 0
    nodes: frozenset[int] = frozenset()
    locked: bool = False
    limit_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the guest is made of now, as far as its host matters.

    Attributes:
        machine: the versioned machine type.
        accelerator: ``kvm`` or ``tcg``.
        emulator: the program that runs it.
        qemu: version of the QEMU that runs it; empty where it is not known.
        devices: those that have something to do with the host.
        disks: all that are there.
        nics: all that are there.
        files: what else of the host it needs to start: kernel, initrd, firmware. They are only read.
        types: device types that somebody asked for; ``None`` where they are not known by QEMU's names.
        blocked: why QEMU says that it cannot be migrated; ``None`` where it cannot be asked without a trace.
        user: whom its QEMU runs as, as setpriv(1) takes it; empty: as whoever is logged in.
        directory: where its QEMU's relative paths begin.
        host_cpu: the model of the host's CPU, in words, with its microcode.
        capabilities: what its QEMU can do for a migration, by QEMU's names; ``None`` where it is not asked.
    """

    machine: str
    accelerator: str
    memory: Memory
    cpu: Cpu
    emulator: str = ""
    qemu: tuple[int, ...] = ()
    devices: tuple[Part, ...] = ()
    disks: tuple[DiskPart, ...] = ()
    nics: tuple[Nic, ...] = ()
    files: tuple[str, ...] = ()
    types: frozenset[str] | None = None
    blocked: tuple[str, ...] | None = None
    user: str = ""
    directory: str = "/"
    host_cpu: str = ""
    capabilities: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """The memory of a host.

    Attributes:
        available_bytes: could be had without swapping.
        swap_bytes: free swap.
        pages: free huge pages, by their size in bytes.
        nodes: free bytes on each NUMA node.
        lock_bytes: what a QEMU that Segue starts there may lock of its memory; ``None``: any amount, or nobody was asked.
    """

    available_bytes: int
    swap_bytes: int = 0
    pages: Mapping[int, int] = field(default_factory=dict)
    nodes: Mapping[int, int] = field(default_factory=dict)
    lock_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the destination's hypervisor can give to this guest.

    Attributes:
        qemu: the version of the QEMU that would run it.
        machines: machine types that it knows.
        accelerators: ``kvm``, ``tcg``: those that it may use.
        lacking: CPU features of the guest that it cannot give, by name; ``None`` where the comparison cannot be made.
        baseline: a CPU that both hosts can give, in the words of the driver; empty unless something is lacking.
        types: device types that it knows; ``None`` where it does not list them.
        memory: of its host.
        cpus: how many CPUs its host has.
        user: whom its QEMUs run as, as `Parts.user`.
        host_cpu, capabilities: as in `Parts`.
        trouble: why the emulator does not even start there; then nothing else is known. Empty when it does.
    """

    qemu: tuple[int, ...]
    machines: frozenset[str]
    accelerators: frozenset[str]
    memory: HostMemory | Unseen
    lacking: tuple[str, ...] | None = None
    baseline: str = ""
    types: frozenset[str] | None = None
    cpus: int = 0
    user: str = ""
    host_cpu: str = ""
    capabilities: frozenset[str] | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The files that the guest needs, as both hosts show them to the user that QEMU runs as.

    Attributes:
        here, there: by path; one that is not there is not in it.
        proven: of each file that is written: what was put beside it on the source was seen beside it on the destination, or
            not. Files where nothing could be put are not in it.
        used: files that another QEMU on the destination has on its command line, and its pid.
        locked: files on which a process of the destination holds a lock, and its pid; ``None``: whose may not be seen.
        free_bytes: room on the destination, by directory.
        listening: TCP ports that somebody listens on there.
        addresses: IP addresses that the destination has.
        declared: the source's libvirt was told of directories that it shall take for shared (qemu.conf, shared_filesystems), or
            that could not be read.
    """

    here: Mapping[str, Seen]
    there: Mapping[str, Seen]
    proven: Mapping[str, bool] = field(default_factory=dict)
    used: Mapping[str, int] = field(default_factory=dict)
    locked: Mapping[str, int | None] = field(default_factory=dict)
    free_bytes: Mapping[str, int] = field(default_factory=dict)
    listening: frozenset[int] = frozenset()
    addresses: frozenset[str] = frozenset()
    declared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network device of a host.

    Attributes:
        mtu: of it.
        vlans: the VLANs of the links that a bridge leads to; empty: none, or it is no bridge.
    """

    mtu: int
    vlans: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What guests find on a host.

    Attributes:
        links: its network devices, by name.
        networks: libvirt's active networks; ``None``: libvirt was not asked, or did not say.
        macs: MAC addresses of its QEMUs, and the pid of each.
        keepalive: its libvirt daemon notices by itself when a peer is gone.
        userfault: any QEMU of it may do post-copy (sysctl vm.unprivileged_userfaultfd), not only root's; ``None``: not known.
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    networks: frozenset[str] | None = None
    macs: Mapping[str, int] = field(default_factory=dict)
    keepalive: bool = True
    userfault: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """What was tried between both hosts, and what guests find at its ends.

    Attributes:
        pair: what was tried; ways that this migration does not go are not in it.
        here, there: the ends.
        sealed: whether both QEMUs take each other's certificates; ``None``: that is not needed.
    """

    pair: Pair
    here: Ground
    there: Ground
    sealed: Reply | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two hosts.

    Attributes:
        host: its name.
        identity: what tells it from every other.
        sighting: what it shows of the guest; ``None`` for the source, where the guest was found.
    """

    host: str
    identity: str
    sighting: Evidence | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that rules may look at.

    Attributes:
        spec: what was asked for.
        guest: as it was found on the source.
        source, destination: the hosts.
        objections: what cannot be done, by what was asked for and what both hypervisors can.
        standing: how the guest stands.
        parts: what it is made of.
        offer: what the destination can give to it.
        files: those that it needs, on both.
        path: the way between both hosts.
        expected: what a forecast says; ``None`` where it was not asked for one.
    """

    spec: MigrationSpec
    guest: Guest
    source: Side
    destination: Side
    standing: Standing | Unseen
    parts: Parts | Unseen
    offer: Offer | Unseen
    files: Files | Unseen
    path: Path | Unseen
    objections: tuple[Objection, ...] | Unseen = ()
    expected: Forecast | Unseen | None = None
