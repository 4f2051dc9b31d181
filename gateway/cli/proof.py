"""Judge proofs and statistical evidence by hand: a saved request, the saved answer, and what it is held against.

A zero-knowledge proof against a circuit that you pinned (circuit.toml, vk.key, settings.json, verifier.srs in DIR):

  veriroute proof verify proof.json --circuit circuits/moderation --request request.json --response answer.json

TOPLOC proofs that came with an answer, against a reference that computes the model itself, or values that you have:

  veriroute proof verify answer.json --toploc --request request.json --reference http://127.0.0.1:9001 \\
      --calibration toploc.json
  veriroute proof verify answer.json --toploc --request request.json --activations values.json --calibration toploc.json

Would a trusted reference have picked the tokens of this answer? And did several operators give the same one?

  veriroute proof reexec --reference http://127.0.0.1:9001 --calibration greedy.json --request r.json --response a.json
  veriroute proof reexec --reference http://127.0.0.1:9001 --calibration seeded.json --request r.json \\
      --response a.json --seeded
  veriroute proof quorum --request r.json --response a.json --operator alpha --response b.json --operator beta

`veriroute calibrate` makes the calibrations. Answers have to hold what the kind needs: `return_token_ids: true` for
re-execution and TOPLOC (`toploc: true` besides), `logprobs: true, top_logprobs: 5` for a quorum over text. Only a
zero-knowledge proof is a proof; the rest is statistics. The reference's word is taken.

Exit codes: 0 every check is affirming, 1 something is contraindicated, 2 usage, 3 something could not be decided, as
when the reference is down.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gateway.errors import FormatError
from gateway.text import plain
from gateway.verify.proofs.evidence import SHOWN

from ._appraise_inputs import Usage

if TYPE_CHECKING:
    from ._proof_server import Server
    from ._proof_show import Report

_C = TypeVar("_C")

HELP = "judge proofs, re-executions and quorums of saved answers"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="verify|reexec|quorum")
    verify = actions.add_parser("verify", help="a zero-knowledge proof, or the TOPLOC proofs of an answer")
    verify.add_argument("file", metavar="FILE", type=Path, help="the proof; with --toploc the answer that brings it")
    verify.add_argument("--circuit", metavar="DIR", type=Path, help="the pinned circuit: circuit.toml and its files")
    verify.add_argument("--toploc", action="store_true", help="FILE is an answer with TOPLOC proofs")
    verify.add_argument("--request", metavar="FILE", type=Path, help="the body that was sent")
    verify.add_argument("--response", metavar="FILE", type=Path, help="the body that came back (with --circuit)")
    verify.add_argument("--activations", metavar="FILE", type=Path, help="a trusted execution's values (with --toploc)")
    verify.add_argument("--calibration", metavar="FILE", type=Path, help="the limits to judge by (with --toploc)")
    verify.add_argument("--seconds", metavar="S", type=_positive, default=60.0, help="time for a proof (default: 60)")
    reexec = actions.add_parser("reexec", help="one answer, scored again by a trusted reference")
    reexec.add_argument("--calibration", metavar="FILE", type=Path, required=True, help="what honest answers score")
    reexec.add_argument("--seeded", action="store_true", help="the answer was drawn with the request's seed")
    reexec.add_argument("--min-tokens", metavar="N", type=_count, default=16, help="fewer decide nothing (default: 16)")
    reexec.add_argument(
        "--max-mean-margin", metavar="NATS", type=_nats, default=0.0,
        help="always let be; 0 leaves it to the calibration (default: 0)",
    )  # fmt: skip
    quorum = actions.add_parser("quorum", help="saved answers of several operators to one request")
    quorum.add_argument("--response", metavar="FILE", type=Path, action="append", required=True, help="an answer")
    quorum.add_argument(
        "--operator", metavar="NAME", action="append", required=True, help='who runs its node; "" is not known'
    )
    quorum.add_argument("--label", action="store_true", help="the answers are one of a few words")
    for name, kind, default, about in _QUORUM:
        quorum.add_argument(f"--{name}", metavar="X", type=kind, default=default, help=f"{about} (default: {default})")
    for action in (reexec, quorum):
        action.add_argument("--request", metavar="FILE", type=Path, required=True, help="the body that was sent")
    reexec.add_argument("--response", metavar="FILE", type=Path, required=True, help="the body that came back")
    for action, needed in ((verify, False), (reexec, True)):
        configure_reference(action, required=needed)
    for action, name in ((verify, "verify"), (reexec, "reexec"), (quorum, "quorum")):
        action.epilog = _examples(name)
        action.formatter_class = argparse.RawDescriptionHelpFormatter
        action.add_argument("--json", action="store_true", help="the record and every check as JSON")


def _examples(action: str) -> str:
    """The examples of one act, from this module's own text."""
    whole = (__doc__ or "").split("\n")
    starts = [i for i, line in enumerate(whole) if line.startswith(f"  veriroute proof {action} ")]
    rows = [line for i in starts for line in whole[i : i + 1 + whole[i].endswith("\\")]]
    return "\n".join(["examples:", *rows])


def configure_reference(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """The options that say which reference is asked, and how."""
    add = parser.add_argument
    add("--reference", metavar="URL", required=required, help="the trusted reference, which computes the model itself")
    add("--reference-id", metavar="ID", help="what calibrations call it (default: its address)")
    add("--reference-key-env", metavar="NAME", help="environment variable that holds its API key")
    add("--timeout", metavar="S", type=_positive, default=60.0, help="seconds for each of its answers (default: 60)")


def run(args: argparse.Namespace) -> int:
    from ._proof_show import emit

    report = {"verify": _verify, "reexec": _reexec, "quorum": _quorum}[args.action](args)
    return emit(report, as_json=args.json)


def _verify(args: argparse.Namespace) -> Report:
    if (args.circuit is None) is not args.toploc:
        raise Usage("give --circuit DIR for a zero-knowledge proof, or --toploc; `veriroute proof verify --help`")
    return _toploc(args) if args.toploc else _zk(args)


def _zk(args: argparse.Namespace) -> Report:
    from ._proof_answer import read_file
    from ._proof_zk import verify_zk

    if args.activations or args.calibration or args.reference:
        raise Usage("--activations, --calibration and --reference are for --toploc")
    request = read_file(args.request) if args.request else None
    response = read_file(args.response) if args.response else None
    return verify_zk(read_file(args.file), args.circuit, request, response, args.seconds)


def _toploc(args: argparse.Namespace) -> Report:
    from gateway.verify.proofs.toploc_judge import parse_toploc_calibration

    from ._proof_answer import read_file, read_request
    from ._proof_toploc import verify_toploc

    if args.response:
        raise Usage("with --toploc FILE is the answer; --response is for --circuit")
    if not args.request or not (args.activations or args.reference):
        raise Usage("--toploc needs --request FILE, and --reference URL or --activations FILE")
    calibration = None
    if args.calibration:
        calibration = _calibration(args.calibration, parse_toploc_calibration)
    saved = read_file(args.activations) if args.activations else None
    id_ = args.reference_id or (None if args.reference else calibration and calibration.reference)
    answer, request = read_file(args.file), read_request(args.request)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(open_reference(args)) if args.reference else None
        id_ = reference_name(id_ or (server.url if server else "not known"))
        return verify_toploc(answer, request, saved, server, id_, calibration)


def _reexec(args: argparse.Namespace) -> Report:
    from gateway.verify.proofs.calibration import Statistic, parse_calibration
    from gateway.verify.proofs.reexec import Terms

    from ._proof_answer import read_file, read_request
    from ._proof_reexec import reexecute

    if args.min_tokens < 1:
        raise Usage("--min-tokens is at least 1")
    calibration = _calibration(args.calibration, parse_calibration)
    request, response = read_request(args.request), read_file(args.response)
    statistic = Statistic.SEEDED_MARGIN if args.seeded else Statistic.GREEDY_MARGIN
    terms = Terms(statistic, args.min_tokens, args.max_mean_margin)
    with open_reference(args) as server:
        id_ = reference_name(args.reference_id or server.url)
        return reexecute(server, id_, request, response, calibration, seeded=args.seeded, terms=terms)


def _quorum(args: argparse.Namespace) -> Report:
    from gateway.verify.proofs.agreement import NearTie
    from gateway.verify.proofs.quorum import Terms
    from gateway.verify.proofs.structured import Form, form_of

    from ._proof_answer import read_file, read_request
    from ._proof_quorum import judge_saved

    if len(args.response) != len(args.operator):
        raise Usage(
            f"{len(args.response)} times --response and {len(args.operator)} times --operator: give one for each"
        )
    request = read_request(args.request)
    answers: dict[str, bytes] = {}
    operators: dict[str, str] = {}
    for path, operator in zip(args.response, args.operator, strict=True):
        name = str(path) if str(path) not in answers else f"{path} ({len(answers) + 1})"
        answers[name] = read_file(path)
        if operator:
            operators[name] = operator
    form = Form.LABEL if args.label else form_of(request.document)
    near_tie = NearTie(args.tau, args.delta, args.min_prefix, args.min_share)
    # All that were asked are here, so their contradictions count as such.
    return judge_saved(request, answers, operators, Terms(args.n, max(args.n, len(answers)), near_tie, form))


def open_reference(args: argparse.Namespace) -> Server:
    """The server that --reference names. Raises `ConfigError`."""
    from ._proof_server import Server

    return Server(args.reference, key_env=args.reference_key_env, timeout_s=args.timeout)


def reference_name(name: str) -> str:
    """What calibrations and records call a reference. Raises `Usage` for a name that no record takes."""
    if len(name) > SHOWN or not name.isprintable():
        raise Usage(f"a reference is known by at most {SHOWN} printable characters: give it a --reference-id")
    return name


def _calibration(path: Path, parse: Callable[[bytes], _C]) -> _C:
    from ._proof_answer import read_file

    try:
        return parse(read_file(path))
    except FormatError as error:
        raise Usage(f"{plain(str(path))}: {error.message}") from None


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError("seconds are over 0 and at most 3600")
    return value


def _nats(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3:
        raise argparse.ArgumentTypeError("nats are from 0 to 3")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 10_000:
        raise argparse.ArgumentTypeError("a number from 0 to 10000")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("a share is from 0 to 1")
    return value


_QUORUM: tuple[tuple[str, Callable[[str], float], float, str], ...] = (
    ("n", _count, 2, "how many operators have to agree"),
    ("tau", _nats, 0.2, "nats within which two tokens count as a tie"),
    ("delta", _nats, 0.05, "nats that log-probs may differ by in the mean"),
    ("min-prefix", _count, 8, "tokens before which a near-tie decides nothing"),
    ("min-share", _share, 0.0, "share of the shorter answer that the common prefix has to be"),
)
