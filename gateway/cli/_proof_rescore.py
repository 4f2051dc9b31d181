"""Asking a trusted reference what it thinks of given tokens (`gateway.verify.proofs.ask`), one question at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.verify.proofs import ask
from gateway.verify.proofs.ask import Prompt
from gateway.verify.proofs.reference import Reexecuted, read_reference

from ._proof_server import Server


def read_prompt(server: Server, request: Mapping[str, object]) -> Prompt:
    """The tokens that the reference reads for `request`, a chat or completions body.

    Raises `ServiceError` when it does not answer, `FormatError` with the reason reference_incomplete when it does not
    tell (`return_token_ids`).
    """
    return ask.read_prompt(_post(server, ask.ask_prompt(request)))


def rescore(server: Server, model: str, prompt: Sequence[int], answer: Sequence[int]) -> tuple[Reexecuted, bytes]:
    """The reference's scores for `answer` after `prompt`, and the body that tells them. Raises as `read_prompt`."""
    body = _post(server, ask.ask_scores(model, prompt, answer))
    return read_reference(body, prompt, answer), body


def activations(server: Server, model: str, prompt: Sequence[int], answer: Sequence[int]) -> bytes:
    """The body in which the reference tells the TOPLOC activations of these tokens. Raises `ServiceError`."""
    return _post(server, ask.ask_activations(model, prompt, answer))


def _post(server: Server, question: ask.Ask) -> bytes:
    return server.post(question.path, question.document)
