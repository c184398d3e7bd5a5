"""The bundle: controller.onnx, manifest.json and, where it is signed, manifest.sig; the base install is enough."""

from __future__ import annotations

from deploy.bundle.manifest import VERDICTS, Manifest
from deploy.bundle.schemas import SCHEMA
from deploy.bundle.signing import load_public_key, new_key
from deploy.bundle.store import Bundle, load_bundle, write_bundle
from deploy.bundle.verify import Check, verify_bundle

__all__ = [
    "SCHEMA",
    "VERDICTS",
    "Bundle",
    "Check",
    "Manifest",
    "load_bundle",
    "load_public_key",
    "new_key",
    "verify_bundle",
    "write_bundle",
]
