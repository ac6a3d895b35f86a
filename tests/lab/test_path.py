"""What preflight finds between two hosts, provoked for real: each finding in its place, and none on a healthy pair.

That the blockers are true, tests/lab/test_causes.py shows: the same faults without preflight, and the move fails.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import pytest

from segue import config
from segue.core.model import Control, Transport
from segue.core.preflight import CHECKS
from segue.core.preflight.findings import Finding, Severity, Theme
from segue.engine.migration import Migration, Request
from segue.engine.preflight import Preflight
from segue.lab import Lab, guests
from segue.lab.guests import GuestSpec
from tests.support.inside import Inside
from tests.support.sayings import tiny

pytestmark = pytest.mark.lab

Check = Callable[..., dict[str, Finding]]
LIBVIRT, QEMU = "path-libvirt", "path-qemu"


def sh(lab: Lab, host: str, script: str) -> str:
    return asyncio.run(lab.run(host, ["sh", "-c", script])).stdout


@pytest.fixture(scope="module")
def pair(lab: Lab) -> Iterator[Lab]:
    """The lab with a guest of each kind on alpha."""
    asyncio.run(_both(lab))
    yield lab
    for name in (LIBVIRT, QEMU):
        asyncio.run(guests.stop(lab, name))


async def _both(lab: Lab) -> None:
    specs = [GuestSpec(name=name, host="alpha", kind=name.removeprefix("path-")) for name in (LIBVIRT, QEMU)]
    for spec in specs:
        await guests.start(lab, spec)


@pytest.fixture
def check(pair: Lab, inside: Inside) -> Check:
    """Looks, and gives what is found of these two themes, by code."""
    settings = config.load(pair.layout.config)

    def ask(guest: str = LIBVIRT, **how: object) -> dict[str, Finding]:
        async def look() -> Preflight:
            request = Request(guest=guest, destination="beta", source="alpha", **how)  # type: ignore[arg-type]
            return await Migration(request, settings).check()

        found = inside.run(look(), deadline_s=60).findings
        return {one.code: one for one in found if CHECKS[one.code].theme in (Theme.NETWORK, Theme.CONTROL)}

    return ask


@pytest.mark.parametrize("guest", [LIBVIRT, QEMU])
def test_a_healthy_pair_has_nothing_in_its_way(check: Check, guest: str) -> None:
    assert check(guest) == {}


def test_a_healthy_pair_has_nothing_in_the_way_of_its_daemons(check: Check) -> None:
    assert check(control=Control.P2P) == {}
    assert check(control=Control.P2P, transport=Transport.TUNNELLED) == {}


@contextlib.contextmanager
def rule(lab: Lab, words: str) -> Iterator[None]:
    sh(lab, "beta", f"iptables -A INPUT {words}")
    try:
        yield
    finally:
        sh(lab, "beta", f"iptables -D INPUT {words}")


@pytest.mark.parametrize("guest", [LIBVIRT, QEMU])
def test_a_migration_port_that_is_closed(pair: Lab, check: Check, guest: str) -> None:
    with rule(pair, "-p tcp -s 10.77.0.11 --dport 1024:65535 -j REJECT --reject-with tcp-reset"):
        found = check(guest)
    assert found["data-port"].severity is Severity.BLOCKER
    assert "REJECT" in found["data-port"].sentence
    assert "iptables -I INPUT" in found["data-port"].fix


def test_a_daemon_that_only_the_source_cannot_reach(pair: Lab, check: Check) -> None:
    with rule(pair, "-p tcp -s 10.77.0.11 --dport 16509 -j REJECT --reject-with tcp-reset"):
        assert check() == {}
        found = check(control=Control.P2P)
    assert [(code, one.severity) for code, one in found.items()] == [("p2p", Severity.BLOCKER)]
    assert "beta:16509" in found["p2p"].sentence


def test_a_name_that_the_source_does_not_know(pair: Lab, check: Check) -> None:
    file = pair.host_path("alpha", "/etc/hosts")
    before = file.read_text(encoding="utf-8")
    file.write_text(before.replace("10.77.0.12 beta", ""), encoding="utf-8")
    try:
        assert check()["names"].severity is Severity.WARNING
        found = check(control=Control.P2P)
    finally:
        file.write_text(before, encoding="utf-8")
    assert found["names"].severity is found["p2p"].severity is Severity.BLOCKER


def test_a_bridge_and_a_network_that_only_the_source_has(pair: Lab, check: Check) -> None:
    xml = "<network><name>lan</name><forward mode='bridge'/><bridge name='br7'/></network>"
    pair.host_path("alpha", "/run/lan.xml").write_text(xml, encoding="utf-8")
    nics = (
        "<interface type='bridge'><source bridge='br7'/></interface><interface type='network'><source network='lan'/></interface>"
    )
    sh(pair, "alpha", "ip link add br7 type bridge && virsh -q net-create /run/lan.xml")
    try:
        with tiny(pair, "path-nic", nics) as guest:
            found = check(guest)
    finally:
        sh(pair, "alpha", "virsh -q net-destroy lan; ip link delete br7; rm /run/lan.xml")
    assert {code: one.severity for code, one in found.items()} == {
        "bridge-missing": Severity.BLOCKER,
        "network-missing": Severity.BLOCKER,
    }
    assert "br7, which beta has not" in found["bridge-missing"].sentence
    assert "virsh net-start lan" in found["network-missing"].fix


def test_links_that_carry_less(pair: Lab, check: Check) -> None:
    device = sh(pair, "beta", "ip -o addr show to 10.77.0.12").split()[1]
    sh(pair, "beta", f"ip link set {device} mtu 1400")
    try:
        found = check()
    finally:
        sh(pair, "beta", f"ip link set {device} mtu 1500")
    assert found["path-mtu"].severity is Severity.WARNING
    assert "1400" in found["path-mtu"].sentence
    assert found["bridge-mtu"].severity is Severity.WARNING  # here it is the guests' bridge, too


def test_a_slow_link(pair: Lab, check: Check) -> None:
    asyncio.run(pair.set_rate("beta", 5_000_000))
    try:
        found = check()
    finally:
        asyncio.run(pair.set_rate("beta", 125_000_000))
    assert found["link-speed"].severity is Severity.WARNING


def test_a_mac_address_that_somebody_else_has(pair: Lab, check: Check) -> None:
    mac = guests.record(pair, LIBVIRT).mac
    other = "qemu-system-x86_64 -S -M q35,accel=tcg -m 16 -nodefaults -display none -pidfile /run/other.pid -daemonize"
    sh(pair, "beta", f"{other} -netdev user,id=n -device virtio-net-pci,netdev=n,mac={mac}")
    try:
        found = check()
    finally:
        sh(pair, "beta", "kill $(cat /run/other.pid)")
    assert found["mac-taken"].severity is Severity.BLOCKER
    assert not CHECKS["mac-taken"].acceptable


def test_certificates_that_are_not_there(check: Check) -> None:
    assert check(transport=Transport.TLS)["tls-handshake"].severity is Severity.BLOCKER


def test_a_daemon_that_never_notices_that_its_peer_is_gone(pair: Lab, check: Check) -> None:
    sh(pair, "beta", "echo 'keepalive_interval = -1' >>/etc/libvirt/libvirtd.conf")
    try:
        found = check()
    finally:
        sh(pair, "beta", "sed -i '$d' /etc/libvirt/libvirtd.conf")
    assert [(code, one.severity) for code, one in found.items()] == [("keepalive", Severity.WARNING)]
    assert "beta" in found["keepalive"].sentence
