"""What cannot be asked for together, found before anything is touched: `objections(spec, destination)`.

libvirt and QEMU refuse these too, one at a time and mostly after something was begun. The rules are theirs: libvirt,
src/qemu/qemu_migration.c (qemuMigrationSrcBeginXML, qemuMigrationSrcPerform) and docs/migration.rst; QEMU, docs/devel/migration.
What may live here: the table of rules on a spec, with their words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from segue.core.model import Control, DriverKind, HostAddress, MigrationSpec, Transport
from segue.core.preflight.facts import Objection
from segue.core.preflight.findings import Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One thing that cannot be.

    Attributes:
        applies: to this spec and the destination's address.
        message: one sentence; ``{guest}``, ``{source}``, ``{destination}`` and ``{uri}`` are filled in.
        hint: what can be asked for instead.
    """

    applies: Callable[[MigrationSpec, HostAddress], bool]
    message: str
    hint: str


def _is_libvirt(spec: MigrationSpec) -> bool:
    return spec.driver is DriverKind.LIBVIRT


def _tunnels(spec: MigrationSpec) -> bool:
    return _is_libvirt(spec) and spec.transport is Transport.TUNNELLED


_FOR_MEMORY: Final = (
    "suspend",
    "compressed",
    "compression",
    "zero_copy",
    "postcopy_bandwidth_bps",
    "switchover_bandwidth_bps",
    "migration_uri",
    "listen_address",
    "tls_destination",
    "graphics_uri",
    "rdma_pin_all",
    "abort_on_error",
)
"""What says how a guest that runs is moved."""
_METHODS: Final = frozenset({"mt", "xbzrle", "zlib", "zstd"})
_OF_METHODS: Final = {
    "xbzrle": ("xbzrle_cache_bytes",),
    "mt": ("mt_level", "mt_threads", "mt_dthreads"),
    "zlib": ("zlib_level",),
    "zstd": ("zstd_level",),
}
"""Which fields tune which method of compression (libvirt, qemuMigrationParamsSetCompression)."""

_OF_BARE: Final = frozenset({"compression", "xbzrle_cache_bytes", "zlib_level", "zstd_level"})
"""What a bare QEMU can be asked for as well."""
_COMPRESSED_BARE: Final = frozenset([(), ("xbzrle",), ("zlib",), ("zstd",)])


def _tunes_unused_method(spec: MigrationSpec) -> bool:
    asked = spec.libvirt.asked
    return any(name in asked for method, names in _OF_METHODS.items() for name in names if method not in spec.libvirt.compression)


RULES: Final = (
    Rule(
        applies=lambda spec, there: _is_libvirt(spec) and spec.control is Control.P2P and not urlsplit(there.uri).hostname,
        message="Peer-to-peer needs an address that {source} can use; {uri} is not one.",
        hint="Give a remote URI for {destination}, such as qemu+ssh://HOST/system, or use --control direct.",
    ),
    Rule(
        applies=lambda spec, _: _is_libvirt(spec) and spec.transport is Transport.TUNNELLED and spec.control is not Control.P2P,
        message="libvirt tunnels memory through its daemons only when the source's daemon talks to the destination's.",
        hint="Add --control p2p, or use another --transport.",
    ),
    Rule(
        applies=lambda spec, _: _is_libvirt(spec) and spec.transport is Transport.TUNNELLED and spec.limits.postcopy,
        message="libvirt cannot do post-copy through its tunnel.",
        hint="Leave out --postcopy, or use --transport tls.",
    ),
    Rule(
        applies=lambda spec, _: _is_libvirt(spec) and spec.transport is Transport.TUNNELLED and spec.connections > 1,
        message="libvirt's tunnel is one connection: it cannot carry several.",
        hint="Leave out --connections, or use --transport tls.",
    ),
    Rule(
        applies=lambda spec, _: _is_libvirt(spec) and spec.transport is Transport.TLS_PSK,
        message="libvirt knows TLS with certificates only, not with a shared key.",
        hint="Use --transport tls.",
    ),
    Rule(
        applies=lambda spec, there: (
            _is_libvirt(spec) and there.migration_ports is not None and there.migration_ports[0] != there.migration_ports[1]
        ),
        message="Of libvirt one port can be asked for, not a range: that is migration_port_min and _max in its qemu.conf.",
        hint="Name one port, or set the range in qemu.conf of {destination}.",
    ),
    Rule(
        applies=lambda spec, there: spec.transport is Transport.TUNNELLED and there.migration_ports is not None,
        message="A tunnelled migration listens on no port.",
        hint="Leave out --migration-ports, or use another --transport.",
    ),
    Rule(
        applies=lambda spec, _: spec.disks is not None and any(part.startswith("disk.") for part, _ in spec.overrides),
        message="A disk is either copied or found under another name.",
        hint="Choose one of --copy-storage and --set disk.…",
    ),
    Rule(
        applies=lambda spec, _: not _is_libvirt(spec) and spec.disks is not None and spec.transport is not Transport.NATIVE,
        message="Disks are copied in the clear: only memory would be encrypted.",
        hint="Use --transport native over a network of your own, or put the disks on storage that both hosts see.",
    ),
    Rule(
        applies=lambda spec, _: not _is_libvirt(spec) and bool(set(spec.libvirt.asked) - _OF_BARE),
        message="{asked}: only libvirt knows that, and {guest} is a bare QEMU.",
        hint="Leave it out. What can be asked for: --persist, --set, --copy-storage, --transport, --connections, --compression "
        "and all limits.",
    ),
    Rule(
        applies=lambda spec, _: not _is_libvirt(spec) and spec.libvirt.compression not in _COMPRESSED_BARE,
        message="A bare QEMU compresses by one of xbzrle, zlib and zstd.",
        hint="Name one of these: xbzrle alone, the others with --connections.",
    ),
    Rule(
        applies=lambda spec, _: _is_libvirt(spec) and spec.control is Control.UNMANAGED,
        message="libvirt's QEMU driver has no unmanaged migration: its guests move only by its daemons.",
        hint="Use --control direct or p2p. A QEMU that no libvirt manages is moved through its monitor: qmp+ssh://HOST/.",
    ),
    Rule(
        applies=lambda spec, _: spec.libvirt.offline and not spec.persists(defined=True),
        message="With --offline the definition is all that moves: it has to be kept on the destination.",
        hint="Leave out --no-persist.",
    ),
    Rule(
        applies=lambda spec, _: spec.libvirt.offline and spec.disks is not None,
        message="libvirt copies disks of guests that run only: with --offline no disk moves.",
        hint="Leave out --copy-storage and copy the files by hand, or start the guest and move it live.",
    ),
    Rule(
        applies=lambda spec, _: spec.libvirt.offline and (spec.transport is not Transport.NATIVE or spec.connections > 1),
        message="With --offline no memory moves: there is nothing to encrypt, to tunnel or to send over several connections.",
        hint="Leave out --transport and --connections.",
    ),
    Rule(
        applies=lambda spec, _: (
            spec.libvirt.offline and (spec.limits.postcopy or any(name in spec.libvirt.asked for name in _FOR_MEMORY))
        ),
        message="With --offline only a definition moves: {asked} is for guests that run.",
        hint="Leave out one of both.",
    ),
    Rule(
        applies=lambda spec, _: spec.libvirt.suspend and spec.limits.postcopy,
        message="In post-copy the guest runs on the destination before all of it is there: it cannot arrive standing still.",
        hint="Choose one of --suspend and --postcopy.",
    ),
    Rule(
        applies=lambda spec, _: spec.libvirt.zero_copy and spec.connections == 1,
        message="QEMU sends without copying only over several connections.",
        hint="Add --connections 2.",
    ),
    Rule(
        applies=lambda spec, _: spec.libvirt.zero_copy and spec.transport is Transport.TLS,
        message="What is encrypted is copied: zero-copy does not go with TLS.",
        hint="Choose one of --zero-copy and --transport tls.",
    ),
    Rule(
        applies=lambda spec, _: spec.libvirt.zero_copy and bool(spec.libvirt.compression or spec.libvirt.compressed),
        message="What is compressed is copied: zero-copy does not go with compression.",
        hint="Choose one of --zero-copy and --compression.",
    ),
    Rule(
        applies=lambda spec, _: bool(set(spec.libvirt.compression) - _METHODS),
        message="libvirt compresses by xbzrle, mt, zlib and zstd, and by nothing else.",
        hint="Name one of these.",
    ),
    Rule(
        applies=lambda spec, _: bool({"zlib", "zstd"} & set(spec.libvirt.compression)) and spec.connections == 1,
        message="zlib and zstd compress what goes over several connections.",
        hint="Add --connections 2, or use --compression xbzrle.",
    ),
    Rule(
        applies=lambda spec, _: bool({"mt", "xbzrle"} & set(spec.libvirt.compression)) and spec.connections > 1,
        message="Over several connections memory is compressed by zlib or zstd only.",
        hint="Use --compression zstd, or leave out --connections.",
    ),
    Rule(
        applies=lambda spec, _: _tunes_unused_method(spec),
        message="{asked}: that tunes a method of compression which is not asked for.",
        hint="Name it with --compression.",
    ),
    Rule(
        applies=lambda spec, _: (
            not spec.limits.auto_converge
            and bool({"throttle_initial_percent", "throttle_increment_percent"} & set(spec.libvirt.asked))
        ),
        message="The guest is not to be slowed, so there is no throttle to set.",
        hint="Leave out --no-auto-converge.",
    ),
    Rule(
        applies=lambda spec, _: spec.libvirt.postcopy_bandwidth_bps is not None and not spec.limits.postcopy,
        message="A bandwidth for post-copy needs post-copy.",
        hint="Add --postcopy.",
    ),
    Rule(
        applies=lambda spec, there: (
            bool(spec.libvirt.migration_uri) and bool(there.migration_ports or spec.transport is Transport.TUNNELLED)
        ),
        message="{asked}: where memory goes is said twice.",
        hint="Choose one of --migration-uri, --migration-ports and --transport tunnelled.",
    ),
    Rule(
        applies=lambda spec, _: _tunnels(spec) and bool(spec.libvirt.listen_address),
        message="A tunnelled migration listens on no address.",
        hint="Leave out --listen-address, or use another --transport.",
    ),
    Rule(
        applies=lambda spec, _: bool(spec.libvirt.tls_destination) and spec.transport is not Transport.TLS,
        message="A name for the destination's certificate needs TLS.",
        hint="Add --transport tls.",
    ),
    Rule(
        applies=lambda spec, _: spec.libvirt.rdma_pin_all and not spec.libvirt.migration_uri.startswith("rdma:"),
        message="Memory is locked for RDMA only where it goes over RDMA.",
        hint="Add --migration-uri rdma://HOST.",
    ),
    Rule(
        applies=lambda spec, _: (
            spec.libvirt.migration_uri.startswith("rdma:") and (spec.connections > 1 or spec.transport is not Transport.NATIVE)
        ),
        message="Over RDMA memory goes in the clear and over one connection.",
        hint="Leave out --connections and --transport.",
    ),
    Rule(
        applies=lambda spec, _: (
            spec.disks is None and bool({"copied_disks", "disks_uri", "detect_zeroes"} & set(spec.libvirt.asked))
        ),
        message="{asked}: no disks are to be copied.",
        hint="Add --copy-storage all.",
    ),
    Rule(
        applies=lambda spec, _: bool(
            set(spec.libvirt.detect_zeroes) - set(spec.libvirt.copied_disks or spec.libvirt.detect_zeroes)
        ),
        message="Zeroes are looked for in a disk that is not copied.",
        hint="Name it with --copy-disk, too.",
    ),
    Rule(
        applies=lambda spec, _: spec.disks is not None and bool(spec.disks.port and spec.libvirt.disks_uri),
        message="Where disks are sent is said twice.",
        hint="Choose one of --disks-port and --disks-uri.",
    ),
    Rule(
        applies=lambda spec, _: bool(spec.libvirt.xml or spec.libvirt.persistent_xml) and bool(spec.overrides),
        message="The definition on the destination is either given whole or changed in parts.",
        hint="Choose one of --xml and --set.",
    ),
    Rule(
        applies=lambda spec, _: bool(spec.libvirt.persistent_xml) and not spec.persists(defined=True),
        message="A definition to keep was given, and none is to be kept.",
        hint="Leave out --persistent-xml, or --no-persist.",
    ),
    Rule(
        applies=lambda spec, _: spec.limits.postcopy and spec.connections > 1,
        message="Post-copy sends what the guest waits for over one connection of its own; it does not go with several.",
        hint="Choose one of --postcopy and --connections.",
    ),
    Rule(
        applies=lambda spec, _: _tunnels(spec) and spec.disks is not None,
        message="libvirt sends no disks through its tunnel.",
        hint="Use --transport tls, or put the disks on storage that both hosts see.",
    ),
    Rule(
        applies=lambda spec, _: _is_libvirt(spec) and spec.disks is not None and spec.disks.limit_bps is not None,
        message="libvirt has one limit for memory and for disks.",
        hint="Use --bandwidth in place of --disk-bandwidth.",
    ),
)


def objections(spec: MigrationSpec, destination: HostAddress) -> tuple[Objection, ...]:
    """Everything that cannot be, each in words.

    Args:
        spec: what was asked for.
        destination: how the destination is reached.
    """
    asked = ", ".join(name.replace("_", "-").removesuffix("-bps").removesuffix("-bytes") for name in spec.libvirt.asked)
    names = {
        "guest": spec.guest,
        "source": spec.source,
        "destination": spec.destination,
        "uri": destination.uri,
        "asked": asked or "That",
    }
    kind = "a guest of libvirt's" if _is_libvirt(spec) else "a bare QEMU"
    seen = Seen(host=spec.source, what=f"{spec.guest} is {kind}; {spec.destination} is reached at {destination.uri}")
    return tuple(
        Objection(sentence=rule.message.format_map(names), seen=seen, fix=rule.hint.format_map(names))
        for rule in RULES
        if rule.applies(spec, destination)
    )
