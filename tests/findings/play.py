"""Plays one case on the lab: a guest with what is in the way, a check that must say so, and a migration that goes past it.

What may live here: the play. It speaks to Segue as a user does, by its command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.cli import exit_codes
from segue.core.model import OutcomeKind
from segue.core.preflight import CHECKS
from segue.lab import Lab, guests, kernel
from segue.lab import hosts as processes
from segue.lab.shell import Completed
from tests.findings.cases import Case

SEGUE = str(Path(sys.executable).with_name("segue"))
DEADLINE_S = 90.0
OWN = "/var/lib/libvirt/findings"
RUN = "/run/segue-guests"
START_DEADLINE_S = 30.0
BUSY = {"touch": 0, "set": 128, "rate": "100", "fill": "random"}
"""What a guest with the lab's kernel writes: so many MiB of its memory, so many a second."""

_DOMAIN = (
    "<domain type='qemu'><name>{name}</name><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>"
    "<os><type arch='x86_64' machine='{machine}'>hvm</type>{os}</os>"
    "{top}{cpu}<on_crash>destroy</on_crash>"
    "<devices><emulator>{program}</emulator>{parts}<memballoon model='none'/></devices></domain>"
)
_LAUNCH = 'setsid --fork "$@" >/dev/null 2>&1 </dev/null; until [ -S "$0" ]; do sleep .02; done'


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What happened.

    Attributes:
        found: what segue check said, by code: severity.
        status: its exit status.
        forced: what became of a migration past all blockers, in words; empty where there were none.
        harmless: it went through, and nothing says what that endangers; or its exit status says something else than its outcome.
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
        self._config = lab.root / "findings.toml"
        other = f"{case.program} -name guest=%s -machine pc,accel=tcg -m 16 -nodefaults -display none %s"
        other += f" -qmp unix:{RUN}/%s,server=on,wait=off"
        launch = f"sh -c {shlex.quote(_LAUNCH)} {RUN}/%s {other}"
        self._words = {
            "name": self._name,
            "own": OWN,
            "shared": str(self._shared),
            "kernel": str(kernel.image()),
            "initramfs": str(kernel.initramfs()),
            "busy": kernel.cmdline(BUSY),
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

    async def fix(self, *words: str) -> tuple[Completed, set[str]]:
        """Migrate with what can be mended mended: how that ended, and what a check finds of the guest afterwards, where it is."""
        async with self._provoked():
            done = await self._segue("migrate", self._name, self._case.destination, "--fix", *words)
            other = {0: "alpha"}.get(done.status, self._case.destination)
            seen = await self._segue("check", self._name, other, "--json")
            return done, {one["code"] for one in json.loads(seen.stdout)["findings"]}

    @contextlib.asynccontextmanager
    async def _provoked(self) -> AsyncIterator[None]:
        case = self._case
        self._shared.mkdir(exist_ok=True)
        for host in ("alpha", "beta"):
            await self._shell(host, f"mkdir -p {OWN}")
        text = self._lab.layout.config.read_text(encoding="utf-8")
        if case.address:
            text = re.sub(r"(?<=\[hosts\.beta\]\nuris = ).*", f'["{case.address}"]', text)
        self._config.write_text(text, encoding="utf-8")
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
        if outcome and done.status != exit_codes.OF_OUTCOME[OutcomeKind(outcome["outcome"])]:
            return f"{outcome['outcome']}, BUT EXIT STATUS {done.status}", True
        if done.status == 0:
            rests = f" and {outcome['rests']}" * bool(outcome["rests"])
            return f"moves{rests}, and {self._case.danger or 'NOTHING WAS WRONG'}", not self._case.danger
        where = [host for host, _ in guests.where(self._lab, self._name)]
        said = outcome.get("error") or done.stderr.strip().splitlines()[0]
        said = _brief(said.replace(str(self._lab.root), "/srv"))
        return f"{outcome.get('outcome', 'refused')} ({', '.join(where) or 'it runs nowhere'}): {said}", False

    async def _start(self) -> None:
        case, name = self._case, self._name
        if case.kind == "libvirt":
            fill = {field: getattr(case, field) for field in ("machine", "os", "top", "cpu", "parts", "program")} | {"name": name}
            other = {**fill, "parts": "", "os": "", "top": "", "memory": 16}
            for suffix, words in (("xml", {**fill, "memory": case.memory_mib}), ("other.xml", other)):
                for host in ("alpha", "beta"):
                    text = self._filled(_DOMAIN.format(**words))
                    self._lab.host_path(host, f"{RUN}/{name}.{suffix}").write_text(text, encoding="utf-8")
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
        return await self._lab.run(
            "admin", ["env", f"SEGUE_CONFIG={self._config}", SEGUE, *words], check=False, deadline_s=DEADLINE_S
        )


def _brief(text: str) -> str:
    return " ".join(text.split())[:220]
