"""The same guest on the other side, on real QEMU: what it was started with and what became of it since arrive, or are refused."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segue.core import argv
from segue.core.model import DriverKind, GuestState, Limits, MigrationSpec
from segue.drivers.qemu import processes, twin
from segue.drivers.qemu.attempt import QemuAttempt
from segue.drivers.qemu.hypervisor import QemuHypervisor
from segue.drivers.qemu.processes import Process
from segue.drivers.qemu.session import Session
from segue.errors import PrepareFailed
from tests.support.boxes import LONG_ADDRESSES, Boxes, BoxShell, boxes
from tests.support.ledger import Ledger

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

QEMU = ("qemu-system-x86_64", "-accel", "tcg", "-display", "none")
START_DEADLINE_S = 60
MOVE_DEADLINE_S = 100
ANSWERS = Path(__file__).parent.parent / "unit" / "core" / "answers.json"

Changes = Sequence[tuple[str, dict[str, Any]]]


@pytest.fixture
def pair() -> Iterator[Boxes]:
    with boxes() as found:
        image = ["qemu-img", "create", "-q", "-f"]
        for name, kind in (("raw.img", "raw"), ("plain.qcow2", "qcow2"), ("base.qcow2", "qcow2")):
            subprocess.run([*image, kind, found.shared / name, "8M"], check=True)
        base = str(found.shared / "base.qcow2")
        subprocess.run([*image, "qcow2", "-b", base, "-F", "qcow2", found.shared / "over.qcow2"], check=True)
        for name in ("one.iso", "two.iso"):
            (found.shared / name).write_bytes(name.encode() * 4096)
        yield found


def words(pair: Boxes, *given: str, name: str = "web") -> list[str]:
    """A command line with its places filled in: @S what both hosts share, @P what each has for itself."""
    monitor = f"unix:{pair.private}/q,server=on,wait=off"
    filled = [word.replace("@S", str(pair.shared)).replace("@P", str(pair.private)) for word in given]
    return [*QEMU, "-name", argv.join_list([("guest", name)]), "-qmp", monitor, *filled]


async def running(host: QemuHypervisor, name: str = "web") -> Process:
    """The guest, as soon as its monitor says that it runs, and it was listed as who it is: with -runas it gives up its rights."""
    async with asyncio.timeout(START_DEADLINE_S):
        while True:
            found = [guest for guest in await host.guests() if guest.name == name]
            if found and found[0].state is GuestState.RUNNING:
                process = await host.process(name)
                assert process is not None
                if found[0].process is not None and found[0].process.user == (process.user or process.me):
                    return process
            await asyncio.sleep(0.05)


async def change(pair: Boxes, host: QemuHypervisor, changes: Changes) -> None:
    process = await running(host)
    async with host.sessions.use(process) as session:
        for command, arguments in changes:
            text = json.dumps(arguments).replace("@S", str(pair.shared)).replace("@P", str(pair.private))
            await session.execute(command, json.loads(text))
            if command == "device_del":
                await unplugged(session, arguments["id"])


async def unplugged(session: Session, name: str) -> None:
    """QEMU takes a device away when nobody uses it any more."""
    async with asyncio.timeout(START_DEADLINE_S):
        while True:
            there = await session.execute("qom-list", {"path": "/machine/peripheral"}), await session.execute("query-block")
            if f'"{name}"' not in json.dumps(there):
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def attempt(source: QemuHypervisor, destination: QemuHypervisor, name: str = "web") -> AsyncIterator[QemuAttempt]:
    spec = MigrationSpec(
        id=secrets.token_hex(4),
        guest=name,
        source=source.host,
        destination=destination.host,
        driver=DriverKind.QEMU,
        limits=Limits(),
    )
    async with asyncio.timeout(MOVE_DEADLINE_S), aclosing(QemuAttempt(spec, source, destination, Ledger())) as found:
        yield found


async def move(source: QemuHypervisor, destination: QemuHypervisor, name: str = "web") -> Process:
    """Move it; the process that it is then."""
    async with attempt(source, destination, name) as moving:
        await moving.prepare()
        async for _ in moving.perform():
            pass
        await moving.finish()
        await moving.confirm()
    assert await source.process(name) is None
    return await running(destination, name)


async def there_and_back(pair: Boxes, name: str = "web") -> Process:
    """Move it to beta and back; what it is on beta. The second move must have nothing to rewrite any more."""
    await running(pair.alpha, name)
    on_beta = await move(pair.alpha, pair.beta, name)
    on_alpha = await move(pair.beta, pair.alpha, name)
    assert on_alpha.line == on_beta.line
    return on_beta


async def refused(pair: Boxes, match: str) -> None:
    """It is not moved, it goes on, and nothing is left on beta."""
    before = sorted((pair.root / "beta").iterdir())
    async with attempt(pair.alpha, pair.beta) as moving:
        with pytest.raises(PrepareFailed, match=match):
            await moving.prepare()
        await moving.roll_back()
    await running(pair.alpha)
    assert await pair.beta.process("web") is None
    assert sorted((pair.root / "beta").iterdir()) == before


PC = ["-machine", "pc", "-smp", "4", "-m", "64", "-drive", "file=@S/raw.img,format=raw,if=virtio", "-drive", "file=@S/over.qcow2"]
PC += ["-cdrom", "@S/one.iso", "-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0"]
PC += ["-device", "virtio-serial-pci", "-chardev", "socket,id=ga,path=@P/ga,server=on,wait=off"]
PC += ["-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0"]

Q35 = ["-machine", "q35", "-smp", "1,maxcpus=4", "-m", "size=64M,slots=4,maxmem=1G"]
Q35 += ["-device", "pcie-root-port,id=rp1,chassis=1", "-device", "pcie-root-port,id=rp2,chassis=2"]
Q35 += ["-device", "qemu-xhci", "-device", "ide-cd,id=cd", "-device", "virtio-serial-pci,id=vs", "-cdrom", "@S/one.iso"]
PLUGGED: Changes = [
    ("blockdev-add", {"driver": "qcow2", "node-name": "extra", "file": {"driver": "file", "filename": "@S/plain.qcow2"}}),
    ("device_add", {"driver": "virtio-scsi-pci", "id": "scsi", "bus": "rp1"}),
    ("device_add", {"driver": "scsi-hd", "id": "sda", "drive": "extra", "bus": "scsi.0"}),
    ("netdev_add", {"type": "user", "id": "net9"}),
    ("device_add", {"driver": "e1000e", "id": "nic9", "netdev": "net9", "bus": "rp2"}),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "mem1", "size": 1 << 26}),
    ("device_add", {"driver": "pc-dimm", "id": "dimm1", "memdev": "mem1"}),
    ("device_add", {"driver": "qemu64-x86_64-cpu", "id": "cpu2", "socket-id": 0, "core-id": 2, "thread-id": 0}),
    ("device_add", {"driver": "usb-tablet", "id": "tablet"}),
    (
        "chardev-add",
        {
            "id": "port",
            "backend": {
                "type": "socket",
                "data": {"addr": {"type": "unix", "data": {"path": "@P/port"}}, "server": True, "wait": False},
            },
        },
    ),
    ("device_add", {"driver": "virtserialport", "chardev": "port", "name": "org.example", "bus": "vs.0"}),
    ("blockdev-change-medium", {"id": "cd", "filename": "@S/two.iso", "format": "raw"}),
    ("eject", {"device": "ide2-cd0"}),
]


async def test_a_pc_with_disks_of_every_kind_and_another_medium(pair: Boxes):
    pair.start(words(pair, *PC))
    await change(pair, pair.alpha, [("blockdev-change-medium", {"device": "ide1-cd0", "filename": "@S/two.iso"})])
    moved = await there_and_back(pair)
    assert f"index=2,media=cdrom,file={pair.shared}/two.iso,format=raw,readonly=on" in moved.line.all("drive")
    assert moved.line.all("machine") == ["type=pc-i440fx-7.2"]
    assert moved.line.all("cpu") == ["qemu64"]


async def test_what_was_plugged_in_arrives(pair: Boxes):
    pair.start(words(pair, *Q35))
    await change(pair, pair.alpha, PLUGGED)
    moved = await there_and_back(pair)
    ids = {found.get("id") for found in moved.line.each("device")}
    assert {"scsi", "sda", "nic9", "dimm1", "cpu2", "tablet"} <= ids
    async with pair.alpha.sessions.use(await running(pair.alpha)) as session:
        summary = await session.query("query-memory-size-summary")
        cpus = await session.execute("query-cpus-fast")
    assert summary == {"base-memory": 1 << 26, "plugged-memory": 1 << 26}
    assert isinstance(cpus, list)
    assert len(cpus) == 2


async def test_the_answers_that_the_unit_tests_read_are_still_what_qemu_answers(pair: Boxes):
    pair.start(words(pair, *Q35))
    await change(pair, pair.alpha, PLUGGED)
    async with pair.alpha.sessions.use(await running(pair.alpha)) as session:
        answers = await twin._ask(session, {**twin._SHAPE, **twin._NOW})
        answers |= await twin._features(session, answers)
    recorded = json.loads(ANSWERS.read_text())["answers"]
    assert {key: form(answer) for key, answer in answers.items()} == {key: form(answer) for key, answer in recorded.items()}


def form(answer: object) -> object:
    """Which members an answer has, and of which type."""
    if isinstance(answer, dict):
        return {key: form(inner) for key, inner in answer.items()}
    if isinstance(answer, list):
        return sorted({json.dumps(form(inner), sort_keys=True) for inner in answer})
    return type(answer).__name__


async def test_what_was_unplugged_stays_away(pair: Boxes):
    given = ["-machine", "q35", "-m", "64", "-device", "virtio-scsi-pci,id=scsi", "-device", "qemu-xhci"]
    given += ["-blockdev", "driver=qcow2,node-name=disk,file.driver=file,file.filename=@S/plain.qcow2"]
    given += ["-device", "scsi-hd,id=sda,drive=disk", "-device", "scsi-cd,id=sr0", "-device", "usb-kbd,id=kbd"]
    given += ["-device", "usb-tablet", "-chardev", "null,id=c0"]
    pair.start(words(pair, *given))
    gone: Changes = [("device_del", {"id": "sda"}), ("device_del", {"id": "kbd"}), ("chardev-remove", {"id": "c0"})]
    await change(pair, pair.alpha, [*gone, ("blockdev-del", {"node-name": "disk"})])
    moved = await there_and_back(pair)
    assert {found.get("id") for found in moved.line.each("device")} == {"scsi", "sr0", None}
    assert not moved.line.has("blockdev", "chardev")


@pytest.mark.parametrize("given", ["drive", "blockdev"])
async def test_a_disk_that_got_an_overlay_a_size_and_a_balloon(pair: Boxes, given: str):
    disk = {
        "drive": ["-drive", "id=disk,if=none,file=@S/plain.qcow2,format=qcow2"],
        "blockdev": ["-blockdev", "driver=qcow2,node-name=disk,file.driver=file,file.filename=@S/plain.qcow2"],
    }[given]
    rest = ["-device", "virtio-blk-pci,id=vda,drive=disk", "-device", "virtio-balloon-pci", "-m", "64"]
    pair.start(words(pair, *disk, *rest))
    name = "device" if given == "drive" else "node-name"
    overlay = {name: "disk", "snapshot-file": "@S/overlay.qcow2", "format": "qcow2"}
    overlay |= {"snapshot-node-name": "top"} if given == "blockdev" else {}
    changes: Changes = [("block_resize", {name: "disk", "size": 1 << 24}), ("blockdev-snapshot-sync", overlay)]
    await change(pair, pair.alpha, [*changes, ("balloon", {"value": 48 << 20})])
    moved = await there_and_back(pair)
    assert any("overlay.qcow2" in value for value in moved.line.all("drive", "blockdev"))
    async with pair.alpha.sessions.use(await running(pair.alpha)) as session:
        blocks = await session.execute("query-block")
    assert isinstance(blocks, list)
    assert [block["inserted"]["image"]["virtual-size"] for block in blocks if "inserted" in block] == [1 << 24]


async def test_ports_that_are_taken_give_way(pair: Boxes):
    given = ["-m", "64", "-vnc", "127.0.0.1:7", "-netdev", "user,id=n0,hostfwd=tcp:127.0.0.1:5522-:22,hostfwd=tcp::5580-:80"]
    given += ["-device", "virtio-net-pci,netdev=n0"]
    pair.start([word for word in words(pair, *given) if word not in ("-display", "none")])
    shell = pair.beta.shell
    assert isinstance(shell, BoxShell)
    listen = "import socket; kept = [socket.create_server(('127.0.0.1', p)) for p in (5907, 5522)]; print(flush=True); input()"
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(*shell.enter(), "python3", "-c", listen, stdin=pipe, stdout=pipe)
    assert other.stdout is not None
    await other.stdout.readline()
    await running(pair.alpha)
    moved = await move(pair.alpha, pair.beta)
    await other.communicate(b"\n")
    assert moved.line.all("vnc") == ["127.0.0.1:8"]
    assert moved.line.all("netdev") == ["user,id=n0,hostfwd=tcp:127.0.0.1:5523-:22,hostfwd=tcp::5580-:80"]


async def test_a_daemon_with_relative_paths_a_pidfile_and_options_in_a_file(pair: Boxes):
    config = '[machine]\n  type = "pc"\n\n[drive "disk"]\n  if = "virtio"\n  format = "raw"\n  file = "@S/raw.img"\n'
    config += '[chardev "mon"]\n  backend = "socket"\n  path = "it\'s q"\n  server = "on"\n  wait = "off"\n'
    config += '[mon "m"]\n  mode = "control"\n  chardev = "mon"\n'
    (pair.root / "alpha" / "web.cfg").write_text(config.replace("@S", str(pair.shared)))
    given = ["-name", "web", "-m", "64", "-daemonize", "-pidfile", "web.pid", "-readconfig", "web.cfg", "-serial", "file:web.log"]
    pair.start([*QEMU, *given], env={"TZ": "Asia/Tokyo", "SECRET": "x"})
    before = await running(pair.alpha)
    assert (before.cwd, before.environment) == (str(pair.private), {"TZ": "Asia/Tokyo"})
    moved = await there_and_back(pair)
    assert (moved.cwd, moved.environment) == (str(pair.private), {"TZ": "Asia/Tokyo"})
    assert not moved.line.has("readconfig", "daemonize")
    assert (pair.root / "alpha" / "web.pid").exists()
    assert sorted(path.name for path in (pair.root / "beta").iterdir()) == ["web.log"]


@pytest.mark.parametrize("given", [["-daemonize", "-hda", "raw.img"], ["-chroot", "@P", "-hda", "@S/raw.img"]])
async def test_what_could_not_let_go_of_its_disk_is_said_before(pair: Boxes, given: list[str]):
    (pair.root / "alpha" / "raw.img").symlink_to(pair.shared / "raw.img")
    pair.start(words(pair, "-m", "64", *given))
    await running(pair.alpha)
    [guest] = await pair.alpha.guests()
    assert "cannot hand over the disk" in guest.obstacle
    await refused(pair, "cannot hand over the disk")


async def test_a_disk_that_its_user_may_not_write_there_is_noticed(pair: Boxes):
    (pair.shared / "raw.img").chmod(0o644)
    pair.start(words(pair, "-m", "64", "-runas", "nobody", "-drive", "file=@S/raw.img,format=raw"))
    await running(pair.alpha)
    await refused(pair, "may not be written to by the user that the guest runs as")


async def test_a_guest_of_another_user_stays_that_users(pair: Boxes):
    for path in pair.shared.iterdir():
        path.chmod(0o666)
    other = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]
    pair.start([*other, *words(pair, "-m", "64", "-drive", "file=@S/raw.img,format=raw")])
    await running(pair.alpha)
    [guest] = await pair.alpha.guests()
    assert guest.process is not None
    assert (guest.process.user, guest.obstacle) == ("nobody", "")
    moved = await there_and_back(pair)
    assert moved.user == "nobody"


async def test_a_guest_that_gave_up_its_rights_does_so_again(pair: Boxes):
    pair.start(words(pair, "-m", "64", "-runas", "nobody", "-sandbox", "on", "-uuid", "7D5A8B6C-0000-4000-8000-000000000001"))
    moved = await there_and_back(pair)
    assert moved.user == "nobody"
    assert moved.line.has("runas")
    assert argv.uuid(moved.line) == "7d5a8b6c-0000-4000-8000-000000000001"


@pytest.mark.parametrize("name", ["a b", "it's", '"q", $(id)', "two\nlines", "ünï", "\udcff"])
async def test_odd_names_and_directories(pair: Boxes, name: str):
    for host in ("alpha", "beta"):
        (pair.root / host / f"dir {name}").mkdir()
    (pair.shared / f"disk {name}").write_bytes(bytes(4096))
    disk = argv.join_list([("file", f"{pair.shared}/disk {name}"), ("format", "raw"), ("if", "virtio")])
    pair.start(words(pair, "-m", "64", "-drive", disk, name=name), cwd=pair.private / f"dir {name}")
    await running(pair.alpha, name)
    moved = await there_and_back(pair, name)
    assert (moved.name, moved.cwd) == (name, str(pair.private / f"dir {name}"))


@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="no tap devices here")
async def test_a_tap_of_the_same_name(pair: Boxes):
    for host in (pair.alpha, pair.beta):
        await host.shell.run(["ip", "tuntap", "add", "tap7", "mode", "tap"], deadline_s=5)
    given = ["-m", "64", "-netdev", "tap,id=n0,ifname=tap7,script=no,downscript=no", "-device", "virtio-net-pci,netdev=n0"]
    pair.start(words(pair, *given))
    await running(pair.alpha)
    await there_and_back(pair)


async def test_memory_travels_by_ipv6_too(pair: Boxes):
    pair.start(words(pair, "-m", "64"))
    await running(pair.alpha)
    there = replace(pair.beta.address, migration_address=LONG_ADDRESSES[1], migration_ports=(50000, 50003))
    await move(pair.alpha, QemuHypervisor(there, pair.beta.shell))


async def test_files_are_checked_on_the_destination(pair: Boxes):
    for host in ("alpha", "beta"):
        (pair.root / host / "rom").write_bytes(bytes(65536))
    (pair.root / "alpha" / "mine.img").write_bytes(bytes(65536))
    given = ["-m", "64", "-drive", "file=@P/mine.img,format=raw", "-cdrom", "@P/rom"]
    pair.start(words(pair, *given))
    await running(pair.alpha)
    await refused(pair, r"Beta has no .*/mine\.img \(disk ide0-hd0\)")
    (pair.root / "beta" / "mine.img").write_bytes(bytes(65536))
    await refused(pair, r"mine\.img on beta is another file than the one that the guest writes to")
    (pair.root / "beta" / "mine.img").unlink()
    (pair.root / "beta" / "mine.img").hardlink_to(pair.root / "alpha" / "mine.img")
    (pair.root / "beta" / "rom").write_bytes(b"other" * 20000)
    await refused(pair, r"rom on beta has other contents than on alpha")
    (pair.root / "beta" / "rom").write_bytes(bytes(65536))
    await move(pair.alpha, pair.beta)


async def test_what_no_command_line_can_say_is_refused_by_name(pair: Boxes):
    pair.start(words(pair, *Q35))
    data = {"type": "file", "data": {"out": "@P/out"}}
    port = {"driver": "virtserialport", "id": "p9", "chardev": "odd", "bus": "vs.0"}
    await change(pair, pair.alpha, [("chardev-add", {"id": "odd", "backend": data}), ("device_add", port)])
    await refused(pair, "virtserialport p9 was plugged in .* its character device odd")


async def test_another_machine_is_noticed_before_a_byte_moves(pair: Boxes):
    pair.start(words(pair, *Q35))
    other = pair.root / "beta" / "other"
    other.mkdir()
    here = await running(pair.alpha)
    line = argv.parse([*words(pair, *Q35, "-device", "usb-kbd,id=kbd"), "-S"])
    there = await processes.start(pair.beta.shell, line, monitor=f"{pair.private}/q", like=here)
    async with pair.alpha.sessions.use(here) as one, pair.beta.sessions.use(there) as two:
        shapes = (await twin.shape(one), await twin.shape(two))
        twin.check_same(shapes[0], shapes[0], names=("alpha", "beta"))
        with pytest.raises(PrepareFailed, match=r"beta has usb-kbd kbd \(usb-bus\.0.*\), alpha has not"):
            twin.check_same(*shapes, names=("alpha", "beta"))
