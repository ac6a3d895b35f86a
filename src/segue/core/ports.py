"""What the engine needs of the world: the Protocols that drivers fulfil.

Both real drivers and the simulated one answer exactly these; tests/contract holds them to the same behaviour. What may live here:
Protocols with their promises in words. No implementation.

Rules for every method: it ends within the deadline it is given or raises; it raises only errors of `segue.errors`; a query never
acts; an action says in its docstring whether it may be repeated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # only words of promises: whoever imports them pays for none of what they speak of
    from segue.core.causes import Quote
    from segue.core.downtime import Client, Gap, Moments
    from segue.core.evidence import Evidence
    from segue.core.measured import Touched, Window
    from segue.core.mends import Mend, Mended
    from segue.core.model import Guest, HostAddress, HostFacts, MigrationSpec, Progress
    from segue.core.preflight.facts import Objection, Offer, Parts, Standing
    from segue.core.record import Action, Change, Holder, Lease, Record, Sample, Settings, Story, Wishes


class Attempt(Protocol):
    """One migration of one guest between two connected hosts, as one driver performs it.

    The engine calls, in this order: `prepare`, `perform`, then `finish` and `confirm`; or, before `finish`, `cancel` and
    `roll_back`.
    `start_postcopy`, `set_bandwidth`, `set_max_downtime`, `set_throttle` and `settings` may be called while `perform` is being
    iterated.

    Where the process that began it has died, another one makes an attempt of its own and calls `reattach` in place of `prepare`.
    Every action on a hypervisor is surrounded by `ActionLog.acting`.
    """

    async def reattach(self, *, told_to_run: bool) -> None:
        """Take up an attempt that another process began: look at what is there, and act on nothing.

        Afterwards `perform` follows the job that is there without starting one, and ends with its final status; without a job
        its only sample has status ``NONE``.

        Args:
            told_to_run: the journal has an intent to let the destination run.

        Raises:
            HypervisorError: what is there cannot be seen.
        """
        ...

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

    async def start_postcopy(self, *, background_bps: int | None = None) -> None:
        """Ask for post-copy now. May be repeated. From the moment that post-copy is seen there is no way back.

        Args:
            background_bps: what the guest does not wait for is sent at no more than this, in bytes per second; ``None``: as fast
                as it goes. A hypervisor that cannot be told goes over all the same.
        """
        ...

    async def set_max_downtime(self, ms: int) -> None:
        """Allow the guest to stand still this long, from now on. May be repeated."""
        ...

    async def set_bandwidth(self, bps: int) -> None:
        """Send at most so many bytes per second, from now on. May be repeated."""
        ...

    async def set_throttle(self, percent: int) -> None:
        """Let auto-converge slow the guest by so much of its CPU time, no more, when it next sees that it must. May be repeated.

        Raises:
            HypervisorError: it cannot be steered on the way (libvirt), or was not allowed from the start; nothing has changed.
        """
        ...

    async def recover_postcopy(self) -> None:
        """Connect a post-copy that lost its connection again; `perform` then shows it going on. May be repeated.

        Raises:
            HypervisorError: not yet, or not at all; both sides are as they were.
        """
        ...

    async def settings(self) -> Settings:
        """The limits that are in force, read back from the hypervisor."""
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

    async def discard(self) -> None:
        """End whatever is left of a guest that is lost, on both hosts, when a person says so. May be repeated."""
        ...

    async def result(self) -> Progress:
        """The hypervisor's last word on this migration: downtime, bytes, iterations. Asked after the end."""
        ...

    def moments(self) -> Moments:
        """What was heard of the switchover so far, in milliseconds of this process's monotonic clock."""
        ...

    async def guest_lost_ms(self) -> int | None:
        """How much the guest's own clock lost, where somebody in the guest tells the time; ``None``: not known. Never raises."""
        ...

    async def testimony(self) -> Sequence[Quote]:
        """What both hypervisors wrote of this attempt, only the telling lines. Asked after the end, when it did not succeed.

        Never raises, and ends within 4 s: what could not be read is in it, as a silent quote.
        """
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

    async def identity(self) -> str:
        """What tells this host from every other, as in `HostFacts`; it costs less than all of them."""
        ...

    async def guests(self) -> Sequence[Guest]:
        """Every guest of this kind on the host, running or not, in order of name.

        Never raises for one odd guest: it is listed with its `obstacle`.
        """
        ...

    async def evidence(self, guest: str) -> Evidence:
        """What this host shows of the guest now. Never raises: an unreachable host is evidence too."""
        ...

    async def objections(self, spec: MigrationSpec, destination: Hypervisor) -> Sequence[Objection]:
        """All that these two hosts cannot do of what was asked, with what can be asked for instead. Called on the source.

        Raises:
            HypervisorError: it cannot be seen.
        """
        ...

    async def standing(self, guest: str) -> Standing:
        """How a guest stands here, as far as moving it is concerned.

        Raises:
            HypervisorError: it cannot be seen.
        """
        ...

    async def parts(self, guest: str) -> Parts:
        """What a running guest is made of now, as far as its host matters.

        Raises:
            HypervisorError: it cannot be seen.
        """
        ...

    async def offer(self, wanted: Parts) -> Offer:
        """What this host's hypervisor can give to a guest that is made of these.

        Raises:
            HypervisorError: it cannot be seen.
        """
        ...

    async def before(self, guest: str, mend: Mend) -> str:
        """What it takes to undo that change of the guest, in words that only this driver has to understand.

        Raises:
            HypervisorError: there is nothing to change.
        """
        ...

    async def mend(self, guest: str, mend: Mend) -> None:
        """Change the running guest so that it can be moved. May be repeated.

        Raises:
            HypervisorError: it is as it was, or it is not known how it is.
        """
        ...

    async def unmend(self, guest: str, mended: Mended) -> None:
        """Undo that. May be repeated.

        Raises:
            HypervisorError: it cannot be undone.
        """
        ...

    async def touched(self, guest: str) -> Touched:
        """How much of a running guest's memory is in use, so that it would have to be sent.

        Raises:
            HypervisorError: it cannot be seen.
        """
        ...

    async def dirtied(self, guest: str, *, seconds: int) -> Window:
        """Watch a running guest for so many seconds, and say how much memory it dirtied. The guest runs on as before.

        Where the watching has begun it goes on in the hypervisor, also while a migration begins.

        Raises:
            HypervisorError: it cannot be measured, or somebody else is measuring; nothing has changed.
        """
        ...

    async def start(self, guest: str) -> None:
        """Start a guest from its definition there. Called only after no other host was seen to run it.

        Raises:
            HypervisorError: it has none there, or does not start; it does not run there.
            AnswerNotSeen, HostUnreachable: it may run there.
        """
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

    def attempt(self, spec: MigrationSpec, source: Hypervisor, destination: Hypervisor, log: ActionLog) -> Attempt:
        """An attempt that has not touched anything yet.

        Raises:
            Unsupported: this driver cannot take that control path or transport; the message names what can.
        """
        ...


class Store(Protocol):
    """Where migrations are written down. Every call blocks, is one transaction, and may be made from any thread.

    Every call raises `StoreError` when the database cannot be read or written; then nothing of the call was done.
    """

    def create(self, record: Record) -> None:
        """Write down a migration that was asked for. Its `lease`, `led`, `told_to_run` and `outcome` are not looked at."""
        ...

    def load(self, migration: str) -> Record:
        """One migration by its id, or by the beginning of it where only one begins so.

        Raises:
            MigrationNotFound: none, or several.
        """
        ...

    def find(self, *, guest: str = "", host: str = "", unsettled: bool = False, limit: int = 50) -> Sequence[Record]:
        """Migrations, the newest first: of that guest, from or to that host, and only those that are not settled."""
        ...

    def story(self, migration: str) -> Story:
        """All that was written of it but samples."""
        ...

    def samples(self, migration: str, *, after_ms: int = 0) -> Sequence[Sample]:
        """Its samples taken after that time, in order."""
        ...

    def lead(self, migration: str, holder: Holder, *, ttl_ms: int, dead: Holder | None = None) -> Lease:
        """Take the lease: free, expired, or this holder's already. Of two who try at once exactly one gets it.

        Args:
            migration: its id.
            holder: who wants it.
            ttl_ms: for how long.
            dead: take it from this holder too, whom the caller has seen dead.

        Raises:
            LeaseHeld: somebody else holds it; says who and until when.
        """
        ...

    def renew(self, lease: Lease, *, ttl_ms: int) -> Lease:
        """Hold it for so long from now.

        Raises:
            LeaseLost: somebody else has taken it since.
        """
        ...

    def release(self, lease: Lease) -> None:
        """Give it up. Harmless when it is lost already."""
        ...

    def write(self, lease: Lease, changes: Sequence[Change]) -> None:
        """Write all of it or nothing, on disk when this returns.

        Raises:
            LeaseLost: the lease is somebody else's now: nothing was written. One that only expired, and nobody took, is good.
        """
        ...

    def wish(self, migration: str, wishes: Wishes) -> int:
        """Add to what is wanted of it; what is ``None`` or false in `wishes` stays as it was.

        Returns:
            The new revision.
        """
        ...

    def wishes(self, migration: str) -> Wishes:
        """What is wanted of it now."""
        ...

    def close(self) -> None:
        """Let go of the database. May be repeated."""
        ...


class Probe(Protocol):
    """Asks the guest over the network, as a client would, beside everything else."""

    @property
    def gaps(self) -> Sequence[Gap]:
        """Every time without an answer so far."""
        ...

    def seen(self) -> Client:
        """What a client saw so far."""
        ...

    async def next_answer(self, *, deadline_s: float) -> None:
        """Wait for an answer that comes from now on, at most so long."""
        ...


class ActionLog(Protocol):
    """Where a driver says what it is about to do to a hypervisor."""

    def acting(self, action: Action, detail: str = "") -> AbstractAsyncContextManager[None]:
        """Surround one action: the intent is written down before the body runs, and how it ended afterwards.

        Raises:
            LeaseLost: on entry, before the body: another process leads this migration now, and nothing may be done.
        """
        ...
