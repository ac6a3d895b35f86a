"""A host prepared, verified and put back: the order of looking, deciding, doing and trying.

What may live here: that order. What is decided is in `segue.core.preparing`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Final

from segue.core import hostchecks, pki, preparing
from segue.core.hostchecks import Finding
from segue.core.hostfacts import NFS_PORT, Seen, Wanted
from segue.core.model import HostAddress
from segue.core.steps import Certificates, Install, Step
from segue.errors import HostSetupError, RefusedError, SegueError
from segue.provision.host import proofs
from segue.provision.host.carry import Carrier, Journal, Say
from segue.provision.host.look import guests, look, resolve
from segue.provision.pki import handshake
from segue.provision.pki.authority import Authority
from segue.provision.pki.fleet import Fleet

DAYS: Final = 730
"""How long certificates hold that are issued on the way; as ``segue pki issue``."""
_PEER_UUID: Final = ("cat", "/sys/class/dmi/id/product_uuid")
COMMAND_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What would be done to a host.

    Attributes:
        seen: the host as it is.
        wanted: what it is to be.
        steps: from one to the other.
        warnings: what somebody must know before agreeing.
        silent: other hosts that did not answer, so that nothing could be compared with them.
    """

    seen: Seen
    wanted: Wanted
    steps: tuple[Step, ...]
    warnings: tuple[str, ...]
    silent: Mapping[str, SegueError] = field(default_factory=dict)


class Preparation:
    """One host of a fleet that is to be made ready. The others are asked, and not touched.

    Args:
        fleet: open.
        hosts: the addresses of all of them.
        host: which of them.
        wanted: what the operator asked for; what segue.toml and the other hosts say is added to it.
        places: where shared storage is to be proven.
        open_authority: opens the CA.
        say: is told each step that is begun.
    """

    def __init__(
        self,
        fleet: Fleet,
        hosts: Mapping[str, Sequence[HostAddress]],
        host: str,
        *,
        wanted: Wanted,
        places: Sequence[str],
        open_authority: Callable[[], AbstractContextManager[Authority]],
        say: Say,
    ) -> None:
        fleet.require([host])
        self._fleet = fleet
        self._hosts = hosts
        self._host = host
        self._asked = wanted
        self._places = places
        self._open_authority = open_authority
        self._shell = fleet.shells[host]
        self._carrier = Carrier(self._shell, certificates=self._certify, say=say)
        self._say = say

    async def propose(self) -> Proposal:
        """Look, and decide; nothing is changed, but for what an earlier time did by halves: that is taken back first.

        Raises:
            RefusedError: it cannot be prepared as asked.
            HostSetupError: something there cannot be understood, or half-done work cannot be taken back.
            HostUnreachable, AnswerNotSeen.
        """
        if not (await self._carrier.journal.read()).whole:
            self._say(f"{self._host}: an earlier time was cut short; what it did is taken back first")
            if left := await self._carrier.take_back_last():
                raise HostSetupError(f"Not all could be taken back on {self._host}: {'; '.join(left)}.", hint="Look at that.")
        known = await self._known()
        seen = await look(self._shell, self._asked, names=known)
        wanted = await self._complete(seen, known)
        steps = preparing.plan(seen, wanted)
        return Proposal(
            seen=seen, wanted=wanted, steps=steps, warnings=hostchecks.warnings(seen, wanted), silent=dict(self._fleet.silent)
        )

    async def carry_out(self, proposal: Proposal) -> None:
        """Do it: all, or nothing.

        Raises:
            HostSetupError: it failed; what was done was taken back, or the message says what not.
        """
        if Certificates() in proposal.steps:
            with self._open_authority():
                pass  # where there is none, that is said before anything is touched
        async with self._carrier.together():
            install = [step for step in proposal.steps if isinstance(step, Install)]
            steps: Sequence[Step] = proposal.steps
            if install:
                await self._carrier.carry(install)
                seen = await look(self._shell, self._asked, names=proposal.seen.resolved)
                steps = preparing.plan(seen, proposal.wanted, fresh=True)
            await self._carrier.carry(steps)
            if more := (await self.propose_again(proposal)).steps:
                words = "; ".join(one.text for one in hostchecks.lacking(proposal.seen, more)) or "its daemon does not listen"
                raise HostSetupError(f"{self._host} is not as it should be after all of it: {words}.")

    async def propose_again(self, proposal: Proposal) -> Proposal:
        """What is still to be done."""
        seen = await look(self._shell, self._asked, names=proposal.seen.resolved)
        return replace(proposal, seen=seen, steps=preparing.plan(seen, proposal.wanted))

    async def verify(self) -> list[Finding]:
        """What is not as it should be on the host, also in the eyes of the others.

        Raises:
            RefusedError, HostSetupError, HostUnreachable, AnswerNotSeen.
        """
        known = await self._known()
        seen = await look(self._shell, self._asked, names=known)
        wanted = await self._complete(seen, known)
        found = hostchecks.lacking(seen, preparing.plan(seen, replace(wanted, names={})))
        shells = self._fleet.shells
        names = pki.names_used(self._host, self._hosts[self._host])
        name = next((one for one in names if seen.resolved.get(one)), names[-1])
        port = NFS_PORT if wanted.exports else pki.LIBVIRT_TLS_PORT
        if port not in seen.listening:
            text = f"nobody listens on port {port}"
            found.append(Finding(host=self._host, about="daemon", text=text, fix=f"segue host prepare {self._host}"))
        elif not wanted.exports and (why := await handshake.with_libvirt(self._shell, name, port)):
            text = f"libvirt there does not accept the host's own certificates: {why}"
            found.append(Finding(host=self._host, about="daemon", text=text, fix=f"segue pki verify {self._host}"))
        found += hostchecks.clocks_apart(await proofs.clocks(shells), self._host)
        others = {host: await resolve(shell, known) for host, shell in shells.items() if host != self._host}
        found += hostchecks.names_apart({**others, self._host: seen.resolved}, self._host)
        return [*found, *await self._prove_storage()]

    async def _prove_storage(self) -> list[Finding]:
        if not self._places:
            return []
        shells = self._fleet.shells
        without = await proofs.without_qemu(shells)
        if self._host in without:
            return []
        for host in without:
            self._say(f"{host} has no QEMU yet, so that storage was not tried there")
        able = {host: shell for host, shell in shells.items() if host not in without}
        return [finding for place in self._places for finding in await proofs.storage(self._host, able, place)]

    async def check_undo(self) -> None:
        """See that there is something to take back, and that it may be.

        Raises:
            RefusedError: guests run there, and QEMU would be taken from under them; or there is nothing to take back.
        """
        written = await Journal(self._shell).read()
        if not written.taken:
            raise RefusedError(f"Nothing is written on {self._host} that Segue did there.", hint="There is nothing to take back.")
        if any(isinstance(one.step, Install) for one in written.taken) and (count := await guests(self._shell)):
            raise RefusedError(
                f"QEMU would be removed from {self._host}, and {count} run{'s' if count == 1 else ''} there.",
                hint="Move what runs there away first: 'segue guests' lists it.",
            )

    async def undo(self) -> list[str]:
        """Take back everything that was ever done here, once `check_undo` let it; what could not be, in words."""
        return await self._carrier.take_back_all()

    # --- what is added to what was asked

    async def _certify(self) -> None:
        with self._open_authority() as authority:
            if self._host not in authority.hosts():
                authority.issue(self._host, pki.names_used(self._host, self._hosts[self._host]), days=DAYS)
            await self._fleet.install(authority, self._host)

    async def _known(self) -> dict[str, str]:
        """What each name of the fleet is, as seen from here; what is not known here, or leads here, is left out."""
        names = {name for host, addresses in self._hosts.items() for name in pki.names_used(host, addresses)}
        found = await asyncio.gather(*(asyncio.to_thread(_resolve, name) for name in names))
        return {name: address for name, address in zip(names, found, strict=True) if address and address != name}

    async def _complete(self, seen: Seen, known: Mapping[str, str]) -> Wanted:
        addresses = self._hosts[self._host]
        others = [host for host in self._hosts if host != self._host]
        uuids = []
        for host, shell in self._fleet.shells.items():
            if host != self._host:
                said = await shell.run(_PEER_UUID, deadline_s=COMMAND_S)
                uuids.append(said.stdout.decode(errors="replace").replace("-", "").strip().lower())
        return replace(
            self._asked,
            address=next((one.migration_address for one in addresses if one.migration_address), ""),
            ports=pki.migration_ports(addresses),
            peers=tuple(known.get(host, host) for host in others),
            names=preparing.names_to_write(seen.resolved, known),
            uuids=frozenset(uuids),
        )


def _resolve(name: str) -> str:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return ""
    addresses = [str(one[4][0]) for one in found]
    return next((one for one in addresses if not one.startswith("127.") and one != "::1"), "")
