"""The appraisal of an ONNX inference: what the chain shows, and that a word of a result never stands for a proof."""

from __future__ import annotations

from typing import Any

import og_ml_kit as kit
import pytest

from gateway.model.line import exit_code
from gateway.verify.opengradient.ml import REQUIREMENTS, Evidence, Found, appraise, digests, lines
from gateway.verify.opengradient.ml_evidence import Document, Mode, decode_event, decode_run, parse_document

VALUES = {"VANILLA": 0, "ZKML": 1, "TEE": 2}
DIRECT = object()


def chain(mode: str = "VANILLA", *, made: Any = kit.MADE, request: Any = DIRECT) -> Found:
    value = VALUES[mode]
    event = decode_event(kit.log(kit.event_data(mode=value, made=made)))
    asked = decode_run(kit.run(mode=value)) if request is DIRECT else request
    return Found(event, asked, said="2 of 3 endpoints")


def paper(mode: str = "VANILLA", *, made: Any = kit.MADE, **beside: Any) -> Document:
    result = kit.variant(mode, kit.model_output(made))
    next(iter(result.values())).update(beside)
    return parse_document(kit.document(result))


def reasons(evidence: Evidence, *required: str) -> dict[str, tuple[str, str | None]]:
    found = appraise(evidence, required)
    assert [finding.id for finding in found.findings] == ["format", "chain", "request", "output", "tee", "zk"]
    return {finding.id: (finding.outcome.value, finding.reason) for finding in found.findings}


def code(evidence: Evidence, *required: str) -> int:
    return exit_code(lines(appraise(evidence, required)))


def test_an_inference_on_the_chain_is_affirmed() -> None:
    """Transaction, event and output agree, so the exit is 0; the claims say who stands behind what."""
    evidence = Evidence(chain=chain())
    found = appraise(evidence)
    assert {finding.id for finding in found.findings if finding.outcome == "affirming"} == {
        "format", "chain", "request", "output",
    }  # fmt: skip
    assert code(evidence) == 0
    claims = {claim.name: (claim.status, claim.reason) for claim in found.claims}
    assert claims == {
        "chain_agreed": ("asserted", None),
        "request_bound": ("asserted", None),
        "response_bound": ("asserted", None),
        "tee_attested": ("unknown", "mode_not_tee"),
        "zk_proof": ("unknown", "mode_not_zkml"),
    }
    assert found.mode is Mode.VANILLA
    assert found.request is not None
    assert found.request.model == kit.MODEL
    assert set(digests(found)) == {"input", "output"}


@pytest.mark.parametrize(
    ("evidence", "check", "outcome", "reason", "exit_with"),
    [
        (Evidence(), "format", "none", "no_evidence", 3),
        (Evidence(malformed="x"), "format", "contraindicated", "malformed", 1),
        (Evidence(paper()), "chain", "none", "no_transaction", 3),
        (Evidence(paper()), "output", "none", "no_transaction", 3),
        (Evidence(paper(), Found(problem="rpc_disagree")), "chain", "none", "rpc_disagree", 3),
        (Evidence(paper(), Found(problem="rpc_timeout")), "chain", "none", "rpc_timeout", 3),
        (Evidence(chain=Found()), "chain", "none", "no_evidence", 3),
        (Evidence(chain=Found(problem="event_absent", refuted=True)), "chain", "contraindicated", "event_absent", 1),
        (Evidence(chain=chain(request=None)), "request", "none", "calldata_indirect", 0),
        (Evidence(chain=chain(request=decode_run(kit.run(mode=1)))), "request", "contraindicated", "request_differs", 1),
        (Evidence(chain=chain(request=decode_run(kit.run("m")))), "request", "contraindicated", "request_differs", 1),
        (
            Evidence(chain=chain(request=decode_run(kit.run(given=([], []))))),
            "request", "contraindicated", "request_differs", 1,
        ),
        (Evidence(paper(), chain()), "output", "affirming", None, 0),
        (Evidence(paper(made=kit.NOTHING), chain()), "output", "contraindicated", "output_differs", 1),
        (Evidence(paper("TEE"), chain()), "output", "contraindicated", "mode_differs", 1),
        (Evidence(chain=chain(made=kit.NOTHING)), "output", "none", "output_off_chain", 3),
        (Evidence(paper(), chain(made=kit.NOTHING)), "output", "none", "output_off_chain", 3),
        (Evidence(chain=chain(made=(*kit.MADE[:3], True))), "output", "contraindicated", "simulation_result", 1),
    ],
)  # fmt: skip
def test_each_check_has_its_reason(
    evidence: Evidence, check: str, outcome: str, reason: str | None, exit_with: int
) -> None:
    """What is missing is none, what contradicts is contraindicated, and the exit code follows."""
    assert reasons(evidence)[check] == (outcome, reason)
    assert code(evidence) == exit_with


def test_a_simulated_document_is_refuted() -> None:
    """A stand-in for an output is not one, wherever it says so."""
    result = kit.variant("VANILLA", {**kit.model_output(), "is_simulation_result": True})
    evidence = Evidence(parse_document(kit.document(result)))
    assert reasons(evidence)["output"] == ("contraindicated", "simulation_result")


@pytest.mark.parametrize("mode", ["VANILLA", "ZKML", "TEE"])
@pytest.mark.parametrize("asked", ["tee", "zk"])
def test_neither_tee_nor_zk_ever_passes(mode: str, asked: str) -> None:
    """Whatever the result calls itself and carries beside, requiring either ends with 1 and its reason."""
    evidence = Evidence(paper(mode, proof="0x00", attestation="AAAA"), chain(mode))
    assert code(evidence) == 0
    assert code(evidence, asked) == 1
    expected = {
        ("ZKML", "zk"): "proof_absent",
        ("TEE", "tee"): "response_unsigned",
    }.get((mode, asked), {"tee": "mode_not_tee", "zk": "mode_not_zkml"}[asked])
    assert reasons(evidence)[asked] == ("none", expected)
    assert reasons(evidence, asked)[asked] == ("contraindicated", expected)
    assert all(
        claim.status == "unknown" for claim in appraise(evidence).claims if claim.name in ("tee_attested", "zk_proof")
    )


def test_a_proof_that_nothing_describes_is_shown_and_not_believed() -> None:
    """The member's name stands in the finding, as printable ASCII, cut short."""
    evidence = Evidence(paper("ZKML", **{"proof": "0x00", "é\x1b" + "x" * 100: 1}))
    (zk,) = [finding for finding in appraise(evidence).findings if finding.id == "zk"]
    assert zk.found is not None
    assert "members that nothing describes: proof" in zk.found
    assert zk.found.isascii()
    assert zk.found.isprintable()
    assert len(zk.found) <= 80


def test_the_chain_may_be_required() -> None:
    """A document alone is undecided, and refuted where the chain is asked for; with it, it passes."""
    assert (code(Evidence(paper())), code(Evidence(paper()), "chain")) == (3, 1)
    assert code(Evidence(chain=chain()), "chain") == 0
    assert code(Evidence(), *REQUIREMENTS) == 1


def test_what_is_not_known_is_left_open() -> None:
    """Without any evidence there is no mode, request, output or digest."""
    found = appraise(Evidence())
    assert (found.mode, found.request, found.output, digests(found)) == (None, None, None, {})


def test_the_output_is_the_chain_s_where_it_has_one() -> None:
    """A document fills in only what the event leaves open."""
    other = paper(made=([], [("label", ["dog"])], [], False))
    assert appraise(Evidence(other, chain())).output == chain().event.output  # type: ignore[union-attr]
    assert appraise(Evidence(other, chain(made=kit.NOTHING))).output == other.output


def test_lines_have_a_sentence_and_the_reason() -> None:
    """Every finding becomes a line; a failure of the chain that has no sentence of its own says so plainly."""
    found = {line.step: line for line in lines(appraise(Evidence(paper("ZKML"), Found(problem="rpc_timeout"))))}
    assert found["zk"].sentence == "the network's ZKML results carry no proof, key or settings to the client"
    assert found["zk"].detail == "proof_absent"
    assert found["chain"].sentence == "the chain could not be read"
    assert found["format"].detail is None
