"""Appraisal of one answer: each way of being wrong fails its own check, and nothing missing passes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.crypto.canonical import jcs
from gateway.crypto.signatures import Ed25519Signer
from gateway.errors import FormatError
from gateway.model.node import AttestedSession, SigningKey
from gateway.model.observation import Call, Observation
from gateway.model.verdict import Check, Outcome
from gateway.verify import aci, response
from gateway.verify.checks import CHECKS
from gateway.verify.response import Exchanged, appraise_response, signed_under, verify_chain

NOW = 1_800_000_000.0
SIGNER, OTHER = Ed25519Signer(b"\7" * 32), Ed25519Signer(b"\x08" * 32)
DIGEST = "sha256:" + "a" * 64
ANOTHER = "sha256:" + "b" * 64
REQUEST, RESPONSE = hashlib.sha256(b"req").hexdigest(), hashlib.sha256(b"resp").hexdigest()
NONCE = "cd" * 32
SESSION = AttestedSession(
    id="s", node="n", network="aci", endpoint="http://n", keyset_digest=DIGEST,
    keys=(SigningKey("k1", "ed25519", SIGNER.public_key),), spki_pins=(), evidence_digest="e" * 64, established=NOW,
    expires=NOW + 600, outcome=Outcome.AFFIRMING, checks=(), claims=(),
)  # fmt: skip
EXCHANGED = Exchanged(REQUEST, RESPONSE, NONCE, "m", "/v1/chat/completions")
SEEN = Observation(models=("m",))


def document(**members: Any) -> dict[str, Any]:
    return {
        "api_version": "aci/1", "receipt_id": "r1", "chat_id": "c1", "model": "m", "workload_keyset_digest": DIGEST,
        "endpoint": "/v1/chat/completions", "method": "POST", "served_at": int(NOW), "key_id": "k1",
        "request_nonce": NONCE,
        "event_log": [
            {"type": "request.received", "body_hash": "sha256:" + REQUEST},
            {"type": "response.returned", "body_hash": "sha256:" + RESPONSE},
        ],
        **members,
    }  # fmt: skip


def sealed(signer: Ed25519Signer = SIGNER, **members: Any) -> aci.SignedReceipt:
    receipt = document(**members)
    receipt["signature"] = signer.sign(jcs(receipt)).hex()
    return aci.parse_receipt(jcs(receipt))


def outcomes(
    receipt: aci.SignedReceipt | None,
    *,
    problem: str | None = None,
    exchanged: Exchanged = EXCHANGED,
    seen: Observation = SEEN,
    now: float = NOW,
) -> dict[str, tuple[Outcome, str | None]]:
    result = appraise_response(SESSION, receipt, problem, exchanged, seen, now=now, skew_s=60)
    assert len({c.id for c in result.checks}) == len(result.checks) == 15
    assert all(c.id in CHECKS for c in result.checks)
    assert all(c.outcome is Outcome.AFFIRMING or c.reason for c in result.checks)
    return {c.id: (c.outcome, c.reason) for c in result.checks}


def test_a_good_answer() -> None:
    """An answer that its receipt covers affirms every check that applies; those that don't are none, with reasons."""
    found = outcomes(sealed())
    assert {k for k, (o, _) in found.items() if o is not Outcome.AFFIRMING} == {
        "stream_grammar", "tool_undeclared", "tool_arguments",
    }  # fmt: skip
    claims = appraise_response(SESSION, sealed(), None, EXCHANGED, SEEN, now=NOW, skew_s=60).claims
    assert {c.name: c.status for c in claims} == {
        "request_bound": "asserted", "response_bound": "asserted", "model_bound": "unknown",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("receipt", "check", "reason"),
    [
        (sealed(OTHER), "signature", "signature"),
        (sealed(key_id="k2"), "signature", "unknown_key"),
        (sealed(key_id="k2"), "key_bound", "unknown_key"),
        (sealed(workload_keyset_digest=ANOTHER), "key_bound", "other_keyset"),
        (sealed(OTHER, workload_keyset_digest=ANOTHER), "signature", "other_keyset"),
        (sealed(key_id="k2", workload_keyset_digest=ANOTHER), "signature", "other_keyset"),
        (sealed(event_log=[{"type": "request.received", "body_hash": DIGEST}]), "request_bound", "request_bound"),
        (sealed(event_log=document()["event_log"] + document()["event_log"][:1]), "request_bound", "request_bound"),
        (sealed(endpoint="/v1/embeddings"), "request_bound", "endpoint"),
        (sealed(method="GET"), "request_bound", "endpoint"),
        (sealed(event_log=document()["event_log"][:1]), "response_bound", "response_bound"),
        (sealed(request_nonce="ef" * 32), "replay", "replay"),
        (sealed(served_at=int(NOW) - 61), "fresh", "served_at"),
        (sealed(served_at=int(NOW) + 61), "fresh", "served_at"),
        (sealed(served_at=0), "fresh", "served_at"),
        (sealed(served_at=int(NOW) * 1000), "fresh", "served_at"),
        (sealed(model="other"), "model_echo", "model_echo"),
    ],
)
def test_each_fault_fails_its_check(receipt: aci.SignedReceipt, check: str, reason: str) -> None:
    """What is wrong with a receipt is said by the check that it concerns."""
    assert outcomes(receipt)[check] == (Outcome.CONTRAINDICATED, reason)


@pytest.mark.parametrize(
    ("receipt", "coverage"),
    [
        (sealed(OTHER), (Outcome.NONE, "signature")),
        (sealed(key_id="k2"), (Outcome.NONE, "signature")),
        (sealed(workload_keyset_digest="sha256:" + "b" * 64), (Outcome.AFFIRMING, None)),
    ],
)
def test_digests_that_no_key_of_the_session_signed(receipt: aci.SignedReceipt, coverage: tuple[Outcome, str]) -> None:
    """Digests that agree assert nothing where the signature or its key does not hold; nor is anything covered then."""
    result = appraise_response(SESSION, receipt, None, EXCHANGED, SEEN, now=NOW, skew_s=60)
    found = {c.id: (c.outcome, c.reason) for c in result.checks}
    assert found["request_bound"] == found["response_bound"] == (Outcome.AFFIRMING, None)
    assert found["coverage"] == coverage
    assert {(c.name, c.status, c.source, c.reason) for c in result.claims[:2]} == {
        ("request_bound", "unknown", None, "signature"), ("response_bound", "unknown", None, "signature"),
    }  # fmt: skip


@pytest.mark.parametrize("members", [{}, {"workload_keyset_digest": ANOTHER}, {"key_id": "k2"}])
def test_a_call_that_is_not_covered_says_so_for_the_reason_of_its_receipt(members: dict[str, Any]) -> None:
    """A call under a keyset that nobody knows yet is kept back for that; in any other case the node has lied."""
    call = Call("tool_calls", "f", "{}")
    seen = Observation(models=("m",), calls=(call,), declared=frozenset({"f"}))
    reason = "other_keyset" if "workload_keyset_digest" in members else "executable_uncovered"
    assert outcomes(sealed(OTHER, **members), seen=seen)["executable_uncovered"] == (Outcome.CONTRAINDICATED, reason)


FRESH = Check("fresh", Outcome.AFFIRMING)
NEXT = msgspec.structs.replace(SESSION, keyset_digest=ANOTHER, checks=(FRESH,))


@pytest.mark.parametrize(
    ("receipt", "session", "held"),
    [
        (sealed(workload_keyset_digest=ANOTHER), NEXT, True),
        (sealed(), NEXT, False),
        (sealed(OTHER, workload_keyset_digest=ANOTHER), NEXT, False),
        (sealed(key_id="k2", workload_keyset_digest=ANOTHER), NEXT, False),
        (sealed(workload_keyset_digest=ANOTHER), msgspec.structs.replace(NEXT, checks=()), False),
        (
            sealed(workload_keyset_digest=ANOTHER),
            msgspec.structs.replace(NEXT, checks=(Check("fresh", Outcome.NONE, "no_evidence"),)),
            False,
        ),
        (
            sealed(workload_keyset_digest=ANOTHER),
            msgspec.structs.replace(NEXT, outcome=Outcome.CONTRAINDICATED),
            False,
        ),
    ],
)
def test_a_later_session_knows_a_receipt_by_keyset_and_signature(
    receipt: aci.SignedReceipt, session: AttestedSession, held: bool
) -> None:
    """Not by a digest alone, nor in evidence that is old, or that speaks against its node."""
    assert signed_under(receipt, session) is held


def test_digests_that_differ_are_refuted_whoever_signed() -> None:
    """A receipt of another answer refutes the claim, signed or not: what it says is not what came."""
    for signer in (SIGNER, OTHER):
        receipt = sealed(signer, event_log=document()["event_log"][:1])
        result = appraise_response(SESSION, receipt, None, EXCHANGED, SEEN, now=NOW, skew_s=60)
        assert {c.name: c.status for c in result.claims}["response_bound"] == "refuted"


def test_the_short_way_and_the_long_way_agree() -> None:
    """An answer without a fault gets the same checks and claims whichever way it is judged."""

    for stream in (False, True):
        seen = Observation(models=("m",), stream=stream)
        short = appraise_response(SESSION, sealed(), None, EXCHANGED, seen, now=NOW, skew_s=60)
        assert short is appraise_response(SESSION, sealed(), None, EXCHANGED, seen, now=NOW, skew_s=60)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(response, "_faultless", lambda *_: None)
            long = appraise_response(SESSION, sealed(), None, EXCHANGED, seen, now=NOW, skew_s=60)
        assert short == long


def test_the_edges_of_the_window() -> None:
    """Exactly the skew is inside."""
    assert outcomes(sealed(served_at=int(NOW) - 60))["fresh"][0] is Outcome.AFFIRMING


def test_replays() -> None:
    """A message seen before is a replay whatever its nonce; one without a nonce is a warning, not a pass."""
    again = Exchanged(REQUEST, RESPONSE, NONCE, "m", "/v1/chat/completions", seen_before=True)
    assert outcomes(sealed(), exchanged=again)["replay"] == (Outcome.CONTRAINDICATED, "seen_before")
    assert outcomes(sealed(request_nonce=None))["replay"] == (Outcome.WARNING, "no_nonce")


@pytest.mark.parametrize("problem", ["no_receipt", "malformed: not JSON", "malformed: receipt: served_at", None])
def test_without_a_receipt_nothing_is_bound(problem: str | None) -> None:
    """An answer without a receipt affirms none of what a receipt shows."""
    found = outcomes(None, problem=problem)
    for check in ("signature", "key_bound", "request_bound", "response_bound", "replay", "fresh"):
        assert found[check][0] is not Outcome.AFFIRMING
    assert (found["signature"][0] is Outcome.CONTRAINDICATED) == ("malformed" in (problem or ""))
    # C22: of a receipt that was had each member has to be of its form; one that was not had is no signature
    assert (found["malformed"][0] is Outcome.CONTRAINDICATED) == ("receipt:" in (problem or ""))
    no_model = Observation()
    assert outcomes(None, seen=no_model)["model_echo"] == (Outcome.NONE, "no_model")


def test_an_answer_that_was_cut() -> None:
    """Without all of the bytes response_bound is none."""
    cut = Exchanged(REQUEST, None, NONCE, "m", "/v1/chat/completions")
    assert outcomes(sealed(), exchanged=cut)["response_bound"] == (Outcome.NONE, "incomplete")


@pytest.mark.parametrize(
    ("seen", "check", "reason"),
    [
        (Observation(malformed="x"), "malformed", "malformed"),
        (Observation(shape="x"), "shape", "shape"),
        (Observation(stream=True, stream_grammar="x"), "stream_grammar", "stream_grammar"),
        (Observation(models=("m", "other")), "model_echo", "model_echo"),
        (
            Observation(calls=(Call("tool_calls", "g", "{}"),), declared=frozenset("f")),
            "tool_undeclared",
            "tool_undeclared",
        ),
        (Observation(calls=(Call("tool_calls", "g", "{}"),)), "tool_undeclared", "tool_undeclared"),
        *[
            (
                Observation(calls=(Call("tool_calls", "f", a),), declared=frozenset("f")),
                "tool_arguments",
                "tool_arguments",
            )
            for a in (None, " ", "null", "[1]", "{", '{"a":1,"a":2}', "\ud800")
        ],
    ],
)
def test_faults_of_form(seen: Observation, check: str, reason: str) -> None:
    """What was seen to be wrong with the answer's form fails its check, however well it is signed."""
    assert outcomes(sealed(), seen=seen)[check] == (Outcome.CONTRAINDICATED, reason)


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (Call("custom", "sh", "ls -l"), Outcome.AFFIRMING),
        (Call("custom_tool_call", "sh", '{"a":1,"a":2}'), Outcome.AFFIRMING),
        (Call("custom", "sh", None), Outcome.CONTRAINDICATED),
        (Call("tool_calls", "sh", "ls -l"), Outcome.CONTRAINDICATED),
        (Call("custom", "f", "ls -l"), Outcome.CONTRAINDICATED),
        (Call("custom", "f", "{}"), Outcome.AFFIRMING),
        (Call("tool_calls", "f", ""), Outcome.AFFIRMING),
        (Call("function_call", "f", ""), Outcome.AFFIRMING),
    ],
)
def test_what_arguments_may_be(call: Call, outcome: Outcome) -> None:
    """A custom tool takes any text, when it was declared as one and is called as one; and a call may have none."""
    seen = Observation(calls=(call,), declared=frozenset({"f", "sh"}), custom=frozenset({"sh"}))
    assert outcomes(sealed(), seen=seen)["tool_arguments"][0] is outcome


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (Call("mcp_call", "roll", "{}", "s"), Outcome.AFFIRMING),
        (Call("mcp_call", "a", "{}", "t"), Outcome.AFFIRMING),
        (Call("mcp_call", "b", "{}", "t"), Outcome.CONTRAINDICATED),
        (Call("mcp_call", "roll", "{}", "other"), Outcome.CONTRAINDICATED),
        (Call("mcp_call", "f", "{}", "other"), Outcome.CONTRAINDICATED),
        (Call("mcp_call", "roll", "{}"), Outcome.CONTRAINDICATED),
        (Call("function_call", "roll", "{}"), Outcome.CONTRAINDICATED),
    ],
)
def test_tools_of_servers_are_declared_with_their_server(call: Call, outcome: Outcome) -> None:
    """Whichever tool the server has, or those that the request allows of it; a function is another tool."""
    seen = Observation(calls=(call,), declared=frozenset({"f", "mcp:'s'", "mcp:'t'/a"}))
    assert outcomes(sealed(), seen=seen)["tool_undeclared"][0] is outcome


def test_good_calls_need_cover() -> None:
    """A declared call with sound arguments passes when the bytes are covered, and is contraindicated when not."""
    seen = Observation(
        models=("m",), calls=(Call("tool_calls", "f", '{"a":1}'),), declared=frozenset({"f"}), stream=True
    )
    found = outcomes(sealed(), seen=seen)
    assert {o for o, _ in found.values()} == {Outcome.AFFIRMING}
    # cover is a matter of signature, key and bytes: what else is open or wrong does not uncover
    for whole, receipt in ((SEEN, sealed()), (seen, sealed(served_at=0))):
        called = msgspec.structs.replace(whole, calls=seen.calls, declared=seen.declared)
        assert outcomes(receipt, seen=called)["executable_uncovered"][0] is Outcome.AFFIRMING
    for receipt in (None, sealed(OTHER), sealed(event_log=document()["event_log"][:1])):
        assert outcomes(receipt, seen=seen)["executable_uncovered"] == (
            Outcome.CONTRAINDICATED, "executable_uncovered",
        )  # fmt: skip


def test_text_that_reads_as_a_call_is_a_warning() -> None:
    """Some frameworks would run it, so it is not simply affirming."""
    assert outcomes(sealed(), seen=Observation(text_is_call=True))["output_kind"] == (
        Outcome.WARNING,
        "text_as_tool_call",
    )


def test_chain_signatures() -> None:
    """A running signature holds for its message and key only."""
    message = aci.chain_message("r", NONCE, REQUEST, "m", 1, RESPONSE)
    signature = SIGNER.sign(message)
    assert verify_chain(SESSION, None, message, signature) == "k1"
    assert verify_chain(SESSION, "k1", message, signature) == "k1"
    assert verify_chain(SESSION, "k2", message, signature) is None
    assert verify_chain(SESSION, None, message + b"x", signature) is None
    comment = b"aci.chain 12 " + signature.hex().encode()
    assert aci.parse_chain(comment) == (12, signature)
    assert aci.parse_chain(b"something else") is None
    zeros = b"0" * 128
    forms = (b"aci.chain 0 %b", b"aci.chain 1 00", b"aci.chain x %b", b"aci.chain 1234567890 %b", b"aci.chain +1 %b")
    for bad in (
        *(form.replace(b"%b", zeros) for form in forms),
        b"aci.chain 1 A" + zeros[1:],
        b"aci.chain 1 g" + zeros[1:],
    ):
        with pytest.raises(FormatError):
            aci.parse_chain(bad)


# -- the receipt's form -----------------------------------------------------------------------------------------------


def raw(**members: Any) -> bytes:
    receipt = document(**members)
    receipt["signature"] = "0" * 128
    return jcs(receipt)


def test_receipts_in_other_spellings_are_canonicalised() -> None:
    """A pretty-printed receipt is read through a strict parse, and its signature is over the canonical form."""
    good = json.loads(raw())
    good["signature"] = SIGNER.sign(jcs(document())).hex()
    for text in (json.dumps(good, indent=2), json.dumps(good, sort_keys=False)):
        parsed = aci.parse_receipt(text.encode())
        assert parsed.signed == jcs(document())
        assert outcomes(parsed)["signature"][0] is Outcome.AFFIRMING


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        raw(api_version="aci/2"),
        raw(event_log=[]),
        raw(event_log=[{"type": "response.returned"}]),
        raw(event_log=[{"type": "request.received", "body_hash": "ABC"}]),
        raw(request_nonce="xyz"),
        raw(served_at="1"),
        raw(served_at=1.5),
        raw(served_at=0).replace(b'"served_at":0', b'"served_at":0.0'),
        raw(served_at=True),
        raw(served_at=-1),
        raw(served_at=0).replace(b'"served_at":0', b'"served_at":9007199254740992'),
        raw(served_at=0).replace(b'"served_at":0', b'"served_at":1%s' % (b"0" * 400)),
        raw(model=None),
        raw().replace(b'"signature":"0', b'"signature":"Z'),
        raw().replace(b'"signature":"0', b'"signature":"A'),
        raw().replace(b'"model":"m"', b'"model":"m","model":"m"'),
        raw()[:-1],
        raw(chat_id="x" * aci.MAX_RECEIPT),
        raw().replace(b'"signature"', b'"sig"'),
    ],
)
def test_malformed_receipts(data: bytes) -> None:
    """A receipt that is not one, or that two readers could read differently, is refused."""
    with pytest.raises(FormatError):
        aci.parse_receipt(data)


@pytest.mark.parametrize("model", ["m", ",", 'm","signature":"', "\\", ',"workload_keyset_digest":"'])
@pytest.mark.parametrize("comma", ["%s", ",%s", "%s,", ",%s,"])
def test_the_signature_stands_where_json_has_a_member(model: str, comma: str) -> None:
    """Wherever the signature's member is put, with commas or without, what is taken is JSON that says the same."""
    signed = jcs(document(model=model)).decode()
    member = comma % f'"signature":"{"5a" * 64}"'
    taken = 0
    for at in range(len(signed) + 1):
        data = signed[:at] + member + signed[at:]
        try:
            parsed = aci.parse_receipt(data.encode())
        except FormatError:
            continue
        taken += 1
        assert json.loads(data) == {**json.loads(parsed.signed), "signature": parsed.signature.hex()}
    # Behind the brace and eleven members, and not in the three objects within, which would be another document.
    assert taken == {"%s": 0, ",%s": 11, "%s,": 11, ",%s,": 0}[comma]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_is_taken_for_a_receipt_is_json(data: st.DataObject) -> None:
    """A receipt with a few bytes changed is refused, or it is JSON and its members are those that were read."""
    text = bytearray(raw(model=data.draw(st.sampled_from(["m", ",", '"', 'x,"signature":"']))))
    places = st.one_of(
        st.integers(0, len(text)), st.integers(text.find(b'"signature"') - 3, text.find(b'"workload') + 3)
    )
    for _ in range(data.draw(st.integers(1, 3))):
        at, new = data.draw(places), data.draw(st.sampled_from([b"", b",", b'"', b"\\", b" ", b"{", b"}", b":", b"0"]))
        text[at : at + data.draw(st.integers(0, 2))] = new
    try:
        parsed = aci.parse_receipt(bytes(text))
    except FormatError:
        return
    assert json.loads(text) == {**json.loads(parsed.signed), "signature": parsed.signature.hex()}


def test_inline_forms() -> None:
    """The header's base64 is standard and bounded."""
    assert aci.decode_inline(b"QUJD") == b"ABC"
    odd = (b"QUJD=", b"QUJD==", b"QUJDR", b"QUJD\n", b'QUJD"', b"\\u0051UJD", b"\xffUJD")
    for bad in (b"QUJ", b"QU JD", b"Q_-D", *odd, b"A" * (2 * aci.MAX_RECEIPT)):
        with pytest.raises(FormatError):
            aci.decode_inline(bad)


def test_statements() -> None:
    """The statement has the exact spelling that ACI prescribes."""
    assert aci.statement(DIGEST, None) == (
        b'{"keyset_digest":"' + DIGEST.encode() + b'","nonce":null,"purpose":"aci.report_data.v1"}'
    )


def test_a_receipt_that_lacks_a_member_in_another_spelling() -> None:
    """The long way, too, names the member that is missing."""
    incomplete = {k: v for k, v in document().items() if k != "served_at"}
    with pytest.raises(FormatError, match="served_at is missing"):
        aci.parse_receipt(json.dumps({**incomplete, "signature": "0" * 128}, indent=1).encode())
