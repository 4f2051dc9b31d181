"""The kind `dstack`: a node's whole report to one list of checks - the quote, what it runs, and its accelerators.

    report      the node's report (JSON), or dstack's binary envelope; or else the parts by themselves:
    quote, event_log, app_compose, nvidia_payload, mr_config
    collateral  Intel's documents for the quote; without them the result is never authentic (`quote_alone`)
    references  reference values (JSON, `dstack_case.References`)
    ek, ask     AMD's certificates, for an envelope that holds an SEV-SNP report

A part that is given by itself stands before the report's own. On TDX the list is that of `intel`, then that of
`dstack`, then `gpu_evidence`; in an envelope that of `nitro` or `snp`, and on SEV-SNP `mr_config_bound`.

The accelerators must have answered what the second half of the quote's report data commits to, which is where dstack
guests put the nonce that both were asked with, or its SHA-256. docs/verification.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.errors import FormatError
from gateway.model.tee import Platform, TeeClaims, TeeResult
from gateway.model.verdict import Check, Outcome

from .bindings import BindingInputs, BindingRule, bind
from .dstack import appraise_dstack
from .dstack_case import References, parse_references
from .findings import examine
from .intel import PLAN as QUOTE_PLAN
from .node_report import Envelope, NodeReport, is_envelope, read_envelope, read_report
from .nvidia_gpu import nonce_of
from .nvidia_payload import verify_payload
from .outcomes import fails, holds, unknown
from .quote_alone import NO_COLLATERAL, on_top, verify_quote
from .roots import TrustRoots

_MR_CONFIG_V3 = b"dstack-mr-config-v3:\0"


def from_inputs(blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
    """Appraise a node's report. `params`: nonce (64 hex), which the accelerators must have answered.

    Raises `FormatError` with the reason `input_missing` without a report and a quote, and for reference values or a
    nonce that cannot be read: those are the caller's own. Whatever the node wrote comes back as a result.
    """
    references = parse_references(blobs["references"]) if "references" in blobs else References()
    nonce = nonce_of(params)
    if "report" not in blobs and "quote" not in blobs:
        raise FormatError("there is no report and no quote", reason="input_missing")
    try:
        if is_envelope(blobs.get("report", b"")):
            return _enveloped(read_envelope(blobs["report"]), blobs, params, roots, now)
        report = _parts(blobs)
    except FormatError as error:
        if error.reason == "input_missing":
            raise
        return _unreadable(blobs.get("report", b""), now, error)
    return _appraise(report, blobs, references, nonce, roots, now)


def _parts(blobs: Mapping[str, bytes]) -> NodeReport:
    given = {name: blobs[name] for name in NodeReport.__struct_fields__ if name in blobs}
    if "quote" in given and "report" not in blobs:
        return NodeReport(**given)
    return msgspec.structs.replace(read_report(blobs["report"]), **given)


def _unreadable(report: bytes, now: float, error: FormatError) -> TeeResult:
    def refuse(_: object) -> None:
        raise error

    return examine(Platform.INTEL_TDX, report, now, QUOTE_PLAN, refuse)


# -- TDX


def _appraise(
    report: NodeReport,
    blobs: Mapping[str, bytes],
    references: References,
    nonce: bytes | None,
    roots: TrustRoots,
    now: float,
) -> TeeResult:
    quoted = verify_quote(report.quote, blobs, roots=roots, now=now)

    def appraise(claims: TeeClaims) -> TeeResult:
        return appraise_dstack(
            claims, report.event_log, report.app_compose, references=references, mr_config=blobs.get("mr_config")
        )

    whole = on_top(quoted, appraise)
    rims = [blobs[role] for role in sorted(blobs) if role.startswith("rim")]
    check, children = accelerators(whole.claims, report.nvidia_payload, nonce, rims, roots)
    return TeeResult((*whole.checks, check), msgspec.structs.replace(whole.claims, children=children))


def accelerators(
    claims: TeeClaims, payload: bytes | None, nonce: bytes | None, rims: list[bytes], roots: TrustRoots
) -> tuple[Check, tuple[TeeClaims, ...]]:
    """The check `gpu_evidence` and the claims of the payload's devices, tied to the CPU's evidence or to the nonce.

    The devices must have answered the second half of the report data of `claims`, or the caller's `nonce` (32 bytes),
    which the CPU's report data must then hold as well, itself or its SHA-256: a nonce alone could be answered by any
    machine's devices. They count as tied only where `claims` are authentic.
    """
    if payload is None:
        return unknown("gpu_evidence", "no_gpu_evidence"), ()
    if not claims.authentic and claims.reject_code != NO_COLLATERAL:
        return unknown("gpu_evidence", "quote_not_authentic"), ()
    committed = bytes.fromhex(claims.report_data or "")[32:]
    if not any(committed):
        return unknown("gpu_evidence", "cpu_commits_to_nothing"), ()
    if nonce is not None and committed not in (nonce, hashlib.sha256(nonce).digest()):
        return fails(
            "gpu_evidence", "cpu_nonce_mismatch", committed.hex(), nonce.hex(), "report data, bytes 32 to 64"
        ), ()
    result = verify_payload(payload, roots=roots, now=claims.evaluated_at, nonce=nonce or committed, rims=rims)
    rule = BindingRule.GPU_SECRETVM if nonce in (None, committed) else BindingRule.GPU_SHA256
    gpu = msgspec.structs.replace(result.claims, binding=bind(rule, result.claims, BindingInputs(cpu=claims)))
    refused = next((c for c in result.checks if c.outcome is Outcome.CONTRAINDICATED), None)
    if refused is not None:
        check = fails("gpu_evidence", refused.reason or "malformed", refused.found or refused.id, refused.expected)
        return check, (gpu,)
    asked = "the nonce asked with" if nonce is not None else "the second half of the CPU's report data"
    return holds("gpu_evidence", f"{len(gpu.children)} of them answered {asked}"), (gpu,)


# -- an envelope


def _enveloped(
    envelope: Envelope, blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float
) -> TeeResult:
    from . import nitro, snp  # who checks a TDX report needs neither

    if envelope.platform == "nitro":
        return nitro.from_inputs({"doc": envelope.evidence}, params, roots, now)
    result = snp.from_inputs({**blobs, "report": envelope.evidence}, params, roots, now)
    document = blobs.get("mr_config", envelope.mr_config)
    return TeeResult((*result.checks, _mr_config(result.claims, document)), result.claims)


def _mr_config(claims: TeeClaims, document: bytes | None) -> Check:
    """HOST_DATA, which the host chose and the chip signed, is the digest of the document beside the report."""
    if not claims.authentic:
        return unknown("mr_config_bound", "quote_not_authentic")
    if not document:
        return unknown("mr_config_bound", "no_mr_config")
    digest, found = hashlib.sha256(_MR_CONFIG_V3 + document).hexdigest(), claims.measurements["host_data"]
    if digest != found:
        return fails("mr_config_bound", "mr_config_mismatch", f"{found[:16]}…", f"{digest[:16]}…", "HOST_DATA")
    return holds("mr_config_bound", f"{digest[:16]}…, {len(document)} bytes", "HOST_DATA")
