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
        machine, memory_mib: of the guest.
        program: of its QEMU.
        before: done before the guest is started.
        after: done when it runs.
        undo: done at the end, whatever happened.
        words: more words for segue.
        destination: where it is to go.
        danger: where forcing it goes through: what that endangers.
    """

    code: str
    kind: str
    severity: str = "blocker"
    parts: str = ""
    os: str = ""
    machine: str = "pc"
    memory_mib: int = 64
    program: str = "/usr/bin/qemu-system-x86_64"
    before: tuple[Command, ...] = ()
    after: tuple[Command, ...] = ()
    undo: tuple[Command, ...] = ()
    words: str = ""
    destination: str = "beta"
    danger: str = ""

    def __str__(self) -> str:
        return f"{self.code} {self.kind}"


def _disk(path: str, driver: str = "type='raw' cache='none'", device: str = "disk", target: str = "vda' bus='virtio") -> str:
    source = f"<driver name='qemu' {driver}/><source file='{path}'/>"
    return f"<disk type='file' device='{device}'>{source}<target dev='{target}'/></disk>"


def _drive(path: str, more: str = "format=raw,cache=none") -> str:
    return f"-drive id=disk0,file={path},if=none,{more} -device virtio-blk-pci,drive=disk0"


def _image(host: str, path: str, size: str = "8M") -> Command:
    return host, f"qemu-img create -q -f raw {path} {size}"


def _gone(*paths: str) -> tuple[Command, ...]:
    return tuple((host, f"rm -rf -- {' '.join(paths)}") for host in ("alpha", "beta"))


OWN, SHARED, ISO = "{own}/f.img", "{shared}/f.img", "{own}/f.iso"
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
_AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=+ipc_lock --ambient-caps=+ipc_lock"
_OPEN = tuple((host, "chmod 1777 /run/segue-guests") for host in ("alpha", "beta"))
_CLOSE = tuple((host, "chmod 755 /run/segue-guests") for host in ("alpha", "beta"))
_SHMEM = "-object memory-backend-file,id=m,share=on,mem-path=/dev/shm/segue-{name},size=4M -device ivshmem-plain,memdev=m"
_STANDS = "the guest stands on the destination as it stood here: nobody is served by it"
_CDROM = _disk(ISO, device="cdrom", target="hdc' bus='ide")
_FLOPPY = _disk(ISO, device="floppy", target="fda' bus='fdc")
_LOG = "<serial type='file'><source path='{own}/log/f.log' append='on'/><target port='0'/></serial>"
_LISTENS_ON_BETA = (
    ("beta", "setsid --fork nc -lk 5977 >/dev/null 2>&1 </dev/null; until ss -ltn | grep -q :5977; do sleep .02; done"),
)
_STOP_LISTENING = (("beta", "fuser -k -n tcp 5977 || pkill -f 'nc -lk 5977'"),)

LIBVIRT = (
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
        parts=_disk(SHARED),
        before=(_image("alpha", SHARED),),
        after=(("alpha", "virsh -q blockcopy {name} vda --dest {shared}/copy.img --transient-job --bandwidth 1"),),
        undo=_gone("{shared}/copy.img"),
    ),
    Case(
        code="snapshots",
        kind="libvirt",
        severity="note",
        parts=_disk(SHARED, QCOW),
        before=(("alpha", f"qemu-img create -q -f qcow2 {SHARED} 8M"),),
        after=(("alpha", "virsh -q snapshot-create-as {name} monday"),),
    ),
    Case(
        code="checkpoints",
        kind="libvirt",
        severity="note",
        parts=_disk(SHARED, QCOW),
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
    Case(code="cdrom-missing", kind="libvirt", parts=_CDROM, before=(_image("alpha", ISO, "2M"),)),
    Case(code="floppy-missing", kind="libvirt", parts=_FLOPPY, before=(_image("alpha", ISO, "1440k"),)),
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
    Case(code="disk-missing", kind="libvirt", parts=_disk(OWN), before=(_image("alpha", OWN),)),
    Case(code="disk-other", kind="libvirt", parts=_disk(OWN), before=(_image("alpha", OWN), _image("beta", OWN))),
    Case(
        code="disk-rights",
        kind="libvirt",
        parts=_disk(SHARED),
        before=(_image("alpha", SHARED), ("beta", "mount --bind {shared} {shared} && mount -o remount,bind,ro {shared}")),
        undo=(("beta", "umount {shared}"),),
    ),
    Case(
        code="disk-backing",
        kind="libvirt",
        parts=_disk(SHARED, QCOW),
        before=(_image("alpha", OWN), ("alpha", f"qemu-img create -q -f qcow2 -b {OWN} -F raw {SHARED}")),
    ),
    Case(
        code="disk-used",
        kind="libvirt",
        parts=_disk(SHARED),
        before=(_image("alpha", SHARED),),
        after=(("beta", "{thief}"),),
    ),
    Case(
        code="disk-locked",
        kind="libvirt",
        parts=_disk(SHARED),
        before=(_image("alpha", SHARED),),
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
    Case(code="same-host", kind="qemu", destination="alpha"),
    Case(code="destination-taken", kind="qemu", after=(("beta", "{other}"),), words="--from alpha"),
    Case(code="guest-not-running", kind="qemu", parts="-S", danger=_STANDS),
    Case(
        code="unsupported",
        kind="qemu",
        parts=f"-snapshot {_drive(SHARED, 'format=raw')}",
        before=(_image("alpha", SHARED),),
    ),
    Case(
        code="io-error",
        kind="qemu",
        parts=_BROKEN,
        before=(_image("alpha", SHARED),),
        danger="the guest stands on the destination, stopped by the same error, and the source's QEMU is left to 'segue recover'",
    ),
    Case(
        code="snapshots",
        kind="qemu",
        severity="warning",
        parts=_drive(SHARED, "format=qcow2,cache=none"),
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
    Case(code="cdrom-missing", kind="qemu", parts=f"-cdrom {ISO}", before=(_image("alpha", ISO, "2M"),)),
    Case(
        code="floppy-missing",
        kind="qemu",
        parts=f"-drive if=floppy,format=raw,file={ISO}",
        before=(_image("alpha", ISO, "1440k"),),
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
    Case(
        code="memory",
        kind="qemu",
        memory_mib=32 << 10,
        parts="-object memory-backend-ram,id=ram,size=32G,reserve=off",  # more than there is can only be had unreserved
        machine="pc,memory-backend=ram",
        danger="the guest may take more memory than the destination has, and the kernel there kills something",
    ),
    Case(code="disk-missing", kind="qemu", parts=_drive(OWN), before=(_image("alpha", OWN),)),
    Case(code="disk-other", kind="qemu", parts=_drive(OWN), before=(_image("alpha", OWN), _image("beta", OWN))),
    Case(
        code="disk-rights",
        kind="qemu",
        parts=_drive(SHARED),
        before=(_image("alpha", SHARED), ("beta", "mount --bind {shared} {shared} && mount -o remount,bind,ro {shared}")),
        undo=(("beta", "umount {shared}"),),
    ),
    Case(
        code="disk-backing",
        kind="qemu",
        parts=_drive(SHARED, "format=qcow2,cache=none"),
        before=(_image("alpha", OWN), ("alpha", f"qemu-img create -q -f qcow2 -b {OWN} -F raw {SHARED}")),
    ),
    Case(code="disk-used", kind="qemu", parts=_drive(SHARED), before=(_image("alpha", SHARED),), after=(("beta", "{thief}"),)),
    Case(
        code="disk-locked",
        kind="qemu",
        parts=_drive(SHARED),
        before=(_image("alpha", SHARED),),
        after=_LOCKED,
        undo=_UNLOCK,
    ),
    Case(
        code="memory-lock",
        kind="qemu",
        program=f"{_AS_NOBODY} {QEMU}",
        parts="-overcommit mem-lock=on",
        before=_OPEN,
        undo=_CLOSE,
    ),
    Case(
        code="disk-taken",
        kind="qemu",
        parts=_drive(OWN),
        before=(_image("alpha", OWN), _image("beta", OWN)),
        words="--copy-storage all",
    ),
    Case(
        code="disk-space",
        kind="qemu",
        severity="warning",
        parts=_drive("{own}/room/f.img"),
        before=(
            ("alpha", "mkdir -p {own}/room"),
            _image("alpha", "{own}/room/f.img"),
            ("beta", "mkdir -p {own}/room && mount -t tmpfs -o size=1m none {own}/room"),
        ),
        undo=(("beta", "umount {own}/room"),),
        words="--copy-storage all",
    ),
    Case(
        code="disk-format",
        kind="qemu",
        parts=_drive(OWN, "format=vmdk"),
        before=(("alpha", f"qemu-img create -q -f vmdk {OWN} 8M"),),
        words="--copy-storage all",
    ),
    Case(code="file-missing", kind="qemu", parts="-kernel {own}/vmlinuz", before=(("alpha", "cp {kernel} {own}/vmlinuz"),)),
)

ALL = (*LIBVIRT, *BARE)
