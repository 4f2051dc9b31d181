"""Appraisal of one answer: is it, byte for byte, what this node's attested key signed for this very request?

What has to be shown, in this order, each as one check:
 1. malformed            the answer parses strictly
 2. shape                it has the choices that were asked for, and no more
 3. stream_grammar       a stream keeps to its protocol up to its terminator
 4. signature            the receipt is signed by a key of the attested session
 5. key_bound            the receipt names the session's keyset and one of its keys; of another keyset nothing is known
                         here, so 4 and 11 then fail for that reason (`OTHER_KEYSET`) and not for one of their own
 6. request_bound        it covers exactly the bytes that we sent
 7. response_bound       it covers exactly the bytes that came back
 8. replay               it was made for this request: our nonce, and never seen before
 9. fresh                its time is within the policy's window around now
10. model_echo           receipt and answer name the model that was asked for
11. executable_uncovered no executable member stands outside the covered bytes
12. tool_undeclared      every call is to a tool that the request declared
13. tool_arguments       every call's arguments are one JSON object without duplicate keys, or nothing at all; a tool
                         that the request declared as a custom one may be called as such, with any text
14. output_kind          a text answer does not read as a list of tool calls
15. coverage             nothing stands beside what is covered: such a receipt covers every byte of the answer

An answer without a receipt has checks 4–9 and 15 as `none`; so is 15 when 4 fails. A check that did not run is listed
with its reason. Digests that agree pass 6 and 7 whoever wrote them: the claims of those names ask for 4 and 5 as well.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.crypto.signatures import verify_ed25519
from gateway.errors import FormatError
from gateway.model.node import AttestedSession, SigningKey
from gateway.model.observation import Call, Observation
from gateway.model.verdict import AttestationResult, Check, Claim, Outcome

from .aci import SignedReceipt
from .no_evidence import NO_SIGNATURE

#: The claims that say what an answer's statement binds; each follows from the check of its name.
BOUND = ("request_bound", "response_bound")
_RECEIPT_CHECKS = ("signature", "key_bound", "request_bound", "response_bound", "replay", "fresh")
_PASS = {
    i: Check(i, Outcome.AFFIRMING)
    for i in (
        "malformed", "shape", "stream_grammar", "signature", "key_bound", "request_bound", "response_bound", "replay",
        "fresh", "model_echo", "executable_uncovered", "tool_undeclared", "tool_arguments", "output_kind", "coverage",
    )
}  # fmt: skip
#: How the problem of a receipt begins that was had, and one of whose members is not of its form.
_BAD_MEMBER = "malformed: receipt: "
#: Why an answer under a keyset that the session does not know fails: its node has changed its keys, or lies.
OTHER_KEYSET = "other_keyset"
#: Kinds of calls whose input is text, whatever stands in it.
_CUSTOM = ("custom", "custom_tool_call")
_NOT_A_STREAM = Check("stream_grammar", Outcome.NONE, "not_a_stream")
_NO_CALLS = tuple(Check(i, Outcome.NONE, "no_calls") for i in ("tool_undeclared", "tool_arguments"))


class Exchanged(msgspec.Struct, frozen=True):
    """The facts of one exchange that the receipt is held against. Digests are 64 lower-case hex digits; `aliases` are
    other names that the answer may give `model`."""

    request_sha256: str
    response_sha256: str | None
    nonce: str | None
    model: str
    endpoint: str
    seen_before: bool = False
    aliases: tuple[str, ...] = ()


def appraise_response(
    session: AttestedSession,
    sealed: SignedReceipt | None,
    problem: str | None,
    exchanged: Exchanged,
    observation: Observation,
    *,
    now: float,
    skew_s: float,
) -> AttestationResult:
    """Appraise one answer. `sealed` is the node's receipt; without it `problem` says why, as a stable reason.

    Total: every input gives a result, and every check of the list above is in it. Answers without a fault and without
    calls get the very same result object for the same key, so that callers may keep what they derive from it.
    """
    if sealed is not None and (key := _faultless(session, sealed, exchanged, observation, now, skew_s)) is not None:
        return _passed(key.key_id, observation.stream)
    checks = [*_form(observation)]
    if sealed is None:
        malformed = problem is not None and problem.startswith("malformed")
        if problem is not None and problem.startswith(_BAD_MEMBER) and observation.malformed is None:
            checks[0] = Check("malformed", Outcome.CONTRAINDICATED, "malformed", problem)
        for index, name in enumerate(_RECEIPT_CHECKS):
            outcome = Outcome.CONTRAINDICATED if malformed and index == 0 else Outcome.NONE
            checks.append(Check(name, outcome, problem or "no_receipt"))
        checks.append(_model_echo(exchanged, observation, None))
    else:
        checks += _receipt(session, sealed, exchanged, now, skew_s)
        checks.append(_model_echo(exchanged, observation, sealed.receipt.model))
    covered = sealed is not None and all(
        c.outcome is Outcome.AFFIRMING for c in checks if c.id in ("signature", "key_bound", "response_bound")
    )
    # A call of a node that never said that it signs is no lie of the node's: the reason tells it from one that is.
    bare = "executable_uncovered" if problem != NO_SIGNATURE else NO_SIGNATURE
    if sealed is not None and _of_another(session, sealed):
        bare = OTHER_KEYSET
    checks += _executables(observation, None if covered else bare)
    checks.append(_coverage(checks, (problem or "no_receipt") if sealed is None else "signature"))
    return AttestationResult(tuple(checks), _claims(checks))


def _faultless(
    session: AttestedSession,
    sealed: SignedReceipt,
    exchanged: Exchanged,
    seen: Observation,
    now: float,
    skew_s: float,
) -> SigningKey | None:
    """The key that signed, when every one of checks 1 to 15 passes and there is no call; None sends the caller through
    the long list. The signature comes last, since it is what costs."""
    receipt = sealed.receipt
    if (
        seen.malformed is not None
        or seen.shape is not None
        or seen.stream_grammar is not None
        or seen.calls
        or seen.text_is_call
        or exchanged.seen_before
        or exchanged.nonce is None
        or exchanged.response_sha256 is None
        or receipt.workload_keyset_digest != session.keyset_digest
        or receipt.body_hash("request.received") != "sha256:" + exchanged.request_sha256
        or receipt.endpoint != exchanged.endpoint
        or receipt.method != "POST"
        or receipt.body_hash("response.returned") != "sha256:" + exchanged.response_sha256
        or receipt.request_nonce != exchanged.nonce
        or abs(now - receipt.served_at) > skew_s
        or receipt.model != exchanged.model
        or any(name != exchanged.model for name in seen.models)
    ):
        return None
    for key in session.keys:
        if key.key_id == receipt.key_id:
            return key if verify_ed25519(key.public_key, sealed.signed, sealed.signature) else None
    return None


@lru_cache(maxsize=256)
def _passed(key_id: str, stream: bool) -> AttestationResult:
    """The result of an answer in which nothing is wrong, and no tool is called."""
    checks = [
        _PASS["malformed"],
        _PASS["shape"],
        _PASS["stream_grammar"] if stream else _NOT_A_STREAM,
        Check("signature", Outcome.AFFIRMING, None, key_id),
        *(_PASS[i] for i in ("key_bound", "request_bound", "response_bound", "replay", "fresh", "model_echo")),
        _PASS["executable_uncovered"],
        *_NO_CALLS,
        _PASS["output_kind"],
        _PASS["coverage"],
    ]
    return AttestationResult(tuple(checks), _claims(checks))


def signed_under(sealed: SignedReceipt, session: AttestedSession) -> bool:
    """Whether the keyset that `sealed` names is the one of `session`, and one of its keys signed; of a session that
    rests on fresh evidence against which nothing speaks, such as a pin."""
    fresh = any(check.id == "fresh" and check.outcome is Outcome.AFFIRMING for check in session.checks)
    key = next((k for k in session.keys if k.key_id == sealed.receipt.key_id), None)
    if not fresh or session.outcome is Outcome.CONTRAINDICATED or key is None or _of_another(session, sealed):
        return False
    return verify_ed25519(key.public_key, sealed.signed, sealed.signature)


def _of_another(session: AttestedSession, sealed: SignedReceipt) -> bool:
    return sealed.receipt.workload_keyset_digest != session.keyset_digest


def verify_chain(session: AttestedSession, key_id: str | None, message: bytes, signature: bytes) -> str | None:
    """The id of the session key that made `signature` over a chain `message`, None when none did."""
    for key in session.keys:
        if (key_id is None or key.key_id == key_id) and verify_ed25519(key.public_key, message, signature):
            return key.key_id
    return None


def _form(seen: Observation) -> list[Check]:
    # 1, 2, 3
    checks = []
    for name, problem in (("malformed", seen.malformed), ("shape", seen.shape)):
        checks.append(_PASS[name] if problem is None else Check(name, Outcome.CONTRAINDICATED, name, problem))
    if seen.stream_grammar is not None:
        checks.append(Check("stream_grammar", Outcome.CONTRAINDICATED, "stream_grammar", seen.stream_grammar))
    else:
        checks.append(_PASS["stream_grammar"] if seen.stream else _NOT_A_STREAM)
    return checks


def _receipt(
    session: AttestedSession, sealed: SignedReceipt, exchanged: Exchanged, now: float, skew_s: float
) -> list[Check]:
    receipt = sealed.receipt
    # 4. by the key that the receipt names, looked up in the attested set and nowhere else
    key = next((k for k in session.keys if k.key_id == receipt.key_id), None)
    checks = []
    other = _of_another(session, sealed)
    if key is None:
        reason = OTHER_KEYSET if other else "unknown_key"
        checks.append(Check("signature", Outcome.CONTRAINDICATED, reason, receipt.key_id[:80]))
    elif not verify_ed25519(key.public_key, sealed.signed, sealed.signature):
        reason = OTHER_KEYSET if other else "signature"
        checks.append(Check("signature", Outcome.CONTRAINDICATED, reason, receipt.key_id, over="JCS of the receipt"))
    else:
        checks.append(Check("signature", Outcome.AFFIRMING, None, key.key_id))
    # 5. another attested node's receipt is genuine, but not for this channel
    if other:
        found = receipt.workload_keyset_digest[:80]
        checks.append(Check("key_bound", Outcome.CONTRAINDICATED, OTHER_KEYSET, found, session.keyset_digest))
    elif key is None:
        checks.append(Check("key_bound", Outcome.CONTRAINDICATED, "unknown_key", receipt.key_id[:80]))
    else:
        checks.append(_PASS["key_bound"])
    # 6, 7
    expected = "sha256:" + exchanged.request_sha256
    if receipt.body_hash("request.received") != expected:
        found = receipt.body_hash("request.received") or "no request.received"
        checks.append(Check("request_bound", Outcome.CONTRAINDICATED, "request_bound", found, expected))
    elif receipt.endpoint != exchanged.endpoint or receipt.method != "POST":
        found = f"{receipt.method} {receipt.endpoint}"[:80]
        checks.append(Check("request_bound", Outcome.CONTRAINDICATED, "endpoint", found, exchanged.endpoint))
    else:
        checks.append(_PASS["request_bound"])
    stated = receipt.body_hash("response.returned")
    if exchanged.response_sha256 is None:
        checks.append(Check("response_bound", Outcome.NONE, "incomplete"))
    elif stated != "sha256:" + exchanged.response_sha256:
        found = "sha256:" + exchanged.response_sha256
        checks.append(Check("response_bound", Outcome.CONTRAINDICATED, "response_bound", found, stated or "nothing"))
    else:
        checks.append(_PASS["response_bound"])
    # 8. the nonce is ours and fresh for every request; without one, only the journal of messages stands between
    if exchanged.seen_before:
        checks.append(Check("replay", Outcome.CONTRAINDICATED, "seen_before"))
    elif exchanged.nonce is None or receipt.request_nonce is None:
        checks.append(Check("replay", Outcome.WARNING, "no_nonce", "the receipt holds no request nonce"))
    elif receipt.request_nonce != exchanged.nonce:
        checks.append(Check("replay", Outcome.CONTRAINDICATED, "replay", receipt.request_nonce, exchanged.nonce))
    else:
        checks.append(_PASS["replay"])
    # 9.
    age = now - receipt.served_at
    if abs(age) > skew_s:
        found = f"served_at {receipt.served_at}, {age:+.0f} s"[:80]
        checks.append(Check("fresh", Outcome.CONTRAINDICATED, "served_at", found, f"within {skew_s:g} s"))
    else:
        checks.append(_PASS["fresh"])
    return checks


def _model_echo(exchanged: Exchanged, seen: Observation, stated: str | None) -> Check:
    # 10.
    for name in (*seen.models, *(() if stated is None else (stated,))):
        if name != exchanged.model and name not in exchanged.aliases:
            return Check("model_echo", Outcome.CONTRAINDICATED, "model_echo", name[:200], exchanged.model)
    if stated is None and not seen.models:
        return Check("model_echo", Outcome.NONE, "no_model", expected=exchanged.model)
    other = next((name for name in seen.models if name != exchanged.model), None)
    if other is not None:
        return Check("model_echo", Outcome.AFFIRMING, None, other[:200], exchanged.model, "an alias in the settings")
    return _PASS["model_echo"]


def _executables(seen: Observation, uncovered: str | None) -> list[Check]:
    # 11–14
    if not seen.calls:
        checks = [_PASS["executable_uncovered"], *_NO_CALLS]
        kind = Check("output_kind", Outcome.WARNING, "text_as_tool_call") if seen.text_is_call else _PASS["output_kind"]
        return [*checks, kind]
    names = ", ".join(c.name for c in seen.calls)[:200]
    checks = [
        _PASS["executable_uncovered"]
        if uncovered is None
        else Check("executable_uncovered", Outcome.CONTRAINDICATED, uncovered, names)
    ]
    declared = seen.declared or frozenset()
    foreign = [c.name for c in seen.calls if not c.declared(declared)]
    if foreign:
        expected = ", ".join(sorted(declared))[:200] or "no tools"
        checks.append(
            Check("tool_undeclared", Outcome.CONTRAINDICATED, "tool_undeclared", ", ".join(foreign)[:200], expected)
        )
    else:
        checks.append(_PASS["tool_undeclared"])
    bad = [c.name for c in seen.calls if not arguments_ok(c.arguments) and not _text_taken(c, seen.custom)]
    if bad:
        checks.append(
            Check("tool_arguments", Outcome.CONTRAINDICATED, "tool_arguments", ", ".join(bad)[:200], "one JSON object")
        )
    else:
        checks.append(_PASS["tool_arguments"])
    checks.append(_PASS["output_kind"])
    return checks


def _text_taken(call: Call, custom: frozenset[str]) -> bool:
    """Whether `call` gives a text to a tool that takes one: nobody parses it, so nobody can read it in another way."""
    return call.arguments is not None and call.kind in _CUSTOM and call.name in custom


def _coverage(checks: list[Check], otherwise: str) -> Check:
    # 15. that the bytes are those is `response_bound`; that there are no others follows from what is hashed and signed
    signed = any(c.id == "signature" and c.outcome is Outcome.AFFIRMING for c in checks)
    return _PASS["coverage"] if signed else Check("coverage", Outcome.NONE, otherwise)


def arguments_ok(arguments: str | None) -> bool:
    """Whether the arguments of a tool call are one JSON object, read strictly.

    An empty text, which some servers send where a tool takes no arguments, is read by nobody as arguments.
    """
    if arguments is None:
        return False
    if not arguments:
        return True
    try:
        data = arguments.encode()
        return isinstance(strict_json(data, max_bytes=len(data)), dict)
    except (FormatError, UnicodeEncodeError):
        return False


def bound_claim(check: Check, *, signed: bool) -> Claim:
    """The claim of the name of `check`, which is `request_bound` or `response_bound`. `signed`: a key of the attested
    session signed the statement. A digest that fits shows nothing while nobody is known to have signed it."""
    if check.outcome is Outcome.CONTRAINDICATED:
        return Claim(check.id, "refuted", "verifier_derived", check.reason)
    if check.outcome is Outcome.AFFIRMING and signed:
        return Claim(check.id, "asserted", "verifier_derived")
    return Claim(check.id, "unknown", None, check.reason or "signature")


def _claims(checks: list[Check]) -> tuple[Claim, ...]:
    by_id = {c.id: c for c in checks}
    signed = by_id["signature"].outcome is by_id["key_bound"].outcome is Outcome.AFFIRMING
    # The name of the model is the node's word: nothing here measures weights.
    model = Claim("model_bound", "unknown", None, "the model's name is the node's own statement")
    return (*(bound_claim(by_id[name], signed=signed) for name in BOUND), model)
