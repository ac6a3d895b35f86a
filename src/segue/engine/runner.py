"""Drives one attempt from its first action to a proven end.

The runner is a loop around `segue.core.phases.step`: it performs the effects that a state asks for, turns what happened
into a fact, and steps on until the state is an end. What to do about slow convergence is asked of `core.convergence`, who
owns the guest of `core.ownership`; the runner itself decides nothing and knows no hypervisor.

What may live here: the loop and one method for each effect. Nothing in it waits for a terminal or a disk: whoever wants to watch
hands in a `report` function that returns at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from segue.core import convergence, ownership, phases
from segue.core.convergence import Decision, History
from segue.core.model import JobStatus, MigrationSpec, Outcome, OutcomeKind, Owner, Progress
from segue.core.ownership import Verdict
from segue.core.phases import Effect, Fact, State
from segue.core.ports import Attempt, Hypervisor
from segue.errors import SegueError

PROOF_DEADLINE_MS: Final = 15_000
"""How long to look for proof of one owner before it is called ambiguous. A healthy pair proves it at the first look; a host
that is restarting its libvirtd or is busy killing a QEMU answers within this."""
LEFTOVERS_DEADLINE_MS: Final = 3_000
"""How long to wait, once the owner is proven and runs the guest, for the other host to be clean too."""
PROOF_PAUSE_S: Final = 0.1
"""Between two looks for proof. There is no event to wait for: the evidence comes from two hosts that may be ill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steered:
    """A decision that was carried out: what and why."""

    decision: Decision
    reason: str


Report = Callable[[State | Progress | Steered], None]


class Runner:
    """One attempt, run once.

    Args:
        spec: what was asked for.
        attempt: the driver's attempt; untouched so far.
        source, destination: both hosts, for evidence.
        now_ms: monotonic milliseconds.
        report: is told every state, every sample, every decision; must return at once.
    """

    def __init__(
        self,
        spec: MigrationSpec,
        attempt: Attempt,
        source: Hypervisor,
        destination: Hypervisor,
        *,
        now_ms: Callable[[], int],
        report: Report,
    ) -> None:
        self._spec = spec
        self._attempt = attempt
        self._source = source
        self._destination = destination
        self._now_ms = now_ms
        self._report = report
        self._state = State.BEGIN
        self._phase = State.BEGIN
        self._cancel = asyncio.Event()
        self._samples: AsyncIterator[Progress] | None = None
        self._last = Progress(elapsed_ms=0, status=JobStatus.NONE)
        self._history = History()
        self._steered: list[Steered] = []
        self._owner = Owner.SOURCE
        self._error = ""
        self._unsettled = ""
        self._effects: dict[Effect, Callable[[], Awaitable[Fact]]] = {
            Effect.PREPARE_DESTINATION: self._prepare,
            Effect.START: self._watch,
            Effect.FOLLOW: self._watch,
            Effect.RESUME_DESTINATION: self._finish,
            Effect.RELEASE_SOURCE: self._confirm,
            Effect.CANCEL_AND_ROLL_BACK: self._cancel_and_roll_back,
            Effect.ROLL_BACK: self._roll_back,
            Effect.PROVE: self._prove,
        }

    def cancel(self) -> bool:
        """Ask for it to be cancelled; what really happened is in the outcome.

        Returns:
            False when there is no way back any more, and nothing was asked.
        """
        if not self._state.may_cancel:
            return self._state is State.CANCELLING
        self._cancel.set()
        return True

    async def run(self) -> Outcome:
        """Run it to its end. Raises nothing that belongs to the migration: every end is an outcome."""
        began = self._now_ms()
        fact = Fact.CHECKED
        while not self._state.is_end:
            self._state, effects = phases.step(self._state, fact)
            self._report(self._state)
            if self._state in phases.PHASES:
                self._phase = self._state
            for effect in effects:
                fact = await self._effects[effect]()
        await self._learn_result()
        return self._outcome(self._now_ms() - began)

    async def _prepare(self) -> Fact:
        if self._cancel.is_set():
            return Fact.CANCEL_ASKED
        fact = await self._try(self._attempt.prepare(), Fact.PREPARED)
        return Fact.CANCEL_ASKED if fact is Fact.PREPARED and self._cancel.is_set() else fact

    async def _watch(self) -> Fact:
        """Follow the job until something happens that the table of phases knows."""
        if self._samples is None:
            self._samples = self._attempt.perform()
        try:
            async for sample in self._samples:
                self._take(sample)
                if fact := self._fact_of(sample):
                    return fact
                if fact := await self._steer(sample):
                    return fact
        except SegueError as error:
            self._broke(error)
        return Fact.BROKE

    def _take(self, sample: Progress) -> None:
        self._last = sample
        self._history = convergence.observe(self._history, sample, self._spec.limits)
        self._report(sample)

    def _fact_of(self, sample: Progress) -> Fact | None:
        if sample.status is JobStatus.COMPLETED:
            return Fact.SOURCE_HANDED_OVER
        if sample.status in (JobStatus.POSTCOPY, JobStatus.POSTCOPY_PAUSED) and self._state is State.PERFORM:
            return Fact.POSTCOPY_BEGAN
        if self._cancel.is_set() and self._state.may_cancel:
            return Fact.CANCEL_ASKED
        return None

    async def _steer(self, sample: Progress) -> Fact | None:
        decision, reason = convergence.decide(self._history, sample, self._spec.limits)
        if decision is Decision.CONTINUE or any(done.decision is decision for done in self._steered):
            return None
        steered = Steered(decision=decision, reason=reason)
        self._steered.append(steered)
        self._report(steered)
        if decision is Decision.GIVE_UP:
            self._error = f"Given up: {reason}."
            await self._try(self._attempt.cancel(), Fact.BROKE)
            return Fact.BROKE
        await self._try(self._attempt.start_postcopy(), Fact.POSTCOPY_BEGAN)  # refused: pre-copy simply goes on
        return None

    async def _finish(self) -> Fact:
        return await self._try(self._attempt.finish(), Fact.RESUMED)

    async def _confirm(self) -> Fact:
        return await self._try(self._attempt.confirm(), Fact.SOURCE_RELEASED)

    async def _cancel_and_roll_back(self) -> Fact:
        await self._try(self._attempt.cancel(), Fact.CANCEL_ASKED)
        return await self._roll_back()

    async def _roll_back(self) -> Fact:
        return await self._try(self._attempt.roll_back(), Fact.BROKE)

    async def _prove(self) -> Fact:
        """Look at both hosts until they prove one owner, mending once what the verdict says is safe to mend.

        An owner is an end only where it was seen to run the guest (or the guest was seen to be gone): a whole guest that
        stands still between two hosts is nobody's success, and a person must look.
        """
        began, mended = self._now_ms(), False
        while True:
            verdict = await self._look()
            self._owner = verdict.owner
            proven = verdict.runs or verdict.owner is Owner.NOBODY
            if proven and verdict.settled:
                break
            if not mended and verdict.owner in (Owner.SOURCE, Owner.DESTINATION):
                mended = True
                await self._mend(verdict)
                continue
            if self._now_ms() - began >= (LEFTOVERS_DEADLINE_MS if proven else PROOF_DEADLINE_MS):
                self._unsettled = f"Not settled: {verdict.reason}."
                break
            await asyncio.sleep(PROOF_PAUSE_S)
        return _PROOFS[verdict.owner] if proven else Fact.UNPROVEN

    async def _look(self) -> Verdict:
        source, destination = await asyncio.gather(
            self._source.evidence(self._spec.guest), self._destination.evidence(self._spec.guest)
        )
        return ownership.judge(source, destination, may_have_run=self._phase in phases.MAY_HAVE_RUN)

    async def _mend(self, verdict: Verdict) -> None:
        """Finish what is left to do, or undo it; each of these is harmless when repeated."""
        if verdict.owner is Owner.DESTINATION:
            if await self._finish() is Fact.RESUMED:
                await self._confirm()
                return
            if verdict.runs:
                return
        await self._roll_back()

    async def _learn_result(self) -> None:
        try:
            self._last = await self._attempt.result()
        except SegueError as error:
            self._broke(error)

    async def _try(self, action: Awaitable[None], success: Fact) -> Fact:
        try:
            await action
        except SegueError as error:
            self._broke(error)
            return Fact.BROKE
        return success

    def _broke(self, error: SegueError) -> None:
        """Keep the first error: what follows it is mostly its consequence."""
        self._error = self._error or str(error)

    def _outcome(self, total_ms: int) -> Outcome:
        kind = OutcomeKind(self._state.value)
        names = {Owner.SOURCE: self._spec.source, Owner.DESTINATION: self._spec.destination}
        moved = kind is OutcomeKind.MOVED
        return Outcome(
            id=self._spec.id,
            guest=self._spec.guest,
            source=self._spec.source,
            destination=self._spec.destination,
            driver=self._spec.driver,
            control=self._spec.control,
            transport=self._spec.transport,
            outcome=kind,
            owner=names.get(self._owner, "") if kind is not OutcomeKind.AMBIGUOUS else "",
            phase=self._phase,
            total_ms=total_ms,
            downtime_ms=self._last.downtime_ms if moved else None,
            bytes_sent=self._last.sent_bytes,
            iterations=self._last.iteration,
            decisions=tuple(f"{done.decision}: {done.reason}" for done in self._steered),
            error=" ".join(part for part in (self._why(kind), self._unsettled) if part),
        )

    def _why(self, kind: OutcomeKind) -> str:
        match kind:
            case OutcomeKind.MOVED:
                return ""
            case OutcomeKind.CANCELLED:
                return "Cancelled on request."
            case OutcomeKind.AMBIGUOUS:
                return self._error
            case _:
                return self._error or "The hypervisor ended the migration without saying why."


_PROOFS: Final = {
    Owner.SOURCE: Fact.PROVEN_ON_SOURCE,
    Owner.DESTINATION: Fact.PROVEN_ON_DESTINATION,
    Owner.NOBODY: Fact.PROVEN_GONE,
    Owner.UNPROVEN: Fact.UNPROVEN,
}
