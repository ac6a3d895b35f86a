"""How each finding is provoked: what a small guest is started with, and what is done to its hosts before and after.

The guests have no operating system: a BIOS that finds nothing to boot is a running guest, too, and there in no time. What may
live here: data. Words in braces are filled in by `play`: {name}, {own} (a directory that each host has for itself), {shared} (one
that both have).
"""

from __future__ import annotations

from dataclasses import dataclass

ALPHA = "10.77.0.11"

Command = tuple[str, str]
"""A host, and what a shell does there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One finding, provoked for one kind of guest.

    Attributes:
        code: of the finding.
        kind: ``libvirt`` or ``qemu``.
        severity: that it must have.
        parts: what the guest is started with: XML of devices, or words of a command line.
        os: more of libvirt's ``<os>``.
        top: more of its ``<domain>``.
        cpu: its ``<cpu>``.
        machine, memory_mib: of the guest.
        program: of its QEMU.
        before: done before the guest is started.
        after: done when it runs.
        undo: done at the end, whatever happened.
        words: more words for segue.
        destination: where it is to go.
        address: beta's, in place of those that the lab's segue.toml has.
        danger: where forcing it goes through: what that endangers.
    """

    code: str
    kind: str
    severity: str = "blocker"
    parts: str = ""
    os: str = ""
    top: str = ""
    cpu: str = "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>"
    machine: str = "pc"
    memory_mib: int = 64
    program: str = "/usr/bin/qemu-system-x86_64"
    before: tuple[Command, ...] = ()
    after: tuple[Command, ...] = ()
    undo: tuple[Command, ...] = ()
    words: str = ""
    destination: str = "beta"
    address: str = ""
    danger: str = ""

    def __str__(self) -> str:
        return f"{self.code} {self.kind}"


def disk(path: str, driver: str = "type='raw' cache='none'", device: str = "disk", target: str = "vda' bus='virtio") -> str:
    source = f"<driver name='qemu' {driver}/><source file='{path}'/>"
    return f"<disk type='file' device='{device}'>{source}<target dev='{target}'/></disk>"


def drive(path: str, more: str = "format=raw,cache=none") -> str:
    return f"-drive id=disk0,file={path},if=none,{more} -device virtio-blk-pci,drive=disk0"


def image(host: str, path: str, size: str = "8M") -> Command:
    return host, f"qemu-img create -q -f raw {path} {size}"


def _gone(*paths: str) -> tuple[Command, ...]:
    return tuple((host, f"rm -rf -- {' '.join(paths)}") for host in ("alpha", "beta"))


OWN, SHARED, ISO = "{own}/f.img", "{shared}/f.img", "{own}/f.iso"
ROOMY = "{own}/room/f.img"
LITTLE_ROOM = (
    ("alpha", "mkdir -p {own}/room"),
    image("alpha", ROOMY),
    ("beta", "mkdir -p {own}/room && mount -t tmpfs -o size=1m none {own}/room"),
)
NO_ROOM = (("beta", "umount {own}/room"),)
QCOW = "type='qcow2' cache='none'"
QEMU = "/usr/bin/qemu-system-x86_64"
_BROKEN = (
    f"-blockdev driver=raw,node-name=d,file.driver=blkdebug,file.image.driver=file,file.image.filename={SHARED},"
    "file.inject-error.0.event=read_aio,file.inject-error.0.errno=5 -device virtio-blk-pci,drive=d,rerror=stop,bootindex=1"
)
_LOCKED = (
    (
        "beta",
        "setsid --fork sh -c 'exec 9<{shared}/f.img; flock 9; echo $$ >/run/lock.pid; exec sleep 300' >/dev/null 2>&1 </dev/null;"
        " until [ -s /run/lock.pid ]; do sleep .02; done",
    ),
)
_UNLOCK = (("beta", "kill $(cat /run/lock.pid); rm -f /run/lock.pid"),)
_EXPIRED = "<graphics type='vnc' autoport='yes' passwd='secret' passwdValidTo='2020-01-01T00:00:00'/>"
AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=+ipc_lock --ambient-caps=+ipc_lock"
OPEN = tuple((host, "chmod 1777 /run/segue-guests") for host in ("alpha", "beta"))
CLOSE = tuple((host, "chmod 755 /run/segue-guests") for host in ("alpha", "beta"))
_SHMEM = "-object memory-backend-file,id=m,share=on,mem-path=/dev/shm/segue-{name},size=4M -device ivshmem-plain,memdev=m"
_COPYING = (
    '{"execute": "qmp_capabilities"}{"execute": "drive-mirror", "arguments":'
    ' {"device": "disk0", "target": "{shared}/copy.img", "mode": "existing", "sync": "full", "speed": 1}}'
)
STOPPED = "the same error has stopped it there"
_STANDS = "nobody is served by it there, either"
_CDROM = disk(ISO, device="cdrom", target="hdc' bus='ide")
_FLOPPY = disk(ISO, device="floppy", target="fda' bus='fdc")
_LOG = "<serial type='file'><source path='{own}/log/f.log' append='on'/><target port='0'/></serial>"
_LISTENS_ON_BETA = (
    ("beta", "setsid --fork nc -lk 5977 >/dev/null 2>&1 </dev/null; until ss -ltn | grep -q :5977; do sleep .02; done"),
)
_STOP_LISTENING = (("beta", "fuser -k -n tcp 5977 || pkill -f 'nc -lk 5977'"),)

PROGRAM = "{own}/qemu-system-x86_64"


def _other(program: str) -> tuple[Command, ...]:
    """What beta has as the guest's QEMU is another one than alpha's."""
    return ("alpha", f"ln -s {QEMU} {PROGRAM}"), ("beta", program)


MICROVM = _other(f"ln -s {QEMU}-microvm {PROGRAM}")
"""A QEMU that was built for KVM alone."""
_NO_AES = " ".join(f"-global {model}-x86_64-cpu.aes=off" for model in ("max", "Westmere"))
WEAKER = _other(f"printf '%s\\n' '#!/bin/sh' 'exec {QEMU} \"$@\" {_NO_AES}' >{PROGRAM} && chmod 755 {PROGRAM}")
"""A QEMU that cannot give one feature of a CPU."""
_NO_PARTS = "--set disk.nope=/srv/a.img --set nic.nope=br1"

LIBVIRT = (
    Case(code="asked", kind="libvirt", words=_NO_PARTS),
    Case(code="same-host", kind="libvirt", destination="alpha"),
    Case(
        code="destination-taken",
        kind="libvirt",
        after=(("beta", "virsh -q create /run/segue-guests/{name}.other.xml"),),
        words="--from alpha",
    ),
    Case(code="guest-not-running", kind="libvirt", after=(("alpha", "virsh -q suspend {name}"),), danger=_STANDS),
    Case(
        code="guest-busy",
        kind="libvirt",
        parts=disk(SHARED),
        before=(image("alpha", SHARED),),
        after=(("alpha", "virsh -q blockcopy {name} vda --dest {shared}/copy.img --transient-job --bandwidth 1"),),
        undo=_gone("{shared}/copy.img"),
    ),
    Case(
        code="snapshots",
        kind="libvirt",
        severity="note",
        parts=disk(SHARED, QCOW),
        before=(("alpha", f"qemu-img create -q -f qcow2 {SHARED} 8M"),),
        after=(("alpha", "virsh -q snapshot-create-as {name} monday"),),
    ),
    Case(
        code="checkpoints",
        kind="libvirt",
        severity="note",
        parts=disk(SHARED, QCOW),
        before=(("alpha", f"qemu-img create -q -f qcow2 {SHARED} 8M"),),
        after=(("alpha", "virsh -q checkpoint-create-as {name} monday"),),
        undo=(("alpha", "virsh -q checkpoint-delete {name} monday --metadata"),),
    ),
    Case(code="autostart", kind="libvirt", severity="note", after=(("alpha", "virsh -q autostart {name}"),)),
    Case(
        code="shmem",
        kind="libvirt",
        parts="<shmem name='segue-{name}' role='peer'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>",
        undo=(("alpha", "rm -f /dev/shm/segue-{name}"),),
    ),
    Case(
        code="9p",
        kind="libvirt",
        severity="warning",
        parts="<filesystem type='mount'><source dir='{own}'/><target dir='x'/></filesystem>",
    ),
    Case(code="cdrom-missing", kind="libvirt", parts=_CDROM, before=(image("alpha", ISO, "2M"),)),
    Case(code="floppy-missing", kind="libvirt", parts=_FLOPPY, before=(image("alpha", ISO, "1440k"),), words="--unsafe"),
    Case(
        code="display-port",
        kind="libvirt",
        parts="<graphics type='vnc' port='5977' autoport='no'/>",
        before=_LISTENS_ON_BETA,
        undo=_STOP_LISTENING,
    ),
    Case(
        code="display-address",
        kind="libvirt",
        parts=f"<graphics type='vnc' autoport='yes'><listen type='address' address='{ALPHA}'/></graphics>",
    ),
    Case(code="display-password", kind="libvirt", severity="note", parts=_EXPIRED),
    Case(code="output-directory", kind="libvirt", parts=_LOG, before=(("alpha", "mkdir -p {own}/log"),)),
    Case(
        code="emulator",
        kind="libvirt",
        program="{own}/qemu-system-x86_64",
        before=(("alpha", f"ln -sf {QEMU} {{own}}/qemu-system-x86_64"),),
    ),
    Case(code="disk-missing", kind="libvirt", parts=disk(OWN), before=(image("alpha", OWN),), words="--unsafe"),
    Case(
        code="disk-other",
        kind="libvirt",
        parts=disk(OWN),
        before=(image("alpha", OWN), image("beta", OWN)),
        words="--unsafe",
        danger="the guest goes on upon another disk, whatever that holds",
    ),
    Case(code="disk-unshared", kind="libvirt", parts=disk(SHARED), before=(image("alpha", SHARED),)),
    Case(
        code="disk-rights",
        kind="libvirt",
        parts=disk(SHARED),
        before=(image("alpha", SHARED), ("beta", "mount --bind {shared} {shared} && mount -o remount,bind,ro {shared}")),
        undo=(("beta", "umount {shared}"),),
        words="--unsafe",
    ),
    Case(
        code="disk-backing",
        kind="libvirt",
        parts=disk(SHARED, QCOW),
        before=(image("alpha", OWN), ("alpha", f"qemu-img create -q -f qcow2 -b {OWN} -F raw {SHARED}")),
        words="--unsafe",
    ),
    Case(
        code="disk-used",
        kind="libvirt",
        parts=disk(SHARED),
        before=(image("alpha", SHARED),),
        after=(("beta", "{thief}"),),
    ),
    Case(
        code="disk-locked",
        kind="libvirt",
        parts=disk(SHARED),
        before=(image("alpha", SHARED),),
        after=_LOCKED,
        undo=_UNLOCK,
    ),
    Case(
        code="file-missing",
        kind="libvirt",
        os="<kernel>{own}/vmlinuz</kernel>",
        before=(("alpha", "cp {kernel} {own}/vmlinuz"),),
    ),
)

BARE = (
    Case(code="asked", kind="qemu", words=_NO_PARTS),
    Case(code="same-host", kind="qemu", destination="alpha"),
    Case(code="destination-taken", kind="qemu", after=(("beta", "{other}"),), words="--from alpha"),
    Case(code="guest-not-running", kind="qemu", parts="-S", danger=_STANDS),
    Case(
        code="guest-busy",
        kind="qemu",
        parts=drive(SHARED),
        before=(image("alpha", SHARED), image("alpha", "{shared}/copy.img")),
        after=(
            (
                "alpha",
                f"printf '%s\\n' '{_COPYING}' | nc -N -U /run/segue-guests/{{name}}.qmp",
            ),
        ),
    ),
    Case(
        code="unsupported",
        kind="qemu",
        parts=f"-snapshot {drive(SHARED, 'format=raw')}",
        before=(image("alpha", SHARED),),
    ),
    Case(
        code="io-error",
        kind="qemu",
        parts=_BROKEN,
        before=(image("alpha", SHARED),),
        danger=STOPPED,
    ),
    Case(
        code="snapshots",
        kind="qemu",
        severity="warning",
        parts=drive(SHARED, "format=qcow2,cache=none"),
        before=(("alpha", f"qemu-img create -q -f qcow2 {SHARED} 8M && qemu-img snapshot -c monday {SHARED}"),),
        words="--copy-storage all",
    ),
    Case(
        code="qemu-blocks",
        kind="qemu",
        parts=_SHMEM,
        undo=(("alpha", "rm -f /dev/shm/segue-{name}"),),
    ),
    Case(
        code="shmem",
        kind="qemu",
        parts=_SHMEM,
        undo=(("alpha", "rm -f /dev/shm/segue-{name}"),),
    ),
    Case(
        code="usb-host",
        kind="qemu",
        parts="-device qemu-xhci -device usb-host,id=stick,vendorid=0x1234,productid=0x5678",
        danger="the guest loses the device: what is plugged into the source stays there",
    ),
    Case(
        code="9p",
        kind="qemu",
        severity="warning",
        parts="-fsdev local,id=fs,path={own},security_model=none -device virtio-9p-pci,fsdev=fs,mount_tag=x",
    ),
    Case(code="cdrom-missing", kind="qemu", parts=f"-cdrom {ISO}", before=(image("alpha", ISO, "2M"),)),
    Case(
        code="floppy-missing",
        kind="qemu",
        parts=f"-drive if=floppy,format=raw,file={ISO}",
        before=(image("alpha", ISO, "1440k"),),
    ),
    Case(code="display-address", kind="qemu", parts=f"-vnc {ALPHA}:77"),
    Case(code="display-password", kind="qemu", severity="warning", parts="-vnc 127.0.0.1:77,password=on"),
    Case(
        code="output-directory",
        kind="qemu",
        parts="-chardev file,id=out,path={own}/log/f.log,append=on -serial chardev:out",
        before=(("alpha", "mkdir -p {own}/log"),),
    ),
    Case(
        code="emulator",
        kind="qemu",
        program="{own}/qemu-system-x86_64",
        before=(("alpha", f"ln -sf {QEMU} {{own}}/qemu-system-x86_64"),),
    ),
    Case(code="accelerator", kind="qemu", program=PROGRAM, before=MICROVM),
    Case(code="cpu-features", kind="qemu", program=PROGRAM, parts="-cpu max", before=WEAKER),
    Case(code="cpu-passthrough", kind="qemu", severity="warning", parts="-cpu max"),
    Case(
        code="tpm-state",
        kind="qemu",
        severity="warning",
        parts="-chardev socket,id=tpm,path={own}/tpm.sock -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-tis,tpmdev=tpm0",
        before=(
            (
                "alpha",
                "mkdir {own}/tpm && swtpm socket --tpm2 --tpmstate dir={own}/tpm --terminate -d"
                " --ctrl type=unixio,path={own}/tpm.sock",
            ),
        ),
    ),
    Case(
        code="memory",
        kind="qemu",
        memory_mib=32 << 10,
        parts="-object memory-backend-ram,id=ram,size=32G,reserve=off",  # more than there is can only be had unreserved
        machine="pc,memory-backend=ram",
        danger="the guest may take more memory than the destination has, and the kernel there kills something",
    ),
    Case(code="disk-missing", kind="qemu", parts=drive(OWN), before=(image("alpha", OWN),)),
    Case(code="disk-other", kind="qemu", parts=drive(OWN), before=(image("alpha", OWN), image("beta", OWN))),
    Case(
        code="disk-rights",
        kind="qemu",
        parts=drive(SHARED),
        before=(image("alpha", SHARED), ("beta", "mount --bind {shared} {shared} && mount -o remount,bind,ro {shared}")),
        undo=(("beta", "umount {shared}"),),
    ),
    Case(
        code="disk-backing",
        kind="qemu",
        parts=drive(SHARED, "format=qcow2,cache=none"),
        before=(image("alpha", OWN), ("alpha", f"qemu-img create -q -f qcow2 -b {OWN} -F raw {SHARED}")),
    ),
    Case(code="disk-used", kind="qemu", parts=drive(SHARED), before=(image("alpha", SHARED),), after=(("beta", "{thief}"),)),
    Case(
        code="disk-locked",
        kind="qemu",
        parts=drive(SHARED),
        before=(image("alpha", SHARED),),
        after=_LOCKED,
        undo=_UNLOCK,
    ),
    Case(
        code="memory-lock",
        kind="qemu",
        program=f"{AS_NOBODY} {QEMU}",
        parts="-overcommit mem-lock=on",
        before=OPEN,
        undo=CLOSE,
    ),
    Case(
        code="disk-taken",
        kind="qemu",
        parts=drive(OWN),
        before=(image("alpha", OWN), image("beta", OWN)),
        words="--copy-storage all",
    ),
    Case(
        code="disk-space",
        kind="qemu",
        severity="warning",
        parts=drive(ROOMY),
        before=LITTLE_ROOM,
        undo=NO_ROOM,
        words="--copy-storage all",
    ),
    Case(
        code="disk-format",
        kind="qemu",
        parts=drive(OWN, "format=vmdk"),
        before=(("alpha", f"qemu-img create -q -f vmdk {OWN} 8M"),),
        words="--copy-storage all",
    ),
    Case(code="file-missing", kind="qemu", parts="-kernel {own}/vmlinuz", before=(("alpha", "cp {kernel} {own}/vmlinuz"),)),
)

ALL = (*LIBVIRT, *BARE)
