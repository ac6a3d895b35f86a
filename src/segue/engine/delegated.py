"""A migration of a bare QEMU that the source's own Segue leads: it goes on when whoever asked for it is gone.

On such a host there is no daemon. What is peer-to-peer with libvirt is done by the ``segue`` that is installed there: it is
asked over ssh to lead the migration by itself (``--detach``), which writes it down there, and then it is watched. What may live
here: the words of these calls, and the reading of what they say.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from segue.core.downtime import Client, Switchover
from segue.core.model import HostAddress, JobStatus, MigrationSpec, Outcome, OutcomeKind, Progress
from segue.core.phases import PHASES, State
from segue.engine.runner import Event, Told
from segue.errors import MigrationFailed, OutcomeAmbiguous, SegueError, Unsupported
from segue.hosts import HostShell, reach
from segue.hosts.shell import Completed

if TYPE_CHECKING:
    from segue.engine.migration import Request

SEGUE: Final = "segue"
CONNECT_DEADLINE_S: Final = 10.0
BEGIN_DEADLINE_S: Final = 60.0
"""For the source's Segue to look at both hosts, and begin: twice what a host is given to answer, and more."""
CANCEL_DEADLINE_S: Final = 90.0
_NOT_FOUND: Final = 127
_PERSIST: Final = {None: (), True: ("--persist",), False: ("--no-persist",)}
_UNDEFINE: Final = {None: (), True: ("--undefine-source",), False: ("--keep-source",)}
_SAMPLE: Final = frozenset(one.name for one in fields(Progress))


class Delegated:
    """One migration that the Segue of its source leads.

    Args:
        request: what was asked for, in the words of whoever asked.
        spec: the same, as it was found.
        source: where it is to be led.
        report: is told what happens; must return at once.
    """

    def __init__(self, request: Request, spec: MigrationSpec, source: HostAddress, report: Callable[[Event], None]) -> None:
        self._request = request
        self._spec = spec
        self._source = source
        self._report = report
        self._shell: HostShell | None = None
        self._cancelling: asyncio.Task[Completed] | None = None
        self._phase = State.BEGIN
        self.id = ""
        """Its id there; empty before it was begun."""

    async def begin(self) -> None:
        """Have it begun there.

        Raises:
            Unsupported: there is no Segue on the source.
            MigrationFailed: it refused; in its own words. Nothing was touched.
            HostUnreachable, AnswerNotSeen: it may have begun; ``segue status`` on the source tells.
        """
        shell = self._shell = await reach(self._source, deadline_s=CONNECT_DEADLINE_S)
        untouched = f"it is on {self._spec.source}; nothing was touched"
        done = await shell.run([SEGUE, *self._words()], deadline_s=BEGIN_DEADLINE_S)
        if done.status == _NOT_FOUND:
            raise Unsupported(
                f"Peer-to-peer needs a Segue on {self._spec.source} to lead it, and there is no '{SEGUE}' on the PATH.",
                guest_at=untouched,
                hint="Install it there, or use --control direct, which needs nothing there.",
            )
        if done.status:
            said = done.complaint.removeprefix("segue: ").splitlines()
            raise MigrationFailed(f"Segue on {self._spec.source} says: {' '.join(said)}", guest_at=untouched)
        self.id = str(_object(done.stdout).get("id"))

    def _words(self) -> list[str]:
        asked, limits, disks = self._request, self._request.limits, self._request.disks
        ports = asked.migration_ports
        optional = {
            "--migration-address": asked.migration_address,
            "--migration-ports": f"{ports[0]}-{ports[1]}" if ports else "",
            "--bandwidth": f"{limits.bandwidth_bps}b/s" if limits.bandwidth_bps else "",
            "--within": f"{limits.within_ms}ms" if limits.within_ms else "",
            "--max-slowdown": f"{limits.max_slowdown_percent}%" if limits.max_slowdown_percent else "",
            "--max-bytes": f"{limits.max_bytes}b" if limits.max_bytes else "",
            "--policy": asked.policy,
            "--copy-storage": disks.how if disks else "",
            "--disk-bandwidth": f"{disks.limit_bps}b/s" if disks and disks.limit_bps else "",
            "--disks-port": str(disks.port) if disks and disks.port else "",
            "--probe": str(asked.probe) if asked.probe else "",
        }
        return [
            *("migrate", "--json", "--detach", "--from", "qmp:///"),
            *("--transport", asked.transport, "--connections", str(asked.connections)),
            *("--max-downtime", f"{limits.max_downtime_ms}ms"),
            "--auto-converge" if limits.auto_converge else "--no-auto-converge",
            f"--postcopy={'prefer' if limits.prefer_postcopy else 'allowed' if limits.postcopy else 'never'}",
            *("--on-miss", limits.on_miss),
            *(["--observe-only"] if asked.observe_only else []),
            *_PERSIST[asked.persist],
            *_UNDEFINE[asked.undefine_source],
            *(word for part, value in asked.overrides for word in ("--set", f"{part}={value}")),
            *(word for code in asked.accept for word in ("--accept", code)),
            *(["--fix"] if asked.fix else []),
            *(["--copy-storage-synchronous-writes"] if disks and disks.synchronous else []),
            *(word for name, value in optional.items() if value for word in (name, value)),
            *("--", self._spec.guest, asked.destination),
        ]

    async def watch(self) -> Outcome:
        """Follow it to its end.

        Raises:
            OutcomeAmbiguous: the source cannot be reached any more; there it goes on.
        """
        if self._shell is None:
            raise AssertionError("it was begun")
        self._report(Told(text=f"Segue on {self._spec.source} leads it, as {self.id}; it goes on there without this one"))
        outcome: Outcome | None = None
        try:
            async with self._shell.lines([SEGUE, "watch", "--json", self.id]) as lines:
                async for line in lines:
                    said = _object(line)
                    if "outcome" in said:
                        outcome = self._outcome(said)
                    elif "status" in said:
                        self._sample(said)
        except SegueError as error:
            raise self._out_of_sight(error.message) from error
        if outcome is None:
            raise self._out_of_sight(f"Segue on {self._spec.source} stopped telling.")
        return outcome

    def _out_of_sight(self, why: str) -> OutcomeAmbiguous:
        return OutcomeAmbiguous(
            f"The migration goes on, out of sight from here: {why}",
            guest_at=f"not known here; Segue on {self._spec.source} moves it",
            hint=f"'segue watch {self.id}' on {self._spec.source} shows it.",
        )

    def _sample(self, said: Mapping[str, Any]) -> None:
        phase = State(said["phase"])
        if phase is not self._phase and phase in PHASES:
            self._phase = phase
            self._report(phase)
        known = {name: value for name, value in said.items() if name in _SAMPLE}
        self._report(Progress(**{**known, "status": JobStatus(said["status"])}))

    def _outcome(self, said: Mapping[str, Any]) -> Outcome:
        """Its outcome in our names: there the source is the host itself."""
        spec = self._spec
        ours = {said["source"]: spec.source, said["destination"]: spec.destination}
        return Outcome(
            id=self.id,
            guest=spec.guest,
            source=spec.source,
            destination=spec.destination,
            driver=spec.driver,
            control=spec.control,
            transport=spec.transport,
            outcome=OutcomeKind(said["outcome"]),
            owner=ours.get(said["owner"], ""),
            phase=said["phase"],
            total_ms=said["total_ms"],
            downtime_ms=said["downtime_ms"],
            bytes_sent=said["bytes_sent"],
            iterations=said["iterations"],
            decisions=tuple(said["decisions"]),
            error=said["error"],
            guest_lost_ms=said.get("guest_lost_ms"),
            client=Client(**client) if (client := said.get("client")) else None,
            switchover=Switchover(**parts) if (parts := said.get("switchover")) else None,
            cause=said.get("cause", ""),
            hint=said.get("hint", ""),
            quotes=tuple(said.get("quotes", ())),
        )

    def cancel(self) -> bool:
        """Ask for the guest to stay; the source's Segue decides whether it still can."""
        if self._shell is None or not self.id:
            return False
        if self._cancelling is None:
            self._cancelling = asyncio.create_task(self._shell.run([SEGUE, "cancel", self.id], deadline_s=CANCEL_DEADLINE_S))
        return True

    async def aclose(self) -> None:
        """Let go of the connection to the source; the migration is not touched. May be repeated."""
        if self._cancelling is not None:
            await asyncio.gather(self._cancelling, return_exceptions=True)
        if self._shell is not None:
            await self._shell.aclose()


def _object(line: bytes) -> dict[str, Any]:
    """One line of JSON; empty where it is none."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
