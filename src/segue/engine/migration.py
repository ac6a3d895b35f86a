"""One migration as a caller holds it: await it for the outcome, iterate it for progress, cancel it.

    outcome = await segue.migrate("web1", "beta")

    migration = segue.migrate("web1", "beta")
    async for event in migration:           # states, samples and decisions, as they come
        ...
    outcome = migration.outcome

What may live here: the handle and the way from names to a running `Runner`. Looking is `inventory`'s, driving is `runner`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final

from segue import config
from segue.core import deltas
from segue.core.downtime import ProbeTarget
from segue.core.forecast import Forecast, first_limit
from segue.core.model import Control, DriverKind, GuestState, HostAddress, Limits, MigrationSpec, Outcome, OutcomeKind, Transport
from segue.core.ports import Hypervisor, Store
from segue.core.record import Record
from segue.core.storage import CopyWish
from segue.core.wishes import LibvirtWishes
from segue.drivers import driver as driver_of_kind
from segue.engine.inventory import Found, Inventory
from segue.errors import (
    CommandFailed,
    HostUnreachable,
    HypervisorError,
    MigrationCancelled,
    MigrationFailed,
    OutcomeAmbiguous,
    RefusedError,
    SameHost,
    SegueError,
    StoreError,
    Unsupported,
)
from segue.hosts import load
from segue.store import open_store

if TYPE_CHECKING:
    from segue.core.connectivity import Sent
    from segue.core.preflight.facts import Unseen
    from segue.engine.delegated import Delegated
    from segue.engine.leader import DriverOf, Leader
    from segue.engine.outlook import Outlook
    from segue.engine.preflight import Preflight
    from segue.engine.runner import Event

_NEXT: Final = "segue.engine.preflight"
"""What is needed once the hosts are reached; loaded while they are."""
_LAST: Final = "segue.engine.leader"
"""What is needed once both hosts were looked at; loaded while they are, as to look is mostly to wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a caller asked for, still in names.

    Attributes:
        guest: name or UUID.
        destination: a host's name in segue.toml, or a connection URI.
        source: the same; empty: look for the guest on every host of segue.toml.
        control, transport, connections, persist, undefine_source, overrides: as in `MigrationSpec`.
        limits, disks, probe, libvirt: the same.
        policy: the name of a ladder in segue.toml; empty: Segue's own.
        observe_only: as in `MigrationSpec`.
        migration_address, migration_ports: in place of the destination's own, as in `HostAddress`.
        accept: codes of preflight's blockers past which it is to go all the same.
        fix: what preflight finds in the way and Segue can mend by itself is mended, and undone if the guest is not moved.
        id: this attempt.
    """

    guest: str
    destination: str
    source: str = ""
    control: Control = Control.DIRECT
    transport: Transport = Transport.NATIVE
    connections: int = 1
    migration_address: str = ""
    migration_ports: tuple[int, int] | None = None
    persist: bool | None = None
    undefine_source: bool | None = None
    overrides: tuple[tuple[str, str], ...] = ()
    limits: Limits = field(default_factory=Limits)
    policy: str = ""
    observe_only: bool = False
    disks: CopyWish | None = None
    accept: tuple[str, ...] = ()
    fix: bool = False
    probe: ProbeTarget | None = None
    libvirt: LibvirtWishes = field(default_factory=LibvirtWishes)
    id: str = field(default_factory=lambda: secrets.token_hex(6))


class Migration:
    """A migration that has been asked for; it starts when it is first awaited or iterated.

    Args:
        request: what was asked for.
        settings: the fleet.
        driver: gives the driver of a kind; the simulated one in rehearsals.
        store: opens the store in which it is written down.
    """

    def __init__(
        self,
        request: Request,
        settings: config.Settings,
        *,
        driver: DriverOf = driver_of_kind,
        store: Callable[[], Store] = open_store,
    ) -> None:
        self.request = request
        self.outcome: Outcome | None = None
        """The end, once it has come; a refusal before the first look at the guest leaves a bare one too."""
        self.seen: Preflight | None = None
        """What preflight found, once it has looked."""
        self.trouble = ""
        """Why not everything of it could be written down; empty when it could."""
        self._settings = settings
        self._driver = driver
        self._open = store
        self._store: Store | None = None
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._leader: Leader | None = None
        self._delegated: Delegated | None = None
        self._task: asyncio.Task[Outcome] | None = None
        self._loading: asyncio.Task[object] | None = None
        self._cancelled_early = False

    def __await__(self) -> Generator[None, None, Outcome]:
        """Wait for the end.

        Returns:
            The outcome of a guest that moved.

        Raises:
            RefusedError: nothing was touched.
            HostUnreachable: nothing was touched.
            MigrationFailed, MigrationCancelled: the guest is on the source; `outcome` has the rest.
            OutcomeAmbiguous: a person must look.
        """
        return self._wait().__await__()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """States, samples and decisions until the end, then what awaiting it would raise. For one reader."""
        self._start()
        while (event := await self._events.get()) is not None:
            yield event
        await self._wait()

    def cancel(self) -> bool:
        """Ask for the guest to stay where it is. Safe at any time, also twice.

        Returns:
            False when there is no way back any more; the migration then goes on to its end.
        """
        if self._leader is not None:
            return self._leader.cancel()
        if self._delegated is not None and self._delegated.id:
            return self._delegated.cancel()
        self._cancelled_early = True
        if self._task is not None:
            self._task.cancel()  # it only looks: whatever host it waits for, nothing has to be undone
        return True

    def _start(self) -> asyncio.Task[Outcome]:
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return self._task

    async def _wait(self) -> Outcome:
        outcome = await asyncio.shield(self._start())
        if error := _error_of(outcome):
            raise error
        return outcome

    async def _run(self) -> Outcome:
        try:
            self.outcome = await self._unless_cancelled_early()
        except SegueError as error:
            self.outcome = self._ended_early(error)
            raise
        else:
            return self.outcome
        finally:
            self._events.put_nowait(None)

    async def _unless_cancelled_early(self) -> Outcome:
        """Look and move; a cancel that comes while it only looks ends the looking at once."""
        cancelled = MigrationCancelled("Cancelled before anything was touched.", guest_at="it is where it was")
        if self._cancelled_early:
            raise cancelled
        try:
            async with Inventory(self._driver) as inventory:
                source, destination, record = await self._record(inventory)
                if _is_delegated(record):
                    return await self._delegate(record)
                from segue.engine.leader import Leader

                store = self._store_open()
                self._leader = Leader(store, record, driver=self._driver, report=self._events.put_nowait)
                await asyncio.to_thread(store.create, record)  # from here on a cancel is the leader's
                return await self._leader.run(source, destination)
        except asyncio.CancelledError:
            if self._cancelled_early:
                raise cancelled from None
            raise
        finally:
            self.trouble = self._leader.trouble if self._leader is not None else ""
            if self._store is not None:
                self._store.close()

    async def _delegate(self, record: Record) -> Outcome:
        """Let the source's Segue lead it, and watch."""
        from segue.engine.delegated import Delegated

        delegated = self._delegated = Delegated(self.request, record.spec, record.source, self._events.put_nowait)
        try:
            await delegated.begin()
            if self._cancelled_early:
                delegated.cancel()
            return await delegated.watch()
        finally:
            await delegated.aclose()

    async def detach(self) -> Record:
        """Look, refuse what cannot work, and let another process lead it; what that process goes by.

        Raises:
            SegueError: nothing was touched.
        """
        from segue.engine import detached
        from segue.engine.delegated import Delegated

        try:
            async with Inventory(self._driver) as inventory:
                _, _, record = await self._record(inventory)
            if _is_delegated(record):
                delegated = Delegated(self.request, record.spec, record.source, self._events.put_nowait)
                try:
                    await delegated.begin()
                finally:
                    await delegated.aclose()
                return replace(record, spec=replace(record.spec, id=delegated.id))
            await asyncio.to_thread(self._store_open().create, record)
        finally:
            if self._store is not None:
                self._store.close()
        await detached.start(record)
        return record

    async def forecast(self, *, tell: Callable[[str], None] = lambda _: None) -> tuple[Record, Outlook]:
        """Look at both hosts and at the guest, and say what to expect; nothing is moved, and nothing is written down.

        Args:
            tell: is told what is being measured.

        Raises:
            SegueError: it would be refused, for the reason that it says.
        """
        from segue.engine import outlook

        try:
            async with Inventory(self._driver) as inventory:
                source, _, record = await self._record(inventory)
                trial = partial(self._send, inventory, record)
                return record, await outlook.look(record, source, self._store_open(), trial=trial, tell=tell)
        finally:
            if self._store is not None:
                self._store.close()

    def _store_open(self) -> Store:
        if self._store is None:
            raise AssertionError("the store is opened while the hosts are looked at")
        return self._store

    async def _record(self, inventory: Inventory) -> tuple[Hypervisor, Hypervisor, Record]:
        """Look at both hosts, and open the store while they answer. What is to be written down, then.

        Not before they were reached: that is work for this process, too; while they are looked at it only waits.
        """
        found, destination = await self._look(inventory)
        from segue.engine import preflight

        opening = asyncio.create_task(asyncio.to_thread(self._open))
        self._loading = asyncio.create_task(asyncio.to_thread(import_module, _LAST))
        try:
            there, seen = await self._preflight(inventory, found, destination)
            self.seen = seen
            preflight.refuse(found, seen)
            if self.request.probe is not None:
                from segue.engine import probe

                await asyncio.to_thread(probe.check, self.request.probe)
        finally:
            await asyncio.wait({opening})
            self._store = None if opening.exception() else opening.result()
        opening.result()
        from segue.engine.journal import wall_ms
        from segue.engine.runner import Told

        for warning in preflight.warnings(seen):
            self._events.put_nowait(Told(text=warning))
        spec = replace(seen.facts.spec, mends=seen.mends)
        record = Record(spec=spec, source=found.address, destination=destination, created_at_ms=wall_ms())
        return found.hypervisor, there, record

    async def check(self) -> Preflight:
        """Look at both hosts, and say everything that stands in the way. Nothing is touched, and nothing is written down.

        Raises:
            RefusedError, UsageError: there is nothing to look at: no such guest, no such host, or it cannot be asked for.
            HostUnreachable: a host does not answer.
        """
        async with Inventory(self._driver) as inventory:
            found, destination = await self._look(inventory)
            from segue.engine import preflight

            (_, seen), expected = await asyncio.gather(
                self._preflight(inventory, found, destination), self._expected(inventory, found, destination)
            )
            return preflight.expecting(seen, expected)

    async def _expected(self, inventory: Inventory, found: Found, destination: HostAddress) -> Forecast | Unseen:
        """What a forecast says, from a short look at the guest: whoever asks for a check waits for it."""
        from segue.core.preflight.facts import Unseen
        from segue.engine import outlook
        from segue.engine.journal import wall_ms

        record = Record(
            spec=self._spec(found, destination), source=found.address, destination=destination, created_at_ms=wall_ms()
        )
        if found.guest.state is not GuestState.RUNNING:
            return Unseen(host=found.address.name, why=f"{found.guest.name} does not run")
        try:
            store = await asyncio.to_thread(self._open)
        except StoreError as error:
            return Unseen(host=found.address.name, why=error.message.removesuffix("."))
        try:
            trial = partial(self._send, inventory, record)
            seen = await outlook.look(record, found.hypervisor, store, trial=trial, windows_s=outlook.SHORT_WINDOWS_S)
        finally:
            await asyncio.to_thread(store.close)
        return seen.expected or Unseen(host=found.address.name, why="; ".join(seen.unmeasured))

    async def _send(self, inventory: Inventory, record: Record) -> Sent:
        """Send something for half a second, as the guest's memory would go."""
        from segue.core import connectivity
        from segue.provision.connectivity import send

        if record.spec.transport is Transport.TUNNELLED:
            raise Unsupported("what a tunnel carries shows when it is used")
        addresses = tuple(one for one in self._ways_to(record.destination) if one.driver is record.spec.driver)
        ends = (inventory.shell(self._ways_to(one)) for one in (record.source, record.destination))
        here, there = await asyncio.gather(*ends)
        address = connectivity.data_host((record.destination, *addresses)) or await there.address()
        return await send(here, there, address, connectivity.data_ports((record.destination, *addresses)))

    async def _preflight(self, inventory: Inventory, found: Found, destination: HostAddress) -> tuple[Hypervisor, Preflight]:
        from segue.engine import preflight

        spec = self._spec(found, destination)
        try:
            there = await inventory.connect(destination)
        except HostUnreachable:
            preflight.refuse_words(spec, destination)
            raise
        ways = (partial(inventory.shell, self._ways_to(found.address)), partial(inventory.shell, self._ways_to(destination)))
        others = (one for one in self._ways_to(destination) if one.driver is not destination.driver)
        ends = (destination, *others)
        with _answering():
            return there, await preflight.look(spec, found, there, ways, ends, accept=self.request.accept, fix=self.request.fix)

    def _ways_to(self, address: HostAddress) -> tuple[HostAddress, ...]:
        """Every address of the host that has this one."""
        return self._settings.hosts.get(address.name, (address,))

    def _spec(self, found: Found, destination: HostAddress) -> MigrationSpec:
        request = self.request
        policy = self._settings.policy(request.policy)
        bare = found.guest.driver is DriverKind.QEMU  # driven through its monitors, which is what unmanaged means
        spec = MigrationSpec(
            id=request.id,
            guest=found.guest.name,
            source=found.address.name,
            destination=destination.name,
            driver=found.guest.driver,
            control=Control.DIRECT if bare and request.control is Control.UNMANAGED else request.control,
            transport=request.transport,
            connections=request.connections,
            persist=request.persist,
            undefine_source=request.undefine_source,
            overrides=request.overrides,
            limits=policy.begin_with(request.limits) if policy else request.limits,
            begins_with_ms=None if policy or request.observe_only else first_limit(request.limits),
            policy=policy,
            observe_only=request.observe_only,
            disks=request.disks,
            probe=request.probe,
            libvirt=request.libvirt,
            stopped=bare and found.guest.state is GuestState.PAUSED,
        )
        return replace(spec, deltas=deltas.possible(spec))

    async def _look(self, inventory: Inventory) -> tuple[Found, HostAddress]:
        """Find the guest, and the destination's address for that kind of guest, asking all hosts at once."""
        request, settings = self.request, self._settings
        if request.source == request.destination:
            raise SameHost(f"Source and destination are both {request.source}.", hint="Name another host as the destination.")
        there = tuple(self._as_asked(address) for address in settings.addresses(request.destination))
        here = settings.addresses(request.source) if request.source else settings.all_addresses()
        if not here:
            raise RefusedError(
                "No hosts are configured, so there is nowhere to look for the guest.",
                hint="Name the source with --from URI, or list your hosts in segue.toml.",
            )
        kinds = {address.driver for address in here}
        load((*there, *here))  # first, or it would compete with what is loaded while they answer
        ahead = [asyncio.create_task(inventory.connect(address)) for address in there if address.driver in kinds]
        self._loading = asyncio.create_task(asyncio.to_thread(import_module, _NEXT))
        try:
            with _answering():
                found = await inventory.find(request.guest, here)
        finally:
            await asyncio.gather(*ahead, return_exceptions=True)
        return found, _counterpart(found, request.destination, there)

    def _as_asked(self, address: HostAddress) -> HostAddress:
        """The destination's address with what was asked for this one migration in place of its own."""
        request = self.request
        return replace(
            address,
            migration_address=request.migration_address or address.migration_address,
            migration_ports=request.migration_ports or address.migration_ports,
        )

    def _ended_early(self, error: SegueError) -> Outcome:
        """The outcome of a migration that never began: what is known of it, and why."""
        from segue.engine.leader import never_begun

        kind = OutcomeKind.CANCELLED if isinstance(error, MigrationCancelled) else OutcomeKind.REFUSED
        return never_begun(self.request, None, kind, str(error))


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """A host that ceases to answer while it is looked at could as well not be reached: nothing was touched."""
    try:
        yield
    except (HypervisorError, CommandFailed) as error:
        raise HostUnreachable(
            f"{error.host} does not answer what it is asked. {error.message}",
            host=error.host,
            guest_at="it is where it was; nothing was touched",
            hint=f"Look at what runs on {error.host}, and try again.",
        ) from error


def _is_delegated(record: Record) -> bool:
    return record.spec.driver is DriverKind.QEMU and record.spec.control is Control.P2P


def _counterpart(found: Found, destination: str, there: tuple[HostAddress, ...]) -> HostAddress:
    """The destination's address for the kind of guest that was found."""
    for address in there:
        if address.driver is found.guest.driver:
            return address
    raise Unsupported(
        f"{found.guest.name} is a {found.guest.driver} guest and {destination} has no address for those: "
        f"{', '.join(address.uri for address in there)}.",
        guest_at=f"it is on {found.address.name}; nothing was touched",
        hint="Add one to its uris in segue.toml, or give a connection URI as the destination.",
    )


def _error_of(outcome: Outcome) -> SegueError | None:
    """What awaiting a migration with that outcome raises."""
    on_source = f"it runs on {outcome.owner}" if outcome.owner else "it runs nowhere"
    match outcome.outcome:
        case OutcomeKind.MOVED:
            return None
        case OutcomeKind.CANCELLED:
            return MigrationCancelled(outcome.error, guest_at=on_source)
        case OutcomeKind.AMBIGUOUS:
            return OutcomeAmbiguous(
                outcome.error,
                guest_at=f"not proven; {outcome.source} and {outcome.destination} must both be looked at",
                hint=f"'segue guests {outcome.source} {outcome.destination}' shows both; start nothing before you know.",
                quotes=outcome.quotes,
            )
        case _:
            return MigrationFailed(outcome.error, guest_at=on_source, hint=outcome.hint, quotes=outcome.quotes)
