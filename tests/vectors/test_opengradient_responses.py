"""The network's answers, honest and tampered with: every verdict and the reason that comes first."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.exchange.head import Head, parse_head
from gateway.exchange.opengradient import OpenGradientReader, read_opengradient
from gateway.exchange.stream import UpstreamError
from gateway.model.node import SigningKey
from gateway.model.verdict import AttestationResult, Outcome
from gateway.verify.checks import CHECKS
from gateway.verify.opengradient.record import evidence_record, parse_record, reverify
from gateway.verify.opengradient.response import appraise_opengradient, first_reason
from gateway.verify.opengradient.statement import replay_key, tee_id_of

FOLDER = Path(__file__).parents[2].parent / "shared/vectors/opengradient"
PATHS = {
    "chat": "/v1/chat/completions", "chat_stream": "/v1/chat/completions", "completion": "/v1/completions",
    "web_search": "/v1/web_search",
}  # fmt: skip
#: Warnings that honest answers may carry: limits of the protocol, not faults of the answer.
LIMITS = {("replay", "no_nonce"), ("request_bound", "attachments_unbound")}


def cases(name: str, part: str = "cases") -> list[dict[str, Any]]:
    path = FOLDER / name
    return json.loads(path.read_text("utf-8"))[part] if path.is_file() else []


RESPONSES = cases("responses.json")
needed = pytest.mark.skipif(not RESPONSES, reason="the vectors of OpenGradient are not here")


def judge(
    surface: str, request: dict[str, Any], raw: bytes, spki: bytes, now: float, seen: set[bytes]
) -> tuple[AttestationResult, Any]:
    path = PATHS[surface]
    head = (
        Head(path, "", False, 1, frozenset())
        if surface == "web_search"
        else parse_head(path, json.dumps(request).encode())
    )
    if surface == "chat_stream":
        reader = OpenGradientReader(head, b"", max_event=1 << 20)
        pieces = [piece for start in range(0, len(raw), 97) for piece in reader.feed(raw[start : start + 97])]
        statement, problem, answer, extra = reader.statement, reader.receipt_problem, reader.answer(), pieces
    else:
        whole = read_opengradient(head, raw)
        statement, problem, answer, extra = whole.statement, whole.problem, whole.answer, whole
    key = replay_key(statement) if statement else b""
    result = appraise_opengradient(
        [SigningKey(tee_id_of(spki), "rsa-pss-sha256", spki)], statement, problem, request, answer,
        now=now, seen_before=key in seen,
    )  # fmt: skip
    return result, (statement, answer, extra)


def accepted(result: AttestationResult) -> bool:
    return all(
        c.outcome is Outcome.AFFIRMING
        or (c.outcome is Outcome.NONE and c.reason == CHECKS[c.id].idle)
        or (c.outcome is Outcome.WARNING and (c.id, c.reason) in LIMITS)
        for c in result.checks
        if c.id != "output_kind"
    )


@needed
@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: case["name"])
def test_every_answer_has_its_verdict_and_reason(case: dict[str, Any]) -> None:
    """An honest answer passes, in bits of any size; each other one fails for the reason that comes first."""
    spki = base64.b64decode(case["trusted"]["signing_key_spki_b64"])
    assert tee_id_of(spki) == case["trusted"]["tee_id"]
    raw = base64.b64decode(case["response_raw_b64"])
    seen: set[bytes] = set()
    if case["expect"].get("reason") == "replay":
        first, (statement, *_) = judge(case["surface"], case["request_body"], raw, spki, case["clock_now"], seen)
        assert first_reason(first) is None
        seen.add(replay_key(statement))
    try:
        result, (statement, answer, extra) = judge(
            case["surface"], case["request_body"], raw, spki, case["clock_now"], seen
        )
    except UpstreamError:
        assert case["expect"] == {"strict": "reject", "reason": "upstream_error"}
        return
    assert first_reason(result) == case["expect"].get("reason")
    assert accepted(result) is (case["expect"]["strict"] == "accept")
    if case["expect"]["strict"] == "accept":
        bound = next(c for c in result.checks if c.id == "request_bound")
        profile = case["signed"]["canonicalization_profile"]
        assert bound.found == (profile if case["surface"].startswith("chat") else case["surface"])
        assert case["signed"]["hashed_output"] in answer.outputs
        checks = reverify(parse_record(evidence(extra, statement, answer)), case["request_body"], answer.outputs, spki)
        assert all(c.outcome in (Outcome.AFFIRMING, Outcome.WARNING) for c in checks)


def evidence(extra: Any, statement: Any, answer: Any) -> bytes:

    return evidence_record(statement, answer) if isinstance(extra, list) else extra.receipt


@needed
def test_a_stream_delivers_the_text_that_was_signed() -> None:
    """What the agent gets is what was hashed, a literal [DONE] in the text included."""
    for case in RESPONSES:
        if case["surface"] != "chat_stream" or case["expect"]["strict"] != "accept":
            continue
        spki = base64.b64decode(case["trusted"]["signing_key_spki_b64"])
        raw = base64.b64decode(case["response_raw_b64"])
        _, (_, answer, pieces) = judge("chat_stream", case["request_body"], raw, spki, case["clock_now"], set())
        frames = [json.loads(piece.out[6:]) for piece in pieces[:-1]]
        text = "".join(f["choices"][0]["delta"].get("content", "") for f in frames)
        assert pieces[-1].out == b"data: [DONE]\n\n"
        assert answer.calls_signed or text == case["signed"]["hashed_output"]


@needed
def test_the_plaintexts_of_sealed_answers_pass() -> None:
    """What comes out of the seal is an answer like any other."""
    spki = base64.b64decode(RESPONSES[0]["trusted"]["signing_key_spki_b64"])
    looked = 0
    for case in cases("ohttp.json"):
        request = json.loads(base64.b64decode(case["request_plaintext_b64"]))
        if "plaintext_b64" in case:
            surface, raw = "chat", base64.b64decode(case["plaintext_b64"])
        elif "plaintext_chunks_b64" in case:
            surface, raw = "chat_stream", b"".join(map(base64.b64decode, case["plaintext_chunks_b64"]))
        else:
            continue
        result, _ = judge(surface, request, raw, spki, RESPONSES[0]["clock_now"], set())
        assert first_reason(result) is None
        assert accepted(result)
        looked += 1
    assert looked == 2
