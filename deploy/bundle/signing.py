"""Ed25519 signatures (RFC 8032) of manifests; keys are PEM files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from controlkit.errors import ArtifactError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_KEY_BYTES = 10_000


def new_key(path: Path) -> Path:
    """Makes a private key, readable by its owner alone, and its public key beside it (`.pub`); never replaces one.

    Returns:
        The public key's path, which is what an edge box needs.

    Raises:
        ArtifactError: there is such a file already, or the place is not writable.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    public_path = path.with_name(path.name + ".pub")
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public_pem = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for place, content, mode in ((path, pem, 0o600), (public_path, public_pem, 0o644)):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            raise ArtifactError("exists already", where=str(place), cure="Choose another name for the key.") from None
        except OSError as problem:
            raise ArtifactError(f"cannot be written ({problem.strerror})", where=str(place)) from None
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
    return public_path


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """The private key in an unencrypted PEM file.

    Raises:
        ArtifactError: no such file, or not such a key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ArtifactError("is no Ed25519 private key in PEM", where=str(path), cure="Make one with --new-key.")
    return key


def load_public_key(path: Path) -> str:
    """The public key in a PEM file, as hex: what a manifest's `signer` must be.

    Raises:
        ArtifactError: no such file, or not such a key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = serialization.load_pem_public_key(_read(path))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        cure = "Give the file that ends in .pub, made together with the private key."
        raise ArtifactError("is no Ed25519 public key in PEM", where=str(path), cure=cure)
    return key.public_bytes_raw().hex()


def signature_is_good(public_hex: str, signature: bytes, content: bytes) -> bool:
    """Whether `signature` is the key's over `content`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex)).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_KEY_BYTES:
            return b""
        return path.read_bytes()
    except OSError as problem:
        cause = problem.strerror or "unreadable"
        raise ArtifactError(f"cannot be read ({cause})", where=str(path), cure="Check the path of the key.") from None
