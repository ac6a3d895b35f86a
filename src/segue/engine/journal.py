"""Writes a migration down while it runs: what is about to be done before it is done, everything else when there is time.

One thread does all that touches the database: it writes in order what is handed to it, renews the lease, and brings back what
others wish. The coroutine that leads the migration waits for it in one place only, for an intent to be on disk; and there not
for long. The first must get there, or nothing is begun: what nobody wrote down, nobody can recover. After that a database that
does not answer holds nothing up: within the lease nobody else can act, so the leader may. When the lease has run out without an
answer it may not, for somebody else may have taken over; unless the database has said that it cannot be written at all.

What may live here: that thread, and the rules for going on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from segue.core.model import Progress
from segue.core.phases import State
from segue.core.ports import Store
from segue.core.record import Action, Change, Ended, Entry, Lease, Note, Sample, Settings, Step, Transition, Wishes
from segue.engine import failpoints
from segue.errors import LeaseLost, SegueError, StoreError

LEASE_MS: Final = 10_000
"""How long a leader leads without a sign of life. Longer than a database may stall, shorter than a person waits."""
PATIENCE_S: Final = 0.5
"""How long an action waits for its intent to be on disk. SQLite with fsync takes 1 to 10 ms here."""
FIRST_S: Final = 5.0
"""How long the first action of a migration waits for its intent. Nothing was touched yet: it may be late, but must get there."""
PROOF_OF_LEAD_S: Final = 60.0
"""How long to wait for the database once the lease has run out."""
POLL_S: Final = 0.15
"""Between two looks for wishes, and so how late one may be seen."""
CLOSE_S: Final = 5.0
MOST_SAMPLES: Final = 600
"""Samples that wait to be written; more are dropped while the database stalls."""

OnWishes = Callable[[Wishes], None]


def wall_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def lease_clock_ms() -> int:
    """A clock that goes on while this process, or the machine, sleeps (CLOCK_BOOTTIME)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Journal:
    """The written side of one migration that this process leads.

    Args:
        store: where it is written.
        lease: held by this process.
        on_wishes: told when others want something new; called in the event loop.
        told_to_run: the journal has an intent to let the destination run already.
        begins: nothing was done yet, so nothing may be before it is written down.
    """

    def __init__(self, store: Store, lease: Lease, *, on_wishes: OnWishes, told_to_run: bool, begins: bool = False) -> None:
        self._store = store
        self._lease = lease
        self._on_wishes = on_wishes
        self._begins = begins
        self.told_to_run = told_to_run
        """There is an intent to let the destination run."""
        self.trouble = ""
        """Why not everything could be written down; empty when it could."""
        self._leads_until_ms = lease_clock_ms() + LEASE_MS
        self._loop = asyncio.get_running_loop()
        self._lost: LeaseLost | None = None
        self._refused: StoreError | None = None
        self._behind = False
        self._queue: queue.SimpleQueue[tuple[Change | None, asyncio.Future[None] | None]] = queue.SimpleQueue()
        self._closing = False
        self._seen_revision = 0
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    # what is written

    @contextlib.asynccontextmanager
    async def acting(self, action: Action, detail: str = "") -> AsyncIterator[None]:
        """Surround one action on a hypervisor (`ActionLog`)."""
        await failpoints.reach(f"{action}.wanted")
        await self._intend(self._entry(action, Step.INTENT, detail))
        if action is Action.RESUME_DESTINATION:
            self.told_to_run = True
        await failpoints.reach(f"{action}.intended")
        try:
            yield
        except SegueError as error:
            self._put(self._entry(action, Step.FAILED, error.message))
            raise
        await failpoints.reach(f"{action}.acted")
        self._put(self._entry(action, Step.DONE))

    def _entry(self, action: Action, step: Step, detail: str = "") -> Entry:
        return Entry(at_ms=wall_ms(), epoch=self._lease.epoch, action=action, step=step, detail=detail)

    def entered(self, state: State) -> None:
        """A state was entered; on disk before the next intent is."""
        self._put(Transition(at_ms=wall_ms(), epoch=self._lease.epoch, state=state))

    def note(self, text: str) -> None:
        """Something to be told later."""
        self._put(Note(at_ms=wall_ms(), epoch=self._lease.epoch, text=text))

    def sample(self, progress: Progress) -> None:
        """A look at the job; dropped when too many wait."""
        if self._queue.qsize() < MOST_SAMPLES:
            self._put(Sample(at_ms=wall_ms(), progress=progress))

    def settings(self, settings: Settings) -> None:
        """What is in force now."""
        self._put(settings)

    async def ended(self, ended: Ended) -> None:
        """The end; waits a little for it to be on disk."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._put(ended, wait=True)

    # leading

    async def _intend(self, entry: Entry) -> None:
        """Write an intent, and make sure that this process still leads.

        Raises:
            LeaseLost: it does not, or cannot know.
            StoreError: the first intent is not on disk, and so nothing was touched.
        """
        written = self._put(entry, wait=True)
        begins, self._begins = self._begins, False
        deadline_s = FIRST_S if begins else 0.0 if self._behind else PATIENCE_S
        if (await asyncio.wait([written], timeout=deadline_s))[0]:
            return written.result()
        self._behind = True
        if begins:
            why = self.trouble or f"The database did not answer within {FIRST_S:g} s."
            raise StoreError(
                f"What is about to be done cannot be written down, so nothing was begun. {why}",
                hint="Make room where Segue's state is, or let that disk answer; then migrate again.",
            )
        if lease_clock_ms() < self._leads_until_ms or self._refused is not None:
            return None
        if not (await asyncio.wait([written], timeout=PROOF_OF_LEAD_S))[0]:
            raise LeaseLost(
                f"The database has not answered for {PROOF_OF_LEAD_S:g} s, and another process may lead this migration by now."
            )
        return written.result()

    def _put(self, change: Change, *, wait: bool = False) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever waits has it; maybe nobody does
        self._queue.put((change, future if wait else None))
        if wait and self._lost is not None:  # looked at after the put: the thread empties the queue after it has set this
            raise self._lost
        return future

    # the thread

    def _work(self) -> None:
        waiting: list[tuple[Change | None, asyncio.Future[None] | None]] = []
        next_renewal_ms = lease_clock_ms() + LEASE_MS // 3
        while not (self._closing and not waiting and self._queue.empty()):
            waiting += self._take()
            try:
                changes = [change for change, _ in waiting if change is not None]
                if changes:
                    self._store.write(self._lease, changes)
                self._settle(waiting, None)
                waiting, self._behind = [], False
                if lease_clock_ms() >= next_renewal_ms:
                    asked_ms = lease_clock_ms()
                    self._lease = self._store.renew(self._lease, ttl_ms=LEASE_MS)
                    self._leads_until_ms, next_renewal_ms = asked_ms + LEASE_MS, asked_ms + LEASE_MS // 3
                self._look_for_wishes()
                self._refused = None
            except LeaseLost as error:
                self._lost = error
                self._settle([*waiting, *self._left()], error)
                return
            except StoreError as error:  # nothing was written: all of it is tried again
                self._refused, self.trouble = error, error.message
                if self._closing:
                    return
                time.sleep(POLL_S)

    def _take(self) -> list[tuple[Change | None, asyncio.Future[None] | None]]:
        """What there is to write: at once when somebody waits for it, else what has come together in a while."""
        taken: list[tuple[Change | None, asyncio.Future[None] | None]] = []
        until = time.monotonic() + POLL_S
        while not self._closing and not any(future for _, future in taken) and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                taken.append(self._queue.get(timeout=left))
        return taken + self._left()

    def _left(self) -> list[tuple[Change | None, asyncio.Future[None] | None]]:
        """What is in the queue now."""
        left = []
        with contextlib.suppress(queue.Empty):
            while True:
                left.append(self._queue.get_nowait())
        return left

    def _settle(self, written: list[tuple[Change | None, asyncio.Future[None] | None]], error: SegueError | None) -> None:
        def tell() -> None:
            for future in futures:
                if future.done():
                    continue
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)

        if futures := [future for _, future in written if future is not None]:
            self._call(tell)

    def _look_for_wishes(self) -> None:
        wishes = self._store.wishes(self._lease.migration)
        if wishes.revision > self._seen_revision:
            self._seen_revision = wishes.revision
            self._call(lambda: self._on_wishes(wishes))

    def _call(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function)

    async def aclose(self) -> None:
        """Write what is left, as far as the database lets it within `CLOSE_S`, and give the lease up."""
        self._closing = True
        self._queue.put((None, None))
        until = time.monotonic() + CLOSE_S
        while self._thread.is_alive() and time.monotonic() < until:  # noqa: ASYNC110  # a thread's end is no event
            await asyncio.sleep(0.005)
        if self._thread.is_alive():
            self.trouble = self.trouble or f"The database did not answer within {CLOSE_S:g} s."
        elif self._lost is None and self._refused is None:
            with contextlib.suppress(StoreError):
                self._store.release(self._lease)
