"""Reading request members strictly: right type, within its range, or a 400 that names the member."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters.selfhosted.lm.engine import ContextTooLong, Tool
from adapters.selfhosted.lm.generate import Limits
from adapters.selfhosted.lm.model import CONTEXT
from adapters.selfhosted.lm.sampling import Sampling
from adapters.selfhosted.lm.score import MOST
from gateway.errors import BadRequest

Document = Mapping[str, Any]


def number(d: Document, name: str, default: float, low: float, high: float) -> float:
    value = d.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadRequest(f"{name} must be a number from {low:g} to {high:g}", param=name)
    return float(value)


def integer(d: Document, name: str, default: int, low: int, high: int) -> int:
    value = d.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadRequest(f"{name} must be an integer from {low} to {high}", param=name)
    return value


def flag(d: Document, name: str) -> bool:
    value = d.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"{name} must be true or false", param=name)
    return bool(value)


def text(d: Document, name: str, where: str = "") -> str:
    value = d.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"{where}{name} must be a string", param=f"{where}{name}")
    return value


def items(d: Document, name: str, most: int = 10_000) -> list[Any]:
    value = d.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > most:
        raise BadRequest(f"{name} must be a list of at most {most}", param=name)
    return value


def mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{name} must be an object", param=name)
    return value


def stops(d: Document, name: str = "stop") -> tuple[str, ...]:
    value = d.get(name)
    found = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(found, list) or len(found) > 16 or not all(isinstance(s, str) and s for s in found):
        raise BadRequest(f"{name} must be a text or a list of at most 16 texts", param=name)
    return tuple(found)


def sampling(d: Document) -> Sampling:
    """Temperature 0.3 unless asked otherwise: a small model wanders at 1."""
    seed = d.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise BadRequest("seed must be an integer", param="seed")
    bias: dict[int, float] = {}
    for key, value in mapping(d.get("logit_bias") or {}, "logit_bias").items():
        is_token = key.isdecimal() and len(key) <= 4 and int(key) < 1024  # the length first: `int` refuses thousands
        if not is_token or not isinstance(value, int | float):
            raise BadRequest("logit_bias maps token numbers of this model (0 to 1023) to numbers", param="logit_bias")
        bias[int(key)] = float(value)
    return Sampling(
        temperature=number(d, "temperature", 0.3, 0, 2),
        top_p=number(d, "top_p", 1, 0, 1),
        seed=seed,
        presence_penalty=number(d, "presence_penalty", 0, -2, 2),
        frequency_penalty=number(d, "frequency_penalty", 0, -2, 2),
        bias=bias,
    )


def limits(
    d: Document, *names: str, top: int = -1, stop: str = "stop", default: int = 512, least: int = 1, ids: bool = False
) -> Limits:
    name = next((n for n in names if d.get(n) is not None), names[0])
    return Limits(integer(d, name, default, least, 1_000_000), stops(d, stop), top, list_end=ids)


def token_ids(value: object, name: str, vocabulary: int) -> list[int]:
    """A list of 1 to `CONTEXT` numbers of tokens, special ones too. More of them are `context_length_exceeded`."""
    if not isinstance(value, list) or not value:
        raise BadRequest(f"{name} must be a list of at least one token number", param=name)
    if len(value) > CONTEXT:
        raise ContextTooLong(f"{name} has {len(value)} tokens; this model's context is {CONTEXT}", param=name)
    if not all(type(token) is int and 0 <= token < vocabulary for token in value):
        raise BadRequest(f"{name} must hold token numbers of this model, 0 to {vocabulary - 1}", param=name)
    return value


@dataclass(frozen=True)
class Extras:
    """What is asked for beyond an answer: `scored` likely tokens for each place of the prompt (below 0, none), the
    numbers of all tokens, and TOPLOC proofs."""

    scored: int
    ids: bool
    toploc: bool


def extras(d: Document, n: int) -> Extras:
    found = Extras(integer(d, "prompt_logprobs", -1, 0, MOST), flag(d, "return_token_ids"), flag(d, "toploc"))
    if found.scored >= 0 and flag(d, "stream"):
        raise BadRequest("prompt_logprobs does not go with stream", param="prompt_logprobs")
    for name, asked in (("prompt_logprobs", found.scored >= 0), ("toploc", found.toploc)):
        if asked and n != 1:
            raise BadRequest(f"{name} is for one choice: n must be 1", param=name)
    return found


def content(value: object, where: str) -> str:
    """The text of a message's content: a string, or a list of text parts. Other kinds of parts are refused."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise BadRequest(f"{where} must be a string or a list of parts", param=where)
    texts = []
    for part in value:
        part = mapping(part, where)
        if part.get("type") not in ("text", "input_text", "output_text", "refusal", "summary_text"):
            raise BadRequest(f"{where}: this model reads text only, not {part.get('type')!r:.40}", param=where)
        texts.append(text(part, "refusal" if part["type"] == "refusal" else "text", f"{where}."))
    return "\n".join(texts)


def tool(name: object, parameters: object, where: str) -> Tool:
    if not isinstance(name, str) or not name or len(name) > 128:
        raise BadRequest(f"{where}: a tool needs a name", param=where)
    return Tool(name, mapping(parameters or {}, f"{where}.parameters"))


def call_text(name: str, arguments: str) -> str:
    """How a call is written in the model's conversation. Arguments that are no JSON, or nested too deep, stay text."""
    try:
        return json.dumps({"name": name, "arguments": json.loads(arguments or "{}")}, ensure_ascii=False)
    except (ValueError, RecursionError):
        return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
