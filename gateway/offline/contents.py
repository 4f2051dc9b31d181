"""Steps 7 to 16 of checking a receipt offline: what a genuine statement says, held against the files beside it. Pure.

`gateway.offline` has shown by then that a trusted key signed the statement; here nothing is about keys or the log.
"""

from __future__ import annotations

import hashlib

from gateway.errors import FormatError
from gateway.log.bundle import Bundle
from gateway.log.cosignature import Cosignature
from gateway.log.receipt import salted
from gateway.model.line import Line
from gateway.model.receipt import Receipt, Statement, millis
from gateway.model.verdict import Outcome, Release
from gateway.verify.no_evidence import NO_BYTES
from gateway.verify.sessions import id_of

from . import proofs

#: How far a receipt's time may lie ahead of the reader's clock before one of the two clocks must be wrong.
CLOCK_SKEW_S = 300.0


def time_line(receipt: Receipt, cosignatures: tuple[Cosignature, ...], now: float) -> Line:
    """7. The receipt's time is its maker's; witnesses bound it from above, nothing here from below."""
    try:
        created = millis(receipt.time_created) / 1000
        millis(receipt.timings.received)
    except FormatError as error:
        return Line("time", Outcome.CONTRAINDICATED, str(error))
    if created > now + CLOCK_SKEW_S:
        sentence = f"made at {receipt.time_created}, later than it is now: one of the two clocks is wrong"
        return Line("time", Outcome.NONE, sentence)
    seen = [c.time for c in cosignatures if c.time]
    if seen and min(seen) + CLOCK_SKEW_S < created:
        sentence = f"made at {receipt.time_created}, after a witness had seen it in the log"
        return Line("time", Outcome.CONTRAINDICATED, sentence)
    bound = "witnesses saw it in the log in time" if seen else "by the gateway's own clock, which nobody else bounds"
    return Line("time", Outcome.AFFIRMING, f"made at {receipt.time_created}, {bound}")


def opening_lines(bundle: Bundle, statement: Statement) -> list[Line]:
    """8. Every payload in the file against its digest, every digest without a payload, and what no digest covers."""
    lines = []
    for subject in statement.subject:
        opened = bundle.openings.get(subject.name)
        if opened is None:
            sentence = "committed to, and not in the file"
            lines.append(Line("opening", Outcome.NONE, sentence, subject.name, claimed=False))
        elif salted(opened.salt, opened.data) == subject.digest.sha256:
            sentence = f"the {len(opened.data)} bytes in the file are those that the receipt commits to"
            lines.append(Line("opening", Outcome.AFFIRMING, sentence, subject.name))
        else:
            detail = f"found {salted(opened.salt, opened.data)}, committed {subject.digest.sha256}"
            sentence = "the bytes in the file are not those that the receipt commits to"
            lines.append(Line("opening", Outcome.CONTRAINDICATED, sentence, subject.name, detail))
    for name in bundle.openings.keys() - {s.name for s in statement.subject}:
        lines.append(Line("opening", Outcome.CONTRAINDICATED, "in the file, and nothing commits to it", name))
    return [*lines, *bundle.uncovered]


def evidence_lines(bundle: Bundle, receipt: Receipt) -> list[Line]:
    """9. Evidence is matched by digest, and called by the name that the receipt gives it: the file's is a label."""
    named = {ref.digest.sha256: ref.name for ref in receipt.evidence}
    bare = receipt.served is not None and receipt.served.evidence_digest == f"sha256:{NO_BYTES}"
    if receipt.served is not None and not bare:
        named.setdefault(receipt.served.evidence_digest.removeprefix("sha256:"), "the node's attestation")
    lines = [Line("evidence", Outcome.NONE, "the node offered none", claimed=False)] if bare else []
    for blob in bundle.evidence:
        found = hashlib.sha256(blob.data).hexdigest()
        if found != blob.sha256:
            sentence = "its bytes do not have the digest that the file gives"
            lines.append(Line("evidence", Outcome.CONTRAINDICATED, sentence, blob.name, f"found {found}"))
        elif found in named:
            lines.append(Line("evidence", Outcome.AFFIRMING, "the receipt names exactly this", named.pop(found), found))
        else:
            sentence = "in the file, and the receipt does not name it"
            lines.append(Line("evidence", Outcome.WARNING, sentence, blob.name, found))
    for digest, name in named.items():
        sentence = "named by the receipt, and not in the file"
        lines.append(Line("evidence", Outcome.NONE, sentence, name, digest, claimed=False))
    return lines or [Line("evidence", Outcome.NONE, "the receipt names none", claimed=False)]


def policy_line(bundle: Bundle, receipt: Receipt) -> Line:
    """10. The policy file in the bundle against the digest in the receipt."""
    uris = ", ".join(p.uri for p in receipt.verifier.policies)
    file = bundle.policy
    if file is None:
        return Line("policy", Outcome.NONE, f"judged under {uris}, which is not in the file", claimed=False)
    found = hashlib.sha256(file.data).hexdigest()
    if found == file.sha256 and any(p.digest.sha256 == found for p in receipt.verifier.policies):
        return Line("policy", Outcome.AFFIRMING, f"the policy in the file was in force: {uris}", detail=found)
    sentence = f"the policy in the file is not the one that was in force: {uris}"
    return Line("policy", Outcome.CONTRAINDICATED, sentence, detail=f"found {found}")


def session_line(bundle: Bundle, receipt: Receipt) -> Line:
    """11. A session's id is the digest of its document (ACI section 8), so the receipt's signature covers it."""
    if receipt.served is None:
        heard = len(proofs.asked(receipt))
        sentence = f"none of the {heard} nodes that a quorum asked has the answer" if heard else "no node answered"
        return Line("session", Outcome.NONE, sentence, claimed=False)
    wanted = receipt.served.session
    if bundle.session is None:
        sentence = f"attested session {wanted}, which is not in the file"
        return Line("session", Outcome.NONE, sentence, claimed=False)
    try:
        found, whole = id_of(bundle.session)
    except FormatError as error:
        return Line("session", Outcome.CONTRAINDICATED, "the session document is malformed", detail=str(error))
    if found != wanted:
        detail = f"found {found}, expected {wanted!a}"
        return Line("session", Outcome.CONTRAINDICATED, "the file holds another attested session", detail=detail)
    sentence = "the file holds the session that the receipt names"
    if not whole:
        sentence += ", in the fields that its id covers"
    return Line("session", Outcome.AFFIRMING, sentence, detail=found)


def completeness_line(receipt: Receipt) -> Line:
    """15. What could not have been recorded honestly."""
    problem = None
    silent = [c.id for c in receipt.checks if c.outcome is not Outcome.AFFIRMING and not c.reason]
    refuted = [c.id for c in receipt.checks if c.outcome is Outcome.CONTRAINDICATED]
    if silent:
        problem = f"checks that did not pass give no reason: {', '.join(silent)}"
    elif receipt.verdict is Outcome.AFFIRMING and not any(c.outcome is Outcome.AFFIRMING for c in receipt.checks):
        problem = "the verdict is affirming and no recorded check is"
    elif receipt.verdict is Outcome.AFFIRMING and refuted:
        problem = f"the verdict is affirming beside contraindicated checks: {', '.join(refuted)}"
    elif receipt.verdict is Outcome.AFFIRMING and receipt.served is None:
        problem = "the verdict is affirming and no node is named"
    elif receipt.release is Release.RELEASED and receipt.delivery.form == "none":
        problem = "recorded as released, and nothing was delivered"
    elif receipt.release is Release.REFUSED and receipt.delivery.bytes:
        problem = "recorded as refused, and bytes of an answer were delivered"
    else:
        problem = proofs.contradiction(receipt)
    if problem is not None:
        return Line("completeness", Outcome.CONTRAINDICATED, problem)
    passed = sum(c.outcome is Outcome.AFFIRMING for c in receipt.checks)
    sentence = f"{len(receipt.checks)} checks are recorded, {passed} of them affirming, the others with their reasons"
    return Line("completeness", Outcome.AFFIRMING, sentence)


def verdict_line(receipt: Receipt) -> Line:
    """16. What the receipt says of the answer; its outcome is the recorded verdict."""
    failed = ", ".join(f"{c.id} ({c.reason})" for c in receipt.checks if c.outcome is not Outcome.AFFIRMING)
    reason = f", reason {receipt.reason}" if receipt.reason else ""
    sentence = f"RECORDED VERDICT: {receipt.verdict.value}; the answer was {receipt.release.value}{reason}"
    return Line("verdict", receipt.verdict, sentence, detail=f"not affirming: {failed}" if failed else None)
