"""A guest's definition with other places in it, what would change its machine, and what travels hidden."""

from __future__ import annotations

import pytest

from segue.core import domxml
from segue.core.domxml import Carried
from segue.errors import RefusedError, Unsupported

OWN = """<domain type='kvm' id='3'>
  <name>web1</name>
  <uuid>11111111-2222-3333-4444-555555555555</uuid>
  <metadata/>
  <memory unit='KiB'>1048576</memory>
  <vcpu placement='static'>2</vcpu>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><nvram>/var/lib/nvram/web1.fd</nvram></os>
  <features><acpi/></features>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/srv/web1.qcow2' index='1'/>
      <backingStore/>
      <target dev='vda' bus='virtio'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>
    <disk type='network' device='cdrom'>
      <source protocol='nfs' name='/iso'/><target dev='sda' bus='sata'/><readonly/>
    </disk>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:01'/><source bridge='br0'/><target dev='vnet3'/><model type='virtio'/>
    </interface>
    <interface type='network'>
      <mac address='52:54:00:00:00:02'/><source network='default' portid='x' bridge='virbr0'/><model type='e1000'/>
    </interface>
    <graphics type='vnc' port='5900' autoport='yes' listen='127.0.0.1'><listen type='address' address='127.0.0.1'/></graphics>
    <serial type='pty'><source path='/dev/pts/1'/><target type='isa-serial' port='0'/></serial>
  </devices>
</domain>"""


def differences(wanted: str) -> tuple[str, ...]:
    return domxml.differences(OWN, wanted, arrives_as="web1")


@pytest.mark.parametrize(
    ("part", "value", "there"),
    [
        ("disk.vda", "/mnt/web1.qcow2", '<source file="/mnt/web1.qcow2"/>'),
        ("disk.vda", "/dev/vg/web1", '<source dev="/dev/vg/web1"/>'),
        ("nic.0", "br1", '<source bridge="br1"/>'),
        ("nic.52:54:00:00:00:02", "lan", '<source network="lan"/>'),
        ("nic.vnet3", "br7", '<source bridge="br7"/>'),
        ("graphics.vnc", "0.0.0.0:5950", 'port="5950"'),
        ("graphics.vnc", "[fd00::1]:5950", 'address="fd00::1"'),
        ("graphics.vnc", "fd00::1", 'address="fd00::1"'),
    ],
)
def test_a_part_has_another_place_and_the_machine_is_the_same(part: str, value: str, there: str) -> None:
    other = domxml.changed(OWN, [(part, value)])
    assert there in other
    assert differences(other) == ()


def test_a_part_that_is_not_there_is_said_with_those_that_are() -> None:
    with pytest.raises(Unsupported, match=r"no part 'disk.vdz' and no part 'nic.x'") as refused:
        domxml.changed(OWN, [("disk.vdz", "/a"), ("disk.vda", "/a"), ("nic.x", "br0")])
    assert "disk.vda" in refused.value.hint


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("1048576", "2097152", "memory: 2097152 KiB instead of 1048576"),
        ("<vcpu placement='static'>2", "<vcpu placement='static'>4", "vcpu: 4 instead of 2"),
        ("pc-q35-7.2", "pc-q35-6.2", "os/type@machine: pc-q35-6.2 instead of pc-q35-7.2"),
        ("<name>web1", "<name>web2", "use --rename"),
        ("bus='virtio'/>\n", "bus='scsi'/>\n", "devices/disk[1]/target@bus: scsi instead of virtio"),
        ("00:00:01", "00:00:09", "devices/interface[1]/mac@address"),
        ("<model type='e1000'/>", "<model type='virtio'/>", "devices/interface[2]/model@type"),
        ("slot='0x00'", "slot='0x01'", "devices/disk[1]/address@slot"),
        ("<serial type='pty'><source path='/dev/pts/1'/><target type='isa-serial' port='0'/></serial>", "", "0 instead of 1"),
    ],
)
def test_what_would_change_the_machine_is_said(old: str, new: str, said: str) -> None:
    found = differences(OWN.replace(old, new))
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<memory unit='KiB'>1048576", "<memory unit='GiB'>1"),
        ("cache='none'", "cache='writeback' io='threads'"),
        ("type='pty'><source path='/dev/pts/1'/>", "type='file'><source path='/tmp/log'/>"),
        ("<on_crash>destroy", "<on_crash>preserve"),
        ("/usr/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm"),
        ("      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>\n", ""),
    ],
)
def test_what_only_the_host_sees_may_be_another(old: str, new: str) -> None:
    assert old in OWN
    assert differences(OWN.replace(old, new)) == ()


@pytest.mark.parametrize("xml", ["", "<domain", "<network/>", "<!DOCTYPE x [<!ENTITY a 'b'>]><x/>"])
def test_what_is_no_definition_is_said_to_be_none(xml: str) -> None:
    with pytest.raises(RefusedError, match="--xml is no"):
        differences(xml)


def test_what_is_packed_comes_out_as_it_went_in() -> None:
    carried = Carried(
        autostart=True, snapshots=("<domainsnapshot><name>a</name></domainsnapshot>",), current="a", checkpoints=("<c>&amp;</c>",)
    )
    assert domxml.unpacked(domxml.packed(carried)) == carried
    assert domxml.name_of(carried.snapshots[0]) == "a"
    assert not Carried()


def test_another_definition_carries_what_the_own_one_does() -> None:
    inside = domxml.packed(Carried(autostart=True)).replace("<carried", f"<segue:carried xmlns:segue='{domxml.CARRIED_URI}'")
    source = OWN.replace("<metadata/>", f"<metadata>{inside}</metadata>")
    for wanted in (OWN, OWN.replace("<metadata/>", "")):
        assert "urn:segue:carried:1" in domxml.carrying(wanted, source)
    assert domxml.carrying(OWN, OWN) == OWN


def test_nothing_is_below_a_disk_that_was_copied_whole() -> None:
    below = "<backingStore type='file'><format type='raw'/><source file='/srv/base'/><backingStore/></backingStore>"
    other = domxml.flattened(OWN.replace("<backingStore/>", below), ["vda"])
    assert "/srv/base" not in other
    assert "<backingStore/>" in other
    assert domxml.flattened(OWN, ["sda"]).count("backingStore") == 2


def test_who_it_is_and_where_its_variables_are() -> None:
    assert domxml.identity(OWN).startswith("11111111")
    assert domxml.nvram(OWN) == "/var/lib/nvram/web1.fd"
