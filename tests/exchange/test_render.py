"""What we add to answers."""

from __future__ import annotations

import json

import pytest

from gateway.exchange.render import (
    Verification,
    VerificationPolicy,
    claims_map,
    executed_in,
    splice,
    verification_event,
)
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
    ("endpoint", "kind"),
    [
        ("/v1/chat/completions", "chat.completion.chunk"),
        ("/v1/completions", "text_completion"),
        ("/v1/responses", None),
        ("/v1/messages", None),
    ],
)
def test_the_event_has_the_form_of_its_api(endpoint: str, kind: str | None) -> None:
    """Nameless streams get a chunk without choices, named ones an event of our own name."""
    data = verification_event(endpoint, None, "m", VERIFICATION)
    document = json.loads(data.split(b"data: ", 1)[1])
    assert document["verification"]["verdict"] == "affirming"
    assert (document.get("object"), document.get("choices")) == (kind, [] if kind else None)
    assert data.startswith(b"event: veriroute.verification\n") is (kind is None)


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
