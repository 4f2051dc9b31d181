"""Judging a bundle's evidence again, by the same functions that judged it when the answer passed. Pure.

From a bundle of an ACI answer:

    evidence that the receipt names "aci-receipt"   the node's receipt, found by its digest: the file's names are labels
    evidence named by served.evidenceDigest   the attestation report: the keyset, and so the keys that may sign
    opening request.body              what was sent (verbatim, or with the members added that the receipt names)
    opening response.body             what came back (when it is kept as bytes; a stream's is kept as its data lines)
    the policy file of the first digest   how far the node's time may have been from ours

Each check that these inputs allow is repeated and held against the outcome that the receipt records: *the same outcome*
is what affirms the record, whether that outcome was good or bad. What cannot be repeated away from the moment is left
out and named: that the nonce was ours, that the TLS channel ended where the keyset says, that the pin was configured.
"""

from __future__ import annotations

import hashlib

from gateway.crypto.canonical import strict_json
from gateway.errors import BadRequest, FormatError, PolicyError
from gateway.exchange.amend import amend
from gateway.exchange.answer import READABLE, read_answer
from gateway.exchange.head import parse_head
from gateway.log.bundle import Bundle
from gateway.model.line import Line
from gateway.model.node import Node
from gateway.model.observation import Observation
from gateway.model.receipt import FORM_BYTES, REQUEST_BODY, RESPONSE_BODY, Receipt, Served, Statement, millis
from gateway.model.verdict import AttestationResult, Check, Outcome
from gateway.policy.load import parse_policy
from gateway.verify import aci
from gateway.verify.appraise import attested_session
from gateway.verify.response import Exchanged, appraise_response

RECEIPT_EVIDENCE = "aci-receipt"
#: How far the node's time may lie from ours where the bundle has no policy to say; the one in force may have been
#: stricter. Some allow more, and none more than the second: a record that rests on this is named.
SKEW_S, MOST_SKEW_S = 600.0, 3600.0

_STEP = "appraisal"
_FROM_RECEIPT = ("signature", "key_bound", "fresh")
_FROM_BODY = ("malformed", "shape", "model_echo")


def reappraise(bundle: Bundle, statement: Statement) -> list[Line]:
    """The lines of the appraisal step. Never raises; without the evidence it is one `none` that nothing asked for."""
    receipt = statement.predicate
    blob = _node_receipt(bundle, receipt)
    if receipt.served is None:
        return [_idle("no single node's answer was released, so there is no evidence to judge again")]
    if blob is None and any(e.name == RECEIPT_EVIDENCE for e in bundle.evidence):
        # A genuine receipt of another answer would affirm what this one's does not bear out.
        return [Line(_STEP, Outcome.CONTRAINDICATED, "the file holds another node receipt than the one recorded")]
    if blob is None and not receipt.served.keyset_digest:
        return [_idle("the node signs no answer, so there is no signature to judge again")]
    if blob is None:
        return [_idle("the file carries no node receipt to judge again")]
    try:
        report = _report(bundle, receipt.served)
        sealed = aci.parse_receipt(blob)
    except FormatError as error:
        recorded = _recorded(receipt, "signature")
        if recorded is Outcome.AFFIRMING:
            return [Line(_STEP, Outcome.CONTRAINDICATED, "the evidence does not parse, yet passed", detail=str(error))]
        return [_idle(f"the evidence does not parse, and did not pass then either: {error}")]
    if report is None:
        return [_idle("the file carries no attestation report, so the keys that may sign are not known here")]
    if report.keyset.digest != receipt.served.keyset_digest:
        detail = f"found {report.keyset.digest}, recorded {receipt.served.keyset_digest}"
        return [
            Line(_STEP, Outcome.CONTRAINDICATED, "the report is of another keyset than the receipt's", detail=detail)
        ]
    return _again(bundle, statement, receipt.served, report, sealed)


def _again(
    bundle: Bundle, statement: Statement, served: Served, report: aci.Report, sealed: aci.SignedReceipt
) -> list[Line]:
    receipt = statement.predicate
    try:
        received = millis(receipt.timings.received) / 1000
        written = millis(receipt.time_created) / 1000
    except FormatError as error:
        sentence = "not repeated: the receipt does not say when the request came, or when it was written"
        return [Line(_STEP, Outcome.NONE, sentence, detail=str(error))]
    session = attested_session(
        Node(id=served.node, network=served.network, base_url="", models=()),
        report,
        AttestationResult(()),
        evidence_digest=served.evidence_digest.removeprefix("sha256:"),
        established=received,
        lifetime_s=0.0,
    )
    # What was signed is fresh or not when the answer is whole, which may be long after the request came.
    done = received + (receipt.timings.upstream_done_ms or 0.0) / 1000
    passed, allowed = _recorded(receipt, "fresh") is Outcome.AFFIRMING, _allowed(bundle, receipt)
    if allowed is None:
        now, skew = done, MOST_SKEW_S if passed else SKEW_S
    else:
        now, skew = _nearest(sealed.receipt.served_at, done, written) if passed else done, allowed
    request = _sent(bundle, receipt)
    body = _returned(bundle, statement)
    exchanged = Exchanged(
        request_sha256="" if request is None else hashlib.sha256(request).hexdigest(),
        response_sha256=None if body is None else hashlib.sha256(body).hexdigest(),
        nonce=sealed.receipt.request_nonce,
        model=receipt.request.model,
        endpoint=receipt.request.endpoint,
    )
    seen = _observe(receipt, request, body)
    result = appraise_response(session, sealed, None, exchanged, seen or Observation(), now=now, skew_s=skew)
    wanted = [*_FROM_RECEIPT]
    wanted += ["request_bound"] if request is not None else []
    wanted += ["response_bound"] if body is not None else []
    wanted += _FROM_BODY if seen is not None else []
    by_id = {c.id: c for c in result.checks}
    lines = [_compare(by_id[i], _recorded(receipt, i)) for i in wanted]
    apart = abs(done - sealed.receipt.served_at)
    if allowed is None and SKEW_S < apart <= skew:
        sentence = f"its time is {apart:.0f} s from ours: affirming only where the policy in force allowed so much"
        lines[wanted.index("fresh")] = Line(_STEP, Outcome.WARNING, sentence, "fresh")
    missing = [n for n, v in (("the request's bytes", request), ("the answer's bytes", body)) if v is None]
    if missing:
        lines.append(_idle(f"not repeated for want of {' and '.join(missing)}: {_left_out(wanted)}"))
    elif seen is None:
        sentence = f"answers of {receipt.request.endpoint!a} are not known here, so not repeated: {_left_out(wanted)}"
        lines.append(Line(_STEP, Outcome.NONE, sentence))
    return lines


def _allowed(bundle: Bundle, receipt: Receipt) -> float | None:
    """The seconds by which the policy in force let the node's time lie from ours, as its file in the bundle says."""
    file, named = bundle.policy, receipt.verifier.policies
    # The first is in force. What stands behind it are files that it comes from, and it may be stricter than each.
    if file is None or not named or hashlib.sha256(file.data).hexdigest() != named[0].digest.sha256:
        return None
    try:
        return parse_policy(file.name, file.data).freshness.response_skew_s
    except PolicyError:
        return None


def _nearest(moment: float, *ends: float) -> float:
    """What is nearest to `moment` between `ends`: an answer is judged behind its last byte and before its receipt."""
    return min(max(moment, min(ends)), max(ends))


def _compare(check: Check, recorded: Outcome | None) -> Line:
    if recorded is None:
        return Line(_STEP, Outcome.WARNING, f"{check.outcome.value} here, not among the recorded checks", check.id)
    if check.outcome is recorded:
        return Line(_STEP, Outcome.AFFIRMING, f"judged again with the same outcome: {recorded.value}", check.id)
    sentence = f"judged again: {check.outcome.value}; the receipt records {recorded.value}"
    worse = recorded is Outcome.AFFIRMING
    detail = f"{check.reason or ''} found {check.found or '-'}, expected {check.expected or '-'}".strip()
    return Line(_STEP, Outcome.CONTRAINDICATED if worse else Outcome.WARNING, sentence, check.id, detail)


def _recorded(receipt: Receipt, check_id: str) -> Outcome | None:
    # Node checks stand before response checks, and two ids occur in both: the last one is the response's.
    return next((c.outcome for c in reversed(receipt.checks) if c.id == check_id), None)


def _node_receipt(bundle: Bundle, receipt: Receipt) -> bytes | None:
    """The node's receipt that the gateway recorded. Another that the file calls so is not what was judged."""
    wanted = {ref.digest.sha256 for ref in receipt.evidence if ref.name == RECEIPT_EVIDENCE}
    return next((e.data for e in bundle.evidence if hashlib.sha256(e.data).hexdigest() in wanted), None)


def _report(bundle: Bundle, served: Served) -> aci.Report | None:
    wanted = served.evidence_digest.removeprefix("sha256:")
    for blob in bundle.evidence:
        if hashlib.sha256(blob.data).hexdigest() == wanted:
            return aci.parse_report(blob.data)
    return None


def _sent(bundle: Bundle, receipt: Receipt) -> bytes | None:
    """The bytes that the node was sent: the caller's own, with the members behind them that the receipt says were."""
    opened, forwarded = bundle.openings.get(REQUEST_BODY), receipt.request.forwarded
    if opened is None or forwarded is None:
        return None
    if forwarded.verbatim:
        return opened.data
    try:
        added = {name: strict_json(value.encode(), max_bytes=1024) for name, value in map(_pair, forwarded.added)}
        return amend(opened.data, added)[0] if added else None
    except FormatError:
        return None


def _pair(added: str) -> tuple[str, str]:
    name, _, value = added.partition("=")
    return name, value


def _returned(bundle: Bundle, statement: Statement) -> bytes | None:
    """The bytes that the node returned, when the receipt commits to them as bytes."""
    opened = bundle.openings.get(RESPONSE_BODY)
    subject = next((s for s in statement.subject if s.name == RESPONSE_BODY), None)
    if opened is None or subject is None or subject.annotations is None or subject.annotations.form != FORM_BYTES:
        return None
    return opened.data


def _observe(receipt: Receipt, request: bytes | None, body: bytes | None) -> Observation | None:
    """What stands in the answer; None where it cannot be read. What was asked decides the shape."""
    if request is None or body is None or receipt.request.endpoint not in READABLE:
        return None
    try:
        return read_answer(parse_head(receipt.request.endpoint, request), body)[0]
    except BadRequest as error:
        return Observation(malformed=f"the request: {error}")


def _left_out(done: list[str]) -> str:
    every = (*_FROM_RECEIPT, "request_bound", "response_bound", *_FROM_BODY)
    return ", ".join(i for i in every if i not in done)


def _idle(why: str) -> Line:
    return Line(_STEP, Outcome.NONE, why, claimed=False)
