"""A Confidential Space token of the shared vectors gets the verdict, code and claims of its manifest."""

from __future__ import annotations

from typing import Any

import pytest
from tee_worlds.nvidia_vectors import blobs_of, differences, manifest, roots_of

from gateway.verify.tee import gcs

KIND = "gcs"
MANIFEST = manifest(KIND)


@pytest.mark.parametrize("case", MANIFEST["cases"], ids=lambda case: case["id"])
def test_the_verdict_is_the_manifests(case: dict[str, Any]) -> None:
    """Authentic or not, for the reason given, with every expected claim in the record or in raw."""
    blobs = blobs_of(KIND, MANIFEST, case)
    now = float(case["evaluation_time"])
    result = gcs.from_inputs(blobs, case["params"], roots_of(KIND, MANIFEST), now)
    claims, expected = result.claims, case["expected"]
    assert (claims.authentic, claims.reject_code) == (expected["authentic"], expected.get("reject_code"))
    assert differences(expected.get("claims", {}), claims) == []
    assert [check.id for check in result.checks] == list(gcs.PLAN)
