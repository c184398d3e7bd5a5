"""How an OPC UA server is spoken to: signed and encrypted, with one certificate that is trusted and no other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from controlkit.certificates import (
    application_uri,
    certificate_bytes,
    check_pair,
    check_time,
    fingerprint,
    load_certificate,
    load_private_key,
)
from controlkit.errors import ConfigError
from controlkit.strict_yaml import Strict

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.x509 import Certificate

Policy = Literal["Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"]
MAX_PASSWORD_BYTES = 4096


@dataclass(frozen=True)
class Insecure:
    """No security at all: policy None, anonymous. For tests on one machine."""

    warning: str = (
        "the connection to the plant is neither signed nor encrypted, and anybody may stand at its other end: "
        "for tests only"
    )


class Security(Strict):
    """What a secure connection needs.

    Attributes:
        policy: OPC UA's security policy. mode: sign and encrypt; there is no other.
        certificate, private_key: the runtime's own, PEM or DER, the key not encrypted.
        trusted_server_certificate: the only one that the server may show.
        user, password_file: a user of the server, and a file that holds the password and nothing else.
        user_certificate, user_private_key: a user who is known by a certificate, instead of a password.
    """

    policy: Policy = "Basic256Sha256"
    mode: Literal["SignAndEncrypt"] = "SignAndEncrypt"
    certificate: Path
    private_key: Path
    trusted_server_certificate: Path
    user: str | None = None
    password_file: Path | None = None
    user_certificate: Path | None = None
    user_private_key: Path | None = None

    @model_validator(mode="after")
    def _one_user(self) -> Security:
        if (self.user is None) != (self.password_file is None):
            raise ValueError("'user' and 'password_file' go together")
        if (self.user_certificate is None) != (self.user_private_key is None):
            raise ValueError("'user_certificate' and 'user_private_key' go together")
        if self.user is not None and self.user_certificate is not None:
            raise ValueError("a user is known by a password or by a certificate, not by both")
        return self

    @property
    def warning(self) -> str:
        """What a person must know about this connection: nothing."""
        return ""

    @staticmethod
    def insecure_for_tests() -> Insecure:
        """Neither signature nor encryption nor a user; its `warning` belongs on the screen."""
        return Insecure()

    def load(self) -> Credentials:
        """Reads and checks every file. That a certificate runs out later ends no connection: it is checked here only.

        Raises:
            ConfigError: a file is missing or is not what it should be, a certificate is not valid now or does not
                belong to its key.
        """
        own, key = _pair(self.certificate, self.private_key)
        if not application_uri(own):
            raise ConfigError(
                "the certificate holds no application URI",
                where=str(self.certificate),
                cure="Make one for OPC UA: with a URI among its subject alternative names.",
            )
        server = load_certificate(self.trusted_server_certificate)
        check_time(server, self.trusted_server_certificate)
        user_pair = None
        if self.user_certificate is not None and self.user_private_key is not None:
            user_pair = _pair(self.user_certificate, self.user_private_key)
        password = "" if self.password_file is None else _password(self.password_file)
        return Credentials(self.policy, own, key, server, self.user or "", password, user_pair)


@dataclass(frozen=True, repr=False)
class Credentials:
    """What `Security.load` read; never shown, as it holds secrets.

    Attributes:
        policy: name of the security policy.
        certificate, key: the runtime's own.
        server: the trusted certificate of the server.
        user, password: empty where there is none.
        user_pair: a user's certificate and key.
    """

    policy: Policy
    certificate: Certificate
    key: RSAPrivateKey
    server: Certificate
    user: str
    password: str
    user_pair: tuple[Certificate, RSAPrivateKey] | None

    @property
    def application_uri(self) -> str:
        """What the runtime calls itself; must be the certificate's."""
        return application_uri(self.certificate)

    def check_server(self, shown: bytes, address: str) -> None:
        """Raises ConfigError unless the server shows the trusted certificate (DER; a chain may follow it)."""
        trusted = certificate_bytes(self.server)
        if shown[: len(trusted)] != trusted:
            raise ConfigError(
                f"shows another certificate (SHA-256 {fingerprint(shown)}...) than the trusted one "
                f"(SHA-256 {fingerprint(trusted)}...)",
                where=address,
                cure="Find out why before you trust the new one: it may be another machine that poses as the plant.",
            )


def _pair(certificate: Path, private_key: Path) -> tuple[Certificate, RSAPrivateKey]:
    loaded, key = load_certificate(certificate), load_private_key(private_key)
    check_pair(loaded, key, certificate)
    check_time(loaded, certificate)
    return loaded, key


def _password(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_PASSWORD_BYTES:
            raise ConfigError("is too large for a password", where=str(path), cure="Check the path.")
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise ConfigError("cannot be read", where=str(path), cure="Check the path and who may read it.") from None
    if not text:
        raise ConfigError("holds no password", where=str(path), cure="Write the password into it, and nothing else.")
    return text
