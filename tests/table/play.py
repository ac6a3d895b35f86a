"""Plays a cell: both ways, judged from outside by plain virsh and by the auditor; or refused, and nothing changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from segue import units
from segue.lab import Lab, guests
from segue.lab.guests import GuestSpec
from segue.lab.observe import observe
from segue.lab.shell import Completed
from tests.lab.conftest import SEGUE
from tests.support.daemons import restart_libvirtd
from tests.table.cells import KINDS, Cell

DEADLINE_S: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of a cell: empty words are good ones.

    Attributes:
        wrong: what was not as it should be; empty when all was.
        total_ms, gap_ms: there and back: how long it took, and how long the guest answered nobody.
        said: of a refusal, what was said.
    """

    wrong: str = ""
    total_ms: tuple[int, ...] = ()
    gap_ms: tuple[int, ...] = ()
    said: str = ""


async def serve_tls(lab: Lab) -> None:
    """Certificates for both hosts, and daemons that serve TLS."""
    await lab.run("admin", [SEGUE, "pki", "init", "--name", "Lab CA"], deadline_s=DEADLINE_S)
    for host in lab.hosts:
        for verb in ("issue", "install"):
            await lab.run("admin", [SEGUE, "pki", verb, host], deadline_s=DEADLINE_S)
        conf = lab.host_path(host, "/etc/libvirt/libvirtd.conf")
        conf.write_text(conf.read_text(encoding="utf-8").replace("listen_tls = 0", "listen_tls = 1"), encoding="utf-8")
        await restart_libvirtd(lab, host)


async def start_guests(lab: Lab, kinds: Sequence[bool] = tuple(KINDS)) -> None:
    """One of each kind, with a disk on the lab's storage; the persistent one is an older PC."""
    for persistent in kinds:
        spec = GuestSpec(
            name=KINDS[persistent],
            host="alpha",
            kind="libvirt",
            disk=True,
            persistent=persistent,
            parts=("pc",) if persistent else (),
            memory_bytes=160 * units.MIB,
        )
        await guests.start(lab, spec)


async def play(lab: Lab, cell: Cell) -> Played:
    """The cell, from where its guest is."""
    [(here, _)] = guests.where(lab, KINDS[cell.persistent])
    [there] = [host for host in lab.hosts if host != here]
    if cell.said:
        return await _refused(lab, cell, here, there)
    times: list[tuple[int, int]] = []
    for source, destination in ((here, there), (there, here)):
        wrong, total_ms, gap_ms = await _moved(lab, cell, source, destination)
        times.append((total_ms, gap_ms))
        if wrong:
            return Played(wrong=f"{source} to {destination}: {wrong}")
    return Played(total_ms=tuple(total for total, _ in times), gap_ms=tuple(gap for _, gap in times))


async def _segue(lab: Lab, cell: Cell, here: str, there: str) -> Completed:
    words = [SEGUE, "migrate", *cell.words(here, there), "--max-downtime", "1s", "--json"]
    return await lab.run(here, words, check=False, deadline_s=DEADLINE_S)


async def _moved(lab: Lab, cell: Cell, here: str, there: str) -> tuple[str, int, int]:
    name = KINDS[cell.persistent]
    async with observe(lab, name) as watch:
        done = await _segue(lab, cell, here, there)
        report = await watch.report()
    if done.status:
        return f"exit status {done.status}: {done.stderr.strip()[-300:]}", 0, 0
    shown = await _shown(lab)
    wanted = (
        name in shown[there]["running"],
        name in shown[there]["persistent"],
        name in shown[here]["all"],
    )
    if wanted != (True, cell.persistent, False):
        return f"virsh shows {json.dumps(shown)}", 0, 0
    if not report.clean or report.running_on != there:
        return f"the auditor saw {report}", 0, 0
    outcome = json.loads(done.stdout.splitlines()[-1])
    return "", outcome["total_ms"], report.client_gap_ms


async def _refused(lab: Lab, cell: Cell, here: str, there: str) -> Played:
    before = await _shown(lab)
    done = await _segue(lab, cell, here, there)
    after = await _shown(lab)
    first = done.stderr.strip().splitlines()[:1]
    said = first[0].removeprefix("segue: ") if first else ""
    if done.status != 3 or cell.said not in said:
        return Played(wrong=f"exit status {done.status}: {done.stderr.strip()[-300:]}")
    if before != after:
        return Played(wrong=f"virsh showed {json.dumps(before)} before, and then {json.dumps(after)}")
    return Played(said=said)


async def _shown(lab: Lab) -> dict[str, dict[str, list[str]]]:
    """What plain virsh shows of each host: what runs, what is persistent, all, and every definition's beginning."""

    async def names(host: str, *words: str) -> list[str]:
        done = await lab.run(host, ["virsh", "-q", "-c", "qemu:///system", "list", "--name", *words])
        return sorted(done.stdout.split())

    async def one(host: str) -> dict[str, list[str]]:
        running, persistent, everything = await asyncio.gather(
            names(host), names(host, "--all", "--persistent"), names(host, "--all")
        )
        return {"running": running, "persistent": persistent, "all": everything}

    return dict(zip(lab.hosts, await asyncio.gather(*(one(host) for host in lab.hosts)), strict=True))
