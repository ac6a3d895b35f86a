"""Plays one cell on the lab: a guest, a migration, a death, a recovery from a fresh process, and the auditor's verdict.

What may live here: the play. It speaks to Segue as a user does, by its command line, and believes nothing that it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path as FilePath
from typing import Any

from segue.core.ports import Store
from segue.core.record import Record
from segue.engine.failpoints import VARIABLE
from segue.engine.journal import LEASE_MS, wall_ms
from segue.lab import Lab, guests
from segue.lab.layout import GUEST_RUN
from segue.lab.observe import Report, observe
from segue.lab.shell import run
from segue.store import open_store
from segue.units import parse_rate
from tests.faults import results
from tests.faults.cast import SEGUE, Cast, Length
from tests.faults.cells import BEGUN_PERCENT, HELD, Cell, Fault, Moment, Path
from tests.support import invariants
from tests.support.daemons import restart_libvirtd

DEADLINE_S = 150.0
RECOVERED_S = 90.0
GIVEN_UP_S = 40.0
SLOW = "12MiB/s"
"""Pre-copy takes eight seconds: time for something to die in it."""


@dataclass(kw_only=True)
class Played:
    """What happened in one cell.

    Attributes:
        source: where the guest ran before.
        said: the outcome that Segue told last, by the process that led or by recovery.
        recovery: what the last `segue recover` took.
        homes: where the guest's QEMUs are.
        wrong: every promise that was broken; empty when all was kept.
    """

    cell: Cell
    source: str
    said: dict[str, Any]
    recovery: Recovery
    homes: list[str]
    report: Report
    wrong: list[str] = field(default_factory=list)

    @property
    def word(self) -> str:
        """The cell in the table."""
        if self.wrong:
            return f"{results.BROKEN}: {'; '.join(self.wrong)}"
        if not self.homes:
            return "moved, then killed there" if self.said.get("outcome") == "moved" else "guest killed; said so"
        if self.said.get("outcome") == "ambiguous":
            return "ambiguous; a person must look"
        return f"{self.said.get('outcome')}, on {'source' if self.homes == [self.source] else 'destination'}"

    @property
    def guest_is_whole(self) -> bool:
        """It came through as if nothing had been, and may play again."""
        whole = not self.wrong and self.report.clean
        return whole and self.homes == [self.report.running_on] == [self.said.get("owner")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """One `segue recover`: the whole process by the wall clock, Python's start included; 0 where it was not needed.

    Attributes:
        watched_s: of that, how long it watched a migration that the hypervisors went on with, to its end.
    """

    took_s: float = 0.0
    watched_s: float = 0.0


class Stage:
    """One cell on its way."""

    def __init__(self, lab: Lab, cell: Cell, name: str, length: Length) -> None:
        self.lab = lab
        self.cell = cell
        self.name = name
        [(self.source, _)] = guests.where(lab, name)
        self.destination = "beta" if self.source == "alpha" else "alpha"
        self.length = length
        self.state = lab.root / f"written-{secrets.token_hex(3)}"
        # What is mounted in the admin host is seen by nobody outside but so.
        self.state_from_outside = FilePath(f"/proc/{lab.pids['admin']}/root{self.state}")
        self.hold = self.state.with_suffix(".hold")
        self.outcome: dict[str, Any] = {}
        self.sample: dict[str, Any] = {}
        self.stderr = ""
        self.stopped: asyncio.subprocess.Process | None = None
        self.asking: asyncio.Task[object] | None = None

    def argv(self, *words: str, failpoint: str = "") -> list[str]:
        """A segue of this cell in the admin host: its own state, and a failpoint where one is wanted."""
        variables = [f"SEGUE_STATE={self.state}", *([f"{VARIABLE}={failpoint}"] if failpoint else [])]
        return self.lab.enter_argv("admin", ["env", *variables, SEGUE, *words])

    async def segue(self, *words: str, deadline_s: float = 40.0) -> tuple[int, list[dict[str, Any]], str]:
        done = await run(self.argv(*words, "--json"), check=False, deadline_s=deadline_s)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return done.status, lines, done.stderr

    def pid_of(self, host: str) -> int | None:
        """The guest's QEMU on that host."""
        return next((pid for home, pid in guests.where(self.lab, self.name) if home == host), None)

    # the deaths

    async def strike(self, process: asyncio.subprocess.Process) -> None:
        """Let it happen."""
        match self.cell.fault:
            case Fault.KILL_SEGUE:
                process.kill()
            case Fault.STOP_SEGUE:
                process.send_signal(signal.SIGSTOP)
            case Fault.KILL_SOURCE | Fault.KILL_DESTINATION:
                pid = self.pid_of(self.source if self.cell.fault is Fault.KILL_SOURCE else self.destination)
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
            case Fault.LIBVIRTD_SOURCE:
                await restart_libvirtd(self.lab, self.source)
            case Fault.LIBVIRTD_DESTINATION:
                await restart_libvirtd(self.lab, self.destination)
            case Fault.FULL_DISK:
                await asyncio.to_thread(fill, self.state_from_outside)
            case _:
                await self.lab.cut(self.destination)

    async def mend(self) -> None:
        """Undo what a world outside would undo in time, and what recovery is to find undone."""
        match self.cell.fault:
            case Fault.CUT_2:
                await asyncio.sleep(2)  # the cut itself
                await self.lab.heal(self.destination)
            case Fault.CUT_20:
                await asyncio.sleep(20)
                await self.lab.heal(self.destination)


def fill(directory: FilePath) -> None:
    """Fill the file system of the state to its last byte."""
    with contextlib.suppress(OSError), (directory / "full").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@contextlib.asynccontextmanager
async def small_disk(stage: Stage) -> AsyncIterator[None]:
    """The state on a file system of its own, where it is to be filled."""
    stage.state.mkdir(mode=0o700)
    small = stage.cell.fault is Fault.FULL_DISK
    if small:
        await stage.lab.run("admin", ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(stage.state)])
    try:
        yield
    finally:
        if small:
            await stage.lab.run("admin", ["umount", str(stage.state)])
        shutil.rmtree(stage.state, ignore_errors=True)


async def play(lab: Lab, cell: Cell, cast: Cast) -> Played:
    """Play one cell, from a guest that runs to the verdict. The lab is as it was afterwards."""
    for host in ("alpha", "beta"):
        await lab.set_rate(host, parse_rate("300mbit" if cell.in_postcopy else "1gbit"))
    name, plays = await cast.take(cell.path.kind)
    length = await cast.length(cell.path, name) if cell.after_percent is not None else Length()
    whole, stage = False, Stage(lab, cell, name, length)
    try:
        async with small_disk(stage):
            await answers(stage)
            async with observe(lab, name) as watch:
                await migrate(stage)
                recovery = await recover(stage)
                report = await invariants.reported(lab, name, watch)
            homes = sorted(host for host, _ in guests.where(lab, name))
            played = Played(cell=cell, source=stage.source, said=stage.outcome, recovery=recovery, homes=homes, report=report)
            judge(stage, played, await invariants.left_behind(lab, name, cell.path.kind, homes))
        whole = played.guest_is_whole
        return played
    finally:
        await lab.heal(stage.destination)
        await cast.give_back(cell.path.kind, name, plays + 1, whole=whole)
        stage.hold.unlink(missing_ok=True)


async def answers(stage: Stage) -> None:
    """Wait until the guest's QEMU does: one whose storage was away in the cell before does not, until it has it again."""
    if stage.cell.path.kind == "libvirt":
        ask = ["virsh", "-q", "-c", "qemu:///system", "migrate-getmaxdowntime", stage.name]
        await stage.lab.run(stage.source, ask)


async def migrate(stage: Stage) -> None:
    """Begin it, let it come to its moment, strike, and wait until the process is gone or stands still."""
    cell = stage.cell
    held = "" if cell.moment is None else HELD[cell.path].get(cell.moment, "")
    points = [f"{cell.failpoint}=kill"] if cell.failpoint else []
    if held or cell.turned_at:
        points.append(f"{held or cell.turned_at}=hold:{stage.hold}")
    words = [stage.name, stage.destination, "--control", cell.path.control, "--max-downtime", "400ms"]
    if cell.turning_back or cell.in_postcopy or cell.moment is Moment.PERFORM:
        words += ["--bandwidth", SLOW]
    if cell.in_postcopy:
        words += ["--postcopy"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *stage.argv("migrate", *words, "--json", failpoint=",".join(points)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
    )
    mending: asyncio.Task[None] | None = None
    reading = asyncio.create_task(read(stage, process))
    try:
        async with asyncio.timeout(DEADLINE_S):
            if cell.after_percent is not None:
                await come_at_random(stage, reading, cell.after_percent)
                if process.returncode is None:
                    await stage.strike(process)
            elif not cell.failpoint:
                await come_to(stage, process, reading)
                if process.returncode is not None:
                    raise AssertionError(f"it had ended before that moment: {stage.outcome} {stage.stderr}")
                await stage.strike(process)
                mending = asyncio.create_task(stage.mend())
                stage.hold.unlink(missing_ok=True)
            elif cell.turned_at:
                await until(lambda: reading.done() or stage.hold.exists())
                if reading.done():
                    raise AssertionError(f"it had ended before it could be turned back: {stage.outcome} {stage.stderr}")
                process.send_signal(signal.SIGINT)
                stage.hold.unlink(missing_ok=True)
            elif cell.turning_back:
                await seen(stage, reading, lambda sample: sample["sent_bytes"] > 0)
                process.send_signal(signal.SIGINT)
            elif cell.in_postcopy:
                await seen(stage, reading, lambda sample: sample["sent_bytes"] > 0)
                await ask_for_postcopy(stage)
            if cell.fault is Fault.STOP_SEGUE:
                await asyncio.sleep(LEASE_MS / 1000 + 0.5)  # the lease itself
                return
            if cell.fault is Fault.CUT_FOR_GOOD and cell.moment is Moment.POSTCOPY:
                await asyncio.wait({reading}, timeout=GIVEN_UP_S)
                if process.returncode is None:
                    process.kill()  # it waits for the link as long as anybody lets it: here a person does not
            await reading
            await process.wait()
            if cell.failpoint and process.returncode != -signal.SIGKILL:
                raise AssertionError(f"it never came to that failpoint: {stage.outcome} {stage.stderr}")
    finally:
        if mending is not None:
            await mending
        if stage.asking is not None:
            stage.asking.cancel()
            await asyncio.wait({stage.asking})
        if cell.fault is Fault.STOP_SEGUE:
            stage.stopped = process
        elif process.returncode is None:
            process.kill()
            await process.wait()
        if process.returncode is not None and not reading.cancelled():
            await reading


async def read(stage: Stage, process: asyncio.subprocess.Process) -> None:
    """Keep the newest line, and the outcome when it comes."""
    assert process.stdout
    assert process.stderr
    errors = asyncio.create_task(process.stderr.read())
    async for line in process.stdout:
        said = json.loads(line)
        if "outcome" in said:
            stage.outcome = said
        else:
            stage.sample = said
    stage.stderr = (await errors).decode()


async def seen(stage: Stage, reading: asyncio.Task[None], sign: Callable[[dict[str, Any]], bool]) -> None:
    await until(lambda: reading.done() or bool(stage.sample and sign(stage.sample)))


async def until(sign: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    while not sign():  # noqa: ASYNC110  # there is no event between processes; the deadline is the caller's
        await asyncio.sleep(0.005)


async def come_to(stage: Stage, process: asyncio.subprocess.Process, reading: asyncio.Task[None]) -> None:
    """Wait for the moment: held there, or seen there."""
    moment = stage.cell.moment
    if moment in HELD[stage.cell.path]:
        await until(lambda: stage.hold.exists() or process.returncode is not None)
        return
    await seen(stage, reading, lambda sample: sample["sent_bytes"] > 0)
    match moment:
        case Moment.POSTCOPY:
            await ask_for_postcopy(stage)
            # The moment itself is waited for, not the answer: on a machine under load that comes too late.
            await seen(stage, reading, lambda sample: sample["status"].startswith("postcopy"))
        case Moment.SWITCHOVER:  # inside libvirt's call: the domain on the source stands still for some 100 ms
            while process.returncode is None and await domain_runs(stage):
                pass


async def ask_for_postcopy(stage: Stage) -> None:
    """As a person would, from another process; its answer nobody waits for."""
    under_way = await asyncio.to_thread(written, stage)
    if not under_way:
        raise AssertionError(f"nothing is under way; it said {stage.outcome}, {stage.stderr}")
    stage.asking = asyncio.create_task(stage.segue("tune", under_way[0].id, "--postcopy-now"))


async def come_at_random(stage: Stage, reading: asyncio.Task[None], percent: int) -> None:
    """Wait for that part of a move's life, or for its end."""
    before, after = percent / BEGUN_PERCENT, (percent - BEGUN_PERCENT) / (100 - BEGUN_PERCENT)
    if after < 0:
        await asyncio.wait({reading}, timeout=stage.length.before_s * before)
        return
    await seen(stage, reading, lambda _: True)
    await asyncio.wait({reading}, timeout=stage.length.after_s * after)


async def domain_runs(stage: Stage) -> bool:
    pid = stage.pid_of(stage.source)
    if pid is None:
        return False
    said = await run(
        stage.lab.enter_argv(stage.source, ["virsh", "-q", "-c", "qemu:///system", "domstate", stage.name]), check=False
    )
    return said.stdout.strip() == "running"


async def recover(stage: Stage) -> Recovery:
    """`segue recover` from a fresh process, until it says that all is settled; what the one took that settled it."""
    cell = stage.cell
    if cell.fault is Fault.CUT_FOR_GOOD:
        await stage.lab.heal(stage.destination)
    if cell.fault is Fault.FULL_DISK:
        (stage.state_from_outside / "full").unlink(missing_ok=True)
    a_person_decides = cell.kills_the_guest or cell.may_kill_the_guest or died_with_the_destination(cell)
    until_s = time.monotonic() + RECOVERED_S
    recovery = Recovery()
    while time.monotonic() < until_s and any(not one.settled for one in await asyncio.to_thread(written, stage)):
        began, began_at_ms = time.monotonic(), wall_ms()
        await stage.segue("recover", deadline_s=100)
        took_s = time.monotonic() - began
        recovery = Recovery(took_s=took_s, watched_s=await asyncio.to_thread(watched_s, stage, began_at_ms))
        if a_person_decides:
            break
        await asyncio.sleep(1)  # as a person would try again; a host that was away frees what dead connections held
    await learn_outcome(stage)
    if stage.outcome.get("outcome") == "failed" and not stage.outcome.get("owner"):
        await stage.segue("recover", "--discard", deadline_s=60)  # what a person decides here
    if stage.stopped is not None:
        await wake(stage.stopped)
    return recovery


@contextlib.contextmanager
def opened(stage: Stage) -> Iterator[Store]:
    """What is written of this cell. SQLite follows the link in /proc to what the small disk hides: so a copy of that disk."""
    with tempfile.TemporaryDirectory() as copy:
        if stage.cell.fault is Fault.FULL_DISK:
            shutil.copytree(stage.state_from_outside, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("full"))
        with contextlib.closing(open_store(copy if stage.cell.fault is Fault.FULL_DISK else str(stage.state))) as store:
            yield store


def written(stage: Stage) -> list[Record]:
    """What is written of this cell's migration; nothing where none was begun."""
    with opened(stage) as store:
        return list(store.find())


def watched_s(stage: Stage, since_ms: int) -> float:
    """From the first sample that was taken since then to the last: how long the hypervisors still worked on it."""
    with opened(stage) as store:
        times = [sample.at_ms for one in store.find() for sample in store.samples(one.id, after_ms=since_ms)]
    return (times[-1] - times[0]) / 1000 if times else 0.0


async def learn_outcome(stage: Stage) -> None:
    """What is written of the end. A process that was killed before it had written anything had touched nothing either."""
    if records := await asyncio.to_thread(written, stage):
        [outcome] = [one.outcome for one in records]
        stage.outcome = asdict(outcome) if outcome is not None else {}
    elif stage.outcome.get("outcome") in (None, "refused"):
        stage.outcome = {"outcome": "not begun", "owner": stage.source}


async def wake(stopped: asyncio.subprocess.Process) -> None:
    """A leader that stood still goes on, if it is still there: it must act no more."""
    if stopped.returncode is None:
        stopped.send_signal(signal.SIGCONT)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), 15)
    if stopped.returncode is None:
        stopped.kill()
        await stopped.wait()


def judge(stage: Stage, played: Played, left: list[str]) -> None:
    """The invariants: what may never be, whatever died."""
    report, homes, said, cell = played.report, played.homes, played.said, stage.cell
    may_die = cell.kills_the_guest or cell.may_kill_the_guest or died_with_the_destination(cell)
    killed_there = cell.fault is Fault.KILL_DESTINATION and (cell.moment is Moment.CONFIRM or cell.after_percent is not None)
    # What may have run and died must not be raised from its past: then it stands still, and a person decides.
    undecided = may_die and said.get("outcome") == "ambiguous" and homes == [stage.source]
    monitors = [stage.lab.host_path(host, f"{GUEST_RUN}/{stage.name}.qmp") for host in stage.lab.hosts if host not in homes]
    nobody_was_killed = cell.fault not in (Fault.KILL_SOURCE, Fault.KILL_DESTINATION)
    ends = (
        "failed",
        "ambiguous",
        *(("moved",) if killed_there else ()),
        *(("not begun",) if cell.after_percent is not None else ()),
    )
    broken = {
        "the guest runs nowhere": not homes and not may_die,
        f"its QEMU is on {homes}, and it does not tick": bool(homes) and not report.running_on and not undecided,
        f"said {said.get('outcome')}, owner {said.get('owner')!r}, it is on {homes}: {said.get('error')}": bool(homes)
        and said.get("owner") not in homes
        and not undecided,
        f"said {said.get('outcome')}, the guest is gone": not homes and said.get("outcome") not in ends,
        "left behind: a monitor's socket": nobody_was_killed and any(path.exists() for path in monitors),
        f"left behind: {', '.join(left)}": bool(left),
    }
    played.wrong += [*invariants.broken(report, homes), *(what for what, is_so in broken.items() if is_so)]


def died_with_the_destination(cell: Cell) -> bool:
    """The destination was being told to run when it was killed: its past must not be raised, and a person decides."""
    inside = Moment.FINISH if cell.path is Path.QEMU else Moment.SWITCHOVER
    return cell.fault is Fault.KILL_DESTINATION and cell.moment is inside
