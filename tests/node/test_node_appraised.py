"""The gateway's own readers and appraisal, over what a real node sends: every check that applies is affirming."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import httpx
import pytest
from node_kit import MODEL, NONCE, Running, ask

from gateway.exchange.answer import read_answer
from gateway.exchange.head import parse_head
from gateway.exchange.stream import StreamReader, Wire
from gateway.model.node import AttestedSession, Node
from gateway.model.verdict import Outcome
from gateway.verify import aci
from gateway.verify.appraise import appraise_node, attested_session
from gateway.verify.response import Exchanged, appraise_response

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = [{"role": "user", "content": "What is the weather in Rome?"}]
EMBEDDINGS = "/v1/embeddings"
CASES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": WEATHER, "n": 2, "stream_options": {"include_usage": True}}),
    (
        "/v1/chat/completions",
        {
            "messages": WEATHER,
            "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}],
        },
    ),
    ("/v1/completions", {"prompt": "A log"}),
    ("/v1/responses", {"input": "Hello"}),
    (
        "/v1/responses",
        {
            "input": "What is the weather in Rome?",
            "tools": [{"type": "function", "name": "get_weather", "parameters": SCHEMA}],
        },
    ),
    ("/v1/messages", {"max_tokens": 40, "messages": WEATHER}),
    (
        "/v1/messages",
        {"max_tokens": 40, "messages": WEATHER, "tools": [{"name": "get_weather", "input_schema": SCHEMA}]},
    ),
    (EMBEDDINGS, {"input": "x", "model": "veriroute-embed-1"}),
]


@pytest.fixture(scope="module")
def session(honest: Running) -> AttestedSession:
    document = httpx.get(f"{honest.url}/v1/aci/attestation", params={"nonce": NONCE}, trust_env=False).content
    node = Node("n", "selfhosted", honest.url, (MODEL,), pin=honest.pin)
    result, report = appraise_node(node, document, None, NONCE, now=time.time(), spki=None, tls=False)
    assert report is not None
    return attested_session(node, report, result, evidence_digest="0" * 64, established=time.time(), lifetime_s=600)


@pytest.mark.parametrize(
    ("path", "change", "stream"),
    [(path, change, stream) for path, change in CASES for stream in (False, True) if path != EMBEDDINGS or not stream],
)
def test_appraised_affirming(
    honest: Running, session: AttestedSession, path: str, change: dict[str, Any], stream: bool
) -> None:
    """Answers of every API, whole and streamed, with text and with calls, pass the gateway's appraisal."""
    body = {"model": MODEL, **change, **({"stream": True} if stream else {})}
    answer = ask(honest.url, body, path, chained=True)
    head = parse_head(path, answer.request)
    if stream:
        reader = StreamReader(head, Wire(b"aci.receipt", b"aci.chain"), bytes(32), max_event=1 << 20)
        reader.feed(answer.body)
        assert reader.finish() is None
        assert reader.receipt is not None
        sealed, digest, seen = (
            aci.parse_receipt(aci.decode_inline(reader.receipt)),
            reader.covered_sha256,
            reader.observation(),
        )
    else:
        assert answer.receipt is not None
        sealed, digest, seen = (
            answer.receipt,
            hashlib.sha256(answer.body).hexdigest(),
            read_answer(head, answer.body)[0],
        )
    exchanged = Exchanged(hashlib.sha256(answer.request).hexdigest(), digest, NONCE, str(body["model"]), path)
    result = appraise_response(session, sealed, None, exchanged, seen, now=time.time(), skew_s=60)
    assert len(result.checks) >= 14
    for check in result.checks:
        expected = Outcome.NONE if check.reason in ("not_a_stream", "no_calls") else Outcome.AFFIRMING
        assert check.outcome is expected, check
    if "tools" in change:
        assert [json.loads(call.arguments or "") for call in seen.calls] == [{"city": "Rome"}]
