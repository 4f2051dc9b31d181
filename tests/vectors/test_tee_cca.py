"""The published example of an Arm CCA token, under its published key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.verify.tee.cca import from_inputs
from gateway.verify.tee.roots import VENDOR_ROOTS

FOLDER = Path(__file__).parents[2].parent / "shared/vectors/tee/cca"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the TEE vectors are not at {FOLDER}")


def cases() -> Iterator[Any]:
    if not FOLDER.is_dir():
        return
    manifest = json.loads((FOLDER / "manifest.json").read_bytes())
    for case in manifest["cases"]:
        yield pytest.param(manifest, case, id=case["id"])


@pytest.mark.parametrize(("manifest", "case"), list(cases()))
def test_vector(manifest: dict[str, Any], case: dict[str, Any]) -> None:
    """Verdict, reject code and every claim that the manifest names are ours; its key is nobody's root."""
    blobs = {role: (FOLDER / name).read_bytes() for role, name in case["inputs"].items()}
    for role, name in case["inputs"].items():
        assert hashlib.sha256(blobs[role]).hexdigest() == manifest["files"][name]["sha256"]
    for change in case.get("mutations", []):
        assert change["op"] == "xor"
        data = bytearray(blobs[change["target"]])
        data[change["offset"]] ^= change["mask"]
        blobs[change["target"]] = bytes(data)
    claims = from_inputs(blobs, case.get("params", {}), VENDOR_ROOTS, case["evaluation_time"]).claims
    expected = case["expected"]
    assert claims.authentic is expected["authentic"]
    assert claims.reject_code == expected.get("reject_code")
    for name, value in expected.get("claims", {}).items():
        assert (claims.raw[name] if name in claims.raw else getattr(claims, name)) == value, name
    if claims.authentic:
        assert claims.root is None  # nobody's list has the sample's platform key
