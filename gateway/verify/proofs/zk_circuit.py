"""A circuit ready for use: its manifest, and the files beside it, held to the manifest's hashes.

vk.key         ezkl's verifying key, or vk.json for groth16-bn254
settings.json  ezkl only
verifier.srs   ezkl only; 516 bytes suffice (k = 1)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from gateway.errors import FormatError, PolicyError

from . import zk_settings
from .groth16 import parse_key
from .zk_manifest import PUBLIC_SRS, PUBLIC_SRS_SHA256, Manifest, System

VK, VK_JSON, SETTINGS, SRS = "vk.key", "vk.json", "settings.json", "verifier.srs"
#: Bytes that each file may have. The largest verifying key seen in production has 1.3 MB.
MAX_FILE = {VK: 64 * 1024 * 1024, VK_JSON: 4 * 1024 * 1024, SETTINGS: zk_settings.MAX_SETTINGS, SRS: 64 * 1024 * 1024}


class Circuit(msgspec.Struct, frozen=True):
    """A manifest with the bytes that its verifier is given; `settings` are migrated where the manifest says so."""

    manifest: Manifest
    vk: bytes
    settings: bytes = b""
    srs: bytes = b""


def file_names(manifest: Manifest) -> tuple[str, ...]:
    """The files that `manifest` needs beside it."""
    return (VK_JSON,) if manifest.system is System.GROTH16 else (VK, SETTINGS, SRS)


def hold_files(manifest: Manifest, files: Mapping[str, bytes]) -> Circuit:
    """The circuit of `manifest` and `files`, name to content. Raises `PolicyError`; `param` is the file at fault."""
    for name in file_names(manifest):
        if name not in files:
            raise PolicyError(f"{name} is missing beside the circuit's manifest", key=name)
        if len(files[name]) > MAX_FILE[name]:
            raise PolicyError(f"{name} has more than {MAX_FILE[name]} bytes", key=name)
    if manifest.system is System.GROTH16:
        return _groth16(manifest, files[VK_JSON])
    vk, settings, srs = (files[name] for name in file_names(manifest))
    _hold(VK, vk, manifest.vk_sha256)
    _hold(SETTINGS, settings, manifest.settings_sha256)
    _hold(SRS, srs, PUBLIC_SRS_SHA256 if manifest.srs == PUBLIC_SRS else str(manifest.srs).removeprefix("sha256:"))
    try:
        if manifest.migration is not None:
            settings = zk_settings.migrate(settings)
            _hold("the migrated settings", settings, manifest.migration.settings_sha256)
        zk_settings.hold(settings, manifest)
    except FormatError as error:
        raise PolicyError(error.message, key=SETTINGS) from None
    return Circuit(manifest, vk, settings, srs)


def _groth16(manifest: Manifest, vk: bytes) -> Circuit:
    _hold(VK_JSON, vk, manifest.vk_sha256)
    try:
        key = parse_key(vk)
    except FormatError as error:
        raise PolicyError(error.message, key=VK_JSON) from None
    if len(key.ic) != manifest.n_instances + 1:
        raise PolicyError(f"{VK_JSON} is for {len(key.ic) - 1} instances, not {manifest.n_instances}", key=VK_JSON)
    return Circuit(manifest, vk)


def _hold(name: str, data: bytes, expected: str | None) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise PolicyError(f"{name} has the SHA-256 {found}, and the manifest pins {expected}", key=name)
