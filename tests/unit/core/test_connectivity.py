"""What was seen of a pair of hosts, and the cells that follow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segue.core.connectivity import Clock, HostSeen, Pair, Reply, Sent, State, Way, judge
from segue.core.model import DriverKind, HostAddress

THERE = (
    HostAddress(name="beta", uri="qemu+tls://beta/system", driver=DriverKind.LIBVIRT, migration_address="10.0.0.2"),
    HostAddress(name="beta", uri="qmp+ssh://root@beta/", driver=DriverKind.QEMU, migration_address="10.0.0.2"),
)


def host(name: str, **more: object) -> HostSeen:
    addresses = {"alpha": ("10.0.0.1",), "beta": ("10.0.0.2",)}
    seen = HostSeen(
        host=name,
        hostname=name,
        user="root",
        clock=Clock(ahead_ms=0, error_ms=5),
        addresses=addresses,
        libvirt="9.0.0",
        qemu="7.2.22",
        rules="",
        mtu=1500,
    )
    return replace(seen, **more)  # type: ignore[arg-type]


OK = Reply(worked=True)
WELL = Pair(
    source=host("alpha"),
    destination=host("beta"),
    there=THERE,
    tried={Way.SSH: OK, Way.TCP: Reply(worked=False, said="Connection refused"), Way.TLS: OK, Way.P2P: OK},
    sent=Sent(address="10.0.0.2", port=49215, reply=OK, sent_bytes=1 << 26, took_ms=500, mtu=1500),
    source_address="10.0.0.1",
)


def cell(pair: Pair, way: Way) -> tuple[State, str]:
    found = {one.way: one for one in judge(pair)}
    assert set(found) == set(Way)
    assert found[way].fix or found[way].state not in (State.BAD, State.WARN)
    return found[way].state, f"{found[way].text} {found[way].fix}"


def test_a_healthy_pair_is_well_and_what_nobody_needs_is_not_wrong():
    assert {one.way: one.state for one in judge(WELL)} == dict.fromkeys(Way, State.OK) | {Way.TCP: State.UNUSED}


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("unable to connect to server at 'beta:16514': Connection refused", "Nobody listens at beta:16514"),
        ("authentication failed: Failed to verify peer's certificate", "does not believe the CA"),
        ("Certificate [session] owner does not match the hostname beta", "not for the name by which it was called: beta"),
        ("Cannot recv data: Permission denied (publickey).: Connection reset by peer", "ssh to beta does not let this user in"),
        ("connection timed out: no answer within 6 s", "No answer from libvirt's daemon of beta"),
    ],
)
def test_a_daemon_that_does_not_answer_is_told_in_words(said, named):
    state, text = cell(replace(WELL, tried={**WELL.tried, Way.TLS: Reply(worked=False, said=said)}), Way.TLS)
    assert state is State.BAD
    assert named in text


@pytest.mark.parametrize(
    ("apart_ms", "error_ms", "state"),
    [(3, 5, State.OK), (900, 5, State.OK), (1500, 5, State.WARN), (1500, 600, State.OK), (-70_000, 5, State.BAD)],
)
def test_clocks(apart_ms, error_ms, state):
    pair = replace(WELL, destination=host("beta", clock=Clock(ahead_ms=apart_ms, error_ms=error_ms)))
    assert cell(pair, Way.CLOCK)[0] is state


def test_a_clock_that_nobody_read_is_not_in_step():
    assert cell(replace(WELL, source=host("alpha", clock=None)), Way.CLOCK)[0] is State.UNCHECKED


NAMES = [
    ({"alpha": ("10.0.0.1",)}, {}, State.BAD, "alpha does not know the name beta"),
    ({"beta": ("127.0.1.1",)}, {}, State.BAD, "alpha takes beta for itself"),
    ({}, {"beta": ("127.0.1.1",)}, State.WARN, "beta takes its own name beta for 127.0.1.1"),
    ({"beta": ("192.0.2.7",)}, {}, State.WARN, "alpha takes beta for 192.0.2.7, beta itself for 10.0.0.2"),
    ({}, {}, State.OK, "beta is 10.0.0.2"),
]


@pytest.mark.parametrize(("here", "there", "state", "named"), NAMES)
def test_names(here, there, state, named):
    known = {"beta": ("10.0.0.2",)}
    pair = replace(WELL, source=host("alpha", addresses=here or known), destination=host("beta", addresses=there or known))
    found, text = cell(pair, Way.NAMES)
    assert found is state
    assert named in text


def test_an_alias_of_ssh_need_not_be_known_to_other_hosts():
    alias = replace(THERE[1], uri="qmp+ssh://rack7/")
    found, text = cell(replace(WELL, there=(THERE[0], alias)), Way.NAMES)
    assert (found, "rack7" in text) == (State.WARN, True)


def test_a_firewall_that_stops_the_port_is_named_with_the_command_that_opens_it():
    rules = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n"
    sent = Sent(address="10.0.0.2", port=49215, reply=Reply(worked=False, said="no answer within 5 s"))
    pair = replace(WELL, destination=host("beta", rules=rules, keeper="ufw"), sent=sent)
    state, text = cell(pair, Way.DATA)
    assert state is State.BAD
    assert "policy drop" in text
    assert "ufw allow proto tcp from 10.0.0.1 to any port 49152:49215" in text
    assert cell(pair, Way.FIREWALL)[0] is State.BAD
    assert cell(replace(WELL, destination=host("beta", rules=None)), Way.FIREWALL)[0] is State.UNCHECKED


def test_a_range_of_which_no_port_is_free():
    sent = Sent(address="10.0.0.2", port=0, reply=Reply(worked=False, said="[Errno 98] Address already in use"))
    state, text = cell(replace(WELL, sent=sent), Way.DATA)
    assert state is State.BAD
    assert "None of ports 49152 to 49215 of beta is free: [Errno 98] Address already in use." in text


def test_a_path_that_swallows_large_packets():
    sent = Sent(
        address="10.0.0.2", port=1, reply=Reply(worked=True, said="1048576 bytes were sent and not acknowledged (timed out)")
    )
    state, text = cell(replace(WELL, sent=sent), Way.MTU)
    assert state is State.BAD
    assert "large ones do not" in text


def test_mtu_versions_and_speed():
    assert cell(replace(WELL, destination=host("beta", mtu=9000)), Way.MTU)[0] is State.WARN
    assert cell(replace(WELL, destination=host("beta", mtu=0)), Way.MTU)[0] is State.UNCHECKED
    assert cell(replace(WELL, destination=host("beta", qemu="6.2.0")), Way.VERSIONS)[0] is State.WARN
    assert cell(replace(WELL, destination=host("beta", qemu="10.0.2")), Way.VERSIONS)[0] is State.OK
    assert cell(replace(WELL, destination=host("beta", qemu="")), Way.VERSIONS)[0] is State.UNCHECKED
    slow = Sent(address="10.0.0.2", port=1, reply=OK, sent_bytes=1 << 20, took_ms=900, mtu=1500)
    assert cell(replace(WELL, sent=slow), Way.SPEED)[0] is State.WARN


def test_what_could_not_be_tried_is_never_fine():
    pair = replace(WELL, tried={}, sent=None, unsent="beta has no python3")
    states = {one.way: one.state for one in judge(pair)}
    untried = (Way.SSH, Way.TLS, Way.P2P, Way.DATA, Way.SPEED)
    assert {states[way] for way in untried} == {State.UNCHECKED}


def test_the_daemon_of_another_host_cannot_go_to_a_local_address():
    local = replace(THERE[0], uri="qemu:///system")
    assert cell(replace(WELL, there=(local,)), Way.P2P)[0] is State.UNUSED
