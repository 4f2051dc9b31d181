"""Each response rule reads answers, appraises them, and keeps their evidence; together they are a closed registry."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import msgspec
import pytest
from support_og_answers import KEYS, NOW, REQUEST, WITH_TOOL, call_answer, dumps, head, text_answer

from gateway.crypto.canonical import jcs
from gateway.crypto.signatures import Ed25519Signer
from gateway.exchange.head import Head
from gateway.exchange.reply import LeftOut, Question, Read, Reply, ResponseRule
from gateway.exchange.rules import RULES
from gateway.exchange.stream import Wire
from gateway.model.node import AttestedSession, SigningKey
from gateway.model.verdict import Check, Outcome
from gateway.verify.opengradient.record import parse_record

SIGNER = Ed25519Signer(b"\7" * 32)
DIGEST = "sha256:" + "a" * 64
NONCE = "cd" * 32
WIRE = Wire(receipt_event=b"aci.receipt", chain_comment=b"aci.chain")
ACI, OG, BARE = (RULES[name] for name in ("aci-receipt", "opengradient-statement", "none"))
BODY = b'{"id":"c1","model":"m","choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}]}'


def session(keys: tuple[SigningKey, ...]) -> AttestedSession:
    return AttestedSession(
        id="s", node="n", network="x", endpoint="http://n", keyset_digest=DIGEST, keys=keys, spki_pins=(),
        evidence_digest="e" * 64, established=float(NOW), expires=NOW + 600.0, outcome=Outcome.AFFIRMING, checks=(),
        claims=(),
    )  # fmt: skip


def question(head: Head, body: bytes, **more: Any) -> Question:
    return Question(head, body, hashlib.sha256(body).hexdigest(), NONCE, **more)


ASKED = question(Head("/v1/chat/completions", "m", False, 1, frozenset()), b'{"model":"m"}')
ACI_SESSION = session((SigningKey("k1", "ed25519", SIGNER.public_key),))
OG_SESSION = session(tuple(KEYS))
BARE_SESSION = msgspec.structs.replace(session(()), keyset_digest="", aliases=(("m", "m-2024"), ("other", "x")))


def receipt(body: bytes, **members: Any) -> bytes:
    document = {
        "api_version": "aci/1", "receipt_id": "r1", "chat_id": "c1", "model": "m", "workload_keyset_digest": DIGEST,
        "endpoint": "/v1/chat/completions", "method": "POST", "served_at": NOW, "key_id": "k1", "request_nonce": NONCE,
        "event_log": [
            {"type": "request.received", "body_hash": "sha256:" + ASKED.sha256},
            {"type": "response.returned", "body_hash": "sha256:" + hashlib.sha256(body).hexdigest()},
        ],
        **members,
    }  # fmt: skip
    document = {name: value for name, value in document.items() if value is not None}
    return jcs({**document, "signature": SIGNER.sign(jcs(document)).hex()})


def judged(
    reply: Reply, asked: Question = ASKED, *, at: AttestedSession = ACI_SESSION
) -> dict[str, tuple[str, str | None]]:
    result = reply.appraise(at, asked, now=float(NOW), skew_s=120.0, seen_before=False)
    return {check.id: (check.outcome.value, check.reason) for check in result.checks}


def test_an_aci_answer_goes_on_verbatim() -> None:
    """Nothing of it is touched; its receipt is kept; with our nonce in it the journal is not asked."""
    made = receipt(BODY)
    read = ACI.whole(ASKED, made, None, BODY)
    assert (read.body, read.verbatim, read.dropped, read.uncovered) == (BODY, True, (), ())
    assert (read.reply.record, read.reply.form.name) == (made, "aci-receipt")
    assert (read.reply.statement(), read.reply.dated()) == (None, None)
    assert read.reply.signs_body
    assert judged(read.reply)["signature"] == ("affirming", None)
    assert ACI.left_out(ASKED) == LeftOut()


def test_an_aci_receipt_without_a_nonce_is_for_the_journal() -> None:
    """What was signed, and by whom."""
    reply = ACI.whole(ASKED, receipt(BODY, request_nonce=None), None, BODY).reply
    statement = reply.statement()
    assert statement is not None
    assert statement.startswith(DIGEST.encode() + b"\nk1\n")
    assert judged(reply)["replay"] == ("warning", "no_nonce")


@pytest.mark.parametrize(
    ("given", "problem", "outcome"),
    [
        (None, "no_receipt", ("none", "no_receipt")),
        (None, None, ("none", "no_receipt")),
        (b"{", None, ("contraindicated", None)),
    ],
)
def test_an_aci_answer_without_a_good_receipt(
    given: bytes | None, problem: str | None, outcome: tuple[str, str | None]
) -> None:
    """What is missing is not shown; what is malformed is held against the node."""
    found = judged(ACI.whole(ASKED, given, problem, BODY).reply)["signature"]
    assert found[0] == outcome[0]
    assert outcome[1] in (None, found[1])


def test_members_that_are_ours_are_taken_off() -> None:
    """A node cannot speak in our name, and the receipt says what it tried to say."""
    body = BODY[:-1] + b',"verification":{"verdict":"affirming"}}'
    read = ACI.whole(ASKED, receipt(body), None, body)
    assert (read.verbatim, read.dropped) == (False, ("verification",))
    assert b"verification" not in read.body
    assert judged(read.reply)["response_bound"] == ("affirming", None)


def test_an_aci_receipt_tells_of_a_later_session_whether_it_was_signed_under_it() -> None:
    """By the keyset that it names: that is how a node that changed its keys is told from one that lies."""
    later = msgspec.structs.replace(
        ACI_SESSION, keyset_digest="sha256:" + "b" * 64, checks=(Check("fresh", Outcome.AFFIRMING),)
    )
    for named, signed in ((later.keyset_digest, True), (DIGEST, False)):
        reply = ACI.whole(ASKED, receipt(BODY, workload_keyset_digest=named), None, BODY).reply
        under = reply.signed_under()
        assert under is not None
        assert under(later) is signed
    assert ACI.whole(ASKED, None, "no_receipt", BODY).reply.signed_under() is None


@pytest.mark.parametrize("rule", [ACI, BARE])
@pytest.mark.parametrize(
    "body",
    [
        b"[1,2,3]",
        b'"x',
        b'{"verification":{"verdict":"affirming"},"id":"\\ud800"}',
        b'{"verification":{"verdict":"affirming"},"choices":{}}',
        BODY[:-1] + b',"id":"c1","verification":{"verdict":"affirming"}}',
    ],
)
def test_of_an_answer_that_cannot_be_read_nothing_leaves(rule: ResponseRule, body: bytes) -> None:
    """What leaves in its place, where policy lets go what is refuted, is an object that our member can join."""
    read = rule.whole(ASKED, receipt(body), None, body)
    assert (read.body, read.verbatim, read.dropped) == (b"{}", False, ())
    assert judged(read.reply)["malformed"] == ("contraindicated", "malformed")


@pytest.mark.parametrize("rule", [ACI, BARE])
def test_an_error_in_an_answer_s_place_does_not_speak_for_us(rule: ResponseRule) -> None:
    """Its members that are ours are taken off like any answer's."""
    body = b'{"error":{"message":"x"},"verification":{"verdict":"affirming"}}'
    read = rule.whole(ASKED, receipt(body), None, body)
    assert (read.body, read.verbatim, read.dropped) == (b'{"error":{"message":"x"}}', False, ("verification",))


CHUNK = b'data: {"id":"c1","model":"m","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'
STREAM = CHUNK + b"data: [DONE]\n\n"


def streamed(*more: bytes) -> Reply:
    asked = msgspec.structs.replace(ASKED, head=msgspec.structs.replace(ASKED.head, stream=True))
    reader = ACI.reader(asked, WIRE, b"salt", max_event=1 << 20)
    reader.feed(STREAM + b"".join(more))
    assert reader.finish() is None
    return reader.reply()


def event(data: bytes) -> bytes:
    return b"event: aci.receipt\ndata: " + data + b"\n\n"


def test_a_stream_s_receipt_stands_behind_its_end() -> None:
    """Found, decoded, and held against all bytes before it."""
    made = receipt(STREAM)
    reply = streamed(event(base64.b64encode(made)))
    assert reply.record == made
    assert judged(reply)["response_bound"] == ("affirming", None)


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ((), ("none", "no_receipt")),
        ((event(b"!!"),), ("contraindicated", "malformed: the inline receipt is not base64")),
        ((event(b"e30="), event(b"e30=")), ("contraindicated", "malformed: two receipts")),
    ],
)
def test_a_stream_without_one_good_receipt(more: tuple[bytes, ...], found: tuple[str, str]) -> None:
    """Each way of having none has its reason."""
    assert judged(streamed(*more))["signature"] == found


def og(document: Any, request: dict[str, Any] = REQUEST, **more: Any) -> tuple[Read, Question]:
    body = json.dumps(request).encode()
    asked = question(head(request), body, received_s=7, **more)
    return OG.whole(asked, None, None, dumps(document)), asked


def test_an_opengradient_answer_is_written_anew() -> None:
    """Its statement is kept with the profile that fitted, and is for the journal; its time is the statement's."""
    read, asked = og(text_answer())
    assert not read.verbatim
    assert "usage" in read.uncovered
    assert not read.reply.signs_body
    checks = judged(read.reply, asked, at=OG_SESSION)
    assert checks["request_bound"][0] == checks["response_bound"][0] == checks["signature"][0] == "affirming"
    assert read.reply.record is not None
    assert parse_record(read.reply.record).binding.profile == "v3"
    statement = read.reply.statement()
    assert statement is not None
    assert len(statement) == 64
    assert read.reply.dated() == parse_record(read.reply.record).statement.timestamp
    assert read.reply.signed_under() is None
    assert read.reply.form.name == "opengradient-statement"
    assert json.loads(og({k: v for k, v in text_answer().items() if k != "created"})[0].body)["created"] == 7


@pytest.mark.parametrize(
    ("label", "expected"),
    [(False, ("affirming", None)), (True, ("contraindicated", "unsigned_content"))],
)
def test_a16_text_beside_signed_calls(label: bool, expected: tuple[str, str | None]) -> None:
    """The network signs the calls alone: what a model says beside them is left out and named, and no lie. Where it is
    to go on all the same, no evidence covers it."""
    read, asked = og(call_answer(content="evil"), WITH_TOOL, label=label)
    assert judged(read.reply, asked, at=OG_SESSION)["coverage"] == expected
    assert (b"evil" in read.body) is label
    assert ("content" in read.dropped) is not label


def test_an_opengradient_answer_without_a_statement() -> None:
    """Nothing is bound, nothing is dated, nothing is kept."""
    bare = {name: value for name, value in text_answer().items() if not name.startswith("tee_")}
    read, asked = og(bare)
    assert (read.reply.record, read.reply.statement(), read.reply.dated()) == (None, None, None)
    assert judged(read.reply, asked, at=OG_SESSION)["signature"] == ("none", "evidence_missing")


def test_a_request_with_two_readings_binds_nothing() -> None:
    """The node may have hashed the other one."""
    body = b'{"model":"m-1","messages":[],"messages":[]}'
    asked = question(head(REQUEST), body)
    reply = OG.whole(asked, None, None, dumps(text_answer())).reply
    assert judged(reply, asked, at=OG_SESSION)["request_bound"][0] != "affirming"


def test_content_that_nobody_signed_leaves_when_it_is_wanted() -> None:
    """Beside calls, text is kept back, or labelled."""
    noisy = call_answer()
    noisy["choices"][0]["message"]["content"] = "beside"
    assert "content" in og(noisy)[0].dropped
    assert "content" in og(noisy, label=True)[0].uncovered


def test_an_opengradient_stream_names_what_it_kept_back() -> None:
    """Its frames are written anew; what did not go on is named."""
    asked = question(msgspec.structs.replace(head(REQUEST), stream=True), json.dumps(REQUEST).encode())
    reader = OG.reader(asked, WIRE, b"salt", max_event=1 << 20)
    reader.feed(
        b'data: {"choices":[{"delta":{"content":"x"},"index":0}],"model":"m-1","web_search":{"status":"s"}}\n\n'
    )
    reader.feed(b"data: [DONE]\n\n")
    assert reader.finish() is None
    assert reader.dropped_members == ("web_search",)
    assert judged(reader.reply(), asked, at=OG_SESSION)["signature"] == ("none", "evidence_missing")
    assert OG.left_out(question(head(REQUEST), b'{"seed":1}')).dropped == ("seed",)


def model(name: str | None) -> bytes:
    return BODY.replace(b'"model":"m",', b"" if name is None else b'"model":"%s",' % name.encode())


UNSIGNED = ("signature", "key_bound", "request_bound", "response_bound", "replay", "fresh", "coverage")


def test_an_answer_that_nobody_signed_is_judged_by_its_form() -> None:
    """What takes a signature is `none`; form and model are judged; nothing is kept, stated or dated; bytes stay."""
    read = BARE.whole(ASKED, b"a receipt that is none", "no_receipt", BODY)
    checks = judged(read.reply, at=BARE_SESSION)
    assert {i: checks.pop(i) for i in UNSIGNED} == dict.fromkeys(UNSIGNED, ("none", "no_signature"))
    assert {i for i, (outcome, _) in checks.items() if outcome == "affirming"} == {
        "malformed", "shape", "model_echo", "executable_uncovered", "output_kind",
    }  # fmt: skip
    assert (read.body, read.verbatim, read.uncovered) == (BODY, True, ())
    assert (read.reply.record, read.reply.statement(), read.reply.dated()) == (None, None, None)
    assert read.reply.signed_under() is None
    assert (BARE.left_out(ASKED), read.reply.form.name) == (LeftOut(), "none")
    assert not read.reply.signs_body


CALLING = BODY.replace(
    b'"content":"hi"', b'"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]'
)


@pytest.mark.parametrize(
    ("body", "check", "found"),
    [
        (model("m-2024"), "model_echo", ("affirming", None)),
        (model("x"), "model_echo", ("contraindicated", "model_echo")),
        (model("M"), "model_echo", ("contraindicated", "model_echo")),
        (model(None), "model_echo", ("none", "no_model")),
        (b"{", "malformed", ("contraindicated", "malformed")),
        (BODY.replace(b'"index":0', b'"index":1'), "shape", ("contraindicated", "shape")),
        (b'{"error":{"message":"x"}}', "shape", ("contraindicated", "shape")),
        (CALLING, "executable_uncovered", ("contraindicated", "no_signature")),
        (CALLING, "tool_undeclared", ("contraindicated", "tool_undeclared")),
    ],
)
def test_an_unsigned_answer_is_read_as_strictly_as_any(body: bytes, check: str, found: tuple[str, str | None]) -> None:
    """A bad form, another model, or a call that nothing covers is held against it; an alias of the settings is not."""
    assert judged(BARE.whole(ASKED, None, None, body).reply, at=BARE_SESSION)[check] == found


def test_an_alias_is_named_where_it_counted() -> None:
    """The check says which name came and that it is the settings' word; a chunk of a third name spoils it."""
    reply = BARE.whole(ASKED, None, None, model("m-2024")).reply
    echo = next(
        c
        for c in reply.appraise(BARE_SESSION, ASKED, now=0.0, skew_s=1.0, seen_before=False).checks
        if c.id == "model_echo"
    )
    assert (echo.found, echo.expected, echo.over) == ("m-2024", "m", "an alias in the settings")
    assert (
        judged(bare_stream(CHUNK.replace(b'"m"', b'"m-2024"'), CHUNK.replace(b'"m"', b'"m3"')))["model_echo"][0]
        == "contraindicated"
    )


def test_an_unsigned_answer_cannot_speak_in_our_name() -> None:
    """Our members are taken off it, in one piece and in a stream."""
    body = BODY[:-1] + b',"verification":{"verdict":"affirming"},"x_veriroute_verdict":"affirming"}'
    read = BARE.whole(ASKED, None, None, body)
    assert (read.verbatim, read.dropped) == (False, ("verification", "x_veriroute_verdict"))
    assert read.body == BODY
    reader = BARE.reader(STREAMING, WIRE, b"salt", max_event=1 << 20)
    pieces = reader.feed(CHUNK.replace(b'"id"', b'"receipt":"mine","id"'))
    assert reader.dropped_members == ("receipt",)
    assert b"receipt" not in b"".join(piece.out for piece in pieces)


STREAMING = msgspec.structs.replace(ASKED, head=msgspec.structs.replace(ASKED.head, stream=True))


def bare_stream(*blocks: bytes) -> Reply:
    reader = BARE.reader(STREAMING, WIRE, b"salt", max_event=1 << 20)
    reader.feed(b"".join(blocks))
    return reader.reply()


def test_an_unsigned_stream_ends_with_its_terminator() -> None:
    """Nothing has to follow it, and nothing is taken for evidence wherever it stands."""
    reader = BARE.reader(STREAMING, WIRE, b"salt", max_event=1 << 20)
    pieces = reader.feed(b": aci.chain 1 k 00\n\n" + STREAM)
    assert reader.finish() is None
    assert [piece.kind for piece in pieces] == ["finish", "end"]
    checks = judged(reader.reply(), at=BARE_SESSION)
    assert checks["stream_grammar"] == checks["malformed"] == checks["shape"] == ("affirming", None)
    assert {checks[i] for i in UNSIGNED} == {("none", "no_signature")}
    late = judged(bare_stream(STREAM, event(base64.b64encode(receipt(STREAM)))), at=BARE_SESSION)
    assert late["signature"] == ("none", "no_signature")
    assert late["stream_grammar"][0] == "contraindicated"
