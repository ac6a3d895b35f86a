"""What really goes wrong between two hosts, provoked, and the sentence that a person reads of it.

The attempts are driven without an engine: what looks ahead would refuse most of these before they happen.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from segue.core.causes import Cause, Explained
from segue.core.model import Control, DriverKind, Transport
from segue.drivers import driver
from segue.errors import HostUnreachable
from segue.lab import Lab, guests
from segue.lab.guests import GuestSpec
from tests.faults.play import restart_libvirtd
from tests.support.inside import Inside
from tests.support.sayings import addresses, tiny, told

pytestmark = pytest.mark.lab

LIBVIRTD, QEMU_CONF = "/etc/libvirt/libvirtd.conf", "/etc/libvirt/qemu.conf"
DATA_PORTS = "49152:49215"
Why = Callable[..., Explained]


def sh(lab: Lab, host: str, script: str) -> str:
    return asyncio.run(lab.run(host, ["sh", "-c", script])).stdout


@pytest.fixture(scope="module")
def managed(lab: Lab) -> Iterator[str]:
    """A guest of libvirt's on alpha."""
    yield asyncio.run(guests.start(lab, GuestSpec(name="told-libvirt", host="alpha", kind="libvirt"))).name
    asyncio.run(guests.stop(lab, "told-libvirt"))


@pytest.fixture(scope="module")
def bare(lab: Lab) -> Iterator[str]:
    """One that nobody manages."""
    yield asyncio.run(guests.start(lab, GuestSpec(name="told-qemu", host="alpha", kind="qemu"))).name
    asyncio.run(guests.stop(lab, "told-qemu"))


@pytest.fixture
def why(lab: Lab, inside: Inside, managed: str) -> Why:
    def ask(guest: str = managed, **how: object) -> Explained:
        pair = addresses(lab, DriverKind.LIBVIRT)
        return inside.run(told(pair, guest, **how), deadline_s=60)  # type: ignore[arg-type]

    return ask


@contextlib.contextmanager
def firewall(lab: Lab, ports: str, verdict: str) -> Iterator[None]:
    rule = f"INPUT -p tcp --dport {ports} -j {verdict}"
    sh(lab, "beta", f"iptables -A {rule}")
    try:
        yield
    finally:
        sh(lab, "beta", f"iptables -D {rule}")


@contextlib.contextmanager
def configured(lab: Lab, path: str, *, without: str, line: str) -> Iterator[None]:
    """Beta's daemon runs with another line in a file."""
    file = lab.host_path("beta", path)
    before = file.read_text(encoding="utf-8")
    kept = [one for one in before.splitlines() if not one.startswith(without)]
    file.write_text("\n".join([*kept, line, ""]), encoding="utf-8")
    try:
        asyncio.run(restart_libvirtd(lab, "beta"))
        yield
    finally:
        file.write_text(before, encoding="utf-8")
        asyncio.run(restart_libvirtd(lab, "beta"))


def test_a_migration_port_that_a_firewall_refuses(lab: Lab, why: Why) -> None:
    with firewall(lab, DATA_PORTS, "REJECT --reject-with tcp-reset"):
        seen = why()
    assert seen.cause is Cause.PORT_REFUSED
    assert seen.sentence == "The migration port at 10.77.0.12:49152 refused the connection."
    assert "49152 to 49215" in seen.fix


def test_the_same_for_a_bare_guest_with_the_words_of_its_qemu(lab: Lab, inside: Inside, bare: str) -> None:
    with firewall(lab, "1024:65535", "REJECT --reject-with tcp-reset"):
        seen = inside.run(told(addresses(lab, DriverKind.QEMU), bare), deadline_s=60)
    assert seen.cause is Cause.PORT_REFUSED
    assert seen.quotes[0].startswith("alpha, QEMU (error-desc): Failed to connect to '10.77.0.12:")


def test_a_network_that_says_that_there_is_no_way(lab: Lab, why: Why) -> None:
    with firewall(lab, DATA_PORTS, "REJECT --reject-with icmp-host-unreachable"):
        assert why().cause is Cause.NO_ROUTE


def test_a_bridge_that_the_destination_has_not(lab: Lab, why: Why) -> None:
    sh(lab, "alpha", "ip link add br7 type bridge")
    try:
        with tiny(lab, "told-nic", "<interface type='bridge'><source bridge='br7'/></interface>") as guest:
            seen = why(guest)
    finally:
        sh(lab, "alpha", "ip link delete br7")
    assert seen.cause is Cause.BRIDGE_MISSING
    assert seen.sentence == "beta has no network device br7."


IMAGE = "/var/lib/libvirt/told.img"


@contextlib.contextmanager
def disk(lab: Lab, *, more: str) -> Iterator[str]:
    """A guest with a disk of alpha's own."""
    xml = (
        f"<disk type='file'><driver name='qemu' type='raw'/><source file='{IMAGE}'/><target dev='vda' bus='virtio'/>{more}</disk>"
    )
    sh(lab, "alpha", f"truncate -s 4M {IMAGE}")
    try:
        with tiny(lab, "told-disk", xml) as guest:
            yield guest
    finally:
        sh(lab, "alpha", f"rm {IMAGE}")


def test_a_disk_that_only_the_source_has(lab: Lab, why: Why) -> None:
    with disk(lab, more="") as guest:
        seen = why(guest)
    assert seen.cause is Cause.UNSAFE_STORAGE
    assert "--copy-storage all" in seen.fix


def test_a_file_that_is_missing_on_the_destination_or_closed_to_its_qemu(lab: Lab, why: Why) -> None:
    with disk(lab, more="<readonly/>") as guest:
        seen = why(guest)
        assert seen.cause is Cause.FILE_MISSING
        assert seen.sentence == f"beta has no {IMAGE}."
        sh(lab, "beta", f"truncate -s 4M {IMAGE} && chmod 0 {IMAGE}")
        try:
            with configured(lab, QEMU_CONF, without="user", line='user = "nobody"\ndynamic_ownership = 0'):
                seen = why(guest)
        finally:
            sh(lab, "beta", f"rm {IMAGE}")
    assert seen.cause is Cause.FILE_FORBIDDEN, seen
    assert seen.sentence == f"QEMU on beta may not use {IMAGE}."


def test_a_destination_without_enough_memory(lab: Lab, why: Why) -> None:
    sh(lab, "beta", "prlimit --pid $(pidof libvirtd) --as=400000000")
    try:
        seen = why()
    finally:
        asyncio.run(restart_libvirtd(lab, "beta"))
    assert seen.cause is Cause.MEMORY, seen
    assert seen.sentence == "beta has not enough free memory for told-libvirt."


def test_two_hosts_that_libvirt_takes_for_one(lab: Lab, why: Why) -> None:
    own = next(
        line for line in lab.host_path("alpha", LIBVIRTD).read_text(encoding="utf-8").splitlines() if line.startswith("host_uuid")
    )
    with configured(lab, LIBVIRTD, without="host_uuid", line=own):
        seen = why()
    assert seen.cause is Cause.SAME_HOST
    assert seen.sentence == "For libvirt alpha and beta are one host: both have the same host UUID."


def test_a_name_that_only_admin_knows(lab: Lab, inside: Inside, managed: str) -> None:
    sh(lab, "admin", "echo 10.77.0.12 gamma >>/etc/hosts")
    here, there = addresses(lab, DriverKind.LIBVIRT)
    pair = [here, replace(there, uri="qemu+tcp://gamma/system")]
    seen = inside.run(told(pair, managed, control=Control.P2P), deadline_s=60)
    assert seen.cause is Cause.NAME_UNKNOWN
    assert "gamma" in seen.sentence
    assert "the source's daemon looks it up" in seen.fix


def test_tls_without_its_files(why: Why) -> None:
    seen = why(transport=Transport.TLS)
    assert seen.cause is Cause.TLS_FILES
    assert "/etc/pki/qemu/ca-cert.pem" in seen.sentence


def test_a_destination_qemu_that_is_killed(lab: Lab, why: Why) -> None:
    receives = f"grep -q ':{49152:X} .* 01 ' /proc/net/tcp /proc/net/tcp6"
    seen = asyncio.run(_beside(lab, f"until {receives}; do sleep 0.01; done; kill -KILL $(pidof qemu-system-x86_64)", why))
    assert seen.cause in (Cause.DESTINATION_DIED, Cause.LINK_LOST), seen


async def _beside(lab: Lab, script: str, why: Why) -> Explained:
    seen, _ = await asyncio.gather(asyncio.to_thread(why), lab.run("beta", ["sh", "-c", script]))
    return seen


# --- before there is a connection


def unreachable(lab: Lab, inside: Inside) -> HostUnreachable:
    async def connect() -> None:
        await (await driver(DriverKind.LIBVIRT).connect(addresses(lab, DriverKind.LIBVIRT)[1], deadline_s=10)).aclose()

    with pytest.raises(HostUnreachable) as raised:
        inside.run(connect(), deadline_s=30)
    return raised.value


def test_a_daemon_that_lets_nobody_in(lab: Lab, inside: Inside) -> None:
    with configured(lab, LIBVIRTD, without="auth_tcp", line='auth_tcp = "sasl"'):
        error = unreachable(lab, inside)
    assert error.message.endswith("libvirt's daemon of beta does not let this user in.")
    assert "auth_tcp" in error.hint
    assert error.quotes


def test_a_daemon_that_is_not_there(lab: Lab, inside: Inside) -> None:
    sh(lab, "beta", "kill -KILL $(pidof libvirtd)")
    try:
        error = unreachable(lab, inside)
    finally:
        asyncio.run(restart_libvirtd(lab, "beta"))
    assert error.message.endswith("Nobody listens at beta:16509: the connection was refused.")
    assert "systemctl enable --now" in error.hint


def test_a_daemon_behind_a_firewall(lab: Lab, inside: Inside) -> None:
    with firewall(lab, "16509", "REJECT --reject-with icmp-port-unreachable"):
        assert "refused" in unreachable(lab, inside).message
