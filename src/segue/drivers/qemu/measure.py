"""What a running QEMU uses and dirties, measured without stopping it: the resident set of its process, and QEMU's own sampling.

``calc-dirty-rate`` hashes a sample of pages at the beginning and at the end of a window. Of its modes this one, the default, is
the only one that is safe everywhere: under TCG the others (dirty-bitmap, dirty-ring) crash QEMU 7.2, and the guest with it. It
counts pages, each once, in whole MiB a second; blocks of memory below 128 MiB it leaves out. What may live here: these queries
and the reading of answers.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import Final

from segue import units
from segue.core import argv
from segue.core.measured import Range, Touched, Window, sampled
from segue.drivers.qemu.processes import Process, stat_field
from segue.drivers.qemu.session import Session
from segue.errors import HypervisorError
from segue.hosts import HostShell
from segue.hosts.shell import checked

SAMPLES_PER_GIB: Final = 4096
"""The most that QEMU takes (migration/dirtyrate.h, MAX_SAMPLE_PAGE_COUNT); its default, 512, finds a set of 16 MiB in 8 pages."""
LOOK_S: Final = 0.1
GRACE_S: Final = 5.0
"""After the window, for the pages to be hashed again."""
SENT_PERCENT: Final = 92
"""Of resident memory some pages are all zeros, which QEMU sends as such: 6 to 10 % were seen in small guests."""
SMAPS_DEADLINE_S: Final = 5.0
TICKS_PER_S: Final = 100
"""Of user space's clock, on all of Linux's architectures (proc(5), USER_HZ)."""
_MAPPING: Final = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ ")
_FIGURE: Final = re.compile(rb"^(Size|Rss|Swap|Private_Hugetlb|Shared_Hugetlb): +([0-9]+) kB$")
_IN_USE: Final = (b"Rss", b"Swap", b"Private_Hugetlb", b"Shared_Hugetlb")


async def touched(shell: HostShell, process: Process) -> Touched:
    """Memory of the guest that is in use: the resident part of the mapping that holds it.

    Raises:
        HypervisorError: the process table cannot be read.
    """
    command = ["cat", f"/proc/{process.pid}/smaps"]
    done = checked(shell.name, command, await shell.run(command, deadline_s=SMAPS_DEADLINE_S))
    return in_use(done.stdout, argv.memory_bytes(process.line))


def in_use(smaps: bytes, memory_bytes: int | None) -> Touched:
    """Read ``/proc/PID/smaps``.

    Args:
        smaps: its text.
        memory_bytes: the guest's memory; ``None`` where its command line does not say.
    """
    mappings: list[dict[bytes, int]] = []
    for line in smaps.splitlines():
        if _MAPPING.match(line):
            mappings.append({})
        elif mappings and (figure := _FIGURE.match(line)):
            mappings[-1][figure[1]] = int(figure[2]) * units.KIB
    everything = [(one.get(b"Size", 0), sum(one.get(name, 0) for name in _IN_USE)) for one in mappings]
    of_guest = [used for size, used in everything if size == memory_bytes]
    if of_guest:
        used = max(of_guest)
        return Touched(
            bytes=Range(low=used * 85 // 100, likely=used * SENT_PERCENT // 100, high=used),
            how="resident memory of the guest",
            of_bytes=memory_bytes or 0,
        )
    used = sum(used for _, used in everything)  # several blocks, or shared with something: QEMU's own is in it
    most = min(used, memory_bytes or used)
    return Touched(bytes=Range(low=most * 3 // 4, likely=most * 85 // 100, high=most), how="resident memory of the QEMU process")


async def dirtied(session: Session, shell: HostShell, process: Process, *, seconds: int) -> Window:
    """Let QEMU watch for so many seconds, and see how busy it is meanwhile.

    Raises:
        HypervisorError: it does not know how (before 5.2), or is measuring for somebody else.
    """
    before = await _cpu_time(shell, process)
    await session.execute("calc-dirty-rate", {"calc-time": seconds, "sample-pages": SAMPLES_PER_GIB})
    await asyncio.sleep(seconds)
    after = await _cpu_time(shell, process)
    try:
        async with asyncio.timeout(GRACE_S):
            while (answer := await session.query("query-dirty-rate")).get("status") != "measured":  # noqa: ASYNC110  # no event
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise HypervisorError(f"QEMU measures no dirty rate: {answer.get('status')}.", host=shell.name) from None
    return sampled(
        answer.get("dirty-rate"),
        seconds=seconds,
        per_gib=SAMPLES_PER_GIB,
        memory_bytes=argv.memory_bytes(process.line),
        busy_percent=None if before is None or after is None else (after - before) * 100 // (seconds * TICKS_PER_S),
    )


async def wanted_percent(shell: HostShell, process: Process, *, seconds: float) -> int | None:
    """What QEMU's busiest thread, a CPU of the guest if it is busy, uses of one CPU's time, or waits for where others have it.

    Returns:
        ``None`` where that cannot be read.
    """
    before = await _wanted(shell, process)
    await asyncio.sleep(seconds)
    after = await _wanted(shell, process)
    if before is None or after is None or after[1] <= before[1]:
        return None
    most_ns = max(wanted - before[0].get(thread, wanted) for thread, wanted in after[0].items())
    return round(most_ns / 1e7 / (after[1] - before[1]))


async def _wanted(shell: HostShell, process: Process) -> tuple[dict[str, int], float] | None:
    """That time of each thread in nanoseconds (proc(5), schedstat), and its host's uptime in seconds."""
    files = f"cat /proc/uptime; grep -H . /proc/{process.pid}/task/[0-9]*/schedstat"
    told = await shell.run(["sh", "-c", files], deadline_s=SMAPS_DEADLINE_S)
    uptime, *lines = os.fsdecode(told.stdout).splitlines() or [""]
    threads = {file: figures.split() for file, _, figures in (line.partition(":") for line in lines)}
    wanted = {file: int(figures[0]) + int(figures[1]) for file, figures in threads.items()}
    return (wanted, float(uptime.split()[0])) if wanted else None


async def _cpu_time(shell: HostShell, process: Process) -> int | None:
    """What QEMU's threads have used up to now, in ticks; ``None`` where that cannot be read."""
    stat = await shell.run(["cat", f"/proc/{process.pid}/stat"], deadline_s=SMAPS_DEADLINE_S)
    if stat.status:
        return None
    line = os.fsdecode(stat.stdout)
    return stat_field(line, 14) + stat_field(line, 15)  # utime and stime
