"""What a host's certificates must be, what is wrong with them, and in which order a fleet goes over to a new CA.

Where libvirt and QEMU look for them is a table here (libvirt, docs/kbase/tlscerts.rst; QEMU, docs/system/tls.rst). What may live
here: facts about certificates and files, and the decisions that follow from them. `segue.provision.pki` reads certificates.

libvirt and QEMU have keys of their own on each host. A QEMU that a guest has taken over can read QEMU's key, and libvirtd lets in
whom its CA vouches for: by the organizational unit in a certificate's subject it can tell them apart (``tls_allowed_dn_list``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Final
from urllib.parse import unquote, urlsplit

from segue.core.model import HostAddress

LIBVIRT_TLS_PORT: Final = 16514
"""libvirtd.conf, ``tls_port``."""
MIGRATION_PORTS: Final = (49152, 49215)
"""qemu.conf, ``migration_port_min`` and ``migration_port_max``; libvirt gives ports out from the lowest on."""
DAY_MS: Final = 86_400_000


class Service(StrEnum):
    """Who holds a key."""

    LIBVIRT = "libvirt"
    QEMU = "qemu"


class Role(StrEnum):
    """At which end of a connection it is shown."""

    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """One key and certificate of a host."""

    service: Service
    role: Role

    def __str__(self) -> str:
        return f"{self.service}-{self.role}"


IDENTITIES: Final = tuple(Identity(service, role) for service, role in product(Service, Role))
TRUST: Final = {Service.LIBVIRT: "/etc/pki/CA/cacert.pem", Service.QEMU: "/etc/pki/qemu/ca-cert.pem"}
"""The CAs that each believes; several may stand in one file (both read up to 16)."""
REVOKED: Final = {Service.LIBVIRT: "/etc/pki/CA/cacrl.pem", Service.QEMU: "/etc/pki/qemu/ca-crl.pem"}
CERTIFICATE: Final = {
    Identity(Service.LIBVIRT, Role.SERVER): "/etc/pki/libvirt/servercert.pem",
    Identity(Service.LIBVIRT, Role.CLIENT): "/etc/pki/libvirt/clientcert.pem",
    Identity(Service.QEMU, Role.SERVER): "/etc/pki/qemu/server-cert.pem",
    Identity(Service.QEMU, Role.CLIENT): "/etc/pki/qemu/client-cert.pem",
}
KEY: Final = {
    Identity(Service.LIBVIRT, Role.SERVER): "/etc/pki/libvirt/private/serverkey.pem",
    Identity(Service.LIBVIRT, Role.CLIENT): "/etc/pki/libvirt/private/clientkey.pem",
    Identity(Service.QEMU, Role.SERVER): "/etc/pki/qemu/server-key.pem",
    Identity(Service.QEMU, Role.CLIENT): "/etc/pki/qemu/client-key.pem",
}
DIRECTORIES: Final = ("/etc/pki", "/etc/pki/CA", "/etc/pki/libvirt", "/etc/pki/libvirt/private", "/etc/pki/qemu")
"""Each root's and open to be looked into, as virt-pki-validate wants; what is secret has a mode of its own."""
DH_PARAMETERS: Final = "/etc/pki/qemu/dh-params.pem"
"""Where QEMU looks for a group to agree on keys in (crypto/tlscreds.c, QCRYPTO_TLS_CREDS_DH_PARAMS). A destination that finds
none makes one of its own whenever it begins to listen: 0.05 to 1.1 s, median 0.26, beside 0.01 s (QEMU 7.2, 40 starts, two
cores)."""
FFDHE2048: Final = b"""\
-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""
"""The group of 2048 bits that RFC 7919 (appendix A.1) gives to everybody, of the size that QEMU makes. It is no secret."""
MAY_LACK: Final = (*REVOKED.values(), DH_PARAMETERS)
"""What a host works without."""
FILES: Final = (*TRUST.values(), *CERTIFICATE.values(), *KEY.values(), *MAY_LACK)
PUBLIC_MODE: Final = 0o644
KEY_MODE: Final = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What one certificate says.

    Attributes:
        subject: its common name.
        serial: its number, unique for its issuer.
        not_before_ms, not_after_ms: when it holds, Unix time.
        names: the DNS names and IP addresses for which it speaks, as `canonical` writes them.
        roles: what it may be used for.
        is_ca: whether it may sign others.
        fingerprint: of all of it; key: of its public key (SHA-256, hexadecimal).
    """

    subject: str
    serial: int
    not_before_ms: int
    not_after_ms: int
    names: frozenset[str]
    roles: frozenset[Role]
    is_ca: bool
    fingerprint: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSeen:
    """A file as it lies on a host."""

    owner: str
    group: str
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One identity as it lies on a host.

    Attributes:
        certificate: ``None`` where it is missing, or is not one.
        signer: the fingerprint of the trusted CA that signed it; empty where none did.
        revoked: the list of revoked certificates beside it names it.
        key: of the public half of the private key; empty where there is none that can be read.
    """

    certificate: Certificate | None
    signer: str = ""
    revoked: bool = False
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSeen:
    """Everything of a host that matters here.

    Attributes:
        host: its name.
        hostname: what it calls itself.
        qemu_user, qemu_group: as whom QEMU runs there.
        files: by path; what is missing is not in it.
        trusted: the CAs in each trust file, in its order.
        shown: by identity.
        broken: by path, why a file cannot be understood.
    """

    host: str
    hostname: str
    qemu_user: str
    qemu_group: str
    files: Mapping[str, FileSeen]
    trusted: Mapping[Service, tuple[Certificate, ...]]
    shown: Mapping[Identity, Shown]
    broken: Mapping[str, str]

    @property
    def believes(self) -> frozenset[str]:
        """The fingerprints of the CAs that libvirt and QEMU both trust there."""
        both = [frozenset(ca.fingerprint for ca in self.trusted.get(service, ())) for service in Service]
        return frozenset.intersection(*both)

    @property
    def signers(self) -> frozenset[str]:
        """The fingerprints of the CAs that signed what is shown there; empty for one that is not known."""
        return frozenset(self.shown[identity].signer if identity in self.shown else "" for identity in IDENTITIES)


class Flaw(StrEnum):
    """What can be wrong, stable for scripts."""

    MISSING = "missing"
    BROKEN = "broken"
    OPEN_KEY = "open-key"
    WRONG_OWNER = "wrong-owner"
    UNREADABLE = "unreadable"
    WRONG_CA = "wrong-ca"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    WRONG_KEY = "wrong-key"
    WRONG_ROLE = "wrong-role"
    NAME_MISSING = "name-missing"
    REVOKED = "revoked"
    HANDSHAKE = "handshake"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong on a host, and what mends it."""

    host: str
    flaw: Flaw
    path: str
    text: str
    fix: str


# --- which names


def canonical(name: str) -> str:
    """A DNS name or an IP address as certificates and the tables here write it."""
    name = name.strip().strip("[]").rstrip(".")
    try:
        return str(ipaddress.ip_address(name.partition("%")[0]))
    except ValueError:
        return name.lower()


def names_used(host: str, addresses: Iterable[HostAddress], *, hostname: str = "") -> tuple[str, ...]:
    """Every name by which the fleet connects to a host with TLS, its own first.

    That is the host of each URI and the migration address. Where there is none, libvirt sends the source to the name that the
    destination calls itself (libvirt, docs/migration.rst, "Migration URI").

    Args:
        host: its name.
        addresses: what segue.toml says of it.
        hostname: what it calls itself; empty where it was not asked.
    """
    names = [host]
    has_migration_address = False
    for address in addresses:
        names.append(unquote(urlsplit(address.uri).hostname or ""))
        names.append(address.migration_address)
        has_migration_address |= bool(address.migration_address)
    if not has_migration_address:
        names.append(hostname)
    return tuple(dict.fromkeys(canonical(name) for name in names if name))


def tls_port(addresses: Iterable[HostAddress]) -> int:
    """The port on which a host's libvirt serves TLS: that of its ``qemu+tls://`` URI, else the usual one."""
    uris = (urlsplit(address.uri) for address in addresses)
    return next((uri.port for uri in uris if uri.scheme == "qemu+tls" and uri.port), LIBVIRT_TLS_PORT)


def migration_ports(addresses: Iterable[HostAddress]) -> tuple[int, int]:
    """The first and the last port on which a host's QEMU may listen for a guest."""
    return next((address.migration_ports for address in addresses if address.migration_ports), MIGRATION_PORTS)


# --- what is wrong


def judge(seen: HostSeen, names: Iterable[str], now_ms: int) -> tuple[Finding, ...]:
    """What is wrong with a host by itself.

    Args:
        seen: the host.
        names: by which it is connected to, canonical.
        now_ms: Unix time.
    """
    if not seen.files:
        text = "libvirt and QEMU have no certificates there"
        return (Finding(host=seen.host, flaw=Flaw.MISSING, path=DIRECTORIES[0], text=text, fix=_install(seen.host)),)
    found: list[Finding] = [
        Finding(host=seen.host, flaw=Flaw.BROKEN, path=path, text=f"{path} {why}", fix=_install(seen.host))
        for path, why in seen.broken.items()
    ]
    for service in Service:
        found += _judge_trust(seen, service, now_ms)
    for identity in IDENTITIES:
        found += _judge_key_file(seen, identity)
        found += _judge_certificate(seen, identity, now_ms)
        if identity.role is Role.SERVER:
            found += _judge_names(seen, identity, names)
    return tuple(found)


def _install(host: str) -> str:
    return f"segue pki issue {host} && segue pki install {host}"


def _judge_trust(seen: HostSeen, service: Service, now_ms: int) -> Iterable[Finding]:
    path = TRUST[service]
    if path in seen.broken:
        return
    if path not in seen.files:
        yield Finding(
            host=seen.host,
            flaw=Flaw.MISSING,
            path=path,
            text=f"there is no CA certificate {path}",
            fix=f"segue pki install {seen.host}",
        )
        return
    if not seen.files[path].mode & 0o004:
        text = f"{path} must be readable by everybody, and its mode is {seen.files[path].mode:04o}"
        yield Finding(host=seen.host, flaw=Flaw.UNREADABLE, path=path, text=text, fix=f"chmod 0644 {path}")
    for ca in seen.trusted.get(service, ()):
        # Both refuse to start with a CA that does not hold, even one that nothing was signed by (virNetTLSCertSanityCheck).
        yield from _judge_dates(seen.host, path, ca, now_ms, fix=f"segue pki install {seen.host}")
        if not ca.is_ca:
            text = f"{ca.subject!r} in {path} is no CA certificate"
            yield Finding(host=seen.host, flaw=Flaw.WRONG_ROLE, path=path, text=text, fix=f"segue pki install {seen.host}")


def _judge_dates(host: str, path: str, certificate: Certificate, now_ms: int, *, fix: str) -> Iterable[Finding]:
    if certificate.not_after_ms < now_ms:
        days = (now_ms - certificate.not_after_ms) // DAY_MS
        text = f"{certificate.subject!r} in {path} expired {days} days ago"
        yield Finding(host=host, flaw=Flaw.EXPIRED, path=path, text=text, fix=fix)
    if certificate.not_before_ms > now_ms:
        text = f"{certificate.subject!r} in {path} is not valid yet; the host's clock may be wrong, or that of who made it"
        yield Finding(host=host, flaw=Flaw.NOT_YET_VALID, path=path, text=text, fix=f"compare the clocks; then {fix}")


def _judge_key_file(seen: HostSeen, identity: Identity) -> Iterable[Finding]:
    path = KEY[identity]
    file = seen.files.get(path)
    if file is None:
        yield Finding(host=seen.host, flaw=Flaw.MISSING, path=path, text=f"there is no key {path}", fix=_install(seen.host))
        return
    if file.mode & ~0o640:
        text = f"the key {path} is open to others: its mode is {file.mode:04o}"
        # Whoever could read it has it: closing the file does not take it back.
        fix = f"segue pki revoke {seen.host}, then {_install(seen.host)}"
        yield Finding(host=seen.host, flaw=Flaw.OPEN_KEY, path=path, text=text, fix=fix)
    users = {"root", seen.qemu_user} if identity.service is Service.QEMU else {"root"}
    groups = {"root", seen.qemu_group} if identity.service is Service.QEMU else {"root"}
    if file.owner not in users or (file.mode & 0o040 and file.group not in groups):
        text = f"the key {path} belongs to {file.owner}:{file.group}"
        yield Finding(host=seen.host, flaw=Flaw.WRONG_OWNER, path=path, text=text, fix=f"segue pki install {seen.host}")
    elif identity.service is Service.QEMU and not _may_read(file, seen.qemu_user, seen.qemu_group):
        text = f"QEMU runs as {seen.qemu_user} and cannot read {path} ({file.owner}:{file.group}, {file.mode:04o})"
        yield Finding(host=seen.host, flaw=Flaw.UNREADABLE, path=path, text=text, fix=f"segue pki install {seen.host}")


def _may_read(file: FileSeen, user: str, group: str) -> bool:
    bit = 0o400 if file.owner == user else 0o040 if file.group == group else 0o004
    return user == "root" or bool(file.mode & bit)


def _judge_certificate(seen: HostSeen, identity: Identity, now_ms: int) -> Iterable[Finding]:
    path, fix = CERTIFICATE[identity], _install(seen.host)

    def finding(flaw: Flaw, text: str) -> Finding:
        return Finding(host=seen.host, flaw=flaw, path=path, text=text, fix=fix)

    if path in seen.broken:
        return
    shown = seen.shown.get(identity)
    if shown is None or shown.certificate is None:
        yield finding(Flaw.MISSING, f"there is no certificate {path}")
        return
    if not seen.files[path].mode & 0o004:
        yield finding(Flaw.UNREADABLE, f"{path} must be readable by everybody, and its mode is {seen.files[path].mode:04o}")
    yield from _judge_dates(seen.host, path, shown.certificate, now_ms, fix=fix)
    if not shown.signer:
        yield finding(Flaw.WRONG_CA, f"{path} was signed by none of the CAs in {TRUST[identity.service]}")
    if shown.certificate.is_ca:
        yield finding(Flaw.WRONG_ROLE, f"{path} is a CA certificate")
    if identity.role not in shown.certificate.roles:
        yield finding(Flaw.WRONG_ROLE, f"{path} may not be used by a TLS {identity.role}")
    if shown.revoked:
        yield finding(Flaw.REVOKED, f"{path} is revoked")
    if shown.key and shown.key != shown.certificate.key:
        yield finding(Flaw.WRONG_KEY, f"{path} does not belong to the key {KEY[identity]}")


def _judge_names(seen: HostSeen, identity: Identity, names: Iterable[str]) -> Iterable[Finding]:
    shown = seen.shown.get(identity)
    if shown is None or shown.certificate is None:
        return
    for name in names:
        if not speaks_for(shown.certificate, name):
            path = CERTIFICATE[identity]
            has = ", ".join(sorted(shown.certificate.names)) or "none"
            text = f"{path} does not hold for {name}, by which the fleet connects to {seen.host}; it names {has}"
            fix = f"segue pki issue {seen.host} --san {name} && segue pki install {seen.host}"
            yield Finding(host=seen.host, flaw=Flaw.NAME_MISSING, path=path, text=text, fix=fix)


def speaks_for(certificate: Certificate, name: str) -> bool:
    """Whether a TLS client that connects to this canonical name is content (RFC 6125: a wildcard stands for one label)."""
    if name in certificate.names:
        return True
    first, dot, rest = name.partition(".")
    return bool(first and dot) and not rest.replace(".", "").isdigit() and f"*.{rest}" in certificate.names


def strangers(hosts: Sequence[HostSeen]) -> tuple[Finding, ...]:
    """Pairs of hosts of which one would not believe what the other shows, although each is right by itself."""
    found = []
    for one, other in product(hosts, hosts):
        for identity in IDENTITIES:
            shown = other.shown.get(identity)
            believed = {ca.fingerprint for ca in one.trusted.get(identity.service, ())}
            if one is not other and shown is not None and shown.signer and shown.signer not in believed:
                text = f"{one.host} does not trust the CA that signed {CERTIFICATE[identity]} of {other.host}"
                path = TRUST[identity.service]
                fix = f"segue pki install {one.host}, and {other.host} likewise, from one CA"
                found.append(Finding(host=one.host, flaw=Flaw.WRONG_CA, path=path, text=text, fix=fix))
    return tuple(found)


# --- how long they hold


class Validity(StrEnum):
    """How a certificate stands in time."""

    VALID = "valid"
    EXPIRING = "expiring"
    EXPIRED = "expired"
    NOT_YET = "not-yet-valid"
    REVOKED = "revoked"
    UNKNOWN = "unknown"
    """It is missing, is not one, or the host did not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the status table. `days_left` is negative for what is over, ``None`` for what is not known."""

    host: str
    what: str
    subject: str
    not_after_ms: int | None
    days_left: int | None
    validity: Validity

    @property
    def is_well(self) -> bool:
        """Nobody has to do anything about it."""
        return self.validity is Validity.VALID


def row(host: str, what: str, shown: Shown, now_ms: int, warn_days: int) -> Row:
    """How a certificate stands."""
    certificate = shown.certificate
    if certificate is None:
        return Row(host=host, what=what, subject="", not_after_ms=None, days_left=None, validity=Validity.UNKNOWN)
    left_ms = certificate.not_after_ms - now_ms
    rules = (
        (shown.revoked, Validity.REVOKED),
        (left_ms < 0, Validity.EXPIRED),
        (certificate.not_before_ms > now_ms, Validity.NOT_YET),
        (left_ms < warn_days * DAY_MS, Validity.EXPIRING),
        (True, Validity.VALID),
    )
    return Row(
        host=host,
        what=what,
        subject=certificate.subject,
        not_after_ms=certificate.not_after_ms,
        days_left=left_ms // DAY_MS,
        validity=next(validity for holds, validity in rules if holds),
    )


# --- going over to a new CA


class Turn(StrEnum):
    """What one host does on the way to a new CA."""

    TRUST = "trust"
    """Believe the new CA beside what it believes."""
    RENEW = "renew"
    """Show certificates that the new CA signed."""
    FORGET = "forget"
    """Believe the new CA alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where one host stands on that way: fingerprints of the CAs that it believes, and of those that signed what it shows."""

    believes: frozenset[str]
    signers: frozenset[str]


def next_turns(hosts: Mapping[str, Standing], new: str, *, finish: bool) -> tuple[tuple[str, Turn], ...]:
    """What can be done now so that at each moment, in any order, each host believes each other; nothing when all is done.

    All believe the new CA before one shows what it signed, and all show that before one forgets the old. What was done is read
    off the hosts, not remembered: so it can be broken off anywhere, and called again.

    Args:
        hosts: all of the fleet; one that is left out may be cut off.
        new: the fingerprint of the new CA.
        finish: end the overlap, too.
    """
    stages = (
        (Turn.TRUST, [name for name, host in hosts.items() if new not in host.believes]),
        (Turn.RENEW, [name for name, host in hosts.items() if host.signers != {new}]),
        (Turn.FORGET, [name for name, host in hosts.items() if finish and host.believes != {new}]),
    )
    return next((tuple((name, turn) for name in names) for turn, names in stages if names), ())
