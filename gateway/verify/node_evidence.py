"""TEE evidence inside an ACI report: what it is, what it needs, and the keyset that it speaks for.

    {"platform": "tdx",   "quote": "<hex>"}                 report_data of the quote
    {"platform": "snp",   "report": "<hex>"}                report_data of the report
    {"platform": "nitro", "document": "<base64>"}           user_data of the document
                                                            … is SHA-256(statement) and 32 zero bytes
    beside a quote "event_log": "…", "app_compose": "…"     what a dstack guest measured, and was started with; the log
                                                            is replayed against the quote's registers (`tee.dstack`)
    beside any of them "nvidia_payload": {…}                each device's nonce is the first 32 of those bytes;
                                                            it is held to the manifests (`rim:<name>`) and OCSP
                                                            answers (`ocsp:<sha256>`) that we have

A statement names the digest of the keyset and our nonce (`gateway.verify.aci`), so evidence that holds and commits to
it shows that this machine has these keys, now. The vendor's documents are never taken from the report: whoever chooses
them chooses the verdict.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import msgspec

from gateway.errors import FormatError
from gateway.model.tee import Binding, BindingStatus, Freshness, FreshnessClass, TeeClaims, TeeResult
from gateway.model.verdict import Check, Outcome

from . import aci
from .tee.bindings import BindingInputs, BindingRule, bind
from .tee.findings import MAX_EVIDENCE_BYTES
from .tee.kinds import kind_of
from .tee.node_report import text_of
from .tee.roots import TrustRoots

#: `evidence.platform` -> the member that holds the evidence, its encoding, and its kind in `tee.kinds`.
_FORMS: Mapping[str, tuple[str, str, str]] = {
    "tdx": ("quote", "hex", "tdx"),
    "snp": ("report", "hex", "snp"),
    "nitro": ("document", "base64", "nitro"),
}
HARDWARE = frozenset(_FORMS)
#: The platform of a node that claims no hardware.
SOFTWARE = "software"
_OTHER_NAMES = {"sev-snp": "snp", "aws-nitro": "nitro"}
#: The platform whose registers an event log replays to.
LOGGED = "tdx"
#: The checks of `tee.dstack` that a log fails which is not what the machine measured, or is beside another document.
_OF_LOG = ("rtmr_log", "rtmr_replay", "compose_bound")
#: What keeps a log that may be true from telling what the system measured. It says as much as no log, which is no lie.
_UNTOLD = frozenset(("system_not_ready", "event_twice", "event_name", "event_payload"))


class TeeEvidence(msgspec.Struct, frozen=True):
    """Raw evidence: its `kind` and `role` in `tee.kinds`, its bytes, and what stands beside it: the accelerators'
    payload, a guest's event log and the document that it was started with."""

    kind: str
    role: str
    data: bytes
    gpu: bytes | None = None
    event_log: bytes | None = None
    app_compose: bytes | None = None


def platform_of(report: aci.Report) -> str:
    """What the report says that its evidence is, at most 40 characters: software, one of `HARDWARE`, or anything."""
    stated = report.evidence.get("platform")
    platform = (stated if isinstance(stated, str) else report.tee_type)[:40]
    return _OTHER_NAMES.get(platform, platform)


def read_evidence(report: aci.Report) -> TeeEvidence | None:
    """The TEE evidence in `report`, None when its platform is not one of `HARDWARE`. Raises `FormatError`."""
    platform = platform_of(report)
    if platform not in _FORMS:
        return None
    member, encoding, kind = _FORMS[platform]
    text = report.evidence.get(member)
    if not isinstance(text, str) or len(text) > 2 * MAX_EVIDENCE_BYTES:
        raise FormatError(f"evidence.{member} is not {encoding} text")
    try:
        data = bytes.fromhex(text) if encoding == "hex" else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise FormatError(f"evidence.{member} is not {encoding}") from None
    payload = report.evidence.get("nvidia_payload")
    gpu = None if payload is None else msgspec.json.encode(payload)
    log, compose = (
        (text_of(name, report.evidence) if platform == LOGGED else None) for name in ("event_log", "app_compose")
    )
    return TeeEvidence(kind, kind_of(kind).inputs[0], data, gpu, log, compose)


def verify_evidence(
    evidence: TeeEvidence,
    collateral: Mapping[str, bytes],
    *,
    keyset_digest: str,
    nonce: str,
    roots: TrustRoots,
    now: float,
) -> TeeResult:
    """Verify, and hold what holds to the statement of `keyset_digest` and `nonce` (64 hex digits).

    `collateral` maps roles of the kind to the vendor's documents, as we fetched them. Raises `FormatError` with the
    reason `input_missing` when one that the kind needs is not there.
    """
    kind = kind_of(evidence.kind)
    result = kind.verify({**collateral, evidence.role: evidence.data}, {}, roots, now)
    if evidence.event_log is not None:
        result = _logged(result, evidence.event_log, evidence.app_compose)
    held = BindingInputs(keyset_digest=keyset_digest, nonce=bytes.fromhex(nonce))
    claims = result.claims
    binding = bind(BindingRule.ACI, claims, held)
    freshness = claims.freshness
    if binding.status is BindingStatus.BOUND:
        freshness = Freshness(FreshnessClass.CHALLENGE, freshness.issued_at, freshness.age_s)
    children = () if evidence.gpu is None else (_gpu(evidence.gpu, claims, collateral, roots, now),)
    bound = msgspec.structs.replace(claims, binding=binding, freshness=freshness, children=children)
    return TeeResult(result.checks, bound)


def _logged(result: TeeResult, event_log: bytes, app_compose: bytes | None) -> TeeResult:
    """The quote's checks and those of the guest behind it, as the kind `dstack` has them for the same report."""
    from .tee.dstack import appraise_dstack  # who checks a Nitro document reads no compose file

    found = appraise_dstack(result.claims, event_log, app_compose)
    return TeeResult(result.checks + found.checks, found.claims)


def event_log(result: TeeResult) -> Check:
    """The check `event_log`: what the log beside a quote was found to be, with the reason of the check that says so."""
    found = [check for check in result.checks if check.id in _OF_LOG]
    wrong = [check for check in found if check.outcome is Outcome.CONTRAINDICATED]
    replayed = [check for check in found if check.id == "rtmr_replay"]
    deciding = next(iter(wrong + replayed), Check("event_log", Outcome.NONE, "no_event_log"))
    outcome = Outcome.NONE if deciding.reason in _UNTOLD else deciding.outcome
    return msgspec.structs.replace(deciding, id="event_log", outcome=outcome)


def _gpu(payload: bytes, cpu: TeeClaims, collateral: Mapping[str, bytes], roots: TrustRoots, now: float) -> TeeClaims:
    """The accelerators' claims, tied to the machine by the nonce that its own evidence commits to."""
    from .tee.nvidia_payload import verify_payload

    first = bytes.fromhex((cpu.report_data or "")[:64])
    answers, manifests = _named(collateral, "ocsp:"), _named(collateral, "rim:")
    claims = verify_payload(
        payload, roots=roots, now=now, nonce=first or None, answers=answers, manifests=manifests
    ).claims
    binding = bind(BindingRule.GPU_CHUTES, claims, BindingInputs(cpu=cpu)) if first else Binding()
    return msgspec.structs.replace(claims, binding=binding)


def _named(collateral: Mapping[str, bytes], prefix: str) -> dict[str, bytes]:
    return {role.removeprefix(prefix): data for role, data in collateral.items() if role.startswith(prefix)}
