"""Preflight: gathers facts from both hosts at once, has them judged, and refuses what stands in the way, all of it in one answer.

Each question has a deadline of its own, and one without an answer is a fact too: `Unseen`. It looks and never acts.
What may live here: who is asked what, and how findings become a refusal. What they mean is decided in `core.preflight`.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from segue.core import combinations, preflight
from segue.core.evidence import Sighting
from segue.core.forecast import Forecast
from segue.core.mends import Mend
from segue.core.model import DriverKind, HostAddress, MigrationSpec
from segue.core.ports import Hypervisor
from segue.core.preflight import CHECKS, blockers, verdict
from segue.core.preflight.asked import as_asked
from segue.core.preflight.facts import Facts, Files, Kind, Objection, Offer, Parts, Path, Side, Standing, Unseen
from segue.core.preflight.findings import Finding, Severity, Verdict
from segue.engine.inventory import Found
from segue.errors import (
    DestinationTaken,
    GuestBusy,
    GuestNotRunning,
    HostUnreachable,
    RefusedError,
    SameHost,
    SegueError,
    Unsupported,
    UsageError,
)
from segue.hosts import HostShell
from segue.hosts.guestfiles import Wanted, compare
from segue.provision import connectivity, path

T = TypeVar("T")
Shells = tuple[Callable[[], Awaitable[HostShell]], Callable[[], Awaitable[HostShell]]]
"""Ways in to source and destination, opened when they are first needed."""

ANSWER_DEADLINE_S: Final = 8.0
"""For one question. They are asked at once, so this is also how long preflight may take on a host that does not answer; one that
does answers all within half a second."""

LOGIN_DEADLINE_S: Final = 4.0
"""For a login by ssh to a host that is otherwise reached through libvirt: a migration shall not wait long for it."""

# What a lone blocker is raised as, so that callers of the library can tell them apart; all others are a plain RefusedError.
_KINDS: Final[dict[str, type[RefusedError]]] = {
    "asked": Unsupported,
    "same-host": SameHost,
    "destination-taken": DestinationTaken,
    "guest-not-running": GuestNotRunning,
    "guest-busy": GuestBusy,
    "unsupported": Unsupported,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What preflight found.

    Attributes:
        facts: what it knows.
        findings: everything that is found, the gravest first.
        accepted: codes of blockers that an operator accepts.
        fix: what Segue can mend by itself is to be mended, and stands no more in the way.
    """

    facts: Facts
    findings: tuple[Finding, ...]
    accepted: frozenset[str] = frozenset()
    fix: bool = False

    @property
    def verdict(self) -> Verdict:
        """What it comes to."""
        return verdict(self.blockers, self.accepted)

    @property
    def blockers(self) -> tuple[Finding, ...]:
        """What stands in the way."""
        found = blockers(self.findings, self.accepted)
        return tuple(one for one in found if one.mend is None) if self.fix else found

    @property
    def mends(self) -> tuple[Mend, ...]:
        """What is to be changed beforehand."""
        return tuple(one.mend for one in blockers(self.findings, self.accepted) if one.mend and self.fix)

    @property
    def fine(self) -> tuple[str, ...]:
        """The codes of checks that found nothing."""
        return preflight.fine(self.facts, self.findings)


def accepting(codes: tuple[str, ...]) -> frozenset[str]:
    """The codes that an operator accepts.

    Raises:
        UsageError: one of them is unknown, or is of a check that nobody can be let past.
    """
    for code in codes:
        if code not in CHECKS:
            raise UsageError(f"There is no finding {code!r}.", hint="'segue check GUEST DESTINATION' tells the code of each.")
        if why := CHECKS[code].never:
            raise UsageError(f"The finding {code} cannot be accepted: {why}.")
    return frozenset(codes)


async def look(
    spec: MigrationSpec,
    found: Found,
    destination: Hypervisor,
    shells: Shells,
    addresses: tuple[HostAddress, ...],
    *,
    accept: tuple[str, ...] = (),
    fix: bool = False,
) -> Preflight:
    """Look at everything, at once: first what the guest is, then what both hosts have of what it needs.

    Args:
        spec: what was asked for.
        found: the guest on its source.
        destination: the other host.
        shells: ways in to both.
        addresses: the destination's, that for this kind of guest first.
        accept: codes of blockers that an operator accepts.
        fix: what Segue can mend by itself is to be mended.

    Raises:
        HostUnreachable: one of the hosts does not answer at all; nothing was touched.
        UsageError: a code cannot be accepted.
    """
    accepted = accepting(accept)
    source, guest = found.hypervisor, found.guest
    (parts, offer, files), way, here, there, sighting, (standing, objections) = await asyncio.gather(
        _parts_and_offer(spec, found, destination, shells),
        _path(spec, found, destination, shells, addresses),
        source.identity(),
        destination.identity(),
        destination.evidence(spec.arrives_as),
        _standing_and_objections(spec, source, destination, addresses[0]),
    )
    if sighting.sighting is Sighting.UNREACHABLE:
        raise HostUnreachable(
            f"{destination.host} does not answer: {sighting.raw}", host=destination.host, guest_at=_place(found)
        )
    facts = Facts(
        spec=spec,
        guest=guest,
        source=Side(host=source.host, identity=here),
        destination=Side(host=destination.host, identity=there, sighting=sighting),
        objections=objections,
        standing=standing,
        parts=parts,
        offer=offer,
        files=files,
        path=way,
    )
    return Preflight(facts=facts, findings=preflight.judge(facts), accepted=accepted, fix=fix)


def expecting(seen: Preflight, expected: Forecast | Unseen) -> Preflight:
    """With a forecast, which takes longer than all else and is made beside it."""
    facts = replace(seen.facts, expected=expected)
    return replace(seen, facts=facts, findings=preflight.judge(facts))


async def _standing_and_objections(
    spec: MigrationSpec, source: Hypervisor, destination: Hypervisor, address: HostAddress
) -> tuple[Standing | Unseen, tuple[Objection, ...] | Unseen]:
    """How the guest stands; what cannot be asked for together, and what these hosts cannot do of it."""
    found = combinations.objections(spec, address)
    standing, theirs = await asyncio.gather(
        answered(source.host, source.standing(spec.guest)), answered(source.host, source.objections(spec, destination))
    )
    if isinstance(theirs, Unseen):
        return standing, found or theirs
    return standing, (*found, *theirs)


def refuse_words(spec: MigrationSpec, destination: HostAddress) -> None:
    """Refuse what cannot be asked for, where the destination cannot be asked anything.

    Raises:
        Unsupported: everything that cannot be.
    """
    if found := combinations.objections(spec, destination):
        raise Unsupported(
            " ".join(one.sentence for one in found),
            guest_at=f"it is on {spec.source}; nothing was touched",
            hint=" ".join(one.fix for one in found),
        )


async def _path(
    spec: MigrationSpec, found: Found, destination: Hypervisor, shells: Shells, addresses: tuple[HostAddress, ...]
) -> Path | Unseen:
    """What is between both hosts; where a port of the destination is closed, the rule that closes it, too."""
    hosts = (found.hypervisor.host, destination.host)
    ends = (answered(host, way(), deadline_s=LOGIN_DEADLINE_S) for host, way in zip(hosts, shells, strict=True))
    here, there = await asyncio.gather(*ends)
    if isinstance(here, Unseen):
        return here
    if isinstance(there, Unseen):
        return there
    user = found.guest.process.user if found.guest.process is not None else ""
    seen = await answered(destination.host, path.look(here, there, spec, addresses, user=user))
    if isinstance(seen, Unseen) or seen.pair.sent is None or seen.pair.sent.reply.worked is not False:
        return seen
    guarded = await connectivity.look(there, ())
    end = replace(seen.pair.destination, rules=guarded.rules, keeper=guarded.keeper)
    return replace(seen, pair=replace(seen.pair, destination=end))


async def _parts_and_offer(
    spec: MigrationSpec, found: Found, destination: Hypervisor, shells: Shells
) -> tuple[Parts | Unseen, Offer | Unseen, Files | Unseen]:
    """What the guest is made of, and whether the destination has that."""
    hosts = (found.hypervisor.host, destination.host)
    ways = asyncio.gather(*(answered(host, way(), deadline_s=LOGIN_DEADLINE_S) for host, way in zip(hosts, shells, strict=True)))
    parts = await answered(found.hypervisor.host, found.hypervisor.parts(found.guest.name))
    if isinstance(parts, Unseen):
        await ways
        return parts, parts, parts
    parts = as_asked(spec, parts)
    offer = asyncio.create_task(answered(destination.host, destination.offer(parts)))
    here, there = await ways
    if not needs_files(parts):
        return parts, await offer, Files(here={}, there={})
    if isinstance(here, Unseen):
        return parts, await offer, here
    if isinstance(there, Unseen):
        return parts, await offer, there
    # Whom QEMU runs as there, only libvirt's offer tells; bare QEMUs run as the same user on both.
    other = parts.user if spec.driver is not DriverKind.LIBVIRT else _user(await offer)
    wanted = wanted_files(spec, parts, users=(parts.user, other))
    files = await answered(destination.host, compare(here, there, wanted))  # the offer is made meanwhile
    return parts, await offer, files


def _user(offer: Offer | Unseen) -> str:
    return "" if isinstance(offer, Unseen) else offer.user


def needs_files(parts: Parts) -> bool:
    """Whether anything has to be looked for on the hosts themselves."""
    outside = any(part.path or part.ports or part.listens for part in parts.devices)
    return outside or bool(parts.files) or any(disk.path for disk in parts.disks)


def wanted_files(spec: MigrationSpec, parts: Parts, *, users: tuple[str, str]) -> Wanted:
    """What has to be looked for on the hosts themselves."""
    outputs = {posixpath.dirname(part.path) or "." for part in parts.devices if part.kind is Kind.OUTPUT}
    media = [part.path for part in parts.devices if part.path and part.kind in (Kind.CDROM, Kind.FLOPPY)]
    disks = [disk for disk in parts.disks if disk.path]
    below = [path for disk in disks for path in disk.backing]
    return Wanted(
        paths=tuple(dict.fromkeys([*(disk.path for disk in disks), *below, *media, *parts.files, *sorted(outputs)])),
        written=tuple(disk.path for disk in disks if not disk.read_only),
        rooms=tuple(dict.fromkeys(posixpath.dirname(disk.path) for disk in disks)) if spec.disks else (),
        ports=any(part.ports for part in parts.devices),
        addresses=any(part.listens for part in parts.devices),
        directory=parts.directory,
        users=users,
        given=spec.driver is DriverKind.LIBVIRT,
    )


async def answered(host: str, question: Awaitable[T], *, deadline_s: float = ANSWER_DEADLINE_S) -> T | Unseen:
    """An answer, or why there is none."""
    try:
        async with asyncio.timeout(deadline_s):
            return await question
    except TimeoutError:
        return Unseen(host=host, why=f"no answer within {deadline_s:g} s")
    except SegueError as error:
        return Unseen(host=host, why=error.message.removesuffix("."))


def refuse(found: Found, seen: Preflight) -> None:
    """Refuse what may not start: everything that stands in the way, in one error.

    Raises:
        RefusedError: of a kind of its own where there is one blocker of a known kind. Nothing was touched.
    """
    if not (against := seen.blockers):
        return
    if len(against) == 1:
        [one] = against
        raise _KINDS.get(one.code, RefusedError)(one.sentence, guest_at=_place(found), hint=one.fix)
    said = " ".join(f"({number}) {one.sentence}" for number, one in enumerate(against, 1))
    raise RefusedError(
        f"{len(against)} things stand in the way of moving {found.guest.name}. {said}",
        guest_at=_place(found),
        hint=f"'segue check {found.guest.name} {seen.facts.spec.destination}' shows each with its evidence and its fix.",
    )


def warnings(seen: Preflight) -> tuple[str, ...]:
    """What whoever migrates should be told all the same: warnings, and blockers that were accepted."""
    told = [one for one in seen.findings if one.severity is Severity.WARNING or one.code in seen.accepted]
    return tuple(f"{one.code}: {one.sentence}" for one in told)


def _place(found: Found) -> str:
    return f"it is on {found.hypervisor.host}, {found.guest.state}; nothing was touched"
