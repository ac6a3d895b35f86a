"""``segue host``: hosts that libvirt listens on to nobody's TLS are made ready, and put back to the byte, whatever goes wrong.

It has a lab of its own: what it changes are the daemons. These hosts have no systemd; `./run images` plays whole Debian releases.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from segue.core.hostfacts import LIBVIRTD_CONF, QEMU_CONF
from segue.lab import Lab, down, up
from segue.lab.layout import address
from segue.lab.shell import Completed
from segue.provision.host.carry import HOME, JOURNAL
from tests.lab.conftest import SEGUE
from tests.support.labs import lab_name

pytestmark = pytest.mark.lab

NAME = lab_name("testhost")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    asyncio.run(down(NAME))  # of a run that was killed
    found = asyncio.run(up(name=NAME, hosts=2))
    try:
        assert run(found, "admin", SEGUE, "pki", "init").status == 0
        yield found
    finally:
        asyncio.run(down(NAME))


def run(lab: Lab, host: str, *argv: str) -> Completed:
    return asyncio.run(lab.run(host, argv, check=False, deadline_s=100))


def segue(lab: Lab, *words: str, status: int = 0) -> Completed:
    done = run(lab, "admin", SEGUE, "host", *words)
    assert done.status == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def etc(lab: Lab, host: str) -> dict[str, tuple[int, int, str]]:
    """Everything in a host's /etc: mode, owner, content."""
    root = lab.host_path(host, "/etc")
    found = {}
    for path in sorted(root.rglob("*")):
        seen = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(root))] = (seen.st_mode, seen.st_uid, hashlib.sha256(content).hexdigest())
    return found


def serves_tls(lab: Lab, host: str) -> bool:
    return not run(lab, host, "virsh", "-q", "-c", f"qemu+tls://{host}/system", "hostname").status


@pytest.fixture
def untouched(lab: Lab) -> Iterator[dict[str, tuple[int, int, str]]]:
    """Alpha's /etc as it is before a test, to which that test brings it back."""
    before = etc(lab, "alpha")
    assert not serves_tls(lab, "alpha")
    yield before
    assert etc(lab, "alpha") == before
    assert not serves_tls(lab, "alpha")
    assert run(lab, "alpha", "virsh", "-q", "-c", "qemu:///system", "hostname").stdout.strip() == "alpha"


# --- as it should be


def test_a_host_is_shown_asked_prepared_verified_and_put_back(lab: Lab, untouched: dict[str, object]) -> None:
    shown = segue(lab, "prepare", "alpha", status=3)
    assert '+migrate_tls_x509_cert_dir = "/etc/pki/qemu"' in shown.stdout
    assert "-listen_tls = 0\n+listen_tls = 1\n" in shown.stdout
    assert "--yes" in shown.stderr
    assert etc(lab, "alpha") == untouched

    conf = lab.host_path("alpha", LIBVIRTD_CONF).read_text(encoding="utf-8")
    segue(lab, "prepare", "alpha", "--yes")
    assert serves_tls(lab, "alpha")
    now = lab.host_path("alpha", LIBVIRTD_CONF).read_text(encoding="utf-8").splitlines()
    assert {line for line in conf.splitlines() if "listen_tls" not in line} <= set(now)
    assert f'migration_host = "{address("alpha")}"' in lab.host_path("alpha", QEMU_CONF).read_text(encoding="utf-8")

    again = segue(lab, "prepare", "alpha", "--yes")
    assert "nothing is to be changed" in again.stderr
    segue(lab, "undo", "alpha", "--yes")
    assert "nothing to take back" in segue(lab, "undo", "alpha", status=3).stderr


@pytest.mark.usefixtures("untouched")
def test_two_hosts_believe_each_other_and_see_one_file(lab: Lab) -> None:
    for host in lab.hosts:
        segue(lab, "prepare", host, "--yes")
    try:
        assert run(lab, "admin", SEGUE, "pki", "verify").status == 0
        for place in (str(lab.export), f"nfs://storage{lab.export}"):
            segue(lab, "verify", "alpha", "--storage", place)
        private = segue(lab, "verify", "alpha", "--storage", "/var/lib/libvirt", "--json", status=1)
        [finding] = map(json.loads, private.stdout.splitlines())
        assert (finding["host"], finding["about"]) == ("beta", "storage")
    finally:
        for host in lab.hosts:
            segue(lab, "undo", host, "--yes")
    assert not list(lab.host_path("alpha", "/var/lib/libvirt").glob(".segue*"))


@pytest.mark.usefixtures("untouched")
def test_verify_tells_what_is_not_so_and_changes_nothing(lab: Lab) -> None:
    hosts = lab.host_path("alpha", "/etc/hosts")
    text = hosts.read_text(encoding="utf-8")
    hosts.write_text(text.replace(f"{address('beta')} beta", "10.77.0.99 beta"), encoding="utf-8")
    try:
        found = [json.loads(line) for line in segue(lab, "verify", "alpha", "--json", status=1).stdout.splitlines()]
    finally:
        hosts.write_text(text, encoding="utf-8")
    assert {one["about"] for one in found} == {"certificates", "configuration", "daemon", "names"}
    assert [one["text"] for one in found if one["about"] == "names"] == [
        f"beta is 10.77.0.99 there, and {address('beta')} on beta"
    ]
    assert all(one["fix"] for one in found)


@pytest.mark.usefixtures("untouched")
def test_a_firewall_is_told_opened_when_asked_and_closed_again(lab: Lab) -> None:
    rules = "add table inet own; add chain inet own input { type filter hook input priority 0; policy drop; }"
    rules += "; add rule inet own input ct state established accept; add rule inet own input tcp dport 22 accept"
    rules += "; add rule inet own input iif lo accept"
    assert run(lab, "alpha", "nft", rules).status == 0
    try:
        before = run(lab, "alpha", "nft", "list", "ruleset").stdout
        shown = segue(lab, "prepare", "alpha", status=3)
        assert "nftables does not let in TCP 16514, 49152-49215: --firewall opens them" in shown.stderr
        segue(lab, "prepare", "alpha", "--firewall", "--yes")
        opened = run(lab, "alpha", "nft", "list", "ruleset").stdout
        assert "tcp dport 16514 accept" in opened
        assert "tcp dport 49152-49215 accept" in opened
        segue(lab, "undo", "alpha", "--yes")
        assert run(lab, "alpha", "nft", "list", "ruleset").stdout == before
    finally:
        run(lab, "alpha", "nft", "flush ruleset")


# --- what goes wrong


@contextmanager
def half_written(lab: Lab) -> Iterator[None]:
    path = lab.host_path("alpha", LIBVIRTD_CONF)
    text = path.read_text(encoding="utf-8")
    path.write_text(text + 'auth_tls = "no', encoding="utf-8")
    yield
    assert path.read_text(encoding="utf-8") == text + 'auth_tls = "no'
    path.write_text(text, encoding="utf-8")


@contextmanager
def read_only(lab: Lab) -> Iterator[None]:
    assert run(lab, "alpha", "mount", "-o", "remount,ro,bind", "/etc").status == 0
    yield
    assert run(lab, "alpha", "mount", "-o", "remount,rw,bind", "/etc").status == 0


@contextmanager
def no_space(lab: Lab) -> Iterator[None]:
    """Room for the first certificates, and not for all."""
    assert run(lab, "alpha", "mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", "/etc/pki").status == 0
    yield
    assert run(lab, "alpha", "umount", "/etc/pki").status == 0


@contextmanager
def does_not_start(lab: Lab) -> Iterator[None]:
    """A daemon that comes up without TLS, and not with it."""
    path = lab.host_path("alpha", LIBVIRTD_CONF)
    text = path.read_text(encoding="utf-8")
    path.write_text(text + 'tls_port = "nonsense"\n', encoding="utf-8")
    yield
    path.write_text(text, encoding="utf-8")


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (half_written, "cannot be understood"),
        (read_only, "Nothing was changed"),
        (no_space, "No space left"),
        (does_not_start, "All was taken back"),
    ],
)
def test_a_host_that_cannot_be_prepared_is_as_it_was(
    lab: Lab, trouble: Callable[[Lab], AbstractContextManager[None]], words: str
) -> None:
    with trouble(lab):
        done = segue(lab, "prepare", "alpha", "--yes", status=1)
        assert words in done.stderr


@contextmanager
def asks_for_a_password(lab: Lab) -> Iterator[None]:
    keys = lab.host_path("alpha", "/etc/ssh/authorized_keys")
    text = keys.read_text(encoding="utf-8")
    keys.write_text("", encoding="utf-8")
    yield
    keys.write_text(text, encoding="utf-8")


@contextmanager
def another_host_key(lab: Lab) -> Iterator[None]:
    known = lab.layout.known_hosts
    text = known.read_text(encoding="utf-8")
    beta = next(line.split(" ", 1)[1] for line in text.splitlines() if line.startswith("beta,"))
    changed = [f"{line.split(' ', 1)[0]} {beta}" if line.startswith("alpha,") else line for line in text.splitlines()]
    known.write_text("\n".join(changed) + "\n", encoding="utf-8")
    yield
    known.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("trouble", "words"),
    [(asks_for_a_password, "without asking for a password"), (another_host_key, "its host key is not the one")],
)
@pytest.mark.parametrize("verb", [("prepare", "alpha", "--yes"), ("verify", "alpha"), ("undo", "alpha", "--yes")])
def test_a_host_that_lets_nobody_in_is_said_to(
    lab: Lab, trouble: Callable[[Lab], AbstractContextManager[None]], words: str, verb: tuple[str, ...]
) -> None:
    with trouble(lab):
        assert words in segue(lab, *verb, status=6).stderr


@pytest.mark.usefixtures("untouched")
def test_killed_half_way_it_is_taken_back_by_the_next_one(lab: Lab) -> None:
    argv = lab.enter_argv("admin", [SEGUE, "host", "prepare", "alpha", "--yes"])
    with subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as killed:
        assert killed.stderr is not None
        assert any(QEMU_CONF in line for line in killed.stderr)
        killed.kill()
    assert '"end"' not in lab.host_path("alpha", JOURNAL).read_text(encoding="utf-8")
    done = segue(lab, "prepare", "alpha", "--yes")
    assert "cut short" in done.stderr
    assert serves_tls(lab, "alpha")
    segue(lab, "undo", "alpha", "--yes")


@pytest.mark.usefixtures("untouched")
def test_what_somebody_changed_since_is_left_and_named(lab: Lab) -> None:
    path = lab.host_path("alpha", QEMU_CONF)
    before = path.read_bytes()
    segue(lab, "prepare", "alpha", "--yes")
    prepared = path.read_text(encoding="utf-8")
    path.write_text(f"{prepared}max_files = 4096\n", encoding="utf-8")
    done = segue(lab, "undo", "alpha", "--yes", status=1)
    assert f"{QEMU_CONF} was changed by somebody else since" in done.stderr
    assert "max_files = 4096" in path.read_text(encoding="utf-8")
    [copy] = [word.strip(";") for word in done.stderr.split() if word.startswith(HOME)][:1]
    assert Path(lab.host_path("alpha", copy)).read_bytes() == before
    path.write_text(prepared, encoding="utf-8")
    segue(lab, "undo", "alpha", "--yes")


@pytest.mark.usefixtures("untouched")
def test_tcp_for_everybody_is_said_to_be_what_it_is(lab: Lab) -> None:
    shown = segue(lab, "prepare", "alpha", "--tcp", "--insecure-lab", status=3)
    assert "becomes root on this host" in shown.stderr
