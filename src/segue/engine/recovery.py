"""Settles what was left unfinished: takes up migrations whose leader is gone, and looks for what nobody remembers.

It looks first and never replays: what both hosts show, with the journal's intents, says what is left to do. Doing it twice is
harmless. What may live here: choosing what to take up, and saying what was seen. The doing is the runner's, as in any
migration.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from segue.core import ownership
from segue.core.evidence import Evidence
from segue.core.model import Guest, GuestState, HostAddress, MigrationSpec, Outcome
from segue.core.ownership import Remedy, Verdict
from segue.core.phases import MAY_HAVE_RUN, State
from segue.core.ports import Store
from segue.core.record import Record
from segue.engine import listeners
from segue.engine.inventory import Inventory, Surveyed
from segue.engine.journal import wall_ms
from segue.engine.leader import DriverOf, Leader
from segue.engine.listeners import Listener
from segue.engine.runner import Report
from segue.errors import HostUnreachable, SegueError


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What both hosts show of a migration's guest, and what follows."""

    record: Record
    source: Evidence
    destination: Evidence
    verdict: Verdict


async def look(record: Record, driver: DriverOf) -> Looked:
    """Look at both hosts, and act on neither.

    Raises:
        HostUnreachable: with what the other one shows.
    """
    async with Inventory(driver) as inventory:
        return await _look(record, inventory)


async def _look(record: Record, inventory: Inventory) -> Looked:
    spec = record.spec
    answers = await asyncio.gather(
        _evidence(inventory, record.source, spec.guest),
        _evidence(inventory, record.destination, spec.arrives_as),
        return_exceptions=True,
    )
    silent = [answer for answer in answers if isinstance(answer, BaseException)]
    heard = [answer for answer in answers if isinstance(answer, Evidence)]
    if silent:
        if not isinstance(silent[0], HostUnreachable):
            raise silent[0]
        others = ", ".join(f"{evidence.host} shows it {evidence.sighting}" for evidence in heard) or "neither host answers"
        raise HostUnreachable(
            f"{silent[0].message} Without both hosts nothing is concluded.",
            host=silent[0].host,
            guest_at=others,
            hint=f"'segue recover {record.id}' again when {silent[0].host} answers; start the guest nowhere before.",
        )
    source, destination = heard
    verdict = ownership.judge_migration(
        spec, source, destination, past=record.phase in MAY_HAVE_RUN, told_to_run=record.told_to_run
    )
    return Looked(record=record, source=source, destination=destination, verdict=verdict)


async def _evidence(inventory: Inventory, address: HostAddress, guest: str) -> Evidence:
    return await (await inventory.connect(address)).evidence(guest)


async def recover(store: Store, record: Record, driver: DriverOf, *, report: Report, discard: bool = False) -> Outcome:
    """Take a migration up and bring it to its end; one that has ended and left nothing is only told again.

    Raises:
        LeaseHeld: a living process leads it.
        HostUnreachable: a host does not answer; nothing was done.
    """
    if record.settled and record.outcome is not None:
        return record.outcome
    async with Inventory(driver) as inventory:
        await _look(record, inventory)  # says it in words when a host is silent, before anything is begun
        return await Leader(store, record, driver=driver, report=report).take_up(discard=discard, inventory=inventory)


# --- what nobody remembers


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something on the hosts that should not be.

    Attributes:
        text: what, on which hosts.
        hint: what to do.
        repair: a migration to take up, which mends it; ``None`` where only a person may.
    """

    text: str
    hint: str
    repair: Record | None = None


_EXECUTES: Final = frozenset({GuestState.RUNNING, GuestState.MIGRATING_OUT})
_MOVES: Final = frozenset({GuestState.MIGRATING_OUT, GuestState.MIGRATING_IN})
"""Then a QEMU may well listen; one that waits in vain to receive is found as such."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a look over all hosts came to.

    Attributes:
        silent: addresses that did not answer: what is there is not known.
        unseen: hosts without a way in, and why: what listens there is not known.
    """

    findings: Sequence[Finding]
    silent: Sequence[Surveyed]
    unseen: Sequence[tuple[str, SegueError]]


async def sweep(
    store: Store, addresses: Sequence[HostAddress], driver: DriverOf, *, listening: listeners.Look = listeners.unasked
) -> Swept:
    """Look over all hosts for what a migration may have left.

    That is guests that run twice or nowhere, half-started destinations, ports on which a QEMU still listens, and migrations that
    were left half-way.
    """
    async with Inventory(driver) as inventory:
        surveyed, (heard, unseen) = await asyncio.gather(inventory.survey(addresses), listening(addresses))
    records = await asyncio.to_thread(lambda: store.find(unsettled=True, limit=1000))
    seen = [(answer.address, guest) for answer in surveyed for guest in answer.guests]
    findings = [_unfinished(record) for record in records]
    remembered = {name for record in records for name in (record.spec.guest, record.spec.arrives_as)}
    for name in sorted({guest.name for _, guest in seen} - remembered):
        findings += _odd(name, [(address, guest) for address, guest in seen if guest.name == name])
    expected = remembered | {guest.name for _, guest in seen if guest.state in _MOVES}
    findings += [_listens(one) for one in heard if one.guest not in expected]
    return Swept(findings=findings, silent=[answer for answer in surveyed if answer.error is not None], unseen=unseen)


def _listens(one: Listener) -> Finding:
    close = f"virsh -c qemu+ssh://root@{one.host}/system qemu-monitor-command {one.guest} --hmp nbd_server_stop"
    return Finding(
        text=f"{one.guest} on {one.host} (pid {one.pid}) listens on port {one.port}, which its command line does not name",
        hint=f"A migration left it open, or somebody who used its monitor. When no disk is being copied to it, close it: {close} "
        "(libvirt), or nbd-server-stop by its monitor (bare QEMU).",
    )


def _unfinished(record: Record) -> Finding:
    led = record.led
    text = f"{record.spec.guest}: migration {record.id} from {record.spec.source} to {record.spec.destination}"
    if led:
        return Finding(text=f"{text} is under way ({record.state})", hint=f"'segue watch {record.id}' shows it.")
    how = "ended with something left over" if record.outcome is not None else f"was left in {record.state}"
    return Finding(text=f"{text} {how}", hint=f"'segue recover {record.id}' settles it.", repair=record)


def _odd(name: str, places: Sequence[tuple[HostAddress, Guest]]) -> Iterable[Finding]:
    running = [(address, guest) for address, guest in places if guest.state in _EXECUTES]
    waiting = [(address, guest) for address, guest in places if guest.state is GuestState.MIGRATING_IN]
    if len(running) > 1:
        hosts = " and ".join(address.name for address, _ in running)
        yield Finding(
            text=f"{name} runs on {hosts}: two copies, or two guests of one name",
            hint="If they are one guest, stop one at once: both write to its disk. Look at their disks and network first.",
        )
    for address, guest in waiting:
        if len(running) != 1:
            yield Finding(
                text=f"{name} waits on {address.name} to receive a guest that runs nowhere",
                hint="End it by hand if nobody is about to send it.",
            )
            continue
        [(home, _)] = running
        yield Finding(
            text=f"{name} runs on {home.name}, and a half-started destination of it waits on {address.name}",
            hint=f"'segue recover --sweep --repair' ends what waits on {address.name}.",
            repair=_invented(guest, home, address) if home.driver is address.driver else None,
        )


def _invented(guest: Guest, home: HostAddress, waiting: HostAddress) -> Record:
    """A record for a migration that nobody wrote down, as it would stand after it failed."""
    return Record(
        spec=MigrationSpec(
            id=secrets.token_hex(6), guest=guest.name, source=home.name, destination=waiting.name, driver=guest.driver
        ),
        source=home,
        destination=waiting,
        created_at_ms=wall_ms(),
        state=State.FAILING,
        phase=State.PREPARE,
    )


async def repair(store: Store, finding: Finding, driver: DriverOf, *, report: Report) -> Outcome:
    """Mend what was found.

    Raises:
        LeaseHeld, HostUnreachable: as for `recover`.
    """
    record = finding.repair
    if record is None:
        raise ValueError("only a person may mend that")
    known = await asyncio.to_thread(functools.partial(store.find, guest=record.spec.guest, unsettled=True))
    if record.id not in {one.id for one in known}:
        await asyncio.to_thread(store.create, record)
    return await recover(store, record, driver, report=report)


def words(remedy: Remedy) -> str:
    """What a remedy means for the one who asked, as a clause."""
    return _WORDS[remedy]


_WORDS: Final = {
    Remedy.NOTHING: "nothing is left to do",
    Remedy.WAIT: "a host must answer first",
    Remedy.ROLL_BACK: "end what the destination holds, let the source go on",
    Remedy.RESUME_DESTINATION: "let the destination run, then end what the source holds",
    Remedy.RELEASE_SOURCE: "end what the source still holds",
    Remedy.FOLLOW: "see the post-copy through",
    Remedy.RECONNECT: "connect the post-copy again",
    Remedy.DISCARD: "the guest is lost: '--discard' ends what is left of it, then it can be started from its disk",
    Remedy.RESTART: "the guest is gone from both hosts: it can be started from its disk, on one of them",
    Remedy.ASK: "nothing is safe: a person must look at both hosts",
}
