"""Asking a trusted reference what it thinks of given tokens: prompt and answer in one prefill.

The prompt's tokens are the reference's own reading of the request, never the node's word for it: a node could answer
another prompt and say so. The texts of the answer's tokens are the reference's too, for the same reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.errors import FormatError
from gateway.verify.proofs.answer import prompt_token_ids, read_object
from gateway.verify.proofs.reference import Reexecuted, read_reference

from ._proof_server import Server

#: As many as the reference node tells, and vLLM unless it is told otherwise.
LIKELIEST = 20
#: Members of a request that decide which tokens its prompt has.
_OF_PROMPT = (
    "model", "messages", "prompt", "tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message",
)  # fmt: skip


class Prompt(msgspec.Struct, frozen=True):
    """A request as the reference reads it: the prompt's token ids, and what it says of its own build."""

    ids: tuple[int, ...]
    fingerprint: str | None


def read_prompt(server: Server, request: Mapping[str, Any]) -> Prompt:
    """The tokens that the reference reads for `request`, a chat or completions body.

    Raises `ServiceError` when it does not answer, `FormatError` with the reason reference_incomplete when it does not
    tell (`return_token_ids`).
    """
    asked = {name: request[name] for name in _OF_PROMPT if name in request}
    asked |= {"return_token_ids": True, "max_tokens": 1, "temperature": 0, "stream": False}
    path = "/v1/completions" if "prompt" in request else "/v1/chat/completions"
    document = read_object(server.post(path, asked))
    listed = prompt_token_ids(document)
    if listed is None:
        raise FormatError("the reference tells no prompt_token_ids", reason="reference_incomplete")
    fingerprint = document.get("system_fingerprint")
    return Prompt(listed, fingerprint if isinstance(fingerprint, str) else None)


def rescore(server: Server, model: str, prompt: Sequence[int], answer: Sequence[int]) -> tuple[Reexecuted, bytes]:
    """The reference's scores for `answer` after `prompt`, and the body that tells them. Raises as `read_prompt`."""
    asked = {
        "model": model,
        "prompt": [*prompt, *answer],
        "prompt_logprobs": LIKELIEST,
        "max_tokens": 1,
        "temperature": 0,
    }
    body = server.post("/v1/completions", asked)
    return read_reference(body, prompt, answer), body


def activations(server: Server, model: str, prompt: Sequence[int], answer: Sequence[int]) -> bytes:
    """The body in which the reference tells the TOPLOC activations of these tokens. Raises `ServiceError`."""
    asked = {"model": model, "prompt_token_ids": list(prompt), "token_ids": list(answer)}
    return server.post("/v1/toploc/activations", asked)
