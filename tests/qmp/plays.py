"""What is said to two QEMUs while a guest is moved, cancelled or turned back, and what they answer: played, recorded, compared.

A play is a list of lines for both monitors. It is played to two real QEMUs, whose answers are kept in `recorded/`, and to two
fake ones, whose answers must have the same shape. `python -m tests.qmp.plays` records anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.support.qmp_wire import Json, Wire

RECORDED = Path(__file__).parent / "recorded"
QEMU = "qemu-system-x86_64"
MACHINE = ("-M", "pc", "-accel", "tcg", "-m", "16M", "-nodefaults", "-no-user-config", "-display", "none", "-name", "guest=web")
CREEP_BPS = 1_000
"""So slow that a migration is surely under way when the next line comes."""
RUSH_BPS = 1 << 40
POLL_S = 0.01
_MONITOR = re.compile(r"unix:[^,\"]*/(source|destination)(?=,)")
SIDES = ("source", "destination")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a play.

    Attributes:
        side: who is asked.
        execute: a QMP command.
        arguments: of it; ``$URI`` is where the destination listens.
        until: asked again until its answer has that status; only the last answer counts.
        closes: no answer may come, because QEMU ends.
    """

    side: str
    execute: str
    arguments: Json | None = None
    until: str = ""
    closes: bool = False


def here(execute: str, arguments: Json | None = None, until: str = "") -> Line:
    return Line(side="source", execute=execute, arguments=arguments, until=until)


def there(execute: str, arguments: Json | None = None, until: str = "") -> Line:
    return Line(side="destination", execute=execute, arguments=arguments, until=until)


CAPABILITIES = {
    "capabilities": [{"capability": name, "state": True} for name in ("events", "late-block-activate", "return-path")]
}

# What Segue asks to learn what a guest is made of (segue.drivers.qemu.twin): answered, and nothing follows from it.
QUESTIONS: tuple[tuple[str, Json | None], ...] = (
    ("human-monitor-command", {"command-line": "info qtree"}),
    ("query-block", None),
    ("query-hotpluggable-cpus", None),
    ("query-memory-devices", None),
    ("query-version", None),
    ("query-cpus-fast", None),
    ("qom-list", {"path": "/machine/peripheral"}),
    ("qom-list", {"path": "/machine/peripheral-anon"}),
    ("qom-list", {"path": "/objects"}),
    ("query-named-block-nodes", {"flat": True}),
    ("query-chardev", None),
    ("query-block-jobs", None),
    ("query-vnc", None),
    ("human-monitor-command", {"command-line": "info network"}),
    ("qom-get", {"path": "/machine/unattached/device[0]", "property": "feature-words"}),
)

OPENED = (
    here("qmp_capabilities"),
    there("qmp_capabilities"),
    here("migrate-set-capabilities", CAPABILITIES),
    here("migrate-set-parameters", {"downtime-limit": 300, "max-bandwidth": CREEP_BPS, "max-postcopy-bandwidth": 0}),
    there("migrate-set-capabilities", CAPABILITIES),
    there("migrate-incoming", {"uri": "tcp:127.0.0.1:0"}),
    there("query-migrate"),
)
BEGIN = (
    here("query-status"),  # refused: no capabilities were negotiated yet
    here("qmp_capabilities"),
    here("qmp_capabilities"),  # not twice
    here("query-status"),
    here("query-migrate"),
    here("query-machines"),
    here("query-migrate-capabilities"),
    here("query-migrate-parameters"),
    *(here(*question) for question in QUESTIONS),
    here("no-such-command"),
    here("cont"),  # harmless while it runs
    there("qmp_capabilities"),
    there("query-status"),
    there("query-migrate"),
    there("query-migrate-capabilities"),
    *(there(*question) for question in QUESTIONS),
    there("migrate-set-capabilities", CAPABILITIES),
    there("query-migrate-capabilities"),
    there("migrate-incoming", {"uri": "tcp:127.0.0.1:0"}),
    there("query-migrate"),
    there("migrate-incoming", {"uri": "tcp:127.0.0.1:0"}),  # not twice
    here("migrate-incoming", {"uri": "tcp:127.0.0.1:0"}),  # not at all
    here("migrate-set-capabilities", CAPABILITIES),
    here("migrate-set-parameters", {"downtime-limit": 300, "max-bandwidth": CREEP_BPS, "max-postcopy-bandwidth": 0}),
    here("migrate-set-parameters", {"downtime-limit": -1}),
    here("query-migrate-parameters"),
)
UNDER_WAY = (
    here("migrate", {"uri": "$URI"}),
    here("query-migrate", until="active"),
    here("query-status"),
    there("query-migrate", until="active"),
    there("query-status"),
    here("migrate", {"uri": "$URI"}),  # not twice
)
MOVED = (
    here("migrate-set-parameters", {"max-bandwidth": RUSH_BPS}),
    here("query-migrate", until="completed"),
    here("query-status"),
    there("query-migrate", until="completed"),
    there("query-status", until="paused"),
)

PLAYS: dict[str, tuple[Line, ...]] = {
    "moved": (
        *BEGIN,
        *UNDER_WAY,
        *MOVED,
        there("cont"),
        there("query-status"),
        there("query-migrate"),
        there("announce-self", {"initial": 50, "max": 550, "rounds": 5, "step": 100}),
        here("quit"),
        there("quit"),
    ),
    "let go on early": (
        *OPENED,
        *UNDER_WAY,
        there("cont"),  # remembered
        there("query-status"),
        *MOVED[:-1],
        there("query-status", until="running"),
        here("quit"),
        there("quit"),
    ),
    "cancelled": (
        *OPENED,
        *UNDER_WAY,
        here("migrate_cancel"),
        here("query-migrate", until="cancelled"),
        here("query-status"),
        Line(side="destination", execute="query-status", closes=True),
        here("migrate_cancel"),
        here("quit"),
    ),
    "turned back": (
        *OPENED,
        *UNDER_WAY,
        *MOVED,
        there("quit"),
        here("cont"),
        here("query-status"),
        here("query-migrate"),
        here("quit"),
    ),
    "nobody listens": (
        *OPENED,
        here("migrate", {"uri": "unix:/nonexistent/segue"}),
        here("query-migrate", until="failed"),
        here("query-status"),
        here("quit"),
        there("quit"),
    ),
}


@dataclass(kw_only=True)
class Heard:
    """What was heard in a play: greetings, the answer to each line (none: it closed), the events of each side."""

    greetings: dict[str, Json] = field(default_factory=dict)
    answers: list[Json | None] = field(default_factory=list)
    events: dict[str, list[Json]] = field(default_factory=dict)


class Stage(Protocol):
    """Where a play is played: gives the paths of two monitors, source first."""

    def __call__(self, directory: Path) -> AbstractAsyncContextManager[tuple[str, str]]: ...


async def play(lines: Sequence[Line], stage: Stage) -> Heard:
    """Play it, and say what was heard."""
    heard = Heard()
    with tempfile.TemporaryDirectory(prefix="sq-") as directory:
        async with stage(Path(directory)) as paths, AsyncExitStack() as stack:
            wires: dict[str, Wire] = {}
            for side, path in zip(SIDES, paths, strict=True):
                wire = wires[side] = await Wire.open(path)
                stack.push_async_callback(wire.aclose)
                heard.greetings[side] = await wire.receive() or {}
            uri = ""
            for line in lines:
                answer = await _say(wires[line.side], line, uri)
                uri = _listens_at(answer) or uri
                heard.answers.append(answer)
            heard.events = {side: wire.events for side, wire in wires.items()}
            for side in SIDES:
                with contextlib.suppress(ConnectionError):
                    await wires[side].until_closed()
    return heard


async def _say(wire: Wire, line: Line, uri: str) -> Json | None:
    arguments = {key: uri if value == "$URI" else value for key, value in line.arguments.items()} if line.arguments else None
    if line.closes:
        with contextlib.suppress(ConnectionError):
            await wire.until_closed()
        return None
    async with asyncio.timeout(20):
        while True:
            answer = await wire.execute(line.execute, arguments)
            returned = (answer or {}).get("return")
            if not line.until or (isinstance(returned, dict) and returned.get("status") == line.until):
                return answer
            await asyncio.sleep(POLL_S)


def _listens_at(answer: Json | None) -> str:
    returned = (answer or {}).get("return")
    addresses = returned.get("socket-address") if isinstance(returned, dict) else None
    return f"tcp:{addresses[0]['host']}:{addresses[0]['port']}" if addresses else ""


@contextlib.asynccontextmanager
async def real(directory: Path) -> AsyncIterator[tuple[str, str]]:
    """Two QEMUs without a guest's system: their firmware runs, which is enough to be moved."""
    async with AsyncExitStack() as stack:
        paths = []
        for side, more in zip(SIDES, ((), ("-S", "-incoming", "defer")), strict=True):
            path = str(directory / side)
            process = await asyncio.create_subprocess_exec(QEMU, *MACHINE, *more, "-qmp", f"unix:{path},server=on,wait=off")
            stack.push_async_callback(_ended, process)
            async with asyncio.timeout(20):
                while not Path(path).exists():  # noqa: ASYNC110  # another process makes it
                    await asyncio.sleep(POLL_S)
            paths.append(path)
        yield paths[0], paths[1]


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await process.wait()
    if process.returncode is None:
        process.kill()
    await process.wait()


# shapes

WORDS = frozenset({"status", "capability", "state", "running", "singlestep", "event", "class", "alias", "guest", "reason"})
"""Keys whose values are compared too: they are words that something is decided by."""


def shape(value: object, key: str = "") -> object:
    """Keys, types, and the words that something is decided by."""
    if isinstance(value, dict):
        return {name: shape(one, name) for name, one in value.items() if name not in ("id", "timestamp")}
    if isinstance(value, list):
        shapes = {json.dumps(shape(one), sort_keys=True) for one in value}
        return [json.loads(one) for one in sorted(shapes)]
    if key in WORDS:
        return value
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | float) else type(value).__name__


_LAST_WORDS = {"event": "MIGRATION", "data": {"status": "failed"}}


def shape_of_events(side: str, events: Sequence[Json]) -> list[object]:
    """In order. How often memory was passed over is chance, when the firmware does something, and whether a destination that
    ends by itself still says so."""
    seen: list[object] = []
    for event in events:
        one = shape(event)
        if event["event"] in ("RTC_CHANGE", "RESET") or (event["event"] == "MIGRATION_PASS" and one in seen):
            continue
        if side == "destination" and one == _LAST_WORDS:
            continue
        seen.append(one)
    return seen


def shapes(heard: Heard) -> Json:
    """All of what was heard, comparable."""
    return {
        "greetings": {side: shape(greeting) for side, greeting in heard.greetings.items()},
        "answers": [shape(answer) for answer in heard.answers],
        "events": {side: shape_of_events(side, events) for side, events in heard.events.items()},
    }


# recording


async def record() -> Json:
    """Play all of them to real QEMUs."""
    plays: Json = {}
    for name, lines in PLAYS.items():
        heard = await play(lines, real)
        plays[name] = {
            "greetings": heard.greetings,
            "answers": [_trimmed(answer) for answer in heard.answers],
            "events": {side: [_trimmed(event) for event in events] for side, events in heard.events.items()},
        }
    return plays


def _trimmed(value: Json | None) -> Any:
    """Without what is of the moment, and without a hundred machines of the same shape."""
    if value is None:
        return None
    value = {key: one for key, one in value.items() if key not in ("id", "timestamp")}
    value = json.loads(_MONITOR.sub("unix:/run/web.qmp", json.dumps(value)))
    returned = value.get("return")
    if isinstance(returned, list) and returned and "cpu-max" in returned[0]:
        kept = {json.dumps(shape(one), sort_keys=True): one for one in reversed(returned)}
        value["return"] = list(kept.values())
    return value


def version(plays: Json) -> str:
    """Of the QEMU that a recording is of, without its last number: what it answers does not change in a stable series."""
    qemu = plays["moved"]["greetings"]["source"]["QMP"]["version"]["qemu"]
    return f"{qemu['major']}.{qemu['minor']}"


def load(path: Path) -> Json:
    """A recording."""
    plays: Json = json.loads(path.read_text())
    return plays


def heard_in(recorded: Json, name: str) -> Heard:
    """What was heard in one recorded play."""
    return Heard(**recorded[name])


def write(plays: Json) -> str:
    """A recording as text: a line an answer, so that a change is seen."""
    parts = []
    for name, play in plays.items():
        answers = ",\n".join(f"   {json.dumps(answer)}" for answer in play["answers"])
        events = json.dumps(play["events"])
        parts.append(
            f' {json.dumps(name)}: {{\n  "greetings": {json.dumps(play["greetings"])},\n  "answers": [\n{answers}\n  ],\n'
            f'  "events": {events}\n }}'
        )
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    found = asyncio.run(record())
    (RECORDED / f"qemu-{version(found)}.json").write_text(write(found))
