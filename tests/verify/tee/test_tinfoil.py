"""Tinfoil's parts, its rules, and the suite's stages with families that are stood in for."""

from __future__ import annotations

import base64
import contextlib
import copy
import gzip
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds import sigstore as world

from gateway.errors import FormatError
from gateway.model.tee import Golden, Platform, TcbStatus, TeeClaims, TeeResult
from gateway.model.verdict import Check, Outcome
from gateway.verify.provenance.measurement import MULTIPLATFORM, RTMR3_ZERO, SEV, TDX, read_measurement
from gateway.verify.tee import tinfoil_rules as rules
from gateway.verify.tee.findings import NotAuthentic
from gateway.verify.tee.roots import TrustRoots
from gateway.verify.tee.tinfoil import (
    MAX_UNPACKED_BYTES,
    check_hpke_key,
    document_hash,
    golden_of,
    measurement_of,
    read_report_data,
    unpack,
)
from gateway.verify.tee.tinfoil_rules import SevPolicy, TdxPolicy, check_sev, check_tdx
from gateway.verify.tee.tinfoil_suite import Families, Judgement, judge

A, B, C, D, E = (letter * 96 for letter in "abcde")


def snp(**changes: Any) -> TeeClaims:
    members: dict[str, Any] = {
        "platform": Platform.AMD_SEV_SNP,
        "evidence_sha256": "00",
        "authentic": True,
        "evaluated_at": 0.0,
        "debug": False,
        "measurements": {
            "launch": world.SNP,
            "host_data": "00" * 32,
            "id_key_digest": A,
            "author_key_digest": B,
            "family_id": "11" * 16,
            "image_id": "22" * 16,
        },
        "raw": {
            "migratable": False,
            "policy": "0x30000",
            "tcb": {"current": {"bl": 3, "tee": 0, "snp": 8, "ucode": 84}},
        },
    }
    return TeeClaims(**{**members, **changes})


def tdx(**changes: Any) -> TeeClaims:
    members: dict[str, Any] = {
        "platform": Platform.INTEL_TDX,
        "evidence_sha256": "00",
        "authentic": True,
        "evaluated_at": 0.0,
        "debug": False,
        "tcb_status": TcbStatus.UP_TO_DATE,
        "measurements": {
            "mr_td": D,
            "rtmr0": E,
            "rtmr1": world.RTMR1,
            "rtmr2": world.RTMR2,
            "rtmr3": RTMR3_ZERO,
            "mr_seam": A,
            "mr_signer_seam": B,
            "mr_config_id": C,
            "mr_owner": C,
            "mr_owner_config": C,
            "xfam": "e702060000000000",
            "td_attributes": "0000001000000000",
        },
        "raw": {
            "quote_version": 4,
            "fmspc": "50806F000000",
            "tcb_eval": 17,
            "seam_attributes": "00" * 8,
            "qe_vendor_id": "93" * 16,
        },
    }
    return TeeClaims(**{**members, **changes})


def packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def test_a_document_is_unpacked() -> None:
    """The body is base64 of one gzip member."""
    assert unpack(packed(b"report")) == b"report"


@pytest.mark.parametrize(
    "body",
    [
        "***",
        base64.b64encode(b"no gzip").decode(),
        base64.b64encode(gzip.compress(b"cut", mtime=0)[:-3]).decode(),
        base64.b64encode(gzip.compress(b"one", mtime=0) + b"more").decode(),
        base64.b64encode(gzip.compress(b"one", mtime=0) * 2).decode(),
        packed(bytes(MAX_UNPACKED_BYTES + 1)),
        packed(bytes(50_000_000)),
    ],
    ids=["base64", "gzip", "cut", "trailing bytes", "two members", "too large", "a bomb"],
)
def test_documents_of_another_form(body: str) -> None:
    """Anything but one whole member of a bounded size is refused, without unpacking a bomb."""
    with pytest.raises(FormatError):
        unpack(body)


def test_the_document_hash_is_over_format_and_body() -> None:
    """The digest in the enclave's certificate covers the format's name and the body's text."""
    assert document_hash("format", "body") == hashlib.sha256(b"formatbody").hexdigest()


def test_report_data_commits_to_two_keys() -> None:
    """Bytes 0 to 32 are the TLS key's fingerprint, 32 to 64 the HPKE key, and only that key is accepted."""
    data = bytes(range(64))
    assert check_hpke_key(data, data[32:]) == read_report_data(data)
    with pytest.raises(NotAuthentic) as refused:
        check_hpke_key(data, data[:32])  # the other half: a wrong offset would let it through
    assert refused.value.reason == "ehbp_key_binding_mismatch"
    for report_data, key in [(data[:32], data[32:]), (data + b"\0", data[32:]), (data, data[32:] + b"\0"), (data, b"")]:
        with pytest.raises(FormatError):
            check_hpke_key(report_data, key)


def test_the_measurement_of_evidence() -> None:
    """SNP evidence gives its launch measurement, TDX five registers; others give none."""
    assert measurement_of(snp()).type == SEV
    assert measurement_of(tdx()).registers == (D, E, world.RTMR1, world.RTMR2, RTMR3_ZERO)
    for claims in (snp(platform=Platform.AWS_NITRO), snp(measurements={}), tdx(measurements={"mr_td": D})):
        with pytest.raises(NotAuthentic):
            measurement_of(claims)


BUILD = read_measurement({"type": MULTIPLATFORM, "registers": [world.SNP, world.RTMR1, world.RTMR2]})


def test_evidence_is_compared_with_a_build() -> None:
    """The comparison counts what matches and names what does not; a register that is missing does not match."""
    assert golden_of(snp(), BUILD) == Golden("sigstore", 1)
    assert golden_of(tdx(), BUILD) == Golden("sigstore", 3)
    assert golden_of(snp(measurements={}), BUILD) == Golden("sigstore", 0, ("launch",))
    later = tdx(measurements={**tdx().measurements, "rtmr3": A, "rtmr1": B})
    assert golden_of(later, BUILD) == Golden("sigstore", 1, ("rtmr1", "rtmr3"))
    with pytest.raises(NotAuthentic, match="not authentic"):
        golden_of(snp(authentic=False), BUILD)
    with pytest.raises(NotAuthentic):
        golden_of(snp(platform=Platform.AWS_NITRO), BUILD)
    with pytest.raises(NotAuthentic):
        golden_of(snp(), measurement_of(snp()))


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"expected_measurement_hex": world.SNP.upper(), "expected_host_data_hex": "00" * 32},
        {"expected_id_key_digest_hex": A, "expected_author_key_digest_hex": B},
        {"expected_family_id_hex": "11" * 16, "expected_image_id_hex": "22" * 16},
        {"min_tcb_bl_spl": 3, "min_tcb_tee_spl": 0, "min_tcb_snp_spl": 8, "min_tcb_ucode_spl": 84},
    ],
)
def test_snp_claims_that_satisfy(policy: dict[str, Any]) -> None:
    """Pins that are equal, in any case, and minima that are reached."""
    check_sev(snp(), msgspec.convert(policy, SevPolicy))


@pytest.mark.parametrize(
    ("claims", "policy", "reason"),
    [
        (snp(debug=True), {}, "guest_policy_debug_set"),
        (snp(debug=None), {}, "guest_policy_debug_set"),
        (snp(raw={**snp().raw, "migratable": True}), {}, "guest_policy_migrate_ma_set"),
        (snp(raw={}), {}, "guest_policy_migrate_ma_set"),
        (snp(raw={"migratable": False, "policy": "0x40030000"}), {}, "guest_policy_reserved_bit_set"),
        (snp(raw={"migratable": False, "policy": 1 << 63}), {}, "guest_policy_reserved_bit_set"),
        (snp(raw={"migratable": False, "policy": "0xzz"}), {}, "guest_policy_reserved_bit_set"),
        (snp(raw={"migratable": False}), {}, "guest_policy_reserved_bit_set"),
        (snp(), {"expected_measurement_hex": A}, "measurement_mismatch"),
        (snp(measurements={}), {"expected_measurement_hex": A}, "measurement_mismatch"),
        (snp(), {"expected_host_data_hex": "ff" * 32}, "host_data_mismatch"),
        (snp(), {"expected_id_key_digest_hex": B}, "id_key_digest_mismatch"),
        (snp(), {"expected_author_key_digest_hex": A}, "author_key_digest_mismatch"),
        (snp(), {"expected_family_id_hex": ""}, "family_id_mismatch"),
        (snp(), {"expected_image_id_hex": ""}, "image_id_mismatch"),
        (snp(), {"min_tcb_ucode_spl": 85}, "tcb_out_of_date"),
        (snp(raw={"migratable": False, "policy": 1 << 17}), {"min_tcb_bl_spl": 0}, "tcb_out_of_date"),
        (snp(raw={"migratable": False, "policy": 1 << 17, "tcb": {}}), {"min_tcb_bl_spl": 0}, "tcb_out_of_date"),
    ],
)
def test_snp_claims_that_do_not(claims: TeeClaims, policy: dict[str, Any], reason: str) -> None:
    """Debugging, migration, reserved bits, other values and old versions; what is unknown never satisfies."""
    with pytest.raises(NotAuthentic) as refused:
        check_sev(claims, msgspec.convert(policy, SevPolicy))
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("claims", "policy"),
    [
        (tdx(), {}),
        (tdx(), {"enforce_spec_defaults": True, "min_tcb_evaluation_data_number": 17}),
        (tdx(), {"expected_mrseam_allowlist": [B, A.upper()], "expected_fmspc_hex": "50806f000000"}),
        (tdx(tcb_status=TcbStatus.SW_HARDENING), {}),
        (tdx(tcb_status=None), {"tcb_evaluation_required": False}),
        (tdx(), {"accepted_qv_results": ["OK"]}),
    ],
)
def test_tdx_claims_that_satisfy(claims: TeeClaims, policy: dict[str, Any]) -> None:
    """Pins, an allow-list, the defaults and an accepted status."""
    check_tdx(claims, msgspec.convert(policy, TdxPolicy))


def measured(**changes: str) -> TeeClaims:
    return tdx(measurements={**tdx().measurements, **changes})


@pytest.mark.parametrize(
    ("claims", "policy", "reason"),
    [
        (measured(td_attributes="8000001000000000"), {"enforce_spec_defaults": True}, "td_attributes_reserved_bit_set"),
        (measured(td_attributes="0000002000000000"), {"enforce_spec_defaults": True}, "td_attributes_reserved_bit_set"),
        (measured(td_attributes="zz"), {"enforce_spec_defaults": True}, "td_attributes_reserved_bit_set"),
        (tdx(measurements={}), {"enforce_spec_defaults": True}, "td_attributes_reserved_bit_set"),
        (measured(td_attributes="0100001000000000"), {"enforce_spec_defaults": True}, "td_attributes_debug_set"),
        (measured(xfam="0100000000000000"), {"enforce_spec_defaults": True}, "xfam_required_bit_clear"),
        (tdx(), {"expected_mrseam_allowlist": [B]}, "mr_seam_not_allowed"),
        (tdx(), {"expected_mrseam_allowlist": []}, "mr_seam_not_allowed"),
        (tdx(measurements={}), {"expected_mrseam_allowlist": [A]}, "mr_seam_not_allowed"),
        (tdx(), {"expected_xfam_hex": "00" * 8}, "xfam_mismatch"),
        (tdx(), {"expected_td_attributes_hex": "00" * 8}, "td_attributes_mismatch"),
        (tdx(), {"expected_mr_td_hex": A}, "mr_td_mismatch"),
        (tdx(), {"expected_mr_signer_seam_hex": A}, "mr_signer_seam_mismatch"),
        (tdx(), {"expected_seam_attributes_hex": "ff" * 8}, "seam_attributes_mismatch"),
        (tdx(), {"expected_mr_config_id_hex": A}, "mr_config_id_mismatch"),
        (tdx(), {"expected_mr_owner_hex": A}, "mr_owner_mismatch"),
        (tdx(), {"expected_mr_owner_config_hex": A}, "mr_owner_config_mismatch"),
        (tdx(), {"expected_fmspc_hex": "00" * 6}, "pck_fmspc_mismatch"),
        (tdx(), {"expected_qe_vendor_id_hex": "00" * 16}, "qe_vendor_id_mismatch"),
        (tdx(), {"min_tcb_evaluation_data_number": 18}, "tcb_eval_data_number_too_low"),
        (tdx(raw={}), {"min_tcb_evaluation_data_number": 0}, "tcb_eval_data_number_too_low"),
        (tdx(tcb_status=TcbStatus.OUT_OF_DATE), {}, "qv_result_not_accepted_by_policy"),
        (tdx(tcb_status=None), {}, "qv_result_not_accepted_by_policy"),
        (tdx(tcb_status=TcbStatus.SW_HARDENING), {"accepted_qv_results": ["OK"]}, "qv_result_not_accepted_by_policy"),
        (tdx(), {"accepted_qv_results": []}, "qv_result_not_accepted_by_policy"),
    ],
)
def test_tdx_claims_that_do_not(claims: TeeClaims, policy: dict[str, Any], reason: str) -> None:
    """Each rule refuses for its own reason; OutOfDate is not fine, and what is unknown never satisfies."""
    with pytest.raises(NotAuthentic) as refused:
        check_tdx(claims, msgspec.convert(policy, TdxPolicy))
    assert refused.value.reason == reason


def test_every_pin_has_a_member_and_every_member_a_rule() -> None:
    """A policy member that no rule reads would be a promise that nobody keeps."""

    assert set(SevPolicy.__struct_fields__) == {
        "enforce_spec_defaults",
        *(pin.member for pin in rules.SEV_PINS),
        *rules.SEV_MINIMA,
    }
    assert set(TdxPolicy.__struct_fields__) == {
        "enforce_spec_defaults",
        "tcb_evaluation_required",
        "accepted_qv_results",
        "min_tcb_evaluation_data_number",
        "expected_mrseam_allowlist",
        *(pin.member for pin in rules.TDX_PINS),
    }


class Family:
    """Stands in for a family: it remembers what it was asked and answers with the claims given."""

    def __init__(self, claims: TeeClaims, checks: tuple[Check, ...] = ()) -> None:
        self.claims, self.checks = claims, checks
        self.blobs: Mapping[str, bytes] = {}
        self.roots = TrustRoots()
        self.now = 0.0

    def __call__(
        self, blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float
    ) -> TeeResult:
        self.blobs, self.roots, self.now = blobs, roots, now
        return TeeResult(self.checks, self.claims)


def families(snp_claims: TeeClaims | None = None, tdx_claims: TeeClaims | None = None, **changes: Any) -> Families:
    members: dict[str, Any] = {
        "snp": Family(snp_claims or snp()),
        "intel": Family(tdx_claims or tdx()),
        "roots": TrustRoots(),
        "sev_chain": {"ask": b"ask", "root:ark_genoa": b"ark"},
        "tdx_chain": {
            "pck_crl_issuer_chain_pem": "P",
            "tcb_info_issuer_chain_pem": "T",
            "qe_identity_issuer_chain_pem": "Q",
        },
    }
    return Families(**{**members, **changes})


def sev_input(**changes: Any) -> dict[str, Any]:
    return {
        "schema_version": "1",
        "attestation_doc_b64": packed(b"report"),
        "vcek_der_b64": world.b64(b"vcek"),
        "expiration_check_date_unix": 5,
        **changes,
    }


def pem(certificate: Any) -> str:
    return str(certificate.public_bytes(Encoding.PEM), "ascii")


def test_an_snp_input_goes_to_the_family() -> None:
    """The report is unpacked, the chain is the vendor's unless the input brings one, which is then a test root."""
    asked = families()
    answer = judge("verify-attestation-sev", sev_input(), asked)
    assert answer == Judgement(
        True, "verify-attestation-sev", outputs={"measurement": {"type": SEV, "registers": (world.SNP,)}}
    )
    assert asked.snp.blobs == {"report": b"report", "ek": b"vcek", "ask": b"ask", "root:ark_genoa": b"ark"}  # type: ignore[attr-defined]
    own = sev_input(amd_root_ca_pem=pem(world.root_certificate()), ask_pem=pem(world.intermediate_certificate()))
    assert judge("verify-attestation-sev", own, asked).accepted
    root = world.der(world.root_certificate())
    assert asked.snp.blobs["ask"] == world.der(world.intermediate_certificate())  # type: ignore[attr-defined]
    found = asked.snp.roots.find("amd", root)  # type: ignore[attr-defined]
    assert found is not None
    assert found.test


@pytest.mark.parametrize(
    ("document", "claims", "reason"),
    [
        (sev_input(policy={"expected_measurement_hex": A}), snp(), "measurement_mismatch"),
        (sev_input(), snp(authentic=False, reject_code="snp_bad_signature"), "snp_bad_signature"),
        (sev_input(), snp(authentic=False), "refused"),
        (sev_input(), snp(measurements={}), "measurement_register_invalid"),
        (sev_input(policy={"unheard_of": 1}), snp(), "input_malformed"),
        (sev_input(vcek_der_b64="*"), snp(), "input_malformed"),
        (sev_input(amd_root_ca_pem="", ask_pem=""), snp(), "input_malformed"),
        (sev_input(schema_version="2"), snp(), "input_malformed"),
        ({"schema_version": "1"}, snp(), "input_malformed"),
    ],
)
def test_snp_inputs_that_are_refused(document: dict[str, Any], claims: TeeClaims, reason: str) -> None:
    """The family's reason, a rule's, or that it is no input."""
    answer = judge("verify-attestation-sev", document, families(claims))
    assert (answer.accepted, answer.reason) == (False, reason)


def tdx_input(collateral: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "schema_version": "1",
        "quote_b64": world.b64(b"quote"),
        "collateral": {
            "tcb_info_json": '{"tcbInfo":{"id": "TDX"},"signature":"aa"}',
            "qe_identity_json": '{"enclaveIdentity":{"id":  "TD_QE"},"signature":"bb"}',
            "pck_crl_der_b64": world.b64(b"pck"),
            "root_crl_der_b64": world.b64(b"root"),
            **(collateral or {}),
        },
        "expiration_check_date_unix": 5,
        **changes,
    }


def test_a_tdx_input_goes_to_the_family() -> None:
    """Collateral keeps the exact signed texts; the vendor's chains and root are used unless the input brings its own."""
    chain = families().tdx_chain
    asked = families(tdx_chain={**chain, "intel_root_ca_pem": pem(world.root_certificate())})
    answer = judge("verify-attestation-tdx", tdx_input(), asked)
    assert answer.accepted, answer
    assert answer.outputs["quote_version"] == 4
    blobs = asked.intel.blobs  # type: ignore[attr-defined]
    assert json.loads(blobs["collateral"]) == {
        "pck_crl_issuer_chain": "P",
        "root_ca_crl": b"root".hex(),
        "pck_crl": b"pck".hex(),
        "tcb_info_issuer_chain": "T",
        "tcb_info": '{"id": "TDX"}',
        "tcb_info_signature": "aa",
        "qe_identity_issuer_chain": "Q",
        "qe_identity": '{"id":  "TD_QE"}',
        "qe_identity_signature": "bb",
    }
    assert blobs["root:intel_sgx_root_ca"] == world.der(world.root_certificate())
    assert asked.intel.roots == TrustRoots()  # type: ignore[attr-defined]
    own = tdx_input({"intel_root_ca_pem": pem(world.root_certificate()), "tcb_info_issuer_chain_pem": "own"})
    assert judge("verify-attestation-tdx", own, asked).accepted
    assert json.loads(asked.intel.blobs["collateral"])["tcb_info_issuer_chain"] == "own"  # type: ignore[attr-defined]
    assert asked.intel.roots.find("intel", world.der(world.root_certificate())) is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (tdx_input(policy={"expected_xfam_hex": "00" * 8}), "xfam_mismatch"),
        (tdx_input({"tcb_info_json": "{"}), "input_malformed"),
        (tdx_input({"tcb_info_json": '{"x":' + "[" * 100_000}), "input_malformed"),
        (tdx_input({"tcb_info_json": "{}"}), "input_malformed"),
        (tdx_input({"tcb_info_json": '{"signature":""}'}), "input_malformed"),
        (tdx_input({"qe_identity_json": '{"signature":""}'}), "input_malformed"),
        (tdx_input(collateral={"pck_crl_der_b64": "*"}), "input_malformed"),
        ({**tdx_input(), "collateral": {}}, "input_malformed"),
    ],
)
def test_tdx_inputs_that_are_refused(document: dict[str, Any], reason: str) -> None:
    """A rule's reason, or that the collateral is none."""
    assert judge("verify-attestation-tdx", document, families()).reason == reason


HELD = Check("tee_signature", Outcome.AFFIRMING)
NO_LEVEL = Check("tee_tcb", Outcome.CONTRAINDICATED, "tcb_not_supported")


@pytest.mark.parametrize(
    ("policy", "code", "checks", "reason"),
    [
        ({"tcb_evaluation_required": False}, "tcb_not_supported", (HELD, NO_LEVEL), None),
        ({"tcb_evaluation_required": True}, "tcb_not_supported", (HELD, NO_LEVEL), "tcb_not_supported"),
        ({"tcb_evaluation_required": False}, "quote_bad_signature", (HELD, NO_LEVEL), "quote_bad_signature"),
        (
            {"tcb_evaluation_required": False},
            "tcb_not_supported",
            (Check("tee_signature", Outcome.NONE, "not_reached"), NO_LEVEL),
            "tcb_not_supported",
        ),
        ({"tcb_evaluation_required": False}, "tcb_not_supported", (NO_LEVEL,), "tcb_not_supported"),
    ],
)
def test_a_missing_level_is_borne_only_on_request_and_alone(
    policy: dict[str, Any], code: str, checks: tuple[Check, ...], reason: str | None
) -> None:
    """An input that asks for no TCB evaluation bears a platform without a level, if every other check holds."""
    claims = tdx(authentic=False, reject_code=code, tcb_status=TcbStatus.UNSUPPORTED)
    asked = families(intel=Family(claims, checks))
    assert judge("verify-attestation-tdx", tdx_input(policy=policy), asked).reason == reason


def sigstore_input(**changes: Any) -> dict[str, Any]:
    bundle, root = world.genuine()
    return {
        "schema_version": "1",
        "bundle_b64": world.b64(bundle),
        "trust_root_b64": world.b64(root),
        "expected_digest_sha256_hex": world.ARTIFACT,
        "repo": world.REPOSITORY,
        "policy": {"workflow_ref_prefix": "refs/tags/"},
        "verification_time_unix": world.NOW,
        **changes,
    }


def test_a_sigstore_input() -> None:
    """The bundle is held against the rule of the input, and its claims are the outputs."""
    answer = judge("verify-sigstore", sigstore_input(), families())
    assert answer.accepted, answer
    assert answer.outputs["measurement"]["registers"] == (world.SNP, world.RTMR1, world.RTMR2)
    assert answer.outputs["cert_workflow_repository"] == world.REPOSITORY
    assert (
        judge("verify-sigstore", sigstore_input(repo="evil/router"), families()).reason
        == "workflow_repository_mismatch"
    )


ENCLAVE = {"type": SEV, "registers": [world.SNP]}


@pytest.mark.parametrize(
    ("document", "stage", "reason"),
    [
        ({"mode": "standard", "sigstore": sigstore_input(), "attestation_sev": sev_input()}, "verify-full", None),
        ({"mode": "standard", "sigstore": sigstore_input(), "attestation_tdx": tdx_input()}, "verify-full", None),
        ({"mode": "pinned", "pinned_measurement": ENCLAVE, "attestation_sev": sev_input()}, "verify-full", None),
        ({"mode": "standard", "attestation_sev": sev_input()}, "verify-full", "bundle_malformed"),
        ({"mode": "standard", "sigstore": [], "attestation_sev": sev_input()}, "verify-full", "bundle_malformed"),
        ({"mode": "pinned", "attestation_sev": sev_input()}, "verify-full", "bundle_malformed"),
        ({"mode": "other", "sigstore": sigstore_input()}, "verify-full", "bundle_malformed"),
        (
            {"mode": "standard", "sigstore": sigstore_input(repo="x"), "attestation_sev": sev_input()},
            "verify-sigstore",
            "workflow_repository_mismatch",
        ),
        ({"mode": "pinned", "pinned_measurement": ENCLAVE}, "verify-attestation-sev", "input_malformed"),
        (
            {
                "mode": "pinned",
                "pinned_measurement": ENCLAVE,
                "attestation_sev": sev_input(policy={"expected_measurement_hex": A}),
            },
            "verify-attestation-sev",
            "measurement_mismatch",
        ),
        (
            {
                "mode": "pinned",
                "pinned_measurement": {"type": SEV, "registers": [A]},
                "attestation_sev": sev_input(),
            },
            "verify-measurement",
            "measurement_mismatch",
        ),
    ],
)
def test_the_whole_flow(document: dict[str, Any], stage: str, reason: str | None) -> None:
    """Build or pin, then the enclave, then their comparison; a refusal keeps its own stage, and nothing is skipped."""
    answer = judge("verify-full", {"schema_version": "1", **document}, families())
    assert (answer.accepted, answer.stage, answer.reason) == (reason is None, stage, reason)


def test_the_small_stages() -> None:
    """Measurements, hardware lists and key bindings are judged from the same functions."""
    build = {"type": MULTIPLATFORM, "registers": [A, B, C]}
    alone = judge("verify-measurement", {"schema_version": "1", "source": ENCLAVE, "target": None}, families())
    assert alone.outputs == {"source_fingerprint_hex": world.SNP, "target_fingerprint_hex": None}
    both = judge("verify-measurement", {"schema_version": "1", "source": build, "target": build}, families())
    assert both.outputs["source_fingerprint_hex"] == both.outputs["target_fingerprint_hex"]
    assert judge("verify-measurement", {"schema_version": "1"}, families()).reason == "input_malformed"

    hardware = {
        "schema_version": "1",
        "enclave_measurement": {"type": TDX, "registers": [D, E, B, C, RTMR3_ZERO]},
        "hardware_measurements": [{"id": "a@x", "mrtd": D, "rtmr0": E}],
    }
    assert judge("verify-hardware-measurements", hardware, families()).outputs["matched_id"] == "a@x"

    data = bytes(range(64)).hex()
    key = {"schema_version": "1", "report_data_hex": data, "offered_hpke_public_key_hex": data[64:]}
    assert judge("ehbp-key-binding", key, families()).outputs["tls_fingerprint_hex"] == data[:64]
    wrong = {**key, "offered_hpke_public_key_hex": data[:64]}
    assert judge("ehbp-key-binding", wrong, families()).reason == "ehbp_key_binding_mismatch"
    assert judge("ehbp-key-binding", {**key, "report_data_hex": "zz"}, families()).reason == "input_malformed"
    assert judge("no such stage", {"schema_version": "1"}, families()).reason == "input_malformed"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
INPUTS = {
    "verify-attestation-sev": sev_input(policy={"min_tcb_bl_spl": 1, "expected_measurement_hex": A}),
    "verify-attestation-tdx": tdx_input(policy={"expected_mrseam_allowlist": [A]}),
    "verify-sigstore": sigstore_input(),
    "verify-measurement": {"schema_version": "1", "source": ENCLAVE, "target": ENCLAVE},
    "verify-hardware-measurements": {
        "schema_version": "1",
        "enclave_measurement": ENCLAVE,
        "hardware_measurements": [{"id": "a", "mrtd": A, "rtmr0": B}],
    },
    "verify-full": {"schema_version": "1", "mode": "standard", "sigstore": {}, "attestation_sev": sev_input()},
    "ehbp-key-binding": {"schema_version": "1", "report_data_hex": "00" * 64, "offered_hpke_public_key_hex": "00" * 32},
}


@given(st.sampled_from(sorted(INPUTS)), st.data())
@settings(max_examples=300, deadline=None)
def test_any_input_is_judged(stage: str, data: st.DataObject) -> None:
    """Whatever stands in the place of a member, a judgement comes back and nothing is raised."""
    document = copy.deepcopy(INPUTS[stage])
    holder = document
    while True:
        name = data.draw(st.sampled_from(sorted(holder)))
        if not isinstance(holder[name], dict) or not holder[name] or data.draw(st.booleans()):
            break
        holder = holder[name]
    holder[name] = data.draw(VALUES)
    judge(stage, document, families())


@given(st.binary(max_size=2048))
@settings(max_examples=300, deadline=None)
def test_any_document_is_unpacked_or_refused(packed_bytes: bytes) -> None:
    """Random bytes, and random bytes behind a gzip header, are unpacked or refused with FormatError."""
    for data in (packed_bytes, gzip.compress(b"x", mtime=0)[:10] + packed_bytes):
        with contextlib.suppress(FormatError):
            assert len(unpack(base64.b64encode(data).decode())) <= MAX_UNPACKED_BYTES
