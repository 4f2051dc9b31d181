"""A saved answer with its verification member, checked without anything else."""

import json

import msgspec
import pytest
from receipt_world import ANSWER, NOW, POLICY, SEED, World, sha256, small_world

from gateway.errors import FormatError
from gateway.exchange.render import Verification, VerificationPolicy, splice
from gateway.log.bundle import parse_bundle
from gateway.log.proof import parse_tlog_proof
from gateway.log.receipt import salt_for
from gateway.log.trust import parse_trust
from gateway.model.verdict import Outcome
from gateway.offline import exit_code, verify_bundle
from gateway.offline.saved import bundle_from_answer, without_member

WORLD, _, RECEIPT = small_world()
TRUST = parse_trust(WORLD.trust_text())


def b64(data: bytes) -> str:
    return msgspec.json.encode(data).decode().strip('"')


MEMBER = Verification(
    verdict="affirming",
    level="logged",
    policy=VerificationPolicy("signed", sha256(POLICY)),
    release="released",
    receipt=WORLD.predicate(1).receipt_id,
    proof=WORLD.proof(RECEIPT),
    openings={n: b64(salt_for(SEED, n)) for n in ("request.body", "response.body", "response.content")},
    envelope=msgspec.Raw(WORLD.envelopes[RECEIPT]),
)
SAVED = splice(ANSWER, MEMBER)


def opened(data: bytes) -> dict[str, Outcome]:
    lines = verify_bundle(bundle_from_answer(data), TRUST, now=NOW)
    return {line.about or "": line.outcome for line in lines if line.step == "opening" and line.about != "answer"}


def test_an_answer_as_it_was_delivered_opens_body_and_text():
    """The bytes without our member, and the text of choice 0, are what the receipt commits to."""
    lines = verify_bundle(bundle_from_answer(SAVED), TRUST, now=NOW)
    assert exit_code(lines) == 0
    assert opened(SAVED) == {
        "request.body": Outcome.NONE,
        "response.body": Outcome.AFFIRMING,
        "response.content": Outcome.AFFIRMING,
    }


def test_an_answer_written_anew_opens_the_text_alone():
    """A client that saved its own form of the answer can still show the text."""
    assert opened(json.dumps(json.loads(SAVED), indent=2).encode()) == {
        "request.body": Outcome.NONE,
        "response.body": Outcome.NONE,
        "response.content": Outcome.AFFIRMING,
    }


@pytest.mark.parametrize(
    ("form", "why"),
    [("verbatim", "whoever saved the file wrote the answer anew"), ("rebuilt", "the gateway wrote this answer anew")],
)
def test_what_nobody_vouches_for_is_said_with_the_reason(form: str, why: str):
    """Log-probs in an answer that is not the node's bytes end in 3; who wrote it anew, the receipt tells."""
    world = World()
    predicate = world.predicate(1)
    predicate = msgspec.structs.replace(predicate, delivery=msgspec.structs.replace(predicate.delivery, form=form))
    index = world.add_receipt(predicate)
    document = json.loads(SAVED)
    document["verification"] |= {"envelope": json.loads(world.envelopes[index]), "proof": world.proof(index)}
    document["choices"][0]["logprobs"] = {"content": [{"token": "4", "logprob": -0.1}]}
    lines = verify_bundle(bundle_from_answer(json.dumps(document).encode()), parse_trust(world.trust_text()), now=NOW)
    assert exit_code(lines) == 3
    left, about = (line for line in lines if line.about == "answer")
    assert (left.outcome, left.detail) == (Outcome.NONE, "choices[0].logprobs")
    assert "nobody vouches for them" in left.sentence
    assert why in left.sentence
    assert why in about.sentence


LIES = {
    "receipt": WORLD.predicate(0).receipt_id,
    "verdict": "warning",
    "release": "withheld",
    "reason": "none",
    "policy": {"name": "open", "digest": sha256(POLICY)},
    "network": "other",
    "node": "node-2",
    "model": "m2",
    "executed_in": "tee",
    "claims": {"response_bound": "asserted", "executed_in_tee": "asserted"},
    "checks": [{"id": "signature", "outcome": "affirming"}],
    "proofs": [{"kind": "zk", "assurance": "cryptographic", "verdict": "pass"}],
    "index": 3,
}
TRUTH = {
    **{"network": "aci", "node": "node-1", "model": "m", "executed_in": "unknown", "proofs": [], "reason": None},
    "claims": {"response_bound": "asserted"},
    "checks": msgspec.to_builtins(WORLD.predicate(1).checks),
    "index": parse_tlog_proof(json.loads(SAVED)["verification"]["proof"]).index,
}


def saying(**members: object) -> bytes:
    """The saved answer, the node's bytes as they were and `members` in ours."""
    return ANSWER[:-1] + b',"verification":' + json.dumps(json.loads(SAVED)["verification"] | members).encode() + b"}"


@pytest.mark.parametrize("name", LIES)
def test_what_our_member_says_is_held_against_the_receipt(name: str):
    """A verdict, claim or check beside the envelope that is not the signed one is named; the signed one passes."""
    assert exit_code(verify_bundle(bundle_from_answer(saying(**TRUTH)), TRUST, now=NOW)) == 0
    lines = verify_bundle(bundle_from_answer(saying(**TRUTH | {name: LIES[name]})), TRUST, now=NOW)
    assert [line.detail for line in lines if line.about == "verification"] == [name]
    assert exit_code(lines) == exit_code(lines, authenticity_only=True) == 1


def test_a_malformed_proof_gives_no_place():
    """Of a proof that cannot be read the verifier says so, and no `index` is the one that it proves."""
    lines = verify_bundle(bundle_from_answer(saying(**TRUTH, proof="c2sp.org/tlog-proof@v2")), TRUST, now=NOW)
    assert [line.detail for line in lines if line.about == "verification"] == ["index"]
    assert [line.outcome for line in lines if line.step == "checkpoint"] == [Outcome.CONTRAINDICATED]


def test_a_changed_text_is_found():
    """An answer whose text is not the node's is contraindicated."""
    assert opened(SAVED.replace(b'"content":"4"', b'"content":"5"'))["response.content"] is Outcome.CONTRAINDICATED


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b"{}", b"{}"), (b'{"a":1}', b'{"a":1}'), (b'{"a":"\\"verification\\":{}"}\n', None), (ANSWER, ANSWER)],
)
def test_our_member_comes_off_without_a_trace(body: bytes, expected: bytes | None):
    """Taking the member off again gives the bytes before, whatever stands in them."""
    assert without_member(splice(body, MEMBER)) == (expected or body)


def test_an_answer_without_the_member_at_its_end_stays_closed():
    """When the member is not last, or not there, there is no telling what the bytes were."""
    assert without_member(b'{"verification":{"receipt":"x"},"a":1}') is None
    assert without_member(b"{}") is None


def changed(**members: object) -> bytes:
    document = json.loads(SAVED)
    document["verification"].update(members)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"choices":[]}',
        b'{"verification":{"receipt":"\xff"}}',
        b'{"x":' + b"[" * 100_000,
        changed(openings={"response.content": b64(b"short")}),
        changed(openings={"response.content": "!"}),
        changed(envelope={"payload": 1}),
        splice(ANSWER, msgspec.structs.replace(MEMBER, envelope=None)),
        splice(ANSWER, msgspec.structs.replace(MEMBER, proof=None)),
    ],
)
def test_an_answer_that_carries_no_receipt_says_where_to_get_it(data: bytes):
    """What is no such answer is a FormatError, and a summary names the bundle to fetch."""
    with pytest.raises(FormatError):
        bundle_from_answer(data)


@pytest.mark.parametrize(("gone", "why"), [("envelope", "attach = summary"), ("proof", "not in the log yet")])
def test_what_the_answer_lacks_is_said(gone: str, why: str):
    """A summary has no receipt; an answer that left before its receipt was in the log has no proof of it."""
    with pytest.raises(FormatError, match=why):
        bundle_from_answer(splice(ANSWER, msgspec.structs.replace(MEMBER, **{gone: None})))


def test_a_salt_for_something_else_is_passed_over():
    """A salt for a subject that the receipt does not have opens nothing."""
    assert "extra" not in bundle_from_answer(changed(openings={"extra": b64(b"s" * 32)})).openings
    with pytest.raises(FormatError):
        parse_bundle(SAVED)
