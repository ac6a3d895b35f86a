"""What a libvirt host can give to a guest, and what a guest there is made of.

What may live here: questions, which block in a thread of `runtime`. What the answers mean is decided in `core.preflight`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import libvirt
from lxml import etree

from segue import units
from segue.core.preflight import domain as domain_xml
from segue.core.preflight.facts import Cpu, DiskPart, HostMemory, Offer, Parts

_VIRT_TYPES: Final = {"kvm": "kvm", "tcg": "qemu"}
_ACCELERATORS: Final = {virt: accelerator for accelerator, virt in _VIRT_TYPES.items()}
_ONE_HOSTS: Final = ("host-passthrough", "maximum")
"""CPU modes in which the guest sees what its host has; libvirt's description of such a CPU says nothing more."""
_ALL_NODES: Final = -1  # VIR_NODE_MEMORY_STATS_ALL_CELLS
_UNLIMITED_KIB: Final = 9007199254740988
"""What libvirt says of a limit that is none, or more (VIR_DOMAIN_MEMORY_PARAM_UNLIMITED, in whole pages)."""


def parts(connection: libvirt.virConnect, guest: str) -> Parts:
    """What a running domain is made of."""
    capabilities = etree.fromstring(connection.getCapabilities().encode())
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    domain = connection.lookupByName(guest)
    found = domain_xml.at(domain_xml.read(domain.XMLDesc()), now)
    found = replace(found, disks=tuple(replace(disk, virtual_bytes=_capacity(domain, disk)) for disk in found.disks))
    cpu = found.cpu
    if cpu.mode in _ONE_HOSTS and (host := capabilities.find("host/cpu")) is not None:
        cpu = replace(cpu, xml=etree.tostring(host, encoding="unicode").strip())
    return replace(found, cpu=cpu, qemu=_version(connection.getVersion()), host_cpu=_host_cpu(capabilities))


def _capacity(domain: libvirt.virDomain, disk: DiskPart) -> int | None:
    """The size of a disk as the guest sees it; ``None`` where libvirt does not say."""
    try:
        return int(domain.blockInfo(disk.name)[0]) if disk.path else None
    except libvirt.libvirtError:
        return None


def offer(connection: libvirt.virConnect, wanted: Parts) -> Offer:
    """What this host's libvirt would give to that guest."""
    capabilities = etree.fromstring(connection.getCapabilities().encode())
    virt = _VIRT_TYPES.get(wanted.accelerator, "qemu")
    arch = capabilities.findtext("host/cpu/arch") or "x86_64"
    described = capabilities.find(f"guest/arch[@name='{arch}']")
    machines: set[str] = set()
    types: set[str] = set()
    for one in described.iter("machine", "domain") if described is not None else ():
        if one.tag == "machine":
            machines |= {one.text or "", one.get("canonical", "")}
        else:
            types.add(_ACCELERATORS.get(one.get("type", ""), one.get("type", "")))
    emulators = {one.text or "" for one in described.iter("emulator")} if described is not None else set()
    trouble = "" if wanted.emulator in emulators else _trouble(connection, wanted.emulator, arch, None, virt)
    if not trouble and wanted.machine not in machines and not _trouble(connection, wanted.emulator, arch, wanted.machine, virt):
        machines.add(wanted.machine)  # libvirt lists those of its first choice of emulator
    lacking, baseline = _compared(connection, wanted.cpu, None if trouble else wanted.emulator, arch, virt)
    return Offer(
        qemu=_version(connection.getVersion()),
        machines=frozenset(machines - {""}),
        accelerators=frozenset(types),
        lacking=lacking,
        baseline=baseline,
        memory=_memory(connection, wanted),
        cpus=int(connection.getInfo()[2]),
        user=_user(capabilities, virt),
        host_cpu=_host_cpu(capabilities),
        trouble=trouble,
    )


def _trouble(connection: libvirt.virConnect, emulator: str, arch: str, machine: str | None, virt: str) -> str:
    """Why libvirt cannot start that emulator with that machine there, in its own words; empty when it can."""
    try:
        connection.getDomainCapabilities(emulator, arch, machine, virt)
    except libvirt.libvirtError as error:
        return error.get_error_message() or str(error)
    return ""


def _version(number: int) -> tuple[int, ...]:
    return number // 1_000_000, number // 1000 % 1000, number % 1000


def _host_cpu(capabilities: etree._Element) -> str:
    cpu = capabilities.find("host/cpu")
    if cpu is None:
        return ""
    microcode = cpu.find("microcode")
    words = [cpu.findtext("vendor") or "", cpu.findtext("model") or ""]
    words += [f"microcode {microcode.get('version')}"] if microcode is not None else []
    return " ".join(filter(None, words))


def _user(capabilities: etree._Element, virt: str) -> str:
    """Whom QEMU runs as there (qemu.conf, user); +UID:+GID as libvirt tells it."""
    for model in capabilities.iterfind("host/secmodel"):
        if model.findtext("model") == "dac":
            label = model.findtext(f"baselabel[@type='{virt}']") or ""
            return label.partition(":")[0].removeprefix("+")
    return ""


def _compared(
    connection: libvirt.virConnect, cpu: Cpu, emulator: str | None, arch: str, virt: str
) -> tuple[tuple[str, ...] | None, str]:
    """The features that this host lacks, and a CPU without those; the names are asked for only where some are lacking."""
    if not cpu.xml or (cpu.mode in _ONE_HOSTS and virt == _VIRT_TYPES["tcg"]):  # emulated, it is the same on every host
        return (), ""
    if cpu.mode in _ONE_HOSTS:
        answer = connection.compareCPU(cpu.xml)
    else:
        answer = connection.compareHypervisorCPU(emulator, arch, None, virt, cpu.xml)
    if answer in (libvirt.VIR_CPU_COMPARE_IDENTICAL, libvirt.VIR_CPU_COMPARE_SUPERSET):
        return (), ""
    if answer != libvirt.VIR_CPU_COMPARE_INCOMPATIBLE:
        return None, ""
    model = etree.fromstring(connection.getDomainCapabilities(emulator, arch, None, virt).encode()).find(
        "cpu/mode[@name='host-model']"
    )
    if model is None:
        return None, ""
    model.tag = "cpu"
    model.attrib.clear()
    model.set("mode", "custom")
    mine = etree.tostring(model, encoding="unicode")
    expand = libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
    try:
        live = _plain(cpu.xml)
        wanted, given = (
            _features(connection.baselineHypervisorCPU(emulator, arch, None, virt, [one], expand)) for one in (live, mine)
        )
        common = connection.baselineHypervisorCPU(emulator, arch, None, virt, [live, mine], 0)
    except libvirt.libvirtError:  # two vendors have no CPU in common that libvirt could name
        return tuple(sorted(cpu.features)) or ("its model",), ""
    return tuple(sorted(wanted - given)) or ("its model",), " ".join(common.split())


def _plain(xml: str) -> str:
    """A CPU as baselineHypervisorCPU takes it: those of a host have an arch and a topology, which it does not."""
    cpu = etree.fromstring(xml.encode())
    for tag in ("arch", "topology", "microcode", "signature", "counter", "pages", "maxphysaddr", "cache", "numa"):
        for child in cpu.findall(tag):
            cpu.remove(child)
    return etree.tostring(cpu, encoding="unicode")


def _features(xml: str) -> frozenset[str]:
    cpu = etree.fromstring(xml.encode())
    return frozenset(one.get("name", "") for one in cpu.iterfind("feature") if one.get("policy", "require") == "require")


def spare_bytes(domain: libvirt.virDomain) -> int:
    """What a guest's QEMU may use more than it does; nothing where somebody has set a limit to it (memtune, hard_limit)."""
    try:
        limit_kib = domain.memoryParameters().get("hard_limit", _UNLIMITED_KIB)
    except libvirt.libvirtError:  # no cgroup, no limit
        limit_kib = _UNLIMITED_KIB
    return _available_bytes(domain.connect()) if limit_kib >= _UNLIMITED_KIB else 0


def _available_bytes(connection: libvirt.virConnect) -> int:
    """What the kernel could give back at once; libvirt has no figure for "available"."""
    stats: Mapping[str, int] = connection.getMemoryStats(_ALL_NODES)
    return sum(stats.get(name, 0) for name in ("free", "buffers", "cached")) * units.KIB


def _memory(connection: libvirt.virConnect, wanted: Parts) -> HostMemory:
    nodes = sorted(wanted.memory.nodes)
    page = wanted.memory.page_bytes
    return HostMemory(
        available_bytes=_available_bytes(connection),
        swap_bytes=0,
        pages={page: _free_pages(connection, page)} if page else {},
        nodes=_free_of_nodes(connection) if nodes else {},
    )


def _free_pages(connection: libvirt.virConnect, page_bytes: int) -> int:
    """Free huge pages of that size on all nodes together; a host that has none of that size says so with an error."""
    try:
        return sum(sum(by_size.values()) for by_size in _pages(connection, page_bytes))
    except libvirt.libvirtError:
        return 0


def _pages(connection: libvirt.virConnect, page_bytes: int) -> list[dict[int, int]]:
    size_kib = page_bytes // units.KIB
    count = max(1, int(connection.getInfo()[4]))
    answer = connection.getFreePages([size_kib], 0, count)
    return list(answer.values()) if isinstance(answer, dict) else []


def _free_of_nodes(connection: libvirt.virConnect) -> dict[int, int]:
    count = int(connection.getInfo()[4])
    return dict(enumerate(connection.getCellsFreeMemory(0, count)))
