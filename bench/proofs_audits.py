"""How many requests a dishonest node lasts under sampled audits: `python bench/proofs_audits.py [--power 1 0.95]`.

For each row a node cheats in a fraction f of its answers, a policy samples at rate s, and an audit of a cheat finds it
with probability d. The arithmetic (`gateway.verify.proofs.sampling`) says P(found within n) = 1 - (1 - s·f·d)^n. Here
it is held against the rule itself: seeds and receipt ids as the gateway makes them, selection by `sampling.selected`,
and requests counted until the first audit that fails. Everything follows from `--seed`, so that the table comes out
the same again. Prints a Markdown table; exit 1 when a mean or a 95 % quantile is further from the arithmetic than
chance explains (four standard errors).
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gateway.auditing.auditor import rate_text
from gateway.model.ulid import encode
from gateway.verify.proofs.sampling import catch_probability, parse_rate, selected

#: (rate, fraction): from the rates that policies would write to the one of tests.
CASES = ((0.03, 1.0), (0.03, 0.1), (0.1, 0.5), (0.5, 1.0))
#: An epoch has this many requests, then another seed decides.
EPOCH = 200
#: Standard errors that chance may be off.
SIGMAS = 4.0


class Row(NamedTuple):
    """One case: what the arithmetic says and what was measured, in requests."""

    rate: float
    fraction: float
    power: float
    mean: float
    mean_measured: float
    quantile: int
    within_measured: float
    within: float
    holds: bool


def requests_until_found(rate: float, fraction: float, power: float, chance: random.Random) -> int:
    """Requests until the first failed audit, the one that failed among them."""
    exact = parse_rate(rate_text(rate))
    seed, count = b"", 0
    while True:
        if count % EPOCH == 0:
            seed = hashlib.sha256(chance.randbytes(16)).digest()
        count += 1
        audited = selected(seed, encode(chance.getrandbits(127)), exact)
        # The node decides to cheat before, and without regard to, the seed; and so does what an audit overlooks.
        cheats, seen = chance.random() < fraction, chance.random() < power
        if audited and cheats and seen:
            return count


def quantile(rate: float, fraction: float, power: float, confidence: float = 0.95) -> int:
    """The least number of requests within which a cheat is found with that probability."""
    n = max(1, math.ceil(math.log(1 - confidence) / math.log1p(-rate * fraction * power)))
    return n if catch_probability(rate, fraction, power, n) >= confidence else n + 1


def measure(rate: float, fraction: float, power: float, trials: int, seed: int) -> Row:
    """One case over so many nodes."""
    chance = random.Random(f"{seed} {rate} {fraction} {power}")
    lasted = [requests_until_found(rate, fraction, power, chance) for _ in range(trials)]
    found = rate * fraction * power
    mean, spread = 1 / found, math.sqrt(1 - found) / found
    at = quantile(rate, fraction, power)
    within, measured = catch_probability(rate, fraction, power, at), sum(n <= at for n in lasted) / trials
    mean_measured = sum(lasted) / trials
    holds = abs(mean_measured - mean) <= SIGMAS * spread / math.sqrt(trials) and abs(
        measured - within
    ) <= SIGMAS * math.sqrt(within * (1 - within) / trials)
    return Row(rate, fraction, power, mean, mean_measured, at, measured, within, holds)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400, help="dishonest nodes a row (400)")
    parser.add_argument("--seed", type=int, default=1, help="what everything follows from (1)")
    parser.add_argument(
        "--power", type=float, nargs="+", default=[1.0, 0.95], help="what an audit finds of a cheat (1 0.95)"
    )
    args = parser.parse_args(arguments)
    print("| rate s | cheats f | power d | mean requests, predicted | measured | 95 % found by | measured share |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    rows = [measure(rate, fraction, d, args.trials, args.seed) for d in args.power for rate, fraction in CASES]
    for row in rows:
        print(
            f"| {row.rate:g} | {row.fraction:g} | {row.power:g} | {row.mean:.1f} | {row.mean_measured:.1f} | {row.quantile}"
            f" | {100 * row.within_measured:.1f} % |" + ("" if row.holds else " **off**")
        )
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
