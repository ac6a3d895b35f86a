"""Certificates that are made are what is wanted of them, to GnuTLS as well; whatever is read, only `PkiError` is raised."""

from __future__ import annotations

import contextlib
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from segue.core.pki import IDENTITIES, Identity, Role, Service
from segue.errors import PkiError, UsageError
from segue.provision.pki import x509
from segue.provision.pki.x509 import Pair

NOW = datetime.now(UTC)
CA = x509.make_authority("Test CA", now=NOW, days=100)
SERVER = Identity(Service.LIBVIRT, Role.SERVER)
NAMES = ("beta", "beta.example.org", "10.0.0.2", "fd00::2")


def issue(ca: Pair = CA, identity: Identity = SERVER, now: datetime = NOW, days: int = 10) -> Pair:
    return x509.issue(ca, identity, "beta", NAMES, now=now, days=days)


BETA = issue()


def certtool(*words: str | Path, stdin: bytes = b"") -> str:
    done = subprocess.run(["certtool", *map(str, words)], input=stdin, capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "ca.pem").write_bytes(CA.certificate)
    (tmp_path / "beta.pem").write_bytes(BETA.certificate)
    return tmp_path


@pytest.mark.parametrize("identity", IDENTITIES, ids=str)
def test_what_is_issued_says_what_was_asked(identity: Identity):
    pair = issue(identity=identity)
    certificate = x509.read(pair.certificate)[0]
    facts = x509.facts(certificate)
    assert (facts.subject, facts.names, facts.roles, facts.is_ca) == ("beta", frozenset(NAMES), frozenset({identity.role}), False)
    assert x509.at(facts.not_before_ms) <= NOW - timedelta(minutes=59)
    assert x509.at(facts.not_after_ms) == (NOW + timedelta(days=10)).replace(microsecond=0)
    assert facts.key == x509.key_print(pair.key)
    assert x509.signer(certificate, x509.read(CA.certificate)) == x509.facts(x509.read(CA.certificate)[0]).fingerprint
    assert f"OU={identity.service}" in certificate.subject.rfc4514_string()


def test_keys_and_numbers_are_never_used_twice():
    made = [x509.facts(x509.read(issue().certificate)[0]) for _ in range(20)]
    assert len({one.key for one in made}) == len({one.serial for one in made}) == 20


def test_nothing_outlives_its_ca():
    issued, ca = (x509.facts(x509.read(pair.certificate)[0]) for pair in (issue(days=5000), CA))
    assert issued.not_after_ms == ca.not_after_ms
    with pytest.raises(PkiError, match="has expired"):
        issue(now=NOW + timedelta(days=101))


def test_a_ca_of_the_same_name_is_not_taken_for_the_one_that_signed():
    other = x509.make_authority("Test CA", now=NOW, days=100)
    assert x509.signer(x509.read(BETA.certificate)[0], x509.read(other.certificate)) == ""


def test_a_key_is_not_shown():
    assert b"PRIVATE" in BETA.key
    assert "PRIVATE" not in repr(BETA)


@pytest.mark.parametrize("name", ["", "a,b", "x" * 65, "new\nline"])
def test_a_name_that_no_ca_can_have_is_refused(name: str):
    with pytest.raises(UsageError):
        x509.make_authority(name, now=NOW, days=1)


@pytest.mark.parametrize("name", ["a b", "beta/", "ü.example.org", "", "10.0.0.2/24", "a..b", "*.*.a"])
def test_a_name_that_is_neither_host_nor_address_is_refused(name: str):
    with pytest.raises(UsageError, match="neither a host name nor"):
        x509.issue(CA, SERVER, "beta", [name], now=NOW, days=1)


# --- reading what others wrote, or wrote by halves


@pytest.mark.parametrize(
    ("pem", "said"),
    [
        (b"", "is empty"),
        (b"hello", "holds no certificate"),
        (BETA.certificate[:200], "written by halves"),
        (BETA.certificate + CA.certificate[:-30], "written by halves"),
        (BETA.certificate.replace(b"MII", b"AII"), "is no certificate"),
        (BETA.key, "holds no certificate"),
    ],
)
def test_what_is_no_certificate_is_said_to_be_none(pem: bytes, said: str):
    with pytest.raises(PkiError, match=said):
        x509.read(pem)


@pytest.mark.parametrize("pem", [b"", b"hello", BETA.key[:100], BETA.certificate, BETA.key.replace(b"MIG", b"AIG")])
def test_what_is_no_key_is_said_to_be_none_without_a_word_of_it(pem: bytes):
    with pytest.raises(PkiError) as caught:
        x509.key_print(pem)
    assert caught.value.__cause__ is None
    assert "MI" not in str(caught.value)


@given(at=st.integers(0, len(BETA.certificate) - 2), byte=st.integers(0, 255))
def test_a_damaged_certificate_is_read_or_refused_and_nothing_else(at: int, byte: int):
    damaged = bytearray(BETA.certificate)
    damaged[at] = byte
    for pem in (bytes(damaged), BETA.certificate[:at]):
        with contextlib.suppress(PkiError):
            for found in x509.read(pem):
                x509.facts(found)
                x509.signer(found, x509.read(CA.certificate))


@given(at=st.integers(0, len(BETA.key) - 2), byte=st.integers(0, 255))
def test_a_damaged_key_is_read_or_refused_and_nothing_else(at: int, byte: int):
    damaged = bytearray(BETA.key)
    damaged[at] = byte
    for pem in (bytes(damaged), BETA.key[:at]):
        with contextlib.suppress(PkiError):
            x509.key_print(pem)


# --- revocation


def test_a_list_names_what_was_revoked_by_its_own_ca_only():
    other = x509.make_authority("Other", now=NOW, days=100)
    certificates = [x509.read(ca.certificate)[0] for ca in (CA, other)]
    mine, theirs = (x509.facts(one).fingerprint for one in certificates)
    lists = x509.make_crl(CA, [1, 2], now=NOW) + x509.make_crl(other, [3], now=NOW)
    assert x509.revoked_by(lists, certificates) == {(mine, 1), (mine, 2), (theirs, 3)}
    assert x509.revoked_by(lists, certificates[:1]) == {(mine, 1), (mine, 2)}
    assert x509.revoked_by(x509.make_crl(CA, [], now=NOW), certificates) == frozenset()
    kept = x509.lists_of_others(lists, certificates[:1])
    assert x509.revoked_by(kept, certificates) == {(theirs, 3)}
    assert x509.lists_of_others(lists[:-40] + b"rubbish", certificates) == b""
    with pytest.raises(PkiError, match="half of one"):
        x509.revoked_by(lists[:-40], certificates)


# --- beside certtool


@pytest.mark.parametrize(("role", "purpose"), [(Role.SERVER, "1.3.6.1.5.5.7.3.1"), (Role.CLIENT, "1.3.6.1.5.5.7.3.2")])
@pytest.mark.parametrize("name", NAMES)
def test_certtool_verifies_what_is_issued(files: Path, role: Role, purpose: str, name: str):
    (files / "shown.pem").write_bytes(issue(identity=Identity(Service.QEMU, role)).certificate)
    words: list[str | Path] = [
        "--verify",
        "--verify-profile",
        "high",
        "--load-ca-certificate",
        files / "ca.pem",
        "--infile",
        files / "shown.pem",
    ]
    said = certtool(*words, "--verify-hostname", name, "--verify-purpose", purpose)
    assert "Chain verification output: Verified. The certificate is trusted." in said


def test_certtool_reads_the_key_and_it_is_that_of_the_certificate():
    assert certtool("--key-info", "--no-text", stdin=BETA.key)
    of_key = certtool("--pubkey-info", "--no-text", "--load-privkey", "/dev/stdin", stdin=BETA.key)
    assert of_key == certtool("--pubkey-info", "--no-text", "--load-certificate", "/dev/stdin", stdin=BETA.certificate)


def test_certtool_verifies_the_list(files: Path):
    (files / "crl.pem").write_bytes(x509.make_crl(CA, [5], now=NOW))
    said = certtool("--verify-crl", "--load-ca-certificate", files / "ca.pem", "--infile", files / "crl.pem")
    assert "Verified. The certificate is trusted." in said


SELF_SIGNED = "--generate-self-signed"
CA_FILES = (("certificate", "ca.cert"), ("privkey", "ca.key"))


def made_by_certtool(directory: Path, kind: str) -> tuple[Pair, Pair]:
    """A CA and a server of certtool's, as libvirt's page on certificates tells to make them."""
    pairs = []
    for name, template, ca in (
        ("ca", "cn = Their CA\nca\ncert_signing_key\n", ()),
        (
            "server",
            "organization = Their CA\ncn = beta\ndns_name = beta\nip_address = 10.0.0.2\ntls_www_server\n",
            CA_FILES,
        ),
    ):
        key, made, info = (directory / f"{name}{ending}" for ending in (".key", ".cert", ".info"))
        certtool("--generate-privkey", f"--key-type={kind}", "--sec-param=medium", "--outfile", key)
        info.write_text(template, encoding="utf-8")
        how = ["--generate-certificate", *(f"--load-ca-{what}={directory / file}" for what, file in ca)] if ca else [SELF_SIGNED]
        certtool(*how, "--load-privkey", key, "--template", info, "--outfile", made)
        pairs.append(Pair(certificate=made.read_bytes(), key=key.read_bytes()))
    return pairs[0], pairs[1]


def test_every_key_that_certtool_makes_of_a_curve_is_understood(tmp_path: Path):
    for _ in range(16):  # every second one begins with a bit that is set
        pem = certtool("--generate-privkey", "--key-type=ecdsa", "--curve=secp256r1").encode()
        (tmp_path / "key").write_bytes(pem)
        public = certtool("--pubkey-info", "--no-text", "--load-privkey", tmp_path / "key").encode()
        assert x509.key_print(pem) == x509._key_print(serialization.load_pem_public_key(public))


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_what_certtool_makes_is_understood_and_its_ca_can_issue(tmp_path: Path, kind: str):
    ca, server = made_by_certtool(tmp_path, kind)
    certificate = x509.read(server.certificate)[0]
    facts = x509.facts(certificate)
    assert (facts.subject, facts.names, facts.roles, facts.is_ca) == (
        "beta",
        frozenset({"beta", "10.0.0.2"}),
        frozenset({Role.SERVER}),
        False,
    )
    assert x509.signer(certificate, x509.read(ca.certificate)) == x509.facts(x509.read(ca.certificate)[0]).fingerprint
    assert facts.key == x509.key_print(server.key)
    (tmp_path / "ours.pem").write_bytes(issue(ca).certificate)
    said = certtool("--verify", "--load-ca-certificate", tmp_path / "ca.cert", "--infile", tmp_path / "ours.pem")
    assert "Chain verification output: Verified." in said
    assert x509.revoked_by(x509.make_crl(ca, [9], now=NOW), x509.read(ca.certificate))
