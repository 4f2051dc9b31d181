"""What a receipt says of evidence beyond signatures, as lines."""

from __future__ import annotations

from typing import Any

import pytest
from tui_kit import HOSTILE, NOON_MS

from tui.chain import CLAIMED, Line, chain
from tui.demo_source import DemoSource, demo_pins
from tui.filters import Filter
from tui.proofs import add_proofs, proof_line, proof_lines
from tui.reverify import reverify
from tui.widgets.explain_pane import explanation

QUORUM = {
    "kind": "quorum", "assurance": "statistical", "verdict": "pass", "statistic": "2", "threshold": "2", "tokens": 48,
    "culprits": ["liar"],
    "answers": [
        {"node": "a", "operator": "o-1", "receipt": "01M7Q4VDS8N7HEDZ2550DEKXGJ", "outcome": "agreed"},
        {"node": "liar", "operator": "o-2", "receipt": "01M7Q4VDS8N7HEDZ2550DEKXGK", "outcome": "no_near_tie"},
    ],
}  # fmt: skip
REEXEC = {
    "kind": "reexec", "assurance": "statistical", "verdict": "inconclusive", "reason": "too_few_tokens", "tokens": 3,
    "referenceId": "ref-1", "calibrationId": "c" * 64,
}  # fmt: skip
ZK = {"kind": "zk", "assurance": "cryptographic", "verdict": "pass"}
AUDIT = {"epoch": "2026-11-21T10", "kind": "reexec", "rate": "0.03"}


def said(line: Line) -> str:
    """All that the pane says of a line."""
    return " ".join(explanation(line, 400).plain.split())


@pytest.mark.parametrize(
    ("part", "key", "text", "told"),
    [
        (QUORUM, "quorum evidence", "statistical  pass  2 against 2, 48 tokens", "against liar"),
        (REEXEC, "reexec evidence", "statistical  inconclusive  too_few_tokens  3 tokens", "calibration cccc"),
        (REEXEC, "reexec evidence", "statistical", "inconclusive: tried, and not decided"),
        (ZK, "zk proof", "cryptographic  pass", "a proof of the numbers that the circuit covers"),
        ({**ZK, "verdict": "odd"}, "zk proof", "cryptographic  odd", "Evidence: zk"),
        ({**QUORUM, "assurance": "economic"}, "quorum evidence", "economic", "It is no proof"),
        ({**QUORUM, "statistic": 0.25, "threshold": None}, "quorum evidence", "0.25, 48", "verdict pass: decided"),
        ({}, "– evidence", "–", "What stands behind it is not said"),
    ],
)
def test_a_part_says_what_stands_behind_it(part: dict[str, Any], key: str, text: str, told: str) -> None:
    """Assurance, verdict, reason and numbers stand in the line; the pane explains them; nothing is an outcome."""
    line = proof_line(part)
    assert line.key == key
    assert text in line.text
    assert told in said(line)
    assert line.judged is None


@pytest.mark.parametrize("kind", ["quorum", "reexec", "logprob", "toploc", "drift"])
def test_only_zk_is_called_a_proof(kind: str) -> None:
    """No other kind is called one, whatever a record says of itself."""
    honest = proof_line({"kind": kind, "assurance": "statistical", "verdict": "pass"})
    assert "proof" not in f"{honest.key} {honest.text} {honest.title}"
    assert "no proof" in said(honest)
    liar = proof_line({"kind": kind, "assurance": "cryptographic", "verdict": "pass"})
    assert "called cryptographic, which this kind cannot be" in liar.text
    assert "claims too much" in said(liar)
    assert "proof of" not in said(liar)


def test_a_statistic_that_calls_itself_zk() -> None:
    """Nor is zk evidence anything but cryptographic."""
    assert "which this kind cannot be" in proof_line({**ZK, "assurance": "statistical"}).text


def test_each_answer_of_a_quorum_has_its_line() -> None:
    """Node, operator, how it ended, and its own receipt to copy."""
    first, second = proof_line(QUORUM).below
    assert (first.text, first.copy) == ("agreed  a (o-1)", "01M7Q4VDS8N7HEDZ2550DEKXGJ")
    assert second.text == "no_near_tie  liar (o-2)"


@pytest.mark.parametrize(
    ("rate", "shown"),
    [("0.03", "one in 33"), ("1", "one in 1"), ("0.0001", "one in 10 000"), ("0", "one in ?"), ("x", "one in ?"),
     ("nan", "one in ?"), ("inf", "one in ?"), ("1e-300", "one in ?")],
)  # fmt: skip
def test_an_audit_is_not_a_finding(rate: str, shown: str) -> None:
    """The rate reads as one in so many, and the pane says that it shows nothing about this answer."""
    (line,) = proof_lines({"audit": {**AUDIT, "rate": rate}})
    assert shown in line.text
    assert "nothing about this answer by itself" in said(line)
    assert line.copy == "2026-11-21T10"


@pytest.mark.parametrize(
    "receipt",
    [{}, {"proofs": None}, {"proofs": "zk"}, {"proofs": [1, None]}, {"proofs": {}}, {"audit": 3}, {"audit": None}],
)
def test_nothing_there_is_nothing_shown(receipt: dict[str, Any]) -> None:
    """Members that are missing, or are none, have no line."""
    assert proof_lines(receipt) == []


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_are_only_texts(text: str) -> None:
    """Whatever stands in a part, the pane shows printable lines and none of it becomes a verdict."""
    part = dict.fromkeys((*QUORUM, "referenceId", "calibrationId"), text)
    part = {**part, "culprits": [text, 3], "answers": [dict.fromkeys(("node", "operator", "receipt", "outcome"), text)]}
    for line in proof_lines({"proofs": [part], "audit": dict.fromkeys(AUDIT, text)}):
        for below in line.walk():
            assert below.judged is None
            assert all(shown.isprintable() for shown in explanation(below, 60).plain.split("\n"))


def test_a_flood_is_cut() -> None:
    """A receipt with ten thousand parts costs as much as one with sixty-four."""
    assert len(proof_lines({"proofs": [ZK] * 10_000})) == 64


async def test_they_stand_below_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the tree of a receipt that has them, they are facts below the response; others have no such branch."""
    source = DemoSource(1, now_ms=NOON_MS, live=False)
    row = (await source.page(Filter())).rows[0]
    findings = reverify(await source.bundle(row.id), row, demo_pins(), NOON_MS / 1000)
    plain = chain(row, findings.statement, [])
    add_proofs(plain, findings.statement)
    assert "evidence" not in [line.key for line in plain.below[4].below]
    add_proofs(chain(row, None, []), None)

    monkeypatch.setattr("tui.proofs.msgspec.to_builtins", lambda receipt: {"proofs": [QUORUM, ZK], "audit": AUDIT})
    add_proofs(plain, findings.statement)
    branch = plain.below[4].below[-1]
    assert (branch.key, branch.told) == ("evidence", CLAIMED)
    assert branch.text == "quorum evidence, zk proof, audit"
    assert branch.judged is None
