"""POST /v1/toploc/activations: what honest TOPLOC proofs of an answer state, computed again from its tokens.

    {"prompt_token_ids": [...], "token_ids": [...]}  ->  {"batches": [{"indices": [128], "bf16_bits": [128]}, ...]}

The first batch is of the prompt, the others of 32 tokens of the answer each.
"""

from __future__ import annotations

from collections.abc import Iterator

from adapters.selfhosted.lm.engine import Engine
from adapters.selfhosted.lm.toploc import BATCH, TOP_K

from . import fields
from .writer import encode


def respond(d: fields.Document, engine: Engine, label: str) -> Iterator[bytes]:
    size = engine.weights.tokenizer.size
    prompt = fields.token_ids(d.get("prompt_token_ids"), "prompt_token_ids", size)
    answer = fields.token_ids(d.get("token_ids"), "token_ids", size)
    found = engine.activations(prompt, answer)
    yield encode(
        {
            "object": "toploc.activations",
            "model": label,
            "system_fingerprint": engine.fingerprint,
            "topk": TOP_K,
            "batch_tokens": BATCH,
            "prefill": True,
            "batches": [{"indices": batch.indices, "bf16_bits": batch.bits} for batch in found],
        }
    )
