"""The provenance as a tree."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tui_kit import NOON_MS

from gateway.model.receipt import ProofAnswer, ProofPart, Rejected
from gateway.model.verdict import Check, Claim, Outcome, Release
from gateway.verify.checks import CHECKS
from tui.chain import Line, chain, check_line, claim_line, problems, split_checks, unfolded
from tui.demo_source import DemoSource, demo_pins
from tui.filters import Filter
from tui.reverify import Findings, reverify, step_lines
from tui.source import Row

OK = Outcome.AFFIRMING


async def _opened(index: int) -> tuple[Row, Findings]:
    source = DemoSource(60, now_ms=NOON_MS, live=False)
    page = await source.page(Filter(), before=index + 1, limit=1)
    return page.rows[0], reverify(await source.bundle(page.rows[0].id), page.rows[0], demo_pins(), NOON_MS / 1000)


async def _tree(index: int) -> Line:
    row, findings = await _opened(index)
    placed = step_lines(findings)
    root = chain(row, findings.statement, placed.pop("receipt", []))
    for branch in root.below:
        branch.below += placed.get(branch.key, [])
    return root


def _branch(root: Line, key: str) -> Line:
    return next(line for line in root.walk() if line.key == key)


async def test_the_chain_has_its_six_branches() -> None:
    """Request, policy, route, node, response, receipt: in the order in which they happened."""
    root = await _tree(0)
    assert [line.key for line in root.below] == ["request", "policy", "route", "node", "response", "receipt"]
    assert root.outcome is OK


async def test_an_affirmed_exchange_starts_folded() -> None:
    """Where everything below affirms, only the branches show."""
    root = await _tree(0)
    assert unfolded(root) == {id(root)}
    assert problems(root) == []


async def test_a_failed_one_is_open_down_to_the_first_problem() -> None:
    """The way to the failing check is open, and nothing else."""
    root = await _tree(4)
    first = problems(root)[0]
    assert first.key == "response_bound"
    assert unfolded(root) == {id(root), id(_branch(root, "response")), id(first)}
    assert _branch(root, "response").judged is Outcome.CONTRAINDICATED
    assert _branch(root, "node").judged is OK


async def test_a_refused_exchange_names_no_node() -> None:
    """Without a node the chain says that no prompt byte left."""
    root = await _tree(19)
    assert "no prompt byte left" in _branch(root, "node").text
    assert problems(root) == [_branch(root, "route")]
    assert id(_branch(root, "route")) in unfolded(root)
    assert len(_branch(root, "route").below) == 2


async def test_a_node_that_was_not_used_says_why() -> None:
    """The reason and, where the receipt has it, what is behind it; receipts of earlier days have none."""
    row, findings = await _opened(0)
    assert findings.statement is not None
    receipt = findings.statement.predicate
    gone = (Rejected("a", "tee_rules", "debug"), Rejected("b", "endpoint"))
    receipt = replace(receipt, route=replace(receipt.route, rejected=gone))
    route = _branch(chain(row, replace(findings.statement, predicate=receipt), []), "route")
    assert [line.text for line in route.below] == ["tee_rules (debug)", "endpoint"]
    assert [dict(line.facts)["cause"] for line in route.below] == ["debug", "–"]


async def test_a_quorum_that_was_not_reached_says_that_the_prompt_left() -> None:
    """No node has the answer, and the prompt went to all that were asked: the chain says how many, and not that none."""
    row, findings = await _opened(19)
    assert findings.statement is not None
    answers = tuple(ProofAnswer(name, "undecided", name) for name in ("a", "b", "c"))
    part = ProofPart(
        kind="quorum", assurance="statistical", verdict="inconclusive", reason="no_quorum", answers=answers
    )
    receipt = replace(findings.statement.predicate, proofs=(part,), release=Release.WITHHELD)
    root = chain(row, replace(findings.statement, predicate=receipt), [])
    assert _branch(root, "node").text == "the prompt went to 3 nodes, none of whose answers was chosen"
    assert "no prompt byte left" not in " ".join(_branch(root, "route").words)


async def test_without_the_receipt_only_the_list_is_known() -> None:
    """When the bundle cannot be read, what the list says is shown as the list's word."""
    row, _ = await _opened(0)
    root = chain(row, None, [])
    assert "list of receipts" in root.told
    assert all("claimed" in line.told for line in root.walk() if line.text)


@pytest.mark.parametrize("check_id", list(CHECKS))
def test_every_check_is_explained_by_the_registry(check_id: str) -> None:
    """Title, specification and what a failure means come from the registry, word for word."""
    line = check_line(Check(check_id, Outcome.CONTRAINDICATED, "a reason", "this", "that", "the body"))
    entry = CHECKS[check_id]
    assert line.title == entry.title
    assert entry.meaning in line.words[0]
    assert ("specification", entry.reference) in line.facts
    assert ("found", "this") in line.facts
    assert line.text == "a reason"


def test_a_title_never_stands_beside_a_failure() -> None:
    """A title is true when the check affirms; beside any other outcome it is led by a word that says so."""
    said = [check_line(Check("replay", tier, "replay")).text for tier in Outcome]
    assert said == [
        "This answer was never seen before",
        "with a reservation: this answer was never seen before",
        "refuted: this answer was never seen before",
        "not shown: this answer was never seen before",
    ]
    assert check_line(Check("replay", Outcome.NONE, "no_journal")).text.startswith("not shown (no_journal): ")


@pytest.mark.parametrize("entry", [entry for entry in CHECKS.values() if entry.idle], ids=lambda entry: entry.id)
def test_a_check_with_nothing_to_look_at_is_no_problem(entry) -> None:  # type: ignore[no-untyped-def]
    """An idle check is listed with its outcome and is not walked to; with any other reason it is a problem."""
    idle = check_line(Check(entry.id, Outcome.NONE, entry.idle))
    assert idle.outcome is None
    assert any(value.startswith("none:") for name, value in idle.facts if name == "outcome")
    assert check_line(Check(entry.id, Outcome.NONE, "verifier_raised")).outcome is Outcome.NONE


def test_a_check_of_a_newer_version_is_shown_as_it_is() -> None:
    """An id that this version does not know is not left out."""
    assert check_line(Check("quantum", OK)).title == "quantum"
    assert claim_line(Claim("teleported", "unknown")).title == "teleported"


def test_the_node_is_asked_first() -> None:
    """`key_bound` and `fresh` are questions to the node the first time, to the answer the second."""
    ids = ["evidence", "key_bound", "fresh", "signature", "key_bound", "fresh", "newer"]
    node, response = split_checks(tuple(Check(name, OK) for name in ids))
    assert [check.id for check in node] == ["evidence", "key_bound", "fresh"]
    assert [check.id for check in response] == ["signature", "key_bound", "fresh", "newer"]


def test_a_branch_is_as_bad_as_its_worst_leaf() -> None:
    """Facts do not count; no leaf that was judged, no outcome."""
    facts = Line(key="facts", below=[Line(key="a"), Line(key="b")])
    assert facts.judged is None
    assert Line(key="x", below=[facts, Line(key="y", outcome=Outcome.WARNING)]).judged is Outcome.WARNING


def test_problems_are_ranked() -> None:
    """Contraindicated first, then warnings, then what was not shown."""
    tiers = [Outcome.NONE, Outcome.WARNING, OK, Outcome.CONTRAINDICATED, Outcome.WARNING]
    root = Line(key="root", below=[Line(key=str(n), outcome=tier) for n, tier in enumerate(tiers)])
    assert [line.key for line in problems(root)] == ["3", "1", "4", "0"]


@pytest.mark.parametrize(
    ("outcome", "reason", "starts"),
    [(OK, None, ""), (Outcome.NONE, "no_quorum", "not shown (no_quorum): "),
     (Outcome.CONTRAINDICATED, "margin_too_large", "refuted (margin_too_large): ")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["quorum", "reexec", "logprob", "toploc", "zk"])
def test_a_check_of_evidence_beyond_signatures(kind: str, outcome: Outcome, reason: str | None, starts: str) -> None:
    """It is a check of the answer like any other: outcome, reason, and what was found."""
    check = Check(f"proof_{kind}", outcome, reason, "0.5, 48 tokens", "0.01")
    assert split_checks((check,)) == ([], [check])
    line = check_line(check)
    assert line.outcome is outcome
    assert line.text.startswith(starts)
    assert ("found", "0.5, 48 tokens") in line.facts
