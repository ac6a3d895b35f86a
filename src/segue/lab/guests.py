"""Guests of the lab: started in either way, found wherever they have got to, stopped without a trace.

A guest is the kernel and the workload of guest/, with one NIC on the lab's network, a serial line into a file, and if wanted a
disk on the lab's storage. A ``libvirt`` guest is a domain of its host's libvirtd; a ``qemu`` guest is a process that nobody
manages, with a QMP socket.
What may live here: building their definition, starting, finding and stopping them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from segue import units
from segue.core.argv import guest_name, parse
from segue.errors import CommandFailed, LabError
from segue.lab import domain, kernel
from segue.lab import hosts as processes
from segue.lab.accelerator import QEMU, accelerator
from segue.lab.lab import Lab
from segue.lab.layout import GUEST_LOGS, GUEST_RUN, NETNS_DIR, PREFIX, STORAGE

KINDS: Final = ("libvirt", "qemu")
FIRST_ADDRESS: Final = 100
MOST_GUESTS: Final = 100
DISK_BYTES: Final = 64 * units.MIB
"""131,072 records of 512 bytes: nearly two hours at one every 50 ms."""
NBD_PORT: Final = 10809
"""On the lab's storage, of the first guest; IANA's for NBD."""
LOCAL_DISKS: Final = ("raw", "qcow2", "overlay")
"""An overlay is a qcow2 over a raw file of half its size."""
LOCAL: Final = "/var/lib/libvirt"
"""A directory that is each host's own."""
OVERHEAD_BYTES: Final = 96 * units.MIB
"""Of a guest's memory its kernel and initramfs take this much, and its accounts of pages a sixteenth of the rest besides: with
1152 MiB the kernel panicked while 1024 were touched."""
START_DEADLINE_S: Final = 120.0
"""For the first tick and for touching memory, under software emulation on a busy machine; UEFI alone took 40 s there."""
START_GRACE_S: Final = 2.0
"""For the process to become a QEMU: it is not one yet when its launcher returns."""
LOOK_PAUSE_S: Final = 0.02
STARTS: Final = 3
"""A guest that is emulated may measure its clock wrongly while it boots on a busy machine: 2 of 18 had one that ran 10 times too
fast. Such a one is started again."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_ODD: Final = re.compile(r"[^\w.-]", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSpec:
    """What kind of guest is wanted.

    Attributes:
        name: letters, digits, ``_.-``.
        host: where it starts.
        kind: ``libvirt`` or ``qemu``.
        memory_bytes: configured memory.
        touch_bytes: filled once with incompressible bytes.
        set_bytes: written again and again.
        rate: MiB/s of dirtied memory, 0 for none, or ``max``.
        bursts: it is written for so many ms, then not for so many, and so on; ``None``: always.
        fill: what is in the memory, ``random`` or ``text``, which compresses well; of a page two words are written anew each
            time, or with ``whole`` all of it, at random.
        disk: with a disk on the lab's storage.
        local: with a disk on its host alone, one of `LOCAL_DISKS`; empty for none. The auditor does not read it.
        persistent: a libvirt guest that is defined, not only created.
        parts: what a libvirt guest has besides, of `domain.PARTS`.
    """

    name: str
    host: str
    kind: str
    memory_bytes: int = 256 * units.MIB
    touch_bytes: int = 0
    set_bytes: int = 0
    rate: str = "0"
    bursts: tuple[int, int] | None = None
    fill: Literal["random", "text", "whole"] = "random"
    disk: bool = False
    local: str = ""
    persistent: bool = True
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabGuest:
    """A guest that was started: what the lab remembers of it.

    Attributes:
        host: where it was started; `where` says where it is.
        slot: its number in the lab.
        address: its IPv4 address.
        disk: the image on this machine, ``None`` without one. Its name is never used again: an NFS server goes on serving
            the old file to whoever opens the name of one that was removed behind its back.
    """

    name: str
    host: str
    kind: str
    slot: int
    address: str
    mac: str
    disk: str | None
    memory_bytes: int
    persistent: bool


def records(lab: Lab) -> dict[str, LabGuest]:
    """All guests that were started and not stopped, by name."""
    directory = lab.root / "guests"
    paths = sorted(directory.glob("*.json")) if directory.is_dir() else []
    return {path.stem: LabGuest(**json.loads(path.read_text(encoding="utf-8"))) for path in paths}


def record(lab: Lab, name: str) -> LabGuest:
    """What the lab remembers of a guest.

    Raises:
        LabError: no guest of that name was started.
    """
    known = records(lab)
    if name not in known:
        raise LabError(f"The lab {lab.name!r} has no guest {name!r}.", hint=f"It has {', '.join(known) or 'none'}.")
    return known[name]


def serial_log(lab: Lab, name: str, host: str) -> Path:
    """Where a host writes what the guest says, on this machine."""
    return lab.host_path(host, f"{GUEST_LOGS}/{name}.serial")


def where(lab: Lab, name: str) -> list[tuple[str, int]]:
    """Every QEMU of that guest in the lab: host and pid on this machine. More than one while it is moving."""
    return [
        (host, pid) for host in lab.hosts for pid in processes.members([NETNS_DIR / lab.netns(host)]) if _guest_of(pid) == name
    ]


def _guest_of(pid: int) -> str | None:
    """The name in a QEMU's argv; ``None`` for every other process."""
    try:
        words = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
    except OSError:
        return None
    if not Path(words[0]).name.startswith("qemu-system"):
        return None
    return guest_name(parse(words[:-1])) or None


async def start(lab: Lab, spec: GuestSpec, *, command: Callable[[LabGuest], Sequence[str]] | None = None) -> LabGuest:
    """Start a guest and wait until it ticks and has touched its memory.

    Args:
        lab: where.
        spec: what it is.
        command: starts a qemu guest in place of the lab's own words, for guests that are not like the lab's.

    Raises:
        LabError: bad name, unknown host or kind, name in use, too little memory, or no tick; nothing of it is left.
    """
    if command is None and not _NAME.fullmatch(spec.name):
        raise LabError(f"{spec.name!r} is no name for a guest.", hint="Use up to 32 letters, digits, '_', '.', '-'.")
    _check(lab, spec)
    (lab.root / "guests").mkdir(exist_ok=True)
    for _ in range(STARTS):
        began = time.monotonic()
        guest = await _start(lab, spec, command)
        if _uptime_s(serial_log(lab, guest.name, guest.host)) < 2 * (time.monotonic() - began):
            return guest
        await stop(lab, spec.name)
    raise LabError(f"The clock of {spec.name} ran ahead of this machine's at each of {STARTS} starts.")


async def _start(lab: Lab, spec: GuestSpec, command: Callable[[LabGuest], Sequence[str]] | None) -> LabGuest:
    guest = _claim(lab, spec)
    try:
        if guest.disk:
            disk = Path(guest.disk)
            disk.touch()
            disk.chmod(0o666)  # whoever QEMU runs as
            with disk.open("r+b") as image:
                image.truncate(DISK_BYTES)
        if spec.local:
            await _make_local(lab, spec)
        if command is not None:
            await lab.run(spec.host, list(command(guest)))
        elif spec.kind == "libvirt":
            await _start_libvirt(lab, spec, guest)
        else:
            await _start_qemu(lab, spec, guest)
        await _wait_ready(lab, guest)
    except BaseException:
        await asyncio.shield(stop(lab, spec.name))
        raise
    return guest


def memory_for(touched_bytes: int) -> int:
    """The least memory of a guest that touches so much."""
    return OVERHEAD_BYTES + touched_bytes + touched_bytes // 16


def _check(lab: Lab, spec: GuestSpec) -> None:
    if spec.host not in lab.hosts:
        raise LabError(f"The lab {lab.name!r} has no host {spec.host!r} for guests.", hint=f"It has {', '.join(lab.hosts)}.")
    if spec.kind not in KINDS:
        raise LabError(f"{spec.kind!r} is no kind of guest.", hint=f"Use {' or '.join(KINDS)}.")
    if spec.rate != "max" and not spec.rate.isdigit():
        raise LabError(f"{spec.rate!r} is no write rate.", hint="Use MiB/s as a whole number, or max.")
    if spec.local and (spec.local not in LOCAL_DISKS or spec.disk):
        raise LabError(
            "A disk of its host's own is for a guest that has no other.", hint=f"Its kinds are {', '.join(LOCAL_DISKS)}."
        )
    if spec.parts and spec.kind != "libvirt":
        raise LabError("Parts are for libvirt guests.")
    domain.parts(spec.parts)
    touched = max(spec.touch_bytes, spec.set_bytes)
    if (wanted := memory_for(touched)) > spec.memory_bytes:
        raise LabError(
            f"A guest of {units.format_bytes(spec.memory_bytes)} cannot touch {units.format_bytes(touched)}.",
            hint=f"Give it --memory {units.format_bytes(wanted)} or more.",
        )


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """What is done in it, no other process does at the same time; it takes a millisecond."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _claim(lab: Lab, spec: GuestSpec) -> LabGuest:
    """Take the name and the lowest free slot, and write the record, which is there whole or not at all."""
    directory = lab.root / "guests"
    with _alone(directory):
        known = records(lab)
        if spec.name in known:
            raise LabError(
                f"There is already a guest {spec.name!r} in the lab {lab.name!r}.",
                hint=f"'segue lab guest stop {spec.name}' stops it.",
            )
        guest = _new(lab, spec, taken={other.slot for other in known.values()})
        half = directory / f"{spec.name}.half"
        half.write_text(json.dumps(asdict(guest)), encoding="utf-8")
        half.rename(directory / f"{spec.name}.json")
    return guest


def _new(lab: Lab, spec: GuestSpec, *, taken: set[int]) -> LabGuest:
    slot = next((number for number in range(MOST_GUESTS) if number not in taken), None)
    if slot is None:
        raise LabError(f"A lab has at most {MOST_GUESTS} guests.")
    return LabGuest(
        name=spec.name,
        host=spec.host,
        kind=spec.kind,
        slot=slot,
        address=f"{PREFIX}.{FIRST_ADDRESS + slot}",
        mac=f"52:54:00:77:00:{slot:02x}",
        disk=str(lab.export / f"{re.sub(_ODD, '-', spec.name)}-{secrets.token_hex(4)}.img") if spec.disk else None,
        memory_bytes=spec.memory_bytes,
        persistent=spec.kind == "libvirt" and spec.persistent,
    )


def _cmdline(spec: GuestSpec, guest: LabGuest) -> str:
    mib = {"touch": spec.touch_bytes // units.MIB, "set": spec.set_bytes // units.MIB}
    on_ms, off_ms = spec.bursts or (0, 0)
    more = {"on": on_ms, "off": off_ms, "fill": spec.fill}
    return kernel.cmdline({"address": guest.address, **mib, "rate": spec.rate, **more})


def local_disk(name: str) -> str:
    """The path of a guest's own disk, as its host sees it; the base of an overlay has ``.base`` after it."""
    return f"{LOCAL}/{name}.disk"


async def _make_local(lab: Lab, spec: GuestSpec) -> None:
    """Make the disk on its host; of an overlay, its base on every host."""
    path = local_disk(spec.name)
    if spec.local == "overlay":
        for host in lab.hosts:
            await lab.run(host, ["qemu-img", "create", "-q", "-f", "raw", f"{path}.base", str(DISK_BYTES // 2)])
    backing = ["-b", f"{path}.base", "-F", "raw"] if spec.local == "overlay" else []
    format_ = "raw" if spec.local == "raw" else "qcow2"
    await lab.run(spec.host, ["qemu-img", "create", "-q", "-f", format_, *backing, path, str(DISK_BYTES)])


def disk_url(lab: Lab, guest: LabGuest) -> str:
    """The disk as a host reaches it: through its kernel's mount, or through QEMU's own NFS client."""
    return str(guest.disk) if lab.storage == "kernel" else f"nfs://{STORAGE}{guest.disk}"


async def _start_qemu(lab: Lab, spec: GuestSpec, guest: LabGuest) -> None:
    accel = await accelerator()
    log = f"{GUEST_RUN}/{spec.name}.stderr"
    argv = [QEMU, "-name", f"guest={spec.name}", "-machine", f"q35,accel={accel.name}", "-cpu", "qemu64"]
    argv += [
        "-m",
        f"{kernel.memory_bytes(spec.memory_bytes, accel.name) // units.KIB}k",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
    ]
    argv += ["-kernel", str(kernel.image()), "-initrd", str(kernel.initramfs()), "-append", _cmdline(spec, guest)]
    argv += ["-chardev", f"file,id=serial0,path={GUEST_LOGS}/{spec.name}.serial,append=on", "-serial", "chardev:serial0"]
    argv += ["-netdev", "bridge,id=net0,br=br0", "-device", f"virtio-net-pci,netdev=net0,mac={guest.mac},romfile="]
    argv += ["-qmp", f"unix:{GUEST_RUN}/{spec.name}.qmp,server=on,wait=off", "-pidfile", f"{GUEST_RUN}/{spec.name}.pid"]
    if guest.disk:
        argv += ["-drive", f"id=disk0,file={disk_url(lab, guest)},format=raw,if=none,cache=none"]
        argv += ["-device", "virtio-blk-pci,drive=disk0"]
    if spec.local:
        format_ = "raw" if spec.local == "raw" else "qcow2"
        argv += ["-drive", f"file={local_disk(spec.name)},format={format_},if=virtio,cache=none"]
    # A session of its own, and the host's init for a parent: it lives on when whoever started it leaves.
    launch = ["sh", "-c", 'log=$1; shift; exec setsid --fork "$@" >"$log" 2>&1 </dev/null', "sh", log, *argv]
    await lab.run(spec.host, launch)


async def _start_libvirt(lab: Lab, spec: GuestSpec, guest: LabGuest) -> None:
    accel = await accelerator()
    disk = ""
    if guest.disk:
        disk = (domain.FILE_DISK if lab.storage == "kernel" else domain.NETWORK_DISK).format(path=guest.disk, format="raw")
    elif spec.local:
        disk = domain.FILE_DISK.format(path=local_disk(spec.name), format="raw" if spec.local == "raw" else "qcow2")
    memory_bytes = kernel.memory_bytes(spec.memory_bytes, accel.name)
    has_whole_pages = any(part.memory for part in domain.parts(spec.parts))
    xml = domain.xml(
        spec.parts,
        type="kvm" if accel.name == "kvm" else "qemu",
        name=spec.name,
        file=str(kernel.image()),
        chain=await _make_chain(lab, spec) if any(part.chain for part in domain.parts(spec.parts)) else "",
        nbd=await _serve_nbd(lab, guest) if any(part.nbd for part in domain.parts(spec.parts)) else 0,
        memory=spec.memory_bytes,
        kernel=kernel.image(),
        initrd=kernel.initramfs(),
        cmdline=_cmdline(spec, guest),
        qemu=QEMU,
        disk=disk,
        mac=guest.mac,
        serial=f"{GUEST_LOGS}/{spec.name}.serial",
        words="" if has_whole_pages or memory_bytes == spec.memory_bytes else domain.of_size(memory_bytes),
    )
    path = f"{GUEST_RUN}/{spec.name}.xml"
    lab.host_path(spec.host, path).write_text(xml, encoding="utf-8")
    verbs = [["define", path], ["start", spec.name]] if spec.persistent else [["create", path]]
    for verb in verbs:
        try:
            await lab.run(spec.host, ["virsh", "-q", "-c", "qemu:///system", *verb])
        except CommandFailed as error:
            raise LabError(f"libvirt does not {verb[0]} {spec.name} on {spec.host}: {error.stderr.strip()}") from error


def _chain_files(lab: Lab, name: str) -> tuple[Path, Path]:
    return lab.export / f"{name}.qcow2", lab.export / f"{name}.base"


async def _make_chain(lab: Lab, spec: GuestSpec) -> str:
    """A qcow2 over a raw file, both on the lab's storage; the path of the topmost there."""
    top, base = _chain_files(lab, spec.name)
    base.touch(mode=0o666)
    with base.open("r+b") as image:
        image.truncate(DISK_BYTES)
    below = f"nfs://{STORAGE}{base}"
    await lab.run(
        spec.host, ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", below, "-F", "raw", str(top), str(DISK_BYTES)]
    )
    top.chmod(0o666)
    return str(top)


def _nbd_files(lab: Lab, name: str) -> tuple[Path, Path]:
    return lab.export / f"{name}.nbd", lab.export / f"{name}.nbd.pid"


async def _serve_nbd(lab: Lab, guest: LabGuest) -> int:
    """A raw file that the lab's storage serves over NBD, to as many clients as come; the port there."""
    disk, pid_file = _nbd_files(lab, guest.name)
    with disk.open("wb") as image:
        image.truncate(DISK_BYTES)
    port = NBD_PORT + guest.slot
    serve = [
        "qemu-nbd",
        "--fork",
        "--persistent",
        "--shared=0",
        f"--port={port}",
        f"--pid-file={pid_file}",
        "--format=raw",
        str(disk),
    ]
    await lab.run(STORAGE, serve)
    return port


async def _wait_ready(lab: Lab, guest: LabGuest) -> None:
    """Wait for the line in which the workload says that it is ready; a QEMU that ends before that is an error at once."""
    log = serial_log(lab, guest.name, guest.host)
    began = time.monotonic()
    try:
        async with asyncio.timeout(START_DEADLINE_S):
            while not _is_ready(said := _said(log)):
                if not where(lab, guest.name) and time.monotonic() - began > START_GRACE_S:
                    raise LabError(f"{guest.name} ended before it was ready. {_last_words(lab, guest)}".strip())
                if b"Kernel panic" in said:
                    raise LabError(f"The kernel of {guest.name} panicked: {log} says why.")
                await asyncio.sleep(LOOK_PAUSE_S)
    except TimeoutError:
        raise LabError(f"{guest.name} was not ready after {START_DEADLINE_S:g} s. {_last_words(lab, guest)}".strip()) from None


def _said(log: Path) -> bytes:
    try:
        return log.read_bytes()
    except FileNotFoundError:
        return b""


def _is_ready(said: bytes) -> bool:
    return any(line.startswith(b"S ") for line in said.splitlines())


def _uptime_s(log: Path) -> float:
    """The guest's own, at its last tick."""
    ticks = [line.split() for line in log.read_bytes().splitlines() if line.startswith(b"T ")]
    return max((int(tick[3]) for tick in ticks if len(tick) == 4), default=0) / 1000


def _last_words(lab: Lab, guest: LabGuest) -> str:
    for path in (f"{GUEST_RUN}/{guest.name}.stderr", f"/var/log/libvirt/qemu/{guest.name}.log"):
        with contextlib.suppress(OSError):
            return lab.host_path(guest.host, path).read_text(encoding="utf-8", errors="replace").strip()[-500:]
    return ""


async def stop(lab: Lab, name: str) -> None:
    """Stop a guest wherever it is, and remove everything that the lab knows of it: definition, disk, logs, sockets.

    Raises:
        LabError: no guest of that name was started.
    """
    guest = record(lab, name)
    if guest.kind == "libvirt":
        await asyncio.gather(*(_forget(lab, host, name) for host in lab.hosts))
    for _, pid in where(lab, name):
        await processes.kill(pid)
    for host in lab.hosts:
        for path in _traces(lab, host, name):
            path.unlink(missing_ok=True)
    if guest.disk:
        Path(guest.disk).unlink(missing_ok=True)
    served, pid_file = _nbd_files(lab, name)
    if pid_file.exists():
        await lab.run(STORAGE, ["pkill", "--pidfile", str(pid_file), "qemu-nbd"], check=False)  # it may have ended by itself
    for path in (*_chain_files(lab, name), served, pid_file):
        path.unlink(missing_ok=True)
    (lab.root / "guests" / f"{name}.json").unlink(missing_ok=True)


async def _forget(lab: Lab, host: str, name: str) -> None:
    for verb in (["destroy"], ["undefine", "--nvram"]):  # either may have nothing to do
        await lab.run(host, ["virsh", "-q", "-c", "qemu:///system", *verb, name], check=False)


def _traces(lab: Lab, host: str, name: str) -> Iterator[Path]:
    yield serial_log(lab, name, host)
    for suffix in ("", ".base"):
        yield lab.host_path(host, f"{local_disk(name)}{suffix}")
    for suffix in ("qmp", "pid", "stderr", "xml"):
        yield lab.host_path(host, f"{GUEST_RUN}/{name}.{suffix}")
