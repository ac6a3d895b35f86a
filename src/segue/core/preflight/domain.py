"""What a domain is made of: its live XML (libvirt, docs/formatdomain.rst) → `Parts`. Nobody is asked here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from lxml import etree

from segue.core import argv
from segue.core.preflight import nics
from segue.core.preflight.facts import Cpu, DiskPart, Kind, Memory, Part, Parts

Element = etree._Element  # noqa: SLF001  # lxml's types have no other name for it

_UNITS: Final = {"b": 1, "bytes": 1, "kb": 1000, "k": 1024, "kib": 1024, "mb": 10**6, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30}
_MORE_UNITS: Final = {"gb": 10**9, "gib": 1 << 30, "t": 1 << 40, "tb": 10**12, "tib": 1 << 40}
_HOSTDEVS: Final = {"pci": Kind.PCI, "usb": Kind.USB, "mdev": Kind.MDEV, "scsi": Kind.SCSI, "scsi_host": Kind.SCSI}
_DRIVES: Final = {"cdrom": Kind.CDROM, "floppy": Kind.FLOPPY}
_PAST_LIBVIRT: Final = {"qemu": "http://libvirt.org/schemas/domain/qemu/1.0"}
_SERIALS: Final = ("serial", "parallel", "channel")
_LET_GO: Final = ("requisite", "optional")
"""Start-up policies with which libvirt itself takes the medium out for a migration when the destination lacks it."""
_DIRECT: Final = ("none", "directsync")


def read(xml: str) -> Parts:
    """What the domain is made of.

    Args:
        xml: of the running domain, not of its definition.

    Raises:
        ValueError: it is no domain.
    """
    try:
        root = etree.fromstring(xml.encode())
    except etree.XMLSyntaxError as error:
        raise ValueError(str(error)) from error
    kind = root.find("os/type")
    if kind is None:
        raise ValueError("there is no os/type in it")
    return Parts(
        machine=kind.get("machine", ""),
        accelerator="kvm" if root.get("type") == "kvm" else "tcg",
        emulator=root.findtext("devices/emulator") or "",
        memory=_memory(root),
        cpu=_cpu(root),
        devices=tuple(_devices(root)),
        disks=tuple(_disks(root)),
        nics=tuple(nics.of_domain(root)),
        files=tuple(dict.fromkeys(_files(root))),
        user=_user(root),
    )


def at(parts: Parts, now: str) -> Parts:
    """With what of it had expired by then.

    Args:
        parts: as `read`.
        now: UTC, as ISO 8601 says it to the second, which is how libvirt says the end of a password.
    """
    devices = (replace(one, expired=bool(one.valid_until) and one.valid_until <= now) for one in parts.devices)
    return replace(parts, devices=tuple(devices))


def _user(root: Element) -> str:
    for label in root.iterfind("seclabel[@model='dac']"):
        user = (label.findtext("label") or "").partition(":")[0].removeprefix("+")
        if user.isdigit():
            return user
    return ""


def _bytes(element: Element | None) -> int:
    if element is None or not (element.text or "").strip().isdigit():
        return 0
    unit = element.get("unit", "KiB").lower()
    return int(element.text or 0) * ({**_UNITS, **_MORE_UNITS}.get(unit, 1024))


def _memory(root: Element) -> Memory:
    page = root.find("memoryBacking/hugepages/page")
    backed = root.find("memoryBacking/hugepages") is not None
    size = (
        int(page.get("size", "0")) * {**_UNITS, **_MORE_UNITS}.get(page.get("unit", "KiB").lower(), 1024)
        if page is not None
        else 0
    )
    return Memory(
        total_bytes=_own_words(root) or _bytes(root.find("memory")),
        page_bytes=size or (2 << 20 if backed else 0),  # without a size the host's default, 2 MiB on x86
        nodes=numbers(root.find("numatune/memory[@mode='strict']")),
        locked=root.find("memoryBacking/locked") is not None,
        limit_bytes=_bytes(root.find("memtune/hard_limit")),
    )


def _own_words(root: Element) -> int:
    """Memory that whoever wrote the domain tells QEMU past libvirt (docs/drvqemu.rst, qemu:commandline): the last word counts."""
    words = [arg.get("value", "") for arg in root.iterfind("qemu:commandline/qemu:arg", _PAST_LIBVIRT)]
    return argv.memory_bytes(argv.parse(["qemu", *words])) or 0 if "-m" in words else 0


def numbers(element: Element | None) -> frozenset[int]:
    """A set as libvirt writes it: ``0-3,^2,8``."""
    found: set[int] = set()
    for part in (element.get("nodeset", "") if element is not None else "").split(","):
        found = _with(found, part.strip())
    return frozenset(found)


def _with(found: set[int], part: str) -> set[int]:
    first, _, last = part.removeprefix("^").partition("-")
    if not first.isdigit():
        return found
    some = set(range(int(first), int(last or first) + 1))
    return found - some if part.startswith("^") else found | some


def _cpu(root: Element) -> Cpu:
    vcpu = root.find("vcpu")
    count = int(vcpu.text or 1) if vcpu is not None else 1
    pinned: set[int] = set()
    for text in (
        *(one.get("cpuset", "") for one in root.iterfind("cputune/vcpupin")),
        vcpu.get("cpuset", "") if vcpu is not None else "",
    ):
        for part in text.split(","):
            pinned = _with(pinned, part.strip())
    cpu = root.find("cpu")
    if cpu is None:
        return Cpu(count=count, pinned=frozenset(pinned))
    on = {one.get("name", "") for one in cpu.iterfind("feature") if one.get("policy", "require") in ("require", "force")}
    return Cpu(
        model=cpu.findtext("model") or "",
        mode=cpu.get("mode", "custom"),
        features=frozenset(on),
        xml=etree.tostring(cpu, encoding="unicode").strip(),
        count=count,
        pinned=frozenset(pinned),
        tsc_fixed=root.find("clock/timer[@name='tsc'][@frequency]") is not None,
    )


def _files(root: Element) -> Iterator[str]:
    for place in ("os/kernel", "os/initrd", "os/dtb", "os/loader"):
        if path := root.findtext(place):
            yield path


def _disks(root: Element) -> Iterator[DiskPart]:
    for disk in root.iterfind("devices/disk"):
        source, driver, target = disk.find("source"), disk.find("driver"), disk.find("target")
        if source is None or target is None or disk.get("device") in _DRIVES:
            continue
        yield DiskPart(
            name=target.get("dev", ""),
            path=source.get("file") or source.get("dev") or "",
            url=_url(source),
            format=driver.get("type", "raw") if driver is not None else "raw",
            direct=driver is not None and driver.get("cache") in _DIRECT,  # without a mode QEMU's own: through the page cache
            read_only=disk.find("readonly") is not None,
            shared=disk.find("shareable") is not None,
            backing=tuple(_backing(disk)),
        )


def _url(source: Element) -> str:
    if source.get("protocol") is None:
        return ""
    host = source.find("host")
    where = (host.get("name") or host.get("socket") or "") if host is not None else ""
    return f"{source.get('protocol')}://{where}/{source.get('name', '').lstrip('/')}"


def _backing(disk: Element) -> Iterator[str]:
    for below in disk.iterfind(".//backingStore/source"):
        if path := below.get("file") or below.get("dev"):
            yield path


def _alias(element: Element) -> str:
    alias = element.find("alias")
    return alias.get("name", "") if alias is not None else ""


def _devices(root: Element) -> Iterator[Part]:
    devices = root.find("devices")
    if devices is None:
        return
    for read_one in (_hostdevs, _media, _interfaces, _shares, _graphics, _outputs, _others):
        yield from read_one(devices)


def _hostdevs(devices: Element) -> Iterator[Part]:
    for one in devices.iterfind("hostdev"):
        kind = _HOSTDEVS.get(one.get("type", ""), Kind.PCI)
        failover = one.find("teaming[@type='transient']") is not None
        yield Part(kind=kind, name=_alias(one), what=_address(one.find("source")), failover=failover)


def _address(source: Element | None) -> str:
    """Where a device of the host is, as its own tools say it."""
    address = source.find("address") if source is not None else None
    if source is None or address is None:
        vendor = source.find("vendor") if source is not None else None
        product = source.find("product") if source is not None else None
        if vendor is not None and product is not None:
            return f"{vendor.get('id', '')}:{product.get('id', '')}".replace("0x", "")
        return ""
    if address.get("uuid"):
        return address.get("uuid", "")
    if address.get("slot"):
        parts = [int(address.get(key, "0"), 16) for key in ("domain", "bus", "slot", "function")]
        return "{:04x}:{:02x}:{:02x}.{:x}".format(*parts)
    return ", ".join(f"{key} {address.get(key)}" for key in ("bus", "device", "target", "unit") if address.get(key))


def _media(devices: Element) -> Iterator[Part]:
    for disk in devices.iterfind("disk"):
        source, target = disk.find("source"), disk.find("target")
        if source is None or target is None:
            continue
        path = source.get("file") or source.get("dev") or ""
        if (kind := _DRIVES.get(disk.get("device", ""))) and path and source.get("startupPolicy") not in _LET_GO:
            only_read = disk.find("readonly") is not None
            yield Part(kind=kind, name=target.get("dev", ""), what=path, path=path, read_only=only_read)
        elif disk.get("device") == "lun":
            yield Part(kind=Kind.LUN, name=target.get("dev", ""), what=path, path=path)
        elif disk.get("type") == "vhostuser":
            socket = source.get("path", "")
            yield Part(kind=Kind.VHOST_USER, name=target.get("dev", ""), what=socket, path=socket)


def _interfaces(devices: Element) -> Iterator[Part]:
    for one in devices.iterfind("interface"):
        source = one.find("source")
        if one.get("type") == "hostdev":
            failover = one.find("teaming[@type='transient']") is not None
            yield Part(kind=Kind.VF, name=_alias(one), what=_address(source), failover=failover)
        elif one.get("type") == "vhostuser" and source is not None:
            socket = source.get("path", "")
            yield Part(kind=Kind.VHOST_USER, name=_alias(one), what=socket, path=socket)


def _shares(devices: Element) -> Iterator[Part]:
    for one in devices.iterfind("filesystem"):
        source, driver = one.find("source"), one.find("driver")
        where = (source.get("dir") or source.get("socket") or "") if source is not None else ""
        kind = Kind.VIRTIOFS if driver is not None and driver.get("type") == "virtiofs" else Kind.P9
        yield Part(kind=kind, name=_alias(one), what=where, path=where)
    for one in devices.iterfind("shmem"):
        if one.get("role") != "master":
            yield Part(kind=Kind.SHMEM, name=_alias(one), what=one.get("name", ""))


def _graphics(devices: Element) -> Iterator[Part]:
    for one in devices.iterfind("graphics"):
        if (kind := {"vnc": Kind.VNC, "spice": Kind.SPICE}.get(one.get("type", ""))) is None:
            continue
        fixed = one.get("autoport") != "yes"
        ports = [int(text) for key in ("port", "tlsPort") if fixed and (text := one.get(key, "")).isdigit() and int(text) > 0]
        listen = one.find("listen[@type='address']")
        listens = listen.get("address", "") if listen is not None else ""
        what = ", ".join(f"port {port}" for port in ports) or "any port"
        until = one.get("passwdValidTo", "")  # libvirt shows it to everybody; the password itself nobody is told here
        yield Part(kind=kind, name=one.get("type", ""), what=what, ports=tuple(ports), listens=listens, valid_until=until)


def _outputs(devices: Element) -> Iterator[Part]:
    for tag in _SERIALS:
        for one in devices.iterfind(tag):
            source, log = one.find("source"), one.find("log")
            path = source.get("path", "") if source is not None and one.get("type") == "file" else ""
            for written in filter(None, (path, log.get("file", "") if log is not None else "")):
                yield Part(kind=Kind.OUTPUT, name=_alias(one), what=written, path=written)


def _others(devices: Element) -> Iterator[Part]:
    for one in devices.iterfind("vsock"):
        cid = one.find("cid")
        yield Part(kind=Kind.VSOCK, name=_alias(one), what=f"CID {cid.get('address', '?') if cid is not None else '?'}")
    for one in devices.iterfind("tpm"):
        backend = one.find("backend")
        emulated = backend is not None and backend.get("type") in ("emulator", "external")
        yield Part(kind=Kind.TPM if emulated else Kind.TPM_HOST, name=_alias(one), what=one.get("model", ""))
