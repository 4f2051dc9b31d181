"""Train the reference node's language model, in NumPy, on one core.

    OPENBLAS_NUM_THREADS=1 PYTHONPATH=.:tools/train_lm nice -n 10 \\
        python tools/train_lm/train.py --minutes 14 --out adapters/selfhosted/lm/weights.npz

Backward passes are written out below; `--check` compares them with finite differences. Matrices inside the layers are
trained by Muon (momentum made orthogonal by Newton-Schulz steps), everything else by Adam. Loss counts the assistant's
tokens fully and the user's a quarter: what people type need not be predicted well.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bpe import learn
from corpus import documents

from adapters.selfhosted.lm.model import EPS, SLOPES
from adapters.selfhosted.lm.prompt import encode_turns
from adapters.selfhosted.lm.tokenizer import SPECIALS, Tokenizer

HEADS = len(SLOPES)
Arrays = dict[str, np.ndarray]


def init(rng: np.random.Generator, vocabulary: int, width: int, layers: int, inner: int, dtype: type) -> Arrays:
    def matrix(rows: int, columns: int, scale: float) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) * scale).astype(dtype)

    p: Arrays = {
        "embed": matrix(vocabulary, width, 0.05),
        "smear": np.full(width, 0.2, dtype),
        "gain": np.ones(width, dtype),
    }
    for i in range(layers):
        p[f"{i}.gain1"], p[f"{i}.gain2"] = np.ones(width, dtype), np.ones(width, dtype)
        p[f"{i}.wqkv"] = matrix(width, 3 * width, 0.5 / math.sqrt(width))
        p[f"{i}.wo"] = matrix(width, width, 0.2 / math.sqrt(width))
        p[f"{i}.w1"] = matrix(width, inner, 0.7 / math.sqrt(width))
        p[f"{i}.w2"] = matrix(inner, width, 0.2 / math.sqrt(inner))
    return p


def rms(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r = 1 / np.sqrt(np.einsum("...d,...d->...", x, x)[..., None] / x.shape[-1] + EPS)
    return x * r, r


def rms_back(dy: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Gradient of `rms` at output `y` with inverse root `r`."""
    return r * (dy - y * (np.einsum("...d,...d->...", dy, y)[..., None] / y.shape[-1]))


def loss_and_gradients(
    p: Arrays, layers: int, tokens: np.ndarray, doc: np.ndarray, weight: np.ndarray
) -> tuple[float, Arrays]:
    """`tokens` (B, T+1); `doc` (B, T) numbers documents, which do not see each other; `weight` (B, T) of targets."""
    ids, targets = tokens[:, :-1], tokens[:, 1:]
    b, t = ids.shape
    width = p["embed"].shape[1]
    size = width // HEADS
    dtype = p["embed"].dtype.type
    g: Arrays = {}
    # forward
    e = p["embed"][ids]
    before = np.concatenate((np.zeros((b, 1, width), dtype), e[:, :-1]), axis=1)
    first = np.concatenate((np.ones((b, 1), bool), doc[:, 1:] != doc[:, :-1]), axis=1)
    before[first] = 0
    x0, r0 = rms(e + p["smear"] * before)
    place = np.arange(t)
    distance = (place[None] - place[:, None]).astype(dtype)
    hidden = (distance > 0)[None] | (doc[:, :, None] != doc[:, None, :])
    bias = np.array(SLOPES, dtype)[None, :, None, None] * distance + np.where(hidden, dtype(-1e9), dtype(0))[:, None]
    scale = dtype(1 / math.sqrt(size))
    x, kept = x0, []
    for i in range(layers):
        n1, r1 = rms(x)
        a = n1 * p[f"{i}.gain1"]
        q, k, v = (a @ p[f"{i}.wqkv"]).reshape(b, t, 3, HEADS, size).transpose(2, 0, 3, 1, 4)
        s = (q * scale) @ k.transpose(0, 1, 3, 2)
        s += bias
        s -= s.max(axis=-1, keepdims=True)
        np.exp(s, out=s)
        s /= s.sum(axis=-1, keepdims=True)
        o = (s @ v).transpose(0, 2, 1, 3).reshape(b, t, width)
        x = x + o @ p[f"{i}.wo"]
        n2, r2 = rms(x)
        c = n2 * p[f"{i}.gain2"]
        h = np.maximum(c @ p[f"{i}.w1"], 0)
        hh = h * h
        x = x + hh @ p[f"{i}.w2"]
        kept.append((n1, r1, a, q, k, v, s, o, n2, r2, c, h, hh))
    n, r = rms(x)
    f = (n * p["gain"]).reshape(b * t, width)
    logits = f @ p["embed"].T
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    rows, flat, wt = np.arange(b * t), targets.reshape(-1), weight.reshape(-1)
    total = wt.sum()
    loss = float(-(wt * np.log(logits[rows, flat] + 1e-20)).sum() / total)
    # backward
    logits[rows, flat] -= 1
    logits *= (wt / total)[:, None].astype(dtype)
    g["embed"] = logits.T @ f
    df = (logits @ p["embed"]).reshape(b, t, width)
    g["gain"] = np.einsum("btd,btd->d", df, n)
    dx = rms_back(df * p["gain"], n, r)
    for i in reversed(range(layers)):
        n1, r1, a, q, k, v, s, o, n2, r2, c, h, hh = kept[i]
        g[f"{i}.w2"] = hh.reshape(b * t, -1).T @ dx.reshape(b * t, width)
        dh = (dx @ p[f"{i}.w2"].T) * (2 * h)
        g[f"{i}.w1"] = c.reshape(b * t, width).T @ dh.reshape(b * t, -1)
        dc = dh @ p[f"{i}.w1"].T
        g[f"{i}.gain2"] = np.einsum("btd,btd->d", dc, n2)
        dx = dx + rms_back(dc * p[f"{i}.gain2"], n2, r2)
        g[f"{i}.wo"] = o.reshape(b * t, width).T @ dx.reshape(b * t, width)
        do = (dx @ p[f"{i}.wo"].T).reshape(b, t, HEADS, size).transpose(0, 2, 1, 3)
        dv = s.transpose(0, 1, 3, 2) @ do
        ds = do @ v.transpose(0, 1, 3, 2)
        ds -= np.einsum("bhqk,bhqk->bhq", ds, s)[..., None]
        ds *= s
        dq, dk = (ds @ k) * scale, ds.transpose(0, 1, 3, 2) @ (q * scale)
        dqkv = np.stack((dq, dk, dv)).transpose(1, 3, 0, 2, 4).reshape(b * t, 3 * width)
        g[f"{i}.wqkv"] = a.reshape(b * t, width).T @ dqkv
        da = (dqkv @ p[f"{i}.wqkv"].T).reshape(b, t, width)
        g[f"{i}.gain1"] = np.einsum("btd,btd->d", da, n1)
        dx = dx + rms_back(da * p[f"{i}.gain1"], n1, r1)
    dx = rms_back(dx, x0, r0)
    g["smear"] = np.einsum("btd,btd->d", dx, before)
    de = dx.copy()
    back = dx * p["smear"]
    back[first] = 0
    de[:, :-1] += back[:, 1:]
    np.add.at(g["embed"], ids.reshape(-1), de.reshape(b * t, width))
    return loss, g


class Optimizer:
    """Muon for the layers' matrices, Adam for the rest."""

    def __init__(self, p: Arrays) -> None:
        self.step = 0
        self.m = {name: np.zeros_like(value) for name, value in p.items()}
        self.v = {name: np.zeros_like(value) for name, value in p.items() if not _is_matrix(name)}

    def update(self, p: Arrays, g: Arrays, pace: float) -> None:
        """One step. `pace` runs from 1 down to 0 and scales both learning rates."""
        self.step += 1
        norm = math.sqrt(sum(float((x * x).sum()) for x in g.values()))
        clip = min(1.0, 1.0 / (norm + 1e-6))
        for name, value in p.items():
            gradient = g[name]
            if _is_matrix(name):
                m = self.m[name]
                m *= 0.95
                m += gradient
                value *= 1 - 0.02 * pace * 0.05
                for part in np.split(np.arange(value.shape[1]), 3 if name.endswith("wqkv") else 1):
                    direction = orthogonal(gradient[:, part] + 0.95 * m[:, part])
                    rows, columns = direction.shape
                    value[:, part] -= np.float32(0.02 * pace * max(1, columns / rows) ** 0.5) * direction
            else:
                m, v = self.m[name], self.v[name]
                gradient = gradient * clip
                m += 0.1 * (gradient - m)
                v += 0.01 * (gradient * gradient - v)
                mh, vh = m / (1 - 0.9**self.step), v / (1 - 0.99**self.step)
                value -= np.float32(0.004 * pace) * mh / (np.sqrt(vh) + 1e-10)


def _is_matrix(name: str) -> bool:
    return name.rpartition(".")[2] in ("wqkv", "wo", "w1", "w2")


def orthogonal(x: np.ndarray) -> np.ndarray:
    """`x` with its singular values brought near one (five quintic Newton-Schulz steps)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    flip = x.shape[0] > x.shape[1]
    y = x.T if flip else x
    y = y / (np.linalg.norm(y) + 1e-7)
    for _ in range(5):
        s = y @ y.T
        y = a * y + (b * s + c * (s @ s)) @ y
    return y.T if flip else y


def batches(
    rng: np.random.Generator, docs: list[tuple[list[int], list[float]]], rows: int, length: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Documents in random order, packed into rows of `length` + 1 tokens; what is longer is cut."""
    ids: list[int] = []
    weights: list[float] = []
    numbers: list[int] = []
    need = rows * (length + 1)
    number = 0
    while True:
        for index in rng.permutation(len(docs)):
            tokens, weight = docs[index]
            number += 1
            ids += tokens
            weights += weight
            numbers += [number] * len(tokens)
            if len(ids) >= need:
                block = np.array(ids[:need]).reshape(rows, length + 1)
                wts = np.array(weights[:need], np.float32).reshape(rows, length + 1)
                nums = np.array(numbers[:need]).reshape(rows, length + 1)
                same = nums[:, 1:] == nums[:, :-1]  # the first token of a document is not to be guessed
                yield block, nums[:, :-1], wts[:, 1:] * same
                ids, weights, numbers = [], [], []


def tokenized(tokenizer: Tokenizer, turns: list[tuple[str, str]]) -> tuple[list[int], list[float]]:
    tokens, weights = [tokenizer.special["<start>"]], [0.0]
    for role, text in turns:
        part = encode_turns(tokenizer, [(role, text)])[1:]
        tokens += part
        spoken = role in ("assistant", "call", "text")
        weights += [0.1] + [1.0 if spoken else 0.2] * (len(part) - 1)
    return tokens, weights


def save(path: Path, p: Arrays, merges: list[tuple[int, int]]) -> None:
    """int8 with a float32 scale per row for matrices, float32 for vectors, no compression of pickles."""
    out: Arrays = {"merges": np.array(merges, np.uint16)}
    for name, value in p.items():
        if value.ndim == 2:
            scale = np.maximum(np.abs(value).max(axis=1) / 127, 1e-9).astype(np.float32)
            out[name], out[f"{name}.scale"] = np.rint(value / scale[:, None]).astype(np.int8), scale
        else:
            out[name] = value.astype(np.float32)
    partial = path.with_suffix(".part.npz")
    np.savez_compressed(partial, **out)
    partial.replace(path)


def check() -> int:
    """Compare the gradients with finite differences in float64."""
    rng = np.random.default_rng(0)
    p = init(rng, 40, 16, 2, 24, np.float64)
    tokens = rng.integers(0, 40, (2, 10))
    doc = np.array([[1] * 4 + [2] * 5, [3] * 9])
    weight = rng.random((2, 9))
    _, g = loss_and_gradients(p, 2, tokens, doc, weight)
    worst = 0.0
    for name, value in p.items():
        for _ in range(3):
            at = tuple(int(rng.integers(0, n)) for n in value.shape)
            kept = value[at]
            value[at] = kept + 1e-6
            up = loss_and_gradients(p, 2, tokens, doc, weight)[0]
            value[at] = kept - 1e-6
            down = loss_and_gradients(p, 2, tokens, doc, weight)[0]
            value[at] = kept
            worst = max(worst, abs((up - down) / 2e-6 - g[name][at]) / (abs(g[name][at]) + 1e-4))
    print(f"largest relative difference {worst:.2e}")
    return 0 if worst < 1e-3 else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=14)
    parser.add_argument(
        "--steps", type=int, default=0, help="fixed number of steps instead of a time: the exact same weights again"
    )
    parser.add_argument("--out", type=Path, default=Path("adapters/selfhosted/lm/weights.npz"))
    parser.add_argument("--docs", type=Path, default=None, help="folder with the project's own pages")
    parser.add_argument("--documents", type=int, default=120_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--inner", type=int, default=384)
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.check:
        return check()
    corpus = list(documents(args.seed, args.documents, args.docs))
    merges = learn((text for turns in corpus[:20000] for _, text in turns), args.vocabulary - 256 - len(SPECIALS))
    tokenizer = Tokenizer(merges)
    docs = [tokenized(tokenizer, turns) for turns in corpus]
    rng = np.random.default_rng(args.seed)
    p = init(rng, tokenizer.size, args.width, args.layers, args.inner, np.float32)
    print(f"{sum(len(d[0]) for d in docs):,} tokens, {sum(v.size for v in p.values()):,} parameters", flush=True)
    optimizer, start, recent = Optimizer(p), time.thread_time(), []
    for step, (tokens, doc, weight) in enumerate(batches(rng, docs, 12, 160)):
        done = step / args.steps if args.steps else (time.thread_time() - start) / (60 * args.minutes)
        if done >= 1:
            break
        pace = min(1.0, (step + 1) / 50) * min(1.0, (1 - done) / 0.6)  # warm up, hold, then down to zero
        loss, gradients = loss_and_gradients(p, args.layers, tokens, doc, weight)
        optimizer.update(p, gradients, pace)
        recent.append(loss)
        if step % 100 == 99:
            pause = (time.thread_time() - start) / (step + 1)
            print(f"step {step + 1} {done:.0%} loss {np.mean(recent[-100:]):.4f} {pause:.3f} s a step", flush=True)
        if step % 1000 == 999:
            save(args.out, p, merges)
    save(args.out, p, merges)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes after {len(recent)} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
