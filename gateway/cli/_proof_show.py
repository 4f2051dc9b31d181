"""What the commands about proofs print: each check with what was found, what it comes to, and what to do next."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.model.verdict import Check, Outcome
from gateway.text import plain
from gateway.verify.proofs.evidence import ProofRecord, check_of, shown

from . import EXIT_OK, EXIT_REJECTED, EXIT_UNDECIDED
from ._appraise_show import check_rows
from .terminal import printable

TITLES: Mapping[str, str] = {
    "zk_circuit": "The circuit is the one that was pinned",
    "zk_proof_form": "There is a proof, of the pinned length and with canonical public values",
    "zk_inputs": "Its inputs are the numbers of the request",
    "zk_verifies": "It verifies under the pinned key",
    "zk_outputs": "The answer's numbers are the proven ones",
    "reexec_claim": "The request says how tokens were to be chosen, in a way that can be asked again",
    "reexec_answer": "The answer tells its tokens",
    "reexec_reference": "The reference scored every token",
    "reexec_calibration": "The calibration is of the build that the reference says it runs",
    "reexec_spelling": "The tokens spell the text that will be read",
    "quorum_request": "The request asks for the likeliest tokens",
    "toploc_answer": "The answer brings proofs, and tells its tokens",
    "toploc_activations": "A trusted execution has values for the same tokens",
    "toploc_spelling": "The tokens spell the text that will be read",
    "calibrate_answers": "The known-good node answered every prompt, and the reference scored each answer",
    "calibrate_prompts": "Node and reference read every prompt as the same tokens",
    "calibrate_spread": "Honest answers are near enough to each other that others can be told apart",
    "proof_zk": "The proof holds for this answer",
    "proof_reexec": "The reference would have picked these tokens",
    "proof_quorum": "Enough distinct operators gave the same answer",
    "proof_toploc": "The tokens went through a model as near as honest ones",
}

#: Reason -> what whoever reads it can do.
NEXT: Mapping[str, str] = {
    "verifier_missing": "Proof systems come with the extra: pip install 'veriroute[zk]'.",
    "verifier_version": "Another ezkl than the pinned one is installed: pip install 'veriroute[zk]'.",
    "verifier_timeout": "--seconds gives a proof more time.",
    "request_absent": "Give the body that was sent with --request FILE.",
    "response_absent": "Give the body that came back with --response FILE.",
    "output_replaced": "The answer's own numbers are others. A gateway would release the proven ones in their place: "
    "--json has that body as `released`.",
    "calibration_wide": "Honest answers so far apart hide small cheats. Does the node run the weights unquantised?",
    "inputs_private": "This circuit keeps its inputs private: no proof of it says anything about a request.",
    "not_greedy": "Only temperature 0, in so many words, can be asked again; --seeded judges a shared seed.",
    "not_seeded": "A seeded claim has an integer seed and a temperature over 0; without --seeded, temperature 0.",
    "sampling_unsupported": "A member of the request changes which tokens are chosen, and the scores do not tell how.",
    "token_ids_absent": "Ask nodes with return_token_ids: true and save the whole answer.",
    "calibration_of_another": "Calibrate for this model and this reference, or name it as the calibration does with "
    "--reference-id.",
    "reference_changed": "The reference runs another build than the calibration was made with: calibrate again.",
    "revision_not_told": "The calibration's revision was given by hand: that the reference runs it is your word.",
    "reference_unreachable": "Is the reference running, and is this its address?",
    "toploc_uncalibrated": "Give limits for this very model: veriroute calibrate --toploc makes them.",
    "too_few_samples": "Ask for more answers or longer ones: --count, --tokens.",
    "calibration_invalid": "The node is no honest node of the reference's model, or one of the two runs another "
    "template.",
    "prompts_differ": "Their chat templates or tokenizers differ: neither can score the other.",
}


@dataclass
class Report:
    """What a command found. `facts` are rows for people; `more` goes into --json as it is.

    Checks that nobody asked for stand in `unasked`: they are shown, and decide nothing.
    """

    title: str
    checks: list[Check] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    unasked: set[str] = field(default_factory=set)
    record: ProofRecord | None = None

    def held(self, id_: str, found: str | None = None, expected: str | None = None) -> None:
        """A check that affirms."""
        self.checks.append(Check(id_, Outcome.AFFIRMING, None, _text(found), _text(expected)))

    def add(
        self, id_: str, outcome: Outcome, reason: str, found: str | None = None, expected: str | None = None
    ) -> None:
        """A check that does not."""
        self.checks.append(Check(id_, outcome, reason, _text(found), _text(expected)))

    def judged(self, record: ProofRecord) -> Report:
        """The record, and the check that follows from it."""
        self.record = record
        self.checks.append(check_of(record))
        return self

    @property
    def code(self) -> int:
        """1 when a check is contraindicated, 3 when one that was asked for is not decided, else 0."""
        outcomes = [c.outcome for c in self.checks if c.id not in self.unasked]
        if Outcome.CONTRAINDICATED in outcomes:
            return EXIT_REJECTED
        return EXIT_UNDECIDED if Outcome.NONE in outcomes or not outcomes else EXIT_OK


_SUMMARY = {
    EXIT_OK: "every check is affirming (exit 0)",
    EXIT_REJECTED: "something is CONTRAINDICATED (exit 1)",
    EXIT_UNDECIDED: "something COULD NOT BE DECIDED (exit 3)",
}


def emit(report: Report, *, as_json: bool) -> int:
    """Print a report and return the exit code that it comes to."""
    if as_json:
        print_json(_document(report))
        return report.code
    reasons = dict.fromkeys(c.reason for c in report.checks if c.reason)
    rows = [plain(report.title, 200), "", *check_rows(report.checks, TITLES)]
    rows += ["", *(plain(fact, 200) for fact in report.facts)] if report.facts else []
    rows += ["", _SUMMARY[report.code], *(f"  → {NEXT[r]}" for r in reasons if r in NEXT)]
    sys.stdout.write("".join(printable(row, sys.stdout) + "\n" for row in rows))
    return report.code


def print_json(document: object) -> None:
    """JSON in ASCII: what JSON leaves as it is may still command a terminal."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _document(report: Report) -> dict[str, Any]:
    return {
        "exit": report.code,
        "checks": msgspec.to_builtins(report.checks),
        "record": msgspec.to_builtins(report.record) if report.record else None,
        **report.more,
    }


def _text(text: str | None) -> str | None:
    return None if text is None else shown(text)
