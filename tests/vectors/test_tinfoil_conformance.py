"""Tinfoil's public conformance suite: every input is judged as the suite expects, or the difference has its reason."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gateway.crypto.certificates import der_of, load_pem_chain
from gateway.crypto.x509 import spki_sha256
from gateway.model.provenance import Measurement
from gateway.model.tee import TeeClaims, TeeResult
from gateway.verify.provenance.measurement import SEV, compare
from gateway.verify.provenance.verify import IdentityPolicy, verify_bundle
from gateway.verify.tee.roots import VENDOR_ROOTS, TrustRoots
from gateway.verify.tee.tinfoil import measurement_of, read_report_data, unpack
from gateway.verify.tee.tinfoil_suite import Families, judge

SHARED = Path(__file__).parents[2].parent / "shared/vectors"
SUITE = SHARED / "networks/tinfoil/conformance"
ROUTER = SHARED / "networks/tinfoil/atc-bundle-router-2026-01/attestation-bundle.json"
TEE = SHARED / "tee"

pytestmark = pytest.mark.skipif(not SUITE.is_dir(), reason=f"the conformance suite is not at {SUITE}")

STAGES = {
    "sigstore": "verify-sigstore",
    "measurement": "verify-measurement",
    "hardware-measurements": "verify-hardware-measurements",
    "attestation-sev": "verify-attestation-sev",
    "attestation-tdx": "verify-attestation-tdx",
    "verify-full": "verify-full",
    "ehbp-key-binding": "ehbp-key-binding",
}
#: What a folder's manifest expects where it has no expected.json.
WITHOUT_EXPECTATION = {
    "600-key-binding-happy": {"accepted": True},
    "610-key-binding-mismatch": {"accepted": False, "rejection": {"code": "EHBP_KEY_BINDING_MISMATCH"}},
    "630-report-data-too-short": {"accepted": False, "rejection": {"code": "INPUT_MALFORMED"}},
    "640-offered-key-wrong-length": {"accepted": False, "rejection": {"code": "INPUT_MALFORMED"}},
}
CASES = [
    pytest.param(folder, case.name, id=f"{folder}/{case.name}")
    for folder in STAGES
    for case in sorted((SUITE / folder).glob("*/"))
    if case.is_dir()
]


def family(name: str) -> Any:
    """The `from_inputs` of a family; the case is skipped where the module is not there."""
    try:
        return importlib.import_module(f"gateway.verify.tee.{name}").from_inputs
    except ModuleNotFoundError as missing:
        if missing.name != f"gateway.verify.tee.{name}":
            raise
        pytest.skip(f"gateway.verify.tee.{name} is not there")


def no_family(*_: object) -> TeeResult:
    raise AssertionError("this stage asks no family")


@cache
def vendor_chains() -> tuple[dict[str, bytes], dict[str, str]]:
    """AMD's and Intel's certificates for the inputs that bring none: the suite has them built in."""
    root = (TEE / "snp/roots/ark_genoa.der").read_bytes()
    sev = {"ask": (TEE / "snp/certs/SEV-Genoa.der").read_bytes(), "root:ark_genoa": root}
    collateral = json.loads((TEE / "tdx/collateral/50806F000000_tdx_eval15_2023-06-18.json").read_bytes())
    names = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")
    intel = base64.encodebytes((TEE / "tdx/roots/intel_sgx_root_ca.der").read_bytes()).decode()
    pem = f"-----BEGIN CERTIFICATE-----\n{intel}-----END CERTIFICATE-----\n"
    return sev, {"intel_root_ca_pem": pem, **{f"{name}_pem": collateral[name] for name in names}}


def families(folder: str) -> Families:
    sev, tdx = vendor_chains()
    return Families(
        snp=family("snp") if folder in ("attestation-sev", "verify-full") else no_family,
        intel=family("intel") if folder == "attestation-tdx" else no_family,
        roots=VENDOR_ROOTS,
        sev_chain=sev,
        tdx_chain=tdx,
    )


def expectation(case: Path) -> dict[str, Any]:
    file = case / "expected.json"
    expected = json.loads(file.read_bytes()) if file.is_file() else {}
    return {**WITHOUT_EXPECTATION.get(case.name, {}), **expected}


@pytest.mark.parametrize(("folder", "name"), CASES)
def test_conformance(folder: str, name: str) -> None:
    """Acceptance, refusal with its code and stage, and every output that the suite pins are the suite's."""
    case = SUITE / folder / name
    expected = expectation(case)
    answer = judge(STAGES[folder], json.loads((case / "input.json").read_bytes()), families(folder))
    assert answer.accepted is expected["accepted"], answer
    if answer.accepted:
        outputs = {k: v for k, v in expected.get("outputs", {}).items() if k != "body_fields"}
        assert json.loads(json.dumps({name: answer.outputs[name] for name in outputs})) == outputs
        return
    rejection = expected["rejection"]
    codes = [rejection["code"]] if isinstance(rejection["code"], str) else rejection["code"]
    assert answer.reason is not None
    assert answer.reason.upper() in codes, answer
    assert answer.stage == rejection.get("stage", STAGES[folder])


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
    sev, _ = vendor_chains()
    blobs = {
        "report": unpack(router["enclaveAttestationReport"]["body"]),
        "ek": base64.b64decode(router["vcek"]),
        **sev,
    }
    roots: TrustRoots = VENDOR_ROOTS
    claims: TeeClaims = family("snp")(blobs, {}, roots, 1_769_121_722.0).claims
    assert claims.authentic, claims.reject_detail
    built = provenance(router, 1_769_121_752.0).claims.measurement
    assert built is not None
    compare(built, measurement_of(claims))
