"""What a receipt says of evidence beyond signatures: its members `proofs` and `audit`, as lines below the answer.

    "proofs": [{"kind": "quorum", "assurance": "statistical", "verdict": "pass", "statistic": "2", "threshold": "2",
                "answers": [{"node": "a", "operator": "o", "receipt": "01…", "outcome": "agreed"}, …]}, …]
    "audit":  {"epoch": "…", "kind": "reexec", "rate": "0.03"}

Everything is a fact here and nothing an outcome: the check `proof_<kind>` in the same receipt is what the verdict rests
on. What stands behind each is always said, and only zero-knowledge evidence is called a proof.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.model.receipt import Statement

from .chain import CLAIMED, Line

_NAMES = {
    "quorum": "Several operators gave the same answer",
    "reexec": "A reference would have written the same tokens",
    "logprob": "The node's log-probs are the reference's",
    "toploc": "The reference's hidden states fit the node's fingerprints",
    "zk": "Numbers of the answer are proven to be the circuit's",
}
_ASSURANCE = {
    "cryptographic": "Cryptographic: a proof of the numbers that the circuit covers, and of nothing else.",
    "statistical": "Statistical: decided within a measured rate of error. It is evidence, and no proof.",
    "economic": "Economic: all that stands behind it is that the answer might have been audited. It is no proof.",
}
_VERDICTS = {
    "pass": "decided for the answer",
    "fail": "decided against it",
    "inconclusive": "tried, and not decided",
    "absent": "not there to be tried",
}
_AUDITED = (
    "A share of exchanges is re-executed later. Which ones, a secret seed says, whose digest was logged before; once "
    "it is revealed, anybody can tell whether this one had to be. It says nothing about this answer by itself."
)
#: More parts, or answers in one, are counted and not drawn.
_MOST = 64

Part = Mapping[str, object]


def add_proofs(root: Line, statement: Statement | None) -> None:
    """Put what the receipt says of further evidence below the answer of its tree."""
    response = next((line for line in root.below if line.key == "response"), None)
    lines = [] if statement is None else proof_lines(msgspec.to_builtins(statement.predicate))
    if response is None or not lines:
        return
    response.below.append(
        Line(
            key="evidence",
            text=", ".join(line.key for line in lines),
            told=CLAIMED,
            title="Evidence beyond signatures",
            facts=[("kinds", str(len(lines)))],
            words=["What each kind shows, and does not show, stands in docs/proofs.md."],
            below=lines,
        )
    )


def proof_lines(receipt: Mapping[str, object]) -> list[Line]:
    """The lines for `receipt`, a receipt's predicate as JSON; none where it has neither member."""
    lines = [proof_line(part) for part in _parts(receipt.get("proofs"))]
    audit = receipt.get("audit")
    return [*lines, audit_line(audit)] if isinstance(audit, Mapping) else lines


def proof_line(part: Part) -> Line:
    """One piece of evidence: kind, what stands behind it, how it ended, what was measured."""
    kind, verdict = _text(part, "kind"), _text(part, "verdict")
    reason = _text(part, "reason", "")
    measured = _measured(part)
    answers = _parts(part.get("answers"))
    return Line(
        key=f"{kind} proof" if kind == "zk" else f"{kind} evidence",
        text="  ".join(piece for piece in (_behind(part), verdict, reason, measured) if piece),
        told=CLAIMED,
        title=_NAMES.get(kind, f"Evidence of the kind {kind}") if verdict == "pass" else f"Evidence: {kind}",
        facts=[
            ("assurance", _behind(part)),
            ("verdict", f"{verdict}: {_VERDICTS[verdict]}" if verdict in _VERDICTS else verdict),
            ("reason", reason or "–"),
            ("measured", measured or "–"),
            *_named(part, ("reference", "referenceId"), ("calibration", "calibrationId")),
            *[("against", name) for name in _texts(part.get("culprits"))],
        ],
        words=[_words(part)],
        copy=_text(part, "calibrationId", "") or None,
        below=[_answer(answer, number) for number, answer in enumerate(answers, 1)],
    )


def audit_line(audit: Part) -> Line:
    """Under which epoch, and at what rate, this exchange may be audited."""
    kind, rate = _text(audit, "kind"), _text(audit, "rate")
    return Line(
        key="audit",
        text=f"economic  may be audited ({kind}), one in {_one_in(rate)}",
        told=CLAIMED,
        title="This answer may be audited later",
        facts=[("assurance", "economic"), ("kind", kind), ("rate", rate), ("epoch", _text(audit, "epoch"))],
        words=[_AUDITED, _ASSURANCE["economic"]],
        copy=_text(audit, "epoch", "") or None,
    )


def _answer(answer: Part, number: int) -> Line:
    node, operator = _text(answer, "node"), _text(answer, "operator")
    return Line(
        key=f"answer {number}",
        text=f"{_text(answer, 'outcome')}  {node} ({operator})",
        told=CLAIMED,
        title="One node's answer to the same request",
        facts=[
            ("node", node),
            ("operator", operator),
            ("outcome", _text(answer, "outcome")),
            ("its receipt", _text(answer, "receipt")),
        ],
        words=["Each answer of a quorum is an exchange of its own and has a receipt of its own."],
        copy=_text(answer, "receipt", "") or None,
    )


def _behind(part: Part) -> str:
    """What stands behind it. No other kind than zk can be cryptographic, whatever a record calls it."""
    word = _text(part, "assurance")
    if (word == "cryptographic") != (_text(part, "kind") == "zk"):
        return f"called {word}, which this kind cannot be"
    return word


def _words(part: Part) -> str:
    word = _text(part, "assurance")
    known = _behind(part) == word
    return _ASSURANCE.get(word, "What stands behind it is not said.") if known else "This record claims too much."


def _measured(part: Part) -> str:
    pieces = []
    if part.get("statistic") is not None:
        held = f" against {_text(part, 'threshold')}" if part.get("threshold") is not None else ""
        pieces.append(f"{_text(part, 'statistic')}{held}")
    if part.get("tokens") is not None:
        pieces.append(f"{_text(part, 'tokens')} tokens")
    return ", ".join(pieces)


def _one_in(rate: str) -> str:
    try:
        share = float(rate)
    except ValueError:
        return "?"
    return f"{1 / share:,.0f}".replace(",", " ") if 1e-9 < share <= 1 else "?"


def _named(part: Part, *names: tuple[str, str]) -> list[tuple[str, str]]:
    return [(shown, _text(part, name)) for shown, name in names if part.get(name) is not None]


def _text(part: Part, name: str, otherwise: str = "–") -> str:
    value = part.get(name)
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else otherwise


def _texts(value: object) -> list[str]:
    return [item for item in value[:_MOST] if isinstance(item, str)] if isinstance(value, list) else []


def _parts(value: object) -> list[Part]:
    return [item for item in value[:_MOST] if isinstance(item, Mapping)] if isinstance(value, list) else []
