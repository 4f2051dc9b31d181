"""Checking a bundle offline: every step, each way it can fail, and what the lines fold to."""

import json
from typing import Any

import msgspec
import pytest
from receipt_world import ANSWER, NODE, NOW, ORIGIN, REQUEST, SEED, T0_MS, World, sha256, small_world

from gateway.log.bundle import Bundle, EvidenceBlob, Logged, Opened, PolicyFile, open_all
from gateway.log.dsse import sign_envelope
from gateway.log.note import NoteSigner, SignatureLine
from gateway.log.receipt import encode_receipt, event_statement, salt_for, salted, subject
from gateway.log.trust import TrustPolicy, parse_trust
from gateway.model.node import AttestedSession
from gateway.model.receipt import PAYLOAD_TYPE, LogRef, PolicyRef, Sha256, Subject, Timings, Verifier, instant
from gateway.model.verdict import Check, Outcome, Release
from gateway.offline import STEPS, Line, exit_code, recorded, verify_bundle, verify_receipt_with_proof
from gateway.offline.reappraise import MOST_SKEW_S, reappraise
from gateway.policy.schema import BY_PATH
from gateway.verify.sessions import id_of, with_id

A, W, C, N = Outcome.AFFIRMING, Outcome.WARNING, Outcome.CONTRAINDICATED, Outcome.NONE
WORLD, INTENT, RECEIPT = small_world()
TRUST = parse_trust(WORLD.trust_text())
GOOD = WORLD.bundle(RECEIPT, INTENT)
NO_DAY = "2026-02-31T00:00:00.000Z"


def check(bundle: Bundle, trust: TrustPolicy | None = TRUST, **options: Any) -> list[Line]:
    return verify_bundle(bundle, trust, now=NOW, reappraise=reappraise, **options)


def outcomes(lines: list[Line], step: str) -> list[Outcome]:
    return [line.outcome for line in lines if line.step == step]


def with_receipt(**changes: Any) -> Bundle:
    """A bundle of a genuine, logged receipt whose predicate differs in `changes`."""
    world = World()
    world.add_start()
    predicate = world.predicate(**changes)
    intent = world.add_intent(predicate)
    return world.bundle(world.add_receipt(predicate), intent)


def replaced(**changes: Any) -> Bundle:
    return msgspec.structs.replace(GOOD, **changes)


def test_a_genuine_bundle_passes_every_step():
    """Every step is there, in order, affirming or not asked for, and the exit code is 0."""
    lines = check(GOOD)
    assert list(dict.fromkeys(line.step for line in lines)) == list(STEPS)
    assert {line.outcome for line in lines if line.claimed} == {A}
    assert [line.step for line in lines if not line.claimed] == ["witnessed", "proofs"]
    assert exit_code(lines) == 0


def test_a_smaller_bundle_claims_less_and_still_passes():
    """What the file does not carry is listed as `none` and decides nothing."""
    bare = Bundle(receipt=GOOD.receipt, proof=GOOD.proof)
    lines = check(bare)
    assert exit_code(lines) == 0
    for step in ("opening", "evidence", "policy", "session", "intent", "appraisal"):
        assert set(outcomes(lines, step)) == {N}
    assert exit_code(verify_receipt_with_proof(GOOD.receipt, GOOD.proof, TRUST, now=NOW)) == 0


def test_keys_from_the_file_decide_nothing_unless_asked():
    """Without a trust file the answer is 3, with the keys in the file accepted it is 0 and a warning stands there."""
    lines = check(GOOD, None)
    assert outcomes(lines, "trust") == [N]
    assert outcomes(lines, "signature") == [A]
    assert exit_code(lines) == 3
    accepted = check(GOOD, None, accept_bundle_keys=True)
    assert outcomes(accepted, "trust") == [W]
    assert exit_code(accepted) == 0


@pytest.mark.parametrize(("policy", "outcome", "code"), [(None, N, 3), ("quorum what\n", C, 1)])
def test_without_any_keys_nothing_is_read(policy: str | None, outcome: Outcome, code: int):
    """With no trust roots at all, or malformed ones, no step behind the keys runs."""
    lines = check(replaced(untrusted_policy=policy), None)
    assert outcomes(lines, "trust") == [outcome]
    assert {line.outcome for line in lines[1:]} == {N}
    assert exit_code(lines) == code


def flipped(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) >= 1
    return data.replace(old, new, 1)


def test_j18_one_edited_receipt_byte_is_found():
    """A receipt changed in one byte fails its signature and its inclusion, and nothing of it is read."""
    envelope = json.loads(GOOD.receipt)
    payload = envelope["payload"]
    envelope["payload"] = payload[:400] + ("A" if payload[400] != "A" else "B") + payload[401:]
    lines = check(replaced(receipt=json.dumps(envelope).encode()))
    assert outcomes(lines, "signature") == [C]
    assert outcomes(lines, "inclusion") == [C]
    assert outcomes(lines, "verdict") == [N]
    assert exit_code(lines) == 1


def test_a_payload_type_that_was_not_signed_is_found():
    """The signature covers the payload's type."""
    lines = check(replaced(receipt=flipped(GOOD.receipt, b"in-toto+json", b"in-toto+yaml")))
    assert outcomes(lines, "signature") == [C]


def test_a_strangers_signature_is_not_a_lie_and_not_a_proof():
    """A receipt signed by a key that the trust file does not name cannot be decided."""
    other = NoteSigner("stranger", b"else" * 8)
    payload = encode_receipt(WORLD.subjects(), WORLD.predicate(1))
    lines = check(replaced(receipt=sign_envelope(payload, PAYLOAD_TYPE, other)))
    assert outcomes(lines, "signature") == [N]
    assert exit_code(lines) == 3


def test_j32_the_log_key_does_not_sign_receipts_and_the_receipt_key_no_checkpoints():
    """A signature by the one key is not accepted where the other is asked for, under either name."""
    payload = encode_receipt(WORLD.subjects(), WORLD.predicate(1))
    by_log = check(replaced(receipt=sign_envelope(payload, PAYLOAD_TYPE, WORLD.log)))
    assert outcomes(by_log, "signature") == [N]
    assert exit_code(by_log) == 3
    head = GOOD.proof.rpartition("\u2014 ")[0]
    text = head.partition("\n\n")[2][:-1]
    own_name = head + WORLD.receipts.sign_line(text)
    assert outcomes(check(replaced(proof=own_name)), "checkpoint") == [N]
    stolen_id = head + str(SignatureLine(ORIGIN, WORLD.log.key.id, WORLD.receipts.sign(text.encode())))
    assert outcomes(check(replaced(proof=stolen_id)), "checkpoint") == [C]


SIZE = len(WORLD.leaves)
ROOT = WORLD.proof(RECEIPT).split("\n\n")[1].split("\n")[2]
HEADS = {
    "wrong_key": (lambda p: p.replace(p[-40:-4], "A" * 36), C),
    "wrong_origin": (lambda p: p.replace(f"{ORIGIN}\n{SIZE}", f"{ORIGIN}2\n{SIZE}"), C),
    "leading_zero": (lambda p: p.replace(f"\n{SIZE}\n", f"\n0{SIZE}\n"), C),
    "missing_last_lf": (lambda p: p[:-1], C),
    "extra_line": (lambda p: p.replace(ROOT + "\n", ROOT + "\nextra\n"), C),
    "good_and_bad_of_one_key": (lambda p: p + p[p.rindex("\u2014") : -8] + "AAAAAA==\n", C),
    "size_zero": (lambda p: p.replace(f"\n{SIZE}\n", "\n0\n"), C),
    "no_signature": (lambda p: p[: p.rindex("\u2014")], C),
    "other_proof_version": (lambda p: p.replace("@v1", "@v2"), C),
}


@pytest.mark.parametrize(("change", "outcome"), HEADS.values(), ids=HEADS.keys())
def test_j19_a_bad_checkpoint_is_rejected(change: Any, outcome: Outcome):
    """A tree head with a wrong key, origin, form or second signature is not accepted."""
    changed = change(GOOD.proof)
    assert changed != GOOD.proof
    lines = check(replaced(proof=changed))
    assert outcomes(lines, "checkpoint") == [outcome]
    assert outcomes(lines, "inclusion") == [N]
    assert exit_code(lines) == 1


def _too_short(proof: str) -> str:
    head, rest = proof.split("\n\n", 1)
    return head.rpartition("\n")[0] + "\n\n" + rest


PROOFS = {
    "too_short": _too_short,
    "too_long": lambda p: p.replace("\n\n", "\n" + ROOT + "\n\n", 1),
    "other_index": lambda p: p.replace(f"index {RECEIPT}\n", f"index {RECEIPT + 1}\n"),
    "index_at_size": lambda p: p.replace(f"index {RECEIPT}\n", f"index {SIZE}\n"),
    "another_entrys": lambda p: WORLD.proof(INTENT),
}


@pytest.mark.parametrize("change", PROOFS.values(), ids=PROOFS.keys())
def test_j20_a_bad_inclusion_proof_is_rejected(change: Any):
    """A proof of the wrong length, for another index, or beyond the tree does not prove."""
    changed = change(GOOD.proof)
    assert changed != GOOD.proof
    lines = check(replaced(proof=changed))
    assert outcomes(lines, "checkpoint") == [A]
    assert outcomes(lines, "inclusion") == [C]
    assert exit_code(lines) == 1


def test_another_log_with_a_known_witness_is_not_decided():
    """A witness cosigns for many logs: that its cosignature holds says nothing against a log whose key is not known."""
    other = World("other.test/log").trust_text().replace(World("other.test/log").receipts.vkey, WORLD.receipts.vkey)
    cosigned = GOOD.proof + WORLD.proof(RECEIPT, witnesses=2).removeprefix(GOOD.proof)
    lines = check(replaced(proof=cosigned), parse_trust(other))
    assert outcomes(lines, "checkpoint") == [N]
    assert exit_code(lines) == 3
    bad = check(replaced(proof=cosigned[:-24] + "A" * 16 + cosigned[-8:]), parse_trust(other))
    assert outcomes(bad, "checkpoint") == [C]


def test_a_receipt_without_a_proof_cannot_be_decided():
    """Without a proof the three log steps are `none`."""
    lines = check(replaced(proof="", intent=None))
    assert [outcomes(lines, s) for s in ("checkpoint", "inclusion", "witnessed")] == [[N], [N], [N]]
    assert exit_code(lines) == 3


@pytest.mark.parametrize(("count", "outcome", "code"), [(0, N, 3), (1, N, 3), (2, A, 0), (3, A, 0)])
def test_the_quorum_of_the_trust_file_decides(count: int, outcome: Outcome, code: int):
    """With a quorum of two, fewer cosignatures cannot be decided and enough of them pass."""
    trust = parse_trust(WORLD.trust_text(quorum=2))
    lines = check(replaced(proof=WORLD.proof(RECEIPT, witnesses=count)), trust)
    assert outcomes(lines, "witnessed") == [outcome]
    assert exit_code(lines) == code


def test_a_witness_that_saw_it_earlier_than_it_was_made_is_a_contradiction():
    """A receipt's time cannot lie behind a cosignature over it."""
    proof = WORLD.proof(RECEIPT, witnesses=1, at=T0_MS // 1000 - 3600)
    assert outcomes(check(replaced(proof=proof)), "time") == [C]


def test_a_receipt_from_the_future_cannot_be_decided():
    """A time ahead of the reader's clock leaves open which clock is wrong."""
    lines = check(with_receipt(time_created=instant(int(NOW * 1000) + 3_600_000)))
    assert outcomes(lines, "time") == [N]
    assert exit_code(lines) == 3


def test_a_time_that_does_not_exist_is_a_contradiction():
    """The thirteenth month is not a time."""
    assert outcomes(check(with_receipt(time_created="2026-13-01T00:00:00.000Z")), "time") == [C]


def test_evidence_is_not_judged_again_at_a_time_that_does_not_exist():
    """Without the time of the request nothing says when the node's receipt had to be fresh, and that is a line."""
    lines = check(with_receipt(timings=msgspec.structs.replace(WORLD.predicate().timings, received=NO_DAY)))
    assert [(line.outcome, line.claimed) for line in lines if line.step == "appraisal"] == [(N, True)]
    assert outcomes(lines, "time") == [C]
    assert exit_code(lines) == 1


def test_an_answer_of_an_unknown_endpoint_cannot_be_read_again():
    """A signed endpoint that has no answers here leaves their form undecided, and is no error."""
    lines = check(with_receipt(request=msgspec.structs.replace(WORLD.predicate().request, endpoint="x")))
    last = [line for line in lines if line.step == "appraisal"][-1]
    expected = "answers of 'x' are not known here, so not repeated: malformed, shape, model_echo"
    assert (last.outcome, last.claimed, last.sentence) == (N, True, expected)


def test_a_signed_payload_that_is_no_receipt_is_said():
    """A signed and logged document of another kind is not read as a receipt."""
    world = World()
    index = world.add("receipt", event_statement("alarm", None, {}))
    lines = check(world.bundle(index))
    assert outcomes(lines, "inclusion") == [A]
    assert outcomes(lines, "format") == [C]
    assert [line.step for line in lines] == list(STEPS)
    assert {line.outcome for line in lines[6:]} == {N}


def test_a_signed_payload_of_another_type_is_said():
    """A trusted signature over another payload type does not make a receipt."""
    payload = encode_receipt(WORLD.subjects(), WORLD.predicate(1))
    lines = check(replaced(receipt=sign_envelope(payload, "text/plain", WORLD.receipts)))
    assert outcomes(lines, "format") == [C]


def test_a_receipt_of_another_log_is_not_accepted():
    """A receipt that names another origin than the proof's is refused."""
    assert outcomes(check(with_receipt(log=LogRef("other.test/log"))), "format") == [C]


def test_two_commitments_to_the_request_must_agree():
    """The request's digest stands in the subject and in the predicate, and is one."""
    world = World()
    subjects = [Subject("request.body", Sha256("ab" * 32)), *world.subjects()[1:]]
    assert outcomes(check(world.bundle(world.add_receipt(world.predicate(), subjects))), "format") == [C]


def test_an_opening_that_was_changed_is_found():
    """Text that is not what the receipt commits to is named; so is an opening that nothing commits to."""
    openings = {**GOOD.openings, "response.content": Opened(GOOD.openings["response.content"].salt, b"5")}
    lines = check(replaced(openings=openings))
    assert [(x.about, x.outcome) for x in lines if x.step == "opening"] == [
        ("request.body", A),
        ("response.body", A),
        ("response.content", C),
    ]
    lines = check(replaced(openings={**GOOD.openings, "extra": Opened(b"s" * 32, b"")}))
    assert [x.about for x in lines if x.step == "opening" and x.outcome is C] == ["extra"]
    assert exit_code(lines) == 1


def test_the_seed_of_another_receipt_opens_nothing():
    """Salts of another seed do not match."""
    lines = check(replaced(openings=open_all(b"x" * 32, {"request.body": REQUEST})))
    assert outcomes(lines, "opening")[0] is C


def test_evidence_is_matched_by_its_bytes():
    """Wrong bytes are contraindicated, a stranger's file is a warning, an absent one is listed."""
    good = GOOD.evidence[0]
    wrong = msgspec.structs.replace(good, data=good.data + b" ")
    assert outcomes(check(replaced(evidence=(wrong,))), "evidence")[0] is C
    extra = EvidenceBlob("extra", "text/plain", sha256(b"x"), b"x")
    lines = check(replaced(evidence=(*GOOD.evidence, extra)))
    assert outcomes(lines, "evidence") == [A, A, W]
    assert exit_code(lines) == 0
    refused = with_receipt(served=None, evidence=(), verdict=N, release=Release.REFUSED)
    assert "names none" in next(
        x.sentence for x in check(msgspec.structs.replace(refused, evidence=())) if x.step == "evidence"
    )


def test_evidence_has_the_name_that_was_signed():
    """A name that only the file gives stands in no affirming line: names exchanged there are put right, others dropped."""
    first, second = GOOD.evidence
    exchanged = (
        msgspec.structs.replace(first, name=second.name),
        msgspec.structs.replace(second, name="quote of a TEE"),
    )
    named = {x.detail: x.about for x in check(GOOD) if x.step == "evidence"}
    lines = [x for x in check(replaced(evidence=exchanged)) if x.step == "evidence"]
    assert [x.outcome for x in lines] == [A, A]
    assert {x.detail: x.about for x in lines} == named
    assert set(named.values()) == {"aci-receipt", "the node's attestation"}


def test_the_policy_file_is_the_one_in_force():
    """Another policy file under the same name is found."""
    other = b'name = "signed"\nversion = 2\n'
    assert outcomes(check(replaced(policy=PolicyFile("signed", sha256(other), other))), "policy") == [C]


def test_the_policy_file_may_be_one_of_several_in_force():
    """Where a policy was tightened the file is one of those that the receipt names, whichever."""
    for refs in ((DEFAULT, LAX), (LAX, DEFAULT)):
        assert outcomes(check(under(LAX, *refs)), "policy") == [A]


def test_the_session_is_found_by_its_content():
    """A session document is the one whose digest the receipt names, with or without its id beside it."""
    document = json.loads(GOOD.session or b"")
    with_id = json.dumps({**document, "session_id": "x"}).encode()
    assert outcomes(check(replaced(session=with_id)), "session") == [A]
    assert outcomes(check(replaced(session=b"{}")), "session") == [C]
    assert outcomes(check(replaced(session=b'{"a":1,"a":2}')), "session") == [C]


def test_a_stored_session_is_found_by_its_content_too():
    """The form in which we store sessions gives the id that it has by its content: all of it."""
    session = AttestedSession(
        id="",
        node="node-1",
        network="aci",
        endpoint="http://127.0.0.1:1",
        keyset_digest=NODE.keyset_digest,
        keys=(),
        spki_pins=(),
        evidence_digest="ab" * 32,
        established=1.5,
        expires=2.5,
        outcome=A,
        checks=(),
        claims=(),
    )
    before = msgspec.structs.replace(session, id=id_of(msgspec.json.encode(session)).id)  # of a release that named less

    def line(wanted: str, document: bytes) -> tuple[Outcome, str]:
        served = msgspec.structs.replace(World().predicate().served, session=wanted)
        bundle = msgspec.structs.replace(with_receipt(served=served), session=document)
        (found,) = [line for line in check(bundle) if line.step == "session"]
        return found.outcome, found.sentence

    names = "the file holds the session that the receipt names"
    for whole, sentence in ((with_id(session), names), (before, f"{names}, in the fields that its id covers")):
        stored = msgspec.json.encode(whole)
        assert line(whole.id, stored) == (A, sentence)
        assert line(whole.id, stored.replace(b"node-1", b"node-2"))[0] is C
        assert line(whole.id, b'{"evidence_digest":1}')[0] is C


def test_the_intent_stands_before_its_receipt():
    """An intent of another request, by a stranger, behind the receipt or with a bad proof is refused."""

    def intent(envelope: bytes, proof: str) -> Outcome:
        return outcomes(check(replaced(intent=Logged(envelope, proof))), "intent")[0]

    assert intent(WORLD.envelopes[INTENT - 2], WORLD.proof(INTENT - 2)) is C
    assert intent(WORLD.envelopes[INTENT], WORLD.proof(RECEIPT)) is C
    payload = event_statement("intent", None, {"receiptId": WORLD.predicate(1).receipt_id})
    assert intent(sign_envelope(payload, PAYLOAD_TYPE, NoteSigner("x", b"x" * 32)), WORLD.proof(INTENT)) is N
    world = World()
    receipt = world.add_receipt()
    late = world.add_intent(world.predicate())
    assert outcomes(check(world.bundle(receipt, late)), "intent") == [C]
    assert outcomes(check(replaced(proof="")), "intent") == [N]


def two_trees(longer: int, **options: Any) -> tuple[World, Bundle]:
    """A log that shows its receipt in one tree, which has no intent, and the intent in another, `longer` by so many."""
    world, fork = World(), World()
    predicate = world.predicate()
    for _ in range(2):
        world.add_start()
    receipt, intent = world.add_receipt(predicate), fork.add_intent(predicate)
    for _ in range(2 + longer):
        fork.add_start()
    shown = Logged(fork.envelopes[intent], fork.proof(intent, **options))
    bundle = world.bundle(receipt, proof=world.proof(receipt, witnesses=2))
    return world, msgspec.structs.replace(bundle, intent=shown)


def test_two_trees_of_one_size_are_a_log_that_was_forked():
    """A receipt and an intent under two signed roots of one size convict the log, whatever each proof shows."""
    world, bundle = two_trees(0, witnesses=2)
    lines = check(bundle, parse_trust(world.trust_text()))
    assert outcomes(lines, "intent") == [C]
    assert exit_code(lines) == 1


def test_the_intents_tree_is_the_receipts_or_is_witnessed_as_well():
    """With a quorum, a tree head that only the log signed does not show that the prompt was logged."""
    world, bundle = two_trees(1)
    assert outcomes(check(bundle, parse_trust(world.trust_text())), "intent") == [A]
    lines = check(bundle, parse_trust(world.trust_text(quorum=2)))
    assert (outcomes(lines, "witnessed"), outcomes(lines, "intent")) == ([A], [N])
    assert exit_code(lines) == 3
    world, bundle = two_trees(1, witnesses=2)
    assert outcomes(check(bundle, parse_trust(world.trust_text(quorum=2))), "intent") == [A]
    same = WORLD.bundle(RECEIPT, INTENT, proof=WORLD.proof(RECEIPT, witnesses=2))
    assert outcomes(check(same, parse_trust(WORLD.trust_text(quorum=2))), "intent") == [A]


def test_a_verdict_is_recorded_and_not_repeated():
    """A genuine receipt of a rejected answer is authentic, and by default the exit code still says rejected."""
    checks = (Check("signature", A), Check("response_bound", C, "response_bound"))
    lines = check(
        with_receipt(verdict=C, release=Release.WITHHELD, checks=checks, reason="response_bound", evidence=())
    )
    assert outcomes(lines, "completeness") == [A]
    assert exit_code(lines) == 1
    assert exit_code([x for x in lines if x.step != "appraisal"], authenticity_only=True) == 0


@pytest.mark.parametrize(
    ("verdict", "plain", "required"),
    [(A, 0, 0), (W, 0, 1), (N, 3, 1), (C, 1, 1)],
)
def test_the_recorded_verdict_folds_into_the_exit_code(verdict: Outcome, plain: int, required: int):
    """affirming and warning pass, `none` is undecided, contraindicated fails; `--require affirming` takes only one."""
    lines = [Line("signature", A, ""), Line("verdict", verdict, "")]
    assert exit_code(lines) == plain
    assert exit_code(lines, require_affirming=True) == required
    assert exit_code(lines, authenticity_only=True) == 0
    assert exit_code([]) == 3


IMPOSSIBLE = {
    "silent": {"checks": (Check("signature", A), Check("fresh", N))},
    "nothing_affirming": {"checks": (Check("signature", N, "no_receipt"),)},
    "no_checks": {"checks": ()},
    "beside_contraindicated": {"checks": (Check("signature", A), Check("fresh", C, "served_at"))},
    "no_node": {"served": None},
    "nothing_delivered": {"delivery": msgspec.structs.replace(World().predicate().delivery, form="none")},
    "refused_yet_delivered": {"release": Release.REFUSED, "verdict": N},
}


@pytest.mark.parametrize("changes", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_a_record_that_contradicts_itself_is_refused(changes: dict[str, Any]):
    """A verdict that the recorded checks cannot give is contraindicated even when signed and logged."""
    lines = check(with_receipt(**changes))
    assert outcomes(lines, "signature") == [A]
    assert outcomes(lines, "completeness") == [C]
    assert exit_code(lines) == 1


def test_a_malformed_envelope_is_a_line():
    """An envelope that does not parse is contraindicated, not an exception."""
    lines = check(replaced(receipt=b'{"payload":1}'))
    assert outcomes(lines, "signature") == [C]
    assert outcomes(lines, "inclusion") == [N]
    assert recorded(replaced(receipt=b"{}")) is None
    assert recorded(GOOD) is not None


def test_u09_the_evidence_gives_the_same_outcomes_again():
    """From the bundle alone, the node's signature and digests are judged again as they were recorded."""
    lines = [x for x in check(GOOD) if x.step == "appraisal"]
    assert {x.about for x in lines} == {
        *("signature", "key_bound", "fresh", "request_bound", "response_bound", "malformed", "shape", "model_echo"),
    }
    assert {x.outcome for x in lines} == {A}


def test_a_verdict_that_the_evidence_does_not_support_is_found():
    """A receipt that says affirming over a node receipt for another answer is contraindicated."""
    lying = NODE.receipt(answer=ANSWER + b" ")
    ref = msgspec.structs.replace(World().predicate().evidence[0], digest=Sha256(sha256(lying)))
    bundle = with_receipt(evidence=(ref,))
    blobs = (EvidenceBlob("aci-receipt", "application/json", sha256(lying), lying), GOOD.evidence[1])
    lines = check(msgspec.structs.replace(bundle, evidence=blobs))
    assert [x.about for x in lines if x.step == "appraisal" and x.outcome is C] == ["response_bound"]
    assert exit_code(lines) == 1


def test_a_rejection_that_the_evidence_supports_is_affirmed():
    """A recorded contraindicated check that comes out the same affirms the record, and the verdict stays."""
    lying = NODE.receipt(answer=ANSWER + b" ")
    ref = msgspec.structs.replace(World().predicate().evidence[0], digest=Sha256(sha256(lying)))
    checks = tuple(
        Check("response_bound", C, "response_bound") if c.id == "response_bound" else c
        for c in World().predicate().checks
    )
    bundle = with_receipt(evidence=(ref,), checks=checks, verdict=C, release=Release.WITHHELD)
    blobs = (EvidenceBlob("aci-receipt", "application/json", sha256(lying), lying), GOOD.evidence[1])
    lines = check(msgspec.structs.replace(bundle, evidence=blobs))
    assert set(outcomes(lines, "appraisal")) == {A}
    assert exit_code(lines, authenticity_only=True) == 0
    assert exit_code(lines) == 1


def blob(name: str, data: bytes) -> EvidenceBlob:
    return EvidenceBlob(name, "application/json", sha256(data), data)


def test_evidence_that_passed_must_parse():
    """Evidence that does not parse contradicts a recorded pass, and agrees with a recorded failure."""
    junk = (blob("aci-receipt", b"{}"), GOOD.evidence[1])
    recorded = (msgspec.structs.replace(World().predicate().evidence[0], digest=Sha256(sha256(b"{}"))),)
    passed = with_receipt(evidence=recorded)
    assert outcomes(check(msgspec.structs.replace(passed, evidence=junk)), "appraisal") == [C]
    checks = (Check("signature", C, "malformed"),)
    failed = with_receipt(evidence=recorded, checks=checks, verdict=C, release=Release.WITHHELD)
    assert outcomes(check(msgspec.structs.replace(failed, evidence=junk)), "appraisal") == [N]


def test_only_the_node_receipt_that_was_recorded_is_judged_again():
    """A genuine receipt of another answer is not judged in the place of a recorded one that does not hold, and the
    recorded one is found by its bytes, whatever the file calls it."""
    forged = NODE.receipt().replace(b'"chat_id":"c1"', b'"chat_id":"c2"')
    recorded = msgspec.structs.replace(World().predicate().evidence[0], digest=Sha256(sha256(forged)))
    bundle = with_receipt(evidence=(recorded,))
    other = NODE.receipt(request=b"{}", answer=b"{}")
    files = (
        ((blob("aci-receipt", other),), [("another node receipt", C)]),
        ((blob("aci-receipt", other), blob("x", forged)), [("signature", C), ("key_bound", A), ("fresh", A)]),
        ((), [("no node receipt", N)]),
    )
    for evidence, expected in files:
        lines = check(msgspec.structs.replace(bundle, openings={}, evidence=(*evidence, GOOD.evidence[1])))
        found = [x for x in lines if x.step == "appraisal"][: len(expected)]
        assert [x.outcome for x in found] == [outcome for _, outcome in expected]
        assert all(word in (x.about or x.sentence) for x, (word, _) in zip(found, expected, strict=True))
        assert exit_code(lines) == (0 if not evidence else 1)


def test_a_report_of_another_keyset_is_found():
    """The attestation report must be of the keyset that the receipt names."""
    served = msgspec.structs.replace(World().predicate().served, keyset_digest="sha256:" + "ab" * 32)
    assert outcomes(check(with_receipt(served=served)), "appraisal") == [C]


def test_a_node_without_evidence_leaves_nothing_to_judge_again():
    """Neither evidence nor receipt is missed where the record says that there was none to be had."""
    served = msgspec.structs.replace(
        World().predicate().served, keyset_digest="", evidence_digest="sha256:" + sha256(b"")
    )
    lines = check(msgspec.structs.replace(with_receipt(served=served, evidence=()), evidence=()))
    found = {x.step: (x.outcome, x.sentence, x.claimed) for x in lines if x.step in ("evidence", "appraisal")}
    assert found == {
        "evidence": (N, "the node offered none", False),
        "appraisal": (N, "the node signs no answer, so there is no signature to judge again", False),
    }


def test_checks_without_their_inputs_are_not_repeated():
    """Without report, request or answer the affected checks are named and left."""
    no_report = check(replaced(evidence=GOOD.evidence[:1]))
    assert [(x.outcome, x.claimed) for x in no_report if x.step == "appraisal"] == [(N, False)]
    closed = [x for x in check(replaced(openings={})) if x.step == "appraisal"]
    assert {x.about for x in closed if x.outcome is A} == {"signature", "key_bound", "fresh"}
    assert "request's bytes and the answer's bytes" in closed[-1].sentence
    refused = with_receipt(served=None, verdict=N, release=Release.REFUSED)
    assert outcomes(check(refused), "appraisal") == [N]


def test_a_check_that_was_not_recorded_is_a_warning():
    """A repeated check that was not recorded, or was recorded as worse, is a warning."""
    fewer = with_receipt(checks=(Check("signature", A), Check("fresh", W, "served_at")))
    lines = {x.about: x.outcome for x in check(fewer) if x.step == "appraisal"}
    assert lines["signature"] is A
    assert lines["response_bound"] is W
    assert lines["fresh"] is W


def test_a_request_that_the_head_reader_refuses_is_malformed_again():
    """An opened request that is no request makes the form checks fail instead of raising."""
    world = World()
    bad = b"[]"
    node = NODE.receipt(request=bad)

    digest = Sha256(salted(salt_for(SEED, "request.body"), bad))
    base = world.predicate()
    predicate = msgspec.structs.replace(
        base,
        request=msgspec.structs.replace(
            base.request, digest=digest, forwarded=msgspec.structs.replace(base.request.forwarded, digest=digest)
        ),
        evidence=(msgspec.structs.replace(base.evidence[0], digest=Sha256(sha256(node))),),
    )
    subjects = [subject(SEED, "request.body", bad, "salt32||bytes"), *world.subjects()[1:]]
    index = world.add_receipt(predicate, subjects)
    openings = open_all(SEED, {"request.body": bad, "response.body": ANSWER})
    bundle = world.bundle(index, openings=openings, evidence=(blob("aci-receipt", node), GOOD.evidence[1]))
    lines = {x.about: x.outcome for x in check(bundle) if x.step == "appraisal"}
    assert lines["request_bound"] is A
    assert lines["malformed"] is C


@pytest.mark.parametrize(
    ("late", "off", "outcome"),
    [(0, 0, A), (700, 0, A), (80_000, 0, A), (700, 599, A), (0, 601, W), (0, -3600, W), (90, 3601, C), (0, -3602, C)],
)
def test_freshness_is_judged_when_the_answer_was_whole(late: int, off: int, outcome: Outcome):
    """An answer that took long is as fresh as another; what only a lax policy allows is named, more is refused."""
    done = T0_MS + off * 1000
    timings = Timings(instant(done - late * 1000), 10.0, late * 1000.0, 0.5)
    lines = check(with_receipt(timings=timings, time_created=instant(T0_MS)))
    assert [line.outcome for line in lines if (line.step, line.about) == ("appraisal", "fresh")] == [outcome]
    assert exit_code(lines) == (1 if outcome is C else 0)


def test_a_time_that_was_refused_is_refused_here():
    """Where the record says that the node's time was too far off, the same distance gives the same outcome."""
    refused = tuple(Check("fresh", C, "served_at") if c.id == "fresh" else c for c in WORLD.predicate(1).checks)
    timings = Timings(instant(T0_MS - 700_000), 10.0, 20.0, 0.5)
    lines = check(with_receipt(timings=timings, checks=refused, verdict=C))
    assert [line.outcome for line in lines if (line.step, line.about) == ("appraisal", "fresh")] == [A]


def policy_of(skew: str) -> bytes:
    return f'name = "p"\nversion = 1\nrequire.all = ["evidence", "key_bound", "signature", "fresh"]\n{skew}'.encode()


def under(policy: bytes, *refs: bytes, **changes: Any) -> Bundle:
    """A bundle with the file `policy`, of a receipt that names `refs` (else that file) as the policies in force."""
    named = tuple([PolicyRef("p", "veriroute:policy/p@1", Sha256(sha256(ref))) for ref in refs or (policy,)])
    bundle = with_receipt(verifier=Verifier("urn:veriroute:verifier:1", named), **changes)
    return msgspec.structs.replace(bundle, policy=PolicyFile("p", sha256(policy), policy))


def freshness(bundle: Bundle) -> list[Outcome]:
    return [line.outcome for line in check(bundle) if (line.step, line.about) == ("appraisal", "fresh")]


DEFAULT, LAX, TIGHT = map(policy_of, ("", "freshness.response_skew_s = 3600", "freshness.response_skew_s = 5"))


@pytest.mark.parametrize(
    ("policy", "off_ms", "outcome"),
    [
        (DEFAULT, 120_000, A), (DEFAULT, 120_001, C), (DEFAULT, -120_000, A), (DEFAULT, 700_000, C),
        (LAX, 3_600_000, A), (LAX, 700_000, A), (LAX, 3_600_001, C), (TIGHT, 5_000, A), (TIGHT, 6_000, C),
        (b"unreadable", 300_000, A), (b"unreadable", 700_000, W),
    ],
)  # fmt: skip
def test_the_policy_in_the_file_says_how_fresh_an_answer_had_to_be(policy: bytes, off_ms: int, outcome: Outcome):
    """An affirming record is held to exactly the limit of the policy in force, and to the loose one without it."""
    done = T0_MS + off_ms
    timings = Timings(instant(done - 20), 10.0, 20.0, 0.5)
    assert freshness(under(policy, timings=timings, time_created=instant(max(done, T0_MS)))) == [outcome]


def test_a_policy_file_that_was_not_the_one_in_force_says_nothing_of_freshness():
    """Neither a file of another digest nor one behind the first, which was tightened, is taken for the limit."""
    timings = Timings(instant(T0_MS + 700_000), 10.0, 20.0, 0.5)
    for refs in ((DEFAULT,), (DEFAULT, LAX)):
        assert freshness(under(LAX, *refs, timings=timings)) == [W]
    bundle = with_receipt(timings=timings, verifier=Verifier("urn:veriroute:verifier:1", ()))
    assert freshness(bundle) == [W]


def test_an_answer_was_judged_between_its_end_and_its_receipt():
    """A node's clock at the very limit is no lie of the record's for the moment that passed until the judgement; a
    record that says that it was too far off is judged by the answer's end."""
    timings = Timings(instant(T0_MS - 120_030), 10.0, 20.0, 0.5)
    ahead = {"timings": timings, "time_created": instant(T0_MS - 119_990)}
    assert freshness(under(DEFAULT, **ahead)) == [A]
    assert freshness(under(DEFAULT, timings=timings, time_created=instant(T0_MS - 120_001))) == [C]
    refused = tuple(Check("fresh", C, "served_at") if c.id == "fresh" else c for c in WORLD.predicate(1).checks)
    assert freshness(under(DEFAULT, checks=refused, verdict=C, **ahead)) == [A]
    assert freshness(under(LAX, checks=refused, verdict=C, **ahead)) == [W]


def test_no_policy_allows_more_than_is_allowed_here():
    """The largest distance is the largest that a policy can ask for."""
    assert BY_PATH["freshness.response_skew_s"].high == MOST_SKEW_S
