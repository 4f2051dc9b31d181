"""The requests that the demo sends, through the openai SDK, and what became of each.

A row's HTTP status and error are what the SDK saw. Verdict, release, reason and node are read from the signed receipt,
which the gateway gives out by the id that stands in every answer, refusals included. Each step says beforehand how it
has to end, so that the demo fails when a gateway does not do what the demo is there to show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import msgspec
import openai

from gateway.errors import FormatError
from gateway.log.dsse import parse_envelope
from gateway.log.receipt import parse_receipt
from gateway.model.receipt import ProofAnswer, Receipt, Rejected

from ._demo_children import NotStarted
from ._demo_world import EMBED, MODEL, SHARED, TAMPERED, VOTED, World

ASK: list[Any] = [{"role": "user", "content": "What is a receipt?"}]
WEATHER: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL: Any = {"type": "function", "function": {"name": "get_weather"}}


class Heard(NamedTuple):
    """What an agent gets out of an answer: the receipt's id, and what was said."""

    receipt: str | None
    said: str


class End(NamedTuple):
    """How a request ended. `reason` is the receipt's, or for a request that was not accepted the error's code."""

    status: int
    verdict: str | None
    release: str | None
    reason: str | None


class Step(NamedTuple):
    """One request, with the key of that name. `end` is how it has to end; `later` how it may when an earlier run left
    the gateway on its guard."""

    title: str
    send: Callable[[openai.OpenAI], Heard]
    end: End
    later: End | None = None
    key: str = "agent"


class Row(msgspec.Struct, frozen=True):
    """What became of one request. `ms` is the SDK's time, from the call to the last byte of the answer."""

    request: str
    status: int
    verdict: str | None
    release: str | None
    reason: str | None
    node: str | None
    receipt: str | None
    ms: float
    said: str
    error: str | None
    code: str | None
    passed_over: tuple[Rejected, ...]
    asked: tuple[ProofAnswer, ...] = ()  #: the nodes of a quorum, and what became of their answers
    expected: End | None = None  #: how it had to end, when it did not


def tell(world: World, *, attached: bool) -> Iterator[tuple[str, Iterator[Row]]]:
    """Send everything, in order: for each part of the story its heading and its rows."""
    with (
        openai.OpenAI(
            base_url=f"{world.url}/v1",
            api_key=world.keys["agent"],
            max_retries=0,  # so that each row is one request
            timeout=60,
            http_client=openai.DefaultHttpxClient(trust_env=False),  # no proxy stands between us and this machine
        ) as sdk,
        httpx.Client(
            base_url=world.url,
            trust_env=False,
            timeout=30,
        ) as http,
    ):
        for heading, steps in STORY:
            yield heading, (_row(step, world.keys[step.key], sdk, http, attached) for step in steps)


def _row(step: Step, key: str, sdk: openai.OpenAI, http: httpx.Client, attached: bool) -> Row:
    began = time.perf_counter()
    status, error, code, refused, heard = 200, None, None, None, Heard(None, "")
    try:
        heard = step.send(sdk.with_options(api_key=key))
    except openai.APIStatusError as caught:
        body = caught.body if isinstance(caught.body, dict) else {}
        status, code, refused = caught.status_code, str(body.get("code")), str(body.get("message"))
        error = type(caught).__name__
        heard = Heard(body.get("receipt"), "")
    except openai.APIError as caught:
        raise NotStarted(f"the gateway did not answer {step.title!r}: {caught}") from caught
    ms = (time.perf_counter() - began) * 1000
    receipt = _receipt(http, key, heard.receipt) if heard.receipt else None
    end = End(status, None, None, code)
    if receipt is not None:
        end = End(status, receipt.verdict.value, receipt.release.value, receipt.reason)
    return Row(
        request=step.title,
        status=status,
        verdict=end.verdict,
        release=end.release,
        reason=end.reason,
        node=receipt.served.node if receipt and receipt.served else None,
        receipt=heard.receipt,
        ms=round(ms, 1),
        said=refused or heard.said,
        error=error,
        code=code,
        passed_over=receipt.route.rejected if receipt else (),
        asked=tuple([answer for part in receipt.proofs for answer in part.answers]) if receipt else (),
        expected=None if end == step.end or (attached and end == step.later) else step.end,
    )


def _receipt(http: httpx.Client, key: str, receipt_id: str) -> Receipt:
    """What the receipt says. Its signature is `veriroute verify`'s matter."""
    try:
        headers = {"authorization": f"Bearer {key}"}
        answer = http.get(f"/v1/receipts/{receipt_id}", headers=headers).raise_for_status()
        return parse_receipt(parse_envelope(answer.content).payload).predicate
    except (httpx.HTTPError, FormatError) as error:
        raise NotStarted(f"the gateway did not give out the receipt {receipt_id}: {error}") from None


# -- the requests -----------------------------------------------------------------------------------------------------


def _id(raw: Any) -> str | None:
    found = raw.headers.get("x-veriroute-receipt")
    return str(found) if found is not None else None


def _chat(model: str, **headers: str) -> Callable[[openai.OpenAI], Heard]:
    def send(sdk: openai.OpenAI) -> Heard:
        raw = sdk.chat.completions.with_raw_response.create(
            model=model, messages=ASK, max_tokens=40, seed=1, extra_headers=headers
        )
        return Heard(_id(raw), raw.parse().choices[0].message.content or "")

    return send


def _stream(sdk: openai.OpenAI) -> Heard:
    raw = sdk.chat.completions.with_raw_response.create(model=MODEL, messages=ASK, max_tokens=40, seed=1, stream=True)
    return Heard(_id(raw), "".join(c.choices[0].delta.content or "" for c in raw.parse() if c.choices))


def _tool(sdk: openai.OpenAI) -> Heard:
    raw = sdk.chat.completions.with_raw_response.create(model=MODEL, messages=WEATHER, tools=[TOOL], tool_choice=CALL)
    calls: Any = raw.parse().choices[0].message.tool_calls
    return Heard(_id(raw), f"{calls[0].function.name}({calls[0].function.arguments})")


def _tool_stream(sdk: openai.OpenAI) -> Heard:
    raw = sdk.chat.completions.with_raw_response.create(
        model=MODEL, messages=WEATHER, tools=[TOOL], tool_choice=CALL, stream=True
    )
    name, arguments = "", ""
    for chunk in raw.parse():
        for call in (chunk.choices[0].delta.tool_calls or ()) if chunk.choices else ():
            if call.function is not None:
                name += call.function.name or ""
                arguments += call.function.arguments or ""
    return Heard(_id(raw), f"{name}({arguments})")


def _embedding(sdk: openai.OpenAI) -> Heard:
    raw = sdk.embeddings.with_raw_response.create(model=EMBED, input="What is a receipt?")
    vector = raw.parse().data[0].embedding
    return Heard(_id(raw), f"{len(vector)} numbers, from {vector[0]:.4f}")


def _response(sdk: openai.OpenAI) -> Heard:
    raw = sdk.responses.with_raw_response.create(model=MODEL, input="What is a log?", max_output_tokens=40)
    return Heard(_id(raw), raw.parse().output_text)


_GOOD = End(200, "affirming", "released", None)
_QUARANTINED = End(503, "none", "refused", "quarantined")
STORY: tuple[tuple[str, tuple[Step, ...]], ...] = (
    (
        "honest nodes: each answer is signed for its request, checked, recorded, and only then released",
        (
            Step("chat", _chat(MODEL), _GOOD),
            Step("chat, streamed", _stream, _GOOD),
            Step("tool call", _tool, _GOOD),
            Step("tool call, streamed", _tool_stream, _GOOD),
            Step("embeddings", _embedding, _GOOD),
            Step("responses", _response, _GOOD),
        ),
    ),
    (
        "a node that changes its answer after signing it",
        (
            Step(
                "tampered-lm",
                _chat(TAMPERED),
                End(502, "contraindicated", "withheld", "response_bound"),
                _QUARANTINED,
            ),
            Step("tampered-lm again", _chat(TAMPERED), _QUARANTINED),
            Step("shared-lm", _chat(SHARED), _GOOD),
        ),
    ),
    (
        "the same three as nodes that sign nothing: two operators have to give the same answer",
        (Step("voted-lm", _chat(VOTED), _GOOD, key="voter"),),
    ),
    (
        "a caller may ask for more than its key's policy demands, and never for less",
        (
            Step(
                "policy strict",
                _chat(MODEL, **{"x-veriroute-policy": "strict"}),
                End(503, "none", "refused", "tee_attested"),
            ),
            Step(
                "policy observe", _chat(MODEL, **{"x-veriroute-policy": "observe"}), End(400, None, None, "bad_request")
            ),
        ),
    ),
)
