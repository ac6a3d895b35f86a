"""Themes network and control: facts of the way between both hosts, and what follows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree

from segue.core import argv
from segue.core.connectivity import Clock, Reply, Sent, Way
from segue.core.model import Control, Limits, Transport
from segue.core.preflight import CHECKS, judge, nics
from segue.core.preflight.facts import Facts, Ground, Link, Nic, Plug, Unseen
from segue.core.preflight.findings import Severity, Theme
from segue.provision.path import read
from tests.unit.preflight.facts import CLEAN, GROUND, OFFER, PAIR, PARTS, PATH, WORKED, said

NIC = Nic(name="net0", plug=Plug.BRIDGE, into="br0", mac="52:54:00:00:00:01")
MINE = (
    "bridge-missing",
    "network-missing",
    "bridge-mtu",
    "bridge-vlan",
    "mac-taken",
    "names",
    "data-port",
    "path-mtu",
    "link-speed",
)
THEIRS = ("user-rights", "clock", "keepalive")


def with_nic(nic: Nic, **there: object) -> Facts:
    path = replace(PATH, there=replace(GROUND, **there))  # type: ignore[arg-type]
    return replace(CLEAN, parts=replace(PARTS, nics=(nic,)), path=path)


def with_pair(facts: Facts = CLEAN, **changed: object) -> Facts:
    return replace(facts, path=replace(PATH, pair=replace(PAIR, **changed)))  # type: ignore[arg-type]


PAGES = Path(__file__).parents[3] / "docs/runbook/findings"


@pytest.mark.parametrize("code", [code for code, check in CHECKS.items() if check.theme in (Theme.NETWORK, Theme.CONTROL)])
def test_every_finding_has_its_page(code):
    assert "**What to do.**" in (PAGES / f"{code}.md").read_text(encoding="utf-8")


def test_a_clean_pair_has_no_findings():
    assert said(with_nic(NIC)) == []


PLUGGED = [
    (NIC, {"links": {"eth0": Link(mtu=1500)}}, "bridge-missing", Severity.BLOCKER),
    (replace(NIC, plug=Plug.DEVICE, into="eth7"), {}, "bridge-missing", Severity.BLOCKER),
    (replace(NIC, into="ovs0", open_vswitch=True), {}, "bridge-missing", Severity.UNCHECKED),
    (replace(NIC, plug=Plug.NETWORK, into="lan"), {}, "network-missing", Severity.BLOCKER),
    (replace(NIC, plug=Plug.NETWORK, into="lan"), {"networks": None}, "network-missing", Severity.UNCHECKED),
    (NIC, {"links": {"br0": Link(mtu=1400)}}, "bridge-mtu", Severity.WARNING),
    (NIC, {"links": {"br0": Link(mtu=1500, vlans=frozenset({100}))}}, "bridge-vlan", Severity.WARNING),
    (NIC, {"macs": {NIC.mac: 4711}}, "mac-taken", Severity.BLOCKER),
]


@pytest.mark.parametrize(("nic", "there", "code", "severity"), PLUGGED)
def test_what_a_nic_is_plugged_into(nic, there, code, severity):
    facts = with_nic(nic, **there)
    assert said(facts) == [(code, severity)]
    assert severity is Severity.UNCHECKED or judge(facts)[0].fix


def test_what_needs_nothing_of_the_host_is_not_looked_for():
    assert said(with_nic(Nic(name="user", plug=Plug.OTHER))) == []
    assert said(with_nic(replace(NIC, plug=Plug.NETWORK, into="default"))) == []


CLOSED = Sent(address="10.0.0.2", port=49215, reply=Reply(worked=False, said="Connection refused"))
VANISHING = Sent(address="10.0.0.2", port=49215, reply=Reply(worked=True, said="262144 bytes were sent and not acknowledged"))
SLOW = Sent(address="10.0.0.2", port=49215, reply=WORKED, sent_bytes=1 << 20, took_ms=200, rtt_ms=1, mtu=1500)
FAR = Sent(address="10.0.0.2", port=49215, reply=WORKED, sent_bytes=1 << 20, took_ms=200, rtt_ms=90, mtu=1500)
AWAY = replace(PAIR.source, addresses={"alpha": ("10.0.0.1",), "beta": ()})


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"sent": CLOSED}, [("data-port", Severity.BLOCKER)]),
        ({"sent": VANISHING}, [("path-mtu", Severity.BLOCKER), ("link-speed", Severity.UNCHECKED)]),
        ({"sent": SLOW}, [("link-speed", Severity.WARNING)]),
        ({"sent": FAR}, [("link-speed", Severity.UNCHECKED)]),
        ({"destination": replace(PAIR.destination, mtu=9000)}, [("path-mtu", Severity.WARNING)]),
        ({"source": AWAY}, [("names", Severity.WARNING)]),  # the memory goes to an address
        ({"destination": replace(PAIR.destination, clock=Clock(ahead_ms=5000, error_ms=10))}, [("clock", Severity.WARNING)]),
        ({"destination": replace(PAIR.destination, clock=None)}, [("clock", Severity.UNCHECKED)]),
    ],
)
def test_what_is_between_both_hosts(changed, found):
    assert said(with_pair(**changed)) == found


def test_a_name_that_a_host_has_to_look_up_itself_stands_in_the_way():
    p2p = replace(CLEAN, spec=replace(CLEAN.spec, control=Control.P2P))
    found = said(with_pair(p2p, source=AWAY, tried={Way.P2P: WORKED}))
    assert found == [("names", Severity.BLOCKER)]
    by_name = tuple(replace(one, migration_address="beta") for one in PAIR.there)
    assert said(with_pair(source=AWAY, there=by_name)) == [("names", Severity.BLOCKER)]


def test_a_tunnel_needs_no_port():
    tunnelled = replace(CLEAN, spec=replace(CLEAN.spec, transport=Transport.TUNNELLED, control=Control.P2P))
    assert said(with_pair(tunnelled, sent=None, unsent="no port is needed", tried={Way.P2P: WORKED})) == []


def test_a_daemon_that_cannot_go_there_by_itself_matters_where_it_has_to():
    refused = {Way.P2P: Reply(worked=False, said="authentication failed: no")}
    assert said(with_pair(tried=refused)) == []
    p2p = replace(CLEAN, spec=replace(CLEAN.spec, control=Control.P2P))
    facts = with_pair(p2p, tried=refused)
    assert said(facts) == [("p2p", Severity.BLOCKER)]
    assert "does not let this user in" in judge(facts)[0].sentence
    assert said(with_pair(p2p)) == [("p2p", Severity.UNCHECKED)]


def test_certificates_are_tried_where_they_are_needed():
    reply = Reply(worked=False, said="Certificate does not match the hostname 10.0.0.2")
    facts = replace(CLEAN, path=replace(PATH, sealed=reply))
    assert said(facts) == [("tls-handshake", Severity.BLOCKER)]
    assert "segue pki verify alpha beta" in judge(facts)[0].fix


def test_a_daemon_without_keepalive_and_a_kernel_without_post_copy():
    mute = replace(PATH, there=replace(GROUND, keepalive=False))
    assert said(replace(CLEAN, path=mute)) == [("keepalive", Severity.WARNING)]
    wants = replace(CLEAN, spec=replace(CLEAN.spec, limits=Limits(postcopy=True)), offer=replace(OFFER, user="64055"))
    assert said(wants) == []
    strict = replace(wants, path=replace(PATH, there=replace(GROUND, userfault=False)))
    assert said(strict) == [("postcopy-rights", Severity.WARNING)]
    assert said(replace(strict, offer=replace(OFFER, user="root"))) == []
    assert said(replace(wants, path=replace(PATH, there=replace(GROUND, userfault=None)))) == [
        ("postcopy-rights", Severity.UNCHECKED)
    ]


def test_a_host_that_cannot_be_logged_in_to_leaves_all_of_it_unchecked():
    found = said(replace(CLEAN, path=Unseen(host="beta", why="no key is accepted there")))
    assert found == [(code, Severity.UNCHECKED) for code in (*MINE, *THEIRS)]


DOMAIN = """<domain><devices>
<interface type='bridge'><mac address='52:54:00:AA:00:01'/><source bridge='br0'/><alias name='net0'/></interface>
<interface type='bridge'><source network='lan' portid='1' bridge='br7'/></interface>
<interface type='direct'><source dev='eth1' mode='bridge'/></interface>
<interface type='bridge'><source bridge='ovs0'/><virtualport type='openvswitch'/></interface>
<interface type='user'/>
</devices></domain>"""


def test_nics_of_a_domain():
    assert [(one.name, one.plug, one.into, one.mac) for one in nics.of_domain(etree.fromstring(DOMAIN))] == [
        ("net0", Plug.BRIDGE, "br0", "52:54:00:aa:00:01"),
        ("net1", Plug.NETWORK, "lan", ""),
        ("net2", Plug.DEVICE, "eth1", ""),
        ("net3", Plug.BRIDGE, "ovs0", ""),
        ("net4", Plug.OTHER, "", ""),
    ]


def test_nics_of_a_command_line():
    words = ["qemu-system-x86_64", "-netdev", "bridge,id=n0,br=br5", "-device", "virtio-net-pci,netdev=n0,mac=52:54:00:AA:00:02"]
    words += ["-netdev", "tap,id=n1,ifname=tap1,script=no", "-netdev", "bridge,id=n2", "-nic", "user,mac=52:54:00:aa:00:03"]
    assert [(one.name, one.plug, one.into, one.mac) for one in nics.of_line(argv.parse(words))] == [
        ("n0", Plug.BRIDGE, "br5", "52:54:00:aa:00:02"),
        ("n1", Plug.OTHER, "", ""),
        ("n2", Plug.BRIDGE, "br0", ""),
        ("nic", Plug.OTHER, "", "52:54:00:aa:00:03"),
    ]


PRINTED = """\
date 1000.250000000
user root
hostname beta
name beta 127.0.1.1 
name gamma 
source 10.0.0.2
mtu 1500
link br0 1500 100 200
link eth0 9000
networks default lan 
mac 4711 "mac":"52:54:00:AA:00:01
mac 4712 mac=52:54:00:aa:00:02
keepalive off
userfault 0
"""  # noqa: W291


def test_what_a_host_prints_is_read():
    end = read("beta", PRINTED, before_s=1000.0, after_s=1000.1)
    assert end.seen.clock == Clock(ahead_ms=200, error_ms=51)
    assert (end.seen.hostname, end.seen.user, end.seen.mtu) == ("beta", "root", 1500)
    assert end.seen.addresses == {"beta": ("127.0.1.1",), "gamma": ()}
    assert end.source_address == "10.0.0.2"
    assert end.ground == Ground(
        links={"br0": Link(mtu=1500, vlans=frozenset({100, 200})), "eth0": Link(mtu=9000)},
        networks=frozenset({"default", "lan"}),
        macs={"52:54:00:aa:00:01": 4711, "52:54:00:aa:00:02": 4712},
        keepalive=False,
        userfault=False,
    )
    assert read("beta", "", before_s=0, after_s=1).seen.clock is None
