"""A QEMU that is none: a monitor on a real unix socket, in which only the guest is missing.

It answers as the recorded QEMU does (`tests/qmp/recorded`): every answer is a recorded one with the values of the moment in it,
and the plays that were recorded are played to it too, so the fake is held to the real thing; but for post-copy, which is not
recorded. A migration between two of them goes one moment (`PRECOPY`, `POSTCOPY`) further each time that somebody asks; nothing
here waits or rolls dice.

An auditor knows what is true whatever the fakes say, and writes down each command that could harm the guest. Faults
(`tests/support/qmp_faults.py`) change what is sent, not what is true.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from tests.support.qmp_faults import Fault, Then, deed

Json = dict[str, Any]

SOURCE: Final = "source"
DESTINATION: Final = "destination"
SO_SLOW_BPS: Final = 1_000
"""At this bandwidth, or less, a migration gets nowhere."""


# what was recorded


class Recorded:
    """The answers of a QEMU, by what it was asked and what it was then doing.

    Args:
        plays: a recording.
        lines: of its plays.
    """

    def __init__(self, plays: Json, lines: Mapping[str, Sequence[Any]]) -> None:
        self.greeting: Json = plays["moved"]["greetings"][SOURCE]
        self._answers: dict[tuple[str, str, str], Json] = {}
        self._asked: dict[str, Json] = {}
        self._events: dict[tuple[str, str], Json] = {}
        for name, play in plays.items():
            for line, answer in zip(lines[name], play["answers"], strict=True):
                self._asked.setdefault(_key(line.side, line.execute, line.arguments), answer)
                returned = (answer or {}).get("return")
                if returned is not None:
                    told = returned.get("status", "") if isinstance(returned, dict) else ""
                    self._answers.setdefault((line.side, line.execute, told), returned)
            for side, events in play["events"].items():
                for event in events:
                    self._events.setdefault((side, event["event"]), event)

    def answer(self, side: str, command: str, told: str = "") -> Any:
        """A recorded answer; the other side's where this one was never heard to say it."""
        other = DESTINATION if side == SOURCE else SOURCE
        found = (self._answers.get((one, command, told)) for one in (side, other))
        return copy.deepcopy(next((one for one in found if one is not None), {"status": told} if told else {}))

    def asked(self, side: str, command: str, arguments: Json | None) -> Json | None:
        """What was answered to exactly that, if it was ever asked."""
        return copy.deepcopy(self._asked.get(_key(side, command, arguments)))

    def event(self, side: str, name: str, **data: object) -> Json:
        """A recorded event with these data."""
        other = DESTINATION if side == SOURCE else SOURCE
        event = copy.deepcopy(self._events.get((side, name)) or self._events.get((other, name)) or {"event": name})
        if data:
            event["data"] = data
        return event


def _key(side: str, command: str, arguments: Json | None) -> str:
    return json.dumps((side, command, arguments or {}), sort_keys=True)


# how a migration goes


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is true of both at one moment of a migration; empty: as before.

    Attributes:
        here, there: status and run state, of the source and of the destination.
        stays: it goes on only when the destination runs.
    """

    here: tuple[str, str] = ("", "")
    there: tuple[str, str] = ("", "")
    stays: bool = False


PRECOPY: Final = (
    Moment(here=("setup", "running")),
    Moment(here=("active", "running"), there=("active", "inmigrate")),
    Moment(here=("active", "running")),
    Moment(here=("active", "finish-migrate")),
    Moment(here=("completed", "postmigrate")),
    Moment(there=("completed", "paused")),
)
POSTCOPY: Final = (
    Moment(here=("postcopy-active", "finish-migrate"), there=("postcopy-active", "inmigrate")),
    Moment(there=("postcopy-active", "paused"), stays=True),
    Moment(there=("completed", "running")),
    Moment(here=("completed", "postmigrate")),
)
PASSES: Final = {0: 1, 2: 2, 3: 3}
"""Moment of `PRECOPY` → the pass over the guest's memory that begins then."""
IN_FLIGHT: Final = frozenset({"setup", "active", "cancelling", "postcopy-active"})


class Guest:
    """One guest, its two QEMUs, and the auditor, who knows what is true.

    Args:
        recorded: what QEMU answers.
    """

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        self.source = FakeQemu(self, SOURCE, run_state="running")
        self.destination: FakeQemu | None = None
        self.harm: list[str] = []
        self.told_to_run = False
        self.ran = False
        self.most_copies = 1
        self._script: tuple[Moment, ...] = ()
        self._at = 0

    def make_destination(self) -> FakeQemu:
        """As ``-S -incoming defer`` does."""
        self.destination = FakeQemu(self, DESTINATION, run_state="inmigrate")
        return self.destination

    # the migration

    def begin(self, uri: str) -> None:
        there = self.destination
        self.source.becomes("setup", "running")
        if there is not None and there.alive and there.listens == uri:
            self._script, self._at = PRECOPY, 0
            self.source.pass_(PASSES[0])
        else:
            self.source.error = f"Failed to connect to '{uri}': Connection refused"
            self.source.becomes("failed", "running")
            self._script = ()

    def begin_postcopy(self) -> None:
        self._script, self._at = POSTCOPY, -1

    def stop(self, status: str) -> None:
        """It ends early: the guest goes on where it was, and a destination that was receiving ends by itself."""
        self._script = ()
        if status == "cancelled":
            self.source.becomes("cancelling", "running")
        self.source.becomes(status, "running")
        if (there := self.destination) is not None and there.alive:
            there.becomes("failed", "inmigrate")
            there.end()

    def goes_on(self, asked: FakeQemu) -> None:
        """Somebody asked: it gets one moment further, where anything is left and nothing holds it up."""
        there = self.destination
        if not self._script or self._at + 1 >= len(self._script) or there is None:
            return
        handed_over = self.source.status == "completed"
        if asked is not self.source and not handed_over:
            return
        creeps = self.source.parameters["max-bandwidth"] <= SO_SLOW_BPS and self.source.status == "active"
        if creeps or (self._script[self._at].stays and there.run_state != "running"):
            return
        self._at += 1
        moment = self._script[self._at]
        self.source.becomes(*moment.here)
        if self._script is PRECOPY and (number := PASSES.get(self._at)):
            self.source.pass_(number)
        there.becomes(*moment.there)

    def died(self, who: FakeQemu) -> None:
        """One side is gone: what that means for the other."""
        if who is self.destination and self.source.alive and self.source.status in IN_FLIGHT:
            if self.source.status == "postcopy-active":
                self.source.becomes("postcopy-paused", "")
            else:
                self.source.error = "Unable to write to socket: Broken pipe"
                self.source.becomes("failed", "running")
        there = self.destination
        if who is self.source and there is not None and there.alive and there.status == "active":
            there.becomes("failed", "inmigrate")
            there.end()
        self._script = ()

    # the auditor

    @property
    def runs_on(self) -> list[str]:
        """Where it executes, in truth."""
        both = (self.source, self.destination)
        return [one.side for one in both if one is not None and one.alive and one.run_state == "running"]

    def look(self) -> None:
        """After each change."""
        self.most_copies = max(self.most_copies, len(self.runs_on))
        if len(self.runs_on) > 1:
            self.harm.append("two copies execute")
        self.ran = self.ran or DESTINATION in self.runs_on

    def judge_cont(self, side: str) -> None:
        here, there = self.source, self.destination
        if side == DESTINATION:
            if here.alive and here.run_state in ("running", "finish-migrate") and here.status != "postcopy-active":
                self.harm.append(f"cont on the destination while the source is {here.run_state} ({here.status})")
            self.told_to_run = True
        elif here.run_state != "running":
            if self.told_to_run:
                self.harm.append("cont on the source after the destination was told to run")
            if there is not None and there.alive:
                self.harm.append("cont on the source while the destination is still there")

    def judge_end(self, who: FakeQemu, how: str) -> None:
        here, there = self.source, self.destination
        there_whole = there is not None and there.alive and there.status == "completed"
        here_whole = here.alive and not self.ran
        if who is here and not there_whole:
            self.harm.append(f"{how} of the source, and the destination has no whole guest")
        if who is there and (self.ran or not here_whole):
            self.harm.append(f"{how} of the destination, and the source has no whole guest")


# one QEMU


@dataclass
class Connection:
    """One client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    negotiated: bool = False


async def _objects(reader: asyncio.StreamReader) -> AsyncIterator[Json]:
    """What a client asks. QEMU reads objects, not lines: nothing has to come after one."""
    text = ""
    while read := await reader.read(1 << 16):
        text += read.decode()
        while text := text.lstrip():
            try:
                asked, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                break
            text = text[end:]
            yield asked


class Closed(Exception):
    """This connection is over, for the fake."""


@dataclass(frozen=True, slots=True)
class Refusal(Exception):
    """QEMU's own error."""

    desc: str
    class_: str = "GenericError"


@dataclass(kw_only=True)
class Faults:
    """What is wrong with one fake, and what it has done so far.

    Attributes:
        planned: in any order.
        sent: how many greetings, answers and events it has sent.
        done: the faults that came to pass.
    """

    planned: tuple[Fault, ...] = ()
    sent: int = 0
    done: list[Fault] = field(default_factory=list)

    def next(self) -> Fault | None:
        """The fault of what is sent now."""
        number = self.sent
        self.sent += 1
        found = next((one for one in self.planned if one.at == number or (one.again and one.at < number)), None)
        if found is not None:
            self.done.append(found)
        return found


class FakeQemu:
    """One QEMU process, as its monitor shows it.

    Args:
        guest: whose it is.
        side: source or destination.
        run_state: at first.
    """

    def __init__(self, guest: Guest, side: str, *, run_state: str) -> None:
        self.guest = guest
        self.side = side
        self.run_state = run_state
        self.status = ""
        self.error = ""
        self.listens = ""
        self.alive = True
        self.gone = asyncio.Event()
        self.faults = Faults()
        self.commands: list[str] = []
        recorded = guest.recorded
        self.capabilities = {
            one["capability"]: bool(one["state"]) for one in recorded.answer(SOURCE, "query-migrate-capabilities")
        }
        self.parameters: Json = recorded.answer(SOURCE, "query-migrate-parameters")
        self._incoming = side == DESTINATION
        self._runs_when_loaded = False
        self._pending: list[Json] = []
        self._serving: asyncio.Task[None] | None = None
        self._ids = itertools.count()

    # what is true

    def becomes(self, status: str, run_state: str) -> None:
        """Go over to a status and a run state, with the events that QEMU sends then; empty: as before."""
        if not self.alive:
            return
        was = self.run_state
        if run_state == "paused" and self._runs_when_loaded:
            run_state = "running"
        self.run_state = run_state or was
        if was == "running" and self.run_state not in ("running", "inmigrate"):
            self.says("STOP")
        if was != "running" and self.run_state == "running":
            self.says("RESUME")
        if status and status != self.status:
            self.status = status
            if self.capabilities["events"]:
                self.says("MIGRATION", status=status)
        self.guest.look()

    def pass_(self, number: int) -> None:
        if self.capabilities["events"]:
            self.says("MIGRATION_PASS", **{"pass": number})

    def says(self, event: str, **data: object) -> None:
        """An event, sent before the next answer."""
        self._pending.append(self.guest.recorded.event(self.side, event, **data))

    def end(self) -> None:
        """The process is gone."""
        if self.alive:
            self.alive = False
            self.gone.set()
            self.guest.died(self)

    # the monitor

    async def serve(self, path: str) -> None:
        """Listen there, for one client at a time as QEMU does; the others connect, and hear nothing until it leaves."""
        listener = self._listener = socket.socket(socket.AF_UNIX)
        listener.setblocking(False)
        listener.bind(path)
        listener.listen(16)
        self._serving = asyncio.create_task(self._serve(listener))

    async def aclose(self) -> None:
        self.alive = False
        self.gone.set()
        if self._serving is not None:
            self._serving.cancel()
            with self._listener, contextlib.suppress(asyncio.CancelledError):
                await self._serving

    async def _serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while self.alive:
                accepting = asyncio.ensure_future(loop.sock_accept(listener))
                gone = asyncio.ensure_future(self.gone.wait())
                try:
                    await asyncio.wait({accepting, gone}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    gone.cancel()
                    accepting.cancel()
                    await asyncio.gather(gone, accepting, return_exceptions=True)
                if accepting.cancelled():
                    break
                sock, _ = accepting.result()
                with sock:
                    if self.alive:
                        await self._with(sock)

    async def _with(self, sock: socket.socket) -> None:
        """Serve one client until either leaves."""
        connection = Connection(*await asyncio.open_connection(sock=sock, limit=1 << 24))
        talking = asyncio.ensure_future(self._talk(connection))
        gone = asyncio.ensure_future(self.gone.wait())
        try:
            await asyncio.wait({talking, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not talking.done():  # it sends what it still has to say
                await self._flush(connection)
        except (Closed, ConnectionError):
            pass
        finally:
            connection.writer.transport.abort()  # what the kernel took is still delivered
            for task in (talking, gone):
                task.cancel()
            await asyncio.gather(talking, gone, return_exceptions=True)
            with contextlib.suppress(ConnectionError):
                await connection.writer.wait_closed()
        if not talking.cancelled() and (error := talking.exception()) and not isinstance(error, Closed | ConnectionError):
            raise error

    async def _talk(self, connection: Connection) -> None:
        self._pending.clear()  # what happened while nobody listened is not told
        await self._send(connection, self.guest.recorded.greeting)
        async for asked in _objects(connection.reader):
            answer = self._answer(connection, asked)
            await self._flush(connection)
            await self._send(connection, {**answer, "id": asked["id"]} if "id" in asked else answer)
            if not self.alive:
                self.says("SHUTDOWN", **self.guest.recorded.event(self.side, "SHUTDOWN").get("data", {}))
                await self._flush(connection)
                return

    async def _flush(self, connection: Connection) -> None:
        while connection.negotiated and self._pending:
            await self._send(connection, {**self._pending.pop(0), "timestamp": {"seconds": 0, "microseconds": 0}})

    async def _send(self, connection: Connection, message: Json) -> None:
        fault = self.faults.next()
        pieces: Iterable[bytes] = (json.dumps(message).encode() + b"\r\n",)
        then = Then.GO_ON
        if fault is not None:
            pieces, then = deed(fault, message)
        for piece in pieces:
            connection.writer.write(piece)
            await connection.writer.drain()
        match then:
            case Then.CLOSE:
                raise Closed
            case Then.STALL:  # it reads on, and says nothing any more
                while await connection.reader.read(1 << 16):
                    pass
                raise Closed
            case Then.DEAF:
                cast(asyncio.Transport, connection.writer.transport).pause_reading()
                await self.gone.wait()
                raise Closed
            case Then.CHATTER:
                await self._chatter(connection)

    async def _chatter(self, connection: Connection) -> None:
        """Events without end, and never the answer."""
        event = {**self.guest.recorded.event(self.side, "MIGRATION_PASS"), "timestamp": {}}
        line = json.dumps(event).encode() + b"\r\n"
        while not connection.writer.is_closing():
            connection.writer.write(line)
            await connection.writer.drain()
            await asyncio.sleep(0.05)
        raise Closed

    # what it answers

    def _answer(self, connection: Connection, asked: Json) -> Json:
        command: str = asked.get("execute") or asked["exec-oob"]
        self.commands.append(command)
        try:
            handler = self._handler(connection, command)
            if handler is None:
                return self._recorded(command, asked.get("arguments"))
            returned = handler(self, asked.get("arguments") or {})
        except Refusal as error:
            return {"error": {"class": error.class_, "desc": error.desc}}
        return {"return": {} if returned is None else returned}

    def _recorded(self, command: str, arguments: Json | None) -> Json:
        """The answer to what only asks, and never changes."""
        answer = self.guest.recorded.asked(self.side, command, arguments)
        if answer is None:
            raise Refusal(f"The command {command} has not been found", "CommandNotFound")
        return answer

    def _handler(self, connection: Connection, command: str) -> Callable[[FakeQemu, Json], Any] | None:
        """What carries out that command, where it is its turn; none for what only asks."""
        if not connection.negotiated and command != "qmp_capabilities":
            raise Refusal("Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound")
        if connection.negotiated and command == "qmp_capabilities":
            raise Refusal("Capabilities negotiation is already complete, command ignored", "CommandNotFound")
        connection.negotiated = True
        return COMMANDS.get(command)

    def _query_status(self, _: Json) -> Json:
        self.guest.goes_on(self)
        answer: Json = self.guest.recorded.answer(self.side, "query-status", self.run_state)
        answer.update(running=self.run_state == "running", status=self.run_state)
        return answer

    def _query_migrate(self, _: Json) -> Json:
        self.guest.goes_on(self)
        answer: Json = self.guest.recorded.answer(self.side, "query-migrate", self.status if self.status != "setup" else "")
        if self._incoming and self.status == "setup":  # QEMU 7.2 says where it listens before it says a status
            answer.pop("status", None)
        elif self.status:
            answer["status"] = self.status
        if self.status == "failed" and self.error:
            answer["error-desc"] = self.error
        if self.listens.startswith("tcp:") and self.status in ("setup", "active"):
            host, port = self.listens.removeprefix("tcp:").rsplit(":", 1)
            answer["socket-address"] = [{"port": port, "ipv4": True, "host": host, "type": "inet"}]
        return answer

    def _query_machines(self, _: Json) -> Any:
        return self.guest.recorded.answer(SOURCE, "query-machines")

    def _query_capabilities(self, _: Json) -> list[Json]:
        return [{"state": state, "capability": name} for name, state in self.capabilities.items()]

    def _query_parameters(self, _: Json) -> Json:
        return dict(self.parameters)

    def _set_capabilities(self, arguments: Json) -> None:
        if self.status in IN_FLIGHT and not self._incoming:
            raise Refusal("There's a migration process in progress")
        for one in arguments["capabilities"]:
            if one["capability"] not in self.capabilities:
                raise Refusal(f"Parameter 'capability' does not accept value '{one['capability']}'")
            self.capabilities[one["capability"]] = one["state"]

    def _set_parameters(self, arguments: Json) -> None:
        if arguments.get("downtime-limit", 0) < 0:
            raise Refusal("Parameter 'downtime_limit' expects an integer in the range of 0 to (2000 * 1000) ms")
        self.parameters.update(arguments)

    def _migrate_incoming(self, arguments: Json) -> None:
        if not self._incoming:
            raise Refusal("'-incoming' was not specified on the command line")
        if self.listens:
            raise Refusal("The incoming migration has already been started")
        uri = arguments["uri"]
        self.listens = f"{uri.removesuffix(':0')}:49152" if uri.startswith("tcp:") else uri
        self.becomes("setup", "")

    def _migrate(self, arguments: Json) -> None:
        if self.status in IN_FLIGHT:
            raise Refusal("There's a migration process in progress")
        if self.run_state == "postmigrate":
            raise Refusal("Can't migrate the vm that was paused due to previous migration")
        self.guest.begin(arguments["uri"])

    def _cancel(self, _: Json) -> None:
        if self.status in ("setup", "active"):
            self.guest.stop("cancelled")

    def _start_postcopy(self, _: Json) -> None:
        if not self.capabilities["postcopy-ram"]:
            raise Refusal("Enable postcopy with migrate_set_capability before the start of migration")
        if self.status not in ("setup", "active"):
            raise Refusal("Postcopy must be started after migration has been started")
        self.guest.begin_postcopy()

    def _cont(self, _: Json) -> None:
        self.guest.judge_cont(self.side)
        if self.run_state == "inmigrate":
            self._runs_when_loaded = True
        elif self.run_state == "finish-migrate":
            raise Refusal("Resetting the Virtual Machine is required")
        elif self.run_state != "running":
            self.becomes("", "running")

    def _quit(self, _: Json) -> None:
        self.guest.judge_end(self, "quit")
        self.alive = False
        self.guest.died(self)

    def _nothing(self, _: Json) -> None:
        pass


COMMANDS: Final[dict[str, Callable[[FakeQemu, Json], Any]]] = {
    "qmp_capabilities": FakeQemu._nothing,
    "query-status": FakeQemu._query_status,
    "query-migrate": FakeQemu._query_migrate,
    "query-machines": FakeQemu._query_machines,
    "query-migrate-capabilities": FakeQemu._query_capabilities,
    "query-migrate-parameters": FakeQemu._query_parameters,
    "migrate-set-capabilities": FakeQemu._set_capabilities,
    "migrate-set-parameters": FakeQemu._set_parameters,
    "migrate-incoming": FakeQemu._migrate_incoming,
    "migrate": FakeQemu._migrate,
    "migrate_cancel": FakeQemu._cancel,
    "migrate-start-postcopy": FakeQemu._start_postcopy,
    "announce-self": FakeQemu._nothing,
    "cont": FakeQemu._cont,
    "quit": FakeQemu._quit,
}
