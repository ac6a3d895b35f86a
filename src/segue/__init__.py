"""Segue moves running QEMU/KVM guests between hosts.

    import segue

    outcome = await segue.migrate("web1", "beta")                       # names from segue.toml
    outcome = await segue.migrate("web1", "qemu+ssh://beta/system", source="qemu:///system")

    migration = segue.migrate("web1", "beta", limits=segue.Limits(max_downtime_ms=100))
    async for event in migration: ...                                   # State, Progress and Steered as they come

    seen = await segue.migrate("web1", "beta").check()                  # preflight alone: a Preflight with every Finding
    _, outlook = await segue.migrate("web1", "beta").forecast()         # and what it would come to

This is the library's front door; what is not in ``__all__`` may change at any time. Names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from segue.core.downtime import Client, Switchover
    from segue.core.model import Control, Guest, HostFacts, Limits, OnMiss, Outcome, OutcomeKind, Progress, Transport
    from segue.core.phases import State
    from segue.core.preflight.findings import Finding, Severity, Verdict
    from segue.core.storage import CopyStorage, CopyWish
    from segue.core.wishes import LibvirtWishes
    from segue.engine.migration import Migration
    from segue.engine.preflight import Preflight
    from segue.engine.runner import Steered
    from segue.errors import SegueError

__all__ = [
    "Client",
    "Control",
    "CopyStorage",
    "CopyWish",
    "Finding",
    "Guest",
    "HostFacts",
    "LibvirtWishes",
    "Limits",
    "Migration",
    "OnMiss",
    "Outcome",
    "OutcomeKind",
    "Preflight",
    "Progress",
    "SegueError",
    "Severity",
    "State",
    "Steered",
    "Switchover",
    "Transport",
    "Verdict",
    "migrate",
]

_MODEL = ("Control", "Guest", "HostFacts", "Limits", "OnMiss", "Outcome", "OutcomeKind", "Progress", "Transport")
_HOMES = {
    **dict.fromkeys(_MODEL, "segue.core.model"),
    "State": "segue.core.phases",
    **dict.fromkeys(("Client", "Switchover"), "segue.core.downtime"),
    **dict.fromkeys(("CopyStorage", "CopyWish"), "segue.core.storage"),
    **dict.fromkeys(("Finding", "Severity", "Verdict"), "segue.core.preflight.findings"),
    "LibvirtWishes": "segue.core.wishes",
    "Migration": "segue.engine.migration",
    "Preflight": "segue.engine.preflight",
    "Steered": "segue.engine.runner",
    "SegueError": "segue.errors",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use: ``import segue`` itself costs nothing."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'segue' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def migrate(
    guest: str,
    destination: str,
    *,
    source: str = "",
    control: Control | str = "direct",
    transport: Transport | str = "native",
    connections: int = 1,
    migration_address: str = "",
    migration_ports: tuple[int, int] | None = None,
    persist: bool | None = None,
    undefine_source: bool | None = None,
    overrides: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    policy: str = "",
    observe_only: bool = False,
    disks: CopyWish | None = None,
    accept: Sequence[str] = (),
    fix: bool = False,
    probe: str = "",
    libvirt: LibvirtWishes | None = None,
    config: Path | None = None,
) -> Migration:
    """Move a running guest. Await the result for the `Outcome`, or iterate it for progress first; nothing happens before that.

    Args:
        guest: name or UUID.
        destination: a host's name in segue.toml, or a connection URI.
        source: the same; empty: look for the guest on every host of segue.toml.
        control: ``direct`` or ``p2p``.
        transport: ``native``, ``tls``, ``tls-psk`` or ``tunnelled``.
        connections: send memory over so many at once.
        migration_address: where the destination receives, an IP address or a name; in place of what segue.toml says.
        migration_ports: the first and the last port that it may listen on; the same.
        persist: the destination is to keep the guest's definition; default: where the source has one.
        undefine_source: the source is to forget it; default: as `persist`.
        overrides: what is another on the destination, as ``{"disk.vda": "/mnt/vda.img"}``; see `MigrationSpec`.
        limits: what may be done to the guest; the defaults of `Limits` when not given.
        policy: the name of a ladder in segue.toml; Segue's own when not given.
        observe_only: tell what would be done about convergence, and do none of it.
        disks: how those that are not shared are copied; not given: all must be shared.
        accept: codes of preflight's blockers past which it is to go all the same.
        fix: what preflight finds in the way and Segue can mend by itself is mended; undone if the guest is not moved.
        probe: ask the guest all the while, to see what its clients see: ``ping:ADDRESS``, ``tcp:ADDRESS:PORT`` or
            ``udp:ADDRESS:PORT``.
        libvirt: what only libvirt can be asked for: another name or definition on the destination, compression, and more.
        config: the segue.toml to use; the usual places when not given.

    Raises:
        ConfigError: segue.toml cannot be used. What awaiting it raises is said at `Migration.__await__`.
    """
    from segue import config as configuration
    from segue.core import model
    from segue.core.downtime import parse_probe
    from segue.core.wishes import LibvirtWishes
    from segue.engine.migration import Migration, Request

    request = Request(
        guest=guest,
        destination=destination,
        source=source,
        control=model.Control(control),
        transport=model.Transport(transport),
        connections=connections,
        migration_address=migration_address,
        migration_ports=migration_ports,
        persist=persist,
        undefine_source=undefine_source,
        overrides=tuple((overrides or {}).items()),
        limits=limits or model.Limits(),
        policy=policy,
        observe_only=observe_only,
        disks=disks,
        accept=tuple(accept),
        fix=fix,
        probe=parse_probe(probe) if probe else None,
        libvirt=libvirt or LibvirtWishes(),
    )
    return Migration(request, configuration.load(config))
