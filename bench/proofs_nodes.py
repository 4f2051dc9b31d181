"""How far nodes are from a reference: honest, quantised, swapped and mis-sampling, on the reference node's own model.

    OPENBLAS_NUM_THREADS=1 .venv/bin/python bench/proofs_nodes.py [--prompts 500] [--tokens 64] [--json FILE]

Each node answers prompts with the same code as `veriroute node`; the reference (float32) scores prompt and answer in one
prefill. Per answer: the share of tokens that are the reference's own choice, and the mean margin in nats, clipped at 3.

    greedy   margin = max(z) - z[token]                         the node claims temperature 0
    seeded   margin = max(z + T·G) - (z + T·G)[token]           it claims T = 1 and a seed, from which the noise G follows

A calibration on as many other prompts sets the threshold: the honest node's 99th percentile. `caught` is the share of
answers over it, which for the honest node itself is the rate of false alarms. TOPLOC figures compare a node's values while
it wrote with the reference's prefill, batch by batch. Everything follows from `--seed`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is loaded

import numpy as np

from adapters.selfhosted.dishonest import HOT
from adapters.selfhosted.lm.engine import Committed, Engine, Job, Read, Text
from adapters.selfhosted.lm.generate import Limits
from adapters.selfhosted.lm.model import Weights, prefill
from adapters.selfhosted.lm.precision import at_precision, other_model
from adapters.selfhosted.lm.sampling import Sampling, noise
from adapters.selfhosted.lm.toploc import P

CLIP = 3.0
WARM = 1.0
WORDS = (  # noqa: SIM905 - read as text
    "anchor bridge candle desert engine forest garden harbor island jungle kettle ladder mirror needle orange pencil "
    "quarry ribbon saddle tunnel umbrella valley window yellow zebra account library machine network picture river school "
    "teacher village weather fox dog cat owl mouse horse goat duck bear wolf"
).split()
KINDS = {
    "story": (
        "Tell me a story about a {0} and a {1}.",
        "Write a story about the {0} in the {1}.",
        "Tell me a {0} {1} story.",
    ),
    "text": ("The {0} and the {1} {2}", "A {0} {1} is", "In the {0} there was a {1}. The {2}"),
}
#: name -> (weights as a node has them, claim, what is done to the sampling that was asked for)
Node = tuple[str, str, Callable[[Sampling], Sampling]]


def same(asked: Sampling) -> Sampling:
    return asked


def hot(asked: Sampling) -> Sampling:
    return Sampling(temperature=HOT, seed=asked.seed, bias=asked.bias)


def wrong_seed(asked: Sampling) -> Sampling:
    return Sampling(temperature=asked.temperature, seed=(asked.seed or 0) + 1, bias=asked.bias)


NODES: dict[str, Node] = {
    **{
        f"{claim} {p}": (p, claim, same)
        for claim in ("greedy", "seeded")
        for p in ("bf16", "int8", "int4", "int3", "other")
    },
    "greedy sample-hot": ("bf16", "greedy", hot),
    "seeded wrong-seed": ("bf16", "seeded", wrong_seed),
}


def weights_of(name: str, base: Weights) -> Weights:
    return at_precision(other_model(base), "bf16") if name == "other" else at_precision(base, name)


class Measure:
    """One process's part: prompts `start` to `stop` of a kind, for every node."""

    def __init__(self, seed: int, tokens: int) -> None:
        self.seed, self.tokens = seed, tokens
        self.base = Weights.open()
        special = self.base.tokenizer.special
        self.bias = {special["<end>"]: -100.0}  # an answer goes on to its full length
        self.engines = {name: Engine(weights_of(name, self.base)) for name in ("bf16", "int8", "int4", "int3", "other")}

    def job(self, kind: str, number: int, claim: str) -> Job:
        rng = random.Random(f"{self.seed} {kind} {number}")
        text = rng.choice(KINDS[kind]).format(*(rng.choice(WORDS) for _ in range(3)))
        asked = Sampling(temperature=0.0 if claim == "greedy" else WARM, seed=number, bias=self.bias)
        given: dict[str, Any] = {"turns": (("user", text),)}
        if kind == "text":
            given = {"prefix": tuple(self.base.tokenizer.encode(text))}
        return Job(**given, sampling=asked, limits=Limits(self.tokens), ids=True, toploc=True)

    def answer(self, node: str, kind: str, number: int) -> dict[str, Any]:
        name, claim, change = NODES[node]
        job = self.job(kind, number, claim)
        prompt: tuple[int, ...] = ()
        ids: list[int] = []
        proofs: tuple[bytes, ...] = ()
        lying = Job(**{**vars(job), "sampling": change(job.sampling)})
        for event in self.engines[name].run(lying):
            match event:
                case Read():
                    prompt = event.ids
                case Text(_, piece):
                    ids += piece.ids or ()
                case Committed(_, proofs):
                    pass
        return {"margins": self.margins(prompt, ids, job.sampling), "toploc": self.distances(prompt, ids, proofs)}

    def margins(self, prompt: tuple[int, ...], ids: list[int], asked: Sampling) -> list[float]:
        z = self.base.logits(prefill(self.base, [*prompt, *ids]))[len(prompt) - 1 : -1].astype(np.float64)
        z[:, self.base.tokenizer.text_size :] = -np.inf  # not offered: no token but those with text, and no end
        if asked.temperature:
            z += asked.temperature * np.stack([noise(asked.seed, 0, j, z.shape[1]) for j in range(len(ids))])
        found = z.max(axis=1) - z[np.arange(len(ids)), ids]
        return [float(m) for m in found]

    def distances(
        self, prompt: tuple[int, ...], ids: list[int], proofs: tuple[bytes, ...]
    ) -> list[tuple[int, float, float]]:
        """For each proof: exponents that differ, and mean and median of the differences of the other mantissas."""
        out = []
        for proof, batch in zip(proofs, Engine(self.base).activations(prompt, ids), strict=True):
            words = np.frombuffer(proof, ">u2").astype(np.int64)
            x, y = np.array(batch.indices) % words[0], np.zeros(len(batch.indices), np.int64)
            for coefficient in words[:0:-1]:
                y = (y * x + coefficient) % P
            bits = np.array(batch.bits)
            equal = (y >> 7 & 0xFF) == (bits >> 7 & 0xFF)
            errors = np.abs((y & 0x7F) - (bits & 0x7F))[equal]
            mean, median = (float(errors.mean()), float(np.median(errors))) if len(errors) else (127.0, 127.0)
            out.append((int((~equal).sum()), mean, median))
        return out


_MEASURE: dict[str, Measure] = {}


def begin(seed: int, tokens: int) -> None:
    _MEASURE["own"] = Measure(seed, tokens)


def part(task: tuple[str, str, int, int]) -> tuple[str, str, int, list[dict[str, Any]], float]:
    kind, node, start, stop = task
    begun = time.process_time()
    found = [_MEASURE["own"].answer(node, kind, number) for number in range(start, stop)]
    return kind, node, start, found, time.process_time() - begun


def summary(calibration: list[dict[str, Any]], answers: list[dict[str, Any]]) -> dict[str, Any]:
    def mean(answer: dict[str, Any]) -> float:
        return float(np.minimum(answer["margins"], CLIP).mean())

    threshold = float(np.quantile([mean(a) for a in calibration], 0.99))
    margins = np.array([mean(a) for a in answers])
    matches = np.array([np.mean(np.array(a["margins"]) == 0) for a in answers])
    worst = np.array([np.max(np.array(a["toploc"]), axis=0) for a in answers])
    honest = np.array([np.max(np.array(a["toploc"]), axis=0) for a in calibration])
    limits = np.quantile(honest, 0.99, axis=0)
    return {
        "answers": len(answers),
        "match": float(matches.mean()),
        "whole_answer_same": float((matches == 1).mean()),
        "margin_mean": float(margins.mean()),
        "margin_p50": float(np.quantile(margins, 0.5)),
        "margin_p99": float(np.quantile(margins, 0.99)),
        "threshold": threshold,
        "caught": float((margins > threshold).mean()),
        "over_0.01": float((margins > 0.01).mean()),
        "toploc_exponents": float(worst[:, 0].mean()),
        "toploc_mantissa_mean": float(worst[:, 1].mean()),
        "toploc_limits": [float(x) for x in limits],
        "toploc_caught": float((worst > limits).any(axis=1).mean()),
        "toploc_published_accept": float(((worst <= (38, 10.0, 8.0)).all(axis=1)).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", choices=tuple(KINDS), default=tuple(KINDS))
    parser.add_argument("--nodes", nargs="*", choices=tuple(NODES), default=tuple(NODES))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    count, step = args.prompts, 25
    honest = ("greedy bf16", "seeded bf16")
    tasks = [
        (kind, node, start, min(start + step, most))
        for kind in args.kinds
        for node in dict.fromkeys((*honest, *args.nodes))
        for first, most in (((0, count), (count, 2 * count)) if node in honest else ((count, 2 * count),))
        for start in range(first, most, step)
    ]
    answers: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}
    begun, cpu = time.perf_counter(), 0.0
    with multiprocessing.get_context("spawn").Pool(args.processes, begin, (args.seed, args.tokens)) as pool:
        for kind, node, start, found, seconds in pool.imap(part, tasks):
            answers.setdefault((kind, node, start < count), []).extend(found)
            cpu += seconds
    table = {
        kind: {
            node: summary(answers[kind, f"{NODES[node][1]} bf16", True], answers[kind, node, False])
            for node in dict.fromkeys((*honest, *args.nodes))
        }
        for kind in args.kinds
    }
    run = {"prompts": count, "tokens": args.tokens, "seed": args.seed, "numpy": np.__version__, "cpu_s": round(cpu, 1)}
    for kind, rows in table.items():
        print(f"\n{kind}: {count} answers of {args.tokens} tokens, calibrated on {count} others")
        print(
            "| node | match | same whole | margin p50 | margin p99 | threshold | caught | > 0.01 | TOPLOC exp / mean | caught |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        for node, r in rows.items():
            print(
                f"| {node} | {r['match']:.2%} | {r['whole_answer_same']:.0%} | {r['margin_p50']:.5f} | {r['margin_p99']:.5f} "
                f"| {r['threshold']:.5f} | {r['caught']:.1%} | {r['over_0.01']:.1%} "
                f"| {r['toploc_exponents']:.1f} / {r['toploc_mantissa_mean']:.2f} | {r['toploc_caught']:.1%} |"
            )
    print(f"\n{json.dumps(run)}  wall {time.perf_counter() - begun:.0f} s")
    if args.json:
        args.json.write_text(json.dumps({"run": run, "table": table}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
