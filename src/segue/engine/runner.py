"""Drives one attempt from its first action to a proven end.

The runner is a loop around `segue.core.phases.step`: it performs the effects that a state asks for, turns what happened
into a fact, and steps on until the state is an end. What to do about slow convergence is asked of `core.convergence`, who
owns the guest of `core.ownership`; the runner itself decides nothing and knows no hypervisor.

It can be started by anyone at any time. Where another process has begun, it takes up what was written down, looks at both
hosts, and goes on from what it sees (`phases.TAKE_UP`).

What may live here: the loop and one method for each effect. Nothing in it waits for a terminal, and for the journal only before
an action: whoever wants to watch hands in a `report` function that returns at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, TypedDict

from segue import units
from segue.core import causes, convergence, deltas, ownership, phases
from segue.core.causes import HALF, Explained, Scene
from segue.core.convergence import Choice, Climb, History
from segue.core.downtime import parts
from segue.core.evidence import Evidence
from segue.core.forecast import HARDLY_RUNNING_PERCENT, Forecast, slowed_ms
from segue.core.model import DriverKind, JobStatus, MigrationSpec, Outcome, OutcomeKind, Owner, Progress
from segue.core.ownership import Remedy, Verdict
from segue.core.phases import Effect, Fact, State
from segue.core.policy import Decision, Policy
from segue.core.ports import Attempt, Hypervisor, Probe
from segue.core.record import Record, Settings, Wishes
from segue.engine import failpoints, telling
from segue.engine.journal import Journal, wall_ms
from segue.engine.outlook import Foresight
from segue.errors import HypervisorError, LeaseLost, SegueError

PROOF_DEADLINE_MS: Final = 15_000
"""How long to look for proof of one owner before it is called ambiguous. A healthy pair proves it at the first look; a host
that is restarting its libvirtd or is busy killing a QEMU answers within this."""
LEFTOVERS_DEADLINE_MS: Final = 3_000
"""How long to wait, once the owner is proven and runs the guest, for the other host to be clean too."""
SEEN_DEADLINE_MS: Final = 1_000
"""The same where both hosts answer, and what they show proves nothing: a process that is just ending is gone by then."""
PROOF_PAUSE_S: Final = 0.1
"""Between two looks for proof. There is no event to wait for: the evidence comes from two hosts that may be ill."""
RECONNECT_PAUSE_MS: Final = 1_000
"""Between the first two tries to connect a post-copy again; then it doubles. There is no event: the link is not ours."""
RECONNECT_DOUBLINGS: Final = 4
FIRST_ANSWER_DEADLINE_S: Final = 5.0
"""How long a probe waits for the guest to answer once the owner is proven. A bridge that learned the old port forgets it with
the first packet of the guest; one that has not heard any by then will not hear it because we wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steered:
    """A decision that was carried out: what and why."""

    decision: Decision
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Something that people should know: what was seen, what it means, what was done about it."""

    text: str


Event = State | Progress | Steered | Told
"""What happens in a migration, for whoever watches."""
Report = Callable[[Event], None]


class Runner:
    """One attempt, run once.

    Args:
        spec: what was asked for.
        attempt: the driver's attempt; untouched so far.
        source, destination: both hosts, for evidence.
        journal: where it is written down.
        now_ms: monotonic milliseconds.
        report: is told every state, every sample, every decision; must return at once.
        probe: asks the guest all the while; ``None``: nobody does.
        foresight: keeps its forecast; ``None``: nobody does.
    """

    def __init__(
        self,
        spec: MigrationSpec,
        attempt: Attempt,
        source: Hypervisor,
        destination: Hypervisor,
        journal: Journal,
        *,
        now_ms: Callable[[], int],
        report: Report,
        probe: Probe | None = None,
        foresight: Foresight | None = None,
    ) -> None:
        self._spec = spec
        self._attempt = attempt
        self._source = source
        self._destination = destination
        self._journal = journal
        self._now_ms = now_ms
        self._report = report
        self._probe = probe
        self._foresight = foresight
        self._guest_lost_ms: int | None = None
        self._state = State.BEGIN
        self._phase = State.BEGIN
        self._may_have_run = False
        self._cancel = asyncio.Event()
        self._wishes: Wishes | None = None
        self._granting: asyncio.Task[None] | None = None
        self._next_reconnect_ms = 0
        self._reconnects = 0
        self._no_connection = ""
        self._heard = (-1, 0)
        self._waits_since_ms: int | None = None
        self._slowed_percent = HARDLY_RUNNING_PERCENT
        self._began = 0
        self._seen: tuple[Evidence, ...] = ()
        self._last_seen = ""
        self._taken_up = False
        self._samples: AsyncIterator[Progress] | None = None
        self._last = Progress(elapsed_ms=0, status=JobStatus.NONE)
        self._saved_before = 0
        self._limits = spec.limits
        self._steers_throttle = spec.driver is not DriverKind.LIBVIRT  # which takes no word about it on the way
        self._policy = spec.policy or self._planned(None)
        self._expects: Forecast | None = None
        self._history = History()
        self._climb = Climb(begun_ms=spec.first_downtime_ms)
        self._steered: list[Steered] = []
        self._released = False
        self._rolled_back = False
        self._owner = Owner.SOURCE
        self._stands = False
        self._error = ""
        self._first: SegueError | None = None
        self._known: Outcome | None = None
        self._explained: Explained | None = None
        self._unsettled = ""
        self._discard = False
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

    def wish(self, wishes: Wishes) -> None:
        """Others want something: it is granted as soon as the migration is in a state for it."""
        self._wishes = wishes
        if wishes.cancel:
            self.cancel()

    async def run(self) -> Outcome:
        """Run it to its end. Raises nothing that belongs to the migration: every end is an outcome.

        Raises:
            LeaseLost: another process leads it now; this one has stopped acting, and knows nothing of the end.
        """
        self._began = self._now_ms()
        return await self._to_the_end(Fact.CHECKED)

    async def take_up(self, record: Record, *, discard: bool = False) -> Outcome:
        """Go on with what another process began, from what both hosts show.

        Args:
            record: what is written of it.
            discard: end what is left of a guest that is lost.

        Raises:
            LeaseLost: as for `run`.
        """
        self._began, self._taken_up = self._now_ms() - max(0, wall_ms() - record.created_at_ms), True
        self._state, self._phase, self._discard = record.state, record.phase, discard
        self._may_have_run = record.phase in phases.MAY_HAVE_RUN
        if record.outcome is not None:
            self._known = record.outcome
            self._error = telling.first_error(record.outcome.error)
        else:
            self._error = f"The process that led it ended in {record.state}."
        fact, effects = phases.TAKE_UP[record.state]
        await self._try(self._attempt.reattach(told_to_run=record.told_to_run), Fact.CHECKED)
        self._limits = record.wishes.applied(self._limits)
        if record.wishes.cancel:
            self.wish(record.wishes)
        for effect in effects:
            fact = await self._effects[effect]()
        return await self._to_the_end(fact)

    async def _to_the_end(self, fact: Fact | None) -> Outcome:
        while fact is not None:
            self._state, effects = phases.step(self._state, fact)
            await self._entered(self._state, again=fact is Fact.TAKEN_UP)
            fact = None
            for effect in effects:
                fact = await self._effects[effect]()
        if self._granting is not None:
            await self._granting
        total_ms = self._now_ms() - self._began
        await self._learn_result()
        if self._probe is not None:
            await self._probe.next_answer(deadline_s=FIRST_ANSWER_DEADLINE_S)
        await self._explain()
        return self._outcome(total_ms)

    async def _entered(self, state: State, *, again: bool) -> None:
        self._journal.entered(state)
        self._report(state)
        if state in phases.PHASES and not again:  # to look once more is no progress on the way
            self._phase = state
            self._may_have_run = self._may_have_run or state in phases.MAY_HAVE_RUN
        await failpoints.reach(f"{state}.entered")

    @property
    def settled(self) -> bool:
        """Nothing is left to be done or undone on either host, as far as was seen."""
        return not self._unsettled

    async def _prepare(self) -> Fact:
        if self._cancel.is_set():
            return Fact.CANCEL_ASKED
        if self._foresight is not None and self._spec.disks is None:  # copying disks has no forecast
            self._foresight.begin()
        fact = await self._try(self._attempt.prepare(), Fact.PREPARED)
        return Fact.CANCEL_ASKED if fact is Fact.PREPARED and self._cancel.is_set() else fact

    async def _watch(self) -> Fact:
        """Follow the job until something happens that the table of phases knows."""
        if self._samples is None:
            self._samples = self._attempt.perform()
        try:
            async for looked in self._samples:
                if looked.status is JobStatus.ACTIVE and looked.iteration < deltas.FLOW_FROM:
                    self._saved_before = looked.saved_bytes  # by the same QEMU, when it was to move before
                saved = max(0, looked.saved_bytes - self._saved_before)
                sample = replace(looked, saved_bytes=saved).after(self._last)
                self._take(sample)
                if fact := self._fact_of(sample):
                    return fact
                if sample.status is JobStatus.POSTCOPY_PAUSED:
                    await self._reconnect()
                elif fact := await self._steer(sample):
                    return fact
                self._connected(sample)
                self._grant()
        except LeaseLost:
            raise
        except SegueError as error:
            self._broke(error)
        return Fact.BROKE

    def _connected(self, sample: Progress) -> None:
        if self._reconnects and sample.status is JobStatus.POSTCOPY:
            self._tell("post-copy is connected again")
            self._reconnects = self._next_reconnect_ms = 0

    async def _reconnect(self) -> None:
        """Try to connect the post-copy again, not more often than makes sense: nobody else can help the guest."""
        if self._now_ms() < self._next_reconnect_ms:
            return
        if not self._reconnects:
            self._tell("post-copy lost its connection; the guest waits for pages that only the source has: connecting it again")
        self._reconnects += 1
        try:
            await self._attempt.recover_postcopy()
        except LeaseLost:
            raise
        except SegueError as error:
            verdict = await self._look()
            # One side is gone, and with it what only it had; or a person has given the guest up, unless this try had helped it.
            if verdict.owner is Owner.NOBODY and (gone := [one.host for one in self._seen if one.sighting.is_idle]):
                raise HypervisorError(
                    f"{gone[0]} has nothing of {self._spec.guest} any more.", host=gone[0], number=HALF
                ) from error
            if verdict.owner is Owner.NOBODY or self._discard:
                raise error from None
            if error.message != self._no_connection:
                self._no_connection = error.message
                self._tell(f"not connected yet: {error.message}")
        pause_ms = RECONNECT_PAUSE_MS * 2 ** min(self._reconnects - 1, RECONNECT_DOUBLINGS)
        self._next_reconnect_ms = self._now_ms() + pause_ms

    def _grant(self) -> None:
        """Carry out what others wish, beside the watching: a hypervisor that is slow to answer must not stop the samples."""
        if self._wishes is not None and (self._granting is None or self._granting.done()):
            wishes, self._wishes = self._wishes, None
            self._granting = asyncio.create_task(self._tune(wishes))

    async def _tune(self, wishes: Wishes) -> None:
        self._limits = limits = wishes.applied(self._limits)
        if wishes.on_miss is not None and self._expects is not None and self._expects.choice is None:
            self._plan_anew()  # what was to be done about a promise that cannot be kept is another thing now
        try:
            if wishes.max_downtime_ms is not None:
                # What a person asks for goes before what was chosen.
                self._climb = replace(self._climb, downtime_ms=0, told_ms=0, begun_ms=0)
                await self._attempt.set_max_downtime(wishes.max_downtime_ms)
            if wishes.bandwidth_bps is not None:
                await self._attempt.set_bandwidth(wishes.bandwidth_bps)
            if wishes.postcopy_now and self._state is State.PERFORM:
                await self._go_over()
            settings, error = await self._attempt.settings(), ""
        except SegueError as failed:
            settings, error = Settings(), failed.message
        self._journal.settings(
            replace(
                settings,
                revision=wishes.revision,
                within_ms=limits.within_ms,
                max_bytes=limits.max_bytes,
                max_slowdown_percent=limits.max_slowdown_percent,
                on_miss=limits.on_miss,
                error=error,
            )
        )
        self._tell(f"asked from outside: {telling.in_words(wishes)}{f', which failed: {error}' if error else ''}")

    def _tell(self, text: str) -> None:
        self._journal.note(text)
        self._report(Told(text=text))

    def _take(self, sample: Progress) -> None:
        self._last = sample
        self._history = convergence.observe(self._history, sample, convergence.allowed_ms(self._limits, self._climb))
        self._journal.sample(sample)
        self._report(sample)
        if self._waits_since_ms is None:
            self._waits_since_ms = sample.elapsed_ms
        if convergence.does_not_begin(sample, self._waits_since_ms):
            self._waits_since_ms = sample.elapsed_ms  # and once more when as much time has passed again
            self._tell(telling.DOES_NOT_BEGIN)
        if sample.throttle_percent > self._slowed_percent:
            self._slowed_percent = sample.throttle_percent
            self._tell(telling.slowed(sample.throttle_percent, slowed_ms(sample.throttle_percent)))
        if self._foresight is not None:
            stuck_bytes = convergence.stuck_bytes(self._history, sample, self._limits)
            if (expected := self._foresight.take(sample, self._limits, stuck_bytes)) is not None:
                self._expect(expected, self._foresight.words(expected, self._limits))

    def _expect(self, expected: Forecast, words: str) -> None:
        """Tell a forecast that differs from the last, and climb the ladder that it makes where no other was asked for."""
        if any(done.decision in _ENDS_PRECOPY for done in self._steered):
            return  # that was decided, and what is left says nothing of pre-copy any more
        if words:
            self._tell(words)
        if self._expects is None or self._expects.choice is not expected.choice:
            self._expects = expected
            self._plan_anew()

    def _plan_anew(self) -> None:
        """Climb the ladder that the forecast makes now, from its first rung."""
        if self._spec.policy is None and self._climb.missed_ms is None:
            self._policy = self._planned(self._expects)
            self._climb = replace(self._climb, rung=0)

    def _planned(self, expected: Forecast | None) -> Policy:
        return convergence.plan(self._limits, expected, steers_throttle=self._steers_throttle, deltas=self._spec.deltas)

    def _fact_of(self, sample: Progress) -> Fact | None:
        if sample.status is JobStatus.COMPLETED:
            return Fact.SOURCE_HANDED_OVER
        if sample.status in (JobStatus.POSTCOPY, JobStatus.POSTCOPY_PAUSED) and self._state is State.PERFORM:
            return Fact.POSTCOPY_BEGAN
        if self._cancel.is_set() and self._state.may_cancel:
            return Fact.CANCEL_ASKED
        return None

    async def _steer(self, sample: Progress) -> Fact | None:
        if (self._heard[0], sample.status) != (sample.sent_bytes, JobStatus.ACTIVE):
            self._heard = (sample.sent_bytes, sample.elapsed_ms)
        silent_ms = sample.elapsed_ms - self._heard[1] if sample.status is JobStatus.ACTIVE else 0
        choice, self._climb = convergence.decide(
            self._history, sample, self._limits, self._policy, self._climb, silent_ms=silent_ms
        )
        if choice.decision is Decision.CONTINUE or self._would_have_ended:
            return None
        self._limits = choice.limits or self._limits
        only = "would (only observing): " if self._spec.observe_only else ""
        steered = Steered(decision=choice.decision, reason=f"{only}{choice.reason}")
        self._steered.append(steered)
        self._journal.note(f"{steered.decision}: {steered.reason}")
        self._report(steered)
        if self._spec.observe_only:
            return None
        if choice.decision is Decision.GIVE_UP:
            self._error = f"Given up: {choice.reason}."
            await self._try(self._attempt.cancel(), Fact.BROKE)
            return Fact.BROKE
        await self._carry_out(choice)
        return None

    @property
    def _would_have_ended(self) -> bool:
        """It only observes, and has told that it would give up: what would come after that, there is not."""
        return self._spec.observe_only and any(done.decision is Decision.GIVE_UP for done in self._steered)

    async def _carry_out(self, choice: Choice) -> None:
        """Do what was chosen. Where it is refused, pre-copy simply goes on, and that is told."""
        try:
            match choice.decision:
                case Decision.ALLOW_DOWNTIME if choice.downtime_ms is not None:
                    await self._attempt.set_max_downtime(choice.downtime_ms)
                case Decision.THROTTLE if choice.throttle_percent is not None:
                    await self._attempt.set_throttle(choice.throttle_percent)
                case Decision.SUSPEND:
                    await self._attempt.set_max_downtime(units.MAX_DOWNTIME_MS)
                case Decision.START_POSTCOPY:
                    await self._go_over()
        except LeaseLost:
            raise
        except SegueError as error:
            self._tell(f"{choice.decision} was refused: {error.message}")

    async def _go_over(self) -> None:
        await self._attempt.start_postcopy(background_bps=convergence.background_bps(self._history, self._limits))

    async def _finish(self) -> Fact:
        return await self._try(self._attempt.finish(), Fact.RESUMED)

    async def _confirm(self) -> Fact:
        fact = await self._try(self._attempt.confirm(), Fact.SOURCE_RELEASED)
        self._released = fact is Fact.SOURCE_RELEASED
        return fact

    async def _cancel_and_roll_back(self) -> Fact:
        await self._try(self._attempt.cancel(), Fact.CANCEL_ASKED)
        return await self._roll_back()

    async def _roll_back(self) -> Fact:
        self._rolled_back = True
        return await self._try(self._attempt.roll_back(), Fact.BROKE)

    async def _prove(self) -> Fact:
        """Look at both hosts until they prove one owner, mending once what the verdict says is safe to mend.

        An owner is an end only where it was seen to run the guest (or the guest was seen to be gone): a whole guest that
        stands still between two hosts is nobody's success, and a person must look.
        """
        began, mended = self._now_ms(), False
        while True:
            verdict = await self._look()
            self._owner, self._stands = verdict.owner, verdict.stands
            whole = verdict.remedy not in (Remedy.FOLLOW, Remedy.RECONNECT)  # in post-copy neither side alone has it
            proven = (verdict.runs and whole) or verdict.owner is Owner.NOBODY
            if proven and verdict.settled:
                self._unsettled = ""
                if verdict.owner is Owner.SOURCE and not self._rolled_back:
                    await self._roll_back()  # the hypervisors may still be at it
                    continue
                if verdict.owner is Owner.DESTINATION and not self._released:
                    await self._tidy()
                break
            if not mended and verdict.remedy in self._remedies:
                mended = True
                await self._remedies[verdict.remedy]()
                continue
            if self._now_ms() - began >= self._patience_ms(verdict, proven=proven):
                self._unsettled = telling.unsettled(verdict)
                break
            await asyncio.sleep(PROOF_PAUSE_S)
        return _PROOFS[verdict.owner] if proven else Fact.UNPROVEN

    async def _tidy(self) -> None:
        """It has arrived by another way than through confirm: a definition may still be where it was not asked to be."""
        await self._finish()
        if await self._confirm() is not Fact.SOURCE_RELEASED:
            self._unsettled = telling.DEFINITION_LEFT

    def _patience_ms(self, verdict: Verdict, *, proven: bool) -> int:
        """How long to go on looking. Of bare QEMUs that were both seen, nothing more will come: nobody acts on them but Segue."""
        by_themselves = self._spec.driver is DriverKind.LIBVIRT
        if verdict.remedy is Remedy.DISCARD:
            return SEEN_DEADLINE_MS if by_themselves else 0
        if proven:
            return LEFTOVERS_DEADLINE_MS
        seen = verdict.remedy in (Remedy.ASK, Remedy.RELEASE_SOURCE)
        return SEEN_DEADLINE_MS if seen and not by_themselves else PROOF_DEADLINE_MS

    async def _look(self) -> Verdict:
        source, destination = self._seen = await asyncio.gather(
            self._source.evidence(self._spec.guest), self._destination.evidence(self._spec.arrives_as)
        )
        verdict = ownership.judge_migration(
            self._spec, source, destination, past=self._may_have_run, told_to_run=self._journal.told_to_run
        )
        if verdict.reason != self._last_seen:
            self._last_seen = verdict.reason
            text = f"{verdict.reason}: owner {verdict.owner}, {verdict.remedy}"
            self._journal.note(text)
            if self._taken_up or verdict.remedy is not Remedy.NOTHING:  # what everybody expects need not be read
                self._report(Told(text=text))
        return verdict

    @property
    def _remedies(self) -> dict[Remedy, Callable[[], Awaitable[object]]]:
        """What may be done about a verdict; each of these is harmless when repeated, and looks again before it acts."""
        remedies: dict[Remedy, Callable[[], Awaitable[object]]] = {
            Remedy.ROLL_BACK: self._roll_back,
            Remedy.RESUME_DESTINATION: self._finish_and_confirm,
            Remedy.RELEASE_SOURCE: self._finish_and_confirm,
        }
        if self._discard:
            remedies[Remedy.DISCARD] = remedies[Remedy.RECONNECT] = self._end_remains
        return remedies

    async def _finish_and_confirm(self) -> None:
        """Let the destination have it; where it cannot run and was never told to, let the source go on."""
        if await self._finish() is Fact.RESUMED:
            await self._confirm()
        else:
            await self._roll_back()

    async def _end_remains(self) -> None:
        await self._try(self._attempt.discard(), Fact.PROVEN_GONE)

    async def _learn_result(self) -> None:
        with contextlib.suppress(SegueError):  # what was seen last is told then
            self._last = await self._attempt.result()
        if self._state is State.MOVED:
            self._guest_lost_ms = await self._attempt.guest_lost_ms()

    async def _explain(self) -> None:
        """Learn why it did not succeed, from what was said first and what both hosts wrote; nothing waits for this but words."""
        if self._first is None or self._state not in (State.FAILED, State.AMBIGUOUS):
            return
        scene = Scene(guest=self._spec.guest, here=self._spec.source, there=self._spec.destination)
        if causes.explained(self._first, (), scene) is not None:
            self._explained = causes.explained(self._first, await self._attempt.testimony(), scene)

    async def _try(self, action: Awaitable[None], success: Fact) -> Fact:
        try:
            await action
        except LeaseLost:
            raise
        except SegueError as error:
            self._broke(error)
            return Fact.BROKE
        return success

    def _broke(self, error: SegueError) -> None:
        """Keep the first error: what follows it is mostly its consequence."""
        if not self._error:
            self._first, self._error = error, str(error)

    def _outcome(self, total_ms: int) -> Outcome:
        kind = OutcomeKind(self._state.value)
        names = {Owner.SOURCE: self._spec.source, Owner.DESTINATION: self._spec.destination}
        moved = kind is OutcomeKind.MOVED
        sentence = self._explained.sentence if self._explained is not None else self._error
        cancelled, left = self._cancel.is_set(), self._unsettled
        why = telling.why(kind, self._owner, self._spec, sentence, cancelled=cancelled, left=left)
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
            rests=(self._spec.rests or "stands still" * self._stands) if moved else "",
            error=" ".join(part for part in (why, left) if part),
            guest_lost_ms=self._guest_lost_ms,
            client=self._probe.seen() if self._probe is not None else None,
            switchover=parts(self._attempt.moments(), self._probe.gaps if self._probe is not None else ()) if moved else None,
            **self._told(kind),
        )

    def _told(self, kind: OutcomeKind) -> _Explanation:
        """Why, beside the sentence; of one that was taken up, as it was told before."""
        if kind in (OutcomeKind.MOVED, OutcomeKind.CANCELLED):
            return {}
        if (why := self._explained) is not None:
            return {"cause": why.cause, "hint": why.fix, "quotes": why.quotes}
        if (before := self._known) is not None:
            return {"cause": before.cause, "hint": before.hint, "quotes": before.quotes}
        return {}


class _Explanation(TypedDict, total=False):
    """Parts of an outcome."""

    cause: str
    hint: str
    quotes: tuple[str, ...]


_PROOFS: Final = {
    Owner.SOURCE: Fact.PROVEN_ON_SOURCE,
    Owner.DESTINATION: Fact.PROVEN_ON_DESTINATION,
    Owner.NOBODY: Fact.PROVEN_GONE,
    Owner.UNPROVEN: Fact.UNPROVEN,
}

_ENDS_PRECOPY: Final = frozenset({Decision.SUSPEND, Decision.START_POSTCOPY, Decision.GIVE_UP})
