from __future__ import annotations

import re

from gateway.model.verdict import Outcome
from gateway.verify.checks import CHECKS, CLAIM_SOURCES, CLAIM_STATUSES, CLAIMS, PROOFS, Phase, claim_title, title_of
from gateway.verify.proofs.evidence import Kind

NODE = {
    "evidence",
    "key_bound",
    "key_weak",
    "keyset_valid",
    "fresh",
    "channel_bound",
    "event_log",
    "replayed_nonce",
    "tee_rules",
}
RESPONSE = {
    "signature", "key_bound", "request_bound", "response_bound", "replay", "fresh", "model_echo", "malformed", "shape",
    "stream_grammar", "coverage", "executable_uncovered", "tool_undeclared", "tool_arguments", "output_kind",
    "proof_quorum", "proof_reexec", "proof_logprob", "proof_toploc", "proof_zk",
}  # fmt: skip


def test_registry_is_closed_and_each_check_knows_its_phase() -> None:
    """The registry holds exactly these ids, each in the phases in which it is asked."""
    assert {name for name, entry in CHECKS.items() if Phase.NODE in entry.phases} == NODE
    assert {name for name, entry in CHECKS.items() if Phase.RESPONSE in entry.phases} == RESPONSE
    assert all(name == entry.id and entry.phases for name, entry in CHECKS.items())


def test_every_check_has_words_for_a_reader() -> None:
    """A title is one positive sentence, a meaning is two, and a reference says where it comes from."""
    for entry in CHECKS.values():
        assert entry.title[0].isupper()
        assert not entry.title.endswith(".")
        assert len(re.findall(r"[.;](?= |$)", entry.meaning)) >= 2, entry.id
        assert entry.reference
        assert entry.severity in (Outcome.CONTRAINDICATED, Outcome.WARNING)
    assert len({entry.title for entry in CHECKS.values()}) == len(CHECKS)


def test_every_kind_of_evidence_about_an_answer_is_a_check() -> None:
    """Each kind but drift, which is about no answer, has its check: of the answer alone, and never idle."""
    assert {f"proof_{kind.value}" for kind in Kind if kind is not Kind.DRIFT} == PROOFS
    for name in PROOFS:
        assert (CHECKS[name].phases, CHECKS[name].idle, CHECKS[name].model_output) == ((Phase.RESPONSE,), None, False)
        assert CHECKS[name].severity is Outcome.CONTRAINDICATED


def test_every_claim_has_words_for_a_reader() -> None:
    """Each claim has a title and two sentences."""
    for name, entry in CLAIMS.items():
        assert name == entry.name
        assert entry.title[0].isupper()
        assert len(re.findall(r"\.(?= |$)", entry.meaning)) == 2, name
    assert set(CLAIM_STATUSES) == {"asserted", "refuted", "unknown"}
    assert len(CLAIM_SOURCES) == 4


def test_unknown_ids_are_shown_as_they_are() -> None:
    """An id from a newer version is its own title."""
    assert title_of("signature") == CHECKS["signature"].title
    assert title_of("from_the_future") == "from_the_future"
    assert claim_title("fresh") == CLAIMS["fresh"].title
    assert claim_title("from_the_future") == "from_the_future"
