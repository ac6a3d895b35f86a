"""Plays one move on the lab: a guest that runs, `segue migrate`, what happens meanwhile, a recovery where one is needed, and the
auditor's verdict.

What may live here: the play. It speaks to Segue as a user does, by its command line, and believes nothing that it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from segue.cli.exit_codes import OF_OUTCOME
from segue.cli.main import INTERRUPTED
from segue.core.model import OutcomeKind
from segue.core.record import Record
from segue.errors import HostUnreachable, UsageError
from segue.lab import Lab, guests
from segue.lab.guests import GuestSpec
from segue.lab.observe import Report, observe
from segue.lab.shell import Completed, run
from segue.store import open_store
from tests.faults.cast import SEGUE
from tests.soak.draws import Blow, Move
from tests.support import invariants
from tests.support.daemons import restart_libvirtd

MOST_S: Final = 75.0
"""A move that is not over by then is turned back; --on-miss extend lets one go on for ever."""
TURNED_S: Final = 60.0
"""And must have ended by then: a guest in post-copy arrives first."""
RECOVERED_S: Final = 90.0
CUT_S: Final = 2.0
DEFECTS: Final = ("Traceback", "defect of Segue itself", "never retrieved", "never awaited", "Exception ignored")
"""What a person must never read."""
UNREACHABLE: Final = HostUnreachable.exit_code
_AWAY: Final = frozenset([Blow.CUT, Blow.LIBVIRTD_SOURCE, Blow.LIBVIRTD_DESTINATION])
"""A host does not answer for a while."""
_BY_SIGNAL: Final = {
    Blow.KILL: (-signal.SIGKILL,),
    Blow.INTERRUPT: (-signal.SIGINT, INTERRUPTED),
    Blow.HANG_UP: (-signal.SIGHUP,),
}
"""How these end the process at once: by a kill whenever it comes, by the others while nothing has begun."""


@dataclass(kw_only=True)
class Played:
    """What came of one move.

    Attributes:
        status: the exit status of `segue migrate`; negative: the signal that ended it.
        outcome: as it is written down, or, of what was never begun, as it was told.
        report: the auditor's.
        told: the standstill of the last forecast, in its words.
        wrong: what should not be; empty when all is well.
    """

    status: int
    took_s: float
    outcome: dict[str, Any]
    homes: list[str]
    report: Report
    told: str
    wrong: list[str] = field(default_factory=list)

    @property
    def guest_is_whole(self) -> bool:
        """It may play again."""
        return not self.wrong and bool(self.report.running_on)

    def __str__(self) -> str:
        word = self.outcome.get("outcome", "nothing begun")
        where = ", ".join(self.homes) or "nowhere"
        waited = f"clients waited for {self.report.client_gap_ms} ms, told were {self.told or 'none'}"
        said = f"{word} ({self.status}) in {self.took_s:.1f} s, on {where}; {waited}"
        return f"BROKEN: {'; '.join(self.wrong)}; {said}" if self.wrong else said


class Stage:
    """One move on its way."""

    def __init__(self, lab: Lab, guest: GuestSpec, move: Move, state: Path) -> None:
        self.lab = lab
        self.guest = guest
        self.move = move
        self.state = state
        [(self.source, _)] = guests.where(lab, guest.name)
        self.destination = next(host for host in lab.hosts if host != self.source)
        self.told: dict[str, Any] = {}
        self.errors = ""
        self.status = 0
        self.wrong: list[str] = []
        self._before = {one.id for one in self.written()}

    def argv(self, *words: str) -> list[str]:
        """A segue in the admin host, with this guest's state."""
        return self.lab.enter_argv("admin", ["env", f"SEGUE_STATE={self.state}", SEGUE, *words])

    def written(self) -> list[Record]:
        """What is written of this guest's moves, the newest first."""
        with contextlib.closing(open_store(str(self.state))) as store:
            return list(store.find(limit=1000))

    def begun(self) -> list[Record]:
        """What is written of this move; nothing where it has not begun."""
        return [one for one in self.written() if one.id not in self._before]

    def heed(self, verb: str, done: Completed, *, fails: bool = False) -> None:
        """What a verb says that a person must never read is wrong, and so is that it `fails` in a way that it must not."""
        if fails or any(word in done.stderr for word in DEFECTS):
            self.wrong.append(f"segue {verb} ended with {done.status}: {done.stderr.strip()}")


async def play(lab: Lab, guest: GuestSpec, move: Move, state: Path) -> Played:
    """Play one move, from a guest that runs to the verdict.

    Args:
        lab: is as it was afterwards.
        guest: runs.
        move: what is drawn.
        state: where Segue writes down what it does; that of the moves before.
    """
    stage = await asyncio.to_thread(Stage, lab, guest, move, state)
    async with observe(lab, guest.name) as watch:
        began = time.monotonic()
        await migrate(stage)
        took_s = time.monotonic() - began
        await recover(stage)
        report = await invariants.reported(lab, guest.name, watch)
    homes = sorted(host for host, _ in guests.where(lab, guest.name))
    new = await asyncio.to_thread(stage.begun)
    outcome = {"outcome": new[0].outcome.outcome, "owner": new[0].outcome.owner} if new and new[0].outcome else stage.told
    told = next(iter(re.findall(r"forecast[^\n]* standing still for ([^(,]+)", stage.errors)[-1:]), "").strip()
    played = Played(status=stage.status, took_s=took_s, outcome=outcome, homes=homes, report=report, told=told, wrong=stage.wrong)
    judge(stage, played, settled=all(one.settled for one in new))
    played.wrong += await invariants.left_behind(lab, guest.name, guest.kind, homes)
    return played


async def migrate(stage: Stage) -> None:
    """Begin it, let happen what is drawn, and wait until the process that shows it has ended."""
    words = ["migrate", stage.guest.name, stage.destination, *stage.move.options, "--json"]
    if stage.move.detached:
        begun = await run(stage.argv(*words, "--detach"), check=False, deadline_s=MOST_S)
        if begun.status:
            stage.status, stage.errors, stage.told = begun.status, begun.stderr, {"outcome": OutcomeKind.REFUSED}
            return
        words = ["watch", json.loads(begun.stdout)["id"], "--json"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *stage.argv(*words), stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )
    assert process.stdout
    assert process.stderr
    errors = asyncio.create_task(process.stderr.read())
    reading = asyncio.create_task(read(stage, process.stdout))
    ended = asyncio.create_task(process.wait())
    try:
        await asyncio.wait({ended}, timeout=stage.move.after_s)
        if not ended.done():
            await strike(stage, process, reading)
        await asyncio.wait({ended}, timeout=MOST_S)
        if not ended.done():
            await turn_back(stage, process)
            await asyncio.wait({ended}, timeout=TURNED_S)
        if not ended.done():
            stage.wrong.append(f"it has not ended {TURNED_S:g} s after it was turned back")
    finally:
        if not ended.done():
            process.kill()
        stage.status = await ended
        stage.errors = (await errors).decode(errors="replace")
        await asyncio.wait({reading})


async def turn_back(stage: Stage, process: asyncio.subprocess.Process) -> None:
    """As a person would who has waited for long enough."""
    if stage.move.detached:
        await ask(stage, "cancel")
    else:
        process.send_signal(signal.SIGINT)


async def read(stage: Stage, stdout: asyncio.StreamReader) -> None:
    """Keep the outcome when it comes."""
    async for line in stdout:
        said = json.loads(line)
        if "outcome" in said:
            stage.told = said


async def strike(stage: Stage, process: asyncio.subprocess.Process, reading: asyncio.Task[None]) -> None:
    """Let it happen."""
    match stage.move.blow:
        case Blow.INTERRUPT:
            process.send_signal(signal.SIGINT)
        case Blow.HANG_UP:
            process.send_signal(signal.SIGHUP)
        case Blow.KILL:
            await kill(stage, process)
        case Blow.DEAF:
            reading.cancel()
            process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]  # asyncio has no word for it
        case Blow.CUT:
            await stage.lab.cut(stage.destination)
            await asyncio.sleep(CUT_S)  # the cut itself
            await stage.lab.heal(stage.destination)
        case Blow.LIBVIRTD_SOURCE:
            await restart_libvirtd(stage.lab, stage.source)
        case Blow.LIBVIRTD_DESTINATION:
            await restart_libvirtd(stage.lab, stage.destination)
        case Blow.CANCEL:
            await ask(stage, "cancel")
        case Blow.TUNE:
            await ask(stage, "tune", *stage.move.tuned)


async def kill(stage: Stage, process: asyncio.subprocess.Process) -> None:
    """Whoever leads it."""
    leases = [one.lease for one in await asyncio.to_thread(stage.begun) if one.led]
    if stage.move.detached and leases and leases[0]:
        await stage.lab.run("admin", ["kill", "-KILL", str(leases[0].holder.pid)], check=False)
    else:
        process.kill()


async def ask(stage: Stage, verb: str, *options: str) -> None:
    """As a person would from another terminal; where nothing is written down yet, nobody knows its id."""
    under_way = await asyncio.to_thread(stage.begun)
    if not under_way:
        return
    done = await run(stage.argv(verb, under_way[0].id, *options), check=False, deadline_s=MOST_S)
    stage.heed(verb, done, fails=done.status == UsageError.exit_code)


async def recover(stage: Stage) -> None:
    """`segue recover` from a fresh process, until it says that all is settled; what somebody leads is left to him at first."""
    began = time.monotonic()
    while any(not one.settled for one in await asyncio.to_thread(stage.written)) and time.monotonic() < began + RECOVERED_S:
        if stage.move.detached and time.monotonic() > began + RECOVERED_S / 2:
            await ask(stage, "cancel")
        stage.heed("recover", await run(stage.argv("recover", "--json"), check=False, deadline_s=MOST_S + TURNED_S))
        await asyncio.sleep(1)  # as a person would try again


def judge(stage: Stage, played: Played, *, settled: bool) -> None:
    """What may never be, and what was said beside what is so."""
    report, homes, outcome, status = played.report, played.homes, played.outcome, stage.status
    word, moved = outcome.get("outcome"), homes == [stage.destination]
    statuses = {OF_OUTCOME[kind] for kind in OutcomeKind if kind == word} | {OF_OUTCOME[OutcomeKind.AMBIGUOUS]}
    if stage.move.blow in _AWAY:
        statuses |= {UNREACHABLE, OF_OUTCOME[OutcomeKind.REFUSED]}
    only_watched = stage.move.detached and stage.move.blow in (*_BY_SIGNAL, Blow.DEAF)  # its end is another process's
    by_signal = status in _BY_SIGNAL.get(stage.move.blow, ()) and (stage.move.blow is Blow.KILL or word is None)
    broken = {
        "the guest runs nowhere": not homes,
        f"its QEMU is on {homes}, and it does not tick": bool(homes) and not report.running_on,
        f"said {word}, it is on {homes}": bool(homes) and moved is not (word == OutcomeKind.MOVED),
        f"said owner {outcome.get('owner')!r}, it is on {homes}": bool(outcome.get("owner")) and [outcome["owner"]] != homes,
        f"{word} is told by the status {status}": not (by_signal or only_watched) and status not in statuses,
        "ambiguous, though no host was away": status == OF_OUTCOME[OutcomeKind.AMBIGUOUS] and stage.move.blow not in _AWAY,
        "not settled": not settled,
        f"it says: {stage.errors.strip()}": any(sign in stage.errors for sign in DEFECTS),
    }
    played.wrong += [*invariants.broken(report, homes), *(what for what, is_so in broken.items() if is_so)]
