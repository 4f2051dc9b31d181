"""Checking a receipt away from the gateway: bytes and trust roots in, one line for each check out. Pure.

    lines = verify_bundle(parse_bundle(data), trust, now=now)
    for line in lines: print(line.outcome, line.sentence)
    code = exit_code(lines)

What has to be shown, in this order, each as its own line (docs/receipts.md):
 1. trust          the keys below come from the reader's trust file, not from the file that is being checked
 2. signature      a trusted receipt key signed exactly this payload
 3. checkpoint     a trusted log key signed the tree head of the proof
 4. inclusion      the leaf of exactly this payload is in that tree
 5. witnessed      as many witnesses cosigned the tree head as the trust file asks for
 6. format         the signed payload is a receipt, and names the log that it was found in
 7. time           the receipt was not made in the future, or after a witness saw it
 8. opening        each payload in the file is the one that the receipt commits to
 9. evidence       each evidence file is the one that the receipt names
10. policy         the policy file is the one that was in force
11. session        the attested session is the one that the answer came through
12. intent         the prompt's disclosure was logged before this receipt
13. appraisal      the evidence, judged again, gives what was recorded
14. proofs         what the gateway recorded of proofs, and of each node that a quorum asked
15. completeness   the recorded checks are all there, and contradict neither the recorded verdict nor the proofs
16. verdict        what the gateway recorded about the answer

A line's outcome is `none` when its check did not run, with the reason; `claimed=False` says that nothing in the file or
in the trust file asked for it, so that it decides nothing. Lines 14 and 16 are what the record says, the others are
about its authenticity: a genuine receipt of a rejected answer is genuine, and its answer is still rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from gateway.errors import FormatError, ProofError
from gateway.log.bundle import Bundle, Logged
from gateway.log.cosignature import CHECKPOINT_CHECKS, Cosignature, CosignedCheckpoint
from gateway.log.dsse import Envelope, parse_envelope, verify_envelope
from gateway.log.note import open_note, parse_note
from gateway.log.proof import TlogProof, check_inclusion, parse_tlog_proof
from gateway.log.receipt import leaf, parse_event, parse_receipt
from gateway.log.trust import TrustPolicy, open_with_trust, parse_trust, witnessed_line
from gateway.model.line import Line, exit_code, not_run
from gateway.model.receipt import PAYLOAD_TYPE, REQUEST_BODY, Receipt, Statement
from gateway.model.verdict import Outcome

from . import contents, proofs

__all__ = ["STEPS", "Line", "Reappraise", "exit_code", "recorded", "verify_bundle", "verify_receipt_with_proof"]

STEPS = (
    *("trust", "signature", "checkpoint", "inclusion", "witnessed", "format", "time", "opening", "evidence", "policy"),
    *("session", "intent", "appraisal", "proofs", "completeness", "verdict"),
)

#: Judges the bundle's evidence again; injected, so that this file knows nothing of networks.
Reappraise = Callable[[Bundle, Statement], Sequence[Line]]


def verify_bundle(
    bundle: Bundle,
    trust: TrustPolicy | None,
    *,
    now: float,
    accept_bundle_keys: bool = False,
    reappraise: Reappraise | None = None,
) -> list[Line]:
    """Every check of the list above, in order. Total: what is malformed inside is a line, not an exception.

    `now` is seconds since the epoch. Without `trust`, the bundle's own trust roots are used and the `trust` line is
    `none`, or a warning with `accept_bundle_keys`.
    """
    first, roots = _trust(bundle, trust, accept_bundle_keys)
    envelope, signature = _signature(bundle.receipt, roots)
    place, logged = _logged(envelope, bundle.proof, roots)
    lines = [first, signature, *logged]
    if signature.outcome is not Outcome.AFFIRMING or envelope is None:
        return [*lines, *not_run(STEPS[5:], "nothing is read from a payload that no trusted key signed")]
    statement, form = _format(envelope, place)
    lines.append(form)
    if statement is None:
        return [*lines, *not_run(STEPS[6:], "the payload is not a receipt of this log")]
    receipt = statement.predicate
    return [
        *lines,
        contents.time_line(receipt, _cosignatures(place), now),
        *contents.opening_lines(bundle, statement),
        *contents.evidence_lines(bundle, receipt),
        contents.policy_line(bundle, receipt),
        contents.session_line(bundle, receipt),
        _intent(bundle.intent, receipt, place, roots),
        *_appraisal(bundle, statement, reappraise),
        *proofs.proof_lines(receipt),
        contents.completeness_line(receipt),
        contents.verdict_line(receipt),
    ]


def verify_receipt_with_proof(receipt: bytes, proof: str, trust: TrustPolicy | None, *, now: float) -> list[Line]:
    """The same for an envelope and its tlog-proof alone: what a bundle would add is listed as not there."""
    return verify_bundle(Bundle(receipt=receipt, proof=proof), trust, now=now)


def recorded(bundle: Bundle) -> Statement | None:
    """The statement that the bundle holds, unverified, for a heading; None when it is no receipt."""
    try:
        return parse_receipt(parse_envelope(bundle.receipt).payload)
    except FormatError:
        return None


class _Place(msgspec.Struct, frozen=True):
    """A proof whose checkpoint a trusted log signed, and whether it proved the leaf."""

    proof: TlogProof
    cosigned: CosignedCheckpoint
    included: bool


def _cosignatures(place: _Place | None) -> tuple[Cosignature, ...]:
    """The cosignatures that bound the receipt's time: none when it was not shown to be under them."""
    return place.cosigned.cosignatures if place is not None and place.included else ()


def _trust(bundle: Bundle, trust: TrustPolicy | None, accept: bool) -> tuple[Line, TrustPolicy | None]:
    # 1. whoever makes a file can put a key into it that signs the file
    if trust is not None:
        return Line("trust", Outcome.AFFIRMING, "the keys come from your trust file", detail=_named(trust)), trust
    if bundle.untrusted_policy is None:
        return Line("trust", Outcome.NONE, "there is no trust file, and the file offers no keys either"), None
    try:
        roots = parse_trust(bundle.untrusted_policy)
    except FormatError as error:
        sentence = "there is no trust file, and the trust roots in the file are malformed"
        return Line("trust", Outcome.CONTRAINDICATED, sentence, detail=str(error)), None
    if accept:
        sentence = "THE KEYS CAME WITH THE FILE and you chose to accept them: whoever made the file chose them"
        return Line("trust", Outcome.WARNING, sentence, detail=_named(roots)), roots
    sentence = "THE KEYS CAME WITH THE FILE: whoever made the file chose them; get a trust file from elsewhere"
    return Line("trust", Outcome.NONE, sentence, detail=_named(roots)), roots


def _named(trust: TrustPolicy) -> str:
    logs = ", ".join(key.keyid for key in trust.log_keys) or "none"
    keys = ", ".join(key.keyid for key in trust.receipt_keys) or "none"
    return f"logs: {logs}; receipt keys: {keys}; quorum: {trust.quorum or 'none'}"


def _signature(data: bytes, roots: TrustPolicy | None) -> tuple[Envelope | None, Line]:
    # 2.
    try:
        envelope = parse_envelope(data)
    except FormatError as error:
        return None, Line("signature", Outcome.CONTRAINDICATED, "the envelope is malformed", detail=str(error))
    outcome, found = _signed(envelope, roots)
    if outcome is Outcome.AFFIRMING:
        return envelope, Line(
            "signature", outcome, "a receipt key of those roots signed exactly this payload", detail=found
        )
    return envelope, Line("signature", outcome, found)


def _signed(envelope: Envelope, roots: TrustPolicy | None) -> tuple[Outcome, str]:
    keys = {} if roots is None else roots.receipt_key_map
    try:
        return Outcome.AFFIRMING, ", ".join(verify_envelope(envelope, keys))
    except ProofError as error:
        if any(s.keyid in keys for s in envelope.signatures):
            return Outcome.CONTRAINDICATED, str(error)
        names = ", ".join(s.keyid for s in envelope.signatures)
        return Outcome.NONE, f"signed by {names}, which is no receipt key of those roots"


def _logged(envelope: Envelope | None, proof: str, roots: TrustPolicy | None) -> tuple[_Place | None, list[Line]]:
    # 3, 4, 5.
    rest = ("inclusion", "witnessed")
    if not proof:
        return None, not_run(("checkpoint", *rest), "the file carries no inclusion proof")
    try:
        parsed = parse_tlog_proof(proof)
    except FormatError as error:
        bad = Line("checkpoint", Outcome.CONTRAINDICATED, "the inclusion proof is malformed", detail=str(error))
        return None, [bad, *not_run(rest, "the proof is malformed")]
    cosigned, line = _checkpoint(parsed.checkpoint, roots)
    if cosigned is None or roots is None:
        return None, [line, *not_run(rest, "no trusted log signed the tree head")]
    place, included = _inclusion(envelope, parsed, cosigned)
    return place, [line, included, witnessed_line(cosigned, roots)]


def _checkpoint(note: bytes, roots: TrustPolicy | None) -> tuple[CosignedCheckpoint | None, Line]:
    # 3.
    if roots is None:
        return None, Line("checkpoint", Outcome.NONE, "no log key to check the tree head with")
    try:
        found = open_with_trust(note, roots)
    except FormatError as error:
        return None, Line("checkpoint", Outcome.CONTRAINDICATED if _bad(note, roots) else Outcome.NONE, str(error))
    head = found.checkpoint
    detail = f"log {head.origin}, size {head.size}, root {head.root.hex()}"
    return found, Line("checkpoint", Outcome.AFFIRMING, "a log key of those roots signed the tree head", detail=detail)


def _bad(note: bytes, roots: TrustPolicy) -> bool:
    """Whether a key of `roots` speaks against `note`, which they did not open. Witnesses cosign for many logs."""
    signed = {line.keyid for line in parse_note(note)[1]}
    if any(key.keyid in signed for key in roots.log_keys):
        return True
    witnesses = [key for key in roots.witness_keys if key.keyid in signed]
    try:
        if witnesses:
            open_note(note, witnesses, checks=CHECKPOINT_CHECKS)
    except FormatError:
        return True
    return False


def _inclusion(envelope: Envelope | None, proof: TlogProof, cosigned: CosignedCheckpoint) -> tuple[_Place, Line]:
    # 4. the leaf is made here, from the payload that was signed
    if envelope is None:
        return _Place(proof, cosigned, False), Line("inclusion", Outcome.NONE, "there is no payload to look for")
    try:
        check_inclusion(proof, leaf("receipt", envelope.payload_type, envelope.payload), cosigned.checkpoint)
    except ProofError as error:
        sentence = "the proof does not lead from this receipt to the tree head"
        return _Place(proof, cosigned, False), Line("inclusion", Outcome.CONTRAINDICATED, sentence, detail=str(error))
    size = cosigned.checkpoint.size
    sentence = f"this receipt's leaf is entry {proof.index} of the {size} under the tree head"
    return _Place(proof, cosigned, True), Line("inclusion", Outcome.AFFIRMING, sentence)


def _format(envelope: Envelope, place: _Place | None) -> tuple[Statement | None, Line]:
    # 6.
    if envelope.payload_type != PAYLOAD_TYPE:
        return None, Line("format", Outcome.CONTRAINDICATED, f"the payload's type is {envelope.payload_type!a}")
    try:
        statement = parse_receipt(envelope.payload)
    except FormatError as error:
        return None, Line("format", Outcome.CONTRAINDICATED, "the signed payload is not a receipt", detail=str(error))
    origin = statement.predicate.log.origin
    if place is not None and place.cosigned.checkpoint.origin != origin:
        detail = f"the receipt names {origin!a}, the proof is from {place.cosigned.checkpoint.origin!a}"
        return None, Line("format", Outcome.CONTRAINDICATED, "the receipt was made for another log", detail=detail)
    request = next((s for s in statement.subject if s.name == REQUEST_BODY), None)
    if request is not None and request.digest != statement.predicate.request.digest:
        return None, Line("format", Outcome.CONTRAINDICATED, "the receipt commits to two different requests")
    return statement, Line("format", Outcome.AFFIRMING, f"receipt {statement.predicate.receipt_id}")


class _IntentPredicate(msgspec.Struct, rename="camel"):
    receipt_id: str


def _intent(intent: Logged | None, receipt: Receipt, place: _Place | None, roots: TrustPolicy | None) -> Line:
    # 12.
    if intent is None:
        own = "; each node of the quorum was asked in an exchange with its own" if proofs.asked(receipt) else ""
        return Line("intent", Outcome.NONE, f"the file carries no record of the intent{own}", claimed=False)
    if place is None or roots is None or not place.included:
        return Line("intent", Outcome.NONE, "not looked at: the receipt's own place in the log was not shown")
    try:
        # The checkpoint is its signature; where it bears one of its own, that one has to hold too.
        envelope = parse_envelope(intent.envelope, unsigned=True)
        outcome, found = _signed(envelope, roots) if envelope.signatures else (Outcome.AFFIRMING, "")
        if outcome is not Outcome.AFFIRMING:
            return Line("intent", outcome, found)
        event = parse_event(envelope.payload, "intent")
        receipt_id = msgspec.json.decode(event.predicate, type=_IntentPredicate).receipt_id
        proof = parse_tlog_proof(intent.proof)
        cosigned = open_with_trust(proof.checkpoint, roots, place.cosigned.checkpoint.origin)
        check_inclusion(proof, leaf("intent", envelope.payload_type, envelope.payload), cosigned.checkpoint)
    except (FormatError, msgspec.MsgspecError) as error:
        return Line("intent", Outcome.CONTRAINDICATED, "the record of the intent does not hold", detail=str(error))
    if receipt_id != receipt.receipt_id:
        return Line("intent", Outcome.CONTRAINDICATED, "the record of the intent is of another request")
    if proof.index >= place.proof.index:
        sentence = f"the intent is entry {proof.index}, not before the receipt at {place.proof.index}"
        return Line("intent", Outcome.CONTRAINDICATED, sentence)
    return _one_log(cosigned, place.cosigned, roots) or Line(
        "intent", Outcome.AFFIRMING, f"logged as entry {proof.index}, before the receipt"
    )


def _one_log(cosigned: CosignedCheckpoint, receipts: CosignedCheckpoint, roots: TrustPolicy) -> Line | None:
    """What keeps the intent's tree from being taken for the receipt's; None where it may."""
    head, other = cosigned.checkpoint, receipts.checkpoint
    if (head.size, head.root) == (other.size, other.root):
        return None
    if head.size == other.size:
        sentence = f"the log signed two trees of {head.size} entries: one has the intent, the other the receipt"
        return Line("intent", Outcome.CONTRAINDICATED, sentence, detail=f"{head.root.hex()}, {other.root.hex()}")
    if roots.quorum_met(c.key for c in cosigned.cosignatures):
        return None
    sentence = f"it stands under another tree head, which is short of quorum {roots.quorum!a}"
    return Line("intent", Outcome.NONE, sentence)


def _appraisal(bundle: Bundle, statement: Statement, reappraise: Reappraise | None) -> Sequence[Line]:
    # 13.
    if reappraise is None:
        return [Line("appraisal", Outcome.NONE, "the evidence was not judged again", claimed=False)]
    return reappraise(bundle, statement)
