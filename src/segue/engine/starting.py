"""Start a guest that runs nowhere: `start(name, host, ...)`.

The one thing that must not happen is a second copy. So every configured host is asked first, and one that does not answer
stands in the way until a person says that it is off. What may live here: that looking, and the refusals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from segue import config
from segue.core.evidence import Evidence
from segue.core.model import DriverKind, HostAddress
from segue.core.ports import Driver
from segue.engine.inventory import Inventory
from segue.errors import GuestBusy, GuestNotFound, HostUnreachable, MigrationFailed, SegueError, UsageError


async def start(
    name: str,
    host: str,
    settings: config.Settings,
    *,
    driver: Callable[[DriverKind], Driver],
    fenced: Collection[str] = (),
) -> None:
    """Start a guest from its definition on a host.

    Args:
        name: of the guest.
        host: where; a name in segue.toml, or a connection URI.
        settings: the fleet.
        driver: gives the driver of a kind.
        fenced: hosts that a person knows to be off; they are not asked.

    Raises:
        UsageError: no such host.
        GuestNotFound: the host has no definition of it.
        GuestBusy: a host runs it, or holds a part of it.
        HostUnreachable: a host does not say whether it does; nothing was started.
        MigrationFailed: it does not start there.
    """
    if unknown := sorted(set(fenced) - settings.hosts.keys()):
        raise UsageError(f"There is no host {unknown[0]!r} in {settings.path or 'segue.toml'}.")
    wanted = settings.addresses(host)
    others = [one for one in settings.all_addresses() if one.name not in fenced and one not in wanted]
    async with Inventory(driver) as inventory:
        surveys = await inventory.survey(wanted)
        defined = [survey.address for survey in surveys for guest in survey.guests if guest.name == name]
        if not defined:
            raise next((survey.error for survey in surveys if survey.error), None) or GuestNotFound(
                f"{host} has no definition of {name}, so there is nothing to start it from.",
                hint="'segue guests' shows what each host has. A move with --persist leaves a definition where it arrives.",
            )
        seen = await asyncio.gather(*(_look(inventory, one, name) for one in (*wanted, *others)))
        for address, evidence in zip((*wanted, *others), seen, strict=True):
            _refuse(name, address, evidence)
        try:
            await (await inventory.connect(defined[0])).start(name)
        except SegueError as error:
            raise MigrationFailed(f"{name} does not start on {host}: {error.message}", hint=error.hint) from error


async def _look(inventory: Inventory, address: HostAddress, name: str) -> Evidence | SegueError:
    try:
        return await (await inventory.connect(address)).evidence(name)
    except SegueError as error:
        return error


def _refuse(name: str, address: HostAddress, seen: Evidence | SegueError) -> None:
    if isinstance(seen, Evidence) and seen.sighting.is_idle:
        return
    if isinstance(seen, Evidence) and seen.sighting.is_proof:
        raise GuestBusy(
            f"{address.name} has {name}: {seen.sighting} ({seen.raw}). A second copy would destroy its disks.",
            guest_at=f"it is on {address.name}; nothing was started",
            hint="Move it with 'segue migrate', or settle what was begun with 'segue recover'.",
        )
    why = seen.raw if isinstance(seen, Evidence) else seen.message
    raise HostUnreachable(
        f"{address.name} does not say whether it runs {name}: {why}",
        host=address.name,
        guest_at="not known; nothing was started",
        hint=f"Make it answer; or make sure that it is off, and say so with --fenced {address.name}.",
    )
