"""QEMU's command line: what is read is written again unharmed, and the destination's is the same guest, waiting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core import argv, twin
from segue.errors import Unsupported

ALIASES = {"q35": "pc-q35-7.2", "pc": "pc-i440fx-7.2"}
DEFAULT = "pc-i440fx-7.2"

# Whatever a process can be given: no NUL, everything else.
text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
names = st.sampled_from(["name", "drive", "device", "chardev", "m", "machine", "M", "append", "object"])
options = st.one_of(
    st.tuples(names, text).map(lambda pair: [f"-{pair[0]}", pair[1]]),
    st.sampled_from(["nodefaults", "nographic", "snapshot", "S", "daemonize"]).map(lambda name: [f"-{name}"]),
    text.filter(lambda word: not word.startswith("-")).map(lambda image: [image]),
)
command_lines = st.lists(options, max_size=8).map(
    lambda parts: ["qemu-system-x86_64", *(word for part in parts for word in part)]
)


def destination(*words: str) -> list[str]:
    line = argv.parse(["qemu-system-x86_64", *words])
    return list(twin.for_destination(line, aliases=ALIASES, default_machine=DEFAULT).words())[1:]


@given(command_lines)
def test_what_is_read_is_written_again(words):
    assert list(argv.parse(words).words()) == words


@given(st.lists(st.tuples(text.filter(lambda key: key and "=" not in key), text), min_size=1, max_size=5))
def test_lists_survive_commas_and_all_else(pairs):
    assert argv.split_list(argv.join_list(pairs)) == pairs


@given(text.filter(lambda value: "=" not in value))
def test_a_guest_may_have_any_name(name):
    written = argv.join_list([("guest", name), ("debug-threads", "on")])
    assert argv.guest_name(argv.parse(["qemu", "-name", written])) == name


def startable(words: list[str]) -> bool:
    """No reason is known why it could not be started a second time."""
    try:
        twin.refuse(argv.parse(words))
    except Unsupported:
        return False
    return True


@given(command_lines.filter(startable))
def test_a_destination_never_runs_by_itself_and_listens_when_told(words):
    line = twin.for_destination(argv.parse(words), aliases=ALIASES, default_machine=DEFAULT)
    assert [option.name for option in line.options].count("S") == 1
    assert line.all("incoming") == ["defer"]
    assert not line.has("daemonize")
    again = twin.for_destination(line, aliases=ALIASES, default_machine=DEFAULT)
    assert again == line  # there and back any number of times


def test_two_dashes_are_one():
    assert argv.guest_name(argv.parse(["qemu", "--name", "web"])) == "web"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["-machine", "q35,accel=tcg"], ["-machine", "type=pc-q35-7.2,accel=tcg"]),
        (["-M", "pc"], ["-M", "type=pc-i440fx-7.2"]),
        (["-machine", "accel=tcg,type=q35"], ["-machine", "accel=tcg,type=pc-q35-7.2"]),
        (["-machine", "pc-q35-6.2"], ["-machine", "type=pc-q35-6.2"]),
        ([], ["-machine", f"type={DEFAULT}"]),
    ],
)
def test_the_machine_is_the_versioned_one(given, wanted):
    assert destination(*given)[:2] == wanted


@pytest.mark.parametrize("earlier", ["tcp:0:4444", "defer"])
def test_an_earlier_way_in_is_replaced(earlier):
    assert destination("-M", "x", "-incoming", earlier, "-loadvm", "tag", "-S") == ["-M", "type=x", "-S", "-incoming", "defer"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("file,id=s,path=/a,,b", "file,id=s,path=/a,,b,append=on"),
        ("file,id=s,path=/a,append=off", "file,id=s,path=/a,append=on"),
        ("file,id=s,path=/a,append=on", "file,id=s,path=/a,append=on"),
        ("socket,id=s,path=/a,server=on,logfile=/l", "socket,id=s,path=/a,server=on,logfile=/l,logappend=on"),
        ("null,id=s", "null,id=s"),
    ],
)
def test_no_file_is_emptied(given, wanted):
    assert destination("-chardev", given)[1] == wanted


@pytest.mark.parametrize("words", [["-snapshot"], ["-drive", "file=/a,snapshot=on"]])
def test_temporary_disks_are_refused(words):
    with pytest.raises(Unsupported, match="snapshot"):
        destination(*words)


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (["-qmp", "unix:/run/a,,b.qmp,server=on,wait=off"], "/run/a,b.qmp"),
        (["-qmp", "unix:/run/a.qmp,server,nowait"], "/run/a.qmp"),
        (["-chardev", "socket,id=m,path=/run/a,server=on", "-mon", "chardev=m,mode=control"], "/run/a"),
        (["-chardev", "socket,id=m,path=/run/a,server=on", "-mon", "m,mode=control"], "/run/a"),
        (["-chardev", "socket,id=m,path=/run/a,server=on", "-mon", "chardev=m,mode=readline"], None),
        (["-qmp", "unix:/run/a.qmp"], None),  # it connects there: somebody else's socket
        (["-qmp", "tcp:127.0.0.1:4444,server=on"], None),
        (["-monitor", "unix:/run/a,server=on"], None),
    ],
)
def test_the_monitor_is_the_one_that_listens(words, path):
    assert argv.qmp_path(argv.parse(["qemu", *words])) == path


@pytest.mark.parametrize(
    ("words", "mib"),
    [([], 128), (["-m", "64"], 64), (["-m", "size=1G,slots=2"], 1024), (["-m", "256M"], 256), (["-m", "x"], None)],
)
def test_memory_as_configured(words, mib):
    assert argv.memory_bytes(argv.parse(["qemu", *words])) == (mib and mib << 20)
