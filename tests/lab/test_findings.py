"""A slice of preflight's findings, provoked on the real lab; `./run findings` plays all of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from segue.lab import Lab
from segue.lab.guests import GuestSpec, LabGuest
from tests.findings.cases import ALL, Case
from tests.findings.play import SEGUE, Play

pytestmark = pytest.mark.lab

FORCED = ("cdrom-missing libvirt", "disk-other qemu", "guest-not-running qemu")
SEEN = (
    "guest-busy libvirt",
    "display-port libvirt",
    "disk-rights libvirt",
    "io-error qemu",
    "qemu-blocks qemu",
    "disk-used qemu",
    "emulator qemu",
)
SLICE = [case for case in ALL if str(case) in (*FORCED, *SEEN)]


@pytest.mark.parametrize("case", SLICE, ids=str)
def test_it_is_found_and_it_is_true(lab: Lab, case: Case) -> None:
    played = asyncio.run(Play(lab, case).play(force=str(case) in FORCED))
    assert played.found.get(case.code) == case.severity, played
    assert played.status == 3
    assert not played.harmless, played.forced
    if case.code == "guest-not-running":  # who had stopped it finds it stopped
        assert played.forced.startswith("moves and stands still"), played.forced


MENDED = ("cdrom-missing libvirt", "cdrom-missing qemu", "output-directory libvirt", "output-directory qemu", "usb-host qemu")


@pytest.mark.parametrize("name", MENDED)
def test_what_can_be_mended_is_mended_and_told(lab: Lab, name: str) -> None:
    [case] = [case for case in ALL if str(case) == name]
    done, left = asyncio.run(Play(lab, case).fix())
    assert done.status == 0, done.stderr
    assert "mended: " in done.stderr
    assert ("left off for the move" in done.stderr) is (case.code != "output-directory")
    assert case.code not in left


@pytest.mark.parametrize("name", ["cdrom-missing libvirt", "usb-host qemu"])
def test_what_was_mended_is_undone_when_the_guest_is_not_moved(lab: Lab, name: str) -> None:
    [case] = [case for case in ALL if str(case) == name]
    done, left = asyncio.run(Play(lab, case).fix("--within", "1ms"))
    assert done.status == 1, done.stderr
    assert "undone: " in done.stderr
    assert case.code in left


@pytest.mark.parametrize("kind", ["libvirt", "qemu"])
def test_a_clean_pair_has_no_finding(lab: Lab, start_guest: Callable[[GuestSpec], LabGuest], kind: str) -> None:
    guest = start_guest(GuestSpec(name="clean", host="alpha", kind=kind, disk=True))
    done = asyncio.run(lab.run("admin", [SEGUE, "check", guest.name, "beta", "--json"], check=False, deadline_s=60))
    said = json.loads(done.stdout)
    found = [one for one in said["findings"] if one["code"] != "promise"]  # nothing was measured of the link here
    assert (done.status, said["verdict"], found) == (0, "can-move", [])
    page = asyncio.run(lab.run("admin", [SEGUE, "check", guest.name, "beta"], check=False, deadline_s=60))
    assert page.stdout.splitlines()[-1].startswith("can move")
    assert "STANDS IN THE WAY" not in page.stdout
