"""``segue pki`` on hosts with a libvirtd that serves TLS: virsh and QEMU connect, each flaw is named, no rotation is noticed.

It has a lab of its own: the daemons of the others serve no TLS.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from segue import units
from segue.core.pki import CERTIFICATE, FILES, KEY, TRUST, Flaw, Identity, Role, Service
from segue.errors import LabError
from segue.lab import Lab, down, guests, up
from segue.lab.guests import GuestSpec, LabGuest
from segue.lab.shell import Completed
from segue.provision.pki import x509
from segue.provision.pki.x509 import Pair
from segue.units import parse_rate
from tests.lab.conftest import SEGUE
from tests.support.daemons import at_a_standstill, restart_libvirtd
from tests.support.labs import lab_name
from tests.table.cells import KINDS, refusals, ways
from tests.table.play import Played, play, start_guests

pytestmark = pytest.mark.lab

NAME = lab_name("testpki")
SERVER, CLIENT = (Identity(Service.LIBVIRT, role) for role in (Role.SERVER, Role.CLIENT))
QEMU_SERVER = Identity(Service.QEMU, Role.SERVER)
SERVERS = (SERVER, QEMU_SERVER)
NOW = datetime.now(UTC)
OTHER = x509.make_authority("Somebody else", now=NOW, days=10)
DN_LIST = 'tls_allowed_dn_list = ["*OU=libvirt*"]\n'


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    asyncio.run(down(NAME))  # of a run that was killed
    found = asyncio.run(up(name=NAME, hosts=2, rate_bps=parse_rate("1gbit")))
    try:
        ok(found, "init", "--name", "Lab CA")
        for host in found.hosts:
            ok(found, "issue", host)
            ok(found, "install", host)
            conf = found.host_path(host, "/etc/libvirt/libvirtd.conf")
            conf.write_text(
                conf.read_text(encoding="utf-8").replace("listen_tls = 0", "listen_tls = 1") + DN_LIST, encoding="utf-8"
            )
            asyncio.run(restart_libvirtd(found, host))
        yield found
    finally:
        asyncio.run(down(NAME))


@pytest.fixture
def mended(lab: Lab) -> Iterator[Lab]:
    """The lab, with alpha put back afterwards."""
    yield lab
    ok(lab, "install", "alpha")


async def call(lab: Lab, *words: str) -> Completed:
    return await lab.run("admin", [SEGUE, "pki", *words], check=False, deadline_s=120)


def segue(lab: Lab, *words: str) -> Completed:
    done = asyncio.run(call(lab, *words))
    assert "Traceback" not in done.stderr
    assert "PRIVATE" not in done.stdout + done.stderr
    return done


def ok(lab: Lab, *words: str) -> Completed:
    done = segue(lab, *words)
    assert done.status == 0, done.stdout + done.stderr
    return done


async def virsh(lab: Lab, source: str, destination: str) -> Completed:
    return await lab.run(source, ["virsh", "-q", "-c", f"qemu+tls://{destination}/system", "hostname"], check=False)


def flaws(lab: Lab, *, status: int = 1) -> set[tuple[str, str, str]]:
    done = segue(lab, "verify", "--json")
    assert done.status == status, done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(one["text"] and one["fix"] for one in found)
    return {(one["host"], one["flaw"], one["path"]) for one in found}


def ca_of(lab: Lab) -> Pair:
    """The CA of the lab that signs now."""
    home = min((lab.layout.pki / "ca").iterdir(), key=lambda path: int(path.name))
    return Pair(certificate=(home / "cacert.pem").read_bytes(), key=(home / "cakey.pem").read_bytes())


def put(lab: Lab, pair: Pair) -> None:
    """Put it on alpha as what libvirt and QEMU show there as servers."""
    for identity in SERVERS:
        lab.host_path("alpha", CERTIFICATE[identity]).write_bytes(pair.certificate)
        lab.host_path("alpha", KEY[identity]).write_bytes(pair.key)


def made(lab: Lab, names: tuple[str, ...] = ("alpha", "10.77.0.11"), **changes: object) -> Pair:
    wanted = {"ca": ca_of(lab), "now": NOW, "days": 5} | changes
    return x509.issue(wanted["ca"], SERVER, "alpha", names, now=wanted["now"], days=wanted["days"])  # type: ignore[arg-type]


# --- as it should be


def test_virsh_connects_both_ways_and_everything_is_well(lab: Lab) -> None:
    for source, destination in (("alpha", "beta"), ("beta", "alpha")):
        assert asyncio.run(virsh(lab, source, destination)).stdout.strip() == destination
    done = ok(lab, "verify")
    assert done.stdout == ""
    assert "8 handshakes between them succeeded" in done.stderr


@pytest.fixture(scope="module", params=["qemu", "libvirt"])
def guest(lab: Lab, request: pytest.FixtureRequest) -> Iterator[LabGuest]:
    """A guest of each kind; it stays where it was moved to."""
    kind = request.param
    yield asyncio.run(guests.start(lab, GuestSpec(name=f"sealed-{kind}", host="alpha", kind=kind, touch_bytes=16 * units.MIB)))
    asyncio.run(guests.stop(lab, f"sealed-{kind}"))


async def told_where_it_hangs(lab: Lab, argv: list[str]) -> Completed:
    """Such a move takes some seconds. In three whole runs one sent nothing for a minute: where it waits is told when it does."""
    moving = asyncio.ensure_future(lab.run("admin", argv, check=False, deadline_s=60))
    done, _ = await asyncio.wait({moving}, timeout=45)
    seen = "" if done else await at_a_standstill(lab)
    try:
        return await moving
    except LabError as error:
        error.add_note(seen)
        raise


def by_tls(lab: Lab, guest: LabGuest, there: str, *words: str) -> tuple[int, str, list[str]]:
    argv = [SEGUE, "migrate", guest.name, there, "--transport", "tls", *words]
    moved = asyncio.run(told_where_it_hangs(lab, argv))
    return moved.status, moved.stderr, [host for host, _ in guests.where(lab, guest.name)]


def test_guests_are_moved_by_tls_both_ways_and_to_no_host_of_another_name(mended: Lab, guest: LabGuest) -> None:
    for there, control in (("beta", "direct"), ("alpha", "p2p" if guest.kind == "libvirt" else "direct"), ("beta", "direct")):
        status, said, homes = by_tls(mended, guest, there, "--control", control)
        assert (status, homes) == (0, [there]), said
    put(mended, made(mended, names=("elsewhere",)))
    status, said, homes = by_tls(mended, guest, "alpha")
    assert (status, homes) == (3, ["beta"]), said
    assert "does not match the hostname 10.77.0.11" in said
    status, said, homes = by_tls(mended, guest, "alpha", "--accept", "tls-handshake")  # what preflight said is true
    assert (status, homes) == (1, ["beta"]), said
    assert "The certificate that alpha shows is not for the name" in said or "TLS" in said  # whichever QEMU spoke last


SLICE = ("direct tls tls persistent", "p2p tls ssh persistent", "p2p tunnelled unix persistent", "--postcopy")


@pytest.mark.timeout(240)
def test_a_slice_of_the_table_of_every_way(mended: Lab) -> None:
    cells = [cell for cell in (*ways(), *refusals()) if cell.persistent and any(words in str(cell) for words in SLICE)]
    assert len(cells) == len(SLICE)

    async def play_all() -> list[Played]:
        await start_guests(mended, [True])
        try:
            return [await play(mended, cell) for cell in cells]
        finally:
            await guests.stop(mended, KINDS[True])

    assert [played.wrong for played in asyncio.run(play_all())] == [""] * len(SLICE)


def test_virt_pki_validate_finds_nothing_but_that_the_clients_key_is_closed(lab: Lab) -> None:
    done = asyncio.run(lab.run("alpha", ["virt-pki-validate"]))
    wishes = [line for line in done.stdout.splitlines() if not line.startswith("Found")]
    assert wishes == [
        "The client private key need to be read by client tools",
        "as root do: chmod 644 /etc/pki/libvirt/private/clientkey.pem",
    ]


def test_owners_and_modes_are_right_also_where_qemu_is_not_root(mended: Lab) -> None:
    conf = mended.host_path("alpha", "/etc/libvirt/qemu.conf")
    text = conf.read_text(encoding="utf-8")
    conf.write_text(text.replace('user = "root"', 'user = "libvirt-qemu"'), encoding="utf-8")
    try:
        assert ("alpha", Flaw.UNREADABLE, KEY[QEMU_SERVER]) in flaws(mended)
        ok(mended, "install", "alpha")
        ok(mended, "verify")
        for path in FILES:
            lies = mended.host_path("alpha", path)
            private = path in KEY.values()
            owner = "libvirt-qemu" if private and "qemu" in path else "root"
            assert (lies.stat().st_mode & 0o777, lies.owner()) == (0o600 if private else 0o644, owner)
    finally:
        conf.write_text(text, encoding="utf-8")


def test_a_key_of_qemu_does_not_open_libvirt(mended: Lab) -> None:
    """As a guest that broke out of its QEMU would try it; libvirtd.conf tells the two apart by their organizational unit."""
    for kinds in (CERTIFICATE, KEY):
        qemu = mended.host_path("alpha", kinds[Identity(Service.QEMU, Role.CLIENT)])
        shutil.copyfile(qemu, mended.host_path("alpha", kinds[CLIENT]))
    assert asyncio.run(virsh(mended, "alpha", "beta")).status


def test_status_warns_when_little_time_is_left(lab: Lab) -> None:
    assert ok(lab, "status").stdout.count(" valid") == 13
    done = segue(lab, "status", "--warn-days", "800", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.status == 1
    assert {row["validity"] for row in rows if row["host"] == "beta" and "trusted" not in row["what"]} == {"expiring"}


# --- what is wrong is named


def wrong_ca(lab: Lab) -> None:
    put(lab, made(lab, ca=OTHER))


def expired(lab: Lab) -> None:
    put(lab, made(lab, now=NOW - timedelta(days=6)))


def not_yet_valid(lab: Lab) -> None:
    put(lab, made(lab, now=NOW + timedelta(days=2)))


def wrong_name(lab: Lab) -> None:
    put(lab, made(lab, names=("gamma", "10.77.0.11")))


def open_key(lab: Lab) -> None:
    for identity in SERVERS:
        lab.host_path("alpha", KEY[identity]).chmod(0o644)


def wrong_key(lab: Lab) -> None:
    for identity in SERVERS:
        lab.host_path("alpha", KEY[identity]).write_bytes(OTHER.key)


def half_written(lab: Lab) -> None:
    for identity in SERVERS:
        path = lab.host_path("alpha", CERTIFICATE[identity])
        path.write_bytes(path.read_bytes()[:300])


def untrusted(lab: Lab) -> None:
    for path in TRUST.values():
        lab.host_path("alpha", path).write_bytes(OTHER.certificate)


@pytest.mark.parametrize(
    ("spoil", "flaw", "kinds", "connects"),
    [
        (wrong_ca, Flaw.WRONG_CA, CERTIFICATE, False),
        (expired, Flaw.EXPIRED, CERTIFICATE, False),
        (not_yet_valid, Flaw.NOT_YET_VALID, CERTIFICATE, False),
        (wrong_name, Flaw.NAME_MISSING, CERTIFICATE, False),
        (open_key, Flaw.OPEN_KEY, KEY, True),
        (wrong_key, Flaw.WRONG_KEY, CERTIFICATE, False),
        (half_written, Flaw.BROKEN, CERTIFICATE, False),
        (untrusted, Flaw.WRONG_CA, CERTIFICATE, False),
    ],
)
def test_each_flaw_is_named_and_shows_in_the_handshake(
    mended: Lab,
    spoil: Callable[[Lab], None],
    flaw: Flaw,
    kinds: dict[Identity, str],
    connects: bool,
) -> None:
    spoil(mended)
    found = flaws(mended)
    assert {("alpha", flaw, kinds[identity]) for identity in SERVERS} <= found
    assert (Flaw.HANDSHAKE in {name for _, name, _ in found}) is not connects


@pytest.mark.parametrize("how", ["read-only", "full"])
def test_a_host_that_cannot_be_written_is_left_as_it_was(mended: Lab, how: str) -> None:
    def everything() -> dict[str, bytes]:
        shown = asyncio.run(mended.run("alpha", ["sh", "-c", "cd /etc/pki && find . -type f -exec sha256sum {} +"])).stdout
        return {line.split()[1]: line.split()[0].encode() for line in shown.splitlines()}

    commands = {
        "read-only": "mount --bind /etc/pki /etc/pki && mount -o remount,ro,bind /etc/pki",
        "full": "mount -t tmpfs -o size=8k tmpfs /etc/pki/qemu",
    }
    said = {"read-only": "Read-only file system", "full": "No space left on device"}
    asyncio.run(mended.run("alpha", ["sh", "-c", commands[how]]))
    try:
        before = everything()
        done = segue(mended, "install", "alpha")
        assert done.status == 1
        assert said[how] in done.stderr
        assert "Nothing was changed there" in done.stderr
        assert everything() == before
    finally:
        asyncio.run(mended.run("alpha", ["umount", "/etc/pki" if how == "read-only" else "/etc/pki/qemu"]))
    ok(mended, "verify")


def test_a_host_that_does_not_answer_is_said_to_be_silent(lab: Lab) -> None:
    async def both() -> tuple[Completed, Completed]:
        return await asyncio.gather(call(lab, "verify"), call(lab, "rotate"))

    asyncio.run(lab.cut("beta"))
    try:
        for done in asyncio.run(both()):
            assert (done.status, "beta cannot be reached" in done.stderr) == (6, True), done.stderr
    finally:
        asyncio.run(lab.heal("beta"))
    assert len(list((lab.layout.pki / "ca").iterdir())) == 1  # no rotation was begun


def test_what_is_revoked_is_let_in_nowhere_until_it_is_issued_anew(mended: Lab) -> None:
    assert json.loads(ok(mended, "revoke", "alpha", "--json").stdout)["certificates"]
    assert asyncio.run(virsh(mended, "alpha", "beta")).status
    assert asyncio.run(virsh(mended, "beta", "alpha")).status
    assert ("alpha", Flaw.REVOKED, CERTIFICATE[CLIENT]) in flaws(mended)
    assert "is revoked" in segue(mended, "install", "alpha").stderr
    ok(mended, "issue", "alpha")
    for host in mended.hosts:
        ok(mended, "install", host)
    ok(mended, "verify")


# --- a new CA


@asynccontextmanager
async def open_connection(lab: Lab) -> AsyncIterator[None]:
    """One connection from alpha to beta that is used at its beginning and at its end."""
    end = lab.host_path("alpha", "/run/end")
    end.unlink(missing_ok=True)
    script = '(echo hostname; until [ -e /run/end ]; do sleep 0.05; done; echo uri) | virsh -q -c "$1"'
    task = asyncio.ensure_future(lab.run("alpha", ["sh", "-c", script, "sh", "qemu+tls://beta/system"], deadline_s=300))
    try:
        yield
    finally:
        end.touch()
        done = await task
    assert {"beta", "qemu+tls://beta/system"} <= set(done.stdout.splitlines())  # virsh repeats what it is told between them


async def flowing(lab: Lab, name: str, moving: asyncio.Future[Completed]) -> None:
    """Until memory flows: what is only being prepared may have read whom to believe, and not yet what to show."""
    async with asyncio.timeout(60):
        while not moving.done():
            job = await lab.run("alpha", ["virsh", "-q", "domjobinfo", name], check=False)
            if (sent := re.search(r"Memory processed:\s+([\d.]+)", job.stdout)) and float(sent[1]):
                return
            await asyncio.sleep(0.1)
    raise AssertionError(moving)


@pytest.mark.timeout(400)
def test_a_rotation_interrupts_neither_an_open_connection_nor_a_migration(lab: Lab) -> None:
    guest = asyncio.run(guests.start(lab, GuestSpec(name="turned", host="alpha", kind="libvirt", touch_bytes=96 << 20)))
    migrate = ["virsh", "-q", "migrate", "--live", "--tls", "--bandwidth", "1", guest.name, "qemu+tls://beta/system"]

    async def rotation() -> None:
        async with open_connection(lab):
            moving = asyncio.ensure_future(lab.run("alpha", migrate, deadline_s=300))  # two minutes at this speed
            await flowing(lab, guest.name, moving)
            for words in (("rotate",), ("verify",), ("rotate",), ("rotate", "--finish"), ("rotate", "--finish"), ("verify",)):
                done = await call(lab, *words)
                assert done.status == 0, done.stdout + done.stderr
                for pair in (("alpha", "beta"), ("beta", "alpha")):
                    assert not (await virsh(lab, *pair)).status
            assert not moving.done(), moving
            await lab.run("alpha", ["virsh", "-q", "migrate-setspeed", guest.name, "1000"])
            await moving

    key = lab.host_path("alpha", KEY[SERVER]).read_bytes()
    asyncio.run(rotation())
    assert [host for host, _ in guests.where(lab, guest.name)] == ["beta"]
    asyncio.run(guests.stop(lab, guest.name))
    assert [path.name for path in (lab.layout.pki / "ca").iterdir()] == ["2"]
    assert [path.name for path in (lab.layout.pki / "retired").iterdir()] == ["1"]
    assert lab.host_path("alpha", KEY[SERVER]).read_bytes() == key
    [trusted] = x509.read(lab.host_path("beta", TRUST[Service.QEMU]).read_bytes())
    assert x509.facts(trusted).subject == "Lab CA 2"


def certtool(*words: str | Path) -> None:
    import subprocess

    subprocess.run(["certtool", *map(str, words)], check=True, capture_output=True, timeout=20)


@pytest.mark.timeout(400)
def test_hosts_with_certificates_of_certtool_are_accepted_and_taken_over(lab: Lab, tmp_path: Path) -> None:
    """As libvirt's page tells to make them; then `init` and `rotate` on top of them, and nobody notices."""
    (ca_info := tmp_path / "ca.info").write_text("cn = Their CA\nca\ncert_signing_key\n", encoding="utf-8")
    ca, ca_key = tmp_path / "ca.pem", tmp_path / "ca.key"
    certtool("--generate-privkey", "--outfile", ca_key)
    certtool("--generate-self-signed", "--load-privkey", ca_key, "--template", ca_info, "--outfile", ca)
    for host, address in (("alpha", "10.77.0.11"), ("beta", "10.77.0.12")):
        for identity in CERTIFICATE:
            info, key, cert = (tmp_path / f"{host}-{identity}.{end}" for end in ("info", "key", "pem"))
            names = f"dns_name = {host}\nip_address = {address}\n"
            subject = f"organization = Their CA\nunit = {identity.service}\ncn = {host}\n"
            info.write_text(f"{subject}{names}tls_www_{identity.role}\nencryption_key\nsigning_key\n", encoding="utf-8")
            certtool("--generate-privkey", "--outfile", key)
            signed = ("--load-ca-certificate", ca, "--load-ca-privkey", ca_key, "--load-privkey", key, "--template", info)
            certtool("--generate-certificate", *signed, "--outfile", cert)
            shutil.copyfile(cert, lab.host_path(host, CERTIFICATE[identity]))
            shutil.copyfile(key, lab.host_path(host, KEY[identity]))
        for path in TRUST.values():
            shutil.copyfile(ca, lab.host_path(host, path))
        asyncio.run(restart_libvirtd(lab, host))
    ok(lab, "verify")

    shutil.rmtree(lab.layout.pki)
    ok(lab, "init", "--name", "Ours")

    async def rotation() -> None:
        async with open_connection(lab):
            for words in (("rotate",), ("verify",), ("rotate", "--finish"), ("verify",)):
                done = await call(lab, *words)
                assert done.status == 0, done.stdout + done.stderr
                assert ("waiting for 5 s" in done.stderr) is (words == ("rotate",))  # it alone takes two kinds of turns
                assert not (await virsh(lab, "alpha", "beta")).status

    asyncio.run(rotation())
    [trusted] = x509.read(lab.host_path("beta", TRUST[Service.LIBVIRT]).read_bytes())
    assert x509.facts(trusted).subject == "Ours"
