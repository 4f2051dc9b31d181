"""An Azure confidential VM: hardware report, runtime data, virtual TPM, PCRs (docs/verification.md).

The evidence is the JSON object that `azure_hcl` reads.

What is shown, in this order:

1. the hardware report is genuine (SNP: `snp`; TDX: the result that the caller has for this TD quote)
2. its REPORT_DATA is the hash of the runtime data and nothing else, so the hardware vouches for that JSON
3. the key `HCLAkPub` of that JSON signed the quote
4. the quote's extraData is the nonce. REPORT_DATA never is: on Azure it commits to the runtime data, always
5. the PCR values are those that were quoted

A TD quote without an Intel verification leaves chain, collateral, revocation, identity and TCB `none` with the reason
`no_collateral`, and the claims without root, TCB, debug and hardware measurements. Then what is shown is only that the
parts fit together; anybody can make parts that do.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.model.tee import HostTrust, Platform, TeeClaims, TeeResult
from gateway.model.verdict import Outcome

from .azure_hcl import MAX_HCL_BYTES, TDREPORT_DATA, Evidence, Hcl, json_object, parse_evidence, td_report_data
from .findings import Findings, NotAuthentic, examine
from .roots import TrustRoots
from .snp import ark_of, needed, offered_roots, verify_snp
from .tpm import AttestationKey, check_nonce, check_pcrs, check_quote_signature, nonce_of, quote_claims, usable_key

SNP_PLAN = (
    "tee_format",
    "tee_chain",
    "tee_revocation",
    "tee_identity",
    "tee_tcb",
    "tee_signature",
    "tee_nonce",
    "tee_parts",
)
TDX_PLAN = (
    "tee_format",
    "tee_chain",
    "tee_collateral",
    "tee_revocation",
    "tee_identity",
    "tee_tcb",
    "tee_signature",
    "tee_nonce",
    "tee_parts",
)
#: What the hardware's own verification answers for; its signature is one of two under `tee_signature`.
_HARDWARE = ("tee_chain", "tee_collateral", "tee_revocation", "tee_identity", "tee_tcb")

#: SHA-384 of the keys with which Microsoft signs the ID block of its paravisor, as public reports of Azure machines
#: show them (2023 and 2025). A report that names one is of a guest that Microsoft signed, launched by whoever has the
#: signed block: the processor shows who built the guest, and no certificate shows whose processor it is.
AZURE_ID_KEYS = frozenset(
    {
        "0356215882a825279a85b300b0b742931d113bf7e32dde2e50ffde7ec743ca491ecdd7f336dc28a6e0b2bb57af7a44a3",
        "942fd93ebde6ea7a96efadeafc60f1c6b3d10e703b1dafd7555b92f7f3d32d0e006767648cba5b102af3d65756af4177",
    }
)
#: Products whose chip keys software of the machine's owner can read out: a report of one may be written whole, the ID
#: key's digest included, so nothing in it tells a cloud's machine from anybody's (docs/verification.md).
FORGEABLE = "Milan"


def verify_azure_vtpm(
    data: bytes,
    arks: Sequence[bytes],
    *,
    roots: TrustRoots,
    now: float,
    nonce: bytes | None = None,
    crl: bytes | None = None,
    td: TeeResult | None = None,
    id_keys: frozenset[str] = AZURE_ID_KEYS,
) -> TeeResult:
    """Appraise the evidence of an Azure confidential VM.

    `data` is the JSON above; `arks` are AMD roots in DER (at least one on SNP), `crl` AMD's list. `td` is the result
    for this very TD quote, if there is one. `host_trust` is hyperscaler_attested only when the ID key of an SNP report
    is in `id_keys` and the product is none of `FORGEABLE`: the HCL format itself can be imitated on any machine.
    Raises nothing for any bytes.
    """
    try:
        parsed: Evidence | FormatError = parse_evidence(data)
    except FormatError as refused:
        parsed = refused
    plan = SNP_PLAN if isinstance(parsed, Evidence) and parsed.td_quote is None else TDX_PLAN
    return examine(
        Platform.AZURE_VTPM, data, now, plan, lambda f: _verify(f, parsed, arks, roots, nonce, crl, td, id_keys)
    )


def _verify(
    f: Findings,
    evidence: Evidence | FormatError,
    arks: Sequence[bytes],
    roots: TrustRoots,
    nonce: bytes | None,
    crl: bytes | None,
    td: TeeResult | None,
    id_keys: frozenset[str],
) -> None:
    with f.step("tee_format") as step:
        if isinstance(evidence, FormatError):
            raise evidence
        hcl, quote = evidence.hcl, evidence.quote
        raw = {"platform": "tpm2", "report_type": hcl.kind} | quote_claims(quote)
        f.set(evidence_format=f"azure-vtpm-{hcl.kind}", nonce=quote.extra_data.hex(), raw=raw)
        step.found = f"HCL report version {hcl.version}, {hcl.kind}"
    if evidence.td_quote is None:
        report_data, hardware = _on_snp(f, evidence, arks, roots, crl, id_keys)
    else:
        report_data, hardware = _on_tdx(f, evidence.td_quote, td)
    with f.step("tee_parts"):
        _check_runtime(hcl, report_data)
        runtime = json_object(strict_json(hcl.runtime, max_bytes=MAX_HCL_BYTES, max_depth=8), "the runtime data")
        key = _attestation_key(runtime)
    f.absent("tee_parts", "not_reached", "the runtime data is bound; the PCR values were not compared")
    with f.step("tee_signature") as step:
        check_quote_signature(evidence.quote_message, evidence.quote_signature, key)
        step.found = f"the quote by HCLAkPub; {hardware['signature']}"
        step.over = "the whole quote"
    check_nonce(f, quote, nonce)
    with f.step("tee_parts") as step:
        pcrs = {str(index): value.hex() for index, value in check_pcrs(quote, evidence.pcrs).items()}
        step.found = f"runtime data in REPORT_DATA, {len(pcrs)} PCR values"
    vm = runtime.get("vm-configuration")
    f.set(
        raw=raw
        | {"vm_configuration": vm, "user_data": runtime.get("user-data"), "pcrs": pcrs, "hw": hardware["claims"]},
        measurements=hardware["measurements"] | {f"pcr{index}": value for index, value in pcrs.items()},
        flags=hardware["flags"] | _vm_flags(vm),
    )


def _on_snp(
    f: Findings,
    evidence: Evidence,
    arks: Sequence[bytes],
    roots: TrustRoots,
    crl: bytes | None,
    id_keys: frozenset[str],
) -> tuple[bytes, dict[str, Any]]:
    assert evidence.certificates is not None  # parse_evidence: always there on SNP
    vcek, ask = evidence.certificates
    ark = ark_of(ask, arks) if arks else b""
    result = verify_snp(evidence.hcl.report, vcek, ask, ark, roots=roots, now=f.evaluated_at, crl=crl)
    claims = _adopt(f, result)
    if claims.measurements["id_key_digest"] in id_keys and not (claims.product or "").startswith(FORGEABLE):
        f.set(host_trust=HostTrust.HYPERSCALER)
    hardware = {
        "product": claims.product,
        "measurement": claims.measurements["launch"],
        "debug": claims.debug,
        "vmpl": claims.flags["vmpl"],
    }
    return bytes.fromhex(claims.report_data or ""), {
        "signature": "the SNP report by its VCEK",
        "claims": hardware,
        "measurements": dict(claims.measurements),
        "flags": dict(claims.flags),
    }


def _on_tdx(f: Findings, td_quote: bytes, td: TeeResult | None) -> tuple[bytes, dict[str, Any]]:
    report_data = td_report_data(td_quote)
    if td is None:
        for check_id in _HARDWARE:
            f.absent(check_id, "no_collateral")
        return report_data, {
            "signature": "the TD quote's own signature was not looked at",
            "claims": {"note": "TD quote itself is verified with the tdx kind"},
            "measurements": {},
            "flags": {},
        }
    with f.step("tee_identity"):
        if (
            td.claims.platform != Platform.INTEL_TDX
            or td.claims.evidence_sha256 != hashlib.sha256(td_quote).hexdigest()
            or td.claims.evaluated_at != f.evaluated_at  # certificates and lists end: an old answer is none
        ):
            raise NotAuthentic("the TDX result is of another quote or time", reason="hcl_other_quote")
    claims = _adopt(f, td)
    return report_data, {
        "signature": "the TD quote by its attestation key",
        "claims": {"product": claims.product, "debug": claims.debug},
        "measurements": dict(claims.measurements),
        "flags": dict(claims.flags),
    }


def _adopt(f: Findings, result: TeeResult) -> TeeClaims:
    """Take over what the hardware's verification found; it fails here with the check that failed there."""
    claims = result.claims
    f.set(signer_chain=claims.signer_chain, root=claims.root, revocation=claims.revocation, children=(claims,))
    for check in result.checks:
        if check.outcome is Outcome.CONTRAINDICATED:
            with f.step(check.id if check.id in TDX_PLAN else "tee_identity"):
                raise NotAuthentic(
                    claims.reject_detail or check.id,
                    reason=check.reason or "malformed",
                    found=check.found,
                    expected=check.expected,
                    over=check.over,
                )
        if check.id in _HARDWARE:
            f.checks[check.id] = check
    if not claims.authentic:
        with f.step("tee_identity"):
            raise NotAuthentic("the hardware's evidence is not authentic", reason="hcl_hardware_refused")
    for check_id in _HARDWARE:
        if check_id not in f.checks:
            f.absent(check_id, "not_in_hardware_result")
    f.set(
        product=claims.product,
        tcb_status=claims.tcb_status,
        tcb=claims.tcb,
        advisory_ids=claims.advisory_ids,
        debug=claims.debug,
        report_data=claims.report_data,
        machine_id=claims.machine_id,
        machine_id_kind=claims.machine_id_kind,
        collateral=claims.collateral,
    )
    return claims


def _check_runtime(hcl: Hcl, report_data: bytes) -> None:
    if hcl.kind == "tdx" and hcl.report[TDREPORT_DATA] != report_data:
        raise NotAuthentic("the TD report and the TD quote differ", reason="hcl_td_report_mismatch")
    if report_data != hcl.runtime_hash.ljust(64, b"\0"):
        raise NotAuthentic(
            "REPORT_DATA is not the hash of the runtime data",
            reason="hcl_runtime_not_bound",
            found=report_data.hex()[:80],
            expected=hcl.runtime_hash.hex()[:80],
        )


def _attestation_key(runtime: Mapping[str, object]) -> AttestationKey:
    """The one key named HCLAkPub."""
    keys = runtime.get("keys")
    offered = keys if isinstance(keys, list) else []
    found = [key for key in offered if isinstance(key, Mapping) and key.get("kid") == "HCLAkPub"]
    if len(found) != 1 or found[0].get("kty") != "RSA":
        raise NotAuthentic("the runtime data does not have one RSA key HCLAkPub", reason="hcl_no_ak")
    n, e = _number(found[0].get("n")), _number(found[0].get("e"))
    try:
        return usable_key(rsa.RSAPublicNumbers(e, n).public_key())
    except ValueError:
        raise NotAuthentic("HCLAkPub is not an RSA key", reason="tpm_bad_key") from None


def _number(text: object) -> int:
    """Base64url without padding, as a JWK has it (RFC 7518 section 6.3.1)."""
    if not isinstance(text, str) or len(text) > 2048 or set(text) & set("=+/"):
        raise FormatError("a number of HCLAkPub is not base64url")
    try:
        return int.from_bytes(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True), "big")
    except (binascii.Error, ValueError):
        raise FormatError("a number of HCLAkPub is not base64url") from None


def _vm_flags(vm: object) -> dict[str, bool]:
    secure_boot = vm.get("secure-boot") if isinstance(vm, Mapping) else None
    return {"secure_boot": secure_boot} if isinstance(secure_boot, bool) else {}


def from_inputs(blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
    """`verify_azure_vtpm` over the roles `evidence`, `root:…` and optionally `crl`; `params["nonce"]` is hex.

    Raises `FormatError`, with the reason `input_missing` for a missing role.
    """
    evidence = needed(blobs, "evidence")
    return verify_azure_vtpm(
        evidence, offered_roots(blobs), roots=roots, now=now, nonce=nonce_of(params), crl=blobs.get("crl")
    )
