"""What becomes of a guest's definition, judged by plain virsh."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from segue.lab import Lab, guests
from segue.lab.guests import GuestSpec, LabGuest
from segue.lab.shell import Completed
from tests.lab.conftest import SEGUE
from tests.lab.test_moves import Ended, homes, segue_migrate

pytestmark = pytest.mark.lab

Start = Callable[[GuestSpec], LabGuest]
NAME = "kept"
# (persistent, options) → (defined on the source, persistent on the destination) afterwards.
CASES: list[tuple[bool, Sequence[str], bool, bool]] = [
    (True, [], False, True),
    (True, ["--keep-source"], True, True),
    (True, ["--no-persist"], True, False),
    (True, ["--no-persist", "--undefine-source"], False, False),
    (False, [], False, False),
    (False, ["--persist"], False, True),
]


def virsh(lab: Lab, host: str, *words: str) -> str:
    done = asyncio.run(lab.run(host, ["virsh", "-q", "-c", "qemu:///system", *words], check=False))
    return done.stdout


BOTH_WAYS = [("direct", *case) for case in CASES] + [("p2p", *case) for case in CASES[:2]]


@pytest.mark.parametrize(("control", "persistent", "options", "stays", "arrives"), BOTH_WAYS)
def test_where_it_is_defined_afterwards(
    lab: Lab, start_guest: Start, control: str, persistent: bool, options: Sequence[str], stays: bool, arrives: bool
) -> None:
    start_guest(GuestSpec(name=NAME, host="alpha", kind="libvirt", persistent=persistent))
    try:
        ended = asyncio.run(segue_migrate(lab, NAME, "beta", "--control", control, *options))
        assert ended.status == 0, ended.stderr
        assert (NAME in virsh(lab, "alpha", "list", "--all", "--name").split()) is stays
        assert NAME in virsh(lab, "beta", "list", "--name").split()
        assert (NAME in virsh(lab, "beta", "list", "--persistent", "--all", "--name").split()) is arrives
    finally:
        if stays:
            virsh(lab, "alpha", "undefine", NAME)


def test_another_name_on_the_destination_standing_still_and_the_definition_alone(lab: Lab, start_guest: Start) -> None:
    start_guest(GuestSpec(name=NAME, host="alpha", kind="libvirt"))
    ended = moved(lab, "beta", "--rename", "renamed", "--suspend")
    assert (ended.status, ended.outcome["rests"]) == (0, "stands still"), ended.stderr
    assert (virsh(lab, "alpha", "list", "--all", "--name").split(), virsh(lab, "beta", "list", "--all", "--name").split()) == (
        [],
        ["renamed"],
    )
    assert virsh(lab, "beta", "domstate", "--reason", "renamed").strip() == "paused (user)"
    virsh(lab, "beta", "resume", "renamed")
    back = asyncio.run(segue_migrate(lab, "renamed", "alpha", "--rename", NAME, "--control", "p2p"))
    assert back.status == 0, back.stderr
    refused = moved(lab, "beta", "--offline")
    assert (refused.status, "away from under it" in refused.stderr) == (3, True), refused.stderr
    virsh(lab, "alpha", "destroy", NAME)
    alone = moved(lab, "beta", "--offline")
    assert (alone.status, alone.outcome["rests"]) == (0, "is defined"), alone.stderr
    assert virsh(lab, "alpha", "list", "--all", "--name").split() == []
    assert virsh(lab, "beta", "domstate", NAME).strip() == "shut off"
    assert moved(lab, "alpha", "--offline", "--keep-source", "--control", "p2p").status == 0
    assert virsh(lab, "beta", "domstate", NAME).strip() == virsh(lab, "alpha", "domstate", NAME).strip() == "shut off"


SNAPSHOT = """<domainsnapshot><name>{name}</name>{parent}<state>shutoff</state><creationTime>1</creationTime>
<memory snapshot='no'/><disks><disk name='vda' snapshot='internal'/></disks>{domain}</domainsnapshot>"""
CHECKPOINT = """<domaincheckpoint><name>c1</name><creationTime>1</creationTime>
<disks><disk name='vda' checkpoint='bitmap'/></disks></domaincheckpoint>"""


def belongings(lab: Lab, host: str) -> tuple[list[str], str, list[str], bool]:
    """Snapshots, the current one, checkpoints, autostart."""
    return (
        virsh(lab, host, "snapshot-list", NAME, "--name", "--topological").split(),
        virsh(lab, host, "snapshot-current", NAME, "--name").strip(),
        virsh(lab, host, "checkpoint-list", NAME, "--name").split(),
        "enable" in virsh(lab, host, "dominfo", NAME),
    )


def test_snapshots_checkpoints_and_autostart_come_along_whoever_brings_them(lab: Lab, start_guest: Start, tmp_path: Path) -> None:
    start_guest(GuestSpec(name=NAME, host="alpha", kind="libvirt", disk=True))
    domain = virsh(lab, "alpha", "dumpxml", NAME, "--inactive")
    given = {
        "s1": SNAPSHOT.format(name="s1", parent="", domain=domain),
        "s2": SNAPSHOT.format(name="s2", parent="<parent><name>s1</name></parent>", domain=domain),
        "c1": CHECKPOINT,
    }
    for name, text in given.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for words in (["snapshot-create", "s1"], ["snapshot-create", "s2", "--current"], ["checkpoint-create", "c1"]):
        virsh(lab, "alpha", words[0], NAME, str(tmp_path / words[1]), "--redefine", *words[2:])
    virsh(lab, "alpha", "autostart", NAME)
    wanted = belongings(lab, "alpha")
    assert wanted == (["s1", "s2"], "s2", ["c1"], True)
    assert moved(lab, "beta").status == 0
    assert belongings(lab, "beta") == wanted
    killed = asyncio.run(
        lab.run("admin", ["env", "SEGUE_FAILPOINT=pack.acted=kill", SEGUE, "migrate", NAME, "alpha"], check=False)
    )
    assert killed.status == -9, killed.stderr
    assert belongings(lab, "beta")[0] == []
    recovered = asyncio.run(lab.run("admin", [SEGUE, "recover"], check=False))
    assert belongings(lab, "beta") == wanted, recovered.stderr
    for host in ("alpha", "beta"):
        assert "carried" not in virsh(lab, host, "dumpxml", NAME) + virsh(lab, host, "dumpxml", NAME, "--inactive")
    virsh(lab, "beta", "snapshot-delete", NAME, "s1", "--children", "--metadata")
    virsh(lab, "beta", "checkpoint-delete", NAME, "c1", "--metadata")


def test_another_definition_is_taken_where_the_machine_stays_the_same_and_knobs_are_turned(
    lab: Lab, start_guest: Start, tmp_path: Path
) -> None:
    start_guest(GuestSpec(name=NAME, host="alpha", kind="libvirt"))
    own = virsh(lab, "alpha", "dumpxml", NAME, "--migratable")
    path = tmp_path / "given"
    path.write_text(own.replace("262144", "524288").replace("qemu64", "max"), encoding="utf-8")
    refused = moved(lab, "beta", "--xml", str(path))
    assert (refused.status, "memory: 524288 KiB" in refused.stderr) == (3, True), refused.stderr
    assert homes(lab, NAME) == ["alpha"]
    path.write_text(own.replace("<on_crash>destroy", "<title>moved</title><on_crash>preserve"), encoding="utf-8")
    kept = tmp_path / "kept"
    kept.write_text(virsh(lab, "alpha", "dumpxml", NAME, "--inactive").replace("262144", "393216"), encoding="utf-8")
    ended = moved(lab, "beta", "--xml", str(path), "--persistent-xml", str(kept))
    assert ended.status == 0, ended.stderr
    assert "<on_crash>preserve" in virsh(lab, "beta", "dumpxml", NAME)
    assert "393216" in virsh(lab, "beta", "dumpxml", NAME, "--inactive")
    unknown = moved(lab, "alpha", "--set", "nic.7=br0")
    assert (unknown.status, "It has nic.0" in unknown.stderr) == (3, True), unknown.stderr
    ended = moved(lab, "alpha", "--set", "nic.0=br0", "--control", "p2p")
    assert ended.status == 0, ended.stderr
    # libvirt's own knobs are turned, and what it is too old for is refused
    words = ["--compression", "xbzrle", "--xbzrle-cache", "32MiB", "--throttle-initial", "30", "--throttle-increment", "5"]
    ended = moved(lab, "beta", *words, "--change-protection", "--abort-on-error", "--unsafe", "--listen-address", "::")
    assert ended.status == 0, ended.stderr
    there = virsh(lab, "beta", "domjobinfo", "--completed", NAME)
    assert "Compression cache: 32.000 MiB" in there, there
    refused = moved(lab, "alpha", "--switchover-bandwidth", "1gbit")
    assert (refused.status, "needs libvirt 11.1" in refused.stderr) == (3, True), refused.stderr
    ended = moved(lab, "alpha", "--compression", "mt", "--mt-level", "1", "--mt-threads", "2", "--mt-dthreads", "1")
    assert ended.status == 0, ended.stderr


def test_a_definition_that_was_kept_does_not_stop_it_from_coming_back(lab: Lab, start_guest: Start) -> None:
    start_guest(GuestSpec(name=NAME, host="alpha", kind="libvirt"))
    for there in ("beta", "alpha"):
        ended = asyncio.run(segue_migrate(lab, NAME, there, "--keep-source"))
        assert ended.status == 0, ended.stderr
    virsh(lab, "beta", "undefine", NAME)


def test_a_bare_guest_takes_its_launch_record_along_and_starts_from_it(lab: Lab, start_guest: Start) -> None:
    start_guest(GuestSpec(name=NAME, host="alpha", kind="qemu", disk=True))
    assert moved(lab, "beta").status == 0
    assert not listed(lab, "beta")["persistent"]
    assert moved(lab, "alpha", "--persist").status == 0
    assert listed(lab, "alpha")["persistent"]
    assert moved(lab, "beta", "--keep-source").status == 0
    assert listed(lab, "beta")["persistent"]
    assert listed(lab, "alpha")["state"] == "shut-off"
    refused = started(lab, "alpha")
    assert (refused.status, "beta has kept: running" in refused.stderr) == (3, True), refused.stderr
    [(_, pid)] = guests.where(lab, NAME)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not guests.where(lab, NAME))
    done = started(lab, "alpha")
    assert done.status == 0, done.stderr
    assert [host for host, _ in guests.where(lab, NAME)] == ["alpha"]
    assert moved(lab, "beta").status == 0
    assert [guest for guest in everything(lab, "alpha") if guest["name"] == NAME] == []


def test_a_libvirt_guest_is_started_only_where_no_other_host_has_it(lab: Lab, start_guest: Start) -> None:
    start_guest(GuestSpec(name=NAME, host="alpha", kind="libvirt"))
    assert moved(lab, "beta", "--keep-source").status == 0
    assert started(lab, "alpha").status == 3
    virsh(lab, "beta", "destroy", NAME)
    assert started(lab, "alpha").status == 0
    assert [host for host, _ in guests.where(lab, NAME)] == ["alpha"]
    virsh(lab, "beta", "undefine", NAME)


def moved(lab: Lab, there: str, *options: str) -> Ended:
    return asyncio.run(segue_migrate(lab, NAME, there, *options))


def started(lab: Lab, host: str) -> Completed:
    return asyncio.run(lab.run("admin", [SEGUE, "guest", "start", NAME, "--on", host], check=False))


def everything(lab: Lab, host: str) -> list[dict[str, Any]]:
    done = asyncio.run(lab.run("admin", [SEGUE, "guests", host, "--json"]))
    return [json.loads(line) for line in done.stdout.splitlines()]


def listed(lab: Lab, host: str) -> dict[str, Any]:
    [guest] = [guest for guest in everything(lab, host) if guest["name"] == NAME]
    return guest


def wait_until(done: Callable[[], bool]) -> None:
    """Of other hosts' processes there is no event."""
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_disk_that_has_another_name_on_the_destination(lab: Lab, start_guest: Start) -> None:
    start_guest(GuestSpec(name=NAME, host="alpha", kind="qemu", local="raw"))
    here, other = guests.local_disk(NAME), f"{guests.local_disk(NAME)}.elsewhere"
    refused = moved(lab, "beta", "--set", f"disk.{here}={other}")
    assert refused.status == 3, refused.stderr
    assert homes(lab, NAME) == ["alpha"]
    os.link(lab.host_path("alpha", here), lab.host_path("beta", other))
    ended = moved(lab, "beta", "--set", f"disk.{here}={other}")
    assert ended.status == 0, ended.stderr
    unknown = moved(lab, "alpha", "--set", f"disk.{other}={here}", "--set", "disk.vdz=/nowhere")
    assert (unknown.status, f"disk.{other}" in unknown.stderr) == (3, True), unknown.stderr
    assert moved(lab, "alpha", "--set", f"disk.{other}={here}").status == 0
    lab.host_path("beta", other).unlink()
