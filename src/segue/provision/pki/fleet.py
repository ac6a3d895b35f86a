"""Certificates of many hosts: install, verify, take a fleet over to a new CA.

What is done on a host is done whole (`onhost.place`); what is done on several goes on from what it finds there, and may be
repeated. What may live here: the order in which things are done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Final, Self

from segue.core import pki
from segue.core.model import HostAddress
from segue.core.pki import CERTIFICATE, Finding, Flaw, HostSeen, Identity, Role, Row, Service, Shown, Standing, Turn
from segue.errors import PkiError, SegueError
from segue.hosts import HostShell, reach, way_in
from segue.provision.pki import handshake, onhost, x509
from segue.provision.pki.authority import Authority, Ca, Issued
from segue.provision.pki.onhost import Looked

CONNECT_S: Final = 10.0
PREPARED_S: Final = 5.0
"""From the moment that a destination's QEMU has read whom it believes to the one that its source reads what to show: a second, or
three on a starved machine. In between neither may go a step further, or that migration fails, its guest unharmed."""
Say = Callable[[str, str, str], None]
"""Is told what a host is about to do: its name, the turn, and that in words."""


def now_ms() -> int:
    """Unix time."""
    return int(time.time() * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found on a fleet.

    Attributes:
        findings: what is wrong.
        handshakes: how many were tried.
        silent: the hosts that could not be looked at, and why.
    """

    findings: Sequence[Finding]
    handshakes: int
    silent: Mapping[str, SegueError]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """One handshake to try: from a host to another by one of its names, at libvirt's port or at QEMU's."""

    source: str
    destination: str
    name: str
    service: Service


class Fleet:
    """Shells to hosts, opened together. Use as an async context manager.

    Args:
        hosts: the addresses of each, by its name.
    """

    def __init__(self, hosts: Mapping[str, Sequence[HostAddress]]) -> None:
        self._hosts = hosts
        self._shells: dict[str, HostShell] = {}
        self.silent: dict[str, SegueError] = {}
        """The hosts that do not answer."""

    async def __aenter__(self) -> Self:
        async def one(host: str) -> None:
            try:
                way = replace(way_in(self._hosts[host]), name=host)
                self._shells[host] = await reach(way, deadline_s=CONNECT_S)
            except SegueError as error:
                self.silent[host] = error

        await asyncio.gather(*(one(host) for host in self._hosts))
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(shell.aclose() for shell in self._shells.values()))

    @property
    def shells(self) -> Mapping[str, HostShell]:
        """The hosts that answered when they were called."""
        return self._shells

    async def look(self) -> dict[str, Looked]:
        """Every host that answers; one that stops to is `silent` from then on."""

        async def one(host: str) -> tuple[str, Looked] | None:
            try:
                return host, await onhost.look(self._shells[host])
            except SegueError as error:
                self.silent[host] = error
                return None

        asked = [host for host in self._hosts if host not in self.silent]
        return dict(found for found in await asyncio.gather(*map(one, asked)) if found)

    def require(self, hosts: Iterable[str]) -> None:
        """Raise why one of these hosts does not answer, if one does not."""
        for host in hosts:
            if host in self.silent:
                raise self.silent[host]

    # --- install

    async def install(self, authority: Authority, host: str) -> bool:
        """Put on a host what was issued to it, with the CAs that are believed and their lists.

        Returns:
            Whether a libvirt daemon read it at once.

        Raises:
            HostUnreachable: nothing was touched.
            PkiError: what was issued is of no use, or cannot be put there: nothing was changed.
        """
        issued = authority.issued(host)
        believed = authority.believed()
        self._refuse(issued, believed)
        self.require([host])
        shell = self._shells[host]
        user, _ = await onhost.qemu_user(shell)
        trust = dict.fromkeys(Service, b"".join(ca.pair.certificate for ca in believed))
        lists = dict.fromkeys(Service, b"".join(ca.crl for ca in believed))
        files = [*onhost.trust_files(trust), *onhost.revoked_files(lists), *onhost.identity_files(issued, user)]
        await onhost.place(shell, files)
        return await self._reload(host)

    async def _reload(self, host: str) -> bool:
        return await onhost.reload(self._shells[host], pki.tls_port(self._hosts[host]))

    @staticmethod
    def _refuse(issued: Issued, believed: Sequence[Ca]) -> None:
        """Judge what would be installed as if it lay there already."""
        hint = f"'segue pki issue {issued.host}' makes new ones. Nothing was changed on {issued.host}."
        cas = [x509.read(ca.pair.certificate)[0] for ca in believed]
        for identity, pair in issued.pairs.items():
            first = x509.read(pair.certificate)[0]
            certificate = x509.facts(first)
            signer = x509.signer(first, cas)
            revoked = frozenset().union(*(x509.revoked_by(ca.crl, cas) for ca in believed))
            wrong = (
                (certificate.key != x509.key_print(pair.key), "does not belong to its key"),
                (not signer, "was signed by a CA that is not believed any more"),
                (certificate.not_after_ms < now_ms(), "has expired"),
                ((signer, certificate.serial) in revoked, "is revoked"),
            )
            for is_so, what in wrong:
                if is_so:
                    raise PkiError(f"The certificate {identity} that was issued to {issued.host} {what}.", hint=hint)

    async def spread_revocations(self, authority: Authority) -> list[str]:
        """Put the lists of what the CAs revoked on every host that answers, beside those of other CAs.

        Returns:
            The hosts that have them now.
        """
        told = []
        for host, looked in (await self.look()).items():
            try:
                await onhost.place(self._shells[host], onhost.revoked_files(_lists(authority.believed(), looked)))
                await self._reload(host)
                told.append(host)
            except SegueError as error:
                self.silent[host] = error
        return told

    # --- verify

    async def verify(self) -> Verified:
        """Everything that can be wrong with the hosts, each by itself and each with each; nothing is changed."""
        looked = await self.look()
        seen = [one.seen for one in looked.values()]
        names = {one.host: pki.names_used(one.host, self._hosts[one.host], hostname=one.hostname) for one in seen}
        findings = [finding for one in seen for finding in pki.judge(one, names[one.host], now_ms())]
        findings += pki.strangers(seen)
        rings = [
            Ring(source=source, destination=destination, name=name, service=service)
            for source, destination in permutations([one.host for one in seen if one.files], 2)
            for name in names[destination]
            for service in Service
        ]
        flawed = frozenset(finding.host for finding in findings)
        by_host = [[ring for ring in rings if ring.destination == host] for host in looked]
        for found in await asyncio.gather(*(self._ring(looked, group) for group in by_host if group)):
            findings += [_failed(ring, why, flawed, self._hosts[ring.destination]) for ring, why in found]
        return Verified(findings=findings, handshakes=len(rings), silent=self.silent)

    async def _ring(self, looked: Mapping[str, Looked], rings: Sequence[Ring]) -> list[tuple[Ring, str]]:
        """Try all handshakes with one host: those that fail, and why."""
        host = rings[0].destination
        seen = looked[host].seen
        bind = "::" if any(":" in ring.name for ring in rings) else "0.0.0.0"  # noqa: S104  # where QEMU itself would listen
        libvirt = [ring for ring in rings if ring.service is Service.LIBVIRT]
        qemu = [ring for ring in rings if ring.service is Service.QEMU]
        said = [(ring, await self._asked(ring, looked)) for ring in libvirt]
        try:
            ports = pki.migration_ports(self._hosts[host])
            listener = handshake.listener(self._shells[host], seen.qemu_user, seen.qemu_group, bind=bind, ports=ports)
            async with listener as port:
                said += [(ring, await self._asked(ring, looked, port)) for ring in qemu]
        except SegueError as error:
            said.append((qemu[0], str(error)))
        return [(ring, why) for ring, why in said if why]

    async def _asked(self, ring: Ring, looked: Mapping[str, Looked], port: int = 0) -> str:
        shell, seen = self._shells[ring.source], looked[ring.source].seen
        try:
            if ring.service is Service.LIBVIRT:
                return await handshake.with_libvirt(shell, ring.name, pki.tls_port(self._hosts[ring.destination]))
            return await handshake.with_qemu(shell, seen.qemu_user, seen.qemu_group, ring.name, port)
        except SegueError as error:
            return str(error)

    # --- how long

    async def status(self, authority: Authority | None, *, warn_days: int) -> list[Row]:
        """How long everything holds: the CAs, and what lies on each host, as far as it answers."""
        looked, now, rows = await self.look(), now_ms(), []
        for ca in authority.believed() if authority else ():
            shown = Shown(certificate=x509.facts(x509.read(ca.pair.certificate)[0]))
            rows.append(pki.row("-", f"CA {ca.number}", shown, now, warn_days))
        for host in self._hosts:
            if host in looked:
                rows += _rows(looked[host], now, warn_days)
                continue
            rows += [pki.row(host, str(identity), Shown(certificate=None), now, warn_days) for identity in pki.IDENTITIES]
        return rows

    # --- a new CA

    async def rotate(
        self,
        authority: Authority,
        new: Ca,
        *,
        days: int,
        finish: bool,
        say: Say,
        pause: Callable[[float], Awaitable[None]],
    ) -> bool:
        """Take all hosts over to a CA, host by host, so that each believes each other at each moment.

        Args:
            authority: holds the CAs.
            new: the one to believe.
            days: that what it signs is to hold for.
            finish: end the overlap, too.
            say: is told what a host is about to do.
            pause: lets so many seconds pass between two kinds of turns, for what is being prepared (`PREPARED_S`).

        Returns:
            Whether hosts still believe another one, too.

        Raises:
            HostUnreachable: a host does not answer, and without it the others cannot go on; all goes on from here next time.
            PkiError: a host cannot be changed; likewise.
        """
        fingerprint = new.fingerprint
        done: set[tuple[str, Turn]] = set()
        while True:
            looked = await self.look()
            self.require(self._hosts)
            standing = {host: Standing(believes=one.seen.believes, signers=one.seen.signers) for host, one in looked.items()}
            turns = pki.next_turns(standing, fingerprint, finish=finish)
            if not turns:
                return any(one.believes != {fingerprint} for one in standing.values())
            if again := done.intersection(turns):
                host, turn = min(again)
                raise PkiError(
                    f"{host} does not keep what was put there ({turn}).", hint=f"'segue pki verify {host}' may say why."
                )
            if done:
                await pause(PREPARED_S)
            done.update(turns)
            if turns[0][1] is Turn.FORGET:
                for ca in authority.believed():
                    if ca.number != new.number:
                        authority.retire(ca)  # first, so that nothing more is issued by it
            for host, turn in turns:
                say(host, turn, WORDS[turn])
                await self._turn(authority, new, host, turn, looked[host], days)

    async def _turn(self, authority: Authority, new: Ca, host: str, turn: Turn, looked: Looked, days: int) -> None:
        shell, seen = self._shells[host], looked.seen
        lists = onhost.revoked_files(_lists(authority.believed(), looked))
        both = {service: _joined(looked.trust[service], new.pair.certificate) for service in Service}
        match turn:
            case Turn.TRUST:
                await onhost.place(shell, [*onhost.trust_files(both), *lists])
            case Turn.RENEW:
                had = authority.issued(host) if host in authority.hosts() else None
                names = _names(had, self._hosts[host], seen)
                # With the same keys each rename leaves a pair that belongs together, for whoever reads them meanwhile.
                keeping = had if had and _is_shown(had, seen) else None
                issued = authority.issue(host, names, days=days, by=new, keeping=keeping)
                files = onhost.identity_files(issued, seen.qemu_user)
                await onhost.place(shell, [*onhost.trust_files(both), *lists, *files])
            case Turn.FORGET:
                only = dict.fromkeys(Service, new.pair.certificate)
                own = dict.fromkeys(Service, new.crl)
                await onhost.place(shell, [*onhost.trust_files(only), *onhost.revoked_files(own)])
        await self._reload(host)


WORDS: Final = {
    Turn.TRUST: "trusts the new CA beside the old one",
    Turn.RENEW: "shows certificates of the new CA",
    Turn.FORGET: "trusts the new CA alone",
}


def _lists(believed: Sequence[Ca], looked: Looked) -> dict[Service, bytes]:
    """What these CAs revoked, and what lies on the host of other CAs: who was let in no more is not let in again."""
    own = [x509.read(ca.pair.certificate)[0] for ca in believed]
    ours = b"".join(ca.crl for ca in believed)
    return {service: ours + x509.lists_of_others(there, own) for service, there in looked.revoked.items()}


def _joined(believed: bytes, certificate: bytes) -> bytes:
    """A trust file with one more CA, and without those that have expired: with such a one no daemon would start again."""
    try:
        known = {x509.facts(one).fingerprint: one for one in [*x509.read(believed), *x509.read(certificate)]}
    except PkiError:
        return certificate
    return b"".join(x509.pem(one) for one in known.values() if x509.facts(one).not_after_ms > now_ms())


def _names(had: Issued | None, addresses: Sequence[HostAddress], seen: HostSeen) -> tuple[str, ...]:
    """All that a host's certificates held for, and what the fleet calls it."""
    shown = seen.shown[Identity(Service.LIBVIRT, Role.SERVER)].certificate
    known = [*(sorted(shown.names) if shown else ()), *(had.names if had else ())]
    return tuple(dict.fromkeys([*pki.names_used(seen.host, addresses, hostname=seen.hostname), *known]))


def _is_shown(issued: Issued, seen: HostSeen) -> bool:
    """Whether the keys of this are those on the host."""
    return all(x509.key_print(pair.key) == seen.shown[identity].key for identity, pair in issued.pairs.items())


def _rows(looked: Looked, now: int, warn_days: int) -> list[Row]:
    seen = looked.seen
    rows = [
        pki.row(seen.host, f"trusted by {service}", Shown(certificate=ca), now, warn_days)
        for service in Service
        for ca in seen.trusted.get(service, ())
    ]
    return rows + [pki.row(seen.host, str(identity), shown, now, warn_days) for identity, shown in seen.shown.items()]


def _failed(ring: Ring, why: str, flawed: frozenset[str], addresses: Sequence[HostAddress]) -> Finding:
    """A handshake that did not succeed.

    Args:
        ring: which.
        why: in the words of who tried it.
        flawed: the hosts of which something else is wrong, too.
        addresses: of the host that was to be reached.
    """
    first, last = pki.migration_ports(addresses)
    there = ring.destination
    listen = "systemctl enable --now virtproxyd-tls.socket (or libvirtd-tls.socket)"
    fix = {
        Service.LIBVIRT: f"on {there}: {listen}; let port {pki.tls_port(addresses)} through",
        Service.QEMU: f"on {there}: install qemu-utils (Fedora: qemu-img), let ports {first} to {last} through",
    }[ring.service]
    if to_mend := sorted(flawed & {ring.source, there}):
        fix = f"first mend what else is wrong with {' and '.join(to_mend)}"
    return Finding(
        host=there,
        flaw=Flaw.HANDSHAKE,
        path=CERTIFICATE[Identity(ring.service, Role.SERVER)],
        text=f"{ring.source} → {ring.name}: no TLS with {ring.service} there: {why.rstrip('.')}",
        fix=fix,
    )
