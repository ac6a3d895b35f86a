"""The QEMUs of a host, as they are asked for: a login is a process there, so those who ask at once ask together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from segue.core.model import DriverKind, HostAddress
from segue.drivers.qemu.hypervisor import QemuHypervisor
from segue.hosts.shell import Completed
from tests.qmp.test_recorded import recorded
from tests.support.fake_hosts import MONITOR, WORDS, FakeShell
from tests.support.fake_qmp import Faults, Guest


class CountingShell(FakeShell):
    """Counts what is run; waits for `may_answer` before it answers."""

    def __init__(self, directory: Path) -> None:
        guest = Guest(recorded())
        super().__init__("alpha", guest, directory, guest.source, Faults())
        self.runs = 0
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float) -> Completed:
        self.runs += 1
        self.asked.set()
        await self.may_answer.wait()
        return await super().run(argv, stdin=stdin, deadline_s=deadline_s)


@pytest.fixture
async def shell(tmp_path: Path) -> CountingShell:
    return CountingShell(tmp_path)


@pytest.fixture
async def alpha(shell: CountingShell) -> AsyncIterator[QemuHypervisor]:
    hypervisor = QemuHypervisor(HostAddress(name="alpha", uri="qmp:///", driver=DriverKind.QEMU), shell)
    yield hypervisor
    await hypervisor.aclose()
    await shell.end()


async def test_those_who_ask_for_processes_at_once_share_a_listing(alpha: QemuHypervisor, shell: CountingShell) -> None:
    found = await asyncio.gather(*(alpha.process("web") for _ in range(3)))
    assert [process and process.line.words() for process in found] == [WORDS] * 3
    assert shell.runs == 1


async def test_who_asks_while_a_listing_is_made_gets_a_newer_one(alpha: QemuHypervisor, shell: CountingShell) -> None:
    """What is listed must not be older than the question: it may be asked because something has just been done."""
    shell.may_answer.clear()
    first = asyncio.create_task(alpha.process("web"))
    await shell.asked.wait()
    second = asyncio.create_task(alpha.process("web"))
    shell.may_answer.set()
    assert await first == await second is not None
    assert shell.runs == 2


async def test_who_only_looks_at_a_guest_that_was_just_found_needs_no_listing(
    alpha: QemuHypervisor, shell: CountingShell
) -> None:
    await shell.serve(MONITOR)
    await alpha.guests()
    listed = shell.runs
    await alpha.standing("web")
    assert shell.runs == listed + 2  # how busy it is: two looks at its own process
    listed = shell.runs
    assert await alpha.process("web") is not None  # whoever may act upon it asks again
    assert shell.runs == listed + 1


async def test_who_stops_waiting_for_a_listing_takes_it_from_nobody(alpha: QemuHypervisor, shell: CountingShell) -> None:
    shell.may_answer.clear()
    impatient, patient = (asyncio.create_task(alpha.process("web")) for _ in range(2))
    await shell.asked.wait()
    impatient.cancel()
    shell.may_answer.set()
    assert await patient is not None
    assert impatient.cancelled()
    assert shell.runs == 1
