"""Certificates of OPC UA applications: self-signed ones for trials, and reading what a plant's engineers hand over.

Form: X.509 v3 with the application's URI as a subject alternative name, RSA, SHA-256 (OPC 10000-6, 6.2.2).
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from controlkit.errors import ConfigError
from controlkit.files import write_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.x509 import Certificate, GeneralName

KEY_BITS = 3072
VALID_DAYS = 365
# A certificate with fewer days left is made anew instead of reused.
RENEW_DAYS = 7
MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class Identity:
    """Where an application's certificate (DER) and private key (PEM, not encrypted) lie."""

    certificate: Path
    private_key: Path


def ensure_identity(
    folder: Path,
    name: str,
    use: Literal["server", "client"],
    hosts: Sequence[str] = ("localhost", "127.0.0.1"),
    now: datetime.datetime | None = None,
) -> Identity:
    """The self-signed certificate `folder/name.der` with its key `name.key.pem`; made where there is none that serves.

    Args:
        folder: made where it is missing; the key is readable by its owner alone.
        name: of the application; its URI becomes `urn:controlkit:NAME`.
        use: what the certificate may be used for.
        hosts: names and addresses under which the application is reached.
        now: the time that validity is reckoned from; the machine's clock where not given.

    Raises:
        ConfigError: a file is there that is no certificate or key, or the two do not belong together.
        ControlkitError: the folder is not writable.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    identity = Identity(folder / f"{name}.der", folder / f"{name}.key.pem")
    if identity.certificate.exists() and identity.private_key.exists():
        certificate = load_certificate(identity.certificate)
        check_pair(certificate, load_private_key(identity.private_key), identity.certificate)
        if certificate.not_valid_after_utc - now > datetime.timedelta(days=RENEW_DAYS):
            return identity
    _make(identity, name, use, hosts, now)
    return identity


def load_certificate(path: Path) -> Certificate:
    """The X.509 certificate in a PEM or DER file.

    Raises:
        ConfigError: no such file, too large, or no certificate.
    """
    from cryptography import x509

    content = _read(path)
    try:
        if b"-----BEGIN" in content:
            return x509.load_pem_x509_certificate(content)
        return x509.load_der_x509_certificate(content)
    except ValueError:
        cure = "Give an X.509 certificate in PEM or DER."
        raise ConfigError("is no certificate", where=str(path), cure=cure) from None


def load_private_key(path: Path) -> RSAPrivateKey:
    """The RSA private key in an unencrypted PEM or DER file.

    Raises:
        ConfigError: no such file, too large, encrypted, or no such key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    content = _read(path)
    try:
        if b"-----BEGIN" in content:
            key = serialization.load_pem_private_key(content, password=None)
        else:
            key = serialization.load_der_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(
            "is no private key, or is encrypted",
            where=str(path),
            cure="Give an RSA key in PEM or DER without a password, readable by the runtime alone.",
        ) from None
    if not isinstance(key, RSAPrivateKey):
        raise ConfigError("is no RSA key", where=str(path), cure="OPC UA's security policies need RSA.")
    return key


def check_pair(certificate: Certificate, key: RSAPrivateKey, where: Path) -> None:
    """Raises ConfigError unless the certificate is the key's."""
    if certificate.public_key() != key.public_key():
        cure = "Give the key that the certificate was made with."
        raise ConfigError("the certificate and the private key do not belong together", where=str(where), cure=cure)


def check_time(certificate: Certificate, where: Path, now: datetime.datetime | None = None) -> None:
    """Raises ConfigError unless the certificate is valid now."""
    now = now or datetime.datetime.now(datetime.UTC)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= now <= last:
        raise ConfigError(
            f"the certificate is valid from {first:%Y-%m-%d} to {last:%Y-%m-%d}, not today",
            where=str(where),
            cure="Have it renewed, or set this machine's clock.",
        )


def application_uri(certificate: Certificate) -> str:
    """The application's URI in the certificate; empty where it has none."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris: list[str] = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        return ""
    return uris[0] if uris else ""


def fingerprint(der: bytes) -> str:
    """The first 16 hex digits of the SHA-256 of a certificate, for people to compare."""
    import hashlib

    return hashlib.sha256(der).hexdigest()[:16]


def certificate_bytes(certificate: Certificate) -> bytes:
    """The certificate in DER."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def _make(identity: Identity, name: str, use: str, hosts: Sequence[str], now: datetime.datetime) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"controlkit {name}")])
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"urn:controlkit:{name}")]
    names += [_host(host) for host in hosts]
    usage = ExtendedKeyUsageOID.SERVER_AUTH if use == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks of two machines are never quite the same.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=True,
                key_encipherment=True,
                data_encipherment=True,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write_key(identity.private_key, pem)
    write_bytes(identity.certificate, certificate_bytes(certificate))


def _host(name: str) -> GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_key(path: Path, content: bytes) -> None:
    """Never readable by others, not even for a moment."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
    except OSError as problem:
        reason = problem.strerror or "unwritable"
        raise ConfigError(f"cannot be written ({reason})", where=str(path), cure="Choose another folder.") from None


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError("is too large for a certificate or a key", where=str(path), cure="Check the path.")
        return path.read_bytes()
    except OSError as problem:
        reason = problem.strerror or "unreadable"
        raise ConfigError(f"cannot be read ({reason})", where=str(path), cure="Check the path.") from None
