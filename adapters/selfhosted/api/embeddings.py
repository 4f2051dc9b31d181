"""POST /v1/embeddings. The openai SDK asks for base64 (float32, little endian) unless told otherwise."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from adapters.selfhosted.lm.embed import DIMENSIONS
from adapters.selfhosted.lm.engine import ContextTooLong, Engine
from adapters.selfhosted.lm.model import CONTEXT
from gateway.errors import BadRequest

from . import fields
from .writer import encode

_MOST = 2048


def respond(d: fields.Document, engine: Engine, label: str) -> Iterator[bytes]:
    """The body, once; a generator so that it runs in a worker like every other answer."""
    form = d.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise BadRequest("encoding_format must be float or base64", param="encoding_format")
    dimensions = fields.integer(d, "dimensions", DIMENSIONS, 1, DIMENSIONS)
    data, total = [], 0
    for index, text in enumerate(_inputs(d.get("input"), engine)):
        engine.admit([text], 2 * CONTEXT, "input")
        count = engine.count(text)
        if count > 2 * CONTEXT:
            raise ContextTooLong(f"input[{index}] has {count} tokens; the most is {2 * CONTEXT}", param="input")
        total += count
        vector = engine.embed(text, dimensions)
        value: Any = vector.tolist()
        if form == "base64":
            value = base64.b64encode(vector.astype("<f4").tobytes()).decode()
        data.append({"object": "embedding", "index": index, "embedding": value})
    usage = {"prompt_tokens": total, "total_tokens": total}
    yield encode({"object": "list", "data": data, "model": label, "usage": usage})


def _inputs(value: object, engine: Engine) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value or len(value) > _MOST:
        raise BadRequest(f"input must be a text or a list of 1 to {_MOST}", param="input")
    if all(isinstance(v, str) for v in value):
        return value
    groups = [value] if all(isinstance(v, int) for v in value) else value
    size = engine.weights.tokenizer.text_size
    for group in groups:
        if not isinstance(group, list) or not all(isinstance(t, int) and 0 <= t < size for t in group):
            raise BadRequest("input must hold texts, or this model's token numbers", param="input")
    return [engine.weights.tokenizer.decode(group) for group in groups]
