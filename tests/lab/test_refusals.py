"""Bad input and bad circumstances on the real lab: one clear sentence, the documented exit status, and nothing touched."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from segue.lab import Lab, guests
from segue.lab.guests import GuestSpec, LabGuest
from segue.lab.shell import Completed
from tests.lab.conftest import SEGUE

pytestmark = pytest.mark.lab

Start = Callable[[GuestSpec], LabGuest]


def segue(lab: Lab, *words: str, deadline_s: float = 40) -> Completed:
    return asyncio.run(lab.run("admin", [SEGUE, *words], check=False, deadline_s=deadline_s))


@pytest.fixture(scope="module")
def idle(lab: Lab) -> LabGuest:
    spec = GuestSpec(name="idle", host="alpha", kind="libvirt")
    return guests.records(lab).get("idle") or asyncio.run(guests.start(lab, spec))


def refused(lab: Lab, *words: str, status: int, said: str) -> Completed:
    done = segue(lab, "migrate", *words)
    assert done.status == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done


def test_an_unknown_guest(lab: Lab, idle: LabGuest) -> None:
    assert idle
    refused(lab, "nobody", "beta", status=3, said="There is no guest nobody (hosts asked: alpha, beta)")


def test_an_unknown_host(lab: Lab, idle: LabGuest) -> None:
    refused(lab, idle.name, "omega", status=2, said="There is no host 'omega'")


def test_the_same_host_by_name_and_by_address(lab: Lab, idle: LabGuest) -> None:
    refused(lab, idle.name, "alpha", status=3, said="alpha and alpha are the same host")
    refused(lab, idle.name, "qemu+tcp://10.77.0.11/system", status=3, said="are the same host")


def test_a_guest_that_does_not_run(lab: Lab, idle: LabGuest) -> None:
    asyncio.run(lab.run("alpha", ["virsh", "-q", "suspend", idle.name]))
    try:
        done = refused(lab, idle.name, "beta", status=3, said="does not run")
        assert "it is on alpha" in done.stderr
    finally:
        asyncio.run(lab.run("alpha", ["virsh", "-q", "resume", idle.name]))


def test_peer_to_peer_to_an_address_that_only_admin_understands(lab: Lab, idle: LabGuest) -> None:
    words = (idle.name, "qemu+unix:///system?socket=/nonexistent", "--control", "p2p", "--from", "alpha")
    refused(lab, *words, status=3, said="is not one")


def test_two_guests_of_one_name(lab: Lab, start_guest: Start) -> None:
    guest = start_guest(GuestSpec(name="twin", host="alpha", kind="qemu"))
    other = [
        "qemu-system-x86_64",
        "-name",
        "guest=twin",
        "-machine",
        "q35,accel=tcg",
        "-m",
        "64",
        "-nodefaults",
        "-display",
        "none",
    ]
    other += ["-qmp", "unix:/run/segue-guests/other.qmp,server=on,wait=off", "-pidfile", "/run/segue-guests/other.pid"]
    asyncio.run(lab.run("beta", ["sh", "-c", 'setsid "$@" >/dev/null 2>&1 </dev/null &', "sh", *other]))
    for host, _ in (known := guests.where(lab, "twin")):
        assert host in ("alpha", "beta"), known
    done = refused(lab, guest.name, "beta", status=3, said="2 guests are called twin")
    assert "--from" in done.stderr
    refused(lab, guest.name, "beta", "--from", "alpha", status=3, said="beta already has a guest twin")


def test_a_destination_whose_link_is_cut(lab: Lab, idle: LabGuest) -> None:
    async def both() -> list[Completed]:
        asked = (["migrate", idle.name, "beta"], ["hosts", "verify"])
        return await asyncio.gather(*(lab.run("admin", [SEGUE, *words], check=False, deadline_s=60) for words in asked))

    asyncio.run(lab.cut("beta"))
    try:
        for done in asyncio.run(both()):
            assert done.status == 6, done.stdout + done.stderr
            assert "beta" in done.stderr
            # A way that is not there, or silence, as the system or our own deadline finds it first.
            assert any(said in done.stderr for said in ("no way to", "no answer", "No answer", "not answer")), done.stderr
    finally:
        asyncio.run(lab.heal("beta"))


def test_json_of_a_refusal_ends_with_its_outcome(lab: Lab, idle: LabGuest) -> None:
    done = segue(lab, "migrate", idle.name, "alpha", "--json")
    assert done.status == 3
    assert json.loads(done.stdout.splitlines()[-1])["outcome"] == "refused"


def test_guests_and_hosts_show_both_kinds(lab: Lab, idle: LabGuest, start_guest: Start) -> None:
    bare = start_guest(GuestSpec(name="shown", host="beta", kind="qemu"))
    listed = [json.loads(line) for line in segue(lab, "guests", "--json").stdout.splitlines()]
    found = {(guest["name"], guest["host"], guest["driver"], guest["state"]) for guest in listed}
    assert {(idle.name, "alpha", "libvirt", "running"), (bare.name, "beta", "qemu", "running")} <= found
    assert not [guest for guest in listed if guest["driver"] == "qemu" and guest["name"] == idle.name]
    hosts = [json.loads(line) for line in segue(lab, "hosts", "--json").stdout.splitlines()]
    assert [(host["host"], host["answers"]) for host in hosts] == [(host, True) for host in ("alpha", "alpha", "beta", "beta")]
