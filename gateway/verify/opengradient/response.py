"""Appraisal of one answer from OpenGradient: did the enclave's key sign this very request and this very output?

What has to be shown, each as one check, with the reason that a failure has:
 1. malformed             answer and statement are spelled as they must be            malformed_encoding
 2. shape                 one choice, with the members that the endpoint has          shape, upstream_error
 3. stream_grammar        a stream keeps to its protocol up to its terminator         stream_grammar
 4. signature             the key that the statement names signed it                  signature_invalid, unknown_key
 5. key_bound             that key is one of the attested session's                   tee_id_mismatch
 6. request_bound         the hashed request is the canonical form of ours            request_hash_mismatch
 7. response_bound        the hashed output is the one that came                      output_hash_mismatch
 8. replay                the signed message was not given to us before               replay, no_nonce
 9. fresh                 its time is in the window around now                        timestamp_stale, timestamp_future
10. model_echo            the answer names the model that was asked for               response_model_mismatch
11. executable_uncovered  every tool call is among the signed ones                    executable_uncovered
12. tool_undeclared       every call is to a tool that the request declared           undeclared_tool_call
13. tool_arguments        every call's arguments are one strict JSON object, or empty tool_arguments
14. output_kind           a text answer does not read as a list of tool calls         text_as_tool_call
15. coverage              nothing that could pass for the answer stands beside it     unsigned_content, signature

Without a statement, checks 4 to 9 and 15 are `none`, with the reason evidence_missing or malformed_encoding; so is 15
when 4 fails, with the reason signature: what nobody signed covers nothing, beside which something could stand. Two
warnings are honest limits of the protocol: `no_nonce`, since the signed message holds nothing of this one request, and
`attachments_unbound`, since attached bytes are not hashed by newer builds. A text and a tool call are signed alike, so
a signed text that is the JSON of a call of a declared tool cannot be told from that call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from gateway.crypto.keccak import keccak256
from gateway.errors import FormatError
from gateway.model.node import SigningKey
from gateway.model.observation import Observation
from gateway.model.verdict import AttestationResult, Check, Claim, Outcome
from gateway.verify.checks import CHECKS
from gateway.verify.response import BOUND, arguments_ok, bound_claim

from .answer import SignedAnswer
from .canonical import Surface, attachments, candidates
from .statement import Statement, tee_id_of, verify_statement

#: The window of the network's own contract, in seconds.
MAX_AGE_S, MAX_FUTURE_S = 3600.0, 300.0

_AFFIRMING, _WARNING, _NONE, _CONTRA = Outcome.AFFIRMING, Outcome.WARNING, Outcome.NONE, Outcome.CONTRAINDICATED
_STATED = ("signature", "key_bound", "request_bound", "response_bound", "replay", "fresh")
_PASS = {
    name: Check(name, _AFFIRMING)
    for name in (
        "malformed", "shape", "stream_grammar", "key_bound", "response_bound", "fresh", "model_echo",
        "executable_uncovered", "tool_undeclared", "tool_arguments", "output_kind", "coverage", "replay",
    )
}  # fmt: skip
_NOT_A_STREAM = Check("stream_grammar", _NONE, "not_a_stream")
_NO_CALLS = tuple(Check(name, _NONE, "no_calls") for name in ("tool_undeclared", "tool_arguments"))
_NO_NONCE = Check("replay", _WARNING, "no_nonce", "the signed message holds nothing of this one request")
_RELAYED = Claim("executed_in_tee", "refuted", "verifier_derived", "relayed_to_provider")
_MODEL = Claim("model_bound", "unknown", None, "the model's name is the node's own statement")

#: Which failure comes first: presence, encoding, key, request, output, signature, time, replay, then what is uncovered.
ORDER = (
    "malformed", "key_bound", "request_bound", "response_bound", "signature", "fresh", "replay", "model_echo",
    "coverage", "shape", "stream_grammar", "executable_uncovered", "tool_undeclared", "tool_arguments",
)  # fmt: skip


class Binding(msgspec.Struct, frozen=True):
    """How a statement stands to a request and an output: the profile under which the request's hash fits (None: under
    none), and the hashes of what we sent and received (that of the newest profile where none fits)."""

    profile: str | None
    request_hash: bytes | None
    output_hash: bytes | None


def window(response_skew_s: float) -> tuple[float, float]:
    """`max_age_s` and `max_future_s` under a policy's `freshness.response_skew_s`: the tighter of each."""
    return min(MAX_AGE_S, response_skew_s), min(MAX_FUTURE_S, response_skew_s)


def bind(statement: Statement, request_document: object, answer: SignedAnswer) -> Binding:
    """Hash what we sent and received as the node does. Raises `FormatError` for a request without a canonical form."""
    profile, request_hash = fit_request(statement, answer.surface, request_document)
    return Binding(profile, request_hash, fit_output(statement, answer.outputs))


def fit_request(statement: Statement, surface: Surface, document: object) -> tuple[str | None, bytes]:
    """The profile under which `document` has the statement's request hash, and that hash; None and the newest
    profile's where none fits. Raises `FormatError` for a request without a canonical form."""
    hashes = [(profile, keccak256(data)) for profile, data in candidates(surface, document)]
    return next(((p, h) for p, h in hashes if h == statement.request_hash), (None, hashes[0][1]))


def fit_output(statement: Statement, outputs: Iterable[str] | None) -> bytes | None:
    """The hash of the one of `outputs` that the statement names; the first one's where it names none of them."""
    try:
        hashes = [keccak256(output.encode()) for output in outputs or ()]
    except UnicodeEncodeError:  # a lone surrogate: nobody can have hashed it
        return None
    return next((h for h in hashes if h == statement.output_hash), hashes[0] if hashes else None)


def appraise_opengradient(
    keys: Sequence[SigningKey],
    statement: Statement | None,
    problem: str | None,
    request_document: object,
    answer: SignedAnswer,
    *,
    now: float,
    max_age_s: float = MAX_AGE_S,
    max_future_s: float = MAX_FUTURE_S,
    seen_before: bool,
    marked: bool = False,
) -> AttestationResult:
    """Appraise one answer.

    `keys` are those of the attested session, `public_key` the SPKI in DER; `statement` came with the answer, without it
    `problem` says why (evidence_missing, malformed_encoding, upstream_error); `request_document` is the JSON body that
    we sent; `seen_before` what the journal says of `replay_key`; `marked` that we put a fresh random text into a
    covered member of the request, without which an equal request's answer cannot be told from ours. Total: every input
    gives a result with every check. The profile that fitted stands in `found` of `request_bound`.
    """
    seen = answer.observation
    checks = [*_form(seen, problem if statement is None else None)]
    if statement is None:
        checks += [Check(name, _NONE, problem or "evidence_missing") for name in _STATED]
    else:
        checks += _key(keys, statement)
        checks += [_request(statement, request_document, answer), _response(statement, answer)]
        checks += [_replay(seen_before, marked), _fresh(statement, now, max_age_s, max_future_s)]
    checks.append(_model_echo(request_document, answer))
    held = statement is not None and all(
        c.outcome is _AFFIRMING for c in checks if c.id in ("signature", "key_bound", "response_bound")
    )
    checks += _calls(seen, held and answer.calls_signed and {"content"}.issuperset(answer.beside))
    checks.append(_coverage(answer, checks, (problem or "evidence_missing") if statement is None else "signature"))
    return AttestationResult(tuple(checks), _claims(checks))


def first_reason(result: AttestationResult) -> str | None:
    """The reason of the first failure in `ORDER`, None when nothing failed (warnings are no failures)."""
    by_id = {check.id: check for check in result.checks}
    for name in ORDER:
        check = by_id[name]
        if check.outcome is _CONTRA or (check.outcome is _NONE and check.reason != CHECKS[name].idle):
            return check.reason
    return None


def printable(text: str) -> str:
    """Text from outside for a person: escaped, and cut to 80 characters."""
    return ascii(text[:80])[1:-1][:80]


def _form(seen: Observation, problem: str | None) -> list[Check]:
    # 1, 2, 3
    checks = [_PASS["malformed"], _PASS["shape"], _PASS["stream_grammar"] if seen.stream else _NOT_A_STREAM]
    if seen.malformed is not None or problem == "malformed_encoding":
        found = printable(seen.malformed or "the signed members")
        checks[0] = Check("malformed", _CONTRA, "malformed_encoding", found)
    if seen.shape is not None:
        reason = "upstream_error" if problem == "upstream_error" else "shape"
        checks[1] = Check("shape", _CONTRA, reason, printable(seen.shape))
    if seen.stream_grammar is not None:
        checks[2] = Check("stream_grammar", _CONTRA, "stream_grammar", printable(seen.stream_grammar))
    return checks


def _key(keys: Sequence[SigningKey], statement: Statement) -> list[Check]:
    # 4, 5. by the key that the statement names, looked up in the attested set and nowhere else
    if not keys:
        return [Check("signature", _NONE, "no_key"), Check("key_bound", _NONE, "no_key")]
    key = next((k for k in keys if tee_id_of(k.public_key) == statement.tee_id), None)
    if key is None:
        expected = ", ".join(tee_id_of(k.public_key) for k in keys[:2])
        return [
            Check("signature", _CONTRA, "unknown_key", statement.tee_id),
            Check("key_bound", _CONTRA, "tee_id_mismatch", statement.tee_id, expected),
        ]
    if not verify_statement(key.public_key, statement):
        over = "keccak256 of request hash, output hash, time"
        return [Check("signature", _CONTRA, "signature_invalid", statement.tee_id, over=over), _PASS["key_bound"]]
    return [Check("signature", _AFFIRMING, None, statement.tee_id), _PASS["key_bound"]]


def _request(statement: Statement, document: object, answer: SignedAnswer) -> Check:
    # 6. a body of a form whose canonical bytes are not known is not bound, whatever the statement says
    try:
        profile, found = fit_request(statement, answer.surface, document)
    except FormatError as error:
        return Check("request_bound", _NONE, "request_uncanonical", printable(str(error)))
    if profile is None:
        return Check("request_bound", _CONTRA, "request_hash_mismatch", statement.request_hash.hex(), found.hex())
    if profile == "v3" and isinstance(document, dict) and attachments(document):
        return Check("request_bound", _WARNING, "attachments_unbound", profile, over="all but the attached bytes")
    return Check("request_bound", _AFFIRMING, None, profile)


def _response(statement: Statement, answer: SignedAnswer) -> Check:
    # 7.
    if answer.outputs is None:
        return Check("response_bound", _NONE, "incomplete")
    found = fit_output(statement, answer.outputs)
    if found != statement.output_hash:
        shown = found.hex() if found is not None else "text without UTF-8"
        return Check("response_bound", _CONTRA, "output_hash_mismatch", shown, statement.output_hash.hex())
    return _PASS["response_bound"]


def _replay(seen_before: bool, marked: bool) -> Check:
    # 8. an answer to an equal request carries the same signed message; only a mark of ours tells them apart
    if seen_before:
        return Check("replay", _CONTRA, "replay", "this signed message was given to us before")
    return _PASS["replay"] if marked else _NO_NONCE


def _fresh(statement: Statement, now: float, max_age_s: float, max_future_s: float) -> Check:
    # 9. a time or limit that is no number is in no window
    age = now - statement.timestamp
    if -max_future_s <= age <= max_age_s:
        return _PASS["fresh"]
    reason = "timestamp_future" if age < 0 else "timestamp_stale"
    found = f"tee_timestamp {statement.timestamp}, {age:+.0f} s"
    return Check("fresh", _CONTRA, reason, found, f"from -{max_future_s:g} to {max_age_s:g} s")


def _model_echo(document: object, answer: SignedAnswer) -> Check:
    # 10. the echo is not signed; the request's hash covers the name that was asked for
    if answer.surface is Surface.WEB_SEARCH:
        return _PASS["model_echo"]  # no model is asked for, none is named
    asked = document.get("model") if isinstance(document, dict) else None
    expected = printable(asked) if isinstance(asked, str) else None
    for name in answer.observation.models:
        if name != asked:
            return Check("model_echo", _CONTRA, "response_model_mismatch", printable(name), expected)
    if not answer.observation.models:
        return Check("model_echo", _NONE, "no_model", None, expected)
    return _PASS["model_echo"]


def _calls(seen: Observation, covered: bool) -> list[Check]:
    # 11-14
    if not seen.calls:
        kind = Check("output_kind", _WARNING, "text_as_tool_call") if seen.text_is_call else _PASS["output_kind"]
        return [_PASS["executable_uncovered"], *_NO_CALLS, kind]
    declared = seen.declared or frozenset()
    foreign = [call.name for call in seen.calls if call.name not in declared]
    bad = [call.name for call in seen.calls if not arguments_ok(call.arguments)]
    named = [call.name for call in seen.calls]
    return [
        _about("executable_uncovered", "executable_uncovered", [] if covered else named),
        _about("tool_undeclared", "undeclared_tool_call", foreign),
        _about("tool_arguments", "tool_arguments", bad),
        _PASS["output_kind"],
    ]


def _about(name: str, reason: str, offenders: list[str]) -> Check:
    if not offenders:
        return _PASS[name]
    return Check(name, _CONTRA, reason, printable(", ".join(offenders[:8])))


def _coverage(answer: SignedAnswer, checks: list[Check], otherwise: str) -> Check:
    # 15. what could pass for the answer; numbers and labels beside it are named by the reader instead
    if answer.beside:
        return Check("coverage", _CONTRA, "unsigned_content", printable(", ".join(answer.beside)))
    signed = any(check.id == "signature" and check.outcome is _AFFIRMING for check in checks)
    return _PASS["coverage"] if signed else Check("coverage", _NONE, otherwise)


def _claims(checks: list[Check]) -> tuple[Claim, ...]:
    by_id = {check.id: check for check in checks}
    signed = by_id["signature"].outcome is _AFFIRMING and by_id["key_bound"].outcome is _AFFIRMING
    return (*(bound_claim(by_id[name], signed=signed) for name in BOUND), _MODEL, _RELAYED)
