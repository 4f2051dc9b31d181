"""What OpenGradient would not do of a request is named, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.exchange.opengradient_request import left_out

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
PLAIN: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0.5}


def dropped(**more: Any) -> tuple[str, ...]:
    return left_out(CHAT, json.dumps({**PLAIN, **more}).encode()).dropped


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"max_tokens": 5, "tools": [], "response_format": {"type": "json_object"}, "web_search": True, "stream": True},
        {"n": 1, "top_p": 1, "presence_penalty": 0.0, "logprobs": False, "tool_choice": "auto", "seed": None},
        {"stream_options": {"include_usage": True}, "provider": {"aci_verified": True}, "stop": []},
        {"messages": [{"role": "function", "name": "f", "content": "x"}, "no object"]},
    ],
)
def test_what_the_network_does_and_what_asks_for_nothing(more: dict[str, Any]) -> None:
    """Members that it reads, and those whose value is the API's own default, are no loss."""
    assert dropped(**more) == ()


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"top_p": 0.5}, ("top_p",)),
        ({"n": 2}, ("n",)),
        ({"n": True}, ("n",)),  # not the number 1
        ({"logprobs": 0}, ("logprobs",)),  # not false
        ({"seed": 0}, ("seed",)),
        ({"stop": ["a"], "max_completion_tokens": 1}, ("max_completion_tokens", "stop")),
        ({"tool_choice": "none"}, ("tool_choice",)),
        ({"unheard_of": 1}, ("unheard_of",)),
        ({"stream_options": {"include_usage": True, "more": 1}}, ("stream_options",)),
        ({"messages": [{"role": "user", "name": "bob", "content": "x"}] * 2}, ("messages.name",)),
    ],
)
def test_what_would_be_dropped_or_changed(more: dict[str, Any], names: tuple[str, ...]) -> None:
    """Each such member is named once, in order."""
    assert dropped(**more) == names


def test_defaults_that_are_not_the_apis_are_told() -> None:
    """An absent temperature is 0 for a chat; for a completion it is 1, as the API has it, and null is 0."""
    chat = {name: value for name, value in PLAIN.items() if name != "temperature"}
    assert left_out(CHAT, json.dumps(chat).encode()).defaulted == ("temperature=0.0",)
    assert left_out(CHAT, json.dumps(PLAIN).encode()).defaulted == ()
    assert left_out(COMPLETIONS, b'{"model":"m","prompt":"x"}').defaulted == ()
    null = b'{"model":"m","prompt":"x","temperature":null}'
    assert left_out(COMPLETIONS, null).defaulted == ("temperature=0.0",)
    assert left_out("/v1/embeddings", null).defaulted == ()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a":1,"a":2}'])
def test_a_body_that_is_no_request_loses_nothing(body: bytes) -> None:
    """What cannot be read is refused elsewhere."""
    assert left_out(CHAT, body) == left_out(CHAT, b"[]")


def test_messages_that_are_no_list_are_left_to_the_node() -> None:
    """Only what is there is looked at."""
    assert dropped(messages="x") == ()
