"""The table of virsh's options is whole, what it makes is what libvirt takes, and what a libvirt lacks is said."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import libvirt
import pytest
import typer

from segue.cli.main import assembled
from segue.core import virsh
from segue.core.model import Control, DriverKind, HostAddress, Limits, MigrationSpec, Transport
from segue.core.policy import Policy
from segue.core.storage import CopyStorage, CopyWish
from segue.core.virsh import INITIAL_PERCENT, ROWS, STEP_PERCENT, Call
from segue.core.wishes import LibvirtWishes
from segue.drivers.libvirt.calling import arguments

THERE = HostAddress(name="beta", uri="qemu+tls://beta/system", driver=DriverKind.LIBVIRT)


def call(spec: MigrationSpec, there: HostAddress = THERE, **more: object) -> Call:
    return Call(spec=spec, there=there, **more)  # type: ignore[arg-type]  # each test names a field with its value


def spec(**fields: object) -> MigrationSpec:
    words = {"id": "1", "guest": "web1", "source": "alpha", "destination": "beta", "driver": DriverKind.LIBVIRT}
    return MigrationSpec(**words | fields)  # type: ignore[arg-type]  # the same


def named(asked: Call) -> dict[str, object]:
    return {row.constant.removeprefix("VIR_MIGRATE_"): value for row, value in virsh.wanted(asked)}


def test_to_send_deltas_is_three_words_of_libvirts() -> None:
    assert not any("COMPRESS" in name for name in named(call(spec(deltas=True))))
    flags, parameters = arguments(call(spec(deltas=True), remembers=1 << 26))
    assert flags & libvirt.VIR_MIGRATE_COMPRESSED
    assert parameters[libvirt.VIR_MIGRATE_PARAM_COMPRESSION] == ["xbzrle"]
    assert parameters[libvirt.VIR_MIGRATE_PARAM_COMPRESSION_XBZRLE_CACHE] == 1 << 26


@pytest.mark.skipif(shutil.which("virsh") is None, reason="there is no virsh to compare with")
def test_every_option_of_virsh_is_there() -> None:
    said = subprocess.run(["virsh", "help", "migrate"], capture_output=True, text=True, check=True, timeout=20).stdout
    options = set(re.findall(r"^    \[?(--[a-z0-9-]+)", said, flags=re.MULTILINE))
    assert options
    assert options <= {row.virsh for row in ROWS} | {name for name, _ in virsh.ALSO}


def test_every_flag_and_parameter_of_libvirt_is_there() -> None:
    known = {row.constant for row in ROWS}
    assert {name for name in dir(libvirt) if name.startswith("VIR_MIGRATE_")} <= known
    new = {row.constant for row in ROWS if row.constant and row.since <= (9, 0)}
    assert all(hasattr(libvirt, name) for name in new if libvirt.getVersion() >= 9_000_000)


def test_no_option_stands_twice() -> None:
    assert len({row.virsh for row in ROWS}) == len(ROWS)


def test_what_is_typed_instead_can_be_typed() -> None:
    options = typer.main.get_command(assembled()).commands["migrate"].params  # type: ignore[attr-defined]  # it is a group
    known = {word for option in options for word in (*option.opts, *option.secondary_opts)} | {"--postcopy-now"}
    typed = {word for row in ROWS for word in re.findall(r"--[a-z0-9-]+", row.segue)}
    assert typed <= known


def test_every_wish_has_a_row() -> None:
    """Each field but those that libvirt is not told of alone makes a difference to some row."""
    plain = named(call(spec(limits=Limits(postcopy=True), disks=CopyWish(how=CopyStorage.ALL))))
    for name, kind in LibvirtWishes.__annotations__.items():
        if name in ("xml", "persistent_xml", "copied_disks"):  # the driver makes the definitions and finds the disks
            continue
        value: Any = {"str": "x", "bool": True, "tuple[str, ...]": ("x",), "int | None": 7}[kind]
        asked = spec(limits=Limits(postcopy=True), disks=CopyWish(how=CopyStorage.ALL), libvirt=LibvirtWishes(**{name: value}))
        assert named(call(asked)) != plain, name


def test_a_plain_move_of_a_defined_guest() -> None:
    flags, parameters = arguments(call(spec()))
    wanted = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    assert flags == wanted | libvirt.VIR_MIGRATE_AUTO_CONVERGE
    assert parameters == {
        libvirt.VIR_MIGRATE_PARAM_URI: "tcp://beta",
        libvirt.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL: INITIAL_PERCENT,
        libvirt.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT: STEP_PERCENT,
    }


def test_the_tunnel_has_no_address_and_a_range_of_ports_begins_somewhere() -> None:
    there = HostAddress(
        name="beta",
        uri="qemu:///system",
        driver=DriverKind.LIBVIRT,
        migration_address="fd00::2",
        migration_ports=(50007, 50007),
    )
    assert named(call(spec(), there))["PARAM_URI"] == "tcp://[fd00::2]:50007"
    tunnel = named(call(spec(control=Control.P2P, transport=Transport.TUNNELLED)))
    assert "PARAM_URI" not in tunnel
    assert tunnel["PEER2PEER"]
    assert tunnel["TUNNELLED"]


def test_units_are_libvirts() -> None:
    asked = spec(limits=Limits(bandwidth_bps=1, postcopy=True), libvirt=LibvirtWishes(postcopy_bandwidth_bps=3 << 20))
    assert named(call(asked))["PARAM_BANDWIDTH"] == 1
    assert named(call(asked))["PARAM_BANDWIDTH_POSTCOPY"] == 3


def test_a_level_of_zero_is_a_level() -> None:
    asked = spec(connections=2, libvirt=LibvirtWishes(compression=("zlib",), zlib_level=0))
    assert named(call(asked))["PARAM_COMPRESSION_ZLIB_LEVEL"] == 0
    assert named(call(asked))["COMPRESSED"]


def test_the_throttle_is_what_was_asked_within_what_was_promised() -> None:
    ladder = Policy(name="x", rungs=(), throttle_initial=40, throttle_increment=15)
    own = LibvirtWishes(throttle_initial_percent=30)
    assert named(call(spec(policy=ladder)))["PARAM_AUTO_CONVERGE_INITIAL"] == 40
    assert named(call(spec(policy=ladder, libvirt=own)))["PARAM_AUTO_CONVERGE_INITIAL"] == 30
    promised = named(call(spec(policy=ladder, libvirt=own, limits=Limits(max_slowdown_percent=25))))
    assert (promised["PARAM_AUTO_CONVERGE_INITIAL"], promised["PARAM_AUTO_CONVERGE_INCREMENT"]) == (25, 1)
    assert "PARAM_AUTO_CONVERGE_INITIAL" not in named(call(spec(policy=ladder, limits=Limits(auto_converge=False))))
    assert "AUTO_CONVERGE" in named(call(spec()))
    assert "AUTO_CONVERGE" not in named(call(spec(limits=Limits(postcopy=True))))  # it goes over sooner
    assert "AUTO_CONVERGE" in named(call(spec(limits=Limits(postcopy=True), libvirt=own)))
    assert "AUTO_CONVERGE" in named(call(spec(limits=Limits(postcopy=True), policy=ladder)))
    for silent in (
        spec(limits=Limits(auto_converge=False)),
        spec(libvirt=LibvirtWishes(offline=True)),
    ):  # libvirt would refuse it
        assert not {name for name in named(call(silent)) if "AUTO_CONVERGE" in name}
    said = named(call(spec(policy=Policy(name="x", rungs=()))))  # a ladder of somebody else's, who means QEMU's own steps
    assert not {name for name in said if name.startswith("PARAM_AUTO_CONVERGE")}


def test_what_a_libvirt_lacks_is_said_by_name_and_version() -> None:
    asked = call(spec(libvirt=LibvirtWishes(detect_zeroes=("vda",))))
    assert virsh.lacking(asked, {"libvirt on beta": 10_009_000}) == ()
    said = virsh.lacking(asked, {"libvirt on alpha": 11_000_000, "libvirt on beta": 9_000_000})
    young = call(spec(connections=2, libvirt=LibvirtWishes(compression=("zstd",))))
    assert "--compression zstd needs libvirt 9.4; libvirt on beta has 9.0.0." in virsh.lacking(
        young, {"libvirt on beta": 9_000_000}
    )
    assert said == ("--detect-zeroes needs libvirt 10.9; libvirt on beta has 9.0.0.",)
