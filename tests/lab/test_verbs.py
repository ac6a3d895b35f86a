"""Migrations that another process leads, by the verbs: both drivers, on the real lab."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from segue import units
from segue.lab import Lab, guests
from segue.lab.guests import GuestSpec, LabGuest
from segue.lab.observe import observe
from tests.lab.conftest import SEGUE

pytestmark = pytest.mark.lab

Start = Callable[[GuestSpec], LabGuest]
KINDS = ["qemu", "libvirt"]


def segue(lab: Lab, *words: str, deadline_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    argv = lab.enter_argv("admin", [SEGUE, *words])
    return subprocess.run(argv, capture_output=True, text=True, timeout=deadline_s, check=False)


def objects(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def detached(lab: Lab, guest: str, *words: str) -> str:
    done = segue(lab, "migrate", guest, "beta", "--detach", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def record(lab: Lab, migration: str) -> dict[str, Any]:
    [found] = objects(segue(lab, "status", migration, "--json"))
    return found


def watcher(lab: Lab, migration: str) -> subprocess.Popen[str]:
    return subprocess.Popen(lab.enter_argv("admin", [SEGUE, "watch", migration, "--json"]), stdout=subprocess.PIPE, text=True)


def sending(lab: Lab, migration: str) -> None:
    """Wait until memory flows."""
    deadline = time.monotonic() + 20
    while record(lab, migration)["state"] != "perform":
        assert time.monotonic() < deadline


@pytest.fixture(params=KINDS)
def guest(request: pytest.FixtureRequest, start_guest: Start) -> LabGuest:
    kind = request.param
    return start_guest(GuestSpec(name=f"verb-{kind}", host="alpha", kind=kind, disk=True, touch_bytes=32 * units.MIB))


def test_detached_it_goes_on_and_can_be_watched_tuned_and_shown(lab: Lab, guest: LabGuest) -> None:
    async def all_of_it() -> None:
        async with observe(lab, guest.name) as eye:
            migration = detached(lab, guest.name, "--bandwidth", "10MiB/s")
            sending(lab, migration)
            watchers = [watcher(lab, migration) for _ in range(2)]
            busy = segue(lab, "migrate", guest.name, "beta")
            assert busy.returncode == 3, busy.stderr  # a second one is refused while it runs
            began = time.monotonic()
            [settings] = objects(segue(lab, "tune", migration, "--bandwidth", "200MiB/s", "--max-downtime", "250ms", "--json"))
            assert time.monotonic() - began < 3  # interpreter and all; the wish itself is granted within a second
            assert (settings["bandwidth_bps"], settings["max_downtime_ms"]) == (200 * units.MIB, 250)
            for watching in watchers:
                said = [json.loads(line) for line in watching.communicate(timeout=60)[0].splitlines()]
                assert watching.returncode == 0
                assert said[-1]["outcome"] == "moved"
                assert any("percent" in line for line in said)
            report = await eye.report()
        assert report.clean, report
        shown = segue(lab, "show", migration[:6])
        for words in ("tune intent: bandwidth", "── perform", "── moved", "asked from outside"):
            assert words in shown.stdout
        assert segue(lab, "status").returncode == 0
        [newest] = objects(segue(lab, "history", "--guest", guest.name, "--limit", "1", "--json"))
        assert (newest["id"], newest["settled"]) == (migration, True)

    asyncio.run(all_of_it())


def test_cancelled_from_outside_it_stays_and_nothing_is_left(lab: Lab, guest: LabGuest) -> None:
    migration = detached(lab, guest.name, "--bandwidth", "8MiB/s")
    sending(lab, migration)
    cancelled = segue(lab, "cancel", migration)
    assert cancelled.returncode == 4, cancelled.stderr
    assert [host for host, _ in guests.where(lab, guest.name)] == ["alpha"]
    again = segue(lab, "cancel", migration)
    assert again.returncode == 3
    assert "has ended: cancelled" in again.stderr


def test_too_late_to_cancel(lab: Lab, guest: LabGuest) -> None:
    migration = detached(lab, guest.name)
    assert segue(lab, "watch", migration).returncode == 0
    late = segue(lab, "cancel", migration)
    assert late.returncode == 3
    assert "has ended: moved" in late.stderr


def test_whoever_leads_dies_and_recovery_settles_it_in_a_moment(lab: Lab, guest: LabGuest) -> None:
    migration = detached(lab, guest.name, "--bandwidth", "8MiB/s", "--max-downtime", "1s")
    sending(lab, migration)
    leader = record(lab, migration)["lease"]["holder"]["pid"]
    dry = segue(lab, "recover", migration)
    assert dry.returncode == 3, dry.stderr  # it is led
    assert "is led by" in dry.stderr
    subprocess.run(["kill", "-9", str(leader)], check=True)
    waiting = segue(lab, "status")
    assert waiting.returncode == 1
    assert f"segue recover {migration}" in waiting.stdout
    abandoned = segue(lab, "tune", migration, "--max-downtime", "100ms")
    assert "nobody leads it" in abandoned.stderr
    looked = segue(lab, "recover", migration, "--dry-run")
    assert "alpha: running" in looked.stdout
    turned_back = segue(lab, "recover", migration, "--json")
    outcome = objects(turned_back)[-1]
    homes = [host for host, _ in guests.where(lab, guest.name)]
    assert homes == [outcome["owner"]], turned_back.stderr
    left = segue(lab, "status")
    assert left.returncode == 0, left.stdout + segue(lab, "show", migration).stdout + turned_back.stdout + turned_back.stderr


def test_a_watcher_that_is_interrupted_changes_nothing(lab: Lab, guest: LabGuest) -> None:
    migration = detached(lab, guest.name, "--bandwidth", "4MiB/s")
    sending(lab, migration)
    argv = lab.enter_argv("admin", [SEGUE, "watch", migration])
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as watching:
        try:
            assert watching.stderr
            watching.stderr.readline()
            watching.send_signal(signal.SIGINT)
            said = watching.communicate(timeout=20)[1]
        finally:
            watching.kill()  # it does not end by SIGINT where whoever runs the tests ignores that
    assert watching.returncode == 130
    assert "it goes on" in said
    assert record(lab, migration)["state"] == "perform"
    assert segue(lab, "cancel", migration).returncode == 4


def reads_a_line_and_goes(argv: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([*argv, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout
    process.stdout.readline()
    process.stdout.close()
    return process


def hangs_up(argv: list[str]) -> subprocess.Popen[bytes]:
    screen, terminal = pty.openpty()
    process = subprocess.Popen(["setsid", "--ctty", *argv], stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    while b"perform" not in shown:
        shown += os.read(screen, 4096)
    os.close(screen)
    return process


@pytest.mark.parametrize(("goes", "status", "home"), [(reads_a_line_and_goes, 0, "beta"), (hangs_up, 4, "alpha")])
def test_whoever_listens_may_go_and_nothing_is_left_half_done(
    lab: Lab, start_guest: Start, goes: Callable[[list[str]], subprocess.Popen[bytes]], status: int, home: str
) -> None:
    start_guest(GuestSpec(name="unheard", host="alpha", kind="libvirt", touch_bytes=16 * units.MIB))
    process = goes(lab.enter_argv("admin", [SEGUE, "migrate", "unheard", "beta", "--bandwidth", "16MiB/s"]))
    try:
        assert process.wait(timeout=60) == status
    finally:
        process.kill()
    assert [host for host, _ in guests.where(lab, "unheard")] == [home]
    assert segue(lab, "status").returncode == 0


def test_bad_ids_and_words(lab: Lab) -> None:
    for words, status, says in (
        (("watch", "nothing"), 2, "No migration is written down"),
        (("tune", "nothing", "--max-downtime", "1ms"), 2, "No migration is written down"),
        (("tune", "nothing"), 2, "Say what to change"),
        (("recover", "x", "--sweep"), 2, "takes no migration"),
    ):
        done = segue(lab, *words)
        assert (done.returncode, says in done.stderr) == (status, True), done.stderr
        assert "Traceback" not in done.stderr


def test_a_sweep_of_a_fleet_in_order_finds_nothing(lab: Lab, guest: LabGuest) -> None:
    swept = segue(lab, "recover", "--sweep")
    assert swept.returncode == 0, swept.stderr + swept.stdout
    assert "every guest runs once" in swept.stderr
    assert guest.name
