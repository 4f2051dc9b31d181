"""Measure what honest answers score against a reference, and write it down as a calibration.

Two servers that you know to be good: the node answers prompts, the reference scores each answer's tokens in one
prefill. No threshold is portable: make one for every model, reference and build of it.

  veriroute calibrate --reference http://127.0.0.1:9001 --node http://127.0.0.1:9002 --prompts builtin --count 200 \\
      --tokens 64 --seed 1 --out greedy.json
  veriroute calibrate --reference http://127.0.0.1:9001 --node http://127.0.0.1:9002 --prompts builtin --count 200 \\
      --tokens 64 --seed 1 --seeded --temperature 1 --out seeded.json
  veriroute calibrate --reference http://127.0.0.1:9001 --node http://127.0.0.1:9002 --prompts builtin --count 200 \\
      --tokens 64 --seed 1 --logprob --out logprob.json
  veriroute calibrate --reference http://127.0.0.1:9001 --node http://127.0.0.1:9002 --prompts questions.txt \\
      --count 100 --tokens 64 --seed 1 --toploc --out toploc.json

A file of prompts has one a line; which are asked follows from --seed. The reference has to tell `prompt_logprobs` and
`return_token_ids` (vLLM does, with --no-enable-prefix-caching), for --toploc the values of docs/node-profile.md. Run
the reference alone, and the node as it will be run. That both are good is your word.

Exit codes: 0 written, 1 refused (too few windows, honest answers too far apart, prompts read differently), 2 usage,
3 one of the two did not answer.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.text import plain

from ._appraise_inputs import Usage
from .proof import configure_reference, open_reference, reference_name

if TYPE_CHECKING:
    from ._calibrate_run import Plan, What
    from ._proof_server import Server

HELP = "measure what honest answers score against a reference"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    configure_reference(parser, required=True)
    add("--node", metavar="URL", required=True, help="the known-good node that answers")
    add("--node-key-env", metavar="NAME", help="environment variable that holds its API key")
    add("--model", metavar="M", help="the model (default: the first that the reference lists)")
    add("--revision", metavar="TEXT", help="which weights these are (default: the reference's system_fingerprint)")
    add("--prompts", metavar="FILE", required=True, help="one prompt a line; `builtin` for made-up ones")
    add("--count", metavar="N", type=int, required=True, help="how many prompts")
    add("--tokens", metavar="T", type=int, required=True, help="tokens of each answer, at most")
    add("--seed", metavar="S", type=int, default=1, help="decides prompts and draws (default: 1)")
    add("--seeded", action="store_true", help="answers drawn with a shared seed, as veriroute-lm/1 draws")
    add("--logprob", action="store_true", help="distances of log-probs instead of margins, half of the answers drawn")
    add("--temperature", metavar="T", type=float, default=1.0, help="with --seeded and --logprob (default: 1)")
    add("--toploc", action="store_true", help="limits for TOPLOC proofs instead of margins")
    add("--out", metavar="FILE", type=Path, required=True, help="the calibration to write; it must not exist")
    add("--progress", action="store_true", help="say how far it is, also where that is no terminal")
    add("--json", action="store_true", help="JSON on standard output")


def run(args: argparse.Namespace) -> int:
    from ._calibrate_run import calibrate
    from ._proof_server import Server
    from ._proof_show import emit
    from .terminal import Progress

    _refuse_senseless(args)
    with (
        open_reference(args) as reference,
        Server(args.node, key_env=args.node_key_env, timeout_s=args.timeout) as node,
    ):
        progress = Progress("answers", always=args.progress)
        try:
            plan = _plan(args, reference)
            report, document = calibrate(plan, reference, node, progress.update)
        finally:
            progress.clear()
    if document is not None:
        _write(args.out, document)
        report.facts.append(f"written to {args.out}")
    return emit(report, as_json=args.json)


def _refuse_senseless(args: argparse.Namespace) -> None:
    from ._proof_prompts import MAX_COUNT

    if not 1 <= args.count <= MAX_COUNT or not 1 <= args.tokens <= 4096:
        raise Usage(f"--count is from 1 to {MAX_COUNT}, --tokens from 1 to 4096")
    if not 0 <= args.seed < 2**31:
        raise Usage("--seed is from 0 to 2147483647")
    if args.seeded + args.logprob + args.toploc > 1:
        raise Usage("--seeded, --logprob and --toploc make a calibration each; run it once for each")
    if not 0 < args.temperature <= 2:  # false for NaN as well
        raise Usage("--temperature is over 0 and at most 2")
    # Before minutes are spent; `_write` refuses both again.
    if args.out.exists():
        raise Usage(f"{plain(str(args.out))} exists; a calibration is not written over")
    if not args.out.parent.is_dir():
        raise Usage(f"there is no folder {plain(str(args.out.parent))}")


def _plan(args: argparse.Namespace, reference: Server) -> Plan:
    from ._calibrate_run import Plan
    from ._proof_prompts import prompts

    return Plan(
        what=_what(args),
        reference_id=reference_name(args.reference_id or reference.url),
        model=args.model or reference.first_model(),
        revision=args.revision,
        made=datetime.datetime.now(datetime.UTC).date().isoformat(),
        prompts=tuple(prompts(args.prompts, args.count, args.seed)),
        tokens=args.tokens,
        seed=args.seed,
        temperature=args.temperature,
    )


def _what(args: argparse.Namespace) -> What:
    from ._calibrate_run import What

    asked = {What.SEEDED: args.seeded, What.LOGPROB: args.logprob, What.TOPLOC: args.toploc}
    return next((what for what, wanted in asked.items() if wanted), What.GREEDY)


def _write(path: Path, document: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(document + b"\n")
    except OSError as error:
        raise Usage(f"cannot write {plain(str(path))}: {error.strerror}") from None
