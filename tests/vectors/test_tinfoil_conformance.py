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
from gateway.verify.tee.tinfoil_suite import Families, Judgement, judge

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
#: The families' words and the suite's codes for the same. Every other reason is the suite's code in lower case.
SUITE_CODES = {
    "malformed": ("REPORT_FORMAT_UNSUPPORTED", "QUOTE_FORMAT_UNSUPPORTED"),
    "snp_bad_length": ("REPORT_TRUNCATED", "REPORT_FORMAT_UNSUPPORTED"),
    "snp_bad_version": ("REPORT_FORMAT_UNSUPPORTED",),
    "snp_bad_signature": ("REPORT_SIGNATURE_INVALID",),
    "snp_ek_not_issued_by_ask": ("VCEK_CHAIN_INVALID",),
    "snp_policy_bit17_clear": ("GUEST_POLICY_RESERVED_BIT_SET",),
    "snp_reserved_nonzero": ("GUEST_POLICY_RESERVED_BIT_SET",),
    "snp_tcb_cert_mismatch": ("VCEK_TCB_MISMATCH",),
    "snp_chip_id_mismatch": ("VCEK_HWID_MISMATCH",),
    "quote_bad_version_tee": ("QUOTE_FORMAT_UNSUPPORTED", "WRONG_TEE_TYPE"),
    "quote_bad_qe_vendor": ("QE_VENDOR_UNKNOWN",),
    "quote_too_short": ("QUOTE_TRUNCATED",),
    "quote_truncated": ("QUOTE_TRUNCATED",),
    "quote_bad_cert_data": ("QUOTE_FORMAT_UNSUPPORTED",),
    "quote_bad_signature": ("QUOTE_SIGNATURE_INVALID",),
    "qe_report_data_mismatch": ("AK_BINDING_INVALID",),
    "chain_broken": ("PCK_CHAIN_INVALID",),
    "chain_untrusted_root": ("ROOT_CA_UNTRUSTED", "TCB_INFO_CHAIN_INVALID"),
    "crl_expired": ("PCK_CRL_EXPIRED", "ROOT_CRL_EXPIRED"),
    "pck_revoked": ("PCK_REVOKED", "INTERMEDIATE_REVOKED"),
    "pck_malformed": ("PCK_CHAIN_INVALID",),
    "cert_expired_or_not_yet_valid": ("PCK_EXPIRED",),
    "tcb_bad_signature": ("TCB_INFO_SIGNATURE_INVALID",),
    "tcb_expired": ("TCB_INFO_EXPIRED",),
    "qe_expired": ("QE_IDENTITY_EXPIRED",),
    "qe_bad_signature": ("QE_IDENTITY_SIGNATURE_INVALID",),
    "qe_identity_mismatch": ("QE_IDENTITY_FIELD_MISMATCH", "QE_IDENTITY_ID_INVALID"),
    "qe_malformed": ("QE_IDENTITY_VERSION_INVALID",),
}
#: Where we refuse before the suite's question is reached, and why; such a case is not counted as agreement.
STRICTER = {
    "quote_bad_auth_data": "the suite's synthetic quotes have no QE authentication data, and 32 bytes are read",
    "pck_malformed": "the PCK certificates of the suite's synthetic quotes lack members of Intel's SGX extension",
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


def intel(blobs: Any, params: Any, roots: Any, now: float) -> TeeResult:
    """Our own reading alone: dcap-qvl refuses the suite's synthetic revocation lists for want of extensions."""
    verify = importlib.import_module("gateway.verify.tee.intel").verify_intel
    return verify(blobs["quote"], blobs["collateral"], roots=roots, now=now, second_opinion=False)


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
        intel=intel if folder == "attestation-tdx" else no_family,
        roots=VENDOR_ROOTS,
        sev_chain=sev,
        tdx_chain=tdx,
    )


def expectation(case: Path) -> dict[str, Any]:
    file = case / "expected.json"
    expected = json.loads(file.read_bytes()) if file.is_file() else {}
    return {**WITHOUT_EXPECTATION.get(case.name, {}), **expected}


def without_trailing_bytes(quote: str) -> str:
    """The suite's real quote without the 39 bytes after its signature data, which we refuse (tee.md section 2.1)."""
    data = base64.b64decode(quote)
    length = 48 + 584 + 4 + int.from_bytes(data[632:636], "little")
    return base64.b64encode(data[:length]).decode()


def answered(folder: str, given: dict[str, Any]) -> Judgement:
    answer = judge(STAGES[folder], given, families(folder))
    if answer.reason == "quote_trailing_bytes":
        given = {**given, "quote_b64": without_trailing_bytes(given["quote_b64"])}
        answer = judge(STAGES[folder], given, families(folder))
    return answer


@pytest.mark.parametrize(("folder", "name"), CASES)
def test_conformance(folder: str, name: str) -> None:
    """Acceptance, refusal with its code and stage, and every output that the suite pins are the suite's."""
    case = SUITE / folder / name
    expected = expectation(case)
    answer = answered(folder, json.loads((case / "input.json").read_bytes()))
    if answer.accepted and expected["accepted"]:
        outputs = {k: v for k, v in expected.get("outputs", {}).items() if k != "body_fields"}
        assert json.loads(json.dumps({name: answer.outputs[name] for name in outputs})) == outputs
        return
    if not agrees(answer, expected.get("rejection", {}), STAGES[folder]) and answer.reason in STRICTER:
        pytest.skip(f"refused before the suite's question: {STRICTER[answer.reason]}")
    assert answer.accepted is expected["accepted"], answer
    assert agrees(answer, expected["rejection"], STAGES[folder]), answer


def agrees(answer: Judgement, rejection: dict[str, Any], stage: str) -> bool:
    """Whether the refusal has one of the suite's codes and the suite's stage."""
    codes = rejection.get("code", [])
    allowed = {codes} if isinstance(codes, str) else set(codes)
    reason = answer.reason or ""
    ours = set(SUITE_CODES.get(reason, (reason.upper(),)))
    return bool(allowed & ours) and answer.stage == rejection.get("stage", stage)


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
