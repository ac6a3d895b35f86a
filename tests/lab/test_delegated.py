"""Bare QEMU peer-to-peer: the Segue of the source leads, and whoever asked for it may die."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Callable

import pytest

from segue import units
from segue.lab import Lab
from segue.lab.guests import GuestSpec, LabGuest
from segue.lab.layout import HOST_STATE
from tests.lab.conftest import SEGUE
from tests.lab.test_moves import homes, segue_migrate, watched

pytestmark = pytest.mark.lab

Start = Callable[[GuestSpec], LabGuest]
P2P = ["--control", "p2p"]
SLOW = ["--bandwidth", "8MiB/s"]


@pytest.fixture
def guest(start_guest: Start) -> LabGuest:
    return start_guest(GuestSpec(name="led", host="alpha", kind="qemu", disk=True, touch_bytes=40 * units.MIB))


def there(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    """Segue on alpha, as one who logs in there."""
    argv = lab.enter_argv("alpha", ["env", f"SEGUE_STATE={HOST_STATE}", SEGUE, *words])
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_it_moves_is_watched_and_leaves_nothing_to_do(lab: Lab, guest: LabGuest) -> None:
    ended, report = watched(lab, guest.name, "beta", *P2P)
    assert ended.status == 0, ended.stderr
    outcome = ended.outcome
    assert (outcome["owner"], outcome["source"], outcome["control"]) == ("beta", "alpha", "p2p")
    assert outcome["downtime_ms"] is not None
    assert [sample for sample in ended.samples if sample["sent_bytes"]]
    assert report.clean, report
    [record] = [json.loads(line) for line in there(lab, "history", "--json").stdout.splitlines()]
    assert (record["id"], record["settled"]) == (outcome["id"], True)


def test_whoever_asked_may_die(lab: Lab, guest: LabGuest) -> None:
    ended = asyncio.run(segue_migrate(lab, guest.name, "beta", *P2P, *SLOW, on_first_sample=lambda process: process.kill()))
    assert ended.status == -9
    until = time.monotonic() + 60
    while homes(lab, guest.name) != ["beta"]:
        assert time.monotonic() < until, there(lab, "status").stdout
        time.sleep(0.2)  # processes of others: there is no event


def test_ctrl_c_turns_it_back(lab: Lab, guest: LabGuest) -> None:
    ended = asyncio.run(
        segue_migrate(lab, guest.name, "beta", *P2P, *SLOW, on_first_sample=lambda process: process.send_signal(2))
    )
    assert (ended.status, ended.outcome["outcome"], ended.outcome["owner"]) == (4, "cancelled", "alpha"), ended.stderr
    assert homes(lab, guest.name) == ["alpha"]


def test_detached_its_id_is_known_there(lab: Lab, guest: LabGuest) -> None:
    argv = lab.enter_argv("admin", [SEGUE, "migrate", guest.name, "beta", *P2P, *SLOW, "--detach"])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert "on alpha" in done.stderr
    watched_there = there(lab, "watch", done.stdout.strip(), "--json")
    assert json.loads(watched_there.stdout.splitlines()[-1])["outcome"] == "moved", watched_there.stderr
    assert homes(lab, guest.name) == ["beta"]


def test_what_the_source_refuses_is_told(lab: Lab, guest: LabGuest) -> None:
    ended = asyncio.run(segue_migrate(lab, guest.name, "beta", *P2P, "--transport", "tls"))
    assert ended.status == 3
    assert homes(lab, guest.name) == ["alpha"]
