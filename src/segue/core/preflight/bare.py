"""What a bare QEMU is made of, as far as its host matters: its command line and its answers → `Parts`. Nobody is asked here."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from segue.core import argv, live
from segue.core.argv import CommandLine, fields
from segue.core.live import Answers
from segue.core.preflight import nics
from segue.core.preflight.facts import Cpu, DiskPart, Kind, Memory, Part, Parts
from segue.units import parse_bytes

# Device types that have something to do with their host (QEMU, hw/*); what begins with vhost-user- has a daemon beside it.
_KINDS: Final = {
    "vfio-pci": Kind.PCI,
    "vfio-pci-nohotplug": Kind.PCI,
    "usb-host": Kind.USB,
    "scsi-generic": Kind.SCSI,
    "scsi-block": Kind.LUN,
    "ivshmem-doorbell": Kind.SHMEM,
    "ivshmem-plain": Kind.SHMEM,
    "vhost-user-fs-pci": Kind.VIRTIOFS,
    "virtio-9p-pci": Kind.P9,
    "vhost-vsock-pci": Kind.VSOCK,
    "tpm-tis": Kind.TPM,
    "tpm-crb": Kind.TPM,
}
_WHICH: Final = (
    "host",
    "sysfsdev",
    "hostbus",
    "hostdevice",
    "hostaddr",
    "hostport",
    "vendorid",
    "productid",
    "guest-cid",
    "path",
)
_FIRST_VNC: Final = 5900
_FILES: Final = ("kernel", "initrd", "dtb", "bios")
_NO_FILE: Final = re.compile(r"[A-Za-z][\w+-]*:|json:|/dev/fdset/")


def cpu_query(line: CommandLine, cpu_type: str) -> dict[str, object]:
    """The model of query-cpu-model-expansion that is this guest's CPU (qapi/machine-target.json, CpuModelInfo).

    Args:
        line: of the guest.
        cpu_type: the type of its CPUs (``qemu64-x86_64-cpu``).
    """
    props: dict[str, object] = {}
    for value in line.all("cpu")[-1:]:
        for word in value.split(",")[1:]:
            key, equals, text = word.partition("=")
            if key[:1] in "+-":
                props[key[1:]] = key[0] == "+"
            elif text in ("on", "off", "") and (equals or key):
                props[key] = text != "off"
    return {"name": cpu_type.rsplit("-", 2)[0], "props": props}


def features(expanded: object, *, supported: object) -> frozenset[str]:
    """The CPU features that are on: those of the model that this QEMU can give.

    Args:
        expanded: the answer to query-cpu-model-expansion of the guest's model.
        supported: the same of ``max``, which is all that this QEMU with this accelerator can give; what it cannot it filters.
    """
    wanted, given = _on(expanded), _on(supported)
    return frozenset(name.replace("_", "-") for name in wanted & given)


def _on(answer: object) -> frozenset[str]:
    model = answer.get("model") if isinstance(answer, Mapping) else None
    props = model.get("props") if isinstance(model, Mapping) else None
    return frozenset(str(name) for name, value in props.items() if value is True) if isinstance(props, Mapping) else frozenset()


def lacking(wanted: frozenset[str], offered: object) -> tuple[str, ...]:
    """The features that another QEMU cannot give, by its answer for ``max``; one that it does not even know is not told apart."""
    model = offered.get("model") if isinstance(offered, Mapping) else None
    props = model.get("props") if isinstance(model, Mapping) else None
    if not isinstance(props, Mapping):
        return ()
    off = {str(name).replace("_", "-") for name, value in props.items() if value is False}
    on = {str(name).replace("_", "-") for name, value in props.items() if value is True}
    return tuple(sorted(wanted & (off - on)))


def read(line: CommandLine, answers: Answers, *, user: str, directory: str) -> Parts:
    """What it is made of.

    Args:
        line: with which it was started.
        answers: by command; ``machine-type`` is the type of /machine, ``peripheral`` and ``peripheral-anon`` those of qom-list,
            ``expanded`` and ``supported`` as `features` takes them.
        user: whom it runs as; empty: as whoever is logged in.
        directory: where its relative paths begin.
    """
    devices = dict(live.device_paths(answers))
    migration = answers.get("query-migrate")
    reasons = migration.get("blocked-reasons") if isinstance(migration, Mapping) else None
    kvm = answers.get("query-kvm")
    slots = answers.get("query-hotpluggable-cpus")
    cpu_type = (
        next((str(slot.get("type", "")) for slot in slots if isinstance(slot, Mapping)), "") if isinstance(slots, list) else ""
    )
    mode = {"host": "host-passthrough", "max": "maximum"}.get(cpu_type.rsplit("-", 2)[0], "custom")
    return Parts(
        machine=str(answers.get("machine-type", "")).removesuffix("-machine"),
        accelerator="kvm" if isinstance(kvm, Mapping) and kvm.get("enabled") is True else "tcg",
        emulator=line.program,
        qemu=version(answers.get("query-version")),
        memory=_memory(line, answers),
        cpu=Cpu(
            model=cpu_type.rsplit("-", 2)[0],
            mode=mode,
            features=features(answers.get("expanded"), supported=answers.get("supported")),
            count=len(cpus) if isinstance(cpus := answers.get("query-cpus-fast"), list) else 1,
            tsc_fixed=any("tsc-frequency=" in value for value in line.all("cpu")),
        ),
        devices=tuple(_devices(line, devices, answers)),
        disks=tuple(_disks(line, answers)),
        nics=tuple(nics.of_line(line)),
        files=tuple(dict.fromkeys(path for name in _FILES for path in line.all(name))),
        types=frozenset(kind for _, kind in devices.values()),
        blocked=tuple(str(one) for one in reasons) if isinstance(reasons, list) else (),
        user=user,
        directory=directory,
        capabilities=capabilities_of(answers.get("capabilities")),
    )


def version(answer: object) -> tuple[int, ...]:
    """Of query-version."""
    found = answer.get("qemu") if isinstance(answer, Mapping) else None
    return tuple(int(found[key]) for key in ("major", "minor", "micro")) if isinstance(found, Mapping) else ()


def _memory(line: CommandLine, answers: Answers) -> Memory:
    summary = answers.get("query-memory-size-summary")
    total = sum(value for value in summary.values() if isinstance(value, int)) if isinstance(summary, Mapping) else 0
    page, nodes = 0, set[int]()
    for found in line.each("object"):
        if not found.get("qom-type", "").startswith("memory-backend"):
            continue
        if found.get("hugetlb") == "on" or "/hugepages" in found.get("mem-path", ""):
            page = _size(found.get("hugetlbsize", "")) or 2 << 20
        if found.get("policy") == "bind":
            nodes |= {number for key, text in found.items() if key.startswith("host-nodes") for number in _range(text)}
    if any("/hugepages" in path for path in line.all("mem-path")):
        page = page or 2 << 20
    locked = any(found.get("mem-lock") in ("on", "yes", "true") for found in line.each("overcommit"))
    return Memory(total_bytes=total or argv.memory_bytes(line) or 0, page_bytes=page, nodes=frozenset(nodes), locked=locked)


def _size(text: str) -> int:
    return parse_bytes(text) if text else 0


def _range(text: str) -> Iterator[int]:
    first, _, last = text.partition("-")
    if first.isdigit():
        yield from range(int(first), int(last or first) + 1)


def _disks(line: CommandLine, answers: Answers) -> Iterator[DiskPart]:
    together = {found.get("drive") for found in line.each("device") if found.get("share-rw") in ("on", "yes", "true")}
    for drive in live.drives(answers.get("query-block")):
        if (medium := drive.medium) is None or drive.removable:
            continue
        network = _NO_FILE.match(medium.file) is not None
        yield DiskPart(
            name=drive.name or drive.device or medium.node,
            path="" if network else medium.file,
            url=medium.file if network else "",
            format=medium.format,
            direct=medium.cache.get("direct", False),
            read_only=medium.read_only,
            shared=bool(together & {drive.name, drive.device, medium.node} - {""}),
            backing=tuple(path for path in medium.backing if not _NO_FILE.match(path)),
            virtual_bytes=medium.size_bytes,
        )


def _devices(line: CommandLine, devices: Mapping[str, tuple[str, str]], answers: Answers) -> Iterator[Part]:
    told = {found.get("id", ""): found for found in line.each("device")}
    anonymous = [found for found in line.each("device") if not found.get("id")]
    for key, (_, driver) in sorted(devices.items()):
        kind = _KINDS.get(driver) or (Kind.VHOST_USER if driver.startswith("vhost-user-") else None)
        if kind is None:
            continue
        found = told.get(key) or next((one for one in anonymous if one.get("driver") == driver), {})
        if kind is Kind.SHMEM and found.get("master") == "on":
            continue
        if kind is Kind.PCI and "/mdev" in found.get("sysfsdev", ""):
            kind = Kind.MDEV
        if kind is Kind.TPM and any(one.get("type", one.get("backend", "")) == "passthrough" for one in _tpms(line)):
            kind = Kind.TPM_HOST
        which = ", ".join(f"{word} {found[word]}" for word in _WHICH if found.get(word))
        yield Part(kind=kind, name=key, what=which or driver, failover=bool(found.get("failover_pair_id")))
    yield from _media(answers)
    yield from _sockets(line)
    yield from _displays(line)
    yield from _outputs(line)


def _tpms(line: CommandLine) -> Iterator[Mapping[str, str]]:
    for value in line.all("tpmdev"):
        yield {"type": value.partition(",")[0]}


def _media(answers: Answers) -> Iterator[Part]:
    for drive in live.drives(answers.get("query-block")):
        if drive.removable and drive.medium is not None and not _NO_FILE.match(drive.medium.file):
            floppy = "floppy" in drive.name
            name = drive.device or drive.name
            yield Part(kind=Kind.FLOPPY if floppy else Kind.CDROM, name=name, what=drive.medium.file, path=drive.medium.file)


def _sockets(line: CommandLine) -> Iterator[Part]:
    """Daemons of the host that a network of vhost-user needs."""
    sockets = {found.get("id", ""): found.get("path", "") for found in line.each("chardev") if found.get("backend") == "socket"}
    for found in line.each("netdev"):
        if found.get("type") == "vhost-user" and (path := sockets.get(found.get("chardev", ""), "")):
            yield Part(kind=Kind.VHOST_USER, name=found.get("id", ""), what=path, path=path)


def _displays(line: CommandLine) -> Iterator[Part]:
    for option in line.options:
        found = fields(option) if option.name in ("vnc", "spice") else {}
        password = found.get("password") in ("on", "yes") or "password-secret" in found
        if option.name == "vnc":
            host, colon, number = found.get("vnc", "").rpartition(":")
            if colon and number.isdigit() and not host.startswith("unix"):
                ports: tuple[int, ...] = () if "to" in found else (_FIRST_VNC + int(number),)
                yield Part(kind=Kind.VNC, name="vnc", what=found["vnc"], ports=ports, listens=host, password=password)
        elif option.name == "spice":
            wanted = tuple(int(found[key]) for key in ("port", "tls-port") if found.get(key, "").isdigit())
            secret = found.get("disable-ticketing") not in ("on", "yes", "") and "disable-ticketing" in found
            yield Part(
                kind=Kind.SPICE,
                name="spice",
                what=option.value or "",
                ports=wanted,
                listens=found.get("addr", ""),
                password=secret,
            )


def _outputs(line: CommandLine) -> Iterator[Part]:
    """Files that are written by whoever starts it: they are made there, but their directories are not."""
    for found in line.each("chardev"):
        paths = [found.get("path", "")] if found.get("backend") == "file" else []
        for path in filter(None, (*paths, found.get("logfile", ""))):
            if _NO_FILE.match(path):
                continue
            yield Part(kind=Kind.OUTPUT, name=found.get("id", ""), what=path, path=path)
    for option in line.options:
        if option.name in ("serial", "parallel", "D") and (value := option.value or ""):
            path = value if option.name == "D" else value.removeprefix("file:") if value.startswith("file:") else ""
            if path:
                yield Part(kind=Kind.OUTPUT, name=option.name, what=path, path=path)
    for path in line.all("pidfile"):
        yield Part(kind=Kind.OUTPUT, name="pidfile", what=path, path=path)
    if path_ := argv.qmp_path(line):
        yield Part(kind=Kind.OUTPUT, name="monitor", what=path_, path=path_)


def absolute(parts: Parts, path: str) -> str:
    """A path of the guest's, seen from anywhere."""
    return posixpath.join(parts.directory or "/", path)


def types_of(answer: object) -> frozenset[str] | None:
    """Device types, from ``qom-list-types``."""
    if not isinstance(answer, Sequence):
        return None
    return frozenset(str(one.get("name")) for one in answer if isinstance(one, Mapping))


def capabilities_of(answer: object) -> frozenset[str] | None:
    """What a QEMU can do for a migration, from ``query-migrate-capabilities``."""
    if not isinstance(answer, Sequence):
        return None
    return frozenset(str(one.get("capability")) for one in answer if isinstance(one, Mapping))
