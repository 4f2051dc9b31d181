"""The network, forward only: a decoder-only transformer in NumPy with a key-value cache.

    x = rms(e[t] + smear * e[t-1])                 a token and a little of the one before it
    x = x + Wo · attention(rms(x) · Wqkv)          causal, ALiBi slopes per head, so no trained length limit
    x = x + W2 · relu(rms(x) · W1)²
    logits = rms(x) · eᵀ

Weights are int8 with one scale per row in `weights.npz`, float32 in memory. The same tokens give the same logits on the
same machine and NumPy; another BLAS may differ in the last bits, and so may a prompt that is read in other pieces:
`prefill` always reads in the same ones. `precision` makes weights that compute more coarsely, as deployments do.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .tokenizer import Tokenizer

F32 = npt.NDArray[np.float32]
SLOPES = (0.5, 0.125, 0.03125, 0.0)  #: one per head; the last head sees all places alike and finds by content
EPS = np.float32(1e-5)
CONTEXT = 4096  #: tokens of prompt and answer together
BLOCK = 64  # tokens per prefill block: its attention matrix, BLOCK x CONTEXT per head, still fits in a cache
_MASK: F32 = np.triu(np.full((BLOCK, BLOCK), -1e9, np.float32), k=1)  # nobody sees what comes later


@dataclass(frozen=True)
class Layer:
    gain1: F32
    wqkv: F32
    wo: F32
    gain2: F32
    w1: F32
    w2: F32


def _exact(x: F32) -> F32:
    return x


class Weights:
    """All parameters and the tokenizer they were trained with. `fingerprint` names the file's, however they are used.

    `round` is applied to every activation that a deployment would keep in its own precision.
    """

    def __init__(self, arrays: dict[str, Any]) -> None:
        self.embed: F32 = _load(arrays, "embed")
        self.unembed: F32 = np.ascontiguousarray(self.embed.T)
        self.smear: F32 = _load(arrays, "smear")
        self.gain: F32 = _load(arrays, "gain")
        count = sum(1 for name in arrays if name.endswith(".wo"))
        parts = ("gain1", "wqkv", "wo", "gain2", "w1", "w2")
        self.layers = [Layer(*(_load(arrays, f"{i}.{part}") for part in parts)) for i in range(count)]
        self.tokenizer = Tokenizer([(int(a), int(b)) for a, b in arrays["merges"]])
        self.width = self.embed.shape[1]
        self.heads = len(SLOPES)
        distance = np.arange(CONTEXT, dtype=np.float32) - np.float32(CONTEXT - 1)
        self.bias: F32 = np.array(SLOPES, np.float32)[:, None] * distance  # ALiBi: the last column is "this token"
        self.round: Callable[[F32], F32] = _exact
        digest = hashlib.sha256(self.embed.tobytes())
        for layer in self.layers:
            digest.update(layer.w2.tobytes())
        self.fingerprint = f"vrlm_{digest.hexdigest()[:12]}"

    def logits(self, hidden: F32) -> F32:
        """Scores (…, vocabulary) of what follows, from final states (…, width)."""
        return self.round(np.asarray(hidden @ self.unembed))

    @classmethod
    def open(cls, path: Path | None = None) -> Weights:
        with np.load(path or Path(__file__).with_name("weights.npz"), allow_pickle=False) as stored:
            return cls(dict(stored.items()))


def _load(arrays: dict[str, Any], name: str) -> F32:
    """`name` as float32; int8 arrays carry their per-row scales in ``name.scale``."""
    value = arrays[name]
    if value.dtype == np.int8:
        return np.ascontiguousarray(value.astype(np.float32) * arrays[f"{name}.scale"].astype(np.float32)[:, None])
    return np.ascontiguousarray(value.astype(np.float32))


def _rms(x: F32) -> F32:
    return np.asarray(x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + EPS))


class State:
    """What the network remembers of the tokens so far. `extend` adds tokens and returns the logits after the last.

    Where `seen` is a list, the final states of all tokens that are added are appended to it.
    """

    def __init__(self, weights: Weights, room: int = 128) -> None:
        self.weights = weights
        self.length = 0
        self.seen: list[F32] | None = None
        self._last = np.zeros(weights.width, np.float32)  # embedding of the token before
        shape = (len(weights.layers), weights.heads, room, weights.width // weights.heads)
        self._keys, self._values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def copy(self) -> State:
        """An independent continuation from here."""
        twin = object.__new__(State)
        twin.weights, twin.length, twin._last = self.weights, self.length, self._last
        twin._keys, twin._values = self._keys.copy(), self._values.copy()
        twin.seen = None if self.seen is None else list(self.seen)
        return twin

    def extend(self, tokens: list[int]) -> F32:
        """Logits (vocabulary,) of what follows `tokens`, of which there is at least one."""
        return self.weights.logits(self.hidden(tokens)[-1])

    def hidden(self, tokens: list[int]) -> F32:
        """Final normalised states (len(tokens), width)."""
        self._grow(self.length + len(tokens))
        blocks = [self._block(tokens[i : i + BLOCK]) for i in range(0, len(tokens), BLOCK)]
        out = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        if self.seen is not None:
            self.seen.append(out)
        return out

    def _grow(self, need: int) -> None:
        room = self._keys.shape[2]
        if need > room:
            extra = [(0, 0), (0, 0), (0, min(CONTEXT, max(need, 2 * room)) - room), (0, 0)]
            self._keys, self._values = np.pad(self._keys, extra), np.pad(self._values, extra)

    def _block(self, tokens: list[int]) -> F32:
        w, count, start = self.weights, len(tokens), self.length
        end, heads, size = start + count, w.heads, w.width // w.heads
        embedded = w.embed[tokens]
        before = np.concatenate((self._last[None], embedded[:-1]))
        self._last = embedded[-1]
        x = w.round(_rms(embedded + w.smear * before))
        # ALiBi up to a constant per row, which softmax does not see: one row of biases serves the whole block.
        bias = w.bias[:, None, CONTEXT - end :]
        scale = np.float32(1 / math.sqrt(size))
        for number, layer in enumerate(w.layers):
            mixed = w.round(w.round(_rms(x) * layer.gain1) @ layer.wqkv)
            mixed = mixed.reshape(count, 3, heads, size).transpose(1, 2, 0, 3)
            self._keys[number, :, start:end] = mixed[1]
            self._values[number, :, start:end] = mixed[2]
            scores = (mixed[0] * scale) @ self._keys[number, :, :end].transpose(0, 2, 1)
            scores += bias
            if count > 1:
                scores[:, :, start:] += _MASK[:count, :count]
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            sums = scores.sum(axis=-1, keepdims=True)
            seen = (scores @ self._values[number, :, :end]) / sums
            x = w.round(x + w.round(w.round(seen.transpose(1, 0, 2).reshape(count, w.width)) @ layer.wo))
            inner = np.maximum(w.round(w.round(_rms(x) * layer.gain2) @ layer.w1), 0)
            x = w.round(x + w.round(w.round(inner * inner) @ layer.w2))
        self.length = end
        return w.round(np.asarray(_rms(x) * w.gain))


def prefill(weights: Weights, tokens: Sequence[int]) -> F32:
    """Final states (len(tokens), width) of 1 to `CONTEXT` tokens, read alone and from the beginning.

    Blocks are filled up to their full size, so every product has the same shape whatever comes later: the states of a
    prefix are bit for bit those that it has in a longer text.
    """
    spare = -len(tokens) % BLOCK
    state = State(weights, room=len(tokens) + spare)
    return state.hidden([*tokens, *([0] * spare)])[: len(tokens)]
