"""The connectivity matrix on real hosts: all well on a healthy pair, and each fault in its cell, with cause and fix."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from segue import config
from segue.core.connectivity import Cell, State, Way
from segue.core.model import DriverKind, HostAddress
from segue.hosts import HostShell, reach, way_in
from segue.lab import Lab
from segue.provision import connectivity
from tests.lab.conftest import SEGUE
from tests.support.daemons import end_libvirtd, restart_libvirtd
from tests.support.inside import Inside

pytestmark = pytest.mark.lab

Hosts = dict[str, tuple[HostAddress, ...]]


def sh(lab: Lab, host: str, script: str) -> str:
    return asyncio.run(lab.run(host, ["sh", "-c", script])).stdout


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> Hosts:
    return dict(config.load(lab.layout.config).hosts)


def cells(inside: Inside, hosts: Hosts) -> dict[tuple[str, Way], Cell]:
    """By source and way; of two hosts the destination is the other one."""
    matrix = inside.run(connectivity.verify(hosts), deadline_s=60)
    assert not matrix.silent
    assert all(cell.text for cell in matrix.cells)
    assert all(cell.fix for cell in matrix.cells if cell.state in (State.BAD, State.WARN))
    return {(cell.source, cell.way): cell for cell in matrix.cells}


def bad(found: dict[tuple[str, Way], Cell]) -> set[tuple[str, Way]]:
    return {place for place, cell in found.items() if cell.state is State.BAD}


def test_a_healthy_pair_has_no_bad_cell_and_the_table_says_so(lab: Lab) -> None:
    argv = [SEGUE, "hosts", "verify", "--json"]
    done = asyncio.run(lab.run("admin", argv, check=False, deadline_s=60))
    assert done.status == 0, done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    states = {(cell["source"], cell["destination"], cell["way"]): cell["state"] for cell in found}
    assert len(states) == 2 * len(Way)
    wanted = {way.value: "ok" for way in Way} | {"tls": "unused"}
    assert {way: states["alpha", "beta", way] for way in wanted} == wanted
    assert {way: states["beta", "alpha", way] for way in wanted} == wanted


@contextlib.contextmanager
def rule(lab: Lab, words: str) -> Iterator[None]:
    sh(lab, "beta", f"iptables -A INPUT {words}")
    try:
        yield
    finally:
        sh(lab, "beta", f"iptables -D INPUT {words}")


def test_a_blocked_migration_port_is_found_with_the_rule_and_the_command_that_opens_it(
    lab: Lab, inside: Inside, hosts: Hosts
) -> None:
    with rule(lab, "-p tcp -m tcp --dport 49152:49215 -j REJECT --reject-with tcp-reset"):
        found = cells(inside, hosts)
        assert bad(found) == {("alpha", Way.DATA), ("alpha", Way.FIREWALL)}
        told = found["alpha", Way.DATA]
        assert "Connection refused" in told.text
        assert "--dport 49152:49215 -j REJECT" in told.text
        command = told.fix.removeprefix("On beta: ").partition("  #")[0]
        assert found["alpha", Way.SPEED].state is State.UNCHECKED
        sh(lab, "beta", command)  # what it says is what helps
        try:
            assert not bad(cells(inside, hosts))
        finally:
            sh(lab, "beta", command.replace("-I", "-D"))


def test_a_way_between_two_hosts_on_which_everything_vanishes(lab: Lab, inside: Inside, hosts: Hosts) -> None:
    with rule(lab, "-s 10.77.0.11 -j DROP"):
        found = cells(inside, hosts)
    ways = {Way.TCP, Way.P2P, Way.DATA}
    assert bad(found) == {(source, way) for source in ("alpha", "beta") for way in ways} | {("alpha", Way.FIREWALL)}
    for source in ("alpha", "beta"):
        for way in (Way.TCP, Way.P2P):
            assert found[source, way].text.startswith("No answer from libvirt's daemon"), found[source, way]
            assert "let the daemon's port through" in found[source, way].fix
        assert "no answer within" in found[source, Way.DATA].text
    assert "iptables -I INPUT" in found["alpha", Way.DATA].fix


def test_a_daemon_that_is_not_there_is_red_for_whoever_needs_it_and_only_there(lab: Lab, inside: Inside, hosts: Hosts) -> None:
    asyncio.run(end_libvirtd(lab, "beta"))
    try:
        found = cells(inside, hosts)
    finally:
        asyncio.run(restart_libvirtd(lab, "beta"))
    assert bad(found) == {("alpha", Way.TCP), ("alpha", Way.P2P)}
    assert "refused" in found["alpha", Way.P2P].text
    assert "systemctl enable --now" in found["alpha", Way.P2P].fix


@contextlib.contextmanager
def named(lab: Lab, host: str, line: str) -> Iterator[None]:
    """A host has another line for beta in its /etc/hosts."""
    file = lab.host_path(host, "/etc/hosts")
    before = file.read_text(encoding="utf-8")
    file.write_text(before.replace("10.77.0.12 beta", line), encoding="utf-8")
    try:
        yield
    finally:
        file.write_text(before, encoding="utf-8")


def test_a_name_that_means_a_loopback_address(lab: Lab, inside: Inside, hosts: Hosts) -> None:
    with named(lab, "beta", "127.0.1.1 beta"):
        told = cells(inside, hosts)["alpha", Way.NAMES]
    assert told.state is State.WARN  # who says where the memory is to go does not depend on it
    assert "beta takes its own name beta for 127.0.1.1" in told.text
    with named(lab, "alpha", "127.0.1.1 beta"):
        told = cells(inside, hosts)["alpha", Way.NAMES]
    assert told.state is State.BAD
    assert "On alpha: remove beta" in told.fix


def test_a_name_that_the_source_does_not_know_breaks_what_goes_by_it(lab: Lab, inside: Inside, hosts: Hosts) -> None:
    with named(lab, "alpha", ""):
        found = cells(inside, hosts)
    assert {("alpha", Way.NAMES), ("alpha", Way.TCP), ("alpha", Way.P2P)} <= bad(found)
    assert found["alpha", Way.DATA].state is State.OK  # that goes by address
    assert "does not know the name beta" in found["alpha", Way.NAMES].text


def test_links_of_different_mtu(lab: Lab, inside: Inside, hosts: Hosts) -> None:
    device = sh(lab, "beta", "ip -o route get 10.77.0.11").split(" dev ")[1].split()[0]
    sh(lab, "beta", f"ip link set {device} mtu 1400")
    try:
        found = cells(inside, hosts)
    finally:
        sh(lab, "beta", f"ip link set {device} mtu 1500")
    assert found["alpha", Way.MTU].state is State.WARN
    assert "1500" in found["alpha", Way.MTU].text
    assert "1400" in found["alpha", Way.MTU].text


def test_bare_hosts_have_a_matrix_too(inside: Inside, hosts: Hosts) -> None:
    bare = {
        name: tuple(replace(one, migration_ports=(45000, 45010)) for one in addresses if one.driver is DriverKind.QEMU)
        for name, addresses in hosts.items()
    }
    found = cells(inside, bare)
    assert not bad(found)
    assert found["alpha", Way.P2P].state is State.OK
    assert found["alpha", Way.TCP].state is State.UNUSED
    assert ":45010 was opened" in found["alpha", Way.DATA].text


def test_without_python_on_the_source_bash_opens_the_port(inside: Inside, hosts: Hosts) -> None:
    async def both() -> tuple[object, ...]:
        source, destination = [await reach(way_in(hosts[host]), deadline_s=10) for host in ("alpha", "beta")]
        try:
            return await _by_bash(source, destination)
        finally:
            await source.aclose()
            await destination.aclose()

    async def _by_bash(source: HostShell, destination: HostShell) -> tuple[object, ...]:
        listen = [*connectivity._PYTHON, connectivity._LISTENER, "49160", "49160", "5"]
        async with destination.lines(listen) as lines:
            port = await connectivity._first_line(lines)
            assert port == 49160
            opened = await connectivity._connect_by_bash(source, "10.77.0.12", 49160)
        return opened.reply.worked, (await connectivity._connect_by_bash(source, "10.77.0.12", 49160)).reply

    opened, closed = inside.run(both(), deadline_s=30)
    assert opened is True
    assert closed.worked is False  # type: ignore[attr-defined]
    assert "refused" in closed.said  # type: ignore[attr-defined]


def test_a_host_that_does_not_answer_is_told_and_the_others_are_tried(inside: Inside, hosts: Hosts) -> None:
    nobody = replace(way_in(hosts["beta"]), name="gamma", uri="qmp+ssh://root@beta:1/")
    matrix = inside.run(connectivity.verify({**hosts, "gamma": (nobody,)}), deadline_s=60)
    assert list(matrix.silent) == ["gamma"]
    assert matrix.silent["gamma"].exit_code == 6
    assert len(matrix.cells) == 2 * len(Way)
