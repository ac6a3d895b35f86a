"""A post-copy whose connection is reset: Segue connects it again by itself, and the guest goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from segue import units
from segue.lab import Lab, guests
from segue.lab.guests import GuestSpec, LabGuest
from segue.lab.observe import observe
from tests.lab.conftest import SEGUE

pytestmark = pytest.mark.lab

# Resets what QEMU sends over, and leaves alone how Segue and the daemons speak (ss(8), -K).
TO_BETA = ["state", "established", "dst", "10.77.0.12", "and", "dport", "!=", ":22", "and", "dport", "!=", ":16509"]
RESET = ["ss", "--kill", "--tcp", *TO_BETA]
# More than both ends of a TCP connection hold back (net.ipv4.tcp_wmem and tcp_rmem, 10 MiB). When so much was sent since
# post-copy began, the package has arrived that it begins with; before that QEMU's destination gives up, and the guest is lost.
ARRIVED_BYTES = 16 * units.MIB


@pytest.mark.parametrize(("kind", "control"), [("qemu", "direct"), ("libvirt", "direct"), ("libvirt", "p2p")])
async def test_a_post_copy_that_lost_its_connection_is_connected_again(
    lab: Lab, start_guest: Callable[[GuestSpec], LabGuest], kind: str, control: str
) -> None:
    guest = await asyncio.to_thread(
        start_guest, GuestSpec(name="torn", host="alpha", kind=kind, disk=True, touch_bytes=128 * units.MIB)
    )
    await lab.set_rate("alpha", units.parse_rate("100mbit"))  # what is left takes seconds to send
    try:
        async with observe(lab, guest.name) as eye:
            said = await moved(lab, guest.name, control)
            report = await eye.report()
    finally:
        await lab.set_rate("alpha", units.parse_rate("1gbit"))
    assert "connecting it again" in said["stderr"], said["stderr"]
    assert said["outcome"]["outcome"] == "moved", said
    assert [host for host, _ in guests.where(lab, guest.name)] == ["beta"]
    assert report.clean, report


async def moved(lab: Lab, guest: str, control: str) -> dict[str, Any]:
    """Move it by post-copy, and reset the connection as soon as the destination runs."""
    pipe = asyncio.subprocess.PIPE
    words = ["migrate", guest, "beta", "--control", control, "--postcopy", "--bandwidth", "8MiB/s", "--json"]
    process = await asyncio.create_subprocess_exec(*lab.enter_argv("admin", [SEGUE, *words]), stdout=pipe, stderr=pipe)
    assert process.stdout
    assert process.stderr
    asked = reset = False
    before_postcopy = 0
    line: dict[str, Any] = {}
    try:
        async with asyncio.timeout(100):
            async for text in process.stdout:
                line = json.loads(text)
                if line.get("sent_bytes") and not asked:
                    asked = True
                    status = await lab.run("admin", [SEGUE, "status", "--json"])
                    migration = json.loads(status.stdout.splitlines()[0])["id"]
                    await lab.run("admin", [SEGUE, "tune", migration, "--postcopy-now"])
                if line.get("status") == "active":
                    before_postcopy = line["sent_bytes"]
                if line.get("status") == "postcopy" and not reset and line["sent_bytes"] > before_postcopy + ARRIVED_BYTES:
                    reset = True
                    await lab.run("alpha", RESET, check=False)
            stderr = (await process.stderr.read()).decode()
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert reset
    return {"outcome": line, "stderr": stderr}
