"""Launch records: what to run so that a bare guest is there again after it ended, as whom, and from where.

A host keeps them in ``/etc/segue/guests`` (root) or ``~/.config/segue/guests``, one file of JSON for each guest, readable by
their owner alone: a command line may hold secrets. What may live here: reading, writing and removing them, and what they say.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from segue.core import argv
from segue.core.argv import CommandLine
from segue.drivers.qemu.processes import Process
from segue.errors import HypervisorError
from segue.hosts import HostShell
from segue.hosts.shell import checked

DEADLINE_S: Final = 10.0
_WHERE: Final = 'd=/etc/segue/guests; [ "$(id -u)" = 0 ] || d=${XDG_CONFIG_HOME:-$HOME/.config}/segue/guests; '
_ALL: Final = _WHERE + r"""for file in "$d"/*.json; do [ ! -f "$file" ] || { tr -d '\n' <"$file" && echo; }; done"""
_ONE: Final = _WHERE + 'if [ -f "$d/$1" ]; then cat -- "$d/$1"; fi'
_MAKE: Final = _WHERE + 'mkdir -p -m 700 -- "$d" && printf %s "$d"'
_REMOVE: Final = _WHERE + 'rm -f -- "$d/$1"'
_ONLY_TO_ARRIVE: Final = ("S", "incoming")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One launch record.

    Attributes:
        words: the command line, the program first.
        cwd: where it is started.
        user: as whom; empty: as the user whose record it is.
        environment: what of the environment matters to QEMU.
    """

    words: tuple[str, ...]
    cwd: str
    user: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def process(self) -> Process:
        """As `processes.start` wants to have it: a process that is not there yet."""
        line = argv.parse(self.words)
        return Process(pid=0, started=0, mine=True, cwd=self.cwd, line=line, user=self.user, environment=self.environment)


def of(process: Process) -> Launch:
    """The record of a guest that runs: it is started like this one, and not to receive anything."""
    kept = tuple(option for option in process.line.options if option.name not in _ONLY_TO_ARRIVE)
    line = CommandLine(program=process.line.program, options=kept)
    return Launch(words=line.words(), cwd=process.cwd, user=process.user, environment=dict(process.environment))


async def known(shell: HostShell) -> list[Launch]:
    """All records of a host; a file that is none is left out.

    Raises:
        HostUnreachable, AnswerNotSeen, CommandFailed: they cannot be read.
    """
    command = ["sh", "-c", _ALL]
    done = checked(shell.name, command, await shell.run(command, deadline_s=DEADLINE_S))
    return [launch for line in done.stdout.splitlines() if (launch := _read(line))]


async def load(shell: HostShell, guest: str) -> Launch | None:
    """The record of that guest; ``None`` where there is none.

    Raises:
        HypervisorError: there is one, and it says nothing that can be started.
    """
    command = ["sh", "-c", _ONE, "sh", _file(guest)]
    done = checked(shell.name, command, await shell.run(command, deadline_s=DEADLINE_S))
    launch = _read(done.stdout)
    if launch is None and done.stdout:
        raise HypervisorError(f"The launch record of {guest} on {shell.name} is damaged.", host=shell.name, raw=str(done.stdout))
    return launch


async def save(shell: HostShell, guest: str, launch: Launch) -> None:
    """Write it, in the place of another.

    Raises:
        CommandFailed: it cannot be written; what was there is as it was.
    """
    command = ["sh", "-c", _MAKE]
    directory = os.fsdecode(checked(shell.name, command, await shell.run(command, deadline_s=DEADLINE_S)).stdout)
    said = {"argv": launch.words, "cwd": launch.cwd, "user": launch.user, "environment": launch.environment}
    content = json.dumps(said, indent=1).encode("ascii") + b"\n"
    await shell.write_file(f"{directory}/{_file(guest)}", content, mode=0o600, deadline_s=DEADLINE_S)


async def remove(shell: HostShell, guest: str) -> None:
    """Remove it. Harmless where there is none."""
    command = ["sh", "-c", _REMOVE, "sh", _file(guest)]
    checked(shell.name, command, await shell.run(command, deadline_s=DEADLINE_S))


def _file(guest: str) -> str:
    name = quote(os.fsencode(guest), safe="")
    return f"{'%2E' + name[1:] if name.startswith('.') else name}.json"  # a shell's * sees no file that begins with a dot


def _read(content: bytes) -> Launch | None:
    try:
        said: dict[str, Any] = json.loads(content)
        words = tuple(map(str, said["argv"]))
        environment = {str(name): str(text) for name, text in said["environment"].items()}
        return Launch(words=words, cwd=str(said["cwd"]), user=str(said["user"]), environment=environment) if words else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
