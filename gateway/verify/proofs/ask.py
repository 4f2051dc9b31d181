"""What a trusted reference is asked about given tokens, and how its reading of the prompt is understood.

 1. the prompt        the request, as the agent wrote it, for one token more: which token ids has its prompt?
 2. the scores        prompt and answer as one list of token ids: what did you think of each?
 3. the activations   the same two lists: what are your hidden states? (TOPLOC)
 4. a continuation    where the reference has only chat: go on from here

The prompt's tokens are the reference's own reading of the request, never the node's word for it: a node could answer
another prompt and say so. The texts of the answer's tokens are the reference's too, for the same reason. The members
are vLLM's (`return_token_ids`, `prompt_logprobs`, `continue_final_message`); 3 is docs/node-profile.md's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from gateway.errors import FormatError

from .answer import prompt_token_ids, read_object

#: As many as the reference node tells, and vLLM unless it is told otherwise.
LIKELIEST = 20
#: Alternatives to each token that a near-tie is looked for among.
ALTERNATIVES = 5
CHAT, COMPLETIONS, ACTIVATIONS = "/v1/chat/completions", "/v1/completions", "/v1/toploc/activations"
#: Members of a request that decide which tokens its prompt has.
_OF_PROMPT = (
    "model", "messages", "prompt", "tools", "tool_choice", "functions", "documents", "reasoning_effort",
    "chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message", "add_special_tokens",
)  # fmt: skip


class Ask(msgspec.Struct, frozen=True):
    """One POST to a reference: the path, and the members of its body."""

    path: str
    document: Mapping[str, object]


class Prompt(msgspec.Struct, frozen=True):
    """A request as the reference reads it: the prompt's token ids, and what it says of its own build."""

    ids: tuple[int, ...]
    fingerprint: str | None


def ask_prompt(request: Mapping[str, object]) -> Ask:
    """How the reference reads `request`, a chat or completions body."""
    asked = {name: request[name] for name in _OF_PROMPT if name in request}
    asked |= {"return_token_ids": True, "max_tokens": 1, "temperature": 0, "stream": False}
    return Ask(COMPLETIONS if "prompt" in request else CHAT, asked)


def read_prompt(body: bytes) -> Prompt:
    """What the answer to `ask_prompt` tells. Raises `FormatError`, with the reason reference_incomplete when it does
    not tell the prompt's tokens."""
    document = read_object(body)
    listed = prompt_token_ids(document)
    if listed is None:
        raise FormatError("the reference tells no prompt_token_ids", reason="reference_incomplete")
    fingerprint = document.get("system_fingerprint")
    return Prompt(listed, fingerprint if isinstance(fingerprint, str) else None)


def ask_scores(model: str, prompt: Sequence[int], answer: Sequence[int], likeliest: int = LIKELIEST) -> Ask:
    """The scores of `answer` after `prompt`, and of the `likeliest` tokens at each place (`reference.read_reference`).

    A greedy margin needs the likeliest one alone, a twentieth of the bytes.
    """
    asked = {
        "model": model,
        "prompt": [*prompt, *answer],
        "prompt_logprobs": likeliest,
        "max_tokens": 1,
        "temperature": 0,
    }
    return Ask(COMPLETIONS, asked)


def ask_activations(model: str, prompt: Sequence[int], answer: Sequence[int]) -> Ask:
    """The TOPLOC activations of these tokens (`toploc_wire.read_activations`)."""
    return Ask(ACTIVATIONS, {"model": model, "prompt_token_ids": list(prompt), "token_ids": list(answer)})


def ask_continuation(request: Mapping[str, object], begun: str, tokens: int) -> Ask:
    """How a chat `request` goes on at temperature 0 from `begun`, the answer's first characters, for `tokens` tokens.

    Nothing but what is said to the model is taken over from the request. An empty `begun` is the answer's beginning.
    Raises `FormatError`, reason sampling_unsupported, for a request whose last message is itself an answer begun.
    """
    messages = request.get("messages")
    if not isinstance(messages, list) or request.get("continue_final_message"):
        raise FormatError("the request is no chat, or already continues an answer", reason="sampling_unsupported")
    asked = {name: request[name] for name in _OF_PROMPT if name in request and name != "add_generation_prompt"}
    if begun:
        asked["messages"] = [*messages, {"role": "assistant", "content": begun}]
        asked |= {"continue_final_message": True, "add_generation_prompt": False}
    asked |= {"temperature": 0, "max_tokens": tokens, "stream": False, "n": 1}
    return Ask(CHAT, asked | {"logprobs": True, "top_logprobs": ALTERNATIVES})
