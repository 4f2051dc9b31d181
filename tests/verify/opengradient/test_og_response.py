"""Appraisal of OpenGradient's answers: each way of being wrong fails its own check, and nothing missing passes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from support_og_answers import KEYS, NOW, OTHER, OTHER_SPKI, REQUEST, SPKI, TEE_ID, canonical, members

from gateway.crypto.keccak import keccak256
from gateway.model.node import SigningKey
from gateway.model.observation import Call, Observation
from gateway.model.verdict import AttestationResult, Check, Outcome
from gateway.verify.checks import CHECKS, PROOFS, Phase
from gateway.verify.opengradient.answer import SignedAnswer
from gateway.verify.opengradient.canonical import Surface
from gateway.verify.opengradient.response import (
    ORDER,
    Binding,
    appraise_opengradient,
    bind,
    first_reason,
    printable,
    window,
)
from gateway.verify.opengradient.statement import Statement, parse_statement, tee_id_of

A, W, N, C = Outcome.AFFIRMING, Outcome.WARNING, Outcome.NONE, Outcome.CONTRAINDICATED
SEEN = Observation(models=("m-1",))
TEXT = SignedAnswer(Surface.CHAT, ("Hello.",), SEEN)
STATEMENT = parse_statement(members(canonical(REQUEST), "Hello."))
LOOK = Call("tool_calls", "look", "{}")


def judged(statement: Statement | None = STATEMENT, answer: SignedAnswer = TEXT, **other: Any) -> AttestationResult:
    given = {
        "keys": KEYS,
        "problem": None,
        "request_document": REQUEST,
        "now": NOW + 2.0,
        "seen_before": False,
        **other,
    }
    keys, problem, request = (given.pop(name) for name in ("keys", "problem", "request_document"))
    result = appraise_opengradient(keys, statement, problem, request, answer, **given)
    assert {c.id for c in result.checks} == {i for i, e in CHECKS.items() if Phase.RESPONSE in e.phases} - PROOFS
    assert len(result.checks) == 15
    assert all(c.outcome is A or c.reason for c in result.checks)
    return result


def outcomes(*args: Any, **other: Any) -> dict[str, tuple[Outcome, str | None]]:
    return {c.id: (c.outcome, c.reason) for c in judged(*args, **other).checks if c.outcome is not A}


def seeing(**other: Any) -> SignedAnswer:
    return SignedAnswer(Surface.CHAT, ("Hello.",), Observation(**{"models": ("m-1",), **other}))


IDLE = {
    "stream_grammar": (N, "not_a_stream"),
    "tool_undeclared": (N, "no_calls"),
    "tool_arguments": (N, "no_calls"),
}
NO_NONCE = {"replay": (W, "no_nonce")}


def test_a_good_answer() -> None:
    """A signed answer affirms every check but that it is ours alone, and says that a provider made it."""
    assert outcomes() == {**IDLE, **NO_NONCE}
    assert outcomes(marked=True) == IDLE
    result = judged()
    assert first_reason(result) is None
    assert {c.id: c.found for c in result.checks}["request_bound"] == "v3"
    assert {c.name: (c.status, c.reason) for c in result.claims} == {
        "request_bound": ("asserted", None), "response_bound": ("asserted", None),
        "model_bound": ("unknown", "the model's name is the node's own statement"),
        "executed_in_tee": ("refuted", "relayed_to_provider"),
    }  # fmt: skip


def signed(**other: Any) -> Statement:
    return parse_statement({**members(canonical(REQUEST), "Hello."), **other})


@pytest.mark.parametrize(
    ("statement", "answer", "other", "check", "expected"),
    [
        (None, TEXT, {}, "signature", (N, "evidence_missing")),
        (None, TEXT, {"problem": "evidence_missing"}, "coverage", (N, "evidence_missing")),
        (None, TEXT, {"problem": "malformed_encoding"}, "malformed", (C, "malformed_encoding")),
        (STATEMENT, seeing(malformed="x"), {}, "malformed", (C, "malformed_encoding")),
        (signed(), seeing(shape="x"), {}, "shape", (C, "shape")),
        (None, seeing(shape="x"), {"problem": "upstream_error"}, "shape", (C, "upstream_error")),
        (STATEMENT, seeing(stream=True, stream_grammar="x"), {}, "stream_grammar", (C, "stream_grammar")),
        (STATEMENT, TEXT, {"keys": ()}, "key_bound", (N, "no_key")),
        (STATEMENT, TEXT, {"keys": ()}, "signature", (N, "no_key")),
        (signed(tee_id=tee_id_of(OTHER_SPKI)), TEXT, {}, "key_bound", (C, "tee_id_mismatch")),
        (signed(tee_id=tee_id_of(OTHER_SPKI)), TEXT, {}, "signature", (C, "unknown_key")),
        (signed(tee_signature="0x"), TEXT, {}, "signature", (C, "signature_invalid")),
        (signed(tee_signature="0x"), TEXT, {}, "coverage", (N, "signature")),
        (signed(tee_id=tee_id_of(OTHER_SPKI)), TEXT, {}, "coverage", (N, "signature")),
        (STATEMENT, TEXT, {"keys": ()}, "coverage", (N, "signature")),
        (signed(tee_timestamp=NOW + 1), TEXT, {}, "signature", (C, "signature_invalid")),
        (STATEMENT, TEXT, {"request_document": {**REQUEST, "model": "m-2"}}, "request_bound", (C, "request_hash_mismatch")),
        (STATEMENT, TEXT, {"request_document": None}, "request_bound", (N, "request_uncanonical")),
        (STATEMENT, SignedAnswer(Surface.CHAT, ("Hello!",), SEEN), {}, "response_bound", (C, "output_hash_mismatch")),
        (STATEMENT, SignedAnswer(Surface.CHAT, ("\ud800",), SEEN), {}, "response_bound", (C, "output_hash_mismatch")),
        (STATEMENT, SignedAnswer(Surface.CHAT, (), SEEN), {}, "response_bound", (C, "output_hash_mismatch")),
        (STATEMENT, SignedAnswer(Surface.CHAT, None, SEEN), {}, "response_bound", (N, "incomplete")),
        (STATEMENT, TEXT, {"seen_before": True}, "replay", (C, "replay")),
        (STATEMENT, TEXT, {"seen_before": True, "marked": True}, "replay", (C, "replay")),
        (STATEMENT, TEXT, {"now": NOW + 3601.0}, "fresh", (C, "timestamp_stale")),
        (STATEMENT, TEXT, {"now": NOW - 301.0}, "fresh", (C, "timestamp_future")),
        (STATEMENT, TEXT, {"now": NOW + 61.0, "max_age_s": 60}, "fresh", (C, "timestamp_stale")),
        (STATEMENT, TEXT, {"now": NOW - 61.0, "max_future_s": 60}, "fresh", (C, "timestamp_future")),
        (STATEMENT, TEXT, {"now": float("nan")}, "fresh", (C, "timestamp_stale")),
        (STATEMENT, TEXT, {"now": float("inf")}, "fresh", (C, "timestamp_stale")),
        (STATEMENT, TEXT, {"max_age_s": float("nan")}, "fresh", (C, "timestamp_stale")),
        (STATEMENT, seeing(models=("m-1", "m-2")), {}, "model_echo", (C, "response_model_mismatch")),
        (STATEMENT, seeing(models=()), {}, "model_echo", (N, "no_model")),
        (STATEMENT, TEXT, {"request_document": []}, "model_echo", (C, "response_model_mismatch")),
        (STATEMENT, seeing(text_is_call=True), {}, "output_kind", (W, "text_as_tool_call")),
        (STATEMENT, seeing(calls=(LOOK,), declared=frozenset({"look"})), {}, "executable_uncovered", (C, "executable_uncovered")),
        (STATEMENT, seeing(calls=(LOOK,)), {}, "tool_undeclared", (C, "undeclared_tool_call")),
        (STATEMENT, seeing(calls=(Call("tool_calls", "look", "[1"),)), {}, "tool_arguments", (C, "tool_arguments")),
        (STATEMENT, seeing(calls=(Call("tool_calls", "look", None),)), {}, "tool_arguments", (C, "tool_arguments")),
        (
            STATEMENT, SignedAnswer(Surface.CHAT, ("Hello.",), SEEN, beside=("choices",)), {}, "coverage",
            (C, "unsigned_content"),
        ),
    ],
)  # fmt: skip
def test_each_fault_fails_its_check(
    statement: Statement | None, answer: SignedAnswer, other: dict[str, Any], check: str, expected: Any
) -> None:
    """What is wrong with an answer is said by the check that it concerns, and what failed is not passed over."""
    assert outcomes(statement, answer, **other)[check] == expected
    result = judged(statement, answer, **other)
    assert (first_reason(result) is None) is (expected[0] is W)


def test_at_the_edges_of_the_window() -> None:
    """An age of exactly the limit is inside; a policy's limit counts where it is tighter."""
    for now in (NOW + 3600.0, NOW - 300.0):
        assert "fresh" not in outcomes(now=now)
    assert window(60.0) == (60.0, 60.0)
    assert window(900.0) == (900.0, 300.0)
    assert window(1e6) == (3600.0, 300.0)


def test_without_a_statement_nothing_of_it_is_shown() -> None:
    """Every check that looks at the statement is none, with the reason why there is none."""
    found = outcomes(None, problem="malformed_encoding")
    for name in ("signature", "key_bound", "request_bound", "response_bound", "replay", "fresh", "coverage"):
        assert found[name] == (N, "malformed_encoding")
    claims = {c.name: c.status for c in judged(None).claims}
    assert claims == {
        "request_bound": "unknown", "response_bound": "unknown", "model_bound": "unknown",
        "executed_in_tee": "refuted",
    }  # fmt: skip


def test_nothing_is_claimed_by_an_unknown_signer() -> None:
    """Hashes that fit show nothing when the signature doesn't hold."""
    result = judged(signed(tee_signature="0x"))
    assert {c.name: (c.status, c.reason) for c in result.claims[:2]} == {
        "request_bound": ("unknown", "signature"), "response_bound": ("unknown", "signature"),
    }  # fmt: skip
    refuted = judged(answer=SignedAnswer(Surface.CHAT, ("no",), SEEN)).claims
    assert {c.name: c.status for c in refuted}["response_bound"] == "refuted"


def test_signed_calls_are_covered_only_under_a_signature() -> None:
    """Calls that the output hash covers pass; the same calls without a signature that holds don't."""
    answer = SignedAnswer(
        Surface.CHAT, ("Hello.",), Observation(models=("m-1",), calls=(LOOK,), declared=frozenset({"look"})), True
    )
    assert outcomes(answer=answer) == {"stream_grammar": (N, "not_a_stream"), **NO_NONCE}
    for statement in (None, signed(tee_signature="0x")):
        assert outcomes(statement, answer)["executable_uncovered"] == (C, "executable_uncovered")
    for beside, covered in ((("content",), True), (("content", "mcp_call"), False), (("choices",), False)):
        found = outcomes(answer=msgspec.structs.replace(answer, beside=beside))
        assert found["coverage"] == (C, "unsigned_content")
        assert ("executable_uncovered" not in found) is covered


PARTS = {
    "model": "m-1",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": "x"}]}],
}


@pytest.mark.parametrize(
    ("profile", "content", "expected"),
    [
        ("v3", [{"type": "text", "text": "?"}, {"type": "image_url"}], (W, "attachments_unbound")),
        ("v2", PARTS["messages"][0]["content"], (A, None)),  # type: ignore[index]
        ("v1", str(PARTS["messages"][0]["content"]), (A, None)),  # type: ignore[index]
    ],
)
def test_the_profile_that_fits_is_named(profile: str, content: Any, expected: tuple[Outcome, str | None]) -> None:
    """Any build's form of the request binds it, and is named; one that leaves attachments out says so."""
    hashed = canonical({"model": "m-1", "messages": [{"role": "user", "content": content}]})
    statement = parse_statement(members(hashed, "Hello."))
    result = judged(statement, request_document=PARTS)
    check = next(c for c in result.checks if c.id == "request_bound")
    assert (check.outcome, check.reason, check.found) == (*expected, profile)
    assert {c.name: c.status for c in result.claims}["request_bound"] == ("asserted" if expected[0] is A else "unknown")
    assert bind(statement, PARTS, TEXT) == Binding(profile, keccak256(hashed), keccak256(b"Hello."))


def test_other_surfaces_have_their_own_form() -> None:
    """A search names no model, and none is asked of it; a completion does."""
    query = {"query": "q"}
    statement = parse_statement(members(b'{"query": "q"}', "found"))
    search = SignedAnswer(Surface.WEB_SEARCH, ("found",), Observation())
    assert outcomes(statement, search, request_document=query) == {**IDLE, **NO_NONCE}
    text = {"model": "m-1", "prompt": "p", "max_tokens": 1}
    statement = parse_statement(
        members(b'{"max_tokens": 1, "model": "m-1", "prompt": "p", "temperature": 1.0}', "found")
    )
    completion = SignedAnswer(Surface.COMPLETION, ("found",), SEEN)
    assert outcomes(statement, completion, request_document=text) == {**IDLE, **NO_NONCE}
    assert outcomes(statement, TEXT, request_document=text)["request_bound"] == (N, "request_uncanonical")


def test_the_key_is_looked_up_among_those_of_the_session() -> None:
    """Of several keys the one that the statement names verifies; a name that lies about its key does not help."""
    both = (SigningKey("x", "ed25519", b"\1" * 32), SigningKey("y", "rsa-pss-sha256", OTHER_SPKI), *KEYS)
    assert outcomes(keys=both) == {**IDLE, **NO_NONCE}
    lying = (SigningKey(TEE_ID, "rsa-pss-sha256", OTHER_SPKI),)
    assert outcomes(keys=lying)["key_bound"] == (C, "tee_id_mismatch")
    by_other = parse_statement(members(canonical(REQUEST), "Hello.", key=OTHER, tee_id=TEE_ID))
    assert outcomes(by_other)["signature"] == (C, "signature_invalid")
    assert SPKI != OTHER_SPKI


def test_the_first_reason_follows_the_order() -> None:
    """Of all failures the one that makes the others follow is named; warnings and idle checks are none."""
    names = list(ORDER)
    assert set(names) | {"output_kind"} == {c.id for c in judged().checks}
    for place, name in enumerate(names):
        checks = tuple(
            Check(other, C if names.index(other) >= place else A, other if names.index(other) >= place else None)
            for other in reversed(names)
        )
        assert first_reason(AttestationResult(checks)) == name
    missing = tuple(Check(name, N if name == "signature" else A, "gone") for name in names)
    assert first_reason(AttestationResult(missing)) == "gone"


def test_text_from_outside_is_made_safe() -> None:
    """Names from an answer are escaped and cut before a person sees them."""
    result = judged(answer=seeing(models=("\x1b[31m" + "ü" * 300,)))
    check = next(c for c in result.checks if c.id == "model_echo")
    assert check.found is not None
    assert check.found.startswith("\\x1b[31m")
    assert check.found.isascii()
    assert len(check.found) == 80
    assert printable("plain") == "plain"
