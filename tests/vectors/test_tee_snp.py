"""Real SEV-SNP reports, as AMD's machines made them, and mutations of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tee_worlds.amd import agree

from gateway.verify.tee.amd_certificates import PRODUCT, parse_certificate, signed_by
from gateway.verify.tee.roots import VENDOR_ROOTS
from gateway.verify.tee.snp import from_inputs

VECTORS = Path(__file__).parents[2].parent / "shared/vectors/tee/snp"
if not VECTORS.is_dir():
    pytest.skip("the shared SNP vectors are not beside this checkout", allow_module_level=True)

MANIFEST = json.loads((VECTORS / "manifest.json").read_text())


def mutated(blob: bytes, mutation: dict[str, Any]) -> bytes:
    at = mutation.get("offset", 0)
    match mutation["op"]:
        case "xor":
            return blob[:at] + bytes([blob[at] ^ mutation["mask"]]) + blob[at + 1 :]
        case "write":
            value = bytes.fromhex(mutation["hex"])
            return blob[:at] + value + blob[at + len(value) :]
        case "truncate":
            return blob[: mutation["length"]]
    raise AssertionError(mutation)


def blobs_of(case: dict[str, Any]) -> dict[str, bytes]:
    blobs = {role: (VECTORS / path).read_bytes() for role, path in case["inputs"].items()}
    for mutation in case.get("mutations", []):
        blobs[mutation["target"]] = mutated(blobs[mutation["target"]], mutation)
    return blobs | {f"root:{name}": (VECTORS / path).read_bytes() for name, path in MANIFEST["roots"].items()}


@pytest.mark.parametrize("case", MANIFEST["cases"], ids=lambda case: case["id"])
def test_vector(case: dict[str, Any]) -> None:
    """Authenticity, reason and every claim are those of the manifest."""
    result = from_inputs(blobs_of(case), case.get("params", {}), VENDOR_ROOTS, case["evaluation_time"])
    claims = msgspec.to_builtins(result.claims)
    assert claims["authentic"] is case["expected"]["authentic"], claims["reject_detail"]
    assert claims["reject_code"] == case["expected"].get("reject_code")
    for name, value in case["expected"].get("claims", {}).items():
        assert claims["raw"].get(name, claims.get(name)) == value, name
    if claims["authentic"]:
        assert claims["root"]["test"] is False


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*/*.der")), ids=lambda path: path.name)
def test_the_reading_of_real_certificates_is_the_librarys(path: Path) -> None:
    """Our DER reader finds in every certificate of AMD what the X.509 library finds."""
    agree(path.read_bytes())


def test_roots_and_intermediates() -> None:
    """Every intermediate is signed by one pinned root, and endorsement keys name their product."""
    everything = [parse_certificate(path.read_bytes()) for path in sorted(VECTORS.glob("*/*.der"))]
    pinned = [c for c in everything if VENDOR_ROOTS.find("amd", c.der)]
    assert sorted(c.common_name for c in pinned) == ["ARK-Genoa", "ARK-Milan", "ARK-Turin"]
    for certificate in everything:
        if certificate.is_ca:
            assert sum(signed_by(certificate, root) for root in pinned) == 1
        else:
            assert certificate.serial == 0
            assert certificate.text(PRODUCT) in ("Milan", "Milan-B0", "Genoa", "Turin")
