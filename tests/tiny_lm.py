"""A language model small enough for a test: random weights, one attention layer, numpy, every seed fixed.

It writes nothing of sense. It is here to have real logits, and nodes that differ from the reference as real ones do:
`bf16` rounds every product as an accelerator would (an honest node), `int8`, `int4` and `int3` have coarser weights,
`other` has different ones. Noise of the seeded sampler is numpy's Philox, keyed by seed and position.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

VOCABULARY, WIDTH, CONTEXT = 256, 64, 512
Floats = NDArray[np.float32]


def _rounded(values: Floats) -> Floats:
    """Round to bfloat16: to the nearest, ties to even, in the upper half of the bits."""
    bits = values.astype(np.float32).view(np.uint32)
    nearest = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (nearest & np.uint32(0xFFFF0000)).view(np.float32)


def _coarse(weights: Floats, bits: int) -> Floats:
    """Quantise each column to `bits` bits, symmetrically."""
    top = 2 ** (bits - 1) - 1
    scale = np.abs(weights).max(axis=0, keepdims=True) / top
    return (np.round(weights / scale) * scale).astype(np.float32)


def _level(x: Floats) -> Floats:
    centred = x - x.mean(-1, keepdims=True)
    return (centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)).astype(np.float32)


class Model:
    """One variant of the model. `sharpness` scales the logits: low entropy leaves few near-ties."""

    def __init__(self, variant: str, *, sharpness: float = 2.0) -> None:
        draw = np.random.default_rng(99 if variant == "other" else 7)
        names = ("query", "key", "value", "out", "up", "down", "unembed")
        shapes = {"up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH), "unembed": (WIDTH, VOCABULARY)}
        self.embed = draw.normal(0, 1, (VOCABULARY, WIDTH)).astype(np.float32)
        self.place = draw.normal(0, 0.5, (CONTEXT, WIDTH)).astype(np.float32)
        self.weights: dict[str, Floats] = {}
        for name in names:
            shape = shapes.get(name, (WIDTH, WIDTH))
            self.weights[name] = draw.normal(0, 1 / math.sqrt(shape[0]), shape).astype(np.float32)
        self.weights["unembed"] *= np.float32(sharpness)
        if variant.startswith("int"):
            self.weights = {name: _coarse(w, int(variant[3:])) for name, w in self.weights.items()}
        self.honest = variant == "bf16"

    def _times(self, x: Floats, w: Floats) -> Floats:
        product: Floats = x @ w
        return _rounded(product) if self.honest else product

    def logits(self, ids: list[int]) -> Floats:
        """Row t holds the logits of token t + 1."""
        return self._forward(np.array([ids]), 0, [])[0]

    def _forward(self, ids: NDArray[np.int64], start: int, seen: list[Floats]) -> Floats:
        """Logits after each of `ids` (texts, tokens), which begin at place `start`; `seen` keeps keys and values."""
        w, x = self.weights, self.embed[ids] + self.place[start : start + ids.shape[1]]
        h = _level(x)
        q, k, v = (self._times(h, w[name]) for name in ("query", "key", "value"))
        if seen:
            k, v = np.concatenate([seen[0], k], axis=1), np.concatenate([seen[1], v], axis=1)
        seen[:] = [k, v]
        scores = self._times(q, np.swapaxes(k, -1, -2)) / np.float32(math.sqrt(WIDTH))
        before = np.tri(ids.shape[1], k.shape[1], start, dtype=bool)
        scores = np.where(before, scores, np.float32(-1e9))
        share = np.exp(scores - scores.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        x = x + self._times(self._times(share, v), w["out"])
        x = x + self._times(np.maximum(self._times(_level(x), w["up"]), 0), w["down"])
        return self._times(_level(x), w["unembed"])

    def write_all(
        self, prompts: list[list[int]], tokens: int, *, temperature: float = 0.0, seeds: list[int] | None = None
    ) -> list[tuple[list[int], Floats]]:
        """For each prompt, all of one length, the tokens written after it and the log-probs of the vocabulary at each."""
        seen: list[Floats] = []
        new, start, chosen, rows = np.array(prompts), 0, [], []
        for position in range(tokens):
            z = lifted = self._forward(new, start, seen)[:, -1]
            if temperature:
                noise = np.array([gumbel(seed, position) for seed in seeds or [0] * len(prompts)])
                lifted = z + np.float32(temperature) * noise
            start, new = start + new.shape[1], lifted.argmax(-1)[:, None]
            chosen.append(new)
            rows.append(log_probs(z))
        ids, stacked = np.concatenate(chosen, axis=1).tolist(), np.stack(rows, axis=1)
        return list(zip(ids, stacked, strict=True))


@cache
def model(variant: str) -> Model:
    return Model(variant)


def gumbel(seed: int, position: int) -> Floats:
    """The sampler's noise at one position: one row over the vocabulary."""
    source = np.random.Generator(np.random.Philox(key=np.array([seed, position], dtype=np.uint64)))
    return (-np.log(source.exponential(size=VOCABULARY))).astype(np.float32)


def log_probs(z: Floats) -> Floats:
    shifted = z - z.max(-1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))).astype(np.float32)


def prompts(count: int, *, seed: int = 1, length: int = 10) -> list[list[int]]:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (count, length)).tolist()


def spelled(token: int) -> str:
    """Tokens carry their space, as most tokenizers' do, so that the text is what the tokens spell."""
    return f" w{token}"


def entries(ids: list[int], rows: Floats, top: int) -> list[dict[str, Any]]:
    """The tokens as `logprobs.content` lists them."""

    def entry(token: int, row: Floats) -> dict[str, Any]:
        text = spelled(token)
        return {"token": text, "logprob": round(float(row[token]), 6), "bytes": list(text.encode())}

    listed = []
    for token, row in zip(ids, rows, strict=True):
        likeliest = [int(i) for i in np.argsort(-row, kind="stable")[:top]]
        listed.append(entry(token, row) | {"top_logprobs": [entry(i, row) for i in likeliest]})
    return listed


def completion(ids: list[int], rows: Floats, *, top: int = 5) -> bytes:
    """The answer as an OpenAI-compatible node gives it."""
    text = "".join(map(spelled, ids))
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": entries(ids, rows, top)},
        "finish_reason": "length",
    }
    return json.dumps({"object": "chat.completion", "model": "tiny", "choices": [choice]}).encode()


@cache
def answers(
    variant: str,
    count: int,
    tokens: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    top: int = 5,
    prompt_seed: int = 1,
) -> list[bytes]:
    """The answers of one node to the first `count` prompts; seeds of the sampler count up from `seed`."""
    seeds = list(range(seed, seed + count))
    written = model(variant).write_all(prompts(count, seed=prompt_seed), tokens, temperature=temperature, seeds=seeds)
    return [completion(ids, rows, top=top) for ids, rows in written]


def ids_of(body: bytes) -> list[int]:
    """The token ids of an answer of ours."""
    (choice,) = json.loads(body)["choices"]
    return [int(entry["token"].removeprefix(" w")) for entry in choice["logprobs"]["content"]]


def reference(prompt: list[int], ids: list[int], *, variant: str = "fp32", top: int = 20) -> bytes:
    """What a vLLM server answers when it is given prompt and answer with `prompt_logprobs`."""
    whole = [*prompt, *ids]
    rows = log_probs(model(variant).logits(whole))
    listed: list[dict[str, Any] | None] = [None]
    for token, row in zip(whole[1:], rows[:-1], strict=True):
        likeliest = np.argsort(-row, kind="stable")[:top].tolist()
        wanted = [token, *(i for i in likeliest if i != token)]
        listed.append({str(i): {"logprob": float(row[i]), "rank": 1, "decoded_token": spelled(i)} for i in wanted})
    choices = [{"index": 0, "message": {"role": "assistant", "content": " x"}, "finish_reason": "length"}]
    return json.dumps({"object": "chat.completion", "choices": choices, "prompt_logprobs": listed}).encode()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
