"""The appraisal of one ONNX inference on OpenGradient, as far as a client can take it, and it is not far.

    # 1. format   everything that was given decodes strictly
    # 2. chain    k of n RPC endpoints gave the same transaction, with one inference event
    # 3. request  the transaction asked for what the event says was run: mode, model, input
    # 4. output   the output is the event's, or the document's is, and neither is a simulation's
    # 5. tee      an enclave vouches for the output
    # 6. zk       a proof shows that the model, on this input, gives this output

5 and 6 never pass. A TEE node's answer is not signed. A ZKML result reaches clients without proof, verifying key or
settings, and what the network checked itself, it checked for itself. Asking for either (`required`) therefore refutes,
with the reason, rather than waving through what is only a word in a result.

Checks 1 to 4 are asked for in every case; a document alone leaves 2 open, since nobody vouches for it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.model.line import Line
from gateway.model.verdict import Claim, Outcome

from .ml_evidence import Document, Inference, Mode, Request
from .response import printable
from .tensors import ModelOutput, input_digest, output_digest

REQUIREMENTS = ("chain", "tee", "zk")


class Found(msgspec.Struct, frozen=True):
    """What an endpoint quorum said of a transaction. `problem` is a stable reason for there being no `event`.

    `refuted`: the endpoints agree, on something that is no inference. `request` is the calldata's, None when the
    transaction went to another contract. `said` names who agreed, for a person: "2 of 3 endpoints, block 7".
    """

    event: Inference | None = None
    request: Request | None = None
    problem: str | None = None
    refuted: bool = False
    said: str | None = None


class Evidence(msgspec.Struct, frozen=True):
    """All that was given. `malformed` is what could not be decoded, in a sentence."""

    document: Document | None = None
    chain: Found | None = None
    malformed: str | None = None


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One check. `reason` is stable and there whenever the outcome is not affirming; `asked`: counts for the exit."""

    id: str
    outcome: Outcome
    reason: str | None = None
    found: str | None = None
    asked: bool = True


class Appraisal(msgspec.Struct, frozen=True):
    """The six findings, the claims that follow, and what the evidence says: unknown parts are None."""

    findings: tuple[Finding, ...]
    claims: tuple[Claim, ...]
    mode: Mode | None
    request: Request | None
    output: ModelOutput | None


def appraise(evidence: Evidence, required: Iterable[str] = ()) -> Appraisal:
    """Put all six questions to `evidence`. `required`, of `REQUIREMENTS`, must be affirming or are contraindicated."""
    event = evidence.chain.event if evidence.chain else None
    document = evidence.document
    mode = event.request.mode if event else document.mode if document else None
    findings = (
        _format(evidence),
        _chain(evidence.chain),
        _request(evidence.chain),
        _output(evidence.chain, document),
        _tee(mode, document),
        _zk(mode, document),
    )
    held = tuple(_under(finding, frozenset(required)) for finding in findings)
    output = event.output if event and not event.output.empty else document.output if document else None
    return Appraisal(held, _claims(findings), mode, event.request if event else None, output)


def lines(appraisal: Appraisal) -> list[Line]:
    """The findings as lines; `gateway.model.line.exit_code` folds them."""
    return [Line(f.id, f.outcome, _sentence(f), detail=_detail(f), claimed=f.asked) for f in appraisal.findings]


def digests(appraisal: Appraisal) -> dict[str, str]:
    """`input` and `output` as `keccak256:` digests of their ABI encodings, as far as they are known."""
    found = {}
    if appraisal.request is not None:
        found["input"] = input_digest(appraisal.request.input)
    if appraisal.output is not None:
        found["output"] = output_digest(appraisal.output)
    return found


def _under(finding: Finding, required: frozenset[str]) -> Finding:
    if finding.id not in required:
        return finding
    outcome = finding.outcome if finding.outcome is Outcome.AFFIRMING else Outcome.CONTRAINDICATED
    return msgspec.structs.replace(finding, outcome=outcome, asked=True)


def _format(evidence: Evidence) -> Finding:
    # 1.
    if evidence.malformed is not None:
        return Finding("format", Outcome.CONTRAINDICATED, "malformed", evidence.malformed)
    if evidence.document is None and (evidence.chain is None or evidence.chain.event is None):
        return Finding("format", Outcome.NONE, "no_evidence")
    return Finding("format", Outcome.AFFIRMING)


def _chain(chain: Found | None) -> Finding:
    # 2. one endpoint is one liar; and a document is nobody's word until a chain says the same
    if chain is None:
        return Finding("chain", Outcome.NONE, "no_transaction")
    if chain.event is None:
        outcome = Outcome.CONTRAINDICATED if chain.refuted else Outcome.NONE
        return Finding("chain", outcome, chain.problem or "no_evidence", chain.said)
    return Finding("chain", Outcome.AFFIRMING, None, chain.said)


def _request(chain: Found | None) -> Finding:
    # 3. the precompile writes down what it was called with; the transaction is what somebody signed
    if chain is None or chain.event is None:
        return Finding("request", Outcome.NONE, "no_transaction")
    if chain.request is None:  # an ordinary thing: a workflow's contract asks. The event still says for what.
        return Finding("request", Outcome.NONE, "calldata_indirect", asked=False)
    if chain.request != chain.event.request:
        return Finding("request", Outcome.CONTRAINDICATED, "request_differs")
    return Finding("request", Outcome.AFFIRMING, None, f"{chain.request.mode.name}, {printable(chain.request.model)}")


def _output(chain: Found | None, document: Document | None) -> Finding:
    # 4. where the chain holds no output, a document stands alone; where it does, they have to be the same
    event = chain.event if chain else None
    outputs = [source.output for source in (event, document) if source is not None]
    if any(output.simulated for output in outputs):
        return Finding("output", Outcome.CONTRAINDICATED, "simulation_result")
    if event is None:
        return Finding("output", Outcome.NONE, "no_transaction")
    if document is not None and document.mode is not event.request.mode:
        return Finding(
            "output",
            Outcome.CONTRAINDICATED,
            "mode_differs",
            f"{document.mode.name} in the document, {event.request.mode.name} on the chain",
        )
    if event.output.empty:
        return Finding("output", Outcome.NONE, "output_off_chain")
    if document is not None and output_digest(document.output) != output_digest(event.output):
        return Finding("output", Outcome.CONTRAINDICATED, "output_differs")
    return Finding("output", Outcome.AFFIRMING, None, output_digest(event.output))


def _tee(mode: Mode | None, document: Document | None) -> Finding:
    # 5.
    if mode is not Mode.TEE:
        return Finding("tee", Outcome.NONE, "mode_not_tee", mode.name if mode else None, asked=False)
    return Finding("tee", Outcome.NONE, "response_unsigned", _beside(document), asked=False)


def _zk(mode: Mode | None, document: Document | None) -> Finding:
    # 6. a member named `proof` would change nothing: without key and settings there is nothing to check it against
    if mode is not Mode.ZKML:
        return Finding("zk", Outcome.NONE, "mode_not_zkml", mode.name if mode else None, asked=False)
    return Finding("zk", Outcome.NONE, "proof_absent", _beside(document), asked=False)


def _beside(document: Document | None) -> str | None:
    if document is None or not document.beside:
        return None
    return printable("members that nothing describes: " + ", ".join(document.beside))


def _claims(findings: tuple[Finding, ...]) -> tuple[Claim, ...]:
    by_id = {finding.id: finding for finding in findings}
    names = {"chain_agreed": "chain", "request_bound": "request", "response_bound": "output"}
    claims = [_claim(name, by_id[check]) for name, check in names.items()]
    claims.append(Claim("tee_attested", "unknown", None, by_id["tee"].reason))
    claims.append(Claim("zk_proof", "unknown", None, by_id["zk"].reason))
    return tuple(claims)


def _claim(name: str, finding: Finding) -> Claim:
    if finding.outcome is Outcome.AFFIRMING:
        return Claim(name, "asserted", "verifier_derived")
    if finding.outcome is Outcome.CONTRAINDICATED:
        return Claim(name, "refuted", "verifier_derived", finding.reason)
    return Claim(name, "unknown", None, finding.reason)


def _sentence(finding: Finding) -> str:
    return _SENTENCES.get(finding.reason or finding.id, "the chain could not be read")


def _detail(finding: Finding) -> str | None:
    return ", ".join(part for part in (finding.reason, finding.found) if part) or None


#: Reason, or the id of a check that is affirming -> a sentence.
_SENTENCES = {
    "format": "everything that was given decodes strictly",
    "chain": "the RPC endpoints agree on the transaction and its one inference event",
    "request": "the transaction asked for the mode, model and input that the event names",
    "output": "the output is the one in the event",
    "malformed": "something that was given cannot be read",
    "no_evidence": "there is no result to look at",
    "no_transaction": "no transaction was read, so nobody vouches for the document",
    "calldata_indirect": "another contract asked for the inference, so only the event says for what",
    "request_differs": "the event names another mode, model or input than the transaction",
    "output_off_chain": "the chain holds no output for this inference; a document's is the word of one server",
    "output_differs": "the document's output is not the one in the event",
    "mode_differs": "the document says another mode than the event",
    "simulation_result": "the output is marked as a simulation's, which ran no model",
    "mode_not_tee": "nothing says that an enclave ran the model",
    "response_unsigned": "a TEE node's answer carries no signature and no attestation: nothing ties it to an enclave",
    "mode_not_zkml": "nothing says that a proof was made",
    "proof_absent": "the network's ZKML results carry no proof, key or settings to the client",
    "event_absent": "the transaction ran no inference",
    "event_ambiguous": "the transaction ran several inferences; which one is meant cannot be told",
    "tx_unconfirmed": "the transaction is in a block that is too new",
    "tx_not_found": "too few RPC endpoints have the transaction",
    "rpc_disagree": "the RPC endpoints disagree",
    "rpc_quorum": "too few RPC endpoints answered",
    "rpc_stale": "the RPC endpoints show an old block, or one of the future",
    "rpc_rollback": "the RPC endpoints went back to an older block",
    "wrong_chain": "an RPC endpoint serves another chain",
}
