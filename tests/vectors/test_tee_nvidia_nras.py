"""An NRAS bundle of the shared vectors gets the verdict, code and claims of its manifest."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from tee_worlds.nvidia_vectors import blobs_of, differences, manifest, roots_of

from gateway.verify.tee import nras
from gateway.verify.tee.roots import Anchor, TrustRoots

KIND = "nvidia_nras"
MANIFEST = manifest(KIND)


@pytest.mark.parametrize("case", MANIFEST["cases"], ids=lambda case: case["id"])
def test_the_verdict_is_the_manifests(case: dict[str, Any]) -> None:
    """Authentic or not, for the reason given, with every expected claim in the record or in raw."""
    blobs = blobs_of(KIND, MANIFEST, case)
    now = float(case["evaluation_time"])
    # These captures came with bare key sets, which nobody vouches for: as in a folder, they are pinned as a test's.
    given = Anchor("nvidia_nras", "the capture's key set", hashlib.sha256(blobs["jwks"]).hexdigest(), test=True)
    roots = TrustRoots((*roots_of(KIND, MANIFEST).anchors, given))
    result = nras.from_inputs(blobs, case["params"], roots, now)
    claims, expected = result.claims, case["expected"]
    assert (claims.authentic, claims.reject_code) == (expected["authentic"], expected.get("reject_code"))
    assert differences(expected.get("claims", {}), claims) == []
    assert [check.id for check in result.checks] == list(nras.PLAN)
