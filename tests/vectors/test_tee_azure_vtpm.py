"""Real evidence of Azure confidential VMs, and mutations of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.model.tee import HostTrust
from gateway.verify.tee.azure_vtpm import from_inputs
from gateway.verify.tee.roots import VENDOR_ROOTS

VECTORS = Path(__file__).parents[2].parent / "shared/vectors/tee/azure_vtpm"
if not VECTORS.is_dir():
    pytest.skip("the shared Azure vTPM vectors are not beside this checkout", allow_module_level=True)

MANIFEST = json.loads((VECTORS / "manifest.json").read_text())


@pytest.mark.parametrize("case", MANIFEST["cases"], ids=lambda case: case["id"])
def test_vector(case: dict[str, Any]) -> None:
    """Authenticity, reason and every claim are those of the manifest."""
    evidence = (VECTORS / case["inputs"]["evidence"]).read_bytes()
    for mutation in case.get("mutations", []):
        assert mutation["op"] == "replace_text"
        evidence = evidence.replace(mutation["old"].encode(), mutation["new"].encode(), 1)
    roots = {f"root:{name}": (VECTORS / path).read_bytes() for name, path in MANIFEST["roots"].items()}
    result = from_inputs({"evidence": evidence} | roots, case["params"], VENDOR_ROOTS, case["evaluation_time"])
    claims = msgspec.json.decode(msgspec.json.encode(result.claims))
    assert claims["authentic"] is case["expected"]["authentic"], claims["reject_detail"]
    assert claims["reject_code"] == case["expected"].get("reject_code")
    for name, value in case["expected"].get("claims", {}).items():
        assert claims["raw"].get(name, claims.get(name)) == value, name
    if claims["authentic"]:
        cloud = claims["raw"]["report_type"] == "snp" and not claims["product"].startswith("Milan")
        assert (result.claims.host_trust is HostTrust.HYPERSCALER) is cloud
