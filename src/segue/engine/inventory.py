"""Reaches hosts and finds guests on them, all hosts at once.

What may live here: connecting to the addresses of hosts through the drivers, listing, and finding the one guest that is meant. It
looks and never acts. Whether the guest can be moved is `preflight`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final, Protocol, Self, runtime_checkable

from segue.core.model import DriverKind, Guest, GuestState, HostAddress, HostFacts
from segue.core.ports import Driver, Hypervisor
from segue.errors import GuestAmbiguous, GuestNotFound, HostUnreachable, SegueError
from segue.hosts import HostShell, reach, way_in

CONNECT_DEADLINE_S: Final = 10.0
"""For one host to answer. ssh and TLS over a slow path need a few round trips; a person waits ten seconds and not much longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A guest and the connection on which it was found."""

    guest: Guest
    hypervisor: Hypervisor
    address: HostAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Surveyed:
    """What one address answered: its facts and guests, or why it could not be asked."""

    address: HostAddress
    facts: HostFacts | None = None
    guests: tuple[Guest, ...] = ()
    error: SegueError | None = None


@runtime_checkable
class _HasShell(Protocol):
    """A connection to a hypervisor that goes through a shell."""

    @property
    def shell(self) -> HostShell: ...


class Inventory:
    """Open connections to hosts, closed together. Use as an async context manager.

    Args:
        driver: gives the driver of a kind.
    """

    def __init__(self, driver: Callable[[DriverKind], Driver]) -> None:
        self._driver = driver
        self._stack = AsyncExitStack()
        self._open: dict[str, asyncio.Task[Hypervisor]] = {}
        self._shells: dict[str, asyncio.Task[HostShell]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        tasks = [*self._open.values(), *self._shells.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def connect(self, address: HostAddress) -> Hypervisor:
        """The connection to that address, made on first use.

        Raises:
            HostUnreachable: no answer.
        """
        if address.uri not in self._open:
            self._open[address.uri] = asyncio.create_task(self._connect(address))
        return await asyncio.shield(self._open[address.uri])

    async def _connect(self, address: HostAddress) -> Hypervisor:
        hypervisor = await self._driver(address.driver).connect(address, deadline_s=CONNECT_DEADLINE_S)
        self._stack.push_async_callback(hypervisor.aclose)
        return hypervisor

    async def shell(self, addresses: Sequence[HostAddress]) -> HostShell:
        """A shell on the host that has these addresses: the one of its bare guests' connection, else ssh to where its libvirt is.

        Raises:
            HostUnreachable: it cannot be logged in to.
            UsageError: none of the addresses says where it is.
        """
        way = way_in(addresses)
        if way in addresses and isinstance(hypervisor := await self.connect(way), _HasShell):
            return hypervisor.shell
        if way.uri not in self._shells:
            self._shells[way.uri] = asyncio.create_task(self._reach(way))
        return await asyncio.shield(self._shells[way.uri])

    async def _reach(self, way: HostAddress) -> HostShell:
        shell = await reach(way, deadline_s=CONNECT_DEADLINE_S)
        self._stack.push_async_callback(shell.aclose)
        return shell

    async def survey(self, addresses: Iterable[HostAddress], *, facts: bool = False) -> Sequence[Surveyed]:
        """Ask all addresses at once for their guests, and for facts where wanted; a failure is an answer too."""

        async def one(address: HostAddress) -> Surveyed:
            try:
                hypervisor = await self.connect(address)
                guests = await hypervisor.guests()
                return Surveyed(address=address, facts=await hypervisor.facts() if facts else None, guests=tuple(guests))
            except SegueError as error:
                return Surveyed(address=address, error=error)

        return await asyncio.gather(*(one(address) for address in addresses))

    async def find(self, name: str, addresses: Sequence[HostAddress]) -> Found:
        """The one guest of that name; a mere definition of it elsewhere is not a second guest.

        Args:
            name: its name, or its UUID.
            addresses: where to look.

        Raises:
            GuestNotFound: every host answered and none has it.
            GuestAmbiguous: more than one has it.
            HostUnreachable: not found on the hosts that answered, and some did not.
        """
        surveys = await self.survey(addresses)
        found = [(survey, guest) for survey in surveys for guest in survey.guests if name in (guest.name, guest.uuid)]
        found = [pair for pair in found if pair[1].state is not GuestState.SHUT_OFF] or found
        if not found:
            raise _not_found(name, surveys)
        if len(found) > 1:
            places = ", ".join(f"{guest.driver} guest on {survey.address.name}" for survey, guest in found)
            raise GuestAmbiguous(
                f"{len(found)} guests are called {name}: {places}.",
                guest_at="each is where it was, nothing was touched",
                hint="Say which with --from HOST (a name or a connection URI), or use its UUID.",
            )
        [(survey, guest)] = found
        return Found(guest=guest, hypervisor=await self.connect(survey.address), address=survey.address)


def _not_found(name: str, surveys: Sequence[Surveyed]) -> SegueError:
    silent = [survey for survey in surveys if survey.error is not None]
    if silent and all(isinstance(survey.error, HostUnreachable) for survey in silent):
        reasons = " ".join(str(survey.error) for survey in silent)
        return HostUnreachable(
            f"Guest {name} is on none of the hosts that answered, and not all did. {reasons}", host=silent[0].address.name
        )
    if silent:
        return next(survey.error for survey in silent if survey.error is not None)
    asked = ", ".join(dict.fromkeys(survey.address.name for survey in surveys)) or "none are configured"
    return GuestNotFound(f"There is no guest {name} (hosts asked: {asked}).", hint="'segue guests' lists all guests.")
