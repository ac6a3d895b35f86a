"""Plays one case on the lab: a guest with what is in the way, a check that must say so, and a migration that goes past it.

What may live here: the play. It speaks to Segue as a user does, by its command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.core.preflight import CHECKS
from segue.lab import Lab, guests, kernel
from segue.lab import hosts as processes
from segue.lab.shell import Completed
from tests.findings.cases import Case

SEGUE = str(Path(sys.executable).with_name("segue"))
DEADLINE_S = 90.0
OWN = "/var/lib/libvirt/findings"
RUN = "/run/segue-guests"
START_DEADLINE_S = 20.0

_DOMAIN = (
    "<domain type='qemu'><name>{name}</name><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>"
    "<os><type arch='x86_64' machine='{machine}'>hvm</type>{os}</os>"
    "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>"
    "<on_crash>destroy</on_crash><devices><emulator>{program}</emulator>{parts}<memballoon model='none'/></devices></domain>"
)
_LAUNCH = 'setsid --fork "$@" >/dev/null 2>&1 </dev/null; until [ -S "$0" ]; do sleep .02; done'


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What happened.

    Attributes:
        found: what segue check said, by code: severity.
        status: its exit status.
        forced: what became of a migration past all blockers, in words; empty where there were none.
        harmless: it went through, and nothing says what that endangers.
    """

    found: dict[str, str]
    status: int
    forced: str = ""
    harmless: bool = False


class Play:
    """One case.

    Args:
        lab: two hosts.
        case: what to play.
    """

    def __init__(self, lab: Lab, case: Case) -> None:
        self._lab = lab
        self._case = case
        self._name = f"f-{case.code}-{case.kind}"[:32]
        self._shared = lab.root / "findings"
        other = f"{case.program} -name guest=%s -machine pc,accel=tcg -m 16 -nodefaults -display none %s"
        other += f" -qmp unix:{RUN}/%s,server=on,wait=off"
        launch = f"sh -c {shlex.quote(_LAUNCH)} {RUN}/%s {other}"
        self._words = {
            "name": self._name,
            "own": OWN,
            "shared": str(self._shared),
            "kernel": str(kernel.image()),
            "other": launch % ("other.qmp", self._name, "", "other.qmp"),
            "thief": launch
            % ("thief.qmp", "thief", f"-drive file={self._shared}/f.img,format=raw,file.locking=off,if=virtio", "thief.qmp"),
        }

    async def play(self, *, force: bool = True) -> Played:
        """All of it; nothing of it stays."""
        async with self._provoked():
            seen = await self._segue("check", self._name, self._case.destination, *self._case.words.split(), "--json")
            found = json.loads(seen.stdout)["findings"] if seen.stdout else []
            codes = {one["code"]: one["severity"] for one in reversed(found)}
            blockers = [code for code, severity in codes.items() if severity == "blocker"]
            forced, harmless = await self._force(blockers) if force and blockers else ("", False)
            return Played(found=codes, status=seen.status, forced=forced, harmless=harmless)

    async def fix(self, *words: str) -> tuple[Completed, str]:
        """Migrate with what can be mended mended: how that ended, and what the source shows of the guest's disks afterwards."""
        async with self._provoked():
            done = await self._segue("migrate", self._name, self._case.destination, "--fix", *words)
            left = await self._shell("alpha", f"virsh -q domblklist {self._name}", check=False)
            return done, left.stdout

    @contextlib.asynccontextmanager
    async def _provoked(self) -> AsyncIterator[None]:
        case = self._case
        self._shared.mkdir(exist_ok=True)
        for host in ("alpha", "beta"):
            await self._shell(host, f"mkdir -p {OWN}")
        try:
            for host, command in case.before:
                await self._shell(host, command)
            await self._start()
            for host, command in case.after:
                await self._shell(host, command)
            yield
        finally:
            await asyncio.shield(self._end())

    async def _force(self, blockers: list[str]) -> tuple[str, bool]:
        """What becomes of a migration that goes past all of it."""
        if strict := [code for code in blockers if not CHECKS[code].acceptable]:
            done = await self._segue(
                "migrate", self._name, self._case.destination, *self._case.words.split(), "--accept", strict[0]
            )
            return ("cannot be accepted" if done.status == 2 else f"accepted all the same: {done.stderr}"), done.status != 2
        accepted = [word for code in blockers for word in ("--accept", code)]
        words = (self._name, self._case.destination, *self._case.words.split(), *accepted, "--within", "20s", "--json")
        done = await self._segue("migrate", *words)
        outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
        if done.status == 0:
            return f"moves, and {self._case.danger or 'NOTHING WAS WRONG'}", not self._case.danger
        where = [host for host, _ in guests.where(self._lab, self._name)]
        said = outcome.get("error") or done.stderr.strip().splitlines()[0]
        return f"{outcome.get('outcome', 'refused')} ({', '.join(where) or 'it runs nowhere'}): {_brief(said)}", False

    async def _start(self) -> None:
        case, name = self._case, self._name
        if case.kind == "libvirt":
            fill = {"name": name, "machine": case.machine, "os": case.os, "parts": case.parts, "program": case.program}
            xml = self._filled(_DOMAIN.format(**{"memory": case.memory_mib, **fill}))
            for suffix, text in (("xml", xml), ("other.xml", _DOMAIN.format(**{**fill, "memory": 16, "parts": "", "os": ""}))):
                for host in ("alpha", "beta"):
                    self._lab.host_path(host, f"{RUN}/{name}.{suffix}").write_text(self._filled(text), encoding="utf-8")
            await self._shell("alpha", f"virsh -q define {RUN}/{name}.xml && virsh -q start {name}")
            return
        argv = f"{case.program} -name guest={name} -machine {case.machine},accel=tcg -m {case.memory_mib} -nodefaults"
        argv += f" -display none -qmp unix:{RUN}/{name}.qmp,server=on,wait=off {case.parts}"
        await self._shell("alpha", f"sh -c {shlex.quote(_LAUNCH)} {RUN}/{name}.qmp {argv}")

    async def _end(self) -> None:
        for host, command in self._case.undo:
            await self._shell(host, command, check=False)
        for host in ("alpha", "beta"):
            if self._case.kind == "libvirt":
                forget = (
                    f"virsh -q destroy {self._name}; virsh -q undefine {self._name} --snapshots-metadata --checkpoints-metadata"
                )
                await self._shell(host, forget, check=False)
        for name in (self._name, "thief"):
            for _, pid in guests.where(self._lab, name):
                await processes.kill(pid)
        for host in ("alpha", "beta"):
            await self._shell(
                host, f"rm -rf -- {OWN} {self._shared}/* {RUN}/{self._name}.* {RUN}/thief.qmp {RUN}/other.qmp", check=False
            )

    async def _shell(self, host: str, command: str, *, check: bool = True) -> Completed:
        return await self._lab.run(host, ["sh", "-c", self._filled(command)], check=check, deadline_s=START_DEADLINE_S)

    def _filled(self, text: str) -> str:
        for key, value in self._words.items():
            text = text.replace(f"{{{key}}}", value)
        return text

    async def _segue(self, *words: str) -> Completed:
        return await self._lab.run("admin", [SEGUE, *words], check=False, deadline_s=DEADLINE_S)


def _brief(text: str) -> str:
    return " ".join(text.split())[:220]
