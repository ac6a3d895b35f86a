"""The same guest on the other side: asks a QEMU what it has now, and afterwards whether its twin has the same.

What may live here: the QMP queries, asked at once where they do not depend on each other. What their answers mean is
`core.live`, `core.reproduce` and `core.devices`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from segue.core import devices, files, live, reproduce
from segue.core import twin as rewrite
from segue.core.argv import CommandLine
from segue.core.devices import Shape
from segue.core.live import Live
from segue.core.model import MigrationSpec
from segue.core.preflight.facts import Objection
from segue.core.preflight.findings import Seen
from segue.core.reproduce import Property
from segue.core.twin import Port
from segue.drivers.qemu.files import Look, check, look, look_at_both
from segue.drivers.qemu.processes import Process
from segue.drivers.qemu.session import Session
from segue.errors import AnswerNotSeen, HypervisorError, PrepareFailed, Unsupported
from segue.hosts import HostShell

Question = tuple[str, Mapping[str, object] | None]

# Of both QEMUs.
_SHAPE: Final[Mapping[str, Question]] = {
    "qtree": ("human-monitor-command", {"command-line": "info qtree"}),
    "query-block": ("query-block", None),
    "query-hotpluggable-cpus": ("query-hotpluggable-cpus", None),
    "query-memory-devices": ("query-memory-devices", None),
    "query-version": ("query-version", None),
    "query-cpus-fast": ("query-cpus-fast", None),
}
# Of the source alone. `info network`: QMP has no list of network backends.
_NOW: Final[Mapping[str, Question]] = {
    "peripheral": ("qom-list", {"path": "/machine/peripheral"}),
    "peripheral-anon": ("qom-list", {"path": "/machine/peripheral-anon"}),
    "objects": ("qom-list", {"path": "/objects"}),
    "query-named-block-nodes": ("query-named-block-nodes", {"flat": True}),
    "query-chardev": ("query-chardev", None),
    "query-block-jobs": ("query-block-jobs", None),
    "query-vnc": ("query-vnc", None),
    "network": ("human-monitor-command", {"command-line": "info network"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a guest has now, and what it is made of."""

    live: Live
    shape: Shape


async def observe(session: Session, renamed: Mapping[str, str]) -> Observed:
    """Ask a running QEMU what it has now.

    Args:
        session: with it.
        renamed: files that have another name on the destination.

    Raises:
        AnswerNotSeen: it did not answer.
        HypervisorError: what it answered makes no sense.
    """
    with _making_sense(session.host):
        answers = await _ask(session, {**_SHAPE, **_NOW})
        plugged = {
            key: ("qom-get", {"path": path, "property": "hotplugged"}) for key, (path, _) in live.device_paths(answers).items()
        }
        told, features = await asyncio.gather(_ask(session, plugged), _features(session, answers))
        found = live.read(answers, {key: value is True for key, value in told.items()})
        return Observed(live=found, shape=devices.shape({**answers, **features}, files=renamed))


async def shape(session: Session) -> Shape:
    """Ask a QEMU what it is made of.

    Raises:
        AnswerNotSeen: it did not answer.
        HypervisorError: what it answered makes no sense.
    """
    with _making_sense(session.host):
        answers = await _ask(session, _SHAPE)
        return devices.shape({**answers, **await _features(session, answers)})


async def up_to_date(session: Session, line: CommandLine, observed: Observed) -> CommandLine:
    """The command line of a guest as it is now; what was plugged in is asked for what it is.

    Raises:
        Unsupported: something in it cannot be written on a command line.
        AnswerNotSeen: it did not answer.
    """
    now = observed.live
    keys = reproduce.wanted(line, now)
    if not keys:
        return reproduce.reproduced(line, now, {})
    ports = devices.usb_ports(observed.shape, now.devices)
    found = await asyncio.gather(*(_properties(session, key, now, ports.get(key)) for key in keys))
    return reproduce.reproduced(line, now, dict(zip(keys, found, strict=True)))


async def objections(session: Session, line: CommandLine, spec: MigrationSpec) -> tuple[Objection, ...]:
    """What stands against starting the same guest elsewhere from a command line, before anything is touched.

    Args:
        session: with the guest.
        line: with which it was started.
        spec: what was asked for.

    Raises:
        HypervisorError, AnswerNotSeen: it cannot be asked.
    """
    found: list[Objection] = []

    def against(error: Unsupported, code: str) -> None:
        seen = Seen(host=session.host, what="its command line, and what it has now")
        found.append(Objection(code=code, sentence=error.message, seen=seen, fix=error.hint))

    now = line
    try:
        now = await up_to_date(session, line, await observe(session, {}))
    except Unsupported as error:
        against(error, "unsupported")
    for part, value in spec.overrides:
        try:
            # Of a disk the file that the guest was started with is looked for, of all else what it has now.
            rewrite.overridden(line if part.startswith("disk.") else now, part, value)
        except Unsupported as error:
            against(error, "asked")
    return tuple(found)


async def first_look(source: HostShell, destination: HostShell, leaving: Process) -> tuple[Look, Look]:
    """Look on both hosts for the files that the command line names: before anybody knows what became of the guest since.

    Raises:
        Unsupported: no command line could start the same guest.
        CommandFailed, HostUnreachable, AnswerNotSeen: it cannot be seen.
    """
    rewrite.refuse(leaving.line)
    return await look_at_both(source, destination, leaving, files.named(leaving.line), ports=rewrite.has_ports(leaving.line))


async def command(
    session: Session,
    leaving: Process,
    observed: Observed,
    taken: frozenset[Port],
    overrides: Sequence[tuple[str, str]],
    *,
    aliases: Mapping[str, str],
    default: str,
) -> tuple[CommandLine, tuple[str, ...]]:
    """The command line for the destination, and what could not stay as it is, in words.

    Args:
        session: with the guest.
        leaving: the guest.
        observed: what it has.
        taken: the ports that somebody listens on at the destination.
        overrides: what is to be another there.
        aliases: machine aliases of the source's QEMU.
        default: its default machine.

    Raises:
        Unsupported: no command line could start the same guest.
        AnswerNotSeen: the guest does not answer.
        HypervisorError: what it answered makes no sense.
    """
    now = observed.live
    with _making_sense(session.host):
        up = await up_to_date(session, leaving.line, observed)
    line = rewrite.with_cpu(up, now.cpu_type)
    line, moved = rewrite.fitted(rewrite.with_display(line, vnc=now.vnc), taken)
    for part, value in overrides:
        line = rewrite.overridden(line, part, value)
    return rewrite.for_destination(line, aliases=aliases, default_machine=default), moved


async def check_files(
    source: HostShell,
    destination: HostShell,
    leaving: Process,
    now: Live,
    looks: tuple[Look, Look],
    *,
    copied: frozenset[str] = frozenset(),
    renamed: Mapping[str, str],
) -> None:
    """See that the destination has the files that the guest has now, but for those that are copied. Raises as `files.check`.

    Args:
        source: where it is.
        destination: where it is to be.
        leaving: the guest.
        now: what it has.
        looks: what was seen of its files on both.
        copied: files that are.
        renamed: files that have another name on the destination.
    """
    if renamed:
        looks = looks[0], await _under_other_names(destination, leaving, looks[1], renamed)
    uses = tuple(use for use in files.uses(leaving.line, now) if use.path not in copied)
    await check(source, destination, leaving, uses, looks)


async def _under_other_names(destination: HostShell, leaving: Process, there: Look, renamed: Mapping[str, str]) -> Look:
    """What a destination shows, with each of these files as what it shows under the other name."""
    other = (await look(destination, leaving, list(renamed.values()))).seen
    seen = {path: one for path, one in there.seen.items() if path not in renamed}
    return replace(there, seen={**seen, **{old: other[new] for old, new in renamed.items() if new in other}})


def check_same(source: Shape, destination: Shape, *, names: tuple[str, str]) -> None:
    """See that a destination is made of the same as its source.

    Raises:
        PrepareFailed: it is not; with every difference.
        HypervisorError: what one of them answered makes no sense.
    """
    with _making_sense(" or ".join(names)):
        found = devices.differences(source, destination, names=names)
    if found:
        raise PrepareFailed(
            f"The guest that was started on {names[1]} is not the same machine: {'; '.join(found)}.",
            hint="Undo that difference, or start the guest anew with all its devices on its command line.",
        )


@contextlib.contextmanager
def _making_sense(host: str) -> Iterator[None]:
    """What is not where QEMU's schema says, or is something else, is an error of the one who said it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise HypervisorError(
            f"QEMU on {host} describes its guest in words that make no sense.",
            host=host,
            raw=type(error).__name__,
        ) from error


async def _ask(session: Session, questions: Mapping[str, Question]) -> dict[str, object]:
    """Ask all at once. What this QEMU cannot answer is not among the answers: its machine has no such thing."""

    async def one(command: str, arguments: Mapping[str, object] | None) -> object:
        try:
            return await session.execute(command, arguments)
        except AnswerNotSeen:
            raise
        except HypervisorError:
            return None

    answers = await asyncio.gather(*(one(*question) for question in questions.values()))
    return {key: answer for key, answer in zip(questions, answers, strict=True) if answer is not None}


async def _features(session: Session, answers: Mapping[str, object]) -> dict[str, object]:
    cpus = answers.get("query-cpus-fast")
    if not isinstance(cpus, list) or not cpus:
        return {}
    return await _ask(session, {"feature-words": ("qom-get", {"path": cpus[0]["qom-path"], "property": "feature-words"})})


async def _properties(session: Session, key: str, now: Live, port: str | None) -> list[Property]:
    """Everything that can be set of a device or an object, and how it is set."""
    device = now.devices.get(key)
    path, kind = (device.path, device.driver) if device else (key, now.objects[key.removeprefix("/objects/")])
    lists: Mapping[str, Question] = {
        "there": ("qom-list", {"path": path}),
        "settable": ("device-list-properties", {"typename": kind}),
    }
    answers = await _ask(session, lists)
    there = {str(one["name"]): one for one in _dicts(answers.get("there"))}
    settable = {str(one["name"]): one for one in _dicts(answers.get("settable"))} if device else there
    names = [name for name in settable if name in there] + (["parent_bus"] if device else [])
    values = await _ask(session, {name: ("qom-get", {"path": path, "property": name}) for name in names})
    if port is not None:
        values["port"] = port
    known: dict[str, dict[str, object]] = {"parent_bus": {"type": "link<bus>"}, **settable}
    return [
        Property(name=name, kind=str(known[name].get("type")), default=known[name].get("default-value"), value=value)
        for name, value in values.items()
    ]


def _dicts(answer: object) -> list[dict[str, object]]:
    return [one for one in answer if isinstance(one, dict)] if isinstance(answer, list) else []
