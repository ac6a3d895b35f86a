"""An attempt between two hosts, where one of its QEMUs ends at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from segue.core import causes
from segue.core.causes import Cause, Scene
from segue.core.model import DriverKind, HostAddress, MigrationSpec
from segue.drivers.qemu.attempt import QemuAttempt
from segue.drivers.qemu.hypervisor import QemuHypervisor
from segue.errors import PrepareFailed
from segue.hosts.shell import Completed
from tests.qmp.test_recorded import recorded
from tests.support.fake_hosts import MONITOR, FakeShell
from tests.support.fake_qmp import Faults, Guest
from tests.support.ledger import Ledger

# QEMU 7.2, where a bridge is missing: its monitor listens by then.
ENDED = b"qemu-system-x86_64: -netdev bridge,id=net0,br=br7: bridge helper failed\n"
NO_BRIDGE = b"failed to get mtu of bridge `br7': No such device\n" + ENDED
NOT_ALLOWED = b"access denied by acl file\n" + ENDED


class DoomedShell(FakeShell):
    """What is started here ends at once, when its monitor listens."""

    async def _start(self, words: Sequence[str]) -> Completed:
        started = await super()._start(words)
        await self.end()
        return started


@pytest.mark.parametrize(
    ("log", "cause", "sentence"),
    [
        (NO_BRIDGE, Cause.BRIDGE_MISSING, "beta has no network device br7."),
        (NOT_ALLOWED, Cause.BRIDGE_FORBIDDEN, "QEMU's bridge helper on beta may not plug a guest into br7."),
    ],
)
async def test_a_destination_that_ends_while_it_makes_its_devices_is_told_by_its_own_words(
    tmp_path: Path, log: bytes, cause: Cause, sentence: str
) -> None:
    guest = Guest(recorded())
    alpha = FakeShell("alpha", guest, tmp_path / "alpha", guest.source, Faults())
    beta = DoomedShell("beta", guest, tmp_path / "beta", None, Faults())
    alpha.log, beta.log = b"qemu-system-x86_64: warning: it is hot\n", log
    hosts = [
        QemuHypervisor(HostAddress(name=shell.name, uri="qmp:///", driver=DriverKind.QEMU, migration_address="192.0.2.1"), shell)
        for shell in (alpha, beta)
    ]
    spec = MigrationSpec(id="0", guest="web", source="alpha", destination="beta", driver=DriverKind.QEMU)
    await alpha.serve(MONITOR)
    here, there = hosts
    async with aclosing(here), aclosing(there), aclosing(QemuAttempt(spec, here, there, Ledger())) as attempt:
        with pytest.raises(PrepareFailed) as failed:
            await attempt.prepare()
        quotes = [str(quote) for quote in await attempt.testimony()]
    await alpha.end()
    assert failed.value.message == f"QEMU does not start on beta: {log.decode().strip()}"
    assert quotes == [
        *(f"beta, QEMU: {line}" for line in log.decode().splitlines()),
        "alpha, QEMU: qemu-system-x86_64: warning: it is hot",
    ]
    why = causes.explained(failed.value, (), Scene(guest="web", here="alpha", there="beta"))
    assert why is not None
    assert (why.cause, why.sentence) == (cause, sentence)
