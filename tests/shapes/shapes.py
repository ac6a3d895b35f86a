"""What guests are made of, and how they travel: the rows and columns of the table.

What may live here: values. In their words @S is a directory that both hosts share, @R one of each host's own, @N the guest's
number in the lab, @A the accelerator. How a shape is started and moved is in `play`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segue import units
from segue.lab.kernel import memory_bytes

Changes = Sequence[tuple[str, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One guest.

    Attributes:
        title: for the table.
        about: what there is to it.
        name: its own, odd where that is the point.
        words: of its QEMU, beside those that every shape has.
        changes: what is done to it over QMP once it runs.
        keeps: what the command line of its last QEMU must still have.
        loses: and what not.
        cwd: where it is started.
        user: whom it runs as.
        no_postcopy: what Segue has to say when it refuses post-copy; empty where it can.
    """

    title: str
    about: str
    name: str
    words: Sequence[str]
    changes: Changes = ()
    keeps: Sequence[str] = ()
    loses: Sequence[str] = ()
    cwd: str = "@R"
    user: str = "root"
    no_postcopy: str = ""


TAP = ("-netdev", "bridge,id=net0,br=br0", "-device", "virtio-net-pci,netdev=net0,mac=52:54:00:77:00:@N,romfile=")
ODD = f"{memory_bytes(192 * units.MIB, 'tcg') // units.KIB}k"
MONITOR = ("-qmp", "unix:@R/shape.qmp,server=on,wait=off")

CHANGED = Shape(
    title="changed",
    about="pc, 4 CPUs; raw disk, qcow2 over a base; CD-ROM in which another medium is now; tap; VNC; virtio-serial; a name with "
    "spaces, quotes, commas, a newline and letters that are no ASCII",
    name='it\'s a "näme",\n, odd',
    words=[
        *("-machine", "pc,accel=@A", "-smp", "4", "-m", ODD, *MONITOR, *TAP),
        *("-drive", "file=@S/over.qcow2,format=qcow2,if=ide", "-cdrom", "@S/one.iso", "-vnc", "127.0.0.1:11"),
        *("-device", "virtio-serial-pci", "-chardev", "socket,id=ga,path=@R/shape.ga,server=on,wait=off"),
        *("-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0"),
    ],
    changes=[("blockdev-change-medium", {"device": "ide1-cd0", "filename": "@S/two.iso"})],
    keeps=["two.iso", "over.qcow2", "virtserialport", "pc-i440fx-", "-vnc"],
    loses=["one.iso"],
)
PLUGGED = Shape(
    title="plugged",
    about="q35, 1 CPU; raw disk; a qcow2 disk, a NIC and memory plugged in, a disk plugged out; tap, and user networking on that "
    "NIC",
    name="plugged",
    words=[
        *("-machine", "q35,accel=@A", "-smp", "1", "-m", f"size={ODD},slots=2,maxmem=1G", *MONITOR, *TAP, "-display", "none"),
        *("-device", "pcie-root-port,id=rp1,chassis=1", "-device", "pcie-root-port,id=rp2,chassis=2", "-device", "qemu-xhci"),
        *("-device", "virtio-scsi-pci,id=scsi"),
        *("-blockdev", "driver=raw,node-name=old,file.driver=file,file.filename=@S/raw.img"),
        *("-device", "scsi-hd,id=sdb,drive=old,bus=scsi.0"),
    ],
    changes=[
        ("blockdev-add", {"driver": "qcow2", "node-name": "extra", "file": {"driver": "file", "filename": "@S/plain.qcow2"}}),
        ("device_add", {"driver": "scsi-hd", "id": "sda", "drive": "extra", "bus": "scsi.0"}),
        ("netdev_add", {"type": "user", "id": "net9"}),
        ("device_add", {"driver": "e1000e", "id": "nic9", "netdev": "net9", "bus": "rp2"}),
        ("object-add", {"qom-type": "memory-backend-ram", "id": "mem1", "size": 1 << 26}),
        ("device_add", {"driver": "pc-dimm", "id": "dimm1", "memdev": "mem1"}),
        ("device_del", {"id": "sdb"}),
        ("blockdev-del", {"node-name": "old"}),
    ],
    keeps=["plain.qcow2", "nic9", "dimm1", "pc-q35-"],
    loses=["raw.img", "sdb"],
)
DAEMON = Shape(
    title="daemon",
    about="q35, 4 CPUs; raw disks; daemonized, its monitor, pidfile and a log at relative paths; tap, and user networking with a "
    "forwarded port",
    name="daemon",
    words=[
        *("-machine", "q35,accel=@A", "-smp", "4", "-m", ODD, "-qmp", "unix:shape.qmp,server=on,wait=off", *TAP),
        *("-display", "none", "-daemonize", "-pidfile", "shape.pid", "-parallel", "file:shape.log"),
        *("-drive", "file=@S/raw.img,format=raw,if=ide", "-netdev", "user,id=n1,hostfwd=tcp:127.0.0.1:5522-:22"),
        *("-device", "e1000,netdev=n1"),
    ],
    keeps=["raw.img", "hostfwd=tcp:127.0.0.1:5522-:22"],
    loses=["-daemonize"],
)
NOBODY = Shape(
    title="nobody",
    about="pc, 1 CPU; run by a user who is not root; raw disk, and a qcow2 at a relative path; user networking; VNC",
    name="nobody's",
    words=[
        *("-machine", "pc,accel=@A", "-m", ODD, *MONITOR, "-drive", "file=plain.qcow2,format=qcow2,if=ide", "-vnc", ":12"),
        *("-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile="),
    ],
    keeps=["plain.qcow2", "-vnc"],
    cwd="@S",
    user="nobody",
    no_postcopy="userfaultfd",
)
SHAPES = (CHANGED, PLUGGED, DAEMON, NOBODY)


@dataclass(frozen=True, kw_only=True)
class Way:
    """How it travels: the words for it."""

    title: str
    words: Sequence[str]
    postcopy: bool = False


NATIVE = Way(title="native", words=["--transport", "native"])
TLS = Way(title="TLS", words=["--transport", "tls"])
TLS_PSK = Way(title="TLS-PSK", words=["--transport", "tls-psk"])
SSH = Way(title="through ssh", words=["--transport", "tunnelled"])
MULTIFD = Way(title="multifd", words=["--connections", "4"])
POSTCOPY = Way(
    title="post-copy", words=["--postcopy", "prefer", "--bandwidth", "20MiB/s", "--max-downtime", "1ms"], postcopy=True
)
WAYS = (NATIVE, TLS, TLS_PSK, SSH, MULTIFD, POSTCOPY)
