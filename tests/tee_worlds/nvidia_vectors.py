"""Reads the shared vectors of NVIDIA's and the token services' evidence, where they are at hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.model.tee import TeeClaims
from gateway.verify.tee.roots import Anchor, TrustRoots

SHARED = Path(__file__).parents[2].parent / "shared/vectors"
VENDORS = {
    "nvidia_device_identity_ca": "nvidia_device",
    "nvidia_rim_root": "nvidia_rim",
    "confidential_space_root": "gcs",
}


def manifest(kind: str) -> dict[str, Any]:
    """The manifest of a kind; skips the module where the vectors are absent."""
    path = SHARED / "tee" / kind / "manifest.json"
    if not path.exists():
        pytest.skip(f"the shared vectors are not beside this checkout ({kind})", allow_module_level=True)
    return json.loads(path.read_text())


def blobs_of(kind: str, document: dict[str, Any], case: dict[str, Any]) -> dict[str, bytes]:
    """The case's inputs with its mutations made, and the roots under `root:<name>`."""
    folder = SHARED / "tee" / kind
    blobs = {role: (folder / name).read_bytes() for role, name in case["inputs"].items()}
    for role, name in case["inputs"].items():
        assert hashlib.sha256(blobs[role]).hexdigest() == document["files"][name]["sha256"]
    for mutation in case.get("mutations", ()):
        blobs[mutation["target"]] = mutated(blobs[mutation["target"]], mutation)
    return blobs | {f"root:{name}": (folder / file).read_bytes() for name, file in document["roots"].items()}


def mutated(data: bytes, mutation: dict[str, Any]) -> bytes:
    """One mutation of a manifest."""
    at = mutation.get("offset", 0)
    match mutation["op"]:
        case "xor":
            return data[:at] + bytes([data[at] ^ mutation["mask"]]) + data[at + 1 :]
        case "truncate":
            return data[: mutation["length"]]
        case "append":
            return data + bytes.fromhex(mutation["hex"])
        case "replace_text":
            old = mutation["old"].encode()
            assert old in data
            return data.replace(old, mutation["new"].encode(), 1)
    raise AssertionError(mutation)


def roots_of(kind: str, document: dict[str, Any]) -> TrustRoots:
    """The manifest's roots, pinned by the digest of their files."""
    folder = SHARED / "tee" / kind
    return TrustRoots(
        tuple(
            Anchor(VENDORS[name], name, hashlib.sha256((folder / file).read_bytes()).hexdigest())
            for name, file in document["roots"].items()
        )
    )


def differences(expected: dict[str, Any], claims: TeeClaims) -> list[str]:
    """The expected claims that are neither equal in `raw` nor in the record."""
    record = msgspec.to_builtins(claims)
    raw = record["raw"]
    return [
        f"{name}: {raw.get(name, record.get(name))!r:.80} is not {value!r:.80}"
        for name, value in expected.items()
        if (raw[name] if name in raw else record.get(name)) != value
    ]
