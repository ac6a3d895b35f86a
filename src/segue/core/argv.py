"""Read a QEMU command line, and change parts of it without touching the rest.

QEMU's grammar (qemu-options.hx): an option is a word that begins with ``-`` (or ``--``); most take the word that follows. Many
values are lists ``key=value,key=value`` in which ``,,`` stands for a comma; some may be a JSON object instead. What may live
here: pure functions on words; nothing runs or reads them. What they have to become on another host is `twin`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

# Options that take no word (qemu-options.hx of QEMU 7.2 and 10.0, those without HAS_ARG). Every other one does.
_BARE: Final = frozenset(
    [
        "S",
        "h",
        "help",
        "version",
        "daemonize",
        "nographic",
        "nodefaults",
        "no-user-config",
        "nouserconfig",
        "no-reboot",
        "no-shutdown",
        "snapshot",
        "enable-kvm",
        "s",
        "usb",
        "full-screen",
        "alt-grab",
        "ctrl-grab",
        "no-quit",
        "no-frame",
        "no-acpi",
        "no-hpet",
        "no-fd-bootchk",
        "win2k-hack",
        "no-kvm",
        "show-cursor",
        "async-teardown",
        "perfmap",
        "jitdump",
        "mem-prealloc",
        "only-migratable",
        "preconfig",
        "singlestep",
        "one-insn-per-tb",
        "semihosting",
        "old-param",
        "portrait",
        "curses",
        "enable-sync-profile",
        "xen-attach",
        "xen-domid-restrict",
    ]
)


# What the first part of a value is where it has no key (the implied keys of QEMU's option lists and QAPI types).
_IMPLIED: Final = {
    "M": "type",
    "accel": "accel",
    "blockdev": "driver",
    "chardev": "backend",
    "cpu": "model",
    "device": "driver",
    "display": "type",
    "fsdev": "fsdriver",
    "m": "size",
    "machine": "type",
    "mon": "chardev",
    "name": "guest",
    "net": "type",
    "netdev": "type",
    "nic": "type",
    "object": "qom-type",
    "rtc": "base",
    "smp": "cpus",
    "virtfs": "fsdriver",
    "vnc": "vnc",
}
_MAY_BE_JSON: Final = ("audiodev", "blockdev", "compat", "device", "display", "netdev", "object")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: its name without dashes, and its value; ``None`` for one that takes none. A bare disk image has no name."""

    name: str
    value: str | None = None

    def words(self) -> tuple[str, ...]:
        """As QEMU reads it."""
        name = (f"-{self.name}",) if self.name else ()
        return name if self.value is None else (*name, self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """A QEMU command line: the program and its options in order."""

    program: str
    options: tuple[Option, ...]

    def words(self) -> tuple[str, ...]:
        """As it is executed."""
        return (self.program, *(word for option in self.options for word in option.words()))

    def all(self, *names: str) -> list[str]:
        """The values of every option of these names."""
        return [option.value or "" for option in self.options if option.name in names]

    def each(self, *names: str) -> Iterator[dict[str, str]]:
        """The `fields` of every option of these names."""
        return (fields(option) for option in self.options if option.name in names)

    def has(self, *names: str) -> bool:
        """Whether one of the options is given."""
        return any(option.name in names for option in self.options)


def parse(words: Sequence[str]) -> CommandLine:
    """Read a command line. ``parse(words).words() == words`` but for double dashes.

    Raises:
        ValueError: no words.
    """
    if not words:
        raise ValueError("a command line has at least a program")
    options: list[Option] = []
    rest = iter(words[1:])
    for word in rest:
        if not word.startswith("-") or word == "-":
            options.append(Option(name="", value=word))
            continue
        name = word[2:] if word.startswith("--") else word[1:]
        options.append(Option(name=name, value=None if name in _BARE else next(rest, None)))
    return CommandLine(program=words[0], options=tuple(options))


def split_list(value: str) -> list[tuple[str, str]]:
    """Read ``a,b=c,d=e,,f`` as ``[("", "a"), ("b", "c"), ("d", "e,f")]``: a part without a key has an empty one."""
    pairs = []
    for part in value.replace(",,", "\0").split(","):
        key, equals, text = part.replace("\0", ",").partition("=")
        pairs.append((key, text) if equals else ("", key))
    return pairs


def join_list(pairs: Sequence[tuple[str, str]]) -> str:
    """The reverse of `split_list`."""
    return ",".join((f"{key}={text}" if key else text).replace(",", ",,") for key, text in pairs)


def fields(option: Option) -> dict[str, str]:
    """What an option says, whichever way it is written: list or JSON, with the key that its first part has not.

    A part without a value is a switch that is on; what is nested has keys with dots, as QEMU writes them.
    """
    members = _members(option)
    if members is not None:
        return dict(_flattened("", members))
    pairs = split_list(option.value) if option.value else []
    if pairs and not pairs[0][0] and option.name in _IMPLIED:
        pairs[0] = (_IMPLIED[option.name], pairs[0][1])
    return {key or text: text if key else "on" for key, text in pairs}


def _members(option: Option) -> dict[str, object] | None:
    """The members of a value that is JSON; ``None`` for a list."""
    if option.name not in _MAY_BE_JSON or not (option.value or "").startswith("{"):
        return None
    try:
        members = json.loads(option.value or "")
    except ValueError:  # QEMU would not have started with it
        return None
    return members if isinstance(members, dict) else None


def _flattened(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flattened(f"{prefix}.{key}" if prefix else str(key), inner)
    elif value is not None:
        yield prefix, _SWITCH[value] if isinstance(value, bool) else str(value)


def edited(option: Option, edit: Callable[[str, str], str | None]) -> Option:
    """The option with each of its parts passed through a function of key and text; ``None`` leaves the part out.

    A part that comes back as it was keeps its spelling. Not for JSON.
    """
    kept: list[str] = []
    for position, raw in enumerate((option.value or "").replace(",,", "\0").split(",")):
        key, equals, text = raw.replace("\0", ",").partition("=")
        implied = _IMPLIED.get(option.name, "") if position == 0 and not equals else ""
        known = key if equals else implied or key
        text = text if equals else key if implied else "on"
        new = edit(known, text)
        if new == text:
            kept.append(raw.replace("\0", ",,"))
        elif new is not None:
            kept.append((new if implied else f"{known}={new}").replace(",", ",,"))
    return replace(option, value=",".join(kept))


def changed(option: Option, changes: Mapping[str, str | bool | None]) -> Option:
    """The option with these keys set, or left out where they are ``None``; everything else keeps its spelling and its place."""
    members = _members(option)
    if members is not None:
        for key, text in changes.items():
            _set(members, key, text)
        return replace(option, value=to_json(members))
    wanted = {key: _SWITCH[text] if isinstance(text, bool) else text for key, text in changes.items()}
    missing = {key: text for key, text in wanted.items() if text is not None}

    def edit(key: str, text: str) -> str | None:
        missing.pop(key, None)
        return wanted.get(key, text)

    value = edited(option, edit).value or ""
    added = join_list(list(missing.items()))
    return replace(option, value=",".join(part for part in (value, added) if part))


_SWITCH: Final = {True: "on", False: "off"}


def _set(members: dict[str, object], key: str, text: object) -> None:
    """Set, or remove, a member by its key with dots."""
    outer, dot, rest = key.partition(".")
    inner = members.get(outer)
    if dot and isinstance(inner, dict):
        _set(inner, rest, text)
    elif text is None:
        members.pop(key, None)
    else:
        members[key] = text


def to_json(members: Mapping[str, object]) -> str:
    """A value in JSON, as QEMU takes it for ``-device``, ``-blockdev``, ``-netdev`` and ``-object`` (6.2 and later)."""
    return json.dumps(members, ensure_ascii=False, separators=(",", ":"))


def get(value: str, key: str, *, first: bool = False) -> str | None:
    """The value of a key in a list; with `first`, a leading part without a key counts as its value."""
    pairs = split_list(value)
    if first and pairs and not pairs[0][0]:
        pairs[0] = (key, pairs[0][1])
    return next((text for name, text in reversed(pairs) if name == key), None)


def guest_name(line: CommandLine) -> str:
    """The name from ``-name``; empty without one."""
    names = line.all("name")
    return (get(names[-1], "guest", first=True) or "") if names else ""


def uuid(line: CommandLine) -> str:
    """The UUID from ``-uuid``, in lower case; empty without one."""
    return (line.all("uuid") or [""])[-1].lower()


def qmp_path(line: CommandLine) -> str | None:
    """The unix socket of a QMP monitor that listens: ``-qmp unix:…``, or ``-mon`` in control mode on a socket ``-chardev``."""
    for value in line.all("qmp", "qmp-pretty"):
        if value.startswith("unix:") and (path := _listening_path(value.removeprefix("unix:"))):
            return path
    chardevs = {found.get("id"): found for found in line.each("chardev") if found.get("backend") == "socket"}
    for monitor in line.each("mon"):
        wired = chardevs.get(monitor.get("chardev"))
        if monitor.get("mode") == "control" and wired and _listens(wired) and "path" in wired:
            return wired["path"]
    return None


def _listening_path(value: str) -> str | None:
    """The path of a socket that QEMU listens on; one that it connects to serves somebody else."""
    found = fields(Option(name="", value=f"path={value}"))
    return found["path"] if _listens(found) else None


def _listens(socket: Mapping[str, str]) -> bool:
    return socket.get("server") in ("on", "yes", "true")


def disk_paths(line: CommandLine) -> list[str]:
    """The files of all disks and media that are files of the host, as they are named at the start."""
    whole = line.all("", "hda", "hdb", "hdc", "hdd", "cdrom", "fda", "fdb", "sd", "pflash", "mtdblock")
    keys = ("file", "file.filename", "filename")
    named = [next((found[key] for key in keys if key in found), "") for found in line.each("drive", "blockdev")]
    nodes = {found.get("node-name") for found in line.each("blockdev")}
    return [path for path in (*whole, *named) if path and path not in nodes and ":" not in path.partition("/")[0]]


def sockets(line: CommandLine) -> list[str]:
    """The paths of all unix sockets that its character devices listen on."""
    found = (one for one in line.each("chardev") if one.get("backend") == "socket" and _listens(one))
    return [one["path"] for one in found if "path" in one]


def why_no_qmp(line: CommandLine) -> str:
    """What a guest without a `qmp_path` has instead of one, as the end of "it has …"."""
    if line.has("qmp") or line.has("qmp-pretty") or any(found.get("mode") == "control" for found in line.each("mon")):
        return "a QMP monitor, but not on a unix socket that QEMU listens on"
    people = line.has("monitor") or line.has("mon") or line.has("nographic")
    return "only a monitor for people" if people else "no QMP monitor"


def memory_bytes(line: CommandLine) -> int | None:
    """Memory from ``-m`` in bytes (a bare number is MiB); ``None`` when it does not say in words we know."""
    size = get((line.all("m") or ["128"])[-1], "size", first=True) or ""
    factors = {"": 1 << 20, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    number, unit = (size, "") if size.isdigit() else (size[:-1], size[-1:].upper())
    return int(number) * factors[unit] if number.isdigit() and unit in factors else None
