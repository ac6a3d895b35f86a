"""The simulated world: hosts, guests on them, a link, and a clock that moves when a migration is looked at.

The dirty-page model is the one of docs/reference/convergence.md: a guest writes at `write_bps` into a working set, so D(T), the
bytes dirtied in T, is min(working set, write_bps x T); an iteration of V bytes takes V / link and leaves D(V / link).

What may live here: plain mutable state and arithmetic. No asyncio, no protocol of the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from segue import units
from segue.core.evidence import Sighting
from segue.core.model import JobStatus, Progress

TICK_MS = 100
"""Simulated time between two samples."""


@dataclass(slots=True, kw_only=True)
class SimGuest:
    """One simulated guest; `copies` maps a host to what that host would show of it."""

    name: str
    memory_bytes: int = 256 * units.MIB
    working_set_bytes: int = 0
    write_bps: int = 0
    deltas_cover: int = 1
    """Each byte of a delta stands for so many of memory; 1: it changes whole pages."""
    copies: dict[str, Sighting] = field(default_factory=dict)
    job: Stream | None = None
    """Its memory on the way; it goes on whoever looks, as a hypervisor's does."""

    def dirtied(self, ms: int) -> int:
        """Bytes that it changes in that many milliseconds: D(T)."""
        return min(self.working_set_bytes, self.write_bps * ms // 1000)

    @property
    def running_on(self) -> list[str]:
        """The hosts on which it executes: never more than one, or the engine is wrong."""
        running = [host for host, sighting in self.copies.items() if sighting is Sighting.RUNNING]
        halves = [host for host, sighting in self.copies.items() if sighting is Sighting.POSTCOPY]
        return running + halves[-1:]  # the source of a post-copy holds pages and executes nothing


@dataclass(slots=True, kw_only=True)
class World:
    """Hosts that answer, guests, the link between all hosts, and the time.

    Attributes:
        broken: names of attempt steps (``prepare``, ``perform``, ``finish``, ``confirm``, ``roll_back``) that fail from now on.
        mended: what was taken away from guests so that they can be moved.
        unreachable: hosts that do not answer.
        cut: the link between hosts carries nothing.
    """

    hosts: tuple[str, ...] = ("alpha", "beta")
    link_bps: int = 120_000_000
    guests: dict[str, SimGuest] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    mended: set[str] = field(default_factory=set)
    unreachable: set[str] = field(default_factory=set)
    cut: bool = False
    now_ms: int = 0
    most_copies: int = 0
    """The largest number of copies of one guest that executed at one time."""

    def add(self, guest: SimGuest, host: str) -> SimGuest:
        """Start a guest on a host."""
        guest.copies[host] = Sighting.RUNNING
        self.guests[guest.name] = guest
        self.audit()
        return guest

    def show(self, guest: str, host: str, sighting: Sighting) -> None:
        """Change what a host shows of a guest."""
        copies = self.guests[guest].copies
        if sighting is Sighting.ABSENT:
            copies.pop(host, None)
        else:
            copies[host] = sighting
        self.audit()

    def audit(self) -> None:
        """Count the copies that execute now."""
        self.most_copies = max([self.most_copies, *(len(guest.running_on) for guest in self.guests.values())])


@dataclass(slots=True, kw_only=True)
class Stream:
    """The memory of one guest on its way: pre-copy in iterations, then a switchover, or post-copy."""

    world: World
    guest: SimGuest
    max_downtime_ms: int
    bandwidth_bps: int | None = None
    began_ms: int = 0
    status: JobStatus = JobStatus.ACTIVE
    iteration: int = 1
    left_bytes: int = 0
    round_ms: int = 0
    sent_bytes: int = 0
    dirty_bps: int = 0
    downtime_ms: int | None = None
    throttle_percent: int = 0
    deltas: bool = False
    saved_bytes: int = 0

    @property
    def rate_bps(self) -> int:
        """What the link, or the operator's limit, lets through."""
        return min(self.world.link_bps, self.bandwidth_bps or self.world.link_bps)

    def tick(self) -> None:
        """Let `TICK_MS` pass, also where the link is cut: then nothing moves in it."""
        self.world.now_ms += TICK_MS
        self.round_ms += TICK_MS
        if self.world.cut:
            return
        # In the second iteration what is sent is remembered, in the third deltas go over; none do in post-copy.
        flow = self.deltas and self.iteration > 2 and self.status is JobStatus.ACTIVE
        covers = self.guest.deltas_cover if flow else 1
        moved = min(self.left_bytes, covers * self.rate_bps * TICK_MS // 1000)
        self.left_bytes -= moved
        self.sent_bytes += moved // covers
        self.saved_bytes += moved - moved // covers
        if self.status is JobStatus.POSTCOPY:
            if self.left_bytes == 0:
                self.status = JobStatus.COMPLETED
        elif self.status is JobStatus.ACTIVE and self.left_bytes == 0:
            self._next_iteration()

    def _next_iteration(self) -> None:
        dirtied = self.guest.dirtied(self.round_ms * (100 - self.throttle_percent) // 100)
        self.dirty_bps = dirtied * 1000 // max(1, self.round_ms)
        if dirtied <= self.rate_bps * self.max_downtime_ms // 1000:
            self.downtime_ms = dirtied * 1000 // self.rate_bps
            self.sent_bytes += dirtied
            self.status = JobStatus.COMPLETED
            return
        self.iteration += 1
        self.left_bytes, self.round_ms = dirtied, 0

    def sample(self) -> Progress:
        """What a hypervisor would report now."""
        return Progress(
            elapsed_ms=self.world.now_ms - self.began_ms,
            status=self.status,
            raw_status=self.status,
            ram_total_bytes=self.guest.memory_bytes,
            ram_remaining_bytes=self.left_bytes,
            sent_bytes=self.sent_bytes,
            throughput_bps=self.rate_bps,
            saved_bytes=self.saved_bytes,
            dirty_bps=self.dirty_bps,
            iteration=self.iteration,
            downtime_ms=self.downtime_ms,
            throttle_percent=self.throttle_percent,
        )
