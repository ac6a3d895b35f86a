"""What cannot be asked for together, refused before anything is touched: `refuse(spec, destination)`.

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
from segue.errors import Unsupported


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
        applies=lambda spec, _: _is_libvirt(spec) and bool(spec.overrides),
        message="Segue does not change the definition of libvirt's guests yet, and {guest} is one.",
        hint="Leave out --set.",
    ),
    Rule(
        applies=lambda spec, _: spec.disks is not None and any(part.startswith("disk.") for part, _ in spec.overrides),
        message="A disk is either copied or found under another name.",
        hint="Choose one of --copy-storage and --set disk.…",
    ),
    Rule(
        applies=lambda spec, _: _is_libvirt(spec) and spec.disks is not None,
        message="Segue does not copy disks of libvirt's guests yet, and {guest} is one.",
        hint="Put its disks on storage that both hosts see.",
    ),
    Rule(
        applies=lambda spec, _: spec.disks is not None and spec.transport is not Transport.NATIVE,
        message="Disks are copied in the clear: only memory would be encrypted.",
        hint="Use --transport native over a network of your own, or put the disks on storage that both hosts see.",
    ),
    Rule(
        applies=lambda spec, _: spec.limits.postcopy and spec.connections > 1,
        message="Post-copy sends what the guest waits for over one connection of its own; it does not go with several.",
        hint="Choose one of --postcopy and --connections.",
    ),
)


def refuse(spec: MigrationSpec, destination: HostAddress) -> None:
    """Refuse what cannot be.

    Raises:
        Unsupported: with the first rule that applies; nothing was touched.
    """
    names = {"guest": spec.guest, "source": spec.source, "destination": spec.destination, "uri": destination.uri}
    for rule in RULES:
        if rule.applies(spec, destination):
            raise Unsupported(
                rule.message.format_map(names),
                guest_at=f"it is on {spec.source}; nothing was touched",
                hint=rule.hint.format_map(names),
            )
