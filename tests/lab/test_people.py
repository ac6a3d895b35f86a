"""Guests as people have them, moved by libvirt for real: what is plugged into them is there afterwards, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segue import units
from segue.lab import Lab, domain, kernel
from segue.lab.accelerator import QEMU
from segue.lab.domain import PARTS
from segue.lab.guests import GuestSpec, LabGuest
from segue.lab.layout import address
from tests.lab.test_configuration import virsh
from tests.lab.test_moves import homes, segue_migrate, watched
from tests.support.inside import Inside
from tests.support.spice import SpiceClient

pytestmark = pytest.mark.lab

NAME = "desk"
PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
HAS_PAGES = os.access(PAGES / "nr_hugepages", os.W_OK)
"""A kernel may have none, and a container may not set them aside."""
PAGES_OF_ONE = 256 // 2
"""Of a guest with the lab's 256 MiB."""
NOT_DESK = {"pc", "uefi"} | (set() if HAS_PAGES else {"huge-pages"})  # UEFI has a test of its own
DESK = tuple(part for part in PARTS if part not in NOT_DESK)
SEEN = {
    "cdrom": "device='cdrom'",
    "usb": "<input type='tablet' bus='usb'",
    "agent": "org.qemu.guest_agent.0",
    "vnc": "<graphics type='vnc'",
    "spice": "<graphics type='spice'",
    "nics": "e1000e",
    "chain": "desk.qcow2'",
    "nbd": "protocol='nbd'",
    "tpm": "<tpm model='tpm-crb'>",
    "huge-pages": "<hugepages",
}


@pytest.fixture
def huge_pages() -> Iterator[Callable[[int], None]]:
    """Sets so many huge pages aside for the lab; the machine has as many as before afterwards. One test at a time."""
    if not HAS_PAGES:
        yield lambda _: None
        return
    count = PAGES / "nr_hugepages"
    with count.open(encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = int(held.read())

        def reserve(pages: int) -> None:
            count.write_text(str(before + pages), encoding="utf-8")
            assert int(count.read_text(encoding="utf-8")) == before + pages, "this machine's memory is too full or too scattered"

        try:
            yield reserve
        finally:
            count.write_text(str(before), encoding="utf-8")


def spice_port(lab: Lab, host: str) -> int:
    [port] = re.findall(r"<graphics type='spice' port='(\d+)'", virsh(lab, host, "dumpxml", NAME))
    return int(port)


@contextlib.contextmanager
def spice(inside: Inside, host: str, port: int) -> Iterator[SpiceClient]:
    client = inside.run(SpiceClient.connect(host, port), deadline_s=10)
    try:
        yield client
    finally:
        inside.run(client.aclose(), deadline_s=10)


@pytest.mark.timeout(240)
def test_a_desktop_with_everything_goes_there_and_back(
    lab: Lab, inside: Inside, start_guest: Callable[[GuestSpec], LabGuest], huge_pages: Callable[[int], None]
) -> None:
    huge_pages(PAGES_OF_ONE)
    start_guest(GuestSpec(name=NAME, host="alpha", kind="libvirt", disk=True, parts=DESK))
    if HAS_PAGES:
        short = asyncio.run(segue_migrate(lab, NAME, "beta"))
        assert short.status == 3
        assert f"needs {PAGES_OF_ONE} huge pages of 2.0 MiB, and beta has 0 free" in short.stderr
    huge_pages(2 * PAGES_OF_ONE)
    for here, there, control in (("alpha", "beta", "direct"), ("beta", "alpha", "p2p")):
        with spice(inside, address(here), spice_port(lab, here)) as client:
            ended, report = watched(lab, NAME, there, "--control", control, "--max-downtime", "2s")
            begun, sent_on = inside.run(client.sent_on(), deadline_s=10)
        assert ended.status == 0, ended.stderr
        assert homes(lab, NAME) == [there]
        assert report.clean, report
        running = virsh(lab, there, "dumpxml", NAME)
        assert [part for part in SEEN.keys() & set(DESK) if SEEN[part] not in running] == []
        assert "mode='host-model'" in virsh(lab, there, "dumpxml", NAME, "--inactive")
        assert begun == sent_on
        assert sent_on[1] == spice_port(lab, there)
        with spice(inside, *sent_on):  # whoever is sent on is let in there
            pass


MARK = b"what a boot loader wrote"


def test_what_firmware_keeps_comes_along_even_while_it_still_starts(lab: Lab) -> None:
    """Under emulation UEFI starts for up to minutes. What it keeps is sent with the memory, whatever the guest does."""
    name = "firm"
    [(path, nvram)] = re.findall(r"<nvram template='(.*)'>(.*)</nvram>", PARTS["uefi"].os.format(name=name))
    kept = {host: lab.host_path(host, nvram) for host in lab.hosts}
    template = Path(path).read_bytes()
    text = domain.xml(
        ["uefi"],
        name=name,
        mac="52:54:00:77:00:ee",
        file="",
        chain="",
        nbd=0,
        type="qemu",
        memory=128 * units.MIB,
        kernel=kernel.image(),
        initrd=kernel.initramfs(),
        cmdline="",
        qemu=QEMU,
        disk="",
        serial="/dev/null",
        words="",
    )
    text = re.sub(r"<(kernel|initrd|cmdline)>.*</\1>", "", text)  # with nothing to boot it stays in its firmware
    kept["alpha"].parent.mkdir(parents=True, exist_ok=True)
    kept["alpha"].write_bytes(template[: -len(MARK)] + MARK)  # in the spare that only a full store is copied to
    lab.host_path("alpha", path := "/run/firm.xml").write_text(text, encoding="utf-8")
    try:
        virsh(lab, "alpha", "define", path)
        virsh(lab, "alpha", "start", name)
        for there, here in (("beta", "alpha"), ("alpha", "beta")):
            ended = asyncio.run(segue_migrate(lab, name, there))
            assert ended.status == 0, ended.stderr
            assert homes(lab, name) == [there]
            assert kept[there].read_bytes().endswith(MARK)
            kept[here].write_bytes(template)  # old by now: what is sent is what counts
    finally:
        for host in lab.hosts:
            virsh(lab, host, "destroy", name)
            virsh(lab, host, "undefine", name, "--nvram")
