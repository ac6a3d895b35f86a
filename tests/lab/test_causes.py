"""What really goes wrong between two hosts, provoked, and the sentence that a person reads of it.

The attempts are driven without an engine: what looks ahead would refuse most of these before they happen.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from segue.core.causes import Cause, Explained
from segue.core.model import Control, DriverKind, Transport
from segue.drivers import driver
from segue.errors import HostUnreachable
from segue.lab import Lab, guests
from segue.lab.guests import GuestSpec
from tests.lab.conftest import SEGUE
from tests.support.daemons import end_libvirtd, restart_libvirtd
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


def test_a_network_of_libvirt_that_the_destination_has_not(lab: Lab, why: Why) -> None:
    lan = '<network><name>told</name><forward mode="bridge"/><bridge name="br0"/></network>'
    lab.host_path("alpha", "/run/told-lan.xml").write_text(lan, encoding="utf-8")
    sh(lab, "alpha", "virsh -q net-create /run/told-lan.xml")
    try:
        with tiny(lab, "told-lan", "<interface type='network'><source network='told'/></interface>") as guest:
            seen = why(guest)
    finally:
        sh(lab, "alpha", "virsh -q net-destroy told")
    assert seen.cause is Cause.NETWORK_MISSING
    assert seen.sentence == "beta has no active libvirt network told."


def test_a_display_whose_port_or_address_the_destination_cannot_give(lab: Lab, why: Why) -> None:
    listen = "setsid --fork sh -c 'echo $$ >/run/told.pid; exec nc -lk 5977' >/dev/null 2>&1 </dev/null"
    sh(lab, "beta", f"{listen}; until ss -ltn | grep -q :5977; do sleep .02; done")
    try:
        with tiny(lab, "told-vnc", "<graphics type='vnc' port='5977' autoport='no'/>") as guest:
            seen = why(guest)
    finally:
        sh(lab, "beta", "kill $(cat /run/told.pid)")
    assert seen.cause is Cause.DISPLAY_PORT
    assert ":77" in seen.sentence
    with tiny(lab, "told-display", "<graphics type='vnc' listen='10.77.0.11'/>") as guest:
        assert why(guest).cause is Cause.DISPLAY_ADDRESS


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
    sh(lab, "beta", "prlimit --pid $(pgrep -x libvirtd) --as=400000000")
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
    seen = asyncio.run(_beside(lab, f"until {receives}; do sleep 0.01; done; pkill -KILL -x qemu-system-x86", why))
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


SASL = """
printf 'mech_list: digest-md5\\nsasldb_path: /etc/libvirt/passwd.db\\n' >/etc/sasl2/libvirt.conf
echo secret | saslpasswd2 -p -c -a libvirt -u beta -f /etc/libvirt/passwd.db segue
"""
SASL_CLIENT = "[credentials-lab]\nauthname=segue\npassword={password}\n[auth-libvirt-beta]\ncredentials=lab\n"


def test_a_daemon_that_asks_for_a_password_takes_it_from_auth_conf(lab: Lab) -> None:
    ask = [SEGUE, "hosts", "qemu+tcp://beta/system"]
    secrets = lab.host_path("admin", "/etc/libvirt/auth.conf")
    asked: list[tuple[int, str]] = []
    sh(lab, "beta", SASL)
    try:
        with configured(lab, LIBVIRTD, without="auth_tcp", line='auth_tcp = "sasl"'):
            for password in ("secret", "guessed"):
                secrets.write_text(SASL_CLIENT.format(password=password), encoding="utf-8")
                done = asyncio.run(lab.run("admin", ask, check=False))
                asked.append((done.status, done.stderr))
    finally:
        secrets.unlink(missing_ok=True)
    assert [status for status, _ in asked] == [0, 6], asked
    assert "does not let this user in" in asked[1][1]
    assert "secret" not in asked[0][1] + asked[1][1]


POLKIT = Path("/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service")
WITH_POLKIT = """
mkdir -p /run/dbus; dbus-daemon --system --fork --print-pid=1; setsid {polkitd} >/dev/null 2>&1 & echo $!
until dbus-send --system --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner \\
    string:org.freedesktop.PolicyKit1 | grep -q true; do sleep 0.05; done
"""


@contextlib.contextmanager
def polkit(lab: Lab) -> Iterator[None]:
    """Beta has a user besides root, and asks polkit who may come in by the daemon's socket, as distributions have it."""
    users = lab.host_path("beta", "/etc/passwd")
    before = users.read_text(encoding="utf-8")
    users.write_text(f"{before}somebody:x:1099:65534::/tmp:/bin/sh\n", encoding="utf-8")
    [polkitd] = re.findall(r"^Exec=(.+)$", POLKIT.read_text(encoding="utf-8"), re.MULTILINE)
    pids = sh(lab, "beta", WITH_POLKIT.format(polkitd=polkitd)).split()
    try:
        with configured(lab, LIBVIRTD, without="auth_unix_rw", line='auth_unix_rw = "polkit"'):
            try:
                yield
            finally:  # and gone before the daemon is started anew: one that loses its bus ends
                for pid in pids:
                    sh(lab, "beta", f"kill {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.02; done")
    finally:
        users.write_text(before, encoding="utf-8")


def test_a_user_to_whom_polkit_gives_no_rights(lab: Lab) -> None:
    with polkit(lab):
        done = asyncio.run(lab.run("admin", [SEGUE, "guests", "qemu+ssh://somebody@beta/system"], check=False))
        ours = asyncio.run(lab.run("admin", [SEGUE, "guests", "qemu+ssh://root@beta/system"], check=False))
    assert (done.status, ours.status) == (6, 0), done.stderr + ours.stderr
    assert "libvirt's daemon of beta does not let this user in." in done.stderr
    assert "polkit rules for a user who is not root, or come by ssh as root: qemu+ssh://root@beta/system." in done.stderr


def test_a_daemon_that_is_not_there(lab: Lab, inside: Inside) -> None:
    try:
        asyncio.run(end_libvirtd(lab, "beta"))
        error = unreachable(lab, inside)
    finally:
        asyncio.run(restart_libvirtd(lab, "beta"))
    assert error.message.endswith("Nobody listens at beta:16509: the connection was refused.")
    assert "systemctl enable --now" in error.hint


def test_a_daemon_behind_a_firewall(lab: Lab, inside: Inside) -> None:
    with firewall(lab, "16509", "REJECT --reject-with icmp-port-unreachable"):
        assert "refused" in unreachable(lab, inside).message
