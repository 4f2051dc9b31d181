"""The public conformance suite of Tinfoil's verifiers (tinfoilsh/tinfoil-conformance, schema version "1"), answered.

`judge` takes one input as it stands in the suite and answers it from the same functions that an adapter calls. The
families that verify reports and quotes are passed in. A reason is the suite's code in lower case wherever the check is
one of ours here; for a report's or a quote's own checks it is the family's word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gateway.crypto.certificates import der_of, load_pem_chain
from gateway.crypto.encoding import unb64
from gateway.errors import FormatError
from gateway.model.tee import TeeClaims, TeeResult
from gateway.model.verdict import Outcome
from gateway.verify.provenance.measurement import (
    compare,
    fingerprint,
    match_hardware,
    read_hardware,
    read_measurement,
)
from gateway.verify.provenance.verify import GITHUB, PAYLOAD_TYPE, IdentityPolicy, verify_bundle

from .findings import NotAuthentic
from .roots import Anchor, TrustRoots
from .tinfoil import check_hpke_key, measurement_of, unpack
from .tinfoil_rules import SevPolicy, TdxPolicy, check_sev, check_tdx

#: `from_inputs` of a family: blobs by role, parameters, roots and a time in Unix seconds.
Verify = Callable[[Mapping[str, bytes], Mapping[str, Any], TrustRoots, float], TeeResult]


class Families(msgspec.Struct, frozen=True):
    """What `judge` needs beside the input. `sev_chain` and `tdx_chain` hold the vendors' certificates by the family's
    roles (`ask`, `root:...`; PEM of the collateral's issuer chains), for inputs that bring none."""

    snp: Verify
    intel: Verify
    roots: TrustRoots
    sev_chain: Mapping[str, bytes]
    tdx_chain: Mapping[str, str]


class Judgement(msgspec.Struct, frozen=True):
    """The answer to one input. `stage` is where it was refused; `reason` is None when accepted, and `input_malformed`
    for what is no input at all."""

    accepted: bool
    stage: str
    reason: str | None = None
    detail: str | None = None
    outputs: Mapping[str, Any] = {}


class _InnerRefusal(NotAuthentic):
    """A refusal by a nested stage; the whole is refused there and for its reason."""

    def __init__(self, judgement: Judgement) -> None:
        super().__init__(judgement.detail or "refused", reason=judgement.reason or "refused")
        self.judgement = judgement


def judge(stage: str, document: Mapping[str, Any], families: Families) -> Judgement:
    """The judgement of one input of `stage`. Total: a refusal is a judgement, whatever the input.

    Stages: verify-sigstore, verify-measurement, verify-hardware-measurements, verify-attestation-sev,
    verify-attestation-tdx, verify-full, ehbp-key-binding.
    """
    try:
        if document.get("schema_version") != "1":
            raise FormatError("the input's schema version is not 1")
        return Judgement(True, stage, outputs=_STAGES[stage](document, families))
    except _InnerRefusal as inner:
        return inner.judgement
    except NotAuthentic as refused:
        return Judgement(False, stage, refused.reason, refused.message)
    except KeyError as missing:
        return Judgement(False, stage, "input_malformed", f"unknown stage or missing member: {missing!s:.80}")
    except (msgspec.ValidationError, FormatError) as error:
        return Judgement(False, stage, "input_malformed", f"{error!s:.200}")


def _nested(stage: str, document: object, families: Families) -> Mapping[str, Any]:
    """The outputs of an inner stage; its refusal is the refusal of the whole, under its own name."""
    members = document if isinstance(document, dict) else {}
    judgement = judge(stage, {"schema_version": "1", **members}, families)
    if not judgement.accepted:
        raise _InnerRefusal(judgement)
    return judgement.outputs


class _SigstorePolicy(msgspec.Struct, frozen=True):
    workflow_ref_prefix: str
    oidc_issuer: str = GITHUB
    predicate_types_allowed: tuple[str, ...] | None = None
    in_toto_statement_types_allowed: tuple[str, ...] | None = None
    payload_type: str = PAYLOAD_TYPE
    tlog_entries_min: int = 1
    tlog_entries_max: int | None = None
    sct_min: int = 1


class _SigstoreInput(msgspec.Struct, frozen=True):
    bundle_b64: str
    expected_digest_sha256_hex: str
    repo: str
    policy: _SigstorePolicy
    trust_root_b64: str
    verification_time_unix: float


def _judge_sigstore(document: Mapping[str, Any], families: Families) -> Mapping[str, Any]:
    given = msgspec.convert(document, _SigstoreInput)
    rule = given.policy
    claims = verify_bundle(
        unb64(given.bundle_b64, "the bundle"),
        unb64(given.trust_root_b64, "the trust root"),
        identity_policy=IdentityPolicy(
            issuer=rule.oidc_issuer,
            repository=given.repo,
            ref_prefix=rule.workflow_ref_prefix,
            predicate_types=rule.predicate_types_allowed,
            statement_types=rule.in_toto_statement_types_allowed,
            payload_type=rule.payload_type,
            entries_min=rule.tlog_entries_min,
            entries_max=rule.tlog_entries_max,
            scts_min=rule.sct_min,
        ),
        artifact_digest=given.expected_digest_sha256_hex,
        now=given.verification_time_unix,
    ).claims
    if not claims.authentic:
        raise NotAuthentic(claims.reject_detail or "refused", reason=claims.reject_code or "refused")
    return {
        "predicate_type": claims.predicate_type,
        "in_toto_statement_type": claims.statement_type,
        "subject_name": claims.subject_name,
        "subject_digest_sha256_hex": claims.artifact_sha256,
        "measurement": msgspec.to_builtins(claims.measurement),
        "cert_oidc_issuer": claims.issuer,
        "cert_workflow_repository": claims.repository,
        "cert_workflow_signer_uri": claims.signer,
        "rekor_log_id_hex": claims.log_id,
        "rekor_integrated_time_unix": claims.signed_at,
        "tlog_entry_count": claims.log_entries,
        "sct_count": claims.scts,
    }


def _judge_measurement(document: Mapping[str, Any], families: Families) -> Mapping[str, Any]:
    source = read_measurement(document["source"])
    target = None if document.get("target") is None else read_measurement(document["target"])
    if target is not None:
        compare(source, target)
    return {
        "source_fingerprint_hex": fingerprint(source),
        "target_fingerprint_hex": None if target is None else fingerprint(target),
    }


def _judge_hardware(document: Mapping[str, Any], families: Families) -> Mapping[str, Any]:
    enclave = read_measurement(document["enclave_measurement"])
    platform = match_hardware(enclave, read_hardware(document["hardware_measurements"]))
    return {"matched_id": platform.id, "matched_mrtd": platform.mrtd, "matched_rtmr0": platform.rtmr0}


class _SevInput(msgspec.Struct, frozen=True):
    attestation_doc_b64: str
    vcek_der_b64: str
    expiration_check_date_unix: float
    amd_root_ca_pem: str | None = None
    ask_pem: str | None = None
    policy: SevPolicy = SevPolicy()


def _judge_sev(document: Mapping[str, Any], families: Families) -> Mapping[str, Any]:
    given = msgspec.convert(document, _SevInput)
    roots, chain = families.roots, dict(families.sev_chain)
    if given.amd_root_ca_pem is not None and given.ask_pem is not None:
        root = _one_certificate(given.amd_root_ca_pem)
        roots = _only("amd", root)
        chain = {"ask": _one_certificate(given.ask_pem), "root:ark": root}
    blobs = {
        "report": unpack(given.attestation_doc_b64),
        "ek": unb64(given.vcek_der_b64, "the VCEK"),
        **chain,
    }
    claims = _authentic(families.snp(blobs, {}, roots, given.expiration_check_date_unix))
    check_sev(claims, given.policy)
    return {"measurement": msgspec.to_builtins(measurement_of(claims))}


class _TdxInput(msgspec.Struct, frozen=True):
    quote_b64: str
    collateral: dict[str, str]
    expiration_check_date_unix: float
    policy: TdxPolicy = TdxPolicy()


def _judge_tdx(document: Mapping[str, Any], families: Families) -> Mapping[str, Any]:
    given = msgspec.convert(document, _TdxInput)
    roots = families.roots
    blobs = {"quote": unb64(given.quote_b64, "the quote"), "collateral": _collateral(given.collateral, families)}
    if "intel_root_ca_pem" in given.collateral:
        blobs["root:intel_sgx_root_ca"] = _one_certificate(given.collateral["intel_root_ca_pem"])
        roots = _only("intel", blobs["root:intel_sgx_root_ca"])
    elif "intel_root_ca_pem" in families.tdx_chain:
        blobs["root:intel_sgx_root_ca"] = _one_certificate(families.tdx_chain["intel_root_ca_pem"])
    result = families.intel(blobs, {}, roots, given.expiration_check_date_unix)
    only_the_level = not given.policy.tcb_evaluation_required and _fails_by_the_level_alone(result)
    claims = result.claims if only_the_level else _authentic(result)
    check_tdx(claims, given.policy)
    return {
        "quote_version": claims.raw.get("quote_version"),
        "tee_type": "TDX",
        "measurement": msgspec.to_builtins(measurement_of(claims)),
    }


def _fails_by_the_level_alone(result: TeeResult) -> bool:
    """Whether everything holds but that the vendor's list has no level for the platform, and no check was left out.

    The suite asks for quotes to be judged without their TCB level, which nothing else here ever does.
    """
    others = [check for check in result.checks if check.id != "tee_tcb"]
    return result.claims.reject_code == "tcb_not_supported" and {c.outcome for c in others} == {Outcome.AFFIRMING}


class _TcbInfo(msgspec.Struct, frozen=True):
    text: msgspec.Raw = msgspec.field(name="tcbInfo")
    signature: str


class _QeIdentity(msgspec.Struct, frozen=True):
    text: msgspec.Raw = msgspec.field(name="enclaveIdentity")
    signature: str


def _collateral(given: Mapping[str, str], families: Families) -> bytes:
    """The suite's collateral in the form that `QuoteCollateralV3` has as JSON. Signed texts keep their exact bytes."""
    try:
        tcb = msgspec.json.decode(given["tcb_info_json"].encode("utf-8", "replace"), type=_TcbInfo)
        qe = msgspec.json.decode(given["qe_identity_json"].encode("utf-8", "replace"), type=_QeIdentity)
    except (msgspec.DecodeError, RecursionError):
        raise FormatError("the collateral is not JSON of the expected form") from None
    chains = {**families.tdx_chain, **given}
    return msgspec.json.encode(
        {
            "pck_crl_issuer_chain": chains["pck_crl_issuer_chain_pem"],
            "root_ca_crl": unb64(given["root_crl_der_b64"], "the root CRL").hex(),
            "pck_crl": unb64(given["pck_crl_der_b64"], "the PCK CRL").hex(),
            "tcb_info_issuer_chain": chains["tcb_info_issuer_chain_pem"],
            "tcb_info": bytes(tcb.text).decode(),
            "tcb_info_signature": tcb.signature,
            "qe_identity_issuer_chain": chains["qe_identity_issuer_chain_pem"],
            "qe_identity": bytes(qe.text).decode(),
            "qe_identity_signature": qe.signature,
        }
    )


def _judge_full(document: Mapping[str, Any], families: Families) -> Mapping[str, Any]:
    """Build attestation (or a pin), then the enclave, then that both have the same measurement."""
    mode = document.get("mode")
    if mode == "standard" and isinstance(document.get("sigstore"), dict):
        expected = _nested("verify-sigstore", document["sigstore"], families)["measurement"]
    elif mode == "pinned" and "pinned_measurement" in document:
        expected = document["pinned_measurement"]
    else:
        raise NotAuthentic("there is no build attestation and no pin to hold against", reason="bundle_malformed")
    kind = "tdx" if "attestation_tdx" in document else "sev"
    enclave = _nested(f"verify-attestation-{kind}", document.get(f"attestation_{kind}"), families)["measurement"]
    return _nested("verify-measurement", {"source": expected, "target": enclave}, families)


class _KeyInput(msgspec.Struct, frozen=True):
    report_data_hex: str
    offered_hpke_public_key_hex: str


def _judge_key_binding(document: Mapping[str, Any], families: Families) -> Mapping[str, Any]:
    given = msgspec.convert(document, _KeyInput)
    try:
        report_data = bytes.fromhex(given.report_data_hex)
        offered = bytes.fromhex(given.offered_hpke_public_key_hex)
    except ValueError:
        raise FormatError("the report data or the key is not hex") from None
    binding = check_hpke_key(report_data, offered)
    return {
        "attested_hpke_public_key_hex": binding.hpke_key.hex(),
        "tls_fingerprint_hex": binding.tls_key_sha256.hex(),
    }


def _authentic(result: TeeResult) -> TeeClaims:
    claims = result.claims
    if not claims.authentic:
        raise NotAuthentic(claims.reject_detail or "refused", reason=claims.reject_code or "refused")
    return claims


def _one_certificate(pem: str) -> bytes:
    chain = load_pem_chain(pem.encode("utf-8", "replace"))
    if len(chain) != 1:
        raise FormatError("one certificate is expected")
    return der_of(chain[0])


def _only(vendor: str, root: bytes) -> TrustRoots:
    """The root that the input brings, as a test root: what it proves counts for this judgement alone."""
    return TrustRoots((Anchor(vendor, "conformance", hashlib.sha256(root).hexdigest(), test=True),))


_STAGES: Mapping[str, Callable[[Mapping[str, Any], Families], Mapping[str, Any]]] = {
    "verify-sigstore": _judge_sigstore,
    "verify-measurement": _judge_measurement,
    "verify-hardware-measurements": _judge_hardware,
    "verify-attestation-sev": _judge_sev,
    "verify-attestation-tdx": _judge_tdx,
    "verify-full": _judge_full,
    "ehbp-key-binding": _judge_key_binding,
}
