"""Starts a guest of a shape on the lab, with the auditor's workload in it, and moves it there and back.

What may live here: the play. It speaks to Segue by its command line, and believes nothing that it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue import units
from segue.core import argv
from segue.lab import Lab, guests, kernel
from segue.lab.accelerator import QEMU, accelerator
from segue.lab.guests import GuestSpec, LabGuest
from segue.lab.layout import GUEST_LOGS, GUEST_RUN
from segue.lab.observe import Report, Watch, observe
from segue.lab.shell import Completed
from tests.shapes.shapes import Shape, Way

SEGUE = str(Path(sys.executable).with_name("segue"))
MOVE_DEADLINE_S = 90.0
QMP_DEADLINE_S = 20.0
LIFE_DEADLINE_S = 20.0
SIGNS_OF_LIFE = 20
MEMORY_BYTES = 192 * units.MIB
RATE = 24
BUSY: Mapping[str, str | int] = {"touch": 32, "set": 16, "rate": RATE}
"""MiB and MiB/s."""
LAUNCH = 'cd -- "$1" || exit; export PWD="$1"; log=$2; shift 2; exec setsid --fork "$@" >"$log" 2>&1 </dev/null'


@dataclass(frozen=True, kw_only=True)
class Moved:
    """One cell of the table.

    Attributes:
        wrong: every promise that was broken; empty when all was kept.
        seconds: how long each move took, as Segue tells it; empty where it had to refuse.
        standstills_ms: the longest by the guest's serial lines, one each time there and back.
        silences_ms: the longest in which a client on the network had no answer; empty where no client reaches the guest.
    """

    wrong: tuple[str, ...]
    seconds: tuple[float, ...] = ()
    standstills_ms: tuple[int, ...] = ()
    silences_ms: tuple[int, ...] = ()


async def certified(lab: Lab) -> None:
    """Give the hosts certificates for their QEMUs, and let the user of a shape read the keys: so must any who runs QEMU."""
    words = [["init"], *([verb, host] for host in lab.hosts for verb in ("issue", "install"))]
    for one in words:
        await lab.run("admin", [SEGUE, "pki", *one], deadline_s=60)
    for host in lab.hosts:
        await lab.run(host, ["sh", "-c", "chown -- nobody /etc/pki/qemu/*-key.pem"])


@contextlib.asynccontextmanager
async def started(lab: Lab, shape: Shape) -> AsyncIterator[LabGuest]:
    """The guest on alpha, running and changed; it is gone afterwards, wherever it was."""
    shared = Path(tempfile.mkdtemp(prefix="shape-", dir="/tmp"))  # on both hosts: a lab's hosts have their own /run and /var
    shared.chmod(0o777)
    try:
        await _make_images(lab, shared)
        for host in lab.hosts:
            for path in (GUEST_RUN, GUEST_LOGS):
                lab.host_path(host, path).chmod(0o1777)
        places = {"@S": str(shared), "@R": GUEST_RUN, "@A": (await accelerator()).name}
        spec = GuestSpec(name=shape.name, host="alpha", kind="qemu", disk=True, memory_bytes=MEMORY_BYTES)
        guest = await guests.start(lab, spec, command=lambda guest: _command(lab, shape, guest, places))
        try:
            await asyncio.to_thread(_change, lab, shape, places)
            yield guest
        finally:
            await guests.stop(lab, guest.name)
    finally:
        shutil.rmtree(shared)
        for left in (left for host in lab.hosts for left in lab.host_path(host, GUEST_RUN).glob("shape.*")):
            left.unlink()


async def _make_images(lab: Lab, shared: Path) -> None:
    base = ["-b", str(shared / "base.raw"), "-F", "raw"]
    images = {"raw.img": ["raw"], "plain.qcow2": ["qcow2"], "base.raw": ["raw"], "over.qcow2": ["qcow2", *base]}
    for name, (kind, *backing) in images.items():
        await lab.run("alpha", ["qemu-img", "create", "-q", "-f", kind, *backing, str(shared / name), "8M"])
    for name in ("one.iso", "two.iso"):
        (shared / name).write_bytes(name.encode() * 4096)
    for path in shared.iterdir():
        path.chmod(0o666)


def _command(lab: Lab, shape: Shape, guest: LabGuest, places: Mapping[str, str]) -> list[str]:
    """What starts it: by a shell in its directory, as its user."""
    serial = [("", "file"), ("id", "serial0"), ("path", f"{GUEST_LOGS}/{guest.name}.serial"), ("append", "on")]
    words = [QEMU, "-name", argv.join_list([("guest", guest.name)]), "-cpu", "qemu64", "-nodefaults", "-no-reboot"]
    words += ["-kernel", str(kernel.image()), "-initrd", str(kernel.initramfs())]
    words += ["-append", kernel.cmdline({"address": guest.address, **BUSY})]
    words += ["-chardev", argv.join_list(serial), "-serial", "chardev:serial0"]
    words += ["-drive", f"id=disk0,file={guests.disk_url(lab, guest)},format=raw,if=none,cache=none"]
    words += ["-device", "virtio-blk-pci,drive=disk0"]
    places = {**places, "@N": f"{guest.slot:02x}"}
    user = pwd.getpwnam(shape.user)
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]
    own = [_filled(word, places) for word in shape.words]
    log = f"{GUEST_RUN}/{guest.name}.stderr"
    return ["sh", "-c", LAUNCH, "sh", _filled(shape.cwd, places), log, *become, *words, *own]


def _filled(text: str, places: Mapping[str, str]) -> str:
    for mark, value in places.items():
        text = text.replace(mark, value)
    return text


def _change(lab: Lab, shape: Shape, places: Mapping[str, str]) -> None:
    """Do to the guest what its shape says, over its monitor."""
    with socket.socket(socket.AF_UNIX) as line, line.makefile() as answers:
        line.settimeout(QMP_DEADLINE_S)
        line.connect(str(lab.host_path("alpha", f"{GUEST_RUN}/shape.qmp")))
        answers.readline()
        for command, arguments in (("qmp_capabilities", {}), *shape.changes):
            asked: dict[str, Any] = {"execute": command}
            if arguments:
                asked["arguments"] = json.loads(_filled(json.dumps(arguments), places))
            line.sendall(json.dumps(asked).encode())
            awaited = {"return", "DEVICE_DELETED"} if command == "device_del" else {"return"}
            while awaited:
                said = json.loads(answers.readline())
                if "error" in said:
                    raise AssertionError(f"{command}: {said['error']}")
                awaited -= {*said, said.get("event")}


async def played(lab: Lab, guest: LabGuest, shape: Shape, way: Way, times: int) -> Moved:
    """Play one cell: there and back so many times, or a refusal where the shape cannot go that way."""
    if way.postcopy and shape.no_postcopy:
        return await _refused(lab, guest, shape, way)
    wrong: list[str] = []
    seconds: list[float] = []
    reports: list[Report] = []
    for _ in range(times):
        reports.append(await _there_and_back(lab, guest, way, wrong, seconds))
        wrong += _kept(lab, guest, shape)
        if wrong:
            break
    return Moved(
        wrong=tuple(wrong),
        seconds=tuple(seconds),
        standstills_ms=tuple(report.tick_gap_ms for report in reports),
        silences_ms=tuple(report.client_gap_ms for report in reports if report.answers),
    )


async def _there_and_back(lab: Lab, guest: LabGuest, way: Way, wrong: list[str], seconds: list[float]) -> Report:
    async with observe(lab, guest.name) as watch:
        for there in ("beta", "alpha"):
            done = await _migrate(lab, guest, there, way)
            said = [json.loads(line) for line in done.stdout.splitlines()]
            homes = [host for host, _ in guests.where(lab, guest.name)]
            if done.status or homes != [there]:
                wrong.append(f"to {there}: status {done.status}, it is on {homes}: {done.stderr.strip()}")
                break
            seconds.append(said[-1]["total_ms"] / 1000)
            if way.postcopy and not any(line.get("status") == "postcopy" for line in said):
                wrong.append(f"to {there}: no post-copy")
            if not await _lives(watch, there):
                wrong.append(f"to {there}: it does not tick there any more")
                break
        report = await watch.report()
    if not report.clean:
        wrong.append(f"the auditor: {report}")
    return report


async def _refused(lab: Lab, guest: LabGuest, shape: Shape, way: Way) -> Moved:
    """It is refused with the reason, and the guest goes on as if nothing had been."""
    wrong: list[str] = []
    async with observe(lab, guest.name) as watch:
        done = await _migrate(lab, guest, "beta", way)
        lives = await _lives(watch, "alpha")
        report = await watch.report()
    if done.status != 1 or shape.no_postcopy not in done.stderr or not lives:
        wrong.append(f"status {done.status}, {'alive' if lives else 'dead'} on alpha: {done.stderr.strip()}")
    if not report.clean:
        wrong.append(f"the auditor: {report}")
    return Moved(wrong=(*wrong, *_kept(lab, guest, shape)))


async def _lives(watch: Watch, host: str) -> bool:
    """Whether it goes on ticking there, and nowhere else."""
    wanted = len(watch.ticks) + SIGNS_OF_LIFE
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LIFE_DEADLINE_S):
            while len(watch.ticks) < wanted:  # noqa: ASYNC110  # its readers are threads: there is no event
                await asyncio.sleep(0.02)
            return {tick.host for tick in watch.ticks[wanted - SIGNS_OF_LIFE // 2 :]} == {host}
    return False


async def _migrate(lab: Lab, guest: LabGuest, there: str, way: Way) -> Completed:
    words = [SEGUE, "migrate", guest.name, there, *way.words, "--json"]
    return await lab.run("admin", words, check=False, deadline_s=MOVE_DEADLINE_S)


def _kept(lab: Lab, guest: LabGuest, shape: Shape) -> list[str]:
    """What of the shape is not as it should be, and what a move left behind."""
    [(_, pid)] = guests.where(lab, guest.name)
    line = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).replace("\0", " ")
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    uids = next(row.split()[1:] for row in status if row.startswith("Uid:"))
    left = [path for host in lab.hosts for path in lab.host_path(host, GUEST_RUN).glob("segue-*")]
    return [
        *(f"{word} is gone" for word in shape.keeps if word not in line),
        *(f"{word} is back" for word in shape.loses if word in line),
        *([] if set(uids) == {str(pwd.getpwnam(shape.user).pw_uid)} else [f"it does not run as {shape.user}"]),
        *(f"left behind: {path}" for path in left),
    ]
