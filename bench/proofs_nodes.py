"""What each statistical test finds of honest, coarser, swapped and mis-sampling nodes, on the reference node's own model.

    make bench-proofs                                      or, with the same defaults,
    .venv/bin/python bench/proofs_nodes.py [--prompts 500] [--tokens 64] [--seed 1] [--honest] [--json FILE]

Half of the prompts ask for stories in chat, half are running text to continue. A calibration on as many prompts, drawn with
`--seed`, of which none comes again, sets the thresholds from the honest bfloat16 node; what is tabled was drawn with the
next seed. So `refused` in an honest row is the rate of false alarms on prompts that the calibration never saw, with its
binomial 95 % interval (Wilson's). Judged by the gateway's own verifiers:

    margin     `judge_reexec`     the 99th percentile of honest answers
    distance   `judge_distance`   likewise
    both       refused by either, at half of the false alarms each: what a policy gets that asks for both
    TOPLOC     `judge_toploc`     calibrated limits; and the limits that were published, beside them
    quorum     `compare`          with the honest bfloat16 node, each answer ending where its node would have ended it

Prints the Markdown tables of docs/proofs.md. Ends with 1 when a figure that the project promises is missed. Everything
follows from the seed and NumPy's last bits.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is loaded

import msgspec
import numpy as np
from proofs_lm import KINDS, TOP, Answer, Asked, Model, Node, View, prompts

from gateway.verify.proofs import reexec, toploc_judge
from gateway.verify.proofs.agreement import NearTie, compare
from gateway.verify.proofs.calibration import Calibration, Statistic, measure
from gateway.verify.proofs.distance import Terms as DistanceTerms
from gateway.verify.proofs.distance import distances, judge_distance
from gateway.verify.proofs.evidence import Subject, Verdict
from gateway.verify.proofs.reexec import judge_reexec
from gateway.verify.proofs.spelling import Spelling
from gateway.verify.proofs.toploc import decode_all, distance

GREEDY, SEEDED, DISTANCE = Statistic.GREEDY_MARGIN, Statistic.SEEDED_MARGIN, Statistic.LOGPROB_DISTANCE
HONEST = "honest, bfloat16"
NODES: dict[Statistic, dict[str, Node]] = {
    GREEDY: {
        HONEST: Node("bf16"),
        "honest, float16": Node("fp16"),
        "weights in 8 bits": Node("int8"),
        "weights in 4 bits": Node("int4"),
        "weights in 3 bits": Node("int3"),
        "another model": Node("other"),
        "samples at 0.3": Node("bf16", "samples hot"),
        "one word of the prompt changed": Node("bf16", "other prompt"),
    },
    SEEDED: {
        HONEST: Node("bf16"),
        "weights in 4 bits": Node("int4"),
        "another model": Node("other"),
        "another seed": Node("bf16", "other seed"),
    },
}
#: A further honest node for the quorum: float32, summed in another order.
ALONE = "honest, float32"
CHEATS = ("weights in 4 bits", "weights in 3 bits", "another model")
HONEST_PAIRS = ("honest, float16", ALONE)
CAUGHT, FALSE_POSITIVES, DISAGREE = 0.95, 0.01, 0.01
PUBLISHED = (38, 10.0, 8.0)
SHARES = (0.0, 0.5)
_SUBJECT = Subject("0" * 64, "0" * 64, "reference")
_MODEL = "veriroute-lm-1"
_HALF = 0.005


class Calibrated(msgspec.Struct, frozen=True):
    """The documents that answers are judged by: margins for each claim, distances for both, and TOPLOC's limits."""

    margins: dict[Statistic, Calibration]
    distances: Calibration
    toploc: toploc_judge.ToplocCalibration


class Found(msgspec.Struct, frozen=True):
    """One answer: what was measured, and which judgements refused it. `exponents`: of TOPLOC's worst batch."""

    kind: str
    match: float
    margin: float
    distance: float
    refused: dict[str, bool]
    exponents: int | None = None


class Paired(msgspec.Struct, frozen=True):
    """One pair with the honest node: the agreement for each of `SHARES`."""

    kind: str
    same: bool
    prefix: int
    agreement: tuple[str, ...]


_MODEL_OF_PROCESS: list[Model] = []


def begin() -> None:
    _MODEL_OF_PROCESS.append(Model())


def calibrate(task: tuple[Statistic, Sequence[Asked], int]) -> tuple[Statistic, list[Any], float]:
    """An honest node's margins, distances and TOPLOC distances for some prompts."""
    statistic, asked, tokens = task
    model, begun, found = _MODEL_OF_PROCESS[0], time.process_time(), []
    for prompt in asked:
        answer = model.answer(NODES[statistic][HONEST], prompt, statistic, tokens, toploc=statistic is GREEDY)
        view = model.read(answer, prompt, statistic)
        apart = distances(answer.positions, view.positions, TOP)
        found.append((view.margins, apart, _toploc_distances(answer, view) if answer.proofs else ()))
    return statistic, found, time.process_time() - begun


def judge(task: tuple[Calibrated, Sequence[Asked], int, bool]) -> tuple[dict[Any, list[Any]], float]:
    """Every node's answers to some prompts, judged, and the pairs with the honest one; or the honest node's alone."""
    calibrated, asked, tokens, honest_alone = task
    model, begun = _MODEL_OF_PROCESS[0], time.process_time()
    found: dict[Any, list[Any]] = {}
    for prompt in asked:
        answers: dict[str, Answer] = {}
        for statistic, nodes in NODES.items():
            for name, node in ({HONEST: nodes[HONEST]} if honest_alone else nodes).items():
                answer = model.answer(node, prompt, statistic, tokens, toploc=statistic is GREEDY)
                view = model.read(answer, prompt, statistic)
                found.setdefault((statistic, name), []).append(_judged(calibrated, statistic, prompt, answer, view))
                if statistic is GREEDY:
                    answers[name] = answer
        if honest_alone:
            continue
        answers[ALONE] = model.answer(Node("reordered"), prompt, GREEDY, tokens, toploc=False)
        for name, answer in answers.items():
            if name != HONEST:
                found.setdefault(("quorum", name), []).append(_paired(prompt.kind, answers[HONEST], answer))
    return found, time.process_time() - begun


def _judged(calibrated: Calibrated, statistic: Statistic, asked: Asked, answer: Answer, view: View) -> Found:
    refused: dict[str, bool] = {}
    for share in (FALSE_POSITIVES, _HALF):
        terms = reexec.Terms(statistic, false_positives=share)
        margins = judge_reexec(view.margins, Spelling.SAME, calibrated.margins[statistic], _MODEL, terms, _SUBJECT)
        apart = judge_distance(
            answer.positions, view.positions, Spelling.SAME, DistanceTerms(false_positives=share), _SUBJECT,
            calibration=calibrated.distances, model=_MODEL,
        )  # fmt: skip
        refused[f"margin {share}"] = margins.verdict is not Verdict.PASS
        refused[f"distance {share}"] = apart.verdict is not Verdict.PASS
    assert margins.statistic is not None
    assert apart.statistic is not None
    exponents = None
    if answer.proofs is not None:
        judged = toploc_judge.judge_toploc(
            answer.proofs, view.activations, len(answer.ids), Spelling.SAME, calibrated.toploc, _MODEL, _SUBJECT
        )
        refused["toploc"] = judged.record.verdict is not Verdict.PASS
        exponents = max(d.exponents for d in judged.distances)
        refused["toploc published"] = not all(
            d.mantissa_mean is not None
            and d.mantissa_median is not None
            and (d.exponents <= PUBLISHED[0] and d.mantissa_mean <= PUBLISHED[1] and d.mantissa_median <= PUBLISHED[2])
            for d in judged.distances
        )
    match = sum(margin == 0 for margin in view.margins) / len(view.margins)
    return Found(asked.kind, match, margins.statistic, 1 - apart.statistic, refused, exponents)


def _paired(kind: str, honest: Answer, other: Answer) -> Paired:
    pairs = [compare(honest.natural, other.natural, NearTie(min_share=share)) for share in SHARES]
    same = [p.token for p in honest.natural] == [p.token for p in other.natural]
    return Paired(kind, same, pairs[0].prefix, tuple(pair.agreement.value for pair in pairs))


def _toploc_distances(answer: Answer, view: View) -> tuple[Any, ...]:
    assert answer.proofs is not None
    polynomials = decode_all(answer.proofs.proofs, tokens=len(answer.ids), prefill=True)
    return tuple(distance(p, own) for p, own in zip(polynomials, view.activations.batches, strict=True))


def documents(found: dict[Statistic, list[Any]], seed: int) -> Calibrated:
    """The calibrations, as `veriroute calibrate` writes them."""

    def made(statistic: Statistic, scores: list[Any], top: int | None) -> Calibration:
        return Calibration(
            1, "reexec", statistic, "reference", _MODEL, "own", "2026-01-31", (seed,), measure(scores), top
        )

    limits = toploc_judge.measure([d for _, _, own in found[GREEDY] for d in own])
    return Calibrated(
        {claim: made(claim, [margins for margins, _, _ in rows], None) for claim, rows in found.items()},
        made(DISTANCE, [apart for rows in found.values() for _, apart, _ in rows], TOP),
        toploc_judge.ToplocCalibration(
            1, "toploc", "reference", _MODEL, "own", "2026-01-31", (seed,), limits.batches, limits.exponents,
            limits.mantissa_mean, limits.mantissa_median, limits.signs,
        ),
    )  # fmt: skip


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson's score interval)."""
    z, p = 1.959964, hits / of
    middle, spread = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return max(0.0, (middle - spread) / (1 + z * z / of)), min(1.0, (middle + spread) / (1 + z * z / of))


def refused_by_both(found: Found) -> bool:
    return found.refused[f"margin {_HALF}"] or found.refused[f"distance {_HALF}"]


def share(flags: Sequence[bool]) -> str:
    return f"{sum(flags) / len(flags):.1%}" if flags else "-"


def interval(flags: Sequence[bool]) -> str:
    low, high = wilson(sum(flags), len(flags))
    return f"{low:.1%} to {high:.1%}"


def by_kind(rows: Sequence[Any], flag: Any) -> str:
    return " | ".join(share([flag(r) for r in rows if r.kind == kind]) for kind in KINDS)


def table_of_answers(title: str, found: dict[Any, list[Found]], statistic: Statistic) -> None:
    print(f"\n{title}:\n")
    print(
        "| node | tokens that match | margin | distance | margin alone | distance alone | both | stories | text | 95 % interval |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in NODES[statistic]:
        rows = found[statistic, name]
        print(
            f"| {name} | {fmean(r.match for r in rows):.1%} | {median(r.margin for r in rows):.5f} "
            f"| {median(r.distance for r in rows):.4f} "
            f"| {share([r.refused[f'margin {FALSE_POSITIVES}'] for r in rows])} "
            f"| {share([r.refused[f'distance {FALSE_POSITIVES}'] for r in rows])} "
            f"| **{share([refused_by_both(r) for r in rows])}** | {by_kind(rows, refused_by_both)} "
            f"| {interval([refused_by_both(r) for r in rows])} |"
        )


def table_of_toploc(found: dict[Any, list[Found]], calibrated: Calibrated) -> None:
    limits = calibrated.toploc
    print(
        f"\nTOPLOC, limits from {limits.batches} honest batches: {limits.exponents} exponents, mantissas "
        f"{limits.mantissa_mean:.2f} in the mean and {limits.mantissa_median:g} in the median, {limits.signs} signs:\n"
    )
    print("| node | exponents that differ | refused | stories | text | 95 % interval | by published limits |")
    print("|---|---|---|---|---|---|---|")
    for name in NODES[GREEDY]:
        rows = found[GREEDY, name]
        print(
            f"| {name} | {fmean(r.exponents or 0 for r in rows):.1f} | **{share([r.refused['toploc'] for r in rows])}** "
            f"| {by_kind(rows, lambda r: r.refused['toploc'])} | {interval([r.refused['toploc'] for r in rows])} "
            f"| {share([r.refused['toploc published'] for r in rows])} |"
        )


def table_of_pairs(found: dict[Any, list[Paired]]) -> None:
    print("\nQuorum, pairs of the honest bfloat16 node with another:\n")
    print(
        "| with | same text | median prefix | agree | inconclusive | disagree | stories | text | 95 % interval | agree at min_share 0.5 |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in (ALONE, *(n for n in NODES[GREEDY] if n != HONEST)):
        rows = found["quorum", name]
        disagree = [r.agreement[0] == "disagree" for r in rows]
        shares = " | ".join(share([r.agreement[0] == v for r in rows]) for v in ("agree", "inconclusive"))
        print(
            f"| {name} | {share([r.same for r in rows])} | {median(r.prefix for r in rows):.0f} | {shares} "
            f"| **{share(disagree)}** | {by_kind(rows, lambda r: r.agreement[0] == 'disagree')} | {interval(disagree)} "
            f"| {share([r.agreement[1] == 'agree' for r in rows])} |"
        )


def promises(found: dict[Any, list[Any]]) -> list[tuple[bool, str]]:
    """What docs/proofs.md promises of these figures, and whether it holds.

    Cheats and pairs are counted in each kind of prompts. False alarms are counted over both, as the calibration is: what
    it bounds is the rate over prompts like its own, and a kind of them may have more, the other less.
    """
    return [*_honest_pairs(found), *_cheats(found), *_false_alarms(found)]


def _honest_pairs(found: dict[Any, list[Any]]) -> Iterator[tuple[bool, str]]:
    for kind, name in itertools.product(KINDS, HONEST_PAIRS):
        rows = [r.agreement[0] == "disagree" for r in found["quorum", name] if r.kind == kind]
        yield sum(rows) < DISAGREE * len(rows), f"{kind}: {name} disagrees in {share(rows)}, under 1 %"


def _cheats(found: dict[Any, list[Any]]) -> Iterator[tuple[bool, str]]:
    for kind, (statistic, nodes) in itertools.product(KINDS, NODES.items()):
        for name in (n for n in CHEATS if n in nodes):
            rows = [refused_by_both(r) for r in found[statistic, name] if r.kind == kind]
            yield sum(rows) >= CAUGHT * len(rows), f"{kind}, {statistic.value}: {name} {share(rows)}, at least 95 %"


def _false_alarms(found: dict[Any, list[Any]]) -> Iterator[tuple[bool, str]]:
    for statistic in NODES:
        rows = [refused_by_both(r) for r in found[statistic, HONEST]]
        low, high = wilson(sum(rows), len(rows))
        said = f"{statistic.value}: {HONEST} refused in {share(rows)}, {low:.1%} to {high:.1%}, 1 % configured"
        yield low <= FALSE_POSITIVES, said


def drawn(count: int, seed: int) -> tuple[list[Asked], list[Asked]]:
    """The prompts of the calibration and those that are judged; no text is in both."""
    own, others = [], []
    for kind in KINDS:
        part = prompts(kind, -(-count // len(KINDS)), seed)
        own += part
        others += prompts(kind, len(part), seed + 1, frozenset(asked.text for asked in part))
    return own, others


def run(args: argparse.Namespace) -> tuple[Calibrated, dict[Any, list[Any]], float]:
    own, _ = drawn(args.calibrate or args.prompts, args.seed)
    _, others = drawn(args.prompts, args.seed)
    known = {asked.text for asked in own}
    others = [asked for asked in others if asked.text not in known]
    honest: dict[Statistic, list[Any]] = {GREEDY: [], SEEDED: []}
    found: dict[Any, list[Any]] = {}
    cpu = 0.0
    with multiprocessing.get_context("spawn").Pool(args.processes, begin) as pool:
        for statistic, rows, seconds in pool.imap(calibrate, [(s, p, args.tokens) for s in honest for p in parts(own)]):
            honest[statistic] += rows
            cpu += seconds
        calibrated = documents(honest, args.seed)
        for part, seconds in pool.imap(judge, [(calibrated, p, args.tokens, args.honest) for p in parts(others)]):
            cpu += seconds
            for key, rows in part.items():
                found.setdefault(key, []).extend(rows)
    return calibrated, found, cpu


def parts(asked: Sequence[Asked], size: int = 10) -> list[Sequence[Asked]]:
    return [asked[start : start + size] for start in range(0, len(asked), size)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=500, help="how many are judged (default: 500)")
    parser.add_argument("--calibrate", type=int, help="how many are calibrated with (default: as many)")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--honest", action="store_true", help="false alarms alone: no other node is run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    begun = time.perf_counter()
    calibrated, found, cpu = run(args)
    if args.honest:
        held = list(_false_alarms(found))
    else:
        table_of_answers("At temperature 0", found, GREEDY)
        table_of_answers("At temperature 1 with a seed", found, SEEDED)
        table_of_toploc(found, calibrated)
        table_of_pairs(found)
        held = promises(found)
    print("\n" + "\n".join(f"{'held  ' if well else 'MISSED'} {what}" for well, what in held))
    facts = {"prompts": args.prompts, "tokens": args.tokens, "seed": args.seed, "numpy": np.__version__}
    print(f"\n{json.dumps(facts)}: {cpu:.0f} s of processor time, {time.perf_counter() - begun:.0f} s in all")
    if args.json:
        figures = {f"{getattr(key[0], 'value', key[0])}: {key[1]}": rows for key, rows in found.items()}
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode({"run": facts, "held": held, "found": figures})))
    return 0 if all(well for well, _ in held) else 1


if __name__ == "__main__":
    sys.exit(main())
