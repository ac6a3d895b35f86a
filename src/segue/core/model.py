"""The nouns of a migration: frozen values that the engine, the drivers and the surfaces hand to each other.

What may live here: frozen, slotted, keyword-only dataclasses and closed string enums, with predicates about themselves.
No I/O, no clock, no decision: those who decide are `phases`, `ownership` and `convergence`.

Units are in the names: ``*_bytes``, ``*_bps`` (bytes per second), ``*_ms``. ``None`` means "not known", never zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from segue.core.downtime import Client, ProbeTarget, Switchover
from segue.core.mends import Mend
from segue.core.policy import Policy
from segue.core.storage import CopyWish
from segue.core.wishes import LibvirtWishes


class DriverKind(StrEnum):
    """Who runs the guest; it decides which driver speaks to the host."""

    QEMU = "qemu"
    LIBVIRT = "libvirt"
    SIMULATED = "simulated"


class Control(StrEnum):
    """The control path: who drives the migration (libvirt, docs/migration.rst, "Communication control paths/flows")."""

    DIRECT = "direct"
    """Managed direct (libvirt) or through both monitors (bare QEMU): Segue talks to both hosts."""
    P2P = "p2p"
    """Managed peer-to-peer: the source's libvirtd talks to the destination's; Segue watches."""
    UNMANAGED = "unmanaged"
    """Unmanaged direct: the hypervisors do it themselves, driven through their monitors. Of bare QEMU that is `DIRECT`; libvirt's
    QEMU driver has none."""


class Transport(StrEnum):
    """How the guest's memory travels (libvirt, docs/migration.rst, "Network data transports")."""

    NATIVE = "native"
    """QEMU to QEMU over TCP, in the clear."""
    TLS = "tls"
    """The same, encrypted; both prove by x509 certificates who they are."""
    TLS_PSK = "tls-psk"
    """The same, encrypted with a key that is made for this one migration. Bare QEMU only."""
    TUNNELLED = "tunnelled"
    """Through the connection of those who control it, so that no port has to be open: the daemons' (libvirt), ssh (bare QEMU)."""


class GuestState(StrEnum):
    """What a guest is doing, as far as moving it is concerned."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUT_OFF = "shut-off"
    MIGRATING_OUT = "migrating-out"
    MIGRATING_IN = "migrating-in"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAddress:
    """How to reach the hypervisor of one host with one driver: what segue.toml, or a bare URI, says about it.

    Attributes:
        name: for people: the name in segue.toml, or the URI.
        uri: the connection URI: libvirt's exactly as virsh takes it (``qemu+tcp://beta/system``), or for bare QEMU
            ``qmp:///`` (this host) and ``qmp+ssh://[user@]host[:port]/``.
        driver: which driver speaks that URI.
        migration_address: where migration data is sent, an IP address or a name; empty: the host in the URI.
        migration_ports: the first and the last port that may be listened on for it; ``None``: the hypervisor's own choice.
        link_bps: what the network that migrations take carries, in bytes per second on the wire; ``None``: not said.
        ssh_identity: path of the private key for ssh; empty: ssh's own choice.
        ssh_known_hosts: path of the known_hosts file; empty: the user's own.
    """

    name: str
    uri: str
    driver: DriverKind
    migration_address: str = ""
    migration_ports: tuple[int, int] | None = None
    link_bps: int | None = None
    ssh_identity: str = ""
    ssh_known_hosts: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestProcess:
    """The process of a guest that nobody manages.

    Attributes:
        pid: on its host.
        user: whom it runs as.
        directory: where it was started; empty where that cannot be read.
        monitor: the path of its QMP socket; empty without one.
    """

    pid: int
    user: str
    directory: str
    monitor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """One guest as one host sees it.

    Attributes:
        name: the name its host knows it by.
        uuid: its UUID in lower case, empty where the host knows none.
        host: the name of the host (or the URI where it has no name).
        driver: who runs it.
        state: what it is doing.
        memory_bytes: configured memory, ``None`` where it cannot be seen.
        persistent: its definition survives a shutdown (libvirt); bare QEMU processes are never persistent.
        obstacle: why Segue cannot move it, one sentence; empty when nothing is known to stand in the way.
        process: what runs it, of a bare QEMU; ``None`` of others.
    """

    name: str
    host: str
    driver: DriverKind
    state: GuestState
    uuid: str = ""
    memory_bytes: int | None = None
    persistent: bool = False
    obstacle: str = ""
    process: GuestProcess | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """One host as its hypervisor describes it; shown by ``segue hosts``.

    Attributes:
        host: the name from segue.toml, or the URI.
        driver: which driver answered.
        hypervisor: name and version in words ("QEMU 7.2.22", "libvirt 9.0.0, QEMU 7.2.22").
        identity: what tells this host from every other (libvirt host UUID, machine id or boot id and hostname);
            two addresses with one identity are one host.
    """

    host: str
    driver: DriverKind
    hypervisor: str
    identity: str


class OnMiss(StrEnum):
    """What is done when a promise cannot be kept: the deadline is there, or what may be sent has been sent."""

    ABORT = "abort"
    """The guest stays on the source."""
    SUSPEND = "suspend"
    """The guest stands still for as long as sending what is left takes, and moves."""
    POSTCOPY = "postcopy"
    """Post-copy, which nothing that the guest writes can hold up."""
    EXTEND = "extend"
    """Say so, and go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the operator promised to the guest's users, and what Segue may do to keep it.

    Attributes:
        max_downtime_ms: the guest may stand still this long at the switchover. QEMU's own default is 300 ms
            (migration/options.c, DEFAULT_MIGRATE_SET_DOWNTIME), and so is ours.
        bandwidth_bps: at most this many bytes per second for memory; ``None``: as fast as the path allows.
        postcopy: the guest may be switched to post-copy when pre-copy does not converge.
        prefer_postcopy: it is switched as soon as all its memory was sent once, converging or not.
        auto_converge: the guest's CPUs may be throttled when pre-copy does not converge.
        max_slowdown_percent: by so much of their time at the most; ``None``: as far as QEMU goes.
        within_ms: it is to be done within this time; ``None``: no deadline.
        max_bytes: no more than this is to go over the wire; ``None``: whatever it takes.
        on_miss: what is done when it is not done within that time, or that much.
    """

    max_downtime_ms: int = 300
    bandwidth_bps: int | None = None
    postcopy: bool = False
    prefer_postcopy: bool = False
    auto_converge: bool = True
    max_slowdown_percent: int | None = None
    within_ms: int | None = None
    max_bytes: int | None = None
    on_miss: OnMiss = OnMiss.ABORT

    def is_longer(self, wait_ms: float) -> bool:
        """Clients would wait for longer than was promised, by more than a fifth: that is announced."""
        return wait_ms * 5 > self.max_downtime_ms * 6


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationSpec:
    """What was asked for: one guest, from one host to another, with limits. The same spec twice is two migrations.

    Attributes:
        id: this attempt, never used twice.
        guest: name of the guest.
        source, destination: names of the hosts, for people.
        driver: who runs the guest.
        control, transport: the paths to take.
        connections: over so many connections at once memory is sent (QEMU: multifd); 1: one stream, as ever.
        persist: the destination is to keep the guest's definition; ``None``: where the source has one.
        undefine_source: the source is to forget it; ``None``: as `persist`.
        overrides: what is another on the destination, part and value: ``disk.ID`` and its file, ``nic.ID`` and its backend,
            ``vnc`` and where it listens.
        limits: what may be done to the guest.
        begins_with_ms: the downtime that is allowed from the start; ``None``: what was promised.
        deltas: of a page that was sent before only what has changed is to be sent, where that can be (`segue.core.deltas`).
        policy: the ladder that is climbed when it does not converge; ``None``: the one that Segue makes for it.
        observe_only: what would be done about convergence is told, and not done.
        disks: how those that are not shared are copied; ``None``: they are not, all must be shared.
        probe: whom to ask all the while, to see what its clients see; ``None``: nobody.
        libvirt: what only libvirt can be asked for.
        mends: what is changed beforehand so that it can be moved, because somebody asked for that; undone if it is not moved.
        stopped: a bare guest that somebody had stopped when it was asked for: nobody lets it run on the destination, either.
    """

    id: str
    guest: str
    source: str
    destination: str
    driver: DriverKind
    control: Control = Control.DIRECT
    transport: Transport = Transport.NATIVE
    connections: int = 1
    persist: bool | None = None
    undefine_source: bool | None = None
    overrides: tuple[tuple[str, str], ...] = ()
    limits: Limits = field(default_factory=Limits)
    begins_with_ms: int | None = None
    deltas: bool = False
    policy: Policy | None = None
    observe_only: bool = False
    disks: CopyWish | None = None
    probe: ProbeTarget | None = None
    libvirt: LibvirtWishes = field(default_factory=LibvirtWishes)
    mends: tuple[Mend, ...] = ()
    stopped: bool = False

    @property
    def first_downtime_ms(self) -> int:
        """The downtime that is allowed from the start."""
        return self.begins_with_ms or self.limits.max_downtime_ms

    @property
    def rests(self) -> str:
        """What a guest that moved does on the destination where it was not to run; empty where it runs."""
        return "is defined" if self.libvirt.offline else "stands still" if self.libvirt.suspend else ""

    @property
    def arrives_as(self) -> str:
        """The guest's name on the destination."""
        return self.libvirt.rename or self.guest

    def persists(self, *, defined: bool) -> bool:
        """Whether the destination is to keep the definition of a guest that the source has one of, or not."""
        return defined if self.persist is None else self.persist

    def undefines(self, *, defined: bool) -> bool:
        """Whether the source is to forget a definition that it has."""
        return defined and (self.persists(defined=defined) if self.undefine_source is None else self.undefine_source)


class JobStatus(StrEnum):
    """The hypervisor's own view of the migration, folded to what matters.

    QEMU's list (qapi/migration.json, MigrationStatus) grows with each release: whatever is not known is ``UNKNOWN``, which is
    waited on and never acted on.
    """

    NONE = "none"
    SETUP = "setup"
    ACTIVE = "active"
    SWITCHOVER = "switchover"
    POSTCOPY = "postcopy"
    POSTCOPY_PAUSED = "postcopy-paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @property
    def is_final(self) -> bool:
        """The hypervisor will not change it any more."""
        return self in (JobStatus.CANCELLED, JobStatus.COMPLETED, JobStatus.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One look at a migration in flight. Zero or ``None`` where the hypervisor has not said it yet.

    Attributes:
        elapsed_ms: since this attempt was begun, by Segue's monotonic clock.
        status: the hypervisor's view.
        raw_status: its own word, for logs.
        ram_total_bytes: the guest's memory as the hypervisor counts it.
        ram_remaining_bytes: still to be sent in this iteration; a saw-tooth: it rises when an iteration begins.
        sent_bytes: all bytes that went over the wire.
        throughput_bps: measured by the hypervisor.
        saved_bytes: what did not go over the wire, as only what had changed in a page was sent.
        saved_bps: the same a second, since the look before.
        dirty_bps: bytes of memory the guest changes per second, as of the last iteration.
        iteration: QEMU's dirty-sync-count.
        expected_downtime_ms: the hypervisor's own guess, ``None`` before it has one.
        downtime_ms: measured by the hypervisor, ``None`` before the switchover.
        throttle_percent: how much of the guest's CPU time auto-converge takes away.
        disk_total_bytes: of disks that are copied, as far as it is known; what the guest changes meanwhile is counted again.
        disk_copied_bytes: so many of them are on the destination.
    """

    elapsed_ms: int
    status: JobStatus
    raw_status: str = ""
    ram_total_bytes: int = 0
    ram_remaining_bytes: int = 0
    sent_bytes: int = 0
    throughput_bps: int = 0
    saved_bytes: int = 0
    saved_bps: int = 0
    dirty_bps: int = 0
    iteration: int = 0
    expected_downtime_ms: int | None = None
    downtime_ms: int | None = None
    throttle_percent: int = 0
    disk_total_bytes: int = 0
    disk_copied_bytes: int = 0

    def after(self, before: Progress) -> Progress:
        """The same, with what is known by the look before it."""
        ms, saved = self.elapsed_ms - before.elapsed_ms, self.saved_bytes - before.saved_bytes
        return replace(self, saved_bps=saved * 1000 // ms) if ms > 0 and saved > 0 else self

    @property
    def memory_bps(self) -> int:
        """Memory of the guest that gets over a second: more than goes over the wire, where only what changed is sent."""
        return self.throughput_bps + self.saved_bps

    @property
    def left_when_looked_bytes(self) -> int:
        """What was left when QEMU looked last, or now as far as nobody knows.

        Its guess is what it found then by what it has sent lately (migration/migration.c, update_counters), which is this very
        throughput. Before it knows how much is dirtied it guesses what is allowed.
        """
        if self.expected_downtime_ms is None or not self.dirty_bps:
            return self.ram_remaining_bytes
        return max(self.ram_remaining_bytes, self.expected_downtime_ms * self.throughput_bps // 1000)


class OutcomeKind(StrEnum):
    """How a migration ended; the exit codes of the command line follow from it."""

    MOVED = "moved"
    FAILED = "failed"
    CANCELLED = "cancelled"
    AMBIGUOUS = "ambiguous"
    REFUSED = "refused"


class Owner(StrEnum):
    """The one host on which the guest may run, as far as evidence proves it."""

    SOURCE = "source"
    DESTINATION = "destination"
    NOBODY = "nobody"
    """Both hosts were seen and neither has it: the guest died."""
    UNPROVEN = "unproven"
    """The evidence does not say; nothing may be started or stopped on the strength of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of one migration. Field order is the order of the ``--json`` object.

    Attributes:
        driver: ``None`` when it was refused before the guest was found.
        phase: the last phase that was reached before the end.
        owner: name of the host that runs the guest; empty when unproven or when the guest is gone.
        total_ms: from when the destination begins to be prepared to the proof; the looks before, at both hosts, are not in it.
            What lies between its being left unfinished and being taken up again is.
        downtime_ms: as the hypervisor reports it; ``None`` when it did not say or nothing moved.
        guest_lost_ms: what the guest's own clock lost; ``None``: not known, nobody in the guest said.
        client: what a client on the network saw; ``None``: nobody was asked to look.
        switchover: its parts, as far as they were heard.
        decisions: what was steered on the way and why, in order.
        error: one sentence, empty when moved.
        rests: it moved and does not run: it ``stands still`` or ``is defined`` there; empty where it runs.
        cause: which of the known causes (`segue.core.causes.Cause`); empty where no hypervisor said anything.
        hint: what to do about it.
        quotes: what both hypervisors said and wrote, unchanged.
    """

    id: str
    guest: str
    source: str
    destination: str
    driver: DriverKind | None
    control: Control
    transport: Transport
    outcome: OutcomeKind
    owner: str
    phase: str
    total_ms: int
    downtime_ms: int | None
    bytes_sent: int
    iterations: int
    decisions: tuple[str, ...] = ()
    error: str = ""
    guest_lost_ms: int | None = None
    client: Client | None = None
    switchover: Switchover | None = None
    rests: str = ""
    cause: str = ""
    hint: str = ""
    quotes: tuple[str, ...] = ()
