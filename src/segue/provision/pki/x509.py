"""Makes and reads keys, certificates and revocation lists. What may live here: pure functions on PEM, by `cryptography`.

Keys are of the curve P-256: every GnuTLS that libvirt still supports has it, and one is made in a millisecond. Private keys are
bytes in memory, and in no text of an error.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificatePublicKeyTypes,
    PublicKeyTypes,
)
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from segue.core.pki import Certificate, Identity, Role, canonical
from segue.errors import PkiError, UsageError

BACKDATED: Final = timedelta(hours=1)
"""What is made is valid from an hour ago: clocks of hosts differ, and libvirtd refuses to start before a certificate's time."""
_PURPOSE: Final = {Role.SERVER: ExtendedKeyUsageOID.SERVER_AUTH, Role.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH}
Parsed = x509.Certificate
_SENSELESS: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises at bytes that are no certificate, or not one that it knows."""
_NAME_LENGTH: Final = 64  # RFC 5280, ub-common-name


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate and its private key, both PEM. The key is not shown by `repr`."""

    certificate: bytes
    key: bytes = field(repr=False)


def make_authority(name: str, *, now: datetime, days: int) -> Pair:
    """A new CA.

    Raises:
        UsageError: the name cannot stand in a certificate.
    """
    # A comma would end the name for virt-pki-validate, which reads it out of certtool's text.
    if not 0 < len(name) <= _NAME_LENGTH or "," in name or not name.isprintable():
        raise UsageError(f"{name!r} is no name for a CA.", hint="Use up to 64 characters and no comma.")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        _begun(subject, subject, key.public_key(), now, now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_may_sign(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def issue(ca: Pair, identity: Identity, host: str, names: Sequence[str], *, now: datetime, days: int, key: bytes = b"") -> Pair:
    """A certificate for a host, and its key. It does not outlive the CA.

    Args:
        ca: that signs.
        identity: what it is for.
        host: its name.
        names: by which it is connected to.
        now: it holds from a little earlier on.
        days: for so long.
        key: the key that it is for; default: a new one.

    There is no key usage in it: RFC 8813 forbids ``keyEncipherment`` for such keys, older libvirt and QEMU ask for it where there
    is any (virNetTLSCertCheckKeyUsage), and none at all contents both. What it is for is in the extended key usage.

    Raises:
        PkiError: the CA has expired.
        UsageError: a name cannot stand in a certificate.
    """
    issuer = _one(ca.certificate)
    until = min(now + timedelta(days=days), issuer.not_valid_after_utc)
    if until <= now:
        raise PkiError(f"The CA {_common_name(issuer)!r} has expired.", hint="'segue pki rotate' makes a new one.")
    own = _private_key(key) if key else ec.generate_private_key(ec.SECP256R1())
    parts = (
        (NameOID.ORGANIZATION_NAME, _common_name(issuer)[:_NAME_LENGTH]),  # virt-pki-validate compares it with the CA's name
        (NameOID.ORGANIZATIONAL_UNIT_NAME, identity.service.value),
        (NameOID.COMMON_NAME, host[:_NAME_LENGTH]),
    )
    subject = x509.Name([x509.NameAttribute(oid, text) for oid, text in parts])
    builder = (
        _begun(subject, issuer.subject, own.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_PURPOSE[identity.role]]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .add_extension(_key_identifier(issuer), critical=False)
    )
    return _pair(builder.sign(_signing_key(ca), _hash(ca)), own)


def make_crl(ca: Pair, revoked: Iterable[int], *, now: datetime) -> bytes:
    """The list of revoked serial numbers. It holds as long as the CA: an outdated one proves nothing (RFC 5280, 6.3.3)."""
    issuer = _one(ca.certificate)
    since = max(now - BACKDATED, issuer.not_valid_before_utc)
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=issuer.subject, last_update=since, next_update=max(issuer.not_valid_after_utc, since + BACKDATED)
    )
    builder = builder.add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
    builder = builder.add_extension(_key_identifier(issuer), critical=False)
    for serial in sorted(set(revoked)):
        entry = x509.RevokedCertificateBuilder(serial_number=serial, revocation_date=since)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(_signing_key(ca), _hash(ca)).public_bytes(serialization.Encoding.PEM)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - BACKDATED,
        not_valid_after=until,
    )


def _may_sign() -> x509.KeyUsage:
    no = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    return x509.KeyUsage(**no, encipher_only=False, decipher_only=False, key_cert_sign=True, crl_sign=True)


def _key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    labels = name.removeprefix("*.").split(".")
    plain = all(label.replace("-", "").replace("_", "").isalnum() and len(label) < _NAME_LENGTH for label in labels)
    if not plain or not name.isascii():
        raise UsageError(
            f"{name!r} is neither a host name nor an IP address.", hint="Write it like beta.example.org or 10.0.7.12."
        )
    return x509.DNSName(name)


def _signing_key(ca: Pair) -> CertificateIssuerPrivateKeyTypes:
    return _private_key(ca.key)


def _hash(ca: Pair) -> hashes.SHA256 | None:
    """Edwards curves, which a CA of somebody else may use, have their own."""
    from cryptography.hazmat.primitives.asymmetric import ed448, ed25519

    return None if isinstance(_signing_key(ca), (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)) else hashes.SHA256()


def _pair(certificate: x509.Certificate, key: CertificateIssuerPrivateKeyTypes) -> Pair:
    return Pair(
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


# --- reading


@contextlib.contextmanager
def _leniently() -> Iterator[None]:
    """Without a warning for the number 0, which certtool once gave to its CAs: they still hold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        yield


def read(pem: bytes) -> list[x509.Certificate]:
    """Every certificate of a file, in its order.

    Raises:
        PkiError: it is none, or half of one; the message begins with a verb, as after the file's name.
    """
    begun, ended = pem.count(b"-----BEGIN CERTIFICATE-----"), pem.count(b"-----END CERTIFICATE-----")
    if not pem.strip():
        raise PkiError("is empty")
    if not begun:
        raise PkiError("holds no certificate")
    if begun != ended:
        raise PkiError("ends in the middle of a certificate: it was written by halves")
    try:
        with _leniently():
            found = x509.load_pem_x509_certificates(pem)
    except _SENSELESS:
        raise PkiError("holds something that is no certificate") from None
    for certificate in found:  # its parts are looked at when they are asked for, and not before
        facts(certificate)
    return found


def _one(pem: bytes) -> x509.Certificate:
    return read(pem)[0]


def facts(certificate: x509.Certificate) -> Certificate:
    """What a certificate says.

    Raises:
        PkiError: a part of it cannot be understood.
    """
    try:
        with _leniently():
            return _facts(certificate)
    except _SENSELESS:
        raise PkiError("holds a certificate that cannot be understood") from None


def _facts(certificate: x509.Certificate) -> Certificate:
    extensions = certificate.extensions
    try:
        is_ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    try:
        purposes = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        roles = {role for role, oid in _PURPOSE.items() if {oid, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & purposes}
    except x509.ExtensionNotFound:
        roles = set(Role)
    return Certificate(
        subject=_common_name(certificate),
        serial=certificate.serial_number,
        not_before_ms=_ms(certificate.not_valid_before_utc),
        not_after_ms=_ms(certificate.not_valid_after_utc),
        names=frozenset(_names(extensions)),
        roles=frozenset(roles),
        is_ca=is_ca,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        key=_key_print(certificate.public_key()),
    )


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as files hold it."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _names(extensions: x509.Extensions) -> Iterable[str]:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    yield from (canonical(name) for name in names.get_values_for_type(x509.DNSName))
    yield from (str(address) for address in names.get_values_for_type(x509.IPAddress))


def _common_name(certificate: x509.Certificate) -> str:
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else certificate.subject.rfc4514_string()


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def at(ms: int) -> datetime:
    """A moment given in milliseconds of Unix time."""
    return datetime.fromtimestamp(ms / 1000, tz=UTC)


def _key_print(key: PublicKeyTypes) -> str:
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    return digest.finalize().hex()


def _private_key(pem: bytes) -> CertificateIssuerPrivateKeyTypes:
    """The key in a file, whatever text stands before it (certtool writes some).

    Raises:
        PkiError: it is none; as `read` says it.
    """
    if not pem.strip():
        raise PkiError("is empty")
    begins = pem.find(b"-----BEGIN")
    for load in (serialization.load_pem_private_key, _gnutls_key):
        try:
            return load(pem[max(begins, 0) :], None)  # type: ignore[return-value]
        except TypeError:
            raise PkiError("holds a key with a password, which nobody can give at a start") from None
        except (ValueError, UnsupportedAlgorithm):
            pass
    raise PkiError("holds no private key, or half of one")  # no word of what was parsed


@asn1.sequence
class _Sec1:
    version: int
    value: bytes
    curve: Annotated[x509.ObjectIdentifier | None, asn1.Explicit(0)]
    public: Annotated[asn1.BitString | None, asn1.Explicit(1)]


def _gnutls_key(pem: bytes, _password: None) -> ec.EllipticCurvePrivateKey:
    """A key of an elliptic curve as certtool writes it, which `cryptography` refuses for half of them.

    RFC 5915 wants as many bytes as the curve has. GnuTLS writes the number as ASN.1 writes integers: with a zero before a first
    bit that is set, and without the zeros that it begins with (seen with 3.7.9).

    Raises:
        ValueError: it is none.
    """
    lines = pem.partition(b"-----BEGIN EC PRIVATE KEY-----")[2].partition(b"-----END EC PRIVATE KEY-----")[0]
    key = asn1.decode_der(_Sec1, base64.b64decode(lines))
    if key.curve is None:
        raise ValueError("a key without a curve")
    try:
        curve = ec.get_curve_for_oid(key.curve)()
    except LookupError:
        raise ValueError("a curve that is not known") from None
    return ec.derive_private_key(int.from_bytes(key.value, "big"), curve)


def key_print(pem: bytes) -> str:
    """What `Certificate.key` is for the certificate that belongs to this private key.

    Raises:
        PkiError: it is none; as `read` says it.
    """
    return _key_print(_private_key(pem).public_key())


def signer(certificate: x509.Certificate, trusted: Iterable[x509.Certificate]) -> str:
    """The fingerprint of the CA among these that signed it; empty where none did."""
    for ca in trusted:
        try:
            certificate.verify_directly_issued_by(ca)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            continue
        return ca.fingerprint(hashes.SHA256()).hex()
    return ""


def lists_of_others(crls: bytes, own: Iterable[x509.Certificate]) -> bytes:
    """The lists in a file that none of these CAs signed; what cannot be understood in it is left out."""
    mark, own, kept = b"-----BEGIN X509 CRL-----", tuple(own), []
    for block in crls.split(mark)[1:]:
        with contextlib.suppress(ValueError):
            crl = x509.load_pem_x509_crl(mark + block)
            if not any(crl.issuer == ca.subject and crl.is_signature_valid(ca.public_key()) for ca in own):  # type: ignore[arg-type]
                kept.append(crl.public_bytes(serialization.Encoding.PEM))
    return b"".join(kept)


def revoked_by(crls: bytes, trusted: Iterable[x509.Certificate]) -> frozenset[tuple[str, int]]:
    """Which serial numbers of which CAs (their fingerprints) are revoked by the lists of a file.

    Raises:
        PkiError: it holds no list, or half of one; as `read` says it.
    """
    mark, found = b"-----BEGIN X509 CRL-----", set()
    trusted = tuple(trusted)
    for block in crls.split(mark)[1:]:
        try:
            crl = x509.load_pem_x509_crl(mark + block)
        except ValueError:
            raise PkiError("holds no list of revoked certificates, or half of one") from None
        for ca in trusted:
            if crl.issuer == ca.subject and crl.is_signature_valid(ca.public_key()):  # type: ignore[arg-type]
                found |= {(ca.fingerprint(hashes.SHA256()).hex(), entry.serial_number) for entry in crl}
    return frozenset(found)
