"""What both QEMUs are told before a migration: capabilities and limits; and what has to be known for it.

What may live here: QMP commands that change settings, and the reading of their answers. None of them moves or runs a guest.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping
from typing import Final

from segue.core import capabilities as wanted
from segue.core.model import Limits, MigrationSpec
from segue.core.policy import Policy
from segue.core.record import Settings
from segue.drivers.qemu.session import Session
from segue.errors import HypervisorError, Unsupported
from segue.hosts import HostShell

RESOLVE_DEADLINE_S: Final = 10.0
NO_LIMIT_BPS: Final = 1 << 40
"""More than any network carries. QEMU's own default is 128 MiB/s (migration/options.c, MAX_THROTTLE), about one Gbit."""


def bandwidth(bps: int | None) -> dict[str, int]:
    """The parameters that limit bandwidth: in pre-copy only.

    In post-copy there is none (0) but for what is said when it begins: until it is over a broken link may be the end of the
    guest, so it shall be short.
    """
    return {"max-bandwidth": bps or NO_LIMIT_BPS, "max-postcopy-bandwidth": 0}


QEMU_THROTTLE: Final = {"cpu-throttle-initial": 20, "cpu-throttle-increment": 10, "max-cpu-throttle": 99}
"""QEMU's own (migration/options.c): by so much at first, by so much more each time, and that much at most; in percent."""


def throttle(percent: int) -> dict[str, int]:
    """The parameters that make auto-converge slow the guest by just that much: at once, or in one step from where it is."""
    return {"cpu-throttle-initial": percent, "cpu-throttle-increment": percent, "max-cpu-throttle": percent}


LEAST_PERCENT: Final = 1
"""What auto-converge is held at where Segue's own ladder decides when it is to begin, and by how much: QEMU takes no 0."""


def throttling(limits: Limits, policy: Policy | None) -> dict[str, int]:
    """The parameters of auto-converge at the start. QEMU keeps those of the last migration: all are set each time."""
    if policy is not None and policy.throttle_initial is not None:
        initial, increment = policy.throttle_initial, policy.throttle_increment or QEMU_THROTTLE["cpu-throttle-increment"]
    elif policy is not None:
        initial, increment = QEMU_THROTTLE["cpu-throttle-initial"], QEMU_THROTTLE["cpu-throttle-increment"]
    else:
        return throttle(LEAST_PERCENT)
    most = limits.max_slowdown_percent or QEMU_THROTTLE["max-cpu-throttle"]
    return {"cpu-throttle-initial": min(initial, most), "cpu-throttle-increment": min(increment, most), "max-cpu-throttle": most}


def negotiate(here: Mapping[str, bool], there: Mapping[str, bool], spec: MigrationSpec) -> frozenset[str]:
    """The capabilities that both QEMUs are to have on.

    Args:
        here: what the source's QEMU knows, by name; the values do not matter.
        there: the same of the destination's.
        spec: what was asked for.

    Raises:
        Unsupported: one of them does not know what is needed.
    """
    needed = wanted.needed(spec)
    for host, known in ((spec.source, here), (spec.destination, there)):
        if missing := sorted(needed - known.keys()):
            raise Unsupported(
                f"QEMU on {host} is too old: it does not know {', '.join(missing)}.",
                hint="Ask for less, or move the guest to a host with a newer QEMU when it can be shut down.",
            )
    both = here.keys() & there.keys()
    helpful = {name for name, wants in wanted.HELPFUL.items() if wants(spec) and wanted.TELLS_NEWER.get(name, name) in both}
    return needed | (helpful & both)


async def capabilities(session: Session) -> dict[str, bool]:
    """What a QEMU knows, and whether it is on."""
    answer = await session.execute("query-migrate-capabilities")
    known = [one for one in answer if isinstance(one, dict)] if isinstance(answer, list) else []
    return {str(one.get("capability")): one.get("state") is True for one in known}


async def set_capabilities(session: Session, now: Mapping[str, bool], wanted: frozenset[str]) -> None:
    """Turn on what is wanted, and off what is not.

    Raises:
        HypervisorError: one of them cannot be set.
    """
    changes = {name: name in wanted for name, on in now.items() if on is not (name in wanted)}
    states = [{"capability": name, "state": state} for name, state in sorted(changes.items())]
    try:
        if states:
            await session.execute("migrate-set-capabilities", {"capabilities": states})
    except HypervisorError as error:
        if not changes.get("postcopy-ram"):
            raise
        raise HypervisorError(
            f"{error.message} It was asked to be ready for post-copy, which needs userfaultfd there.",
            host=error.host,
            raw=error.raw,
            number=error.number,
            hint="Run QEMU as root, set vm.unprivileged_userfaultfd=1 on that host, or move it without post-copy.",
        ) from error


def agreed(here: Mapping[str, object], there: Mapping[str, object], spec: MigrationSpec) -> dict[str, str | int]:
    """The parameters, beside limits and the way, that the source is to have because both know them.

    zero-page-detection (QEMU 9.0): with several connections the threads that send look for empty pages, in place of the one that
    hands pages out. It is the default, but not of a machine of an older type (hw/core/machine.c, hw_compat_8_2): that one might
    be sent to a QEMU which does not know it.

    Args:
        here: the source's parameters, by name; the values do not matter.
        there: the same of the destination's.
        spec: what was asked for.
    """
    wanted: dict[str, str | int] = {"zero-page-detection": "multifd"} if spec.connections > 1 else {}
    if spec.libvirt.xbzrle_cache_bytes is not None:
        wanted |= remembering(spec.libvirt.xbzrle_cache_bytes)
    return {name: value for name, value in wanted.items() if name in here and name in there}


def remembering(bytes_: int) -> dict[str, str | int]:
    """The parameter by which so much of what was sent is remembered, to send only what changes in it."""
    return {"xbzrle-cache-size": bytes_}


def compression(spec: MigrationSpec) -> dict[str, str | int]:
    """The parameters by which several connections compress. Both sides need them, and both would keep those of the last time."""
    wishes = spec.libvirt
    method = next((one for one in ("zlib", "zstd") if one in wishes.compression), "none")
    level = {"zlib": wishes.zlib_level, "zstd": wishes.zstd_level}.get(method)
    return {"multifd-compression": method, **({f"multifd-{method}-level": level} if level is not None else {})}


async def parameters(here: Session, there: Session, spec: MigrationSpec) -> dict[str, str | int]:
    """What `agreed` says of two QEMUs, which are asked only where it matters."""
    if spec.connections == 1 and spec.libvirt.xbzrle_cache_bytes is None:
        return {}
    mine, theirs = await asyncio.gather(here.query("query-migrate-parameters"), there.query("query-migrate-parameters"))
    return agreed(mine, theirs, spec)


async def set_limits(session: Session, spec: MigrationSpec, *, agreed: Mapping[str, str | int]) -> None:
    """Set what the source is to keep to, and what was agreed upon besides.

    Raises:
        HypervisorError: it refuses one of them.
    """
    limits = spec.limits
    wanted: dict[str, str | int] = {"downtime-limit": spec.first_downtime_ms, **bandwidth(limits.bandwidth_bps), **agreed}
    if limits.auto_converge:
        wanted |= throttling(limits, spec.policy)
    await session.execute("migrate-set-parameters", wanted)


def bracketed(address: str) -> str:
    """An IP address as it stands before a port."""
    return f"[{address}]" if ":" in address else address


async def read_back(session: Session) -> Settings:
    """The limits that a source's QEMU works by."""
    parameters = await session.query("query-migrate-parameters")
    now = await capabilities(session)
    bps, downtime_ms = parameters.get("max-bandwidth"), parameters.get("downtime-limit")
    return Settings(
        bandwidth_bps=bps if isinstance(bps, int) and bps < NO_LIMIT_BPS else None,
        max_downtime_ms=downtime_ms if isinstance(downtime_ms, int) else None,
        postcopy=now.get("postcopy-ram", False),
    )


async def machines(session: Session) -> tuple[dict[str, str], str]:
    """The machine aliases of a QEMU and the versioned names they mean, and the versioned name of its default."""
    answer = await session.execute("query-machines")
    known = [one for one in answer if isinstance(one, dict) and "name" in one] if isinstance(answer, list) else []
    aliases = {str(machine["alias"]): str(machine["name"]) for machine in known if "alias" in machine}
    return aliases, next((str(machine["name"]) for machine in known if machine.get("is-default")), "pc")


async def data_address(source: HostShell, destination: HostShell, migration_address: str) -> str:
    """The IP address of the destination to send memory to.

    A name is looked up on the source, which has to reach it: a host's own name often means 127.0.1.1 on itself.

    Args:
        source: who sends.
        destination: who receives.
        migration_address: what the operator said: an address, a name, or nothing; then the address that ssh reached.

    Raises:
        HypervisorError: the source does not know the name, or there is no address to be had.
    """
    if not migration_address:
        address = await destination.address()
        if not address or ipaddress.ip_address(address).is_loopback:
            raise HypervisorError(
                f"{source.name} has no address of {destination.name} to send the guest to.",
                host=destination.name,
                hint="Name the destination in segue.toml and give it a migration_address.",
            )
        return address
    try:
        return str(ipaddress.ip_address(migration_address))
    except ValueError:
        done = await source.run(["getent", "ahosts", migration_address], deadline_s=RESOLVE_DEADLINE_S)
    words = done.stdout.decode(errors="replace").split()
    if not words:
        raise HypervisorError(
            f"{source.name} does not know the name {migration_address}, the migration address of {destination.name}.",
            host=source.name,
            hint="Give an IP address as its migration_address, or make the name known there.",
        )
    return words[0]
