"""`veriroute proof quorum`: saved answers of several operators to one request, judged offline."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.errors import FormatError
from gateway.model.verdict import Outcome
from gateway.verify.proofs.claim import claim_of
from gateway.verify.proofs.evidence import Kind, Subject, Verdict
from gateway.verify.proofs.quorum import Answer, Compared, Quorum, Terms, judge_quorum

from ._appraise_inputs import Usage
from ._proof_answer import Request, sha
from ._proof_show import Report


def judge_saved(request: Request, answers: Mapping[str, bytes], operators: Mapping[str, str], terms: Terms) -> Report:
    """The quorum of `answers`, body by name, of nodes that `operators` run (without an entry: not known).

    Raises `Usage` for terms that make no quorum.
    """
    report = Report(f"quorum of {terms.n} operators among {len(answers)} answers of {request.model}")
    subject = Subject(sha(request.body), None)
    reason = claim_of(request.document, seeded=False)
    if reason == "not_greedy":  # honest answers that were drawn by lot differ; biases and grammars are alike for all
        report.add("quorum_request", Outcome.NONE, reason, f"temperature {request.document.get('temperature')}", "0")
        return report.judged(subject.record(Kind.QUORUM, Verdict.INCONCLUSIVE, reason))
    report.held("quorum_request", "temperature 0")
    try:
        found = judge_quorum(
            [Answer(name, sha(body), body) for name, body in answers.items()], operators, terms, subject
        )
    except FormatError as error:
        raise Usage(error.message) from None
    report.facts += [
        f"{name}: {_standing(name, found)}; operator {operators.get(name, 'not known')}" for name in answers
    ]
    report.facts += [_sentence(compared) for compared in found.pairs]
    report.more |= {
        "members": list(found.members),
        "missing": dict(found.missing),
        "pairs": [_row(compared) for compared in found.pairs],
    }
    return report.judged(found.record)


def _standing(name: str, found: Quorum) -> str:
    if name in found.missing:
        return f"could not take part, {found.missing[name]}"
    if name in found.members:
        return "in the quorum, and the one to release" if name == found.members[0] else "in the quorum"
    return "contradicts the quorum" if name in found.record.culprits else "not in a quorum"


def _sentence(compared: Compared) -> str:
    pair = compared.pair
    more = f", {pair.prefix} tokens in common" if pair.drift is not None else ""
    more += f", drift {pair.drift:.4f}" if pair.drift is not None else ""
    more += f", parted {pair.gap:.3f} from a tie" if pair.gap is not None else ""
    return f"{compared.a} and {compared.b}: {pair.agreement.value}, {pair.reason}{more}"


def _row(compared: Compared) -> dict[str, object]:
    pair = compared.pair
    return {
        "a": compared.a, "b": compared.b, "agreement": pair.agreement.value, "reason": pair.reason,
        "prefix": pair.prefix, "drift": pair.drift, "gap": pair.gap,
    }  # fmt: skip
