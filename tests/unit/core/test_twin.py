"""The destination's command line: what became of a guest since its start, what gives way, what is refused. No QEMU runs here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from segue.core import argv, devices, files, live, readconfig, reproduce, twin
from segue.core.argv import Option
from segue.core.files import Seen, Use
from segue.core.reproduce import Property
from segue.errors import Unsupported
from tests.unit.test_argv import command_lines

# Answers of QEMU 7.2 about a guest with much plugged in; tests/lab/test_twin.py sees that QEMU still answers in this form.
RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "answers.json").read_text(encoding="utf-8"))
LINE = argv.parse(RECORDED["words"])
NOW = live.read(RECORDED["answers"], RECORDED["plugged"])
PROPERTIES = {key: [Property(**one) for one in found] for key, found in RECORDED["properties"].items()}
NOTHING = live.read({}, {})
NAMES = ("alpha", "beta")


def line(*words: str) -> argv.CommandLine:
    return argv.parse(["qemu-system-x86_64", *words])


def answers(**changes: object) -> dict[str, object]:
    return {**RECORDED["answers"], **{key.replace("_", "-"): value for key, value in changes.items()}}


# what is kept


@given(command_lines.filter(lambda words: "-snapshot" not in words and not any("snapshot=" in word for word in words)))
def test_a_guest_that_nothing_became_of_keeps_every_word(words):
    plain = line(*(word for word in words[1:] if word != "-daemonize"))
    # Only what is a device or a backend could be thought to have gone; nothing was asked about the others.
    others = argv.CommandLine(
        program="q", options=tuple(one for one in plain.options if one.name not in ("device", "object", "chardev", "drive"))
    )
    assert reproduce.reproduced(others, NOTHING, {}) == others


@given(command_lines)
def test_parts_are_read_and_changed_without_touching_the_rest(words):
    for option in line(*words[1:]).options:
        assert argv.edited(option, lambda _, text: text) == option or not option.value
        assert argv.changed(option, {}) == option or not option.value


@pytest.mark.parametrize(
    ("option", "changes", "wanted"),
    [
        (Option(name="device", value="virtio-blk-pci,id=a,drive=b,,c"), {"id": "x,y"}, "virtio-blk-pci,id=x,,y,drive=b,,c"),
        (Option(name="device", value="virtio-blk-pci,drive=b"), {"drive": None, "addr": "3"}, "virtio-blk-pci,addr=3"),
        (Option(name="device", value='{"driver":"x","drive":"b"}'), {"drive": "ü"}, '{"driver":"x","drive":"ü"}'),
        (Option(name="blockdev", value='{"driver":"raw","file":{"filename":"a"}}'), {"file.filename": "b"}, None),
        (Option(name="blockdev", value="raw,node-name=n"), {"read-only": True}, "raw,node-name=n,read-only=on"),
        (Option(name="chardev", value="socket,server,path=/a"), {"path": "/b"}, "socket,server,path=/b"),
        (Option(name="cpu", value="host,+vmx"), {"model": "max"}, "max,+vmx"),
    ],
)
def test_a_part_is_changed_in_its_place(option: Option, changes: dict[str, str | bool | None], wanted: str | None):
    assert argv.changed(option, changes).value == (wanted or '{"driver":"raw","file":{"filename":"b"}}')


# what came, went and changed


def test_everything_that_was_plugged_in_is_written_with_its_place():
    made = reproduce.reproduced(LINE, NOW, PROPERTIES)
    found = {one["id"]: one for one in made.each("device") if "id" in one}
    assert (found["nic9"]["bus"], found["nic9"]["addr"], found["nic9"]["netdev"]) == ("rp2", "00.0", "net9")
    assert (found["sda"]["bus"], found["sda"]["scsi-id"], found["sda"]["drive"]) == ("scsi.0", "0", "extra")
    assert (found["dimm1"]["memdev"], found["dimm1"]["addr"], found["dimm1"]["slot"]) == ("mem1", str(1 << 32), "0")
    assert found["cpu2"] == {
        "driver": "qemu64-x86_64-cpu",
        "id": "cpu2",
        "socket-id": "0",
        "core-id": "2",
        "thread-id": "0",
    }
    assert (found["tablet"]["bus"], found["tablet"]["port"]) == ("usb-bus.0", "1")
    assert [one for one in made.each("device") if one.get("chardev") == "port"][0]["nr"] == "1"  # noqa: RUF015
    assert made.options[:10] == LINE.options[:10]


def test_what_has_a_bus_comes_before_what_is_on_it_and_backends_before_both():
    order = [
        one.get("id") or one.get("node-name")
        for one in reproduce.reproduced(LINE, NOW, PROPERTIES).each("device", "blockdev", "netdev", "object", "chardev")
    ]
    for first, second in (("scsi", "sda"), ("extra", "sda"), ("net9", "nic9"), ("mem1", "dimm1")):
        assert order.index(first) < order.index(second)


def test_media_are_what_they_are_now():
    made = reproduce.reproduced(LINE, NOW, PROPERTIES)
    assert made.all("drive") == ["index=2,media=cdrom"]  # ejected
    [cd] = [one for one in made.each("device") if one.get("id") == "cd"]
    [node] = [one for one in made.each("blockdev") if one["node-name"] == cd["drive"]]
    assert (node["file.filename"], node["read-only"]) == ("/shared/two.iso", "on")


def test_the_card_that_qemu_adds_by_itself_is_said_where_another_would_replace_it():
    made = reproduce.reproduced(LINE, NOW, PROPERTIES)
    assert made.all("net") == ["nic", "user"]


def test_twice_is_once():
    once = reproduce.reproduced(LINE, NOW, PROPERTIES)
    fresh = dict.fromkeys(RECORDED["plugged"], False)  # what was plugged in there is given at the start here
    blocks = json.loads(json.dumps(RECORDED["answers"]["query-block"]))
    for block in blocks:
        if block.get("qdev") == "cd":
            block["inserted"]["node-name"] = "segue-cd"
    nodes = [*RECORDED["answers"]["query-named-block-nodes"], {"node-name": "segue-cd", "ro": True}]
    now = live.read(answers(query_block=blocks, query_named_block_nodes=nodes), fresh)
    assert reproduce.wanted(once, now) == ()
    assert reproduce.reproduced(once, now, {}) == once


def test_a_running_job_on_a_disk_is_refused():
    now = live.read(answers(query_block_jobs=[{"type": "mirror", "device": "vda"}]), RECORDED["plugged"])
    with pytest.raises(Unsupported, match="mirror of vda"):
        reproduce.reproduced(LINE, now, PROPERTIES)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"network": " \\ net9: index=0,type=l2tpv3,l2tpv3: connected"}, r"its network net9 \(l2tpv3\)"),
        ({"network": " \\ net9: index=0,type=tap,helper=/usr/lib/qemu/qemu-bridge-helper"}, "its network net9"),
        ({"query_chardev": [{"label": "port", "filename": "file"}]}, r"its character device port \(file\)"),
        ({"objects": [{"name": "mem1", "type": "child<memory-backend-epc>"}]}, r"the object mem1 \(memory-backend-epc\)"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(changes: dict[str, object], named: str):
    now = live.read(answers(**changes), RECORDED["plugged"])
    with pytest.raises(Unsupported, match=named):
        reproduce.reproduced(LINE, now, PROPERTIES)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["-M", "pc", "-hda", "a", "-cdrom", "b", "-drive", "file=c"], ["ide0-hd0", "ide1-cd0", "ide0-hd1"]),
        (["-M", "q35", "-cdrom", "b", "-drive", "file=c", "-drive", "file=d"], ["ide2-cd0", "ide0-hd0", "ide1-hd0"]),
        (["-drive", "if=virtio,file=a", "-drive", "if=virtio,file=b", "-fda", "c"], ["virtio0", "virtio1", "floppy0"]),
        (["-drive", "if=none,file=a,id=x", "-drive", "if=none,file=b", "disk"], ["x", "none1", "ide0-hd0"]),
    ],
)
def test_drives_have_the_names_that_qemu_gives_them(words: list[str], names: list[str]):
    assert [name for name in reproduce.drive_names(line(*words)) if name] == names


def test_options_in_a_file_are_options():
    text = '# a guest\n[machine]\n  type = "q35"\n\n[memory]\n  size = "1G"\n'
    text += '[device "d,0"]\ndriver = "virtio-blk-pci"\n  drive = ""\n'
    made = readconfig.expanded(line("-readconfig", "a", "-S", "-readconfig", "b"), {"a": text})
    assert list(made.words())[1:] == [
        "-machine",
        "type=q35",
        "-m",
        "size=1G",
        "-device",
        "id=d,,0,driver=virtio-blk-pci,drive=",
        "-S",
        "-readconfig",
        "b",
    ]
    with pytest.raises(ValueError, match="nonsense"):
        readconfig.options("nonsense")


# what gives way, what is said


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["-vnc", ":1,password=on"], ["-vnc", ":2,password=on"]),
        (["-vnc", "127.0.0.1:1,to=9"], ["-vnc", "127.0.0.1:1,to=9"]),
        (["-vnc", "unix:/a:1"], ["-vnc", "unix:/a:1"]),
        (["-vnc", "none"], ["-vnc", "none"]),
        (["-spice", "port=5901,disable-ticketing=on"], ["-spice", "port=5902,disable-ticketing=on"]),
        (
            ["-nic", "user,hostfwd=tcp::5901-:22,hostfwd=tcp::5902-:23"],
            ["-nic", "user,hostfwd=tcp::5902-:22,hostfwd=tcp::5903-:23"],
        ),
        (["-nic", "user,hostfwd=udp::5901-:22"], ["-nic", "user,hostfwd=udp::5901-:22"]),
        (["-nic", "user,hostfwd=::0-:22"], ["-nic", "user,hostfwd=::0-:22"]),
        (["-nic", "tap,hostfwd=tcp::5901-:22"], ["-nic", "tap,hostfwd=tcp::5901-:22"]),
    ],
)
def test_a_port_that_is_taken_gives_way(given: list[str], wanted: list[str]):
    made, moved = twin.fitted(line(*given), frozenset({("tcp", 5901)}))
    assert list(made.words())[1:] == wanted
    assert bool(moved) is (given != wanted)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["-display", "gtk,gl=on"], ["-display", "none"]),
        (["-display", "vnc=:1"], ["-display", "vnc=:1"]),
        (["-serial", "file:/a,b"], ["-chardev", "file,id=serial0,path=/a,,b,append=on", "-serial", "chardev:serial0"]),
        (
            ["-serial", "null", "-serial", "file:/a"],
            [
                "-serial",
                "null",
                "-chardev",
                "file,id=serial1,path=/a,append=on",
                "-serial",
                "chardev:serial1",
            ],
        ),
        (["-serial", "none"], ["-serial", "none"]),
        (["-preconfig", "-daemonize"], []),
    ],
)
def test_what_belongs_to_one_host_stays_there(given: list[str], wanted: list[str]):
    made = twin.for_destination(line("-M", "x", *given), aliases={}, default_machine="y")
    assert list(made.words())[3:-3] == wanted


def test_what_qemu_chose_is_said():
    assert twin.with_cpu(line(), "qemu64-x86_64-cpu").all("cpu") == ["qemu64"]
    assert twin.with_cpu(line("-cpu", "host"), "host-x86_64-cpu").all("cpu") == ["host"]
    assert twin.with_display(line(), vnc=True).all("vnc") == ["localhost:0,to=99"]
    assert twin.with_display(line(), vnc=False).all("display") == ["none"]
    assert twin.with_display(line("-nographic"), vnc=False) == line("-nographic")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["-netdev", "tap,id=n,fd=3"], "-netdev tap,id=n,fd=3"),
        (["-chardev", "socket,id=c,fd=5,server=on"], "fd=5"),
        (["-add-fd", "fd=3,set=2"], "-add-fd"),
        (["-daemonize", "-hda", "disk.img"], "as a daemon its directory is /"),
        (["-chroot", "/jail", "-drive", "file=/a"], "its root is /jail"),
        (["-run-with", "chroot=/jail", "-blockdev", "driver=file,node-name=n,filename=/a"], "its root is /jail"),
    ],
)
def test_what_could_not_be_started_or_let_go_of_is_refused(words: list[str], match: str):
    with pytest.raises(Unsupported, match=match):
        twin.refuse(line(*words))


def test_a_daemon_with_absolute_paths_and_disks_in_its_root_are_not_refused():
    twin.refuse(line("-daemonize", "-hda", "/a", "-drive", "file=nbd:host:1"))
    twin.refuse(line("-chroot", "/jail", "-hda", "/jail/a"))


@pytest.mark.parametrize(
    ("part", "value", "wanted"),
    [
        ("disk.a", "/new,1", ["-drive", "id=a,file=/new,,1,format=raw"]),
        ("disk.b", "/new", ["-blockdev", "raw,node-name=b,file.filename=/new"]),
        ("disk.c", "/new", ["-blockdev", '{"driver":"raw","node-name":"c","file":{"filename":"/new"}}']),
        ("nic.n", "bridge,br=br1", ["-netdev", "bridge,br=br1,id=n"]),
        ("vnc", ":5", ["-vnc", ":5"]),
    ],
)
def test_a_part_is_what_an_operator_wants(part: str, value: str, wanted: list[str]):
    words = ["-drive", "id=a,file=/old,format=raw", "-blockdev", "raw,node-name=b,file.filename=/old"]
    words += [
        "-blockdev",
        '{"driver":"raw","node-name":"c","file":{"filename":"/old"}}',
        "-netdev",
        "tap,id=n,ifname=t",
        "-vnc",
        ":1",
    ]
    made = list(twin.overridden(line(*words), part, value).words())[1:]
    pairs = [made[start : start + 2] for start in range(0, len(made), 2)]
    assert wanted in pairs
    assert len([pair for pair in pairs if pair not in [words[start : start + 2] for start in range(0, len(words), 2)]]) == 1


@pytest.mark.parametrize("part", ["disk.x", "disk", "colour", "nic."])
def test_a_part_that_is_not_there_is_named_with_those_that_are(part: str):
    with pytest.raises(Unsupported, match=rf"no {part} on its command line") as caught:
        twin.overridden(line("-drive", "id=a,file=/old"), part, "x")
    assert ("disk.a" in caught.value.hint) is part.startswith("disk")


# comparing


SHAPE = devices.shape(RECORDED["answers"])


def changed_tree(old: str, new: str) -> devices.Shape:
    assert old in RECORDED["answers"]["qtree"]
    return devices.shape(answers(qtree=RECORDED["answers"]["qtree"].replace(old, new, 1)))


def test_a_machine_is_the_same_as_itself():
    assert devices.differences(SHAPE, SHAPE, names=NAMES) == ()
    assert len(SHAPE.devices) > 40


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('dev: e1000e, id "nic9"', 'dev: e1000, id "nic9"', "alpha has e1000e nic9 (rp2, addr 00.0) where beta has e1000 nic9"),
        (
            'mac = "52:54:00:12:34:57"',
            'mac = "52:54:00:00:00:01"',
            'mac of e1000e nic9 (rp2, addr 00.0) is "52:54:00:12:34:57" on',
        ),
        ("port 1, speed 480", "port 2, speed 480", "alpha has usb-tablet tablet (usb-bus.0, port 1), beta has not"),
        ('drive = "extra"', 'drive = "other"', "drive of scsi-hd sda"),
    ],
)
def test_a_difference_is_named(old: str, new: str, said: str):
    found = devices.differences(SHAPE, changed_tree(old, new), names=NAMES)
    assert any(one.startswith(said) for one in found), found


def test_memory_cpus_and_what_a_cpu_can_are_compared():
    bare = devices.shape(answers(query_memory_devices=[], query_hotpluggable_cpus=[]))
    assert any("memory dimm dimm1 (slot 0" in one for one in devices.differences(SHAPE, bare, names=NAMES))
    words = json.loads(json.dumps(RECORDED["answers"]["feature-words"]))
    [edx] = [one for one in words if (one["cpuid-input-eax"], one["cpuid-register"]) == (1, "EDX")]
    edx["features"] &= ~0b1
    less = devices.shape(answers(feature_words=words))
    assert devices.differences(SHAPE, less, names=NAMES) == (
        "the CPU on beta lacks what the guest sees on alpha: bits 0x1 of CPUID 0x1 EDX",
    )
    assert devices.differences(less, SHAPE, names=NAMES) == ()  # to see more harms nobody


def test_another_release_may_build_the_machine_in_another_way():
    other = json.loads(json.dumps(RECORDED["answers"]["query-version"]))
    other["qemu"]["major"] += 3
    tree = RECORDED["answers"]["qtree"].replace("dev: kvmvapic", "dev: vapic", 1).replace("romsize =", "rom-size =")
    assert devices.differences(SHAPE, devices.shape(answers(qtree=tree, query_version=other)), names=NAMES) == ()
    assert devices.differences(SHAPE, devices.shape(answers(qtree=tree)), names=NAMES) != ()


# files


def test_the_files_of_a_guest_are_those_of_its_disks_and_of_its_start():
    found = files.uses(line("-kernel", "/k", "-initrd", "/i", "-device", "x,romfile=/r", "-cdrom", "/old"), NOW)
    assert {(use.path, use.written) for use in found} == {
        ("/k", False),
        ("/i", False),
        ("/r", False),
        ("/shared/plain.qcow2", True),
        ("/shared/two.iso", False),
    }


MINE = Seen(identity="1:7", inode="7", size_bytes=9, filesystem="nfs")


@pytest.mark.parametrize(
    ("mine", "theirs", "one_machine", "written", "verdict"),
    [
        (MINE, MINE, False, True, "same"),
        (MINE, Seen(), False, True, "beta has no /f"),
        (MINE, Seen(identity="2:8", inode="8", size_bytes=9, filesystem="nfs"), False, True, "another file"),
        (MINE, Seen(identity="2:7", inode="7", size_bytes=8, filesystem="nfs"), False, True, "same"),  # a client lags behind
        (MINE, Seen(identity="2:7", inode="7", size_bytes=9, filesystem="ext2/ext3"), False, True, "another file"),
        (MINE, Seen(identity="2:8", inode="8", size_bytes=9, filesystem="fuseblk"), False, True, "same"),  # who knows
        (MINE, Seen(identity="1:8", inode="8", size_bytes=9, filesystem="nfs"), False, False, "compare"),
        (MINE, Seen(identity="1:8", inode="8", size_bytes=9, filesystem="nfs"), True, True, "another file"),
        (MINE, Seen(identity="1:7", inode="7", filesystem="nfs", may_write=False), True, True, "may not be written to"),
        (Seen(), Seen(), False, False, "same"),  # QEMU finds it among its own
        (Seen(identity="device 8:1", is_device=True), Seen(identity="device 8:16", is_device=True), False, True, "same"),
    ],
)
def test_one_file_or_another(mine: Seen, theirs: Seen, one_machine: bool, written: bool, verdict: str):
    use = Use(path="/f", what="disk a", written=written)
    wrong, compare = files.judged([use], {"/f": mine}, {"/f": theirs}, one_machine=one_machine, names=NAMES)
    assert compare == (("/f",) if verdict == "compare" else ())
    assert verdict in "".join(wrong) if verdict not in ("same", "compare") else not wrong
