"""What of a reference's word about an answer is missing or cannot be read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proofs_kit import body, entry

from gateway.verify.proofs import distance, reexec, rescored
from gateway.verify.proofs.ask import Prompt
from gateway.verify.proofs.calibration import Statistic
from gateway.verify.proofs.claim import Claim
from gateway.verify.proofs.evidence import Kind, Verdict
from gateway.verify.proofs.rescored import Exchange, Word, read_exchange
from gateway.verify.proofs.toploc_wire import Stated

TEXT = " ".join(f"w{number}" for number in range(20))
IDS = list(range(20))
WORDS = [entry(f" {word}", -0.1, other=-2.5) for word in TEXT.split()]
GREEDY = Claim(Statistic.GREEDY_MARGIN)
OPEN, ABSENT = Verdict.INCONCLUSIVE, Verdict.ABSENT


def exchange(request: object = None, **changes: Any) -> Exchange:
    return read_exchange(
        json.dumps(request or {"temperature": 0}).encode(), body(WORDS, **({"token_ids": IDS} | changes))
    )


def scores(*, texts: bool = True) -> bytes:
    words = [f" {word}" for word in TEXT.split()]
    rows = [{str(i): {"logprob": -0.1} | ({"decoded_token": words[i]} if texts else {})} for i in IDS]
    return json.dumps({"prompt_logprobs": [None, *rows]}).encode()


def word(**changes: Any) -> Word:
    return Word("ref", Prompt((7,), "build"), **({"scores": scores()} | changes))


def judged(found: Exchange, said: Word) -> dict[Kind, tuple[Verdict, str | None]]:
    """The records of all three kinds, TOPLOC by proofs that never hold."""
    records = (
        rescored.judge_margins(found, said, GREEDY, None, reexec.Terms(), "m"),
        rescored.judge_logprobs(found, said, None, distance.Terms(), "m"),
        rescored.judge_states(found, Stated(True, ()), said, None, "m"),
    )
    return {record.kind: (record.verdict, record.reason) for record in records}


@pytest.mark.parametrize(
    ("changes", "reexec_", "logprob", "toploc"),
    [
        ({"scores": None, "scores_problem": "reference_timeout"}, *[(OPEN, "reference_timeout")] * 3),
        ({"scores": None, "scores_problem": "tokens_refused"}, *[(ABSENT, "tokens_refused")] * 3),
        ({"scores": b"{"}, *[(OPEN, "reference_malformed")] * 3),
        ({"scores": b"{}"}, *[(OPEN, "reference_incomplete")] * 3),
        ({"activations_problem": "reference_timeout"}, (OPEN, "not_calibrated"), None, (OPEN, "reference_timeout")),
        ({"activations": b"{}"}, (OPEN, "not_calibrated"), None, (OPEN, "toploc_activations")),
        ({"scores": scores(texts=False)}, *[(OPEN, "spelling_unknown")] * 2, None),
    ],
)  # fmt: skip
def test_what_a_reference_did_not_bring(changes: dict[str, Any], reexec_: Any, logprob: Any, toploc: Any) -> None:
    """Its reason stands in the record of each kind that needs it, and in no other."""
    found = judged(exchange(), word(**changes))
    for kind, expected in ((Kind.REEXEC, reexec_), (Kind.LOGPROB, logprob), (Kind.TOPLOC, toploc)):
        assert expected is None or found[kind] == expected
        assert found[kind][0] is not Verdict.PASS or kind is Kind.LOGPROB


def test_log_probs_that_are_not_there() -> None:
    """Without the node's log-probs there is nothing to compare."""
    assert judged(exchange(logprobs=None), word())[Kind.LOGPROB] == (ABSENT, "logprobs_absent")


@pytest.mark.parametrize("request_", [b"", b"[]", b"{", b"\xff", b'{"a":1}'])
@pytest.mark.parametrize(
    "response", [b"", b"[]", b'{"choices":[{"token_ids":[-1]}]}', b'{"choices":[{"token_ids":{}}]}']
)
def test_bodies_that_are_none(request_: bytes, response: bytes) -> None:
    """Whatever the bodies are, there is an exchange with its digests, and it is malformed."""
    found = read_exchange(request_, response)
    assert found.problem == "malformed"
    assert found.ids == ()
    assert rescored.unjudged(found, Kind.REEXEC, "malformed").verdict is ABSENT


@given(st.binary(max_size=80), st.binary(max_size=80) | st.just(body(WORDS, token_ids=IDS)), st.binary(max_size=80))
def test_bytes_of_anybody(request_: bytes, response: bytes, said: bytes) -> None:
    """Of any bytes comes a record, and none of them passes."""
    found = judged(read_exchange(request_, response), word(scores=said, activations=said))
    assert all(verdict is not Verdict.PASS for verdict, _ in found.values())
