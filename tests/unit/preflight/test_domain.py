"""What is read of a domain, from live XML as libvirt 9.0 writes it (docs/formatdomain.rst); of devices that no lab has, too."""

from __future__ import annotations

import pytest

from segue.core.preflight import domain
from segue.core.preflight.facts import DiskPart, Kind, Part

DOMAIN = """
<domain type='kvm' id='7'>
  <name>web</name>
  <memory unit='KiB'>4194304</memory>
  <memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages><locked/></memoryBacking>
  <vcpu placement='static' cpuset='0-3,^2'>4</vcpu>
  <cputune><vcpupin vcpu='0' cpuset='8'/></cputune>
  <numatune><memory mode='strict' nodeset='0-1'/></numatune>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>
  </os>
  <cpu mode='custom' match='exact' check='full'>
    <model fallback='forbid'>Skylake-Server</model>
    <feature policy='require' name='invtsc'/>
    <feature policy='disable' name='mpx'/>
  </cpu>
  <clock offset='utc'><timer name='tsc' frequency='2400000000'/></clock>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {}
  </devices>
  <seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+107</label></seclabel>
</domain>
"""
PCI = "<address domain='0x0000' bus='0x3b' slot='0x10' function='0x2'/>"
DEVICES = [
    (
        f"<hostdev mode='subsystem' type='pci' managed='yes'><driver name='vfio'/><source>{PCI}</source><alias name='hostdev0'/></hostdev>",
        Part(kind=Kind.PCI, name="hostdev0", what="0000:3b:10.2"),
    ),
    (
        f"<interface type='hostdev' managed='yes'><mac address='52:54:00:6d:90:02'/><source>{PCI[:-2].replace('<address', '<address type=' + repr('pci'))}/>"
        "</source><alias name='hostdev1'/></interface>",
        Part(kind=Kind.VF, name="hostdev1", what="0000:3b:10.2"),
    ),
    (
        f"<interface type='hostdev'><source>{PCI}</source><teaming type='transient' persistent='ua-backup0'/><alias name='h'/></interface>",
        Part(kind=Kind.VF, name="h", what="0000:3b:10.2", failover=True),
    ),
    (
        "<hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci' display='off'>"
        "<source><address uuid='c2177883-f1bb-47f0-914d-32a22e3a8804'/></source><alias name='hostdev0'/></hostdev>",
        Part(kind=Kind.MDEV, name="hostdev0", what="c2177883-f1bb-47f0-914d-32a22e3a8804"),
    ),
    (
        "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source><alias name='u'/></hostdev>",
        Part(kind=Kind.USB, name="u", what="1234:beef"),
    ),
    (
        "<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host0'/><address bus='0' target='0' unit='1'/></source>"
        "<alias name='s'/></hostdev>",
        Part(kind=Kind.SCSI, name="s", what="bus 0, target 0, unit 1"),
    ),
    (
        "<disk type='block' device='lun'><driver name='qemu' type='raw'/><source dev='/dev/mapper/lun7'/>"
        "<target dev='sda' bus='scsi'/></disk>",
        Part(kind=Kind.LUN, name="sda", what="/dev/mapper/lun7", path="/dev/mapper/lun7"),
    ),
    (
        "<shmem name='my_shmem' role='peer'><model type='ivshmem-plain'/><size unit='M'>4</size><alias name='shmem0'/></shmem>",
        Part(kind=Kind.SHMEM, name="shmem0", what="my_shmem"),
    ),
    ("<shmem name='my_shmem' role='master'><alias name='shmem0'/></shmem>", None),
    (
        "<interface type='vhostuser'><source type='unix' path='/tmp/vhost1.sock' mode='server'/><alias name='net1'/></interface>",
        Part(kind=Kind.VHOST_USER, name="net1", what="/tmp/vhost1.sock", path="/tmp/vhost1.sock"),
    ),
    (
        "<filesystem type='mount' accessmode='passthrough'><driver type='virtiofs'/><source dir='/srv'/><alias name='fs0'/></filesystem>",
        Part(kind=Kind.VIRTIOFS, name="fs0", what="/srv", path="/srv"),
    ),
    (
        "<filesystem type='mount'><source dir='/srv'/><target dir='x'/><alias name='fs0'/></filesystem>",
        Part(kind=Kind.P9, name="fs0", what="/srv", path="/srv"),
    ),
    (
        "<vsock model='virtio'><cid auto='no' address='3'/><alias name='vsock0'/></vsock>",
        Part(kind=Kind.VSOCK, name="vsock0", what="CID 3"),
    ),
    (
        "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/><alias name='tpm0'/></tpm>",
        Part(kind=Kind.TPM, name="tpm0", what="tpm-crb"),
    ),
    (
        "<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend><alias name='tpm0'/></tpm>",
        Part(kind=Kind.TPM_HOST, name="tpm0", what="tpm-tis"),
    ),
    (
        "<graphics type='vnc' port='5901' autoport='no' listen='10.0.0.1'><listen type='address' address='10.0.0.1'/></graphics>",
        Part(kind=Kind.VNC, name="vnc", what="port 5901", ports=(5901,), listens="10.0.0.1"),
    ),
    (
        "<graphics type='spice' port='5900' autoport='yes' listen='127.0.0.1'><listen type='address' address='127.0.0.1'/></graphics>",
        Part(kind=Kind.SPICE, name="spice", what="any port", listens="127.0.0.1"),
    ),
    (
        "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/srv/x.iso'/><target dev='sda' bus='sata'/></disk>",
        Part(kind=Kind.CDROM, name="sda", what="/srv/x.iso", path="/srv/x.iso"),
    ),
    ("<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>", None),
    (
        "<serial type='file'><source path='/var/log/web.log'/><target port='0'/><alias name='serial0'/></serial>",
        Part(kind=Kind.OUTPUT, name="serial0", what="/var/log/web.log", path="/var/log/web.log"),
    ),
]


@pytest.mark.parametrize(("xml", "part"), DEVICES)
def test_devices(xml: str, part: Part | None) -> None:
    assert domain.read(DOMAIN.format(xml)).devices == ((part,) if part else ())


def test_the_rest() -> None:
    found = domain.read(DOMAIN.format(""))
    assert (found.machine, found.accelerator, found.emulator) == ("pc-q35-7.2", "kvm", "/usr/bin/qemu-system-x86_64")
    assert found.user == "64055"
    assert found.files == ("/usr/share/OVMF/OVMF_CODE.fd",)
    assert (found.memory.total_bytes, found.memory.page_bytes, found.memory.locked) == (4 << 30, 2 << 20, True)
    assert found.memory.nodes == {0, 1}
    assert (found.cpu.model, found.cpu.mode, found.cpu.count) == ("Skylake-Server", "custom", 4)
    assert found.cpu.features == {"invtsc"}
    assert found.cpu.tsc_fixed
    assert found.cpu.pinned == {0, 1, 3, 8}


@pytest.mark.parametrize(("now", "expired"), [("2026-11-20T15:51:00", True), ("2026-11-20T15:50:59", False)])
def test_a_password_has_an_end_that_is_read_without_the_password(now: str, expired: bool) -> None:
    xml = "<graphics type='vnc' port='5901' autoport='yes' passwd='*****' passwdValidTo='2026-11-20T15:51:00'/>"
    [one] = domain.at(domain.read(DOMAIN.format(xml)), now).devices
    assert (one.valid_until, one.expired) == ("2026-11-20T15:51:00", expired)


def test_a_hard_limit_is_read_in_its_unit() -> None:
    limited = DOMAIN.format("").replace("<os>", "<memtune><hard_limit unit='MiB'>64</hard_limit></memtune><os>")
    assert domain.read(limited).memory.limit_bytes == 64 << 20


def test_a_disk_with_what_is_below_it() -> None:
    disk = (
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/srv/top.qcow2' index='1'/>"
        "<backingStore type='file' index='3'><format type='qcow2'/><source file='/srv/mid.qcow2'/>"
        "<backingStore type='file'><format type='raw'/><source file='/srv/base.img'/><backingStore/></backingStore></backingStore>"
        "<target dev='vda' bus='virtio'/></disk>"
        "<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='rbd' name='pool/image'>"
        "<host name='ceph1'/></source><target dev='vdb' bus='virtio'/><readonly/><shareable/></disk>"
    )
    assert domain.read(DOMAIN.format(disk)).disks == (
        DiskPart(name="vda", path="/srv/top.qcow2", format="qcow2", backing=("/srv/mid.qcow2", "/srv/base.img")),
        DiskPart(name="vdb", url="rbd://ceph1/pool/image", direct=False, read_only=True, shared=True),
    )


def test_what_is_no_domain_is_an_error() -> None:
    for text in ("", "<domain/>", "<domain"):
        with pytest.raises(ValueError, match=r".+"):
            domain.read(text)


def test_memory_that_qemu_is_told_past_libvirt_counts():
    words = "".join(f"<qemu:arg value='{word}'/>" for word in ("-machine", "memory-backend=odd", "-m", "4194312k"))
    past = f"</devices><qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>{words}</qemu:commandline>"
    assert domain.read(DOMAIN.format("")).memory.total_bytes == 4 << 30
    assert domain.read(DOMAIN.format("").replace("</devices>", past)).memory.total_bytes == (4 << 30) + (8 << 10)
