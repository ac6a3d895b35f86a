"""What the engine needs of the world: the Protocols that drivers fulfil.

Both real drivers and the simulated one answer exactly these; tests/contract holds them to the same behaviour. What may live here:
Protocols with their promises in words. No implementation.

Rules for every method: it ends within the deadline it is given or raises; it raises only errors of `segue.errors`; a query never
acts; an action says in its docstring whether it may be repeated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from segue.core.evidence import Evidence
from segue.core.model import Guest, HostAddress, HostFacts, MigrationSpec, Progress


class Attempt(Protocol):
    """One migration of one guest between two connected hosts, as one driver performs it.

    The engine calls, in this order: `prepare`, `perform`, then `finish` and `confirm`; or, before `finish`, `cancel` and
    `roll_back`.
    `start_postcopy`, `set_bandwidth` and `set_max_downtime` may be called while `perform` is being iterated.
    """

    async def prepare(self) -> None:
        """Make the destination ready to receive; the source is not touched.

        Where the daemons do this themselves (libvirt) it only checks that they can.

        Raises:
            PrepareFailed: with the destination's own words. The guest runs on the source; `roll_back` removes what is left.
        """
        ...

    def perform(self) -> AsyncIterator[Progress]:
        """Start sending and report until the source has handed over, failed or was cancelled.

        Yields a sample at least every 200 ms, whatever the hypervisor does, and at once on its events. The last sample has a
        final status; when that is ``COMPLETED``, the source has handed over: it stands still or is gone.

        Raises:
            HypervisorError: starting was refused; nothing was sent.
            AnswerNotSeen: the connection to the source is lost; the migration may go on.
        """
        ...

    async def start_postcopy(self) -> None:
        """Ask for post-copy now. May be repeated. From the moment that post-copy is seen there is no way back."""
        ...

    async def set_max_downtime(self, ms: int) -> None:
        """Allow the guest to stand still this long, from now on. May be repeated."""
        ...

    async def set_bandwidth(self, bps: int) -> None:
        """Send at most so many bytes per second, from now on. May be repeated."""
        ...

    async def cancel(self) -> None:
        """Ask the hypervisor to stop sending, and wait until its job has ended, one way or the other.

        Ends quietly where there is nothing to cancel any more. May be repeated.
        """
        ...

    async def roll_back(self) -> None:
        """Bring the world back to before `prepare`: destination's leftovers removed, the guest going on where it was.

        Acts on the destination only while it provably never ran the guest, and resumes the source only after the destination was
        seen to be gone. May be repeated.
        """
        ...

    async def finish(self) -> None:
        """Let the destination run, and see it run.

        Where the daemons do it (libvirt) this waits for their answer. Repeating it is harmless.

        Raises:
            HypervisorError, AnswerNotSeen: the destination may or may not run; only evidence can say.
        """
        ...

    async def confirm(self) -> None:
        """Remove what is left on the source, and put the configuration where it was asked to be. May be repeated.

        Called only after the destination was seen running.
        """
        ...

    async def result(self) -> Progress:
        """The hypervisor's last word on this migration: downtime, bytes, iterations. Asked after the end."""
        ...

    async def aclose(self) -> None:
        """Let go of every task, socket and connection of this attempt. The guest is not touched. May be repeated."""
        ...


class Hypervisor(Protocol):
    """A connection to the hypervisor of one host. Made by a driver's ``connect(address)``."""

    @property
    def host(self) -> str:
        """The name of the host, for people."""
        ...

    async def facts(self) -> HostFacts:
        """What this host is."""
        ...

    async def guests(self) -> Sequence[Guest]:
        """Every guest of this kind on the host, running or not, in order of name.

        Never raises for one odd guest: it is listed with its `obstacle`.
        """
        ...

    async def evidence(self, guest: str) -> Evidence:
        """What this host shows of the guest now. Never raises: an unreachable host is evidence too."""
        ...

    async def aclose(self) -> None:
        """Close the connection. May be repeated."""
        ...


class Driver(Protocol):
    """One way to speak to hypervisors: libvirt, bare QEMU, or the simulated one."""

    async def connect(self, address: HostAddress, *, deadline_s: float) -> Hypervisor:
        """Reach the hypervisor of a host.

        Raises:
            HostUnreachable: no answer within the deadline, with what was tried.
        """
        ...

    def attempt(self, spec: MigrationSpec, source: Hypervisor, destination: Hypervisor) -> Attempt:
        """An attempt that has not touched anything yet.

        Raises:
            Unsupported: this driver cannot take that control path or transport; the message names what can.
        """
        ...
