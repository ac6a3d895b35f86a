"""Every option of ``virsh migrate`` with its equal: how libvirt's call is built, and what an older libvirt lacks.

One row an option, in the order of ``virsh help migrate`` (libvirt 9.0 to 11.1; src: tools/virsh-domain.c, and the flags and typed
parameters VIR_MIGRATE_* of include/libvirt/libvirt-domain.h, which says since when each is there). The driver makes flags and
parameters of the rows and adds nothing of its own; docs/reference/virsh.md is written from them.

What may live here: the table, and what follows from it. It knows libvirt's names, and never imports libvirt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from segue import units
from segue.core.model import Control, HostAddress, MigrationSpec, Transport
from segue.core.storage import CopyStorage

Value = bool | int | str | tuple[str, ...] | None
"""Of a flag whether it is set, of a parameter what it is. ``None``, false and empty: not asked for. 0 is a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What one migrate call is made of.

    Attributes:
        spec: what was asked for.
        there: the destination's address.
        defined: the source has a definition of the guest.
        xml, persistent_xml: the definitions that the destination is to be given; empty: the guest's own.
        disks: the targets of the disks that are copied.
        remembers: so many bytes of what was sent, to send only what changes in it; 0: nothing.
    """

    spec: MigrationSpec
    there: HostAddress
    defined: bool = True
    xml: str = ""
    persistent_xml: str = ""
    disks: tuple[str, ...] = ()
    remembers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One option of virsh.

    Attributes:
        virsh: the option; empty where virsh has none for it.
        segue: what is typed instead.
        constant: libvirt's name for it; empty where virsh does it by itself.
        since: the libvirt that has it first.
        value: what a call gives it.
        note: what is different.
    """

    virsh: str
    segue: str
    constant: str = ""
    since: tuple[int, int] = (0, 0)
    value: Callable[[Call], Value] = lambda _: None
    note: str = ""

    @property
    def is_parameter(self) -> bool:
        """A typed parameter, not a flag."""
        return "_PARAM_" in self.constant


def _data_uri(call: Call) -> str:
    """Where memory is sent. Never left to libvirt, which would send to whatever name the destination believes it has."""
    spec, there = call.spec, call.there
    host = there.migration_address or urlsplit(there.uri).hostname
    if spec.libvirt.migration_uri or not host or spec.transport is Transport.TUNNELLED or spec.libvirt.offline:
        return spec.libvirt.migration_uri
    port = f":{there.migration_ports[0]}" if there.migration_ports else ""
    return f"tcp://{f'[{host}]' if ':' in host else host}{port}"


def _mib(bps: int | None) -> int | None:
    """In libvirt's unit for bandwidth, MiB/s; 0 would mean no limit."""
    return None if bps is None else max(1, -(-bps // units.MIB))


QEMU_INITIAL_PERCENT: Final = 20
"""QEMU's own (migration/options.c, cpu-throttle-initial)."""
INITIAL_PERCENT: Final = 45
STEP_PERCENT: Final = 15
"""Of Segue's own ladder, at first and each time after: 45, 60, 75, 90. QEMU takes two looks of a second or more for a step, and
libvirt cannot tell it another on the way. A small set that is written flat out takes 90: QEMU's own 20, 30, 40 … came to that
after 19 s. After 90 comes 99, with which clients wait for a second at a time: in steps of 30 that came within 10 s, for a guest,
too, that would have converged in 14 without any."""


def _throttles(call: Call) -> bool:
    """The flag is set that alone makes libvirt take words about auto-converge.

    Not where Segue goes over to post-copy as soon as pre-copy stalls: QEMU would slow the guest meanwhile, for nothing.
    """
    spec = call.spec
    asked = spec.libvirt.throttle_initial_percent or spec.libvirt.throttle_increment_percent
    goes_over = spec.limits.postcopy and spec.policy is None and not asked
    return spec.limits.auto_converge and not goes_over and not spec.libvirt.offline


def _throttle_initial(call: Call) -> int | None:
    """By how much auto-converge slows the guest at first.

    libvirt has no word for the most of it. Where no more than some slow-down was promised it goes there at once and creeps on, so
    that it is seen in time.
    """
    spec = call.spec
    if not _throttles(call):
        return None
    asked = spec.libvirt.throttle_initial_percent or (spec.policy.throttle_initial if spec.policy is not None else None)
    if (most := spec.limits.max_slowdown_percent) is not None:
        return min(asked or QEMU_INITIAL_PERCENT, most)
    return asked or (INITIAL_PERCENT if spec.policy is None else None)


def _throttle_increment(call: Call) -> int | None:
    spec = call.spec
    if not _throttles(call):
        return None
    if spec.limits.max_slowdown_percent is not None:
        return 1
    own = STEP_PERCENT if spec.policy is None else spec.policy.throttle_increment
    return spec.libvirt.throttle_increment_percent or own


def _copies(call: Call, how: CopyStorage) -> bool:
    return bool(call.disks) and call.spec.disks is not None and call.spec.disks.how is how


ROWS: Final = (
    Row(
        virsh="--live",
        segue="always, but with --offline",
        constant="VIR_MIGRATE_LIVE",
        value=lambda call: not call.spec.libvirt.offline,
    ),
    Row(
        virsh="--offline",
        segue="--offline",
        constant="VIR_MIGRATE_OFFLINE",
        since=(1, 0),
        value=lambda call: call.spec.libvirt.offline,
        note="a guest that runs is refused: virsh would move the definition away from under it",
    ),
    Row(
        virsh="--p2p",
        segue="--control p2p",
        constant="VIR_MIGRATE_PEER2PEER",
        value=lambda call: call.spec.control is Control.P2P,
    ),
    Row(
        virsh="--direct",
        segue="--control unmanaged",
        note="libvirt's QEMU driver has none and says so late; Segue says so before, and moves bare QEMUs in just this way",
    ),
    Row(
        virsh="--tunnelled",
        segue="--transport tunnelled",
        constant="VIR_MIGRATE_TUNNELLED",
        value=lambda call: call.spec.transport is Transport.TUNNELLED,
    ),
    Row(
        virsh="--persistent",
        segue="--persist / --no-persist",
        constant="VIR_MIGRATE_PERSIST_DEST",
        value=lambda call: call.spec.persists(defined=call.defined),
        note="by itself where the source has a definition; virsh leaves a transient guest unless it is asked",
    ),
    Row(
        virsh="--undefinesource",
        segue="--undefine-source / --keep-source",
        constant="VIR_MIGRATE_UNDEFINE_SOURCE",
        value=lambda call: call.spec.undefines(defined=call.defined),
        note="by itself where the destination keeps the definition",
    ),
    Row(
        virsh="--suspend",
        segue="--suspend",
        constant="VIR_MIGRATE_PAUSED",
        value=lambda call: call.spec.libvirt.suspend,
    ),
    Row(
        virsh="--copy-storage-all",
        segue="--copy-storage all",
        constant="VIR_MIGRATE_NON_SHARED_DISK",
        value=lambda call: _copies(call, CopyStorage.ALL),
        note="disks that both hosts see are left alone, and the files are made on the destination; virsh does neither",
    ),
    Row(
        virsh="--copy-storage-inc",
        segue="--copy-storage inc",
        constant="VIR_MIGRATE_NON_SHARED_INC",
        value=lambda call: _copies(call, CopyStorage.INC),
        note="the same",
    ),
    Row(
        virsh="--copy-storage-synchronous-writes",
        segue="--copy-storage-synchronous-writes",
        constant="VIR_MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES",
        since=(8, 0),
        value=lambda call: bool(call.disks) and call.spec.disks is not None and call.spec.disks.synchronous,
    ),
    Row(
        virsh="--change-protection",
        segue="--change-protection",
        constant="VIR_MIGRATE_CHANGE_PROTECTION",
        value=lambda call: call.spec.libvirt.change_protection,
    ),
    Row(
        virsh="--unsafe",
        segue="--unsafe",
        constant="VIR_MIGRATE_UNSAFE",
        value=lambda call: call.spec.libvirt.unsafe,
    ),
    Row(virsh="--verbose", segue="always on a terminal; --json for programs"),
    Row(
        virsh="--compressed",
        segue="--compressed",
        constant="VIR_MIGRATE_COMPRESSED",
        value=lambda call: call.spec.libvirt.compressed or bool(call.spec.libvirt.compression) or bool(call.remembers),
        note="--compression alone is enough",
    ),
    Row(
        virsh="--auto-converge",
        segue="--auto-converge / --no-auto-converge",
        constant="VIR_MIGRATE_AUTO_CONVERGE",
        value=_throttles,
        note="on where virsh has it off; not where post-copy is allowed and Segue's own ladder is climbed",
    ),
    Row(
        virsh="--rdma-pin-all",
        segue="--rdma-pin-all",
        constant="VIR_MIGRATE_RDMA_PIN_ALL",
        value=lambda call: call.spec.libvirt.rdma_pin_all,
    ),
    Row(
        virsh="--abort-on-error",
        segue="--abort-on-error",
        constant="VIR_MIGRATE_ABORT_ON_ERROR",
        value=lambda call: call.spec.libvirt.abort_on_error,
    ),
    Row(
        virsh="--postcopy",
        segue="--postcopy allowed",
        constant="VIR_MIGRATE_POSTCOPY",
        since=(1, 3),
        value=lambda call: call.spec.limits.postcopy,
        note="and it is gone over to when the guest does not converge; with virsh a person has to see that",
    ),
    Row(
        virsh="--postcopy-after-precopy",
        segue="--postcopy prefer",
        note="and by hand at any time: segue tune ID --postcopy-now",
    ),
    Row(
        virsh="--postcopy-resume",
        segue="by itself; segue recover",
        constant="VIR_MIGRATE_POSTCOPY_RESUME",
        since=(8, 5),
        note="a post-copy that lost its connection is connected again, with pauses that double",
    ),
    Row(
        virsh="--zerocopy",
        segue="--zero-copy",
        constant="VIR_MIGRATE_ZEROCOPY",
        since=(8, 5),
        value=lambda call: call.spec.libvirt.zero_copy,
    ),
    Row(
        virsh="--migrateuri",
        segue="--migration-address, --migration-ports, --migration-uri",
        constant="VIR_MIGRATE_PARAM_URI",
        value=_data_uri,
        note="never left to the name that the destination believes it has",
    ),
    Row(
        virsh="--graphicsuri",
        segue="--graphics-uri",
        constant="VIR_MIGRATE_PARAM_GRAPHICS_URI",
        value=lambda call: call.spec.libvirt.graphics_uri,
    ),
    Row(
        virsh="--listen-address",
        segue="--listen-address",
        constant="VIR_MIGRATE_PARAM_LISTEN_ADDRESS",
        value=lambda call: call.spec.libvirt.listen_address,
    ),
    Row(
        virsh="--dname",
        segue="--rename",
        constant="VIR_MIGRATE_PARAM_DEST_NAME",
        value=lambda call: call.spec.libvirt.rename,
    ),
    Row(virsh="--timeout", segue="--within", note="what is done then is --on-miss; without it the guest stays on the source"),
    Row(virsh="--timeout-suspend", segue="--within TIME --on-miss suspend"),
    Row(virsh="--timeout-postcopy", segue="--within TIME --on-miss postcopy"),
    Row(
        virsh="--xml",
        segue="--xml, --set",
        constant="VIR_MIGRATE_PARAM_DEST_XML",
        value=lambda call: call.xml,
        note="what would change the machine that the guest sees is refused before, part by part",
    ),
    Row(
        virsh="--migrate-disks",
        segue="--copy-disk",
        constant="VIR_MIGRATE_PARAM_MIGRATE_DISKS",
        value=lambda call: call.disks,
        note="without it those that are not shared",
    ),
    Row(
        virsh="--disks-port",
        segue="--disks-port",
        constant="VIR_MIGRATE_PARAM_DISKS_PORT",
        value=lambda call: (call.spec.disks.port or None) if call.disks and call.spec.disks else None,
    ),
    Row(
        virsh="--disks-uri",
        segue="--disks-uri",
        constant="VIR_MIGRATE_PARAM_DISKS_URI",
        since=(6, 8),
        value=lambda call: call.spec.libvirt.disks_uri,
    ),
    Row(
        virsh="--comp-methods",
        segue="--compression",
        constant="VIR_MIGRATE_PARAM_COMPRESSION",
        value=lambda call: ("xbzrle",) if call.remembers else call.spec.libvirt.compression,
    ),
    Row(
        virsh="--comp-mt-level",
        segue="--mt-level",
        constant="VIR_MIGRATE_PARAM_COMPRESSION_MT_LEVEL",
        value=lambda call: call.spec.libvirt.mt_level,
    ),
    Row(
        virsh="--comp-mt-threads",
        segue="--mt-threads",
        constant="VIR_MIGRATE_PARAM_COMPRESSION_MT_THREADS",
        value=lambda call: call.spec.libvirt.mt_threads,
    ),
    Row(
        virsh="--comp-mt-dthreads",
        segue="--mt-dthreads",
        constant="VIR_MIGRATE_PARAM_COMPRESSION_MT_DTHREADS",
        value=lambda call: call.spec.libvirt.mt_dthreads,
    ),
    Row(
        virsh="--comp-xbzrle-cache",
        segue="--xbzrle-cache",
        constant="VIR_MIGRATE_PARAM_COMPRESSION_XBZRLE_CACHE",
        value=lambda call: call.remembers or call.spec.libvirt.xbzrle_cache_bytes,
    ),
    Row(
        virsh="--auto-converge-initial",
        segue="--throttle-initial",
        constant="VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL",
        since=(2, 0),
        note=f"{INITIAL_PERCENT} by Segue's own ladder; QEMU's own is 20",
        value=_throttle_initial,
    ),
    Row(
        virsh="--auto-converge-increment",
        segue="--throttle-increment",
        constant="VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT",
        since=(2, 0),
        note=f"{STEP_PERCENT} by Segue's own ladder; QEMU's own is 10",
        value=_throttle_increment,
    ),
    Row(
        virsh="--persistent-xml",
        segue="--persistent-xml, --set",
        constant="VIR_MIGRATE_PARAM_PERSIST_XML",
        value=lambda call: call.persistent_xml,
    ),
    Row(
        virsh="--tls",
        segue="--transport tls",
        constant="VIR_MIGRATE_TLS",
        since=(3, 2),
        value=lambda call: call.spec.transport is Transport.TLS,
    ),
    Row(
        virsh="--postcopy-bandwidth",
        segue="--postcopy-bandwidth",
        constant="VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY",
        since=(5, 1),
        value=lambda call: _mib(call.spec.libvirt.postcopy_bandwidth_bps),
    ),
    Row(
        virsh="--parallel",
        segue="--connections, more than one",
        constant="VIR_MIGRATE_PARALLEL",
        since=(5, 2),
        value=lambda call: call.spec.connections > 1,
    ),
    Row(
        virsh="--parallel-connections",
        segue="--connections",
        constant="VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS",
        since=(5, 2),
        value=lambda call: call.spec.connections if call.spec.connections > 1 else None,
    ),
    Row(
        virsh="--bandwidth",
        segue="--bandwidth",
        constant="VIR_MIGRATE_PARAM_BANDWIDTH",
        value=lambda call: _mib(call.spec.limits.bandwidth_bps),
        note="with its unit; virsh counts in MiB/s",
    ),
    Row(
        virsh="--tls-destination",
        segue="--tls-destination",
        constant="VIR_MIGRATE_PARAM_TLS_DESTINATION",
        since=(6, 0),
        value=lambda call: call.spec.libvirt.tls_destination,
    ),
    # Newer than libvirt 9.0.
    Row(
        virsh="--comp-zlib-level",
        segue="--zlib-level",
        constant="VIR_MIGRATE_PARAM_COMPRESSION_ZLIB_LEVEL",
        since=(9, 4),
        value=lambda call: call.spec.libvirt.zlib_level,
    ),
    Row(
        virsh="--comp-zstd-level",
        segue="--zstd-level",
        constant="VIR_MIGRATE_PARAM_COMPRESSION_ZSTD_LEVEL",
        since=(9, 4),
        value=lambda call: call.spec.libvirt.zstd_level,
    ),
    Row(
        virsh="--migrate-disks-detect-zeroes",
        segue="--detect-zeroes",
        constant="VIR_MIGRATE_PARAM_MIGRATE_DISKS_DETECT_ZEROES",
        since=(10, 9),
        value=lambda call: call.spec.libvirt.detect_zeroes,
    ),
    Row(
        virsh="--available-switchover-bandwidth",
        segue="--switchover-bandwidth",
        constant="VIR_MIGRATE_PARAM_BANDWIDTH_AVAIL_SWITCHOVER",
        since=(11, 1),
        value=lambda call: _mib(call.spec.libvirt.switchover_bandwidth_bps),
    ),
)

METHODS: Final = {"zlib": (9, 4), "zstd": (9, 4)}
"""Methods of compression that are younger than the parameter which names them."""
ALSO: Final = (("--domain", "the first argument"), ("--desturi", "the second argument, a name of segue.toml or a URI"))
"""What virsh takes without a name."""


def wanted(call: Call) -> Iterable[tuple[Row, Value]]:
    """The rows that a call asks for, with their values."""
    for row in ROWS:
        value = row.value(call)
        if row.constant and value is not None and value is not False and value not in ("", ()):
            yield row, value


def lacking(call: Call, versions: Mapping[str, int]) -> tuple[str, ...]:
    """What of a call one of the libvirts does not know, each in words; empty when all know all of it.

    Args:
        call: what is asked for.
        versions: of each libvirt that has to know it, by its name for people, in libvirt's own count (9004000 is 9.4.0).
    """
    needs = [(row.segue, row.since) for row, _ in wanted(call)]
    needs += [(f"--compression {method}", METHODS[method]) for method in call.spec.libvirt.compression if method in METHODS]
    return tuple(
        f"{words} needs libvirt {major}.{minor}; {name} has {version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}."
        for words, (major, minor) in needs
        for name, version in versions.items()
        if version < major * 1_000_000 + minor * 1000
    )
