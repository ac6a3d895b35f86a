"""What a process table says of a guest's memory."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from segue.core.argv import CommandLine
from segue.drivers.qemu.measure import SENT_PERCENT, in_use, wanted_percent
from segue.drivers.qemu.processes import Process
from segue.hosts import LocalShell
from segue.units import MIB

# Cut from a guest of 384 MiB under software emulation, QEMU 7.2: translated code, the guest's memory, a part that is swapped out.
SMAPS = b"""7f8b17fff000-7f8b57fff000 rwxp 00000000 00:00 0
Size:            1048576 kB
Rss:               49152 kB
Swap:                  0 kB
VmFlags: rd wr ex mr mw me nr sd
7f8af7e00000-7f8b0fe00000 rw-p 00000000 00:00 0
Size:             393216 kB
KernelPageSize:        4 kB
Rss:              294912 kB
Private_Hugetlb:       0 kB
Swap:               2048 kB
7f8b5c000000-7f8b5d000000 rw-p 00000000 00:00 0                          [heap]
Size:              16384 kB
Rss:                4096 kB
"""


def test_the_mapping_of_the_guests_size_is_its_memory():
    touched = in_use(SMAPS, 384 * MIB)
    assert touched.bytes.high == 290 * MIB
    assert touched.bytes.likely == 290 * MIB * SENT_PERCENT // 100
    assert touched.how == "resident memory of the guest"


@pytest.mark.parametrize("memory", [None, 512 * MIB, 100 * MIB])
def test_where_none_is_the_whole_process_is_the_most_it_can_be(memory):
    touched = in_use(SMAPS, memory)
    assert touched.bytes.high == min(342 * MIB, memory or 342 * MIB)
    assert touched.bytes.low < touched.bytes.likely < touched.bytes.high
    assert "QEMU process" in touched.how


def test_nothing_is_in_use_where_nothing_is_said():
    assert in_use(b"", 384 * MIB).bytes.high == 0


@contextlib.contextmanager
def running(*argv: str) -> Iterator[Process]:
    """A process that stands in for a QEMU."""
    with subprocess.Popen(argv) as child:
        try:
            yield Process(pid=child.pid, started=0, mine=True, cwd="/", line=CommandLine(program=argv[0], options=()))
        finally:
            child.kill()


async def test_a_guest_that_is_kept_from_its_cpu_is_as_busy_as_one_that_has_it():
    here = LocalShell("here")
    loop = (sys.executable, "-c", "while True: pass")
    with running(*loop) as one, running(*loop), running(*loop), running("sleep", "60") as idle:
        busy, bored = [await wanted_percent(here, process, seconds=0.3) for process in (one, idle)]
    assert busy is not None
    assert busy > 75
    assert bored is not None
    assert bored < 25
    assert await wanted_percent(here, one, seconds=0) is None  # it is gone
