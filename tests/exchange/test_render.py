"""What we add to answers."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gateway.exchange.render import (
    Verification,
    VerificationPolicy,
    claims_map,
    executed_in,
    splice,
    stream_end,
)
from gateway.exchange.sse import Framer, format_event
from gateway.model.verdict import Claim

VERIFICATION = Verification(
    verdict="affirming", level="logged", policy=VerificationPolicy("p", "d"), release="released", receipt="01X"
)


@pytest.mark.parametrize("body", [b"{}", b"{ }", b'{"a":1}', b'{"a":{"b":"}"}} ', b'{"a":1}\n'])
def test_the_member_is_spliced_in_last(body: bytes) -> None:
    """The body keeps its bytes, takes one member at its end and stays one JSON object."""
    found = splice(body, VERIFICATION)
    assert list(json.loads(found)) == [*json.loads(body), "verification"]
    assert found.startswith(body[: body.rindex(b"}")])
    assert json.loads(found)["verification"]["receipt"] == "01X"


@pytest.mark.parametrize(
    ("endpoint", "kind"), [("/v1/chat/completions", "chat.completion.chunk"), ("/v1/completions", "text_completion")]
)
def test_a_stream_of_chunks_gets_one_more(endpoint: str, kind: str) -> None:
    """Nameless streams get a chunk without choices before their terminator."""
    data = stream_end(endpoint, None, "m", VERIFICATION, b"data: [DONE]\n\n")
    chunk, end = data.split(b"\n\n", 1)
    document = json.loads(chunk.removeprefix(b"data: "))
    assert document["verification"]["verdict"] == "affirming"
    assert (document["object"], document["choices"]) == (kind, [])
    assert end == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("endpoint", "data"),
    [
        ("/v1/responses", {"type": "response.completed", "response": {"metadata": {"a": "}"}}, "sequence_number": 7}),
        ("/v1/responses", {"response": {"status": "incomplete"}, "type": "response.incomplete"}),
        ("/v1/messages", {"type": "message_stop"}),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_stream_of_typed_events_gets_no_event_of_ours(endpoint: str, data: dict[str, Any], named: bool) -> None:
    """Clients refuse types that they do not know, so the last event takes the member, and keeps its other bytes."""
    end = format_event(json.dumps(data).encode(), data["type"].encode() if named else b"")
    found = stream_end(endpoint, "id", "m", VERIFICATION, end)
    (block,) = Framer(10_000).feed(found)
    assert block.plain
    document = json.loads(block.data or b"")
    assert document == data | {"verification": document["verification"]}
    assert document["verification"]["receipt"] == "01X"
    member = b',"verification":' + msgspec.json.encode(VERIFICATION)
    assert found.replace(member, b"") == end


def test_claims_by_name() -> None:
    """Claims are shown by name with their status."""
    assert claims_map((Claim("a", "asserted"), Claim("b", "unknown"))) == {"a": "asserted", "b": "unknown"}


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({}, "unknown"),
        ({"executed_in_tee": "asserted"}, "tee"),
        ({"executed_in_tee": "refuted"}, "ordinary machine"),
        ({"executed_in_tee": "refuted", "tee_attested": "asserted"}, "provider behind a tee"),
    ],
)
def test_where_it_ran_is_said_in_words(claims: dict[str, str], words: str) -> None:
    """The words follow from two claims."""
    assert executed_in(claims) == words
