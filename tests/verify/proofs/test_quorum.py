"""N of M distinct operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from proofs_kit import REQUEST, body, entry
from tiny_lm import sha

from gateway.errors import FormatError
from gateway.verify.proofs.agreement import Agreement
from gateway.verify.proofs.evidence import Kind, Subject, Verdict, check_of
from gateway.verify.proofs.quorum import Answer, Quorum, Terms, judge_quorum
from gateway.verify.proofs.structured import Form

PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
SUBJECT = Subject(REQUEST, None)
TEXT = "one two three four five six seven eight nine ten"
GOOD, BAD, WORSE = body(TEXT), body("no " + TEXT), body("never " + TEXT)
MAYBE = body([entry(" one", -0.7, **{" uno": -0.7})])  # parts from the next in a tie, and too early
PERHAPS = body([entry(" uno", -0.7, **{" one": -0.7})])
OWN = {name: f"op-{name}" for name in "abcdef"}


def judge(
    bodies: Mapping[str, bytes | None], operators: Mapping[str, str] = OWN, terms: Terms | None = None, **more: Any
) -> Quorum:
    answers = [
        Answer(node, None if b is None else sha(b), b, "timeout" if b is None else None) for node, b in bodies.items()
    ]
    return judge_quorum(answers, operators, terms or Terms(2, 3), SUBJECT, **more)


@pytest.mark.parametrize(
    ("bodies", "verdict", "reason", "members", "culprits", "more"),
    [
        ({"a": GOOD, "b": GOOD}, PASS, "agreed", "ab", "", 0),
        ({"a": GOOD, "b": GOOD, "c": GOOD}, PASS, "agreed", "abc", "", 0),
        ({"a": GOOD, "b": BAD, "c": GOOD}, PASS, "agreed", "ac", "b", 0),
        ({"a": BAD, "b": GOOD, "c": GOOD}, PASS, "agreed", "bc", "a", 0),
        ({"a": GOOD, "b": None, "c": GOOD}, PASS, "agreed", "ac", "", 0),
        ({}, INCONCLUSIVE, "no_quorum", "", "", 2),
        ({"a": GOOD}, INCONCLUSIVE, "no_quorum", "", "", 1),
        ({"a": GOOD, "b": BAD}, INCONCLUSIVE, "no_quorum", "", "", 1),
        ({"a": GOOD, "b": None}, INCONCLUSIVE, "no_quorum", "", "", 1),
        ({"a": GOOD, "b": BAD, "c": WORSE}, FAIL, "no_quorum", "", "", 0),
        ({"a": GOOD, "b": BAD, "c": None}, INCONCLUSIVE, "no_quorum", "", "", 0),
        ({"a": MAYBE, "b": PERHAPS, "c": BAD}, INCONCLUSIVE, "no_quorum", "", "", 0),
        ({"a": None, "b": None, "c": None}, INCONCLUSIVE, "no_quorum", "", "", 0),
    ],
)
def test_two_of_three(
    bodies: dict[str, bytes | None], verdict: Verdict, reason: str, members: str, culprits: str, more: int
) -> None:
    """Two that agree pass and name who contradicts them; none is asked once they do, one more while they do not."""
    found = judge(bodies)
    assert (found.record.verdict, found.record.reason) == (verdict, reason)
    assert ("".join(found.members), "".join(found.record.culprits), found.more) == (members, culprits, more)


def test_the_record_names_everything() -> None:
    """The record has every node's digest, the released answer's, what was counted and how far it reaches."""
    found = judge({"a": BAD, "b": GOOD, "c": GOOD})
    record = found.record
    assert (record.kind, record.statistic, record.threshold, record.tokens) == (Kind.QUORUM, 2.0, 2.0, 10)
    assert {a.name: a.sha256 for a in record.artefacts} == {"a": sha(BAD), "b": sha(GOOD), "c": sha(GOOD)}
    assert (record.request_sha256, record.response_sha256) == (REQUEST, sha(GOOD))
    assert check_of(record).found == "2, 10 tokens, against a"
    assert [(c.a, c.b, c.pair.agreement) for c in found.pairs] == [
        ("a", "b", Agreement.DISAGREE),
        ("a", "c", Agreement.DISAGREE),
        ("b", "c", Agreement.AGREE),
    ]


def test_nothing_is_released_without_a_quorum() -> None:
    """A record that does not pass names no response, and its check is never affirming."""
    found = judge({"a": GOOD, "b": BAD, "c": WORSE})
    assert found.record.response_sha256 is None
    assert check_of(found.record).outcome.value == "contraindicated"


@pytest.mark.parametrize(
    ("operators", "verdict", "reason"),
    [
        ({"a": "x", "b": "x", "c": "x"}, INCONCLUSIVE, "operators_not_distinct"),
        ({"a": "x", "b": "x", "c": "y"}, PASS, "agreed"),
        ({}, INCONCLUSIVE, "operators_not_distinct"),
        ({"a": "x"}, INCONCLUSIVE, "operators_not_distinct"),
        ({"a": "x", "b": ""}, INCONCLUSIVE, "operators_not_distinct"),
    ],
)
def test_operators_are_distinct(operators: dict[str, str], verdict: Verdict, reason: str) -> None:
    """Nodes of one operator count once, and those whose operator is not known not at all."""
    found = judge({"a": GOOD, "b": GOOD, "c": GOOD}, operators)
    assert (found.record.verdict, found.record.reason) == (verdict, reason)


def test_operators_outweigh_numbers() -> None:
    """Three nodes of one operator are less than two nodes of two."""
    bodies = {"a": BAD, "b": BAD, "c": BAD, "d": GOOD, "e": GOOD}
    found = judge(bodies, OWN | {"a": "x", "b": "x", "c": "x"}, Terms(2, 5))
    assert (found.members, found.record.culprits) == (("d", "e"), ("a", "b", "c"))


def test_a_split_is_no_quorum() -> None:
    """Two groups of the same strength that contradict each other decide nothing."""
    found = judge({"a": GOOD, "b": GOOD, "c": BAD, "d": BAD}, terms=Terms(2, 4))
    assert (found.record.verdict, found.record.reason, found.members) == (INCONCLUSIVE, "quorum_split", ())


def test_overlapping_groups_are_no_split() -> None:
    """Two groups that share a node and do not contradict each other are a quorum, the preferred nodes first."""
    near = [entry(f" {w}") for w in TEXT.split()]
    x, y = ([*near, entry(" x", -0.7, **{" y": -0.8})], [*near, entry(" y", -0.7, **{" x": -0.8})])
    short = body(TEXT)  # stops where the others go on: neither agrees nor disagrees
    found = judge({"a": body(x), "b": body(y), "c": short})
    assert (found.members, found.record.tokens, found.record.culprits) == (("a", "b"), 10, ())


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "malformed"),
        (b"\xff", "malformed"),
        (b"{}", "malformed"),
        (body(TEXT, logprobs=None), "logprobs_absent"),
        (body([], message={"content": "x"}), "empty_answer"),
        (body(TEXT, message={"content": "something else"}), "text_not_tokens"),
        (body([entry("\ufffd")], message={"content": "x"}), "spelling_unknown"),
        (body(TEXT, message={"refusal": "no"}), "not_comparable"),
        (None, "timeout"),
    ],
)
def test_missing(bad: bytes | None, reason: str) -> None:
    """What cannot be compared is missing, with its reason, and counts for nothing."""
    found = judge({"a": bad, "b": GOOD})
    assert found.missing == {"a": reason}
    assert (found.record.verdict, found.more) == (INCONCLUSIVE, 1)


def test_an_answer_that_was_not_hashed_is_missing() -> None:
    """An answer without its digest could not be named in the record, so it takes no part."""
    found = judge_quorum([Answer("a", None, GOOD), Answer("b", sha(GOOD), GOOD)], OWN, Terms(), SUBJECT)
    assert found.missing == {"a": "no_answer"}


def tool(arguments: str, **changes: Any) -> bytes:
    call = {"id": "call_1", "type": "function", "function": {"name": "pay", "arguments": arguments}}
    return body("x", logprobs=None, message={"content": None, "tool_calls": [call]}, **changes)


@pytest.mark.parametrize(
    ("a", "b", "form", "verdict"),
    [
        (tool('{"to":"x","sum":1}'), tool('{"sum":1,"to":"x"}'), Form.TEXT, PASS),
        (tool('{"to":"x","sum":1}'), tool('{"to":"x","sum":2}'), Form.TEXT, INCONCLUSIVE),
        (tool("{}"), GOOD, Form.TEXT, INCONCLUSIVE),
        (body('{"a":1}', logprobs=None), body('{ "a": 1 }'), Form.JSON, PASS),
        (body("yes", logprobs=None), body("no"), Form.LABEL, INCONCLUSIVE),
        (body("yes", logprobs=None), body("yes"), Form.LABEL, PASS),
        (body("yes"), body("yes"), Form.TEXT, INCONCLUSIVE),
    ],
)
def test_values_decide_alone(a: bytes, b: bytes, form: Form, verdict: Verdict) -> None:
    """Calls, JSON and labels are compared by value and need no log-probs; one token of text is no agreement."""
    found = judge({"a": a, "b": b}, terms=Terms(2, 2, form=form))
    passed = found.record.verdict is PASS
    assert passed is (verdict is PASS)
    assert found.record.tokens is None


@pytest.mark.parametrize("terms", [Terms(1, 3), Terms(3, 2), Terms(0, 0), Terms(2, 13)])
def test_senseless_terms(terms: Terms) -> None:
    """One node is no quorum, nor are more than are asked, nor a crowd."""
    with pytest.raises(FormatError):
        judge({}, terms=terms)


def test_senseless_answers() -> None:
    """More answers than M, or two from one node, are refused."""
    with pytest.raises(FormatError):
        judge({"a": GOOD, "b": GOOD, "c": GOOD}, terms=Terms(2, 2))
    with pytest.raises(FormatError):
        judge_quorum([Answer("a"), Answer("a")], OWN, Terms(), SUBJECT)


def test_node_names_are_inert() -> None:
    """A node's name comes into the record printable."""
    found = judge({"\x1b[2J": BAD, "": BAD, "c": GOOD}, {})
    assert [a.name for a in found.record.artefacts] == ["\\x1b[2J", "?", "c"]


def test_stop_strings_may_be_missing() -> None:
    """Answers that end before the request's stop string take part; without it they do not spell their text."""
    cut = body(TEXT, message={"content": "".join(f" {word}" for word in TEXT.split()[:-1])})
    assert judge({"a": cut, "b": cut}, terms=Terms(2, 3, stops=(" ten",))).record.verdict is PASS
    assert judge({"a": cut, "b": cut}).record.verdict is not PASS
