"""What both QEMUs are told before a migration: capabilities, parameters, where to listen.

What may live here: QMP commands that change settings, and the reading of their answers. None of them moves or runs a guest.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Final

from segue.core.model import Limits
from segue.core.record import Settings
from segue.drivers.qemu.session import Session
from segue.errors import HypervisorError
from segue.hosts import HostShell

RESOLVE_DEADLINE_S: Final = 10.0
NO_LIMIT_BPS: Final = 1 << 40
"""More than any network carries. QEMU's own default is 128 MiB/s (migration/options.c, MAX_THROTTLE), about one Gbit."""


def bandwidth(bps: int | None) -> dict[str, int]:
    """The parameters that limit bandwidth: in pre-copy only.

    In post-copy there is no limit (0): until it is over a broken link may be the end of the guest, so it shall be short.
    """
    return {"max-bandwidth": bps or NO_LIMIT_BPS, "max-postcopy-bandwidth": 0}


async def set_up_source(session: Session, limits: Limits) -> None:
    """Make the source ready to send.

    Raises:
        HypervisorError: it refuses one of the settings.
    """
    await set_capabilities(session, limits)
    await session.execute("migrate-set-parameters", {"downtime-limit": limits.max_downtime_ms, **bandwidth(limits.bandwidth_bps)})


async def set_capabilities(session: Session, limits: Limits) -> None:
    """Set the same on both sides, and turn off what somebody else had turned on.

    Without the return path QEMU under-reports downtime: 2 to 43 ms were said when a guest stood for 97 to 128 ms, with it both
    agree within 5 ms. Disks are taken over only when the destination is told to run (late-block-activate). The source does not
    stop and wait before the switchover (pause-before-switchover): that costs a round trip of downtime, and only disks that are
    copied would need it.

    Raises:
        HypervisorError: one of them cannot be set.
    """
    wanted = {
        "events": True,
        "return-path": True,
        "late-block-activate": True,
        "auto-converge": limits.auto_converge,
        "postcopy-ram": limits.postcopy,
    }
    answer = await session.execute("query-migrate-capabilities")
    now = (
        {str(one["capability"]): bool(one["state"]) for one in answer if isinstance(one, dict)}
        if isinstance(answer, list)
        else {}
    )
    changes = {name: wanted.get(name, False) for name in {**now, **wanted} if now.get(name, False) is not wanted.get(name, False)}
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


async def listen(session: Session, host: str, address: str) -> str:
    """Let the destination listen on a port of its own choice.

    Args:
        session: with the destination.
        host: the destination, for people.
        address: an IP address of it.

    Returns:
        The URI that the source is to send to.

    Raises:
        HypervisorError: it cannot listen there, or does not say where it does.
    """
    return await _listening(session, "migrate-incoming", host, address)


async def listen_again(session: Session, host: str, address: str) -> str:
    """The same, for a destination whose post-copy lost its connection.

    Raises:
        HypervisorError: it is not such a one, or cannot listen there.
    """
    return await _listening(session, "migrate-recover", host, address)


async def _listening(session: Session, command: str, host: str, address: str) -> str:
    await session.execute(command, {"uri": f"tcp:{_bracketed(address)}:0"})
    addresses = (await session.query("query-migrate")).get("socket-address")
    first = addresses[0] if isinstance(addresses, list) and addresses else None
    if not isinstance(first, dict):
        raise HypervisorError(f"QEMU on {host} does not say where it listens.", host=host, raw=str(addresses))
    return f"tcp:{_bracketed(str(first.get('host')))}:{first.get('port')}"


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


async def read_back(session: Session) -> Settings:
    """The limits that a source's QEMU works by."""
    parameters = await session.query("query-migrate-parameters")
    capabilities = await session.execute("query-migrate-capabilities")
    known = capabilities if isinstance(capabilities, list) else []
    on = {one["capability"] for one in known if isinstance(one, dict) and one["state"]}
    bps, downtime_ms = parameters.get("max-bandwidth"), parameters.get("downtime-limit")
    return Settings(
        bandwidth_bps=bps if isinstance(bps, int) and bps < NO_LIMIT_BPS else None,
        max_downtime_ms=downtime_ms if isinstance(downtime_ms, int) else None,
        postcopy="postcopy-ram" in on,
    )


async def machines(session: Session) -> tuple[dict[str, str], str]:
    """The machine aliases of a QEMU and the versioned names they mean, and the versioned name of its default."""
    answer = await session.execute("query-machines")
    known = [machine for machine in answer if isinstance(machine, dict)] if isinstance(answer, list) else []
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


async def set_up_destination(session: Session, host: str, limits: Limits, address: str) -> str:
    """Make the destination ready to receive; returns the URI that the source is to send to.

    Raises:
        HypervisorError: it refuses something.
    """
    await set_capabilities(session, limits)
    return await listen(session, host, address)


async def ready(
    source: HostShell, destination: HostShell, here: Session, migration_address: str
) -> tuple[str, dict[str, str], str]:
    """What has to be known before the destination is started, asked at once: its address, machine aliases, default machine."""
    address, (aliases, default) = await asyncio.gather(data_address(source, destination, migration_address), machines(here))
    return address, aliases, default
