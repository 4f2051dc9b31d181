"""A node without evidence is appraised as one: every check is listed, and nothing is shown."""

from __future__ import annotations

import msgspec
import pytest

from gateway.model.node import Node
from gateway.model.verdict import Outcome
from gateway.verify.appraise import appraise_node
from gateway.verify.checks import CHECKS, CLAIMS, Phase
from gateway.verify.no_evidence import NO_BYTES, NoEvidenceTerms, appraise_no_evidence
from gateway.verify.sessions import id_of

NODE = Node("n", "openai", "https://api.example/openai", ("m",))
NOW = 1_800_000_000.0


def appraised(node: Node = NODE, terms: NoEvidenceTerms = NoEvidenceTerms(), now: float = NOW):  # type: ignore[no-untyped-def]  # noqa: B008
    return appraise_no_evidence(node, terms, now=now, lifetime_s=480.0)


def test_every_check_of_a_node_is_none() -> None:
    """The list is that of any appraisal of a node, and each outcome is `none`, because there is no evidence."""
    result, session = appraised()
    every, _ = appraise_node(NODE, None, "evidence_fetch", "", now=NOW, spki=None, tls=True)
    assert [c.id for c in result.checks] == [c.id for c in every.checks]
    assert {(c.outcome, c.reason) for c in result.checks} == {(Outcome.NONE, "no_evidence")}
    of_nodes = {i for i, c in CHECKS.items() if Phase.NODE in c.phases}
    assert {c.id for c in result.checks} == of_nodes - {"replayed_nonce", "event_log"}  # listed where there is one
    assert session.checks == result.checks
    assert session.outcome is Outcome.NONE


def test_no_claim_is_settled() -> None:
    """Each claim that an appraisal of a node makes is made, and is unknown, by nobody's word."""
    result, session = appraised()
    every, _ = appraise_node(NODE, None, "evidence_fetch", "", now=NOW, spki=None, tls=True)
    assert {c.name for c in result.claims} == {c.name for c in every.claims} <= CLAIMS.keys()
    assert {(c.status, c.source, c.reason) for c in result.claims} == {("unknown", None, "no_evidence")}
    assert session.claims == result.claims


@pytest.mark.parametrize(
    ("url", "found"), [("https://a.example", "TLS by the web's rules"), ("http://[::1]", "plain HTTP")]
)
def test_the_channel_is_named_for_what_it_is(url: str, found: str) -> None:
    """A certificate for a name binds nobody, and a reader sees that there is one."""
    result, _ = appraised(msgspec.structs.replace(NODE, base_url=url))
    assert {c.id: c.found for c in result.checks if c.found} == {"channel_bound": found}


def test_the_session_says_what_is_known() -> None:
    """Node, place, network and names of models; no key, no pin, no evidence; and it ends."""
    _, session = appraised(terms=NoEvidenceTerms({"n": (("m", "m-2024"),), "other": (("x", "y"),)}))
    assert (session.node, session.endpoint, session.network) == ("n", NODE.base_url, "openai")
    assert (session.keys, session.spki_pins, session.keyset_digest, session.capabilities) == ((), (), "", frozenset())
    assert (session.aliases, session.evidence_digest) == ((("m", "m-2024"),), NO_BYTES)
    assert (session.established, session.expires) == (NOW, NOW + 480)


@pytest.mark.parametrize(
    "other",
    [
        appraised(msgspec.structs.replace(NODE, id="n2"))[1],
        appraised(msgspec.structs.replace(NODE, base_url="https://b.example"))[1],
        appraised(msgspec.structs.replace(NODE, network="another"))[1],
        appraised(terms=NoEvidenceTerms({"n": (("m", "x"),)}))[1],
        appraised(now=NOW + 1)[1],
    ],
    ids=["node", "url", "network", "aliases", "time"],
)
def test_the_session_is_named_by_its_content(other: object) -> None:
    """The id is the digest of its document, so whatever is known of the node is in it."""
    _, session = appraised()
    assert id_of(msgspec.json.encode(session)) == (session.id, True)
    assert session.id == appraised()[1].id
    assert session.id != other.id  # type: ignore[attr-defined]
