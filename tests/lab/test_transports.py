"""Every way for a guest's memory to travel, there and back on the real lab, and nothing of it left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from segue import units
from segue.lab import Lab
from segue.lab.guests import GuestSpec, LabGuest
from segue.lab.layout import GUEST_RUN
from tests.lab.conftest import SEGUE
from tests.lab.test_moves import homes, segue_migrate, watched

pytestmark = pytest.mark.lab

Start = Callable[[GuestSpec], LabGuest]
WAYS: dict[str, tuple[str, Sequence[str]]] = {
    "qemu-psk": ("qemu", ["--transport", "tls-psk"]),
    "qemu-ssh": ("qemu", ["--transport", "tunnelled"]),
    "qemu-many": ("qemu", ["--connections", "4"]),
    "qemu-many-psk": ("qemu", ["--connections", "2", "--transport", "tls-psk", "--compression", "zstd"]),
    "qemu-many-ssh": ("qemu", ["--connections", "2", "--transport", "tunnelled"]),
    "qemu-ports": ("qemu", ["--migration-ports", "50000-50003", "--compression", "xbzrle"]),
    "libvirt-tunnelled": ("libvirt", ["--control", "p2p", "--transport", "tunnelled"]),
    "libvirt-many": ("libvirt", ["--connections", "3"]),
    "libvirt-many-p2p": ("libvirt", ["--connections", "2", "--control", "p2p"]),
    "libvirt-port": ("libvirt", ["--migration-ports", "50007"]),
}


def left(lab: Lab) -> list[str]:
    """What a channel made and did not remove."""
    return [path.name for host in ("alpha", "beta") for path in lab.host_path(host, GUEST_RUN).glob("segue-*")]


@pytest.mark.parametrize("way", WAYS)
def test_there_and_back(lab: Lab, start_guest: Start, way: str) -> None:
    kind, options = WAYS[way]
    guest = start_guest(GuestSpec(name="far", host="alpha", kind=kind, disk=True, touch_bytes=24 * units.MIB))
    for there in ("beta", "alpha"):
        ended, report = watched(lab, guest.name, there, "--max-downtime", "1s", *options)
        assert ended.status == 0, ended.stderr
        assert homes(lab, guest.name) == [there]
        assert report.clean, report
        assert left(lab) == []


@pytest.mark.parametrize("transport", ["tls-psk", "tunnelled"])
def test_post_copy_takes_the_same_way(lab: Lab, start_guest: Start, transport: str) -> None:
    busy = GuestSpec(name="far", host="alpha", kind="qemu", touch_bytes=64 * units.MIB, set_bytes=48 * units.MIB, rate="200")
    guest = start_guest(busy)
    words = ("--postcopy", "prefer", "--transport", transport, "--max-downtime", "1ms")
    ended, report = watched(lab, guest.name, "beta", *words)
    assert ended.status == 0, ended.stderr
    assert any(sample.get("status") == "postcopy" for sample in ended.samples)
    assert report.clean, report
    assert left(lab) == []


@pytest.mark.parametrize("transport", ["tls-psk", "tunnelled"])
def test_cancelled_it_leaves_nothing_and_moves_later(lab: Lab, start_guest: Start, transport: str) -> None:
    guest = start_guest(GuestSpec(name="far", host="alpha", kind="qemu", touch_bytes=24 * units.MIB))
    words = [guest.name, "beta", "--transport", transport]
    slow = ["--bandwidth", "4MiB/s"]
    ended = asyncio.run(segue_migrate(lab, *words, *slow, on_first_sample=lambda process: process.send_signal(2)))
    assert ended.status == 4, ended.stderr
    assert (homes(lab, guest.name), left(lab)) == (["alpha"], [])
    assert asyncio.run(segue_migrate(lab, *words)).status == 0
    assert (homes(lab, guest.name), left(lab)) == (["beta"], [])


def test_ports_that_are_taken_are_said_to_be(lab: Lab, start_guest: Start) -> None:
    guest = start_guest(GuestSpec(name="far", host="alpha", kind="qemu"))
    ended = asyncio.run(segue_migrate(lab, guest.name, "beta", "--migration-ports", "22"))
    assert ended.status == 3
    assert "Address already in use" in ended.stderr
    assert homes(lab, guest.name) == ["alpha"]
    ended = asyncio.run(segue_migrate(lab, guest.name, "beta", "--transport", "tls"))
    assert ended.status == 3
    assert "/etc/pki/qemu" in ended.stderr
    assert homes(lab, guest.name) == ["alpha"]


@pytest.mark.parametrize("moment", ["start.acted", "end-source.acted", "close-channel.intended", "define-destination.acted"])
def test_killed_at_any_moment_nothing_is_left_once_it_is_recovered(lab: Lab, start_guest: Start, moment: str) -> None:
    guest = start_guest(GuestSpec(name="far", host="alpha", kind="qemu", touch_bytes=16 * units.MIB))
    words = [SEGUE, "migrate", guest.name, "beta", "--transport", "tls-psk", "--persist"]
    killed = asyncio.run(lab.run("admin", ["env", f"SEGUE_FAILPOINT={moment}=kill", *words], check=False))
    assert killed.status == -9, killed.stderr
    recovered = asyncio.run(lab.run("admin", [SEGUE, "recover"], check=False))
    assert left(lab) == [], recovered.stderr
    [home] = homes(lab, guest.name)
    records = [lab.host_path(host, f"/etc/segue/guests/{guest.name}.json").exists() for host in ("alpha", "beta")]
    assert records == [False, home == "beta"]
    there = "alpha" if home == "beta" else "beta"
    assert asyncio.run(segue_migrate(lab, guest.name, there, "--transport", "tls-psk", "--no-persist")).status == 0
    lab.host_path(home, f"/etc/segue/guests/{guest.name}.json").unlink(missing_ok=True)
