"""One step of making a host ready, as plain data, and how it looks to people. What may live here: the steps, and their words."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from segue.core.confedit import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Install:
    """Packages that apt installs, with what they need; taken back, exactly those that came are purged."""

    packages: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file's new content; taken back, it is what it was, or gone.

    Attributes:
        before: what it was decided from; ``None`` where there was none.
        after: what it is to be.
        settings: what differs, where that is known and the rest of the file may yet come with a package.
    """

    path: str
    before: str | None
    after: str
    settings: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Keys and certificates of Segue's CA; taken back, they are gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command, and the one that takes it back; either may be none.

    Attributes:
        title: for people; empty where it does nothing on the way there.
    """

    title: str
    argv: tuple[str, ...]
    undo: tuple[str, ...]


Step = Install | File | Certificates | Command


def shown(step: Step) -> str:
    """A step for people: what is done, or the difference that it makes to a file."""
    match step:
        case Install():
            return f"install: {' '.join(step.packages)}"
        case Certificates():
            return "certificates: issue and install them (segue pki), for libvirt and for QEMU, as server and as client"
        case File(before=None) if step.settings:
            return "\n".join([f"+++ {step.path} (as its package brings it)", *(f"+{line}" for line in step.after.splitlines())])
        case File():
            return diff(step.path, step.before, step.after)
        case Command():
            return step.title


def diff(path: str, before: str | None, after: str | None) -> str:
    """A unified difference; ``None`` where there is no file."""
    old, new = (text.splitlines() if text is not None else [] for text in (before, after))
    names = (path if before is not None else "/dev/null", path if after is not None else "/dev/null")
    return "\n".join(difflib.unified_diff(old, new, *names, lineterm="", n=1))


# --- written down on the host

# One JSON object a line, each on disk before what it says is done:
#   {"begin": TIME}      somebody begins to prepare the host
#   {"intent": N, …}     step N is about to be done; how it is taken back is in it
#   {"done": N, …}       it was, and what came of it
#   {"undone": N}        it was taken back
#   {"end": TIME}        all was done


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A step that was begun on a host and not taken back.

    Attributes:
        number: of it, unique on its host.
        step: what it was; of a file's contents nothing.
        facts: what was written with it: before, and when it was done.
        done: it was done to its end.
    """

    number: int
    step: Step
    facts: Mapping[str, object]
    done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What is written on a host of how it was prepared.

    Attributes:
        taken: in the order in which it was begun.
        whole: the last time was carried to its end.
        first: the number of the first step of the last time.
        next: a number that no step has.
    """

    taken: tuple[Taken, ...] = ()
    whole: bool = True
    first: int = 0
    next: int = 0


def read_lines(text: str) -> Written:
    """Fold the lines; the last may be cut short, as by a disk that was full: then nothing was done after it.

    Raises:
        ValueError: they make no sense.
    """
    taken: dict[int, Taken] = {}
    whole, first, following = True, 0, 0
    lines = text.splitlines()
    for position, line in enumerate(lines):
        try:
            said = json.loads(line)
        except ValueError:
            if position == len(lines) - 1:
                break
            raise
        if "begin" in said:
            whole, first = False, following
        elif "end" in said:
            whole = True
        elif "intent" in said:
            number = int(said["intent"])
            taken[number] = Taken(number=number, step=_step(said), facts=said, done=False)
            following = number + 1
        elif "done" in said:
            one = taken[int(said["done"])]
            taken[one.number] = replace(one, facts={**one.facts, **said}, done=True)
        elif "undone" in said:
            taken.pop(int(said["undone"]), None)
    return Written(taken=tuple(taken.values()), whole=whole or not taken, first=first, next=following)


def intent(number: int, step: Step, **facts: object) -> str:
    """The line that says that a step is about to be done."""
    match step:
        case Install():
            words: dict[str, object] = {"packages": step.packages}
        case File():
            words = {"path": step.path}
        case Certificates():
            words = {}
        case Command():
            words = {"title": step.title, "argv": step.argv, "undo": step.undo}
    return json.dumps({"intent": number, "step": type(step).__name__.lower(), **words, **facts})


def _step(said: Mapping[str, Any]) -> Step:
    match said["step"]:
        case "install":
            return Install(packages=tuple(said["packages"]))
        case "file":
            return File(path=said["path"], before=None, after="")
        case "certificates":
            return Certificates()
        case "command":
            return Command(title=said["title"], argv=tuple(said["argv"]), undo=tuple(said["undo"]))
        case other:
            raise ValueError(f"a step of a kind that is not known: {other}")
