"""What a reference is asked, and how its reading of a prompt is understood."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import FormatError
from gateway.verify.proofs.ask import (
    Prompt,
    ask_activations,
    ask_continuation,
    ask_prompt,
    ask_scores,
    read_prompt,
)

MESSAGES = [{"role": "user", "content": "a"}]
CHAT: dict[str, Any] = {"model": "m", "messages": MESSAGES, "temperature": 0.7, "n": 2, "user": "u", "stream": True}


def test_the_prompt() -> None:
    """What decides over the prompt's tokens is passed on, and nothing else of the request."""
    asked = ask_prompt(CHAT | {"tools": [1], "chat_template_kwargs": {"a": 1}, "max_tokens": 900, "stop": "x"})
    assert asked.path == "/v1/chat/completions"
    assert asked.document == {
        "model": "m", "messages": MESSAGES, "tools": [1], "chat_template_kwargs": {"a": 1}, "return_token_ids": True,
        "max_tokens": 1, "temperature": 0, "stream": False,
    }  # fmt: skip
    assert ask_prompt({"model": "m", "prompt": "a"}).path == "/v1/completions"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"prompt_token_ids": [1, 2], "system_fingerprint": "b"}, Prompt((1, 2), "b")),
        ({"choices": [{"prompt_token_ids": [1]}], "system_fingerprint": 5}, Prompt((1,), None)),
    ],
)
def test_the_prompt_as_it_is_read(document: object, expected: Prompt) -> None:
    """Token ids stand at the top or in the choice; a build that is no text is not told."""
    assert read_prompt(json.dumps(document).encode()) == expected


@pytest.mark.parametrize("body", [b"{}", b'{"prompt_token_ids":[]}', b'{"prompt_token_ids":[-1]}', b"[]", b"{"])
def test_a_prompt_that_is_not_told(body: bytes) -> None:
    """Without the prompt's tokens there is nothing to score after."""
    with pytest.raises(FormatError):
        read_prompt(body)


def test_scores_and_activations() -> None:
    """Prompt and answer go as one list to be scored, as two to be computed."""
    scores = ask_scores("m", (1, 2), (3,), 5)
    assert (scores.path, scores.document["prompt"], scores.document["prompt_logprobs"]) == ("/v1/completions", [1, 2, 3], 5)  # fmt: skip
    states = ask_activations("m", (1, 2), (3,))
    assert states.document == {"model": "m", "prompt_token_ids": [1, 2], "token_ids": [3]}


def test_a_continuation() -> None:
    """The answer's first characters stand open at the end of the conversation."""
    asked = ask_continuation(CHAT | {"add_generation_prompt": True}, "Once", 8).document
    assert asked["messages"] == [*MESSAGES, {"role": "assistant", "content": "Once"}]
    assert (asked["continue_final_message"], asked["add_generation_prompt"]) == (True, False)
    assert (asked["temperature"], asked["max_tokens"], asked["n"], asked["stream"]) == (0, 8, 1, False)
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 5)
    assert "user" not in asked


def test_a_continuation_from_nothing() -> None:
    """Cut before its first token, an answer is asked for anew."""
    asked = ask_continuation(CHAT, "", 8).document
    assert asked["messages"] == MESSAGES
    assert "continue_final_message" not in asked


@pytest.mark.parametrize("request_", [{"prompt": "a"}, {"messages": "a"}, CHAT | {"continue_final_message": True}])
def test_what_cannot_be_continued(request_: dict[str, Any]) -> None:
    """A request without messages, or whose answer was begun already, is not continued."""
    with pytest.raises(FormatError) as caught:
        ask_continuation(request_, "Once", 8)
    assert caught.value.reason == "sampling_unsupported"
