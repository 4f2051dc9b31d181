"""What each statistical test finds, measured: `python bench/proofs_power.py [--prompts 200]`. Prints Markdown tables.

The model is the tests' own tiny one, all seeds fixed, so that the tables come out the same again up to the last bits of
the linear algebra. It has random weights: the figures show how the tests work and how they compare, not what a model of
billions of parameters would give. An honest node rounds every product to bfloat16; the reference computes in float32.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import proofs_kit  # noqa: E402
import tiny_lm  # noqa: E402

from gateway.verify.proofs.agreement import NearTie, compare  # noqa: E402
from gateway.verify.proofs.calibration import Calibration, Quantiles, Statistic  # noqa: E402
from gateway.verify.proofs.distance import measure_distance  # noqa: E402
from gateway.verify.proofs.drift import measure_drift  # noqa: E402
from gateway.verify.proofs.reexec import score  # noqa: E402
from gateway.verify.proofs.sampling import catch_probability, needed_rate  # noqa: E402

TOKENS = 64
LENGTHS = (16, 32, 64)
Margins = list[tuple[float, ...]]

#: name -> variant, temperature, and by how much the sampler's seed is off
GREEDY = {
    "honest (bf16)": ("bf16", 0.0, 0),
    "int8 weights": ("int8", 0.0, 0),
    "int4 weights": ("int4", 0.0, 0),
    "int3 weights": ("int3", 0.0, 0),
    "other model": ("other", 0.0, 0),
    "samples at 0.3, claims 0": ("bf16", 0.3, 0),
}
SEEDED = {
    "honest (bf16)": ("bf16", 1.0, 0),
    "int8 weights": ("int8", 1.0, 0),
    "int4 weights": ("int4", 1.0, 0),
    "other model": ("other", 1.0, 0),
    "wrong seed": ("bf16", 1.0, 100_000),
    "temperature 1.1, claims 1.0": ("bf16", 1.1, 0),
}


def margins(case: tuple[str, float, int], count: int, prompt_seed: int, *, seeded: bool) -> Margins:
    variant, temperature, off = case
    answers = tiny_lm.answers(
        variant, count, TOKENS, temperature=temperature, seed=1000 * prompt_seed + off, prompt_seed=prompt_seed
    )
    prompts = tiny_lm.prompts(count, seed=prompt_seed)
    if not seeded:
        return [proofs_kit.greedy(p, a) for p, a in zip(prompts, answers, strict=True)]
    return [
        proofs_kit.seeded(p, a, 1000 * prompt_seed + i) for i, (p, a) in enumerate(zip(prompts, answers, strict=True))
    ]


def caught(found: Margins, length: int, row: Quantiles, floor: float) -> float:
    """The share of windows of so many tokens whose mean is over the threshold."""
    means = [score(m[i : i + length]).mean_margin for m in found for i in range(0, TOKENS - length + 1, length)]
    return sum(mean > max(floor, row.p99) for mean in means) / len(means)


def table_of_margins(title: str, cases: dict[str, tuple[str, float, int]], count: int, *, seeded: bool) -> None:
    statistic = Statistic.SEEDED_MARGIN if seeded else Statistic.GREEDY_MARGIN
    honest = margins(cases["honest (bf16)"], count, 2, seeded=seeded)
    calibration: Calibration = proofs_kit.calibration(statistic, honest)
    rows = {length: calibration.honest(length) for length in LENGTHS}
    print(f"\n### {title}, {count} prompts\n")
    print("| node | matches | mean margin (nat) | " + " | ".join(f"found at {n} tokens" for n in LENGTHS) + " |")
    print("|---|---|---|" + "---|" * len(LENGTHS))
    for name, case in cases.items():
        found = margins(case, count, 3, seeded=seeded)
        whole = score([m for answer in found for m in answer])
        shares = []
        for length in LENGTHS:
            row = rows[length]
            assert row is not None
            at_policy, at_calibration = (caught(found, length, row, floor) for floor in (0.01, 0.0))
            shares.append(f"{at_policy:.1%} ({at_calibration:.1%})")
        print(f"| {name} | {whole.match_rate:.1%} | {whole.mean_margin:.5f} | " + " | ".join(shares) + " |")
    print("\nOver the larger of 0.01 and the calibrated 99th percentile; in brackets over the latter alone.")


def table_of_pairs(count: int) -> None:
    print(f"\n### Quorum: pairs with the reference, {count} prompts x 48 tokens, tau 0.2, delta 0.05\n")
    print("| node | same text | agree | inconclusive | disagree | median prefix where they agree |")
    print("|---|---|---|---|---|---|")
    reference = tiny_lm.answers("fp32", count, 48, prompt_seed=4)
    for name, (variant, temperature, _) in GREEDY.items():
        other = tiny_lm.answers(variant, count, 48, temperature=temperature, seed=9, prompt_seed=4)
        both = [(proofs_kit.positions(a), proofs_kit.positions(b)) for a, b in zip(reference, other, strict=True)]
        pairs = [compare(a, b, NearTie()) for a, b in both]
        same = sum(tiny_lm.ids_of(a) == tiny_lm.ids_of(b) for a, b in zip(reference, other, strict=True)) / count
        share = Counter(p.agreement.value for p in pairs)
        reach = sorted(p.prefix for p in pairs if p.agreement.value == "agree")
        median = reach[len(reach) // 2] if reach else "-"
        verdicts = " | ".join(f"{share[v] / count:.1%}" for v in ("agree", "inconclusive", "disagree"))
        print(f"| {name} | {same:.1%} | {verdicts} | {median} |")


def table_of_distances(count: int) -> None:
    print(f"\n### Log-prob similarity, {count} prompts, threshold 0.99\n")
    print("| node | tokens | least | mean | most | rejected |")
    print("|---|---|---|---|---|---|")
    prompts = tiny_lm.prompts(count, seed=5)
    for name in ("honest (bf16)", "int8 weights", "int4 weights", "other model"):
        for tokens in (10, 64):
            values = []
            for prompt, answer in zip(
                prompts, tiny_lm.answers(GREEDY[name][0], count, tokens, prompt_seed=5), strict=True
            ):
                ids = tiny_lm.ids_of(answer)
                rows = tiny_lm.log_probs(tiny_lm.model("fp32").logits([*prompt, *ids]))[len(prompt) - 1 : -1]
                found = measure_distance(
                    proofs_kit.positions(answer), proofs_kit.positions(tiny_lm.completion(ids, rows))
                )
                assert found.similarity is not None
                values.append(found.similarity)
            figures = " | ".join(f"{x:.5f}" for x in (min(values), sum(values) / count, max(values)))
            print(f"| {name} | {tokens} | {figures} | {sum(v <= 0.99 for v in values) / count:.1%} |")


def table_of_drift(trials: int) -> None:
    print(f"\n### Drift: first token, 10 samples a side, jitter 0.02 nat, {trials} trials at 1 %\n")
    print("| node now | baseline called changed |")
    print("|---|---|")
    import numpy as np

    draw = np.random.default_rng(6)
    (prompt,) = tiny_lm.prompts(1, seed=6)

    def samples(variant: str) -> list[dict[str, float]]:
        z = tiny_lm.model(variant).logits(prompt)[-1]
        made = []
        for _ in range(10):
            row = tiny_lm.log_probs(z + draw.normal(0, 0.02, z.shape).astype(np.float32))
            made.append({str(i): float(row[i]) for i in np.argsort(-row)[:20]})
        return made

    for name, variant in {"the same": "fp32", "honest (bf16)": "bf16", "int8": "int8", "int4": "int4"}.items():
        hits = sum(measure_drift(samples("fp32"), samples(variant), bytes([i]), 199).p <= 0.01 for i in range(trials))
        print(f"| {name} | {hits / trials:.0%} |")


def table_of_audits() -> None:
    print("\n### Sampled audits: the rate that finds a cheat with 95 %\n")
    print("| cheated | within requests | rate | chance at a rate of 3 % |")
    print("|---|---|---|---|")
    for fraction, requests in ((1.0, 100), (0.1, 1000), (0.01, 10_000), (0.01, 1000)):
        rate = needed_rate(fraction, 1.0, requests)
        said = "-" if rate is None else f"{rate:.2%}"
        print(f"| {fraction:.0%} | {requests} | {said} | {catch_probability(0.03, fraction, 1.0, requests):.1%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=200)
    count = max(parser.parse_args().prompts, 100)
    begun = time.process_time()
    table_of_margins("Re-execution, greedy", GREEDY, count, seeded=False)
    table_of_margins("Re-execution, seeded, temperature 1", SEEDED, count, seeded=True)
    table_of_pairs(count)
    table_of_distances(count)
    table_of_drift(50)
    table_of_audits()
    print(f"\n{time.process_time() - begun:.0f} s of CPU time.")


if __name__ == "__main__":
    main()
