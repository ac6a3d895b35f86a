"""Plays cells: a guest goes back and forth between two hosts, moved by each contender in turn, watched by the lab's auditor.

What is measured is measured from outside and the same way for all: the guest's own ticks and loop, a client on the network, the
wall clock of the whole process. Bytes, iterations and the hypervisor's own downtime are what libvirt says.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from convergence.grid import GUEST, LINKS, Cell, Contender
from segue.errors import SegueError
from segue.lab import Lab, guests
from segue.lab.observe import observe
from segue.lab.observe.judge import Memory

SEGUE: Final = str(Path(sys.executable).with_name("segue"))
LADDERS: Final = Path(__file__).parents[1] / "ladders.toml"
BEFORE_S: Final = 1.5
"""How long the guest's own loop is watched before a move, at least; and it is let to come to rest from the last one."""
END_DEADLINE_S: Final = 90.0
"""For a contender to end after it was told to; libvirt takes up to 40 s to kill a destination."""
PAGE: Final = 4096
_ZEROES: Final = bytes(PAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One move that one contender tried. What is ``None`` was not told."""

    cell: str
    contender: str
    round: int
    end: str
    """``moved``, ``gave up`` (it said no, or turned back by itself), ``cut`` (it was still at it when its time was over)."""
    seconds: float
    """The whole process, by the wall clock."""
    total_ms: int | None = None
    """By Segue's own account, from when the destination is prepared to the proof: to see what its start and its looks take."""
    memory_bytes: int = 0
    """Of the guest's pages that held anything when it began."""
    sent_bytes: int | None = None
    iterations: int | None = None
    hypervisor_ms: int | None = None
    guest_ms: int | None = None
    client_ms: int = 0
    loop_before_bps: float | None = None
    loop_during_bps: float | None = None
    clean: bool = True
    """The auditor found nothing lost, nothing twice, and one copy."""
    decisions: tuple[str, ...] = ()
    error: str = ""
    announced_ms: int | None = None
    """The standstill that its last forecast told."""
    load: float = 0.0
    """Of the machine, when it ended (the mean of a minute)."""


async def play(lab: Lab, cell: Cell, contender: Contender, number: int, *, cut_s: float) -> Run:
    """One run; the guest is then where it was found to be."""
    [(here, pid)] = guests.where(lab, GUEST)
    there = "beta" if here == "alpha" else "alpha"
    memory_bytes = held_bytes(pid, guests.record(lab, GUEST).memory_bytes)
    async with observe(lab, GUEST) as watch:
        await asyncio.sleep(max(BEFORE_S, sum(cell.workload.bursts or ()) / 1000))
        mark = watch.mark()
        began = time.perf_counter()
        argv = lab.enter_argv("admin", _argv(lab, cell, contender, here, there))
        stop = functools.partial(_abort, lab, here) if contender.tool == "virsh" else None
        status, said, words = await _moved(argv, cut_s=cut_s, stop=stop)
        seconds = time.perf_counter() - began
        ended = watch.mark()
        await _alone(lab)
        report = await watch.report(since=mark)
        loop = _loop(watch.memory, mark, ended)
    [(now, _)] = guests.where(lab, GUEST)
    told = _segue(said) if contender.tool == "segue" else await _virsh(lab, there, moved=now == there)
    end = "moved" if now == there else "cut" if seconds >= cut_s else "gave up"
    return Run(
        cell=cell.name,
        contender=contender.name,
        round=number,
        end=end,
        seconds=round(seconds, 3),
        memory_bytes=memory_bytes,
        guest_ms=report.guest_lost_ms,
        client_ms=report.client_gap_ms,
        loop_before_bps=loop[0],
        loop_during_bps=loop[1],
        clean=report.clean,
        load=round(os.getloadavg()[0], 2),
        announced_ms=announced_ms(words, cell.workload.writes),
        **{"error": "" if end == "moved" else words.strip()[-300:] or f"exit status {status}", **told},
    )


def _argv(lab: Lab, cell: Cell, contender: Contender, here: str, there: str) -> list[str]:
    if contender.tool == "virsh":
        how = ["--live", "--persistent", "--undefinesource", *contender.options]
        return ["virsh", "-q", "-c", f"qemu+tcp://{here}/system", "migrate", *how, GUEST, f"qemu+tcp://{there}/system"]
    # What was seen of one link, or of a ladder that limits itself, says nothing of another.
    written = lab.root / f"{cell.link}-{'ladders' if contender.is_peer else 'own'}"
    own = [f"SEGUE_CONFIG={_config(lab, cell.link)}", f"SEGUE_STATE={written}"]
    return ["env", *own, SEGUE, "migrate", GUEST, there, "--from", here, *contender.options, "--json"]


def _config(lab: Lab, link: str) -> Path:
    return lab.root / f"{link}.toml"


def write_configs(lab: Lab) -> None:
    """For each link the lab's own segue.toml, with what an operator would say of that link, and the peers' ladders."""
    hosts, ladders = lab.layout.config.read_text(encoding="utf-8"), LADDERS.read_text(encoding="utf-8")
    for link, rate_bps in LINKS.items():
        said = f'\nlink_speed = "{link}"\nuris =' if rate_bps else "\nuris ="
        _config(lab, link).write_text(hosts.replace("\nuris =", said) + "\n" + ladders, encoding="utf-8")


async def _abort(lab: Lab, here: str) -> None:
    """What an admin does about a virsh that goes on for ever: one without a terminal was seen to take no notice of Ctrl-C."""
    await lab.run(here, ["virsh", "-q", "-c", "qemu:///system", "domjobabort", GUEST], check=False)


async def _moved(argv: Sequence[str], *, cut_s: float, stop: Callable[[], Awaitable[None]] | None) -> tuple[int, str, str]:
    """Run it to its end, or interrupt it as a user would when its time is over; its status, and all that it said."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True
    )
    saying = asyncio.create_task(process.communicate())
    try:
        if not (await asyncio.wait({saying}, timeout=cut_s))[0]:
            os.killpg(process.pid, signal.SIGINT)
            if stop is not None:
                await stop()
        async with asyncio.timeout(END_DEADLINE_S):
            stdout, stderr = await asyncio.shield(saying)
    except TimeoutError:
        raise SystemExit(f"{' '.join(argv)} did not end {END_DEADLINE_S:g} s after it was interrupted.") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.gather(saying, return_exceptions=True)
    return process.returncode or 0, stdout.decode(errors="replace"), stderr.decode(errors="replace")


async def _alone(lab: Lab) -> None:
    """Wait until one QEMU of the guest is left: virsh comes back a moment before the other is gone."""
    async with asyncio.timeout(END_DEADLINE_S):
        while len(guests.where(lab, GUEST)) != 1:  # noqa: ASYNC110  # processes of other hosts: no event
            await asyncio.sleep(0.05)


def _segue(said: str) -> dict[str, Any]:
    """What Segue's outcome says."""
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    outcome: dict[str, Any] = next((line for line in reversed(lines) if "outcome" in line), {})
    moved = outcome.get("outcome") == "moved"
    told = {"error": outcome["error"]} if outcome.get("error") else {}
    return {
        "total_ms": outcome.get("total_ms"),
        "sent_bytes": outcome.get("bytes_sent"),
        "iterations": outcome.get("iterations"),
        "hypervisor_ms": outcome.get("downtime_ms") if moved else None,
        "decisions": tuple(outcome.get("decisions") or ()),
        **told,
    }


def announced_ms(words: str, writes_mib: int = 0) -> int | None:
    """The longest wait of a client that these words told: by the last forecast of the standstill, or besides.

    Args:
        words: what was printed.
        writes_mib: what the guest goes through, where they tell a wait by that.
    """
    standing = re.findall(r"forecast[^\n]* standing still for ([^(,]+)", words)[-1:]
    looked_at = re.findall(r"first-look: Clients of [^\n]* wait for about ([^\n]+?) when", words)
    more = re.findall(r"first-look: [^\n]* and for about ([^\n]+?) more for each 16 MiB", words)
    waiting = [
        spoken_ms(begins) + spoken_ms(each) * writes_mib / 16 for begins, each in zip_longest(looked_at, more, fillvalue="")
    ]
    slowed = re.findall(r"the guest is slowed by [^\n]* wait for up to ([^\n]+?) now and then", words)
    return max((round(told) for told in (*map(spoken_ms, (*standing, *slowed)), *waiting)), default=None)


def spoken_ms(words: str) -> float:
    """Milliseconds, as `segue.units.format_duration_ms` writes them."""
    factors = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000}
    return sum(float(number) * factors[unit] for number, unit in re.findall(r"([0-9.]+) (ms|s|min|h)\b", words))


async def _virsh(lab: Lab, there: str, *, moved: bool) -> dict[str, Any]:
    """What libvirt keeps of a migration that is done; of one that is not it keeps nothing."""
    if not moved:
        return {}
    asked = ["virsh", "-q", "-c", "qemu:///system", "domjobinfo", GUEST, "--completed", "--rawstats"]
    done = await lab.run(there, asked, check=False)
    stats = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in done.stdout.splitlines())}

    def number(name: str) -> int | None:
        return int(stats[name]) if stats.get(name, "").isdigit() else None

    return {
        "sent_bytes": number("memory_processed"),
        "iterations": number("memory_iteration"),
        "hypervisor_ms": number("downtime"),
    }


def _loop(memory: Sequence[Memory], began_ns: int, ended_ns: int) -> tuple[float | None, float | None]:
    """Bytes a second that the guest's own loop wrote before the move, and while it was moved."""
    before = [one for one in memory if one.at_ns <= began_ns]
    during = [one for one in memory if began_ns <= one.at_ns <= ended_ns]
    return _rate(before), _rate(before[-1:] + during)


def _rate(said: Sequence[Memory]) -> float | None:
    said = [one for one in said if one.at_ns]
    if len(said) < 2 or said[-1].at_ns <= said[0].at_ns:
        return None
    return (said[-1].written_bytes - said[0].written_bytes) * 1e9 / (said[-1].at_ns - said[0].at_ns)


def held_bytes(pid: int, memory_bytes: int) -> int:
    """How much of a guest's memory holds anything but zeroes, seen from outside: what cannot but be sent."""
    with Path(f"/proc/{pid}/maps").open() as maps:
        ranges = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in maps]
    found = [start for start, end in ranges if end - start >= memory_bytes and end - start < memory_bytes + 64 * PAGE]
    if not found:
        raise SystemExit(f"The guest's memory was not found in process {pid}.")
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(found[0])
        held = 0
        for _ in range(memory_bytes // (1 << 20)):
            piece = memory.read(1 << 20)
            if piece.count(0) < len(piece):
                held += sum(piece[at : at + PAGE] != _ZEROES for at in range(0, len(piece), PAGE))
    return held * PAGE


async def round_of(
    lab: Lab, cell: Cell, contenders: Sequence[Contender], number: int, *, cut_s: float, take: Callable[[Run], None]
) -> None:
    """Each contender once; who goes first rotates from round to round."""
    for host in ("alpha", "beta"):
        await lab.set_rate(host, LINKS[cell.link])
    if GUEST not in guests.records(lab):
        await guests.start(lab, cell.workload.spec())
    turn = number % len(contenders) if contenders else 0
    for contender in (*contenders[turn:], *contenders[:turn]):
        try:
            run = await play(lab, cell, contender, number, cut_s=cut_s)
        except (SegueError, TimeoutError, ValueError) as error:  # the guest is not one any more: a new one for the next
            print(f"{cell.name}, {contender.name}: {error}", file=sys.stderr)
            await guests.stop(lab, GUEST)
            await guests.start(lab, cell.workload.spec())
            continue
        take(run)


def written(run: Run) -> str:
    """As a line of the results."""
    return json.dumps(asdict(run))
