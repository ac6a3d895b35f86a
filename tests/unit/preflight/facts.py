"""Facts of a pair between which a guest can move, to be changed in one point."""

from __future__ import annotations

from dataclasses import replace

from segue.core.capabilities import NEEDED
from segue.core.connectivity import Clock, HostSeen, Pair, Reply, Sent
from segue.core.evidence import Evidence, Sighting
from segue.core.files import Seen
from segue.core.model import DriverKind, Guest, GuestState, HostAddress, MigrationSpec
from segue.core.preflight import judge
from segue.core.preflight.facts import (
    Cpu,
    DiskPart,
    Facts,
    Files,
    Ground,
    HostMemory,
    Link,
    Memory,
    Offer,
    Parts,
    Path,
    Side,
    Standing,
)
from segue.core.preflight.findings import Severity

HERE = Side(host="alpha", identity="a")
THERE = Side(host="beta", identity="b")
RUNNING = Standing(state=GuestState.RUNNING, raw="running")
DISK = DiskPart(name="vda", path="/srv/web.img")
PARTS = Parts(
    machine="pc-q35-7.2",
    accelerator="kvm",
    emulator="/usr/bin/qemu-system-x86_64",
    qemu=(7, 2, 22),
    memory=Memory(total_bytes=1 << 30),
    cpu=Cpu(model="Skylake-Server", features=frozenset({"avx2"})),
    disks=(DISK,),
    capabilities=frozenset(NEEDED),
)
OFFER = Offer(
    qemu=(7, 2, 22),
    machines=frozenset({"pc-q35-7.2", "q35"}),
    accelerators=frozenset({"kvm", "tcg"}),
    memory=HostMemory(available_bytes=2 << 30, pages={2 << 20: 600}, nodes={0: 2 << 30}),
    lacking=(),
    capabilities=frozenset(NEEDED),
    cpus=8,
)
ON_NFS = Seen(identity="30:77", inode="77", size_bytes=1 << 30, filesystem="nfs", owner="107:107 660")
FILES = Files(here={DISK.path: ON_NFS}, there={DISK.path: ON_NFS}, proven={DISK.path: True})


_HERE = HostSeen(
    host="alpha",
    hostname="alpha",
    user="root",
    clock=Clock(ahead_ms=0, error_ms=20),
    addresses={"alpha": ("10.0.0.1",), "beta": ("10.0.0.2",)},
    mtu=1500,
)
WORKED = Reply(worked=True)
PAIR = Pair(
    source=_HERE,
    destination=replace(_HERE, host="beta", hostname="beta"),
    there=(HostAddress(name="beta", uri="qemu+tcp://beta/system", driver=DriverKind.LIBVIRT, migration_address="10.0.0.2"),),
    sent=Sent(address="10.0.0.2", port=49215, reply=WORKED, sent_bytes=1 << 20, took_ms=10, mtu=1500),
    source_address="10.0.0.1",
)
GROUND = Ground(links={"br0": Link(mtu=1500), "eth0": Link(mtu=1500)}, networks=frozenset({"default"}), userfault=True)
PATH = Path(pair=PAIR, here=GROUND, there=GROUND)


def absent(sighting: Sighting = Sighting.ABSENT) -> Evidence:
    return Evidence(host="beta", sighting=sighting, seen_at_ms=0, raw="as seen")


CLEAN = Facts(
    spec=MigrationSpec(id="1", guest="web", source="alpha", destination="beta", driver=DriverKind.LIBVIRT),
    guest=Guest(name="web", host="alpha", driver=DriverKind.LIBVIRT, state=GuestState.RUNNING),
    source=HERE,
    destination=replace(THERE, sighting=absent()),
    standing=RUNNING,
    parts=PARTS,
    offer=OFFER,
    files=FILES,
    path=PATH,
)


def said(facts: Facts) -> list[tuple[str, Severity]]:
    """What is found, in short."""
    return [(one.code, one.severity) for one in judge(facts)]
