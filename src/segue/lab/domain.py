"""What a libvirt guest of the lab is made of: the plain one, and the parts that guests of people have besides.

What may live here: XML. Starting is done by `guests`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from segue import units
from segue.errors import LabError
from segue.lab.layout import STORAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something that a guest has besides.

    Attributes:
        devices: XML between the devices; ``{other_mac}``, ``{file}`` (one that every host sees), ``{chain}`` and
            ``{nbd}`` are filled in.
        os: XML below ``os``; ``{name}`` is filled in.
        cpu: in place of the plain one.
        machine: the same.
        memory: XML beside the memory's size.
        usb: it needs a USB controller.
        chain: it needs a qcow2 on the lab's storage, over a raw file.
        nbd: it needs a port of the lab's storage on which a raw file is served over NBD.
    """

    devices: str = ""
    os: str = ""
    cpu: str = ""
    machine: str = ""
    memory: str = ""
    usb: bool = False
    chain: bool = False
    nbd: bool = False


PARTS: Final = {
    "pc": Part(machine="pc"),
    "uefi": Part(
        os="<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>"
        "<nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/{name}.fd</nvram>"
    ),
    "host-model": Part(cpu="<cpu mode='host-model' check='partial'/>"),
    "huge-pages": Part(memory="<memoryBacking><hugepages/></memoryBacking>"),
    "cdrom": Part(
        devices="<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{file}'/>"
        "<target dev='sdc' bus='sata'/><readonly/></disk>"
    ),
    "usb": Part(
        devices="<hub type='usb'/><input type='tablet' bus='usb'/>"
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{file}'/>"
        "<target dev='sdu' bus='usb'/><readonly/></disk>",
        usb=True,
    ),
    "agent": Part(devices="<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"),
    "vnc": Part(
        devices="<graphics type='vnc' autoport='yes' listen='0.0.0.0'/><video><model type='vga'/></video>"  # of its host
    ),
    "spice": Part(
        devices="<graphics type='spice' autoport='yes' listen='0.0.0.0'/><video><model type='qxl'/></video>"
        "<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>"
    ),
    "nics": Part(
        devices="<interface type='bridge'><mac address='{other_mac}'/><source bridge='br0'/><model type='e1000e'/>"
        "<rom enabled='no'/></interface>"
    ),
    "chain": Part(
        devices="<disk type='network' device='disk'><driver name='qemu' type='qcow2' cache='none'/>"
        f"<source protocol='nfs' name='{{chain}}'><host name='{STORAGE}'/></source><target dev='vdb' bus='virtio'/></disk>",
        chain=True,
    ),
    "nbd": Part(
        devices="<disk type='network' device='disk'><driver name='qemu' type='raw' cache='none'/>"
        f"<source protocol='nbd'><host name='{STORAGE}' port='{{nbd}}'/></source><target dev='vdc' bus='virtio'/></disk>",
        nbd=True,
    ),
    "tpm": Part(devices="<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"),
}
"""By their names."""

_DOMAIN: Final = """\
<domain type='{type}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <memory unit='b'>{memory}</memory>
  {backing}
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
    {os}
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{cmdline}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  {cpu}
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/{qemu}</emulator>
    {disk}
    <interface type='bridge'>
      <mac address='{mac}'/>
      <source bridge='br0'/>
      <model type='virtio'/>
      <rom enabled='no'/>
    </interface>
    <serial type='file'>
      <source path='{serial}' append='on'/>
      <target type='isa-serial' port='0'/>
    </serial>
    <controller type='usb' model='{usb}'/>
    {devices}
    <memballoon model='none'/>
  </devices>
  {words}
</domain>
"""
_CPU: Final = "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>"
NETWORK_DISK: Final = (
    "<disk type='network' device='disk'><driver name='qemu' type='raw' cache='none'/>"
    f"<source protocol='nfs' name='{{path}}'><host name='{STORAGE}'/></source><target dev='vda' bus='virtio'/></disk>"
)
FILE_DISK: Final = (
    "<disk type='file' device='disk'><driver name='qemu' type='{format}' cache='none'/>"
    "<source file='{path}'/><target dev='vda' bus='virtio'/></disk>"
)


def parts(names: Sequence[str]) -> tuple[Part, ...]:
    """The parts of those names.

    Raises:
        LabError: there is no such part.
    """
    if unknown := [name for name in names if name not in PARTS]:
        raise LabError(f"A guest of the lab cannot have {', '.join(unknown)}.", hint=f"It can have {', '.join(PARTS)}.")
    return tuple(PARTS[name] for name in names)


def of_size(memory_bytes: int) -> str:
    """XML that gives a guest memory of any size; libvirt itself gives it whole MiB (qemuDomainAlignMemorySizes)."""
    words = [
        *("-object", f"memory-backend-ram,id=odd.ram,size={memory_bytes}"),
        *("-machine", "memory-backend=odd.ram", "-m", f"{memory_bytes // units.KIB}k"),
    ]
    args = "".join(f"<qemu:arg value='{word}'/>" for word in words)
    return f"<qemu:commandline>{args}</qemu:commandline>"


def xml(names: Sequence[str], *, name: str, mac: str, file: str, chain: str, nbd: int, **plain: object) -> str:
    """A guest's definition.

    Args:
        names: of its parts.
        name: its own.
        mac: its first NIC's.
        file: a file that every host sees.
        chain: the topmost file of its qcow2, where it has one.
        nbd: the port of its disk over NBD, where it has one.
        plain: what else the plain guest is made of.
    """
    chosen = parts(names)

    def one(texts: Sequence[str], default: str) -> str:
        return next((text for text in texts if text), default)

    other_mac = mac.replace("52:54:00:77:00", "52:54:00:77:01")
    return _DOMAIN.format(
        name=name,
        mac=mac,
        machine=one([part.machine for part in chosen], "q35"),
        cpu=one([part.cpu for part in chosen], _CPU),
        backing="".join(part.memory for part in chosen),
        os="".join(part.os.format(name=name) for part in chosen),
        usb="qemu-xhci" if any(part.usb for part in chosen) else "none",
        devices="".join(part.devices.format(other_mac=other_mac, file=file, chain=chain, nbd=nbd) for part in chosen),
        **plain,
    )
