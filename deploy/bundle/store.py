"""Writing and reading a bundle's folder; what is read is untrusted until size, type, hash and signature are checked."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from controlkit.errors import ArtifactError, SpecError
from controlkit.files import folder_written_aside
from controlkit.layout import Layout
from controlkit.spec import PlantSpec
from deploy.bundle.manifest import MANIFEST, MODEL, SIGNATURE, Manifest
from deploy.bundle.signing import load_private_key, load_public_key, signature_is_good

MAX_MANIFEST_BYTES = 32 * 1024 * 1024
MAX_MODEL_BYTES = 512 * 1024 * 1024
SIGNATURE_BYTES = 64


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every byte was checked.

    Attributes:
        path: its folder.
        manifest: what it says about itself.
        spec, layout: the plant and the observation.
        model: the bytes of `controller.onnx`.
        trusted: whether it is signed by a key that the caller gave.
    """

    path: Path
    manifest: Manifest
    spec: PlantSpec
    layout: Layout
    model: bytes
    trusted: bool


def write_bundle(path: Path, manifest: Manifest, model: bytes, key: Path | None = None) -> Manifest:
    """Writes a bundle, whole or not at all.

    Args:
        path: the folder; an earlier bundle there is replaced once the new one is complete.
        manifest: without a signer.
        model: the ONNX graph that its hash names.
        key: PEM file of the private key that signs.

    Returns:
        The manifest as written, with its signer.

    Raises:
        ArtifactError: the manifest does not describe the model, the key is none, or the place holds something else.
    """
    if len(model) != manifest.model.bytes or hashlib.sha256(model).hexdigest() != manifest.model.sha256:
        raise ArtifactError("the manifest describes another graph", where=str(path), cure="Export it again.")
    private = None if key is None else load_private_key(key)
    signer = None if private is None else private.public_key().public_bytes_raw().hex()
    manifest = manifest.model_copy(update={"signer": signer})
    content = manifest.to_bytes()
    with folder_written_aside(path, MANIFEST) as aside:
        (aside / MODEL).write_bytes(model)
        (aside / MANIFEST).write_bytes(content)
        if private is not None:
            (aside / SIGNATURE).write_bytes(private.sign(content))
        load_bundle(aside)
    return manifest


def load_bundle(path: str | Path, public_key: Path | None = None) -> Bundle:
    """Reads and checks a bundle.

    Args:
        path: its folder.
        public_key: PEM file of the only key that may have signed it; without one an unsigned bundle is read too, and a
            signature proves that the bundle is whole, not who made it.

    Raises:
        ArtifactError: a file is missing, too large, no plain file, damaged, changed, of another schema, or the
            signature is missing, wrong, or another key's.
    """
    path = Path(path)
    if not path.is_dir():
        raise ArtifactError("is no bundle", where=str(path), cure="Make one with 'controlkit export'.")
    content = _read(path / MANIFEST, MAX_MANIFEST_BYTES)
    manifest = Manifest.from_bytes(content, str(path / MANIFEST))
    trusted = _check_signature(path, manifest, content, public_key)
    model = _read(path / MODEL, MAX_MODEL_BYTES)
    if len(model) != manifest.model.bytes or hashlib.sha256(model).hexdigest() != manifest.model.sha256:
        raise ArtifactError("does not match its hash", where=str(path / MODEL), cure="Copy or export the bundle again.")
    spec, layout = _plant(manifest, str(path / MANIFEST))
    return Bundle(path, manifest, spec, layout, model, trusted)


def _check_signature(path: Path, manifest: Manifest, content: bytes, public_key: Path | None) -> bool:
    where = str(path / SIGNATURE)
    expected = None if public_key is None else load_public_key(public_key)
    if manifest.signer is None:
        if expected is not None:
            raise ArtifactError("the bundle is not signed", where=str(path), cure="Export it with --key.")
        if (path / SIGNATURE).exists():
            raise ArtifactError("signs a manifest that names no signer", where=where, cure="Export it again.")
        return False
    if expected is not None and manifest.signer != expected:
        cure = "Use a bundle signed with your key, or give the right public key."
        raise ArtifactError("the bundle is signed with another key", where=str(path), cure=cure)
    signature = _read(path / SIGNATURE, SIGNATURE_BYTES)
    if not signature_is_good(manifest.signer, signature, content):
        raise ArtifactError("the signature is wrong", where=where, cure="Copy or export the bundle again.")
    return expected is not None


def _plant(manifest: Manifest, where: str) -> tuple[PlantSpec, Layout]:
    """The plant, and that the manifest's own tables follow from it."""
    cure = "Export it again."
    try:
        spec = PlantSpec.from_dict(manifest.spec, where)
    except SpecError as problem:
        raise ArtifactError(f"describes an impossible plant ({problem.what})", where=where, cure=cure) from None
    layout = Layout.from_spec(spec)
    ports = {port: tuple(slot.name for slot in slots) for port, slots in manifest.inputs.items()}
    consistent = (
        spec.sha256() == manifest.training.spec_sha256
        and layout.to_dict() == manifest.layout
        and (spec.name, spec.period_s) == (manifest.plant, manifest.period_s)
        and (ports["obs"], ports["act_prev"]) == (layout.frame_tags, layout.action_tags)
        and tuple(tag.name for tag in manifest.tags) == tuple(spec.tags)
        and set(manifest.thresholds.frozen_repeats) == set(layout.state_tags)
    )
    if not consistent:
        raise ArtifactError("its tables do not follow from its plant", where=where, cure=cure)
    for command in manifest.commands:
        low, high = spec.limits(command.tag)
        if not low <= command.low <= command.safe <= command.high <= high:
            raise ArtifactError(f"the limits of '{command.tag}' are not the plant's", where=where, cure=cure)
    return spec, layout


def _read(path: Path, limit: int) -> bytes:
    """A plain file of at most `limit` bytes; links are not followed, so that nothing outside the folder is read."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise ArtifactError("no such file", where=str(path), cure="Copy or export the bundle again.") from None
    except OSError as problem:
        raise ArtifactError(f"cannot be read ({problem.strerror})", where=str(path)) from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)  # before it becomes a stream, which a folder cannot
        raise ArtifactError("is no plain file", where=str(path), cure="Copy or export the bundle again.")
    with os.fdopen(handle, "rb") as stream:
        if status.st_size > limit:
            raise ArtifactError(f"is larger than {limit} bytes", where=str(path), cure="Export it again.")
        return stream.read(limit + 1)
