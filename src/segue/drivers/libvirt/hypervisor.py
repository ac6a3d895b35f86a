"""One libvirtd: a connection that is made again when it died, its domains, and what it shows of one of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar
from urllib.parse import urlsplit

import libvirt
from lxml import etree

from segue import units
from segue.core import causes, virsh
from segue.core.causes import Scene
from segue.core.evidence import Evidence, Sighting
from segue.core.measured import Touched, Window, sampled
from segue.core.mends import Mend, Mended
from segue.core.model import DriverKind, Guest, GuestState, HostAddress, HostFacts, MigrationSpec
from segue.core.ports import Hypervisor
from segue.core.preflight.facts import BUSY_S, Objection, Offer, Parts, Standing
from segue.core.preflight.findings import Seen
from segue.drivers.libvirt import definitions, fold, hosting, measure, mending, runtime, standing
from segue.errors import AnswerNotSeen, HostUnreachable, HypervisorError, SegueError

T = TypeVar("T")

START_DEADLINE_S: Final = 60.0
QUERY_DEADLINE_S: Final = 10.0
_ASKED_MEANWHILE: Final = 6
"""How often a host is asked in the time after which it counts as silent."""


class LibvirtHypervisor:
    """A host's libvirt. Made by `LibvirtDriver.connect`.

    Args:
        address: how to reach it.
        connection: an open connection.
    """

    def __init__(self, address: HostAddress, connection: libvirt.virConnect) -> None:
        self.address: Final = address
        self._connection: libvirt.virConnect | None = connection

    @property
    def host(self) -> str:
        """The host's name."""
        return self.address.name

    async def connection(self) -> libvirt.virConnect:
        """The connection, made again when it has died.

        Raises:
            HostUnreachable: it cannot be made.
        """
        if self._connection is None or not self._connection.isAlive():
            self._connection = await connected(self.address, deadline_s=QUERY_DEADLINE_S)
        return self._connection

    async def ask(self, function: Callable[[libvirt.virConnect], T], *, deadline_s: float = QUERY_DEADLINE_S) -> T:
        """Run a function of the connection in a thread.

        Raises:
            HypervisorError: libvirt's own error.
            AnswerNotSeen: no answer; the connection is given up.
            HostUnreachable: there is no connection.
        """
        connection = await self.connection()
        try:
            return await runtime.call(self.host, lambda: function(connection), deadline_s=deadline_s)
        except AnswerNotSeen:
            self._connection = None
            raise

    async def facts(self) -> HostFacts:
        """Versions of libvirt and QEMU, and the host UUID that libvirt itself uses to tell hosts apart."""

        def look(connection: libvirt.virConnect) -> tuple[int, int, str]:
            return connection.getLibVersion(), connection.getVersion(), connection.getCapabilities()

        libvirt_version, qemu_version, capabilities = await self.ask(look)
        identity = etree.fromstring(capabilities.encode()).findtext("host/uuid") or ""
        return HostFacts(
            host=self.host,
            driver=DriverKind.LIBVIRT,
            hypervisor=f"libvirt {_version(libvirt_version)}, QEMU {_version(qemu_version)}",
            identity=identity,
        )

    async def identity(self) -> str:
        """The host UUID."""
        return (await self.facts()).identity

    async def guests(self) -> Sequence[Guest]:
        """All domains, defined or running."""

        def look(connection: libvirt.virConnect) -> list[Guest]:
            found = []
            for domain in connection.listAllDomains():
                with contextlib.suppress(libvirt.libvirtError):  # it went away while we looked
                    found.append(self._guest(domain))
            return found

        return sorted(await self.ask(look), key=lambda guest: guest.name)

    def _guest(self, domain: libvirt.virDomain) -> Guest:
        state, reason = domain.state()
        leaving, incoming = _job(domain, state)
        seen = fold.sighting(state, reason, incoming=incoming)
        return Guest(
            name=domain.name(),
            uuid=domain.UUIDString(),
            host=self.host,
            driver=DriverKind.LIBVIRT,
            state=GuestState.MIGRATING_OUT if leaving else fold.GUEST_STATES.get(seen, GuestState.UNKNOWN),
            memory_bytes=domain.maxMemory() * units.KIB,
            persistent=bool(domain.isPersistent()),
        )

    async def standing(self, guest: str) -> Standing:
        """What a domain is doing, and what libvirt keeps of it besides."""

        def look(connection: libvirt.virConnect) -> Standing:
            domain = connection.lookupByName(guest)
            return standing.look(domain, self._guest(domain).state)

        def wanted(connection: libvirt.virConnect) -> tuple[int, int]:
            return measure.wanted_ns(connection, connection.lookupByName(guest)), time.monotonic_ns()

        async def busy_percent() -> int:
            before, began = await self.ask(wanted)
            await asyncio.sleep(BUSY_S)
            after, ended = await self.ask(wanted)
            return (after - before) * 100 // (ended - began)

        found, busy = await asyncio.gather(self.ask(look), busy_percent())
        return replace(found, busy_percent=busy)

    async def objections(self, spec: MigrationSpec, destination: Hypervisor) -> tuple[Objection, ...]:
        """What a daemon, or the libvirt that Segue itself uses, is too old for; what would change the guest's machine."""
        if not isinstance(destination, LibvirtHypervisor):
            raise TypeError("both hosts must be libvirt's")

        def look(connection: libvirt.virConnect) -> tuple[int, tuple[Objection, ...]]:
            return connection.getLibVersion(), definitions.objections(connection.lookupByName(spec.guest), spec)

        (here, found), there = await asyncio.gather(
            self.ask(look), destination.ask(lambda connection: connection.getLibVersion())
        )
        versions = {
            "the libvirt that Segue uses": libvirt.getVersion(),
            f"libvirt on {self.host}": here,
            f"libvirt on {destination.host}": there,
        }
        seen = Seen(host=destination.host, what=f"libvirt {_version(there)}; on {self.host} {_version(here)}")
        missing = virsh.lacking(virsh.Call(spec=spec, there=destination.address), versions)
        old = (Objection(sentence=words, seen=seen, fix="Leave it out, or update that host.") for words in missing)
        return (*old, *found)

    async def parts(self, guest: str) -> Parts:
        """What a running domain is made of, by its live XML."""
        return await self.ask(lambda connection: hosting.parts(connection, guest))

    async def offer(self, wanted: Parts) -> Offer:
        """What this libvirt would give to that domain, by its own comparison of CPUs."""
        return await self.ask(lambda connection: hosting.offer(connection, wanted))

    async def before(self, guest: str, mend: Mend) -> str:
        """The XML of the device as it is."""
        return await self.ask(lambda connection: mending.before(connection.lookupByName(guest), mend))

    async def mend(self, guest: str, mend: Mend) -> None:
        """Change the running domain; what is kept of it for its next start stays."""
        await self.ask(lambda connection: mending.mend(connection.lookupByName(guest), mend))

    async def unmend(self, guest: str, mended: Mended) -> None:
        """Put the device's XML back."""
        await self.ask(lambda connection: mending.unmend(connection.lookupByName(guest), mended))

    async def touched(self, guest: str) -> Touched:
        """The resident part of its QEMU, less what is QEMU's own."""
        found = await self.ask(lambda connection: measure.in_use(connection.lookupByName(guest)))
        if found is None:
            raise HypervisorError(f"libvirt on {self.host} does not say how much memory {guest} uses.", host=self.host)
        return found

    async def dirtied(self, guest: str, *, seconds: int) -> Window:
        """By QEMU's sampling of pages, through libvirt."""
        if not hasattr(libvirt.virDomain, "startDirtyRateCalc"):
            raise HypervisorError("This libvirt (before 7.2) cannot measure a dirty rate.", host=self.host)

        def begin(connection: libvirt.virConnect) -> tuple[libvirt.virDomain, int, int]:
            domain = connection.lookupByName(guest)
            measure.start(domain, seconds)
            return domain, domain.maxMemory() * units.KIB, measure.cpu_ns(domain)

        domain, memory_bytes, before_ns = await self.ask(begin)
        await asyncio.sleep(seconds)
        busy_percent = (await self.ask(lambda _: measure.cpu_ns(domain)) - before_ns) // (seconds * 10_000_000)
        until = time.monotonic() + measure.GRACE_S
        while (rate := await self.ask(lambda connection: measure.measured(connection, domain))) is None:
            if time.monotonic() > until:
                raise HypervisorError(f"libvirt on {self.host} measures no dirty rate of {guest}.", host=self.host)
            await asyncio.sleep(measure.LOOK_S)
        return sampled(
            rate, seconds=seconds, per_gib=measure.SAMPLES_PER_GIB, memory_bytes=memory_bytes, busy_percent=busy_percent
        )

    async def silence(self, *, long_s: float) -> None:
        """Ask this host now and then, and return when it has not answered for so long."""
        heard = time.monotonic()
        while time.monotonic() - heard < long_s:
            await asyncio.sleep(long_s / _ASKED_MEANWHILE)
            with contextlib.suppress(SegueError):
                await self.ask(lambda connection: connection.getLibVersion())
                heard = time.monotonic()

    async def start(self, guest: str) -> None:
        """Start a domain that is defined."""
        await self.ask(lambda connection: connection.lookupByName(guest).create(), deadline_s=START_DEADLINE_S)

    async def evidence(self, guest: str) -> Evidence:
        """What libvirt shows of a domain. Never raises."""

        def look(connection: libvirt.virConnect) -> tuple[Sighting, str]:
            try:
                domain = connection.lookupByName(guest)
                state, reason = domain.state()
                # The job is asked for only where it tells something: beside a QEMU that does not answer, it does not either.
                incoming = fold.is_either_side(state, reason) and _job(domain, state)[1]
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return Sighting.ABSENT, "no such domain"
                raise
            return fold.sighting(state, reason, incoming=incoming), f"state {state}, reason {reason}{', incoming' * incoming}"

        try:
            sighting, raw = await self.ask(look)
        except (HostUnreachable, AnswerNotSeen) as error:
            sighting, raw = Sighting.UNREACHABLE, error.message
        except HypervisorError as error:
            alive = self._connection is not None and self._connection.isAlive()
            sighting, raw = (Sighting.UNKNOWN if alive else Sighting.UNREACHABLE), error.message
        return Evidence(host=self.host, sighting=sighting, seen_at_ms=time.monotonic_ns() // 1_000_000, raw=raw)

    async def aclose(self) -> None:
        """Let go of the connection. It closes with the last reference to it: a call that still hangs on it must not lose it."""
        if self._connection is not None:
            last = [self._connection]
            self._connection = None
            await runtime.call(self.host, last.clear, deadline_s=QUERY_DEADLINE_S)


async def connected(address: HostAddress, *, deadline_s: float) -> libvirt.virConnect:
    """Open a connection.

    Raises:
        HostUnreachable: with libvirt's words, or because it took too long.
    """
    try:
        return await runtime.call(_spoken(address), lambda: runtime.opened(address.uri), deadline_s=deadline_s)
    except HypervisorError as error:
        raise _unreachable(address, error) from error


def _spoken(address: HostAddress) -> str:
    """A host's name in sentences and in commands to type: of one that was given as a URI alone, the name in it."""
    return (urlsplit(address.name).hostname if "://" in address.name else "") or address.name


def _unreachable(address: HostAddress, error: HypervisorError) -> HostUnreachable:
    """Why there is no connection, in words where they are known."""
    name = _spoken(address)
    what = f"{name} does not answer at {address.uri}"
    try_it = f"'virsh -c {address.uri} list' tries the same."
    why = causes.explained(error, (), Scene(guest="", here="", there=name))
    if why is None:
        return HostUnreachable(f"{what}: {error.message}", host=address.name, hint=try_it)
    return HostUnreachable(f"{what}: {why.sentence}", host=address.name, hint=f"{why.fix} {try_it}", quotes=why.quotes)


def _job(domain: libvirt.virDomain, state: int) -> tuple[bool, bool]:
    """Whether the domain is being migrated away, and whether it is arriving.

    libvirt refuses job statistics to the destination of a migration ("migration statistics are available only on the source
    host", seen in 9.0 as VIR_ERR_OPERATION_UNSUPPORTED): that refusal is how it shows.
    """
    if state == libvirt.VIR_DOMAIN_SHUTOFF:
        return False, False
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError as error:
        return False, error.get_error_code() == libvirt.VIR_ERR_OPERATION_UNSUPPORTED
    active = stats.get("type") in (libvirt.VIR_DOMAIN_JOB_BOUNDED, libvirt.VIR_DOMAIN_JOB_UNBOUNDED)
    return active and stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT, False


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
