"""Read and rewrite a QEMU command line.

QEMU's grammar (qemu-options.hx): an option is a word that begins with ``-`` (or ``--``); most take the word that follows. Many
values are lists ``key=value,key=value`` in which ``,,`` stands for a comma. What may live here: pure functions on words; nothing
runs or reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from segue.errors import Unsupported

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

    def has(self, name: str) -> bool:
        """Whether the option is given."""
        return any(option.name == name for option in self.options)


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
    chardevs = {get(value, "id"): value for value in line.all("chardev") if split_list(value)[0][1] == "socket"}
    for value in line.all("mon"):
        if get(value, "mode") == "control":
            path = _listening_path(chardevs.get(get(value, "chardev", first=True), ""))
            if path:
                return path
    return None


def _listening_path(value: str) -> str | None:
    """The path of a socket that QEMU listens on; one that it connects to serves somebody else."""
    listens = get(value, "server") in ("on", "yes") or ("", "server") in split_list(value)
    return get(value, "path", first=value[:7] != "socket,") if listens else None


def memory_bytes(line: CommandLine) -> int | None:
    """Memory from ``-m`` in bytes (a bare number is MiB); ``None`` when it does not say in words we know."""
    size = get((line.all("m") or ["128"])[-1], "size", first=True) or ""
    factors = {"": 1 << 20, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    number, unit = (size, "") if size.isdigit() else (size[:-1], size[-1:].upper())
    return int(number) * factors[unit] if number.isdigit() and unit in factors else None


def for_destination(line: CommandLine, *, aliases: Mapping[str, str], default_machine: str) -> CommandLine:
    """The command line of the same guest that waits for its memory.

    The machine type is pinned to its versioned name: an alias such as ``pc`` means another machine in another release. It starts
    stopped (``-S``) and listens when told (``-incoming defer``), so that nothing but an explicit command lets it run. It stays in
    the foreground of a session of its own, which its launcher makes; files that it writes logs to are appended to.

    Args:
        line: of the running guest.
        aliases: machine aliases of the source's QEMU and the versioned names that they mean there (QMP query-machines).
        default_machine: the versioned name of the machine that a QEMU without ``-machine`` starts there.

    Raises:
        Unsupported: it runs with ``-snapshot``: what it wrote is in files that are gone when it ends.
    """
    refuse_snapshot(line)
    kept = [option for option in line.options if option.name not in ("S", "incoming", "daemonize", "loadvm")]
    pinned = [_pin(option, aliases) for option in kept]
    if not any(option.name in ("machine", "M") for option in pinned):
        pinned.append(Option(name="machine", value=f"type={default_machine}"))
    return CommandLine(program=line.program, options=(*pinned, Option(name="S"), Option(name="incoming", value="defer")))


def refuse_snapshot(line: CommandLine) -> None:
    """Refuse a guest that writes to temporary files, which no other host can see.

    Raises:
        Unsupported: all of its disks (``-snapshot``) or one of them (``-drive snapshot=on``).
    """
    if line.has("snapshot") or any(get(value, "snapshot") in ("on", "yes") for value in line.all("drive")):
        raise Unsupported(
            "The guest runs with -snapshot: what it has written to its disks exists on its host only, in files without a name.",
            hint="Commit the snapshot in its monitor ('commit all') and start it without -snapshot.",
        )


def _pin(option: Option, aliases: Mapping[str, str]) -> Option:
    if option.value is None:
        return option
    if option.name in ("machine", "M"):
        pairs = split_list(option.value)
        if not pairs[0][0]:
            pairs[0] = ("type", pairs[0][1])
        pinned = [(key, aliases.get(text, text) if key == "type" else text) for key, text in pairs]
        return replace(option, value=join_list(pinned))
    if option.name == "chardev":
        return replace(option, value=_appending(option.value))
    return option


def _appending(value: str) -> str:
    """A character device that empties no file: its own (``file,path=…``), or the log of what goes through it (``logfile=…``)."""
    wanted = {"append"} if value.startswith("file,") else set()
    wanted |= {"logappend"} if get(value, "logfile") else set()
    wanted = {key for key in wanted if get(value, key) != "on"}
    if not wanted:
        return value
    kept = [pair for pair in split_list(value) if pair[0] not in wanted]
    return join_list([*kept, *((key, "on") for key in sorted(wanted))])
