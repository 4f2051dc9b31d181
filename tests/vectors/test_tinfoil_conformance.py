"""Tinfoil's public conformance suite, stage by stage through the command, and the captured router bundle."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.crypto.certificates import der_of, load_pem_chain
from gateway.crypto.x509 import spki_sha256
from gateway.model.provenance import Measurement
from gateway.verify.provenance.measurement import SEV, compare
from gateway.verify.provenance.verify import IdentityPolicy, verify_bundle
from gateway.verify.tee.roots import VENDOR_ROOTS
from gateway.verify.tee.snp import from_inputs
from gateway.verify.tee.tinfoil import measurement_of, read_report_data, unpack
from gateway.verify.tee.vendor_chains import AMD_GENOA_ARK, AMD_GENOA_ASK

SHARED = Path(__file__).parents[2].parent / "shared/vectors"
SUITE = SHARED / "networks/tinfoil/conformance"
ROUTER = SHARED / "networks/tinfoil/atc-bundle-router-2026-01/attestation-bundle.json"

pytestmark = pytest.mark.skipif(not SUITE.is_dir(), reason=f"the conformance suite is not at {SUITE}")

#: stage -> how many of its cases agree only without the unsigned bytes behind their quote
STAGES = {
    "sigstore": 0,
    "measurement": 0,
    "hardware-measurements": 0,
    "attestation-sev": 0,
    "attestation-tdx": 21,
    "verify-full": 0,
    "ehbp-key-binding": 0,
}


def test_every_stage_is_run() -> None:
    """The suite has no stage beyond those that are run here."""
    assert {folder.name for folder in SUITE.iterdir() if folder.is_dir()} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_conformance(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Acceptance, refusal with its code and stage, and every output that the suite pins are the suite's."""
    code = main(["appraise", "--conformance", str(SUITE / stage), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [case for case in found["cases"] if case["agreement"] in ("differs", "earlier")] == []
    assert {case["id"] for case in found["cases"]} == {path.parent.name for path in SUITE.glob(f"{stage}/*/input.json")}
    assert (code, found["cut"]) == (0, STAGES[stage])
    for case in found["cases"]:
        assert (case["agreement"] == "cut") is ("unsigned bytes" in case["note"])


@pytest.fixture(scope="module")
def router() -> dict[str, Any]:
    return json.loads(ROUTER.read_bytes())


def provenance(router: dict[str, Any], now: float) -> Any:
    given = json.loads((SUITE / "sigstore/001-happy-path-snp-tdx-multiplatform/input.json").read_bytes())
    return verify_bundle(
        json.dumps(router["sigstoreBundle"]).encode(),
        base64.b64decode(given["trust_root_b64"]),
        identity_policy=IdentityPolicy(repository="tinfoilsh/confidential-model-router"),
        artifact_digest=router["digest"],
        now=now,
    )


def test_the_router_bundle_of_january_2026(router: dict[str, Any]) -> None:
    """The captured router bundle: the build attestation holds years later, and gives the release's measurement."""
    claims = provenance(router, 1_900_000_000.0).claims
    assert claims.authentic
    assert (claims.ref, claims.commit) == ("refs/tags/v0.0.38", "7a4ca87d5481e1b37c1caa8b49c1771f0b8694a7")
    assert claims.signer_chain[0] == hashlib.sha256(_certificate(router["sigstoreBundle"])).hexdigest()
    assert claims.log_index == 845420855


def _certificate(bundle: dict[str, Any]) -> bytes:
    return base64.b64decode(bundle["verificationMaterial"]["certificate"]["rawBytes"])


def test_the_routers_report_has_the_builds_measurement_and_the_certificates_key(router: dict[str, Any]) -> None:
    """Its report's launch measurement is the build's, and its report data commits to the certificate's key."""
    report = unpack(router["enclaveAttestationReport"]["body"])
    measured = Measurement(SEV, (report[0x90:0xC0].hex(),))  # section 2.2: the launch measurement
    built = provenance(router, 1_900_000_000.0).claims.measurement
    assert built is not None
    compare(built, measured)
    certificate = der_of(load_pem_chain(router["enclaveCert"].encode())[0])
    assert read_report_data(report[0x50:0x90]).tls_key_sha256 == spki_sha256(certificate)


def test_the_routers_report_is_authentic(router: dict[str, Any]) -> None:
    """Its report is genuine under AMD's root, and gives the same measurement as its build attestation."""
    blobs = {
        "report": unpack(router["enclaveAttestationReport"]["body"]),
        "ek": base64.b64decode(router["vcek"]),
        "ask": AMD_GENOA_ASK,
        "root:ark_genoa": AMD_GENOA_ARK,
    }
    claims = from_inputs(blobs, {}, VENDOR_ROOTS, 1_769_121_722.0).claims
    assert claims.authentic, claims.reject_detail
    built = provenance(router, 1_769_121_752.0).claims.measurement
    assert built is not None
    compare(built, measurement_of(claims))
