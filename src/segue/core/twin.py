"""The command line of the same guest on another host: what it was started with, what became of it since, and waiting.

Three steps, each a pure function, each harmless when done twice: `reproduced` brings a command line up to what the guest has now,
`fitted` gives way to ports that are taken on the destination, `for_destination` makes it wait there. What cannot be said on a
command line is refused, with the device named; what is left to chance is found by comparing the devices (`devices`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from segue.core.argv import CommandLine, Option, changed, disk_paths, edited, fields, join_list, split_list
from segue.errors import Unsupported

_WINDOWS: Final = ("gtk", "sdl", "cocoa", "curses", "spice-app", "dbus", "default")
_FIRST_VNC: Final = 5900
_LAST_PORT: Final = 65535
_FD: Final = re.compile(r"(?:^|,)(?:fds?|vhostfds?|sockfd)=|/dev/fdset/")
_SERIALS: Final = {"serial": "serial", "parallel": "parallel"}
_HOSTFWD: Final = re.compile(r"(?P<protocol>tcp|udp)?:(?P<host>[^:]*):(?P<port>\d+)(?P<guest>-.*)")

_WITHOUT_CHROOT: Final = "Start it without -chroot; -runas and -sandbox do not stand in the way."
_WITH_ABSOLUTE_PATHS: Final = "Give its disks absolute paths, or start it without -daemonize."

Placing = Callable[[str, int], int]
"""Port wanted → port given."""
Port = tuple[str, int]
"""A protocol, ``tcp`` or ``udp``, and a number."""


def for_destination(line: CommandLine, *, aliases: Mapping[str, str], default_machine: str) -> CommandLine:
    """The command line of the same guest that waits for its memory.

    The machine type is pinned to its versioned name: an alias such as ``pc`` means another machine in another release. It starts
    stopped (``-S``) and listens when told (``-incoming defer``), so that nothing but an explicit command lets it run. It stays in
    the foreground of a session of its own, which its launcher makes; files that it writes logs to are appended to; a window on
    somebody's screen stays behind.

    Args:
        line: of the running guest.
        aliases: machine aliases of the source's QEMU and the versioned names that they mean there (QMP query-machines).
        default_machine: the versioned name of the machine that a QEMU without ``-machine`` starts there.

    Raises:
        Unsupported: it cannot be started a second time, see `refuse`.
    """
    refuse(line)
    kept = [option for option in line.options if option.name not in ("S", "incoming", "daemonize", "loadvm", "preconfig")]
    pinned = [_pin(option, aliases) for option in _appending_serials(kept)]
    if not any(option.name in ("machine", "M") for option in pinned):
        pinned.append(Option(name="machine", value=f"type={default_machine}"))
    return CommandLine(program=line.program, options=(*pinned, Option(name="S"), Option(name="incoming", value="defer")))


def refuse(line: CommandLine) -> None:
    """Refuse a guest that no command line can start again elsewhere.

    Raises:
        Unsupported: disks in temporary files (``-snapshot``), or something that was handed to it already open.
    """
    if line.has("snapshot") or any(found.get("snapshot") in ("on", "yes") for found in line.each("drive")):
        raise Unsupported(
            "The guest runs with -snapshot: what it has written to its disks exists on its host only, in files without a name.",
            hint="Commit the snapshot in its monitor ('commit all') and start it without -snapshot.",
        )
    _refuse_unreachable_disks(line)
    for option in line.options:
        if option.name == "add-fd" or (option.name in ("netdev", "nic", "net", "chardev") and _FD.search(option.value or "")):
            raise Unsupported(
                f"Whoever started the guest handed it something that was open already (-{option.name} {option.value}), which no "
                "other host has.",
                hint="Start it with names in place of descriptors: ifname=, path=, br=.",
            )


def _refuse_unreachable_disks(line: CommandLine) -> None:
    """Refuse what cannot let go of its disks: to do that QEMU opens their files anew, by name (block/file-posix.c, seen in 7.2).

    A daemon's directory is ``/``, and what is outside of a chroot has no name in it. The migration would fail at its very end,
    without a reason.
    """
    root = next((found["chroot"] for found in line.each("run-with") if "chroot" in found), "") or "".join(line.all("chroot")[-1:])
    if not root and not line.has("daemonize"):
        return
    for path in disk_paths(line):
        if not path.startswith("/") or (root and not path.startswith(f"{root.rstrip('/')}/")):
            why = f"its root is {root}" if root else "as a daemon its directory is /"
            raise Unsupported(
                f"QEMU cannot hand over the disk {path}: to do so it has to find the file by that name again, and {why}.",
                hint=_WITHOUT_CHROOT if root else _WITH_ABSOLUTE_PATHS,
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
        return _appending(option)
    if option.name == "display" and fields(option).get("type") in _WINDOWS:
        return replace(option, value="none")
    return option


def _appending(option: Option) -> Option:
    """A character device that empties no file: its own (``file,path=…``), or the log of what goes through it (``logfile=…``)."""
    found = fields(option)
    wanted = {"append": "on"} if found.get("backend") == "file" else {}
    wanted |= {"logappend": "on"} if found.get("logfile") else {}
    return changed(option, {key: text for key, text in wanted.items() if found.get(key) != text})


def _appending_serials(options: list[Option]) -> list[Option]:
    """``-serial file:PATH`` empties the file, and cannot say otherwise: it becomes the character device that it stands for."""
    kept: list[Option] = []
    count = dict.fromkeys(_SERIALS, 0)
    for option in options:
        value = option.value
        if option.name in _SERIALS and value is not None:
            label = f"{_SERIALS[option.name]}{count[option.name]}"
            count[option.name] += value != "none"
            if value.startswith("file:"):
                path = value.removeprefix("file:").replace(",", ",,")
                kept.append(Option(name="chardev", value=f"file,id={label},path={path},append=on"))
                value = f"chardev:{label}"
        kept.append(option if value == option.value else replace(option, value=value))
    return kept


def with_cpu(line: CommandLine, cpu_type: str) -> CommandLine:
    """The command line with the model of its CPU said: what a QEMU takes for the default is its own choice.

    Args:
        line: with or without ``-cpu``.
        cpu_type: the type of the running guest's CPUs (``qemu64-x86_64-cpu``); empty where QEMU does not tell it.
    """
    model = cpu_type.rsplit("-", 2)[0]
    if line.has("cpu") or not model:
        return line
    return replace(line, options=(*line.options, Option(name="cpu", value=model)))


def with_display(line: CommandLine, *, vnc: bool) -> CommandLine:
    """The command line with its display said where it was QEMU's choice: a window, or VNC where it can open none.

    Args:
        line: of the running guest.
        vnc: it serves VNC now.
    """
    if line.has("display", "vnc", "nographic", "curses", "spice"):
        return line
    chosen = Option(name="vnc", value="localhost:0,to=99") if vnc else Option(name="display", value="none")
    return replace(line, options=(*line.options, chosen))


def has_ports(line: CommandLine) -> bool:
    """Whether there is anything in it that `fitted` looks at."""
    return line.has("vnc", "spice") or any("hostfwd" in found for found in line.each("netdev", "nic", "net"))


def fitted(line: CommandLine, taken: frozenset[Port]) -> tuple[CommandLine, tuple[str, ...]]:
    """The command line with ports that are free, and what had to give way, in words.

    What the guest's users connect to (VNC, SPICE, forwarded ports) keeps its number where it is free and has the next free one
    where it is not. A range that QEMU chooses from by itself (``to=``) is left alone.

    Args:
        line: of the guest.
        taken: what the destination listens on.
    """
    busy, moved = set(taken), []

    def place(protocol: str, port: int) -> int:
        found = next((one for one in range(port, _LAST_PORT + 1) if (protocol, one) not in busy), port) if port else 0
        busy.add((protocol, found))
        if found != port:
            moved.append(f"{protocol} port {found} in place of {port}, which is taken")
        return found

    def edit(option: Option) -> Option:
        if option.name == "vnc":
            return _fit_vnc(option, place)
        if option.name == "spice":
            return edited(option, lambda key, text: str(place("tcp", int(text))) if key == "port" and text.isdigit() else text)
        if option.name in ("netdev", "nic", "net") and fields(option).get("type") == "user":
            return edited(option, lambda key, text: _fit_forward(text, place) if key == "hostfwd" else text)
        return option

    options = tuple(edit(option) for option in line.options)
    return replace(line, options=options), tuple(moved)


def _fit_forward(text: str, place: Placing) -> str:
    found = _HOSTFWD.fullmatch(text)
    if found is None:
        return text
    port = place(found["protocol"] or "tcp", int(found["port"]))
    return text if port == int(found["port"]) else f"{found['protocol'] or 'tcp'}:{found['host']}:{port}{found['guest']}"


def _fit_vnc(option: Option, place: Placing) -> Option:
    host, colon, number = fields(option).get("vnc", "").rpartition(":")
    if host.startswith("unix") or not colon or not number.isdigit() or "to" in fields(option):
        return option
    display = place("tcp", _FIRST_VNC + int(number)) - _FIRST_VNC
    return edited(option, lambda key, text: f"{host}:{display}" if key == "vnc" else text)


def overridden(line: CommandLine, part: str, value: str) -> CommandLine:
    """The command line with one part of it as an operator wants it on the destination.

    Args:
        line: of the guest.
        part: ``disk.ID`` (a ``-drive`` or ``-blockdev``: another file; without an ID its present file stands for it), ``nic.ID``
            (a ``-netdev``: another backend, as its whole value without the id) or ``vnc`` (its whole value).
        value: what it shall be.

    Raises:
        Unsupported: there is no such part; names those that there are.
    """
    kind = part.partition(".")[0]
    names = {"disk": ("drive", "blockdev"), "nic": ("netdev",), "vnc": ("vnc",)}.get(kind, ())
    parts = {
        position: (f"{kind}.{_id_of(found)}" if kind != "vnc" else kind, found)
        for position, option in enumerate(line.options)
        if option.name in names and (found := fields(option))
    }
    known = [name for name, _ in parts.values()]
    options = [
        _overridden(option, parts[position][1], value) if parts.get(position, ("",))[0] == part else option
        for position, option in enumerate(line.options)
    ]
    if part not in known:
        raise Unsupported(
            f"The guest has no {part} on its command line.",
            hint=f"It has {', '.join(known)}." if known else "Write it as disk.ID, nic.ID or vnc.",
        )
    return replace(line, options=tuple(options))


def renamed(line: CommandLine, overrides: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The files of disks that have another name on the destination: theirs on the source, and that.

    Raises:
        Unsupported: there is no such disk.
    """
    files: dict[str, str] = {}
    for part, value in overrides:
        if part.startswith("disk."):
            before, after = set(disk_paths(line)), set(disk_paths(overridden(line, part, value)))
            files |= dict.fromkeys(before - after, value)
    return files


def _overridden(option: Option, found: Mapping[str, str], value: str) -> Option:
    if option.name == "vnc":
        return replace(option, value=value)
    if option.name == "netdev":
        return replace(option, value=f"{value},id={found['id'].replace(',', ',,')}")
    return changed(option, {_file_key(found): value})


def _id_of(found: Mapping[str, str]) -> str:
    return found.get("id") or found.get("node-name") or found.get(_file_key(found), "")


def _file_key(found: Mapping[str, str]) -> str:
    return next((key for key in ("file", "file.filename", "filename") if key in found), "file")
