"""Guests as people have them, moved by libvirt for real: what is plugged into them is there afterwards, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from segue.lab import Lab
from segue.lab.domain import PARTS
from segue.lab.guests import GuestSpec, LabGuest
from tests.lab.test_configuration import virsh
from tests.lab.test_moves import homes, watched

pytestmark = pytest.mark.lab

NAME = "desk"
DESK = tuple(part for part in PARTS if part not in ("pc", "uefi"))  # under emulation UEFI's own start takes 20 s to minutes
SEEN = {
    "cdrom": "device='cdrom'",
    "usb": "<input type='tablet' bus='usb'",
    "agent": "org.qemu.guest_agent.0",
    "vnc": "<graphics type='vnc'",
    "spice": "<graphics type='spice'",
    "nics": "e1000e",
    "chain": "desk.qcow2'",
    "tpm": "<tpm model='tpm-crb'>",
}


@pytest.mark.timeout(240)
def test_a_desktop_with_everything_goes_there_and_back(lab: Lab, start_guest: Callable[[GuestSpec], LabGuest]) -> None:
    start_guest(GuestSpec(name=NAME, host="alpha", kind="libvirt", disk=True, parts=DESK))
    for there, control in (("beta", "direct"), ("alpha", "p2p")):
        ended, report = watched(lab, NAME, there, "--control", control, "--max-downtime", "2s")
        assert ended.status == 0, ended.stderr
        assert homes(lab, NAME) == [there]
        assert report.clean, report
        running = virsh(lab, there, "dumpxml", NAME)
        assert [part for part, sign in SEEN.items() if sign not in running] == []
        assert "mode='host-model'" in virsh(lab, there, "dumpxml", NAME, "--inactive")
