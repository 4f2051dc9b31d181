"""The closed registry of checks, and the vocabulary of claims.

A check is one question put to evidence. Its id stands in receipts, policies, error bodies and on screens; its words
stand here and nowhere else, so that every reader is told the same thing.

What the verifier promises to those who read its list:

- Every check of a phase is listed in every result of that phase. One that could not run is `none` with a reason.
- `none` with exactly the reason that stands here as `idle` says: looked, and there was nothing for this check to look
  at (no stream, no tool call). That, and never an absent check, is what lets a policy leave it out of the fold.
- Two exceptions. Proofs (`PROOFS`) are gathered and listed where the policy in force names them; `event_log` is listed
  of nodes that show a TDX quote. A policy that requires it of another node misses it there.
- An id with both phases (`key_bound`, `fresh`) is two questions: one put to the node, one put to the answer.

Words are those of RFC 9334 (Evidence, Attester) and of ACI (keyset, receipt, claim).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from gateway.model.verdict import Outcome


class Phase(enum.StrEnum):
    """When a check is made: `NODE` before a prompt leaves, `RESPONSE` before an answer is relied on."""

    NODE = "node"
    RESPONSE = "response"


class CheckDef(msgspec.Struct, frozen=True):
    """One entry of the registry.

    `title` is true when the check is affirming; `meaning` tells a reader in two sentences what a failure means;
    `severity` is the outcome of a failure unless the policy says otherwise; `idle` is the reason with which the
    verifier says that an answer holds nothing of the kind that this check is about. `model_output` marks a check on
    what the model wrote: it can fail when an honest node's model talks nonsense, so it keeps the answer back and is no
    reason to shun the node. `blameless` are the reasons of a failure that speaks against nobody in particular, or
    that honest answers have now and then, at the rate that was calibrated: one of these convicts nobody.
    """

    id: str
    title: str
    phases: tuple[Phase, ...]
    reference: str
    meaning: str
    severity: Outcome = Outcome.CONTRAINDICATED
    idle: str | None = None
    model_output: bool = False
    blameless: frozenset[str] = frozenset()


class ClaimDef(msgspec.Struct, frozen=True):
    """One claim name. `title` is true when it is asserted; `phase` is the earliest phase that can settle it."""

    name: str
    title: str
    phase: Phase
    meaning: str


_NODE = (Phase.NODE,)
_RESPONSE = (Phase.RESPONSE,)
_BOTH = (Phase.NODE, Phase.RESPONSE)

_CHECKS = (
    CheckDef(
        "evidence",
        "The node's evidence is whole and its signature holds",
        _NODE,
        "RFC 9334 section 7; ACI aci/1, attestation report",
        "The node gave no evidence, or evidence that does not hold under the roots that policy trusts. "
        "Nothing it says about itself can be relied on, so no prompt goes to it.",
    ),
    CheckDef(
        "key_bound",
        "The key that signs is a key that the evidence names",
        _BOTH,
        "ACI aci/1, workload keyset and report data",
        "The key belongs to nobody that was appraised: somebody between us and the node may hold it. "
        "A signature by such a key says nothing about the node.",
        blameless=frozenset({"other_keyset"}),
    ),
    CheckDef(
        "key_weak",
        "Every key of the node is strong enough to mean anything",
        _NODE,
        "RFC 8032 section 5.1.7; ZIP 215 small-order points",
        "A key is of small order, of the wrong length or otherwise breakable, so that anyone could sign for it. "
        "It was made badly or on purpose; the node is not used.",
    ),
    CheckDef(
        "keyset_valid",
        "The node's keyset is well formed, in date and the one that is pinned",
        _NODE,
        "ACI aci/1, workload keyset",
        "The keyset has expired, does not match its digest, or is not the one that this gateway was told to expect. "
        "The node may have been rebuilt, moved or replaced; compare the pin with its operator.",
    ),
    CheckDef(
        "fresh",
        "Evidence and answer were made for us, now",
        _BOTH,
        "RFC 9334 section 10; ACI aci/1, nonce and served_at",
        "The evidence answers another nonce, or the answer's time is outside the window that policy allows. "
        "Something old is being shown again, or a clock is wrong; it proves nothing about now.",
    ),
    CheckDef(
        "channel_bound",
        "The connection ends in the workload that the evidence names",
        _NODE,
        "ACI aci/1, tls_public_keys; RFC 5929",
        "The TLS key at the other end is not one that the evidence names, or there is no TLS to bind. "
        "Somebody else may read the prompt on its way.",
    ),
    CheckDef(
        "event_log",
        "The event log beside the quote is what the machine measured",
        _NODE,
        "dstack, RTMR3 event log; Intel TDX module, TDG.MR.RTMR.EXTEND",
        "The log does not give the registers of the quote, names an event that was not measured under that name, or "
        "stands beside another document than the measured one. What it says of the software in there is made up.",
    ),
    CheckDef(
        "tee_rules",
        "The machine meets what policy asks of machines",
        _NODE,
        "RFC 9334 section 8.5, appraisal policy for evidence; docs/verification.md",
        "The evidence is genuine, and the machine is in debug mode, behind on fixes, not one that policy names, "
        "or not tied to the key that signs. What policy asks stands in its section [tee].",
        idle="no_tee_evidence",
    ),
    CheckDef(
        "replayed_nonce",
        "The nonce that we sent was never used before",
        _NODE,
        "RFC 9334 section 10.2",
        "This gateway was about to send a nonce a second time, which would let old evidence pass for new. "
        "The source of randomness of this machine is broken; nothing is sent.",
    ),
    CheckDef(
        "signature",
        "The node's signature over its receipt verifies",
        _RESPONSE,
        "RFC 8032; ACI aci/1, receipt signature",
        "The receipt is not signed, or its signature does not hold under the key that it names. "
        "Either it was changed on the way or somebody signed with a key of their own.",
        blameless=frozenset({"other_keyset"}),
    ),
    CheckDef(
        "request_bound",
        "The node answered the request that we sent, byte for byte",
        _RESPONSE,
        "ACI aci/1, request.received",
        "The signed statement names another request than ours. "
        "The prompt was changed on its way, or this is the answer to somebody else's question.",
    ),
    CheckDef(
        "response_bound",
        "The bytes that arrived are the bytes that the node signed",
        _RESPONSE,
        "ACI aci/1, response.returned",
        "What arrived differs from what the node signed, in at least one byte. "
        "It was changed after signing, by the node or by somebody between; it is not passed on.",
    ),
    CheckDef(
        "replay",
        "This answer was never seen before",
        _RESPONSE,
        "RFC 9334 section 10; ACI aci/1, receipt id, with our request nonce",
        "The signed statement was given to us before, or carries another request's nonce. "
        "An old answer is being sold as a new one.",
        blameless=frozenset({"seen_lately"}),
    ),
    CheckDef(
        "model_echo",
        "The answer and its receipt name the model that was asked for",
        _RESPONSE,
        "ACI aci/1, receipt model; OpenAI API, model",
        "The node says that another model served this request. "
        "You would be paying for, and relying on, a model that you did not choose.",
    ),
    CheckDef(
        "malformed",
        "Answer and receipt parse strictly",
        _RESPONSE,
        "RFC 8259; RFC 8785",
        "The bytes are not what their format says: two keys of one name, bytes that are no UTF-8. "
        "Two readers could see two different answers in them, so none is shown.",
    ),
    CheckDef(
        "shape",
        "The answer has the form that the request asked for",
        _RESPONSE,
        "OpenAI API, response objects",
        "There are more choices than were asked for, or the members do not fit the endpoint. "
        "A client could read a part that nobody checked.",
    ),
    CheckDef(
        "stream_grammar",
        "The stream keeps its grammar from first event to terminator",
        _RESPONSE,
        "WHATWG HTML, server-sent events; OpenAI API, streaming",
        "Events came out of order, after the end, or in a form that the protocol does not have. "
        "What a client would make of it is unclear, so it is not passed on.",
        idle="not_a_stream",
    ),
    CheckDef(
        "coverage",
        "Nothing that could pass for the answer stands beside what the signature covers",
        _RESPONSE,
        "OpenGradient tee-gateway, output hash; ACI aci/1, response.returned",
        "The answer holds text, choices or tool calls that no signature covers, beside those that one does. "
        "Anyone on the way could have put them there, to be read as part of the signed answer.",
    ),
    CheckDef(
        "executable_uncovered",
        "Every tool call stands in bytes that evidence covers",
        _RESPONSE,
        "OpenAI API, tool_calls and function_call",
        "The answer holds a tool call that no signature covers. "
        "Anyone on the way could have put it there to make your agent act; it is never passed on.",
        blameless=frozenset({"no_signature", "other_keyset"}),
    ),
    CheckDef(
        "tool_undeclared",
        "Every tool call names a tool that the request declared",
        _RESPONSE,
        "OpenAI API, tools",
        "The answer calls a tool that the request did not offer. "
        "An agent that looks tools up by name might run something it should not.",
        idle="no_calls",
        model_output=True,
    ),
    CheckDef(
        "tool_arguments",
        "The arguments of every tool call are one strict JSON object, or empty",
        _RESPONSE,
        "OpenAI API, function.arguments; RFC 8259",
        "The arguments of a tool call are not JSON, are not an object, or name one key twice. "
        "What was checked and what the tool would see could differ. A tool declared as custom takes any text.",
        idle="no_calls",
        model_output=True,
    ),
    CheckDef(
        "output_kind",
        "Text is text: it does not read as a tool call",
        _RESPONSE,
        "OpenAI API, message content",
        "The text of the answer parses as a list of tool calls. "
        "It is delivered as text unless policy refuses; an agent that looks for calls in text should not run them.",
        severity=Outcome.WARNING,
        model_output=True,
    ),
    CheckDef(
        "proof_zk",
        "A circuit that is pinned computes the answer's numbers from those of the request",
        _RESPONSE,
        "Halo2 with KZG (ezkl); Groth16, EUROCRYPT 2016; docs/proofs.md",
        "The proof is of other numbers, of another circuit or of nothing at all. "
        "What the node sent was not computed by the model whose verifying key is pinned, so its numbers are not used.",
        blameless=frozenset({"input_unbindable"}),
    ),
    CheckDef(
        "proof_reexec",
        "The answer's tokens are those that the reference would have picked",
        _RESPONSE,
        "Token-DiFR, arXiv 2511.20621; docs/proofs.md",
        "Given the same prompt, a trusted reference would have picked other tokens than the node did. "
        "Another model, coarser weights or another sampling wrote the answer, or its text is not what its tokens say.",
        blameless=frozenset({"margin_too_large"}),
    ),
    CheckDef(
        "proof_quorum",
        "Enough operators, each on their own, gave the same answer",
        _RESPONSE,
        "N-version programming, Avizienis, IEEE TSE 1985; RFC 8785; docs/proofs.md",
        "All nodes that were asked contradict each other, so that no answer has enough operators behind it. "
        "At least some of them do not run what they say; which, this does not show.",
        blameless=frozenset({"no_quorum"}),
    ),
    CheckDef(
        "proof_toploc",
        "The tokens went through a model as near to the reference as honest ones",
        _RESPONSE,
        "TOPLOC, PMLR 267:47196, arXiv 2501.16007; docs/proofs.md",
        "The fingerprints of hidden states that came with the answer are missing batches, malformed, or far from those "
        "of the reference. Other weights, another prompt or coarser numbers were at work.",
        blameless=frozenset({"toploc_far"}),
    ),
    CheckDef(
        "proof_logprob",
        "The node's log-probs are those of the reference",
        _RESPONSE,
        "Gonka, inference validation; docs/proofs.md",
        "For the same tokens, the node states log-probs that the reference's weights do not give. "
        "They are another model's or coarser weights', or they were made up.",
        blameless=frozenset({"logprobs_far"}),
    ),
)

#: id -> definition, in the order in which a reader should see them.
CHECKS: Mapping[str, CheckDef] = MappingProxyType({entry.id: entry for entry in _CHECKS})

#: The checks that are made of records of evidence (`gateway.verify.proofs.evidence`): `proof_` and the kind.
PROOFS: frozenset[str] = frozenset(name for name in CHECKS if name.startswith("proof_"))

CLAIM_STATUSES = ("asserted", "refuted", "unknown")
#: Who stands behind a claim, strongest first (ACI's four words).
CLAIM_SOURCES = ("hardware_proven", "verifier_derived", "provider_asserted", "operator_asserted")

_CLAIMS = (
    ClaimDef(
        "tee_attested",
        "The node runs in a trusted execution environment",
        Phase.NODE,
        "A hardware vendor's root stands behind the node's measurements. "
        "Without it, the node's operator could read and change everything.",
    ),
    ClaimDef(
        "gpu_attested",
        "The node's accelerators run in confidential mode",
        Phase.NODE,
        "The accelerator vendor's root stands behind the accelerators' reports. "
        "Without it, model and prompt may be in the clear on the bus.",
    ),
    ClaimDef(
        "tcb_up_to_date",
        "Firmware and microcode are at the level the vendor asks for",
        Phase.NODE,
        "The platform has the vendor's fixes. Without it, a known hole may let others into the environment.",
    ),
    ClaimDef(
        "os_known_good",
        "The measured operating system is one that was reviewed",
        Phase.NODE,
        "The boot measurements are on the list of accepted images. "
        "Without it, the environment may run anything at all.",
    ),
    ClaimDef(
        "serving_software_known_good",
        "The measured serving software is one that was reviewed",
        Phase.NODE,
        "The measured application is on the list of accepted images. "
        "Without it, the software that sees the prompt is unknown.",
    ),
    ClaimDef(
        "model_weights_provenance",
        "The weights that were loaded are the published ones",
        Phase.NODE,
        "The weights' digest was measured and is the publisher's. Without it, the model's name is only a name.",
    ),
    ClaimDef(
        "request_bound",
        "The evidence names exactly the request that was sent",
        Phase.RESPONSE,
        "The answer was made for this request, byte for byte. Without it, it may be the answer to another one.",
    ),
    ClaimDef(
        "response_bound",
        "The evidence names exactly the answer that arrived",
        Phase.RESPONSE,
        "The bytes that arrived are those that were signed. Without it, anyone on the way could have changed them.",
    ),
    ClaimDef(
        "model_bound",
        "The evidence shows which model made the answer",
        Phase.RESPONSE,
        "Measured configuration or weights tie this answer to this model. Without it, another model may have answered.",
    ),
    ClaimDef(
        "key_bound",
        "The signing key is named by the evidence",
        Phase.NODE,
        "The key that signs answers lives where the evidence says. Without it, a signature names nobody.",
    ),
    ClaimDef(
        "channel_bound",
        "The connection ends where the evidence says",
        Phase.NODE,
        "The key of the TLS connection, or the encryption key, is named by the evidence. "
        "Without it, somebody between may read the prompt.",
    ),
    ClaimDef(
        "fresh",
        "The evidence was made for us, now",
        Phase.NODE,
        "The evidence answers our own nonce. Without it, it may be old.",
    ),
    ClaimDef(
        "gpu_linked",
        "The accelerators that were attested are those of this node",
        Phase.NODE,
        "Accelerator evidence and processor evidence name each other. "
        "Without it, a good report may be borrowed from another machine.",
    ),
    ClaimDef(
        "image_pinned",
        "The image that runs is one exact digest that policy names",
        Phase.NODE,
        "The digest of what runs is written in policy. Without it, whoever publishes releases decides what you trust.",
    ),
    ClaimDef(
        "executed_in_tee",
        "The model itself ran inside the trusted execution environment",
        Phase.NODE,
        "The environment computed the answer. Refuted when it only relays the request to an ordinary provider.",
    ),
    ClaimDef(
        "identity_registry",
        "A registry lists the signing key",
        Phase.NODE,
        "The network's registry names this key, enabled and in date. "
        "Without it, the node is not one that its network knows.",
    ),
    ClaimDef(
        "identity_calldata",
        "The attestation that was registered holds for the signing key",
        Phase.NODE,
        "The hardware vendor's root stands behind the key as of the day of its registration. "
        "Without it, the registry's word is all there is.",
    ),
    ClaimDef(
        "identity_live",
        "An attestation made now holds for the signing key",
        Phase.NODE,
        "The hardware vendor's root stands behind the key, in a document that holds our nonce. "
        "Without it, the enclave may be gone and its key elsewhere.",
    ),
    ClaimDef(
        "pcr_known",
        "The measured enclave image is in the table of known builds",
        Phase.NODE,
        "The measurement is one that this gateway's table of published builds names. "
        "Without it, the relay that sees the prompt may be any program that the registry's administrator approved.",
    ),
    ClaimDef(
        "host_trust",
        "It is known who holds the machine",
        Phase.NODE,
        "The machine is in a named party's custody. "
        "Without it, an owner with physical access may have forged the quote.",
    ),
)

#: name -> definition. ACI's names first, then ours.
CLAIMS: Mapping[str, ClaimDef] = MappingProxyType({entry.name: entry for entry in _CLAIMS})


def title_of(check_id: str) -> str:
    """The title of a check, or the id itself for one that this version does not know (a newer receipt's)."""
    entry = CHECKS.get(check_id)
    return entry.title if entry else check_id


def claim_title(name: str) -> str:
    """The title of a claim, or the name itself for one that this version does not know."""
    entry = CLAIMS.get(name)
    return entry.title if entry else name
