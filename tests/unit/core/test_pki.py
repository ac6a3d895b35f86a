"""What is wrong with a host's certificates, how long they hold, and a fleet that goes over to a new CA: decided without any."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core import pki
from segue.core.model import DriverKind, HostAddress
from segue.core.pki import (
    CERTIFICATE,
    DAY_MS,
    FFDHE2048,
    FILES,
    IDENTITIES,
    KEY,
    TRUST,
    Certificate,
    FileSeen,
    Flaw,
    HostSeen,
    Identity,
    Role,
    Service,
    Shown,
    Standing,
    Turn,
    Validity,
)

NOW = 1_000 * DAY_MS
SERVER = Identity(Service.LIBVIRT, Role.SERVER)
QEMU_SERVER = Identity(Service.QEMU, Role.SERVER)
OLD, NEW = "old", "new"


def certificate(**changes: Any) -> Certificate:
    made = Certificate(
        subject="beta",
        serial=7,
        not_before_ms=NOW - DAY_MS,
        not_after_ms=NOW + 100 * DAY_MS,
        names=frozenset({"beta", "10.0.0.2"}),
        roles=frozenset(Role),
        is_ca=False,
        fingerprint="f",
        key="k",
    )
    return replace(made, **changes)


CA = certificate(subject="CA", is_ca=True, fingerprint=OLD)
SHOWN = Shown(certificate=certificate(), signer=OLD, key="k")


def host(**changes: Any) -> HostSeen:
    private = {KEY[identity]: "qemu" if identity.service is Service.QEMU else "root" for identity in IDENTITIES}
    files = {
        path: FileSeen(owner=private.get(path, "root"), group="root", mode=0o600 if path in private else 0o644) for path in FILES
    }
    seen = HostSeen(
        host="beta",
        hostname="beta",
        qemu_user="qemu",
        qemu_group="kvm",
        files=files,
        trusted=dict.fromkeys(Service, (CA,)),
        shown=dict.fromkeys(IDENTITIES, SHOWN),
        broken={},
    )
    return replace(seen, **changes)


def with_file(path: str, **changes: Any) -> HostSeen:
    seen = host()
    return replace(seen, files={**seen.files, path: replace(seen.files[path], **changes)})


def without(*paths: str) -> HostSeen:
    seen = host()
    return replace(seen, files={path: file for path, file in seen.files.items() if path not in paths})


def showing(identity: Identity = SERVER, **changes: Any) -> HostSeen:
    seen = host()
    return replace(seen, shown={**seen.shown, identity: replace(SHOWN, **changes)})


def trusting(*cas: Certificate) -> HostSeen:
    return host(trusted={Service.LIBVIRT: cas, Service.QEMU: (CA,)})


def flaws(seen: HostSeen, *names: str) -> set[tuple[Flaw, str]]:
    return {(finding.flaw, finding.path) for finding in pki.judge(seen, names or ("beta",), NOW)}


def test_nothing_is_wrong_with_a_host_as_it_is_installed():
    assert flaws(host(), "beta", "10.0.0.2") == set()


LIBVIRT_CA = TRUST[Service.LIBVIRT]
CERT, SERVER_KEY, QEMU_KEY = CERTIFICATE[SERVER], KEY[SERVER], KEY[QEMU_SERVER]


@pytest.mark.parametrize(
    ("seen", "flaw", "path"),
    [
        (host(files={}), Flaw.MISSING, "/etc/pki"),
        (without(LIBVIRT_CA), Flaw.MISSING, LIBVIRT_CA),
        (without(SERVER_KEY), Flaw.MISSING, SERVER_KEY),
        (showing(certificate=None), Flaw.MISSING, CERT),
        (host(broken={CERT: "is empty"}), Flaw.BROKEN, CERT),
        (host(broken={LIBVIRT_CA: "holds no certificate"}), Flaw.BROKEN, LIBVIRT_CA),
        (with_file(SERVER_KEY, mode=0o644), Flaw.OPEN_KEY, SERVER_KEY),
        (with_file(SERVER_KEY, mode=0o620), Flaw.OPEN_KEY, SERVER_KEY),
        (with_file(SERVER_KEY, owner="carol"), Flaw.WRONG_OWNER, SERVER_KEY),
        (with_file(SERVER_KEY, mode=0o640, group="users"), Flaw.WRONG_OWNER, SERVER_KEY),
        (with_file(QEMU_KEY, owner="root"), Flaw.UNREADABLE, QEMU_KEY),
        (with_file(LIBVIRT_CA, mode=0o600), Flaw.UNREADABLE, LIBVIRT_CA),
        (with_file(CERT, mode=0o600), Flaw.UNREADABLE, CERT),
        (showing(signer=""), Flaw.WRONG_CA, CERT),
        (showing(certificate=certificate(not_after_ms=NOW - 1)), Flaw.EXPIRED, CERT),
        (showing(certificate=certificate(not_before_ms=NOW + 1)), Flaw.NOT_YET_VALID, CERT),
        (
            host(trusted={**dict.fromkeys(Service, (CA,)), Service.LIBVIRT: (CA, replace(CA, not_after_ms=0))}),
            Flaw.EXPIRED,
            LIBVIRT_CA,
        ),
        (
            host(trusted={**dict.fromkeys(Service, (CA,)), Service.LIBVIRT: (replace(CA, is_ca=False),)}),
            Flaw.WRONG_ROLE,
            LIBVIRT_CA,
        ),
        (showing(key="another"), Flaw.WRONG_KEY, CERT),
        (showing(certificate=certificate(roles=frozenset({Role.CLIENT}))), Flaw.WRONG_ROLE, CERT),
        (showing(certificate=certificate(is_ca=True)), Flaw.WRONG_ROLE, CERT),
        (showing(certificate=certificate(names=frozenset({"gamma"}))), Flaw.NAME_MISSING, CERT),
        (showing(revoked=True), Flaw.REVOKED, CERT),
    ],
)
def test_each_flaw_is_named_with_its_file(seen: HostSeen, flaw: Flaw, path: str):
    assert flaws(seen) == {(flaw, path)}


@pytest.mark.parametrize(("group", "mode"), [("kvm", 0o640), ("root", 0o600)])
def test_a_key_of_qemu_that_its_group_may_read_is_fine(group: str, mode: int):
    owner = "root" if mode == 0o640 else "qemu"
    assert flaws(with_file(QEMU_KEY, owner=owner, group=group, mode=mode)) == set()


def test_every_finding_says_what_to_do():
    for finding in pki.judge(without(LIBVIRT_CA, SERVER_KEY), ("gamma",), NOW):
        assert finding.text
        assert finding.fix


@given(mode=st.integers(0, 0o777))
def test_a_key_that_anybody_else_may_read_or_change_is_never_passed_over(mode: int):
    found = flaws(with_file(SERVER_KEY, mode=mode))
    assert (mode & 0o037 != 0) <= bool({(Flaw.OPEN_KEY, SERVER_KEY), (Flaw.WRONG_OWNER, SERVER_KEY)} & found)


def test_hosts_of_two_cas_are_strangers_to_each_other():
    other = replace(CA, fingerprint=NEW)
    gamma = host(
        host="gamma", trusted=dict.fromkeys(Service, (other,)), shown=dict.fromkeys(IDENTITIES, replace(SHOWN, signer=NEW))
    )
    found = pki.strangers([host(), gamma])
    assert {finding.host for finding in found} == {"beta", "gamma"}
    assert {finding.flaw for finding in found} == {Flaw.WRONG_CA}
    both = dict.fromkeys(Service, (CA, other))
    assert pki.strangers([replace(host(), trusted=both), replace(gamma, trusted=both)]) == ()


# --- names


def address(uri: str, migration_address: str = "") -> HostAddress:
    return HostAddress(name="beta", uri=uri, driver=DriverKind.LIBVIRT, migration_address=migration_address)


@pytest.mark.parametrize(
    ("addresses", "hostname", "names"),
    [
        ((), "", ("beta",)),
        ([address("qemu+tls://Beta.Example.org:16514/system", "10.0.0.2")], "b7", ("beta", "beta.example.org", "10.0.0.2")),
        ([address("qemu+tcp://[fd00:0::2]/system")], "b7.lan", ("beta", "fd00::2", "b7.lan")),
        ([address("qemu:///system")], "", ("beta",)),
    ],
)
def test_a_certificate_must_hold_for_each_name_by_which_the_fleet_connects(addresses, hostname, names):
    assert pki.names_used("beta", addresses, hostname=hostname) == names


@pytest.mark.parametrize(
    ("uris", "port"),
    [
        (["qemu+ssh://beta:2222/system"], 16514),
        (["qmp+ssh://beta:2222/", "qemu+tls://beta:16999/system"], 16999),
        (["qemu+tls://beta/system"], 16514),
        ([], 16514),
    ],
)
def test_the_port_is_that_of_the_tls_uri_or_the_usual_one(uris: list[str], port: int):
    assert pki.tls_port([address(uri) for uri in uris]) == port


def test_qemus_ports_are_those_of_segue_toml_or_libvirts_own():
    assert pki.migration_ports([address("qemu:///system")]) == (49152, 49215)
    assert pki.migration_ports([address("qmp:///"), replace(address("qemu:///system"), migration_ports=(50000, 50009))]) == (
        50000,
        50009,
    )


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("web.example.org", True),
        ("a.web.example.org", False),
        ("example.org", False),
        (".example.org", False),
        ("10.0.0.1", False),
    ],
)
def test_a_wildcard_stands_for_one_label(name: str, holds: bool):
    assert pki.speaks_for(certificate(names=frozenset({"*.example.org", "*.0.0.1"})), name) is holds


# --- status


@pytest.mark.parametrize(
    ("shown", "validity", "days"),
    [
        (SHOWN, Validity.VALID, 100),
        (replace(SHOWN, certificate=certificate(not_after_ms=NOW + 30 * DAY_MS)), Validity.VALID, 30),
        (replace(SHOWN, certificate=certificate(not_after_ms=NOW + 30 * DAY_MS - 1)), Validity.EXPIRING, 29),
        (replace(SHOWN, certificate=certificate(not_after_ms=NOW - 1)), Validity.EXPIRED, -1),
        (replace(SHOWN, certificate=certificate(not_before_ms=NOW + 1)), Validity.NOT_YET, 100),
        (replace(SHOWN, revoked=True), Validity.REVOKED, 100),
        (Shown(certificate=None), Validity.UNKNOWN, None),
    ],
)
def test_a_row_says_how_long_it_holds(shown: Shown, validity: Validity, days: int | None):
    row = pki.row("beta", "libvirt-server", shown, NOW, 30)
    assert (row.validity, row.days_left, row.is_well) == (validity, days, validity is Validity.VALID)


# --- rotation


def after(standing: Standing, turn: Turn) -> Standing:
    match turn:
        case Turn.TRUST:
            return replace(standing, believes=standing.believes | {NEW})
        case Turn.RENEW:
            return Standing(believes=standing.believes | {NEW}, signers=frozenset({NEW}))
        case Turn.FORGET:
            return replace(standing, believes=frozenset({NEW}))


@given(count=st.integers(1, 6), data=st.data())
def test_each_host_believes_each_other_at_each_moment_of_a_rotation(count: int, data: st.DataObject):
    fleet = {str(number): Standing(believes=frozenset({OLD}), signers=frozenset({OLD})) for number in range(count)}
    finish = False
    for _ in range(20 * count):
        turns = pki.next_turns(fleet, NEW, finish=finish)
        if not turns:
            if finish:
                break
            assert all(one.signers == {NEW} and OLD in one.believes for one in fleet.values())
            finish = True
            continue
        # Any of them, in any order, and broken off at any moment: the next call looks anew.
        name, turn = data.draw(st.sampled_from(turns))
        fleet[name] = after(fleet[name], turn)
        for one in fleet.values():
            for other in fleet.values():
                assert other.signers <= one.believes
    assert all(one == Standing(believes=frozenset({NEW}), signers=frozenset({NEW})) for one in fleet.values())


def test_the_group_for_key_agreement_is_that_of_the_rfc():
    """RFC 7919, A.1: p = 2^2048 - 2^1984 + {[2^1918 * e] + 560316} * 2^64 - 1, generator 2."""
    term, e = 1 << 2100, 0  # e as a sum of 1/n!, to 2100 bits
    for n in range(1, 400):
        e, term = e + term, term // n
    prime = 2**2048 - 2**1984 + ((e >> (2100 - 1918)) + 560316) * 2**64 - 1
    pair = bytes.fromhex("30820108 02820101 00") + prime.to_bytes(256, "big") + bytes.fromhex("0201 02")  # PKCS #3, in DER
    begin, *lines, end = FFDHE2048.decode().splitlines()
    assert base64.b64decode("".join(lines)) == pair
    assert (begin, end) == ("-----BEGIN DH PARAMETERS-----", "-----END DH PARAMETERS-----")
