"""The CA's directory: closed to others, whole at each moment, and what is in it is what there is."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from segue.core.pki import IDENTITIES
from segue.errors import PkiError, UsageError
from segue.provision.pki import x509
from segue.provision.pki.authority import Authority
from segue.provision.pki.x509 import Pair

CA = x509.make_authority("Test CA", now=datetime.now(UTC), days=100)


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    with Authority.create(tmp_path / "pki", CA) as found:
        yield found


def everything(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_nothing_in_it_is_open_to_others(authority: Authority):
    authority.issue("beta", ["beta"], days=10)
    authority.revoke("beta")
    authority.retire(authority.succeed(days=10))
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [authority.directory, *authority.directory.rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_what_was_issued_last_is_what_counts(authority: Authority):
    with pytest.raises(PkiError, match="Nothing was issued to beta"):
        authority.issued("beta")
    first = authority.issue("beta", ["beta"], days=10)
    second = authority.issue("beta", ["beta", "10.0.0.2"], days=10)
    assert authority.issued("beta") == second != first
    assert second.names == ("10.0.0.2", "beta")
    assert set(second.pairs) == set(IDENTITIES)
    assert authority.hosts() == ["beta"]


@pytest.mark.parametrize("host", ["", "..", "a/b", "-n", "a b", "x" * 64])
def test_a_host_that_is_no_name_is_refused(authority: Authority, host: str):
    with pytest.raises(UsageError, match="no name of a host"):
        authority.issue(host, ["beta"], days=1)
    with pytest.raises(PkiError):
        authority.issued(host)


def test_a_name_that_cannot_be_leaves_nothing(authority: Authority):
    before = everything(authority.directory)
    with pytest.raises(UsageError):
        authority.issue("beta", ["beta", "not a name"], days=1)
    assert everything(authority.directory) == before


def test_the_oldest_that_is_believed_signs_until_it_is_retired(authority: Authority):
    old, new = authority.believed()[0], authority.succeed(days=50)
    assert [one.number for one in authority.believed()] == [1, 2]
    assert x509.facts(x509.read(new.pair.certificate)[0]).subject == "Test CA 2"

    def signed_by() -> str:
        made = authority.issue("beta", ["beta"], days=1).pairs[IDENTITIES[0]]
        return x509.signer(x509.read(made.certificate)[0], [x509.read(ca.pair.certificate)[0] for ca in (old, new)])

    assert signed_by() == old.fingerprint
    authority.retire(old)
    authority.retire(old)
    assert signed_by() == new.fingerprint
    assert x509.facts(x509.read(authority.succeed(days=5).pair.certificate)[0]).subject == "Test CA 3"


def test_everything_that_a_host_ever_had_is_revoked_and_nothing_else(authority: Authority):
    mine = [authority.issue("beta", ["beta"], days=1) for _ in range(2)]
    other = authority.issue("gamma", ["gamma"], days=1)
    assert (authority.revoke("beta"), authority.revoke("beta")) == (8, 8)
    authority.issue("beta", ["beta"], days=1)
    [ca] = authority.believed()
    revoked = {serial for _, serial in x509.revoked_by(ca.crl, x509.read(ca.pair.certificate))}

    def serials(pairs: list[Pair]) -> set[int]:
        return {x509.read(pair.certificate)[0].serial_number for pair in pairs}

    assert revoked == serials([pair for issued in mine for pair in issued.pairs.values()])
    assert not revoked & serials(list(other.pairs.values()))


# --- bad input and bad circumstances


def opened(directory: Path) -> None:
    with Authority.opened(directory):
        pass


def test_there_must_be_one_and_there_is_never_a_second_one(tmp_path: Path, authority: Authority):
    with pytest.raises(PkiError, match="There is no CA in"):
        opened(tmp_path / "none")
    with pytest.raises(PkiError, match="Another segue is at work"):
        opened(authority.directory)


def test_a_ca_is_not_written_over(tmp_path: Path):
    with Authority.create(tmp_path / "pki", CA):
        pass
    before = everything(tmp_path)
    with pytest.raises(PkiError, match="There is a CA in"), Authority.create(tmp_path / "pki", CA):
        pass
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (Pair(certificate=b"", key=CA.key), "it is empty"),
        (Pair(certificate=CA.certificate[:100], key=CA.key), "written by halves"),
        (Pair(certificate=CA.certificate, key=b"x"), "no private key"),
        (Pair(certificate=CA.certificate, key=x509.make_authority("B", now=datetime.now(UTC), days=1).key), "does not belong"),
        (x509.issue(CA, IDENTITIES[0], "beta", ["beta"], now=datetime.now(UTC), days=1), "no CA certificate"),
    ],
)
def test_what_is_no_ca_is_refused_before_anything_is_written(tmp_path: Path, pair: Pair, said: str):
    with pytest.raises(PkiError, match=said), Authority.create(tmp_path / "pki", pair):
        pass
    assert not (tmp_path / "pki").exists()


@pytest.fixture
def made(tmp_path: Path) -> Path:
    with Authority.create(tmp_path / "pki", CA) as authority:
        authority.issue("beta", ["beta"], days=1)
    return tmp_path / "pki"


@pytest.mark.parametrize("path", [".", "ca/1/cakey.pem"])
def test_a_directory_or_a_key_that_is_open_to_others_is_not_used(made: Path, path: str):
    (made / path).chmod(0o750)
    with pytest.raises(PkiError, match="open to others"):
        opened(made)


def test_a_hosts_key_that_is_open_to_others_is_not_used(made: Path):
    (made / "hosts/beta/1/qemu-server-key.pem").chmod(0o644)
    with pytest.raises(PkiError, match=r"qemu-server-key\.pem is open to others"), Authority.opened(made) as authority:
        authority.issued("beta")


@pytest.mark.parametrize("path", ["ca/1/cacert.pem", "ca/1/cakey.pem"])
def test_a_ca_that_was_written_by_halves_is_named(made: Path, path: str):
    (made / path).write_bytes((made / path).read_bytes()[:100])
    with pytest.raises(PkiError, match=r"The CA in .* cannot be used"):
        opened(made)


@pytest.mark.parametrize("name", ["qemu-server-key.pem", "libvirt-client-cert.pem"])
def test_what_was_issued_and_written_by_halves_is_named(made: Path, name: str):
    path = made / "hosts/beta/1" / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PkiError, match=name), Authority.opened(made) as authority:
        authority.issued("beta")


def test_a_directory_without_room_stays_as_it_was(made: Path):
    """In a process of its own, whose files may not grow: a full disk as a program sees it."""
    before = everything(made)
    script = f"""
import resource, signal, pathlib
from segue.provision.pki.authority import Authority
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Authority.opened(pathlib.Path({str(made)!r})) as authority:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
    acts = [lambda: authority.issue("beta", ["beta"], days=1), lambda: authority.revoke("beta")]
    for act in [*acts, lambda: authority.succeed(days=1)]:
        try:
            act()
        except Exception as error:
            print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.count("PkiError") == 3, done
    assert "File too large" in done.stdout
    assert everything(made) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write where nobody may")
def test_a_directory_that_cannot_be_written_is_said_to_be(made: Path):
    (made / "hosts/beta").chmod(0o500)
    with pytest.raises(PkiError, match="Permission denied"), Authority.opened(made) as authority:
        authority.issue("beta", ["beta"], days=1)


def test_a_key_can_be_kept_under_a_new_ca(authority: Authority):
    had = authority.issue("beta", ["beta"], days=1)
    kept = authority.issue("beta", ["beta"], days=1, by=authority.succeed(days=5), keeping=had)
    assert [pair.key for pair in kept.pairs.values()] == [pair.key for pair in had.pairs.values()]
    assert not {pair.certificate for pair in kept.pairs.values()} & {pair.certificate for pair in had.pairs.values()}
