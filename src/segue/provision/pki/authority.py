"""The CA's directory: what is in it is what there is, and each thing in it came there whole.

    ca/1/cacert.pem cakey.pem crl.pem       a CA that is believed; two of them while a rotation is under way
    hosts/beta/1/libvirt-server-cert.pem …  what was issued to a host, newest number last
    retired/1/…                             a CA that is believed no more
    lock                                    held by whoever changes anything

No index can be wrong, because there is none: dates and names are in the certificates, and who was revoked is in the lists. What
may live here: files of this machine. All of them are 0600, in directories of 0700.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from segue.core.pki import IDENTITIES, Identity, canonical
from segue.errors import PkiError, UsageError
from segue.provision.pki import x509
from segue.provision.pki.x509 import Pair

_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,62}")
_CERTIFICATE, _KEY, _CRL = "cacert.pem", "cakey.pem", "crl.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ca:
    """One CA of the directory. `crl` is the list of what it revoked."""

    number: int
    pair: Pair
    crl: bytes

    @property
    def fingerprint(self) -> str:
        """Of its certificate."""
        return x509.facts(x509.read(self.pair.certificate)[0]).fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """The keys and certificates of one host."""

    host: str
    pairs: Mapping[Identity, Pair]

    @property
    def names(self) -> tuple[str, ...]:
        """The names that they hold for."""
        certificate = x509.facts(x509.read(self.pairs[IDENTITIES[0]].certificate)[0])
        return tuple(sorted(certificate.names))


class Authority:
    """The CA in a directory. Made by `create` or `opened`; holds the lock until the context is left.

    Every method raises `PkiError` when the directory cannot be read or written; then nothing of that call is in it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def directory(self) -> Path:
        """Where it is."""
        return self._directory

    @staticmethod
    @contextlib.contextmanager
    def opened(directory: Path) -> Iterator[Authority]:
        """The CA that is there, and nobody else's until the context is left.

        Raises:
            PkiError: there is none; somebody else is at it; its directory or a key is open to others, or broken.
        """
        if not (directory / "ca").is_dir():
            raise PkiError(
                f"There is no CA in {directory}.", hint="'segue pki init' makes one; $SEGUE_PKI names another directory."
            )
        with _locked(directory):
            authority = Authority(directory)
            authority.believed()
            yield authority

    @staticmethod
    @contextlib.contextmanager
    def create(directory: Path, pair: Pair) -> Iterator[Authority]:
        """A new CA in a directory that has none.

        Raises:
            PkiError: there is one; the pair is none, or no CA.
        """
        try:
            _check_ca(pair)
        except PkiError as error:
            raise PkiError(f"That CA cannot be used: it {error.message}.", hint="Nothing was changed.") from None
        with _in_words(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(directory):
            if (directory / "ca").exists():
                raise PkiError(f"There is a CA in {directory} already.", hint="'segue pki rotate' makes a new one beside it.")
            authority = Authority(directory)
            authority.add(pair)
            yield authority

    def add(self, pair: Pair) -> Ca:
        """Believe one more CA."""
        crl = x509.make_crl(pair, (), now=datetime.now(UTC))
        files = {_CERTIFICATE: pair.certificate, _KEY: pair.key, _CRL: crl}
        number = self._number()
        _make_directory(self._directory / "ca" / str(number), files)
        return Ca(number=number, pair=pair, crl=crl)

    def succeed(self, *, days: int) -> Ca:
        """Believe a new CA beside the one that there is; it has the same name with another number."""
        newest = self.newest()
        base = x509.facts(x509.read(newest.pair.certificate)[0]).subject.removesuffix(f" {newest.number}")
        return self.add(x509.make_authority(f"{base} {self._number()}", now=datetime.now(UTC), days=days))

    def newest(self) -> Ca:
        """The CA that was made last."""
        return self.believed()[-1]

    def is_rotating(self) -> bool:
        """Whether more than one is believed."""
        return len(self.believed()) > 1

    def _number(self) -> int:
        return _next(self._directory / "ca", self._directory / "retired")

    def believed(self) -> Sequence[Ca]:
        """The CAs that hosts are to believe, the oldest first: that one signs, for all believe it until it is retired."""
        return [self._ca(path) for path in _numbered(self._directory / "ca")]

    def _ca(self, path: Path) -> Ca:
        pair = Pair(certificate=_read(path / _CERTIFICATE), key=_read_key(path / _KEY))
        try:
            _check_ca(pair)
        except PkiError as error:
            raise PkiError(f"The CA in {path} cannot be used: it {error.message}.", hint="Take it back from a backup.") from None
        return Ca(number=int(path.name), pair=pair, crl=_read(path / _CRL))

    def retire(self, ca: Ca) -> None:
        """Believe a CA no more. Harmless to repeat."""
        source = self._directory / "ca" / str(ca.number)
        with _in_words(self._directory):
            (self._directory / "retired").mkdir(mode=0o700, exist_ok=True)
            if source.exists():
                source.rename(self._directory / "retired" / source.name)

    def issue(self, host: str, names: Sequence[str], *, days: int, by: Ca | None = None, keeping: Issued | None = None) -> Issued:
        """Make keys and certificates for a host; what it had stays valid.

        Args:
            host: its name.
            names: by which it is connected to.
            days: for so long, but not longer than the CA.
            by: the CA that signs; default: the oldest that is believed.
            keeping: the keys of this; default: new ones.

        Raises:
            UsageError: a name cannot stand in a certificate.
        """
        if not _HOST.fullmatch(host):
            raise UsageError(f"{host!r} is no name of a host.", hint="Use its name in segue.toml.")
        pair = (by or self.believed()[0]).pair
        now, wanted = datetime.now(UTC), tuple(dict.fromkeys(canonical(name) for name in names))
        keys = {identity: had.key for identity, had in keeping.pairs.items()} if keeping else {}
        pairs = {
            identity: x509.issue(pair, identity, host, wanted, now=now, days=days, key=keys.get(identity, b""))
            for identity in IDENTITIES
        }
        files = {f"{identity}-cert.pem": made.certificate for identity, made in pairs.items()}
        files |= {f"{identity}-key.pem": made.key for identity, made in pairs.items()}
        home = self._directory / "hosts" / host
        _make_directory(home / str(_next(home)), files)
        return Issued(host=host, pairs=pairs)

    def issued(self, host: str) -> Issued:
        """What was last issued to a host.

        Raises:
            PkiError: nothing was.
        """
        home = self._directory / "hosts" / host
        found = _numbered(home) if _HOST.fullmatch(host) else []
        if not found:
            raise PkiError(f"Nothing was issued to {host} yet.", hint=f"'segue pki issue {host}' does.")
        return self._issued(found[-1])

    def _issued(self, path: Path) -> Issued:
        pairs = {}
        for identity in IDENTITIES:
            certificate, key = path / f"{identity}-cert.pem", path / f"{identity}-key.pem"
            pairs[identity] = Pair(certificate=_read(certificate), key=_read_key(key))
            _understood(certificate, x509.read, pairs[identity].certificate)
            _understood(key, x509.key_print, pairs[identity].key)
        return Issued(host=path.parent.name, pairs=pairs)

    def hosts(self) -> Sequence[str]:
        """Every host to which something was issued."""
        home = self._directory / "hosts"
        return sorted(path.name for path in home.iterdir()) if home.is_dir() else []

    def revoke(self, host: str) -> int:
        """Revoke everything that was ever issued to a host by a CA that is believed. Harmless to repeat.

        Returns:
            How many certificates of the host are revoked now.

        Raises:
            PkiError: nothing was ever issued to it.
        """
        self.issued(host)
        shown = [
            x509.read(pair.certificate)[0]
            for path in _numbered(self._directory / "hosts" / host)
            for pair in self._issued(path).pairs.values()
        ]
        count = 0
        for ca in self.believed():
            certificate = x509.read(ca.pair.certificate)
            serials = {serial for _, serial in x509.revoked_by(ca.crl, certificate)}
            own = {one.serial_number for one in shown if x509.signer(one, certificate)}
            count += len(own)
            crl = x509.make_crl(ca.pair, serials | own, now=datetime.now(UTC))
            _replace(self._directory / "ca" / str(ca.number) / _CRL, crl)
        return count


def _check_ca(pair: Pair) -> None:
    """Raise a `PkiError`, as `x509.read` says it, where this is no CA with its key."""
    certificate = x509.facts(x509.read(pair.certificate)[0])
    if not certificate.is_ca:
        raise PkiError("holds no CA certificate")
    if x509.key_print(pair.key) != certificate.key:
        raise PkiError("has a key that does not belong to its certificate")


def _understood(path: Path, read: Callable[[bytes], object], content: bytes) -> None:
    try:
        read(content)
    except PkiError as error:
        hint = f"'segue pki issue {path.parent.parent.name}' makes new ones."
        raise PkiError(f"{path} {error.message}.", hint=hint) from None


# --- files


@contextlib.contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PkiError(
            f"{error.filename or path}: {error.strerror}.", hint="Nothing was changed. Mend that, and try again."
        ) from error


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with _in_words(directory):
        mode = directory.stat().st_mode & 0o777
        if mode & 0o077:
            raise PkiError(f"{directory} is open to others: its mode is {mode:04o}.", hint=f"chmod 0700 {directory}")
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PkiError(f"Another segue is at work in {directory}.", hint="Wait until it has ended.") from None
        yield
    finally:
        os.close(fd)


def _numbered(directory: Path) -> list[Path]:
    with _in_words(directory):
        found = [path for path in directory.iterdir() if path.name.isdigit()] if directory.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def _next(*directories: Path) -> int:
    return 1 + max((int(path.name) for directory in directories for path in _numbered(directory)), default=0)


def _read(path: Path) -> bytes:
    with _in_words(path):
        return path.read_bytes()


def _read_key(path: Path) -> bytes:
    with _in_words(path):
        mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise PkiError(
            f"The key {path} is open to others: its mode is {mode:04o}.", hint="Whoever read it has it: make a new one."
        )
    return _read(path)


def _write(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)


def _make_directory(path: Path, files: Mapping[str, bytes]) -> None:
    """A directory with these files: whole, or not at all."""
    with _in_words(path):
        for parent in (path.parent.parent, path.parent):  # `parents=True` would make the first one open to others
            parent.mkdir(mode=0o700, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=path.parent))  # 0700
        try:
            for name, content in files.items():
                _write(new / name, content)
            new.rename(path)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        _sync(path.parent)


def _replace(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    with _in_words(path):
        new.unlink(missing_ok=True)
        try:
            _write(new, content)
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
