"""How findings are provoked by what is around a guest: other programs, the machine it runs on, its memory, its daemon's files.

What may live here: data, as in `cases`.
"""

from __future__ import annotations

from typing import Final

from tests.findings.cases import (
    AS_NOBODY,
    CLOSE,
    LITTLE_ROOM,
    MICROVM,
    NO_ROOM,
    OPEN,
    OWN,
    PROGRAM,
    ROOMY,
    SHARED,
    STOPPED,
    WEAKER,
    Case,
    Command,
    disk,
    drive,
    image,
)

_BOTH: Final = ("alpha", "beta")
_SHARED_MEMORY: Final = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
_MEMFD: Final = "-object memory-backend-memfd,id=ram,size=64M,share=on"
_BLOCK_DAEMON: Final = tuple(
    (
        host,
        f"qemu-img create -q -f raw {OWN} 8M && qemu-storage-daemon --daemonize --pidfile /run/vu.pid"
        f" --blockdev driver=file,node-name=f,filename={OWN}"
        " --export type=vhost-user-blk,id=e,node-name=f,writable=on,addr.type=unix,addr.path={own}/vu.sock",
    )
    for host in _BOTH
)
_NO_BLOCK_DAEMON: Final = tuple((host, "kill $(cat /run/vu.pid); rm -f /run/vu.pid") for host in _BOTH)
_FILE_DAEMON: Final = (
    (
        "alpha",
        "setsid --fork /usr/lib/qemu/virtiofsd --socket-path={own}/fs.sock -o source={own} -o sandbox=chroot"
        " >/dev/null 2>&1 </dev/null; until [ -S {own}/fs.sock ]; do sleep .02; done",
    ),
)
_READS_FAIL: Final = (
    "driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={shared}/f.img,"
    "file.inject-error.0.event=read_aio,file.inject-error.0.errno=5"
)
_BROKEN_SERVER: Final = (
    image("alpha", SHARED),
    ("alpha", f"qemu-nbd --fork --persistent --shared=4 --pid-file=/run/nbd.pid --port 10809 --image-opts {_READS_FAIL}"),
)
_BROKEN_DISK: Final = (
    "<disk type='network' device='disk'><driver name='qemu' type='raw' error_policy='stop' rerror_policy='stop'/>"
    "<source protocol='nbd'><host name='10.77.0.11' port='10809'/></source><target dev='vda' bus='virtio'/>"
    "<boot order='1'/></disk>"
)
_LOOP: Final = (
    image("alpha", SHARED),
    ("alpha", f"ln -s $(losetup --find --show {SHARED}) {{shared}}/disk"),
)
_NO_LOOP: Final = (("alpha", "losetup --detach $(readlink {shared}/disk)"),)
_AGAIN: Final = (
    "kill $(cat /run/libvirtd.pid); while pgrep -x libvirtd >/dev/null; do sleep .02; done; libvirtd --daemon --listen;"
    " until virsh -q list >/dev/null 2>&1; do sleep .02; done"
)
_SAVED: Final = "/var/lib/libvirt/qemu/save/{name}.save"
_PAGES: Final = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
_SET_ASIDE: Final = (
    (
        "alpha",  # one pool for the whole machine: nobody else changes it as long as this lasts
        f"setsid --fork sh -c 'exec 9<{_PAGES}; flock 9; cat {_PAGES} >/run/pages; echo $((32 + $(cat /run/pages))) >{_PAGES};"
        " echo $$ >/run/pages.pid; exec sleep 300' >/dev/null 2>&1 </dev/null; until [ -s /run/pages.pid ]; do sleep .02; done",
    ),
)
_NOT_SET_ASIDE: Final = (("alpha", f"cat /run/pages >{_PAGES}; kill $(cat /run/pages.pid); rm -f /run/pages /run/pages.pid"),)
_MODULES: Final = "/usr/lib/x86_64-linux-gnu/qemu"
_WRITES: Final = "-kernel {kernel} -initrd {initramfs} -append '{busy}'"
_AES: Final = "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>Westmere</model></cpu>"


def slowly(verb: str) -> tuple[Command, ...]:
    """What alpha sends goes at 20 Mbit/s."""
    return (("alpha", f"tc qdisc {verb} dev up0 root" + " tbf rate 20mbit burst 64kb latency 50ms" * (verb == "add")),)


DEVICES: Final = (
    Case(
        code="vhost-user",
        kind="libvirt",
        severity="warning",
        top=_SHARED_MEMORY,
        parts="<disk type='vhostuser' device='disk'><driver name='qemu' type='raw'/><source type='unix' path='{own}/vu.sock'/>"
        "<target dev='vda' bus='virtio'/></disk>",
        before=_BLOCK_DAEMON,
        undo=_NO_BLOCK_DAEMON,
    ),
    Case(
        code="vhost-user",
        kind="qemu",
        severity="warning",
        machine="pc,memory-backend=ram",
        parts=f"{_MEMFD} -chardev socket,id=vu,path={{own}}/vu.sock -device vhost-user-blk-pci,chardev=vu",
        before=_BLOCK_DAEMON,
        undo=_NO_BLOCK_DAEMON,
    ),
    Case(
        code="virtiofs",
        kind="libvirt",
        top=_SHARED_MEMORY,
        parts="<filesystem type='mount'><driver type='virtiofs'/><binary path='/usr/lib/qemu/virtiofsd'><sandbox mode='chroot'/>"
        "</binary><source dir='{own}'/><target dir='x'/></filesystem>",
    ),
    Case(
        code="virtiofs",
        kind="qemu",
        machine="pc,memory-backend=ram",
        parts=f"{_MEMFD} -chardev socket,id=fs,path={{own}}/fs.sock -device vhost-user-fs-pci,chardev=fs,tag=x",
        before=_FILE_DAEMON,
    ),
    Case(
        code="device-unknown",
        kind="qemu",
        parts="-device virtio-gpu-pci",
        before=(("beta", f"mkdir {{own}}/m && cp {_MODULES}/accel-* {{own}}/m/ && mount --bind {{own}}/m {_MODULES}"),),
        undo=(("beta", f"umount {_MODULES}"),),
    ),
)
"""Those whose other half is a program; and one that a host has no package for."""

MACHINE: Final = (
    *(Case(code="emulation", kind=kind, severity="warning") for kind in ("libvirt", "qemu")),
    Case(code="accelerator", kind="libvirt", program=PROGRAM, before=MICROVM),
    Case(code="cpu-features", kind="libvirt", program=PROGRAM, cpu=_AES, before=WEAKER),
    Case(code="cpu-passthrough", kind="libvirt", severity="note", cpu="<cpu mode='maximum'/>"),
    Case(code="memory-lock", kind="libvirt", words="--migration-uri rdma://beta"),
    Case(
        code="huge-pages",
        kind="libvirt",
        top="<memoryBacking><hugepages/></memoryBacking>",
        before=_SET_ASIDE,
        undo=_NOT_SET_ASIDE,
    ),
    Case(
        code="huge-pages",
        kind="qemu",
        machine="pc,memory-backend=ram",
        parts="-object memory-backend-memfd,id=ram,size=64M,hugetlb=on,prealloc=on",
        before=_SET_ASIDE,
        undo=_NOT_SET_ASIDE,
    ),
    Case(
        code="postcopy-rights",
        kind="qemu",
        severity="warning",
        program=f"{AS_NOBODY} /usr/bin/qemu-system-x86_64",
        words="--postcopy",
        before=OPEN,
        undo=CLOSE,
    ),
    Case(
        code="promise",
        kind="libvirt",
        memory_mib=256,
        os="<kernel>{kernel}</kernel><initrd>{initramfs}</initrd><cmdline>{busy}</cmdline>",
        after=(*slowly("add"), ("alpha", "sleep 8")),
        undo=slowly("del"),
        words="--within 10s --no-auto-converge",
    ),
    Case(
        code="promise",
        kind="qemu",
        memory_mib=256,
        parts=_WRITES,
        after=(*slowly("add"), ("alpha", "sleep 8")),
        undo=slowly("del"),
        words="--within 10s --no-auto-converge",
    ),
)

STORAGE: Final = (
    Case(
        code="io-error",
        kind="libvirt",
        parts=_BROKEN_DISK,
        before=_BROKEN_SERVER,
        undo=(("alpha", "kill $(cat /run/nbd.pid)"),),
        danger=STOPPED,
    ),
    Case(
        code="managed-save",
        kind="libvirt",
        severity="warning",
        after=(("alpha", f"mkdir -p $(dirname {_SAVED}) && touch {_SAVED} && {_AGAIN}"),),
        undo=(("alpha", f"rm -f {_SAVED}; {_AGAIN}"),),
    ),
    Case(
        code="disk-space",
        kind="libvirt",
        severity="warning",
        parts=disk(ROOMY),
        before=LITTLE_ROOM,
        undo=NO_ROOM,
        words="--copy-storage all",
    ),
    Case(
        code="disk-unproven",
        kind="libvirt",
        severity="warning",
        parts=disk("{shared}/disk").replace("type='file'", "type='block'", 1).replace("<source file", "<source dev"),
        before=_LOOP,
        undo=_NO_LOOP,
    ),
    Case(
        code="disk-unproven",
        kind="qemu",
        severity="warning",
        parts=drive("{shared}/disk"),
        before=_LOOP,
        undo=_NO_LOOP,
    ),
)

AROUND: Final = (*DEVICES, *MACHINE, *STORAGE)
